//! A remote subscription's messages between the connection and the application.
//!
//! Bounded: a reliable topic's server sends only what it has credit for, and of a fast topic the oldest are
//! dropped when the application does not read. It lives across connections.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use atomic_waker::AtomicWaker;
use twinlane_proto::control::{Credit, Gap, LeftOut, Position, StreamEnd, Subscribe, TopicBound};
use twinlane_proto::frame::{Frames, MessageRef, deadline_us};
use twinlane_proto::numbered::Numbered;
use twinlane_proto::{Code, Control, GapCause, TopicName};

use super::AskedOn;
use crate::config::SubscribeOptions;
use crate::error::EndReason;
use crate::fast::{Counts, LeftOut as Tally, Waiting, arrive, ticks_us};
use crate::incoming::Incoming;
use crate::link::{Closing, Link, Piece};
use crate::lock::lock;
use crate::message::{RunBytes, TopicMeta, kept};

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
    queue: VecDeque<Queued>,
    /// Bytes of fast runs in the queue.
    fast_bytes: usize,
    /// Topics by their number on the current connection.
    bound: Numbered<Bound>,
    /// Where each topic was left, by name.
    left_at: HashMap<TopicName, (u64, u64)>,
    end: Option<EndReason>,
    /// Bytes read by the application and not yet given back as credit.
    read_bytes: u64,
}

enum Queued {
    Incoming(Incoming),
    /// The values of this `latest` topic that wait by then.
    Values(u32),
}

struct Bound {
    topic: Arc<TopicMeta>,
    next_offset: u64,
    /// Values of a `latest` topic that the application has not read.
    values: Option<Waiting>,
    /// What was left out: by the server so far, and by this queue.
    told: Counts,
    left_out: Tally,
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
        let queued: usize = state.queue.iter().map(Queued::reliable_bytes).sum();
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
        let values = topic.is_latest().then(|| Waiting::new(self.options.queue_bytes));
        let (told, left_out) = (Counts::default(), Tally::default());
        state
            .bound
            .insert(bound.topic, Bound { topic: Arc::clone(&topic), next_offset, values, told, left_out });
        let (next_source, outcome) = (bound.next_source, bound.outcome);
        let bound = Incoming::Bound { topic, next_offset, next_source, outcome, again };
        state.queue.push_back(bound.into());
        drop(state);
        self.reader.wake();
    }

    pub(crate) fn frames(&self, link: &Link, piece: Piece<'_>) -> Result<(), Closing> {
        let mut state = lock(&self.state);
        // A datagram may overtake the message that says what its topic is.
        let Some(bound) = state.bound.get(&piece.topic) else { return Ok(()) };
        let topic = Arc::clone(&bound.topic);
        if topic.is_fast() {
            state.take_fast(topic, piece, self.options.queue_bytes);
        } else {
            link.spend_credit(self.lane, piece.bytes.len())?;
            state.take_reliable(topic, piece);
        }
        drop(state);
        self.reader.wake();
        Ok(())
    }

    pub(crate) fn left_out(&self, told: &LeftOut) {
        let mut state = lock(&self.state);
        let Some(bound) = state.bound.get_mut(&told.topic) else { return };
        bound.told = told.into();
        let left_out = bound.left_out();
        state.queue.push_back(left_out.into());
        drop(state);
        self.reader.wake();
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
        let next = loop {
            let Some(next) = state.queue.pop_front() else {
                return if state.end.is_some() { Poll::Ready(None) } else { Poll::Pending };
            };
            match next {
                Queued::Incoming(next) => break next,
                Queued::Values(topic) => {
                    if let Some(run) = state.take_values(topic) {
                        break run;
                    }
                }
            }
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
        state.queue.push_back(incoming.into());
        drop(state);
        self.reader.wake();
    }
}

impl From<Incoming> for Queued {
    fn from(incoming: Incoming) -> Self {
        Self::Incoming(incoming)
    }
}

impl Queued {
    fn fast_bytes(&self) -> usize {
        match self {
            Self::Incoming(incoming) => incoming.fast_bytes(),
            Self::Values(_) => 0,
        }
    }

    fn reliable_bytes(&self) -> usize {
        match self {
            Self::Incoming(incoming) => incoming.reliable_bytes(),
            Self::Values(_) => 0,
        }
    }
}

impl Bound {
    /// What was left out so far, by whomever.
    fn left_out(&self) -> Incoming {
        let counts = self.told.plus(self.left_out.counts());
        Incoming::LeftOut { topic: Arc::clone(&self.topic), counts }
    }
}

