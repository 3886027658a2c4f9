//! Reads messages by offset, and the thread that does it for those who must not wait.
//!
//! Never waits for the writer longer than a look at the index takes. A record's checksum is computed each
//! time one of its messages is read; records without any are stepped over.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::error::ReadError;
use crate::index::{Located, Place, SPAN_BYTES};
use crate::log::Shared;
use crate::position::Position;
use crate::record::{self, EntryRef, HEADER_BYTES, Header, RunRef};
use crate::scan::Window;

/// One read where a topic's messages lie close together.
const DENSE_BYTES: usize = 1 << 20;
/// One read where other topics' messages lie in between.
const SPARSE_BYTES: usize = 64 << 10;

/// Frames that were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadRun {
    /// Offset of the first.
    pub first_offset: u64,
    /// How many; 0: there are none yet.
    pub frames: u32,
}

thread_local! {
    /// Where files are read into, so that this memory is not set up for each read.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(crate) fn read(
    shared: &Shared,
    topic: u32,
    from_offset: u64,
    bytes_max: usize,
    into: &mut Vec<u8>,
) -> Result<ReadRun, ReadError> {
    let mut taken = ReadRun { first_offset: from_offset, frames: 0 };
    let limit = into.len().saturating_add(bytes_max);
    let visited = visit(shared, topic, from_offset, bytes_max, |run, _| {
        let next = from_offset + u64::from(taken.frames);
        let skipped = next - run.first_offset;
        let taken_now = take_frames(run, skipped, taken.frames == 0, limit, into)?;
        taken.frames += taken_now;
        (u64::from(taken_now) == u64::from(run.frames) - skipped && into.len() < limit).then_some(())
    });
    match visited {
        // What was read is good; the next read says what is wrong behind it.
        Err(_) if taken.frames > 0 => Ok(taken),
        Err(error) => Err(error),
        Ok(()) => Ok(taken),
    }
}

/// The first offset that was stored at or after `time_us`, as far as the log can be read.
pub(crate) fn offset_at(shared: &Shared, topic: u32, time_us: u64) -> u64 {
    let Some(mut offset) = shared.index().offset_before(topic, time_us) else { return 0 };
    let from = offset;
    // Where nothing can be read, the lower bound is the best answer.
    let _ = visit(shared, topic, from, SPAN_BYTES as usize, |run, stored_us| {
        let is_earlier = stored_us < time_us;
        offset = if is_earlier { run.end_offset() } else { run.first_offset.max(from) };
        is_earlier.then_some(())
    });
    offset
}

