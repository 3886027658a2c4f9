//! What a group remembers for ever: which messages it is done with, and how often each other one was handed over.
//!
//! A snapshot and the deltas since give it back after a restart. Leases are not in it: they end with the server.

use std::collections::BTreeMap;

use super::ranges::Ranges;

/// Messages that were handed over and are not done, and separate ranges of done ones, at most: of each kind.
pub(super) const ENTRIES_MAX: usize = 1 << 20;

const HANDED: u8 = 1;
const SETTLED: u8 = 2;
const DEAD: u8 = 3;

/// A group's lasting state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    done: Ranges,
    /// How often a message that is not done was handed over.
    attempts: BTreeMap<u64, u32>,
}

/// A recorded snapshot or delta cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProgressError {
    #[error("the record ends inside {what}")]
    Truncated { what: &'static str },
    #[error("{entries} {what}, at most {entries_max} are possible")]
    TooMany { what: &'static str, entries: u32, entries_max: usize },
    #[error("a change of kind {kind}, which this version does not know")]
    UnknownKind { kind: u8 },
    #[error("offsets {first} to {end} are no range")]
    BadRange { first: u64, end: u64 },
}

impl Progress {
    /// Done with everything below `floor`, and with nothing else.
    pub(crate) fn starting_at(floor: u64) -> Self {
        Self { done: Ranges::starting_at(floor), attempts: BTreeMap::new() }
    }

    /// Everything below is done.
    pub(crate) fn floor(&self) -> u64 {
        self.done.floor()
    }

    pub(super) fn is_done(&self, offset: u64) -> bool {
        self.done.contains(offset)
    }

    /// The first offset at or after `offset` that is not done.
    pub(super) fn next_open(&self, offset: u64) -> u64 {
        self.done.next_missing(offset)
    }

    pub(super) fn attempts(&self, offset: u64) -> u32 {
        self.attempts.get(&offset).copied().unwrap_or(0)
    }

    pub(super) fn handed(&mut self, offset: u64, attempt: u32) {
        if !self.is_done(offset) {
            self.attempts.insert(offset, attempt);
        }
    }

    pub(super) fn settle(&mut self, first: u64, end: u64) {
        self.done.insert(first, end);
        if end - first == 1 {
            self.attempts.remove(&first);
            return;
        }
        while let Some((&offset, _)) = self.attempts.range(first..end).next() {
            self.attempts.remove(&offset);
        }
    }

    /// Forgets what is said of offsets from `end` on: the topic's log lost them, and gives them to other messages.
    pub(super) fn cut(&mut self, end: u64) {
        self.done.cut(end);
        self.attempts.split_off(&end);
    }

    /// Appends the whole state.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.done.floor().to_le_bytes());
        out.extend_from_slice(&(self.done.above().len() as u32).to_le_bytes());
        for (first, end) in self.done.above() {
            out.extend_from_slice(&first.to_le_bytes());
            out.extend_from_slice(&end.to_le_bytes());
        }
        out.extend_from_slice(&(self.attempts.len() as u32).to_le_bytes());
        for (offset, attempts) in &self.attempts {
            out.extend_from_slice(&offset.to_le_bytes());
            out.extend_from_slice(&attempts.to_le_bytes());
        }
    }

    /// Reads what [`Self::encode`] wrote; all of `bytes`.
    pub(crate) fn decode(mut bytes: &[u8]) -> Result<Self, ProgressError> {
        let from = &mut bytes;
        let mut progress = Self::starting_at(take_u64(from, "the floor")?);
        for _ in 0..take_count(from, "ranges")? {
            let (first, end) = (take_u64(from, "a range")?, take_u64(from, "a range")?);
            if end <= first {
                return Err(ProgressError::BadRange { first, end });
            }
            progress.done.insert(first, end);
        }
        for _ in 0..take_count(from, "attempts")? {
            let (offset, attempts) = (take_u64(from, "an attempt")?, take_u32(from, "an attempt")?);
            progress.handed(offset, attempts);
        }
        Ok(progress)
    }

    /// Applies one recorded delta.
    pub(crate) fn apply(&mut self, mut delta: &[u8]) -> Result<(), ProgressError> {
        let from = &mut delta;
        while let Some((kind, rest)) = from.split_first() {
            *from = rest;
            let offset = take_u64(from, "a change")?;
            match *kind {
                HANDED => {
                    let attempt = take_u32(from, "a hand-over")?;
                    self.handed(offset, attempt);
                }
                SETTLED => {
                    let end = take_u64(from, "settled messages")?;
                    if end <= offset {
                        return Err(ProgressError::BadRange { first: offset, end });
                    }
                    self.settle(offset, end);
                }
                DEAD => self.settle(offset, offset.saturating_add(1)),
                kind => return Err(ProgressError::UnknownKind { kind }),
            }
        }
        Ok(())
    }
}

