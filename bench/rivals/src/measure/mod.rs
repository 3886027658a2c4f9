//! One run of one workload on one system: the same threads, payloads and checks for every system.
//!
//! | thread | what |
//! |---|---|
//! | measuring | starts the server, reads counters and CPU times, otherwise sleeps; pins everything when asked to |
//! | publisher | one client on a current-thread runtime |
//! | subscribers | all subscribers of the run, as one group, on a current-thread runtime |
//!
//! In a round trip and in the idle workload there is one client thread.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use twinlane_bench::stats::Latencies;

use crate::{
    helpers::pin,
    process::Process,
    store::Store,
    system::{Setup, System},
};

mod books;
mod durable;
mod flow;
mod idle;
mod publish;
mod resources;
mod roundtrip;
mod shared;
mod subscribe;
mod wait;

pub use wait::Wait;

/// What is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "kebab-case")]
pub enum Workload {
    /// One publisher, one subscriber, flat out.
    Throughput,
    /// One publisher, 16 subscribers.
    Fanout16,
    /// One publisher, 100 subscribers.
    Fanout100,
    /// One publisher, 1,000 subscribers.
    Fanout1000,
    /// A closed loop of one client; every thread that waits sleeps.
    Roundtrip,
    /// The same while low-priority spinners keep the cores out of their idle state.
    RoundtripHot,
    /// The same with client and server on one core.
    RoundtripPinned,
    /// An open loop of 1,000 messages per second.
    Oneway1k,
    /// An open loop of 10,000 messages per second.
    Oneway10k,
    /// An open loop of 100,000 messages per second.
    Oneway100k,
    /// The server's memory for each of 1,000 subscribed connections that do nothing.
    Idle,
    /// Messages that are acknowledged when they are stored, flat out; then the server is killed and all is read back.
    Durable,
}

/// How a workload is driven.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Course {
    Flow,
    RoundTrip,
    Idle,
}

impl Workload {
    pub(crate) fn course(self) -> Course {
        match self {
            Self::Roundtrip | Self::RoundtripHot | Self::RoundtripPinned => Course::RoundTrip,
            Self::Idle => Course::Idle,
            _ => Course::Flow,
        }
    }

    /// Subscribers of the run.
    #[must_use]
    pub fn subscribers(self) -> usize {
        match self {
            Self::Fanout16 => 16,
            Self::Fanout100 => 100,
            Self::Fanout1000 | Self::Idle => 1_000,
            Self::Durable => 0,
            _ => 1,
        }
    }

    /// The schedule of an open loop.
    #[must_use]
    pub fn open_loop_rate(self) -> Option<u64> {
        match self {
            Self::Oneway1k => Some(1_000),
            Self::Oneway10k => Some(10_000),
            Self::Oneway100k => Some(100_000),
            _ => None,
        }
    }

    /// The headline figure: its name, and whether more is better.
    #[must_use]
    pub fn headline(self) -> (&'static str, bool) {
        match self {
            Self::Idle => ("bytes/connection", false),
            Self::Durable => ("acked/s", true),
            _ if self.course() == Course::RoundTrip || self.open_loop_rate().is_some() => ("p50 µs", false),
            _ => ("deliveries/s", true),
        }
    }

    /// Bytes of every payload where nobody says otherwise.
    #[must_use]
    pub fn payload_bytes(self) -> usize {
        if self == Self::Durable { 256 } else { 64 }
    }

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What is measured.
    pub workload: Workload,
    /// Bytes of every payload.
    pub payload_bytes: usize,
    /// Before the window that counts.
    pub warmup: Duration,
    /// The window that counts.
    pub window: Duration,
    /// Caps a throughput workload at so many messages per second.
    pub rate: Option<u64>,
    /// How the publisher of an open loop waits.
    pub wait: Wait,
}

/// Percentiles, in microseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Quantiles {
    /// Messages recorded.
    pub count: u64,
    /// 50 %.
    pub p50_us: f64,
    /// 90 %.
    pub p90_us: f64,
    /// 99 %.
    pub p99_us: f64,
    /// 99.9 %.
    pub p999_us: f64,
    /// The slowest.
    pub max_us: f64,
}

