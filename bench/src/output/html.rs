//! The HTML report of `twinlane bench all`: one file that needs no other file, no script and no network.

use std::fmt::Write as _;

use super::{
    build,
    chart::{Bar, Bars, Line, Lines, Panel, page},
    figures::{
        ACCEPTED, CPU, FASTEST, Figure, IDLE_CPU, LOSS, MAX, MEDIAN, MEMORY, OPENED, P50, P99, P999,
        PER_CORE, RATE, Runs, SERVED, SLOWEST,
    },
    machine,
    plots::{Named, axis, latency_over_time, percentiles, rates},
    presets::{Outcome, Section},
    scale::{Scale, Unit},
};
use crate::report::Report;

/// A cost stays the same while it is within this share of what it was at one.
const SAME_WITHIN: f64 = 0.2;

const STYLE: &str = include_str!("report.css");

/// The report of `outcomes`; `raw` is every run as JSON.
pub(crate) fn report(outcomes: &[Outcome], raw: &str) -> String {
    let mut html = String::from("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    html += "<meta name=\"viewport\" content=\"width=device-width\">\n<title>twinlane benchmark</title>\n";
    html += &format!("<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n");
    html += &head(outcomes);
    html += &summary(outcomes);
    for section in Section::ALL {
        let of_section: Vec<&Outcome> =
            outcomes.iter().filter(|outcome| outcome.preset.section == section).collect();
        if !of_section.is_empty() {
            html += &chapter(section, &of_section, outcomes);
        }
    }
    html += "<section>\n<h2>Raw data</h2>\n<p>Every run as a JSON object on a line of its own, as \
             <code>twinlane bench compare</code> reads them.</p>\n<details><summary>Show</summary>\n<pre>";
    html += &escaped(raw);
    html += "</pre>\n</details>\n</section>\n</main>\n</body>\n</html>\n";
    html
}

fn head(outcomes: &[Outcome]) -> String {
    let mut html = String::from("<header>\n<h1>twinlane benchmark</h1>\n<dl>\n");
    let mut entry = |name: &str, value: &str| {
        let _ = writeln!(html, "<dt>{name}</dt><dd>{}</dd>", escaped(value));
    };
    let reports = || outcomes.iter().flat_map(|outcome| &outcome.reports);
    if let Some(first) = reports().next() {
        entry("build", &build(first));
        entry("machine", &machine(&first.machine));
    }
    let dates = || reports().map(|report| report.date.as_str());
    if let (Some(from), Some(to)) = (dates().min(), dates().max()) {
        entry("measured", &format!("{from} to {to}"));
    }
    let most = outcomes.iter().map(|outcome| outcome.reports.len() + outcome.failures.len()).max();
    let window = reports().next().map_or(0.0, |report| report.configuration.window.as_secs_f64());
    entry("runs", &format!("{} of each preset, windows of {window} s, interleaved", most.unwrap_or(0)));
    let failed = outcomes.iter().filter(|outcome| !outcome.failures.is_empty()).count();
    if failed > 0 {
        entry("failed", &format!("{failed} of {} presets", outcomes.len()));
    }
    html += "</dl>\n<p>Publishers, subscribers and server share this one machine, and CPU is that of all of them \
             together. Ratios within this report mean something; absolute figures move from hour to hour.</p>\n\
             </header>\n";
    html
}

/// Median and range of every figure that a preset has.
fn summary(outcomes: &[Outcome]) -> String {
    const COLUMNS: [&Figure; 7] = [&RATE, &CPU, &P50, &P99, &P999, &MAX, &LOSS];
    let mut html = String::from(
        "<section>\n<h2>Summary</h2>\n<p>Medians over the runs; below each, the smallest and the largest run. \
         The publisher of a latency run spins on the clock: the CPU time there is mostly its own.</p>\n\
         <div class=\"wide\"><table>\n<thead><tr><th></th>",
    );
    for figure in COLUMNS {
        let _ = write!(html, "<th>{}</th>", figure.name);
    }
    html += "</tr></thead>\n<tbody>\n";
    for section in Section::ALL.into_iter().filter(|section| *section != Section::Connections) {
        let mut of_section = outcomes.iter().filter(|outcome| outcome.preset.section == section).peekable();
        if of_section.peek().is_some() {
            let _ = writeln!(
                html,
                "<tr class=\"group\"><th colspan=\"{}\">{}</th></tr>",
                COLUMNS.len() + 1,
                section.title()
            );
        }
        of_section.for_each(|outcome| html += &rows(outcome, &COLUMNS));
    }
    html += "</tbody>\n</table></div>\n</section>\n";
    html
}

/// A row for each channel of a preset, and one for its failures.
fn rows(outcome: &Outcome, columns: &[&Figure]) -> String {
    let mut html = String::new();
    let results = outcome.reports.first().map(|report| report.results.as_slice()).unwrap_or_default();
    for (index, result) in results.iter().enumerate() {
        let channel = if results.len() > 1 { format!(", {}", result.name) } else { String::new() };
        let _ = write!(
            html,
            "<tr><th title=\"twinlane bench {}\">{}{}</th>",
            escaped(outcome.preset.line),
            escaped(outcome.preset.name),
            escaped(&channel)
        );
        for figure in columns {
            html += &cell(outcome.across(figure, index), figure);
        }
        html += "</tr>\n";
    }
    if let Some(first) = outcome.failures.first() {
        let runs = outcome.failures.len() + outcome.reports.len();
        let _ = writeln!(
            html,
            "<tr class=\"failed\"><th>{}</th><td colspan=\"{}\">{} of {runs} runs failed: {}</td></tr>",
            escaped(outcome.preset.name),
            columns.len(),
            outcome.failures.len(),
            escaped(first)
        );
    }
    html
}

fn cell(runs: Option<Runs>, figure: &Figure) -> String {
    let Some(runs) = runs else { return "<td class=\"none\">–</td>".to_owned() };
    let range = runs.range(figure).map(|range| format!("<small>{}</small>", escaped(&range)));
    format!("<td>{}{}</td>", escaped(&figure.text(runs.median)), range.unwrap_or_default())
}

fn chapter(section: Section, outcomes: &[&Outcome], all: &[Outcome]) -> String {
    let mut html = format!("<section>\n<h2>{}</h2>\n<p>{}</p>\n", section.title(), section.how_to_read());
    let panels = match section {
        Section::Throughput | Section::Fanout => {
            vec![
                bars(outcomes, &RATE, "Deliveries per second"),
                bars(outcomes, &CPU, "CPU time per delivery"),
            ]
        }
        Section::ReliableLatency | Section::FastLatency | Section::Roundtrip => {
            percentiles(&middles(outcomes, 0), "Distribution of the middle run").into_iter().collect()
        }
        Section::Mixed => mixed(outcomes, all),
        Section::Durable => vec![
            bars(outcomes, &RATE, "Acknowledgements per second"),
            bars(outcomes, &CPU, "CPU time per message"),
        ],
        Section::Replay => vec![
            bars(outcomes, &RATE, "Messages per second, read from the beginning"),
            bars(outcomes, &SERVED, "Until the first message"),
        ],
        Section::Connections => vec![
            bars(outcomes, &MEMORY, "Memory of the server per connection"),
            bars(outcomes, &ACCEPTED, "Connections accepted per second"),
        ],
        Section::Topics | Section::Subscribers => vec![growth(section, outcomes)],
    };
    html += &figure(section.title(), &panels);
    html += &match section {
        Section::Topics | Section::Subscribers => growth_table(outcomes),
        Section::Connections => table(outcomes, &[&ACCEPTED, &MEMORY, &IDLE_CPU]),
        Section::Durable => table(outcomes, &[&P50, &P99, &P999]),
        Section::Replay => table(outcomes, &[&OPENED, &SERVED]),
        Section::Fanout => table(outcomes, &[&SLOWEST, &MEDIAN, &FASTEST]),
        _ => String::new(),
    };
    html += &commands(outcomes);
    html + "</section>\n"
}

/// What to type to make a section's runs again.
fn commands(outcomes: &[&Outcome]) -> String {
    let lines: Vec<String> =
        outcomes.iter().map(|outcome| format!("twinlane bench {}", escaped(outcome.preset.line))).collect();
    format!("<details><summary>Commands</summary>\n<pre>{}</pre>\n</details>\n", lines.join("\n"))
}

fn figure(label: &str, panels: &[Panel]) -> String {
    if panels.is_empty() {
        return "<p class=\"none\">Nothing was measured.</p>\n".to_owned();
    }
    let svg = page("", "", panels);
    // Inside HTML a drawing needs no namespace, and without it the file names no other address at all.
    let svg = svg.replacen(" xmlns=\"http://www.w3.org/2000/svg\"", "", 1);
    let svg = svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{}\" ", escaped(label)), 1);
    format!("<figure>\n{svg}</figure>\n")
}

