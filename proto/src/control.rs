//! Control messages: what client and server say to each other besides messages.
//!
//! Owned values, because they are rare and outlive the buffer they came in. Decoding checks every length
//! before it allocates and refuses bytes that are left over; whether a message may be sent now, and by
//! whom, is the [`session`](crate::session)'s business, and whether a name is a good one is
//! [`topic`](crate::topic)'s.

mod client;
mod error;
mod queue;
mod server;
mod shared;
mod wire;

pub use client::{
    Auth, ClosePublisher, Declare, Hello, OpenPublisher, Position, Purpose, Resume, SlowPolicy, Start,
    Subscribe, TopicRef, Unsubscribe,
};
pub use error::ControlError;
pub use queue::{
    Action, GroupSettings, JoinQueue, LeaveQueue, MemberClosed, QueueJoined, Settle, Settled, Verdict, Want,
    Wanted,
};
pub use server::{
    Acked, Declared, Failed, Gap, GapCause, Level, Outcome, PublisherClosed, PublisherOpened, Refused,
    StreamEnd, Subscribed, TopicBound, Unsubscribed, Welcome,
};
pub use shared::{Credit, Detached, Goodbye, LeftOut, Ping, Pong};

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, IntoBytes};

use crate::frame::{KIND_CONTROL, PREFIX_BYTES, Prefix};
use wire::{Body, Reader};

/// Who may send a control message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Only the client.
    Client,
    /// Only the server.
    Server,
    /// Either side.
    Both,
}

macro_rules! controls {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $sender:ident;)*) => {
        /// One control message.
        ///
        /// ```
        /// use twinlane_proto::control::{Control, Credit};
        ///
        /// let credit = Control::from(Credit { lane: 3, bytes: 65_536 });
        /// let mut frame = Vec::new();
        /// credit.encode(&mut frame);
        /// assert_eq!(Control::decode(&frame)?, credit);
        /// # Ok::<(), twinlane_proto::ControlError>(())
        /// ```
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Control {
            $($(#[$doc])* $name($name),)*
        }

        impl Control {
            /// Number and name of every type, by rising number.
            pub const TYPES: &[(u16, &str)] = &[$(($number, stringify!($name))),*];

            /// The type's number in the frame's prefix.
            #[must_use]
            pub fn number(&self) -> u16 {
                match self { $(Self::$name(_) => $number,)* }
            }

            /// The type's name, for logs and errors.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $(Self::$name(_) => stringify!($name),)* }
            }

            /// Who may send this type.
            #[must_use]
            pub fn sender(&self) -> Sender {
                match self { $(Self::$name(_) => Sender::$sender,)* }
            }

            fn put_body(&self, out: &mut Vec<u8>) -> Result<(), ControlError> {
                match self { $(Self::$name(body) => body.put(out),)* }
            }

            fn take_body(number: u16, from: &mut Reader<'_>) -> Result<Self, ControlError> {
                match number {
                    $($number => $name::take(from).map(Self::$name),)*
                    _ => Err(ControlError::UnknownType { number }),
                }
            }
        }

        $(impl From<$name> for Control {
            fn from(body: $name) -> Self {
                Self::$name(body)
            }
        })*
    };
}

