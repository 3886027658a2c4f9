//! The task behind a queue group: looks at the topic, hands messages to members, sends dead letters.
//!
//! It decides nothing: the group does. It never waits for one member, and holds nothing while it sleeps.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Sleep;
use twinlane_proto::Code;
use twinlane_proto::frame::{Job, MessageRef, encode_job_head, stamp_topic};
use twinlane_ring::AppendError;

use super::Ear;
use super::group::{Facts, Group, HandOver, MemberId, Output};
use super::letters::Dying;
use super::reader::{Found, Reader};
use super::shared::{QueueGroup, State};
use super::store::StoreFull;
use crate::lock::lock;
use crate::topics::Topic;

/// Hand-overs that are recorded and sent together at most.
const BATCH: usize = 256;
/// How soon a dead letter is tried again that found the disk full.
const BURY_AGAIN: Duration = Duration::from_secs(1);
/// Rounds before other tasks of the thread get their turn.
const ROUNDS: usize = 16;

pub(super) struct Dispatcher {
    shared: Arc<QueueGroup>,
    /// Reads the messages that come next.
    ahead: Reader,
    /// Reads the messages that are handed over again.
    again: Reader,
    /// Recorded hand-overs that the member's inbox has no room for yet.
    outbox: BTreeMap<MemberId, VecDeque<HandOver>>,
    /// A dead letter that is written and not stored.
    letter: Option<(Dying, Vec<u8>)>,
    /// It is on its way to the store.
    is_burying: bool,
    /// After a full disk.
    bury_again_at: Duration,
    head: Vec<u8>,
    timer: Pin<Box<Sleep>>,
}

/// What a look at the group led to.
#[derive(Default)]
struct Decided {
    /// There is more to do at once.
    more: bool,
    /// When to look again.
    deadline: Option<Duration>,
    /// The topic is closed.
    closed: bool,
}

impl Dispatcher {
    pub(super) fn new(shared: Arc<QueueGroup>) -> Self {
        let reader = || Reader::new(Arc::clone(&shared.topic));
        let (ahead, again) = (reader(), reader());
        Self {
            ahead,
            again,
            outbox: BTreeMap::new(),
            letter: None,
            is_burying: false,
            bury_again_at: Duration::ZERO,
            head: Vec::new(),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            shared,
        }
    }
}

