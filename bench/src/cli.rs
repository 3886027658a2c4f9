//! `twinlane bench`: its commands and arguments, and how reports leave the program.

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use twinlane::{Fingerprint, IoPolicy};
use twinlane_netlab::Link;

pub(crate) use crate::arguments::duration;
use crate::{
    arguments::{rate, size},
    duel::{self, DuelArgs},
    output::{self, all::AllArgs, compare::CompareArgs, is_stdout, print, write_file},
    plan::{ChannelKind, TransportKind, Workload},
    report::{self, Report},
    run,
};

const HOW_TO_READ: &str = "\
How the figures are made:
  Publishers run on one thread, subscribers on --subscriber-threads others, an embedded server on its own
  --io-threads. Every payload carries its number and a checksum over all its bytes. Wrong content, a repeat,
  a step back in order or an unreported loss ends the run with an error. After a clean close, delivered +
  reported lost = sent must hold exactly for every subscriber and topic; on a reliable topic lost must be 0.

  latency (and the fast half of mixed) is an open loop. Message n is due at start + n / rate, whatever happened
  before, and its latency runs from that instant to the moment the subscriber holds it. When anything stalls, the
  messages due meanwhile are charged their wait too, so nothing has to be corrected afterwards (no coordinated
  omission). The publisher's thread spins on the clock between messages: it occupies one core.

  roundtrip is a closed loop: the next message leaves when the last one is back. It shows what one user waits for
  one answer, and says nothing about a system under load.

  durable counts acknowledgements: publishers send with at most --window messages unacknowledged. Then the server
  ends, another one starts on the same directory, and everything acknowledged must be there. replay fills a log
  first and times the new start, until it listens and until the first message is here, and the rate from there.

  throughput and fanout count deliveries inside the window only, between two readings of the subscribers'
  counters. CPU is the user and system time of this whole process: publishers, subscribers and, if embedded,
  the server.

  Ratios taken in one session on one machine mean something; absolute figures move between hours.";

/// Measure this build on this machine, or a server elsewhere
#[derive(Args, Clone, Debug)]
#[command(after_long_help = HOW_TO_READ)]
pub struct BenchArgs {
    /// What to do
    #[command(subcommand)]
    pub command: BenchCommand,
}

/// What `twinlane bench` can do.
#[derive(Clone, Debug, Subcommand)]
pub enum BenchCommand {
    /// How many messages per second get through when publishers send as fast as they can
    #[command(after_long_help = HOW_TO_READ)]
    Throughput(RunArgs),
    /// How late messages arrive that are due at fixed instants (an open loop)
    #[command(after_long_help = HOW_TO_READ)]
    Latency(RunArgs),
    /// How long one message takes to the server and back, one after the other (a closed loop)
    #[command(after_long_help = HOW_TO_READ)]
    Roundtrip(RunArgs),
    /// How many deliveries per second one publisher causes at many subscribers
    #[command(after_long_help = HOW_TO_READ)]
    Fanout(RunArgs),
    /// How fast connections are accepted, and what an idle one costs the server
    #[command(after_long_help = HOW_TO_READ)]
    Connections(RunArgs),
    /// Latency on a fast topic while a reliable one takes all it can, on the same sessions
    #[command(after_long_help = HOW_TO_READ)]
    Mixed(RunArgs),
    /// How many messages per second are acknowledged once they are on disk, and whether all are there after a new start
    #[command(after_long_help = HOW_TO_READ)]
    Durable(RunArgs),
    /// How fast a server that starts again serves what it has on disk
    #[command(after_long_help = HOW_TO_READ)]
    Replay(RunArgs),
    /// Fast and reliable beside raw TCP and a plain QUIC stream over an emulated link that loses packets (needs root)
    #[command(after_long_help = duel::HOW_TO_READ)]
    Duel(DuelArgs),
    /// Compare the reports of two files
    Compare(CompareArgs),
    /// Run every preset and write one HTML report
    All(AllArgs),
}

