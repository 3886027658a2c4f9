//! Everything recovery has seen so far, in any order, and what it comes to in the end.
//!
//! Copies, carried entries and leftovers of a crash may repeat what was said: stamps and offsets tell what counts.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::books::Books;
use crate::entry::StreamId;
use crate::error::OpenError;
use crate::extents::{Extents, Joined};
use crate::files::file_path;
use crate::index::{Index, Readable, Topic};
use crate::position::Position;
use crate::record::{self, EntryRef};
use crate::recovery::{
    Base, Found, LastSegment, Recovered, RecoveredState, RecoveredStream, RecoveredTopic, damaged, mend,
};
use crate::scan::{Item, Scanned};
use crate::segment::{FileKind, HEADER_BYTES};

/// What is known after some of the segments.
pub(crate) struct Fold {
    dir: PathBuf,
    pub(crate) books: Books,
    extents: HashMap<u32, Extents>,
    bounds: HashMap<u32, (u64, u64)>,
    holes: HashMap<u32, Vec<(u64, u64)>>,
    pub(crate) topics: HashMap<u32, (u64, Vec<u8>)>,
    streams: HashMap<StreamId, (u64, Vec<u8>)>,
    states: HashMap<Vec<u8>, State>,
    kept_segments: Option<Vec<(u32, u32)>>,
    pub(crate) ends: BTreeMap<u32, u32>,
    last: Option<Last>,
    last_time_us: u64,
    records: u64,
    /// Offsets that are missing, if missing ones are no reason to stop.
    pub(crate) lost: Option<BTreeMap<u32, Vec<(u64, u64)>>>,
}

/// How the newest segment ends.
#[derive(Clone, Copy)]
pub(crate) struct Last {
    pub(crate) is_ended: bool,
    /// The last record says that everything before this byte is durable.
    pub(crate) durable_before: u32,
    /// Intact records lie behind the end.
    pub(crate) is_torn: bool,
    /// Something was cut off.
    pub(crate) is_cut: bool,
}

#[derive(Default)]
struct State {
    stamp: u64,
    snapshot: Vec<u8>,
    deltas: BTreeMap<u64, Vec<u8>>,
}