controls! {
    /// Opens the conversation.
    Hello = 0x01, Client;
    /// Makes sure that a topic exists.
    Declare = 0x02, Client;
    /// Begins or continues a publisher stream.
    OpenPublisher = 0x03, Client;
    /// Ends a publisher stream.
    ClosePublisher = 0x04, Client;
    /// Asks for the messages of topics.
    Subscribe = 0x05, Client;
    /// Ends a subscription.
    Unsubscribe = 0x06, Client;
    /// Becomes a member of a queue group.
    JoinQueue = 0x07, Client;
    /// Asks for jobs.
    Want = 0x08, Client;
    /// Says what became of jobs.
    Settle = 0x09, Client;
    /// Ends a membership.
    LeaveQueue = 0x0a, Client;
    /// Accepts the client.
    Welcome = 0x41, Server;
    /// Answers [`Declare`].
    Declared = 0x42, Server;
    /// Answers [`OpenPublisher`].
    PublisherOpened = 0x43, Server;
    /// Messages of a publisher were stored.
    Acked = 0x44, Server;
    /// Messages of a publisher were certainly not stored.
    Refused = 0x45, Server;
    /// A publisher stream is no longer accepted.
    PublisherClosed = 0x46, Server;
    /// Answers [`Subscribe`].
    Subscribed = 0x47, Server;
    /// A topic now belongs to a subscription.
    TopicBound = 0x48, Server;
    /// Offsets that will not come.
    Gap = 0x49, Server;
    /// A publisher of a subscribed fast topic ended.
    StreamEnd = 0x4a, Server;
    /// A subscription ended; also answers [`Unsubscribe`].
    Unsubscribed = 0x4b, Server;
    /// A request was not granted.
    Failed = 0x4c, Server;
    /// Answers [`JoinQueue`].
    QueueJoined = 0x4d, Server;
    /// A [`Want`] ran out.
    Wanted = 0x4e, Server;
    /// Answers [`Settle`].
    Settled = 0x4f, Server;
    /// A membership ended; also answers [`LeaveQueue`].
    MemberClosed = 0x50, Server;
    /// Allows the sender of runs to send more.
    Credit = 0x81, Both;
    /// Asks for a sign of life.
    Ping = 0x82, Both;
    /// Answers [`Ping`].
    Pong = 0x83, Both;
    /// The last message of a connection.
    Goodbye = 0x84, Both;
    /// What a sender of fast messages left out on purpose.
    LeftOut = 0x85, Both;
    /// The QUIC connection beside this one is given up.
    Detached = 0x86, Both;
}

impl Control {
    /// Appends this message as one control frame.
    ///
    /// Names and reasons meant for people are cut to their limit and freed of control characters.
    ///
    /// # Panics
    ///
    /// If a name, token or list is longer than the wire allows: check what users give you first, or use
    /// [`Self::try_encode`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.try_encode(out).expect("callers keep names, tokens and lists within the limits of the wire");
    }

    /// As [`Self::encode`], for values that were not checked before.
    ///
    /// # Errors
    ///
    /// [`ControlError`] names the field; nothing was appended.
    pub fn try_encode(&self, out: &mut Vec<u8>) -> Result<(), ControlError> {
        let at = out.len();
        let prefix =
            Prefix { frame_bytes: U32::ZERO, kind: KIND_CONTROL, flags: 0, extra: U16::new(self.number()) };
        out.extend_from_slice(prefix.as_bytes());
        if let Err(error) = self.put_body(out) {
            out.truncate(at);
            return Err(error);
        }
        // The limits of its fields keep a control frame below `CONTROL_BYTES_MAX`.
        let frame_bytes = (out.len() - at) as u32;
        out[at..at + 4].copy_from_slice(&frame_bytes.to_le_bytes());
        Ok(())
    }

    /// Reads one whole control frame.
    ///
    /// # Errors
    ///
    /// [`ControlError`] names the field or number at fault. Close the connection.
    pub fn decode(frame: &[u8]) -> Result<Self, ControlError> {
        let Ok((prefix, body)) = Prefix::ref_from_prefix(frame) else {
            return Err(ControlError::Truncated {
                what: "prefix",
                bytes_wanted: PREFIX_BYTES,
                bytes_left: frame.len(),
            });
        };
        let frame_bytes = prefix.frame_bytes.get() as usize;
        if prefix.kind != KIND_CONTROL || prefix.flags != 0 || frame_bytes != frame.len() {
            let Prefix { kind, flags, .. } = *prefix;
            return Err(ControlError::NotControl { kind, flags, frame_bytes, bytes: frame.len() });
        }
        let mut from = Reader::new(body);
        let control = Self::take_body(prefix.extra.get(), &mut from)?;
        match from.bytes_left() {
            0 => Ok(control),
            bytes => Err(ControlError::TrailingBytes { name: control.name(), bytes }),
        }
    }
}
