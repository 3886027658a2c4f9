//! What producers and readers of one ring share: the tail word, the segments, the directory.
//!
//! Rotation, sleep and close live here because they are decided on the tail word and the directory
//! together. Frames are copied in `ring` and read in `cursor`.
//!
//! Sleep: a reader registers its waker and sets the sleep bit of the tail under the lock, and sleeps
//! only if the tail it replaced shows nothing claimed past its position. Whoever claims later gets the
//! bit with the claim and wakes after the commit. One word's modification order decides, so no wake-up
//! is lost and a producer pays nothing while nobody sleeps.

use std::ops::Range;
use std::ptr::NonNull;
use std::task::Waker;

use crate::config::{RingConfig, SEGMENTS_MAX};
use crate::directory::{Directory, Live};
use crate::quota::Quota;
use crate::ring::AppendError;
use crate::room::Room;
use crate::segment::{Pin, Segment};
use crate::sync::{
    Arc, AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering, OwnLine, yield_now,
};
use crate::words::{Limits, Tail};

/// Wakers taken under one hold of the lock.
const WAKE_BATCH: usize = 16;
/// A ring that holds little holds it in segments of the first of these sizes, and each further one is larger:
/// thousands of such rings stay in the cache, and none of them touches a large segment's first page, which may be a
/// huge one that is zeroed whole.
const STEPS_BYTES: [usize; 3] = if cfg!(loom) { [4, 16, 64] } else { [16 << 10, 64 << 10, 256 << 10] };
/// Segments of the smallest size: one that is read while the other is filled. There is one of each other step.
const SMALLEST: usize = 2;
/// Places whose segments are found without another line: those of the steps, or the first ones of a ring without.
const NEAR: usize = SMALLEST + STEPS_BYTES.len() - 1;
/// Large segments are this many times as large as every step before them, or that step is left out.
const STEP_RATIO_MIN: usize = 4;

#[repr(C)]
pub(crate) struct Core {
    pub(crate) tail: OwnLine<AtomicU64>,
    // Between the word that every producer writes and the words that every producer reads.
    directory: Mutex<Directory>,
    pub(crate) handles: AtomicUsize,
    pub(crate) room: Arc<Room>,
    shape: OwnLine<Shape>,
}

/// What a ring keeps of what its readers have passed.
pub(crate) enum Kept {
    /// As much as it has room for. Its first frame has offset `first`.
    History { first: u64 },
    /// Nothing: that is used again before more memory is.
    Queue { quota: Option<Quota> },
}

/// What every claim reads and almost nobody writes.
struct Shape {
    /// Claims need the slow path first: no segment yet, full, or closed. A hint; the tail decides.
    halted: AtomicBool,
    limits: Limits,
    /// Large segments that are readable at once, except for those that spared cursors are lent.
    live_max: u16,
    /// What gated cursors have passed is reused before more memory is.
    is_queue: bool,
    /// Places below this one have the segments of the steps, which are smaller. What a place has never changes: who
    /// named it knows what it holds.
    first_large: u8,
    places: u16,
    near: [AtomicPtr<Segment>; NEAR],
    far: Box<[AtomicPtr<Segment>]>,
}

