//! What in which segment is still needed, and by whom: streams, states, topics' declarations, live bytes.
//!
//! Kept by the writer alone. Follows every entry that became durable; decides nothing and reads no files.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::entry::{Answer, StreamId};
use crate::index::Index;
use crate::record::EntryRef;
use crate::scan::RunFacts;

/// Answers kept for a stream whose publisher did not hear them.
pub(crate) const ANSWERS_MAX: usize = 65_536;

#[derive(Default)]
pub(crate) struct Books {
    pub(crate) segments: BTreeMap<u32, SegmentBook>,
    topics: HashMap<u32, Declared>,
    pub(crate) streams: HashMap<StreamId, StreamBook>,
    states: HashMap<Box<[u8]>, StateBook>,
    /// The segment that is being given up: what is copied lies there no more.
    pub(crate) victim: Option<u32>,
    next_stamp: u64,
    is_recovering: bool,
}

/// A segment's share of what is live.
#[derive(Default)]
pub(crate) struct SegmentBook {
    /// Bytes of records.
    pub(crate) used: u32,
    pub(crate) is_ended: bool,
    /// Something in it cannot be read: it stays, so that nobody takes the loss for retention.
    pub(crate) is_unreadable: bool,
    /// Last offset's end and bytes of each topic's runs.
    runs: HashMap<u32, (u64, u64)>,
    /// Bytes of live entries that are not runs.
    others: u64,
}

/// Where a live entry lies.
#[derive(Clone, Copy)]
struct Live {
    segment: u32,
    bytes: u32,
}

struct Declared {
    stamp: u64,
    live: Live,
}

/// A publisher stream.
#[derive(Default)]
pub(crate) struct StreamBook {
    stamp: u64,
    live: Option<Live>,
    is_forgotten: bool,
    pub(crate) topic: u32,
    pub(crate) last_seq: u64,
    pub(crate) answers: VecDeque<Answer>,
}

#[derive(Default)]
struct StateBook {
    stamp: u64,
    is_deleted: bool,
    pieces: Vec<Live>,
}

impl Books {
    /// Until [`recovered`](Self::recovered), entries may come in any order and before what they belong to.
    pub(crate) fn recovering() -> Self {
        Self { is_recovering: true, ..Self::default() }
    }

    pub(crate) fn next_stamp(&self) -> u64 {
        // 0 is what an unknown state has.
        self.next_stamp.max(1)
    }

    pub(crate) fn segment(&mut self, number: u32) -> &mut SegmentBook {
        self.segments.entry(number).or_default()
    }

    pub(crate) fn add_run(&mut self, run: &RunFacts) {
        let (end, bytes) = self.segment(run.position.segment()).runs.entry(run.topic).or_default();
        *end = run.end_offset().max(*end);
        *bytes += u64::from(run.bytes);
        let answer = Answer {
            first_seq: run.origin.first_seq,
            count: u64::from(run.frames),
            first_offset: run.first_offset,
        };
        if self.is_recovering {
            self.streams.entry(run.stream()).or_default().answer_in_any_order(answer);
        } else if !run.is_copy
            && let Some(stream) = self.streams.get_mut(&run.stream())
        {
            stream.answer(answer);
        }
    }

    /// Takes in anything but a run. `bytes` is the entry's length.
    pub(crate) fn add(&mut self, entry: &EntryRef<'_>, segment: u32, bytes: u32) {
        let live = Live { segment, bytes };
        match *entry {
            EntryRef::Topic { stamp, id, .. } => {
                self.seen(stamp);
                self.declare(stamp, id, live);
            }
            EntryRef::Stream { stamp, id, topic, .. } => {
                self.seen(stamp);
                self.open(stamp, id, topic, live);
            }
            EntryRef::Forget { stamp, id } => {
                self.seen(stamp);
                self.forget(stamp, id);
            }
            EntryRef::Answers { id, last_seq, answers } if self.is_recovering => {
                let stream = self.streams.entry(id).or_default();
                stream.last_seq = stream.last_seq.max(last_seq);
                answers.iter().for_each(|answer| stream.answer_in_any_order(answer));
            }
            EntryRef::State { stamp, key, value } => {
                self.seen(stamp);
                self.state(stamp, key, value.is_empty(), live);
            }
            EntryRef::Delta { stamp, key, .. } => {
                self.seen(stamp);
                self.delta(stamp, key, live);
            }
            EntryRef::Answers { .. }
            | EntryRef::Bounds { .. }
            | EntryRef::Run(_)
            | EntryRef::Segments(_)
            | EntryRef::Hole { .. }
            | EntryRef::End => {}
        }
    }

