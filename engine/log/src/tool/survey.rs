//! Goes through every record of every segment and over what is damaged. Decides what is damage as opening does.

use std::any::Any;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, RealDisk};
use crate::error::OpenError;
use crate::files::file_path;
use crate::position::Position;
use crate::record::{self, EntryRef};
use crate::recovery::Found;
use crate::scan::{PIECE_BYTES, Record, Walk, Window};
use crate::segment::{BadHeader, FileKind, HEADER_BYTES, SegmentHeader};
use crate::tool::{Access, Damage};

/// What was found beside the records.
#[derive(Default)]
pub(super) struct Survey {
    pub(super) segments: Vec<Surveyed>,
    pub(super) damage: Vec<Damage>,
    /// Segment and byte of a torn tail.
    pub(super) torn_tail: Option<(u32, u32)>,
    pub(super) spare_files: usize,
    /// Held while the survey is worked with.
    _lock: Option<Box<dyn Any + Send + Sync>>,
}

pub(super) struct Surveyed {
    pub(super) found: Found,
    pub(super) records: u64,
    /// Nothing behind it counts.
    pub(super) end: u32,
    pub(super) is_ended: bool,
}

/// Shows `see` every intact record that counts, in the log's order.
pub(super) fn survey(
    dir: &Path,
    access: Access,
    mut see: impl FnMut(&Record<'_>),
) -> Result<Survey, OpenError> {
    let mut survey = Survey::default();
    if access == Access::Alone {
        survey._lock = Some(lock(dir)?);
    }
    let segments = survey.find(dir)?;
    let (count, mut kept) = (segments.len(), None);
    for (number, found) in segments.into_iter().enumerate() {
        let path = file_path(dir, FileKind::Segment(found.header.number));
        let seen = survey.segment(found, number + 1 == count, &mut |record| {
            for entry in record::entries(record.bytes).flatten() {
                if let EntryRef::Segments(segments) = entry {
                    kept = Some(segments.ranges());
                }
            }
            see(record);
        });
        seen.map_err(|source| OpenError::Io { path, source })?;
    }
    survey.note_missing(&kept.unwrap_or_else(|| vec![(1, u32::MAX)]));
    survey.damage.sort_by_key(|damage| (damage.segment, damage.position));
    Ok(survey)
}

pub(super) fn lock(dir: &Path) -> Result<Box<dyn Any + Send + Sync>, OpenError> {
    RealDisk.lock(dir).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked { dir: dir.to_owned() },
        _ => OpenError::Io { path: dir.to_owned(), source },
    })
}

impl Survey {
    /// The segments by number. One whose header is gone is read with the numbers of its neighbours.
    fn find(&mut self, dir: &Path) -> Result<Vec<Found>, OpenError> {
        let io = |path: &Path, source| OpenError::Io { path: path.to_owned(), source };
        let (mut segments, mut headless) = (Vec::new(), Vec::new());
        for name in RealDisk.list(dir).map_err(|source| io(dir, source))? {
            let number = match FileKind::parse(&name) {
                Some(FileKind::Segment(number)) => number,
                Some(FileKind::Spare(_)) => {
                    self.spare_files += 1;
                    continue;
                }
                None => continue,
            };
            let path = dir.join(&name);
            let file = RealDisk.open(&path, false).map_err(|source| io(&path, source))?;
            let mut bytes = [0; HEADER_BYTES as usize];
            file.read_at(&mut bytes, 0).map_err(|source| io(&path, source))?;
            match SegmentHeader::decode(&bytes) {
                Ok(header) if header.number == number => segments.push(Found { header, file }),
                Ok(_) => self.spare_files += 1,
                Err(BadHeader::Version(version)) => {
                    return Err(OpenError::Version { segment: number, version });
                }
                Err(BadHeader::Damaged) => headless.push((number, file)),
            }
        }
        let known = segments.first().map(|found: &Found| found.header);
        for (number, file) in headless {
            self.damage.push(damage(number, 0, Some(HEADER_BYTES), "the segment's header cannot be read"));
            if let Some(header) = known {
                segments.push(Found { header: SegmentHeader { number, ..header }, file });
            }
        }
        segments.sort_by_key(|found| found.header.number);
        Ok(segments)
    }

