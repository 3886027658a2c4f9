//! One topic: its specification, its log ring, and who publishes and subscribes.
//!
//! It moves no bytes between peers; publishers append through [`super::ingest`], subscribers read cursors.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Waker};
use std::time::Duration;

use twinlane_log::{AppendError, Entry, Listener, Log, ReadError, Retention};
use twinlane_proto::frame::{Frames, MessageHeader, encode_end, stamp_topic};
use twinlane_proto::{
    Channel, Code, GapCause, Last, Level, Mode, Outcome, SlowPolicy, Start, Storage, TopicName, TopicSpec,
};
use twinlane_ring::{Gating, Read, Ring, Start as RingStart};

use super::explain::explain;
use super::last::LastValues;
use super::lazy_ring::LazyRing;
use super::record::TopicRecord;
use super::sizes::ring_config;
use super::store::{Holding, Store, once};
use super::subscriber::Subscriber;
use crate::config::Limits;
use crate::fast::{Counts, Ended, Flow, Sieve};
use crate::lock::lock;
use crate::message::{TopicMeta, TopicRun};
use crate::status::TopicStatus;
use crate::topic_cursor::{PIECE_BYTES, SMALL_PIECE_BYTES, TopicCursor};

/// Bytes read at a time to find last values.
const LAST_READ_BYTES: usize = 1 << 20;
/// Numbers of publisher streams recorded ahead.
const SOURCES_AHEAD: u32 = 1_024;

pub(crate) struct Topic {
    pub(crate) meta: Arc<TopicMeta>,
    pub(crate) ring: LazyRing,
    /// The newest values, if it keeps them.
    last: Option<Arc<LastValues>>,
    /// On disk, if it is durable.
    pub(crate) store: Option<Arc<Store>>,
    /// What its readers share, if it is fast.
    pub(crate) flow: Option<Arc<Flow>>,
    pub(crate) drops: Drops,
    declared_by: Arc<str>,
    next_source: AtomicU32,
    /// Numbers below this are recorded as given, on a durable topic.
    sources_recorded: AtomicU32,
    publishers: AtomicU64,
    subscribers: Mutex<Vec<Weak<Subscriber>>>,
}

/// Messages lost inside this engine, by reason.
#[derive(Debug, Default)]
pub(crate) struct Drops {
    /// Arrived after a newer message of their publisher.
    pub(crate) late: AtomicU64,
    /// Found the ring held by readers.
    pub(crate) queue_full: AtomicU64,
    /// Overwritten before a slow subscriber was sent them (once per subscriber).
    pub(crate) slow_peer: AtomicU64,
    /// Larger than the path to a subscriber takes.
    pub(crate) too_big: AtomicU64,
    /// Sent more than once, and taken once. No message is missing.
    pub(crate) repeats: AtomicU64,
}

impl Drops {
    pub(crate) fn add(counter: &AtomicU64, messages: u64) {
        counter.fetch_add(messages, Ordering::Relaxed);
    }
}

/// A new subscription to one topic.
pub(crate) struct Subscribed {
    pub(crate) cursor: TopicCursor,
    pub(crate) subscriber: Arc<Subscriber>,
    pub(crate) next_offset: u64,
    /// Publisher streams with this number or a higher one begin after `next_offset`.
    pub(crate) next_source: u32,
    pub(crate) outcome: Outcome,
}

/// What a subscriber is told of messages it was moved past.
pub(crate) enum Miss {
    /// They are gone, for this reason; the subscription goes on.
    Skip(GapCause),
    /// Fast messages were dropped, and counted as left out. Among them were these ends of publisher streams.
    Dropped(Vec<Ended>),
    /// A reliable subscription never skips silently: it ends, for this reason.
    End(Code, String),
}

impl Topic {
    /// A topic that is kept in memory, with at most `last_keys_max` last values.
    pub(crate) fn new(
        id: u32,
        name: TopicName,
        spec: TopicSpec,
        declared_by: Arc<str>,
        last_keys_max: usize,
    ) -> Self {
        let ring = LazyRing::new(ring_config(spec.retain_bytes, &spec));
        // The newest value of each key outlives the ring, for readers that it overtakes.
        let last = match spec.mode {
            Mode::Latest => Some(LastValues::of_latest(last_keys_max)),
            Mode::Ordered | Mode::Unordered => LastValues::new(spec.last, last_keys_max),
        };
        let last = last.map(Arc::new);
        Self::of(TopicMeta { id, name, epoch: random_u64(), spec }, (ring, last, None), declared_by)
    }

