//! The report of a run: one JSON object for machines, or a table for people.

use std::io::{self, Write as _};

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use crate::{
    machine::{self, Machine},
    plan::{Plan, Workload},
    run::Measured,
    stats::{LatencySummary, Spread},
};

/// A run, and where it ran: a figure never travels without its machine, commit and configuration.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this program.
    pub version: &'static str,
    /// Commit of the repository around the current directory; `+` marks local changes.
    pub commit: Option<String>,
    /// Where it ran.
    pub machine: Machine,
    /// What ran.
    pub configuration: Plan,
    /// What came out.
    pub results: Results,
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// Length of the window as it came out.
    pub window_seconds: f64,
    /// Deliveries to all subscribers together, per second of the window.
    pub deliveries_per_second: f64,
    /// Payload bytes of those deliveries, in millions per second.
    pub megabytes_per_second: f64,
    /// Deliveries per second of each subscriber.
    pub subscribers: Option<Spread>,
    /// The same, one by one.
    pub subscriber_rates: Vec<f64>,
    /// CPU time of this process per million deliveries in the window.
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
    /// From due to received; only for `latency`.
    pub latency: Option<LatencySummary>,
    /// How far the publisher fell behind its schedule at worst; only for `latency`.
    pub behind_us_max: Option<f64>,
}

impl Results {
    fn new(plan: &Plan, measured: &Measured) -> Self {
        let window_seconds = measured.window.as_secs_f64();
        let deliveries: u64 = measured.window_deliveries.iter().sum();
        let subscriber_rates: Vec<f64> =
            measured.window_deliveries.iter().map(|&count| count as f64 / window_seconds).collect();
        let [delivered, lost, gaps] = [
            measured.books.iter().map(|books| books.delivered).sum::<u64>(),
            measured.books.iter().map(|books| books.lost).sum(),
            measured.books.iter().map(|books| books.gaps).sum(),
        ];
        let expected = delivered + lost;
        let deliveries_per_second = deliveries as f64 / window_seconds;
        Self {
            window_seconds,
            deliveries_per_second,
            megabytes_per_second: deliveries_per_second * plan.payload_bytes as f64 / 1e6,
            subscribers: Spread::of(&subscriber_rates),
            subscriber_rates,
            cpu_seconds_per_million: measured
                .cpu_seconds
                .filter(|_| deliveries > 0)
                .map(|seconds| seconds * 1e6 / deliveries as f64),
            sent: measured.sent,
            delivered,
            lost,
            gaps,
            loss_percent: if expected == 0 { 0.0 } else { lost as f64 * 100.0 / expected as f64 },
            latency: measured.latencies.summary(),
            behind_us_max: (plan.workload == Workload::Latency)
                .then_some(measured.behind.as_secs_f64() * 1e6),
        }
    }
}

impl Report {
    /// Makes figures of what a run measured, on the machine it ran on.
    #[must_use]
    pub fn new(plan: Plan, measured: &Measured) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            commit: machine::commit(),
            machine: Machine::here(),
            results: Results::new(&plan, measured),
            configuration: plan,
        }
    }

    /// Prints the report on standard output.
    ///
    /// # Errors
    ///
    /// Standard output is gone.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        let text = if json { serde_json::to_string(self)? } else { self.table() };
        writeln!(io::stdout().lock(), "{text}")?;
        Ok(())
    }

    /// The report for people.
    #[must_use]
    pub fn table(&self) -> String {
        let Results { latency, subscribers, .. } = &self.results;
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        for (name, value) in self.rows() {
            table.add_row([Cell::new(name), Cell::new(value).set_alignment(CellAlignment::Right)]);
        }
        if let Some(spread) = subscribers.filter(|_| self.configuration.subscribers > 1) {
            for (name, rate) in
                [("slowest", spread.slowest), ("median", spread.median), ("fastest", spread.fastest)]
            {
                let value = Cell::new(format!("{} msg/s", grouped(rate))).set_alignment(CellAlignment::Right);
                table.add_row([Cell::new(format!("{name} subscriber")), value]);
            }
        }
        let latency = latency.as_ref().map(latency_table).unwrap_or_default();
        format!("{}\n{}\n\n{table}{latency}", self.configuration.headline(), self.place())
    }

    fn place(&self) -> String {
        let Machine { cpu, cores, kernel } = &self.machine;
        format!(
            "twinlane {} ({}), {}, {cores} cores, {}",
            self.version,
            self.commit.as_deref().unwrap_or("commit unknown"),
            cpu.as_deref().unwrap_or("unknown CPU"),
            kernel.as_deref().unwrap_or("unknown kernel"),
        )
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let results = &self.results;
        let mut rows = vec![
            ("delivered", format!("{} msg/s", grouped(results.deliveries_per_second))),
            ("payload", format!("{:.1} MB/s", results.megabytes_per_second)),
        ];
        if let Some(seconds) = results.cpu_seconds_per_million {
            rows.push(("CPU", format!("{seconds:.3} s per million")));
        }
        rows.push(("sent", grouped(results.sent as f64)));
        rows.push(("lost", format!("{} ({:.3} %)", grouped(results.lost as f64), results.loss_percent)));
        rows.push(("gaps", grouped(results.gaps as f64)));
        if let Some(behind_us) = results.behind_us_max {
            rows.push(("publisher behind at worst", format!("{behind_us:.0} µs")));
        }
        rows
    }
}

fn latency_table(latency: &LatencySummary) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["from due, µs", "p50", "p90", "p99", "p99.9", "p99.99", "max"]);
    let LatencySummary { p50_us, p90_us, p99_us, p999_us, p9999_us, max_us, .. } = *latency;
    let figures = [p50_us, p90_us, p99_us, p999_us, p9999_us, max_us];
    let cells = figures.map(|us| Cell::new(format!("{us:.1}")).set_alignment(CellAlignment::Right));
    table.add_row(
        std::iter::once(Cell::new(format!("{} messages", grouped(latency.count as f64)))).chain(cells),
    );
    format!("\n\n{table}")
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
