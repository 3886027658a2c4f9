//! `checker`: the command line of the history checker. Exit code 0 means that every promise was kept, nothing else
//! does.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use twinlane_checker::drive::judge_file;
use twinlane_checker::history::FaultKind;
use twinlane_checker::judge::Report;
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

impl Common {
    fn settings(&self) -> anyhow::Result<Settings> {
        let seed = self.seed.unwrap_or_else(|| u64::from(std::process::id()) ^ now_ns());
        let dir = match &self.keep {
            Some(dir) => dir.clone(),
            None => std::env::temp_dir().join(format!("twinlane-checker-{}", std::process::id())),
        };
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mut settings =
            Settings::new(self.server.clone().unwrap_or_else(default_server), dir.canonicalize()?);
        settings.workload.seed = seed;
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

#[allow(clippy::print_stdout, reason = "the verdict is what this program is for")]
fn print(text: &str) {
    println!("{text}");
}

fn now_ns() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_nanos() as u64)
}

/// Beside this program.
fn default_server() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join("twinlane")));
    beside.unwrap_or_else(|| PathBuf::from("target/release/twinlane"))
}
