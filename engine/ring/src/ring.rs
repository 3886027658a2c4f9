//! The producers' side: claim, copy, commit; rotation when a segment is full; close.
//!
//! A claim is one addition to the tail word and a commit one release store. It never looks into a
//! frame, never waits for a lossy reader, and takes the lock only where a segment begins or a sleeper
//! has to be woken.

use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll};

use thiserror::Error;

use crate::config::{ConfigError, RingConfig};
use crate::copy;
use crate::core::{Core, Kept, Rotation};
use crate::cursor::{Cursor, Gating, Start};
use crate::prefetch;
use crate::quota::Quota;
use crate::segment::Segment;
use crate::sync::{Arc, Ordering};
use crate::words::{ADDED_FRAME_BYTES_MAX, Commit, Kind, Limits, Tail};

/// A handle to one ring; clones share it. When the last handle is gone the ring closes.
pub struct Ring {
    core: Arc<Core>,
}

/// What [`Ring::append_run`] stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first frame stored.
    pub first_offset: u64,
    /// How many frames of the run are stored, from its start.
    pub frames: usize,
    /// How many bytes of the run these are.
    pub bytes: usize,
}

/// Why a frame was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The frame is larger than a segment. It will never fit: split it or configure larger segments.
    #[error("frame has {frame_bytes} bytes, the ring takes at most {frame_bytes_max}")]
    TooLarge {
        /// Size of the refused frame.
        frame_bytes: usize,
        /// Size of a segment.
        frame_bytes_max: usize,
    },
    /// The oldest segment cannot be reused: a gated cursor has not passed it, or readers (or a producer
    /// in the middle of an append) hold it and every spare. Nothing was stored: wait with
    /// [`Ring::room`], or drop the frame.
    #[error("the ring is full: its oldest segment is still needed by a reader")]
    Full,
    /// [`Ring::close`] was called. Nothing was stored.
    #[error("the ring is closed")]
    Closed,
}

