//! Control messages that only a client sends.

use std::fmt;

use super::ControlError;
use super::wire::{Field, Reader, blob, body, byte_enum, text};
use crate::limits::{PEER_NAME_BYTES_MAX, POSITIONS_MAX, TOKEN_BYTES_MAX, TOPIC_BYTES_MAX};
use crate::topic::TopicSpec;

/// The first message of every connection: who the client is and what it can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Lowest protocol version the client speaks.
    pub version_min: u16,
    /// Highest protocol version the client speaks.
    pub version_max: u16,
    /// Optional abilities of the client, one bit each; the session gets those both sides have.
    pub capabilities: u64,
    /// What this connection is for.
    pub purpose: Purpose,
    /// Name of the client program, for the server's logs; at most 64 bytes, longer ones are cut.
    pub client: String,
    /// Proof of identity.
    pub auth: Auth,
    /// The session to continue; `None` starts a new one.
    pub resume: Option<Resume>,
}
body!(Hello {
    version_min,
    version_max,
    capabilities,
    purpose,
    client: line(PEER_NAME_BYTES_MAX),
    auth,
    resume,
});

/// What a connection is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// It carries the session's control messages and reliable topics.
    #[default]
    Primary,
    /// It adds QUIC datagrams to a session that has a primary connection.
    Datagrams,
}
byte_enum!(Purpose { Primary = 0, Datagrams = 1 });

/// Proof of identity. `Debug` prints neither the token nor its length.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Auth {
    /// None, or one the transport already gave (a client certificate).
    #[default]
    None,
    /// A secret of at most 512 bytes that the server knows or can verify.
    Token(Vec<u8>),
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Token(_) => "Token(…)",
        })
    }
}

impl Field for Auth {
    fn put(&self, what: &'static str, out: &mut Vec<u8>) -> Result<(), ControlError> {
        match self {
            Self::None => 0u8.put(what, out),
            Self::Token(token) => {
                1u8.put(what, out)?;
                blob::put(token, TOKEN_BYTES_MAX, what, out)
            }
        }
    }

    fn take(what: &'static str, from: &mut Reader<'_>) -> Result<Self, ControlError> {
        match u8::take(what, from)? {
            0 => Ok(Self::None),
            1 => blob::take(TOKEN_BYTES_MAX, what, from).map(Self::Token),
            value => Err(ControlError::Value { what, value: value.into() }),
        }
    }
}

/// The session a client wants to continue. `Debug` does not print the secret.
///
/// Equality is not constant-time: compare secrets with something that is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Resume {
    /// Number of the session, from [`Welcome`](super::Welcome).
    pub session: [u8; 16],
    /// The newest secret of the session, from [`Welcome`](super::Welcome). Good for one use.
    pub secret: [u8; 16],
}

impl fmt::Debug for Resume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let session = u128::from_be_bytes(self.session);
        f.debug_struct("Resume").field("session", &format_args!("{session:032x}")).finish_non_exhaustive()
    }
}

impl Field for Resume {
    fn put(&self, what: &'static str, out: &mut Vec<u8>) -> Result<(), ControlError> {
        self.session.put(what, out)?;
        self.secret.put(what, out)
    }

    fn take(what: &'static str, from: &mut Reader<'_>) -> Result<Self, ControlError> {
        Ok(Self { session: Field::take(what, from)?, secret: Field::take(what, from)? })
    }
}

/// Makes sure that a topic exists as declared. Answered by `Declared` or `Failed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declare {
    /// Chosen by the client, comes back in the answer.
    pub request: u32,
    /// Name of the topic; not yet checked to be one.
    pub name: String,
    /// What it should be.
    pub spec: TopicSpec,
}
body!(Declare { request, name: text(TOPIC_BYTES_MAX), spec });

/// How a message names a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicRef {
    /// By its name; not yet checked to be one.
    Name(String),
    /// By its server-wide number.
    Id(u32),
}

impl Field for TopicRef {
    fn put(&self, what: &'static str, out: &mut Vec<u8>) -> Result<(), ControlError> {
        match self {
            Self::Name(name) => {
                0u8.put(what, out)?;
                text::put(name, TOPIC_BYTES_MAX, what, out)
            }
            Self::Id(id) => {
                1u8.put(what, out)?;
                id.put(what, out)
            }
        }
    }

    fn take(what: &'static str, from: &mut Reader<'_>) -> Result<Self, ControlError> {
        match u8::take(what, from)? {
            0 => text::take(TOPIC_BYTES_MAX, what, from).map(Self::Name),
            1 => u32::take(what, from).map(Self::Id),
            value => Err(ControlError::Value { what, value: value.into() }),
        }
    }
}

