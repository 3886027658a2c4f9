//! `twinlane bench compare`: two files of reports side by side, with what their spread allows to say.
//!
//! Runs of equal configuration are one group. A figure whose values overlap between the files shows no difference,
//! however far its medians are apart; how likely a difference is to be chance is not estimated.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use clap::Args;
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::Value;

use super::{
    chart::{Panel, page},
    figures::{FIGURES, Figure, Ratio, Runs},
    is_stdout, machine,
    plots::{Named, percentiles, rates},
    print, read,
    scale::Unit,
    write_file,
};
use crate::{
    plan::Plan,
    report::{Report, Results},
};

/// Compare the reports of two files
#[derive(Args, Clone, Debug)]
pub struct CompareArgs {
    /// Reports to compare with, as printed by --json: one JSON object per line, or an array
    #[arg(value_name = "A.json")]
    pub a: PathBuf,
    /// Reports to compare, in the same form
    #[arg(value_name = "B.json")]
    pub b: PathBuf,
    /// Draw both into this SVG file; - is standard output, in place of the table
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub json: bool,
}

/// Prints the comparison on standard output.
///
/// # Errors
///
/// A file that cannot be read or holds something else than reports, with its name and line.
pub fn run(args: &CompareArgs) -> anyhow::Result<()> {
    let (a, b) = (read::reports(&args.a)?, read::reports(&args.b)?);
    let comparison = Comparison::of(&a, &b);
    if let Some(path) = &args.svg {
        write_file(path, &comparison.svg(&args.a, &args.b))?;
        if is_stdout(path) && !args.json {
            return Ok(());
        }
    }
    if args.json { print(&serde_json::to_string(&comparison)?) } else { print(&comparison.text(args)) }
}

/// What two files say about each other.
#[derive(Debug, Serialize)]
struct Comparison<'a> {
    /// What makes the figures less comparable than they look.
    warnings: Vec<String>,
    pairs: Vec<Pair<'a>>,
    /// Headlines of runs that the other file has no counterpart of.
    only_in_a: Vec<String>,
    only_in_b: Vec<String>,
}

/// One configuration, measured in both files.
#[derive(Debug, Serialize)]
struct Pair<'a> {
    configuration: String,
    channel: &'a str,
    /// Parts of the configuration that are not equal.
    differs: Vec<String>,
    figures: Vec<Compared>,
    #[serde(skip)]
    runs: [Group<'a>; 2],
}

/// One figure of both.
#[derive(Debug, Serialize)]
struct Compared {
    name: &'static str,
    a: Runs,
    b: Runs,
    /// B by A.
    ratio: Option<Ratio>,
    verdict: Verdict,
    #[serde(skip)]
    figure: &'static Figure,
}

/// What the spread allows to say.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// Some runs of B are as good as some of A, and the other way round.
    NoDifference,
    /// Every run of B is better than every run of A.
    Better,
    /// Every run of B is worse than every run of A.
    Worse,
    /// One run has no spread.
    SpreadUnknown,
}

/// The runs of one configuration in one file.
#[derive(Clone, Debug)]
struct Group<'a> {
    plan: &'a Plan,
    reports: Vec<&'a Report>,
}

impl<'a> Comparison<'a> {
    fn of(a: &'a [Report], b: &'a [Report]) -> Self {
        let (mut left, mut right) = (groups(a), groups(b));
        let mut matched = take_pairs(&mut left, &mut right, |a, b, _| a.plan == b.plan);
        // What is left over may be one run under two configurations, such as two transports: still worth a look.
        matched.extend(take_pairs(&mut left, &mut right, |a, b, only_ones| {
            only_ones && a.plan.workload == b.plan.workload
        }));
        Self {
            warnings: warnings(a, b),
            pairs: matched.into_iter().flat_map(|(a, b)| pairs(&a, &b)).collect(),
            only_in_a: left.iter().map(|group| group.plan.headline()).collect(),
            only_in_b: right.iter().map(|group| group.plan.headline()).collect(),
        }
    }

