//! One job: a message, the lease on it, and what the worker says became of it.
//!
//! In process a verdict is given straight to the group; over the network it goes with others.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomic_waker::AtomicWaker;
use tokio::sync::oneshot;
use twinlane_proto::Code;
use twinlane_proto::control::{Action, Verdict};
use twinlane_proto::frame::Job as JobOption;

use crate::client::Client;
use crate::client::queue::RemoteMember;
use crate::error::{EndReason, SettleError};
use crate::lock::lock;
use crate::message::Message;
use crate::queue::{Ear, QueueGroup};

/// One job: a message, and the exclusive right to work on it until its lease ends.
///
/// Say [`ack`](Self::ack), [`nack`](Self::nack) or [`dead`](Self::dead) in the end; dropped without a word, its lease
/// runs out and it is handed over again.
pub struct Job {
    message: Message,
    option: JobOption,
    membership: Arc<Membership>,
    /// It counts against the worker's prefetch.
    is_pushed: bool,
}

impl Job {
    pub(crate) fn new(
        message: Message,
        option: JobOption,
        membership: Arc<Membership>,
        is_pushed: bool,
    ) -> Self {
        Self { message, option, membership, is_pushed }
    }

    /// Which hand-over of the message this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.option.attempt
    }

    /// The message's place in its topic.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.option.offset
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// It is done: it is never handed over again in this group. Returns when that is recorded.
    ///
    /// # Errors
    ///
    /// [`SettleError::Stale`]: somebody else has it by now. [`SettleError::Unknown`]: it may be recorded or not.
    pub async fn ack(self) -> Result<(), SettleError> {
        self.settle(Action::Ack, Duration::ZERO, "").await
    }

    /// It is not done: it is handed over again, to another worker if one is free, not before `delay` is over.
    ///
    /// # Errors
    ///
    /// As [`Self::ack`].
    pub async fn nack(self, delay: Duration) -> Result<(), SettleError> {
        self.settle(Action::Nack, delay, "").await
    }

    /// As [`Self::nack`], saying why: the last reason goes with a dead letter. At most 256 bytes are kept.
    ///
    /// # Errors
    ///
    /// As [`Self::ack`].
    pub async fn nack_because(self, delay: Duration, reason: &str) -> Result<(), SettleError> {
        self.settle(Action::Nack, delay, reason).await
    }

    /// It takes longer: the lease begins anew.
    ///
    /// # Errors
    ///
    /// As [`Self::ack`].
    pub async fn extend(&self) -> Result<(), SettleError> {
        self.settle(Action::Extend, Duration::ZERO, "").await
    }

    /// It cannot be done: it becomes a dead letter now. At most 256 bytes of `reason` are kept.
    ///
    /// # Errors
    ///
    /// As [`Self::ack`].
    pub async fn dead(self, reason: &str) -> Result<(), SettleError> {
        self.settle(Action::Dead, Duration::ZERO, reason).await
    }

    async fn settle(&self, action: Action, delay: Duration, reason: &str) -> Result<(), SettleError> {
        let JobOption { lease, offset, attempt, .. } = self.option;
        let delay_ms = u32::try_from(delay.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX);
        let reason = reason.to_owned();
        let answered = self.membership.settle(Verdict { lease, offset, attempt, action, delay_ms, reason });
        // Whoever has the answer gives it, or goes away with its connection.
        answered.await.unwrap_or(Err(SettleError::Unknown))
    }
}

impl Deref for Job {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.is_pushed {
            self.membership.give_back();
        }
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("message", &self.message).field("attempt", &self.attempt()).finish()
    }
}

/// What the jobs and the queue of one membership share.
pub(crate) struct Membership {
    whose: Whose,
    /// Jobs that were pushed and are out of the application's hands, for which as many may be pushed again.
    given_back: AtomicU32,
    /// So many are asked for together.
    renew_at: u32,
    has_left: AtomicBool,
}

