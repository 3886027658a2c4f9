//! Events to Socket.IO clients: twinlane's gateway, socketioxide and Socket.IO on Node, beside each other.
//!
//! One load client drives all three: raw WebSockets on one thread, which the harness keeps on a core of its own while
//! the server has the other. It knows of Socket.IO what it must, checks what it is sent, and uses no client library.

mod contender;
mod crowd;
mod echo;
mod fanout;
mod figures;
mod frames;
mod idle;
mod serve;

use std::{fs, path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::ValueEnum;
use serde::Serialize;
use twinlane_bench::machine::{self, Machine};

use crate::{
    cli::{raise_open_files, seconds},
    helpers::pin,
};

use contender::{CLIENT_CORE, Contender};
use figures::{Figure, Line, Sheet};

/// What `events` is asked to do.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    course: Course,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Command {
    /// Install Socket.IO for Node.
    Setup,
    /// Be one of the servers.
    #[command(hide = true)]
    Serve {
        /// Which.
        system: Contender,
        /// Where to listen.
        port: u16,
    },
}

/// What is measured, and how long.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Course {
    /// Systems, separated by commas [default: all that can run]
    #[arg(long, value_delimiter = ',')]
    systems: Vec<Contender>,
    /// Workloads, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "fanout,echo,idle")]
    workloads: Vec<Workload>,
    /// Repetitions, each of all systems.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// Clients of the fan-out.
    #[arg(long, default_value_t = 1_000)]
    clients: usize,
    /// Events that may be under way, not yet received by every client; each is a run of its own.
    #[arg(long, value_delimiter = ',', default_value = "1,16,256")]
    windows: Vec<u64>,
    /// Clients that all wait for an answer at once, besides the run with a single one.
    #[arg(long, default_value_t = 100)]
    askers: usize,
    /// Clients that only stay, in `idle`.
    #[arg(long, default_value_t = 5_000)]
    idle: usize,
    /// Clients that only stay, in `stay`.
    #[arg(long, default_value_t = 10_000)]
    stay: usize,
    /// How long they stay: longer than a heartbeat and its timeout together.
    #[arg(long, default_value = "50s", value_parser = seconds)]
    hold: Duration,
    /// The window of one run that counts, as in 2 or 2s or 0.5s.
    #[arg(long, default_value = "2s", value_parser = seconds)]
    duration: Duration,
    /// Before that window.
    #[arg(long, default_value = "0.5s", value_parser = seconds)]
    warmup: Duration,
    /// Write everything measured to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Workload {
    /// One event to every client, as many as the clients take.
    Fanout,
    /// Events that are answered: round trips of one client, and of many at once.
    Echo,
    /// Memory of clients that only stay.
    Idle,
    /// Many clients that stay through a heartbeat, and then get an event.
    Stay,
}

#[derive(Debug, Serialize)]
struct Record<'a> {
    machine: Machine,
    commit: Option<String>,
    lines: &'a [Line],
    failures: &'a [String],
}

/// Runs the command.
///
/// # Errors
///
/// A system that was asked for cannot run, a run failed, or a bar was missed.
pub fn run(args: &Args) -> Result<()> {
    match &args.command {
        Some(Command::Setup) => contender::install(),
        Some(Command::Serve { system, port }) => serve::run(*system, *port),
        None => measure(&args.course),
    }
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "a command's report, and its progress")]
fn measure(course: &Course) -> Result<()> {
    raise_open_files()?;
    ensure!(
        thread::available_parallelism()?.get() > CLIENT_CORE,
        "the server and its clients need a core each"
    );
    let systems = chosen(&course.systems)?;
    let mut sheet = Sheet::default();
    for workload in &course.workloads {
        for repetition in 1..=course.repeat {
            for system in &systems {
                let outcome = one_run(*system, *workload, course);
                let words = match &outcome {
                    Ok(figures) => in_words(figures),
                    Err(error) => format!("FAILED: {error:#}"),
                };
                eprintln!("{repetition}/{} {system}: {words}", course.repeat);
                sheet.enter(*system, outcome);
            }
        }
    }
    println!("{}", sheet.table());
    if let Some(file) = &course.json {
        let (lines, failures) = (&sheet.lines, &sheet.failures);
        let record = Record { machine: Machine::here(), commit: machine::commit(), lines, failures };
        let text = serde_json::to_string_pretty(&record)?;
        fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    ensure!(sheet.failures.is_empty(), "{} runs failed: {:#?}", sheet.failures.len(), sheet.failures);
    let missed = sheet.missed();
    ensure!(missed == 0, "{missed} bars are missed");
    Ok(())
}

/// The systems named, or all that can run.
#[allow(clippy::print_stderr, reason = "progress, beside the table on standard output")]
fn chosen(named: &[Contender]) -> Result<Vec<Contender>> {
    let mut chosen = Vec::new();
    for system in Contender::value_variants() {
        match system.missing() {
            None if named.is_empty() || named.contains(system) => chosen.push(*system),
            Some(missing) if named.contains(system) => return Err(anyhow!("{system} cannot run: {missing}")),
            Some(missing) if named.is_empty() => eprintln!("{system} is left out: {missing}"),
            _ => {}
        }
    }
    Ok(chosen)
}

/// Runs `workload` once, on a thread of its own that stays on the clients' core. The kernel ends the server when that
/// thread is gone.
fn one_run(system: Contender, workload: Workload, course: &Course) -> Result<Vec<Figure>> {
    let client = || {
        pin(CLIENT_CORE)?;
        let server = system.start()?;
        match workload {
            Workload::Fanout => fanout::run(&server, course),
            Workload::Echo => echo::run(&server, course),
            Workload::Idle => idle::run(&server, course.idle),
            Workload::Stay => idle::stay(&server, course.stay, course.hold),
        }
    };
    thread::scope(|scope| {
        let running = thread::Builder::new().name("load client".to_owned()).spawn_scoped(scope, client)?;
        running.join().map_err(|_| anyhow!("a run panicked"))?
    })
    .with_context(|| format!("{system}, {workload:?}"))
}

fn in_words(figures: &[Figure]) -> String {
    let words =
        figures.iter().map(|figure| format!("{} {}", figure.what, crate::table::grouped(figure.value)));
    words.collect::<Vec<_>>().join("; ")
}
