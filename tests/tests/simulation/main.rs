//! The real client and the real server over a simulated network, in virtual time: a thousand seeds, each with its own
//! clients, paths and faults, each judged by the promises.
//!
//! A seed that fails is printed with the command that runs it again, with a trace of everything that happens. The
//! same seed does the same again, on any machine: a test says so.

#![allow(clippy::unwrap_used, reason = "in a test a failed step is a failed test")]

mod actors;
mod history;
mod network;
mod pipe;
mod plan;
mod run;
mod wire;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use history::Activity;

/// Seeds in the everyday test.
const SEEDS: u64 = 1_000;
/// No seed needs this much real time.
const STUCK: Duration = Duration::from_secs(60);

#[test]
fn a_thousand_seeds_keep_every_promise() {
    if let Some(seed) = number_from("TWINLANE_SEED") {
        let ran = run::seed(seed, true);
        ran.verdict.unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        return;
    }
    let first = number_from("TWINLANE_SEED_FIRST").unwrap_or(0);
    let count = number_from("TWINLANE_SEEDS").unwrap_or(SEEDS);
    let (activity, failures) = run_all(first..first + count);
    eprintln!("{count} seeds from {first}: {activity:?}");
    for (seed, why) in failures.iter().take(20) {
        eprintln!("seed {seed}: {why}");
    }
    if let Some((seed, why)) = failures.first() {
        panic!(
            "{} of {count} seeds failed, the first is {seed}: {why}\nrun it again: TWINLANE_SEED={seed} cargo test \
             -p twinlane-tests --test simulation a_thousand_seeds -- --nocapture",
            failures.len()
        );
    }
    enough(&activity, count);
}

#[test]
fn the_same_seed_does_the_same_again() {
    for seed in [1, 7, 23, 42, 99, 123, 256, 511] {
        // On a thread of its own: nothing that a thread remembers may matter.
        let trace = || thread::spawn(move || run::seed(seed, false).trace).join().unwrap();
        let (first, second) = (trace(), trace());
        assert_eq!(first, second, "seed {seed}: chance, time or order came from outside the simulation");
    }
}

/// Runs seeds on two threads; what happened in all of them, and those that failed, in order.
fn run_all(seeds: std::ops::Range<u64>) -> (Activity, Vec<(u64, String)>) {
    let next = AtomicU64::new(seeds.start);
    let running = [AtomicU64::new(seeds.start), AtomicU64::new(seeds.start)];
    let (done, finished) = mpsc::channel();
    let (mut activity, mut failures) = (Activity::default(), Vec::new());
    thread::scope(|scope| {
        for mine in &running {
            let (next, end, done) = (&next, seeds.end, done.clone());
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if end <= seed {
                        return;
                    }
                    mine.store(seed, Ordering::Relaxed);
                    // Nobody listens after a seed went round for ever.
                    let _ = done.send((seed, run::seed(seed, false)));
                }
            });
        }
        drop(done);
        loop {
            match finished.recv_timeout(STUCK) {
                Ok((seed, ran)) => {
                    activity += ran.activity;
                    failures.extend(ran.verdict.err().map(|why| (seed, why)));
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    eprintln!("one of the seeds {running:?} goes round for ever");
                    // Its thread cannot be ended otherwise.
                    std::process::abort();
                }
            }
        }
    });
    failures.sort_unstable();
    (activity, failures)
}

/// A verdict counts only where enough has happened.
fn enough(activity: &Activity, seeds: u64) {
    if seeds < SEEDS {
        return;
    }
    let Activity {
        stored,
        delivered,
        fast_lost,
        reconnects,
        resumed,
        resumed_after_gap,
        began_anew,
        cut_off,
        restarts,
    } = *activity;
    let often = [stored / 100, delivered / 100, fast_lost, reconnects, resumed, began_anew * 2, restarts * 4];
    assert!(often.iter().all(|count| seeds <= *count), "too little happened");
    assert!(10 <= resumed_after_gap && 10 <= cut_off, "too few subscribers fell behind");
}

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}