    fn text(&self, args: &CompareArgs) -> String {
        let mut text = format!("A: {}\nB: {}\n", args.a.display(), args.b.display());
        for warning in &self.warnings {
            text += &format!("warning: {warning}\n");
        }
        for pair in &self.pairs {
            text += &format!("\n{}\n", pair.title());
            for difference in &pair.differs {
                text += &format!("warning: configurations differ: {difference}\n");
            }
            text += &format!("{}\n", pair.table());
        }
        for (file, headlines) in [(&args.a, &self.only_in_a), (&args.b, &self.only_in_b)] {
            for headline in headlines {
                text += &format!("\nonly in {}: {headline}", file.display());
            }
        }
        if self.pairs.is_empty() {
            text += "\nnothing to compare: no configuration is in both files\n";
        }
        text.trim_end().to_owned()
    }

    fn svg(&self, a: &Path, b: &Path) -> String {
        let (a, b) = (a.display().to_string(), b.display().to_string());
        let panels = self.pairs.iter().flat_map(|pair| pair.panels([&a, &b]));
        let place = |side: usize| {
            let report = self.pairs.first().and_then(|pair| pair.runs[side].reports.first().copied());
            report.map(super::place).unwrap_or_default()
        };
        page(
            &format!("{a} and {b}"),
            &format!("A: {}\nB: {}", place(0), place(1)),
            &panels.collect::<Vec<Panel>>(),
        )
    }
}

impl Pair<'_> {
    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let runs = |group: &Group| format!("{} run(s)", group.reports.len());
        let [a, b] = [&self.runs[0], &self.runs[1]].map(runs);
        table.set_header(["", &format!("A, {a}"), &format!("B, {b}"), "B / A", ""]);
        for compared in &self.figures {
            let Compared { name, a, b, figure, .. } = compared;
            let cells = [a.text(figure), b.text(figure), compared.ratio_text()];
            let cells = cells.map(|text| Cell::new(text).set_alignment(CellAlignment::Right));
            let verdict = Cell::new(compared.verdict.text());
            table.add_row(std::iter::once(Cell::new(name)).chain(cells).chain([verdict]));
        }
        table
    }

    fn panels(&self, files: [&str; 2]) -> Vec<Panel> {
        let mut named = Vec::new();
        for (side, file) in files.into_iter().enumerate() {
            for results in results_of(&self.runs[side], self.channel) {
                let name = format!("{}: {file}", ["A", "B"][side]);
                named.push(Named { name, color: side, workload: self.runs[side].plan.workload, results });
            }
        }
        let heading = std::iter::once(Panel::Heading(self.title()));
        heading
            .chain(percentiles(&named, "Latency by percentile"))
            .chain([rates(&named, "Rate over time")])
            .collect()
    }

    /// The configuration, and the channel where the configuration has several.
    fn title(&self) -> String {
        let several = self.runs[0].reports.iter().any(|report| report.results.len() > 1);
        let channel = if several { format!(", {} channel", self.channel) } else { String::new() };
        format!("{}{channel}", self.configuration)
    }
}

impl Compared {
    fn of(figure: &'static Figure, a: Runs, b: Runs) -> Self {
        let verdict = if a.overlaps(&b) {
            Verdict::NoDifference
        } else if a.runs < 2 || b.runs < 2 {
            Verdict::SpreadUnknown
        } else if (b.median > a.median) == figure.higher_is_better {
            Verdict::Better
        } else {
            Verdict::Worse
        };
        Self { name: figure.name, a, b, ratio: Ratio::of(&a, &b), verdict, figure }
    }

    fn ratio_text(&self) -> String {
        let Some(Ratio { median, least, most }) = self.ratio else { return "–".to_owned() };
        let text = |ratio| Unit::Count.text(ratio);
        if self.a.runs.max(self.b.runs) < 2 {
            return text(median);
        }
        format!("{} ({} … {})", text(median), text(least), text(most))
    }
}

impl Verdict {
    fn text(self) -> &'static str {
        match self {
            Self::NoDifference => "no difference shown",
            Self::Better => "better",
            Self::Worse => "worse",
            Self::SpreadUnknown => "spread unknown: use --repeat",
        }
    }
}

