//! A disk in memory that forgets what no sync covered, and fails or crashes at a chosen call.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use twinlane_log::disk::{Disk, DiskFile};

use super::Random;

const SECTOR_BYTES: usize = 512;

#[derive(Clone, Default)]
pub(crate) struct SimDisk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    files: Vec<Content>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Changes of names since the directory was synced.
    name_changes: Vec<BTreeMap<PathBuf, usize>>,
    locked: bool,
    calls: u64,
    crash_at: Option<u64>,
    fail_at: Option<u64>,
    is_down: bool,
    /// Bytes that files may have together.
    room: Option<u64>,
    boots: u64,
}

#[derive(Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(usize, usize)>,
}

/// What of the unsynced bytes a crash leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// None.
    Forgets,
    /// All.
    Keeps,
    /// Some sectors.
    Tears,
}

impl SimDisk {
    /// Changing calls so far.
    pub(crate) fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// The power goes at this call, counted from the disk's beginning.
    pub(crate) fn crash_at(&self, call: u64) {
        self.lock().crash_at = Some(call);
    }

    /// This call fails with EIO.
    pub(crate) fn fail_at(&self, call: u64) {
        self.lock().fail_at = Some(call);
    }

    pub(crate) fn limit(&self, room: Option<u64>) {
        self.lock().room = room;
    }

    pub(crate) fn is_down(&self) -> bool {
        self.lock().is_down
    }

    /// The power goes, and comes back.
    pub(crate) fn reboot(&self, crash: Crash, random: &mut Random) {
        let mut state = self.lock();
        let mut versions = std::mem::take(&mut state.name_changes);
        versions.insert(0, state.durable_names.clone());
        let survives = match crash {
            Crash::Forgets => 0,
            Crash::Keeps => versions.len() as u64 - 1,
            Crash::Tears => random.below(versions.len() as u64),
        };
        state.names = versions.swap_remove(survives as usize);
        state.durable_names = state.names.clone();
        for content in &mut state.files {
            content.crash(crash, random);
        }
        (state.is_down, state.crash_at, state.fail_at, state.locked) = (false, None, None, false);
        state.boots += 1;
    }

    /// The content of a file, to look at or to damage.
    pub(crate) fn edit(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock();
        let id = *state.names.get(Path::new("/log").join(name).as_path()).expect("the file is there");
        let content = &mut state.files[id];
        edit(&mut content.now);
        content.durable = content.now.clone();
        content.unsynced.clear();
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let state = self.lock();
        state.names.keys().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }

    /// An independent disk with the same durable content.
    pub(crate) fn copy(&self) -> Self {
        let state = self.lock();
        let files = state.files.iter().map(|content| Content {
            now: content.now.clone(),
            durable: content.now.clone(),
            unsynced: Vec::new(),
        });
        Self(Arc::new(Mutex::new(State {
            files: files.collect(),
            names: state.names.clone(),
            durable_names: state.names.clone(),
            room: state.room,
            ..State::default()
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    /// Counts a call that changes something. `Err`: it does not happen.
    fn call(&mut self) -> io::Result<()> {
        if self.is_down {
            return Err(io::Error::other("the power is off"));
        }
        self.calls += 1;
        if self.fail_at == Some(self.calls) {
            return Err(io::Error::other("injected"));
        }
        self.is_down = self.crash_at == Some(self.calls);
        Ok(())
    }

    /// What the call returns if the power went in it.
    fn done<T>(&self, value: T) -> io::Result<T> {
        if self.is_down { Err(io::Error::other("the power went")) } else { Ok(value) }
    }

    fn id(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn renamed(&mut self) {
        let names = self.names.clone();
        self.name_changes.push(names);
    }
}

impl Content {
    fn crash(&mut self, crash: Crash, random: &mut Random) {
        let unsynced = std::mem::take(&mut self.unsynced);
        for (from, to) in unsynced {
            for sector in (from / SECTOR_BYTES)..to.div_ceil(SECTOR_BYTES) {
                let range = (sector * SECTOR_BYTES).max(from)..((sector + 1) * SECTOR_BYTES).min(to);
                let survives = match crash {
                    Crash::Forgets => false,
                    Crash::Keeps => true,
                    Crash::Tears => random.one_in(2),
                };
                if survives {
                    self.durable[range.clone()].copy_from_slice(&self.now[range]);
                }
            }
        }
        self.now = self.durable.clone();
    }
}

struct Guard(SimDisk, u64);

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if state.boots == self.1 {
            state.locked = false;
        }
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SimDisk")
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    id: usize,
    boots: u64,
}

impl Disk for SimDisk {
    fn open_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        let mut state = Self::lock(self);
        if std::mem::replace(&mut state.locked, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Guard(self.clone(), state.boots)))
    }

    fn list(&self, _: &Path) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn create(&self, path: &Path, bytes: u64, _: bool) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = Self::lock(self);
        state.call()?;
        let named = state.names.values().map(|id| state.files[*id].now.len() as u64);
        if state.room.is_some_and(|room| named.sum::<u64>() + bytes > room) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let id = state.files.len();
        let zeros = vec![0; bytes as usize];
        state.files.push(Content { now: zeros.clone(), durable: zeros, unsynced: Vec::new() });
        state.names.insert(path.to_owned(), id);
        state.renamed();
        let boots = state.boots;
        state.done(Arc::new(SimFile { disk: self.clone(), id, boots }) as Arc<dyn DiskFile>)
    }

    fn open(&self, path: &Path, _: bool) -> io::Result<Arc<dyn DiskFile>> {
        let state = Self::lock(self);
        Ok(Arc::new(SimFile { disk: self.clone(), id: state.id(path)?, boots: state.boots }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = Self::lock(self);
        state.call()?;
        let id = state.id(from)?;
        state.names.remove(from);
        state.names.insert(to.to_owned(), id);
        state.renamed();
        state.done(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = Self::lock(self);
        state.call()?;
        state.id(path)?;
        state.names.remove(path);
        state.renamed();
        state.done(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        let mut state = Self::lock(self);
        state.call()?;
        state.done(())?;
        state.durable_names = state.names.clone();
        state.name_changes.clear();
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        let state = SimDisk::lock(&self.disk);
        let content = state.files[self.id].now.get(at as usize..).unwrap_or_default();
        let read = bytes.len().min(content.len());
        bytes[..read].copy_from_slice(&content[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut state = SimDisk::lock(&self.disk);
        assert_eq!(state.boots, self.boots, "a log writes to a file of an earlier life");
        state.call()?;
        let content = &mut state.files[self.id];
        let range = at as usize..at as usize + bytes.len();
        content.now[range.clone()].copy_from_slice(bytes);
        content.unsynced.push((range.start, range.end));
        state.done(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = SimDisk::lock(&self.disk);
        state.call()?;
        state.done(())?;
        let content = &mut state.files[self.id];
        for (from, to) in std::mem::take(&mut content.unsynced) {
            content.durable[from..to].copy_from_slice(&content.now[from..to]);
        }
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(SimDisk::lock(&self.disk).files[self.id].now.len() as u64)
    }
}
