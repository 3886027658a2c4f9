//! Socket.IO, version 5: packets to and from what the event layer understands.
//!
//! Two parsers, as the official clients have: JSON with binary attachments, and MessagePack. Payloads are checked but not
//! interpreted; where JSON is JSON on both sides they share the memory of the message they came in.

mod decoder;
mod encoder;
mod error;
mod msgpack;
#[cfg(test)]
mod tests;
mod text;

pub use decoder::{Decoder, Limits};
pub use encoder::{Encoder, Framing, encode};
pub use error::DecodeError;
pub use twinlane::events::json::{ATTACHMENTS_MAX, DEPTH_MAX};
use twinlane::events::json::{PayloadError, reserved};

/// How packets are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Parser {
    /// Text with JSON in it, and a binary message for each attachment: what clients do if not told otherwise.
    #[default]
    Json,
    /// One binary message for each packet, as the package `socket.io-msgpack-parser` does.
    Msgpack,
}

/// A namespace's name at most.
pub const NAMESPACE_BYTES_MAX: usize = 255;
/// JavaScript counts no further.
const ACK_MAX: u64 = (1 << 53) - 1;

fn checked_namespace(name: &str) -> Result<String, DecodeError> {
    let is_name = name.starts_with('/')
        && name.len() <= NAMESPACE_BYTES_MAX
        && !name.contains(|letter: char| letter.is_control() || letter == ',');
    if is_name { Ok(name.to_owned()) } else { Err(DecodeError::Namespace { bytes_max: NAMESPACE_BYTES_MAX }) }
}

fn checked_ack(number: u64) -> Result<u64, DecodeError> {
    if number <= ACK_MAX { Ok(number) } else { Err(DecodeError::AckNumber) }
}

impl From<PayloadError> for DecodeError {
    fn from(error: PayloadError) -> Self {
        match error {
            PayloadError::NotJson { line, column } => Self::NotJson { line, column },
            PayloadError::NoEvent => wrong_data("EVENT"),
            PayloadError::NoArray => wrong_data("ACK"),
            PayloadError::NoObject => wrong_data("CONNECT"),
            PayloadError::Reserved(name) => Self::Reserved(name),
            PayloadError::TooDeep { depth_max } => Self::TooDeep { depth_max },
            PayloadError::Placeholder => Self::Placeholder,
        }
    }
}

fn wrong_data(kind: &'static str) -> DecodeError {
    let expected = match kind {
        "EVENT" => "an array that begins with the event's name, a text or a number",
        "ACK" => "an array",
        "CONNECT" => "an object, or nothing",
        _ => "nothing",
    };
    DecodeError::Data { kind, expected }
}
