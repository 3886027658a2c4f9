//! The readers' side: a position in the ring, the next run of frames from it, and what was missed.
//!
//! A cursor holds no segment between reads: each read pins the one it stands in, which fails if the
//! segment was reused meanwhile. It never waits; waiting is in `wait`.

use std::fmt;

use crate::core::Core;
use crate::directory::Live;
use crate::run::Run;
use crate::segment::{Pin, Segment};
use crate::sync::Arc;
use crate::words::Kind;

/// Where a new cursor begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The oldest frame in the ring.
    Oldest,
    /// The next frame to be appended.
    Next,
    /// This offset. Below the oldest, the first read tells exactly what is missed; past the next, it
    /// is the next.
    Offset(u64),
}

/// What producers do about a cursor that lags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gating {
    /// They overtake it; it is told exactly how many frames it missed. Only the runs it has not let go
    /// of keep memory from them.
    Lossy,
    /// They overtake it, too, but as long as the ring has a segment to spare they use that instead of the one it
    /// stands in: who lags for a moment has that much more time. Who is overtaken nevertheless is lent nothing before it
    /// has caught up: being slow for good does not make what it reads older. Held runs and appends come first.
    Spared,
    /// They see [`AppendError::Full`](crate::AppendError::Full) rather than overwrite the segment it
    /// stands in. It must be read or dropped.
    Gated,
}

/// What [`Cursor::read`] found.
#[derive(Debug)]
pub enum Read {
    /// One or more committed frames.
    Run(Run),
    /// The frames `from..to` cannot be read any more; the cursor stands at `to`. A gated cursor sees
    /// it only for frames whose producer panicked, or at a start or seek below the oldest.
    Missed {
        /// First offset missed.
        from: u64,
        /// One past the last offset missed.
        to: u64,
    },
    /// Nothing is committed at the cursor's position yet.
    Empty,
    /// The ring is closed and everything before was read.
    Closed,
}

/// One reader of a ring. Owned by one task or thread, may move between them.
pub struct Cursor {
    pub(crate) core: Arc<Core>,
    pub(crate) place: Place,
    pub(crate) gating: Gating,
    pub(crate) sleeper: Option<usize>,
}

impl Cursor {
    pub(crate) fn new(core: Arc<Core>, start: Start, gating: Gating) -> Self {
        let place = core.with_end(|directory, end| {
            let oldest = directory.oldest();
            let position = match start {
                Start::Oldest => oldest,
                Start::Next => end,
                Start::Offset(offset) => offset.min(end),
            };
            let has_gate = gating != Gating::Lossy;
            let gate = has_gate.then(|| directory.add_gate(position.max(oldest), gating));
            Place { position, seat: None, gate }
        });
        Self { core, place, gating, sleeper: None }
    }

    /// The next frames, at most `max_bytes` of them but always at least one. Never waits.
    ///
    /// The run lies in one segment, so it may be shorter than what is committed: read until
    /// [`Read::Empty`]. A frame that is claimed but not committed ends the run, whatever follows it:
    /// no reader sees frames out of order, and while a producer is preempted in the middle of an
    /// append, readers see [`Read::Empty`] there.
    #[inline]
    pub fn read(&mut self, max_bytes: usize) -> Read {
        loop {
            let (kind, seat, start) = match self.place.look(&self.core) {
                Next::Frames { kind, seat, start } => (kind, seat, start),
                Next::Missed { to } => return self.miss(to),
                Next::Empty => return Read::Empty,
                Next::Closed => return Read::Closed,
            };
            let pin = self.core.pin(seat.segment, seat.generation);
            let Some(pin) = pin.filter(|pin| pin.segment().base() == seat.base) else {
                self.place.seat = None;
                continue;
            };
            let first = seat.index_of(self.place.position);
            let (frames, end) = scan(&pin, seat.tag, kind, first, |frame_end| {
                kind == Kind::Abandoned || (frame_end - start) as usize <= max_bytes
            });
            self.place.seat = Some(Seat { start: Some(end), ..seat });
            if kind == Kind::Abandoned {
                return self.miss(self.place.position + u64::from(frames));
            }
            let first_offset = self.place.position;
            self.place.position += u64::from(frames);
            return Read::Run(Run::new(pin, first_offset, first, frames, start..end));
        }
    }

    /// Offset of the next frame to read.
    #[inline]
    pub fn position(&self) -> u64 {
        self.place.position
    }

    /// Moves to `offset`: back, to read again what the ring still has, or forward, to skip. Past the
    /// next offset it is the next; below the oldest, the next read tells what is missed.
    ///
    /// A gated cursor gates from its new place on; moving forward makes room.
    pub fn seek(&mut self, offset: u64) {
        let gate = self.place.gate;
        let position = self.core.with_end(|directory, end| {
            let position = offset.min(end);
            if let Some(gate) = gate {
                let oldest = directory.oldest();
                directory.gates[gate].move_to(position.max(oldest));
            }
            position
        });
        self.place = Place { position, seat: None, gate };
        self.wake_producers();
    }

    /// Nothing is committed at the position right now. A few loads; between segments also the lock.
    #[inline]
    pub fn is_empty(&self) -> bool {
        // On a copy without the gate: looking must not move this cursor.
        let mut place = Place { gate: None, ..self.place };
        matches!(place.look(&self.core), Next::Empty | Next::Closed)
    }

