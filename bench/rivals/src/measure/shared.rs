//! What the threads of a run tell each other.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;
use tokio::sync::watch;

/// Shared by the measuring thread, the publisher and the subscribers.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// All subscribers are connected.
    pub(super) connected: AtomicBool,
    /// Subscribers that have received a probe.
    pub(super) probed: AtomicUsize,
    /// The publisher has begun.
    pub(super) begun: AtomicBool,
    /// From here on latencies count, in nanoseconds of the bench clock.
    pub(super) window_ns: AtomicU64,
    /// The publisher shall end.
    pub(super) enough: AtomicBool,
    /// Everything has left the publisher.
    pub(super) finished: AtomicBool,
    /// Messages sent; final once the publisher has finished.
    pub(super) sent: AtomicU64,
    delivered: CachePadded<AtomicU64>,
    over: watch::Sender<bool>,
}

impl Shared {
    /// Sets the subscribers' count; only their thread does, once per batch.
    #[inline]
    pub(super) fn set_delivered(&self, delivered: u64) {
        self.delivered.store(delivered, Ordering::Relaxed);
    }

    pub(super) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Ends the subscribers.
    pub(super) fn end(&self) {
        self.over.send_replace(true);
    }

    /// Waits for that.
    pub(super) async fn over(&self) {
        // The sender lives as long as this structure.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    pub(super) fn is_over(&self) -> bool {
        *self.over.borrow()
    }
}
