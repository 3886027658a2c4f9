//! The log as its owner holds it. What happens behind is in `stage`, `writer`, `read` and `recovery`.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use crate::config::{LogConfig, Retention, record_bytes_max};
use crate::disk::{Disk, RealDisk};
use crate::entry::{Entry, Origin, StreamId};
use crate::error::{AppendError, Failure, OpenError, ReadError};
use crate::index::Index;
use crate::opening::{Opened, open};
use crate::read::{self, ReadQueue, ReadReply, ReadRun, ReadSoon};
use crate::record::{self, EntryRef};
use crate::recovery::Recovered;
use crate::stage::Stage;
use crate::writer::{Writer, WriterBase};

/// A log in a directory of its own, with one writer and one reader thread. Clones are the same log.
///
/// When the last one is dropped, what is staged is committed and the threads end.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// use twinlane_log::{Entry, Log, LogConfig, Origin};
///
/// let (log, _) = Log::open(&dir.path().join("log"), LogConfig::default())?;
/// let frame = [8, 0, 0, 0, b'm', b'o', b'i', b'n'];
/// let origin = Origin { session: [0; 16], lane: 1, first_seq: 1 };
/// let run = Entry::Run { topic: 7, origin, frames: 1, bytes: &frame };
/// log.append(&[Entry::Topic { id: 7, value: b"greetings" }, run], None)?;
/// log.commit()?;
///
/// let mut frames = Vec::new();
/// assert_eq!(log.read(7, 0, 1_000, &mut frames)?.frames, 1);
/// assert_eq!(frames, frame);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the log's threads share.
pub(crate) struct Shared {
    pub(crate) stage: Stage,
    pub(crate) reads: ReadQueue,
    index: RwLock<Index>,
    status: Mutex<LogStatus>,
}

/// Hears what became of a record. See [`Log::append`].
pub trait Listener: Send + Sync {
    /// The record is durable, and can be read.
    ///
    /// On the log's writer thread, in the order of the log, once per record; must not block.
    fn committed(&self, record: Committed<'_>);
    /// The record is certainly not stored, or nobody knows. On the writer thread; must not block.
    fn failed(&self, why: Failure);
}

/// A record that became durable.
#[derive(Clone, Copy, Debug)]
pub struct Committed<'a> {
    record: &'a [u8],
    /// When, in microseconds of Unix time; never less than for an earlier record.
    pub time_us: u64,
}

/// A run in a record that became durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommittedRun<'a> {
    /// Its topic.
    pub topic: u32,
    /// Whose it is.
    pub origin: Origin,
    /// Offset of its first frame; the others follow.
    pub first_offset: u64,
    /// How many frames.
    pub frames: u32,
    /// The frames back to back.
    pub bytes: &'a [u8],
}

impl<'a> Committed<'a> {
    pub(crate) fn new(record: &'a [u8], time_us: u64) -> Self {
        Self { record, time_us }
    }

    /// The record's runs in the order they were given.
    pub fn runs(self) -> impl Iterator<Item = CommittedRun<'a>> {
        record::entries(self.record).flatten().filter_map(|entry| match entry {
            EntryRef::Run(run) => Some(CommittedRun {
                topic: run.topic,
                origin: run.origin,
                first_offset: run.first_offset,
                frames: run.frames,
                bytes: run.bytes,
            }),
            _ => None,
        })
    }
}

/// Offsets that were given to the runs of a record. They count once the listener hears so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    first: Option<u64>,
    /// A record with several runs is rare: no allocation for one.
    others: Vec<u64>,
}

impl Appended {
    /// Offset of the first run's first frame.
    #[must_use]
    pub fn first_offset(&self) -> Option<u64> {
        self.first
    }

    /// Offset of each run's first frame.
    pub fn first_offsets(&self) -> impl Iterator<Item = u64> {
        self.first.into_iter().chain(self.others.iter().copied())
    }

    pub(crate) fn push(&mut self, offset: u64) {
        match self.first {
            None => self.first = Some(offset),
            Some(_) => self.others.push(offset),
        }
    }
}

