//! Reports as CSV (RFC 4180): a row for each result, every figure and the whole configuration beside it.
//!
//! The columns are the same for every workload, so files can be appended to each other; what a workload does not
//! measure is empty. Distributions and the course of time are in the JSON report only.

use std::fmt::Display;

use crate::report::{LatencySummary, Report, Results};

/// A column: its name and its text in one row.
type Column = (&'static str, fn(&Report, &Results) -> String);

/// A header, and one row for each of the results of `reports`.
#[must_use]
pub fn results(reports: &[Report]) -> String {
    let columns = || COLUMNS.iter().flat_map(|columns| columns.iter());
    let mut csv = row(columns().map(|(name, _)| (*name).to_owned()));
    for report in reports {
        for results in &report.results {
            csv += &row(columns().map(|(_, text)| text(report, results)));
        }
    }
    csv
}

const COLUMNS: [&[Column]; 4] = [ORIGIN, CONFIGURATION, FIGURES, LATENCY];

const ORIGIN: &[Column] = &[
    ("date", |report, _| report.date.clone()),
    ("version", |report, _| report.version.clone()),
    ("commit", |report, _| some(report.commit.as_ref())),
    ("cpu", |report, _| some(report.machine.cpu.as_ref())),
    ("cores", |report, _| report.machine.cores.to_string()),
    ("kernel", |report, _| some(report.machine.kernel.as_ref())),
];

const CONFIGURATION: &[Column] = &[
    ("workload", |report, _| report.configuration.workload.to_string()),
    ("channel", |_, results| results.name.clone()),
    ("transport", |report, _| report.configuration.transport.to_string()),
    ("encrypted", |report, _| report.configuration.encrypted.to_string()),
    ("payload_bytes", |report, _| report.configuration.payload_bytes.to_string()),
    ("publishers", |report, _| report.configuration.publishers.to_string()),
    ("subscribers", |report, _| report.configuration.subscribers.to_string()),
    ("topics", |report, _| report.configuration.topics.to_string()),
    ("burst", |report, _| report.configuration.burst.to_string()),
    ("sessions", |report, _| report.configuration.sessions.to_string()),
    ("rate", |report, _| some(report.configuration.rate)),
    ("warmup_seconds", |report, _| report.configuration.warmup.as_secs_f64().to_string()),
    ("server", |report, _| some(report.configuration.server.as_ref())),
    ("io_threads", |report, _| some(report.configuration.embedded.as_ref().map(|own| own.io_threads))),
    ("io_policy", |report, _| some(report.configuration.embedded.as_ref().map(|own| &own.io_policy))),
    ("subscriber_threads", |report, _| report.configuration.subscriber_threads.to_string()),
    ("pin", |report, _| some(report.configuration.pin)),
    ("unacked_max", |report, _| some(report.configuration.unacked_max)),
    ("fill_bytes", |report, _| some(report.configuration.fill_bytes)),
    ("link", |report, _| some(report.configuration.link)),
];

const FIGURES: &[Column] = &[
    ("window_seconds", |_, results| results.window_seconds.to_string()),
    ("deliveries_per_second", |_, results| results.deliveries_per_second.to_string()),
    ("megabytes_per_second", |_, results| results.megabytes_per_second.to_string()),
    ("slowest_subscriber_per_second", |_, results| some(results.subscribers.map(|spread| spread.slowest))),
    ("median_subscriber_per_second", |_, results| some(results.subscribers.map(|spread| spread.median))),
    ("fastest_subscriber_per_second", |_, results| some(results.subscribers.map(|spread| spread.fastest))),
    ("cpu_seconds_per_million", |_, results| some(results.cpu_seconds_per_million)),
    ("sent", |_, results| results.sent.to_string()),
    ("delivered", |_, results| results.delivered.to_string()),
    ("lost", |_, results| results.lost.to_string()),
    ("gaps", |_, results| results.gaps.to_string()),
    ("loss_percent", |_, results| results.loss_percent.to_string()),
    ("behind_us_max", |_, results| some(results.behind_us_max)),
    ("connections", |_, results| some(results.connections.map(|figures| figures.connections))),
    ("accepted_per_second", |_, results| {
        some(results.connections.map(|figures| figures.accepted_per_second))
    }),
    ("server_bytes_per_connection", |_, results| {
        some(results.connections.and_then(|figures| figures.server_bytes_per_connection))
    }),
    ("idle_cpu_percent", |_, results| some(results.connections.and_then(|figures| figures.idle_cpu_percent))),
    ("opened_seconds", |_, results| some(results.replay.map(|figures| figures.opened_seconds))),
    ("served_seconds", |_, results| some(results.replay.map(|figures| figures.served_seconds))),
];

const LATENCY: &[Column] = &[
    ("latency_count", |_, results| some(results.latency.as_ref().map(|latency| latency.count))),
    ("min_us", |_, results| us(results, |latency| latency.min_us)),
    ("mean_us", |_, results| us(results, |latency| latency.mean_us)),
    ("p50_us", |_, results| us(results, |latency| latency.p50_us)),
    ("p90_us", |_, results| us(results, |latency| latency.p90_us)),
    ("p99_us", |_, results| us(results, |latency| latency.p99_us)),
    ("p999_us", |_, results| us(results, |latency| latency.p999_us)),
    ("p9999_us", |_, results| us(results, |latency| latency.p9999_us)),
    ("max_us", |_, results| us(results, |latency| latency.max_us)),
];

fn us(results: &Results, figure: fn(&LatencySummary) -> f64) -> String {
    some(results.latency.as_ref().map(figure))
}

fn some(value: Option<impl Display>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn row(fields: impl Iterator<Item = String>) -> String {
    fields.map(|field| escaped(&field)).collect::<Vec<_>>().join(",") + "\r\n"
}

/// Quotes a field that would otherwise end early.
fn escaped(field: &str) -> String {
    if field.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples;

    #[test]
    fn fields_that_would_end_early_are_quoted() {
        assert_eq!(escaped("plain"), "plain");
        assert_eq!(escaped("a,b"), "\"a,b\"");
        assert_eq!(escaped("say \"x\""), "\"say \"\"x\"\"\"");
        assert_eq!(escaped("two\nlines"), "\"two\nlines\"");
    }

    #[test]
    fn every_result_is_a_row_of_as_many_fields_as_the_header() {
        let mut mixed = samples::latency(1.0);
        mixed.results.push(samples::throughput(5e5).results.remove(0));
        mixed.machine.cpu = Some("no comma".into());
        let csv = results(&[mixed]);
        let rows: Vec<&str> = csv.lines().collect();
        assert_eq!(rows.len(), 3, "{csv}");
        let fields = |row: &str| row.split(',').count();
        assert!(rows.iter().all(|row| fields(row) == fields(rows[0])), "{csv}");
    }

    #[test]
    fn what_was_not_measured_is_empty_and_not_zero() {
        let csv = results(&[samples::throughput(1e6)]);
        let last = csv.lines().nth(1).unwrap();
        assert!(last.ends_with(",,,,,,,,,"), "{last}");
        assert!(last.contains("\"An \"\"ideal\"\" CPU, <fast>\""), "{last}");
    }
}