/// The runs of each configuration, in the order they first appear.
fn groups(reports: &[Report]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group> = Vec::new();
    for report in reports {
        let plan = &report.configuration;
        match groups.iter_mut().find(|group| group.plan == plan) {
            Some(group) => group.reports.push(report),
            None => groups.push(Group { plan, reports: vec![report] }),
        }
    }
    groups
}

/// Takes what belongs together out of both; `belong` also hears whether these are the only ones of their workload.
fn take_pairs<'a>(
    left: &mut Vec<Group<'a>>,
    right: &mut Vec<Group<'a>>,
    belong: impl Fn(&Group, &Group, bool) -> bool,
) -> Vec<(Group<'a>, Group<'a>)> {
    let (lefts, rights) = (left.clone(), right.clone());
    let of_workload = |groups: &[Group], plan: &Plan| {
        groups.iter().filter(|group| group.plan.workload == plan.workload).count()
    };
    let mut pairs = Vec::new();
    for a in &lefts {
        let only_ones = of_workload(&lefts, a.plan) == 1 && of_workload(&rights, a.plan) == 1;
        if let Some(at) = right.iter().position(|b| belong(a, b, only_ones)) {
            pairs.push((a.clone(), right.remove(at)));
            left.retain(|group| group.plan != a.plan);
        }
    }
    pairs
}

/// One pair for each channel that both groups have results of; alone, a channel's name need not match.
fn pairs<'a>(a: &Group<'a>, b: &Group<'a>) -> Vec<Pair<'a>> {
    let channels: Vec<&str> = a.reports[0].results.iter().map(|results| results.name.as_str()).collect();
    let pair = |channel: &'a str| {
        let figure = |figure: &'static Figure| {
            let [a, b] = [a, b].map(|group| figure.across(results_of(group, channel)));
            Some(Compared::of(figure, a?, b?))
        };
        Pair {
            configuration: a.plan.headline(),
            channel,
            differs: differences(a.plan, b.plan),
            figures: FIGURES.into_iter().filter_map(figure).collect(),
            runs: [a.clone(), b.clone()],
        }
    };
    channels.into_iter().map(pair).collect()
}

fn results_of<'a>(group: &Group<'a>, channel: &str) -> impl Iterator<Item = &'a Results> {
    group.reports.clone().into_iter().filter_map(move |report| match report.results.as_slice() {
        [only] => Some(only),
        several => several.iter().find(|results| results.name == channel),
    })
}

/// Fields of the configuration that are not equal: `payload_bytes 64 in A, 256 in B`.
fn differences(a: &Plan, b: &Plan) -> Vec<String> {
    let fields = |plan| match serde_json::to_value(plan) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (a, b) = (fields(a), fields(b));
    let pairs = a.iter().map(|(name, value)| (name, value, b.get(name).unwrap_or(&Value::Null)));
    pairs.filter(|(_, a, b)| a != b).map(|(name, a, b)| format!("{name} {a} in A, {b} in B")).collect()
}

