//! What can be wrong with Engine.IO packets.

/// Bytes that are no Engine.IO packet. The connection they came on is to be closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A packet without even a type.
    #[error("an empty packet: it begins with its type, `0` to `6`, or with `b`")]
    Empty,
    /// A type that no packet has.
    #[error("packet type {:?} does not exist: it is `0` to `6`, or `b` before base64", char::from(*.0))]
    UnknownType(u8),
    /// Binary data that is no base64.
    #[error("a binary packet is not base64: {0}")]
    NotBase64(#[from] base64::DecodeError),
    /// Text that is no UTF-8.
    #[error("text is not UTF-8 from byte {valid_bytes} on")]
    NotUtf8 {
        /// Bytes before the wrong one.
        valid_bytes: usize,
    },
    /// A polling body with more packets than are taken.
    #[error("a body of more than {packets_max} packets: send several bodies")]
    TooManyPackets {
        /// The limit.
        packets_max: usize,
    },
    /// More bytes than were agreed on in the handshake.
    #[error("{bytes} bytes at once, `maxPayload` is {bytes_max}")]
    TooLarge {
        /// What came, or was announced.
        bytes: u64,
        /// The limit.
        bytes_max: usize,
    },
}

impl From<std::str::Utf8Error> for DecodeError {
    fn from(error: std::str::Utf8Error) -> Self {
        Self::NotUtf8 { valid_bytes: error.valid_up_to() }
    }
}
