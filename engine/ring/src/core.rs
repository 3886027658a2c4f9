//! What producers and readers of one ring share: the tail word, the segments, the directory.
//!
//! Rotation, sleep and close live here because they are decided on the tail word and the directory
//! together. Frames are copied in `ring` and read in `cursor`.
//!
//! Sleep: a reader registers its waker and sets the sleep bit of the tail under the lock, and sleeps
//! only if the tail it replaced shows nothing claimed past its position. Whoever claims later gets the
//! bit with the claim and wakes after the commit. One word's modification order decides, so no wake-up
//! is lost and a producer pays nothing while nobody sleeps.

use std::ptr::NonNull;
use std::task::Waker;

use crate::config::RingConfig;
use crate::directory::{Directory, Live};
use crate::ring::AppendError;
use crate::room::Room;
use crate::segment::{Pin, Segment};
use crate::sync::{
    Arc, AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering, OwnLine, yield_now,
};
use crate::words::{Limits, Tail};

/// Wakers taken under one hold of the lock.
const WAKE_BATCH: usize = 16;

#[repr(C)]
pub(crate) struct Core {
    pub(crate) tail: OwnLine<AtomicU64>,
    // Between the word that every producer writes and the words that every producer reads.
    directory: Mutex<Directory>,
    pub(crate) handles: AtomicUsize,
    pub(crate) room: Arc<Room>,
    shape: OwnLine<Shape>,
}

/// What every claim reads and almost nobody writes.
struct Shape {
    /// Claims need the slow path first: no segment yet, full, or closed. A hint; the tail decides.
    halted: AtomicBool,
    limits: Limits,
    live_max: usize,
    /// What gated cursors have passed is reused before more memory is.
    is_queue: bool,
    segments: Box<[AtomicPtr<Segment>]>,
}

/// The state that [`Core::rotate`] leaves behind.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rotation {
    /// The tail's segment takes claims.
    Open,
    Closed,
    /// `is_passing`: only unfinished appends are in the way, no reader.
    Full {
        is_passing: bool,
    },
}

impl Rotation {
    pub(crate) fn into_append_result(self) -> Result<(), AppendError> {
        match self {
            Self::Open => Ok(()),
            Self::Closed => Err(AppendError::Closed),
            Self::Full { .. } => Err(AppendError::Full),
        }
    }

    pub(crate) fn is_worth_retrying(self) -> bool {
        !matches!(self, Self::Full { .. })
    }
}

impl Core {
    pub(crate) fn new(config: &RingConfig, is_queue: bool) -> Self {
        let segments = config.segments + config.spare_segments;
        Self {
            tail: OwnLine(AtomicU64::new(Tail::UNBORN.0)),
            directory: Mutex::new(Directory::default()),
            handles: AtomicUsize::new(1),
            room: Arc::new(Room::new()),
            shape: OwnLine(Shape {
                halted: AtomicBool::new(true),
                limits: Limits { bytes: config.segment_bytes as u32, frames: config.segment_frames as u32 },
                live_max: config.segments,
                is_queue,
                segments: (0..segments).map(|_| AtomicPtr::new(std::ptr::null_mut())).collect(),
            }),
        }
    }