    /// Producers only wait for a gated cursor.
    fn wake_producers(&self) {
        if self.gating == Gating::Gated {
            self.core.room.wake();
        }
    }

    /// Takes note that frames up to `to` cannot be read.
    fn miss(&mut self, to: u64) -> Read {
        let from = std::mem::replace(&mut self.place.position, to);
        Read::Missed { from, to }
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        let mut directory = self.core.lock();
        if let Some(gate) = self.place.gate {
            directory.gates.remove(gate);
        }
        let waker = self.sleeper.map(|key| directory.sleepers.remove(key));
        // Dropping a waker may run an executor's code, which may come back to this ring.
        drop(directory);
        drop(waker);
        self.wake_producers();
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cursor")
            .field("position", &self.place.position)
            .field("gating", &self.gating)
            .finish()
    }
}

/// A position, and the segment it falls into if that is known.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    position: u64,
    seat: Option<Seat>,
    gate: Option<usize>,
}

/// A segment as it was when a position was looked up; its generation tells whether it still is.
#[derive(Clone, Copy)]
pub(crate) struct Seat {
    segment: usize,
    generation: u32,
    base: u64,
    tag: u32,
    /// The byte where the next frame starts; unknown until the frame before it is committed.
    start: Option<u32>,
}

impl Seat {
    /// Not the base tells: a segment that was too small for its first frame has that of the next one.
    #[inline]
    fn is_same_use(&self, other: &Self) -> bool {
        (self.segment, self.generation) == (other.segment, other.generation)
    }

    #[inline]
    fn index_of(&self, position: u64) -> u32 {
        (position - self.base) as u32
    }
}

/// What stands at a position.
pub(crate) enum Next {
    Frames { kind: Kind, seat: Seat, start: u32 },
    Missed { to: u64 },
    Empty,
    Closed,
}

impl Place {
    pub(crate) fn gate(&self) -> Option<usize> {
        self.gate
    }

    /// What stands at the position. Moves on to the next segment where one ended, which opens the
    /// gate behind it.
    #[inline]
    pub(crate) fn look(&mut self, core: &Core) -> Next {
        loop {
            let Some(seat) = self.seat else {
                match self.sit_down(core) {
                    Ok(()) => continue,
                    Err(next) => return next,
                }
            };
            let segment = core.segment(seat.segment);
            let index = seat.index_of(self.position);
            match segment.committed(index).kind(seat.tag) {
                Some(Kind::End) => match self.sit_down(core) {
                    Ok(()) if self.seat.is_some_and(|next| next.is_same_use(&seat)) => return Next::Empty,
                    Ok(()) => continue,
                    Err(next) => return next,
                },
                Some(kind) => {
                    if let Some(start) = seat.start.or_else(|| start_of(segment, seat.tag, index)) {
                        return Next::Frames { kind, seat, start };
                    }
                }
                None => {}
            }
            if segment.generation() == seat.generation {
                return Next::Empty;
            }
            self.seat = None;
        }
    }

    /// Looks the position up under the lock.
    #[cold]
    fn sit_down(&mut self, core: &Core) -> Result<(), Next> {
        self.seat = None;
        let mut directory = core.lock();
        let oldest = directory.oldest();
        if self.position < oldest {
            return Err(Next::Missed { to: oldest });
        }
        if directory.closed_at.is_some_and(|end| end <= self.position) {
            return Err(Next::Closed);
        }
        let Some(live) = directory.find(self.position) else { return Err(Next::Empty) };
        let is_newest = directory.live.back().is_some_and(|newest| newest.segment == live.segment);
        let opens = self.gate.is_some_and(|gate| {
            let passed = &mut directory.gates[gate];
            if is_newest {
                passed.caught_up();
            }
            passed.move_to(self.position) < live.base && passed.is_firm()
        });
        let tag = core.segment(live.segment).tag();
        drop(directory);
        let start = (live.base == self.position).then_some(0);
        let Live { segment, generation, base } = live;
        self.seat = Some(Seat { segment, generation, base, tag, start });
        if opens {
            core.room.wake();
        }
        Ok(())
    }
}

/// Where frame `index` starts, if the frame before it is committed.
fn start_of(segment: &Segment, tag: u32, index: u32) -> Option<u32> {
    let Some(before) = index.checked_sub(1) else { return Some(0) };
    let word = segment.committed(before);
    word.kind(tag).map(|_| word.end())
}

/// How many frames from `first` on are committed as `kind`, and where they end. All but the first
/// must be wanted.
#[inline]
fn scan(pin: &Pin, tag: u32, kind: Kind, first: u32, wants: impl Fn(u32) -> bool) -> (u32, u32) {
    let segment = pin.segment();
    // The caller saw the first one, and the pin shows that it was of this use. A larger frame than
    // wanted is taken, too: it cannot be split.
    let mut end = segment.committed(first).end();
    let mut index = first + 1;
    loop {
        // An ended or full segment stops the scan: the word after the last frame is never a frame's.
        let word = segment.committed(index);
        if word.kind(tag) != Some(kind) || !wants(word.end()) {
            return (index - first, end);
        }
        end = word.end();
        index += 1;
    }
}
