//! Gives a segment up: what is still needed of it is written again at the log's end, piece by piece, and
//! only when all of that is durable the segment goes.
//!
//! A power loss in between leaves both copies, and recovery takes either.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::books::Books;
use crate::entry::{Answer, StreamId};
use crate::index::{Index, Readable};
use crate::record::{self, Builder, EntryRef, RunRef};
use crate::scan::{RunFacts, Walk, Window};
use crate::segment::HEADER_BYTES;
use crate::stage::{Batch, Staged};

/// Copies are written in records of about this size.
const COPY_RECORD_BYTES: usize = 256 << 10;
/// One read of the victim.
const READ_BYTES: usize = 1 << 20;

pub(crate) struct Evacuation {
    pub(crate) victim: u32,
    at: u32,
    is_oldest: bool,
    /// Into another log: what cannot be read is stepped over, and nothing is said of segments.
    is_rebuild: bool,
    phase: Phase,
    /// Runs that are durable elsewhere now.
    pub(crate) moved: Vec<RunFacts>,
    answers: BTreeMap<StreamId, Answers>,
    bounds: BTreeSet<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Copying,
    /// The last words are in a batch that is being written.
    Closing,
}

#[derive(Default)]
struct Answers {
    last_seq: u64,
    answers: Vec<Answer>,
}

/// How far a step came.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// More is to be copied.
    More,
    /// When the batch is durable, the segment may go.
    Last,
    /// The segment cannot be read on; it stays.
    Unreadable,
}

impl Evacuation {
    pub(crate) fn new(victim: u32, is_oldest: bool, books: &Books) -> Self {
        Self {
            victim,
            at: HEADER_BYTES,
            is_oldest,
            is_rebuild: false,
            phase: Phase::Copying,
            moved: Vec::new(),
            answers: BTreeMap::new(),
            bounds: books.topics_in(victim).collect(),
        }
    }

    /// Copies a segment into another log, which gets nothing that is not needed there.
    pub(crate) fn rebuilding(segment: u32, books: &Books) -> Self {
        Self { is_rebuild: true, ..Self::new(segment, true, books) }
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.phase == Phase::Closing
    }

    /// Reads up to `read_max` bytes of the victim and adds what is needed of them to `batch`.
    pub(crate) fn step(
        &mut self,
        books: &Books,
        index: &Index,
        batch: &mut Batch,
        read_max: usize,
        write_max: usize,
    ) -> io::Result<Step> {
        let Some(Readable { mask, file, end }) = index.segment(self.victim).cloned() else {
            return Ok(Step::Unreadable);
        };
        let (begun, mut is_done) = (self.at, false);
        let mut out = Copies::new(batch);
        let window = Window::new(file, end, READ_BYTES.min(read_max));
        let mut walk = Walk::new(window, self.victim, mask, self.at);
        while walk.at() < end && ((walk.at() - begun) as usize) < read_max && out.written < write_max {
            if self.is_rebuild && !walk.find()? {
                is_done = true;
                break;
            }
            let Some(record) = walk.next()? else { return Ok(Step::Unreadable) };
            let time_us = record.header.time_us;
            for raw in record::raw_entries(record.bytes) {
                let entry = record::decode(raw).expect("the entries of an intact record were read before");
                self.entry(&entry, raw, time_us, books, index, &mut out);
            }
        }
        self.at = walk.at();
        if !is_done && self.at < end {
            out.finish();
            return Ok(Step::More);
        }
        self.close(books, index, &mut out);
        out.finish();
        self.phase = Phase::Closing;
        Ok(Step::Last)
    }