impl Ring {
    /// Makes an empty ring. Segments are allocated when the first frame needs them.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] names the size that is out of bounds.
    ///
    /// ```
    /// use twinlane_ring::{Gating, Read, Ring, RingConfig, Start};
    ///
    /// let ring = Ring::new(RingConfig::default())?;
    /// let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
    /// ring.append(&[b"he", b"llo"], |_offset, _frame| ())?;
    /// let Read::Run(run) = cursor.read(usize::MAX) else { panic!("one frame is committed") };
    /// assert_eq!((run.first_offset(), run.frames(), run.bytes()), (0, 1, &b"hello"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(config: RingConfig) -> Result<Self, ConfigError> {
        Self::of(&config, Kept::History { first: 0 })
    }

    /// Makes an empty ring whose first frame will have offset `first`: the tail of a history whose earlier frames are
    /// kept elsewhere.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn starting_at(config: RingConfig, first: u64) -> Result<Self, ConfigError> {
        Self::of(&config, Kept::History { first })
    }

    /// Makes an empty ring that is a queue and no history: a segment that every [gated](Gating::Gated) cursor has
    /// passed is used again before more memory is, so a queue that is kept short works in two or three segments
    /// that stay in the cache, small ones if the ring has them, and forgets what was passed. Without a gated cursor
    /// it is as any other ring.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn queue(config: RingConfig) -> Result<Self, ConfigError> {
        Self::of(&config, Kept::Queue { quota: None })
    }

    /// Makes an empty [queue](Self::queue) that takes segments beyond the small ones it begins with only while `quota`
    /// lasts: otherwise appends see [`AppendError::Full`] until a gated cursor has passed something. A frame that is too
    /// large for the small segments gets a large one in any case, if no more than one segment waits before it. Where no
    /// cursor is gated the quota only counts.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn queue_within(config: RingConfig, quota: &Quota) -> Result<Self, ConfigError> {
        Self::of(&config, Kept::Queue { quota: Some(quota.clone()) })
    }

    fn of(config: &RingConfig, kept: Kept) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self { core: Arc::new(Core::new(config, kept)) })
    }

    /// Stores one frame, the concatenation of `parts`, and returns its offset. Never waits, except
    /// that once per segment it takes a short lock.
    ///
    /// `stamp(offset, frame)` may patch the copied frame before readers can see it. Keep it short:
    /// until it returns, no reader passes this frame. If it panics, the frame becomes
    /// [`Read::Missed`](crate::Read::Missed) for every reader and the panic goes on.
    ///
    /// # Errors
    ///
    /// [`AppendError`]; nothing was stored.
    #[inline]
    pub fn append(&self, parts: &[&[u8]], stamp: impl FnOnce(u64, &mut [u8])) -> Result<u64, AppendError> {
        let frame_bytes = parts.iter().fold(0_usize, |sum, part| sum.saturating_add(part.len()));
        let claim = self.claim_frame(frame_bytes)?;
        let unfinished = Unfinished { claim: &claim, ends: &[claim.bytes] };
        let mut at = claim.start();
        for part in parts {
            // SAFETY: the claim owns `start..start + bytes` of its segment alone until the commit, and
            // the parts sum up to `bytes`: `claim_frame` was given their sum.
            unsafe { copy::apart(part.as_ptr(), claim.segment.address(at), part.len()) };
            at += part.len() as u32;
        }
        let offset = claim.first_offset();
        stamp(offset, claim.frame_bytes());
        unfinished.forget();
        claim.commit(&[claim.bytes], Kind::Frame);
        Ok(offset)
    }

    /// Stores many frames with one claim: as many from the start of the run as fit the current
    /// segment, at least one. Their offsets are contiguous. Call again with the rest.
    ///
    /// `bytes` is the frames back to back, `ends[i]` the end of frame `i` within it.
    /// `stamp(first_offset, run)` gets all the copied frames at once; as with
    /// [`append`](Self::append), a panic in it makes them missed.
    ///
    /// # Errors
    ///
    /// [`AppendError`] about the first frame of the run; nothing was stored.
    ///
    /// # Panics
    ///
    /// If `ends` does not increase strictly from above 0 to `bytes.len()`.
    #[inline]
    pub fn append_run(
        &self,
        bytes: &[u8],
        ends: &[u32],
        stamp: impl FnOnce(u64, &mut [u8]),
    ) -> Result<Appended, AppendError> {
        let Some(&first_bytes) = ends.first() else {
            assert!(bytes.is_empty(), "a run without frames has no bytes, got {}", bytes.len());
            return Ok(Appended { first_offset: self.next(), frames: 0, bytes: 0 });
        };
        let is_increasing = 0 < first_bytes && ends.windows(2).all(|pair| pair[0] < pair[1]);
        assert!(
            is_increasing && ends.last().is_some_and(|&end| end as usize == bytes.len()),
            "frame ends must increase strictly up to the run's {} bytes",
            bytes.len()
        );
        let (claim, frames) = self.claim_run(ends)?;
        let unfinished = Unfinished { claim: &claim, ends: &ends[..frames] };
        let stored = &bytes[..claim.bytes as usize];
        // SAFETY: the claim owns `start..start + bytes` of its segment alone until the commit.
        unsafe {
            std::ptr::copy_nonoverlapping(
                stored.as_ptr(),
                claim.segment.address(claim.start()),
                stored.len(),
            );
        };
        let first_offset = claim.first_offset();
        stamp(first_offset, claim.frame_bytes());
        unfinished.forget();
        claim.commit(&ends[..frames], Kind::Frame);
        Ok(Appended { first_offset, frames, bytes: stored.len() })
    }

    /// A new reader at `start`. See [`Gating`] for what its lagging means to producers.
    pub fn cursor(&self, start: Start, gating: Gating) -> Cursor {
        Cursor::new(self.core.clone(), start, gating)
    }

    /// Offset of the oldest frame still in the ring; what a new cursor at [`Start::Oldest`] reads
    /// first. May move on at any time unless a gated cursor stands there.
    pub fn oldest(&self) -> u64 {
        self.core.lock().oldest()
    }

    /// Offset the next frame gets: how many were ever claimed. Takes the lock.
    pub fn next(&self) -> u64 {
        self.core.next()
    }

    /// Refuses further frames. Readers drain what was stored and then see
    /// [`Read::Closed`](crate::Read::Closed); all sleepers are woken. Closing twice is closing once.
    pub fn close(&self) {
        self.core.close();
    }

    /// [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        Tail(self.core.tail.0.load(Ordering::Acquire)).is_closed()
    }

    /// Some reader sleeps until the next frame. A hint: it may change at once. One load of a line that the next
    /// append needs anyway.
    #[inline]
    pub fn is_awaited(&self) -> bool {
        Tail(self.core.tail.0.load(Ordering::Relaxed)).sleeps()
    }

    /// Memory in use, in bytes: segments allocated so far (they are reused, never given back before
    /// the ring is dropped) and the fixed part, less than 512 bytes for a ring that saw no frame.
    pub fn memory_bytes(&self) -> usize {
        self.core.memory_bytes()
    }

    /// Ready when an append that met [`AppendError::Full`] is worth trying again; else registers the
    /// waker. May be ready, or wake, without room; never misses it.
    ///
    /// It makes room if it can, so readers may lose the oldest segment to this call as to an append.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.core.rotate(0).is_worth_retrying() {
            return Poll::Ready(());
        }
        self.core.room.enter_loose(cx);
        self.recheck_room(cx)
    }

    /// Waits until an append that met [`AppendError::Full`] is worth trying again: a gated cursor has
    /// left a segment or is gone, a reader let go of one, or the ring is closed.
    ///
    /// Cancel-safe: a dropped future leaves nothing behind.
    pub async fn room(&self) {
        struct Place<'r>(&'r Ring, Option<usize>);
        impl Drop for Place<'_> {
            fn drop(&mut self) {
                if let Some(key) = self.1 {
                    self.0.core.room.leave(key);
                }
            }
        }
        let mut place = Place(self, None);
        poll_fn(|cx| {
            if self.core.rotate(0).is_worth_retrying() {
                return Poll::Ready(());
            }
            self.core.room.enter(&mut place.1, cx);
            self.recheck_room(cx)
        })
        .await;
    }

    /// The second look after registering: a change before it is seen here, a later one wakes.
    fn recheck_room(&self, cx: &Context<'_>) -> Poll<()> {
        match self.core.rotate(0) {
            Rotation::Full { is_passing: false } => Poll::Pending,
            Rotation::Full { is_passing: true } => {
                // Only producers in the middle of an append are in the way. They do not check for
                // waiters when they commit, that would cost every append a fence: look again soon.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Rotation::Open | Rotation::Closed => Poll::Ready(()),
        }
    }

    #[inline]
    fn claim_frame(&self, frame_bytes: usize) -> Result<Claim<'_>, AppendError> {
        let core = &*self.core;
        let bytes = self.check_size(frame_bytes)?;
        loop {
            core.admit(bytes)?;
            let before = if frame_bytes <= ADDED_FRAME_BYTES_MAX {
                // Acquire: pairs with the rotation that put this segment in place.
                Tail(core.tail.0.fetch_add(Tail::step(bytes, 1), Ordering::AcqRel))
            } else {
                core.add_if_open(bytes, |_, _| (bytes, 1))
            };
            if before.is_closed() {
                return Err(AppendError::Closed);
            }
            let segment = core.segment_of(before);
            if let Some(segment) = segment.filter(|segment| before.fits(bytes, 1, segment.limits())) {
                return Ok(Claim::new(core, segment, before, bytes));
            }
            core.turn_over(before, bytes)?;
        }
    }

    /// Claims the longest prefix of the frames ending at `ends`; returns its number of frames.
    fn claim_run(&self, ends: &[u32]) -> Result<(Claim<'_>, usize), AppendError> {
        let core = &*self.core;
        let first_bytes = self.check_size(ends[0] as usize)?;
        loop {
            core.admit(first_bytes)?;
            let fitting = |tail: Tail, limits: Limits| -> (u32, u32) {
                let frames =
                    (limits.frames - tail.index()).min(u32::try_from(ends.len()).unwrap_or(u32::MAX));
                let left_bytes = limits.bytes - tail.bytes();
                if ends.len() == frames as usize && ends[ends.len() - 1] <= left_bytes {
                    return (ends[ends.len() - 1], frames);
                }
                let frames = ends[..frames as usize].partition_point(|&end| end <= left_bytes);
                frames.checked_sub(1).map_or((0, 0), |last| (ends[last], frames as u32))
            };
            // If not even the first frame fits, its claim is the one past the end.
            let before = core.add_if_open(first_bytes, fitting);
            if before.is_closed() {
                return Err(AppendError::Closed);
            }
            let segment = core.segment_of(before);
            if let Some(segment) = segment.filter(|segment| before.fits(first_bytes, 1, segment.limits())) {
                let (bytes, frames) = fitting(before, segment.limits());
                return Ok((Claim::new(core, segment, before, bytes), frames as usize));
            }
            core.turn_over(before, first_bytes)?;
        }
    }

    #[inline]
    fn check_size(&self, frame_bytes: usize) -> Result<u32, AppendError> {
        let frame_bytes_max = self.core.limits().bytes as usize;
        if frame_bytes_max < frame_bytes {
            return Err(AppendError::TooLarge { frame_bytes, frame_bytes_max });
        }
        Ok(frame_bytes as u32)
    }
}

