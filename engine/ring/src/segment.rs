//! One piece of a ring's memory: frames back to back, a commit word for each, and its holders.
//!
//! A segment knows nothing of its place in the ring. Its life: `begin` (exclusive), claims and reads,
//! `end_here`, retirement, and `begin` again once every claim is committed and nobody holds it.
//! Frames are never zeroed: a commit word carries the tag of the segment's use, so old words say
//! nothing and bytes that were not written in this use are never reached.

use std::ptr::NonNull;

use crate::room::Room;
use crate::sync::{Arc, AtomicU32, AtomicU64, Buffer, Ordering, OwnLine, zeroed_words};
use crate::words::{Commit, Kind, Limits};

/// `generation:32 | wanted:1 | holders:31`: the ring is one holder, every live run another.
const HOLDERS_MASK: u64 = (1 << 31) - 1;
const WANTED: u64 = 1 << 31;
const GENERATION_ONE: u64 = 1 << 32;
const GENERATION_SHIFT: u32 = 32;

pub(crate) struct Segment {
    frames: Buffer,
    commits: Box<[AtomicU32]>,
    /// Offset of frame 0.
    base: AtomicU64,
    tag: AtomicU32,
    /// 1 + the number of frames, once claimed past the end; 0 before.
    ended: AtomicU32,
    /// Producers waiting for somebody to let go of a segment.
    room: Arc<Room>,
    holders: OwnLine<AtomicU64>,
}

impl Segment {
    /// A segment held once, by the caller.
    pub(crate) fn allocate(limits: Limits, room: Arc<Room>) -> NonNull<Self> {
        let segment = Self {
            frames: Buffer::new(limits.bytes as usize),
            commits: zeroed_words(limits.frames as usize + 1),
            base: AtomicU64::new(0),
            tag: AtomicU32::new(0),
            ended: AtomicU32::new(0),
            room,
            holders: OwnLine(AtomicU64::new(1)),
        };
        NonNull::from(Box::leak(Box::new(segment)))
    }

    pub(crate) fn memory_bytes(limits: Limits) -> usize {
        size_of::<Self>()
            + Buffer::memory_bytes(limits.bytes as usize)
            + (limits.frames as usize + 1) * size_of::<AtomicU32>()
    }

