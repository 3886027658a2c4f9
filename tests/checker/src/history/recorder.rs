//! Writes a history from many tasks at once and reads it back.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::codec::{DecodeError, read_event, write_event};
use super::event::Event;

const MAGIC: &[u8; 8] = b"TLHIST\0\x01";
/// A task's events wait here before they go to the file.
const CHUNK_BYTES: usize = 64 << 10;
const READ_BYTES: usize = 1 << 20;

/// The one clock of a run.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Begins now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Microseconds since its start.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.0.elapsed().as_micros() as u64
    }
}

/// A history that is being written.
#[derive(Clone, Debug)]
pub struct History {
    path: Arc<PathBuf>,
    file: Arc<Mutex<File>>,
    clock: Clock,
}

impl History {
    /// A new history at `path`.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut file = File::create(path)?;
        file.write_all(MAGIC)?;
        Ok(Self { path: Arc::new(path.to_owned()), file: Arc::new(Mutex::new(file)), clock: Clock::start() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The run's clock.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// One task's way to write to it.
    #[must_use]
    pub fn recorder(&self) -> Recorder {
        Recorder { history: self.clone(), waiting: Vec::with_capacity(CHUNK_BYTES + 1_024) }
    }
}

/// One task's way to write to a history. Events get to the file in the order of the calls, when it is dropped at
/// the latest.
#[derive(Debug)]
pub struct Recorder {
    history: History,
    waiting: Vec<u8>,
}

impl Recorder {
    /// Microseconds of the run's clock.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.history.clock.now_us()
    }

    /// Another one, for another task.
    #[must_use]
    pub fn sibling(&self) -> Self {
        self.history.recorder()
    }

    /// Records one event.
    ///
    /// # Panics
    ///
    /// If the file cannot be written: a run without its history is worth nothing.
    pub fn record(&mut self, event: &Event) {
        write_event(event, &mut self.waiting);
        if self.waiting.len() >= CHUNK_BYTES {
            self.flush();
        }
    }

    /// Writes out what waits.
    ///
    /// # Panics
    ///
    /// As [`Self::record`].
    pub fn flush(&mut self) {
        let mut file = self.history.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&self.waiting).expect("the history's disk has room");
        self.waiting.clear();
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Reads a history event by event, in bounded memory.
#[derive(Debug)]
pub struct HistoryReader<R> {
    from: R,
    buffer: Vec<u8>,
    at: usize,
    ended: bool,
}

impl HistoryReader<File> {
    /// Opens a kept history.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is no history.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut from = File::open(path)?;
        let mut magic = [0; MAGIC.len()];
        from.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(io::Error::other("this file is no history of this checker"));
        }
        Ok(Self { from, buffer: Vec::new(), at: 0, ended: false })
    }
}

impl<R: Read> HistoryReader<R> {
    /// The next event; `None` at the end.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or was cut.
    pub fn next_event(&mut self) -> io::Result<Option<Event>> {
        loop {
            let mut rest = &self.buffer[self.at..];
            match read_event(&mut rest) {
                Ok(event) => {
                    self.at = self.buffer.len() - rest.len();
                    return Ok(Some(event));
                }
                Err(DecodeError::Cut) if !self.ended => self.fill()?,
                Err(DecodeError::Cut) if self.at == self.buffer.len() => return Ok(None),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let more = self.from.by_ref().take(READ_BYTES as u64).read_to_end(&mut self.buffer)?;
        self.ended = more == 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "in a test a failed step is a failed test")]

    use super::*;
    use crate::payload::Identity;

    #[test]
    fn what_many_tasks_recorded_is_read_back_in_each_ones_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history");
        let history = History::create(&path).unwrap();
        std::thread::scope(|scope| {
            for reader in 0..4 {
                let mut recorder = history.recorder();
                scope.spawn(move || {
                    for first_offset in 0..2_000 {
                        let messages = vec![Identity { publisher: reader, seq: 1 }; 40];
                        let event =
                            Event::Delivered { at_us: 1, reader, topic: 0, epoch: 0, first_offset, messages };
                        recorder.record(&event);
                    }
                });
            }
        });
        let mut next = [0; 4];
        let mut events = HistoryReader::open(&path).unwrap();
        while let Some(event) = events.next_event().unwrap() {
            let Event::Delivered { reader, first_offset, .. } = event else { panic!("{event:?}") };
            assert_eq!(first_offset, next[usize::from(reader)]);
            next[usize::from(reader)] += 1;
        }
        assert_eq!(next, [2_000; 4]);
    }

    #[test]
    fn a_file_that_is_no_history_or_was_cut_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history");
        std::fs::write(&path, b"something else").unwrap();
        assert!(HistoryReader::open(&path).is_err());
        History::create(&path).unwrap().recorder().record(&Event::End { at_us: 1 << 20 });
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(HistoryReader::open(&path).unwrap().next_event().is_err());
    }
}
