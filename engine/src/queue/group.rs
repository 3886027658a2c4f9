//! One queue group: which message is handed to which member, when again, and when no more.
//!
//! A pure state machine: time goes in, things to do come out. It reads no clock, sends nothing, stores nothing and
//! sees no payload. Everything in it is bounded by [`OPEN_MAX`] and by what its members want.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use subtle::ConstantTimeEq;

use super::keys::Keys;
use super::members::{Ended, Members};
use super::progress::{Delta, Progress};

/// Messages that a group keeps in mind at most, because they are handed over, delayed or waiting for their key.
/// Further ones wait in the topic.
pub(crate) const OPEN_MAX: usize = 131_072;
/// Messages looked at in one go at most.
const LOOK_MAX: u64 = 256;
/// The longest a lease can be made to last from now, and a nack to delay.
const DELAY_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Unique per group for as long as the server lives.
pub(crate) type MemberId = u64;
pub(crate) type LeaseId = [u8; 16];

/// What the members of a group have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// How long a lease lasts.
    pub(crate) ack_wait: Duration,
    /// Hand-overs of one message at most.
    pub(crate) max_deliver: u32,
    /// Messages handed over and not settled at most.
    pub(crate) max_in_flight: u32,
    /// Likewise, per key; 0: no limit.
    pub(crate) max_in_flight_per_key: u32,
}

/// What a group needs to know of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) key: Option<u64>,
    /// It is not handed over before this time.
    pub(crate) due: Option<Duration>,
}

/// What a member says of a message it was handed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verdict<'a> {
    pub(crate) offset: u64,
    pub(crate) attempt: u32,
    pub(crate) lease: LeaseId,
    pub(crate) action: Action,
    /// For the dead letter that it may become.
    pub(crate) reason: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// It is done.
    Ack,
    /// Hand it over again, after this long.
    Nack(Duration),
    /// The lease lasts this long from now; zero: as long as a new one.
    Extend(Duration),
    /// Make it a dead letter.
    Dead,
}

/// The verdict names no live lease of this member. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StaleLease;

/// A message on its way to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HandOver {
    pub(crate) offset: u64,
    pub(crate) attempt: u32,
    pub(crate) lease: LeaseId,
    pub(crate) member: MemberId,
}

/// The next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Call [`Group::look`] with the facts of up to `count` messages from `from` on, at least one.
    Look { from: u64, count: u64 },
    /// Record it, then send it.
    HandOver(HandOver),
    /// Make it a dead letter, then call [`Group::buried`].
    Dead { offset: u64, attempts: u32, reason: String },
    /// Tell the member.
    WantEnded { member: MemberId, unused: u32 },
    /// Nothing, until something changes or this time comes.
    Wait(Option<Duration>),
}

/// How a group is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Messages that could be handed over if somebody wanted them.
    pub(crate) ready: u64,
    pub(crate) in_flight: u64,
    pub(crate) delayed: u64,
    pub(crate) members: u64,
    /// Acks since the server started.
    pub(crate) settled: u64,
    /// Dead letters since the server started.
    pub(crate) dead: u64,
    /// Messages that were gone before they could be handed over.
    pub(crate) missing: u64,
}

pub(crate) struct Group {
    rules: Rules,
    progress: Progress,
    /// The next message to look at; all before it are done or open.
    next: u64,
    /// The topic has messages up to here.
    end: u64,
    open: BTreeMap<u64, Open>,
    /// Open messages that may be handed over now.
    ready: BTreeSet<u64>,
    /// Open messages to which something happens at a time: a lease ends, a delay is over.
    clock: BTreeSet<(Duration, u64)>,
    keys: Keys,
    members: Members,
    in_flight: u32,
    outputs: VecDeque<Output>,
    delta: Delta,
    counts: Counts,
    draw_lease: Box<dyn FnMut() -> LeaseId + Send>,
}

/// A message that the group knows and is not done with.
#[derive(Debug)]
struct Open {
    place: Place,
    key: Option<u64>,
    /// It counts as begun for its key.
    has_begun: bool,
    last_member: Option<MemberId>,
    /// What the last member said was wrong.
    reason: Box<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Ready,
    /// Until its clock strikes.
    Delayed(Duration),
    /// Behind others of its key.
    Waiting,
    Leased {
        lease: LeaseId,
        member: MemberId,
        until: Duration,
    },
    /// On its way to the dead letters.
    Dying,
}

