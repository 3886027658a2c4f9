//! Where each topic's messages lie: what reading and retention ask. Sparse, one mark per 64 KiB of log.
//!
//! A mark says: the run with this offset begins here, and the runs after it, up to the next mark's offset,
//! follow within [`SPAN_BYTES`] in the same segment. It reads no files.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use crate::config::Retention;
use crate::disk::DiskFile;
use crate::position::Position;
use crate::scan::RunFacts;

/// The longest way from a mark to a run without one.
pub(crate) const SPAN_BYTES: u32 = 64 << 10;

#[derive(Default)]
pub(crate) struct Index {
    topics: HashMap<u32, Topic>,
    segments: BTreeMap<u32, Readable>,
    /// Said of topics whose declaration is not durable yet.
    early: HashMap<u32, (Retention, Option<u64>)>,
}

/// A segment's file and how far it may be read.
#[derive(Clone)]
pub(crate) struct Readable {
    /// What the checksums of its records are combined with.
    pub(crate) mask: u32,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) end: u32,
}

#[derive(Default)]
pub(crate) struct Topic {
    /// The oldest offset that is kept.
    pub(crate) oldest: u64,
    /// The offset that the next message gets.
    pub(crate) next: u64,
    detail: Option<Box<Detail>>,
}

#[derive(Default)]
struct Detail {
    marks: VecDeque<Mark>,
    /// Of the newest message.
    last_time_us: u64,
    retention: Retention,
    floor: Option<u64>,
    holes: Vec<(u64, u64)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) offset: u64,
    pub(crate) position: Position,
    pub(crate) time_us: u64,
    /// Of the frames from here to the next mark.
    pub(crate) bytes: u64,
}

/// Where a message is to be looked for.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) position: Position,
    pub(crate) readable: Readable,
    /// The next mark: from its offset on, look there.
    pub(crate) next: Option<(u64, Position)>,
}

/// What is known of an offset.
pub(crate) enum Located {
    At(Place),
    /// Not stored yet.
    Ahead,
    Gone {
        oldest: u64,
    },
    Lost {
        next: u64,
    },
}

impl Mark {
    pub(crate) fn new(run: &RunFacts) -> Self {
        let RunFacts { first_offset: offset, position, time_us, bytes, .. } = *run;
        Self { offset, position, time_us, bytes: u64::from(bytes) }
    }

    /// Takes in a run that follows in offset and lies near enough.
    pub(crate) fn extend(&mut self, run: &RunFacts) -> bool {
        let (here, there) = (self.position, run.position);
        let is_near = here.segment() == there.segment()
            && here.at() <= there.at()
            && there.at() - here.at() < SPAN_BYTES;
        if is_near {
            self.bytes += u64::from(run.bytes);
        }
        is_near
    }
}

impl Topic {
    /// A topic as recovery found it.
    pub(crate) fn recovered(
        oldest: u64,
        next: u64,
        marks: Vec<Mark>,
        last_time_us: u64,
        holes: Vec<(u64, u64)>,
    ) -> Self {
        let mut topic = Self { oldest, next, detail: None };
        if !marks.is_empty() || !holes.is_empty() {
            let detail = Detail { marks: marks.into(), last_time_us, holes, ..Detail::default() };
            topic.detail = Some(Box::new(detail));
            topic.forget_marks();
        }
        topic
    }

    pub(crate) fn frame_bytes(&self) -> u64 {
        self.detail.as_ref().map_or(0, |detail| detail.marks.iter().map(|mark| mark.bytes).sum())
    }

    pub(crate) fn holes(&self) -> &[(u64, u64)] {
        self.detail.as_ref().map_or(&[], |detail| &detail.holes)
    }

    fn detail(&mut self) -> &mut Detail {
        self.detail.get_or_insert_default()
    }

