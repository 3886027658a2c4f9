//! What can be wrong with a control message.

use thiserror::Error;

/// Why bytes are no control message, or why a control message cannot be sent.
///
/// From a peer's bytes it means: close the connection with
/// [`Code::ProtocolViolation`](crate::Code::ProtocolViolation). `what` names a field, as `Hello.client`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The prefix is not that of one control frame of this length.
    #[error("{bytes} bytes of kind {kind}, flags {flags:#04x}, length {frame_bytes} are no control frame")]
    NotControl {
        /// Kind in the prefix.
        kind: u8,
        /// Flags in the prefix.
        flags: u8,
        /// Length in the prefix.
        frame_bytes: usize,
        /// Length given.
        bytes: usize,
    },
    /// This version knows no such type.
    #[error("unknown control type {number:#06x}")]
    UnknownType {
        /// The type's number.
        number: u16,
    },
    /// The message ends before a field does.
    #[error("{what} needs {bytes_wanted} bytes, {bytes_left} are left")]
    Truncated {
        /// The field.
        what: &'static str,
        /// Bytes it needs.
        bytes_wanted: usize,
        /// Bytes there are.
        bytes_left: usize,
    },
    /// Bytes follow the last field.
    #[error("{bytes} bytes follow the last field of {name}")]
    TrailingBytes {
        /// The message.
        name: &'static str,
        /// Bytes left over.
        bytes: usize,
    },
    /// A text, token or list is longer than its limit.
    #[error("{what} has length {length}, limit is {length_max}")]
    TooLong {
        /// The field.
        what: &'static str,
        /// Bytes of a text or token, entries of a list.
        length: usize,
        /// The limit.
        length_max: usize,
    },
    /// A text is not UTF-8.
    #[error("{what} is not UTF-8")]
    NotUtf8 {
        /// The field.
        what: &'static str,
    },
    /// A text meant for logs has a control character or one that changes the writing direction.
    #[error("{what} contains U+{:04X}", *.character as u32)]
    Character {
        /// The field.
        what: &'static str,
        /// The character.
        character: char,
    },
    /// A number has no meaning in this field.
    #[error("{what} cannot be {value}")]
    Value {
        /// The field.
        what: &'static str,
        /// The number.
        value: u64,
    },
}
