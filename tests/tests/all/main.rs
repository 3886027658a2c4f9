//! twinlane from the outside: every promise over every carrier, through networks that fail on purpose.
//!
//! One binary, because each one links the whole engine. Heavy tests are ignored; their module says how to run them.

#![allow(clippy::unwrap_used, reason = "in a test a failed step is a failed test")]

mod bad_input;
mod cli;
mod cli_durable;
mod cli_fast;
mod cli_http;
mod cli_queue;
mod cut_off;
mod durable;
mod events;
mod fallback;
mod fast;
mod fresh;
mod heavy;
mod large;
mod link_fault;
mod queue;
mod queue_faults;
mod raw;
mod reliable;
mod request;
mod resume;
mod shutdown;
mod slow;
mod world;