impl State {
    fn take_reliable(&mut self, topic: Arc<TopicMeta>, piece: Piece<'_>) {
        let (first, frames) = (piece.first, piece.ends.len());
        if let Some(bound) = self.bound.get_mut(&piece.topic) {
            bound.next_offset = bound.next_offset.max(first.saturating_add(frames as u64));
        }
        if self.end.is_none() {
            let bytes = RunBytes::Own(kept(piece.bytes));
            self.queue.push_back(Incoming::Run { topic, first, bytes }.into());
        }
    }

    fn take_fast(&mut self, topic: Arc<TopicMeta>, piece: Piece<'_>, queue_bytes: usize) {
        let first = piece.first;
        let Some(bound) = self.bound.get_mut(&piece.topic) else { return };
        let last_at = piece.ends.len().checked_sub(2).map_or(0, |before| piece.ends[before] as usize);
        if let Some(last) = Frames::new(&piece.bytes[last_at..]).next() {
            let end = topic.offset(first, 0, &last).saturating_add(1);
            bound.next_offset = bound.next_offset.max(end);
        }
        if self.end.is_some() {
            return;
        }
        let bytes = with_expiries(piece);
        if let Some(values) = &mut bound.values {
            let was_empty = values.is_empty();
            let mut ends = Vec::new();
            for frame in Frames::new(&bytes) {
                if frame.is_end() {
                    ends.push((frame.source(), frame.seq()));
                } else {
                    values.put(topic.offset(first, 0, &frame), &frame, &bound.left_out);
                }
            }
            if was_empty && !values.is_empty() {
                self.queue.push_back(Queued::Values(topic.id));
            }
            let end = |(source, last_seq)| {
                Incoming::StreamEnd { topic: Arc::clone(&topic), source, last_seq }.into()
            };
            return self.queue.extend(ends.into_iter().map(end));
        }
        self.fast_bytes += bytes.len();
        self.queue.push_back(Incoming::Run { topic, first, bytes: RunBytes::Own(bytes) }.into());
        while self.fast_bytes > queue_bytes && self.drop_oldest_fast() {}
    }

    /// The values of a topic that wait; what did not come to that is explained right after them.
    fn take_values(&mut self, topic: u32) -> Option<Incoming> {
        let bound = self.bound.get_mut(&topic)?;
        let run = bound.values.as_mut()?.take(usize::MAX, ticks_us(), false, &bound.left_out);
        if bound.left_out.untold(Counts::default(), true).is_some() {
            let left_out = bound.left_out();
            self.queue.push_front(left_out.into());
        }
        let run = run?;
        let first = run.first_offset();
        self.fast_bytes += run.bytes().len();
        Some(Incoming::Run { topic: Arc::clone(&bound.topic), first, bytes: run.into_bytes() })
    }

    /// Replaces the oldest run of a fast topic by the note that it was dropped. What it said of ends stays.
    fn drop_oldest_fast(&mut self) -> bool {
        let oldest = self.queue.iter().position(|queued| queued.fast_bytes() > 0);
        let Some(oldest) = oldest else { return false };
        self.fast_bytes -= self.queue[oldest].fast_bytes();
        let Queued::Incoming(Incoming::Run { topic, first, bytes, .. }) = &self.queue[oldest] else {
            return false;
        };
        let (topic, from) = (Arc::clone(topic), *first);
        let ends = Frames::new(bytes).filter(MessageRef::is_end);
        let ends: Vec<_> = ends.map(|end| (end.source(), end.seq())).collect();
        let dropped = Frames::new(bytes).count() - ends.len();
        let to = from.saturating_add(dropped as u64);
        let cause = GapCause::DroppedSlow;
        self.queue[oldest] = Incoming::Skipped { topic: Arc::clone(&topic), from, to, cause }.into();
        for (source, last_seq) in ends {
            let topic = Arc::clone(&topic);
            self.queue.insert(oldest + 1, Incoming::StreamEnd { topic, source, last_seq }.into());
        }
        if let Some(Queued::Incoming(Incoming::Skipped {
            topic: same,
            to: end,
            cause: GapCause::DroppedSlow,
            ..
        })) = oldest.checked_sub(1).map(|before| &mut self.queue[before])
            && same.id == topic.id
        {
            // Notes grow; they do not pile up.
            *end = end.saturating_add(dropped as u64);
            self.queue.remove(oldest);
        }
        true
    }
}

/// The frames of a fast topic, to keep: what is left of their deadlines becomes the moment when they are over.
fn with_expiries(piece: Piece<'_>) -> bytes::Bytes {
    if Frames::new(&piece.bytes).all(|frame| deadline_us(frame.as_bytes()).is_none()) {
        return kept(piece.bytes);
    }
    let (now_us, mut from) = (ticks_us(), 0);
    let mut bytes = piece.bytes.to_vec();
    for end in piece.ends {
        arrive(&mut bytes[from..*end as usize], || now_us);
        from = *end as usize;
    }
    bytes.into()
}
