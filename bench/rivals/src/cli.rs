//! The command line: `setup`, `list`, `run`, `bars`, and the hidden helpers.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, Subcommand, ValueEnum as _};
use serde::Serialize;
use twinlane_bench::machine::{self, Machine};

use crate::{
    bars,
    helpers::{self, Helper},
    measure::{Plan, Wait, Workload},
    series::{Series, interleave},
    setup,
    system::{AnySystem, Setup},
    systems, table,
};

/// twinlane and its rivals under the same workloads, side by side.
#[derive(Debug, Parser)]
#[command(name = "rivals")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install the Debian packages, build the server, and say what is missing.
    Setup(Common),
    /// Show every system, and what is missing.
    List(Common),
    /// Measure systems in workloads, interleaved.
    Run(RunArgs),
    /// Measure what the bars need, and say which are met.
    Bars(BarsArgs),
    /// Events to Socket.IO clients: twinlane's gateway, socketioxide, Socket.IO on Node.
    Events(crate::events::Args),
    #[command(flatten)]
    Helper(Helper),
}

/// Where things are.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// twinlane's server program [default: target/release/twinlane of this repository]
    #[arg(long, value_name = "PATH")]
    twinlane: Option<PathBuf>,
    /// A further argument of `twinlane serve`; may be given several times.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    twinlane_arg: Vec<String>,
}

/// How long and how often.
#[derive(Clone, Debug, clap::Args)]
pub struct Amount {
    /// The window of one run that counts, in seconds, as in 2 or 2s or 0.5s.
    #[arg(long, default_value = "2s", value_parser = seconds)]
    pub(crate) duration: Duration,
    /// Before that window.
    #[arg(long, default_value = "0.5s", value_parser = seconds)]
    pub(crate) warmup: Duration,
    /// Bytes of every payload [default: 64; of `durable` 256]
    #[arg(long, value_parser = payload_bytes)]
    pub(crate) payload: Option<usize>,
    /// How the publisher of an open loop waits for the next due instant.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) wait: Wait,
    /// Write everything measured to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
struct RunArgs {
    /// Systems, separated by commas [default: all that can run]
    #[arg(long, value_delimiter = ',')]
    systems: Vec<String>,
    /// Workloads, separated by commas.
    #[arg(long, value_delimiter = ',', value_enum, default_value = "throughput,roundtrip")]
    workloads: Vec<Workload>,
    /// Repetitions, each of all systems.
    #[arg(long, default_value_t = 5)]
    repeat: usize,
    /// Cap throughput and fan-out at so many messages per second.
    #[arg(long)]
    rate: Option<u64>,
    #[command(flatten)]
    amount: Amount,
    #[command(flatten)]
    common: Common,
}

/// Which bars to measure.
#[derive(Clone, Debug, clap::Args)]
struct BarsArgs {
    /// Bars, as in P4 P6 [default: all that are measured here]
    bars: Vec<String>,
    /// Repetitions, each of all systems.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    #[command(flatten)]
    amount: Amount,
    #[command(flatten)]
    common: Common,
}

/// What `--json` writes.
#[derive(Debug, Serialize)]
struct Record<'a> {
    machine: Machine,
    commit: Option<String>,
    series: &'a [Series],
    bars: &'a [bars::Outcome],
}

impl Amount {
    /// One run of `workload`.
    #[must_use]
    pub fn plan(&self, workload: Workload, rate: Option<u64>) -> Plan {
        Plan {
            workload,
            payload_bytes: self.payload.unwrap_or_else(|| workload.payload_bytes()),
            warmup: self.warmup,
            window: self.duration,
            rate,
            wait: self.wait,
        }
    }

    fn record(&self, series: &[Series], bars: &[bars::Outcome]) -> Result<()> {
        let Some(file) = &self.json else { return Ok(()) };
        let record = Record { machine: Machine::here(), commit: machine::commit(), series, bars };
        let text = serde_json::to_string_pretty(&record)?;
        fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))
    }
}

impl Common {
    fn setup(&self) -> Result<Setup> {
        Ok(Setup {
            payload_bytes: 0,
            subscribers: 0,
            harness: std::env::current_exe()?,
            twinlane: self.twinlane.clone().unwrap_or_else(setup::default_twinlane),
            twinlane_args: self.twinlane_arg.clone(),
            directory: std::env::temp_dir(),
        })
    }
}

