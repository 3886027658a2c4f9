//! A queue member on another machine: what it says of its jobs goes out in batches, and what the server answers.
//!
//! It ends with its connection: what was under way then is unknown, and whoever owns it joins again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::oneshot;
use tokio::time::Instant;
use twinlane_proto::control::{
    GroupSettings, JoinQueue, LeaveQueue, QueueJoined, Settle, Settled, Verdict, Want,
};
use twinlane_proto::limits::VERDICTS_MAX;
use twinlane_proto::{Code, Control, TopicSpec};

use super::ClientCore;
use crate::error::{OpenError, SettleError};
use crate::job::MemberEvents;
use crate::link::Link;
use crate::lock::lock;
use crate::queue::Ear as _;

/// Batches of verdicts without an answer at most: enough to fill the way there and back, few enough to stay batches.
const BATCHES_MAX: usize = 8;
/// Verdicts that wait for a batch at most. Each is a call that waits for its answer.
const PENDING_MAX: usize = 65_536;

type Answer = oneshot::Sender<Result<(), SettleError>>;

pub(crate) struct RemoteMember {
    pub(crate) lane: u32,
    pub(crate) events: Arc<MemberEvents>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The connection it was joined on.
    link: Weak<Link>,
    pending: VecDeque<(Verdict, Answer)>,
    /// Batches without an answer, by request.
    under_way: HashMap<u32, Vec<Answer>>,
    is_over: bool,
}

/// What to join, on every connection anew.
#[derive(Clone)]
pub(crate) struct Application {
    pub(crate) topic: String,
    pub(crate) group: String,
    pub(crate) spec: Option<TopicSpec>,
    pub(crate) settings: GroupSettings,
}

impl ClientCore {
    /// Takes part in a queue group, on the next connection if this one is lost.
    pub(crate) async fn join_queue(
        &self,
        application: &Application,
    ) -> Result<(Arc<RemoteMember>, QueueJoined), OpenError> {
        let deadline = Instant::now() + self.options.outcome_timeout;
        loop {
            let link = self.connected(deadline).await?;
            // A number for each connection: the server may not have noticed the end of the last one.
            let lane = self.next_lane();
            let state = Mutex::new(State { link: Arc::downgrade(&link), ..State::default() });
            let member = Arc::new(RemoteMember { lane, events: Arc::default(), state });
            lock(&self.state).members.insert(lane, Arc::clone(&member));
            let ask = |request| application.ask(request, lane);
            let answer = self.request_on(&link, ask, deadline).await;
            match answer {
                Ok(Some(Control::QueueJoined(joined))) => return Ok((member, joined)),
                Ok(_) => drop(lock(&self.state).members.remove(&lane)),
                Err(error) => {
                    lock(&self.state).members.remove(&lane);
                    return Err(error);
                }
            }
        }
    }

    /// `link` is over: so are its members.
    pub(super) fn lose_members(&self, link: &Arc<Link>) {
        let link = Arc::downgrade(link);
        let mut state = lock(&self.state);
        let lost: Vec<_> =
            state.members.values().filter(|member| lock(&member.state).link.ptr_eq(&link)).cloned().collect();
        lost.iter().for_each(|member| drop(state.members.remove(&member.lane)));
        drop(state);
        lost.iter().for_each(|member| member.end(Code::Closed, "the connection was lost"));
    }

    /// What the server says to or of a member.
    pub(super) fn member(&self, lane: u32) -> Option<Arc<RemoteMember>> {
        lock(&self.state).members.get(&lane).cloned()
    }

    /// The server ended a membership, or confirms its end.
    pub(super) fn member_closed(&self, lane: u32, code: Code, reason: &str) {
        let member = lock(&self.state).members.remove(&lane);
        member.inspect(|member| member.end(code, reason));
    }

    pub(crate) fn settle(
        &self,
        member: &RemoteMember,
        verdict: Verdict,
    ) -> oneshot::Receiver<Result<(), SettleError>> {
        let (answer, answered) = oneshot::channel();
        let mut state = lock(&member.state);
        if state.is_over {
            let _ = answer.send(Err(SettleError::Stale));
        } else if state.pending.len() >= PENDING_MAX {
            let _ = answer.send(Err(SettleError::Refused { code: Code::LimitReached }));
        } else {
            state.pending.push_back((verdict, answer));
            self.send_verdicts(member.lane, &mut state);
        }
        answered
    }

    pub(super) fn settled(&self, settled: &Settled) {
        let Some(member) = self.member(settled.member) else { return };
        let mut state = lock(&member.state);
        let answers = state.under_way.remove(&settled.request).unwrap_or_default();
        self.send_verdicts(member.lane, &mut state);
        drop(state);
        for (answer, code) in answers.into_iter().zip(&settled.outcomes) {
            let _ = answer.send(match *code {
                Code::Normal => Ok(()),
                Code::StaleLease => Err(SettleError::Stale),
                code => Err(SettleError::Refused { code }),
            });
        }
    }

    pub(crate) fn want(&self, member: &RemoteMember, messages: u32, wait_ms: u32) {
        if let Some(link) = lock(&member.state).link.upgrade() {
            link.send(Control::Want(Want { member: member.lane, messages, wait_ms }));
        }
    }

    /// Leaves; what was said before is still answered.
    pub(crate) fn leave_queue(&self, member: &RemoteMember) {
        let link = lock(&member.state).link.upgrade().filter(|link| !link.is_over());
        match link {
            Some(link) => link.send(Control::LeaveQueue(LeaveQueue { member: member.lane })),
            None => drop(lock(&self.state).members.remove(&member.lane)),
        }
    }

    /// Sends what is pending, as much together as possible while others are under way.
    fn send_verdicts(&self, lane: u32, state: &mut State) {
        let Some(link) = state.link.upgrade() else { return };
        while !state.pending.is_empty() && state.under_way.len() < BATCHES_MAX {
            let count = state.pending.len().min(VERDICTS_MAX);
            let (verdicts, answers) = state.pending.drain(..count).unzip();
            let request = self.next_request.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            state.under_way.insert(request, answers);
            link.send(Control::Settle(Settle { request, member: lane, verdicts }));
        }
    }
}

impl RemoteMember {
    /// No jobs come any more, and what was under way is unknown.
    pub(super) fn end(&self, code: Code, reason: &str) {
        let (pending, under_way) = {
            let mut state = lock(&self.state);
            state.is_over = true;
            (std::mem::take(&mut state.pending), std::mem::take(&mut state.under_way))
        };
        for (_, answer) in pending {
            let _ = answer.send(Err(SettleError::Stale));
        }
        for answer in under_way.into_values().flatten() {
            let _ = answer.send(Err(SettleError::Unknown));
        }
        self.events.closed(code, reason);
    }
}

impl Application {
    fn ask(&self, request: u32, member: u32) -> Control {
        let Self { topic, group, spec, settings } = self.clone();
        Control::JoinQueue(JoinQueue { request, member, topic, group, spec, settings })
    }
}