/// What can be read of a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The oldest offset that is kept.
    pub oldest: u64,
    /// The offset that the next durable message gets.
    pub next: u64,
    /// Of the frames between them, in steps of the index.
    pub bytes: u64,
}

/// How the log is doing. Counters begin at 0 when it is opened.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LogStatus {
    /// Segments with content.
    pub segments: usize,
    /// Files that wait to become segments.
    pub spare_segments: usize,
    /// All files together.
    pub file_bytes: u64,
    /// Writes, each with one sync.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes in them.
    pub bytes_written: u64,
    /// The longest write with its sync.
    pub sync_us_max: u64,
    /// Batches that were refused because there was no space.
    pub no_space: u64,
    /// Segments whose content was needed no more, or was written again elsewhere.
    pub segments_given_up: u64,
    /// Why nothing is accepted any more.
    pub failed: Option<io::ErrorKind>,
}

impl Log {
    /// Opens the log in `dir`, creating both if need be, and reads back what is in it.
    ///
    /// # Errors
    ///
    /// [`OpenError::Damaged`] if something that was durable cannot be read; nothing is changed then. See the
    /// type for the others.
    pub fn open(dir: &Path, config: LogConfig) -> Result<(Self, Recovered), OpenError> {
        Self::open_on(Arc::new(RealDisk), dir, config)
    }

