//! Each queue as its documentation says it is best used for this job.
//!
//! Where a queue has a call for one frame and another for many, both are here under their own names, so that
//! calls for one are compared with calls for one.

mod broadcast;
mod channels;
mod crossbeam;
mod disruptor;
mod ring;
mod spsc;

pub use broadcast::Broadcast;
pub use channels::{Flume, Kanal, TokioMpsc};
pub use crossbeam::{Array, Seg};
pub use disruptor::Disruptor;
pub use ring::{Gated, Lossy};
pub use spsc::{Rtrb, RtrbChunks};
