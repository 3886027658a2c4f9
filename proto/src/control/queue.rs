//! Control messages of queue groups: who takes part, how many jobs they want, and what became of them.
//!
//! Jobs themselves are messages with a [`Job`](crate::frame::Job) option in the member's inbox topic; which job
//! goes to whom, and whether a lease is still good, is the server's business.

use super::wire::{Body, Field, Reader, body, byte_enum};
use super::{ControlError, Start};
use crate::Code;
use crate::limits::{GROUP_BYTES_MAX, REASON_BYTES_MAX, TOPIC_BYTES_MAX, VERDICTS_MAX};
use crate::topic::TopicSpec;

/// Becomes a member of a queue group. Answered by [`QueueJoined`] or `Failed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinQueue {
    /// Chosen by the client, comes back in the answer.
    pub request: u32,
    /// The member's lane, chosen by the client, not in use for another member.
    pub member: u32,
    /// Name of the topic whose messages are the jobs; not yet checked to be one.
    pub topic: String,
    /// Name of the group on that topic: 1 to 64 bytes that fit in a log line.
    pub group: String,
    /// Declares the topic if it does not exist; must agree with it if it does.
    pub spec: Option<TopicSpec>,
    /// What the group should be; must agree with it if it exists.
    pub settings: GroupSettings,
}
body!(JoinQueue {
    request,
    member,
    topic: text(TOPIC_BYTES_MAX),
    group: word(GROUP_BYTES_MAX),
    spec,
    settings,
});

/// What a queue group is. Zero, `None` and an empty name mean "no opinion": what the group already has, or the
/// server's default if it is new.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupSettings {
    /// A lease ends after this many milliseconds unless it was settled or extended.
    pub ack_wait_ms: u32,
    /// Hand-overs of one message at most; then it goes to the dead letters.
    pub max_deliver: u32,
    /// Messages that may be handed over and not settled at once, in the whole group.
    pub max_in_flight: u32,
    /// The same for messages of one key; 1 keeps their order.
    pub max_in_flight_per_key: u32,
    /// Where a new group begins.
    pub start: Option<Start>,
    /// Name of the topic for dead letters; not yet checked to be one.
    pub dead_letter: String,
}
body!(GroupSettings {
    ack_wait_ms,
    max_deliver,
    max_in_flight,
    max_in_flight_per_key,
    start,
    dead_letter: text(TOPIC_BYTES_MAX),
});

impl Field for GroupSettings {
    fn put(&self, _what: &'static str, out: &mut Vec<u8>) -> Result<(), ControlError> {
        Body::put(self, out)
    }

    fn take(_what: &'static str, from: &mut Reader<'_>) -> Result<Self, ControlError> {
        Body::take(from)
    }
}

/// The member takes part. Its jobs come as messages of its inbox: subscribe to it, then [`Want`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueJoined {
    /// Number of the request.
    pub request: u32,
    /// The member's lane.
    pub member: u32,
    /// Server-wide number of the topic.
    pub topic: u32,
    /// Epoch of the topic.
    pub epoch: u64,
    /// Name of the topic that carries this member's jobs and nobody else may read.
    pub inbox: String,
    /// What the group is, nothing left open.
    pub settings: GroupSettings,
}
body!(QueueJoined { request, member, topic, epoch, inbox: text(TOPIC_BYTES_MAX), settings });

/// The member may be handed so many more messages. Wants add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// The member's lane.
    pub member: u32,
    /// How many more.
    pub messages: u32,
    /// After this many milliseconds what was not handed over is not wanted any more, and [`Wanted`] says so; 0:
    /// wanted until handed over.
    pub wait_ms: u32,
}
body!(Want { member, messages, wait_ms });

/// A [`Want`] with a time ended: all of it was handed over, or its time was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The member's lane.
    pub member: u32,
    /// How many of its messages were not handed over.
    pub unused: u32,
}
body!(Wanted { member, unused });

/// What became of jobs. Answered by one [`Settled`] when all of it is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settle {
    /// Chosen by the client, comes back in the answer.
    pub request: u32,
    /// The member's lane.
    pub member: u32,
    /// What became of each; at most 1,000.
    pub verdicts: Vec<Verdict>,
}
body!(Settle { request, member, verdicts: list(VERDICTS_MAX) });

/// What became of one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The lease it was handed over under.
    pub lease: [u8; 16],
    /// Its offset.
    pub offset: u64,
    /// The attempt it was.
    pub attempt: u32,
    /// What to do with it.
    pub action: Action,
    /// With [`Action::Nack`]: milliseconds until it may be handed over again.
    pub delay_ms: u32,
    /// Why, for people: the last error, kept with a dead letter; at most 256 bytes, longer ones are cut.
    pub reason: String,
}
body!(Verdict { lease, offset, attempt, action, delay_ms, reason: line(REASON_BYTES_MAX) });

/// What to do with a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Done: never hand it over again in this group.
    Ack,
    /// Not done: hand it over again.
    Nack,
    /// Still at it: the lease begins anew.
    Extend,
    /// Cannot be done: put it with the dead letters now.
    Dead,
}
byte_enum!(Action { Ack = 0, Nack = 1, Extend = 2, Dead = 3 });

/// Verdicts are recorded at the topic's level, or refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Number of the request.
    pub request: u32,
    /// The member's lane.
    pub member: u32,
    /// For each verdict in its order: [`Code::Normal`], or why nothing changed, as [`Code::StaleLease`].
    pub outcomes: Vec<Code>,
}
body!(Settled { request, member, outcomes: list(VERDICTS_MAX) });

impl Body for Code {
    fn put(&self, out: &mut Vec<u8>) -> Result<(), ControlError> {
        Field::put(self, "Settled.outcomes", out)
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, ControlError> {
        Field::take("Settled.outcomes", from)
    }
}

/// Ends a membership. Answered by [`MemberClosed`]; what was settled before is answered first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaveQueue {
    /// The member's lane.
    pub member: u32,
}
body!(LeaveQueue { member });

/// A membership ended and with it every lease it had; its lane is free again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberClosed {
    /// The member's lane.
    pub member: u32,
    /// Why, for programs; [`Code::Normal`] if the client asked for it.
    pub code: Code,
    /// Why, for people; at most 256 bytes, longer ones are cut.
    pub reason: String,
}
body!(MemberClosed { member, code, reason: line(REASON_BYTES_MAX) });
