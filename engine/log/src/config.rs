//! What an owner may choose, with units, defaults and reasons. Checked once, when the log is opened.

use std::time::Duration;

use crate::error::OpenError;
use crate::record::{COPY_OVERHEAD_BYTES, END_BYTES, OWNER_BYTES_MAX};
use crate::segment::HEADER_BYTES;

/// Bounds and sizes of a log.
///
/// | field | default | why this value |
/// |---|---|---|
/// | `segment_bytes` | 64 MiB | a file is prepared in 70 ms and read back in 20 ms |
/// | `bytes_max` | 0 | as much as the disk has |
/// | `stage_bytes_max` | 16 MiB | 50 ms of a disk that takes 300 MB/s |
/// | `prepares_ahead` | true | a segment whose blocks were written once syncs in half the time |
/// | `reads_waiting_max` | 1,024 | more than that and the disk is what is missing |
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LogConfig {
    /// Length of a segment file, from 64 KiB to 1 GiB. A log that exists keeps its own.
    pub segment_bytes: u64,
    /// All files together, at least four segments; 0: no bound of its own.
    pub bytes_max: u64,
    /// What waits for the writer. Above it, [`AppendError::Full`](crate::AppendError::Full).
    pub stage_bytes_max: usize,
    /// Segment files are prepared, zeros written, on a thread of its own before they are needed.
    pub prepares_ahead: bool,
    /// Reads that wait for the reader thread.
    pub reads_waiting_max: usize,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            bytes_max: 0,
            stage_bytes_max: 16 << 20,
            prepares_ahead: true,
            reads_waiting_max: 1_024,
        }
    }
}

/// Segments that a log needs to live: the one written to, one before it, a spare, and the reserve that
/// makes room when there is none.
const SEGMENTS_MIN: u64 = 4;

impl LogConfig {
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let refused = |field, value, min, max| Err(OpenError::Config { field, value, min, max });
        if !(64 << 10..=1 << 30).contains(&self.segment_bytes) || !self.segment_bytes.is_multiple_of(4_096) {
            return refused("segment_bytes (a multiple of 4,096)", self.segment_bytes, 64 << 10, 1 << 30);
        }
        let least = SEGMENTS_MIN * self.segment_bytes;
        if self.bytes_max != 0 && self.bytes_max < least {
            return refused("bytes_max", self.bytes_max, least, u64::MAX);
        }
        if self.stage_bytes_max == 0 || self.stage_bytes_max > 1 << 30 {
            return refused("stage_bytes_max", self.stage_bytes_max as u64, 1, 1 << 30);
        }
        if self.reads_waiting_max == 0 {
            return refused("reads_waiting_max", 0, 1, u64::MAX);
        }
        Ok(())
    }
}

/// The largest record of an owner in a segment of this length: a copy of it must fit in one as well.
pub(crate) fn record_bytes_max(segment_bytes: u32) -> usize {
    let room = (segment_bytes - HEADER_BYTES) as usize - END_BYTES;
    OWNER_BYTES_MAX.min(room / 2 - COPY_OVERHEAD_BYTES)
}

/// What a topic may give up, oldest first. 0 and [`Duration::ZERO`] set no limit.
///
/// Bytes and age are followed in steps of the index (64 KiB of log): a little more is kept, never less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Bytes of frames that are kept at least.
    pub bytes: u64,
    /// Messages that are kept.
    pub messages: u64,
    /// Messages that are younger are kept.
    pub age: Duration,
}
