//! What makes a fast topic fresh: deadlines, newest values, and honest counts of what was left out.
//!
//! It works on frames between a ring and whoever reads it, the same in a publisher's queue, at a server and in process.
//! It sends nothing and waits for nothing.

mod by_key;
mod clock;
mod deadline;
mod flow;
mod left_out;
mod sieve;
mod waiting;

pub(crate) use by_key::NewestByKey;
pub(crate) use clock::{expiry, remaining_us, ticks_us};
pub(crate) use deadline::{arrive, is_in_time, is_over};
pub(crate) use flow::{Ended, Flow};
pub(crate) use left_out::{Counts, LeftOut};
pub(crate) use sieve::Sieve;
pub(crate) use waiting::{Waiting, key_of};