fn bars(outcomes: &[&Outcome], figure: &'static Figure, title: &str) -> Panel {
    let bar = |outcome: &&Outcome| {
        let runs = outcome.across(figure, 0);
        let color = if outcome.preset.name.starts_with("fast") { 2 } else { 0 };
        let (middle, least, most) =
            runs.map_or((f64::NAN, f64::NAN, f64::NAN), |runs| (runs.median, runs.least, runs.most));
        let missing = if outcome.failures.is_empty() { "not measured" } else { "failed" };
        let text = runs.map_or_else(|| missing.to_owned(), |runs| figure.text(runs.median));
        Bar { name: outcome.preset.name.to_owned(), color, middle, least, most, text }
    };
    Panel::Bars(Bars { title: title.to_owned(), unit: figure.unit, bars: outcomes.iter().map(bar).collect() })
}

/// The run in the middle of each preset, by the place of the result within its report.
fn middles<'a>(outcomes: &[&'a Outcome], result: usize) -> Vec<Named<'a>> {
    let named = |(color, outcome): (usize, &&'a Outcome)| {
        let report = outcome.middle()?;
        let name = outcome.preset.name.to_owned();
        let results = report.results.get(result)?;
        Some(Named { name, color, workload: report.configuration.workload, results })
    };
    outcomes.iter().enumerate().filter_map(named).collect()
}

