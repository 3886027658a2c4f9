//! Records byte by byte: the log's atomic unit. [FORMAT.md](../FORMAT.md) is the same for people.
//!
//! Encodes what it is given and decodes with typed refusals; it does not know where records lie or who reads them.

use crc_fast::{CrcAlgorithm, checksum};

use crate::entry::{Answer, Origin, StreamId};
use crate::position::Position;
use crate::segment::HEADER_BYTES as SEGMENT_HEADER_BYTES;

pub(crate) const HEADER_BYTES: usize = 32;
const ENTRY_HEADER_BYTES: usize = 8;
const MAGIC: [u8; 4] = *b"TLr1";
/// Records begin at multiples of it, so that one can be looked for behind damage.
pub(crate) const ALIGN: usize = 8;
/// The largest record an owner may append.
pub(crate) const OWNER_BYTES_MAX: usize = 4 << 20;
/// The largest record there is: a copy says more about a run than the run did.
pub(crate) const BYTES_MAX: usize = OWNER_BYTES_MAX + 4_096;
/// An otherwise empty record with one `End` entry.
pub(crate) const END_BYTES: usize = HEADER_BYTES + ENTRY_HEADER_BYTES;
/// What a run costs beside its frames when it is copied.
pub(crate) const COPY_OVERHEAD_BYTES: usize = ENTRY_HEADER_BYTES + COPY_BODY_BYTES;
const RUN_BODY_BYTES: usize = 48;
const COPY_BODY_BYTES: usize = 56;
const ANSWER_BYTES: usize = 24;

mod kind {
    pub(super) const TOPIC: u8 = 1;
    pub(super) const RUN: u8 = 2;
    pub(super) const COPY: u8 = 3;
    pub(super) const STREAM: u8 = 4;
    pub(super) const FORGET: u8 = 5;
    pub(super) const ANSWERS: u8 = 6;
    pub(super) const STATE: u8 = 7;
    pub(super) const DELTA: u8 = 8;
    pub(super) const SEGMENTS: u8 = 9;
    pub(super) const HOLE: u8 = 10;
    pub(super) const END: u8 = 11;
    pub(super) const BOUNDS: u8 = 12;
}

/// CRC-32C.
pub(crate) fn crc(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// What every checksum of a segment's records is combined with: a record is valid in one segment of one
/// log only, and nobody who does not know the log's secret number can write bytes that look like one.
pub(crate) fn mask(log_id: u64, segment: u32) -> u32 {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&log_id.to_le_bytes());
    bytes[8..].copy_from_slice(&segment.to_le_bytes());
    crc(&bytes)
}

/// A record's first bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) bytes: usize,
    /// Everything before this position was durable when the record was written.
    pub(crate) durable_before: Position,
    pub(crate) time_us: u64,
}

impl Header {
    /// Reads the header of a record that may begin at `position`. `None`: no record of this segment does.
    pub(crate) fn read(bytes: &[u8], position: Position) -> Option<Self> {
        if bytes.len() < HEADER_BYTES || bytes[..4] != MAGIC {
            return None;
        }
        let header = Self {
            bytes: u32_at(bytes, 8) as usize,
            durable_before: Position::from_wire(u64_at(bytes, 16)),
            time_us: u64_at(bytes, 24),
        };
        // A record of the file's earlier life as another segment claims less than this one's beginning.
        let begin = Position::new(position.segment(), SEGMENT_HEADER_BYTES);
        let is_plausible = (HEADER_BYTES..=BYTES_MAX).contains(&header.bytes)
            && header.bytes.is_multiple_of(ALIGN)
            && (begin..=position).contains(&header.durable_before);
        is_plausible.then_some(header)
    }
}

/// Whether a whole record is what was written, and its entries can be read.
pub(crate) fn is_intact(record: &[u8], mask: u32) -> bool {
    has_crc(record, mask) && entries(record).all(|entry| entry.is_some())
}

fn has_crc(record: &[u8], mask: u32) -> bool {
    crate::faults::no_crc() || crc(&record[8..]) ^ mask == u32_at(record, 4)
}

/// Writes what is known only when the record is about to be stored.
pub(crate) fn finalize(record: &mut [u8], mask: u32, durable_before: Position, time_us: u64) {
    record[16..24].copy_from_slice(&durable_before.to_wire().to_le_bytes());
    record[24..32].copy_from_slice(&time_us.to_le_bytes());
    let crc = crc(&record[8..]) ^ mask;
    record[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// A run as it lies in a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunRef<'a> {
    pub(crate) topic: u32,
    pub(crate) frames: u32,
    pub(crate) first_offset: u64,
    pub(crate) origin: Origin,
    pub(crate) bytes: &'a [u8],
    /// When it was stored first, if this is a copy.
    pub(crate) copied_from_us: Option<u64>,
}

impl RunRef<'_> {
    pub(crate) fn end_offset(&self) -> u64 {
        self.first_offset + u64::from(self.frames)
    }

    pub(crate) fn answer(&self) -> Answer {
        Answer {
            first_seq: self.origin.first_seq,
            count: u64::from(self.frames),
            first_offset: self.first_offset,
        }
    }
}

