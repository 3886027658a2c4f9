//! What the end-to-end tests and the examples put between client and server: a network that misbehaves on purpose.
//!
//! Everything random comes from a seed that the caller chooses and prints. Nothing here knows the protocol.
#![forbid(unsafe_code)]

mod relay;
mod seeded;

pub use relay::{Relay, RelayError, UdpBlock, UdpFaults};
pub use seeded::Seeded;
