//! The gateway as clients see it: raw HTTP and WebSocket over loopback, one sentence a test.

#![allow(clippy::unwrap_used, reason = "in a test a failed step is a failed test")]

#[path = "gateway/client.rs"]
mod client;
#[path = "gateway/doors.rs"]
mod doors;
#[path = "gateway/limits.rs"]
mod limits;
#[path = "gateway/origins.rs"]
mod origins;
#[path = "gateway/polling.rs"]
mod polling;
#[path = "gateway/socket_io.rs"]
mod socket_io;
#[path = "gateway/websocket.rs"]
mod websocket;