/// An entry as it lies in a record. A stamp orders entries that name the same thing, wherever they lie.
#[derive(Clone, Copy, Debug)]
pub(crate) enum EntryRef<'a> {
    Topic { stamp: u64, id: u32, value: &'a [u8] },
    Bounds { topic: u32, oldest: u64, next: u64 },
    Run(RunRef<'a>),
    Stream { stamp: u64, id: StreamId, topic: u32, value: &'a [u8] },
    Forget { stamp: u64, id: StreamId },
    Answers { id: StreamId, last_seq: u64, answers: AnswersRef<'a> },
    State { stamp: u64, key: &'a [u8], value: &'a [u8] },
    Delta { stamp: u64, key: &'a [u8], value: &'a [u8] },
    Segments(SegmentsRef<'a>),
    Hole { topic: u32, from: u64, to: u64 },
    End,
}

/// Answers as they lie in a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnswersRef<'a>(&'a [u8]);

impl<'a> AnswersRef<'a> {
    pub(crate) fn iter(self) -> impl Iterator<Item = Answer> + 'a {
        self.0.chunks_exact(ANSWER_BYTES).map(|answer| Answer {
            first_seq: u64_at(answer, 0),
            count: u64_at(answer, 8),
            first_offset: u64_at(answer, 16),
        })
    }
}

/// Ranges of the segments that are not given up; the last range is open to the right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentsRef<'a>(&'a [u8]);

impl SegmentsRef<'_> {
    pub(crate) fn ranges(&self) -> Vec<(u32, u32)> {
        self.0.chunks_exact(8).map(|range| (u32_at(range, 0), u32_at(range, 4))).collect()
    }
}

/// The entries of a whole record. `None` is an entry that cannot be read, and the last.
pub(crate) fn entries(record: &[u8]) -> impl Iterator<Item = Option<EntryRef<'_>>> {
    let expected = if record.len() < HEADER_BYTES { 0 } else { u32_at(record, 12) as usize };
    let mut raw = raw_entries(record);
    (0..expected).map(move |_| raw.next().and_then(decode))
}

/// The entries of a whole record as they lie there, up to the first that does not fit.
pub(crate) fn raw_entries(record: &[u8]) -> impl Iterator<Item = &[u8]> {
    let expected = if record.len() < HEADER_BYTES { 0 } else { u32_at(record, 12) as usize };
    let mut rest = record.get(HEADER_BYTES..).unwrap_or_default();
    let split = move || {
        let entry_bytes = u32_at(rest.get(..ENTRY_HEADER_BYTES)?, 0) as usize;
        let (entry, after) = rest.split_at_checked(entry_bytes)?;
        rest = after;
        (entry.len() >= ENTRY_HEADER_BYTES).then_some(entry)
    };
    std::iter::from_fn(split).take(expected)
}

/// Whether an entry, which may be damaged, looks like a run of this topic.
pub(crate) fn is_run_of(raw: &[u8], topic: u32) -> bool {
    matches!(raw[4], kind::RUN | kind::COPY) && raw.len() >= 12 && u32_at(raw, 8) == topic
}

/// Reads one entry as it lies in a record.
pub(crate) fn decode(raw: &[u8]) -> Option<EntryRef<'_>> {
    (raw[5..8] == [0; 3]).then(|| decode_body(raw[4], &raw[ENTRY_HEADER_BYTES..])).flatten()
}

