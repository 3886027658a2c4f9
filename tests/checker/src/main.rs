//! `checker`: the command line of the history checker. Exit code 0 means that every promise was kept, nothing else
//! does.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use twinlane_checker::drive::judge_file;
use twinlane_checker::fast;
use twinlane_checker::history::FaultKind;
use twinlane_checker::judge::{FastReport, Report, Verdict};
use twinlane_checker::nemesis::LinkFaults;
use twinlane_checker::points::{self, Points};
use twinlane_checker::suite::{self, PLANTS, Plant, Settings};

/// Drives a twinlane server through faults and judges every delivery promise from the history
///
/// The verdict is VALID, INVALID or UNKNOWN; only VALID exits with 0.
#[derive(Debug, Parser)]
#[command(name = "checker", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One run with faults of choice
    Run(RunArgs),
    /// Kill the server at system calls, one run for each, and lose what it did not sync
    Points(PointsArgs),
    /// A network that loses every tenth packet, with partitions, half-open connections and resets; needs root
    Net(Common),
    /// Fill the disk again and again; needs root for a small file system of its own
    DiskFull(Common),
    /// Show that a fault that is built into the server is caught; needs a server with the feature `faults`
    Plant(PlantArgs),
    /// Fast topics over links that lose, repeat, reorder and block UDP
    Fast(FastArgs),
    /// Judge a kept history again
    Judge {
        /// The history
        file: PathBuf,
        /// Write the verdict as JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args, Clone, Debug)]
struct Common {
    /// The server's binary [default: `twinlane` beside this program]
    #[arg(long, value_name = "FILE")]
    server: Option<PathBuf>,
    /// Of everything random; a number of its own each time, if none is given
    #[arg(long)]
    seed: Option<u64>,
    /// How long things are broken
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Topics in memory: nothing then survives a kill
    #[arg(long)]
    memory: bool,
    /// Workers of a queue; 0: no queue
    #[arg(long, default_value_t = 0)]
    workers: u16,
    /// Messages a second to try for
    #[arg(long, default_value_t = 40_000)]
    rate: u32,
    /// Keep data, history and the server's words here; without it they are only kept when the verdict is not VALID
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Write the verdict as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct RunArgs {
    #[command(flatten)]
    common: Common,
    /// What is broken: kill, forget, stop, eio, nospace, clock
    #[arg(long, value_delimiter = ',', default_value = "kill,forget,stop")]
    faults: Vec<FaultKind>,
    /// Fewer acknowledged messages are UNKNOWN
    #[arg(long, default_value_t = 1_000)]
    acked_min: u64,
    /// Fewer faults are UNKNOWN
    #[arg(long)]
    faults_min: Option<u64>,
}

#[derive(Args, Debug)]
struct PointsArgs {
    #[command(flatten)]
    common: Common,
    /// How many
    #[arg(long, default_value_t = 1_000)]
    count: u64,
    /// At once
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

#[derive(Args, Debug)]
struct PlantArgs {
    #[command(flatten)]
    common: Common,
    /// Which, or `all`
    fault: String,
    /// Runs until it has to be caught
    #[arg(long, default_value_t = 3)]
    tries: u64,
}

#[derive(Args, Debug)]
struct FastArgs {
    /// The server's binary [default: `twinlane` beside this program]
    #[arg(long, value_name = "FILE")]
    server: Option<PathBuf>,
    /// Of everything random; a number of its own each time, if none is given
    #[arg(long)]
    seed: Option<u64>,
    /// How long the links are bad
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Datagrams that each link loses, each way
    #[arg(long, value_name = "SHARE", value_parser = permille, default_value = "0%")]
    loss: u32,
    /// Datagrams that each link holds back for up to 10 ms, each way
    #[arg(long, value_name = "SHARE", value_parser = permille, default_value = "0%")]
    reorder: u32,
    /// Datagrams that each link sends twice, each way
    #[arg(long, value_name = "SHARE", value_parser = permille, default_value = "0%")]
    duplicate: u32,
    /// Block and unblock UDP from time to time
    #[arg(long)]
    switch: bool,
    /// All runs that have to be valid, one after the other: 0 to 30 % loss, 50 % reordered, 50 % repeated
    #[arg(long, conflicts_with_all = ["loss", "reorder", "duplicate"])]
    suite: bool,
    /// Messages a second to try for
    #[arg(long, default_value_t = 2_000)]
    rate: u32,
    /// Bytes of the largest payload
    #[arg(long, default_value_t = 1_024)]
    payload_bytes_max: u32,
    /// Keep history and the server's words here; without it they are only kept when the verdict is not VALID
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Write the verdict as JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = runtime.context("no runtime").and_then(|runtime| runtime.block_on(command(cli.command)));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("UNKNOWN: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn command(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Run(args) => {
            let mut settings = args.common.settings()?;
            settings.faults_min = args.faults_min.unwrap_or(u64::from(!args.faults.is_empty()));
            (settings.faults, settings.acked_min) = (args.faults, args.acked_min);
            one(&args.common, &settings).await
        }
        Command::Net(common) => {
            let mut settings = common.settings()?;
            settings.network = Some((1, 100));
            settings.faults = vec![FaultKind::Partition, FaultKind::HalfOpen, FaultKind::Reset];
            one(&common, &settings).await
        }
        Command::DiskFull(common) => {
            let mut settings = common.settings()?;
            settings.faults = vec![FaultKind::NoSpace, FaultKind::NoSpace, FaultKind::Kill];
            settings.small_disk = true;
            one(&common, &settings).await
        }
        Command::Points(args) => all_points(&args).await,
        Command::Plant(args) => plant(&args).await,
        Command::Fast(args) => fast_topics(&args).await,
        Command::Judge { file, json } if fast::is_fast(&file)? => {
            let report = fast::judge_file(&file)?;
            say_fast(&report, json);
            Ok(report.verdict == Verdict::Valid)
        }
        Command::Judge { file, json } => {
            let report = judge_file(&file)?;
            say(&report, json);
            Ok(suite::is_success(&report))
        }
    }
}

async fn one(common: &Common, settings: &Settings) -> anyhow::Result<bool> {
    eprintln!("seed {}, files in {}", settings.workload.seed, settings.dir.display());
    let report = suite::run(settings).await?;
    say(&report, common.json);
    let good = suite::is_success(&report);
    if good && common.keep.is_none() {
        suite::remove(&settings.dir);
    } else {
        eprintln!("kept: checker judge {}", settings.history().display());
    }
    Ok(good)
}

async fn all_points(args: &PointsArgs) -> anyhow::Result<bool> {
    let settings = args.common.settings()?;
    eprintln!("seed {}, files in {}", settings.workload.seed, settings.dir.display());
    let outcome = points::run(&settings, Points { count: args.count, jobs: args.jobs }).await?;
    print(&outcome.to_string());
    if outcome.is_success() && args.common.keep.is_none() {
        suite::remove(&settings.dir);
    }
    Ok(outcome.is_success())
}

async fn plant(args: &PlantArgs) -> anyhow::Result<bool> {
    let wanted: Vec<&Plant> =
        PLANTS.iter().filter(|plant| args.fault == "all" || plant.name == args.fault).collect();
    let known = || PLANTS.map(|plant| plant.name).join(", ");
    anyhow::ensure!(!wanted.is_empty(), "`{}` cannot be planted; these can: all, {}", args.fault, known());
    let settings = args.common.settings()?;
    let mut all_caught = true;
    for plant in wanted {
        let expected = plant.caught_by.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
        match suite::plant(&settings, plant, args.tries).await {
            Ok((report, caught)) => {
                let word = if caught { "caught" } else { "NOT CAUGHT" };
                print(&format!("{}: {word} (expected {expected} to be broken)\n{report}", plant.name));
                all_caught &= caught;
            }
            Err(error) => {
                print(&format!("{}: NOT CAUGHT: {error:#}", plant.name));
                all_caught = false;
            }
        }
    }
    if all_caught {
        suite::remove(&settings.dir);
    } else {
        eprintln!("kept: {}", settings.dir.display());
    }
    Ok(all_caught)
}

async fn fast_topics(args: &FastArgs) -> anyhow::Result<bool> {
    let settings = args.settings()?;
    eprintln!("seed {}, files in {}", settings.seed, settings.dir.display());
    let good = if args.suite {
        let tell = |name: &str, report: &FastReport| {
            if !args.json {
                print(&format!("{name}:"));
            }
            say_fast(report, args.json);
        };
        fast::suite(&settings, tell).await?
    } else {
        let report = fast::run(&settings).await?;
        say_fast(&report, args.json);
        report.verdict == Verdict::Valid
    };
    if good && args.keep.is_none() {
        suite::remove(&settings.dir);
    } else {
        eprintln!("kept: {}", settings.dir.display());
    }
    Ok(good)
}

impl FastArgs {
    fn settings(&self) -> anyhow::Result<fast::Settings> {
        let mut settings = fast::Settings::new(
            self.server.clone().unwrap_or_else(default_server),
            run_dir(self.keep.as_ref())?,
        );
        settings.seed = self.seed.unwrap_or_else(any_seed);
        settings.run = Duration::from_secs(self.seconds);
        settings.faults = LinkFaults {
            lose_permille: self.loss,
            repeat_permille: self.duplicate,
            delay_permille: self.reorder,
        };
        settings.switches = self.switch;
        settings.rate = self.rate;
        settings.payload_bytes_max = self.payload_bytes_max;
        settings.progress = true;
        Ok(settings)
    }
}

impl Common {
    fn settings(&self) -> anyhow::Result<Settings> {
        let dir = run_dir(self.keep.as_ref())?;
        let mut settings = Settings::new(self.server.clone().unwrap_or_else(default_server), dir);
        settings.workload.seed = self.seed.unwrap_or_else(any_seed);
        settings.workload.durable = !self.memory;
        settings.workload.workers = self.workers;
        settings.workload.rate = self.rate;
        settings.run = Duration::from_secs(self.seconds);
        settings.progress = true;
        Ok(settings)
    }
}

fn say(report: &Report, json: bool) {
    if json {
        print(&report.to_json().to_string());
    } else {
        print(&report.to_string());
    }
}

fn say_fast(report: &FastReport, json: bool) {
    if json {
        print(&report.to_json().to_string());
    } else {
        print(&report.to_string());
    }
}

#[allow(clippy::print_stdout, reason = "the verdict is what this program is for")]
fn print(text: &str) {
    println!("{text}");
}

fn any_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::from(std::process::id()) ^ now.map_or(0, |since| since.as_nanos() as u64)
}

/// Where a run's files go.
fn run_dir(keep: Option<&PathBuf>) -> anyhow::Result<PathBuf> {
    let dir = match keep {
        Some(dir) => dir.clone(),
        None => std::env::temp_dir().join(format!("twinlane-checker-{}", std::process::id())),
    };
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir.canonicalize()?)
}

/// A share of a thousand, from `5%`, `0.5 %` or `0.05`.
fn permille(text: &str) -> Result<u32, String> {
    let (number, unit) = match text.trim().strip_suffix('%') {
        Some(number) => (number.trim_end(), 10.0),
        None => (text.trim(), 1_000.0),
    };
    let share = number.parse::<f64>().map(|number| number * unit).ok();
    let share = share.filter(|share| (0.0..=1_000.0).contains(share));
    let share = share.ok_or_else(|| format!("`{text}` is no share: write `5%` or `0.05`"))?;
    Ok(share.round() as u32)
}

/// Beside this program.
fn default_server() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join("twinlane")));
    beside.unwrap_or_else(|| PathBuf::from("target/release/twinlane"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_written_with_or_without_percent() {
        for (text, share) in [("5%", 50), ("0.5 %", 5), ("0.05", 50), ("100%", 1_000), ("0", 0)] {
            assert_eq!(permille(text), Ok(share), "{text}");
        }
        for text in ["101%", "-1%", "five", "", "nan"] {
            assert!(permille(text).is_err(), "{text}");
        }
    }
}
