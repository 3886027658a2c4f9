//! A remote subscription's messages between the connection and the application.
//!
//! Bounded: a reliable topic's server sends only what it has credit for, and of a fast topic the oldest are
//! dropped when the application does not read. It lives across connections.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use atomic_waker::AtomicWaker;
use twinlane_proto::control::{Credit, Gap, Position, StreamEnd, Subscribe, TopicBound};
use twinlane_proto::{Code, Control, GapCause, TopicName};

use super::AskedOn;
use crate::config::SubscribeOptions;
use crate::error::EndReason;
use crate::incoming::Incoming;
use crate::link::{Closing, Link, Piece};
use crate::lock::lock;
use crate::message::{RunBytes, TopicMeta};

pub(crate) struct RemoteSubscription {
    pub(crate) lane: u32,
    filter: String,
    options: SubscribeOptions,
    state: Mutex<State>,
    reader: AtomicWaker,
    pub(super) asked_on: AskedOn,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Incoming>,
    /// Bytes of fast runs in the queue.
    fast_bytes: usize,
    /// Topics by their number on the current connection.
    bound: HashMap<u32, Bound>,
    /// Where each topic was left, by name.
    left_at: HashMap<TopicName, (u64, u64)>,
    end: Option<EndReason>,
    /// Bytes read by the application and not yet given back as credit.
    read_bytes: u64,
}

struct Bound {
    topic: Arc<TopicMeta>,
    next_offset: u64,
}

impl RemoteSubscription {
    pub(crate) fn new(lane: u32, filter: &str, options: SubscribeOptions) -> Self {
        Self {
            lane,
            filter: filter.to_owned(),
            options,
            state: Mutex::default(),
            reader: AtomicWaker::new(),
            asked_on: AskedOn::default(),
        }
    }

    /// The request that opens this subscription on a connection, where it was left on the last one.
    pub(crate) fn subscribe(&self, request: u32) -> Control {
        let mut state = lock(&self.state);
        let bound = std::mem::take(&mut state.bound);
        state.left_at.extend(
            bound
                .into_values()
                .map(|bound| (bound.topic.name.clone(), (bound.topic.epoch, bound.next_offset))),
        );
        // What is still in the queue counts against the new connection's credit.
        let queued: usize = state.queue.iter().map(Incoming::reliable_bytes).sum();
        state.read_bytes = 0;
        let positions = state.left_at.iter().take(twinlane_proto::limits::POSITIONS_MAX);
        let positions = positions
            .map(|(name, (epoch, offset))| Position {
                topic_name: name.to_string(),
                epoch: *epoch,
                offset: *offset,
            })
            .collect();
        Control::Subscribe(Subscribe {
            request,
            subscription: self.lane,
            filter: self.filter.clone(),
            start: self.options.start,
            slow: self.options.slow,
            credit_bytes: self.options.ahead_bytes.saturating_sub(queued) as u64,
            spec: self.options.spec,
            positions,
        })
    }

    pub(crate) fn bound(&self, bound: &TopicBound) {
        let Ok(name) = TopicName::parse(&bound.name) else { return };
        let topic =
            Arc::new(TopicMeta { id: bound.topic, name: name.clone(), epoch: bound.epoch, spec: bound.spec });
        let next_offset = bound.next_offset;
        let mut state = lock(&self.state);
        let again = state.left_at.contains_key(&name);
        state.left_at.insert(name, (bound.epoch, next_offset));
        state.bound.insert(bound.topic, Bound { topic: Arc::clone(&topic), next_offset });
        state.queue.push_back(Incoming::Bound {
            topic,
            next_offset,
            next_source: bound.next_source,
            outcome: bound.outcome,
            again,
        });
        drop(state);
        self.reader.wake();
    }