    /// Everything was seen: streams that nobody opened, or that were forgotten, go.
    pub(crate) fn recovered(&mut self) {
        self.is_recovering = false;
        self.streams.retain(|_, stream| stream.live.is_some() && !stream.is_forgotten);
        self.streams.values_mut().for_each(StreamBook::sort);
    }

    /// Whether an entry that is no run is still needed, wherever its copies lie.
    pub(crate) fn is_needed(&self, entry: &EntryRef<'_>, is_oldest_segment: bool) -> bool {
        match *entry {
            EntryRef::Topic { stamp, id, .. } => {
                self.topics.get(&id).is_some_and(|declared| declared.stamp <= stamp)
            }
            EntryRef::Stream { stamp, id, .. } => {
                self.streams.get(&id).is_some_and(|stream| stream.stamp <= stamp)
            }
            // What they take back may lie in an older segment.
            EntryRef::Forget { id, .. } => !is_oldest_segment && !self.streams.contains_key(&id),
            EntryRef::State { stamp, key, .. } => self
                .states
                .get(key)
                .is_some_and(|state| state.stamp == stamp && !(state.is_deleted && is_oldest_segment)),
            EntryRef::Delta { stamp, key, .. } => {
                self.states.get(key).is_none_or(|state| stamp > state.stamp)
            }
            EntryRef::Hole { .. } => true,
            EntryRef::Answers { .. }
            | EntryRef::Bounds { .. }
            | EntryRef::Run(_)
            | EntryRef::Segments(_)
            | EntryRef::End => false,
        }
    }

    /// About how many bytes of a segment are live.
    pub(crate) fn live_bytes(&self, segment: u32, index: &Index) -> u64 {
        let Some(book) = self.segments.get(&segment) else { return 0 };
        let is_live = |topic: u32, end: u64| index.topic(topic).is_some_and(|topic| end > topic.oldest);
        let runs = book.runs.iter().filter(|(topic, (end, _))| is_live(**topic, *end));
        runs.map(|(_, (_, bytes))| *bytes).sum::<u64>() + book.others
    }

    /// Topics with runs in a segment.
    pub(crate) fn topics_in(&self, segment: u32) -> impl Iterator<Item = u32> {
        self.segments.get(&segment).into_iter().flat_map(|book| book.runs.keys().copied())
    }

    /// A segment was given up.
    pub(crate) fn give_up(&mut self, segment: u32) {
        let is_oldest = self.segments.keys().next() == Some(&segment);
        self.segments.remove(&segment);
        if is_oldest {
            let first = self.segments.keys().next().copied();
            // Deletions are remembered while an older segment may hold what they deleted.
            self.states.retain(|_, state| !(state.is_deleted && state.lies_before(first)));
        }
    }

    fn seen(&mut self, stamp: u64) {
        self.next_stamp = self.next_stamp.max(stamp + 1);
    }

    fn declare(&mut self, stamp: u64, id: u32, live: Live) {
        let known = self.topics.get(&id).map(|known| (known.stamp, known.live));
        if known.is_some_and(|(known, _)| known > stamp) {
            return;
        }
        if let Some((_, before)) = known {
            self.drop_live(before);
        }
        self.topics.insert(id, Declared { stamp, live });
        self.add_live(live);
    }

    fn open(&mut self, stamp: u64, id: StreamId, topic: u32, live: Live) {
        let stream = self.streams.entry(id).or_default();
        if (stream.live.is_some() || stream.is_forgotten) && stream.stamp > stamp {
            return;
        }
        let before = stream.live.replace(live);
        (stream.stamp, stream.topic, stream.is_forgotten) = (stamp, topic, false);
        before.into_iter().for_each(|before| self.drop_live(before));
        self.add_live(live);
    }