/// Runs a command.
///
/// # Errors
///
/// The command line asks for something that is not there, or a bar was missed.
pub fn run(args: Args) -> Result<()> {
    match args.command {
        Command::Helper(helper) => helpers::run(helper),
        Command::Setup(common) => setup::run(&common.setup()?),
        Command::List(common) => list(&common.setup()?),
        Command::Run(args) => measure(&args),
        Command::Bars(args) => judge(&args),
        Command::Events(args) => crate::events::run(&args),
    }
}

#[allow(clippy::print_stdout, reason = "a command's report")]
fn list(setup: &Setup) -> Result<()> {
    for system in systems::all() {
        println!("{:22} {}", system.name(), system.about());
        if let Some(missing) = system.missing(setup) {
            println!("{:22} missing: {missing}", "");
        }
    }
    for (names, how) in systems::left_out() {
        println!("{names}\n{:22} missing: {how}", "");
    }
    let workloads: Vec<String> = Workload::value_variants().iter().map(|workload| workload.name()).collect();
    println!("\nworkloads: {}", workloads.join(" "));
    Ok(())
}

#[allow(clippy::print_stdout, reason = "a command's report")]
fn measure(args: &RunArgs) -> Result<()> {
    raise_open_files()?;
    let setup = args.common.setup()?;
    let all = systems::all();
    let chosen = chosen(&all, &args.systems, &setup)?;
    let is_flow = |workload: Workload| workload.headline().0 == "deliveries/s";
    let plan = |workload: &Workload| args.amount.plan(*workload, args.rate.filter(|_| is_flow(*workload)));
    let plans: Vec<Plan> = args.workloads.iter().map(plan).collect();
    let series = interleave(&chosen, &plans, args.repeat, &setup);
    println!("{}", table::render(&series));
    args.amount.record(&series, &[])
}

#[allow(clippy::print_stdout, reason = "a command's report")]
fn judge(args: &BarsArgs) -> Result<()> {
    raise_open_files()?;
    let setup = args.common.setup()?;
    let measured = bars::measure(&args.bars, &args.amount, args.repeat, &setup)?;
    println!("{}", table::render(&measured.series));
    println!("{}", bars::render(&measured.outcomes));
    args.amount.record(&measured.series, &measured.outcomes)?;
    let missed = measured.outcomes.iter().filter(|outcome| outcome.passed == Some(false)).count();
    ensure!(missed == 0, "{missed} bars are missed");
    Ok(())
}

/// The systems named, or all that can run.
fn chosen<'a>(
    all: &'a [Box<dyn AnySystem>],
    names: &[String],
    setup: &Setup,
) -> Result<Vec<&'a dyn AnySystem>> {
    for name in names {
        let Some(system) = all.iter().find(|system| system.name() == name) else {
            bail!("there is no system {name:?} here; see `list`");
        };
        if let Some(missing) = system.missing(setup) {
            bail!("{name} cannot run: {missing}");
        }
    }
    let is_chosen = |system: &&dyn AnySystem| {
        if names.is_empty() {
            system.missing(setup).is_none()
        } else {
            names.iter().any(|name| name == system.name())
        }
    };
    Ok(all.iter().map(AsRef::as_ref).filter(is_chosen).collect())
}

/// A thousand subscribers need a thousand descriptors, here and in the servers.
pub(crate) fn raise_open_files() -> Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("cannot raise the limit of open files")
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    let seconds: f64 = number.parse().map_err(|_| format!("not a number of seconds: {text}"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn payload_bytes(text: &str) -> Result<usize, String> {
    let min = twinlane_bench::payload::PAYLOAD_BYTES_MIN;
    let bytes: usize = text.parse().map_err(|_| format!("not a number of bytes: {text}"))?;
    if bytes < min { Err(format!("a payload carries its proof in {min} bytes")) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn seconds_may_have_a_unit_and_a_fraction() {
        assert_eq!(seconds("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        assert!(seconds("soon").is_err());
        assert!(seconds("-1").is_err());
    }
}
