//! The figures that runs are compared by, and what several runs of one configuration say about each.

use serde::Serialize;

use super::scale::Unit;
use crate::report::Results;

/// A figure of a run.
#[derive(Debug)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    /// What stands after the number, beyond the unit.
    pub(crate) per: &'static str,
    pub(crate) higher_is_better: bool,
    /// `None` where the workload has no such figure.
    pub(crate) of: fn(&Results) -> Option<f64>,
}

/// Deliveries per second.
pub(crate) const RATE: Figure = Figure {
    name: "rate",
    unit: Unit::Count,
    per: " msg/s",
    higher_is_better: true,
    of: |results| {
        (results.deliveries_per_second > 0.0 || results.connections.is_none())
            .then_some(results.deliveries_per_second)
    },
};

/// CPU time per delivery: seconds per million are microseconds per one.
pub(crate) const CPU: Figure =
    lower("CPU per delivery", Unit::Micros, "", |results| results.cpu_seconds_per_million);

/// Deliveries for each second of CPU time.
pub(crate) const PER_CORE: Figure = Figure {
    name: "deliveries per core-second",
    unit: Unit::Count,
    per: "",
    higher_is_better: true,
    of: |results| Some(1e6 / results.cpu_seconds_per_million?),
};

/// Of several subscribers: the one that got the least.
pub(crate) const SLOWEST: Figure =
    Figure { name: "slowest subscriber", of: |results| Some(results.subscribers?.slowest), ..RATE };
pub(crate) const MEDIAN: Figure =
    Figure { name: "median subscriber", of: |results| Some(results.subscribers?.median), ..RATE };
pub(crate) const FASTEST: Figure =
    Figure { name: "fastest subscriber", of: |results| Some(results.subscribers?.fastest), ..RATE };

pub(crate) const P50: Figure = lower("p50", Unit::Micros, "", |r| Some(r.latency.as_ref()?.p50_us));
pub(crate) const P99: Figure = lower("p99", Unit::Micros, "", |r| Some(r.latency.as_ref()?.p99_us));
pub(crate) const P999: Figure = lower("p99.9", Unit::Micros, "", |r| Some(r.latency.as_ref()?.p999_us));
pub(crate) const MAX: Figure = lower("max", Unit::Micros, "", |r| Some(r.latency.as_ref()?.max_us));
pub(crate) const LOSS: Figure =
    lower("loss", Unit::Percent, "", |r| r.connections.is_none().then_some(r.loss_percent));
pub(crate) const MEMORY: Figure = lower("server memory per connection", Unit::Bytes, "", |results| {
    results.connections.as_ref()?.server_bytes_per_connection
});
pub(crate) const ACCEPTED: Figure = Figure {
    name: "accepted",
    unit: Unit::Count,
    per: " connections/s",
    higher_is_better: true,
    of: |results| Some(results.connections.as_ref()?.accepted_per_second),
};
pub(crate) const IDLE_CPU: Figure =
    lower("CPU while idle", Unit::Percent, "", |results| results.connections.as_ref()?.idle_cpu_percent);

pub(crate) const OPENED: Figure =
    lower("listens after", Unit::Seconds, "", |results| Some(results.replay.as_ref()?.opened_seconds));
pub(crate) const SERVED: Figure =
    lower("first message after", Unit::Seconds, "", |results| Some(results.replay.as_ref()?.served_seconds));

/// All of them, in the order they are shown.
pub(crate) const FIGURES: [&Figure; 12] =
    [&RATE, &CPU, &P50, &P99, &P999, &MAX, &LOSS, &ACCEPTED, &MEMORY, &IDLE_CPU, &OPENED, &SERVED];

const fn lower(name: &'static str, unit: Unit, per: &'static str, of: fn(&Results) -> Option<f64>) -> Figure {
    Figure { name, unit, per, higher_is_better: false, of }
}

impl Figure {
    /// `value` as a person reads it.
    pub(crate) fn text(&self, value: f64) -> String {
        format!("{}{}", self.unit.text(value), self.per)
    }