    /// A topic whose messages are in `log`, with `next` of them committed so far. Of the newest as many are in memory,
    /// too, as a topic in memory would keep.
    pub(crate) fn durable(id: u32, record: TopicRecord, log: &Log, next: u64, limits: &Limits) -> Self {
        let TopicRecord { name, epoch, spec, declared_by, sources } = record;
        let config = ring_config(limits.topic_retain_bytes.min(spec.retain_bytes), &spec);
        let ring =
            Ring::starting_at(config, next).expect("specifications are checked against the ring's bounds");
        let last = LastValues::new(spec.last, limits.last_keys_max).map(Arc::new);
        let store = Arc::new(Store::new(log.clone(), id, ring.clone(), last.clone()));
        let (bytes, messages) = (spec.retain_bytes, spec.retain_messages);
        let age = Duration::from_millis(spec.retain_age_ms);
        log.set_retention(id, Retention { bytes, messages, age });
        let (meta, ring) = (TopicMeta { id, name, epoch, spec }, LazyRing::of(ring, config));
        let topic = Self::of(meta, (ring, last, Some(store)), declared_by.into());
        topic.next_source.store(sources, Ordering::Relaxed);
        topic.sources_recorded.store(sources, Ordering::Relaxed);
        topic
    }

    fn of(
        meta: TopicMeta,
        (ring, last, store): (LazyRing, Option<Arc<LastValues>>, Option<Arc<Store>>),
        declared_by: Arc<str>,
    ) -> Self {
        let flow = || Arc::new(Flow::new(meta.spec.deadline_us > 0, last.clone()));
        Self {
            flow: (meta.spec.channel == Channel::Fast).then(flow),
            meta: Arc::new(meta),
            ring,
            last,
            store,
            drops: Drops::default(),
            declared_by,
            next_source: AtomicU32::new(1),
            sources_recorded: AtomicU32::new(1),
            publishers: AtomicU64::new(0),
            subscribers: Mutex::new(Vec::new()),
        }
    }

    /// What the log keeps of the topic beside its messages. Numbers of publisher streams are recorded ahead, so that
    /// none is given twice, also after a crash.
    pub(crate) fn record(&self) -> TopicRecord {
        TopicRecord {
            name: self.meta.name.clone(),
            epoch: self.meta.epoch,
            spec: self.meta.spec,
            declared_by: self.declared_by.to_string(),
            sources: self.sources_recorded.load(Ordering::Relaxed),
        }
    }

    /// Waits until it is worth trying to publish again after the topic was full.
    pub(crate) async fn room(&self) {
        match &self.store {
            Some(store) => store.room().await,
            None => self.ring.room().await,
        }
    }

    /// Messages were stored in memory, from offset `first_offset` on.
    #[inline]
    pub(crate) fn note_last(&self, first_offset: u64, frames: &[u8]) {
        if let Some(last) = &self.last {
            last.note_run(first_offset, frames);
        }
    }

    /// Finds the last values among the messages that are retained, when the engine starts. Reads them all: what cannot
    /// be read is left out here and reported to whoever subscribes to it.
    pub(crate) fn read_last_values(&self) {
        let Some(store) = &self.store else { return };
        let bounds = store.log.bounds(self.meta.id);
        let (mut from, mut frames) = (bounds.oldest, Vec::new());
        while from < bounds.next {
            frames.clear();
            match store.log.read(self.meta.id, from, LAST_READ_BYTES, &mut frames) {
                Ok(run) => {
                    store.note_last(run.first_offset, &frames);
                    from = run.first_offset + u64::from(run.frames.max(1));
                }
                // Retention goes on meanwhile.
                Err(ReadError::Gone { oldest: next } | ReadError::Lost { next }) => from = next.max(from + 1),
                Err(error) => {
                    tracing::error!(topic = %self.meta.name, %error, "last values may be missing");
                    return;
                }
            }
        }
    }

    /// How safely an acknowledged message is kept.
    pub(crate) fn level(&self) -> Level {
        if self.store.is_some() { Level::Disk } else { Level::Memory }
    }

    pub(crate) fn declared_by(&self) -> &str {
        &self.declared_by
    }

