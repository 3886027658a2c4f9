//! Prints the figures of the queue cores: the bars, or every workload for every queue.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;

use twinlane_bench_cores::BATCH;
use twinlane_bench_cores::contenders::{Contender, Pace, contenders};
use twinlane_bench_cores::hand_over::Load;
use twinlane_bench_cores::p8::{MESSAGES, Ratio, p8};
use twinlane_bench_cores::stats::quartiles;

const USAGE: &str = "usage: twinlane-bench-cores p8 [ROUNDS] | table [ROUNDS] [QUEUE]";
/// Frames of one run in the table.
const TABLE_MESSAGES: u64 = 400_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rounds = arguments.get(1).and_then(|rounds| rounds.parse().ok());
    let outcome = match arguments.first().map(String::as_str) {
        Some("p8") => print_p8(&p8(rounds.unwrap_or(15), MESSAGES)),
        Some("table") => print_table(rounds.unwrap_or(5), arguments.get(2).map_or("", String::as_str)),
        _ => writeln!(io::stderr(), "{USAGE}"),
    };
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print_p8(ratios: &[Ratio]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for ratio in ratios {
        let Ratio { name, ring, rival, ring_ns, rival_ns, quartiles: [low, median, high], bar, missed } =
            ratio;
        let bar = bar.map_or(String::new(), |bar| {
            format!("≥ {bar:.1}: {}", if ratio.holds() { "holds" } else { "MISSED" })
        });
        write!(out, "{name:24} {ring:14} {ring_ns:7.1} ns  {rival:22} {rival_ns:7.1} ns  ")?;
        let [ours, theirs] = missed.map(|share| share * 100.0);
        write!(out, "{median:5.2} ({low:.2} to {high:.2})  {bar:12}")?;
        writeln!(
            out,
            "{}",
            if ours + theirs > 0.0 {
                format!("  told missed {ours:.0} % / {theirs:.0} %")
            } else {
                String::new()
            }
        )?;
    }
    Ok(())
}

/// A figure of one contender, in nanoseconds.
struct Row {
    name: String,
    run: Box<dyn Fn() -> f64>,
    figures: Vec<f64>,
}

fn print_table(rounds: usize, queue: &str) -> io::Result<()> {
    let mut rows = Vec::new();
    rows.extend(rows_of::<8>(queue, &[(1, 1)]));
    rows.extend(rows_of::<64>(queue, &[(1, 1), (2, 1), (4, 1), (1, 4), (1, 16)]));
    rows.extend(rows_of::<256>(queue, &[(1, 1)]));
    rows.extend(rows_of::<1024>(queue, &[(1, 1)]));
    rows.extend(call_rows(queue));
    for _ in 0..rounds {
        for row in &mut rows {
            row.figures.push((row.run)());
        }
    }
    let mut out = io::stdout().lock();
    for row in &mut rows {
        let [low, median, high] = quartiles(&mut row.figures);
        writeln!(out, "{:58} {median:9.1} ns  ({low:.1} to {high:.1})", row.name)?;
    }
    Ok(())
}

/// Throughput rows, nanoseconds per frame published.
fn rows_of<const N: usize>(queue: &str, shapes: &[(usize, usize)]) -> Vec<Row> {
    let mut rows = Vec::new();
    for &(producers, consumers) in shapes {
        for batch in [1, BATCH] {
            let load = Load { messages: TABLE_MESSAGES, producers, consumers, batch };
            for contender in contenders::<N>() {
                if !contender.can(&load) || !contender.name.contains(queue) {
                    continue;
                }
                let mut name = format!("{producers} to {consumers}, {N} B, {}", contender.name);
                if batch > 1 {
                    let _ = write!(name, ", {batch} per call");
                }
                if contender.pace != Pace::Paced && consumers > 1 {
                    name.push_str(", free-running");
                }
                let run = Box::new(move || (contender.hand_over)(&load).ns_per_message(&load));
                rows.push(Row { name, run, figures: Vec::new() });
            }
        }
    }
    rows
}

/// What single calls cost, 64-byte frames.
fn call_rows(queue: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |name: String, run: Box<dyn Fn() -> f64>| rows.push(Row { name, run, figures: Vec::new() });
    for contender in contenders::<64>().into_iter().filter(|contender| contender.name.contains(queue)) {
        let Contender { name, takes_producers, takes_batches, alone, publish, wake, .. } = contender;
        let per_frame = move |batch| alone(TABLE_MESSAGES, batch).as_nanos() as f64 / TABLE_MESSAGES as f64;
        add(format!("alone, {name}"), Box::new(move || per_frame(1)));
        if takes_batches {
            add(format!("alone, {name}, {BATCH} per call"), Box::new(move || per_frame(BATCH)));
        }
        if takes_producers {
            let p50 = move || publish(TABLE_MESSAGES, 2).p50_ns as f64;
            let p99 = move || publish(TABLE_MESSAGES, 2).p99_ns as f64;
            add(format!("one publish, 2 at once, p50, {name}"), Box::new(p50));
            add(format!("one publish, 2 at once, p99, {name}"), Box::new(p99));
        }
        if let Some(wake) = wake {
            add(format!("wake, reader runs, p50, {name}"), Box::new(move || wake(200).reader_p50_ns as f64));
            add(format!("wake, reader runs, p99, {name}"), Box::new(move || wake(200).reader_p99_ns as f64));
            add(
                format!("wake, publish call, p50, {name}"),
                Box::new(move || wake(200).publish_p50_ns as f64),
            );
        }
    }
    rows
}
