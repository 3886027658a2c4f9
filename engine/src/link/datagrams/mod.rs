//! A connection's datagrams: fast topics packed up to the path's limit, many per wake.
//!
//! Our rings are the queue. Nothing is taken from them before QUIC has room for it, because what is taken can neither be
//! replaced nor dropped any more.

mod reader;
mod settling;
mod writer;

use std::sync::atomic::AtomicU64;

pub(super) use reader::read;
pub(super) use writer::write;

/// What was sent again and put together on the QUIC connection that carries fast topics now, in messages.
#[derive(Default)]
pub(super) struct DatagramCounts {
    pub(super) repeated: AtomicU64,
    pub(super) whole: AtomicU64,
    pub(super) restored: AtomicU64,
    pub(super) incomplete: AtomicU64,
}