    /// Stages an entry of this durable topic; `listener` hears when it is on disk.
    pub(crate) fn append(
        &self,
        store: &Store,
        entry: Entry<'_>,
        listener: Arc<dyn Listener>,
    ) -> Result<(), AppendError> {
        match store.append(&[entry], Arc::clone(&listener)) {
            // The log was full when the topic was declared, and has forgotten it.
            Err(AppendError::UnknownTopic(_)) => {
                let value = self.record().encode();
                store.append(&[Entry::Topic { id: self.meta.id, value: &value }, entry], listener)
            }
            appended => appended,
        }
    }

    /// A number for one more publisher stream.
    pub(crate) fn open_source(&self) -> u32 {
        self.publishers.fetch_add(1, Ordering::Relaxed);
        let source = self.next_source.fetch_add(1, Ordering::AcqRel);
        if let Some(store) = &self.store
            && source >= self.sources_recorded.load(Ordering::Relaxed)
        {
            self.sources_recorded.fetch_max(source + SOURCES_AHEAD, Ordering::Relaxed);
            let value = self.record().encode();
            let entry = Entry::Topic { id: self.meta.id, value: &value };
            // In the log before any message of that stream is. Failing, so will they.
            let _ = store.append(&[entry], once(|_| ()));
        }
        source
    }

    /// An earlier publisher stream goes on.
    pub(crate) fn reopen_source(&self) {
        self.publishers.fetch_add(1, Ordering::Relaxed);
    }

    /// A publisher stream ended after `last_seq`. Subscribers of a fast topic hear of the tail.
    pub(crate) fn close_source(&self, source: u32, last_seq: u64) {
        self.publishers.fetch_sub(1, Ordering::Relaxed);
        let Some(flow) = self.flow.as_ref().filter(|_| last_seq > 0) else { return };
        let end = encode_end(&MessageHeader { topic: 0, source, seq: last_seq, time_us: 0 });
        let stored = self.ring.append(&[&end], |offset, frame| stamp_topic(frame, offset as u32));
        match stored {
            Ok(offset) => flow.ended(Ended { offset, source, last_seq }),
            Err(_) => Drops::add(&self.drops.queue_full, 1),
        }
    }

    /// A cursor at `start`, with how that start was met. `resume`: an earlier life of this subscription got
    /// up to that offset of that epoch.
    pub(crate) fn subscribe(
        &self,
        start: Start,
        resume: Option<(u64, u64)>,
        slow: SlowPolicy,
        session: &str,
        over: &'static str,
    ) -> Subscribed {
        // Whoever was cut off from a fast topic goes on with all that there is.
        let retained = match (&self.flow, resume) {
            (Some(_), Some(_)) => self.ring.oldest(),
            _ => self.oldest(),
        };
        let next = self.ring.next();
        let (offset, outcome) = match (resume, start) {
            (Some((epoch, _)), _) if epoch != self.meta.epoch => (retained, Outcome::Fresh),
            (Some((_, offset)), _) if offset >= retained => (offset, Outcome::Resumed),
            // Its first read tells what is missing, and what of it was replaced.
            (Some((_, offset)), _) if self.flow.is_some() => (offset, Outcome::Gap(retained - offset)),
            (Some((_, offset)), _) => (retained, Outcome::Gap(retained - offset)),
            (None, Start::New) => (next, Outcome::Fresh),
            (None, Start::Last) if self.last.is_some() => (next, Outcome::Fresh),
            (None, Start::Last) => (next.saturating_sub(1).max(retained), Outcome::Fresh),
            (None, Start::All) => (retained, Outcome::Fresh),
            (None, Start::Offset(offset)) if offset < retained => (retained, Outcome::Gap(retained - offset)),
            (None, Start::Offset(offset)) => (offset.min(next), Outcome::Fresh),
            (None, Start::Time(time_us)) => (self.offset_at(time_us), Outcome::Fresh),
        };
        // In memory there is nothing to spill to: such a subscriber is waited for.
        let is_waited_for = self.store.is_none() && slow != SlowPolicy::Disconnect;
        let gating = match self.meta.spec.channel {
            Channel::Reliable if is_waited_for => Gating::Gated,
            Channel::Reliable => Gating::Lossy,
            Channel::Fast => Gating::Spared,
        };
        let cursor = self.ring.cursor(RingStart::Offset(offset), gating);
        let live_from = cursor.position();
        let mut values = match (&self.last, resume, start) {
            (Some(last), None, Start::Last) => last.before(live_from),
            _ => Vec::new(),
        };
        let first_value = values.first().filter(|_| self.flow.is_none());
        let is_cut_off = self.flow.is_some() && resume.is_some() && matches!(outcome, Outcome::Gap(_));
        let cut_off_before = if is_cut_off { retained } else { 0 };
        let next_offset = first_value.map_or(live_from.max(cut_off_before), TopicRun::first_offset);
        let positions = (next_offset, live_from);
        let mut subscriber =
            Subscriber::new((session, over, slow), positions, cursor.gate(), self.flow.as_deref());
        subscriber.cut_off_before = cut_off_before;
        let subscriber = Arc::new(subscriber);
        let mut cursor = match (&self.flow, &self.store) {
            (None, None) => TopicCursor::from(cursor),
            (Some(flow), _) => {
                let (flow, left_out) = (Arc::clone(flow), Arc::clone(&subscriber.left_out));
                let mut sieve = Sieve::new(flow, left_out, &self.meta.spec, over != "local");
                sieve.begin_with(&std::mem::take(&mut values));
                TopicCursor::fast(cursor, sieve)
            }
            (None, Some(store)) => TopicCursor::durable(
                cursor,
                Arc::clone(store),
                Holding::new(store, &subscriber, live_from),
                PIECE_BYTES,
            ),
        };
        cursor.begin_with(values);
        let mut subscribers = lock(&self.subscribers);
        subscribers.retain(|known| known.strong_count() > 0);
        subscribers.push(Arc::downgrade(&subscriber));
        drop(subscribers);
        // Read after the cursor stands: all messages of later streams come behind it.
        let next_source = self.next_source.load(Ordering::Acquire);
        Subscribed { cursor, subscriber, next_offset, next_source, outcome }
    }

