//! Short runs over an emulated link, for their verdict. Needs root and `ip`; elsewhere each test says so and passes.
//!
//! The labs are one after the other: each has threads that want the machine for themselves.
#![allow(clippy::unwrap_used, reason = "in a test a failed step is a failed test")]
#![allow(clippy::print_stdout, reason = "what was skipped is for whoever reads the log")]

use std::time::Duration;

use clap::Parser;
use tokio::sync::Mutex;
use twinlane_bench::{
    cli::RunArgs,
    duel::{Contender, DuelArgs, measure as duel},
    run::measure,
};
use twinlane_netlab::{Lab, LabError, Link};

static MACHINE: Mutex<()> = Mutex::const_new(());

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    duel: DuelArgs,
}

/// Whether there can be a lab here.
fn is_root() -> bool {
    match Lab::start(Link::default(), 1) {
        Err(error @ LabError::NotRoot(_)) => {
            println!("skipped: {error}");
            false
        }
        lab => lab.is_ok() || panic!("{}", lab.unwrap_err()),
    }
}

#[tokio::test]
async fn the_books_of_every_workload_add_up_over_a_link_that_loses() {
    let _machine = MACHINE.lock().await;
    if !is_root() {
        return;
    }
    for line in [
        "latency --rate 1k --channel fast --link loss=3%,rtt=4ms",
        "latency --rate 1k --link loss=1%,rtt=4ms",
        "throughput --channel fast --link loss=1%,rtt=4ms,rate=100mbit",
        "roundtrip --link rtt=4ms",
        "mixed --rate 1k --link rtt=4ms",
    ] {
        let args = RunArgs::from_line(line).unwrap();
        let args = RunArgs { warmup: Duration::from_millis(200), duration: Duration::from_secs(1), ..args };
        let report = measure(&args).await.unwrap_or_else(|error| panic!("{line}: {error:?}"));
        for results in &report.results {
            let least_us = results.latency.as_ref().map_or(4_000.0, |latency| latency.min_us);
            assert!(least_us >= 4_000.0, "{line}: {least_us} µs, and the link takes 4 ms");
            assert_eq!(results.delivered + results.lost, results.sent, "{line}");
            // What the link loses, repeats mend for the most part, and reliable messages are sent until they arrive.
            let is_paced = line.starts_with("latency");
            assert!(
                !is_paced || results.lost * 10 < results.sent,
                "{line}: {} of {} lost",
                results.lost,
                results.sent
            );
        }
        assert!(report.configuration.headline().contains(", link rtt=4ms"), "{line}");
    }
}

#[tokio::test]
async fn a_duel_lets_everybody_cross_the_link_once_in_either_direction() {
    let _machine = MACHINE.lock().await;
    if !is_root() {
        return;
    }
    for across in ["subscriber", "publisher"] {
        let words = ["duel", "--rate", "500", "--duration", "2s", "--warmup", "500ms", "--across", across];
        let args = Line::try_parse_from(words).unwrap().duel;
        let report = duel(&args, "loss=5%,rtt=10ms".parse().unwrap()).await.unwrap();
        assert_eq!(report.configuration.one_way_ms, 5.0);
        assert!(report.configuration.together);
        for duelist in &report.duelists {
            let who = format!("{across}, {}", duelist.contender);
            assert_eq!(duelist.sent, 1_000, "{who}");
            let lost = duelist.sent - duelist.delivered;
            if duelist.contender == Contender::Fast {
                // The link loses 50, standard deviation 6.9, and repeats mend most of it.
                assert!(lost <= 85, "{who}: {lost} lost");
                assert!(duelist.reported_missing >= lost, "{who}: {} reported", duelist.reported_missing);
            } else {
                assert_eq!(lost, 0, "{who}");
            }
            let above = duelist.above.as_ref().unwrap();
            assert!(above.min_us < 5_000.0, "{who} crossed the link twice: {} µs above", above.min_us);
        }
    }
}

#[tokio::test]
async fn over_a_link_with_a_rate_contenders_take_turns() {
    let _machine = MACHINE.lock().await;
    if !is_root() {
        return;
    }
    let words = ["duel", "--duration", "1s", "--warmup", "500ms", "--only", "raw-tcp,quic-stream"];
    let args = Line::try_parse_from(words).unwrap().duel;
    let report = duel(&args, "rtt=10ms,rate=10mbit".parse().unwrap()).await.unwrap();
    assert!(!report.configuration.together);
    let who: Vec<Contender> = report.duelists.iter().map(|duelist| duelist.contender).collect();
    assert_eq!(who, [Contender::RawTcp, Contender::QuicStream]);
    assert!(report.duelists.iter().all(|duelist| duelist.delivered == 1_000), "{}", report.table());
}
