//! The bars of the project: which figures are compared, and what the ratio must be. Ids and bars are plain tables;
//! what runs is derived from them.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use crate::{
    cli::Amount,
    measure::{Figures, Plan, Workload},
    series::{Series, Summary, interleave},
    system::{AnySystem, Setup},
    systems,
    table::grouped,
};

use Bound::{AtLeast, AtMost};
use Metric::{Bytes, Cpu, Lost, P50, P99, Rate};
use Workload::{
    Durable, Fanout16, Fanout100, Fanout1000, Idle, Oneway1k, Oneway10k, Oneway100k, Roundtrip,
    RoundtripPinned, Throughput,
};

/// Everything that goes through a server of its own.
const BROKERED: &[&str] = &["nats-lean", "nats", "redis", "mosquitto", "zeromq-proxy", "zenoh-router"];

/// What keeps messages without waiting for the disk.
const UNSYNCED: &[&str] = &["jetstream", "jetstream-16384"];

/// The limit of a hop.
const RELAY: &[&str] = &["tcp-relay"];

/// Of the fast system's unbounded rate, at which its losses count.
const LOSS_RATE_SHARE: f64 = 0.8;

/// Of all messages, in per cent.
const LOSS_PERCENT_MAX: f64 = 0.1;

/// Messages of one run of a queue core.
const CORE_MESSAGES: u64 = 1_000_000;

/// What is compared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Metric {
    Rate,
    P50,
    P99,
    Cpu,
    Bytes,
    Lost,
}

/// What the ratio must be; without a rival, what the figure itself must be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
struct Check {
    id: &'static str,
    what: &'static str,
    metric: Metric,
    ours: (&'static str, Workload),
    /// The best of these; empty: `bound` is absolute.
    rivals: &'static [&'static str],
    rival_workload: Workload,
    bound: Bound,
}

const fn check(
    id: &'static str,
    what: &'static str,
    metric: Metric,
    ours: (&'static str, Workload),
    rivals: &'static [&'static str],
    bound: Bound,
) -> Check {
    Check { id, what, metric, ours, rivals, rival_workload: ours.1, bound }
}

