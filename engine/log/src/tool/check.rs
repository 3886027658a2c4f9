//! Says whether a log is as it was written, and what is in it.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use crate::error::OpenError;
use crate::extents::Extents;
use crate::record::{self, EntryRef};
use crate::scan::{Record, RunFacts};
use crate::tool::survey::survey;
use crate::tool::{Access, Damage};

/// What a log holds and what is wrong with it.
#[derive(Clone, Debug, Default)]
pub struct CheckReport {
    /// Every segment.
    pub segments: Vec<SegmentReport>,
    /// Every declared topic.
    pub topics: Vec<TopicReport>,
    /// Publisher streams that were opened and not forgotten, and keys of states.
    pub streams: usize,
    /// Keys of states that were not deleted.
    pub states: usize,
    /// Everything that is not as it was written. Empty: the log is sound.
    pub damage: Vec<Damage>,
    /// Segment and byte of what was being written when the power went. No damage.
    pub torn_tail: Option<(u32, u32)>,
    /// Files that wait to be used again.
    pub spare_files: usize,
}

impl CheckReport {
    /// Nothing that was durable is lost.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty() && self.topics.iter().all(|topic| topic.missing.is_empty())
    }
}

/// A segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    /// Its number.
    pub number: u32,
    /// Intact records.
    pub records: u64,
    /// Bytes in use.
    pub bytes: u32,
    /// Nothing is appended to it any more.
    pub is_ended: bool,
}

/// A declared topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicReport {
    /// The owner's number.
    pub id: u32,
    /// The newest value.
    pub value: Vec<u8>,
    /// The oldest offset that is kept.
    pub oldest: u64,
    /// The offset that the next message gets.
    pub next: u64,
    /// Of its frames.
    pub bytes: u64,
    /// Offsets that should be there and are not: from, to (exclusive).
    pub missing: Vec<(u64, u64)>,
    /// Offsets that an earlier repair found lost.
    pub known_lost: Vec<(u64, u64)>,
}

/// Reads every record of the log in `dir`.
///
/// # Errors
///
/// [`OpenError::Locked`] if a server has it and `access` is [`Access::Alone`]; damage is no error here.
pub fn check(dir: &Path, access: Access) -> Result<CheckReport, OpenError> {
    let mut seen = Seen::default();
    let survey = survey(dir, access, |record| seen.record(record))?;
    let segments = survey.segments.iter().map(|segment| SegmentReport {
        number: segment.found.header.number,
        records: segment.records,
        bytes: segment.end,
        is_ended: segment.is_ended,
    });
    let states = seen.states.values().filter(|(_, is_deleted)| !is_deleted).count();
    let streams = seen.streams.values().filter(|(_, is_forgotten)| !is_forgotten).count();
    Ok(CheckReport {
        segments: segments.collect(),
        topics: seen.topics(),
        streams,
        states,
        damage: survey.damage,
        torn_tail: survey.torn_tail,
        spare_files: survey.spare_files,
    })
}

#[derive(Default)]
struct Seen {
    values: BTreeMap<u32, (u64, Vec<u8>)>,
    extents: HashMap<u32, Extents>,
    bounds: HashMap<u32, (u64, u64)>,
    holes: HashMap<u32, Vec<(u64, u64)>>,
    streams: HashMap<([u8; 16], u32), (u64, bool)>,
    states: HashMap<Vec<u8>, (u64, bool)>,
}

impl Seen {
    fn record(&mut self, record: &Record<'_>) {
        for entry in record::entries(record.bytes).flatten() {
            match entry {
                EntryRef::Topic { stamp, id, value } => {
                    let known = self.values.entry(id).or_default();
                    if stamp >= known.0 {
                        *known = (stamp, value.to_vec());
                    }
                }
                EntryRef::Run(run) => {
                    let facts = RunFacts::new(&run, record.position, record.header.time_us);
                    self.extents.entry(run.topic).or_default().add(&facts);
                }
                EntryRef::Bounds { topic, oldest, next } => {
                    let bounds = self.bounds.entry(topic).or_default();
                    *bounds = (bounds.0.max(oldest), bounds.1.max(next));
                }
                EntryRef::Hole { topic, from, to } => self.holes.entry(topic).or_default().push((from, to)),
                EntryRef::Stream { stamp, id, .. } => {
                    newer(self.streams.entry((id.session, id.lane)).or_default(), stamp, false);
                }
                EntryRef::Forget { stamp, id } => {
                    newer(self.streams.entry((id.session, id.lane)).or_default(), stamp, true);
                }
                EntryRef::State { stamp, key, value } => {
                    newer(self.states.entry(key.to_vec()).or_default(), stamp, value.is_empty());
                }
                EntryRef::Delta { stamp, key, .. } => {
                    newer(self.states.entry(key.to_vec()).or_default(), stamp, false);
                }
                EntryRef::Answers { .. } | EntryRef::Segments(_) | EntryRef::End => {}
            }
        }
    }

    fn topics(&mut self) -> Vec<TopicReport> {
        let values = std::mem::take(&mut self.values);
        let topics = values.into_iter().map(|(id, (_, value))| {
            let (oldest, next) = self.bounds.get(&id).copied().unwrap_or_default();
            let joined = self.extents.remove(&id).unwrap_or_default().join(oldest, next);
            let holes = self.holes.remove(&id).unwrap_or_default();
            let is_known = |&(from, to): &(u64, u64)| holes.iter().any(|hole| hole.0 <= from && to <= hole.1);
            let (known_lost, missing) = joined.missing.into_iter().partition(is_known);
            let bytes = joined.marks.iter().map(|mark| mark.bytes).sum();
            TopicReport { id, value, oldest, next: joined.next, bytes, missing, known_lost }
        });
        topics.collect()
    }
}

fn newer(known: &mut (u64, bool), stamp: u64, is_gone: bool) {
    if stamp >= known.0 {
        *known = (stamp, is_gone);
    }
}
