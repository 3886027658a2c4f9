//! Series as a table: median, spread, ratios to the raw limit and to twinlane.

use comfy_table::{CellAlignment, Table, presets};

use crate::{
    measure::Workload,
    series::{Series, Summary},
};

/// The raw limit of a workload, and ours: what the others are compared with.
const fn compared_with(workload: Workload) -> (&'static str, &'static str) {
    match workload {
        Workload::Durable => ("raw-fdatasync", "twinlane-durable"),
        _ => ("tcp-relay", "twinlane"),
    }
}

/// One table per workload.
#[must_use]
pub fn render(all: &[Series]) -> String {
    let mut kinds: Vec<(Workload, Option<u64>)> = Vec::new();
    for series in all {
        if !kinds.contains(&(series.workload, series.rate)) {
            kinds.push((series.workload, series.rate));
        }
    }
    let mut out = String::new();
    for (workload, rate) in kinds {
        let same: Vec<&Series> =
            all.iter().filter(|series| (series.workload, series.rate) == (workload, rate)).collect();
        let cap = rate.map(|rate| format!(" at {} msg/s", grouped(rate as f64))).unwrap_or_default();
        out.push_str(&format!("\n{}{cap}\n{}\n", workload.name(), table(workload, &same)));
    }
    out
}

fn table(workload: Workload, all: &[&Series]) -> Table {
    let headline = workload.headline().0;
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let header =
        ["system", headline, "min … max", "p99 µs", "/ limit", "/ twinlane", "CPU s/M", "lost %", "late"];
    table.set_header(header);
    let median = |system: &str| {
        let series = all.iter().find(|series| series.system == system)?;
        series.summary(|run| run.headline(workload)).map(|summary| summary.median)
    };
    let (limit, ours) = compared_with(workload);
    let (limit, ours) = (median(limit), median(ours));
    for series in all {
        table.add_row(row(series, workload, limit, ours));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn row(series: &Series, workload: Workload, limit: Option<f64>, ours: Option<f64>) -> Vec<String> {
    let summary = series.summary(|run| run.headline(workload));
    let Some(Summary { min, median, max }) = summary else {
        let why = series.errors.first().map_or("no figure", String::as_str);
        return vec![series.system.clone(), "failed".to_owned(), why.to_owned()];
    };
    let ratio = |base: Option<f64>| base.map_or_else(dash, |base| format!("{:.3}", median / base));
    let p99 = series.summary(|run| run.latency.map(|latency| latency.p99_us));
    let cpu = series.summary(|run| run.cpu_seconds_per_million);
    let late: u64 = series.runs.iter().map(|run| run.out_of_order).sum();
    vec![
        series.system.clone(),
        grouped(median),
        format!("{} … {}", grouped(min), grouped(max)),
        p99.map_or_else(dash, |p99| grouped(p99.median)),
        ratio(limit),
        ratio(ours),
        cpu.map_or_else(dash, |cpu| format!("{:.3}", cpu.median)),
        series.loss_percent().map_or_else(dash, |percent| format!("{percent:.3}")),
        if series.errors.is_empty() {
            late.to_string()
        } else {
            format!("{late}, {} failed", series.errors.len())
        },
    ]
}

/// Large numbers in groups of three, small ones with two decimals.
#[must_use]
pub fn grouped(value: f64) -> String {
    if value.abs() < 1_000.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{:.0}", value.abs());
    let mut out = String::from(if value < 0.0 { "-" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn dash() -> String {
    "–".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_grouped() {
        assert_eq!(grouped(1_234_567.8), "1,234,568");
        assert_eq!(grouped(1_000.0), "1,000");
        assert_eq!(grouped(12.345), "12.35");
        assert_eq!(grouped(-54_321.0), "-54,321");
    }
}
