//! The door for simulations: an engine whose connections come from a simulated network.
//!
//! For this project's own tests; it may change in any release.

use crate::engine::Engine;
use crate::server::{self, connection};
use crate::transport::{Incoming, IoThreads};

pub use crate::transport::simulated::{ByteStream, Connection, DatagramPath, Entered, Waiting, World, enter};

/// Lets `engine` do what one that listens does beside its connections. Call it once, inside its runtime.
pub fn serve(engine: &Engine) {
    server::start_sweeping(engine.core(), &IoThreads::current());
}

/// Hands a client's connection to `engine`, as its listener would.
pub fn accept(engine: &Engine, connection: Connection) {
    let (stream, datagrams) = connection.into_parts();
    connection::accept(engine.core(), Incoming { stream, datagrams });
}