impl Clone for Ring {
    fn clone(&self) -> Self {
        self.core.handles.fetch_add(1, Ordering::Relaxed);
        Self { core: self.core.clone() }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.core.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.core.close();
        }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (oldest, next, is_closed) = (self.oldest(), self.next(), self.is_closed());
        f.debug_struct("Ring")
            .field("oldest", &oldest)
            .field("next", &next)
            .field("closed", &is_closed)
            .finish()
    }
}

/// Bytes of a segment that one producer owns until it commits them.
struct Claim<'r> {
    core: &'r Core,
    segment: &'r Segment,
    /// The tail as the claim found it.
    before: Tail,
    bytes: u32,
}

impl<'r> Claim<'r> {
    #[inline]
    fn new(core: &'r Core, segment: &'r Segment, before: Tail, bytes: u32) -> Self {
        let claim = Self { core, segment, before, bytes };
        claim.segment.note_write(claim.start(), claim.end());
        claim
    }

    #[inline]
    fn start(&self) -> u32 {
        self.before.bytes()
    }

    #[inline]
    fn end(&self) -> u32 {
        self.start() + self.bytes
    }

    #[inline]
    fn first_offset(&self) -> u64 {
        // The base holds still: a segment is not reused before this claim is committed.
        self.segment.base() + u64::from(self.before.index())
    }