impl Group {
    /// A group that goes on where `progress` left it. Leases that were live then are over.
    pub(crate) fn new(
        rules: Rules,
        progress: Progress,
        draw_lease: impl FnMut() -> LeaseId + Send + 'static,
    ) -> Self {
        let next = progress.next_open(progress.floor());
        Self {
            rules,
            progress,
            next,
            end: next,
            open: BTreeMap::new(),
            ready: BTreeSet::new(),
            clock: BTreeSet::new(),
            keys: Keys::new(rules.max_in_flight_per_key),
            members: Members::default(),
            in_flight: 0,
            outputs: VecDeque::new(),
            delta: Delta::default(),
            counts: Counts::default(),
            draw_lease: Box::new(draw_lease),
        }
    }

    /// What has to survive a restart.
    #[cfg(test)]
    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Nothing below is needed any more.
    pub(crate) fn floor(&self) -> u64 {
        self.progress.floor()
    }

    /// The next message to look at.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Changes since the last call, to be recorded before anybody is told of them.
    pub(crate) fn take_delta(&mut self) -> Delta {
        std::mem::take(&mut self.delta)
    }

    pub(crate) fn counts(&self) -> Counts {
        let not_looked_at = self.end.saturating_sub(self.next);
        let delayed = self.clock.len() as u64 - u64::from(self.in_flight);
        Counts {
            ready: (self.ready.len() + self.keys.waiting()) as u64 + not_looked_at,
            in_flight: self.in_flight.into(),
            delayed,
            members: self.members.len() as u64,
            ..self.counts
        }
    }

    /// The topic has messages up to, not including, `end`.
    pub(crate) fn extended(&mut self, end: u64) {
        self.end = self.end.max(end);
    }

    pub(crate) fn join(&mut self, member: MemberId) {
        self.members.join(member);
    }

    /// The member is gone: what it was handed and did not settle is handed to others at once.
    pub(crate) fn leave(&mut self, now: Duration, member: MemberId) {
        self.tick(now);
        self.members.leave(member);
        let leased =
            |open: &Open| matches!(open.place, Place::Leased { member: holder, .. } if holder == member);
        let held: Vec<u64> =
            self.open.iter().filter(|(_, open)| leased(open)).map(|(offset, _)| *offset).collect();
        for offset in held {
            self.end_lease(offset);
            self.give_back(offset, None, "the worker left or its connection was lost");
        }
    }

    /// The member may be handed `messages` more: whenever there are some, or within `wait`.
    pub(crate) fn want(&mut self, now: Duration, member: MemberId, messages: u32, wait: Option<Duration>) {
        let until = wait.map(|wait| now + wait.min(DELAY_MAX));
        let ended = self.members.want(member, messages, until);
        self.outputs.extend(ended.map(Output::from));
    }

    /// The member does not take what it is handed: others get their turn until it does.
    pub(crate) fn pause(&mut self, member: MemberId) {
        self.members.pause(member);
    }

    pub(crate) fn resume(&mut self, member: MemberId) {
        self.members.resume(member);
    }

    /// Whether a message that is ready would be handed over at once.
    #[cfg(test)]
    pub(super) fn could_hand_over(&self) -> bool {
        self.members.is_waiting() && self.in_flight < self.rules.max_in_flight
    }

    /// Whether the lease is still the message's.
    pub(crate) fn is_live(&self, hand_over: &HandOver) -> bool {
        self.open
            .get(&hand_over.offset)
            .is_some_and(|open| matches!(open.place, Place::Leased { lease, .. } if lease == hand_over.lease))
    }

    /// A member's verdict on a message.
    pub(crate) fn settle(
        &mut self,
        now: Duration,
        member: MemberId,
        verdict: &Verdict<'_>,
    ) -> Result<(), StaleLease> {
        self.tick(now);
        let Verdict { offset, attempt, action, reason, .. } = *verdict;
        let open = self.open.get_mut(&offset).ok_or(StaleLease)?;
        let Place::Leased { lease, member: holder, until } = &mut open.place else { return Err(StaleLease) };
        let is_lease = bool::from(lease.ct_eq(&verdict.lease));
        if !is_lease || *holder != member || self.progress.attempts(offset) != attempt {
            return Err(StaleLease);
        }
        match action {
            Action::Extend(by) => {
                let by = if by.is_zero() { self.rules.ack_wait } else { by.min(DELAY_MAX) };
                self.clock.remove(&(*until, offset));
                *until = now + by;
                self.clock.insert((*until, offset));
            }
            Action::Ack => {
                self.end_lease(offset);
                self.delta.settled(offset);
                self.counts.settled += 1;
                self.close(offset);
            }
            Action::Nack(delay) => {
                self.end_lease(offset);
                let until = (!delay.is_zero()).then(|| now + delay.min(DELAY_MAX));
                self.give_back(offset, until, reason);
            }
            Action::Dead => {
                self.end_lease(offset);
                self.bury(offset, reason);
            }
        }
        Ok(())
    }

