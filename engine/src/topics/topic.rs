//! One topic: its specification, its log ring, and who publishes and subscribes.
//!
//! It moves no bytes between peers; publishers append through [`super::ingest`], subscribers read cursors.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Waker};

use twinlane_proto::frame::{MESSAGE_HEADER_BYTES, MessageHeader, encode_end};
use twinlane_proto::limits::OPTIONS_BYTES_MAX;
use twinlane_proto::{Channel, GapCause, Outcome, SlowPolicy, Start, TopicName, TopicSpec};
use twinlane_ring::{Cursor, Gating, Ring, RingConfig, Start as RingStart};

use crate::lock::lock;
use crate::message::TopicMeta;
use crate::status::{SubscriberRow, TopicStatus};

/// Segments a topic's history is cut into: the retained window moves by one of them at a time.
const SEGMENTS: usize = 4;
/// Segments that readers may keep pinned beyond those before publishers see a full queue.
const SPARE_SEGMENTS: usize = 4;
/// Average frame for which a segment's frame index is sized; smaller frames end a segment earlier.
const INDEXED_FRAME_BYTES: usize = 48;

pub(crate) struct Topic {
    pub(crate) meta: Arc<TopicMeta>,
    pub(crate) ring: Ring,
    pub(crate) drops: Drops,
    declared_by: String,
    next_source: AtomicU32,
    publishers: AtomicU64,
    subscribers: Mutex<Vec<Weak<Subscriber>>>,
}

/// Messages lost inside this engine, by reason.
#[derive(Debug, Default)]
pub(crate) struct Drops {
    /// Arrived after a newer message of their publisher, or twice.
    pub(crate) late: AtomicU64,
    /// Found the ring held by readers.
    pub(crate) queue_full: AtomicU64,
    /// Overwritten before a slow subscriber was sent them (once per subscriber).
    pub(crate) slow_peer: AtomicU64,
    /// Larger than the path to a subscriber takes.
    pub(crate) too_big: AtomicU64,
}

impl Drops {
    pub(crate) fn add(counter: &AtomicU64, messages: u64) {
        counter.fetch_add(messages, Ordering::Relaxed);
    }
}

/// One subscriber of one topic, for status and for cutting off one that blocks publishers too long.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) session: String,
    pub(crate) over: &'static str,
    pub(crate) slow: SlowPolicy,
    pub(crate) position: AtomicU64,
    /// What keeps publishers from overwriting what this subscriber has not read.
    gate: Option<twinlane_ring::Gate>,
}

/// A new subscription to one topic.
pub(crate) struct Subscribed {
    pub(crate) cursor: Cursor,
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
    /// A reliable subscription never skips silently: it ends, `SlowConsumer`.
    CutOff,
}

