//! What happens to a session's connections, for people and logs.

use std::fmt;
use std::time::Duration;

use tokio::sync::broadcast;
use twinlane_proto::Code;

/// Something that happened to a session's connections. `Display` is a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// A connection is ready.
    Connected {
        /// The server's name and address.
        server: String,
        /// Whether the session goes on where it was; `false` for a new one.
        resumed: bool,
        /// What carries reliable topics: `tcp` or `quic`.
        reliable_over: &'static str,
    },
    /// The connection was lost.
    Disconnected {
        /// Why.
        reason: String,
    },
    /// The next attempt to connect comes after `delay`.
    Reconnecting {
        /// Counts from 1 since the connection was lost.
        attempt: u32,
        /// How long until then.
        delay: Duration,
        /// Why the last attempt failed, if there was one.
        last_error: Option<String>,
    },
    /// Fast topics use another transport now.
    FastMoved {
        /// `tcp` or `quic`.
        to: &'static str,
        /// Why.
        why: String,
    },
    /// The session is over for good.
    Closed {
        /// Why, for programs.
        code: Code,
        /// Why, for people.
        reason: String,
    },
}

impl fmt::Display for SessionEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected { server, resumed: true, reliable_over } => {
                write!(f, "connected to {server} over {reliable_over} again; the session goes on")
            }
            Self::Connected { server, resumed: false, reliable_over } => {
                write!(f, "connected to {server} over {reliable_over}; a new session")
            }
            Self::Disconnected { reason } => write!(f, "lost the connection: {reason}"),
            Self::Reconnecting { attempt, delay, last_error } => {
                let seconds = delay.as_secs_f64();
                write!(f, "trying again in {seconds:.1} s (attempt {attempt})")?;
                last_error.as_ref().map_or(Ok(()), |error| write!(f, ": {error}"))
            }
            Self::FastMoved { to, why } => write!(f, "fast topics go over {to} now: {why}"),
            Self::Closed { code, reason } if reason.is_empty() => write!(f, "the session is closed: {code}"),
            Self::Closed { code, reason } => write!(f, "the session is closed: {reason} ({code})"),
        }
    }
}

/// The events of one session from the moment it was asked for.
#[derive(Debug)]
pub struct SessionEvents {
    /// `None`: an in-process session, which has no connections.
    pub(crate) receiver: Option<broadcast::Receiver<SessionEvent>>,
}

impl SessionEvents {
    /// The next event; `None` after the session is closed and for in-process sessions. A listener that falls
    /// more than 64 events behind misses the oldest. Cancel-safe.
    pub async fn next(&mut self) -> Option<SessionEvent> {
        let receiver = self.receiver.as_mut()?;
        loop {
            match receiver.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}
