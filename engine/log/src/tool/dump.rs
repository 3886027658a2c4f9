//! Shows what lies in a log, record by record.

use std::ops::Range;
use std::path::Path;

use crate::entry::{Answer, Origin};
use crate::error::OpenError;
use crate::record::{self, EntryRef};
use crate::tool::survey::survey;
use crate::tool::{Access, Damage};

/// What is shown. By default everything.
#[derive(Clone, Debug, Default)]
pub struct DumpFilter {
    /// Only this topic's entries.
    pub topic: Option<u32>,
    /// Only runs with one of these offsets.
    pub offsets: Option<Range<u64>>,
    /// Only this segment.
    pub segment: Option<u32>,
}

/// An entry and the record it lies in.
#[derive(Clone, Debug)]
pub struct DumpRecord<'a> {
    /// Number of the segment.
    pub segment: u32,
    /// Byte of the record in its file.
    pub position: u32,
    /// When it was stored, in microseconds of Unix time.
    pub time_us: u64,
    /// What it says.
    pub entry: DumpEntry<'a>,
}

/// What an entry says. The format is described in `FORMAT.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the format")]
pub enum DumpEntry<'a> {
    Topic { id: u32, value: &'a [u8] },
    Bounds { topic: u32, oldest: u64, next: u64 },
    Run { topic: u32, origin: Origin, first_offset: u64, frames: u32, bytes: &'a [u8], is_copy: bool },
    Stream { session: [u8; 16], lane: u32, topic: u32, value: &'a [u8] },
    Forget { session: [u8; 16], lane: u32 },
    Answers { session: [u8; 16], lane: u32, last_seq: u64, answers: Vec<Answer> },
    State { key: &'a [u8], value: &'a [u8] },
    Delta { key: &'a [u8], value: &'a [u8] },
    Segments { kept: Vec<(u32, u32)> },
    Hole { topic: u32, from: u64, to: u64 },
    End,
}

/// Shows `sink` every entry that `filter` lets through, and returns what cannot be read.
///
/// # Errors
///
/// As [`check`](super::check).
pub fn dump(
    dir: &Path,
    access: Access,
    filter: &DumpFilter,
    mut sink: impl FnMut(&DumpRecord<'_>),
) -> Result<Vec<Damage>, OpenError> {
    let survey = survey(dir, access, |record| {
        let (segment, position) = (record.position.segment(), record.position.at());
        if filter.segment.is_some_and(|wanted| wanted != segment) {
            return;
        }
        for entry in record::entries(record.bytes).flatten() {
            let time_us = match &entry {
                EntryRef::Run(run) => run.copied_from_us.unwrap_or(record.header.time_us),
                _ => record.header.time_us,
            };
            let entry = DumpEntry::from(entry);
            if filter.lets_through(&entry) {
                sink(&DumpRecord { segment, position, time_us, entry });
            }
        }
    })?;
    Ok(survey.damage)
}

impl DumpFilter {
    fn lets_through(&self, entry: &DumpEntry<'_>) -> bool {
        let topic = match entry {
            DumpEntry::Topic { id, .. } => Some(*id),
            DumpEntry::Bounds { topic, .. }
            | DumpEntry::Run { topic, .. }
            | DumpEntry::Stream { topic, .. }
            | DumpEntry::Hole { topic, .. } => Some(*topic),
            _ => None,
        };
        let is_wanted = match (&self.offsets, entry) {
            (None, _) => true,
            (Some(wanted), DumpEntry::Run { first_offset, frames, .. }) => {
                *first_offset < wanted.end && first_offset + u64::from(*frames) > wanted.start
            }
            (Some(_), _) => false,
        };
        is_wanted && (self.topic.is_none() || self.topic == topic)
    }
}

impl<'a> From<EntryRef<'a>> for DumpEntry<'a> {
    fn from(entry: EntryRef<'a>) -> Self {
        match entry {
            EntryRef::Topic { id, value, .. } => Self::Topic { id, value },
            EntryRef::Bounds { topic, oldest, next } => Self::Bounds { topic, oldest, next },
            EntryRef::Run(run) => Self::Run {
                topic: run.topic,
                origin: run.origin,
                first_offset: run.first_offset,
                frames: run.frames,
                bytes: run.bytes,
                is_copy: run.copied_from_us.is_some(),
            },
            EntryRef::Stream { id, topic, value, .. } => {
                Self::Stream { session: id.session, lane: id.lane, topic, value }
            }
            EntryRef::Forget { id, .. } => Self::Forget { session: id.session, lane: id.lane },
            EntryRef::Answers { id, last_seq, answers } => {
                let (session, lane) = (id.session, id.lane);
                Self::Answers { session, lane, last_seq, answers: answers.iter().collect() }
            }
            EntryRef::State { key, value, .. } => Self::State { key, value },
            EntryRef::Delta { key, value, .. } => Self::Delta { key, value },
            EntryRef::Segments(segments) => Self::Segments { kept: segments.ranges() },
            EntryRef::Hole { topic, from, to } => Self::Hole { topic, from, to },
            EntryRef::End => Self::End,
        }
    }
}
