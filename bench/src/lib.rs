//! twinlane's benchmarks as a library: the workloads of `twinlane bench` and the parts they are made of.
//!
//! Every run proves its answer: payloads carry checksums, every subscriber's books must add up after a clean
//! close, and a broken promise is an error, whatever the figures. Latency is measured from the instant a message
//! was due, so a stall is charged to every message it delayed.
//!
//! Nothing here is on a message's path in production, and nothing here measures rivals: it says how this build does
//! on this machine.

#![forbid(unsafe_code)]

pub mod cli;
pub mod clock;
pub mod duel;
pub mod ledger;
pub mod machine;
pub mod output;
pub mod payload;
pub mod plan;
pub mod report;
pub mod run;
pub mod stage;
pub mod stats;

mod alarm;
mod arguments;
mod connections;
mod crew;
mod durable;
mod link;
mod publish;
mod receive;
mod recorder;
mod roundtrip;
mod shared;
