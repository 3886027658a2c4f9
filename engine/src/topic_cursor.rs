//! One reader of one topic: a cursor on its ring that goes on in the log where the ring has been overtaken.
//!
//! On a topic that is kept in memory it is the ring's cursor and nothing else. On a durable one nothing is missed by
//! being slow: what the ring does not have any more is read back from the log, a piece at a time, on the log's own
//! thread. Whoever reads never waits in here; it is woken.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use atomic_waker::AtomicWaker;
use bytes::Bytes;
use twinlane_log::ReadError;
use twinlane_ring::{Cursor, Read};

use crate::fast::{Sieve, ticks_us};
use crate::lock::lock;
use crate::message::TopicRun;
use crate::topics::last::LastValues;
use crate::topics::runs::ends;
use crate::topics::store::{Holding, Store};

/// Bytes read from the log at a time by a subscriber, which reads on, and by who looks for one message.
pub(crate) const PIECE_BYTES: usize = 1 << 20;
pub(crate) const SMALL_PIECE_BYTES: usize = 16 << 10;

/// What a turn of reading brought.
pub(crate) enum TopicRead {
    Run(TopicRun),
    /// Frames that cannot be read any more, or were given up by their publisher.
    Missed {
        from: u64,
        to: u64,
    },
    /// The ring is closed and read to its end.
    Closed,
}

pub(crate) struct TopicCursor {
    /// Last values, each a run of one, to be read before anything else.
    values: VecDeque<TopicRun>,
    /// Where the next of them would begin without a hole.
    values_at: u64,
    ring: Cursor,
    durable: Option<Durable>,
    /// Of a fast topic.
    sieve: Option<Box<Sieve>>,
}

/// What a reader of a durable topic needs beside the ring.
struct Durable {
    source: Source,
    holding: Holding,
    /// Set while the ring has been overtaken.
    behind: Option<Behind>,
}

/// Where a reader that is behind reads, and how much at a time.
struct Source {
    store: Arc<Store>,
    piece_bytes: usize,
}

struct Behind {
    /// The next offset wanted.
    position: u64,
    piece: Option<Piece>,
    asked: Option<Arc<Asked>>,
}

/// Frames read back and not yet handed out.
struct Piece {
    first_offset: u64,
    frames: usize,
    bytes: Bytes,
}

/// An answer on its way from the log's thread.
#[derive(Default)]
struct Asked {
    answer: Mutex<Option<Result<Piece, ReadError>>>,
    reader: AtomicWaker,
}

impl From<Cursor> for TopicCursor {
    fn from(ring: Cursor) -> Self {
        Self { values: VecDeque::new(), values_at: 0, ring, durable: None, sieve: None }
    }
}

impl TopicCursor {
    /// A reader of a durable topic, which reads `piece_bytes` from the log at a time.
    pub(crate) fn durable(ring: Cursor, store: Arc<Store>, holding: Holding, piece_bytes: usize) -> Self {
        let durable = Some(Durable { source: Source { store, piece_bytes }, holding, behind: None });
        Self { durable, ..Self::from(ring) }
    }

    /// A reader of a fast topic, which leaves out what is not worth reading any more.
    pub(crate) fn fast(ring: Cursor, sieve: Sieve) -> Self {
        Self { sieve: Some(Box::new(sieve)), ..Self::from(ring) }
    }

    /// Hands out these values first. Their offsets rise, and end before the cursor's own position.
    pub(crate) fn begin_with(&mut self, values: Vec<TopicRun>) {
        self.values_at = values.first().map_or(0, TopicRun::first_offset);
        self.values = values.into();
    }

    /// Whether it leaves out messages on purpose, as on fast topics.
    pub(crate) fn may_leave_out(&self) -> bool {
        self.sieve.is_some()
    }

    /// How far it was read, if nothing waits to be read that lies before.
    pub(crate) fn read_through(&self) -> Option<u64> {
        let is_through = self.sieve.as_ref().is_none_or(|sieve| sieve.is_through());
        is_through.then(|| self.ring.position())
    }