    /// A cursor of the engine's own, which nobody waits for.
    pub(crate) fn reader(&self, offset: u64) -> TopicCursor {
        let cursor = self.ring.cursor(RingStart::Offset(offset), Gating::Lossy);
        let Some(store) = &self.store else { return cursor.into() };
        let nobody = Arc::new(Subscriber::new(("", "local", SlowPolicy::Spill), (offset, 0), None, None));
        TopicCursor::durable(
            cursor,
            Arc::clone(store),
            Holding::new(store, &nobody, offset),
            SMALL_PIECE_BYTES,
        )
    }

    /// Lets go of the subscribers that keep publishers waiting, the furthest back first, until there is room.
    /// Each finds out at its next read. Who has read everything is never among them.
    pub(crate) fn evict_blockers(&self) {
        if let Some(store) = &self.store {
            return store.evict_blockers();
        }
        let mut behind: Vec<_> = lock(&self.subscribers).iter().filter_map(Weak::upgrade).collect();
        behind.sort_by_key(|one| one.position.load(Ordering::Relaxed));
        for subscriber in behind {
            let Some(gate) = subscriber.gate.as_ref().filter(|gate| !gate.is_released()) else { continue };
            if subscriber.position.load(Ordering::Relaxed) >= self.ring.next() {
                return;
            }
            tracing::warn!(
                topic = %self.meta.name,
                session = %subscriber.session,
                "a subscriber held publishers back for too long and is cut off"
            );
            gate.release();
            if self.ring.poll_room(&mut Context::from_waker(Waker::noop())).is_ready() {
                return;
            }
        }
    }

    /// What it means that `subscriber` was moved past the messages from `from` to below `to`.
    pub(crate) fn missed(&self, subscriber: &Subscriber, from: u64, to: u64) -> Miss {
        if let Some(flow) = &self.flow {
            let ended = flow.ended_within(from, to);
            let messages = (to - from).saturating_sub(ended.len() as u64);
            if from < subscriber.cut_off_before {
                subscriber.left_out.add_no_route(messages);
            } else {
                Drops::add(&self.drops.slow_peer, messages);
                subscriber.left_out.add_dropped_slow(messages);
            }
            return Miss::Dropped(ended);
        }
        if to <= subscriber.live_from && self.last.is_some() && subscriber.ended().is_none() {
            return Miss::Skip(GapCause::Coalesced);
        }
        let (name, messages) = (&self.meta.name, to - from);
        match (&subscriber.gate, subscriber.ended()) {
            (_, Some((code, why))) => Miss::End(*code, format!("{name}: {why}")),
            // Whoever is slow reads the log, as far as the topic keeps it.
            _ if self.store.is_some() => Miss::Skip(GapCause::Retention),
            // Nothing is overwritten before a gate: the publisher gave these up half-way.
            (Some(gate), _) if !gate.is_released() => Miss::Skip(GapCause::Abandoned),
            _ => Miss::End(Code::SlowConsumer, format!("{name}: too slow, {messages} messages were missed")),
        }
    }

