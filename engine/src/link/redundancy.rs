//! What a datagram writer sends more than once: small frames, on a path that loses packets.
//!
//! Pure logic: the caller passes time, counters of the path and room, and packs what it is told. Nothing here waits,
//! and nothing is decided by what the other side says.

mod path_loss;
mod repeats;
#[cfg(test)]
mod tests;

pub(crate) use self::path_loss::{PathCounts, PathLoss};
pub(crate) use self::repeats::Repeats;

/// Which frame it is: what its run header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) lane: u32,
    pub(crate) topic: u32,
    /// Offset or seq, as in the run header.
    pub(crate) number: u64,
}
