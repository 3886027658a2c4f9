//! What the threads of a run tell each other: start, stop, progress, and the final count.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use crossbeam_utils::CachePadded;
use tokio::sync::{mpsc, watch};

/// Shared by every thread of one run.
pub(crate) struct Shared {
    stop: AtomicBool,
    received: Vec<CachePadded<AtomicU64>>,
    start: watch::Sender<Option<Start>>,
    sent: watch::Sender<Option<u64>>,
    ready: mpsc::Sender<()>,
}

/// When the run began, in nanoseconds of [`crate::clock`], and where its window begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) start_ns: u64,
    pub(crate) window_ns: u64,
}

impl Shared {
    /// For `subscribers` counters; the receiver yields once per client that is ready.
    pub(crate) fn new(subscribers: usize) -> (Arc<Self>, mpsc::Receiver<()>) {
        let (ready, clients) = mpsc::channel(64);
        let shared = Self {
            stop: AtomicBool::new(false),
            received: (0..subscribers).map(|_| CachePadded::default()).collect(),
            start: watch::Sender::new(None),
            sent: watch::Sender::new(None),
            ready,
        };
        (Arc::new(shared), clients)
    }

    /// Says that one client is connected and knows its topic.
    pub(crate) async fn client_is_ready(&self) {
        // The receiver only goes away when the run has failed elsewhere.
        let _ = self.ready.send(()).await;
    }

    pub(crate) fn start(&self, start: Start) {
        self.start.send_replace(Some(start));
    }

    pub(crate) async fn started(&self) -> Start {
        known(&mut self.start.subscribe()).await
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Says how many messages all publishers sent, once all of them have closed.
    pub(crate) fn publishers_closed(&self, sent: u64) {
        self.sent.send_replace(Some(sent));
    }

    /// Waits for that number.
    pub(crate) async fn sent(&self) -> u64 {
        known(&mut self.sent.subscribe()).await
    }

    /// Publishes a subscriber's count. Only its own task calls this, once per batch.
    pub(crate) fn set_received(&self, subscriber: usize, messages: u64) {
        self.received[subscriber].store(messages, Ordering::Relaxed);
    }

    /// Every subscriber's count, now.
    pub(crate) fn received(&self) -> Vec<u64> {
        self.received.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

async fn known<T: Copy>(watched: &mut watch::Receiver<Option<T>>) -> T {
    let value = watched.wait_for(Option::is_some).await.expect("the sender lives in the same structure");
    value.expect("waited for it")
}
