//! Where entries wait for the writer: encoded under one short lock, taken by the writer all at once.
//!
//! Offsets are given here. They count when the writer says so; when it refuses, they are taken back.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::entry::{Entry, Origin, StreamId};
use crate::error::AppendError;
use crate::log::{Appended, Listener};
use crate::record::{self, Builder, RunRef};

pub(crate) struct Stage {
    inner: Mutex<Inner>,
    /// The writer sleeps here.
    work: Condvar,
    /// Whoever waits for a commit sleeps here.
    settled: Condvar,
    bytes_max: usize,
    record_bytes_max: usize,
}

#[derive(Default)]
struct Inner {
    batch: Batch,
    /// The offset that each declared topic's next message gets.
    next: HashMap<u32, u64>,
    next_stamp: u64,
    /// Records ever staged, and those whose outcome is known.
    staged: u64,
    settled: u64,
    waiting: usize,
    is_writer_asleep: bool,
    /// The writer shall look for room or end, even if nothing is staged.
    is_called: bool,
    is_stopped: bool,
    failed: Option<io::ErrorKind>,
    wakers: Vec<Waker>,
}

/// Encoded records and who wants to hear of them.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) bytes: Vec<u8>,
    pub(crate) records: Vec<Staged>,
}

pub(crate) struct Staged {
    pub(crate) bytes: usize,
    pub(crate) listener: Option<Arc<dyn Listener>>,
    /// Somebody counts it as staged; what the log writes for itself nobody does.
    pub(crate) is_owners: bool,
}

/// What the writer was woken with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Work,
    /// Somebody wants retention looked at.
    Look,
    Stop,
}

impl Batch {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.records.clear();
    }
}

impl Stage {
    pub(crate) fn new(
        bytes_max: usize,
        record_bytes_max: usize,
        next: HashMap<u32, u64>,
        next_stamp: u64,
    ) -> Self {
        let inner = Mutex::new(Inner { next, next_stamp, ..Inner::default() });
        Self { inner, work: Condvar::new(), settled: Condvar::new(), bytes_max, record_bytes_max }
    }

