//! What several queues may hold together.
//!
//! A quota is shared memory policy and nothing else: it counts the bytes of the large segments that its queues have
//! in use. It stops nobody from using the small segments that a queue begins with, so a queue that stands still never
//! stops another one, and it wakes nobody: who gets no large segment waits for its own readers, as for room.

use std::fmt;

use crate::sync::{Arc, AtomicUsize, Ordering};

/// A bound on what the queues that share it hold together beyond the small segments that each of them begins with
/// (see [`RingConfig`](crate::RingConfig): 352 KiB where segments have 1 MiB). Clones are the same quota.
#[derive(Clone)]
pub struct Quota(Arc<Books>);

struct Books {
    bytes_max: AtomicUsize,
    held_bytes: AtomicUsize,
}

impl Quota {
    /// A quota of `bytes_max` bytes, none of which are held.
    pub fn new(bytes_max: usize) -> Self {
        let (bytes_max, held_bytes) = (AtomicUsize::new(bytes_max), AtomicUsize::new(0));
        Self(Arc::new(Books { bytes_max, held_bytes }))
    }

    /// Raises the bound to `bytes_max` if it is lower.
    pub fn raise_to(&self, bytes_max: usize) {
        self.0.bytes_max.fetch_max(bytes_max, Ordering::Relaxed);
    }

    /// Bytes of large segments that are in use now.
    pub fn held_bytes(&self) -> usize {
        self.0.held_bytes.load(Ordering::Relaxed)
    }

    /// There is room for `bytes` more. Queues that ask at the same time may all be told so, and go beyond the bound by a
    /// segment each.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        let sum_bytes = self.held_bytes().saturating_add(bytes);
        sum_bytes <= self.0.bytes_max.load(Ordering::Relaxed) || cfg!(ring_mutant = "quota_ignored")
    }

    pub(crate) fn hold(&self, bytes: usize) {
        self.0.held_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn give_back(&self, bytes: usize) {
        if !cfg!(ring_mutant = "quota_kept") {
            self.0.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes_max = self.0.bytes_max.load(Ordering::Relaxed);
        f.debug_struct("Quota")
            .field("bytes_max", &bytes_max)
            .field("held_bytes", &self.held_bytes())
            .finish()
    }
}
