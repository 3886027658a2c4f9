//! What a durable topic has beside its ring: its place in the engine's log, and whoever holds its publishers back.
//!
//! Messages are staged in the log first and shown in the ring once they are on disk. The ring never holds the log up:
//! what it cannot take, because readers keep all of its memory, waits here, and publishers wait with it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Wake, Waker};

use tokio::sync::Notify;
use twinlane_log::{AppendError, Committed, Entry, Failure, Listener, Log, ReadError, ReadRun};
use twinlane_proto::{Code, SlowPolicy};
use twinlane_ring::Ring;

use super::last::LastValues;
use super::runs::{ends, rebased};
use super::subscriber::Subscriber;
use crate::lock::lock;

/// Messages between two looks for last values to save.
const SAVE_LAST_EVERY: u64 = 4_096;
/// Last values saved in one record, and their bytes unless one is larger.
const SAVE_LAST_MAX: usize = 256;
const SAVE_LAST_BYTES_MAX: usize = 1 << 20;
/// Keys of last values in the log's state begin with this.
const LAST_PREFIX: &[u8] = b"last ";

pub(crate) struct Store {
    pub(crate) log: Log,
    topic: u32,
    ring: Ring,
    last: Option<Arc<LastValues>>,
    floors: Mutex<Floors>,
    /// Committed and not shown yet, in order. Bounded by what the log stages.
    backlog: Mutex<VecDeque<Vec<u8>>>,
    has_backlog: AtomicBool,
    /// The ring has room again; whoever shows the backlog looks once more before it leaves.
    has_room: AtomicBool,
    /// Subscribers that hold publishers back when they fall behind.
    blockers: Mutex<Vec<Weak<Subscriber>>>,
    /// One of them has fallen out of the ring.
    is_blocked: AtomicBool,
    released: Notify,
}

/// Messages from these offsets on are not given up.
#[derive(Default)]
struct Floors {
    /// A last value is nowhere else.
    last: Option<u64>,
    /// A queue group has not finished with it.
    queues: BTreeMap<String, u64>,
    /// Shown when last values were saved last.
    saved_at: u64,
    is_saving: bool,
}

impl Store {
    pub(crate) fn new(log: Log, topic: u32, ring: Ring, last: Option<Arc<LastValues>>) -> Self {
        Self {
            log,
            topic,
            ring,
            last,
            floors: Mutex::default(),
            backlog: Mutex::default(),
            has_backlog: AtomicBool::new(false),
            has_room: AtomicBool::new(false),
            blockers: Mutex::default(),
            is_blocked: AtomicBool::new(false),
            released: Notify::new(),
        }
    }

