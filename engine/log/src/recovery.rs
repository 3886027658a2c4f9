//! Reads a log back: what is in it, where it ends, and whether what ends it is a torn tail or damage.
//!
//! A torn tail is what was being written when the power went; nobody was told of it, and it is cut off.
//! Everything else that is not as it was written is damage: the log is not opened and nothing is changed.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use crate::books::Books;
use crate::disk::{Disk, DiskFile};
use crate::entry::Answer;
use crate::error::OpenError;
use crate::files::file_path;
use crate::fold::{Fold, Last};
use crate::index::Index;
use crate::position::Position;
use crate::record::{self, Header};
use crate::scan::{Scanned, Window, scan};
use crate::segment::{BadHeader, FileKind, HEADER_BYTES, SegmentHeader};

/// Segments that are read at a time.
const SCANNERS: usize = 2;
const ZERO_BYTES: usize = 1 << 20;

/// What a log held when it was opened.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Every declared topic.
    pub topics: Vec<RecoveredTopic>,
    /// Every publisher stream that was not forgotten.
    pub streams: Vec<RecoveredStream>,
    /// Every state that was not deleted.
    pub states: Vec<RecoveredState>,
    /// What recovery did.
    pub report: Report,
}

/// A topic that was declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredTopic {
    /// The owner's number.
    pub id: u32,
    /// The newest value.
    pub value: Vec<u8>,
    /// The oldest offset that can be read.
    pub oldest: u64,
    /// The offset that the next message gets.
    pub next: u64,
}

/// A publisher stream that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredStream {
    /// Its session.
    pub session: [u8; 16],
    /// Its number there.
    pub lane: u32,
    /// Where it publishes.
    pub topic: u32,
    /// The newest value.
    pub value: Vec<u8>,
    /// Number of its last message that is stored, 0: none.
    pub last_seq: u64,
    /// Which messages got which offsets, the newest of them, ascending.
    pub answers: Vec<Answer>,
}

/// A state that was not deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredState {
    /// Its key.
    pub key: Vec<u8>,
    /// The newest snapshot; empty if only deltas were stored.
    pub snapshot: Vec<u8>,
    /// The changes since, in order.
    pub deltas: Vec<Vec<u8>>,
}

/// What opening a log found and did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Segments that were read.
    pub segments: usize,
    /// Records in them.
    pub records: u64,
    /// Where a torn tail was cut off: segment and byte.
    pub cut: Option<(u32, u32)>,
    /// How long it took.
    pub elapsed: Duration,
}

/// What the writer goes on with.
pub(crate) struct Base {
    pub(crate) log_id: u64,
    pub(crate) segment_bytes: u32,
    pub(crate) books: Books,
    pub(crate) index: Index,
    pub(crate) last: Option<LastSegment>,
    pub(crate) last_time_us: u64,
    /// Files that are no segments.
    pub(crate) leftovers: Vec<String>,
}

/// The newest segment.
pub(crate) struct LastSegment {
    pub(crate) number: u32,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) end: u32,
    pub(crate) is_ended: bool,
}

/// A segment's file before it is read.
#[derive(Clone)]
pub(crate) struct Found {
    pub(crate) header: SegmentHeader,
    pub(crate) file: Arc<dyn DiskFile>,
}

impl Found {
    pub(crate) fn mask(&self) -> u32 {
        record::mask(self.header.log_id, self.header.number)
    }
}

/// Reads the log in `dir`, which is locked, and makes its end fit to go on from.
pub(crate) fn recover(disk: &dyn Disk, dir: &Path) -> Result<Option<(Base, Recovered)>, OpenError> {
    let begun = Instant::now();
    loop {
        let (segments, mut leftovers) = find(disk, dir)?;
        let Some(newest) = segments.last() else { return Ok(None) };
        let (log_id, segment_bytes) = (newest.header.log_id, newest.header.segment_bytes);
        let mut fold = fold(dir, &segments)?;
        // Given up, and the power went before the name did: what it holds was copied.
        let given_up = fold.check_segments(&segments)?;
        if !given_up.is_empty() {
            for number in given_up {
                let path = file_path(dir, FileKind::Segment(number));
                disk.remove(&path).map_err(|source| OpenError::Io { path, source })?;
            }
            continue;
        }
        fold.mend_end(&segments)?;
        leftovers.sort();
        let segment_count = segments.len();
        let (base, mut recovered) = fold.finish(log_id, segment_bytes, leftovers, &segments)?;
        recovered.report.segments = segment_count;
        recovered.report.elapsed = begun.elapsed();
        return Ok(Some((base, recovered)));
    }
}