impl Quantiles {
    fn of(latencies: &Latencies) -> Option<Self> {
        latencies.summary().map(|summary| Self {
            count: summary.count,
            p50_us: summary.p50_us,
            p90_us: summary.p90_us,
            p99_us: summary.p99_us,
            p999_us: summary.p999_us,
            max_us: summary.max_us,
        })
    }
}

/// What one run found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    /// Verified messages at all subscribers together, per second of the window; round trips and acknowledgements
    /// likewise.
    pub deliveries_per_second: Option<f64>,
    /// One way from the due time, or the round trip.
    pub latency: Option<Quantiles>,
    /// CPU seconds of all client and server threads per million deliveries, inside the window.
    pub cpu_seconds_per_million: Option<f64>,
    /// The server's resident memory per idle connection.
    pub bytes_per_connection: Option<f64>,
    /// Messages the publisher sent, times subscribers.
    pub owed: u64,
    /// Messages that arrived intact and in order.
    pub delivered: u64,
    /// `owed` − `delivered`.
    pub lost: u64,
    /// Messages that arrived after a later one, or twice; they count as lost.
    pub out_of_order: u64,
    /// How late the publisher of an open loop handed a message over at worst.
    pub behind_us_max: Option<f64>,
}

impl Figures {
    /// The figure that [`Workload::headline`] names.
    #[must_use]
    pub fn headline(&self, workload: Workload) -> Option<f64> {
        match workload.headline().0 {
            "deliveries/s" | "acked/s" => self.deliveries_per_second,
            "p50 µs" => self.latency.map(|latency| latency.p50_us),
            _ => self.bytes_per_connection,
        }
    }
}

/// Runs `plan` once on `system`, on threads of its own.
///
/// # Errors
///
/// The system failed, or delivered something that was not sent.
pub fn run<S: System>(system: &S, plan: &Plan, setup: &Setup) -> Result<Figures> {
    on_a_thread(system.name(), plan, setup, |setup| measure(system, plan, setup))
}

/// Runs `plan` once on a store, on threads of its own.
///
/// # Errors
///
/// The store failed, or has something that was not written.
pub fn run_store<S: Store>(system: &S, plan: &Plan, setup: &Setup) -> Result<Figures> {
    on_a_thread(system.name(), plan, setup, |setup| durable::run(system, plan, setup))
}

/// Runs `course` in a directory of its own. Whatever is pinned is pinned through its thread, and the kernel ends the
/// server when that is gone.
fn on_a_thread(
    name: &str,
    plan: &Plan,
    setup: &Setup,
    course: impl FnOnce(&Setup) -> Result<Figures> + Send,
) -> Result<Figures> {
    let directory = tempfile::Builder::new().prefix("rivals-").tempdir()?;
    let setup = Setup {
        payload_bytes: plan.payload_bytes,
        subscribers: plan.workload.subscribers(),
        directory: directory.path().to_owned(),
        ..setup.clone()
    };
    thread::scope(|scope| {
        let measuring = thread::Builder::new().name("measuring".to_owned());
        let measuring = measuring.spawn_scoped(scope, || course(&setup))?;
        measuring.join().map_err(|_| anyhow!("a run panicked"))?
    })
    .with_context(|| format!("{name}, {}", plan.workload.name()))
}

fn measure<S: System>(system: &S, plan: &Plan, setup: &Setup) -> Result<Figures> {
    let _spinners = match plan.workload {
        Workload::RoundtripHot => spinners(setup)?,
        _ => Vec::new(),
    };
    if plan.workload == Workload::RoundtripPinned {
        pin(cores() - 1)?;
    }
    let server = system.start(setup)?;
    match plan.workload.course() {
        Course::Flow => flow::run(system, plan, setup, &server),
        Course::RoundTrip => on_runtime(roundtrip::run(system, plan, setup, &server)),
        Course::Idle => on_runtime(idle::run(system, setup, &server)),
    }
}

/// One spinner per core that runs only when nothing else wants to.
fn spinners(setup: &Setup) -> Result<Vec<Process>> {
    let spinner = |core: usize| {
        let harness = setup.harness.display().to_string();
        Process::start(setup, "chrt", &["--idle", "0", &harness, "spin", &core.to_string()])
    };
    (0..cores()).map(spinner).collect()
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Runs a client on this thread.
fn on_runtime<T>(client: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(client);
    runtime.shutdown_timeout(Duration::from_millis(200));
    outcome
}
