//! One queue group as everybody who has to do with it sees it: members, connections, its dispatcher.
//!
//! Whoever settles or wants does so at once, under a short lock; what follows is the dispatcher's work.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use atomic_waker::AtomicWaker;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use twinlane_proto::Code;
use twinlane_proto::control::{Action as WireAction, GroupSettings, Verdict as WireVerdict};
use twinlane_ring::{Cursor, Gating, Start};

use super::dispatcher::Dispatcher;
use super::group::{Action, Group, HandOver, MemberId, Verdict};
use super::letters::{Dying, Letters};
use super::progress::Delta;
use super::settings::Settings;
use super::store::{GroupStore, Recorded, StoreFull};
use super::{Ear, Queues};
use crate::lock::lock;
use crate::status::QueueRow;
use crate::topics::{Topic, Topics};

/// Hears what became of each verdict, in their order.
pub(crate) type Told = Box<dyn FnOnce(Vec<Code>) + Send>;

pub(crate) struct QueueGroup {
    pub(crate) topic: Arc<Topic>,
    pub(crate) name: String,
    pub(super) settings: Settings,
    pub(super) letters: Letters,
    /// `None`: the topic is in memory, and so is the group.
    pub(super) store: Option<Arc<dyn GroupStore>>,
    pub(super) state: Mutex<State>,
    /// Hand-overs that are recorded, for the dispatcher to send.
    pub(super) recorded: Mutex<Vec<HandOver>>,
    /// What became of dead letters that were given to the store, for the dispatcher to act on.
    pub(super) graves: Mutex<Vec<(u64, Result<(), Code>)>>,
    /// The dispatcher looks again.
    pub(super) changed: AtomicWaker,
    pub(super) closed: AtomicBool,
    /// The store failed: nothing changes any more.
    failed: OnceLock<Code>,
    topics: Arc<Topics>,
    registry: Weak<Queues>,
    /// How long the group holds publishers back without members; `None`: it never does.
    retention: Option<Duration>,
    started: Instant,
    running: Mutex<Option<JoinHandle<()>>>,
}

pub(super) struct State {
    pub(super) group: Group,
    pub(super) members: BTreeMap<MemberId, Member>,
    last_member: MemberId,
    /// Messages that are to become dead letters, in the order of their deaths.
    pub(super) dying: VecDeque<Dying>,
    /// Who waits for a dead letter, by the offset of its message.
    waiting: BTreeMap<u64, Vec<(Arc<Settling>, usize)>>,
    /// Changes that found no room in the store, in their order. At most one for each message in flight.
    pub(super) unrecorded: VecDeque<Unrecorded>,
    /// Keeps the messages of a topic in memory that the group is not done with.
    pub(super) gate: Option<Cursor>,
    /// Since when nobody takes part.
    pub(super) empty_since: Option<Instant>,
}

pub(super) struct Member {
    pub(super) inbox: Arc<Topic>,
    pub(super) ear: Arc<dyn Ear>,
}

/// Changes on their way to the store, and what follows when they are there.
pub(super) struct Unrecorded {
    delta: Delta,
    floor: u64,
    recorded: Recorded,
}

/// Verdicts that are told together once everything they brought about is recorded.
struct Settling {
    /// Things still to be recorded.
    left: AtomicUsize,
    outcomes: Mutex<Vec<Code>>,
    told: Mutex<Option<Told>>,
}

/// What a [`QueueGroup`] is made of.
pub(super) struct Parts {
    pub(super) topic: Arc<Topic>,
    pub(super) name: String,
    pub(super) settings: Settings,
    pub(super) letters: Letters,
    pub(super) store: Option<Arc<dyn GroupStore>>,
    pub(super) group: Group,
    pub(super) gate: Option<Cursor>,
    pub(super) topics: Arc<Topics>,
    pub(super) registry: Weak<Queues>,
    pub(super) retention: Option<Duration>,
}

impl QueueGroup {
    pub(super) fn new(parts: Parts) -> Arc<Self> {
        let Parts { topic, name, settings, letters, store, group, gate, topics, registry, retention } = parts;
        let state = State {
            group,
            members: BTreeMap::new(),
            last_member: 0,
            dying: VecDeque::new(),
            waiting: BTreeMap::new(),
            unrecorded: VecDeque::new(),
            gate,
            empty_since: Some(Instant::now()),
        };
        Arc::new(Self {
            topic,
            name,
            settings,
            letters,
            store,
            state: Mutex::new(state),
            recorded: Mutex::default(),
            graves: Mutex::default(),
            changed: AtomicWaker::new(),
            closed: AtomicBool::new(false),
            failed: OnceLock::new(),
            topics,
            registry,
            retention,
            started: Instant::now(),
            running: Mutex::default(),
        })
    }

    /// What the group is.
    pub(crate) fn settings(&self) -> GroupSettings {
        self.settings.to_wire()
    }

