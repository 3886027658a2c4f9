//! What can be wrong with a client's Socket.IO packets.

/// A message that is no Socket.IO packet, or not one that a client may send. The connection is to be closed with
/// `parse error`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Text that is no UTF-8.
    #[error("text is not UTF-8 from byte {valid_bytes} on")]
    NotUtf8 {
        /// Bytes before the wrong one.
        valid_bytes: usize,
    },
    /// A packet, with its attachments, above the limit. MessagePack counts as the JSON that it stands for.
    #[error("a packet of {bytes} bytes or more, limit is {bytes_max}")]
    TooLarge {
        /// As far as it came.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A type that no packet has, or none at all.
    #[error("a packet begins with its type, 0 to 6")]
    UnknownType,
    /// A packet that only servers send.
    #[error("only a server says that a connection failed")]
    ConnectError,
    /// A number of attachments that makes no sense.
    #[error("a binary packet says how many attachments follow: `51-[…]`, 1 to {attachments_max}")]
    Attachments {
        /// The limit.
        attachments_max: usize,
    },
    /// The next packet before the last one was complete.
    #[error("a packet came while {missing} attachments of the one before are missing")]
    AttachmentsMissing {
        /// How many.
        missing: usize,
    },
    /// Bytes that belong to nothing.
    #[error("binary data came, but no packet waits for attachments")]
    NoPacketForAttachment,
    /// Text where MessagePack is spoken.
    #[error("text came, but this server speaks MessagePack: give the client `socket.io-msgpack-parser`")]
    NotMsgpack,
    /// A namespace's name that is none.
    #[error("a namespace begins with `/`, has at most {bytes_max} bytes and no control characters or commas")]
    Namespace {
        /// The limit.
        bytes_max: usize,
    },
    /// An acknowledgement's number that is none, or that is missing.
    #[error("an acknowledgement has a number, at most 2^53 - 1")]
    AckNumber,
    /// Broken JSON.
    #[error("data is not JSON at line {line}, column {column}")]
    NotJson {
        /// From 1.
        line: usize,
        /// From 1; 0 where it ended too early.
        column: usize,
    },
    /// Data of the wrong kind for its packet.
    #[error("a packet of type {kind} has as data {expected}")]
    Data {
        /// The packet's type, as in Socket.IO's documents.
        kind: &'static str,
        /// What it should have been.
        expected: &'static str,
    },
    /// A name that only libraries themselves may emit.
    #[error("`{0}` is reserved: choose another name for the event")]
    Reserved(&'static str),
    /// Arrays in arrays in arrays…
    #[error("arrays and objects are nested more than {depth_max} deep")]
    TooDeep {
        /// The limit.
        depth_max: usize,
    },
    /// A placeholder for no attachment, for one that has another, or in another form than
    /// `{"_placeholder":true,"num":0}`; or an attachment without placeholder.
    #[error(
        "attachments and placeholders do not match: each attachment has one `{{\"_placeholder\":true,\"num\":…}}`"
    )]
    Placeholder,
    /// Broken MessagePack.
    #[error("not MessagePack at byte {at}: {what}")]
    Msgpack {
        /// Where.
        at: usize,
        /// What is wrong.
        what: &'static str,
    },
}

impl From<std::str::Utf8Error> for DecodeError {
    fn from(error: std::str::Utf8Error) -> Self {
        Self::NotUtf8 { valid_bytes: error.valid_up_to() }
    }
}
