//! What waits for one client: the bounded queue between the event layer and the client's transport.
//!
//! It decides what happens when a client does not read: volatile events are left out, anything else ends the connection,
//! and the client finds what it missed when it comes back. It does not know what an event means.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use atomic_waker::AtomicWaker;
use tokio::sync::Notify;

use super::burst::EVENT_OVERHEAD_BYTES;
use super::peer::{OutboxLimits, ToClient};
use super::socket::DisconnectReason;
use crate::lock::lock;

/// Volatile events are left out when more than this part of the room is taken.
const VOLATILE_PART: usize = 16;
/// Entries of an empty queue whose memory is kept.
const KEPT_ENTRIES: usize = 16;

/// What is told to a client, in order. Dropping it means that the transport is gone.
#[derive(Debug)]
pub struct Outbox {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    queue: Mutex<Queue>,
    reader: AtomicWaker,
    limits: OutboxLimits,
    crowd: Arc<Crowd>,
}

#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<ToClient>,
    bytes: usize,
    events: usize,
    /// Nothing is taken any more.
    is_closed: bool,
    /// Since when more than half of the room is taken.
    crowded_since: Option<Instant>,
}

/// The outboxes of one event layer that are more than half full: whoever emits waits for them a little.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    crowded: Mutex<Vec<Arc<Shared>>>,
    count: AtomicUsize,
    thinned: Notify,
    pub(super) volatile_dropped: AtomicU64,
    pub(super) slow_disconnected: AtomicU64,
}

impl Outbox {
    pub(super) fn new(limits: OutboxLimits, crowd: Arc<Crowd>) -> Self {
        let (queue, reader) = (Mutex::default(), AtomicWaker::new());
        Self { shared: Arc::new(Shared { queue, reader, limits, crowd }) }
    }