fn warnings(a: &[Report], b: &[Report]) -> Vec<String> {
    type Of = fn(&Report) -> String;
    let kinds: [(&str, Of); 3] = [
        ("machines differ", |report| machine(&report.machine)),
        ("commits differ", |report| report.commit.clone().unwrap_or_else(|| "unknown".to_owned())),
        ("versions differ", |report| report.version.clone()),
    ];
    let distinct = |reports: &[Report], of: Of| {
        reports.iter().map(of).collect::<BTreeSet<String>>().into_iter().collect::<Vec<_>>().join(" and ")
    };
    let warn = |(what, of): (&str, Of)| {
        let (a, b) = (distinct(a, of), distinct(b, of));
        (a != b || a.contains(" and ")).then(|| format!("{what}: {a} in A, {b} in B"))
    };
    kinds.into_iter().filter_map(warn).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{output::samples, plan::TransportKind};

    fn latencies(factors: &[f64]) -> Vec<Report> {
        factors.iter().map(|factor| samples::latency(*factor)).collect()
    }

    fn verdict(comparison: &Comparison, name: &str) -> Verdict {
        comparison.pairs[0].figures.iter().find(|compared| compared.name == name).unwrap().verdict
    }

    #[test]
    fn runs_of_equal_configuration_are_one_group_whatever_their_date() {
        let mut reports = latencies(&[1.0, 1.1]);
        reports[1].date = "2027-01-01T00:00:00Z".into();
        reports.push(samples::throughput(1e6));
        let groups = groups(&reports);
        assert_eq!(groups.iter().map(|group| group.reports.len()).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn figures_that_overlap_show_no_difference() {
        let (a, b) = (latencies(&[1.0, 1.2, 1.1]), latencies(&[1.15, 1.3, 1.4]));
        let comparison = Comparison::of(&a, &b);
        assert_eq!(verdict(&comparison, "p99"), Verdict::NoDifference);
        assert_eq!(verdict(&comparison, "rate"), Verdict::NoDifference);
    }

    #[test]
    fn figures_apart_are_better_or_worse_by_what_they_mean() {
        let (a, b) = (latencies(&[1.0, 1.1]), latencies(&[2.0, 2.1]));
        assert_eq!(verdict(&Comparison::of(&a, &b), "p99"), Verdict::Worse);
        assert_eq!(verdict(&Comparison::of(&b, &a), "p99"), Verdict::Better);
        let [a, b] = [[1e6, 1.1e6], [2e6, 2.1e6]].map(|rates| rates.map(samples::throughput));
        assert_eq!(verdict(&Comparison::of(&a, &b), "rate"), Verdict::Better);
        assert_eq!(verdict(&Comparison::of(&a, &b), "CPU per delivery"), Verdict::Better);
    }

    #[test]
    fn one_run_has_no_spread_to_judge_by() {
        let (a, b) = (latencies(&[1.0]), latencies(&[2.0]));
        assert_eq!(verdict(&Comparison::of(&a, &b), "p99"), Verdict::SpreadUnknown);
    }

    #[test]
    fn other_machines_commits_and_configurations_are_warned_of() {
        let a = latencies(&[1.0]);
        let mut b = a.clone();
        b[0].machine.cores = 64;
        b[0].commit = None;
        b[0].configuration.transport = TransportKind::Quic;
        let comparison = Comparison::of(&a, &b);
        assert_eq!(comparison.warnings.len(), 2, "{:?}", comparison.warnings);
        assert!(comparison.warnings[0].contains("64 cores"), "{:?}", comparison.warnings);
        assert_eq!(comparison.pairs[0].differs, ["transport \"tcp\" in A, \"quic\" in B"]);
    }

    #[test]
    fn runs_without_a_counterpart_are_named_and_not_compared() {
        let (a, b) = (latencies(&[1.0]), vec![samples::throughput(1e6)]);
        let comparison = Comparison::of(&a, &b);
        assert!(comparison.pairs.is_empty());
        assert!(comparison.only_in_a[0].starts_with("latency"), "{comparison:?}");
        assert!(comparison.only_in_b[0].starts_with("throughput"), "{comparison:?}");
    }

    #[test]
    fn the_table_shows_medians_ranges_and_what_they_allow_to_say() {
        let args = CompareArgs { a: "a.json".into(), b: "b.json".into(), svg: None, json: false };
        let (a, b) = (latencies(&[1.0, 1.5, 1.25]), latencies(&[2.0, 3.0, 2.5]));
        let text = Comparison::of(&a, &b).text(&args);
        for part in ["60 – 90 µs", "75 µs", "2 (1.33 … 3)", "worse", "no difference shown", "3 run(s)"]
        {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn the_plot_shows_both_files_with_each_name_once() {
        let (a, b) = (latencies(&[1.0, 1.5]), latencies(&[2.0]));
        let svg = Comparison::of(&a, &b).svg(Path::new("old.json"), Path::new("new.json"));
        assert!(svg.contains("A: old.json") && svg.contains("B: new.json"), "{svg}");
        assert!(!svg.contains("NaN"));
    }
}
