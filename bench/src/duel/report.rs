//! The report of a duel: what JSON holds, and the table for people.

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};
use twinlane_netlab::Traffic;

use super::{Across, Contender, DuelPlan};
use crate::{
    machine::{self, Machine},
    report::{Interval, LatencySummary},
};

/// A duel over one link, and where it ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DuelReport {
    /// Version of this program.
    pub version: String,
    /// Commit of the repository around the current directory; `+` marks local changes.
    pub commit: Option<String>,
    /// When it ended: RFC 3339, UTC.
    pub date: String,
    /// Where it ran.
    pub machine: Machine,
    /// What ran.
    pub configuration: DuelPlan,
    /// How exact the link was: no latency means more than this.
    pub emulator: Emulator,
    /// What came out, in the order of the arguments.
    pub duelists: Vec<Duelist>,
}

/// How much the emulator itself added to packets, both directions together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Emulator {
    /// Packets that it delivered.
    pub packets: u64,
    /// All their delays beyond what the link should take, together.
    pub late_us_total: f64,
    /// The largest of them.
    pub late_us_max: f64,
    /// Packets that were more than 200 µs late.
    pub late_above_200us: u64,
}

/// What came out for one contender.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Duelist {
    /// Who.
    pub contender: Contender,
    /// Messages due in the window.
    pub sent: u64,
    /// Those of them that arrived.
    pub delivered: u64,
    /// The same in percent.
    pub delivered_percent: f64,
    /// Messages that twinlane reported missing, whole run.
    pub reported_missing: u64,
    /// Latencies from due, minus the link's one-way delay.
    pub above: Option<LatencySummary>,
    /// How far the sender fell behind its schedule at worst: the contender made it wait, or the machine was busy.
    pub behind_us_max: f64,
    /// The course of the window, in order.
    pub timeline: Vec<Interval>,
}

impl DuelReport {
    /// A report of what came out here and now.
    pub(crate) fn new(configuration: DuelPlan, emulator: Emulator, duelists: Vec<Duelist>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: machine::commit(),
            date: machine::date(),
            machine: Machine::here(),
            configuration,
            emulator,
            duelists,
        }
    }

    /// How the p99 of a contender compares with that of raw TCP, if both have one.
    #[must_use]
    pub fn beside_tcp(&self, contender: Contender) -> Option<f64> {
        let p99_us = |contender| {
            let duelist = self.duelists.iter().find(|duelist| duelist.contender == contender)?;
            Some(duelist.above.as_ref()?.p99_us)
        };
        Some(p99_us(contender)? / p99_us(Contender::RawTcp)?.max(1.0))
    }

    /// The report for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header([
            "ms above the link's delay",
            "delivered",
            "p50",
            "p90",
            "p99",
            "p99.9",
            "max",
            "p99 beside raw tcp",
        ]);
        for duelist in &self.duelists {
            let mut cells = vec![Cell::new(duelist.contender.name())];
            cells.push(right(format!("{:.3} %", duelist.delivered_percent)));
            let above = duelist.above.as_ref();
            let figures: [fn(&LatencySummary) -> f64; 5] =
                [|l| l.p50_us, |l| l.p90_us, |l| l.p99_us, |l| l.p999_us, |l| l.max_us];
            cells.extend(
                figures.map(|figure| right(above.map_or("-".to_owned(), |above| millis(figure(above))))),
            );
            let ratio = self.beside_tcp(duelist.contender);
            cells.push(right(ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2} ×"))));
            table.add_row(cells);
        }
        format!("{}\n{}\n\n{table}\n{}\n", self.headline(), self.place(), self.emulated())
    }

    /// The duel in one line.
    #[must_use]
    pub fn headline(&self) -> String {
        let DuelPlan { link, rate, payload_bytes, across, together, tcp, window_seconds, .. } =
            &self.configuration;
        let across = match across {
            Across::Subscriber => "the subscriber is across",
            Across::Publisher => "the publisher is across",
        };
        let together = if *together { "all at once" } else { "one after the other" };
        format!(
            "duel over {link}: {payload_bytes} B, {rate} msg/s each for {window_seconds} s, {across}, {together}, TCP {tcp}"
        )
    }

    pub(crate) fn place(&self) -> String {
        let Machine { cpu, cores, kernel } = &self.machine;
        let commit = self.commit.as_deref().unwrap_or("commit unknown");
        let (cpu, kernel) =
            (cpu.as_deref().unwrap_or("unknown CPU"), kernel.as_deref().unwrap_or("unknown kernel"));
        format!("twinlane {} ({commit}), {cpu}, {cores} cores, {kernel}, {}", self.version, self.date)
    }

    fn emulated(&self) -> String {
        let Emulator { packets, late_us_total, late_us_max, late_above_200us } = self.emulator;
        let packets = packets.max(1) as f64;
        format!(
            "the emulator itself: {:.0} µs late on average, {:.2} % of its packets by more than 200 µs, {:.1} ms at worst",
            late_us_total / packets,
            late_above_200us as f64 * 100.0 / packets,
            late_us_max / 1e3,
        )
    }
}

impl Emulator {
    pub(crate) fn add(&mut self, traffic: &Traffic) {
        self.packets += traffic.delivered;
        self.late_us_total += traffic.lateness.total.as_secs_f64() * 1e6;
        self.late_us_max = self.late_us_max.max(traffic.lateness.worst.as_secs_f64() * 1e6);
        self.late_above_200us += traffic.lateness.above_200us;
    }
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

/// Milliseconds with as many digits as mean something.
fn millis(us: f64) -> String {
    match us / 1e3 {
        ms if ms < 10.0 => format!("{ms:.2}"),
        ms if ms < 100.0 => format!("{ms:.1}"),
        ms => format!("{ms:.0}"),
    }
}
