//! What of a namespace is changed by one at a time, in the log's order: members, absent members, open questions, and how
//! far the log was drained to outboxes.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use twinlane_proto::frame::Frames;

use super::acks::Acks;
use super::away::{Absent, Away};
use super::burst::{Burst, Outgoing};
use super::layer::Settings;
use super::members::{Members, Stay};
use super::peer::ToClient;
use super::record::{Record, UNCOMPRESSED};
use super::socket::Socket;
use crate::message::TopicRun;
use crate::topic_cursor::{TopicCursor, TopicRead};
use crate::topics::Topic;

/// Bytes of the log taken at a time.
const READ_BYTES: usize = 256 << 10;
/// Events in one burst at most: what follows waits until it is sent.
const BURST_EVENTS_MAX: usize = 256;

pub(super) struct State {
    pub(super) members: Members<Socket>,
    pub(super) away: Away,
    pub(super) acks: Acks,
    /// Members by their private number.
    live: HashMap<Arc<str>, usize>,
    namespace: Arc<str>,
    settings: Arc<Settings>,
    cursor: TopicCursor,
    drained: u64,
    /// Events for catch-all listeners, which hear of them when nothing is held.
    overheard: Vec<(Socket, Outgoing)>,
}

/// Events in a row for the same audience.
struct Group<'a> {
    first: Record<'a>,
    events: Vec<Outgoing>,
}

/// Events that a client missed and does not get: offsets from `from` to below `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Missed {
    pub(super) from: u64,
    pub(super) to: u64,
}

impl State {
    pub(super) fn new(namespace: Arc<str>, cursor: TopicCursor, settings: Arc<Settings>) -> Self {
        Self {
            members: Members::new(),
            away: Away::default(),
            acks: Acks::default(),
            live: HashMap::new(),
            namespace,
            settings,
            cursor,
            drained: 0,
            overheard: Vec::new(),
        }
    }

    /// Events sent so far: the next one has this offset.
    pub(super) fn drained(&self) -> u64 {
        self.drained
    }

    /// Puts the events below offset `to` into the outboxes of those they are for.
    pub(super) fn drain(&mut self, to: u64) {
        while self.drained < to {
            match self.cursor.poll_read(&mut Context::from_waker(Waker::noop()), READ_BYTES) {
                Poll::Ready(TopicRead::Run(run)) => self.send(&run),
                Poll::Ready(TopicRead::Missed { from, to }) => {
                    // Whoever emits drains before this could come: a bug, not a slow client.
                    tracing::error!(namespace = %self.namespace, from, to, "events were lost");
                    self.drained = to;
                }
                Poll::Ready(TopicRead::Closed) => self.drained = to,
                Poll::Pending => return,
            }
        }
    }

    pub(super) fn take_overheard(&mut self) -> Vec<(Socket, Outgoing)> {
        std::mem::take(&mut self.overheard)
    }

    pub(super) fn forget_absent(&mut self) {
        self.away.sweep(Instant::now(), self.settings.options.recovery);
    }

    /// What an absent client missed from offset `from` on. Questions that it has answered are not among it.
    pub(super) fn missed(
        &mut self,
        topic: &Topic,
        from: u64,
        absent: &Absent,
    ) -> Result<Vec<Outgoing>, Missed> {
        // Who does not get all begins anew: it is told that it gets nothing of what was until now.
        let lost = Missed { from, to: self.drained };
        if from < topic.oldest().min(self.drained) {
            return Err(lost);
        }
        let (mut reader, mut next) = (topic.reader(from), from);
        let mut found = Vec::new();
        while next < self.drained {
            match reader.poll_read(&mut Context::from_waker(Waker::noop()), READ_BYTES) {
                Poll::Ready(TopicRead::Run(run)) => {
                    next = run.end_offset();
                    let events = records(&run).filter(|(offset, record)| {
                        let is_new = record.ack.is_none_or(|ack| !absent.answered.contains(&ack));
                        let is_its = record.is_for(*offset, &absent.id, &absent.stays);
                        *offset < self.drained && !record.is_volatile() && is_its && is_new
                    });
                    found.extend(events.map(|(offset, record)| self.outgoing(offset, &record)));
                }
                Poll::Ready(TopicRead::Missed { .. }) => return Err(lost),
                Poll::Ready(TopicRead::Closed) | Poll::Pending => break,
            }
        }
        for ack in found.iter().filter_map(|event| event.ack) {
            self.acks.asked_again(ack, &absent.id);
        }
        Ok(found)
    }