impl Future for Dispatcher {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.shared.changed.register(cx.waker());
        for _ in 0..ROUNDS {
            if this.shared.closed.load(Ordering::Acquire) {
                return Poll::Ready(());
            }
            if let Some(code) = this.shared.failed() {
                this.shared.close(code, "the group's state could not be recorded");
                return Poll::Ready(());
            }
            let decided = this.decide(cx);
            if decided.closed {
                this.shared.close(Code::Closed, "the topic is closed");
                return Poll::Ready(());
            }
            this.take_recorded();
            this.send(cx);
            let buried = this.bury(cx);
            if decided.more || buried {
                continue;
            }
            let bury_again = (this.shared.now() < this.bury_again_at).then_some(this.bury_again_at);
            let deadline = [decided.deadline, bury_again].into_iter().flatten().min();
            if this.sleep(cx, deadline).is_pending() {
                this.ahead.let_go();
                this.again.let_go();
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Dispatcher {
    /// Lets the group decide until it has nothing more to say or a batch is full.
    fn decide(&mut self, cx: &mut Context<'_>) -> Decided {
        let shared = Arc::clone(&self.shared);
        let mut locked = lock(&shared.state);
        let state = &mut *locked;
        shared.flush(state);
        if !state.unrecorded.is_empty() {
            // Nothing is decided that could not be recorded.
            let more = shared.store.as_ref().is_some_and(|store| store.poll_room(cx).is_ready());
            return Decided { more, ..Decided::default() };
        }
        let mut ended = Vec::new();
        let decided = self.ask_group(cx, state, &mut ended);
        let floor = state.group.floor();
        if let Some(gate) = state.gate.as_mut().filter(|gate| gate.position() < floor) {
            gate.seek(floor);
        }
        drop(locked);
        ended.iter().for_each(|(ear, unused)| ear.want_ended(*unused));
        decided
    }

    fn ask_group(
        &mut self,
        cx: &mut Context<'_>,
        state: &mut State,
        ended: &mut Vec<(Arc<dyn Ear>, u32)>,
    ) -> Decided {
        let now = self.shared.now();
        let (mut handed, mut decided) = (Vec::new(), Decided::default());
        state.group.extended(self.shared.topic.ring.next());
        while handed.len() < BATCH && !decided.closed {
            match state.group.poll(now) {
                // These are sent first, while the run they lie in is at hand.
                Output::Look { .. } | Output::Wait(_) if !handed.is_empty() => {
                    decided.more = true;
                    break;
                }
                Output::Look { from, count } => match self.look(cx, &mut state.group, from, count) {
                    Poll::Ready(open) => decided.closed = !open,
                    Poll::Pending => {
                        decided.deadline = state.group.deadline();
                        break;
                    }
                },
                Output::HandOver(hand_over) => handed.push(hand_over),
                Output::Dead { offset, attempts, reason } => {
                    state.dying.push_back(Dying { offset, attempts, reason });
                }
                Output::WantEnded { member, unused } => {
                    let member = state.members.get(&member);
                    ended.extend(member.map(|member| (Arc::clone(&member.ear), unused)));
                }
                Output::Wait(deadline) => {
                    decided.deadline = deadline;
                    let next = state.group.next();
                    if !state.group.is_hungry() || self.ahead.poll(cx, next).is_pending() {
                        break;
                    }
                    state.group.extended(next + 1);
                }
            }
        }
        decided.more |= handed.len() == BATCH;
        let delta = state.group.take_delta();
        self.shared.record_hand_overs(state, delta, handed);
        if let Some(deserted) = self.shared.deserted_at(state) {
            if deserted <= now {
                self.shared.let_publishers_go(state);
            } else {
                decided.deadline = Some(decided.deadline.map_or(deserted, |deadline| deadline.min(deserted)));
            }
        }
        decided
    }

    /// Tells the group of the next messages. `false`: the topic is closed.
    fn look(&mut self, cx: &mut Context<'_>, group: &mut Group, from: u64, count: u64) -> Poll<bool> {
        let clock = Clock { now: self.shared.now(), unix_us: unix_us() };
        match std::task::ready!(self.ahead.poll(cx, from)) {
            Found::Message(_) => {
                let there = (from..from + count).map_while(|offset| self.ahead.message(offset));
                group.look(clock.now, from, there.map(|message| Some(clock.facts(&message))));
            }
            Found::Gone { to } => group.look_past(to),
            Found::Closed => return Poll::Ready(false),
        }
        Poll::Ready(true)
    }

    fn take_recorded(&mut self) {
        let graves = std::mem::take(&mut *lock(&self.shared.graves));
        for (offset, result) in graves {
            self.told_of_burial(offset, result);
        }
        for hand_over in std::mem::take(&mut *lock(&self.shared.recorded)) {
            self.outbox.entry(hand_over.member).or_default().push_back(hand_over);
        }
    }

    /// Sends what is recorded to whoever has room for it.
    fn send(&mut self, cx: &mut Context<'_>) {
        if self.outbox.is_empty() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let mut state = lock(&shared.state);
        let mut outbox = std::mem::take(&mut self.outbox);
        outbox.retain(|id, queue| {
            let Some(inbox) = state.members.get(id).map(|member| Arc::clone(&member.inbox)) else {
                return false;
            };
            let is_done = self.send_to(cx, &mut state.group, &inbox, queue);
            if is_done {
                state.group.resume(*id);
            } else {
                state.group.pause(*id);
            }
            !is_done
        });
        self.outbox = outbox;
    }

    /// Whether all of `queue` was sent.
    fn send_to(
        &mut self,
        cx: &mut Context<'_>,
        group: &mut Group,
        inbox: &Topic,
        queue: &mut VecDeque<HandOver>,
    ) -> bool {
        while let Some(hand_over) = queue.front() {
            let HandOver { offset, attempt, lease, .. } = *hand_over;
            if !group.is_live(hand_over) {
                queue.pop_front();
                continue;
            }
            let message = match self.ahead.message(offset) {
                Some(message) => message,
                None => match self.again.poll(cx, offset) {
                    Poll::Ready(Found::Message(message)) => message,
                    Poll::Ready(Found::Gone { .. } | Found::Closed) => {
                        group.gone(offset);
                        queue.pop_front();
                        continue;
                    }
                    Poll::Pending => return false,
                },
            };
            let job = Job { lease, offset, epoch: self.shared.topic.meta.epoch, attempt };
            self.head.clear();
            let encoded = encode_job_head(&message, &job, &mut self.head);
            encoded.expect("a stored message has room for what makes it a job");
            stamp_topic(&mut self.head, inbox.meta.id);
            match inbox.ring.append(&[&self.head, message.payload()], |_, _| ()) {
                Ok(_) => drop(queue.pop_front()),
                Err(AppendError::Full) if inbox.ring.poll_room(cx).is_pending() => return false,
                Err(AppendError::Full) => {}
                // The member is about to leave.
                Err(_) => queue.clear(),
            }
        }
        true
    }

    /// Stores the next dead letter. Whether that changed anything.
    fn bury(&mut self, cx: &mut Context<'_>) -> bool {
        let shared = Arc::clone(&self.shared);
        if self.letter.is_none() {
            let Some(dying) = lock(&shared.state).dying.front().cloned() else { return false };
            let Poll::Ready(found) = self.again.poll(cx, dying.offset) else { return false };
            let Found::Message(message) = found else {
                tracing::warn!(topic = %shared.topic.meta.name, group = shared.name, offset = dying.offset,
                    "a message was gone before it could become a dead letter");
                let mut state = lock(&shared.state);
                state.dying.pop_front();
                state.group.gone(dying.offset);
                return true;
            };
            let letter = shared.letters.write(&shared.topic, &message, &dying);
            let letter = letter.expect("the dead-letter topic takes whatever this topic takes");
            self.letter = Some((dying, letter));
        }
        let Some((Dying { offset, .. }, letter)) = &self.letter else { return false };
        let offset = *offset;
        let Some(store) = &shared.store else {
            let ring = &shared.letters.topic.ring;
            match ring.append(&[letter], |_, _| ()) {
                Err(AppendError::Full) => return ring.poll_room(cx).is_ready(),
                Ok(_) => self.told_of_burial(offset, Ok(())),
                Err(_) => self.told_of_burial(offset, Err(Code::Closed)),
            }
            return true;
        };
        if self.is_burying || shared.now() < self.bury_again_at {
            return false;
        }
        let later = Arc::downgrade(&shared);
        let told = move |result| {
            if let Some(shared) = later.upgrade() {
                shared.note_buried(offset, result);
            }
        };
        match store.bury(&Group::dead_delta(offset), &shared.letters.topic, letter, Box::new(told)) {
            Ok(()) => self.is_burying = true,
            Err(StoreFull(_)) => return store.poll_room(cx).is_ready(),
        }
        false
    }

    /// The dead letter under way is stored, or is tried again later.
    fn told_of_burial(&mut self, offset: u64, result: Result<(), Code>) {
        self.is_burying = false;
        if result == Err(Code::NoSpace) {
            self.bury_again_at = self.shared.now() + BURY_AGAIN;
            return;
        }
        self.letter = None;
        lock(&self.shared.state).dying.pop_front();
        self.shared.buried(offset, result);
    }

    fn sleep(&mut self, cx: &mut Context<'_>, deadline: Option<Duration>) -> Poll<()> {
        let Some(deadline) = deadline else { return Poll::Pending };
        let deadline = self.shared.instant(deadline);
        if self.timer.deadline() != deadline {
            self.timer.as_mut().reset(deadline);
        }
        self.timer.as_mut().poll(cx)
    }
}

/// One moment by both clocks.
struct Clock {
    now: Duration,
    unix_us: u64,
}

impl Clock {
    fn facts(&self, message: &MessageRef<'_>) -> Facts {
        let options = message.fixed_options();
        let wait = options.due_us.map(|due| Duration::from_micros(due.saturating_sub(self.unix_us)));
        Facts { key: options.key, due: wait.map(|wait| self.now + wait) }
    }
}

fn unix_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