    pub(crate) fn frames(&self, link: &Link, piece: Piece<'_>) -> Result<(), Closing> {
        let mut state = lock(&self.state);
        // A datagram may overtake the message that says what its topic is.
        let Some(bound) = state.bound.get_mut(&piece.topic) else { return Ok(()) };
        bound.next_offset = bound.next_offset.max(piece.first.saturating_add(piece.ends.len() as u64));
        let topic = Arc::clone(&bound.topic);
        if topic.is_fast() {
            state.fast_bytes += piece.bytes.len();
        } else {
            link.spend_credit(self.lane, piece.bytes.len())?;
        }
        if state.end.is_none() {
            let (first, frames) = (piece.first, piece.ends.len());
            let bytes = RunBytes::Own(piece.into_kept());
            state.queue.push_back(Incoming::Run { topic, first, frames, bytes });
            while state.fast_bytes > self.options.queue_bytes && state.drop_oldest_fast() {}
        }
        drop(state);
        self.reader.wake();
        Ok(())
    }

    pub(crate) fn gap(&self, gap: &Gap) {
        let (from, to, cause) = (gap.from_offset, gap.to_offset, gap.cause);
        self.push_for(gap.topic, |topic| Incoming::Skipped { topic, from, to, cause });
    }

    pub(crate) fn stream_end(&self, end: &StreamEnd) {
        let (source, last_seq) = (end.source, end.last_seq);
        self.push_for(end.topic, |topic| Incoming::StreamEnd { topic, source, last_seq });
    }

    /// Nothing more will come, after what is in the queue.
    pub(crate) fn end(&self, code: Code, reason: &str) {
        lock(&self.state).end.get_or_insert(EndReason { code, reason: reason.to_owned() });
        self.reader.wake();
    }

    pub(crate) fn end_reason(&self) -> Option<EndReason> {
        lock(&self.state).end.clone()
    }

    /// The next thing for the application, and the credit to send once enough was read. `None`: the end.
    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<(Incoming, Option<Control>)>> {
        if let Poll::Ready(next) = self.try_next() {
            return Poll::Ready(next);
        }
        self.reader.register(cx.waker());
        self.try_next()
    }

    fn try_next(&self) -> Poll<Option<(Incoming, Option<Control>)>> {
        let mut state = lock(&self.state);
        let Some(next) = state.queue.pop_front() else {
            return if state.end.is_some() { Poll::Ready(None) } else { Poll::Pending };
        };
        state.fast_bytes -= next.fast_bytes();
        state.read_bytes += next.reliable_bytes() as u64;
        let due = state.read_bytes >= self.options.ahead_bytes as u64 / 4;
        let credit = due.then(|| Credit { lane: self.lane, bytes: std::mem::take(&mut state.read_bytes) });
        Poll::Ready(Some((next, credit.map(Control::Credit))))
    }

    fn push_for(&self, topic: u32, what: impl FnOnce(Arc<TopicMeta>) -> Incoming) {
        let mut state = lock(&self.state);
        let Some(bound) = state.bound.get(&topic) else { return };
        let incoming = what(Arc::clone(&bound.topic));
        state.queue.push_back(incoming);
        drop(state);
        self.reader.wake();
    }
}

impl State {
    /// Replaces the oldest run of a fast topic by the note that it was dropped.
    fn drop_oldest_fast(&mut self) -> bool {
        let oldest = self.queue.iter().position(|incoming| incoming.fast_bytes() > 0);
        let Some(oldest) = oldest else { return false };
        self.fast_bytes -= self.queue[oldest].fast_bytes();
        let Incoming::Run { topic, first, frames, .. } = &self.queue[oldest] else { return false };
        let (topic, from, to) = (Arc::clone(topic), *first, first.saturating_add(*frames as u64));
        let cause = GapCause::DroppedSlow;
        match oldest.checked_sub(1).map(|before| &mut self.queue[before]) {
            // Notes grow; they do not pile up.
            Some(Incoming::Skipped { topic: same, to: end, cause: GapCause::DroppedSlow, .. })
                if same.id == topic.id =>
            {
                *end = to;
                self.queue.remove(oldest);
            }
            _ => self.queue[oldest] = Incoming::Skipped { topic, from, to, cause },
        }
        true
    }
}