fn mixed(outcomes: &[&Outcome], all: &[Outcome]) -> Vec<Panel> {
    let Some(report) = outcomes.iter().find_map(|outcome| outcome.middle()) else { return Vec::new() };
    let named: Vec<Named> = Named::each(report).collect();
    let mut distributions: Vec<Named> = Named::each(report)
        .filter(|one| one.results.latency.is_some())
        .map(|one| Named { name: format!("{}, beside the other channel", one.name), ..one })
        .collect();
    let alone = |report: &&Report| report.configuration.rate == report_rate(outcomes);
    let alone = all
        .iter()
        .filter(|outcome| outcome.preset.section == Section::FastLatency)
        .filter_map(Outcome::middle)
        .find(alone);
    if let Some(alone) = alone {
        distributions.extend(Named::each(alone).map(|one| Named {
            name: "fast, alone".to_owned(),
            color: 0,
            ..one
        }));
    }
    let mut panels: Vec<Panel> = percentiles(&distributions, "Latency by percentile").into_iter().collect();
    panels.push(rates(&named, "Rate over time"));
    panels.extend(latency_over_time(&named));
    panels
}

fn report_rate(outcomes: &[&Outcome]) -> Option<u64> {
    outcomes.iter().find_map(|outcome| outcome.middle())?.configuration.rate
}

/// A step of growth: how many, of which kind, and what it costs.
struct Step<'a> {
    count: f64,
    kind: &'static str,
    outcome: &'a Outcome,
    /// Cost by the cost at one of the same kind.
    relative: Option<f64>,
}

fn steps<'a>(outcomes: &[&'a Outcome]) -> Vec<Step<'a>> {
    let cost = |outcome: &Outcome| outcome.across(&CPU, 0).map(|runs| runs.median);
    let at_one = |kind: &str| {
        let is_one = |outcome: &&&Outcome| outcome.preset.step().is_some_and(|step| step == (1.0, kind));
        outcomes.iter().find(is_one).and_then(|outcome| cost(outcome))
    };
    let step = |outcome: &&'a Outcome| {
        let (count, kind) = outcome.preset.step()?;
        let relative = cost(outcome).zip(at_one(kind)).map(|(cost, one)| cost / one);
        Some(Step { count, kind, outcome, relative })
    };
    outcomes.iter().filter_map(step).collect()
}

fn growth(section: Section, outcomes: &[&Outcome]) -> Panel {
    let steps = steps(outcomes);
    let mut lines: Vec<Line> = Vec::new();
    for step in &steps {
        if !lines.iter().any(|line| line.name == step.kind) {
            let of_kind = steps.iter().filter(|other| other.kind == step.kind);
            let points = of_kind.filter_map(|step| Some((step.count, step.relative?))).collect();
            lines.push(Line { name: step.kind.to_owned(), color: 2 * lines.len(), points });
        }
    }
    let what = if section == Section::Topics { "topics" } else { "subscribers" };
    Panel::Lines(Lines {
        title: format!("CPU time per delivery, by the number of {what}"),
        x: axis(what, Scale::Log, Unit::Count),
        y: axis("relative to one", Scale::Linear, Unit::Times),
        band: Some((1.0 - SAME_WITHIN, 1.0 + SAME_WITHIN, "within 20 % of one".to_owned())),
        lines,
        height_px: 340,
    })
}

