//! Fuzzing of the decoders, bounded in time and memory: `cargo xtask fuzz`.
//!
//! What the targets check lies in `proto/tests/check` and `gateway/tests/check`. Inputs found on the way stay below the
//! target directory; `fuzz/corpus` holds only those that someone named. Nothing is installed here.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Instant;

use anyhow::{Context, bail};

use crate::command::{say, target_dir};

/// Freed memory that the address sanitizer holds back. By default it is half of what a target may use.
const QUARANTINE_MB: u32 = 32;
/// What a target may use: no input of a few kilobytes justifies more.
const MEMORY_MB: u32 = 512;
/// What one input may take. The decoders need microseconds.
const INPUT_SECONDS: u32 = 10;
/// Lines shown of a target that failed.
const SHOWN_LINES: usize = 40;

/// Runs each target for `seconds`; all there are if none is named.
pub(crate) fn fuzz(seconds: u32, named: &[String]) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace");
    let fuzz_dir = root.join("fuzz");
    let known = known_targets(&fuzz_dir.join("fuzz_targets"))?;
    if let Some(unknown) = named.iter().find(|name| !known.contains(name)) {
        bail!("there is no fuzz target {unknown:?}; there are {}", known.join(", "));
    }
    let targets = if named.is_empty() { &known } else { named };
    let installed = cargo_fuzz(&fuzz_dir, "--version").output().is_ok_and(|output| output.status.success());
    if !installed {
        bail!(
            "cargo-fuzz and a nightly compiler are needed: `rustup toolchain install nightly`, then `cargo install cargo-fuzz`"
        );
    }
    for target in targets {
        build(&fuzz_dir, target)?;
    }
    let mut rows = Vec::new();
    for target in targets {
        rows.push(run(&fuzz_dir, target, seconds)?);
    }
    say(&format!("\n{:12} {:>12} {:>8}  crashes", "target", "runs", "time"));
    for Row { target, runs, took_seconds, crashes } in &rows {
        let runs = runs.map_or_else(|| "?".to_owned(), |runs| runs.to_string());
        let crashes = if crashes.is_empty() { "none".to_owned() } else { crashes.join(", ") };
        say(&format!("{target:12} {runs:>12} {took_seconds:>6.1} s  {crashes}"));
    }
    let crashed: Vec<_> =
        rows.iter().filter(|row| !row.crashes.is_empty()).map(|row| row.target.as_str()).collect();
    if !crashed.is_empty() {
        bail!("crashed: {}; `cargo +nightly fuzz run <target> <file>` shows how", crashed.join(", "));
    }
    Ok(())
}

/// What came of one target.
struct Row {
    target: String,
    /// Inputs tried; `None` if the target did not live to say.
    runs: Option<u64>,
    took_seconds: f64,
    /// Inputs that it failed on, or how it ended otherwise.
    crashes: Vec<String>,
}

fn known_targets(dir: &Path) -> anyhow::Result<Vec<String>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let sources = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let mut targets: Vec<_> =
        sources.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
    targets.sort();
    Ok(targets)
}

fn build(fuzz_dir: &Path, target: &str) -> anyhow::Result<()> {
    say(&format!("$ cargo +nightly fuzz build {target}"));
    let status = cargo_fuzz(fuzz_dir, "build").arg(target).status()?;
    if !status.success() {
        bail!("the fuzz target {target} does not build: {status}");
    }
    Ok(())
}

fn run(fuzz_dir: &Path, target: &str, seconds: u32) -> anyhow::Result<Row> {
    // New inputs go into the first corpus, and the named ones stay as they are.
    let found = target_dir().join("fuzz").join(target);
    fs::create_dir_all(&found).with_context(|| format!("cannot create {}", found.display()))?;
    let log_path = target_dir().join("fuzz").join(format!("{target}.log"));
    let log = File::create(&log_path).with_context(|| format!("cannot create {}", log_path.display()))?;
    say(&format!("$ cargo +nightly fuzz run {target}, {seconds} s; its words go to {}", log_path.display()));
    let start = Instant::now();
    let status = cargo_fuzz(fuzz_dir, "run")
        .arg(target)
        .args([found, fuzz_dir.join("corpus").join(target)])
        .arg("--")
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-rss_limit_mb={MEMORY_MB}"))
        .arg(format!("-timeout={INPUT_SECONDS}"))
        .arg("-print_final_stats=1")
        .env("ASAN_OPTIONS", format!("quarantine_size_mb={QUARANTINE_MB}"))
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()?;
    let log = String::from_utf8_lossy(&fs::read(&log_path)?).into_owned();
    if !status.success() {
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].iter().for_each(|line| say(line));
    }
    Ok(Row {
        target: target.to_owned(),
        runs: runs(&log),
        took_seconds: start.elapsed().as_secs_f64(),
        crashes: crashes(status, &log),
    })
}

fn cargo_fuzz(fuzz_dir: &Path, what: &str) -> Command {
    // Without what `cargo run` set for this program, so that `+nightly` is obeyed.
    let mut command = Command::new("cargo");
    command.args(["+nightly", "fuzz", what]).env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    if what != "--version" {
        command.arg("--fuzz-dir").arg(fuzz_dir);
    }
    command
}

/// `stat::number_of_executed_units: 123456`
fn runs(log: &str) -> Option<u64> {
    let line = log.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?;
    line.trim().parse().ok()
}

/// `artifact_prefix='…'; Test unit written to /…/fuzz/artifacts/stream/crash-0123`
fn crashes(status: ExitStatus, log: &str) -> Vec<String> {
    let written = log.lines().filter_map(|line| line.split_once("Test unit written to "));
    let mut names: Vec<_> = written
        .filter_map(|(_, path)| PathBuf::from(path.trim()).file_name()?.to_str().map(str::to_owned))
        .collect();
    if names.is_empty() && !status.success() {
        names.push(status.to_string());
    }
    names
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    const LOG: &str = "Done 7 runs in 1 second(s)\nstat::number_of_executed_units: 7\n\
        artifact_prefix='/f/artifacts/stream/'; Test unit written to /f/artifacts/stream/crash-0a\n";

    #[test]
    fn the_number_of_runs_is_read_from_the_statistics() {
        assert_eq!(runs(LOG), Some(7));
        assert_eq!(runs("killed"), None);
    }

    #[test]
    fn a_failure_is_named_by_its_input_or_else_by_how_it_ended() {
        assert_eq!(crashes(ExitStatus::from_raw(77 << 8), LOG), ["crash-0a"]);
        assert_eq!(crashes(ExitStatus::from_raw(9), "Killed"), ["signal: 9 (SIGKILL)"]);
        assert!(crashes(ExitStatus::from_raw(0), "Done").is_empty());
    }
}