static CHECKS: &[Check] = &[
    check("P1", "reliable, TLS, brokered", Rate, ("twinlane", Throughput), BROKERED, AtLeast(3.0)),
    check("P1", "reliable, TLS, to the limit", Rate, ("twinlane", Throughput), RELAY, AtLeast(0.4)),
    check(
        "P2",
        "fast, QUIC, no broker there",
        Rate,
        ("twinlane-fast", Throughput),
        &["aeron-udp"],
        AtLeast(1.0),
    ),
    check("P2", "fast, QUIC", Rate, ("twinlane-fast", Throughput), &["zenoh-udp"], AtLeast(2.0)),
    check("P3", "fan-out 100, TLS", Rate, ("twinlane", Fanout100), &["zeromq"], AtLeast(2.0)),
    check("P3", "fan-out 1,000, TLS", Rate, ("twinlane", Fanout1000), &["zeromq"], AtLeast(2.0)),
    Check {
        rival_workload: Fanout100,
        ..check("P3", "1,000 against 100", Rate, ("twinlane", Fanout1000), &["twinlane"], AtLeast(0.8))
    },
    check("P4", "round trip, cold, p50", P50, ("twinlane", Roundtrip), RELAY, AtMost(1.15)),
    check("P4", "round trip, cold, p99", P99, ("twinlane", Roundtrip), RELAY, AtMost(1.5)),
    check("P5", "one core, TLS", P50, ("twinlane", RoundtripPinned), RELAY, AtMost(1.3)),
    check("P5", "one core, brokered", P50, ("twinlane", RoundtripPinned), BROKERED, AtMost(1.0)),
    check(
        "P5",
        "one core, QUIC / our TCP",
        P50,
        ("twinlane-fast", RoundtripPinned),
        &["twinlane"],
        AtMost(1.5),
    ),
    check("P5", "two cores, spin / park", P50, ("twinlane-spin", Roundtrip), &["twinlane-park"], AtMost(0.6)),
    check("P6", "one way, 1 k/s, p50", P50, ("twinlane", Oneway1k), RELAY, AtMost(1.2)),
    check("P6", "one way, 1 k/s, p99", P99, ("twinlane", Oneway1k), RELAY, AtMost(2.0)),
    check("P6", "one way, 10 k/s, p50", P50, ("twinlane", Oneway10k), RELAY, AtMost(1.2)),
    check("P6", "one way, 10 k/s, p99", P99, ("twinlane", Oneway10k), RELAY, AtMost(2.0)),
    check("P6", "one way, 100 k/s, p50", P50, ("twinlane", Oneway100k), RELAY, AtMost(1.2)),
    check("P6", "one way, 100 k/s, p99", P99, ("twinlane", Oneway100k), RELAY, AtMost(2.0)),
    check("P7", "in process, 1 → 1", Rate, ("twinlane-local", Throughput), &["aeron-ipc"], AtLeast(1.0)),
    check("P7", "in process, 1 → 16", Rate, ("twinlane-local", Fanout16), &["tokio-broadcast"], AtLeast(8.0)),
    check("P9", "durable, TLS, unsynced rival", Rate, ("twinlane-durable", Durable), UNSYNCED, AtLeast(4.0)),
    check(
        "P9",
        "durable, raw groups of 1,024",
        Rate,
        ("twinlane-durable", Durable),
        &["raw-fdatasync"],
        AtLeast(0.25),
    ),
    check("P9", "both windows 1,024", Rate, ("twinlane-durable-1024", Durable), &["jetstream"], AtLeast(4.0)),
    check(
        "P9",
        "window and groups of 1,024",
        Rate,
        ("twinlane-durable-1024", Durable),
        &["raw-fdatasync"],
        AtLeast(0.25),
    ),
    check("P9", "lost when killed", Lost, ("twinlane-durable", Durable), &[], AtMost(0.0)),
    check("P10", "bytes per idle TLS connection", Bytes, ("twinlane", Idle), &[], AtMost(16_384.0)),
    check("P10", "bytes per idle QUIC connection", Bytes, ("twinlane-fast", Idle), &[], AtMost(32_768.0)),
    check("P12", "CPU s per million at P1", Cpu, ("twinlane", Throughput), &["nats-lean"], AtMost(0.5)),
];

/// Bars that another program measures.
const ELSEWHERE: &[(&str, &str)] = &[("P11", "under loss: not here, it needs an emulated link")];

/// One judged line.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The bar.
    pub id: String,
    /// What is compared.
    pub what: String,
    /// Our median.
    pub ours: Option<f64>,
    /// The best rival, and its median.
    pub rival: Option<(String, f64)>,
    /// Median of the repetitions' ratios; the figure itself where there is no rival.
    pub ratio: Option<f64>,
    /// The same of each repetition, where neighbours can be compared.
    pub rounds: Vec<f64>,
    /// How many of these meet the bar.
    pub rounds_met: usize,
    /// The bar in words.
    pub bar: String,
    /// `None`: there is no figure.
    pub passed: Option<bool>,
}

/// Everything a `bars` command found.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The runs.
    pub series: Vec<Series>,
    /// What they mean.
    pub outcomes: Vec<Outcome>,
}

