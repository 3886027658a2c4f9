//! A run's history: what was asked, answered, delivered and broken, as it happened.
//!
//! Recorded by many tasks at once, each in its own order; times are microseconds of one clock, so whoever needs an
//! order between tasks sorts. Bodies are checked where they arrive and are not in the history.

mod codec;
mod event;
mod fast;
mod fast_codec;
mod recorder;

pub use codec::{DecodeError, read_event, write_event};
pub use event::{Action, Event, FaultKind, Plan, Settlement};
pub use fast::{Arrived, FastEvent, FastMode, FastPlan, FastStats, LinkCounts};
pub use recorder::{Clock, History, HistoryReader, Recorder};