    /// A socket becomes a member; with `stays`, again.
    pub(super) fn insert(&mut self, socket: &Socket, stays: Option<Vec<Stay>>) {
        let (id, value) = (Arc::clone(socket.id()), socket.clone());
        let key = match stays {
            Some(stays) => self.members.insert_again(id, value, stays),
            None => self.members.insert(id, value, self.drained),
        };
        socket.set_key(key);
        if let Some(pid) = socket.pid() {
            self.live.insert(Arc::clone(pid), key);
        }
    }

    /// A socket is no member any more. Returns where it has been.
    pub(super) fn remove(&mut self, key: usize) -> Option<Vec<Stay>> {
        let (socket, stays) = self.members.remove(key, self.drained)?;
        socket.pid().and_then(|pid| self.live.remove(pid));
        Some(stays)
    }

    /// The socket that is here with this private number.
    pub(super) fn live(&self, pid: &str) -> Option<Socket> {
        self.members.get(*self.live.get(pid)?).cloned()
    }

    /// The client that comes back with `pid`, if it may.
    pub(super) fn take_absent(&mut self, pid: &str) -> Option<Absent> {
        self.away.take(Instant::now(), pid, self.settings.options.recovery)
    }

    /// A client went away and may come back.
    pub(super) fn keep(&mut self, absent: Absent) {
        self.away.insert(Instant::now(), absent, self.settings.options.absent_max);
    }

    fn send(&mut self, run: &TopicRun) {
        let mut group: Option<Group<'_>> = None;
        for (offset, record) in records(run) {
            let event = self.outgoing(offset, &record);
            match &mut group {
                Some(group) if group.takes(&record) => group.events.push(event),
                _ => {
                    let next = Group { first: record, events: vec![event] };
                    if let Some(group) = group.replace(next) {
                        self.send_group(group);
                    }
                }
            }
        }
        group.into_iter().for_each(|group| self.send_group(group));
        self.drained = run.end_offset();
    }

    fn send_group(&mut self, group: Group<'_>) {
        let Group { first, events } = group;
        let burst = Arc::new(Burst::new(Arc::clone(&self.namespace), events));
        let mut asked = Vec::new();
        let overheard = &mut self.overheard;
        self.members.select(first.to(), first.except(), first.without(), |_, socket| {
            socket.outbox().push(ToClient::Burst(Arc::clone(&burst)), first.is_volatile());
            if first.ack.is_some() {
                asked.push(Arc::clone(socket.id()));
            }
            if socket.overhears() {
                overheard.extend(burst.events().iter().map(|event| (socket.clone(), event.clone())));
            }
        });
        if let Some(ack) = first.ack {
            let may_come = asked.is_empty() && first.to().any(|room| self.away.has_id(room));
            self.acks.asked(ack, asked, may_come);
        }
    }

    fn outgoing(&self, offset: u64, record: &Record<'_>) -> Outgoing {
        // Also a volatile one: the official client takes any text at the end of an event for its offset. Not where an
        // answer is asked for: there it looks at the last argument in vain.
        let offset = (self.settings.recovers() && record.ack.is_none()).then_some(offset);
        Outgoing {
            payload: record.payload(offset),
            ack: record.ack,
            volatile: record.is_volatile(),
            compress: record.flags & UNCOMPRESSED == 0,
        }
    }
}

impl Group<'_> {
    /// Whether an event may go in the same burst. Answers are counted for one event at a time.
    fn takes(&self, record: &Record<'_>) -> bool {
        self.events.len() < BURST_EVENTS_MAX
            && self.first.audience == record.audience
            && self.first.flags == record.flags
            && record.ack.is_none()
    }
}

/// `events` in parts, each small enough for one burst.
pub(super) fn in_bursts(events: Vec<Outgoing>) -> Vec<Vec<Outgoing>> {
    let mut events = events.into_iter().peekable();
    let mut bursts = Vec::new();
    while events.peek().is_some() {
        bursts.push(events.by_ref().take(BURST_EVENTS_MAX).collect());
    }
    bursts
}

/// The records of a run with their offsets.
fn records(run: &TopicRun) -> impl Iterator<Item = (u64, Record<'_>)> {
    (run.first_offset()..).zip(Frames::new(run.bytes()).map(|frame| Record::parse(frame.payload())))
}
