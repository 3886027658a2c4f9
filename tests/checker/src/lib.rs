//! Drives a twinlane server through faults, records what happened and judges every delivery promise.
//!
//! - [`judge`]: a history in, a verdict out; pure
//! - [`history`]: what happened, as a compact file that is kept and can be judged again
//! - [`payload`]: payloads that prove whose they are and that no byte changed
//! - [`server`], [`drive`]: the real server, and those who use it
//! - [`fast`]: the same for fast topics, with users and a network of their own
//! - [`nemesis`]: what breaks things; [`suite`], [`points`]: whole runs, and their verdicts
//! - [`shim`], [`rollback`]: a disk that forgets what was not synced
#![forbid(unsafe_code)]

pub mod drive;
pub mod fast;
pub mod history;
pub mod judge;
pub mod nemesis;
pub mod payload;
pub mod points;
pub mod rollback;
pub mod server;
pub mod shim;
pub mod suite;
