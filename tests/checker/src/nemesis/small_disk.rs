//! A file system in memory that is as small as one likes: the disk that gets full. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

/// It begins with room for a few segments of the log, and grows by as much.
const ROOM_BYTES: u64 = 256 << 20;

/// A mounted file system. It is unmounted when it is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    dir: PathBuf,
}

impl SmallDisk {
    /// Mounts one of `ROOM_BYTES` on `dir`, which is made.
    ///
    /// # Errors
    ///
    /// No root, or the system does not permit it.
    pub fn mount(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let options = format!("size={ROOM_BYTES},mode=0700");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "twinlane-checker"]).arg(dir))
            .context("a small file system needs root")?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Leaves no room but what files have already.
    ///
    /// # Errors
    ///
    /// It cannot be changed.
    pub fn fill(&self) -> anyhow::Result<()> {
        // What is written in between makes the kernel refuse the new size.
        (0..20)
            .map(|_| self.resize(self.used_bytes()?))
            .find(Result::is_ok)
            .unwrap_or_else(|| bail!("it cannot be filled"))
    }

    /// Leaves room for `ROOM_BYTES` more.
    ///
    /// # Errors
    ///
    /// It cannot be changed.
    pub fn make_room(&self) -> anyhow::Result<()> {
        self.resize(self.used_bytes()? + ROOM_BYTES)
    }

    fn resize(&self, bytes: u64) -> anyhow::Result<()> {
        run(Command::new("mount").args(["-o", &format!("remount,size={bytes}")]).arg(&self.dir)).map(drop)
    }

    fn used_bytes(&self) -> anyhow::Result<u64> {
        let said = run(Command::new("df").args(["--block-size=1", "--output=used"]).arg(&self.dir))?;
        said.lines().nth(1).and_then(|line| line.trim().parse().ok()).context("df says something else")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A server that still has files open does not matter.
        let _left = Command::new("umount").arg("-l").arg(&self.dir).output();
    }
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