/// The segments in `dir` by number, and the names of files that may be used again.
pub(crate) fn find(disk: &dyn Disk, dir: &Path) -> Result<(Vec<Found>, Vec<String>), OpenError> {
    let io = |path: &Path, source| OpenError::Io { path: path.to_owned(), source };
    let (mut segments, mut leftovers) = (BTreeMap::new(), Vec::new());
    for name in disk.list(dir).map_err(|source| io(dir, source))? {
        match FileKind::parse(&name) {
            Some(FileKind::Spare(_)) => leftovers.push(name),
            Some(FileKind::Segment(number)) => {
                let path = dir.join(&name);
                let file = disk.open(&path, true).map_err(|source| io(&path, source))?;
                let mut bytes = [0; HEADER_BYTES as usize];
                file.read_at(&mut bytes, 0).map_err(|source| io(&path, source))?;
                match SegmentHeader::decode(&bytes) {
                    Ok(header) if header.number == number => {
                        segments.insert(number, Found { header, file });
                    }
                    // It was given up and used again, and the power went before it got its new name.
                    Ok(_) => leftovers.push(name),
                    Err(BadHeader::Version(version)) => {
                        return Err(OpenError::Version { segment: number, version });
                    }
                    Err(BadHeader::Damaged) => {
                        return Err(damaged(dir, number, 0, "its header cannot be read".to_owned()));
                    }
                }
            }
            None => {}
        }
    }
    let segments: Vec<Found> = segments.into_values().collect();
    if let Some(strange) = segments.iter().find(|found| found.header.log_id != segments[0].header.log_id) {
        let what = "it belongs to another log".to_owned();
        return Err(damaged(dir, strange.header.number, 0, what));
    }
    Ok((segments, leftovers))
}

fn fold(dir: &Path, segments: &[Found]) -> Result<Fold, OpenError> {
    let mut fold = Fold::new(dir);
    std::thread::scope(|scope| {
        let scanners: Vec<Receiver<io::Result<Scanned>>> = (0..SCANNERS)
            .map(|first| {
                let (scanned, receiver) = sync_channel(1);
                scope.spawn(move || {
                    let mine = segments.iter().skip(first).step_by(SCANNERS);
                    // Nobody listens any more once damage was found.
                    let mut results = mine.map(|found| scan(&found.file, found.header.number, found.mask()));
                    results.try_for_each(|result| scanned.send(result))
                });
                receiver
            })
            .collect();
        for (number, found) in segments.iter().enumerate() {
            let scanned = scanners[number % SCANNERS].recv().expect("a scanner sends one result per segment");
            let scanned = scanned.map_err(|source| fold.io(found, source))?;
            fold.take(found, scanned, number + 1 == segments.len())?;
        }
        Ok(fold)
    })
}

pub(crate) fn damaged(dir: &Path, segment: u32, position: u32, what: String) -> OpenError {
    OpenError::Damaged { dir: dir.to_owned(), segment, position, what }
}

/// Makes the newest segment's end durable, and whatever lies behind it unreadable for ever.
pub(crate) fn mend(found: &Found, end: u32, last: &mut Last) -> io::Result<()> {
    let file = &*found.file;
    let file_end = u32::try_from(file.bytes()?).unwrap_or(u32::MAX);
    let mut window = Window::new(Arc::clone(&found.file), file_end, ZERO_BYTES);
    if last.is_torn {
        let zeros = vec![0; ZERO_BYTES];
        let mut at = end;
        while at < file_end {
            let piece = zeros.len().min((file_end - at) as usize);
            file.write_at(&zeros[..piece], u64::from(at))?;
            at += piece as u32;
        }
        last.is_cut = true;
    } else if !last.is_ended {
        // Of a torn record only a part may be there, which no record can come from again.
        let position = Position::new(found.header.number, end);
        last.is_cut = Header::read(window.at(end, record::HEADER_BYTES)?, position).is_some();
    }
    // After a sync that failed the kernel may show bytes that the disk does not have: they are written again.
    let mut at = last.durable_before;
    while at < end {
        let bytes = window.at(at, 1)?;
        let piece = &bytes[..bytes.len().min((end - at) as usize)];
        file.write_at(piece, u64::from(at))?;
        at += piece.len() as u32;
    }
    file.sync()
}
