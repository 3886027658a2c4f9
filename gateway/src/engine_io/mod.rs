//! Engine.IO, version 4: packets, polling bodies and WebTransport framing as bytes.
//!
//! No sockets, no clock, no sessions: who may say what, and when, is decided by whoever reads the packets.

mod error;
mod packet;
pub mod payload;
pub mod stream;

pub use error::DecodeError;
pub(crate) use packet::encode_base64;
pub use packet::{Data, Packet};
