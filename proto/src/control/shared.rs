//! Control messages that either side sends.

use super::wire::body;
use crate::Code;
use crate::limits::REASON_BYTES_MAX;

/// Allows the sender of runs on `lane` to send more. On the server's side of the wire `lane` is one of the
/// client's publishers, on the client's one of its subscriptions.
///
/// Counted are the bytes of the frames inside runs, not the run headers. Fast topics need no credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit {
    /// The lane.
    pub lane: u32,
    /// Bytes in addition to what was granted before. The sum saturates.
    pub bytes: u64,
}
body!(Credit { lane, bytes });

/// Asks for a [`Pong`] with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    /// Any number.
    pub nonce: u64,
}
body!(Ping { nonce });

/// Answers a [`Ping`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pong {
    /// The number of the ping.
    pub nonce: u64,
}
body!(Pong { nonce });

/// The last message of a connection; its sender closes after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goodbye {
    /// Why, for programs.
    pub code: Code,
    /// Why, for people; at most 256 bytes, longer ones are cut.
    pub reason: String,
}
body!(Goodbye { code, reason: line(REASON_BYTES_MAX) });