/// Shows `take` the topic's runs from the one that holds `from_offset` on, until it has enough.
fn visit(
    shared: &Shared,
    topic: u32,
    from_offset: u64,
    bytes_hint: usize,
    mut take: impl FnMut(&RunRef<'_>, u64) -> Option<()>,
) -> Result<(), ReadError> {
    let mut next = from_offset;
    let mut piece: Option<Piece> = None;
    let result = loop {
        let located = shared.index().locate(topic, next).ok_or(ReadError::UnknownTopic(topic))?;
        let place = match located {
            Located::At(place) => place,
            Located::Ahead => break Ok(()),
            Located::Gone { oldest } => break Err(ReadError::Gone { oldest }),
            Located::Lost { next } => break Err(ReadError::Lost { next }),
        };
        let begun = match piece.take() {
            Some(mut piece) if piece.place.position.segment() == place.position.segment() => {
                piece.window.set_end(place.readable.end);
                Piece { at: place.position.at(), place, ..piece }
            }
            other => {
                let buffer = other.map_or_else(|| BUFFER.take(), |piece| piece.window.into_buffer());
                Piece::new(place, topic, bytes_hint, buffer)
            }
        };
        match piece.insert(begun).visit(&mut next, &mut take) {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    if let Some(piece) = piece {
        BUFFER.set(piece.window.into_buffer());
    }
    result
}

/// A stretch of a segment that is read from a mark on.
struct Piece {
    place: Place,
    topic: u32,
    window: Window,
    piece_bytes: u32,
    at: u32,
}

impl Piece {
    fn new(place: Place, topic: u32, bytes_hint: usize, buffer: Vec<u8>) -> Self {
        let begin = place.position;
        let is_dense = place.next.is_some_and(|(_, next)| {
            next.segment() == begin.segment() && next.at().saturating_sub(begin.at()) < 2 * SPAN_BYTES
        });
        let dense_bytes = bytes_hint.saturating_add(bytes_hint / 2).clamp(SPARSE_BYTES, DENSE_BYTES);
        let piece_bytes = if is_dense { dense_bytes } else { SPARSE_BYTES };
        let file = Arc::clone(&place.readable.file);
        let window = Window::reusing(file, place.readable.end, piece_bytes, buffer);
        Self { place, topic, window, piece_bytes: piece_bytes as u32, at: begin.at() }
    }

    /// `false`: enough was taken. `true`: look for `next` in the index.
    fn visit(
        &mut self,
        next: &mut u64,
        take: &mut impl FnMut(&RunRef<'_>, u64) -> Option<()>,
    ) -> Result<bool, ReadError> {
        let begun = *next;
        while !self.is_elsewhere(*next) {
            match self.record(next, take)? {
                Seen::More => {}
                Seen::Enough => return Ok(false),
                Seen::End if *next > begun => return Ok(true),
                Seen::End => return Err(self.damaged()),
            }
        }
        Ok(true)
    }

    /// The next mark is passed, or too far to go there record by record.
    fn is_elsewhere(&self, next: u64) -> bool {
        self.place.next.is_some_and(|(offset, position)| {
            let near = self.at..=self.at.saturating_add(self.piece_bytes);
            next >= offset
                && (position.segment() != self.place.position.segment() || !near.contains(&position.at()))
        })
    }

    fn record(
        &mut self,
        next: &mut u64,
        take: &mut impl FnMut(&RunRef<'_>, u64) -> Option<()>,
    ) -> Result<Seen, ReadError> {
        let position = Position::new(self.place.position.segment(), self.at);
        if self.at >= self.place.readable.end {
            return Ok(Seen::End);
        }
        let bytes = self.window.at(self.at, HEADER_BYTES).map_err(failed)?;
        let Some(header) = Header::read(bytes, position) else { return Err(self.damaged()) };
        let bytes = self.window.at(self.at, header.bytes).map_err(failed)?;
        let Some(bytes) = bytes.get(..header.bytes) else { return Err(self.damaged()) };
        if record::raw_entries(bytes).any(|raw| record::is_run_of(raw, self.topic)) {
            if !record::is_intact(bytes, self.place.readable.mask) {
                return Err(self.damaged());
            }
            for entry in record::entries(bytes).flatten() {
                let EntryRef::Run(run) = entry else { continue };
                // Copies lie among messages that are younger.
                if run.topic != self.topic || !(run.first_offset..run.end_offset()).contains(next) {
                    continue;
                }
                let stored_us = run.copied_from_us.unwrap_or(header.time_us);
                if take(&run, stored_us).is_none() {
                    return Ok(Seen::Enough);
                }
                *next = run.end_offset();
            }
        }
        self.at += header.bytes as u32;
        Ok(Seen::More)
    }

    fn damaged(&self) -> ReadError {
        ReadError::Damaged { segment: self.place.position.segment(), position: self.at }
    }
}

enum Seen {
    More,
    Enough,
    End,
}

#[allow(clippy::needless_pass_by_value, reason = "it is what `map_err` gives")]
fn failed(error: io::Error) -> ReadError {
    ReadError::Io(error.kind())
}

/// Appends a run's frames behind the first `skipped` to `into`, up to `limit`, and one at least where it must.
fn take_frames(
    run: &RunRef<'_>,
    skipped: u64,
    must_take: bool,
    limit: usize,
    into: &mut Vec<u8>,
) -> Option<u32> {
    if skipped == 0 && into.len() + run.bytes.len() <= limit {
        into.extend_from_slice(run.bytes);
        return Some(run.frames);
    }
    let (mut rest, mut taken) = (run.bytes, 0);
    for number in 0..u64::from(run.frames) {
        let frame_bytes = u32::from_le_bytes(*rest.first_chunk()?) as usize;
        let (frame, after) = rest.split_at_checked(frame_bytes)?;
        rest = after;
        if number < skipped {
            continue;
        }
        if into.len() + frame.len() > limit && !(must_take && taken == 0) {
            break;
        }
        into.extend_from_slice(frame);
        taken += 1;
    }
    Some(taken)
}

/// Who hears what was read: the run and its frames.
pub type ReadReply = Box<dyn FnOnce(Result<(ReadRun, Vec<u8>), ReadError>) + Send>;

/// What the reader thread does next.
pub(crate) struct ReadSoon {
    pub(crate) topic: u32,
    pub(crate) from_offset: u64,
    pub(crate) bytes_max: usize,
    pub(crate) reply: ReadReply,
}

impl ReadSoon {
    fn run(self, shared: &Shared) {
        let mut frames = Vec::new();
        let result = read(shared, self.topic, self.from_offset, self.bytes_max, &mut frames);
        (self.reply)(result.map(|run| (run, frames)));
    }
}

/// Reads that wait for the reader thread.
pub(crate) struct ReadQueue {
    inner: Mutex<Waiting>,
    work: Condvar,
    waiting_max: usize,
}

#[derive(Default)]
struct Waiting {
    reads: VecDeque<ReadSoon>,
    is_stopped: bool,
}

impl ReadQueue {
    pub(crate) fn new(waiting_max: usize) -> Self {
        Self { inner: Mutex::new(Waiting::default()), work: Condvar::new(), waiting_max }
    }

    /// Gives the read back if too many wait.
    pub(crate) fn push(&self, read: ReadSoon) -> Result<(), ReadSoon> {
        let mut waiting = self.lock();
        if waiting.reads.len() >= self.waiting_max {
            return Err(read);
        }
        waiting.reads.push_back(read);
        drop(waiting);
        self.work.notify_one();
        Ok(())
    }

    pub(crate) fn stop(&self) {
        self.lock().is_stopped = true;
        self.work.notify_one();
    }

    /// The reader thread: everything that waits is done, also after the stop.
    pub(crate) fn run(&self, shared: &Shared) {
        loop {
            let waiting = self.lock();
            let mut waiting = self
                .work
                .wait_while(waiting, |waiting| waiting.reads.is_empty() && !waiting.is_stopped)
                .expect(NO_PANIC);
            let Some(read) = waiting.reads.pop_front() else { return };
            drop(waiting);
            read.run(shared);
        }
    }

    pub(crate) fn waiting_max(&self) -> usize {
        self.waiting_max
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.inner.lock().expect(NO_PANIC)
    }
}

const NO_PANIC: &str = "nothing panics while it holds the queue of reads";