fn decode_body(kind: u8, body: &[u8]) -> Option<EntryRef<'_>> {
    let fits = |bytes: usize| body.len() >= bytes;
    let entry = match kind {
        kind::TOPIC if fits(12) => {
            EntryRef::Topic { stamp: u64_at(body, 0), id: u32_at(body, 8), value: &body[12..] }
        }
        kind::BOUNDS if body.len() == 20 => {
            EntryRef::Bounds { topic: u32_at(body, 0), oldest: u64_at(body, 4), next: u64_at(body, 12) }
        }
        kind::RUN if fits(RUN_BODY_BYTES) => EntryRef::Run(run(body, &body[RUN_BODY_BYTES..], None)?),
        kind::COPY if fits(COPY_BODY_BYTES) => {
            EntryRef::Run(run(body, &body[COPY_BODY_BYTES..], Some(u64_at(body, 48)))?)
        }
        kind::STREAM if fits(32) => EntryRef::Stream {
            stamp: u64_at(body, 0),
            id: stream_at(body, 8),
            topic: u32_at(body, 28),
            value: &body[32..],
        },
        kind::FORGET if body.len() == 28 => {
            EntryRef::Forget { stamp: u64_at(body, 0), id: stream_at(body, 8) }
        }
        kind::ANSWERS if fits(28) && (body.len() - 28).is_multiple_of(ANSWER_BYTES) => EntryRef::Answers {
            id: stream_at(body, 0),
            last_seq: u64_at(body, 20),
            answers: AnswersRef(&body[28..]),
        },
        kind::STATE | kind::DELTA if fits(12) => {
            let stamp = u64_at(body, 0);
            let (key, value) = body[12..].split_at_checked(u32_at(body, 8) as usize)?;
            if kind == kind::STATE {
                EntryRef::State { stamp, key, value }
            } else {
                EntryRef::Delta { stamp, key, value }
            }
        }
        kind::SEGMENTS if body.len().is_multiple_of(8) => EntryRef::Segments(SegmentsRef(body)),
        kind::HOLE if body.len() == 20 => {
            EntryRef::Hole { topic: u32_at(body, 0), from: u64_at(body, 4), to: u64_at(body, 12) }
        }
        kind::END if body.is_empty() => EntryRef::End,
        _ => return None,
    };
    Some(entry)
}

fn run<'a>(body: &[u8], bytes: &'a [u8], copied_from_us: Option<u64>) -> Option<RunRef<'a>> {
    let run = RunRef {
        topic: u32_at(body, 0),
        frames: u32_at(body, 4),
        first_offset: u64_at(body, 8),
        origin: Origin {
            session: body[16..32].try_into().expect("16 bytes were cut out"),
            lane: u32_at(body, 32),
            first_seq: u64_at(body, 40),
        },
        bytes,
        copied_from_us,
    };
    run.first_offset.checked_add(u64::from(run.frames))?;
    (run.frames > 0).then_some(run)
}