/// One workload and how to run it.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// What is measured: the command's own word.
    #[arg(skip)]
    pub workload: Workload,
    /// Which promise the topics make [default: reliable; mixed: one of each]
    #[arg(long)]
    pub channel: Option<ChannelKind>,
    /// What carries the messages [default: tcp for reliable, quic for fast; mixed: both]
    #[arg(long)]
    pub transport: Option<TransportKind>,
    /// Bytes of every payload, at least 24 [default: 64; durable and replay: 256]
    #[arg(long, value_name = "BYTES")]
    pub size: Option<usize>,
    /// Publishers, each with a connection of its own [default: 1]
    #[arg(long, value_name = "N")]
    pub publishers: Option<usize>,
    /// Subscribers, each with a connection of its own [default: 1; fanout: 100; connections: 1000]
    #[arg(long, value_name = "N")]
    pub subscribers: Option<usize>,
    /// Topics that publishers send to in turn; subscribers subscribe to all of them by a wildcard
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub topics: usize,
    /// Messages that a publisher sends to a topic in a row before it goes on to the next one
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub burst: u64,
    /// Sessions of roundtrip: 1 sends and receives on the same one, 2 have separate connections [default: 1]
    #[arg(long, value_name = "N")]
    pub sessions: Option<usize>,
    /// Messages of each publisher of durable that may wait for their acknowledgement; 1 publishes one and waits
    /// [default: 1024]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub window: Option<u64>,
    /// Make the log of durable and replay in DIR, on the disk that is meant [default: where temporary files are]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How much replay writes first, headers included, as 1GiB or 64MiB [default: 1GiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub fill: Option<u64>,
    /// Messages per second of all publishers together, as 5000, 5k or 2M; mixed: of the fast topic
    /// [default: latency and mixed: 10k; else no limit]
    #[arg(long, value_name = "N", value_parser = rate)]
    pub rate: Option<u64>,
    /// The window that counts, as 5s, 500ms or 2m; connections: how long they are watched being idle
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = duration)]
    pub duration: Duration,
    /// Time before that window
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = duration)]
    pub warmup: Duration,
    /// Measure through the server at HOST:PORT instead of one of this run's own
    #[arg(long, value_name = "ADDR")]
    pub server: Option<String>,
    /// The certificate fingerprint of that server
    #[arg(long, value_name = "HEX", requires = "server")]
    pub fingerprint: Option<Fingerprint>,
    /// A file with the access token of that server
    #[arg(long, value_name = "FILE", requires = "server")]
    pub token_file: Option<PathBuf>,
    /// TCP without TLS, on loopback, to see what TLS costs
    #[arg(long)]
    pub plain: bool,
    /// I/O threads of the run's own server
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub io_threads: usize,
    /// What those threads, and the client of roundtrip, do when idle: park, adaptive, adaptive:50us or spin
    ///
    /// park sleeps at once: no CPU when idle, and a message after a pause pays for waking the thread, tens of
    /// microseconds per hop. adaptive spins for 20 us (or the time given) after each burst, then sleeps: an answer
    /// within that time is not delayed. spin never sleeps: it pays no wake-up and occupies one whole core per I/O
    /// thread, so with fewer cores than busy threads it takes time from the others.
    #[arg(long, default_value = "adaptive", value_name = "POLICY")]
    pub io_policy: IoPolicy,
    /// Threads that run subscribers
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub subscriber_threads: usize,
    /// Run the whole process, server included, on this one core, counted from 0
    #[arg(long, value_name = "CORE")]
    pub pin: Option<usize>,
    /// Put an emulated link between the run's own server and all clients, as loss=1%,rtt=20ms,rate=10mbit
    ///
    /// Both become network namespaces of this machine, so it needs root. Also: jitter=2ms, queue=64KiB, burst=5,
    /// reorder=5%/10ms, duplicate=1%, mtu=1280; up: or down: before one of them means only to or from the server. A message
    /// crosses the link twice: up to the server and down to the subscriber.
    #[arg(long, value_name = "LINK")]
    pub link: Option<Link>,
    /// What is random on that link is the same for the same seed
    #[arg(long, default_value_t = 1, value_name = "N", requires = "link")]
    pub link_seed: u64,
    /// Runs, one after the other; the table then shows the median and the extremes
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub repeat: u32,
    /// Print one JSON object per run instead of tables
    #[arg(long)]
    pub json: bool,
    /// Write the figures as CSV, one row per run and channel; - is standard output, in place of the table
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Draw percentiles and the course of time into this SVG file; - is standard output, in place of the table
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// The program that `connections` starts with `serve`; `None`: the one that runs now.
    #[arg(skip)]
    pub program: Option<PathBuf>,
}