/// Runs what the bars `ids` need (all, if there are none) and judges them.
///
/// # Errors
///
/// There is no such bar.
pub fn measure(ids: &[String], amount: &Amount, repeat: usize, setup: &Setup) -> Result<Measured> {
    let ids: Vec<String> = ids.iter().map(|id| id.to_uppercase()).collect();
    let known = |id: &String| id == "P8" || ELSEWHERE.iter().any(|(known, _)| known == id) || is_checked(id);
    if let Some(unknown) = ids.iter().find(|id| !known(id)) {
        bail!("there is no bar {unknown:?}: P1 to P12");
    }
    let wanted = |id: &str| ids.is_empty() || ids.iter().any(|wanted| wanted == id);
    let checks: Vec<&Check> = CHECKS.iter().filter(|check| wanted(check.id)).collect();
    let all = systems::all();
    let mut series = Vec::new();
    for (workload, names) in needed(&checks) {
        let runs =
            |system: &&dyn AnySystem| names.contains(&system.name()) && system.missing(setup).is_none();
        let systems: Vec<&dyn AnySystem> = all.iter().map(AsRef::as_ref).filter(runs).collect();
        series.extend(interleave(&systems, &[amount.plan(workload, None)], repeat, setup));
    }
    let mut outcomes: Vec<Outcome> = checks.iter().map(|check| judge(check, &series)).collect();
    if wanted("P2") {
        let (outcome, capped) = loss_below_the_limit(&all, &series, amount, repeat, setup);
        outcomes.push(outcome);
        series.extend(capped);
    }
    if wanted("P8") {
        outcomes.extend(cores(repeat));
    }
    let elsewhere = ELSEWHERE.iter().filter(|(id, _)| wanted(id));
    outcomes.extend(elsewhere.map(|(id, what)| Outcome::without_figures(id, what, "not here")));
    outcomes.sort_by_key(|outcome| outcome.id[1..].parse::<u32>().unwrap_or(u32::MAX));
    Ok(Measured { series, outcomes })
}

fn is_checked(id: &str) -> bool {
    CHECKS.iter().any(|check| check.id == id)
}

/// Which systems each workload needs.
fn needed(checks: &[&Check]) -> BTreeMap<Workload, Vec<&'static str>> {
    let mut needed: BTreeMap<Workload, Vec<&'static str>> = BTreeMap::new();
    for check in checks {
        needed.entry(check.ours.1).or_default().push(check.ours.0);
        needed.entry(check.rival_workload).or_default().extend(check.rivals);
    }
    needed
}

impl Metric {
    fn of(self, figures: &Figures) -> Option<f64> {
        match self {
            Rate => figures.deliveries_per_second,
            P50 => figures.latency.map(|latency| latency.p50_us),
            P99 => figures.latency.map(|latency| latency.p99_us),
            Cpu => figures.cpu_seconds_per_million,
            Bytes => figures.bytes_per_connection,
            Lost => Some(figures.lost as f64),
        }
    }
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            AtLeast(bar) => bar <= value,
            AtMost(bar) => value <= bar,
        }
    }

    fn words(self) -> String {
        match self {
            AtLeast(bar) => format!("≥ {}", short(bar)),
            AtMost(bar) => format!("≤ {}", short(bar)),
        }
    }

    /// Whether a rival with `left` is harder to beat than one with `right`.
    fn is_harder(self, left: f64, right: f64) -> bool {
        match self {
            AtLeast(_) => left > right,
            AtMost(_) => left < right,
        }
    }
}

impl Outcome {
    fn without_figures(id: &str, what: &str, bar: &str) -> Self {
        let (id, what, bar) = (id.to_owned(), what.to_owned(), bar.to_owned());
        Self {
            id,
            what,
            ours: None,
            rival: None,
            ratio: None,
            rounds: vec![],
            rounds_met: 0,
            bar,
            passed: None,
        }
    }
}

fn judge(check: &Check, all: &[Series]) -> Outcome {
    let Check { id, what, metric, ours, rivals, rival_workload, bound } = *check;
    let find = |name: &str, workload: Workload| {
        all.iter()
            .find(|series| series.system == name && series.workload == workload && series.rate.is_none())
    };
    let figure = |figures: &Figures| metric.of(figures);
    let median = |series: &Series| series.summary(figure).map(|summary| summary.median);
    let mut outcome = Outcome::without_figures(id, what, &bound.words());
    let Some(mine) = find(ours.0, ours.1) else { return outcome };
    outcome.ours = median(mine);
    if rivals.is_empty() {
        outcome.ratio = outcome.ours;
        outcome.rounds = values(mine, figure);
    } else {
        let mut best: Option<(&Series, f64)> = None;
        for rival in rivals.iter().filter_map(|name| find(name, rival_workload)) {
            let Some(value) = median(rival) else { continue };
            if best.is_none_or(|(_, hardest)| bound.is_harder(value, hardest)) {
                best = Some((rival, value));
            }
        }
        let Some((rival, value)) = best else { return outcome };
        outcome.rival = Some((rival.system.clone(), value));
        outcome.rounds = rounds(mine, rival, figure);
        // If a run failed, there are no neighbours.
        let of_rounds = Summary::of(outcome.rounds.clone()).map(|summary| summary.median);
        outcome.ratio = of_rounds.or_else(|| Some(median(mine)? / value));
    }
    outcome.rounds_met = outcome.rounds.iter().filter(|round| bound.holds(**round)).count();
    outcome.passed = outcome.ratio.map(|ratio| bound.holds(ratio));
    outcome
}