    /// Stages `entries` as one record; `listener` hears when they are durable.
    pub(crate) fn append(
        &self,
        entries: &[Entry<'_>],
        listener: Arc<dyn Listener>,
    ) -> Result<(), AppendError> {
        self.log.append(entries, Some(listener)).map(|_| ())
    }

    /// Shows committed frames to subscribers. On the log's thread; never waits.
    pub(crate) fn show(self: &Arc<Self>, first_offset: u64, frames: &[u8]) {
        if let Some(last) = &self.last {
            last.note_run(first_offset, frames);
            self.save_last(last, first_offset);
        }
        let mut backlog = lock(&self.backlog);
        let shown = if backlog.is_empty() { self.append_visible(frames) } else { 0 };
        if shown < frames.len() {
            backlog.push_back(frames[shown..].to_vec());
            drop(backlog);
            self.show_backlog();
        } else {
            drop(backlog);
        }
        self.look_for_blockers();
    }

    /// The oldest offset that subscribers find in the ring.
    pub(crate) fn shown_from(&self) -> u64 {
        self.ring.oldest()
    }

    /// Reads messages back on the log's own thread.
    pub(crate) fn read_soon(
        &self,
        from: u64,
        bytes_max: usize,
        answer: impl FnOnce(Result<(ReadRun, Vec<u8>), ReadError>) + Send + 'static,
    ) {
        self.log.read_soon(self.topic, from, bytes_max, Box::new(answer));
    }

    /// Messages from `offset` on are needed by the queue group `group`.
    pub(crate) fn set_queue_floor(&self, group: &str, offset: u64) {
        let mut floors = lock(&self.floors);
        match floors.queues.get_mut(group) {
            Some(floor) => *floor = offset,
            None => drop(floors.queues.insert(group.to_owned(), offset)),
        }
        self.log.set_floor(self.topic, floors.lowest());
    }

    /// Puts a last value back that was saved in the log's state.
    pub(crate) fn restore_last(&self, key: u64, saved: &[u8]) {
        let (Some(last), Some((offset, frame))) = (&self.last, saved.split_first_chunk()) else { return };
        last.restore(key, u64::from_le_bytes(*offset), frame);
    }

    /// Notes the last values among messages read back when the engine starts.
    pub(crate) fn note_last(&self, first_offset: u64, frames: &[u8]) {
        if let Some(last) = &self.last {
            last.note_run(first_offset, frames);
        }
    }

    /// Every so often, copies what retention might give up into the log's state.
    fn save_last(self: &Arc<Self>, last: &Arc<LastValues>, shown: u64) {
        let mut floors = lock(&self.floors);
        if floors.last.is_none() {
            floors.last = last.floor();
            self.log.set_floor(self.topic, floors.lowest());
        }
        if floors.is_saving || shown < floors.saved_at + SAVE_LAST_EVERY {
            return;
        }
        let unsaved = last.unsaved_below(shown, SAVE_LAST_MAX, SAVE_LAST_BYTES_MAX);
        let saved_bytes: usize = unsaved.iter().map(|one| one.frame.len()).sum();
        let given_up = last.take_given_up();
        let saves = unsaved
            .iter()
            .map(|one| (last_key(self.topic, one.key), [&one.offset.to_le_bytes(), &one.frame[..]].concat()));
        let deletes = given_up.iter().map(|key| (last_key(self.topic, *key), Vec::new()));
        let states: Vec<_> = deletes.chain(saves).collect();
        let entries: Vec<_> = states.iter().map(|(key, value)| Entry::State { key, value }).collect();
        let (store, values) = (Arc::clone(self), Arc::clone(last));
        let offsets: Vec<_> = unsaved.iter().map(|one| one.offset).collect();
        let is_all = offsets.len() < SAVE_LAST_MAX && saved_bytes < SAVE_LAST_BYTES_MAX / 2;
        let saved = once(move |written| {
            let mut floors = lock(&store.floors);
            floors.is_saving = false;
            if written.is_ok() {
                values.saved(&offsets);
                floors.last = values.floor();
                store.log.set_floor(store.topic, floors.lowest());
            }
        });
        if entries.is_empty() {
            floors.saved_at = shown;
        } else if self.log.append(&entries, Some(saved)).is_ok() {
            floors.is_saving = true;
            // With perhaps more to save, the next messages do it.
            if is_all {
                floors.saved_at = shown;
            }
        }
        floors.last = last.floor();
        self.log.set_floor(self.topic, floors.lowest());
    }

    /// Publishers are to wait.
    pub(crate) fn is_held(&self) -> bool {
        self.has_backlog.load(Ordering::Acquire) || self.is_blocked.load(Ordering::Acquire)
    }

    /// Waits until it is worth trying to publish again.
    pub(crate) async fn room(&self) {
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            released.as_mut().enable();
            if !self.is_held() {
                break;
            }
            released.await;
        }
        std::future::poll_fn(|cx| self.log.poll_room(cx)).await;
    }

    /// Lets go of the subscribers that keep publishers waiting. Each finds out at its next read.
    pub(crate) fn evict_blockers(&self) {
        let shown_from = self.shown_from();
        for subscriber in lock(&self.blockers).iter().filter_map(Weak::upgrade) {
            if subscriber.blocks(shown_from) {
                tracing::warn!(
                    topic = self.topic,
                    session = %subscriber.session,
                    "a subscriber held publishers back for too long and is cut off"
                );
                subscriber.end(Code::SlowConsumer, "held publishers back for too long");
            }
        }
        self.look_for_blockers();
    }

    /// Sees whether a subscriber holds publishers back now.
    fn look_for_blockers(&self) {
        let blockers = lock(&self.blockers);
        let is_blocked = !blockers.is_empty() && {
            let shown_from = self.shown_from();
            blockers.iter().filter_map(Weak::upgrade).any(|subscriber| subscriber.blocks(shown_from))
        };
        let was_blocked = self.is_blocked.swap(is_blocked, Ordering::AcqRel);
        drop(blockers);
        if was_blocked && !is_blocked {
            self.released.notify_waiters();
        }
    }

    /// Appends to the ring what it takes of `frames`; returns how many bytes.
    fn append_visible(&self, frames: &[u8]) -> usize {
        let ends: Vec<u32> = ends(frames).map(|end| end as u32).collect();
        let (mut frame, mut byte) = (0, 0);
        while frame < ends.len() {
            let rest = rebased(&ends[frame..], byte);
            let Ok(appended) = self.ring.append_run(&frames[byte..], &rest, |_, _| ()) else { break };
            frame += appended.frames;
            byte += appended.bytes;
        }
        byte
    }

