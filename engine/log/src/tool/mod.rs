//! What an operator does to a log that no server has open: look at it, make it smaller, save what can be saved.
//!
//! [`check`] and [`dump`] read only, and may do so beside a server; what is being written then looks like a
//! torn tail. Nothing here prints.

mod check;
mod dump;
mod rebuild;
mod survey;

pub use check::{CheckReport, SegmentReport, TopicReport, check};
pub use dump::{DumpEntry, DumpFilter, DumpRecord, dump};
pub use rebuild::{LostTopic, RebuildReport, compact, repair};

/// Who else may have the log open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nobody: the log is locked meanwhile.
    Alone,
    /// A server may be writing to it.
    Beside,
}

/// A place that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Number of the segment.
    pub segment: u32,
    /// Byte in its file.
    pub position: u32,
    /// Where what can be read goes on in that file.
    pub resumes_at: Option<u32>,
    /// What is wrong.
    pub what: String,
    /// Topic of the run that is there, if that much can be read.
    pub topic: Option<u32>,
}