fn growth_table(outcomes: &[&Outcome]) -> String {
    let mut html = String::from("<div class=\"wide\"><table>\n<thead><tr><th></th>");
    for figure in [&RATE, &PER_CORE, &CPU] {
        let _ = write!(html, "<th>{}</th>", figure.name);
    }
    html += "<th>relative to one</th><th></th></tr></thead>\n<tbody>\n";
    for Step { outcome, relative, .. } in steps(outcomes) {
        let verdict = relative.map(|relative| match relative {
            _ if relative > 1.0 + SAME_WITHIN => "costs more",
            _ if relative < 1.0 - SAME_WITHIN => "costs less",
            _ => "same",
        });
        let _ = write!(html, "<tr><th>{}</th>", escaped(outcome.preset.name));
        for figure in [&RATE, &PER_CORE, &CPU] {
            html += &cell(outcome.across(figure, 0), figure);
        }
        let relative = relative.map_or_else(|| "–".to_owned(), |relative| Unit::Times.text(relative));
        let silent = if outcome.reports.is_empty() { "failed" } else { "nothing arrived in the window" };
        let _ = writeln!(html, "<td>{relative}</td><td>{}</td></tr>", verdict.unwrap_or(silent));
    }
    html + "</tbody>\n</table></div>\n"
}

/// A row for each preset, a column for each figure.
fn table(outcomes: &[&Outcome], columns: &[&Figure]) -> String {
    let mut html = String::from("<div class=\"wide\"><table>\n<thead><tr><th></th>");
    for figure in columns {
        let _ = write!(html, "<th>{}</th>", figure.name);
    }
    html += "</tr></thead>\n<tbody>\n";
    outcomes.iter().for_each(|outcome| html += &rows(outcome, columns));
    html + "</tbody>\n</table></div>\n"
}

/// `text` so that it stays text inside HTML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{presets::PRESETS, samples};

    fn outcomes() -> Vec<Outcome> {
        let made = PRESETS.iter().enumerate().map(|(n, preset)| {
            let factor = 1.0 + n as f64 / 10.0;
            let reports = match preset.section {
                Section::Throughput | Section::Fanout | Section::Topics | Section::Subscribers => {
                    [1e6, 1.1e6, 0.9e6].map(|rate| samples::throughput(rate * factor)).to_vec()
                }
                Section::Connections => vec![samples::connections()],
                _ => [1.0, 1.1, 1.2].map(|spread| samples::latency(spread * factor)).to_vec(),
            };
            Outcome { preset: *preset, reports, failures: Vec::new() }
        });
        made.collect()
    }

    #[test]
    fn the_report_names_no_other_file_or_address() {
        let html = report(&outcomes(), "{\"version\":\"<0>\"}\n");
        for reference in ["http:", "https:", "src=", "url(", "@import", "<script", "<link", "href="] {
            assert!(!html.contains(reference), "{reference}");
        }
        assert!(html.contains("{&quot;version&quot;:&quot;&lt;0&gt;&quot;}"));
        assert!(html.ends_with("</html>\n"));
    }

    #[test]
    fn the_report_has_every_section_with_a_plot_and_the_machine_on_top() {
        let html = report(&outcomes(), "");
        for section in Section::ALL {
            assert!(html.contains(&format!("<h2>{}</h2>", section.title())), "{section:?}");
        }
        assert_eq!(html.matches("<svg").count(), Section::ALL.len());
        for part in
            ["0123456789ab", "An &quot;ideal&quot; CPU, &lt;fast&gt;", "within 20 % of one", "3 of each"]
        {
            assert!(html.contains(part), "{part}");
        }
        assert!(!html.contains("NaN"));
    }

    #[test]
    fn a_failed_preset_shows_its_error_and_leaves_the_others() {
        let mut outcomes = outcomes();
        outcomes[0].reports.clear();
        outcomes[0].failures = vec!["lost <7> messages".into(); 3];
        let html = report(&outcomes, "");
        assert!(html.contains("3 of 3 runs failed: lost &lt;7&gt; messages"));
        assert!(html.contains(&format!("1 of {} presets", PRESETS.len())));
        assert!(!html.contains("NaN"));
    }

    #[test]
    fn a_report_of_nothing_but_failures_is_still_a_report() {
        let mut outcomes = outcomes();
        for outcome in &mut outcomes {
            outcome.reports.clear();
            outcome.failures = vec!["no".into()];
        }
        let html = report(&outcomes, "");
        assert!(html.contains(&format!("{0} of {0} presets", PRESETS.len())) && !html.contains("NaN"));
    }

    #[test]
    fn cost_is_relative_to_one_of_the_same_kind() {
        let outcomes = outcomes();
        let topics: Vec<&Outcome> =
            outcomes.iter().filter(|outcome| outcome.preset.section == Section::Topics).collect();
        let steps = steps(&topics);
        let relative = |count: f64, kind: &str| {
            steps.iter().find(|step| step.count == count && step.kind == kind).unwrap().relative.unwrap()
        };
        assert_eq!(relative(1.0, "reliable"), 1.0);
        assert_eq!(relative(1.0, "fast"), 1.0);
        assert!(relative(1_000.0, "reliable") < 1.0);
    }
}