/// Begins or continues a publisher stream. Answered by `PublisherOpened` or `Failed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenPublisher {
    /// Chosen by the client, comes back in the answer.
    pub request: u32,
    /// The lane of its runs, chosen by the client, not in use for another publisher.
    pub publisher: u32,
    /// The topic to publish on.
    pub topic: TopicRef,
    /// Declares the topic if it does not exist; must agree with it if it does.
    pub spec: Option<TopicSpec>,
    /// Highest seq this client has had an outcome for; 0 begins a new stream.
    pub resume_seq: u64,
}
body!(OpenPublisher { request, publisher, topic, spec, resume_seq });

/// Ends a publisher stream and frees its lane. Not answered: outcomes of messages sent before still come, so
/// the client takes another number for its next publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosePublisher {
    /// The publisher's lane.
    pub publisher: u32,
    /// Seq of the last message sent; 0 if there was none.
    pub last_seq: u64,
}
body!(ClosePublisher { publisher, last_seq });

/// Asks for the messages of all topics a filter matches, now and later. Answered by `Subscribed` or
/// `Failed`; then a `TopicBound` precedes the first message of each topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Chosen by the client, comes back in the answer.
    pub request: u32,
    /// The lane of its runs, chosen by the client, not in use for another subscription.
    pub subscription: u32,
    /// Name or filter; not yet checked to be one.
    pub filter: String,
    /// Where to begin on topics that `positions` does not name.
    pub start: Start,
    /// What happens when the client does not read fast enough.
    pub slow: SlowPolicy,
    /// Bytes of reliable messages the server may send before more [`Credit`](super::Credit).
    /// `u64::MAX`: not limited.
    pub credit_bytes: u64,
    /// Declares the topic if the filter is a name and it does not exist.
    pub spec: Option<TopicSpec>,
    /// Where to continue after a reconnect; at most 1,000.
    pub positions: Vec<Position>,
}
body!(Subscribe {
    request,
    subscription,
    filter: text(TOPIC_BYTES_MAX),
    start,
    slow,
    credit_bytes,
    spec,
    positions: list(POSITIONS_MAX),
});

/// Where a subscription begins on a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With the next message.
    #[default]
    New,
    /// With the newest kept message.
    Last,
    /// With this offset.
    Offset(u64),
    /// With the oldest kept message.
    All,
    /// With the first message that was stored at or after this time, in microseconds of Unix time by the server's
    /// clock.
    Time(u64),
}

impl Field for Start {
    fn put(&self, what: &'static str, out: &mut Vec<u8>) -> Result<(), ControlError> {
        match self {
            Self::New => 0u8.put(what, out),
            Self::Last => 1u8.put(what, out),
            Self::Offset(offset) => {
                2u8.put(what, out)?;
                offset.put(what, out)
            }
            Self::All => 3u8.put(what, out),
            Self::Time(time_us) => {
                4u8.put(what, out)?;
                time_us.put(what, out)
            }
        }
    }

    fn take(what: &'static str, from: &mut Reader<'_>) -> Result<Self, ControlError> {
        match u8::take(what, from)? {
            0 => Ok(Self::New),
            1 => Ok(Self::Last),
            2 => u64::take(what, from).map(Self::Offset),
            3 => Ok(Self::All),
            4 => u64::take(what, from).map(Self::Time),
            value => Err(ControlError::Value { what, value: value.into() }),
        }
    }
}

/// What happens to a reliable subscription whose client does not read fast enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlowPolicy {
    /// Publishers wait for it, within the topic's bounds.
    #[default]
    Block,
    /// It ends with [`Code::SlowConsumer`](crate::Code::SlowConsumer).
    Disconnect,
    /// On a topic on disk it reads later what memory no longer holds; on others as [`Self::Block`].
    Spill,
}
byte_enum!(SlowPolicy { Block = 0, Disconnect = 1, Spill = 2 });

/// Where a subscription continues on one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Name of the topic; not yet checked to be one.
    pub topic_name: String,
    /// Epoch of the topic when the offset was seen.
    pub epoch: u64,
    /// First offset that is still missing.
    pub offset: u64,
}
body!(Position { topic_name: text(TOPIC_BYTES_MAX), epoch, offset });

/// Ends a subscription. Answered by `Unsubscribed`; until then messages may still come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Chosen by the client, for `Failed`.
    pub request: u32,
    /// The subscription's lane.
    pub subscription: u32,
}
body!(Unsubscribe { request, subscription });