/// The repetitions' ratios: neighbours in time are compared. None if a run failed.
fn rounds(ours: &Series, rival: &Series, figure: impl Fn(&Figures) -> Option<f64> + Copy) -> Vec<f64> {
    let (ours, rival) = (values(ours, figure), values(rival, figure));
    if ours.len() != rival.len() {
        return Vec::new();
    }
    ours.iter().zip(&rival).map(|(ours, rival)| ours / rival).collect()
}

fn values(series: &Series, figure: impl Fn(&Figures) -> Option<f64>) -> Vec<f64> {
    series.runs.iter().filter_map(figure).collect()
}

/// P2 again: what the fast channel loses at 80 % of what it reached flat out.
fn loss_below_the_limit(
    all: &[Box<dyn AnySystem>],
    measured: &[Series],
    amount: &Amount,
    repeat: usize,
    setup: &Setup,
) -> (Outcome, Vec<Series>) {
    let bar = format!("≤ {LOSS_PERCENT_MAX} %");
    let mut outcome = Outcome::without_figures("P2", "fast, lost % at 80 % of that rate", &bar);
    let fast = all.iter().find(|system| system.name() == "twinlane-fast");
    let is_flat_out = |series: &&Series| series.system == "twinlane-fast" && series.workload == Throughput;
    let reached =
        measured.iter().find(is_flat_out).and_then(|series| series.summary(|run| Metric::of(Rate, run)));
    let (Some(fast), Some(reached)) = (fast, reached) else { return (outcome, Vec::new()) };
    let rate = (reached.median * LOSS_RATE_SHARE) as u64;
    let plan: Plan = amount.plan(Throughput, Some(rate.max(1)));
    let capped = interleave(&[fast.as_ref()], &[plan], repeat, setup);
    outcome.ours = capped.first().and_then(Series::loss_percent);
    outcome.ratio = outcome.ours;
    outcome.passed = outcome.ours.map(|percent| percent <= LOSS_PERCENT_MAX);
    (outcome, capped)
}

/// P8: the ring beside other queues, by the crate that measures queue cores.
fn cores(repeat: usize) -> Vec<Outcome> {
    let judged = |ratio: twinlane_bench_cores::p8::Ratio| {
        let what = format!("queue core, {}, {}, ns", ratio.name, ratio.ring);
        let bar = ratio.bar.map_or_else(|| "–".to_owned(), |bar| format!("≥ {} × as fast", short(bar)));
        Outcome {
            ours: Some(ratio.ring_ns),
            rival: Some((ratio.rival.to_owned(), ratio.rival_ns)),
            ratio: Some(ratio.value()),
            passed: ratio.bar.map(|_| ratio.holds()),
            ..Outcome::without_figures("P8", &what, &bar)
        }
    };
    let all = twinlane_bench_cores::p8::p8(repeat.max(3), CORE_MESSAGES);
    all.into_iter().map(judged).collect()
}

fn short(value: f64) -> String {
    if value.abs() < 1_000.0 { format!("{value}") } else { grouped(value) }
}

