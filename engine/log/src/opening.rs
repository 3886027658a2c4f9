//! Opening a log: directory, lock, recovery or a new one, and what the writer begins with.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::books::Books;
use crate::config::LogConfig;
use crate::disk::Disk;
use crate::error::OpenError;
use crate::files::{Files, FilesConfig, FilesError, Need};
use crate::index::{Index, Readable};
use crate::record;
use crate::recovery::{Base, Recovered, recover};
use crate::segment::{FileKind, HEADER_BYTES, SegmentHeader};
use crate::writer::{Current, WriterBase};

pub(crate) struct Opened {
    pub(crate) index: Index,
    pub(crate) base: WriterBase,
    pub(crate) recovered: Recovered,
}

pub(crate) fn open(disk: Arc<dyn Disk>, dir: &Path, config: &LogConfig) -> Result<Opened, OpenError> {
    config.check()?;
    let io = |source| OpenError::Io { path: dir.to_owned(), source };
    disk.open_dir(dir).map_err(io)?;
    let lock = disk.lock(dir).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked { dir: dir.to_owned() },
        _ => io(source),
    })?;
    let (found, recovered) = match recover(&*disk, dir)? {
        Some((base, recovered)) => (base, recovered),
        None => (new_base(&*disk, dir, config).map_err(io)?, Recovered::default()),
    };
    let Base { log_id, segment_bytes, books, mut index, last, last_time_us, leftovers } = found;
    let files_config = FilesConfig {
        disk,
        dir: dir.to_owned(),
        segment_bytes,
        bytes_max: config.bytes_max,
        prepares_ahead: config.prepares_ahead,
        lock,
    };
    let mut files = Files::new(files_config, books.segments.len());
    adopt(&mut files, &leftovers).map_err(io)?;
    let current = match last {
        Some(last) => {
            Current { number: last.number, file: Some(last.file), at: last.end, is_ended: last.is_ended }
        }
        None => Current { number: 0, file: None, at: HEADER_BYTES, is_ended: true },
    };
    let mut base = WriterBase { files, books, log_id, segment_bytes, current, last_time_us };
    if base.current.number == 0 {
        begin_first(&mut base, &mut index).map_err(io)?;
    }
    base.files.reserve().map_err(io)?;
    Ok(Opened { index, base, recovered })
}

/// A log that has nothing yet; its first segment is begun by [`begin_first`].
fn new_base(disk: &dyn Disk, dir: &Path, config: &LogConfig) -> io::Result<Base> {
    let mut log_id = [0; 8];
    getrandom::fill(&mut log_id).map_err(io::Error::other)?;
    let mut leftovers = disk.list(dir)?;
    leftovers.retain(|name| FileKind::parse(name).is_some());
    Ok(Base {
        log_id: u64::from_le_bytes(log_id),
        segment_bytes: config.segment_bytes as u32,
        books: Books::default(),
        index: Index::default(),
        last: None,
        last_time_us: 0,
        leftovers,
    })
}

fn adopt(files: &mut Files, leftovers: &[String]) -> io::Result<()> {
    let numbers = leftovers.iter().filter_map(|name| match FileKind::parse(name) {
        Some(FileKind::Spare(number)) => Some(number),
        _ => None,
    });
    files.number_spares_from(numbers.max().map_or(1, |newest| newest.saturating_add(1)));
    leftovers.iter().try_for_each(|name| files.adopt(name))
}

fn begin_first(base: &mut WriterBase, index: &mut Index) -> io::Result<()> {
    let spare = base.files.take(Need::Room).map_err(|error| match error {
        FilesError::NoSpace => io::ErrorKind::StorageFull.into(),
        FilesError::Io(error) => error,
    })?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let header = SegmentHeader {
        log_id: base.log_id,
        number: 1,
        segment_bytes: base.segment_bytes,
        previous: 0,
        previous_bytes: 0,
        created_us: now.as_micros() as u64,
    };
    let file = base.files.begin(spare, &header)?;
    base.books.segment(1);
    base.current = Current { number: 1, file: Some(Arc::clone(&file)), at: HEADER_BYTES, is_ended: false };
    let mask = record::mask(base.log_id, 1);
    index.add_segment(1, Readable { mask, file, end: HEADER_BYTES });
    Ok(())
}