    /// Starts a new use. The caller is alone: nobody holds it, every claim of the last use is
    /// committed, and no tail word names it.
    pub(crate) fn begin(&self, base: u64) {
        let before = self.tag.load(Ordering::Relaxed);
        let tag = before % Commit::TAG_MAX + 1;
        // New words are 0 and need no visit: a segment may come to hold far fewer frames than it could.
        let is_again = before == Commit::TAG_MAX;
        if is_again && !cfg!(ring_mutant = "stale_words") {
            // The tags start over: a word of 63 uses ago must not look like one of now.
            for word in &self.commits {
                word.store(0, Ordering::Relaxed);
            }
        }
        self.tag.store(tag, Ordering::Relaxed);
        self.base.store(base, Ordering::Relaxed);
        self.ended.store(0, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn base(&self) -> u64 {
        self.base.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn tag(&self) -> u32 {
        self.tag.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn limits(&self) -> Limits {
        Limits { bytes: self.frames.length_bytes() as u32, frames: self.commits.len() as u32 - 1 }
    }

    #[inline]
    pub(crate) fn address(&self, at: u32) -> *mut u8 {
        self.frames.pointer(at as usize)
    }

    #[inline]
    pub(crate) fn commit_address(&self, index: u32) -> *const u8 {
        self.commits.as_ptr().wrapping_add(index as usize).cast()
    }

    pub(crate) fn note_write(&self, start: u32, end: u32) {
        self.frames.note_write(start as usize..end as usize);
    }

    pub(crate) fn note_read(&self, start: u32, end: u32) {
        self.frames.note_read(start as usize..end as usize);
    }

    /// Makes frame `index`, which ends at byte `end`, visible as `kind`.
    #[inline]
    pub(crate) fn commit(&self, index: u32, word: Commit) {
        let ordering =
            if cfg!(ring_mutant = "relaxed_commit") { Ordering::Relaxed } else { Ordering::Release };
        self.commits[index as usize].store(word.0, ordering);
    }

    /// The commit word of `index`; `index` may be the number of frames.
    #[inline]
    pub(crate) fn committed(&self, index: u32) -> Commit {
        Commit(self.commits[index as usize].load(Ordering::Acquire))
    }

    /// No frame follows the first `frames`, which end at byte `end`.
    pub(crate) fn end_here(&self, frames: u32, end: u32) {
        self.commit(frames, Commit::new(self.tag(), Kind::End, end));
        self.ended.store(frames + 1, Ordering::Release);
    }

    /// How many frames it holds for ever, once somebody claimed past its end.
    pub(crate) fn frames_in_all(&self) -> Option<u32> {
        self.ended.load(Ordering::Acquire).checked_sub(1)
    }

    /// Every claim of an ended segment is committed: no producer will touch it again.
    pub(crate) fn is_settled(&self) -> bool {
        let frames = self.frames_in_all().expect("only an ended segment is asked to be reused");
        let tag = self.tag();
        cfg!(ring_mutant = "unsettled_reuse") || (0..frames).all(|i| self.committed(i).kind(tag).is_some())
    }

    #[inline]
    pub(crate) fn generation(&self) -> u32 {
        (self.holders.0.load(Ordering::Acquire) >> GENERATION_SHIFT) as u32
    }

    /// Holds the segment if it is still in generation `generation`.
    ///
    /// # Safety
    ///
    /// `this` came from [`allocate`](Self::allocate), and a hold of somebody else lasts over this call.
    #[inline]
    pub(crate) unsafe fn pin(this: NonNull<Self>, generation: u32) -> Option<Pin> {
        // SAFETY: somebody holds the segment, so it is alive.
        let holders = unsafe { &this.as_ref().holders.0 };
        let mut word = holders.load(Ordering::Relaxed);
        loop {
            if (word >> GENERATION_SHIFT) as u32 != generation {
                return None;
            }
            assert!(word & HOLDERS_MASK < HOLDERS_MASK, "a segment has fewer than 2^31 live runs");
            match holders.compare_exchange_weak(word, word + 1, Ordering::Acquire, Ordering::Relaxed) {
                // The pointer of `allocate`, not one made of a reference: the last pin frees it.
                Ok(_) => return Some(Pin(this)),
                Err(now) => word = now,
            }
        }
    }

    /// Only the ring holds it.
    pub(crate) fn is_free(&self) -> bool {
        self.holders.0.load(Ordering::Acquire) & HOLDERS_MASK == 1
    }

    /// Makes further pins of this generation fail, whoever holds it now.
    pub(crate) fn retire(&self) {
        self.holders.0.fetch_add(GENERATION_ONE, Ordering::AcqRel);
    }

    /// As [`retire`](Self::retire), but only if nobody but the ring holds it.
    pub(crate) fn retire_if_free(&self) -> bool {
        let mut word = self.holders.0.load(Ordering::Relaxed);
        loop {
            if word & HOLDERS_MASK != 1 && !cfg!(ring_mutant = "reuse_pinned") {
                return false;
            }
            let retired = word.wrapping_add(GENERATION_ONE) & !WANTED;
            match self.holders.0.compare_exchange_weak(word, retired, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
    }

    /// Asks the last reader to wake the producers in [`Room`]. `true` if there is none to ask.
    pub(crate) fn want(&self) -> bool {
        self.holders.0.fetch_or(WANTED, Ordering::AcqRel) & HOLDERS_MASK == 1
    }

    /// Gives up one hold; the last one frees the segment.
    ///
    /// # Safety
    ///
    /// The caller owns a hold and does not touch the segment afterwards.
    pub(crate) unsafe fn release(this: NonNull<Self>) {
        // SAFETY: the caller's hold keeps the segment alive until the exchange below succeeds.
        let segment = unsafe { this.as_ref() };
        let holders = &segment.holders.0;
        let mut room = None;
        let mut word = holders.load(Ordering::Relaxed);
        let is_last_reader = loop {
            let is_last_reader = word & WANTED != 0 && word & HOLDERS_MASK == 2;
            if is_last_reader && room.is_none() {
                // Once the hold is gone the segment may be, too: keep the waiting room alive.
                room = Some(segment.room.clone());
            }
            let next = if is_last_reader { word & !WANTED } else { word } - 1;
            match holders.compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break is_last_reader,
                Err(now) => word = now,
            }
        };
        if word & HOLDERS_MASK == 1 {
            // SAFETY: the count fell to zero, so no ring and no run is left and nobody can pin it
            // any more; the acquiring exchange orders their accesses before this. The pointer came
            // from `Box::leak` in `allocate`.
            drop(unsafe { Box::from_raw(this.as_ptr()) });
        }
        if let Some(room) = room
            && is_last_reader
            && !cfg!(ring_mutant = "lost_room")
        {
            room.wake();
        }
    }
}

/// Keeps a segment from being reused, and alive even without its ring.
pub(crate) struct Pin(NonNull<Segment>);

// SAFETY: a pin only shares the segment, whose parts are atomics and a `Buffer`, both for any thread.
unsafe impl Send for Pin {}
// SAFETY: as above.
unsafe impl Sync for Pin {}

impl Pin {
    #[inline]
    pub(crate) fn segment(&self) -> &Segment {
        // SAFETY: this pin is a hold, so the segment is alive as long as `self`.
        unsafe { self.0.as_ref() }
    }

    /// The bytes `start..end`.
    ///
    /// # Safety
    ///
    /// Since this pin was taken, commit words of this use that cover the range were loaded with
    /// acquire: the bytes are initialised and frozen while the pin lives.
    #[inline]
    pub(crate) unsafe fn bytes(&self, start: u32, end: u32) -> &[u8] {
        // SAFETY: in bounds and initialised by the caller's promise. Nobody writes: claimants of this
        // use own other ranges, and the next use begins only when the pin is gone.
        unsafe { std::slice::from_raw_parts(self.segment().address(start), (end - start) as usize) }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        // SAFETY: a pin is one hold and this is its end.
        unsafe { Segment::release(self.0) }
    }
}
