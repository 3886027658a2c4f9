//! `twinlane bench all`: every preset, round after round, and one HTML report of what came out.
//!
//! Rounds are interleaved: all presets once, then all again. A machine that slows down for a minute then widens
//! the spread of several presets, instead of shifting one of them unseen.

use std::{
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::interval;

use super::{
    html, is_stdout,
    presets::{Outcome, PRESETS, Preset},
    print, write_file,
};
use crate::{cli::RunArgs, plan::Workload, report::Report, run::measure};

/// Subscribers, topics and connections of a quick look, at most.
const QUICK_COUNT_MAX: usize = 100;

/// How often the progress bar moves.
const TICK: Duration = Duration::from_millis(200);

/// Run every preset and write one HTML report
#[derive(Args, Clone, Debug)]
pub struct AllArgs {
    /// Where the report goes: one file without references to others; - is standard output
    #[arg(long, default_value = "report.html", value_name = "FILE")]
    pub out: PathBuf,
    /// The window of each run, as 3s or 500ms [default: 3s; with --quick: 500ms]
    #[arg(long, value_name = "TIME", value_parser = crate::cli::duration)]
    pub duration: Option<Duration>,
    /// Runs of each preset; one round of all presets follows the other [default: 3; with --quick: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub repeat: Option<u32>,
    /// A short look: short windows, one run each, at most 100 subscribers, topics and connections
    #[arg(long)]
    pub quick: bool,
    /// Also write every run as a JSON object on a line of its own, as `compare` reads them
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Runs the presets and writes the report.
///
/// The report appears when everything has run; whoever interrupts leaves no file behind.
///
/// # Errors
///
/// A file that cannot be written; and presets that failed, after the report has been written.
pub async fn run(args: &AllArgs) -> anyhow::Result<()> {
    for path in [Some(&args.out), args.json.as_ref()].into_iter().flatten() {
        check_folder(path)?;
    }
    let rounds = args.repeat.unwrap_or(if args.quick { 1 } else { 3 });
    let runs = args.runs()?;
    let mut outcomes: Vec<Outcome> = runs.iter().map(|(preset, _)| Outcome::new(*preset)).collect();
    let started = Instant::now();
    let mut progress = Progress::new(&runs, rounds);
    for round in 1..=rounds {
        for ((preset, run), outcome) in runs.iter().zip(&mut outcomes) {
            progress.begin(preset, round, rounds);
            match progress.during(run).await {
                Ok(report) => outcome.reports.push(report),
                Err(error) => outcome.failures.push(format!("{error:#}")),
            }
        }
    }
    progress.bar.finish_and_clear();
    let reports: Vec<&Report> = outcomes.iter().flat_map(|outcome| &outcome.reports).collect();
    if let Some(path) = &args.json {
        write_file(path, &lines(&reports)?)?;
    }
    write_file(&args.out, &html::report(&outcomes, &lines(&reports)?))?;
    tell(args, &outcomes, started.elapsed())
}

impl AllArgs {
    /// The runs of one round.
    fn runs(&self) -> anyhow::Result<Vec<(Preset, RunArgs)>> {
        let mut runs = Vec::new();
        for preset in PRESETS {
            let mut run = preset.args()?;
            if self.quick {
                run.warmup = Duration::from_millis(200);
                if run.workload == Workload::Connections {
                    run.subscribers = Some(QUICK_COUNT_MAX);
                }
            }
            let standard = if self.quick { Duration::from_millis(500) } else { Duration::from_secs(3) };
            run.duration = self.duration.unwrap_or(standard);
            let count = run.topics.max(run.subscribers.unwrap_or_default());
            if !self.quick || count <= QUICK_COUNT_MAX {
                runs.push((preset, run));
            }
        }
        Ok(runs)
    }
}

impl Outcome {
    fn new(preset: Preset) -> Self {
        Self { preset, reports: Vec::new(), failures: Vec::new() }
    }
}

/// What the user sees meanwhile: on a terminal only, so that a log does not fill with bars.
struct Progress {
    bar: ProgressBar,
    started: Instant,
    done: Duration,
}

impl Progress {
    fn new(runs: &[(Preset, RunArgs)], rounds: u32) -> Self {
        let total = runs.iter().map(|(_, run)| nominal(run)).sum::<Duration>() * rounds;
        let bar = if io::stderr().is_terminal() {
            ProgressBar::new(total.as_millis() as u64)
        } else {
            ProgressBar::hidden()
        };
        let template = ProgressStyle::with_template("{msg}\n{wide_bar} {prefix}");
        bar.set_style(template.expect("the template is well-formed"));
        bar.set_length(total.as_millis() as u64);
        Self { bar, started: Instant::now(), done: Duration::ZERO }
    }

    fn begin(&self, preset: &Preset, round: u32, rounds: u32) {
        let Preset { section, name, .. } = preset;
        self.bar.set_message(format!("round {round} of {rounds}: {}, {name}", section.title()));
    }

    /// Makes `run` and moves the bar meanwhile.
    async fn during(&mut self, run: &RunArgs) -> anyhow::Result<Report> {
        let mut measuring = Box::pin(measure(run));
        let mut ticks = interval(TICK);
        let begun = Instant::now();
        let measured = loop {
            tokio::select! {
                measured = &mut measuring => break measured,
                _ = ticks.tick() => self.show(begun.elapsed().min(nominal(run))),
            }
        };
        self.done += nominal(run);
        self.show(Duration::ZERO);
        measured
    }

    /// Says how far the round is, `into` a run.
    fn show(&self, into: Duration) {
        let done = (self.done + into).as_millis() as u64;
        self.bar.set_position(done);
        let total = self.bar.length().unwrap_or_default();
        self.bar.set_prefix(time_left(self.started.elapsed(), done, total));
    }
}

/// How long a run takes at least.
fn nominal(run: &RunArgs) -> Duration {
    run.warmup + run.duration
}

/// What is left if it goes on as it went: runs also connect and settle their books, which `total` does not know.
fn time_left(elapsed: Duration, done: u64, total: u64) -> String {
    let left = total.saturating_sub(done);
    let slower = if done == 0 { 1.0 } else { (elapsed.as_millis() as f64 / done as f64).max(1.0) };
    let seconds = (left as f64 * slower / 1e3).ceil() as u64;
    if seconds < 90 { format!("{seconds} s left") } else { format!("{} min left", seconds.div_ceil(60)) }
}

fn lines(reports: &[&Report]) -> anyhow::Result<String> {
    let mut lines = String::new();
    for report in reports {
        lines += &serde_json::to_string(report)?;
        lines.push('\n');
    }
    Ok(lines)
}

/// Found out before minutes of measuring, not after.
fn check_folder(path: &Path) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    ensure!(
        folder.is_none_or(Path::is_dir),
        "there is no folder {} to write {} into",
        folder.unwrap_or(path).display(),
        path.display()
    );
    Ok(())
}

/// Where the report is, and what is wrong with it.
fn tell(args: &AllArgs, outcomes: &[Outcome], took: Duration) -> anyhow::Result<()> {
    if !is_stdout(&args.out) {
        let runs: usize = outcomes.iter().map(|outcome| outcome.reports.len()).sum();
        print(&format!(
            "{}: {} presets, {runs} runs, {} s",
            args.out.display(),
            outcomes.len(),
            took.as_secs()
        ))?;
    }
    let failed: Vec<String> = outcomes
        .iter()
        .filter(|outcome| !outcome.failures.is_empty())
        .map(|outcome| format!("twinlane bench {}: {}", outcome.preset.line, outcome.failures[0]))
        .collect();
    if !failed.is_empty() {
        bail!("{} of {} presets failed\n{}", failed.len(), outcomes.len(), failed.join("\n"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(quick: bool) -> AllArgs {
        AllArgs { out: "report.html".into(), duration: None, repeat: None, quick, json: None }
    }

    #[test]
    fn a_quick_look_leaves_out_what_is_large() {
        let quick = args(true).runs().unwrap();
        assert!(quick.len() < PRESETS.len());
        for (preset, run) in quick {
            assert!(run.subscribers.unwrap_or_default() <= 100 && run.topics <= 100, "{}", preset.line);
            assert!(nominal(&run) < Duration::from_secs(1));
        }
        assert_eq!(args(false).runs().unwrap().len(), PRESETS.len());
    }

    #[test]
    fn the_time_left_follows_how_it_went() {
        let elapsed = Duration::from_secs(20);
        assert_eq!(time_left(elapsed, 10_000, 20_000), "20 s left");
        assert_eq!(time_left(Duration::ZERO, 0, 30_000), "30 s left");
        assert_eq!(time_left(elapsed, 10_000, 130_000), "4 min left");
    }

    #[test]
    fn a_missing_folder_is_found_before_anything_runs() {
        assert!(check_folder(Path::new("report.html")).is_ok());
        let error = check_folder(Path::new("/nowhere/at/all.html")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at"), "{error}");
    }
}