/// Changes of a [`Progress`] that are to be recorded together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delta {
    bytes: Vec<u8>,
    /// Where the last entry lies if it is a range that may grow.
    growing_at: Option<usize>,
}

impl Delta {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Message `offset` was handed over for the `attempt`-th time.
    pub(super) fn handed(&mut self, offset: u64, attempt: u32) {
        self.put(HANDED, offset);
        self.bytes.extend_from_slice(&attempt.to_le_bytes());
        self.growing_at = None;
    }

    /// Message `offset` is done.
    pub(super) fn settled(&mut self, offset: u64) {
        if let Some(at) = self.growing_at
            && self.bytes[at..] == offset.to_le_bytes()
        {
            self.bytes[at..].copy_from_slice(&(offset + 1).to_le_bytes());
            return;
        }
        self.put(SETTLED, offset);
        self.growing_at = Some(self.bytes.len());
        self.bytes.extend_from_slice(&(offset + 1).to_le_bytes());
    }

    /// Message `offset` became a dead letter.
    pub(super) fn dead(&mut self, offset: u64) {
        self.put(DEAD, offset);
        self.growing_at = None;
    }

    fn put(&mut self, kind: u8, offset: u64) {
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&offset.to_le_bytes());
    }
}

fn take_u64(from: &mut &[u8], what: &'static str) -> Result<u64, ProgressError> {
    let (bytes, rest) = from.split_first_chunk().ok_or(ProgressError::Truncated { what })?;
    *from = rest;
    Ok(u64::from_le_bytes(*bytes))
}

fn take_u32(from: &mut &[u8], what: &'static str) -> Result<u32, ProgressError> {
    let (bytes, rest) = from.split_first_chunk().ok_or(ProgressError::Truncated { what })?;
    *from = rest;
    Ok(u32::from_le_bytes(*bytes))
}

fn take_count(from: &mut &[u8], what: &'static str) -> Result<u32, ProgressError> {
    let entries = take_u32(from, what)?;
    if entries as usize > ENTRIES_MAX {
        return Err(ProgressError::TooMany { what, entries, entries_max: ENTRIES_MAX });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_reads_back_what_was_written_and_refuses_every_cut() {
        let mut progress = Progress::starting_at(7);
        progress.handed(9, 2);
        progress.handed(11, 1);
        progress.settle(13, 20);
        progress.settle(30, 31);
        let mut bytes = Vec::new();
        progress.encode(&mut bytes);
        assert_eq!(Progress::decode(&bytes), Ok(progress));
        for cut in 0..bytes.len() {
            assert!(matches!(Progress::decode(&bytes[..cut]), Err(ProgressError::Truncated { .. })), "{cut}");
        }
    }

    #[test]
    fn what_the_topic_lost_is_forgotten() {
        let mut progress = Progress::starting_at(3);
        progress.settle(5, 9);
        progress.settle(12, 13);
        progress.handed(4, 2);
        progress.handed(11, 2);
        progress.cut(7);
        let mut expected = Progress::starting_at(3);
        expected.settle(5, 7);
        expected.handed(4, 2);
        assert_eq!(progress, expected);
        progress.cut(2);
        assert_eq!(progress, Progress::starting_at(2));
    }

    #[test]
    fn deltas_give_the_state_they_describe() {
        let (mut progress, mut delta) = (Progress::starting_at(0), Delta::default());
        delta.handed(0, 1);
        delta.handed(1, 1);
        delta.handed(2, 1);
        delta.settled(1);
        delta.settled(2);
        delta.handed(0, 2);
        delta.dead(4);
        progress.apply(delta.as_bytes()).unwrap();
        let mut expected = Progress::starting_at(0);
        expected.handed(0, 2);
        expected.settle(1, 3);
        expected.settle(4, 5);
        assert_eq!(progress, expected);
        assert_eq!(delta.as_bytes().len(), 4 * 13 + 17 + 9, "neighbours share one range");
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let mut progress = Progress::default();
        assert_eq!(progress.apply(&[9; 20]), Err(ProgressError::UnknownKind { kind: 9 }));
        assert_eq!(progress.apply(&[SETTLED]), Err(ProgressError::Truncated { what: "a change" }));
        let mut many = 0_u64.to_le_bytes().to_vec();
        many.extend_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Progress::decode(&many), Err(ProgressError::TooMany { .. })));
    }
}
