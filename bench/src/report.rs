//! The report of a run: what JSON holds and files are compared by, and the table for people.

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

pub use crate::stats::{LatencySummary, Percentile, Spread};
use crate::{
    machine::{self, Machine},
    plan::{Plan, Workload},
};

/// A run, and where it ran: a figure never travels without its machine, commit and configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this program.
    pub version: String,
    /// Commit of the repository around the current directory; `+` marks local changes.
    pub commit: Option<String>,
    /// When it ended: RFC 3339, UTC.
    pub date: String,
    /// Where it ran.
    pub machine: Machine,
    /// What ran.
    pub configuration: Plan,
    /// What came out: one entry, for `mixed` one for each channel.
    pub results: Vec<Results>,
}

/// What came out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The channel: `reliable` or `fast`.
    pub name: String,
    /// Length of the window as it came out.
    pub window_seconds: f64,
    /// Deliveries to all subscribers together, per second of the window; for `roundtrip` round trips.
    pub deliveries_per_second: f64,
    /// Payload bytes of those deliveries, in millions per second.
    pub megabytes_per_second: f64,
    /// Deliveries per second of each subscriber.
    pub subscribers: Option<Spread>,
    /// The same, one by one.
    pub subscriber_rates: Vec<f64>,
    /// CPU time of this process per million deliveries in the window; for `mixed` of both channels, in the first entry.
    pub cpu_seconds_per_million: Option<f64>,
    /// Messages published, whole run.
    pub sent: u64,
    /// Messages received, all subscribers, whole run.
    pub delivered: u64,
    /// Messages reported missing, all subscribers, whole run.
    pub lost: u64,
    /// Gap events that reported them.
    pub gaps: u64,
    /// `lost` of `sent × subscribers`.
    pub loss_percent: f64,
    /// From due to received; for `roundtrip` from published to received.
    pub latency: Option<LatencySummary>,
    /// How far the publisher fell behind its schedule at worst, where there is a schedule.
    pub behind_us_max: Option<f64>,
    /// The course of the window, in order.
    pub timeline: Vec<Interval>,
    /// What `connections` found out.
    pub connections: Option<ConnectionFigures>,
    /// What `replay` found out about the new start.
    pub replay: Option<ReplayFigures>,
}

/// A piece of the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Its end, from the window's start.
    pub at_seconds: f64,
    /// Deliveries to all subscribers together within it, per second.
    pub deliveries_per_second: f64,
    /// Half of the messages that arrived within it took at most this long, where latency is measured.
    pub p50_us: Option<f64>,
    /// Likewise 99 %.
    pub p99_us: Option<f64>,
    /// The slowest of them.
    pub max_us: Option<f64>,
}

/// What `connections` found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConnectionFigures {
    /// Sessions that were open at the same time, each with one subscription.
    pub connections: u64,
    /// Connections, encrypted unless `--plain`, with a session and a subscription, made per second.
    pub accepted_per_second: f64,
    /// Resident memory of the server for each of them.
    pub server_bytes_per_connection: Option<f64>,
    /// CPU of the server while all of them are idle, in percent of one core.
    pub idle_cpu_percent: Option<f64>,
}

/// What `replay` found out about the new start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReplayFigures {
    /// Messages in the log, with their headers.
    pub log_bytes: u64,
    /// From the new start until it listens.
    pub opened_seconds: f64,
    /// From the end of the old server until a subscriber has the first message.
    pub served_seconds: f64,
}

impl Report {
    /// A report of `results` that came out here and now.
    pub(crate) fn new(configuration: Plan, results: Vec<Results>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: machine::commit(),
            date: machine::date(),
            machine: Machine::here(),
            configuration,
            results,
        }
    }
}

/// The report of runs of one configuration for people: medians, and the extremes where there is more than one run.
///
/// # Panics
///
/// If there is no report.
#[must_use]
pub fn table(reports: &[Report]) -> String {
    let first = reports.first().expect("a table is of at least one run");
    let mut text = format!("{}\n{}\n", first.configuration.headline(), place(first));
    if reports.len() > 1 {
        text += &format!("median of {} runs, and the extremes\n", reports.len());
    }
    for index in 0..first.results.len() {
        let results: Vec<&Results> = reports.iter().filter_map(|report| report.results.get(index)).collect();
        if first.results.len() > 1 {
            text += &format!("\n{}", results[0].name);
        }
        text += &format!("\n{}", figures(&first.configuration, &results));
        text += &latencies(&first.configuration, &results);
    }
    text.trim_end().to_owned()
}

fn place(report: &Report) -> String {
    let Machine { cpu, cores, kernel } = &report.machine;
    format!(
        "twinlane {} ({}), {}, {cores} cores, {}, {}",
        report.version,
        report.commit.as_deref().unwrap_or("commit unknown"),
        cpu.as_deref().unwrap_or("unknown CPU"),
        kernel.as_deref().unwrap_or("unknown kernel"),
        report.date,
    )
}

/// A row of the table: its name, its value if a run has one, and how to write it.
struct Row {
    name: &'static str,
    value: fn(&Results) -> Option<f64>,
    written: fn(f64) -> String,
}

const CONNECTION_ROWS: &[Row] = &[
    Row { name: "connections", value: |r| Some(r.connections?.connections as f64), written: grouped },
    Row {
        name: "accepted",
        value: |r| Some(r.connections?.accepted_per_second),
        written: |n| format!("{n:.0} /s"),
    },
    Row {
        name: "server memory for each",
        value: |r| r.connections?.server_bytes_per_connection,
        written: |bytes| format!("{:.1} KiB", bytes / 1_024.0),
    },
    Row {
        name: "server CPU, all idle",
        value: |r| r.connections?.idle_cpu_percent,
        written: |n| format!("{n:.2} % of a core"),
    },
];

