//! Many runs of many systems, interleaved, and what a series of one system's runs says.
//!
//! The machine's speed changes by the minute. So every repetition runs every system once, and only then comes the
//! next repetition: A B C A B C, never A A B B C C.

use std::fmt::Write as _;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::{
    measure::{Figures, Plan, Workload},
    system::{AnySystem, Setup},
};

/// The runs of one system in one workload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series {
    /// The system.
    pub system: String,
    /// The workload.
    pub workload: Workload,
    /// The cap on a throughput workload, if there was one.
    pub rate: Option<u64>,
    /// One per repetition that succeeded.
    pub runs: Vec<Figures>,
    /// What went wrong in the others.
    pub errors: Vec<String>,
}

/// Median and ends of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The smallest.
    pub min: f64,
    /// The middle one; of two, their mean.
    pub median: f64,
    /// The largest.
    pub max: f64,
}

impl Summary {
    /// Of `values`; `None` when there are none.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self { min, median: f64::midpoint(low, high), max })
    }
}

impl Series {
    /// A figure over all runs.
    #[must_use]
    pub fn summary(&self, figure: impl Fn(&Figures) -> Option<f64>) -> Option<Summary> {
        Summary::of(self.runs.iter().filter_map(figure).collect())
    }

    /// Lost messages in per cent of those owed, all runs together.
    #[must_use]
    pub fn loss_percent(&self) -> Option<f64> {
        let owed: u64 = self.runs.iter().map(|run| run.owed).sum();
        let lost: u64 = self.runs.iter().map(|run| run.lost).sum();
        (owed > 0).then(|| lost as f64 * 100.0 / owed as f64)
    }
}

/// Runs every system once per repetition.
///
/// A run that fails is told on standard error and kept in [`Series::errors`]; the others go on.
pub fn interleave(systems: &[&dyn AnySystem], plans: &[Plan], repeat: usize, setup: &Setup) -> Vec<Series> {
    let mut all: Vec<(&dyn AnySystem, Plan, Series)> = Vec::new();
    for plan in plans {
        for system in systems.iter().filter(|system| system.takes_part(plan.workload)) {
            let Plan { workload, rate, .. } = *plan;
            let name = system.name().to_owned();
            let series = Series { system: name, workload, rate, runs: Vec::new(), errors: Vec::new() };
            all.push((*system, *plan, series));
        }
    }
    for plan in plans {
        for repetition in 1..=repeat {
            let same = |entry: &&mut (&dyn AnySystem, Plan, Series)| {
                entry.1.workload == plan.workload && entry.1.rate == plan.rate
            };
            for (system, plan, series) in all.iter_mut().filter(same) {
                let outcome = system.measure(plan, setup);
                tell(repetition, repeat, series, &outcome);
                match outcome {
                    Ok(figures) => series.runs.push(figures),
                    Err(error) => series.errors.push(format!("{error:#}")),
                }
            }
        }
    }
    all.into_iter().map(|(_, _, series)| series).collect()
}

#[allow(clippy::print_stderr, reason = "progress, beside the table on standard output")]
fn tell(repetition: usize, repeat: usize, series: &Series, outcome: &Result<Figures>) {
    let mut line = format!("{repetition}/{repeat} {} {}: ", series.workload.name(), series.system);
    let written = match outcome {
        Ok(figures) => match figures.headline(series.workload) {
            Some(value) => write!(line, "{value:.1} {}", series.workload.headline().0),
            None => write!(line, "no figure"),
        },
        Err(error) => write!(line, "FAILED: {error:#}"),
    };
    written.expect("a string takes everything");
    eprintln!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_two_is_their_mean_and_the_ends_are_kept() {
        assert_eq!(Summary::of(vec![3.0, 1.0]), Some(Summary { min: 1.0, median: 2.0, max: 3.0 }));
        assert_eq!(Summary::of(vec![9.0, 1.0, 2.0]), Some(Summary { min: 1.0, median: 2.0, max: 9.0 }));
        assert_eq!(Summary::of(Vec::new()), None);
    }

    #[test]
    fn losses_are_summed_over_runs() {
        let run = |owed, lost| Figures { owed, lost, ..Figures::default() };
        let series = Series {
            system: String::new(),
            workload: Workload::Throughput,
            rate: None,
            runs: vec![run(100, 0), run(300, 2)],
            errors: Vec::new(),
        };
        assert_eq!(series.loss_percent(), Some(0.5));
    }
}