    /// What `results`, one per run, say about this figure.
    pub(crate) fn across<'a>(&self, results: impl Iterator<Item = &'a Results>) -> Option<Runs> {
        Runs::of(results.filter_map(self.of))
    }
}

/// One figure over several runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Runs {
    pub(crate) runs: usize,
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Runs {
    /// `None` without a finite value.
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Self { runs: sorted.len(), median: low.midpoint(high), least, most })
    }

    /// Whether some value of `self` is as large as some value of `other`, and some as small.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.least <= other.most && other.least <= self.most
    }

    /// The median and, where they are not the same, the extremes.
    pub(crate) fn text(&self, figure: &Figure) -> String {
        let median = figure.text(self.median);
        match self.range(figure) {
            Some(range) => format!("{median} ({range})"),
            None => median,
        }
    }

    /// The extremes, if there are any, with their unit once where it is the same.
    pub(crate) fn range(&self, figure: &Figure) -> Option<String> {
        let [least, most] = [self.least, self.most].map(|value| figure.unit.text(value));
        let least = match (least.split_once(' '), most.split_once(' ')) {
            (Some((number, unit)), Some((_, same))) if unit == same => number.to_owned(),
            _ => least,
        };
        (self.least < self.most).then(|| format!("{least} – {most}"))
    }
}

/// How much larger a figure is in B than in A.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Ratio {
    /// Of the medians.
    pub(crate) median: f64,
    /// The smallest value of B by the largest of A.
    pub(crate) least: f64,
    /// The largest value of B by the smallest of A.
    pub(crate) most: f64,
}

impl Ratio {
    /// B by A; `None` where A comes down to zero.
    pub(crate) fn of(a: &Runs, b: &Runs) -> Option<Self> {
        (a.least > 0.0).then(|| Self {
            median: b.median / a.median,
            least: b.least / a.most,
            most: b.most / a.least,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(values: &[f64]) -> Runs {
        Runs::of(values.iter().copied()).unwrap()
    }

    #[test]
    fn the_median_of_an_even_number_of_runs_lies_between_the_middle_two() {
        assert_eq!(runs(&[4.0, 1.0, 3.0, 2.0]), Runs { runs: 4, median: 2.5, least: 1.0, most: 4.0 });
        assert_eq!(runs(&[5.0, 1.0, 9.0]).median, 5.0);
        assert_eq!(Runs::of([f64::NAN].into_iter()), None);
    }

    #[test]
    fn a_ratio_reaches_from_the_least_by_the_most_to_the_most_by_the_least() {
        let ratio = Ratio::of(&runs(&[10.0, 8.0, 12.5]), &runs(&[20.0, 25.0, 16.0])).unwrap();
        assert_eq!(ratio, Ratio { median: 2.0, least: 16.0 / 12.5, most: 25.0 / 8.0 });
        assert_eq!(Ratio::of(&runs(&[0.0, 1.0]), &runs(&[1.0])), None);
    }

    #[test]
    fn runs_overlap_when_their_ranges_share_a_value() {
        assert!(runs(&[1.0, 3.0]).overlaps(&runs(&[3.0, 4.0])));
        assert!(runs(&[0.0]).overlaps(&runs(&[0.0])));
        assert!(!runs(&[1.0, 3.0]).overlaps(&runs(&[3.1])));
    }

    #[test]
    fn several_runs_show_their_extremes() {
        assert_eq!(runs(&[1e6, 2e6, 3e6]).text(&RATE), "2M msg/s (1M – 3M)");
        assert_eq!(runs(&[0.43]).text(&CPU), "0.43 µs");
        assert_eq!(runs(&[0.43, 0.47, 0.44]).text(&CPU), "0.44 µs (0.43 – 0.47 µs)");
        assert_eq!(runs(&[900.0, 1e3, 1.1e3]).text(&P99), "1 ms (900 µs – 1.1 ms)");
    }
}
