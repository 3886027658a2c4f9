//! Control messages that only a server sends.

use std::fmt;

use super::ControlError;
use super::wire::{Field, Reader, body, byte_enum};
use crate::Code;
use crate::limits::{MESSAGE_BYTES_MAX, PEER_NAME_BYTES_MAX, REASON_BYTES_MAX, TOPIC_BYTES_MAX};
use crate::topic::TopicSpec;

/// Accepts the client. The first message of every server. `Debug` does not print the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The version both sides speak from now on.
    pub version: u16,
    /// The abilities both sides have.
    pub capabilities: u64,
    /// Number of the session.
    pub session: [u8; 16],
    /// Lets the client continue the session; a new one at each hello, good for one use.
    pub secret: [u8; 16],
    /// Whether this continues the session the client asked for.
    pub resumed: bool,
    /// Name of the server, for the client's logs; at most 64 bytes, longer ones are cut.
    pub server: String,
    /// After this long without traffic the server pings, in milliseconds; clients do as the server does.
    pub ping_interval_ms: u32,
    /// The largest frame the server accepts, in bytes.
    pub frame_bytes_max: u32,
}
body!(Welcome {
    version,
    capabilities,
    session,
    secret,
    resumed,
    server: line(PEER_NAME_BYTES_MAX),
    ping_interval_ms,
    frame_bytes_max,
});

impl fmt::Debug for Welcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let session = u128::from_be_bytes(self.session);
        f.debug_struct("Welcome")
            .field("version", &self.version)
            .field("capabilities", &self.capabilities)
            .field("session", &format_args!("{session:032x}"))
            .field("resumed", &self.resumed)
            .field("server", &self.server)
            .field("ping_interval_ms", &self.ping_interval_ms)
            .field("frame_bytes_max", &self.frame_bytes_max)
            .finish_non_exhaustive()
    }
}

/// The topic exists as declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Number of the request.
    pub request: u32,
    /// Server-wide number of the topic.
    pub topic: u32,
    /// Epoch of the topic.
    pub epoch: u64,
    /// What it is, defaults filled in.
    pub spec: TopicSpec,
}
body!(Declared { request, topic, epoch, spec });

/// The publisher stream is open; runs may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublisherOpened {
    /// Number of the request.
    pub request: u32,
    /// The publisher's lane.
    pub publisher: u32,
    /// Server-wide number of the topic.
    pub topic: u32,
    /// Number of the stream, unique per topic.
    pub source: u32,
    /// Epoch of the topic.
    pub epoch: u64,
    /// Highest seq of this stream already stored or refused; the client goes on with the next.
    pub last_seq: u64,
    /// What the topic is, defaults filled in.
    pub spec: TopicSpec,
    /// Bytes of frames the client may send before more [`Credit`](super::Credit). `u64::MAX`: not
    /// limited, as on every fast topic.
    pub credit_bytes: u64,
}
body!(PublisherOpened { request, publisher, topic, source, epoch, last_seq, spec, credit_bytes });

/// `count` messages from `first_seq` on are stored at dense offsets from `first_offset` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acked {
    /// The publisher's lane.
    pub publisher: u32,
    /// Seq of the first of them.
    pub first_seq: u64,
    /// How many.
    pub count: u32,
    /// Offset of the first of them.
    pub first_offset: u64,
    /// How safely they are stored.
    pub level: Level,
}
body!(Acked { publisher, first_seq, count, first_offset, level });

/// How safely a message is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// In the server's memory: survives the loss of any client or network.
    Memory,
    /// On the server's disk: also survives the server's crash and power loss.
    Disk,
    /// Confirmed by the distributed engine: also survives the loss of the server.
    Replicated,
}
byte_enum!(Level { Memory = 0, Disk = 1, Replicated = 2 });

/// `count` messages from `first_seq` on are certainly not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The publisher's lane.
    pub publisher: u32,
    /// Seq of the first of them.
    pub first_seq: u64,
    /// How many.
    pub count: u32,
    /// Why.
    pub code: Code,
}
body!(Refused { publisher, first_seq, count, code });

/// No more messages of this publisher are accepted, by the server's decision; its lane is free again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublisherClosed {
    /// The publisher's lane.
    pub publisher: u32,
    /// Why, for programs.
    pub code: Code,
    /// Why, for people; at most 256 bytes, longer ones are cut.
    pub reason: String,
}
body!(PublisherClosed { publisher, code, reason: line(REASON_BYTES_MAX) });

/// The subscription stands; a [`TopicBound`] follows for each topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// Number of the request.
    pub request: u32,
    /// The subscription's lane.
    pub subscription: u32,
}
body!(Subscribed { request, subscription });

