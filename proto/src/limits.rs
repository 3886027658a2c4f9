//! Every bound of the protocol in one place: its unit and why it has this value.
//!
//! These are the widest values the wire format and this crate accept. A server may be stricter (its
//! configuration decides, and [`Code::LimitReached`](crate::Code::LimitReached) or
//! [`Code::TooLarge`](crate::Code::TooLarge) says so); it cannot be wider.

use std::time::Duration;

/// Bytes of one frame at most, whatever is configured. A frame must fit a ring segment, whose byte
/// offsets have 24 bits.
pub const FRAME_BYTES_CEILING: usize = (1 << 24) - 1;

/// Bytes of one payload at most, unless configured otherwise. 1 MiB: larger data belongs in a store, and
/// one such message already occupies a 1 Gbit/s link for 8 ms.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// Time that a message of a fast topic may be given at most. Half an hour is no deadline any more, and fits the
/// 32 bits of microseconds in which each queue keeps the moment when it is over.
pub const DEADLINE_MAX: Duration = Duration::from_secs(1_800);

/// Bytes of one frame at most, unless configured otherwise: the largest payload, its header and every
/// option.
pub const FRAME_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + 32 + OPTIONS_BYTES_MAX;

/// Bytes of a frame that a fragment carries at least, where there are several: a path with QUIC has room for four times
/// as much, and fewer would let a peer make a receiver keep books about next to nothing.
pub const FRAGMENT_BYTES_MIN: usize = 256;

/// The smallest `frame_bytes_max` a server may announce, in bytes. Below it ordinary control messages
/// would not pass.
pub const FRAME_BYTES_FLOOR: usize = 16 << 10;

/// Bytes of one frame at most before the handshake is done. A stranger can make a server keep this much
/// and no more; the largest `Hello` needs under 1 KiB.
pub const FRAME_BYTES_MAX_BEFORE_WELCOME: usize = 4 << 10;

/// Bytes of one control frame at most. The largest, a `Settle` with a reason in every verdict, needs 291,018.
pub const CONTROL_BYTES_MAX: usize = 288 << 10;

// A position is a counted name, an epoch and an offset; every other field together needs under 1 KiB.
const _: () = assert!(POSITIONS_MAX * (2 + TOPIC_BYTES_MAX + 16) + 1_024 <= CONTROL_BYTES_MAX);

// A verdict has 35 bytes besides its reason; every other field together is under 1 KiB.
const _: () = assert!(VERDICTS_MAX * (35 + REASON_BYTES_MAX) + 1_024 <= CONTROL_BYTES_MAX);

/// Bytes of all options of a message at most: deadline 4, key 8, reply-to 12, correlation 8, job 36, due 8,
/// headers.
pub const OPTIONS_BYTES_MAX: usize = 4 + 8 + 12 + 8 + 36 + 8 + HEADERS_BYTES_MAX;

/// Bytes of the user headers of one message at most. They are metadata; data goes in the payload.
pub const HEADERS_BYTES_MAX: usize = 4 << 10;

/// User headers of one message at most.
pub const HEADERS_MAX: usize = 32;

/// Bytes of a user header's name at most.
pub const HEADER_NAME_BYTES_MAX: usize = 255;

/// Bytes of a topic name or filter at most. Names are looked up once per session, so short is not
/// needed; 255 keeps them in one log line.
pub const TOPIC_BYTES_MAX: usize = 255;

/// Levels of a topic name or filter at most. Bounds the work of one match.
pub const TOPIC_LEVELS_MAX: usize = 16;

/// Wildcards of a filter at most. Bounds the work of one match.
pub const WILDCARDS_MAX: usize = 8;

/// Bytes of the names that client and server give themselves at most. They only appear in logs.
pub const PEER_NAME_BYTES_MAX: usize = 64;

/// Bytes of an authentication token at most. A 256-bit token needs 44, a JWT of modest claims 400.
pub const TOKEN_BYTES_MAX: usize = 512;

/// Bytes of the reason in a `Goodbye`, `PublisherClosed`, `Unsubscribed`, `MemberClosed` or verdict at most: one
/// log line.
pub const REASON_BYTES_MAX: usize = 256;

/// Bytes of the message in a `Failed` at most: it may quote a topic name.
pub const MESSAGE_BYTES_MAX: usize = 512;

/// Positions in a `Subscribe` at most: topics that one subscription can continue after a reconnect.
pub const POSITIONS_MAX: usize = 1_000;

/// Bytes of the name of a queue group at most: it is a part of dead-letter topics and of log lines.
pub const GROUP_BYTES_MAX: usize = 64;

/// Verdicts in a `Settle`, and outcomes in a `Settled`, at most: as many jobs as a group has under way by default.
pub const VERDICTS_MAX: usize = 1_000;

/// Subscriptions of one session at most, unless configured otherwise.
pub const SUBSCRIPTIONS_MAX: usize = 1_000;

/// Open publishers of one session at most, unless configured otherwise. Equals the topics one client may
/// have.
pub const PUBLISHERS_MAX: usize = 10_000;

/// Queue members of one session at most, unless configured otherwise. Each has a topic of its own for its jobs.
pub const MEMBERS_MAX: usize = 1_000;

/// Things a session wants done that its caller has not taken yet, at most. A caller that drains
/// [`Session::poll`](crate::Session::poll) after each input never sees more than three.
pub const OUTPUTS_MAX: usize = 10_000;

/// From connect to `Welcome` at most. Long enough for a bad mobile link, short enough that silent
/// strangers do not pile up.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// After this long without incoming traffic a side asks for a sign of life.
pub const PING_INTERVAL: Duration = Duration::from_secs(5);

/// The shortest ping interval a client follows when a server asks for it: a lower value would be traffic,
/// not liveness.
pub const PING_INTERVAL_FLOOR: Duration = Duration::from_millis(100);

/// After this long without incoming traffic the peer counts as dead: three pings were lost.
pub const DEAD_AFTER: Duration = Duration::from_secs(15);