    fn forget(&mut self, stamp: u64, id: StreamId) {
        let recovering = self.is_recovering;
        let Some(stream) = (match recovering {
            true => Some(self.streams.entry(id).or_default()),
            false => self.streams.get_mut(&id),
        }) else {
            return;
        };
        if stream.live.is_some() && stream.stamp > stamp {
            return;
        }
        (stream.stamp, stream.is_forgotten) = (stamp, true);
        let before = stream.live.take();
        before.into_iter().for_each(|before| self.drop_live(before));
        if !recovering {
            self.streams.remove(&id);
        }
    }

    fn state(&mut self, stamp: u64, key: &[u8], is_deleted: bool, live: Live) {
        let state = self.states.entry(key.into()).or_default();
        if state.stamp > stamp {
            return;
        }
        let dead = match state.stamp == stamp {
            true => state.leave(self.victim),
            false => std::mem::take(&mut state.pieces),
        };
        (state.stamp, state.is_deleted) = (stamp, is_deleted);
        state.pieces.push(live);
        dead.into_iter().for_each(|dead| self.drop_live(dead));
        self.add_live(live);
    }

    fn delta(&mut self, stamp: u64, key: &[u8], live: Live) {
        let state = self.states.entry(key.into()).or_default();
        if state.stamp > stamp {
            return;
        }
        let dead = state.leave(self.victim);
        match state.pieces.last_mut() {
            Some(last) if last.segment == live.segment => last.bytes = last.bytes.saturating_add(live.bytes),
            _ => state.pieces.push(live),
        }
        dead.into_iter().for_each(|dead| self.drop_live(dead));
        self.add_live(live);
    }

    fn add_live(&mut self, live: Live) {
        self.segment(live.segment).others += u64::from(live.bytes);
    }

    fn drop_live(&mut self, live: Live) {
        // The segment may be gone; its share went with it.
        if let Some(book) = self.segments.get_mut(&live.segment) {
            book.others = book.others.saturating_sub(u64::from(live.bytes));
        }
    }
}

impl StateBook {
    /// Whatever is needed of a segment that is being given up is copied: nothing counts there any more.
    fn leave(&mut self, victim: Option<u32>) -> Vec<Live> {
        let Some(victim) = victim else { return Vec::new() };
        let (dead, kept) =
            std::mem::take(&mut self.pieces).into_iter().partition(|piece| piece.segment == victim);
        self.pieces = kept;
        dead
    }

    fn lies_before(&self, first: Option<u32>) -> bool {
        self.pieces.iter().all(|piece| first.is_none_or(|first| piece.segment < first))
    }
}

impl StreamBook {
    /// The smallest number that an answer is kept for.
    pub(crate) fn first_answered(&self) -> u64 {
        self.answers.front().map_or(u64::MAX, |answer| answer.first_seq)
    }

    fn answer(&mut self, answer: Answer) {
        self.last_seq = self.last_seq.max(answer.end_seq().saturating_sub(1));
        if self.answers.back_mut().is_some_and(|last| last.extend(&answer)) {
            return;
        }
        if self.answers.len() == ANSWERS_MAX {
            self.answers.pop_front();
        }
        self.answers.push_back(answer);
    }

    fn answer_in_any_order(&mut self, answer: Answer) {
        self.last_seq = self.last_seq.max(answer.end_seq().saturating_sub(1));
        if self.answers.back_mut().is_some_and(|last| last.extend(&answer)) {
            return;
        }
        self.answers.push_back(answer);
        if self.answers.len() >= 4 * ANSWERS_MAX {
            self.sort();
        }
    }

    /// Puts answers in order, joins them, and keeps the newest.
    fn sort(&mut self) {
        let answers = self.answers.make_contiguous();
        answers.sort_unstable_by_key(|answer| answer.first_seq);
        let mut joined: VecDeque<Answer> = VecDeque::new();
        for answer in answers {
            let end_seq = joined.back().map_or(0, Answer::end_seq);
            // A copy says again what its original said.
            let repeated = end_seq.saturating_sub(answer.first_seq);
            if repeated >= answer.count {
                continue;
            }
            let rest = Answer {
                first_seq: answer.first_seq + repeated,
                count: answer.count - repeated,
                first_offset: answer.first_offset + repeated,
            };
            if !joined.back_mut().is_some_and(|last| last.extend(&rest)) {
                joined.push_back(rest);
            }
        }
        joined.drain(..joined.len().saturating_sub(ANSWERS_MAX));
        self.answers = joined;
    }
}