    fn entry(
        &mut self,
        entry: &EntryRef<'_>,
        raw: &[u8],
        time_us: u64,
        books: &Books,
        index: &Index,
        out: &mut Copies<'_>,
    ) {
        match entry {
            EntryRef::Run(run) => {
                let oldest = index.topic(run.topic).map_or(u64::MAX, |topic| topic.oldest);
                let is_live = run.end_offset() > oldest
                    && index.segment_of(run.topic, run.first_offset.max(oldest)) == Some(self.victim);
                if is_live {
                    let copied_from_us = Some(run.copied_from_us.unwrap_or(time_us));
                    out.add(run.bytes.len(), |builder| builder.run(&RunRef { copied_from_us, ..*run }));
                } else {
                    self.answer(run.origin.stream(), 0, run.answer(), books);
                }
            }
            EntryRef::Answers { id, last_seq, answers } => {
                if let Some(stream) = books.streams.get(id)
                    && stream.last_seq == *last_seq
                {
                    self.answers.entry(*id).or_default().last_seq = *last_seq;
                }
                answers.iter().for_each(|answer| self.answer(*id, *last_seq, answer, books));
            }
            EntryRef::Bounds { topic, .. } => {
                self.bounds.insert(*topic);
            }
            EntryRef::Hole { topic, to, .. } => {
                let is_kept = index.topic(*topic).is_some_and(|topic| *to > topic.oldest);
                out.raw_if(is_kept, raw);
            }
            entry => out.raw_if(books.is_needed(entry, self.is_oldest), raw),
        }
    }

    /// Remembers an answer whose run goes, and the stream's last number if no later run says it.
    fn answer(&mut self, id: StreamId, last_seq: u64, answer: Answer, books: &Books) {
        let Some(stream) = books.streams.get(&id) else { return };
        let answered = answer.end_seq().saturating_sub(1).max(last_seq);
        let is_kept = answer.end_seq() > stream.first_answered();
        if answered != stream.last_seq && !is_kept {
            return;
        }
        let answers = self.answers.entry(id).or_default();
        if answered == stream.last_seq {
            answers.last_seq = answered;
        }
        if is_kept && !answers.answers.last_mut().is_some_and(|last| last.extend(&answer)) {
            answers.answers.push(answer);
        }
    }

    /// The last words: what was known by the victim's runs alone, and that the victim is no segment any more.
    fn close(&mut self, books: &Books, index: &Index, out: &mut Copies<'_>) {
        for (id, Answers { last_seq, answers }) in std::mem::take(&mut self.answers) {
            out.add(answers.len() * 24, |builder| builder.answers(&id, last_seq, &answers));
        }
        if self.is_rebuild {
            return;
        }
        for id in std::mem::take(&mut self.bounds) {
            if let Some(topic) = index.topic(id) {
                out.add(28, |builder| builder.bounds(id, topic.oldest, topic.next));
            }
        }
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for number in books.segments.keys().copied().filter(|number| *number != self.victim) {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == number => *last = number,
                _ => ranges.push((number, number)),
            }
        }
        if let Some((_, last)) = ranges.last_mut() {
            *last = u32::MAX;
        }
        out.add(ranges.len() * 8, |builder| builder.segments(&ranges));
    }
}

/// Adds entries to a batch, in records of a convenient size.
struct Copies<'a> {
    batch: &'a mut Batch,
    /// The record that is being filled begins here, with this many bytes of entries.
    open: Option<OpenRecord>,
    written: usize,
}

struct OpenRecord {
    entries: Vec<u8>,
    count: u32,
}

impl<'a> Copies<'a> {
    fn new(batch: &'a mut Batch) -> Self {
        Self { batch, open: None, written: 0 }
    }

    fn raw_if(&mut self, is_needed: bool, raw: &[u8]) {
        if is_needed {
            self.add(raw.len(), |builder| builder.raw(raw));
        }
    }

    fn add(&mut self, about_bytes: usize, write: impl FnOnce(&mut Builder<'_>)) {
        let is_full = self
            .open
            .as_ref()
            .is_some_and(|open| open.count > 0 && open.entries.len() + about_bytes > COPY_RECORD_BYTES);
        if is_full {
            self.finish();
        }
        let open = self.open.get_or_insert_with(|| OpenRecord { entries: Vec::new(), count: 0 });
        let before = open.entries.len();
        let mut builder = Builder::resume(&mut open.entries, open.count);
        write(&mut builder);
        open.count = builder.entries();
        self.written += open.entries.len() - before;
    }

    fn finish(&mut self) {
        if let Some(open) = self.open.take() {
            let mut builder = Builder::new(&mut self.batch.bytes);
            builder.raw_many(&open.entries, open.count);
            let bytes = builder.finish();
            self.batch.records.push(Staged { bytes, listener: None, is_owners: false });
        }
    }
}