    /// The claimed bytes, once they are written.
    #[inline]
    #[allow(clippy::mut_from_ref, reason = "private, called once per claim, after the copy")]
    fn frame_bytes(&self) -> &mut [u8] {
        // SAFETY: the range is this claim's alone until the commit, it was just written in full, and
        // its only caller drops the slice before committing.
        unsafe { std::slice::from_raw_parts_mut(self.segment.address(self.start()), self.bytes as usize) }
    }

    /// Lets readers see frames that end at `ends` (from the start of the claim) as `kind`.
    #[inline]
    fn commit(&self, ends: &[u32], kind: Kind) {
        let tag = self.segment.tag();
        let (first, start) = (self.before.index(), self.start());
        for (index, end) in (first..).zip(ends) {
            self.segment.commit(index, Commit::new(tag, kind, start + end));
        }
        self.prefetch_next(first + ends.len() as u32);
        if self.before.sleeps() && !cfg!(ring_mutant = "lost_wake") {
            self.core.wake_readers();
        }
    }

    /// Fetches the lines that a later claim of this thread will write.
    #[inline]
    fn prefetch_next(&self, next_index: u32) {
        let next = self.segment.address(0).wrapping_add(self.end() as usize);
        for ahead in [4 * 64, 5 * 64] {
            prefetch::for_writing(next.wrapping_add(ahead));
        }
        prefetch::for_writing(self.segment.commit_address(next_index).wrapping_add(64));
    }
}

/// Commits a claim as abandoned if the producer does not come to [`forget`](Self::forget).
struct Unfinished<'c> {
    claim: &'c Claim<'c>,
    ends: &'c [u32],
}

impl Unfinished<'_> {
    /// The producer commits the claim itself. Reading it out of here again cost half of an append: what was stored a
    /// moment ago was loaded in one piece of another size, and that waits for every store before it.
    #[inline]
    fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Unfinished<'_> {
    #[cold]
    fn drop(&mut self) {
        self.claim.commit(self.ends, Kind::Abandoned);
    }
}