/// The judged bars as a table.
#[must_use]
pub fn render(outcomes: &[Outcome]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["bar", "what", "twinlane", "rival", "its figure", "ratio", "rounds", "bar", ""]);
    for outcome in outcomes {
        let figure = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), grouped);
        let (rival, rival_figure) = outcome.rival.clone().unzip();
        let verdict = match outcome.passed {
            Some(true) => "pass",
            Some(false) => "FAIL",
            None if outcome.bar == "not here" => "not here",
            None if outcome.bar == "–" => "beside it",
            None => "no figure",
        };
        let rounds: Vec<String> = outcome.rounds.iter().map(|round| format!("{round:.2}")).collect();
        let verdict = match outcome.passed {
            Some(_) if (1..outcome.rounds.len()).contains(&outcome.rounds_met) => {
                format!("{verdict}, {} of {}", outcome.rounds_met, outcome.rounds.len())
            }
            _ => verdict.to_owned(),
        };
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        table.add_row(vec![
            Cell::new(&outcome.id),
            Cell::new(&outcome.what),
            right(figure(outcome.ours)),
            Cell::new(rival.unwrap_or_default()),
            right(figure(rival_figure)),
            right(
                outcome
                    .ratio
                    .filter(|_| outcome.rival.is_some())
                    .map(|ratio| format!("{ratio:.3}"))
                    .unwrap_or_default(),
            ),
            Cell::new(if outcome.rival.is_some() { rounds.join(" · ") } else { String::new() }),
            Cell::new(&outcome.bar),
            Cell::new(verdict),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(system: &str, workload: Workload, rates: &[f64]) -> Series {
        let run = |rate: &f64| Figures { deliveries_per_second: Some(*rate), ..Figures::default() };
        let (system, runs) = (system.to_owned(), rates.iter().map(run).collect());
        Series { system, workload, rate: None, runs, errors: Vec::new() }
    }

    fn three_times() -> Check {
        check("P1", "x", Rate, ("twinlane", Throughput), BROKERED, AtLeast(3.0))
    }

    fn beside(ours: &[f64], rival: &[f64]) -> Outcome {
        let all = [series("twinlane", Throughput, ours), series("nats-lean", Throughput, rival)];
        judge(&three_times(), &all)
    }

    #[test]
    fn the_ratio_is_the_median_of_neighbouring_runs() {
        let outcome = beside(&[30.0, 300.0, 90.0], &[10.0, 100.0, 30.0]);
        assert_eq!((outcome.ratio, outcome.passed), (Some(3.0), Some(true)));
        assert_eq!(outcome.ours, Some(90.0));
    }

    #[test]
    fn a_bar_says_in_how_many_rounds_it_was_met() {
        let outcome = beside(&[30.0, 250.0, 90.0], &[10.0, 100.0, 30.0]);
        assert_eq!((outcome.rounds.as_slice(), outcome.rounds_met), ([3.0, 2.5, 3.0].as_slice(), 2));
        assert!(render(&[outcome]).to_string().contains("3.00 · 2.50 · 3.00  ≥ 3  pass, 2 of 3"));
    }

    #[test]
    fn the_best_rival_counts() {
        let all = [
            series("redis", Throughput, &[20.0]),
            series("twinlane", Throughput, &[30.0]),
            series("nats-lean", Throughput, &[5.0]),
        ];
        let outcome = judge(&three_times(), &all);
        assert_eq!(outcome.rival, Some(("redis".to_owned(), 20.0)));
        assert_eq!(outcome.passed, Some(false));
    }

    #[test]
    fn a_rival_that_failed_once_is_compared_by_medians() {
        assert_eq!(beside(&[30.0, 40.0], &[10.0]).ratio, Some(3.5));
    }

    #[test]
    fn without_a_figure_a_bar_is_neither_passed_nor_missed() {
        assert_eq!(judge(&three_times(), &[]).passed, None);
        let all = [series("twinlane", Throughput, &[30.0])];
        assert_eq!(judge(&three_times(), &all).passed, None);
    }

    #[test]
    fn every_workload_of_a_bar_is_run_with_all_its_systems() {
        let fan_out: Vec<&Check> = CHECKS.iter().filter(|check| check.id == "P3").collect();
        let needed = needed(&fan_out);
        assert!(needed[&Fanout100].contains(&"twinlane") && needed[&Fanout100].contains(&"zeromq"));
        assert!(needed[&Fanout1000].contains(&"zeromq"));
    }
}