    /// What is read from now on will be under way so long.
    #[inline]
    pub(crate) fn set_way_us(&mut self, way_us: u32) {
        if let Some(sieve) = &mut self.sieve {
            sieve.set_way_us(way_us);
        }
    }

    /// The moment that deadlines of what is read now are compared with.
    pub(crate) fn arrival_us(&self) -> u32 {
        self.sieve.as_ref().map_or_else(ticks_us, |sieve| sieve.arrival_us())
    }

    /// The newest values of a `latest` topic.
    pub(crate) fn newest(&self) -> Option<&LastValues> {
        self.sieve.as_ref()?.newest()
    }

    /// Of a `latest` topic: the newest values from offset `from` on are read once more, before anything else.
    pub(crate) fn read_again(&mut self, from: u64) {
        let range = from..self.ring.position();
        self.sieve.iter_mut().for_each(|sieve| sieve.read_again(range.clone()));
    }

    /// Nothing waits to be read, and `cx` is woken when that changes. `false` as well where only a read can tell.
    #[inline]
    pub(crate) fn sleeps(&mut self, cx: &mut Context<'_>) -> bool {
        self.sieve.is_none()
            && self.durable.is_none()
            && self.values.is_empty()
            && self.values_at == 0
            && self.ring.is_empty()
            && self.ring.poll_readable(cx).is_pending()
    }

    /// The next frames, at most `bytes_max` unless one is larger. `Pending`: there are none yet; `cx` is woken.
    #[inline]
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, bytes_max: usize) -> Poll<TopicRead> {
        if self.values_at > 0 || !self.values.is_empty() {
            return Poll::Ready(self.next_value());
        }
        match (&mut self.sieve, &mut self.durable) {
            (Some(sieve), _) => sieve.poll_read(&mut self.ring, cx, bytes_max),
            (None, Some(durable)) => durable.poll_read(&mut self.ring, cx, bytes_max),
            (None, None) => poll_ring(&mut self.ring, cx, bytes_max),
        }
    }
}

impl TopicCursor {
    /// The next last value, or the hole before it; finally the hole before what is live.
    fn next_value(&mut self) -> TopicRead {
        let from = self.values_at;
        let to = self.values.front().map_or_else(|| self.ring.position(), TopicRun::first_offset);
        self.values_at = to;
        if from < to {
            if self.values.is_empty() {
                self.values_at = 0;
            }
            return TopicRead::Missed { from, to };
        }
        let Some(run) = self.values.pop_front() else { unreachable!("values end before what is live") };
        self.values_at = run.first_offset() + 1;
        if self.values.is_empty() && self.values_at >= self.ring.position() {
            self.values_at = 0;
        }
        TopicRead::Run(run)
    }
}

