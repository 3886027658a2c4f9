//! Everything that may go wrong, one type per operation. Each says what to do.

use std::io;
use std::path::PathBuf;

/// Why a log was not opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system refused.
    #[error("cannot use {path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Another process writes here.
    #[error("{dir} is in use by another process; stop it, or choose another directory")]
    Locked {
        /// The log's directory.
        dir: PathBuf,
    },
    /// Something that was durable is gone or is not what was written.
    #[error(
        "segment {segment} is damaged at byte {position}: {what}; run `twinlane log check {dir}`, then restore a \
         backup or run `twinlane log repair {dir}`"
    )]
    Damaged {
        /// The log's directory.
        dir: PathBuf,
        /// Number of the segment.
        segment: u32,
        /// Byte in its file.
        position: u32,
        /// What is wrong there.
        what: String,
    },
    /// Written by a newer program.
    #[error("segment {segment} has format {version}, this program knows 1; use a newer one")]
    Version {
        /// Number of the segment.
        segment: u32,
        /// Its format.
        version: u32,
    },
    /// A setting that cannot work.
    #[error("{field} is {value}, it must be between {min} and {max}")]
    Config {
        /// Its name.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The least allowed.
        min: u64,
        /// The most allowed.
        max: u64,
    },
    /// No thread could be started.
    #[error("cannot start the log's threads: {0}")]
    Thread(io::Error),
}

/// Why entries were not taken. Nothing of them is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The disk is slower than you. Wait for [`Log::poll_room`](crate::Log::poll_room), then try again.
    #[error("{staged_bytes} bytes wait for the disk, at most {staged_bytes_max} may")]
    Full {
        /// What waits.
        staged_bytes: usize,
        /// The bound.
        staged_bytes_max: usize,
    },
    /// A write or sync failed, and nothing is accepted until the log is opened again.
    #[error("the log failed to write ({0}); restart to read back what is stored")]
    Failed(io::ErrorKind),
    /// Declare the topic first; a declaration that was refused does not count.
    #[error("topic {0} is not declared in this log")]
    UnknownTopic(u32),
    /// Split it.
    #[error("the entries need {bytes} bytes together, {bytes_max} fit in one record")]
    TooLarge {
        /// What they need.
        bytes: usize,
        /// What a record of this log holds.
        bytes_max: usize,
    },
}

/// What became of staged entries that were not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Certainly not stored, and they used up no offsets: the disk or the log's bound is full.
    #[error("no space is left for the log; nothing was stored")]
    NoSpace,
    /// Nobody knows whether they are stored: a write or sync failed.
    #[error("the log failed to write ({0}); whether the entries are stored is unknown")]
    Failed(io::ErrorKind),
}

/// Why messages cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Declare the topic first.
    #[error("topic {0} is not declared in this log")]
    UnknownTopic(u32),
    /// Retention gave it up. Go on at `oldest`.
    #[error("the offset is given up, the oldest kept is {oldest}")]
    Gone {
        /// Where to go on.
        oldest: u64,
    },
    /// A repair found it lost. Go on at `next`.
    #[error("the messages before offset {next} were lost")]
    Lost {
        /// Where to go on.
        next: u64,
    },
    /// The bytes are not those that were written.
    #[error("segment {segment} is damaged at byte {position}; run `twinlane log check`")]
    Damaged {
        /// Number of the segment.
        segment: u32,
        /// Byte in its file.
        position: u32,
    },
    /// The operating system refused.
    #[error("cannot read the log: {0}")]
    Io(io::ErrorKind),
    /// Too many reads wait; try again later.
    #[error("{0} reads are waiting already")]
    Busy(usize),
}
