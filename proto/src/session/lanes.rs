//! The open lanes of a session: which numbers are in use, how many, and what may still be received.
//!
//! Both sides follow the same control messages, the client as it sends requests and receives answers, the
//! server the other way round, so both know the same lanes.

use std::collections::HashMap;
use std::fmt;

use super::{ProtocolError, SessionConfig};
use crate::control::{
    ClosePublisher, Control, Credit, Failed, JoinQueue, LeaveQueue, MemberClosed, OpenPublisher,
    PublisherClosed, PublisherOpened, QueueJoined, Settle, Settled, Subscribe, Subscribed, Unsubscribed,
    Want, Wanted,
};
use crate::numbered::Numbered;

/// What a lane is. Each kind is numbered apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LaneKind {
    /// Runs from server to client.
    Subscription,
    /// Runs from client to server.
    Publisher,
    /// A member of a queue group. No runs: its jobs come on the subscription to its inbox.
    Member,
}

impl fmt::Display for LaneKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Subscription => "subscription",
            Self::Publisher => "publisher",
            Self::Member => "queue member",
        })
    }
}

/// What became of a message that may open a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Open {
    /// The lanes are up to date.
    Followed,
    /// It is about a member that is not open: it was under way, or about to be sent, when the member closed.
    Stale,
    /// The lane was not opened: too many are.
    Full { request: u32, kind: LaneKind, max: usize },
}

/// A credit that is never used up.
const UNLIMITED: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct Lanes {
    subscriptions: Table,
    publishers: Table,
    members: Table,
    /// Requests that opened a lane and were not answered.
    pending: HashMap<u32, (LaneKind, u32)>,
}

#[derive(Debug)]
struct Table {
    lanes: Numbered<Lane>,
    max: usize,
}

#[derive(Debug)]
struct Lane {
    request: u32,
    /// Bytes that this side still allows the peer to send on it.
    credit_bytes: u64,
    /// Bytes that its last frame was larger than the credit it began with; later credit pays them first.
    debt_bytes: u64,
}

impl Lanes {
    pub(super) fn new(config: &SessionConfig) -> Self {
        let table = |max| Table { lanes: Numbered::default(), max };
        Self {
            subscriptions: table(config.subscriptions_max),
            publishers: table(config.publishers_max),
            members: table(config.members_max),
            pending: HashMap::new(),
        }
    }

    /// Brings the lanes up to date with a message sent or received.
    pub(super) fn follow(&mut self, control: &Control) -> Result<Open, ProtocolError> {
        match *control {
            Control::Subscribe(Subscribe { request, subscription, .. }) => {
                return self.open(LaneKind::Subscription, request, subscription);
            }
            Control::OpenPublisher(OpenPublisher { request, publisher, .. }) => {
                return self.open(LaneKind::Publisher, request, publisher);
            }
            Control::JoinQueue(JoinQueue { request, member, .. }) => {
                return self.open(LaneKind::Member, request, member);
            }
            Control::Want(Want { member, .. })
            | Control::Settle(Settle { member, .. })
            | Control::LeaveQueue(LeaveQueue { member })
            | Control::Wanted(Wanted { member, .. })
            | Control::Settled(Settled { member, .. })
            | Control::MemberClosed(MemberClosed { member, .. })
                if !self.members.lanes.contains_key(&member) =>
            {
                return Ok(Open::Stale);
            }
            Control::MemberClosed(MemberClosed { member, .. }) => self.close(LaneKind::Member, member),
            Control::Subscribed(Subscribed { request, .. })
            | Control::QueueJoined(QueueJoined { request, .. })
            | Control::PublisherOpened(PublisherOpened { request, .. }) => {
                self.pending.remove(&request);
            }
            Control::Failed(Failed { request, .. }) => {
                if let Some((kind, lane)) = self.pending.remove(&request) {
                    self.table(kind).lanes.remove(&lane);
                }
            }
            Control::Unsubscribed(Unsubscribed { subscription, .. }) => {
                self.close(LaneKind::Subscription, subscription);
            }
            Control::ClosePublisher(ClosePublisher { publisher, .. })
            | Control::PublisherClosed(PublisherClosed { publisher, .. }) => {
                self.close(LaneKind::Publisher, publisher);
            }
            _ => {}
        }
        Ok(Open::Followed)
    }

    /// Notes the credit that a message of ours gives the peer for runs on lanes of this kind.
    pub(super) fn grant(&mut self, kind: LaneKind, control: &Control) {
        let (lane, bytes) = match (kind, control) {
            (LaneKind::Subscription, Control::Subscribe(subscribe)) => {
                (subscribe.subscription, subscribe.credit_bytes)
            }
            (LaneKind::Publisher, Control::PublisherOpened(opened)) => {
                (opened.publisher, opened.credit_bytes)
            }
            (_, Control::Credit(Credit { lane, bytes })) => (*lane, *bytes),
            _ => return,
        };
        if let Some(lane) = self.table(kind).lanes.get_mut(&lane) {
            let paid_bytes = lane.debt_bytes.min(bytes);
            lane.debt_bytes -= paid_bytes;
            lane.credit_bytes = lane.credit_bytes.saturating_add(bytes - paid_bytes);
        }
    }

    /// Takes the credit for `bytes` that came on a lane: while any is left, one frame may be larger. One that is not
    /// open is not judged: frames may have been under way when it closed.
    #[inline]
    pub(super) fn spend(&mut self, kind: LaneKind, lane: u32, bytes: usize) -> Result<(), ProtocolError> {
        let Some(open) = self.table(kind).lanes.get_mut(&lane) else { return Ok(()) };
        if open.credit_bytes == UNLIMITED {
            return Ok(());
        }
        let (bytes_taken, credit_bytes) = (bytes as u64, open.credit_bytes);
        if credit_bytes == 0 && bytes > 0 {
            return Err(ProtocolError::CreditExceeded { kind, lane, bytes, credit_bytes });
        }
        open.credit_bytes = credit_bytes.saturating_sub(bytes_taken);
        open.debt_bytes = bytes_taken.saturating_sub(credit_bytes);
        Ok(())
    }

    pub(super) fn clear(&mut self) {
        self.subscriptions.lanes.clear();
        self.publishers.lanes.clear();
        self.members.lanes.clear();
        self.pending.clear();
    }

    fn open(&mut self, kind: LaneKind, request: u32, lane: u32) -> Result<Open, ProtocolError> {
        if self.pending.contains_key(&request) {
            return Err(ProtocolError::DuplicateRequest { request });
        }
        let table = self.table(kind);
        if table.lanes.contains_key(&lane) {
            return Err(ProtocolError::DuplicateLane { kind, lane });
        }
        if table.lanes.len() >= table.max {
            return Ok(Open::Full { request, kind, max: table.max });
        }
        table.lanes.insert(lane, Lane { request, credit_bytes: 0, debt_bytes: 0 });
        self.pending.insert(request, (kind, lane));
        Ok(Open::Followed)
    }

    fn close(&mut self, kind: LaneKind, lane: u32) {
        if let Some(closed) = self.table(kind).lanes.remove(&lane) {
            // Unless answered; a later request may have the same number then.
            if self.pending.get(&closed.request) == Some(&(kind, lane)) {
                self.pending.remove(&closed.request);
            }
        }
    }

    fn table(&mut self, kind: LaneKind) -> &mut Table {
        match kind {
            LaneKind::Subscription => &mut self.subscriptions,
            LaneKind::Publisher => &mut self.publishers,
            LaneKind::Member => &mut self.members,
        }
    }
}