    /// A new member, whose jobs come in `inbox`. `None`: the group is closed.
    pub(super) fn join(self: &Arc<Self>, inbox: Arc<Topic>, ear: Arc<dyn Ear>) -> Option<MemberId> {
        let mut state = lock(&self.state);
        if self.closed.load(Ordering::Acquire) || self.failed.get().is_some() {
            return None;
        }
        state.last_member += 1;
        let id = state.last_member;
        state.members.insert(id, Member { inbox, ear });
        if self.store.is_none() && state.gate.is_none() {
            let start = Start::Offset(state.group.floor());
            state.gate = Some(self.topic.ring.cursor(start, Gating::Gated));
        }
        state.group.join(id);
        state.empty_since = None;
        drop(state);
        let mut running = lock(&self.running);
        // The runtime of whoever joined first may be gone.
        if running.as_ref().is_none_or(JoinHandle::is_finished) {
            *running = Some(tokio::spawn(Dispatcher::new(Arc::clone(self))));
        }
        Some(id)
    }

    /// The member is gone; what it holds is handed to others.
    pub(crate) fn leave(&self, id: MemberId) {
        let now = self.now();
        let mut state = lock(&self.state);
        state.group.leave(now, id);
        let member = state.members.remove(&id);
        if state.members.is_empty() {
            state.empty_since = Some(Instant::now());
        }
        drop(state);
        if let Some(member) = member {
            self.topics.remove(&member.inbox.meta.name);
        }
        self.changed.wake();
    }

    /// The member may be handed `messages` more, within `wait_ms` or, if that is 0, whenever there are some.
    pub(crate) fn want(&self, id: MemberId, messages: u32, wait_ms: u32) {
        let wait = (wait_ms > 0).then(|| Duration::from_millis(wait_ms.into()));
        let now = self.now();
        lock(&self.state).group.want(now, id, messages, wait);
        self.changed.wake();
    }

    /// What a member says of its jobs. `told` hears when all of it is recorded at the topic's level.
    pub(crate) fn settle(self: &Arc<Self>, id: MemberId, verdicts: &[WireVerdict], told: Told) {
        if let Some(code) = self.failed.get() {
            return told(vec![*code; verdicts.len()]);
        }
        let now = self.now();
        let mut locked = lock(&self.state);
        let state = &mut *locked;
        let (mut outcomes, mut dying) = (Vec::with_capacity(verdicts.len()), Vec::new());
        for (index, verdict) in verdicts.iter().enumerate() {
            let outcome = state.group.settle(now, id, &verdict_of(verdict));
            if outcome.is_ok() && verdict.action == WireAction::Dead {
                dying.push((verdict.offset, index));
            }
            outcomes.push(outcome.map_or(Code::StaleLease, |()| Code::Normal));
        }
        let delta = state.group.take_delta();
        let is_recorded = delta.is_empty() || self.store.is_none();
        if is_recorded && dying.is_empty() {
            drop(locked);
            told(outcomes);
        } else {
            let parts = dying.len() + usize::from(!is_recorded);
            let settling = Arc::new(Settling::new(parts, outcomes, told));
            for (offset, index) in dying {
                state.waiting.entry(offset).or_default().push((Arc::clone(&settling), index));
            }
            if !is_recorded {
                let shared = Arc::downgrade(self);
                let tell = move |result: Result<(), Code>| {
                    note_failure(&shared, result);
                    settling.part(None, result);
                };
                self.record(state, delta, Box::new(tell));
            }
            drop(locked);
        }
        self.changed.wake();
    }

    /// Records hand-overs; they are sent when that is done.
    pub(super) fn record_hand_overs(
        self: &Arc<Self>,
        state: &mut State,
        delta: Delta,
        handed: Vec<HandOver>,
    ) {
        if self.store.is_none() || delta.is_empty() {
            return lock(&self.recorded).extend(handed);
        }
        let shared = Arc::downgrade(self);
        let send = move |result: Result<(), Code>| {
            note_failure(&shared, result);
            if let (Some(shared), Ok(())) = (shared.upgrade(), result) {
                lock(&shared.recorded).extend(handed);
                shared.changed.wake();
            }
        };
        self.record(state, delta, Box::new(send));
    }

    /// Hands to the store what found no room there before. Everything is recorded in its order.
    pub(super) fn flush(&self, state: &mut State) {
        let Some(store) = &self.store else { return };
        while let Some(next) = state.unrecorded.pop_front() {
            let Unrecorded { delta, floor, recorded } = next;
            if let Err(StoreFull(recorded)) = store.record(&delta, floor, recorded) {
                return state.unrecorded.push_front(Unrecorded { delta, floor, recorded });
            }
        }
    }