#[inline]
fn poll_ring(ring: &mut Cursor, cx: &mut Context<'_>, bytes_max: usize) -> Poll<TopicRead> {
    loop {
        match ring.read(bytes_max) {
            Read::Run(run) => return Poll::Ready(TopicRead::Run(run.into())),
            Read::Missed { from, to } => return Poll::Ready(TopicRead::Missed { from, to }),
            Read::Closed => return Poll::Ready(TopicRead::Closed),
            Read::Empty => {
                if ring.poll_readable(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        }
    }
}

impl Durable {
    fn poll_read(&mut self, ring: &mut Cursor, cx: &mut Context<'_>, bytes_max: usize) -> Poll<TopicRead> {
        loop {
            if self.holding.is_over() {
                let from = self.behind.as_ref().map_or_else(|| ring.position(), |behind| behind.position);
                return Poll::Ready(TopicRead::Missed { from, to: from + 1 });
            }
            if let Some(behind) = &mut self.behind {
                let Poll::Ready(read) = behind.poll_read(&self.source, ring, cx, bytes_max) else {
                    return Poll::Pending;
                };
                match read {
                    Caught::Read(read) => return Poll::Ready(read),
                    Caught::Up => {
                        self.behind = None;
                        self.holding.caught_up(ring.position());
                    }
                    Caught::Unreadable(error) => self.holding.unreadable(&error),
                }
                continue;
            }
            match poll_ring(ring, cx, bytes_max) {
                Poll::Ready(TopicRead::Missed { from, .. }) => {
                    self.behind = Some(Behind { position: from, piece: None, asked: None });
                    self.holding.fell_behind();
                }
                polled => return polled,
            }
        }
    }
}

/// What reading back led to.
enum Caught {
    Read(TopicRead),
    /// The ring has all that follows.
    Up,
    Unreadable(ReadError),
}

impl Behind {
    fn poll_read(
        &mut self,
        source: &Source,
        ring: &mut Cursor,
        cx: &mut Context<'_>,
        bytes_max: usize,
    ) -> Poll<Caught> {
        loop {
            if let Some(piece) = &mut self.piece {
                let run = piece.take(bytes_max);
                self.position = piece.first_offset;
                if piece.frames == 0 {
                    self.piece = None;
                }
                return Poll::Ready(Caught::Read(TopicRead::Run(run)));
            }
            match self.poll_asked(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(piece))) => {
                    self.piece = (piece.frames > 0).then_some(piece);
                    self.ask_ahead(source);
                }
                // Given up by the topic's retention, or in a repair, before this reader came to it.
                Poll::Ready(Some(Err(ReadError::Gone { oldest: to } | ReadError::Lost { next: to }))) => {
                    let from = std::mem::replace(&mut self.position, to);
                    return Poll::Ready(Caught::Read(TopicRead::Missed { from, to }));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Caught::Unreadable(error)),
                Poll::Ready(None) => {
                    if source.store.shown_from() <= self.position {
                        ring.seek(self.position);
                        return Poll::Ready(Caught::Up);
                    }
                    self.ask(source, self.position);
                }
            }
        }
    }

    /// The answer that was asked for. `None`: nothing was.
    fn poll_asked(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, ReadError>>> {
        let Some(asked) = &self.asked else { return Poll::Ready(None) };
        // Registered first: an answer that comes meanwhile wakes.
        asked.reader.register(cx.waker());
        let Some(answer) = lock(&asked.answer).take() else { return Poll::Pending };
        self.asked = None;
        Poll::Ready(Some(answer))
    }

    /// The next piece is read while this one is handed out.
    fn ask_ahead(&mut self, source: &Source) {
        let Some(piece) = self.piece.as_ref().filter(|_| source.piece_bytes >= PIECE_BYTES) else { return };
        let next = piece.first_offset + piece.frames as u64;
        if next < source.store.shown_from() {
            self.ask(source, next);
        }
    }

    fn ask(&mut self, source: &Source, from: u64) {
        let asked = Arc::new(Asked::default());
        let answering = Arc::clone(&asked);
        source.store.read_soon(from, source.piece_bytes, move |read| {
            let piece = read.map(|(run, bytes)| Piece {
                first_offset: run.first_offset,
                frames: run.frames as usize,
                bytes: bytes.into(),
            });
            *lock(&answering.answer) = Some(piece);
            answering.reader.wake();
        });
        self.asked = Some(asked);
    }
}

impl Piece {
    /// Its first frames, at most `bytes_max` unless one is larger.
    fn take(&mut self, bytes_max: usize) -> TopicRun {
        let first_offset = self.first_offset;
        let (frames, bytes) = match self.bytes.len() <= bytes_max {
            true => (self.frames, self.bytes.len()),
            false => whole_frames(&self.bytes, bytes_max),
        };
        self.first_offset += frames as u64;
        self.frames -= frames;
        TopicRun::read_back(first_offset, frames, self.bytes.split_to(bytes))
    }
}

/// How many frames fit `bytes_max`, at least one, and their bytes.
fn whole_frames(bytes: &[u8], bytes_max: usize) -> (usize, usize) {
    let fits = |frame: usize, end: usize| frame == 0 || end <= bytes_max;
    let fitting = ends(bytes).enumerate().take_while(|(frame, end)| fits(*frame, *end));
    fitting.last().map_or((0, 0), |(frame, end)| (frame + 1, end))
}