/// Writes one record behind what `bytes` holds already.
pub(crate) struct Builder<'a> {
    bytes: &'a mut Vec<u8>,
    start: usize,
    entries: u32,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(bytes: &'a mut Vec<u8>) -> Self {
        let start = bytes.len();
        bytes.extend_from_slice(&MAGIC);
        bytes.resize(start + HEADER_BYTES, 0);
        Self { bytes, start, entries: 0 }
    }

    pub(crate) fn topic(&mut self, stamp: u64, id: u32, value: &[u8]) {
        self.entry(kind::TOPIC, [&stamp.to_le_bytes()[..], &id.to_le_bytes(), value].into_iter());
    }

    pub(crate) fn bounds(&mut self, topic: u32, oldest: u64, next: u64) {
        self.range(kind::BOUNDS, topic, oldest, next);
    }

    /// An entry as it lies in another record.
    pub(crate) fn raw(&mut self, entry: &[u8]) {
        self.raw_many(entry, 1);
    }

    pub(crate) fn raw_many(&mut self, entries: &[u8], count: u32) {
        self.bytes.extend_from_slice(entries);
        self.entries += count;
    }

    pub(crate) fn run(&mut self, run: &RunRef<'_>) {
        let mut body = [0; COPY_BODY_BYTES];
        body[0..4].copy_from_slice(&run.topic.to_le_bytes());
        body[4..8].copy_from_slice(&run.frames.to_le_bytes());
        body[8..16].copy_from_slice(&run.first_offset.to_le_bytes());
        body[16..32].copy_from_slice(&run.origin.session);
        body[32..36].copy_from_slice(&run.origin.lane.to_le_bytes());
        body[40..48].copy_from_slice(&run.origin.first_seq.to_le_bytes());
        match run.copied_from_us {
            None => self.entry(kind::RUN, [&body[..RUN_BODY_BYTES], run.bytes].into_iter()),
            Some(time_us) => {
                body[48..].copy_from_slice(&time_us.to_le_bytes());
                self.entry(kind::COPY, [&body[..], run.bytes].into_iter());
            }
        }
    }

    pub(crate) fn stream(&mut self, stamp: u64, id: &StreamId, topic: u32, value: &[u8]) {
        let parts =
            [&stamp.to_le_bytes()[..], &id.session, &id.lane.to_le_bytes(), &topic.to_le_bytes(), value];
        self.entry(kind::STREAM, parts.into_iter());
    }

    pub(crate) fn forget(&mut self, stamp: u64, id: &StreamId) {
        self.entry(kind::FORGET, [&stamp.to_le_bytes()[..], &id.session, &id.lane.to_le_bytes()].into_iter());
    }

    pub(crate) fn answers(&mut self, id: &StreamId, last_seq: u64, answers: &[Answer]) {
        let mut body = Vec::with_capacity(28 + answers.len() * ANSWER_BYTES);
        body.extend_from_slice(&id.session);
        body.extend_from_slice(&id.lane.to_le_bytes());
        body.extend_from_slice(&last_seq.to_le_bytes());
        for answer in answers {
            for number in [answer.first_seq, answer.count, answer.first_offset] {
                body.extend_from_slice(&number.to_le_bytes());
            }
        }
        self.entry(kind::ANSWERS, [&body[..]].into_iter());
    }

    pub(crate) fn state(&mut self, stamp: u64, key: &[u8], value: &[u8]) {
        self.keyed(kind::STATE, stamp, key, value);
    }

    pub(crate) fn delta(&mut self, stamp: u64, key: &[u8], value: &[u8]) {
        self.keyed(kind::DELTA, stamp, key, value);
    }

    pub(crate) fn segments(&mut self, ranges: &[(u32, u32)]) {
        let body: Vec<u8> = ranges
            .iter()
            .flat_map(|(first, last)| [first.to_le_bytes(), last.to_le_bytes()])
            .flatten()
            .collect();
        self.entry(kind::SEGMENTS, [&body[..]].into_iter());
    }

    pub(crate) fn hole(&mut self, topic: u32, from: u64, to: u64) {
        self.range(kind::HOLE, topic, from, to);
    }

    pub(crate) fn end(&mut self) {
        self.entry(kind::END, std::iter::empty());
    }

    /// Goes on with entries that get their record later.
    pub(crate) fn resume(bytes: &'a mut Vec<u8>, entries: u32) -> Self {
        let start = bytes.len();
        Self { bytes, start, entries }
    }

    pub(crate) fn entries(&self) -> u32 {
        self.entries
    }

    /// Completes the record and returns its length.
    pub(crate) fn finish(self) -> usize {
        let padded = self.bytes.len().next_multiple_of(ALIGN);
        // Records begin aligned in the file, and the buffer holds whole records only.
        self.bytes.resize(padded, 0);
        let record_bytes = padded - self.start;
        let record = &mut self.bytes[self.start..];
        record[8..12].copy_from_slice(&(record_bytes as u32).to_le_bytes());
        record[12..16].copy_from_slice(&self.entries.to_le_bytes());
        record_bytes
    }

    fn range(&mut self, kind: u8, topic: u32, from: u64, to: u64) {
        let parts = [&topic.to_le_bytes()[..], &from.to_le_bytes(), &to.to_le_bytes()];
        self.entry(kind, parts.into_iter());
    }

    fn keyed(&mut self, kind: u8, stamp: u64, key: &[u8], value: &[u8]) {
        let key_bytes = (key.len() as u32).to_le_bytes();
        self.entry(kind, [&stamp.to_le_bytes()[..], &key_bytes, key, value].into_iter());
    }

    fn entry<'p>(&mut self, kind: u8, parts: impl Iterator<Item = &'p [u8]>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0, 0, 0, kind, 0, 0, 0]);
        parts.for_each(|part| self.bytes.extend_from_slice(part));
        let entry_bytes = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&entry_bytes.to_le_bytes());
        self.entries += 1;
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes were cut out"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes were cut out"))
}

fn stream_at(bytes: &[u8], at: usize) -> StreamId {
    let session = bytes[at..at + 16].try_into().expect("16 bytes were cut out");
    StreamId { session, lane: u32_at(bytes, at + 16) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worked_example_of_the_format_is_true() {
        let mut record = Vec::new();
        let mut builder = Builder::new(&mut record);
        builder.topic(1, 7, b"hi");
        builder.finish();
        let begin = Position::new(1, SEGMENT_HEADER_BYTES);
        finalize(&mut record, mask(0x0123_4567_89ab_cdef, 1), begin, 1_000_000);
        let hex: Vec<String> = record.iter().map(|byte| format!("{byte:02x}")).collect();
        let lines: Vec<String> = hex.chunks(16).map(|line| line.join(" ")).collect();
        let document = include_str!("../FORMAT.md");
        assert!(document.contains(&lines.join("\n")), "the document shows other bytes than {lines:#?}");
        assert!(is_intact(&record, mask(0x0123_4567_89ab_cdef, 1)));
        assert!(!is_intact(&record, mask(0x0123_4567_89ab_cdef, 2)), "another segment's record");
    }
}