    fn add(&mut self, run: &RunFacts) {
        assert_eq!(run.first_offset, self.next, "offsets of topic {} have a hole", run.topic);
        self.next = run.end_offset();
        let detail = self.detail();
        detail.last_time_us = run.time_us;
        if !detail.marks.back_mut().is_some_and(|mark| mark.extend(run)) {
            detail.marks.push_back(Mark::new(run));
        }
    }

    /// The number of the mark at or before `offset`.
    fn mark(&self, offset: u64) -> Option<usize> {
        let marks = &self.detail.as_ref()?.marks;
        marks.partition_point(|mark| mark.offset <= offset).checked_sub(1)
    }

    fn trim(&mut self, now_us: u64) -> bool {
        let (oldest, next) = (self.oldest, self.next);
        let Some(detail) = &mut self.detail else { return false };
        let Retention { bytes, messages, age } = detail.retention;
        let mut keep_from = oldest;
        if messages != 0 {
            keep_from = keep_from.max(next.saturating_sub(messages));
        }
        if bytes != 0 {
            keep_from = keep_from.max(detail.keep_bytes(bytes));
        }
        let age_us = u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
        if age_us != 0 {
            keep_from = keep_from.max(detail.keep_since(now_us.saturating_sub(age_us), next));
        }
        keep_from = keep_from.min(detail.floor.unwrap_or(u64::MAX)).min(next).max(oldest);
        self.oldest = keep_from;
        self.forget_marks();
        keep_from > oldest
    }

    /// Drops marks, and holes, that nobody can ask for.
    fn forget_marks(&mut self) {
        let (oldest, next) = (self.oldest, self.next);
        let Some(detail) = &mut self.detail else { return };
        while detail.marks.get(1).is_some_and(|second| second.offset <= oldest) {
            detail.marks.pop_front();
        }
        if oldest == next {
            detail.marks.clear();
        }
        detail.holes.retain(|&(_, to)| to > oldest);
    }
}

impl Detail {
    /// The first offset to keep so that `bytes` are.
    fn keep_bytes(&self, bytes: u64) -> u64 {
        let mut kept = 0;
        let newest_first = self.marks.iter().rev();
        let first = newest_first.take_while(|mark| {
            let is_needed = kept < bytes;
            kept += mark.bytes;
            is_needed
        });
        first.last().map_or(0, |mark| mark.offset)
    }

    /// The first offset to keep so that everything stored since is.
    fn keep_since(&self, since_us: u64, next: u64) -> u64 {
        if self.last_time_us < since_us {
            return next;
        }
        // What lies before a mark is at most as young as the mark.
        let older = self.marks.partition_point(|mark| mark.time_us < since_us);
        older.checked_sub(1).map_or(0, |last| self.marks[last].offset)
    }
}

impl Index {
    pub(crate) fn topic(&self, topic: u32) -> Option<&Topic> {
        self.topics.get(&topic)
    }

    pub(crate) fn topics(&self) -> impl Iterator<Item = (u32, &Topic)> {
        self.topics.iter().map(|(id, topic)| (*id, topic))
    }

    pub(crate) fn insert(&mut self, id: u32, topic: Topic) {
        self.topics.insert(id, topic);
    }

    pub(crate) fn declare(&mut self, id: u32) {
        let topic = self.topics.entry(id).or_default();
        if let Some((retention, floor)) = self.early.remove(&id) {
            let detail = topic.detail();
            (detail.retention, detail.floor) = (retention, floor);
        }
    }

    pub(crate) fn add(&mut self, run: &RunFacts) {
        self.topics.get_mut(&run.topic).expect("a run's topic is declared before it").add(run);
    }

    pub(crate) fn add_segment(&mut self, number: u32, readable: Readable) {
        self.segments.insert(number, readable);
    }

    pub(crate) fn set_end(&mut self, segment: u32, end: u32) {
        if let Some(readable) = self.segments.get_mut(&segment) {
            readable.end = end;
        }
    }

    pub(crate) fn segment(&self, segment: u32) -> Option<&Readable> {
        self.segments.get(&segment)
    }

