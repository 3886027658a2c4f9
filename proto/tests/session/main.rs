//! The conversation on one connection, in time that only the tests move.
#![allow(clippy::unwrap_used, reason = "the helpers of tests may unwrap as tests do")]

mod lanes;
mod life;
mod members;
mod pair;
mod rules;
#[path = "../samples/mod.rs"]
mod samples;
mod side;