    /// Facts of the messages from `from` on, as [`Output::Look`] asked; `None`: the message does not exist.
    pub(crate) fn look(&mut self, now: Duration, from: u64, facts: impl IntoIterator<Item = Option<Facts>>) {
        for (offset, facts) in (from..).zip(facts) {
            if offset != self.next {
                // Done before a restart, or answered twice.
                continue;
            }
            self.next = self.progress.next_open(offset + 1);
            self.end = self.end.max(self.next);
            match facts {
                Some(facts) => self.open(now, offset, facts),
                None => self.skip(offset),
            }
        }
    }

    /// The messages not looked at yet are gone up to, not including, `to`.
    pub(crate) fn look_past(&mut self, to: u64) {
        while self.next < to {
            let offset = self.next;
            self.skip(offset);
            self.next = self.progress.next_open(offset + 1);
        }
        self.end = self.end.max(self.next);
    }

    /// A message that was to be handed over does not exist any more.
    pub(crate) fn gone(&mut self, offset: u64) {
        match self.open.get(&offset).map(|open| open.place) {
            None => return,
            Some(Place::Leased { .. }) => self.end_lease(offset),
            Some(Place::Delayed(until)) => drop(self.clock.remove(&(until, offset))),
            Some(Place::Ready | Place::Waiting | Place::Dying) => drop(self.ready.remove(&offset)),
        }
        self.skip(offset);
        self.close(offset);
    }

    /// What to record together with the dead letter of message `offset`.
    pub(crate) fn dead_delta(offset: u64) -> Delta {
        let mut delta = Delta::default();
        delta.dead(offset);
        delta
    }

    /// The dead letter of message `offset` is stored.
    pub(crate) fn buried(&mut self, offset: u64) {
        if self.open.get(&offset).is_some_and(|open| open.place == Place::Dying) {
            self.counts.dead += 1;
            self.close(offset);
        }
    }

    /// The next thing to do; call until [`Output::Wait`].
    pub(crate) fn poll(&mut self, now: Duration) -> Output {
        self.tick(now);
        if let Some(output) = self.outputs.pop_front() {
            return output;
        }
        if let Some(hand_over) = self.hand_over(now) {
            return Output::HandOver(hand_over);
        }
        let count = self.look_ahead();
        if count > 0 {
            return Output::Look { from: self.next, count };
        }
        Output::Wait(self.deadline())
    }

