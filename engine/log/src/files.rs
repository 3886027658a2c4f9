//! The log's directory: segments begin, are given up and used again. Knows when space is out; knows no records.

use std::any::Any;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::disk::{Disk, DiskFile};
use crate::segment::{FileKind, SegmentHeader};

/// Files that wait to become segments. One of them is the reserve.
const SPARES_MAX: usize = 2;

/// Why no segment began.
#[derive(Debug)]
pub(crate) enum FilesError {
    /// The disk or the log's own bound is full. Nothing was changed.
    NoSpace,
    /// Anything else.
    Io(io::Error),
}

/// What a file is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// What owners append; the reserve stays.
    Ordinary,
    /// What makes room; the reserve is there for it.
    Room,
}

pub(crate) struct Files {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u32,
    bytes_max: u64,
    prepares_ahead: bool,
    spares: Vec<Spare>,
    next_spare: u32,
    /// Segments that are not given up.
    segments: usize,
    making: Option<JoinHandle<io::Result<Spare>>>,
    _lock: Box<dyn Any + Send + Sync>,
}

/// A file that may become a segment.
pub(crate) struct Spare {
    number: u32,
    file: Arc<dyn DiskFile>,
}

/// What [`Files`] is made of.
pub(crate) struct FilesConfig {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) segment_bytes: u32,
    pub(crate) bytes_max: u64,
    pub(crate) prepares_ahead: bool,
    pub(crate) lock: Box<dyn Any + Send + Sync>,
}

impl Files {
    pub(crate) fn new(config: FilesConfig, segments: usize) -> Self {
        let FilesConfig { disk, dir, segment_bytes, bytes_max, prepares_ahead, lock } = config;
        let (spares, next_spare, making) = (Vec::new(), 1, None);
        Self {
            disk,
            dir,
            segment_bytes,
            bytes_max,
            prepares_ahead,
            spares,
            next_spare,
            segments,
            making,
            _lock: lock,
        }
    }

    /// Takes over what an earlier life left; a file of another length is deleted.
    pub(crate) fn adopt(&mut self, name: &str) -> io::Result<()> {
        let path = self.dir.join(name);
        let file = self.disk.open(&path, true)?;
        if self.spares.len() == SPARES_MAX || file.bytes()? != u64::from(self.segment_bytes) {
            return self.disk.remove(&path);
        }
        let number = self.spare_number();
        self.disk.rename(&path, &self.path(FileKind::Spare(number)))?;
        self.spares.push(Spare { number, file });
        Ok(())
    }

    /// A number that no spare file has. Files of an earlier life are renamed out of the way by [`adopt`](Self::adopt).
    fn spare_number(&mut self) -> u32 {
        let number = self.next_spare;
        self.next_spare += 1;
        number
    }

    /// Spare files found at opening keep clear of new names.
    pub(crate) fn number_spares_from(&mut self, number: u32) {
        self.next_spare = self.next_spare.max(number);
    }

    /// Begins a segment in a file that was taken. When this returns, records in it may count.
    pub(crate) fn begin(&mut self, spare: Spare, header: &SegmentHeader) -> io::Result<Arc<dyn DiskFile>> {
        let Spare { number, file } = spare;
        file.write_at(&header.encode(), 0)?;
        file.sync()?;
        let segment = self.path(FileKind::Segment(header.number));
        self.disk.rename(&self.path(FileKind::Spare(number)), &segment)?;
        self.disk.sync_dir(&self.dir)?;
        self.segments += 1;
        Ok(file)
    }

    /// Takes a file for a segment, making it if none is prepared.
    pub(crate) fn take(&mut self, need: Need) -> Result<Spare, FilesError> {
        let kept = usize::from(need == Need::Ordinary);
        self.collect(false);
        if self.spares.len() <= kept {
            self.collect(true);
        }
        while self.spares.len() <= kept {
            let spare = self.make()?;
            self.spares.push(spare);
        }
        Ok(self.spares.remove(0))
    }

    /// Prepares a file on another thread, if one is missing and there is room for it.
    pub(crate) fn prepare(&mut self) {
        self.collect(false);
        if !self.prepares_ahead
            || self.making.is_some()
            || self.spares.len() >= SPARES_MAX
            || !self.has_room()
        {
            return;
        }
        let number = self.spare_number();
        let (disk, path, bytes) =
            (Arc::clone(&self.disk), self.path(FileKind::Spare(number)), u64::from(self.segment_bytes));
        let make = move || disk.create(&path, bytes, true).map(|file| Spare { number, file });
        // Without a thread the file is made when it is needed.
        self.making = std::thread::Builder::new().name("twinlane-log-files".to_owned()).spawn(make).ok();
    }

    /// Makes the reserve now, where nothing is prepared ahead. Without space there is none.
    pub(crate) fn reserve(&mut self) -> io::Result<()> {
        if self.prepares_ahead {
            self.prepare();
            return Ok(());
        }
        if !self.spares.is_empty() {
            return Ok(());
        }
        match self.make() {
            Ok(spare) => self.spares.push(spare),
            Err(FilesError::NoSpace) => {}
            Err(FilesError::Io(error)) => return Err(error),
        }
        Ok(())
    }

    /// Gives a segment up whose content is needed no more. Its file is used again unless somebody reads it.
    pub(crate) fn release(&mut self, segment: u32, file: Arc<dyn DiskFile>) -> io::Result<()> {
        self.segments -= 1;
        self.collect(false);
        let path = self.path(FileKind::Segment(segment));
        let is_read = Arc::strong_count(&file) > 1;
        if is_read || self.spares.len() >= SPARES_MAX {
            return self.disk.remove(&path);
        }
        let number = self.spare_number();
        self.disk.rename(&path, &self.path(FileKind::Spare(number)))?;
        self.spares.push(Spare { number, file });
        Ok(())
    }

    pub(crate) fn spares(&self) -> usize {
        self.spares.len()
    }

    /// All files together.
    pub(crate) fn bytes(&self) -> u64 {
        let files = self.segments + self.spares.len() + usize::from(self.making.is_some());
        files as u64 * u64::from(self.segment_bytes)
    }

    fn make(&mut self) -> Result<Spare, FilesError> {
        if !self.has_room() {
            return Err(FilesError::NoSpace);
        }
        let number = self.spare_number();
        let path = self.path(FileKind::Spare(number));
        match self.disk.create(&path, u64::from(self.segment_bytes), false) {
            Ok(file) => Ok(Spare { number, file }),
            Err(error) if is_out_of_space(&error) => Err(FilesError::NoSpace),
            Err(error) => Err(FilesError::Io(error)),
        }
    }

    /// Takes the file that was prepared, if it is there or is waited for. One that could not be made is
    /// not missed: whoever needs it makes it, and hears why that fails.
    fn collect(&mut self, waits: bool) {
        if let Some(making) = self.making.take_if(|making| waits || making.is_finished())
            && let Ok(Ok(spare)) = making.join()
        {
            self.spares.push(spare);
        }
    }

    fn has_room(&self) -> bool {
        self.bytes_max == 0 || self.bytes() + u64::from(self.segment_bytes) <= self.bytes_max
    }

    fn path(&self, kind: FileKind) -> PathBuf {
        file_path(&self.dir, kind)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // Nobody may find a file that still grows.
        self.collect(true);
    }
}

pub(crate) fn file_path(dir: &Path, kind: FileKind) -> PathBuf {
    dir.join(kind.name())
}

fn is_out_of_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
