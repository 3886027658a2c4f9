//! One command of cargo or npm: shown before it runs, timed after. It decides nothing about the result.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How often a running command is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Where cargo builds, as far as this program is told.
pub(crate) fn target_dir() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace");
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

pub(crate) struct Cargo(Command);

impl Cargo {
    /// `cargo <words>`.
    pub(crate) fn new(words: &str) -> Self {
        // Not $CARGO: that is the toolchain which runs this program, and `+nightly` needs rustup's.
        let mut command = Command::new("cargo");
        command.args(words.split_whitespace()).env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
        Self(command)
    }

    /// `npm <words>` in `folder` of the workspace.
    pub(crate) fn npm(folder: &str, words: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace");
        let mut command = Command::new("npm");
        command.args(words.split_whitespace()).current_dir(root.join(folder));
        Self(command)
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// Runs it and says how long it took.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        say(&format!("$ {self}"));
        let start = Instant::now();
        let status = self.0.status().with_context(|| format!("cannot start `{self}`"))?;
        say(&format!("{status} after {:.1} s", start.elapsed().as_secs_f64()));
        if !status.success() {
            bail!("`{self}` failed: {status}");
        }
        Ok(())
    }

    /// Adds one word that may contain blanks.
    pub(crate) fn arg(mut self, word: impl AsRef<OsStr>) -> Self {
        self.0.arg(word);
        self
    }

    /// Runs it; what it wrote to its standard output. Its errors are shown.
    pub(crate) fn stdout(mut self) -> anyhow::Result<String> {
        say(&format!("$ {self}"));
        let output = self.0.stderr(Stdio::inherit()).output();
        let output = output.with_context(|| format!("cannot start `{self}`"))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("`{self}` failed: {}\n{said}", output.status);
        }
        Ok(said)
    }

    /// Runs it, silently unless it fails; the executable of the one test it built.
    pub(crate) fn built_test(mut self) -> anyhow::Result<PathBuf> {
        let output = self.0.output().with_context(|| format!("cannot start `{self}`"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!("`{self}` failed: {}\n{said}", output.status);
        }
        // `  Executable tests/loom.rs (target/debug/deps/loom-0123456789abcdef)`
        let line = said.lines().find(|line| line.trim_start().starts_with("Executable"));
        let path = line.and_then(|line| line.rsplit_once('(')).and_then(|(_, path)| path.strip_suffix(')'));
        path.map(PathBuf::from).with_context(|| format!("`{self}` names no executable:\n{said}"))
    }
}

/// Runs a program silently for at most `limit`; `None` if it had to be stopped.
pub(crate) fn run_within(
    limit: Duration,
    program: &Path,
    args: &[&str],
) -> anyhow::Result<Option<ExitStatus>> {
    let start = Instant::now();
    let mut child = Command::new(program)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if limit < start.elapsed() {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(LOOK_INTERVAL);
    }
}

impl fmt::Display for Cargo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.0.get_envs() {
            if let Some(value) = value {
                write!(f, "{}={:?} ", name.display(), value)?;
            }
        }
        write!(f, "{}", self.0.get_program().display())?;
        self.0.get_args().try_for_each(|arg| write!(f, " {}", arg.display()))
    }
}

#[allow(clippy::print_stdout, reason = "a chore talks to the person who runs it")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}