    /// What `subscriber` should hear now of messages that were left out since it began, if anything. `at_once`: nothing
    /// follows that would tell it later.
    pub(crate) fn left_out_for(&self, subscriber: &Subscriber, at_once: bool) -> Option<Counts> {
        subscriber.untold(self.flow.as_ref()?, at_once)
    }

    /// Whether a remote subscriber of a reliable topic was not sent everything yet.
    pub(crate) fn has_remote_lag(&self) -> bool {
        let next = self.ring.next();
        let is_behind = |one: &Subscriber| one.position.load(Ordering::Relaxed) < next && one.over != "local";
        !self.meta.is_fast()
            && lock(&self.subscribers).iter().filter_map(Weak::upgrade).any(|one| is_behind(&one))
    }

    /// The oldest offset that a subscriber can start from.
    pub(crate) fn oldest(&self) -> u64 {
        if let Some(store) = &self.store {
            return store.log.bounds(self.meta.id).oldest;
        }
        let by_count = self.ring.next().saturating_sub(self.meta.spec.retain_messages);
        self.ring.oldest().max(by_count)
    }

    /// The first message that was published (in memory) or stored (on disk) at `time_us` or later.
    pub(crate) fn offset_at(&self, time_us: u64) -> u64 {
        if let Some(store) = &self.store {
            return store.log.offset_at(self.meta.id, time_us);
        }
        let mut cursor = self.ring.cursor(RingStart::Offset(self.oldest()), Gating::Lossy);
        loop {
            match cursor.read(usize::MAX) {
                Read::Run(run) => {
                    let mut frames = Frames::new(run.bytes());
                    if let Some(at) = frames.position(|frame| frame.header().time_us >= time_us) {
                        return run.first_offset() + at as u64;
                    }
                }
                Read::Missed { .. } => {}
                Read::Empty | Read::Closed => return cursor.position(),
            }
        }
    }

    pub(crate) fn status(&self) -> TopicStatus {
        let spec = &self.meta.spec;
        // What is on disk may be acknowledged a moment before it is shown.
        let bounds = self.store.as_ref().map(|store| store.log.bounds(self.meta.id));
        let next = bounds.map_or_else(|| self.ring.next(), |bounds| bounds.next);
        let subscribers: Vec<_> =
            lock(&self.subscribers).iter().filter_map(Weak::upgrade).map(|one| one.row(next, spec)).collect();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let left_out = self.flow.as_ref().map_or_else(Counts::default, |flow| flow.left_out());
        let drops = [
            ("conflated", left_out.coalesced),
            ("deadline", left_out.expired),
            ("late", count(&self.drops.late)),
            ("no_route", left_out.no_route),
            ("queue_full", count(&self.drops.queue_full)),
            ("repeats", count(&self.drops.repeats)),
            ("slow_peer", count(&self.drops.slow_peer)),
            ("too_big", count(&self.drops.too_big)),
        ];
        TopicStatus {
            name: self.meta.name.to_string(),
            id: self.meta.id,
            channel: spec.channel.to_string(),
            mode: spec.mode.to_string(),
            deadline_us: spec.deadline_us,
            payload_bytes_max: spec.payload_bytes_max,
            retain_bytes: spec.retain_bytes,
            retain_messages: spec.retain_messages,
            retain_age_ms: spec.retain_age_ms,
            storage: match spec.storage {
                Storage::Memory => "memory".to_owned(),
                Storage::Disk => "disk".to_owned(),
            },
            last: match spec.last {
                Last::None => "none".to_owned(),
                Last::Topic => "topic".to_owned(),
                Last::Key => "key".to_owned(),
            },
            log_bytes: bounds.map_or(0, |bounds| bounds.bytes),
            epoch: self.meta.epoch,
            oldest: self.oldest(),
            next,
            memory_bytes: self.ring.memory_bytes() as u64,
            publishers: count(&self.publishers),
            subscribers_total: subscribers.len() as u64,
            subscribers,
            drops: drops.into_iter().map(|(reason, messages)| (reason.to_owned(), messages)).collect(),
            declared_by: self.declared_by.to_string(),
            explanation: explain(spec),
        }
    }
}

pub(crate) fn random_u64() -> u64 {
    crate::random::number()
}