    /// As [`open`](Self::open) on another file system.
    ///
    /// # Errors
    ///
    /// As there.
    #[doc(hidden)]
    #[allow(clippy::needless_pass_by_value, reason = "as `open`, which takes the choice away from nobody")]
    pub fn open_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        config: LogConfig,
    ) -> Result<(Self, Recovered), OpenError> {
        let Opened { index, base, recovered } = open(disk, dir, &config)?;
        let shared = Arc::new(Shared::new(index, &base, &config));
        let writer = Writer::new(Arc::clone(&shared), base);
        let log = Self { inner: Arc::new(Inner { shared: Arc::clone(&shared), threads: Mutex::default() }) };
        let reader = move || shared.reads.run(&shared);
        for (name, work) in [
            ("twinlane-log-write", Box::new(move || writer.run()) as Box<dyn FnOnce() + Send>),
            ("twinlane-log-read", Box::new(reader)),
        ] {
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
            log.inner.threads().push(thread.map_err(OpenError::Thread)?);
        }
        Ok((log, recovered))
    }

    /// Stages `entries` as one record: after a crash all of them are there or none. Never waits for the disk.
    ///
    /// Runs get their offsets here. They count only when `listener` hears [`Listener::committed`]; after a
    /// refusal they are given again, and topics that were declared in what was refused are unknown.
    ///
    /// # Errors
    ///
    /// See [`AppendError`]. Nothing was staged.
    ///
    /// # Panics
    ///
    /// If a run's frames do not fill it exactly: a reader could not tell them apart.
    pub fn append(
        &self,
        entries: &[Entry<'_>],
        listener: Option<Arc<dyn Listener>>,
    ) -> Result<Appended, AppendError> {
        self.inner.shared.stage.append(entries, listener)
    }

    /// Forgets a publisher stream and its answers, in the order of the appends.
    ///
    /// # Errors
    ///
    /// [`AppendError::Failed`]: nothing is accepted any more.
    pub fn forget_stream(&self, session: [u8; 16], lane: u32) -> Result<(), AppendError> {
        self.inner.shared.stage.forget(&StreamId { session, lane })
    }

    /// Waits until everything staged so far is durable, refused or unknown. Blocks: for tests and tools.
    ///
    /// # Errors
    ///
    /// [`Failure::Failed`] if the log cannot write any more. What was refused for want of space its listener knows.
    pub fn commit(&self) -> Result<(), Failure> {
        self.inner.shared.stage.wait().map_or(Ok(()), |kind| Err(Failure::Failed(kind)))
    }

    /// Commits what is staged and ends the log's threads; the directory is free for another. From then on nothing is
    /// accepted. Blocks. Dropping the last handle does the same.
    pub fn close(&self) {
        self.inner.stop();
    }

    /// Ready when it is worth trying again after [`AppendError::Full`].
    pub fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        self.inner.shared.stage.poll_room(cx)
    }

    /// Appends whole frames of `topic` from `from_offset` on to `into`: up to `bytes_max` bytes, one frame at least.
    ///
    /// Blocks for the disk. No frames: there are none at this offset yet.
    ///
    /// # Errors
    ///
    /// See [`ReadError`]. `into` is as it was.
    pub fn read(
        &self,
        topic: u32,
        from_offset: u64,
        bytes_max: usize,
        into: &mut Vec<u8>,
    ) -> Result<ReadRun, ReadError> {
        read::read(&self.inner.shared, topic, from_offset, bytes_max, into)
    }

    /// As [`read`](Self::read) on the log's reader thread, which calls `reply`; [`ReadError::Busy`] comes at once.
    pub fn read_soon(&self, topic: u32, from_offset: u64, bytes_max: usize, reply: ReadReply) {
        let read = ReadSoon { topic, from_offset, bytes_max, reply };
        let reads = &self.inner.shared.reads;
        if let Err(read) = reads.push(read) {
            (read.reply)(Err(ReadError::Busy(reads.waiting_max())));
        }
    }

    /// The first offset of `topic` that was stored at or after `time_us` (microseconds of Unix time); the
    /// next offset if nothing was. Blocks for the disk.
    #[must_use]
    pub fn offset_at(&self, topic: u32, time_us: u64) -> u64 {
        read::offset_at(&self.inner.shared, topic, time_us)
    }

    /// What the topic may give up from now on. Not stored: to be said after each opening.
    pub fn set_retention(&self, topic: u32, retention: Retention) {
        self.inner.shared.index_mut().set_retention(topic, retention);
        self.inner.shared.stage.wake();
    }

    /// Nothing at or above `offset` is given up. Not stored: to be said after each opening.
    pub fn set_floor(&self, topic: u32, offset: Option<u64>) {
        self.inner.shared.index_mut().set_floor(topic, offset);
    }

    /// What can be read of `topic`; nothing of an unknown one.
    #[must_use]
    pub fn bounds(&self, topic: u32) -> Bounds {
        self.inner.shared.index().topic(topic).map_or_else(Bounds::default, |topic| Bounds {
            oldest: topic.oldest,
            next: topic.next,
            bytes: topic.frame_bytes(),
        })
    }

    /// How the log is doing.
    #[must_use]
    pub fn status(&self) -> LogStatus {
        let failed = self.inner.shared.stage.failed();
        LogStatus { failed, ..self.inner.shared.status().clone() }
    }

    /// Breaks one of the log's promises, in this whole process and for good.
    #[cfg(feature = "faults")]
    pub fn plant(fault: crate::faults::Fault) {
        crate::faults::plant(fault);
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Log").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(index: Index, base: &WriterBase, config: &LogConfig) -> Self {
        let next: HashMap<u32, u64> = index.topics().map(|(id, topic)| (id, topic.next)).collect();
        let record_bytes_max = record_bytes_max(base.segment_bytes);
        Self {
            stage: Stage::new(config.stage_bytes_max, record_bytes_max, next, base.books.next_stamp()),
            reads: ReadQueue::new(config.reads_waiting_max),
            index: RwLock::new(index),
            status: Mutex::new(LogStatus::default()),
        }
    }

    pub(crate) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().expect(NO_PANIC)
    }

    pub(crate) fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().expect(NO_PANIC)
    }

    pub(crate) fn status(&self) -> MutexGuard<'_, LogStatus> {
        self.status.lock().expect(NO_PANIC)
    }
}

const NO_PANIC: &str = "nothing panics while it holds a lock of the log";

impl Inner {
    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().expect(NO_PANIC)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Inner {
    fn stop(&self) {
        self.shared.stage.stop();
        self.shared.reads.stop();
        for thread in std::mem::take(&mut *self.threads()) {
            // A listener or a reply may hold the last handle: a thread does not wait for itself.
            if thread.thread().id() != std::thread::current().id() {
                // A panic there was reported by the thread itself.
                let _ = thread.join();
            }
        }
    }
}