/// Does what the arguments say and prints the outcome on standard output.
///
/// Must be called inside a tokio runtime; the clients of the benchmark run on threads of their own.
///
/// # Errors
///
/// Arguments that contradict each other, a server that cannot be reached, and every broken promise: see
/// [`Violation`](crate::ledger::Violation).
pub async fn run(args: BenchArgs) -> anyhow::Result<()> {
    match &args.command {
        BenchCommand::Compare(args) => output::compare::run(args),
        BenchCommand::All(args) => output::all::run(args).await,
        BenchCommand::Duel(args) => duel::run(args).await,
        workload => {
            let args = workload.run_args().context("every other command is a workload")?;
            run_workload(&args).await
        }
    }
}

impl BenchCommand {
    /// The run this is, with its workload filled in.
    fn run_args(&self) -> Option<RunArgs> {
        let (workload, args) = match self {
            Self::Throughput(args) => (Workload::Throughput, args),
            Self::Latency(args) => (Workload::Latency, args),
            Self::Roundtrip(args) => (Workload::Roundtrip, args),
            Self::Fanout(args) => (Workload::Fanout, args),
            Self::Connections(args) => (Workload::Connections, args),
            Self::Mixed(args) => (Workload::Mixed, args),
            Self::Durable(args) => (Workload::Durable, args),
            Self::Replay(args) => (Workload::Replay, args),
            Self::Compare(_) | Self::All(_) | Self::Duel(_) => return None,
        };
        Some(RunArgs { workload, ..args.clone() })
    }
}

impl RunArgs {
    /// The run that `twinlane bench LINE` describes, as in `latency --rate 100k --channel fast`.
    ///
    /// # Errors
    ///
    /// What is wrong with `line`, in the words of the command line.
    pub fn from_line(line: &str) -> anyhow::Result<Self> {
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            bench: BenchArgs,
        }
        let words = std::iter::once("bench").chain(line.split_whitespace());
        let command = Line::try_parse_from(words)?.bench.command;
        command.run_args().with_context(|| format!("{line:?} is no workload"))
    }
}

async fn run_workload(args: &RunArgs) -> anyhow::Result<()> {
    let mut reports = Vec::new();
    let runs = args.repeat;
    for number in 1..=runs {
        let bar = progress_bar(args);
        if runs > 1 {
            bar.set_prefix(format!("run {number} of {runs}: "));
        }
        let report = run::measure_showing(args, &bar).await?;
        if args.json {
            // Each at once: what is measured stays measured, whatever happens to the next one.
            print(&serde_json::to_string(&report)?)?;
        }
        reports.push(report);
    }
    write_files(args, &reports)?;
    let stdout_is_taken = [&args.csv, &args.svg].into_iter().flatten().any(|path| is_stdout(path));
    if args.json || stdout_is_taken {
        return Ok(());
    }
    print(&report::table(&reports))
}

fn write_files(args: &RunArgs, reports: &[Report]) -> anyhow::Result<()> {
    if let Some(path) = &args.csv {
        write_file(path, &output::csv::results(reports))?;
    }
    if let Some(path) = &args.svg {
        write_file(path, &output::plots::of_runs(reports))?;
    }
    Ok(())
}

/// On a terminal only: a log must not fill with bars, and a pipe gets the report alone.
fn progress_bar(args: &RunArgs) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("{prefix}{wide_bar} {msg}").expect("the template is well-formed");
    let bar = ProgressBar::new((args.warmup + args.duration).as_millis() as u64);
    bar.with_style(style).with_finish(ProgressFinish::AndClear)
}
