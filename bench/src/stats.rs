//! Latency percentiles and the spread between subscribers.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Latencies above this are recorded as this: a run with one is broken anyway.
pub(crate) const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// Points of a distribution between a share of slower messages and half that share.
const POINTS_PER_HALVING: u32 = 4;

/// As many halvings as 500 million messages have.
const HALVINGS_MAX: u32 = 29;

/// A histogram of latencies in nanoseconds, exact to three significant digits.
#[derive(Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3);
        Self(histogram.expect("1 ns to 60 s with 3 digits is a histogram"))
    }
}

impl Latencies {
    /// Counts one message.
    pub fn record(&mut self, latency_ns: u64) {
        self.0.saturating_record(latency_ns);
    }

    /// Adds everything another subscriber counted.
    ///
    /// # Panics
    ///
    /// Never: all histograms here have the same bounds.
    pub fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("histograms of equal bounds add up");
    }

    /// The percentiles, or `None` when nothing was recorded.
    #[must_use]
    pub fn summary(&self) -> Option<LatencySummary> {
        let us = |quantile: f64| self.0.value_at_quantile(quantile) as f64 / 1e3;
        (!self.0.is_empty()).then(|| LatencySummary {
            count: self.0.len(),
            min_us: self.0.min() as f64 / 1e3,
            mean_us: self.0.mean() / 1e3,
            p50_us: us(0.5),
            p90_us: us(0.9),
            p99_us: us(0.99),
            p999_us: us(0.999),
            p9999_us: us(0.9999),
            max_us: self.0.max() as f64 / 1e3,
            percentiles: self.percentiles(),
        })
    }

    /// From the fastest to the slowest message; the share that is slower halves with every four points, until it is
    /// less than one message.
    fn percentiles(&self) -> Vec<Percentile> {
        let halvings = self.0.len().max(1).ilog2().min(HALVINGS_MAX);
        let inner = (0..=halvings * POINTS_PER_HALVING)
            .map(|point| 1.0 - (-f64::from(point) / f64::from(POINTS_PER_HALVING)).exp2());
        let at = |quantile: f64| Percentile {
            percent: quantile * 100.0,
            us: self.0.value_at_quantile(quantile) as f64 / 1e3,
        };
        let ends = [Percentile { percent: 100.0, us: self.0.max() as f64 / 1e3 }];
        inner.map(at).chain(ends).collect()
    }
}

/// Percentiles of a latency distribution, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencySummary {
    /// Messages recorded.
    pub count: u64,
    /// The fastest message.
    pub min_us: f64,
    /// Arithmetic mean.
    pub mean_us: f64,
    /// Half of the messages were at most this late.
    pub p50_us: f64,
    /// 90 %.
    pub p90_us: f64,
    /// 99 %.
    pub p99_us: f64,
    /// 99.9 %.
    pub p999_us: f64,
    /// 99.99 %.
    pub p9999_us: f64,
    /// The slowest message.
    pub max_us: f64,
    /// The whole distribution: at most 120 points, denser towards the slow end.
    pub percentiles: Vec<Percentile>,
}

/// One point of a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Percentile {
    /// This many percent of the messages…
    pub percent: f64,
    /// …took at most this long.
    pub us: f64,
}

/// How evenly subscribers were served.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The smallest value.
    pub slowest: f64,
    /// The middle value (the lower one of two).
    pub median: f64,
    /// The largest value.
    pub fastest: f64,
}

impl Spread {
    /// The spread of `values`, or `None` when there are none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            slowest: *sorted.first()?,
            median: sorted[(sorted.len() - 1) / 2],
            fastest: *sorted.last()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_known_distribution_are_exact_to_three_digits() {
        let mut latencies = Latencies::default();
        (1..=10_000).for_each(|us| latencies.record(us * 1_000));
        let summary = latencies.summary().unwrap();
        let close = |got: f64, want: f64| assert!((got - want).abs() <= want / 1e3 + 1e-3, "{got} vs {want}");
        assert_eq!(summary.count, 10_000);
        close(summary.min_us, 1.0);
        close(summary.mean_us, 5_000.5);
        close(summary.p50_us, 5_000.0);
        close(summary.p90_us, 9_000.0);
        close(summary.p99_us, 9_900.0);
        close(summary.p999_us, 9_990.0);
        close(summary.p9999_us, 9_999.0);
        close(summary.max_us, 10_000.0);
    }

    #[test]
    fn a_distribution_runs_from_the_fastest_to_the_slowest_in_few_points() {
        let mut latencies = Latencies::default();
        (1..=100_000).for_each(|us| latencies.record(us * 1_000));
        let points = latencies.summary().unwrap().percentiles;
        assert!((50..=120).contains(&points.len()), "{} points", points.len());
        assert!(points.is_sorted_by(|a, b| a.percent < b.percent && a.us <= b.us), "{points:?}");
        let (first, last) = (points[0], points[points.len() - 1]);
        assert_eq!((first.percent, last.percent), (0.0, 100.0));
        assert!(first.us < 1.01 && last.us >= 100_000.0, "{first:?} {last:?}");
        assert!(points.iter().any(|point| point.percent == 50.0), "{points:?}");
    }

    #[test]
    fn merging_equals_recording_in_one_histogram() {
        let (mut left, mut right, mut both) =
            (Latencies::default(), Latencies::default(), Latencies::default());
        for n in 1..1_000 {
            if n % 3 == 0 {
                left.record(n * n);
            } else {
                right.record(n * n);
            }
            both.record(n * n);
        }
        left.merge(&right);
        assert_eq!(left.summary(), both.summary());
    }

    #[test]
    fn nothing_recorded_has_no_percentiles() {
        assert_eq!(Latencies::default().summary(), None);
    }

    #[test]
    fn a_latency_beyond_the_bound_counts_as_the_bound() {
        let mut latencies = Latencies::default();
        latencies.record(u64::MAX);
        let max_us = latencies.summary().unwrap().max_us;
        assert!((59.9e6..=60.1e6).contains(&max_us), "{max_us}");
    }

    #[test]
    fn spread_finds_the_ends_and_the_middle() {
        let spread = Spread::of(&[3.0, 1.0, 2.0, 9.0]).unwrap();
        assert_eq!(spread, Spread { slowest: 1.0, median: 2.0, fastest: 9.0 });
        assert_eq!(Spread::of(&[]), None);
    }
}