    pub(crate) fn set_retention(&mut self, topic: u32, retention: Retention) {
        match self.topics.get_mut(&topic) {
            Some(topic) => topic.detail().retention = retention,
            None => self.early.entry(topic).or_default().0 = retention,
        }
    }

    pub(crate) fn set_floor(&mut self, topic: u32, floor: Option<u64>) {
        match self.topics.get_mut(&topic) {
            Some(topic) => topic.detail().floor = floor,
            None => self.early.entry(topic).or_default().1 = floor,
        }
    }

    /// Applies every topic's retention. Returns whether anything was given up.
    pub(crate) fn trim(&mut self, now_us: u64) -> bool {
        let mut is_changed = false;
        for topic in self.topics.values_mut() {
            is_changed |= topic.trim(now_us);
        }
        is_changed
    }

    pub(crate) fn locate(&self, topic: u32, offset: u64) -> Option<Located> {
        let topic = self.topics.get(&topic)?;
        if offset < topic.oldest {
            return Some(Located::Gone { oldest: topic.oldest });
        }
        if offset >= topic.next {
            return Some(Located::Ahead);
        }
        if let Some(&(_, next)) = topic.holes().iter().find(|(from, to)| (*from..*to).contains(&offset)) {
            return Some(Located::Lost { next });
        }
        let number = topic.mark(offset).expect("every kept offset has a mark at or before it");
        let marks = &topic.detail.as_ref().expect("a mark was found in it").marks;
        let position = marks[number].position;
        let readable =
            self.segments.get(&position.segment()).expect("marks name segments that are kept").clone();
        let next = marks.get(number + 1).map(|mark| (mark.offset, mark.position));
        Some(Located::At(Place { position, readable, next }))
    }

    /// The segment whose copy of this message is read.
    pub(crate) fn segment_of(&self, topic: u32, offset: u64) -> Option<u32> {
        let topic = self.topics.get(&topic)?;
        let number = topic.mark(offset)?;
        Some(topic.detail.as_ref()?.marks[number].position.segment())
    }

    /// Where to begin to look for the first message stored at or after `time_us`; the offset is a lower bound.
    pub(crate) fn offset_before(&self, topic: u32, time_us: u64) -> Option<u64> {
        let topic = self.topics.get(&topic)?;
        let Some(detail) = topic.detail.as_ref().filter(|detail| detail.last_time_us >= time_us) else {
            return Some(topic.next);
        };
        let older = detail.marks.partition_point(|mark| mark.time_us < time_us);
        let offset = older.checked_sub(1).map_or(0, |last| detail.marks[last].offset);
        Some(offset.max(topic.oldest))
    }

    /// Reads `moved` where it lies now, and nothing in `victim` any more.
    pub(crate) fn replace(&mut self, victim: u32, moved: &mut [RunFacts]) {
        moved.sort_unstable_by_key(|run| (run.topic, run.first_offset, run.position));
        for topic in self.topics.values_mut().filter(|topic| topic.detail.is_some()) {
            topic.detail().marks.retain(|mark| mark.position.segment() != victim);
        }
        for runs in moved.chunk_by(|left, right| left.topic == right.topic) {
            let Some(topic) = self.topics.get_mut(&runs[0].topic) else { continue };
            topic.insert(runs);
            topic.forget_marks();
        }
        self.segments.remove(&victim);
    }
}

impl Topic {
    /// Marks for runs that were copied, sorted by offset.
    fn insert(&mut self, runs: &[RunFacts]) {
        let oldest = self.oldest;
        let marks = &mut self.detail().marks;
        let mut new: Vec<Mark> = Vec::new();
        let mut end = None;
        for run in runs.iter().filter(|run| run.end_offset() > oldest) {
            let is_next = end == Some(run.first_offset);
            if !(is_next && new.last_mut().is_some_and(|mark| mark.extend(run))) {
                new.push(Mark::new(run));
            }
            end = Some(run.end_offset());
        }
        marks.extend(new);
        marks.make_contiguous().sort_by_key(|mark| mark.offset);
    }
}
