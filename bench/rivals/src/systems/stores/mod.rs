//! The systems that keep messages, for the workload `durable`.

mod jetstream;
mod raw_file;
mod redis_aof;
mod twinlane;
mod windowed;

use crate::system::AnySystem;

/// Messages without an acknowledgement yet, where the name of a system says nothing else.
const WINDOW: u64 = 1_024;

/// The same for the variants that show what a wider window gives.
const WIDE_WINDOW: u64 = 16_384;

pub(super) fn systems() -> Vec<Box<dyn AnySystem>> {
    let mut systems = raw_file::systems();
    systems.extend(twinlane::systems());
    systems.extend(jetstream::systems());
    systems.extend(redis_aof::systems());
    systems
}
