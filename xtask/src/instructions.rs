//! The gate on instructions per message: counts them with callgrind and compares with `bench/instructions.json`.
//!
//! It judges counts alone, which do not depend on what else the machine does. Time is measured elsewhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::command::{Cargo, say, target_dir};

/// A count may be that much above the recorded one.
const TOLERANCE_PERCENT: f64 = 5.0;
/// The same where another compiler recorded.
const OTHER_COMPILER_TOLERANCE_PERCENT: f64 = 15.0;
/// As in the workspace's manifest: library and program must agree.
const RUNNER_VERSION: &str = "0.20.0";
/// Relative to the workspace.
const RECORD: &str = "bench/instructions.json";
const COMPILER_KEY: &str = "compiler";
const COUNTS_KEY: &str = "instructions_per_message";

/// Instructions per message by `group/path`.
type Counts = BTreeMap<String, f64>;

/// Counts; then rewrites the record, or fails if a path got more expensive than the record allows.
pub(crate) fn instructions(record: bool) -> anyhow::Result<()> {
    let now = Record { compiler: compiler()?, counts: count()? };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace");
    let path = root.join(RECORD);
    if record {
        fs::write(&path, now.to_json()).with_context(|| format!("cannot write {}", path.display()))?;
        now.counts.iter().for_each(|(name, count)| say(&format!("{name:28} {count:>9.1}")));
        say(&format!("recorded in {RECORD}, for {}", now.compiler));
        return Ok(());
    }
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let before = Record::parse(&text).with_context(|| format!("{RECORD} is not what --record writes"))?;
    judge(&before, &now)
}

/// What was counted, and whose machine code it was.
struct Record {
    compiler: String,
    counts: Counts,
}

impl Record {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let value: Value = serde_json::from_str(text)?;
        let compiler = value[COMPILER_KEY].as_str().context("no compiler")?.to_owned();
        let counts = value[COUNTS_KEY].as_object().context("no counts")?;
        let counts = counts.iter().map(|(name, count)| {
            let count = count.as_f64().with_context(|| format!("{name} is no number"))?;
            Ok((name.clone(), count))
        });
        Ok(Self { compiler, counts: counts.collect::<anyhow::Result<_>>()? })
    }

    fn to_json(&self) -> String {
        // A tenth of an instruction is enough, and keeps changes of the file readable.
        let rounded = |count: f64| (count * 10.0).round() / 10.0;
        let counts: BTreeMap<_, _> =
            self.counts.iter().map(|(name, count)| (name, rounded(*count))).collect();
        let value = json!({ COMPILER_KEY: self.compiler, COUNTS_KEY: counts });
        format!("{value:#}\n")
    }
}

/// Compares path by path. Fails if one got too expensive, or is in only one of both.
fn judge(before: &Record, now: &Record) -> anyhow::Result<()> {
    let same_compiler = before.compiler == now.compiler;
    let tolerance = if same_compiler { TOLERANCE_PERCENT } else { OTHER_COMPILER_TOLERANCE_PERCENT };
    say(&format!("{:28} {:>9} {:>9} {:>8}", "instructions per message", "recorded", "now", "change"));
    let (mut offenders, mut cheaper) = (Vec::new(), 0);
    for (name, count) in &now.counts {
        let Some(recorded) = before.counts.get(name) else {
            say(&format!("{name:28} {:>9} {count:>9.1}", "-"));
            offenders.push(format!("{name} is not recorded"));
            continue;
        };
        let change = (count / recorded - 1.0) * 100.0;
        say(&format!("{name:28} {recorded:>9.1} {count:>9.1} {change:>+7.1}%"));
        if change > tolerance {
            offenders.push(format!("{name} {change:+.1} %"));
        }
        cheaper += usize::from(change < -tolerance);
    }
    let gone = before.counts.keys().filter(|name| !now.counts.contains_key(*name));
    offenders.extend(gone.map(|name| format!("{name} is recorded and was not counted")));
    let again = "`cargo xtask instructions --record` writes today's counts";
    if !same_compiler {
        say(&format!("recorded with {}, counted with {}: {again}", before.compiler, now.compiler));
    }
    if cheaper > 0 {
        say(&format!("{cheaper} paths got cheaper, and may get as expensive again unnoticed: {again}"));
    }
    if !offenders.is_empty() {
        let list = offenders.join(", ");
        bail!("more than {tolerance} % above {RECORD}, or not in it: {list}; if it is meant, {again}");
    }
    Ok(())
}

/// Runs the benchmarks under callgrind.
fn count() -> anyhow::Result<Counts> {
    check_valgrind()?;
    let runner = runner()?;
    let home = target_dir().join("instructions");
    // What an earlier run left there would be compared with.
    if home.exists() {
        fs::remove_dir_all(&home).with_context(|| format!("cannot empty {}", home.display()))?;
    }
    // No path here encrypts, and the C code of the cryptography is half of the build.
    let cargo = "bench --package twinlane-instructions --bench instructions \
        --config profile.bench.package.aws-lc-sys.opt-level=0 -- \
        --output-format=json --callgrind-args=--cache-sim=no";
    let cargo = Cargo::new(cargo).env("GUNGRAUN_RUNNER", runner).env("GUNGRAUN_HOME", home);
    let counts = parse(&cargo.stdout()?)?;
    if counts.is_empty() {
        bail!("nothing was counted");
    }
    Ok(counts)
}

