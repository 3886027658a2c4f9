//! Reports as plots: how late how many messages were, and what happened when.

use super::{
    chart::{Axis, Line, Lines, Panel, page},
    place,
    scale::{Scale, Unit},
};
use crate::{
    plan::Workload,
    report::{Interval, LatencySummary, Report, Results},
};

/// One SVG image of `reports`, which are runs of one configuration: the distribution of latency, and rate and
/// latency over time. Curves of several runs lie over each other.
#[must_use]
pub fn of_runs(reports: &[Report]) -> String {
    let Some(first) = reports.first() else { return page("no runs", "", &[]) };
    let named: Vec<Named> = reports.iter().flat_map(Named::each).collect();
    let mut panels: Vec<Panel> = percentiles(&named, "Latency by percentile").into_iter().collect();
    panels.push(rates(&named, "Rate over time"));
    panels.extend(latency_over_time(&named));
    let runs = if reports.len() > 1 { format!(", {} runs", reports.len()) } else { String::new() };
    page(&format!("{}{runs}", first.configuration.headline()), &place(first), &panels)
}

/// One result under the name and colour it has in a legend.
pub(crate) struct Named<'a> {
    pub(crate) name: String,
    pub(crate) color: usize,
    pub(crate) workload: Workload,
    pub(crate) results: &'a Results,
}

impl<'a> Named<'a> {
    /// The results of one report, each under its channel's name.
    pub(crate) fn each(report: &'a Report) -> impl Iterator<Item = Self> {
        let workload = report.configuration.workload;
        report.results.iter().enumerate().map(move |(index, results)| Self {
            name: results.name.clone(),
            color: 2 * index,
            workload,
            results,
        })
    }
}

/// Latency by percentile, if any of the results has latencies.
pub(crate) fn percentiles(named: &[Named], title: &str) -> Option<Panel> {
    let lines: Vec<Line> = named
        .iter()
        .filter_map(|one| {
            let points = distribution(one.results.latency.as_ref()?);
            Some(Line { name: one.name.clone(), color: one.color, points })
        })
        .collect();
    (!lines.is_empty()).then(|| {
        Panel::Lines(Lines {
            title: title.to_owned(),
            x: axis("share of messages that took at most this long", Scale::Percent, Unit::Percent),
            y: axis(latency_axis(named), Scale::Log, Unit::Micros),
            band: None,
            lines,
            height_px: 390,
        })
    })
}

/// Deliveries per second over time.
pub(crate) fn rates(named: &[Named], title: &str) -> Panel {
    let lines = named.iter().map(|one| Line {
        name: one.name.clone(),
        color: one.color,
        points: course(one.results, |interval| Some(interval.deliveries_per_second)),
    });
    Panel::Lines(Lines {
        title: title.to_owned(),
        x: axis("time in the window", Scale::Linear, Unit::Seconds),
        y: axis("deliveries per second", Scale::Linear, Unit::Count),
        band: None,
        lines: lines.collect(),
        height_px: 260,
    })
}

/// p50, p99 and the maximum of each interval, if any of the results has latencies.
pub(crate) fn latency_over_time(named: &[Named]) -> Option<Panel> {
    type Curve = (&'static str, usize, fn(&Interval) -> Option<f64>);
    const CURVES: [Curve; 3] = [
        ("p50", 0, |interval| interval.p50_us),
        ("p99", 1, |interval| interval.p99_us),
        ("max", 6, |interval| interval.max_us),
    ];
    let timed: Vec<&Named> = named.iter().filter(|one| one.results.latency.is_some()).collect();
    let channel = timed.first().map(|one| &one.name)?;
    let title = match timed.iter().all(|one| &one.name == channel) && named.len() > timed.len() {
        true => format!("Latency over time, {channel} channel"),
        false => "Latency over time".to_owned(),
    };
    let lines = CURVES.iter().flat_map(|&(name, color, figure)| {
        timed.iter().map(move |one| Line {
            name: name.to_owned(),
            color,
            points: course(one.results, figure),
        })
    });
    Some(Panel::Lines(Lines {
        title,
        x: axis("time in the window", Scale::Linear, Unit::Seconds),
        y: axis(latency_axis(named), Scale::Log, Unit::Micros),
        band: None,
        lines: lines.collect(),
        height_px: 320,
    }))
}

pub(crate) fn axis(name: &str, scale: Scale, unit: Unit) -> Axis {
    Axis { name: name.to_owned(), scale, unit }
}

fn latency_axis(named: &[Named]) -> &'static str {
    match named.first().map(|one| one.workload) {
        Some(Workload::Roundtrip) => "round trip",
        Some(Workload::Durable) => "until acknowledged",
        _ => "latency from due",
    }
}

fn course(results: &Results, figure: impl Fn(&Interval) -> Option<f64>) -> Vec<(f64, f64)> {
    let point = |interval: &Interval| Some((interval.at_seconds, figure(interval)?));
    results.timeline.iter().filter_map(point).collect()
}

pub(crate) fn distribution(latency: &LatencySummary) -> Vec<(f64, f64)> {
    // The scale has no place for 100 %. Half a message short of it is where the slowest message belongs.
    let slowest = 100.0 * (1.0 - 0.5 / latency.count.max(1) as f64);
    latency.percentiles.iter().map(|point| (point.percent.min(slowest), point.us)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples;

    #[test]
    fn a_plot_names_the_run_the_machine_the_axes_and_the_curves() {
        let svg = of_runs(&[samples::latency(1.0)]);
        for word in [
            "latency: reliable over tcp",
            "64 B",
            "&lt;fast&gt;",
            "0123456789ab",
            "latency from due",
            "deliveries per second",
            "time in the window",
            "p99",
            "99.9 %",
            "100 µs",
        ] {
            assert!(svg.contains(word), "{word} is missing");
        }
    }

    #[test]
    fn runs_of_one_configuration_share_the_legend() {
        let svg = of_runs(&[samples::latency(1.0), samples::latency(1.2)]);
        assert_eq!(svg.matches("\np50\n").count(), 1, "{svg}");
        assert!(svg.contains("2 runs"));
    }

    #[test]
    fn runs_without_a_course_or_with_one_point_draw_no_impossible_coordinate() {
        let mut empty = samples::latency(1.0);
        empty.results[0].timeline.clear();
        empty.results[0].latency.as_mut().unwrap().percentiles.clear();
        let mut one = samples::latency(1.0);
        one.results[0].timeline.truncate(1);
        one.results[0].latency.as_mut().unwrap().percentiles.truncate(1);
        for reports in [vec![], vec![empty], vec![one], vec![samples::connections()]] {
            let svg = of_runs(&reports);
            assert!(svg.contains("<svg") && !svg.contains("NaN") && !svg.contains("inf\""), "{svg}");
        }
    }

    #[test]
    fn the_slowest_message_stays_within_the_axis() {
        let report = samples::latency(1.0);
        let points = distribution(report.results[0].latency.as_ref().unwrap());
        let (percent, us) = *points.last().unwrap();
        assert!(percent < 100.0 && percent > 99.99 && us == 300.0, "{percent} {us}");
    }
}
