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

/// How many messages of a fast topic the sender of runs on `lane` left out so far, by reason: each number counts from
/// the beginning of the lane on the session, and only grows. What is missing beyond them was lost on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// The lane.
    pub lane: u32,
    /// Topic of a subscription's lane; 0 on a publisher's.
    pub topic: u32,
    /// Their deadline passed.
    pub expired: u64,
    /// A newer message of the same key took their place.
    pub coalesced: u64,
    /// The receiver did not keep up.
    pub dropped_slow: u64,
    /// They came after newer ones.
    pub late: u64,
    /// There was no connection to send them on, and no room to keep them for the next one.
    pub no_route: u64,
}
body!(LeftOut { lane, topic, expired, coalesced, dropped_slow, late, no_route });

/// The QUIC connection beside this one is given up: fast topics of this session go over this connection. Said on the
/// primary connection, because a close may not get through where datagrams do not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detached {
    /// Why, for people; at most 256 bytes, longer ones are cut.
    pub reason: String,
}
body!(Detached { reason: line(REASON_BYTES_MAX) });

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