    pub(crate) fn append(
        &self,
        entries: &[Entry<'_>],
        listener: Option<Arc<dyn Listener>>,
    ) -> Result<Appended, AppendError> {
        let bytes = record_bytes(entries);
        if bytes > self.record_bytes_max {
            return Err(AppendError::TooLarge { bytes, bytes_max: self.record_bytes_max });
        }
        for entry in entries {
            if let Entry::Run { origin, frames, bytes, .. } = entry {
                check_frames(origin, *frames, bytes);
            }
        }
        let mut inner = self.lock();
        if let Some(kind) = inner.failed {
            return Err(AppendError::Failed(kind));
        }
        let staged_bytes = inner.batch.bytes.len();
        if staged_bytes > 0 && staged_bytes + bytes > self.bytes_max {
            return Err(AppendError::Full { staged_bytes, staged_bytes_max: self.bytes_max });
        }
        let appended = inner.encode(entries, listener)?;
        self.call(inner);
        Ok(appended)
    }

    pub(crate) fn forget(&self, stream: &StreamId) -> Result<(), AppendError> {
        let mut inner = self.lock();
        if let Some(kind) = inner.failed {
            return Err(AppendError::Failed(kind));
        }
        let stamp = inner.next_stamp;
        inner.next_stamp += 1;
        let mut builder = Builder::new(&mut inner.batch.bytes);
        builder.forget(stamp, stream);
        let bytes = builder.finish();
        inner.push(bytes, None);
        self.call(inner);
        Ok(())
    }

    /// Takes everything staged. Waits at most `timeout` if there is nothing.
    pub(crate) fn take(&self, batch: &mut Batch, timeout: Duration) -> Call {
        let mut inner = self.lock();
        if inner.batch.records.is_empty() && !inner.is_stopped && !inner.is_called && !timeout.is_zero() {
            inner.is_writer_asleep = true;
            (inner, _) = self
                .work
                .wait_timeout_while(inner, timeout, |inner| {
                    inner.batch.records.is_empty() && !inner.is_stopped && !inner.is_called
                })
                .expect(NO_PANIC);
            inner.is_writer_asleep = false;
        }
        let is_called = std::mem::take(&mut inner.is_called);
        std::mem::swap(&mut inner.batch, batch);
        let wakers = if batch.records.is_empty() { Vec::new() } else { std::mem::take(&mut inner.wakers) };
        let call = match (inner.is_stopped, is_called) {
            (true, _) => Call::Stop,
            (false, true) => Call::Look,
            (false, false) => Call::Work,
        };
        drop(inner);
        wakers.into_iter().for_each(Waker::wake);
        call
    }

    /// The outcome of `records` of the owners' records is known.
    pub(crate) fn settle(&self, records: u64) {
        let mut inner = self.lock();
        inner.settled += records;
        let is_awaited = inner.waiting > 0;
        drop(inner);
        if is_awaited {
            self.settled.notify_all();
        }
    }

    /// Takes back what is staged, and every offset that did not become durable: `committed` tells which did.
    pub(crate) fn refuse(
        &self,
        refused: &mut Batch,
        failed: Option<io::ErrorKind>,
        committed: impl FnOnce() -> HashMap<u32, u64>,
    ) {
        let mut inner = self.lock();
        inner.failed = inner.failed.or(failed);
        inner.next = committed();
        refused.records.append(&mut inner.batch.records);
        inner.batch.clear();
        let wakers = std::mem::take(&mut inner.wakers);
        drop(inner);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Waits until everything staged before this call is durable, refused or unknown.
    pub(crate) fn wait(&self) -> Option<io::ErrorKind> {
        let mut inner = self.lock();
        let staged = inner.staged;
        inner.waiting += 1;
        inner = self.settled.wait_while(inner, |inner| inner.settled < staged).expect(NO_PANIC);
        inner.waiting -= 1;
        inner.failed
    }

    pub(crate) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        // Half, so that a producer is not woken for each record that fits again.
        if inner.failed.is_some() || inner.batch.bytes.len() <= self.bytes_max / 2 {
            return Poll::Ready(());
        }
        if !inner.wakers.iter().any(|known| known.will_wake(cx.waker())) {
            inner.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    pub(crate) fn stop(&self) {
        let mut inner = self.lock();
        inner.is_stopped = true;
        self.call(inner);
    }

    /// Has the writer look at retention now.
    pub(crate) fn wake(&self) {
        let mut inner = self.lock();
        inner.is_called = true;
        self.call(inner);
    }

    /// The writer is no more.
    pub(crate) fn end(&self) {
        let mut inner = self.lock();
        inner.failed.get_or_insert(io::ErrorKind::BrokenPipe);
        inner.settled = inner.staged;
        let wakers = std::mem::take(&mut inner.wakers);
        drop(inner);
        self.settled.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn failed(&self) -> Option<io::ErrorKind> {
        self.lock().failed
    }

    fn call(&self, mut inner: MutexGuard<'_, Inner>) {
        let is_asleep = std::mem::take(&mut inner.is_writer_asleep);
        drop(inner);
        if is_asleep {
            self.work.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect(NO_PANIC)
    }
}

const NO_PANIC: &str = "nothing panics while it holds the stage";

impl Inner {
    fn encode(
        &mut self,
        entries: &[Entry<'_>],
        listener: Option<Arc<dyn Listener>>,
    ) -> Result<Appended, AppendError> {
        self.check_topics(entries)?;
        let mut builder = Builder::new(&mut self.batch.bytes);
        let mut appended = Appended::default();
        let mut stamp = self.next_stamp;
        for entry in entries {
            match *entry {
                Entry::Topic { id, value } => {
                    self.next.entry(id).or_default();
                    builder.topic(stamp, id, value);
                }
                Entry::Run { topic, origin, frames, bytes } => {
                    let next = self.next.get_mut(&topic).expect("topics were checked before");
                    appended.push(*next);
                    let run =
                        RunRef { topic, frames, first_offset: *next, origin, bytes, copied_from_us: None };
                    builder.run(&run);
                    *next += u64::from(frames);
                }
                Entry::Stream { session, lane, topic, value } => {
                    builder.stream(stamp, &StreamId { session, lane }, topic, value);
                }
                Entry::State { key, value } => builder.state(stamp, key, value),
                Entry::Delta { key, value } => builder.delta(stamp, key, value),
            }
            stamp += 1;
        }
        self.next_stamp = stamp;
        let bytes = builder.finish();
        self.push(bytes, listener);
        Ok(appended)
    }

    /// A record is taken whole or not at all.
    fn check_topics(&self, entries: &[Entry<'_>]) -> Result<(), AppendError> {
        for (number, entry) in entries.iter().enumerate() {
            let Entry::Run { topic, .. } = entry else { continue };
            let is_declared_here =
                |entry: &Entry<'_>| matches!(entry, Entry::Topic { id, .. } if id == topic);
            if !self.next.contains_key(topic) && !entries[..number].iter().any(is_declared_here) {
                return Err(AppendError::UnknownTopic(*topic));
            }
        }
        Ok(())
    }

    fn push(&mut self, bytes: usize, listener: Option<Arc<dyn Listener>>) {
        self.batch.records.push(Staged { bytes, listener, is_owners: true });
        self.staged += 1;
    }
}

/// Readers go from frame to frame by these lengths.
fn check_frames(origin: &Origin, frames: u32, bytes: &[u8]) {
    let mut rest = bytes;
    for frame in 0..frames {
        let length = rest.first_chunk().map_or(0, |length| u32::from_le_bytes(*length)) as usize;
        assert!((4..=rest.len()).contains(&length), "frame {frame} of {frames} in a run does not fit it");
        rest = &rest[length..];
    }
    assert!(frames > 0 && rest.is_empty(), "{frames} frames leave {} bytes of their run", rest.len());
    assert!(origin.first_seq.checked_add(u64::from(frames)).is_some(), "seqs exceed 64 bits");
}

/// At least what the record of these entries needs.
fn record_bytes(entries: &[Entry<'_>]) -> usize {
    let bytes = entries.iter().map(|entry| match entry {
        Entry::Topic { value, .. } | Entry::Stream { value, .. } => value.len(),
        Entry::Run { bytes, .. } => bytes.len(),
        Entry::State { key, value } | Entry::Delta { key, value } => key.len() + value.len(),
    });
    record::HEADER_BYTES + bytes.map(|bytes| bytes + record::COPY_OVERHEAD_BYTES).sum::<usize>()
}