    /// The next thing to tell; `None` when nothing comes any more. Cancel-safe.
    pub async fn next(&mut self) -> Option<ToClient> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Self::next`]. `Pending`: `cx` is woken.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<ToClient>> {
        let mut queue = lock(&self.shared.queue);
        if let Some(next) = queue.entries.pop_front() {
            self.shared.taken(queue, &next);
            return Poll::Ready(Some(next));
        }
        if queue.is_closed {
            return Poll::Ready(None);
        }
        // Whoever puts something in needs the lock first, and wakes afterwards.
        self.shared.reader.register(cx.waker());
        queue.let_memory_go();
        Poll::Pending
    }

    /// The next thing to tell, if there is one now.
    pub fn try_next(&mut self) -> Option<ToClient> {
        let mut queue = lock(&self.shared.queue);
        let next = queue.entries.pop_front()?;
        self.shared.taken(queue, &next);
        Some(next)
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        lock(&self.shared.queue).entries.is_empty()
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.shared.end(None);
    }
}

impl Shared {
    /// Puts `entry` at the end. `is_volatile`: rather not at all than behind much else.
    pub(super) fn push(self: &Arc<Self>, entry: ToClient, is_volatile: bool) {
        let mut queue = lock(&self.queue);
        if queue.is_closed {
            return;
        }
        let (entry_bytes, entry_events) = weight(&entry);
        let (bytes, events) = (queue.bytes + entry_bytes, queue.events + entry_events);
        let OutboxLimits { bytes_max, events_max } = self.limits;
        if is_volatile && (bytes > bytes_max / VOLATILE_PART || events > events_max / VOLATILE_PART) {
            self.crowd.volatile_dropped.fetch_add(entry_events as u64, Ordering::Relaxed);
            return;
        }
        // One burst may exceed the bound, or a large one would never go.
        if (bytes > bytes_max || events > events_max) && queue.events > 0 {
            drop(queue);
            self.cut_off();
            return;
        }
        (queue.bytes, queue.events) = (bytes, events);
        queue.entries.push_back(entry);
        let joins = queue.crowded_since.is_none() && self.limits.has(2, &queue);
        if joins {
            queue.crowded_since = Some(Instant::now());
        }
        drop(queue);
        if joins {
            self.crowd.join(self);
        }
        self.reader.wake();
    }

    /// Nothing is taken any more; with a reason, that is the next and last thing the client is told.
    pub(super) fn end(self: &Arc<Self>, reason: Option<DisconnectReason>) {
        let mut queue = lock(&self.queue);
        let reason = reason.filter(|_| !queue.is_closed);
        *queue = Queue { is_closed: true, ..Queue::default() };
        queue.entries.extend(reason.map(ToClient::Close));
        drop(queue);
        self.crowd.leave(self);
        self.reader.wake();
    }

    /// As [`Self::end`], but what waits is sent before.
    pub(super) fn close(&self, reason: DisconnectReason) {
        let mut queue = lock(&self.queue);
        if !queue.is_closed {
            queue.entries.push_back(ToClient::Close(reason));
            queue.is_closed = true;
            drop(queue);
            self.reader.wake();
        }
    }

    /// The client is too slow: what waits is given up.
    fn cut_off(self: &Arc<Self>) {
        self.crowd.slow_disconnected.fetch_add(1, Ordering::Relaxed);
        self.end(Some(DisconnectReason::SlowConsumer));
    }

    /// An entry was taken out.
    fn taken(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue>, entry: &ToClient) {
        let (bytes, events) = weight(entry);
        queue.bytes -= bytes;
        queue.events -= events;
        let is_thin = !self.limits.has(4, &queue);
        if is_thin && queue.crowded_since.take().is_some() {
            drop(queue);
            self.crowd.leave(self);
        }
    }

    /// Whether it has been more than half full for `patience`.
    fn is_stuck(&self, patience: Duration) -> bool {
        lock(&self.queue).crowded_since.is_some_and(|since| since.elapsed() >= patience)
    }
}

impl Queue {
    /// An idle client keeps no memory for the busiest moment of its past.
    fn let_memory_go(&mut self) {
        if self.entries.capacity() > KEPT_ENTRIES {
            self.entries = VecDeque::new();
        }
    }
}

impl OutboxLimits {
    /// Whether more than one `part`th of the room is taken.
    fn has(&self, part: usize, queue: &Queue) -> bool {
        queue.bytes > self.bytes_max / part || queue.events > self.events_max / part
    }
}

impl Crowd {
    /// Waits until no client is far behind. Who stays behind for `patience` is cut off.
    pub(super) async fn thin(&self, patience: Duration) {
        while self.count.load(Ordering::Relaxed) > 0 {
            let thinned = self.thinned.notified();
            if self.count.load(Ordering::Acquire) > 0 {
                let _ = tokio::time::timeout(patience, thinned).await;
            }
            let stuck: Vec<_> =
                lock(&self.crowded).iter().filter(|outbox| outbox.is_stuck(patience)).cloned().collect();
            stuck.iter().for_each(Shared::cut_off);
        }
    }

    fn join(&self, outbox: &Arc<Shared>) {
        let mut crowded = lock(&self.crowded);
        crowded.push(Arc::clone(outbox));
        self.count.store(crowded.len(), Ordering::Release);
    }

    fn leave(&self, outbox: &Arc<Shared>) {
        let mut crowded = lock(&self.crowded);
        crowded.retain(|other| !Arc::ptr_eq(other, outbox));
        self.count.store(crowded.len(), Ordering::Release);
        drop(crowded);
        self.thinned.notify_waiters();
    }
}

/// Bytes and events that an entry takes of the room.
fn weight(entry: &ToClient) -> (usize, usize) {
    match entry {
        ToClient::Burst(burst) => (burst.weight_bytes(), burst.events().len()),
        ToClient::Ack { payload, .. } => (payload.len() + EVENT_OVERHEAD_BYTES, 1),
        ToClient::Connected { .. } | ToClient::Refused { .. } | ToClient::Disconnect { .. } => {
            (EVENT_OVERHEAD_BYTES, 1)
        }
        // It ends everything: there is always room for it.
        ToClient::Close(_) => (0, 0),
    }
}
