//! The few things the log asks of a file system, as a trait, so that tests can stand in for one that crashes.
//!
//! [`RealDisk`] does them; nothing else in this crate touches a path.

use std::any::Any;
use std::fmt::Debug;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::retry_on_intr;

/// Zeros are written in pieces of it.
const ZERO_BYTES: usize = 1 << 20;
/// Write permission of the group and of everybody.
const OTHERS_WRITE: u32 = 0o022;

/// A file system.
pub trait Disk: Send + Sync + Debug {
    /// Makes sure of the directory, and that nobody else may write there.
    fn open_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes the directory for this process until the guard is dropped; `WouldBlock` if another has it.
    fn lock(&self, dir: &Path) -> io::Result<Box<dyn Any + Send + Sync>>;
    /// Names of the files in it.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// A new file whose `bytes` are set aside, so that writing to them cannot run out of space. With
    /// `is_zeroed` they are written too, which makes later syncs half as long.
    fn create(&self, path: &Path, bytes: u64, is_zeroed: bool) -> io::Result<Arc<dyn DiskFile>>;
    /// An existing file.
    fn open(&self, path: &Path, is_writable: bool) -> io::Result<Arc<dyn DiskFile>>;
    /// Gives a file another name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Deletes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file.
pub trait DiskFile: Send + Sync + Debug {
    /// Fills `bytes` from `at`; fewer at the file's end.
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes all of `bytes`.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Makes what was written durable.
    fn sync(&self) -> io::Result<()>;
    /// The file's length.
    fn bytes(&self) -> io::Result<u64>;
}

/// The operating system's.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open_dir(&self, dir: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let mode = dir.metadata()?.mode();
        if mode & OTHERS_WRITE != 0 {
            let what =
                format!("mode {:o} lets others write; run: chmod go-w {}", mode & 0o7777, dir.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
        }
        // The directory's own name must survive as well as the names in it.
        match dir.parent() {
            Some(parent) if parent != Path::new("") => self.sync_dir(parent),
            _ => Ok(()),
        }
    }

    fn lock(&self, dir: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        let file = options(true).create(true).truncate(false).open(dir.join("LOCK"))?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let entries = dir.read_dir()?;
        let names = entries.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn create(&self, path: &Path, bytes: u64, is_zeroed: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file = options(true).create(true).truncate(true).open(path)?;
        let made = set_aside(&file, bytes, is_zeroed).and_then(|()| file.sync_all());
        match made {
            Ok(()) => Ok(Arc::new(file)),
            Err(error) => {
                // A file that is not whole would be taken for space that is there. The first error counts.
                let _ = std::fs::remove_file(path);
                Err(error)
            }
        }
    }

    fn open(&self, path: &Path, is_writable: bool) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(options(is_writable).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

impl DiskFile for File {
    fn read_at(&self, mut bytes: &mut [u8], mut at: u64) -> io::Result<usize> {
        let mut total = 0;
        while !bytes.is_empty() {
            match FileExt::read_at(self, bytes, at) {
                Ok(0) => break,
                Ok(read) => {
                    bytes = &mut bytes[read..];
                    at += read as u64;
                    total += read;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(total)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

fn options(is_writable: bool) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(is_writable).mode(0o600);
    options
}

fn set_aside(file: &File, bytes: u64, is_zeroed: bool) -> io::Result<()> {
    match retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, bytes)) {
        Ok(()) if !is_zeroed => return Ok(()),
        Ok(()) => {}
        // Zeros set space aside too on file systems that cannot do better.
        Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::NOSYS) => {}
        Err(error) => return Err(error.into()),
    }
    let zeros = vec![0; ZERO_BYTES];
    let mut at = 0;
    while at < bytes {
        let piece = zeros.len().min((bytes - at) as usize);
        file.write_all_at(&zeros[..piece], at)?;
        at += piece as u64;
    }
    Ok(())
}
