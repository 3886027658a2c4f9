//! The message log: what must survive the process lies here, in segment files that are written front to back.
//!
//! Owners stage entries as atomic records and hear on the writer thread when they are durable. Messages are
//! runs of frames, which get the next offsets of their topic and are read by offset. The log knows no
//! sessions, networks or runtimes, and does not know what a value means.
//!
//! | promise | where |
//! | --- | --- |
//! | Nothing is told before `fdatasync` returned, and nothing is accepted after one that failed | `writer` |
//! | A record is there as a whole or not at all | `record`, `recovery` |
//! | A torn tail is cut off, damage is never taken for one | `recovery` |
//! | Space runs out only where a segment begins, and what is refused then is certainly not stored | `files` |
//! | What retention gives up is given up, nothing else | `index`, `books`, `evacuate` |
//!
//! The bytes are described in `FORMAT.md`.

#![forbid(unsafe_code)]

mod books;
mod config;
#[doc(hidden)]
pub mod disk;
mod entry;
mod error;
mod evacuate;
mod extents;
mod faults;
mod files;
mod fold;
mod index;
mod log;
mod opening;
mod position;
mod read;
mod record;
mod recovery;
mod scan;
mod segment;
mod stage;
pub mod tool;
mod writer;

pub use config::{LogConfig, Retention};
pub use entry::{Answer, Entry, Origin};
pub use error::{AppendError, Failure, OpenError, ReadError};
#[cfg(feature = "faults")]
pub use faults::Fault;
pub use log::{Appended, Bounds, Committed, CommittedRun, Listener, Log, LogStatus};
pub use read::{ReadReply, ReadRun};
pub use recovery::{Recovered, RecoveredState, RecoveredStream, RecoveredTopic, Report};