    fn segment(&mut self, found: Found, is_last: bool, see: &mut dyn FnMut(&Record<'_>)) -> io::Result<()> {
        let (segment, mask) = (found.header.number, found.mask());
        let file_end = u32::try_from(found.file.bytes()?).unwrap_or(u32::MAX);
        let window = |file: &Arc<dyn DiskFile>| Window::new(Arc::clone(file), file_end, PIECE_BYTES);
        let mut walk = Walk::new(window(&found.file), segment, mask, HEADER_BYTES);
        let mut surveyed = Surveyed { found, records: 0, end: HEADER_BYTES, is_ended: false };
        loop {
            while !surveyed.is_ended
                && let Some(record) = walk.next()?
            {
                surveyed.records += 1;
                surveyed.is_ended = is_end(&record);
                see(&record);
            }
            surveyed.end = walk.at();
            if surveyed.is_ended {
                break;
            }
            let broken = surveyed.end;
            let is_damage = !is_last || claims_beyond(&mut walk, segment, broken)?;
            walk = Walk::new(window(&surveyed.found.file), segment, mask, broken);
            let resumes_at = walk.find()?.then(|| walk.at());
            if !is_damage {
                let header = has_header(&surveyed.found, broken, file_end)?;
                if resumes_at.is_some() || header {
                    self.torn_tail = Some((segment, broken));
                }
                break;
            }
            let topic = topic_at(&surveyed.found, broken, file_end)?;
            let what = "a record cannot be read";
            self.damage.push(Damage { topic, ..damage(segment, broken, resumes_at, what) });
            if resumes_at.is_none() {
                break;
            }
        }
        self.segments.push(surveyed);
        Ok(())
    }

    fn note_missing(&mut self, kept: &[(u32, u32)]) {
        let last = self.segments.last().map_or(0, |segment| segment.found.header.number);
        let is_there = |number: u32| {
            self.segments.binary_search_by_key(&number, |segment| segment.found.header.number).is_ok()
        };
        let numbers = kept.iter().flat_map(|(first, end)| *first..=last.min(*end));
        let missing: Vec<u32> = numbers.filter(|number| !is_there(*number)).collect();
        let missing =
            missing.into_iter().map(|number| damage(number, 0, None, "the segment's file is missing"));
        self.damage.extend(missing);
        let is_kept = |number: u32| kept.iter().any(|(first, end)| (*first..=*end).contains(&number));
        let before = self.segments.len();
        self.segments.retain(|segment| is_kept(segment.found.header.number));
        self.spare_files += before - self.segments.len();
    }
}

fn damage(segment: u32, position: u32, resumes_at: Option<u32>, what: &str) -> Damage {
    Damage { segment, position, resumes_at, what: what.to_owned(), topic: None }
}

fn is_end(record: &Record<'_>) -> bool {
    record::entries(record.bytes).flatten().any(|entry| matches!(entry, EntryRef::End))
}

/// Whether a record behind `broken` says that it was durable.
fn claims_beyond(walk: &mut Walk, segment: u32, broken: u32) -> io::Result<bool> {
    let broken = Position::new(segment, broken);
    while walk.find()? {
        while let Some(record) = walk.next()? {
            if record.header.durable_before > broken {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether a record of this segment was begun here.
fn has_header(found: &Found, at: u32, file_end: u32) -> io::Result<bool> {
    let mut window = Window::new(Arc::clone(&found.file), file_end, record::HEADER_BYTES);
    let bytes = window.at(at, record::HEADER_BYTES)?;
    Ok(record::Header::read(bytes, Position::new(found.header.number, at)).is_some())
}

/// The topic that a damaged record seems to be about.
fn topic_at(found: &Found, at: u32, file_end: u32) -> io::Result<Option<u32>> {
    let mut window = Window::new(Arc::clone(&found.file), file_end, record::BYTES_MAX);
    let bytes = window.at(at, record::HEADER_BYTES)?;
    let Some(header) = record::Header::read(bytes, Position::new(found.header.number, at)) else {
        return Ok(None);
    };
    let bytes = window.at(at, header.bytes)?;
    let record = bytes.get(..header.bytes).unwrap_or(bytes);
    Ok(record::raw_entries(record).find_map(|raw| match record::decode(raw)? {
        EntryRef::Run(run) => Some(run.topic),
        _ => None,
    }))
}