/// One JSON object a line, one line a benchmark.
fn parse(output: &str) -> anyhow::Result<Counts> {
    let lines = output.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| one(line).with_context(|| format!("not the summary of a benchmark: {line}"))).collect()
}

fn one(line: &str) -> anyhow::Result<(String, f64)> {
    let value: Value = serde_json::from_str(line)?;
    let word = |key: &str| value[key].as_str().with_context(|| format!("no {key}"));
    let instructions = value["profiles"][0]["data"]["total"]["metrics"]["Ir"]["values"]["new"].as_f64();
    // `messages_4096`: the benchmark says by how many messages its count is to be divided.
    let messages = word("id")?.rsplit_once('_').context("no number of messages")?.1.parse::<u32>()?;
    let name = format!("{}/{}", word("group")?, word("function_name")?);
    Ok((name, instructions.context("no instructions")? / f64::from(messages)))
}

fn check_valgrind() -> anyhow::Result<()> {
    let version = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status();
    match version {
        Ok(status) if status.success() => Ok(()),
        _ => bail!("valgrind is missing: `apt-get install valgrind`"),
    }
}

/// The program that runs the benchmarks; installs it where it is missing.
fn runner() -> anyhow::Result<PathBuf> {
    let root = target_dir().join("tools");
    let program = root.join("bin/gungraun-runner");
    if !is_runner(&program) {
        // Built fast rather than made fast: it only starts valgrind.
        let install = "install gungraun-runner --locked --force --debug --config profile.dev.debug=0";
        Cargo::new(&format!("{install} --version ={RUNNER_VERSION} --root")).arg(&root).run()?;
    }
    Ok(program)
}

fn is_runner(program: &Path) -> bool {
    let version = Command::new(program).arg("--version").stderr(Stdio::null()).output();
    version.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).trim_end().ends_with(RUNNER_VERSION))
}

fn compiler() -> anyhow::Result<String> {
    // Not the toolchain that runs this program: the one that the benchmarks are built with.
    let output = Command::new("rustc").arg("--version").env_remove("RUSTUP_TOOLCHAIN").output();
    let output = output.context("cannot start `rustc --version`")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(compiler: &str, counts: &[(&str, f64)]) -> Record {
        let counts = counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        Record { compiler: compiler.to_owned(), counts }
    }

    #[test]
    fn a_path_that_got_too_expensive_fails_and_is_named() {
        let before = record("rustc 1", &[("ring/append", 100.0), ("ring/read", 200.0)]);
        assert!(judge(&before, &record("rustc 1", &[("ring/append", 104.9), ("ring/read", 20.0)])).is_ok());
        let error = judge(&before, &record("rustc 1", &[("ring/append", 106.0), ("ring/read", 200.0)]));
        let error = error.expect_err("6 % more is too much").to_string();
        assert!(error.contains("ring/append +6.0 %") && !error.contains("ring/read"), "{error}");
    }

    #[test]
    fn counts_of_another_compiler_are_compared_with_more_patience() {
        let before = record("rustc 1", &[("ring/append", 100.0)]);
        assert!(judge(&before, &record("rustc 2", &[("ring/append", 114.0)])).is_ok());
        assert!(judge(&before, &record("rustc 2", &[("ring/append", 116.0)])).is_err());
    }

    #[test]
    fn a_path_in_only_one_of_record_and_run_fails() {
        let (one, none) = (record("rustc 1", &[("ring/append", 100.0)]), record("rustc 1", &[]));
        assert!(judge(&one, &none).is_err());
        assert!(judge(&none, &one).is_err());
    }

    #[test]
    fn a_record_reads_back_what_it_wrote_to_a_tenth() {
        let written = record("rustc 1", &[("ring/append", 108.0818)]).to_json();
        let read = Record::parse(&written).expect("it was written so");
        assert_eq!((read.compiler.as_str(), read.counts["ring/append"]), ("rustc 1", 108.1));
        assert!(Record::parse("{}").is_err());
    }

    #[test]
    fn a_summary_is_divided_by_the_messages_that_its_identifier_names() {
        let metrics = r#"{"total":{"metrics":{"Ir":{"values":{"new":1000}}}}}"#;
        let line = format!(
            r#"{{"group":"ring","function_name":"read","id":"messages_10","profiles":[{{"data":{metrics}}}]}}"#
        );
        let counts = parse(&format!("noise\n{line}\n")).expect("a summary");
        assert_eq!(counts.into_iter().collect::<Vec<_>>(), [("ring/read".to_owned(), 100.0)]);
        assert!(parse(r#"{"group":"ring"}"#).is_err());
    }
}
