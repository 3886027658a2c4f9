//! What the runs found, who is how many times better, and the bars.

use std::collections::BTreeMap;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::contender::Contender;
use crate::{series::Summary, table::grouped};

/// One number of one run.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    /// What it is, with its unit.
    pub(super) what: String,
    pub(super) value: f64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    /// More is better.
    Rate,
    /// Less is better.
    Cost,
    /// Nobody is judged by it.
    Remark,
}

impl Figure {
    pub(super) fn rate(what: String, value: f64) -> Self {
        Self { what, value, kind: Kind::Rate }
    }

    pub(super) fn cost(what: String, value: f64) -> Self {
        Self { what, value, kind: Kind::Cost }
    }

    pub(super) fn remark(what: String, value: f64) -> Self {
        Self { what, value, kind: Kind::Remark }
    }
}

/// The same figure of all systems and runs.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Line {
    what: String,
    kind: Kind,
    /// One value for each repetition that succeeded.
    values: BTreeMap<String, Vec<f64>>,
    /// Against each rival: the median of the ratios of neighbouring runs, ours to its.
    ratios: BTreeMap<String, f64>,
    verdicts: Vec<Verdict>,
}

/// A bar and whether it is met.
#[derive(Clone, Debug, Serialize)]
struct Verdict {
    bar: String,
    met: bool,
}

/// Everything measured.
#[derive(Debug, Default)]
pub(super) struct Sheet {
    pub(super) lines: Vec<Line>,
    pub(super) failures: Vec<String>,
}

/// A bar: lines whose name has all of these words, the rival (`None`: the figure itself), and the limit.
type Bar = (&'static [&'static str], Option<Contender>, f64);

/// Whom we are compared with, and the head of the column.
const RIVALS: &[(Contender, &str)] =
    &[(Contender::Socketioxide, "socketioxide"), (Contender::SocketIo, "socket-io"), (Contender::Raw, "raw")];

const BARS: &[Bar] = &[
    (&["fan-out", "deliveries/s"], Some(Contender::Socketioxide), 5.0),
    (&["fan-out", "deliveries/s"], Some(Contender::SocketIo), 20.0),
    (&["round trip", "p50"], Some(Contender::Socketioxide), 1.0),
    (&["round trip", "p50"], Some(Contender::SocketIo), 1.0),
    (&["bytes per idle client"], None, 20_480.0),
];

impl Sheet {
    /// Adds a run.
    pub(super) fn enter(&mut self, system: Contender, outcome: Result<Vec<Figure>>) {
        let figures = match outcome {
            Ok(figures) => figures,
            Err(error) => return self.failures.push(format!("{error:#}")),
        };
        for Figure { what, value, kind } in figures {
            let at = self.lines.iter().position(|line| line.what == what).unwrap_or_else(|| {
                self.lines.push(Line {
                    what,
                    kind,
                    values: BTreeMap::new(),
                    ratios: BTreeMap::new(),
                    verdicts: Vec::new(),
                });
                self.lines.len() - 1
            });
            self.lines[at].values.entry(system.to_string()).or_default().push(value);
            self.lines[at].judge();
        }
    }

    /// Bars that are not met.
    pub(super) fn missed(&self) -> usize {
        self.lines.iter().flat_map(|line| &line.verdicts).filter(|verdict| !verdict.met).count()
    }

    pub(super) fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let mut header = vec!["what", "twinlane"];
        RIVALS.iter().for_each(|(_, name)| header.extend([*name, "ratio"]));
        header.push("bars");
        let figures = header.len() - 2;
        table.set_header(header);
        for line in &self.lines {
            let median = |system: Contender| line.median(system).map_or_else(dash, grouped);
            let ratio = |system: Contender| {
                line.ratios.get(&system.to_string()).map_or_else(dash, |ratio| format!("{ratio:.2}"))
            };
            let bar =
                |verdict: &Verdict| format!("{} {}", verdict.bar, if verdict.met { "pass" } else { "FAIL" });
            let mut row = vec![line.what.clone(), median(Contender::Twinlane)];
            RIVALS.iter().for_each(|(rival, _)| row.extend([median(*rival), ratio(*rival)]));
            row.push(line.verdicts.iter().map(bar).collect::<Vec<_>>().join(" · "));
            table.add_row(row);
        }
        for column in table.column_iter_mut().skip(1).take(figures) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

impl Line {
    fn of(&self, system: Contender) -> &[f64] {
        self.values.get(&system.to_string()).map_or(&[], Vec::as_slice)
    }

    fn median(&self, system: Contender) -> Option<f64> {
        Summary::of(self.of(system).to_vec()).map(|summary| summary.median)
    }

    /// Sets ratios and verdicts anew.
    fn judge(&mut self) {
        self.ratios.clear();
        for (rival, _) in RIVALS {
            let pairs = self.of(Contender::Twinlane).iter().zip(self.of(*rival));
            if let Some(ratio) = Summary::of(pairs.map(|(ours, its)| ours / its).collect()) {
                self.ratios.insert(rival.to_string(), ratio.median);
            }
        }
        let applies = |words: &[&str]| words.iter().all(|word| self.what.contains(word));
        let verdict = |(words, rival, limit): &Bar| {
            let (value, against) = match rival {
                Some(rival) => (self.ratios.get(&rival.to_string()).copied(), format!(" × {rival}")),
                None => (self.median(Contender::Twinlane), String::new()),
            };
            let value = value.filter(|_| applies(words))?;
            let (sign, met) = match self.kind {
                Kind::Rate => ("≥", *limit <= value),
                Kind::Cost | Kind::Remark => ("≤", value <= *limit),
            };
            Some(Verdict { bar: format!("{sign} {limit}{against}"), met })
        };
        self.verdicts = BARS.iter().filter_map(verdict).collect();
    }
}

fn dash() -> String {
    "–".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet(ours: &[f64], its: &[f64], figure: fn(String, f64) -> Figure, what: &str) -> Sheet {
        let mut sheet = Sheet::default();
        for (system, values) in [(Contender::Twinlane, ours), (Contender::Socketioxide, its)] {
            for value in values {
                sheet.enter(system, Ok(vec![figure(what.to_owned(), *value)]));
            }
        }
        sheet
    }

    #[test]
    fn a_ratio_is_the_median_of_the_ratios_of_neighbouring_runs() {
        let sheet = sheet(&[10.0, 40.0, 9.0], &[1.0, 10.0, 3.0], Figure::rate, "fan-out, deliveries/s");
        assert_eq!(sheet.lines[0].ratios["socketioxide"], 4.0);
        assert_eq!(sheet.missed(), 1, "five times are asked for");
    }

    #[test]
    fn a_round_trip_as_long_as_the_rival_s_is_no_failure() {
        assert_eq!(sheet(&[20.0], &[20.0], Figure::cost, "round trip, p50 µs").missed(), 0);
        assert_eq!(sheet(&[20.1], &[20.0], Figure::cost, "round trip, p50 µs").missed(), 1);
    }

    #[test]
    fn memory_is_judged_without_a_rival() {
        assert_eq!(sheet(&[20_481.0], &[], Figure::cost, "bytes per idle client").missed(), 1);
        assert_eq!(sheet(&[9_000.0], &[], Figure::cost, "bytes per idle client").missed(), 0);
    }

    #[test]
    fn a_failed_run_is_kept_in_words() {
        let mut sheet = Sheet::default();
        sheet.enter(Contender::SocketIo, Err(anyhow::anyhow!("gone")));
        assert_eq!(sheet.failures, ["gone"]);
    }
}