    /// What one segment holds.
    #[inline]
    pub(crate) fn limits(&self) -> Limits {
        self.shape.0.limits
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Directory> {
        self.directory.lock().expect("nothing panics while it holds the directory")
    }

    /// The segment in place `id`, which came from a tail word or the directory.
    #[inline]
    pub(crate) fn segment(&self, id: usize) -> &Segment {
        // SAFETY: the core holds every segment until it is dropped.
        unsafe { self.segment_pointer(id).as_ref() }
    }

    /// Holds the segment in place `id` if it is still in generation `generation`.
    #[inline]
    pub(crate) fn pin(&self, id: usize, generation: u32) -> Option<Pin> {
        // SAFETY: as above, and the places are filled by `Segment::allocate`.
        unsafe { Segment::pin(self.segment_pointer(id), generation) }
    }

    #[inline]
    fn segment_pointer(&self, id: usize) -> NonNull<Segment> {
        let segment = self.shape.0.segments[id].load(Ordering::Relaxed);
        debug_assert!(!segment.is_null(), "place {id} was named before its segment was allocated");
        // SAFETY: whoever names `id` learnt it from the tail (acquire) or under the lock, both after
        // the pointer was stored, so it is not null.
        unsafe { NonNull::new_unchecked(segment) }
    }

    /// Claims `size(tail)` (or `first_bytes` in one frame, if that is nothing) by compare-and-swap,
    /// unless the tail is closed or past the end. Returns the tail found.
    pub(crate) fn add_if_open(&self, first_bytes: u32, size: impl Fn(Tail) -> (u32, u32)) -> Tail {
        let mut tail = Tail(self.tail.0.load(Ordering::Acquire));
        loop {
            if tail.is_closed() || !tail.is_open(self.limits()) {
                return tail;
            }
            let (bytes, frames) = size(tail);
            let step = if frames == 0 { Tail::step(first_bytes, 1) } else { Tail::step(bytes, frames) };
            let next = tail.0 + step;
            match self.tail.0.compare_exchange_weak(tail.0, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return tail,
                Err(now) => tail = Tail(now),
            }
        }
    }

    /// Before a claim: whether it may be tried at all.
    #[inline]
    pub(crate) fn admit(&self) -> Result<(), AppendError> {
        if self.shape.0.halted.load(Ordering::Relaxed) { self.admit_halted() } else { Ok(()) }
    }

    #[cold]
    fn admit_halted(&self) -> Result<(), AppendError> {
        // Producers that keep trying must not keep readers from the lock.
        let is_closed = Tail(self.tail.0.load(Ordering::Relaxed)).is_closed();
        if self.room.is_full() && !is_closed {
            return Err(AppendError::Full);
        }
        self.rotate().into_append_result()
    }

    /// After a claim that found `before` and did not fit: a new segment, if there can be one.
    #[cold]
    pub(crate) fn turn_over(&self, before: Tail) -> Result<(), AppendError> {
        if before.is_open(self.limits()) {
            // Exactly one claim of a segment's use finds it open and leaves it past the end.
            self.segment(before.segment()).end_here(before.index(), before.bytes());
        }
        self.rotate().into_append_result()
    }

    /// Puts an empty segment in place if the current one is past its end.
    #[cold]
    pub(crate) fn rotate(&self) -> Rotation {
        loop {
            let mut directory = self.lock();
            let tail = Tail(self.tail.0.load(Ordering::Acquire));
            if tail.is_closed() {
                return Rotation::Closed;
            }
            if tail.is_open(self.limits()) {
                return Rotation::Open;
            }
            let Some(base) = self.claimed_end(&directory, tail) else {
                // The claim that ran past the end is one store away from saying where that was.
                drop(directory);
                yield_now();
                continue;
            };
            let changes = self.room.changes();
            return match self.take_segment(&mut directory) {
                Ok(id) => {
                    self.put_in_place(&mut directory, id, base);
                    Rotation::Open
                }
                Err(is_passing) => {
                    // Unfinished appends announce no change: who meets them must look each time.
                    self.room.found_full((!is_passing).then_some(changes));
                    self.shape.0.halted.store(true, Ordering::Relaxed);
                    Rotation::Full { is_passing }
                }
            };
        }
    }

    fn put_in_place(&self, directory: &mut Directory, id: usize, base: u64) {
        let segment = self.segment(id);
        segment.begin(base);
        directory.live.push_back(Live { segment: id, generation: segment.generation(), base });
        let mut tail = Tail(self.tail.0.load(Ordering::Relaxed));
        // Others may still add to the full tail (once each) or set the sleep bit, which must survive.
        loop {
            let mut next = tail.moved_to(id).0;
            if cfg!(ring_mutant = "forgotten_sleeper") {
                next &= !Tail::SLEEP;
            }
            match self.tail.0.compare_exchange_weak(tail.0, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => tail = Tail(now),
            }
        }
        self.shape.0.halted.store(false, Ordering::Relaxed);
    }

    /// A segment nobody uses; the oldest live one leaves the ring if it must. `Err(is_passing)`: none.
    fn take_segment(&self, directory: &mut Directory) -> Result<usize, bool> {
        if self.shape.0.is_queue
            && 2 <= directory.live.len()
            && !directory.gates.is_empty()
            && directory.is_oldest_passed()
            && let Some(oldest) = self.reuse_oldest(directory)
        {
            return Ok(oldest);
        }
        loop {
            if directory.live.len() < self.shape.0.live_max {
                if let Some(id) = self.spare_segment(directory) {
                    return Ok(id);
                }
            } else if !directory.is_oldest_passed() {
                return Err(false);
            } else {
                let oldest = directory.live[0].segment;
                if let Some(oldest) = self.reuse_oldest(directory) {
                    return Ok(oldest);
                }
                if let Some(spare) = self.spare_segment(directory) {
                    self.segment(oldest).retire();
                    directory.live.pop_front();
                    directory.retired.push(oldest);
                    return Ok(spare);
                }
            }
            if let Some(is_passing) = self.blocked(directory) {
                return Err(is_passing);
            }
        }
    }

    /// Takes the oldest segment out of the ring, unless somebody still holds it.
    fn reuse_oldest(&self, directory: &mut Directory) -> Option<usize> {
        let oldest = directory.live.front()?.segment;
        let is_free = self.segment(oldest).is_settled() && self.segment(oldest).retire_if_free();
        is_free.then(|| {
            directory.live.pop_front();
            oldest
        })
    }

    /// A retired segment that became free, or one never used so far.
    fn spare_segment(&self, directory: &mut Directory) -> Option<usize> {
        let is_free = |&id: &usize| self.segment(id).is_free() && self.segment(id).is_settled();
        if let Some(place) = directory.retired.iter().position(is_free) {
            return Some(directory.retired.swap_remove(place));
        }
        let id = directory.allocated;
        let place = self.shape.0.segments.get(id)?;
        place.store(Segment::allocate(self.limits(), self.room.clone()).as_ptr(), Ordering::Release);
        directory.allocated += 1;
        Some(id)
    }

    /// Asks the readers of every segment that could be reused to wake producers when they let go.
    /// `None` if one is free by now; otherwise whether a producer's unfinished append is all that
    /// holds some segment.
    fn blocked(&self, directory: &Directory) -> Option<bool> {
        let oldest = directory.live.front().filter(|_| directory.live.len() == self.shape.0.live_max);
        let mut is_passing = false;
        for id in oldest.map(|live| live.segment).into_iter().chain(directory.retired.iter().copied()) {
            if self.segment(id).want() {
                if self.segment(id).is_settled() {
                    return None;
                }
                is_passing = true;
            }
        }
        Some(is_passing)
    }

    /// One past the last offset claimed when the tail was `tail`; `None` while the claim that ran past
    /// the end has not yet said where that was.
    fn claimed_end(&self, directory: &Directory, tail: Tail) -> Option<u64> {
        if directory.closed_at.is_some() {
            return directory.closed_at;
        }
        let Some(newest) = directory.live.back() else { return Some(0) };
        let frames = if tail.is_open(self.limits()) {
            Some(tail.index())
        } else {
            self.segment(newest.segment).frames_in_all()
        };
        frames.map(|frames| newest.base + u64::from(frames))
    }

    /// Calls `act` under the lock with one past the last offset claimed.
    pub(crate) fn with_end<T>(&self, mut act: impl FnMut(&mut Directory, u64) -> T) -> T {
        loop {
            let mut directory = self.lock();
            let tail = Tail(self.tail.0.load(Ordering::Acquire));
            if let Some(end) = self.claimed_end(&directory, tail) {
                return act(&mut directory, end);
            }
            drop(directory);
            yield_now();
        }
    }

    pub(crate) fn next(&self) -> u64 {
        self.with_end(|_, end| end)
    }

    /// Registers `waker` under `key` and says whether the reader at `position` may sleep. If not,
    /// something is committed, missed or closed, or being committed right now.
    pub(crate) fn sleep(&self, position: u64, key: &mut Option<usize>, waker: Waker) -> bool {
        let mut directory = self.lock();
        let key = *key.get_or_insert_with(|| directory.sleepers.insert(None));
        let before = directory.sleepers[key].replace(waker);
        let tail = Tail(self.tail.0.fetch_or(Tail::SLEEP, Ordering::AcqRel));
        let end = self.claimed_end(&directory, tail);
        let may_sleep = directory.closed_at.is_none()
            && directory.oldest() <= position
            && (end == Some(position) || cfg!(ring_mutant = "sleep_unchecked"));
        let unused = if may_sleep { None } else { directory.sleepers[key].take() };
        // Dropping a waker may run an executor's code, which may come back here.
        drop(directory);
        drop((before, unused));
        may_sleep
    }

    /// Wakes every sleeping reader. Called by each producer whose claim found the sleep bit.
    #[cold]
    pub(crate) fn wake_readers(&self) {
        let mut directory = self.lock();
        self.tail.0.fetch_and(!Tail::SLEEP, Ordering::AcqRel);
        let mut from = 0;
        loop {
            let mut batch = [const { None::<Waker> }; WAKE_BATCH];
            let has_more = directory.take_sleepers(&mut from, &mut batch);
            drop(directory);
            batch.into_iter().flatten().for_each(Waker::wake);
            if !has_more {
                return;
            }
            directory = self.lock();
        }
    }

    pub(crate) fn close(&self) {
        self.shape.0.halted.store(true, Ordering::Relaxed);
        let mut found = None;
        loop {
            let mut directory = self.lock();
            // Claims made before this bit count, later ones do not: the first look decides.
            let now = Tail(self.tail.0.fetch_or(Tail::CLOSED, Ordering::AcqRel));
            let tail = *found.get_or_insert(now);
            if directory.closed_at.is_some() {
                return;
            }
            let Some(end) = self.claimed_end(&directory, tail) else {
                drop(directory);
                yield_now();
                continue;
            };
            if tail.is_open(self.limits()) {
                self.segment(tail.segment()).end_here(tail.index(), tail.bytes());
            }
            directory.closed_at = Some(end);
            break;
        }
        self.wake_readers();
        self.room.wake();
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let fixed = size_of::<Self>()
            + size_of::<Room>()
            + self.shape.0.segments.len() * size_of::<AtomicPtr<Segment>>();
        fixed + self.lock().allocated * Segment::memory_bytes(self.limits())
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        for place in &self.shape.0.segments {
            if let Some(segment) = NonNull::new(place.load(Ordering::Acquire)) {
                // SAFETY: the core's own hold since the segment was allocated, given up once.
                unsafe { Segment::release(segment) }
            }
        }
    }
}