impl Fold {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            books: Books::recovering(),
            extents: HashMap::new(),
            bounds: HashMap::new(),
            holes: HashMap::new(),
            topics: HashMap::new(),
            streams: HashMap::new(),
            states: HashMap::new(),
            kept_segments: None,
            ends: BTreeMap::new(),
            last: None,
            last_time_us: 0,
            records: 0,
            lost: None,
        }
    }

    /// One that takes what it gets.
    pub(crate) fn lenient(dir: &Path) -> Self {
        Self { lost: Some(BTreeMap::new()), ..Self::new(dir) }
    }

    pub(crate) fn take(&mut self, found: &Found, scanned: Scanned, is_last: bool) -> Result<(), OpenError> {
        let number = found.header.number;
        let end = scanned.end;
        let is_known_durable = scanned.behind.durable_before > Some(Position::new(number, end));
        if !scanned.is_ended && (!is_last || is_known_durable) {
            let what = match is_last {
                true => "a record that later ones call durable cannot be read",
                false => "a record of a segment that was complete cannot be read",
            };
            return Err(damaged(&self.dir, number, end, what.to_owned()));
        }
        let book = self.books.segment(number);
        (book.used, book.is_ended) = (end - HEADER_BYTES, scanned.is_ended);
        self.records += scanned.records;
        self.last_time_us = self.last_time_us.max(scanned.last_time_us);
        self.ends.insert(number, end);
        self.last = Some(Last {
            is_ended: scanned.is_ended,
            durable_before: scanned.durable_before.at(),
            is_torn: scanned.behind.records > 0,
            is_cut: false,
        });
        scanned.items.into_iter().for_each(|item| self.item(item, number));
        Ok(())
    }

    pub(crate) fn item(&mut self, item: Item, segment: u32) {
        match item {
            Item::Run(run) => {
                self.books.add_run(&run);
                self.extents.entry(run.topic).or_default().add(&run);
            }
            Item::Other(raw) => self.other(&raw, segment),
        }
    }

    fn other(&mut self, raw: &[u8], segment: u32) {
        let entry = record::decode(raw).expect("the entries of an intact record were read before");
        self.books.add(&entry, segment, raw.len() as u32);
        match entry {
            EntryRef::Topic { stamp, id, value } => newest(self.topics.entry(id).or_default(), stamp, value),
            EntryRef::Stream { stamp, id, value, .. } => {
                newest(self.streams.entry(id).or_default(), stamp, value);
            }
            EntryRef::State { stamp, key, value } => {
                let state = self.states.entry(key.to_vec()).or_default();
                if stamp >= state.stamp {
                    (state.stamp, state.snapshot) = (stamp, value.to_vec());
                    state.deltas = state.deltas.split_off(&(stamp + 1));
                }
            }
            EntryRef::Delta { stamp, key, value } => {
                let state = self.states.entry(key.to_vec()).or_default();
                if stamp > state.stamp {
                    state.deltas.insert(stamp, value.to_vec());
                }
            }
            EntryRef::Bounds { topic, oldest, next } => {
                let bounds = self.bounds.entry(topic).or_default();
                *bounds = (bounds.0.max(oldest), bounds.1.max(next));
            }
            EntryRef::Hole { topic, from, to } => self.holes.entry(topic).or_default().push((from, to)),
            EntryRef::Segments(segments) => self.kept_segments = Some(segments.ranges()),
            EntryRef::Forget { .. } | EntryRef::Answers { .. } | EntryRef::Run(_) | EntryRef::End => {}
        }
    }

    /// The segments that were given up already; all that are kept must be there.
    pub(crate) fn check_segments(&self, segments: &[Found]) -> Result<Vec<u32>, OpenError> {
        let last = segments.last().map_or(0, |found| found.header.number);
        let all = vec![(1, u32::MAX)];
        let kept = self.kept_segments.as_ref().unwrap_or(&all);
        let is_kept = |number: u32| kept.iter().any(|(first, last)| (*first..=*last).contains(&number));
        let missing = kept
            .iter()
            .flat_map(|(first, end)| *first..=last.min(*end))
            .find(|number| !self.ends.contains_key(number));
        if let Some(missing) = missing {
            return Err(damaged(&self.dir, missing, 0, "its file is missing".to_owned()));
        }
        Ok(self.ends.keys().copied().filter(|number| !is_kept(*number)).collect())
    }

    /// Makes the end durable, and everything behind it unreadable for ever.
    pub(crate) fn mend_end(&mut self, segments: &[Found]) -> Result<(), OpenError> {
        let (Some(found), Some(last)) = (segments.last(), &mut self.last) else { return Ok(()) };
        let end = self.ends[&found.header.number];
        let mended = mend(found, end, last);
        mended.map_err(|source| self.io(found, source))
    }

    pub(crate) fn io(&self, found: &Found, source: io::Error) -> OpenError {
        OpenError::Io { path: file_path(&self.dir, FileKind::Segment(found.header.number)), source }
    }

    pub(crate) fn finish(
        mut self,
        log_id: u64,
        segment_bytes: u32,
        leftovers: Vec<String>,
        segments: &[Found],
    ) -> Result<(Base, Recovered), OpenError> {
        self.books.recovered();
        let mut index = Index::default();
        for found in segments {
            let number = found.header.number;
            let (mask, file) = (found.mask(), Arc::clone(&found.file));
            index.add_segment(number, Readable { mask, file, end: self.ends[&number] });
        }
        let mut recovered = Recovered::default();
        self.finish_topics(&mut index, &mut recovered)?;
        self.finish_streams(&mut recovered);
        for (key, state) in std::mem::take(&mut self.states) {
            let State { snapshot, deltas, .. } = state;
            if !(snapshot.is_empty() && deltas.is_empty()) {
                recovered.states.push(RecoveredState {
                    key,
                    snapshot,
                    deltas: deltas.into_values().collect(),
                });
            }
        }
        recovered.states.sort_by(|left, right| left.key.cmp(&right.key));
        let last = segments.last().zip(self.last).map(|(found, last)| {
            let (number, file) = (found.header.number, Arc::clone(&found.file));
            LastSegment { number, file, end: self.ends[&number], is_ended: last.is_ended }
        });
        recovered.report.records = self.records;
        recovered.report.cut = last
            .as_ref()
            .zip(self.last)
            .and_then(|(segment, last)| last.is_cut.then_some((segment.number, segment.end)));
        let (books, last_time_us) = (self.books, self.last_time_us);
        Ok((Base { log_id, segment_bytes, books, index, last, last_time_us, leftovers }, recovered))
    }

    pub(crate) fn finish_topics(
        &mut self,
        index: &mut Index,
        recovered: &mut Recovered,
    ) -> Result<(), OpenError> {
        let undeclared = self.extents.keys().find(|topic| !self.topics.contains_key(topic));
        if let (Some(topic), None) = (undeclared, &self.lost) {
            return Err(self.missing(format!("messages of topic {topic} are there, its declaration is not")));
        }
        let mut topics: Vec<(u32, Vec<u8>)> =
            self.topics.iter().map(|(id, (_, value))| (*id, value.clone())).collect();
        topics.sort_by_key(|(id, _)| *id);
        for (id, value) in topics {
            let (oldest, next) = self.bounds.get(&id).copied().unwrap_or_default();
            let extents = self.extents.remove(&id).unwrap_or_default();
            let Joined { marks, next, last_time_us, missing } = extents.join(oldest, next);
            let known = self.holes.remove(&id).unwrap_or_default();
            let is_known = |&(from, to): &(u64, u64)| known.iter().any(|hole| hole.0 <= from && to <= hole.1);
            let lost: Vec<(u64, u64)> = missing.iter().copied().filter(|range| !is_known(range)).collect();
            match (&mut self.lost, lost.first()) {
                (_, None) => {}
                (Some(known), _) => drop(known.insert(id, lost)),
                (None, Some((from, to))) => {
                    let last = to.saturating_sub(1);
                    return Err(self.missing(format!("offsets {from} to {last} of topic {id} are missing")));
                }
            }
            index.insert(id, Topic::recovered(oldest, next, marks, last_time_us, missing));
            recovered.topics.push(RecoveredTopic { id, value, oldest, next });
        }
        Ok(())
    }

    fn finish_streams(&mut self, recovered: &mut Recovered) {
        for (id, stream) in &self.books.streams {
            let (_, value) = self.streams.remove(id).unwrap_or_default();
            recovered.streams.push(RecoveredStream {
                session: id.session,
                lane: id.lane,
                topic: stream.topic,
                value,
                last_seq: stream.last_seq,
                answers: stream.answers.iter().copied().collect(),
            });
        }
        recovered.streams.sort_by_key(|stream| (stream.session, stream.lane));
    }

    fn missing(&self, what: String) -> OpenError {
        let (segment, end) = self.ends.last_key_value().map_or((0, 0), |(number, end)| (*number, *end));
        damaged(&self.dir, segment, end, what)
    }
}

fn newest(known: &mut (u64, Vec<u8>), stamp: u64, value: &[u8]) {
    if stamp >= known.0 {
        *known = (stamp, value.to_vec());
    }
}
