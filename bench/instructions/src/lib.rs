//! What one message costs in instructions, path by path: the work that `cargo xtask instructions` counts.
//!
//! Each path is a struct that is set up, run once over [`MESSAGES`] messages, and checked. Only the run is
//! counted. Counts do not depend on what else the machine does; time does, and is measured elsewhere.
//!
//! Paths are warm when they are counted: segments are allocated, buffers have grown, topics are bound.
#![forbid(unsafe_code)]

pub mod engine;
pub mod ring;
pub mod wire;

/// Messages that every path handles in one run.
pub const MESSAGES: u64 = 4_096;

/// Messages that go together where a path takes several at a time.
pub const BURST: u64 = 64;

/// Bytes of a payload, and of a frame where a path knows no payload.
pub const PAYLOAD_BYTES: usize = 64;

/// What the numbers of all messages of one run add up to, when they are counted from 0.
pub const SUM: u64 = MESSAGES * (MESSAGES - 1) / 2;

/// Writes the number by which a message is recognised.
fn stamp(payload: &mut [u8], number: u64) {
    payload[..8].copy_from_slice(&number.to_le_bytes());
}

/// The number that [`stamp`] wrote.
fn number(payload: &[u8]) -> u64 {
    u64::from_le_bytes(*payload.first_chunk().expect("payloads have at least 8 bytes"))
}