// Besides the segment a claim reads one line that stays in every producer's cache, or with a thousand rings comes back
// to it.
#[cfg(not(loom))]
const _: () = assert!(size_of::<OwnLine<Shape>>() == 64, "one line");

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
    pub(crate) fn new(config: &RingConfig, kept: Kept) -> Self {
        let (is_queue, first, quota) = match kept {
            Kept::History { first } => (false, first, None),
            Kept::Queue { quota } => (true, 0, quota),
        };
        let large_segments = config.segments + config.spare_segments;
        let limits = Limits { bytes: config.segment_bytes as u32, frames: config.segment_frames as u32 };
        let is_step = |step: &usize| step * STEP_RATIO_MIN <= config.segment_bytes;
        let has_steps = large_segments + SMALLEST + STEPS_BYTES.len() - 1 <= SEGMENTS_MAX;
        let count = if has_steps { STEPS_BYTES.iter().filter(|&step| is_step(step)).count() } else { 0 };
        let first_large = if count == 0 { 0 } else { SMALLEST + count - 1 };
        let places = first_large + large_segments;
        let empty = || AtomicPtr::new(std::ptr::null_mut());
        Self {
            tail: OwnLine(AtomicU64::new(Tail::UNBORN.0)),
            directory: Mutex::new(Directory { first, ..Directory::default() }),
            handles: AtomicUsize::new(1),
            room: Arc::new(Room::new(quota)),
            shape: OwnLine(Shape {
                halted: AtomicBool::new(true),
                limits,
                live_max: config.segments as u16,
                is_queue,
                first_large: first_large as u8,
                places: places as u16,
                near: std::array::from_fn(|_| empty()),
                far: (NEAR..places).map(|_| empty()).collect(),
            }),
        }
    }

    /// What a large segment holds.
    #[inline]
    pub(crate) fn limits(&self) -> Limits {
        self.shape.0.limits
    }

    /// What the segment in this place holds, or would hold.
    fn limits_in(&self, place: usize) -> Limits {
        let limits = self.limits();
        if self.first_large() <= place {
            return limits;
        }
        let bytes = STEPS_BYTES[(place + 1).saturating_sub(SMALLEST)] as u32;
        Limits { bytes, frames: (limits.frames / (limits.bytes / bytes)).max(1) }
    }

    /// The segment of `tail`; `None` before the first one.
    #[inline]
    pub(crate) fn segment_of(&self, tail: Tail) -> Option<&Segment> {
        // Acquire: before the first segment is in place the tail orders nothing, and another producer may just be
        // putting it there.
        let segment = NonNull::new(self.place(tail.segment()).load(Ordering::Acquire))?;
        // SAFETY: the core holds every segment until it is dropped.
        Some(unsafe { segment.as_ref() })
    }

    /// Nobody has claimed past the end of the tail's segment yet.
    #[inline]
    fn is_open(&self, tail: Tail) -> bool {
        self.segment_of(tail).is_some_and(|segment| tail.is_open(segment.limits()))
    }

    #[inline]
    fn place(&self, id: usize) -> &AtomicPtr<Segment> {
        let shape = &self.shape.0;
        shape.near.get(id).unwrap_or_else(|| &shape.far[id - NEAR])
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
        let segment = self.place(id).load(Ordering::Relaxed);
        debug_assert!(!segment.is_null(), "place {id} was named before its segment was allocated");
        // SAFETY: whoever names `id` learnt it from the tail (acquire) or under the lock, both after
        // the pointer was stored, so it is not null.
        unsafe { NonNull::new_unchecked(segment) }
    }

    /// Claims `size(tail)` (or `first_bytes` in one frame, if that is nothing) by compare-and-swap,
    /// unless the tail is closed or past the end. Returns the tail found.
    pub(crate) fn add_if_open(&self, first_bytes: u32, size: impl Fn(Tail, Limits) -> (u32, u32)) -> Tail {
        let mut tail = Tail(self.tail.0.load(Ordering::Acquire));
        loop {
            let Some(segment) = self.segment_of(tail) else { return tail };
            let limits = segment.limits();
            if tail.is_closed() || !tail.is_open(limits) {
                return tail;
            }
            let (bytes, frames) = size(tail, limits);
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
    pub(crate) fn admit(&self, frame_bytes: u32) -> Result<(), AppendError> {
        if self.shape.0.halted.load(Ordering::Relaxed) { self.admit_halted(frame_bytes) } else { Ok(()) }
    }

    #[cold]
    fn admit_halted(&self, frame_bytes: u32) -> Result<(), AppendError> {
        // Producers that keep trying must not keep readers from the lock.
        let is_closed = Tail(self.tail.0.load(Ordering::Relaxed)).is_closed();
        if self.room.is_full() && !is_closed {
            return Err(AppendError::Full);
        }
        self.rotate(frame_bytes).into_append_result()
    }

    /// After a claim of `frame_bytes` that found `before` and did not fit: a new segment, if there can be one.
    #[cold]
    pub(crate) fn turn_over(&self, before: Tail, frame_bytes: u32) -> Result<(), AppendError> {
        if self.is_open(before) {
            // Exactly one claim of a segment's use finds it open and leaves it past the end.
            self.segment(before.segment()).end_here(before.index(), before.bytes());
        }
        self.rotate(frame_bytes).into_append_result()
    }

    /// Puts an empty segment, for a frame of that size, in place if the current one is past its end.
    #[cold]
    pub(crate) fn rotate(&self, frame_bytes: u32) -> Rotation {
        loop {
            let mut directory = self.lock();
            let tail = Tail(self.tail.0.load(Ordering::Acquire));
            if tail.is_closed() {
                return Rotation::Closed;
            }
            if self.is_open(tail) {
                return Rotation::Open;
            }
            let Some(base) = self.claimed_end(&directory, tail) else {
                // The claim that ran past the end is one store away from saying where that was.
                drop(directory);
                yield_now();
                continue;
            };
            let changes = self.room.changes();
            // Whoever waits for room tells no size. Without this it got a small segment again and again.
            let refused_bytes = self.room.refused_bytes();
            let refused_bytes = if cfg!(ring_mutant = "forgotten_size") { 0 } else { refused_bytes };
            let frame_bytes = frame_bytes.max(refused_bytes);
            return match self.take_segment(&mut directory, frame_bytes) {
                Ok(id) => {
                    self.room.set_refused_bytes(0);
                    self.put_in_place(&mut directory, id, base);
                    Rotation::Open
                }
                Err(is_passing) => {
                    // Unfinished appends announce no change: who meets them must look each time.
                    self.room.set_refused_bytes(frame_bytes);
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
        if let Some(quota) = self.quota_for(id) {
            quota.hold(self.limits().bytes as usize);
        }
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

    /// A segment nobody uses, no larger than it must be; the oldest live ones leave the ring if they must.
    /// `Err(is_passing)`: none.
    fn take_segment(&self, directory: &mut Directory, frame_bytes: u32) -> Result<usize, bool> {
        if self.shape.0.is_queue && directory.is_gated() {
            while 2 <= directory.live.len() && directory.is_oldest_passed() {
                self.retire_oldest(directory);
            }
        }
        loop {
            if let Some(step) = self.step_segment(directory, frame_bytes) {
                return Ok(step);
            }
            if !self.is_over_quota(directory, frame_bytes) {
                break;
            }
            if let Some(is_passing) = self.blocked(directory, self.fitting_steps(directory, frame_bytes)) {
                return Err(is_passing);
            }
        }
        let mut has_shrunk = false;
        loop {
            let is_full = self.live_max() <= self.live_large(directory);
            if is_full && !directory.is_oldest_passed() {
                return Err(false);
            }
            let keeps_oldest = !is_full || directory.is_oldest_spared();
            if keeps_oldest && let Some(id) = self.spare_segment(directory, self.large()) {
                return Ok(id);
            }
            if is_full {
                // What was lent comes back one by one: who has been overtaken may catch up meanwhile.
                if !keeps_oldest && !has_shrunk && self.is_lent(directory) {
                    has_shrunk = true;
                    self.retire_oldest(directory);
                    continue;
                }
                if directory.live.front().is_some_and(|oldest| oldest.segment < self.first_large()) {
                    self.retire_oldest(directory);
                    continue;
                }
                if let Some(oldest) = self.reuse_oldest(directory) {
                    return Ok(oldest);
                }
                // And all of it before anybody is refused.
                if self.is_lent(directory) && !cfg!(ring_mutant = "loan_kept") {
                    self.retire_oldest(directory);
                    continue;
                }
                if let Some(spare) = self.spare_segment(directory, self.large()) {
                    self.retire_oldest(directory);
                    return Ok(spare);
                }
            }
            if let Some(is_passing) = self.blocked(directory, self.large()) {
                return Err(is_passing);
            }
        }
    }

    /// The smallest segment before the large ones that takes the frame and is in step with what waits in the ring:
    /// behind much of it something small would soon be full. None beside as many large ones as there may be.
    fn step_segment(&self, directory: &mut Directory, frame_bytes: u32) -> Option<usize> {
        if self.live_large(directory) >= self.live_max() {
            return None;
        }
        self.fitting_steps(directory, frame_bytes)
            .find_map(|place| self.spare_segment(directory, place..place + 1))
    }

    /// The places of the segments before the large ones that take the frame and are in step with what waits.
    fn fitting_steps(&self, directory: &Directory, frame_bytes: u32) -> Range<usize> {
        let live = directory.live.len();
        let first = if live < SMALLEST { 0 } else { live };
        let fits = |&place: &usize| frame_bytes <= self.limits_in(place).bytes;
        // Each step is as large as the one before it, or larger.
        let first = (first..self.first_large()).find(fits);
        first.map_or(0..0, |first| first..self.first_large())
    }

    /// The queues that share the quota hold all of it, and this one goes on without: its readers have something to pass,
    /// or hold a small segment, and either makes room.
    fn is_over_quota(&self, directory: &Directory, frame_bytes: u32) -> bool {
        let Some(quota) = self.quota_for(self.first_large()) else { return false };
        let is_live = |place: usize| directory.live.iter().any(|live| live.segment == place);
        let goes_on = 2 <= directory.live.len()
            || self.fitting_steps(directory, frame_bytes).any(|place| !is_live(place));
        goes_on
            && directory.is_gated()
            && self.live_large(directory) < self.live_max()
            && !quota.has_room(self.limits().bytes as usize)
    }

    /// Who counts the segment in place `id`, if it is a large one beside smaller ones.
    fn quota_for(&self, id: usize) -> Option<&Quota> {
        let counts = 0 < self.first_large() && self.first_large() <= id;
        self.room.quota().filter(|_| counts)
    }

    fn first_large(&self) -> usize {
        self.shape.0.first_large.into()
    }

    fn live_max(&self) -> u32 {
        self.shape.0.live_max.into()
    }

    fn places(&self) -> usize {
        self.shape.0.places.into()
    }

    /// The places of large segments.
    fn large(&self) -> Range<usize> {
        self.first_large()..self.places()
    }

    fn live_large(&self, directory: &Directory) -> u32 {
        directory.live.iter().filter(|live| self.first_large() <= live.segment).count() as u32
    }

    /// Spared cursors have more of the ring than its own.
    fn is_lent(&self, directory: &Directory) -> bool {
        self.live_max() < self.live_large(directory)
    }

    /// Takes the oldest segment out of the ring, unless somebody still holds it.
    fn reuse_oldest(&self, directory: &mut Directory) -> Option<usize> {
        let oldest = directory.live.front()?.segment;
        let is_free = self.segment(oldest).is_settled() && self.segment(oldest).retire_if_free();
        is_free.then(|| {
            self.pop_oldest(directory);
            oldest
        })
    }

    /// Takes the oldest segment out of the ring, whoever holds it.
    fn retire_oldest(&self, directory: &mut Directory) {
        if let Some(oldest) = self.pop_oldest(directory) {
            self.segment(oldest.segment).retire();
            directory.retired.push(oldest.segment);
        }
    }

    /// Every segment leaves the ring here, and what it held of the quota with it.
    fn pop_oldest(&self, directory: &mut Directory) -> Option<Live> {
        let oldest = directory.pop_oldest()?;
        if let Some(quota) = self.quota_for(oldest.segment) {
            quota.give_back(self.limits().bytes as usize);
        }
        Some(oldest)
    }

    /// A retired segment of these places that became free, or the first one never used so far.
    fn spare_segment(&self, directory: &mut Directory, mut places: Range<usize>) -> Option<usize> {
        let is_free =
            |&id: &usize| places.contains(&id) && self.segment(id).is_free() && self.segment(id).is_settled();
        if let Some(index) = directory.retired.iter().position(is_free) {
            return Some(directory.retired.swap_remove(index));
        }
        let is_unused = |&id: &usize| self.place(id).load(Ordering::Relaxed).is_null();
        let id = places.find(is_unused)?;
        let limits = self.limits_in(id);
        let segment = Segment::allocate(limits, self.room.clone());
        self.place(id).store(segment.as_ptr(), Ordering::Release);
        Some(id)
    }

    /// Asks the readers of every segment in `places` that could be reused to wake producers when they let go.
    /// `None` if one is free by now; otherwise whether a producer's unfinished append is all that
    /// holds some segment.
    fn blocked(&self, directory: &Directory, places: Range<usize>) -> Option<bool> {
        let is_at_limit = self.live_large(directory) == self.live_max();
        let oldest = directory.live.front().filter(|_| is_at_limit).map(|live| live.segment);
        let mut is_passing = false;
        let candidates = oldest.into_iter().chain(directory.retired.iter().copied());
        for id in candidates.filter(|id| places.contains(id)) {
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
        let Some(newest) = directory.live.back() else { return Some(directory.first) };
        let frames = if self.is_open(tail) {
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
            if self.is_open(tail) {
                self.segment(tail.segment()).end_here(tail.index(), tail.bytes());
            }
            directory.closed_at = Some(end);
            break;
        }
        self.wake_readers();
        self.room.wake();
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let fixed = size_of::<Self>() + size_of::<Room>() + size_of_val(&*self.shape.0.far);
        let is_allocated = |&id: &usize| !self.place(id).load(Ordering::Relaxed).is_null();
        let allocated = (0..self.places()).filter(is_allocated);
        fixed + allocated.map(|id| Segment::memory_bytes(self.limits_in(id))).sum::<usize>()
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        let mut directory = self.lock();
        // Gives back what they held of the quota.
        while self.pop_oldest(&mut directory).is_some() {}
        drop(directory);
        for id in 0..self.places() {
            if let Some(segment) = NonNull::new(self.place(id).load(Ordering::Acquire)) {
                // SAFETY: the core's own hold since the segment was allocated, given up once.
                unsafe { Segment::release(segment) }
            }
        }
    }
}
