//! Why something was refused or closed: one number space for every message that carries a reason.
//!
//! A code tells a program what to do next; the text beside it tells a person why. Numbers are never
//! reused, and a receiver keeps numbers it does not know.

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// Why something was refused or closed, and what its receiver should do.
        ///
        /// ```
        /// use twinlane_proto::Code;
        ///
        /// assert_eq!(Code::from_u16(7), Code::PermissionDenied);
        /// assert_eq!(Code::PermissionDenied.as_str(), "permission denied");
        /// assert_eq!(Code::from_u16(60_000), Code::Other(60_000));
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[$doc])* $name,)*
            /// A code of a later version. Treat it like [`Code::Internal`].
            Other(u16),
        }

        impl Code {
            /// Every code this version knows, by rising number.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The code with this number on the wire; an unknown number is kept.
            #[must_use]
            pub const fn from_u16(number: u16) -> Self {
                match number {
                    $($number => Self::$name,)*
                    other => Self::Other(other),
                }
            }

            /// This code's number on the wire.
            #[must_use]
            pub const fn to_u16(self) -> u16 {
                match self {
                    $(Self::$name => $number,)*
                    Self::Other(number) => number,
                }
            }

            /// This code in words, lower case, for logs and error messages.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Other(_) => "unknown code",
                }
            }
        }
    };
}

codes! {
    /// Ended as asked. Nothing to do.
    Normal = 0, "normal";
    /// The server is going down. Reconnect after a short random delay, to this or another server.
    ServerShutdown = 1, "server shutdown";
    /// The peer broke a rule of the protocol. Do not retry the same bytes: report it as a bug.
    ProtocolViolation = 2, "protocol violation";
    /// No protocol version in common. Upgrade the older side; retrying cannot help.
    UnsupportedVersion = 3, "unsupported version";
    /// The server wants a token or a client certificate. Ask the user for one.
    AuthRequired = 4, "authentication required";
    /// The token or certificate was not accepted. Get a new one; retrying costs an attempt.
    AuthFailed = 5, "authentication failed";
    /// The handshake took too long. Reconnect.
    AuthTimeout = 6, "handshake timeout";
    /// This identity may not do that on this topic. Ask the operator; retrying cannot help.
    PermissionDenied = 7, "permission denied";
    /// No topic has this name or number. Declare it, or check the spelling.
    NoSuchTopic = 8, "no such topic";
    /// The topic exists with another specification. Use the declared one, or another name.
    TopicConflict = 9, "topic conflict";
    /// Not a valid topic name or filter. Correct it.
    BadName = 10, "bad name";
    /// Names that begin with `$` belong to the server. Choose another.
    ReservedName = 11, "reserved name";
    /// A limit on a number of things is reached. Close some, or ask the operator to raise it.
    LimitReached = 12, "limit reached";
    /// The message is larger than its topic or the server allows. Send less; retrying cannot help.
    TooLarge = 13, "too large";
    /// Certainly not stored, because an earlier message of the same publisher was not. Send the missing
    /// ones first.
    NotStored = 14, "not stored: out of order";
    /// The session is too old to resume. Start a new one; outcomes still open are unknown for ever.
    SessionExpired = 15, "session expired";
    /// The subscriber did not read fast enough and asked to be disconnected in that case. Subscribe
    /// again from the last position.
    SlowConsumer = 16, "slow consumer";
    /// More bytes were sent than the receiver had granted. A bug in the sender.
    CreditExceeded = 17, "credit exceeded";
    /// Nothing was heard for too long. Reconnect and resume.
    Dead = 18, "no traffic";
    /// Too much to do or too little memory right now. Retry with growing delays.
    Busy = 19, "busy";
    /// A fault of the side that says so. Retry later; report it.
    Internal = 20, "internal error";
    /// The thing asked for is already closed. Open it again if it is still wanted.
    Closed = 21, "closed";
    /// A newer connection of this session took over. This connection is done: do not reconnect it.
    StaleConnection = 22, "stale connection";
    /// This does not work on a topic of this channel (fast or reliable). Use the other kind of topic.
    WrongChannel = 23, "wrong channel";
    /// This identity may not create topics. Use one that exists, or ask the operator to declare it.
    DeclareDenied = 24, "declare denied";
    /// Too many requests in too little time. Slow down.
    RateLimited = 25, "rate limited";
    /// No space is left where messages are kept. Nothing was stored; retry when the operator made room.
    NoSpace = 26, "no space";
    /// Writing to storage failed; this topic accepts nothing more until the server was restarted.
    StorageFailed = 27, "storage failed";
    /// The lease is not yours, or no longer. Do nothing: the job is done, or somebody else has it.
    StaleLease = 28, "stale lease";
    /// A part of the log that holds these messages cannot be read. Ask the operator; retrying cannot help.
    Damaged = 29, "damaged";
    /// The topic began anew, and offsets of its earlier epoch mean nothing now. Begin again without them.
    EpochChanged = 30, "epoch changed";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(number) => write!(f, "unknown code {number}"),
            known => f.write_str(known.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_survives_a_round_trip_and_known_codes_are_not_other() {
        for number in 0..=u16::MAX {
            assert_eq!(Code::from_u16(number).to_u16(), number);
        }
        for (number, code) in (0..).zip(Code::ALL) {
            assert_eq!(code.to_u16(), number, "{code}: numbers are dense");
            assert_eq!(Code::from_u16(number), *code);
        }
    }
}