const MESSAGE_ROWS: &[Row] = &[
    Row { name: "delivered", value: |r| Some(r.deliveries_per_second), written: per_second },
    Row { name: "payload", value: |r| Some(r.megabytes_per_second), written: |n| format!("{n:.1} MB/s") },
    Row { name: "CPU", value: |r| r.cpu_seconds_per_million, written: |n| format!("{n:.3} s per million") },
    Row { name: "sent", value: |r| Some(r.sent as f64), written: grouped },
    Row { name: "lost", value: |r| Some(r.lost as f64), written: grouped },
    Row { name: "lost, of all", value: |r| Some(r.loss_percent), written: |n| format!("{n:.3} %") },
    Row { name: "gaps", value: |r| Some(r.gaps as f64), written: grouped },
    Row { name: "publisher behind at worst", value: |r| r.behind_us_max, written: |n| format!("{n:.0} µs") },
];

const DURABLE_ROWS: &[Row] = &[
    Row { name: "acknowledged", value: |r| Some(r.deliveries_per_second), written: per_second },
    Row { name: "payload", value: |r| Some(r.megabytes_per_second), written: |n| format!("{n:.1} MB/s") },
    Row { name: "CPU", value: |r| r.cpu_seconds_per_million, written: |n| format!("{n:.3} s per million") },
    Row { name: "sent", value: |r| Some(r.sent as f64), written: grouped },
    Row { name: "read back after a new start", value: |r| Some(r.delivered as f64), written: grouped },
];

const REPLAY_ROWS: &[Row] = &[
    Row {
        name: "log",
        value: |r| Some(r.replay?.log_bytes as f64),
        written: |bytes| format!("{:.0} MiB", bytes / f64::from(1 << 20)),
    },
    Row { name: "listens after", value: |r| Some(r.replay?.opened_seconds), written: seconds },
    Row { name: "first message after", value: |r| Some(r.replay?.served_seconds), written: seconds },
];

const SUBSCRIBER_ROWS: &[Row] = &[
    Row { name: "slowest subscriber", value: |r| Some(r.subscribers?.slowest), written: per_second },
    Row { name: "median subscriber", value: |r| Some(r.subscribers?.median), written: per_second },
    Row { name: "fastest subscriber", value: |r| Some(r.subscribers?.fastest), written: per_second },
];

fn figures(plan: &Plan, runs: &[&Results]) -> Table {
    let rows = match plan.workload {
        Workload::Connections => vec![CONNECTION_ROWS],
        Workload::Durable => vec![DURABLE_ROWS],
        Workload::Replay => vec![REPLAY_ROWS, MESSAGE_ROWS],
        _ if plan.subscribers > 1 => vec![MESSAGE_ROWS, SUBSCRIBER_ROWS],
        _ => vec![MESSAGE_ROWS],
    };
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for row in rows.into_iter().flatten() {
        let values: Vec<f64> = runs.iter().filter_map(|results| (row.value)(results)).collect();
        let Some(Spread { slowest, median, fastest }) = Spread::of(&values) else { continue };
        let mut cells = vec![Cell::new(row.name), right((row.written)(median))];
        if runs.len() > 1 {
            cells.push(right((row.written)(slowest)));
            cells.push(Cell::new("…"));
            cells.push(right((row.written)(fastest)));
        }
        table.add_row(cells);
    }
    table
}

/// What one column of the latency table shows.
type Figure = fn(&LatencySummary) -> f64;

fn latencies(plan: &Plan, runs: &[&Results]) -> String {
    let all: Vec<&LatencySummary> = runs.iter().filter_map(|results| results.latency.as_ref()).collect();
    if all.is_empty() {
        return String::new();
    }
    let columns: [(&str, Figure); 7] = [
        ("messages", |l| l.count as f64),
        ("p50", |l| l.p50_us),
        ("p90", |l| l.p90_us),
        ("p99", |l| l.p99_us),
        ("p99.9", |l| l.p999_us),
        ("p99.99", |l| l.p9999_us),
        ("max", |l| l.max_us),
    ];
    let spreads = columns.map(|(name, figure)| {
        let values: Vec<f64> = all.iter().map(|summary| figure(summary)).collect();
        (name, Spread::of(&values).expect("there is a run with latencies"))
    });
    let start = match plan.workload {
        Workload::Roundtrip => "round trip, µs",
        Workload::Durable => "until acknowledged, µs",
        _ => "from due, µs",
    };
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([start].into_iter().chain(columns.map(|(name, _)| name)));
    let mut add = |name: &str, of: fn(&Spread) -> f64| {
        let cells = spreads.map(|(column, spread)| match column {
            "messages" => right(grouped(of(&spread))),
            _ => right(format!("{:.1}", of(&spread))),
        });
        table.add_row([Cell::new(name)].into_iter().chain(cells));
    };
    match all.len() {
        1 => add("", |spread| spread.median),
        _ => {
            add("median", |spread| spread.median);
            add("lowest", |spread| spread.slowest);
            add("highest", |spread| spread.fastest);
        }
    }
    format!("\n\n{table}\n")
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

fn seconds(number: f64) -> String {
    format!("{number:.3} s")
}

fn per_second(number: f64) -> String {
    format!("{} msg/s", grouped(number))
}

/// `1234567.8` → `1 234 568`.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let head = digits.len() % 3;
    let (head, rest) = digits.split_at(head);
    let groups = rest.as_bytes().chunks(3).map(|group| String::from_utf8_lossy(group).into_owned());
    let parts: Vec<String> =
        std::iter::once(head.to_owned()).filter(|head| !head.is_empty()).chain(groups).collect();
    parts.join(" ")
}