pub(crate) enum Whose {
    Local { group: Arc<QueueGroup>, member: u64, events: Arc<MemberEvents> },
    Remote { client: Arc<Client>, member: Arc<RemoteMember> },
}

impl Membership {
    pub(crate) fn new(whose: Whose, prefetch: u32) -> Self {
        Self {
            whose,
            given_back: AtomicU32::new(0),
            renew_at: (prefetch / 4).max(1),
            has_left: AtomicBool::new(false),
        }
    }

    pub(crate) fn events(&self) -> &Arc<MemberEvents> {
        match &self.whose {
            Whose::Local { events, .. } => events,
            Whose::Remote { member, .. } => &member.events,
        }
    }

    pub(crate) fn want(&self, messages: u32, wait_ms: u32) {
        match &self.whose {
            Whose::Local { group, member, .. } => group.want(*member, messages, wait_ms),
            Whose::Remote { client, member } => client.want(member, messages, wait_ms),
        }
    }

    fn settle(&self, mut verdict: Verdict) -> oneshot::Receiver<Result<(), SettleError>> {
        let reason_bytes = verdict.reason.floor_char_boundary(twinlane_proto::limits::REASON_BYTES_MAX);
        verdict.reason.truncate(reason_bytes);
        match &self.whose {
            Whose::Local { group, member, .. } => {
                let (answer, answered) = oneshot::channel();
                let told = move |outcomes: Vec<Code>| {
                    let outcome = match outcomes.first() {
                        Some(Code::Normal) => Ok(()),
                        Some(Code::StaleLease) | None => Err(SettleError::Stale),
                        Some(code) => Err(SettleError::Refused { code: *code }),
                    };
                    let _ = answer.send(outcome);
                };
                group.settle(*member, std::slice::from_ref(&verdict), Box::new(told));
                answered
            }
            Whose::Remote { client, member } => client.settle(member, verdict),
        }
    }

    /// What is held goes to others. Once.
    pub(crate) fn leave(&self) {
        if self.has_left.swap(true, Ordering::AcqRel) {
            return;
        }
        match &self.whose {
            Whose::Local { group, member, .. } => group.leave(*member),
            Whose::Remote { client, member } => client.leave_queue(member),
        }
    }

    fn give_back(&self) {
        if self.given_back.fetch_add(1, Ordering::AcqRel) + 1 >= self.renew_at {
            self.renew(self.renew_at);
        }
    }

    /// Asks for as many jobs as were given back, if these are at least `least`.
    pub(crate) fn renew(&self, least: u32) {
        let enough = |given: u32| (given >= least).then_some(0);
        if let Ok(given) = self.given_back.fetch_update(Ordering::AcqRel, Ordering::Acquire, enough)
            && given > 0
        {
            self.want(given, 0);
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.leave();
    }
}

/// What a member hears besides its jobs.
#[derive(Default)]
pub(crate) struct MemberEvents {
    state: Mutex<EventState>,
    pub(crate) reader: AtomicWaker,
}

#[derive(Default)]
struct EventState {
    wants_ended: u32,
    unused: u64,
    end: Option<EndReason>,
}

impl MemberEvents {
    pub(crate) fn end(&self) -> Option<EndReason> {
        lock(&self.state).end.clone()
    }

    /// Wants that ended since the last call, and messages of them that will not come.
    pub(crate) fn take_ended(&self) -> (u32, u64) {
        let mut state = lock(&self.state);
        (std::mem::take(&mut state.wants_ended), std::mem::take(&mut state.unused))
    }
}

impl Ear for MemberEvents {
    fn want_ended(&self, unused: u32) {
        let mut state = lock(&self.state);
        state.wants_ended += 1;
        state.unused += u64::from(unused);
        drop(state);
        self.reader.wake();
    }

    fn closed(&self, code: Code, reason: &str) {
        lock(&self.state).end.get_or_insert_with(|| EndReason { code, reason: reason.to_owned() });
        self.reader.wake();
    }
}