impl Topic {
    pub(crate) fn new(id: u32, name: TopicName, spec: TopicSpec, declared_by: String) -> Self {
        let ring =
            Ring::new(ring_config(&spec)).expect("specifications are checked against the ring's bounds");
        let epoch = random_u64();
        Self {
            meta: Arc::new(TopicMeta { id, name, epoch, spec }),
            ring,
            drops: Drops::default(),
            declared_by,
            next_source: AtomicU32::new(1),
            publishers: AtomicU64::new(0),
            subscribers: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn declared_by(&self) -> &str {
        &self.declared_by
    }

    /// A number for one more publisher stream.
    pub(crate) fn open_source(&self) -> u32 {
        self.publishers.fetch_add(1, Ordering::Relaxed);
        self.next_source.fetch_add(1, Ordering::AcqRel)
    }

    /// A publisher stream ended after `last_seq`. Subscribers of a fast topic hear of the tail.
    pub(crate) fn close_source(&self, source: u32, last_seq: u64) {
        self.publishers.fetch_sub(1, Ordering::Relaxed);
        if self.meta.is_fast() && last_seq > 0 {
            let end = encode_end(&MessageHeader { topic: self.meta.id, source, seq: last_seq, time_us: 0 });
            if self.ring.append(&[&end], |_, _| ()).is_err() {
                Drops::add(&self.drops.queue_full, 1);
            }
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
        let retained = self.oldest();
        let next = self.ring.next();
        let (offset, outcome) = match (resume, start) {
            (Some((epoch, _)), _) if epoch != self.meta.epoch => (retained, Outcome::Fresh),
            (Some((_, offset)), _) if offset >= retained => (offset, Outcome::Resumed),
            (Some((_, offset)), _) => (retained, Outcome::Gap(retained - offset)),
            (None, Start::New) => (next, Outcome::Fresh),
            (None, Start::Last) => (next.saturating_sub(1).max(retained), Outcome::Fresh),
            (None, Start::All) => (retained, Outcome::Fresh),
            (None, Start::Offset(offset)) if offset < retained => (retained, Outcome::Gap(retained - offset)),
            (None, Start::Offset(offset)) => (offset.min(next), Outcome::Fresh),
        };
        let gated = self.meta.spec.channel == Channel::Reliable && slow == SlowPolicy::Block;
        let gating = if gated { Gating::Gated } else { Gating::Lossy };
        let cursor = self.ring.cursor(RingStart::Offset(offset), gating);
        let subscriber = Arc::new(Subscriber {
            session: session.to_owned(),
            over,
            slow,
            position: AtomicU64::new(cursor.position()),
            gate: cursor.gate(),
        });
        let mut subscribers = lock(&self.subscribers);
        subscribers.retain(|known| known.strong_count() > 0);
        subscribers.push(Arc::downgrade(&subscriber));
        drop(subscribers);
        let next_offset = cursor.position();
        // Read after the cursor stands: all messages of later streams come behind it.
        let next_source = self.next_source.load(Ordering::Acquire);
        Subscribed { cursor, subscriber, next_offset, next_source, outcome }
    }

    /// Lets go of the subscribers that keep publishers waiting, the furthest back first, until there is room.
    /// Each finds out at its next read. Who has read everything is never among them.
    pub(crate) fn evict_blockers(&self) {
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

    /// What it means that `subscriber` was moved past `messages` messages.
    pub(crate) fn missed(&self, subscriber: &Subscriber, messages: u64) -> Miss {
        if self.meta.is_fast() {
            Drops::add(&self.drops.slow_peer, messages);
            return Miss::Skip(GapCause::DroppedSlow);
        }
        match &subscriber.gate {
            // Nothing is overwritten before a gate: the publisher gave these up half-way.
            Some(gate) if !gate.is_released() => Miss::Skip(GapCause::Abandoned),
            _ => Miss::CutOff,
        }
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
        let by_count = self.ring.next().saturating_sub(self.meta.spec.retain_messages);
        self.ring.oldest().max(by_count)
    }

    pub(crate) fn status(&self) -> TopicStatus {
        let spec = &self.meta.spec;
        let next = self.ring.next();
        let subscribers: Vec<_> =
            lock(&self.subscribers).iter().filter_map(Weak::upgrade).map(|one| one.row(next, spec)).collect();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let drops = [
            ("late", count(&self.drops.late)),
            ("queue_full", count(&self.drops.queue_full)),
            ("slow_peer", count(&self.drops.slow_peer)),
            ("too_big", count(&self.drops.too_big)),
        ];
        TopicStatus {
            name: self.meta.name.to_string(),
            id: self.meta.id,
            channel: spec.channel.to_string(),
            mode: spec.mode.to_string(),
            payload_bytes_max: spec.payload_bytes_max,
            retain_bytes: spec.retain_bytes,
            retain_messages: spec.retain_messages,
            epoch: self.meta.epoch,
            oldest: self.oldest(),
            next,
            memory_bytes: self.ring.memory_bytes() as u64,
            publishers: count(&self.publishers),
            subscribers_total: subscribers.len() as u64,
            subscribers,
            drops: drops.into_iter().map(|(reason, messages)| (reason.to_owned(), messages)).collect(),
            declared_by: self.declared_by.clone(),
            explanation: explain(spec),
        }
    }
}

impl Subscriber {
    fn row(&self, next: u64, spec: &TopicSpec) -> SubscriberRow {
        let position = self.position.load(Ordering::Relaxed);
        let policy = match (spec.channel, self.slow) {
            (Channel::Fast, _) => "drop oldest",
            (Channel::Reliable, SlowPolicy::Block) => "block",
            (Channel::Reliable, SlowPolicy::Disconnect) => "disconnect",
        };
        SubscriberRow {
            session: self.session.clone(),
            over: self.over.to_owned(),
            position,
            lag: next.saturating_sub(position),
            policy: policy.to_owned(),
        }
    }
}

pub(crate) fn frame_bytes_max(spec: &TopicSpec) -> usize {
    MESSAGE_HEADER_BYTES + OPTIONS_BYTES_MAX + spec.payload_bytes_max as usize
}

/// The ring that holds `queue_bytes` of frames as large as `frame_bytes_max`.
pub(crate) fn ring_config_for(queue_bytes: usize, frame_bytes_max: usize) -> RingConfig {
    let segment_bytes = (queue_bytes / SEGMENTS).max(frame_bytes_max).next_multiple_of(64);
    RingConfig {
        segment_bytes,
        segment_frames: segment_bytes / INDEXED_FRAME_BYTES,
        segments: SEGMENTS,
        spare_segments: SPARE_SEGMENTS,
    }
}

fn ring_config(spec: &TopicSpec) -> RingConfig {
    ring_config_for(spec.retain_bytes as usize, frame_bytes_max(spec))
}

fn explain(spec: &TopicSpec) -> Vec<String> {
    let mut sentences = match spec.channel {
        Channel::Reliable => vec![
            "Every acknowledged message is kept in memory and reaches every subscriber, in one order.".to_owned(),
            "It travels over TCP, or over QUIC streams for sessions that use only QUIC.".to_owned(),
            "A subscriber that does not keep up holds publishers back, or is cut off, as it chose when subscribing."
                .to_owned(),
        ],
        Channel::Fast => vec![
            "Messages may be lost but never repeated; every hole is counted and reported.".to_owned(),
            "It travels in QUIC datagrams, or over TCP while a session has no QUIC connection.".to_owned(),
            "A subscriber that does not keep up misses the oldest messages; nobody waits for it.".to_owned(),
        ],
    };
    sentences.push(format!(
        "New subscribers may start up to {} messages or {} bytes back; payloads are at most {} bytes.",
        spec.retain_messages, spec.retain_bytes, spec.payload_bytes_max
    ));
    sentences
}

pub(crate) fn random_u64() -> u64 {
    getrandom::u64().expect("the operating system gives random numbers")
}