    /// Shows what waits, as far as the ring takes it; goes on when it has room again.
    fn show_backlog(self: &Arc<Self>) {
        loop {
            self.has_room.store(false, Ordering::SeqCst);
            {
                // Whoever has it comes by here after letting go. The ring may call this from within a look for room.
                let Ok(mut backlog) = self.backlog.try_lock() else { return };
                self.append_backlog(&mut backlog);
                self.has_backlog.store(!backlog.is_empty(), Ordering::Release);
            }
            self.released.notify_waiters();
            if !self.has_room.load(Ordering::SeqCst) {
                return;
            }
        }
    }

    fn append_backlog(self: &Arc<Self>, backlog: &mut VecDeque<Vec<u8>>) {
        let waker = Waker::from(Arc::clone(self));
        while let Some(frames) = backlog.front_mut() {
            let shown = self.append_visible(frames);
            if shown == frames.len() {
                backlog.pop_front();
                continue;
            }
            frames.drain(..shown);
            match self.ring.poll_room(&mut Context::from_waker(&waker)) {
                Poll::Ready(()) if self.ring.is_closed() => backlog.clear(),
                Poll::Ready(()) => {}
                Poll::Pending => return,
            }
        }
    }
}

impl Wake for Store {
    fn wake(self: Arc<Self>) {
        self.has_room.store(true, Ordering::SeqCst);
        self.show_backlog();
    }
}

/// What one subscriber's being behind means to publishers. Let go when dropped.
pub(crate) struct Holding {
    store: Arc<Store>,
    subscriber: Arc<Subscriber>,
}

impl Holding {
    /// `position`: where the subscriber begins.
    pub(crate) fn new(store: &Arc<Store>, subscriber: &Arc<Subscriber>, position: u64) -> Self {
        if subscriber.slow == SlowPolicy::Block {
            lock(&store.blockers).push(Arc::downgrade(subscriber));
        }
        if store.shown_from() <= position {
            subscriber.set_current();
        }
        Self { store: Arc::clone(store), subscriber: Arc::clone(subscriber) }
    }

    /// The ring has what it reads next.
    pub(crate) fn caught_up(&mut self, position: u64) {
        self.subscriber.set_current();
        self.subscriber.position.store(position, Ordering::Relaxed);
        self.store.look_for_blockers();
    }

    /// The ring has overtaken it. Publishers are told by whoever shows them messages: a slow reader comes by too late.
    pub(crate) fn fell_behind(&mut self) {
        if self.subscriber.slow == SlowPolicy::Disconnect && self.subscriber.was_current() {
            self.subscriber.end(Code::SlowConsumer, "did not keep up");
        }
    }

    /// The log's bytes are not what was written.
    pub(crate) fn unreadable(&mut self, error: &ReadError) {
        tracing::error!(topic = self.store.topic, %error, "the log cannot be read");
        self.subscriber.end(Code::Damaged, &error.to_string());
    }

    /// The subscription has ended, and [`Subscriber`] says why.
    pub(crate) fn is_over(&self) -> bool {
        self.subscriber.ended().is_some()
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        if self.subscriber.slow == SlowPolicy::Block {
            let gone = Arc::downgrade(&self.subscriber);
            lock(&self.store.blockers).retain(|blocker| !blocker.ptr_eq(&gone));
            self.store.look_for_blockers();
        }
    }
}

impl Floors {
    fn lowest(&self) -> Option<u64> {
        self.last.into_iter().chain(self.queues.values().copied()).min()
    }
}

/// Under which key the log keeps a last value of a topic.
fn last_key(topic: u32, key: u64) -> Vec<u8> {
    [LAST_PREFIX, &topic.to_le_bytes(), &key.to_le_bytes()].concat()
}

/// The topic and the key of a last value that the log kept under `key`.
pub(crate) fn parse_last_key(key: &[u8]) -> Option<(u32, u64)> {
    let (topic, key) = key.strip_prefix(LAST_PREFIX)?.split_first_chunk()?;
    Some((u32::from_le_bytes(*topic), u64::from_le_bytes(key.try_into().ok()?)))
}

/// Hears once of one record.
struct Once(Mutex<Option<Then>>);

type Then = Box<dyn FnOnce(Result<(), Failure>) + Send>;

/// A listener that calls `then` when its record is durable, or is not.
pub(crate) fn once(then: impl FnOnce(Result<(), Failure>) + Send + 'static) -> Arc<dyn Listener> {
    Arc::new(Once(Mutex::new(Some(Box::new(then)))))
}

impl Once {
    fn say(&self, outcome: Result<(), Failure>) {
        if let Some(then) = lock(&self.0).take() {
            then(outcome);
        }
    }
}

impl Listener for Once {
    fn committed(&self, _record: Committed<'_>) {
        self.say(Ok(()));
    }

    fn failed(&self, why: Failure) {
        self.say(Err(why));
    }
}
