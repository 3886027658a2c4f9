//! The forgetting disk: builds the library that the server is started with, and tells it what to do.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rollback::{self, Loss, Lost};
use twinlane_tests::Seeded;

const SOURCE: &str = include_str!("../shim/forget.c");
const CONTROL_BYTES: usize = 4_096;

/// What the server's disk can be told, and what it tells. Each is a word of the page that both sides know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Control {
    /// The n-th sync from now fails with EIO, and what it should have covered is lost. 0: none.
    FailSyncIn = 0,
    /// The n-th write from now fails with EIO.
    FailWriteIn = 1,
    /// Not 0: whatever needs room fails with ENOSPC.
    NoSpace = 2,
    /// A sync takes up to this many microseconds.
    SyncUsMax = 3,
    /// The n-th call that changes a file or syncs it from now kills the server, before or after it is done.
    KillIn = 4,
    /// Syncs so far.
    Syncs = 5,
    /// Writes so far.
    Writes = 6,
    /// Errors injected so far.
    Errors = 7,
    /// Calls so far.
    Calls = 8,
    /// Changes that no sync covers.
    Dirty = 9,
}

/// The forgetting disk of one run. Its folder has to be on the file system of the server's data.
#[derive(Clone, Debug)]
pub struct Shim {
    library: PathBuf,
    control: PathBuf,
    journal: PathBuf,
    data: PathBuf,
}

/// Builds the library at `path` with the C compiler `cc`.
///
/// # Errors
///
/// There is no `cc`, it does not like the source, or the folder cannot be written.
pub fn build_library(path: &Path) -> io::Result<()> {
    let source = path.with_extension("c");
    fs::write(&source, SOURCE)?;
    let built = Command::new("cc")
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .args([path, &source])
        .arg("-lpthread")
        .output()
        .map_err(|error| io::Error::other(format!("cannot run the C compiler `cc`: {error}; install one")))?;
    if built.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&built.stderr).into_owned();
    Err(io::Error::other(format!("the forgetting disk does not build: {said}")))
}

impl Shim {
    /// A disk that watches `data`, by the library built at `library`. What it writes down is in `dir`.
    ///
    /// # Errors
    ///
    /// `dir` cannot be written.
    pub fn new(library: &Path, dir: &Path, data: &Path) -> io::Result<Self> {
        let shim = Self {
            library: library.to_owned(),
            control: dir.join("control"),
            journal: dir.join("journal"),
            data: data.to_owned(),
        };
        fs::create_dir_all(&shim.journal)?;
        fs::write(&shim.control, [0; CONTROL_BYTES])?;
        Ok(shim)
    }

    /// What the server has to be started with.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, &Path); 4] {
        [
            ("LD_PRELOAD", &self.library),
            ("FORGET_DIR", &self.data),
            ("FORGET_JOURNAL", &self.journal),
            ("FORGET_CONTROL", &self.control),
        ]
    }

    /// Tells it something.
    ///
    /// # Errors
    ///
    /// The page cannot be written.
    pub fn set(&self, control: Control, value: u64) -> io::Result<()> {
        OpenOptions::new()
            .write(true)
            .open(&self.control)?
            .write_all_at(&value.to_le_bytes(), control as u64 * 8)
    }

    /// Asks it something.
    ///
    /// # Errors
    ///
    /// The page cannot be read.
    pub fn get(&self, control: Control) -> io::Result<u64> {
        let mut word = [0; 8];
        OpenOptions::new().read(true).open(&self.control)?.read_exact_at(&mut word, control as u64 * 8)?;
        Ok(u64::from_le_bytes(word))
    }

    /// The server is dead: loses what it did not sync.
    ///
    /// # Errors
    ///
    /// The files cannot be read or written.
    pub fn lose(&self, loss: Loss, random: &mut Seeded) -> io::Result<Lost> {
        rollback::lose(&self.data, &self.journal, loss, random)
    }
}
