//! The one door for shared memory: atomics, locks, threads and raw bytes, real ones or loom's.
//!
//! Nothing else in the crate names `std::sync` or `std::thread`, so a model check sees every access.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ops::Range;

#[cfg(not(loom))]
mod primitives {
    pub(crate) use std::hint::spin_loop;
    pub(crate) use std::sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
    pub(crate) use std::sync::{Arc, Mutex, MutexGuard};
    pub(crate) use std::thread::yield_now;

    /// Blocks the thread that made it; an `unpark` before the `park` is not lost.
    pub(crate) struct Parker(std::thread::Thread);

    impl Parker {
        pub(crate) fn new() -> Self {
            Self(std::thread::current())
        }

        pub(crate) fn park(&self, for_at_most: std::time::Duration) {
            std::thread::park_timeout(for_at_most);
        }

        pub(crate) fn unpark(&self) {
            self.0.unpark();
        }
    }
}

#[cfg(loom)]
mod primitives {
    use loom::sync::Condvar;
    pub(crate) use loom::sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
    pub(crate) use loom::sync::{Arc, Mutex, MutexGuard};
    pub(crate) use loom::thread::yield_now;

    pub(crate) fn spin_loop() {
        yield_now();
    }

    /// As the real one, but without a clock: a model either wakes the thread or is a deadlock. Not
    /// made of loom's `park`, which forgets an `unpark` that meets a yielding thread.
    pub(crate) struct Parker(Mutex<bool>, Condvar);

    impl Parker {
        pub(crate) fn new() -> Self {
            Self(Mutex::new(false), Condvar::new())
        }

        pub(crate) fn park(&self, _: std::time::Duration) {
            let mut is_notified = self.0.lock().expect("nothing panics under this lock");
            while !*is_notified {
                is_notified = self.1.wait(is_notified).expect("nothing panics under this lock");
            }
            *is_notified = false;
        }

        pub(crate) fn unpark(&self) {
            *self.0.lock().expect("nothing panics under this lock") = true;
            self.1.notify_one();
        }
    }
}

pub(crate) use primitives::*;

/// Bytes that processors move between them at once.
const LINE_BYTES: usize = 64;

/// Puts its content on cache lines of its own.
#[repr(align(64))]
pub(crate) struct OwnLine<T>(pub(crate) T);

type Line = OwnLine<UnsafeCell<[MaybeUninit<u8>; LINE_BYTES]>>;

/// Words that are all 0. Memory comes when a word is first stored.
pub(crate) fn zeroed_words(count: usize) -> Box<[AtomicU32]> {
    #[cfg(not(any(loom, ring_mutant = "dirty_words")))]
    // SAFETY: an atomic word has the layout of the word, for which all bytes 0 is the value 0.
    return unsafe { Box::new_zeroed_slice(count).assume_init() };
    #[cfg(any(loom, ring_mutant = "dirty_words"))]
    return (0..count)
        .map(|_| AtomicU32::new(if cfg!(ring_mutant = "dirty_words") { 1 << 26 } else { 0 }))
        .collect();
}

/// A fixed run of bytes shared between threads, never zeroed.
///
/// It hands out raw pointers; who may touch which range when is the caller's proof. Under loom every
/// announced access is checked against all others.
///
/// It starts on a cache line: frames as large as a line then share none with their neighbours.
pub(crate) struct Buffer {
    lines: Box<[Line]>,
    length_bytes: usize,
    #[cfg(loom)]
    shadow: Box<[loom::cell::UnsafeCell<()>]>,
}

// SAFETY: the buffer itself gives out raw pointers only. `Segment` proves that a range has one
// writer until its commit word is stored, and only readers from then until the segment is reused.
unsafe impl Sync for Buffer {}

impl Buffer {
    pub(crate) fn new(length_bytes: usize) -> Self {
        let lines = Box::new_uninit_slice(length_bytes.div_ceil(LINE_BYTES));
        // SAFETY: arrays of `MaybeUninit<u8>` (in their transparent cells) are valid without initialisation.
        let lines = unsafe { lines.assume_init() };
        Self {
            lines,
            length_bytes,
            #[cfg(loom)]
            shadow: (0..length_bytes).map(|_| loom::cell::UnsafeCell::new(())).collect(),
        }
    }

    #[inline]
    pub(crate) fn length_bytes(&self) -> usize {
        self.length_bytes
    }

    /// What a buffer of this length takes.
    pub(crate) fn memory_bytes(length_bytes: usize) -> usize {
        length_bytes.next_multiple_of(LINE_BYTES)
    }

    /// Address of byte `at`; `at` may be the length.
    #[inline]
    pub(crate) fn pointer(&self, at: usize) -> *mut u8 {
        debug_assert!(at <= self.length_bytes, "byte {at} of a {}-byte buffer", self.length_bytes);
        // Of all lines, not of the first. `wrapping_add` keeps this safe; whoever dereferences has checked the
        // range.
        self.lines.as_ptr().cast_mut().cast::<u8>().wrapping_add(at)
    }

    /// Announces that the caller writes `range` now.
    #[inline]
    pub(crate) fn note_write(&self, range: Range<usize>) {
        #[cfg(loom)]
        for cell in &self.shadow[range.clone()] {
            cell.with_mut(|_| ());
        }
        let _ = range;
    }

    /// Announces that the caller reads `range` now.
    #[inline]
    pub(crate) fn note_read(&self, range: Range<usize>) {
        #[cfg(loom)]
        for cell in &self.shadow[range.clone()] {
            cell.with(|_| ());
        }
        let _ = range;
    }
}
