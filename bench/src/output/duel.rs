//! A duel as a picture: who is how late at which loss, and what that looks like over time.

use super::{
    chart::{Line, Lines, Panel, page},
    plots::{axis, distribution},
    scale::{Scale, Unit},
};
use crate::{
    duel::{Contender, DuelReport, Duelist},
    report::Interval,
};

/// One SVG image of the duels over some links: the p99 by loss where there are several losses, and of the link that loses
/// most the distribution and the course of time.
#[must_use]
pub fn plot(reports: &[DuelReport]) -> String {
    let loss = |report: &&DuelReport| report.configuration.loss_percent;
    let Some(worst) = reports.iter().max_by(|a, b| loss(a).total_cmp(&loss(b))) else {
        return page("no duels", "", &[]);
    };
    let link = &worst.configuration.link;
    let mut panels = Vec::new();
    if reports.iter().any(|report| loss(&report) != loss(&worst)) {
        panels.push(by_loss(reports));
    }
    panels.push(Panel::Lines(Lines {
        title: format!("Delay above the link's own, by percentile, {link}"),
        x: axis("share of delivered messages that took at most this long", Scale::Percent, Unit::Percent),
        y: axis("above the link's delay", Scale::Log, Unit::Micros),
        band: None,
        lines: lines(worst, |duelist| duelist.above.as_ref().map(distribution).unwrap_or_default()),
        height_px: 320,
    }));
    panels.push(Panel::Lines(Lines {
        title: format!("The slowest message of each {}, {link}", slice(worst)),
        x: axis("time in the window", Scale::Linear, Unit::Seconds),
        y: axis("above the link's delay", Scale::Log, Unit::Micros),
        band: None,
        lines: lines(worst, |duelist| {
            let point = |interval: &Interval| Some((interval.at_seconds, interval.max_us?));
            duelist.timeline.iter().filter_map(point).collect()
        }),
        height_px: 300,
    }));
    let plan = &worst.configuration;
    let title = format!(
        "{} messages of {} B a second over a link of {} ms each way",
        plan.rate, plan.payload_bytes, plan.one_way_ms
    );
    page(&title, &format!("{}\n{}", worst.headline(), worst.place()), &panels)
}

fn by_loss(reports: &[DuelReport]) -> Panel {
    let line = |contender: Contender| {
        let point = |report: &DuelReport| {
            let duelist = report.duelists.iter().find(|duelist| duelist.contender == contender)?;
            Some((report.configuration.loss_percent, duelist.above.as_ref()?.p99_us))
        };
        let points = reports.iter().filter_map(point).collect();
        Line { name: contender.name().to_owned(), color: color(contender), points }
    };
    Panel::Lines(Lines {
        title: "p99 of the delay above the link's own, by loss".to_owned(),
        x: axis("packets lost", Scale::Linear, Unit::Percent),
        y: axis("p99 above the link's delay", Scale::Log, Unit::Micros),
        band: None,
        lines: Contender::ALL.into_iter().map(line).filter(|line| !line.points.is_empty()).collect(),
        height_px: 320,
    })
}

fn lines(report: &DuelReport, points: impl Fn(&Duelist) -> Vec<(f64, f64)>) -> Vec<Line> {
    let line = |duelist: &Duelist| Line {
        name: format!("{}, {:.1} % delivered", duelist.contender.name(), duelist.delivered_percent),
        color: color(duelist.contender),
        points: points(duelist),
    };
    report.duelists.iter().map(line).collect()
}

/// How long the slices of the course are.
fn slice(report: &DuelReport) -> String {
    let first = report.duelists.iter().find_map(|duelist| duelist.timeline.first());
    first.map_or("slice".to_owned(), |first| format!("{:.0} ms", first.at_seconds * 1e3))
}

/// The same colour for the same contender on every page.
fn color(contender: Contender) -> usize {
    match contender {
        Contender::Fast => 2,
        Contender::Reliable => 0,
        Contender::RawTcp => 1,
        Contender::QuicStream => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        duel::{Across, DuelPlan, Emulator},
        output::samples,
    };

    fn report(loss_percent: f64) -> DuelReport {
        let sample = samples::latency(1.0 + loss_percent);
        let duelist = |contender| Duelist {
            contender,
            sent: 1_000,
            delivered: 990,
            delivered_percent: 99.0,
            reported_missing: 10,
            above: sample.results[0].latency.clone(),
            behind_us_max: 30.0,
            timeline: sample.results[0].timeline.clone(),
        };
        let configuration = DuelPlan {
            link: format!("rtt=20ms,loss={loss_percent}%"),
            loss_percent,
            one_way_ms: 10.0,
            rate: 1_000,
            payload_bytes: 128,
            window_seconds: 3.0,
            warmup_seconds: 1.0,
            across: Across::Subscriber,
            together: true,
            tcp: "cubic".into(),
            seed: 1,
        };
        DuelReport::new(configuration, Emulator::default(), Contender::ALL.map(duelist).to_vec())
    }

    #[test]
    fn a_series_shows_the_losses_and_the_link_that_loses_most() {
        let svg = plot(&[report(0.0), report(5.0), report(1.0)]);
        for word in ["by loss", "rtt=20ms,loss=5%", "fast, 99.0 % delivered", "raw tcp", "time in the window"]
        {
            assert!(svg.contains(word), "{word} is missing");
        }
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn one_link_has_no_curve_by_loss_and_none_draws_an_empty_page() {
        assert!(!plot(&[report(1.0)]).contains("by loss"));
        assert!(plot(&[]).contains("no duels"));
    }

    #[test]
    fn a_table_compares_everybody_with_raw_tcp() {
        let table = report(1.0).table();
        for word in ["quic stream", "99.000 %", "1.00 ×", "p99.9", "the emulator itself", "TCP cubic"] {
            assert!(table.contains(word), "{word} is missing in {table}");
        }
    }

    #[test]
    fn a_report_is_read_back_as_it_was_written() {
        let report = report(0.1);
        let text = serde_json::to_string(&report).unwrap();
        let read: DuelReport = serde_json::from_str(&text).unwrap();
        // Floating-point numbers may change in their last digit.
        assert_eq!((&read.configuration, read.emulator), (&report.configuration, report.emulator));
        assert_eq!(read.table(), report.table());
    }
}
