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
    schedule_is_done: AtomicBool,
    /// By flow, then by subscriber.
    received: Vec<Vec<CachePadded<AtomicU64>>>,
    start: watch::Sender<Option<Start>>,
    sent: watch::Sender<Option<Arc<Sent>>>,
    ready: mpsc::Sender<()>,
}

/// Messages sent, by flow, then by topic.
pub(crate) type Sent = Vec<Vec<u64>>;

/// When the run began, in nanoseconds of [`crate::clock`], and where its window begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) start_ns: u64,
    pub(crate) window_ns: u64,
}

impl Shared {
    /// For `subscribers` counters of each flow; the receiver yields once per client that is ready.
    pub(crate) fn new(flows: usize, subscribers: usize) -> (Arc<Self>, mpsc::Receiver<()>) {
        let (ready, clients) = mpsc::channel(64);
        let shared = Self {
            stop: AtomicBool::new(false),
            schedule_is_done: AtomicBool::new(false),
            received: (0..flows)
                .map(|_| (0..subscribers).map(|_| CachePadded::default()).collect())
                .collect(),
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

    /// Says that the open loop has sent its last message.
    pub(crate) fn finish_schedule(&self) {
        self.schedule_is_done.store(true, Ordering::Relaxed);
    }

    pub(crate) fn schedule_is_done(&self) -> bool {
        self.schedule_is_done.load(Ordering::Relaxed)
    }

    /// Says how many messages all publishers sent, once all of them have closed.
    pub(crate) fn publishers_closed(&self, sent: Sent) {
        self.sent.send_replace(Some(Arc::new(sent)));
    }

    /// Waits for that number.
    pub(crate) async fn sent(&self) -> Arc<Sent> {
        known(&mut self.sent.subscribe()).await
    }

    /// Publishes a subscriber's count. Only its own task calls this, once per batch.
    pub(crate) fn set_received(&self, flow: usize, subscriber: usize, messages: u64) {
        self.received[flow][subscriber].store(messages, Ordering::Relaxed);
    }

    /// Every subscriber's count of one flow, now.
    pub(crate) fn received(&self, flow: usize) -> Vec<u64> {
        self.received[flow].iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

async fn known<T: Clone>(watched: &mut watch::Receiver<Option<T>>) -> T {
    let value = watched.wait_for(Option::is_some).await.expect("the sender lives in the same structure");
    value.clone().expect("waited for it")
}
