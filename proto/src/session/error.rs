//! How a conversation can go wrong.

use thiserror::Error;

use super::{LaneKind, Phase};
use crate::Code;
use crate::control::ControlError;

/// A broken rule of the conversation: the peer's fault, unless [`Self::is_ours`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The peer sent bytes that are no control message.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The peer sent a message that only its opposite may send.
    #[error("{name} from the wrong side")]
    WrongSide {
        /// The message.
        name: &'static str,
    },
    /// The peer sent a message before the handshake was done.
    #[error("{name} in phase {phase:?}")]
    OutOfPhase {
        /// The message.
        name: &'static str,
        /// How far the conversation was.
        phase: Phase,
    },
    /// The peer began a second handshake on one connection.
    #[error("second {name} on one connection")]
    SecondHandshake {
        /// The message.
        name: &'static str,
    },
    /// The peer sent a message that belongs on the session's primary connection.
    #[error("{name} on a connection that only adds datagrams")]
    WrongConnection {
        /// The message.
        name: &'static str,
    },
    /// No version in common: upgrade the older side.
    #[error("peer speaks versions {version_min} to {version_max}, we speak {our_min} to {our_max}")]
    UnsupportedVersion {
        /// The peer's lowest.
        version_min: u16,
        /// The peer's highest.
        version_max: u16,
        /// Our lowest.
        our_min: u16,
        /// Our highest.
        our_max: u16,
    },
    /// The server chose a version the client did not offer.
    #[error("server chose version {version}, offered were {version_min} to {version_max}")]
    VersionNotOffered {
        /// Its choice.
        version: u16,
        /// Lowest offered.
        version_min: u16,
        /// Highest offered.
        version_max: u16,
    },
    /// The server claims abilities for the client that it did not offer.
    #[error("server chose capabilities {capabilities:#x} that were not offered")]
    CapabilityNotOffered {
        /// The bits too many.
        capabilities: u64,
    },
    /// The server resumed a session for a client that asked for a new one.
    #[error("server resumed a session that was not asked for")]
    ResumeNotAsked,
    /// The server accepts only frames too small to talk with.
    #[error("server accepts frames of {frame_bytes_max} bytes, at least {frame_bytes_floor} are needed")]
    FrameLimitTooLow {
        /// Its limit.
        frame_bytes_max: u32,
        /// The lowest allowed.
        frame_bytes_floor: usize,
    },
    /// A connection for datagrams named no session to join.
    #[error("a connection that adds datagrams must name its session")]
    NoSessionToJoin,
    /// The peer opened a lane that is already open.
    #[error("{kind} {lane} is already open")]
    DuplicateLane {
        /// What the lane is.
        kind: LaneKind,
        /// Its number.
        lane: u32,
    },
    /// The peer used the number of a request that was not answered yet.
    #[error("request {request} was not answered yet")]
    DuplicateRequest {
        /// The number.
        request: u32,
    },
    /// The peer sent more bytes on a lane than it was allowed.
    #[error("{bytes} bytes on {kind} {lane}, {credit_bytes} were allowed")]
    CreditExceeded {
        /// What the lane is.
        kind: LaneKind,
        /// Its number.
        lane: u32,
        /// Bytes that came.
        bytes: usize,
        /// Bytes that were allowed.
        credit_bytes: u64,
    },
    /// Ours: this side may not say that, or not now. Nothing was sent.
    #[error("cannot send {name} in phase {phase:?} from this side of this connection")]
    CannotSend {
        /// The message.
        name: &'static str,
        /// How far the conversation is.
        phase: Phase,
    },
    /// Ours: no more lanes of this kind may be opened. Close some first. Nothing was sent.
    #[error("at most {max} {kind}s in one session")]
    LimitReached {
        /// What the lane would be.
        kind: LaneKind,
        /// The limit.
        max: usize,
    },
    /// Ours: the outputs were not drained. Nothing was sent or looked at.
    #[error("{outputs_max} outputs wait: drain poll() first")]
    OutputsFull {
        /// The limit.
        outputs_max: usize,
    },
    /// Ours: what should be sent breaks a rule that the peer would enforce. Nothing was sent.
    #[error("cannot send this: {0}")]
    Ours(Box<Self>),
}

impl ProtocolError {
    /// The code for a goodbye with this error.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::UnsupportedVersion { .. } => Code::UnsupportedVersion,
            Self::CreditExceeded { .. } => Code::CreditExceeded,
            Self::LimitReached { .. } => Code::LimitReached,
            Self::OutputsFull { .. } => Code::Busy,
            Self::CannotSend { .. } | Self::Ours(_) => Code::Internal,
            _ => Code::ProtocolViolation,
        }
    }

    /// Whether the caller of the session is at fault, not the peer. The session is then as it was.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        matches!(
            self,
            Self::CannotSend { .. } | Self::LimitReached { .. } | Self::OutputsFull { .. } | Self::Ours(_)
        )
    }
}