    /// As [`Self::buried`], from the store, which may hold the group's lock.
    pub(super) fn note_buried(&self, offset: u64, result: Result<(), Code>) {
        if let Some(code) = lasting(result) {
            let _ = self.failed.set(code);
        }
        lock(&self.graves).push((offset, result));
        self.changed.wake();
    }

    /// The dead letter of a message is stored, or not for this reason.
    pub(super) fn buried(&self, offset: u64, result: Result<(), Code>) {
        let mut state = lock(&self.state);
        if result.is_ok() {
            state.group.buried(offset);
        }
        let waiting = state.waiting.remove(&offset);
        drop(state);
        for (settling, index) in waiting.into_iter().flatten() {
            settling.part(Some(index), result);
        }
        self.changed.wake();
    }

    fn record(&self, state: &mut State, delta: Delta, recorded: Recorded) {
        let floor = state.group.floor();
        state.unrecorded.push_back(Unrecorded { delta, floor, recorded });
        self.flush(state);
    }

    /// Why nothing can be recorded any more.
    pub(super) fn failed(&self) -> Option<Code> {
        self.failed.get().copied()
    }

    /// Nobody can take part any more: every member hears why.
    pub(super) fn close(&self, code: Code, reason: &str) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let members = {
            let mut state = lock(&self.state);
            // Publishers need not wait for a group that is no more.
            state.gate = None;
            std::mem::take(&mut state.members)
        };
        for member in members.values() {
            member.ear.closed(code, reason);
            self.topics.remove(&member.inbox.meta.name);
        }
        if let Some(registry) = self.registry.upgrade() {
            registry.forget(self);
        }
        self.changed.wake();
    }

    /// When publishers need not wait any more for a group that nobody takes part in.
    pub(super) fn deserted_at(&self, state: &State) -> Option<Duration> {
        let deserted = state.empty_since? + self.retention?;
        Some(deserted.saturating_duration_since(self.started))
    }

    /// The group goes on without what publishers overwrite from now on.
    pub(super) fn let_publishers_go(&self, state: &mut State) {
        state.empty_since = None;
        if state.gate.take().is_some() {
            tracing::info!(topic = %self.topic.meta.name, group = self.name,
                "nobody has taken part in a queue group for long: it holds publishers back no more");
        }
    }

    /// Time since the group was made in this process.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// When that time comes.
    pub(super) fn instant(&self, at: Duration) -> Instant {
        self.started + at
    }

    pub(super) fn row(&self) -> QueueRow {
        let mut state = lock(&self.state);
        state.group.extended(self.topic.ring.next());
        let counts = state.group.counts();
        QueueRow {
            topic: self.topic.meta.name.to_string(),
            group: self.name.clone(),
            ready: counts.ready,
            in_flight: counts.in_flight,
            delayed: counts.delayed,
            settled: counts.settled,
            members: counts.members,
            dead: counts.dead,
            missing: counts.missing,
            dead_letters: self.letters.topic.meta.name.to_string(),
        }
    }
}

impl Settling {
    fn new(parts: usize, outcomes: Vec<Code>, told: Told) -> Self {
        Self { left: AtomicUsize::new(parts), outcomes: Mutex::new(outcomes), told: Mutex::new(Some(told)) }
    }

    /// One thing is recorded, or not: the verdict at `index`, or all of them.
    fn part(&self, index: Option<usize>, result: Result<(), Code>) {
        if let Err(code) = result {
            let mut outcomes = lock(&self.outcomes);
            let failed = |outcome: &&mut Code| **outcome == Code::Normal;
            match index {
                Some(index) => outcomes[index] = code,
                None => outcomes.iter_mut().filter(failed).for_each(|outcome| *outcome = code),
            }
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(told) = lock(&self.told).take()
        {
            told(std::mem::take(&mut lock(&self.outcomes)));
        }
    }
}

/// Called by the store, perhaps under the group's lock: the dispatcher does the rest.
fn note_failure(shared: &Weak<QueueGroup>, result: Result<(), Code>) {
    if let (Some(shared), Some(code)) = (shared.upgrade(), lasting(result)) {
        let _ = shared.failed.set(code);
        shared.changed.wake();
    }
}

/// Why nothing can be recorded any more. A full disk may have room again, and nothing was half recorded on it.
fn lasting(result: Result<(), Code>) -> Option<Code> {
    result.err().filter(|code| *code != Code::NoSpace)
}

fn verdict_of(verdict: &WireVerdict) -> Verdict<'_> {
    let delay = Duration::from_millis(verdict.delay_ms.into());
    let action = match verdict.action {
        WireAction::Ack => Action::Ack,
        WireAction::Nack => Action::Nack(delay),
        WireAction::Extend => Action::Extend(delay),
        WireAction::Dead => Action::Dead,
    };
    let WireVerdict { offset, attempt, lease, reason, .. } = verdict;
    Verdict { offset: *offset, attempt: *attempt, lease: *lease, action, reason }
}