/// A topic belongs to a subscription from now on. Comes before its first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicBound {
    /// The subscription's lane.
    pub subscription: u32,
    /// Server-wide number of the topic.
    pub topic: u32,
    /// Name of the topic.
    pub name: String,
    /// Epoch of the topic.
    pub epoch: u64,
    /// What the topic is, defaults filled in.
    pub spec: TopicSpec,
    /// First offset that will come.
    pub next_offset: u64,
    /// Publisher streams with this number or a higher one began after the subscription: their first message to come
    /// has seq 1.
    pub next_source: u32,
    /// How that continues what the client had.
    pub outcome: Outcome,
}
body!(TopicBound {
    subscription,
    topic,
    name: text(TOPIC_BYTES_MAX),
    epoch,
    spec,
    next_offset,
    next_source,
    outcome,
});

/// How a subscription continues on a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It begins; there was no position, or one of another epoch.
    Fresh,
    /// It continues exactly where it was.
    Resumed,
    /// It continues after this many messages that are no longer kept.
    Gap(u64),
}

impl Field for Outcome {
    fn put(&self, what: &'static str, out: &mut Vec<u8>) -> Result<(), ControlError> {
        match self {
            Self::Fresh => 0u8.put(what, out),
            Self::Resumed => 1u8.put(what, out),
            Self::Gap(messages) => {
                2u8.put(what, out)?;
                messages.put(what, out)
            }
        }
    }

    fn take(what: &'static str, from: &mut Reader<'_>) -> Result<Self, ControlError> {
        match u8::take(what, from)? {
            0 => Ok(Self::Fresh),
            1 => Ok(Self::Resumed),
            2 => u64::take(what, from).map(Self::Gap),
            value => Err(ControlError::Value { what, value: value.into() }),
        }
    }
}

/// Offsets `from_offset..to_offset` of a topic will not come on this subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The subscription's lane.
    pub subscription: u32,
    /// Server-wide number of the topic.
    pub topic: u32,
    /// First of them.
    pub from_offset: u64,
    /// The one after the last of them.
    pub to_offset: u64,
    /// Why.
    pub cause: GapCause,
}
body!(Gap { subscription, topic, from_offset, to_offset, cause });

/// Why messages did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GapCause {
    /// They were older than the topic keeps.
    Retention,
    /// An operator removed them.
    Purge,
    /// The subscriber may not see them.
    Permission,
    /// The network lost them.
    Lost,
    /// They came after newer ones.
    Late,
    /// They waited beyond their deadline.
    Expired,
    /// A newer message of the same key replaced them.
    Coalesced,
    /// The subscriber read too slowly.
    DroppedSlow,
    /// Their publisher failed while writing them.
    Abandoned,
    /// There was no connection to send them on, and no room to keep them for the next one.
    NoRoute,
}
impl fmt::Display for GapCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Retention => "older than the topic keeps",
            Self::Purge => "removed by an operator",
            Self::Permission => "not permitted",
            Self::Lost => "lost on the network",
            Self::Late => "came too late",
            Self::Expired => "deadline passed",
            Self::Coalesced => "replaced by newer ones",
            Self::DroppedSlow => "this subscriber read too slowly",
            Self::Abandoned => "given up by their publisher",
            Self::NoRoute => "there was no connection",
        })
    }
}

byte_enum!(GapCause {
    Retention = 0,
    Purge = 1,
    Permission = 2,
    Lost = 3,
    Late = 4,
    Expired = 5,
    Coalesced = 6,
    DroppedSlow = 7,
    Abandoned = 8,
    NoRoute = 9,
});

/// A publisher stream of a subscribed fast topic ended, so that a lost tail can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamEnd {
    /// The subscription's lane.
    pub subscription: u32,
    /// Server-wide number of the topic.
    pub topic: u32,
    /// Number of the publisher stream.
    pub source: u32,
    /// Seq of its last message.
    pub last_seq: u64,
}
body!(StreamEnd { subscription, topic, source, last_seq });

/// A subscription ended; its lane is free again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribed {
    /// The subscription's lane.
    pub subscription: u32,
    /// Why, for programs.
    pub code: Code,
    /// Why, for people; at most 256 bytes, longer ones are cut.
    pub reason: String,
}
body!(Unsubscribed { subscription, code, reason: line(REASON_BYTES_MAX) });

/// A request was not granted; nothing else came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Number of the request.
    pub request: u32,
    /// Why, for programs.
    pub code: Code,
    /// Why, for people; at most 512 bytes, longer ones are cut.
    pub message: String,
}
body!(Failed { request, code, message: line(MESSAGE_BYTES_MAX) });