    /// When time alone brings about the next thing to do.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let strikes = self.clock.first().map(|(at, _)| *at);
        [strikes, self.members.deadline()].into_iter().flatten().min()
    }

    /// What time alone brings about.
    fn tick(&mut self, now: Duration) {
        while let Some(&(at, offset)) = self.clock.first()
            && at <= now
        {
            match self.open[&offset].place {
                Place::Leased { .. } => {
                    self.end_lease(offset);
                    self.give_back(offset, None, "its lease ran out");
                }
                _ => {
                    self.clock.pop_first();
                    self.line_up(offset);
                }
            }
        }
        while let Some(ended) = self.members.expire(now) {
            self.outputs.push_back(ended.into());
        }
    }

    fn hand_over(&mut self, now: Duration) -> Option<HandOver> {
        if self.in_flight >= self.rules.max_in_flight || !self.members.is_waiting() {
            return None;
        }
        let offset = self.ready.pop_first()?;
        let open = self.open.get_mut(&offset).expect("a ready message is open");
        let (member, ended) = self.members.take(open.last_member).expect("somebody waits, as was seen above");
        self.outputs.extend(ended.map(Output::from));
        let attempt = self.progress.attempts(offset) + 1;
        let lease = (self.draw_lease)();
        let until = now + self.rules.ack_wait;
        open.place = Place::Leased { lease, member, until };
        open.last_member = Some(member);
        self.clock.insert((until, offset));
        self.in_flight += 1;
        self.progress.handed(offset, attempt);
        self.delta.handed(offset, attempt);
        Some(HandOver { offset, attempt, lease, member })
    }

    /// Whether a message that is not there yet would be handed over as soon as it is.
    pub(crate) fn is_hungry(&self) -> bool {
        self.appetite() > 0
    }

    /// How many messages to look at next.
    fn look_ahead(&self) -> u64 {
        self.appetite().min(self.end.saturating_sub(self.next))
    }

    fn appetite(&self) -> u64 {
        if !self.ready.is_empty() || !self.members.is_waiting() {
            return 0;
        }
        let in_flight = u64::from(self.rules.max_in_flight.saturating_sub(self.in_flight));
        let open = OPEN_MAX.saturating_sub(self.open.len()) as u64;
        self.members.credit().min(in_flight).min(open).min(LOOK_MAX)
    }

    /// A message is looked at for the first time in this life of the server.
    fn open(&mut self, now: Duration, offset: u64, facts: Facts) {
        let Facts { key, due } = facts;
        let place = match due {
            Some(due) if due > now => Place::Delayed(due),
            _ => Place::Ready,
        };
        let reason = Box::default();
        self.open.insert(offset, Open { place, key, has_begun: false, last_member: None, reason });
        match place {
            Place::Delayed(due) => drop(self.clock.insert((due, offset))),
            // Handed over for the last time when the server went down.
            _ if self.progress.attempts(offset) >= self.rules.max_deliver => {
                self.bury(offset, "the server was restarted during its last attempt");
            }
            _ => self.line_up(offset),
        }
    }

    /// The message may be handed over as soon as its key allows.
    fn line_up(&mut self, offset: u64) {
        let open = self.open.get_mut(&offset).expect("who lines a message up knows it");
        open.has_begun = open.has_begun || self.keys.begin(open.key, offset);
        if open.has_begun {
            open.place = Place::Ready;
            self.ready.insert(offset);
        } else {
            open.place = Place::Waiting;
        }
    }

    /// Takes a message from its member; the caller puts it in another place.
    fn end_lease(&mut self, offset: u64) {
        let open = self.open.get_mut(&offset).expect("a leased message is open");
        if let Place::Leased { until, .. } = open.place {
            self.clock.remove(&(until, offset));
            self.in_flight -= 1;
            open.place = Place::Ready;
        }
    }

    /// A message comes back from its member: it is handed over again, from `until` on, or becomes a dead letter.
    fn give_back(&mut self, offset: u64, until: Option<Duration>, reason: &str) {
        let open = self.open.get_mut(&offset).expect("a message that comes back is open");
        if crate::faults::no_redelivery() {
            open.place = Place::Delayed(Duration::MAX);
            return;
        }
        if self.progress.attempts(offset) >= self.rules.max_deliver {
            return self.bury(offset, reason);
        }
        open.reason = reason.into();
        match until {
            Some(until) => {
                open.place = Place::Delayed(until);
                self.clock.insert((until, offset));
            }
            None => self.line_up(offset),
        }
    }

    /// The message becomes a dead letter. `reason`: or else what its last member said.
    fn bury(&mut self, offset: u64, reason: &str) {
        let open = self.open.get_mut(&offset).expect("a dying message is open");
        open.place = Place::Dying;
        let reason = if reason.is_empty() { open.reason.to_string() } else { reason.to_owned() };
        let attempts = self.progress.attempts(offset);
        self.outputs.push_back(Output::Dead { offset, attempts, reason });
    }

    /// The group is done with an open message.
    fn close(&mut self, offset: u64) {
        self.progress.settle(offset, offset + 1);
        let Some(open) = self.open.remove(&offset) else { return };
        if !open.has_begun {
            return self.keys.forget(open.key, offset);
        }
        if let Some(next) = self.keys.end(open.key) {
            let waiting = self.open.get_mut(&next).expect("a waiting message is open");
            (waiting.has_begun, waiting.place) = (true, Place::Ready);
            self.ready.insert(next);
        }
    }

    /// A message that does not exist cannot be handed over.
    fn skip(&mut self, offset: u64) {
        self.counts.missing += 1;
        self.delta.settled(offset);
        self.progress.settle(offset, offset + 1);
    }
}

impl From<Ended> for Output {
    fn from(ended: Ended) -> Self {
        Self::WantEnded { member: ended.member, unused: ended.unused }
    }
}
