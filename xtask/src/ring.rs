//! The ring's witnesses: model checker, Miri, ThreadSanitizer, and mutants that the tests must catch.
//!
//! What they check lies in `engine/ring/tests`; here is only how to run it.

use std::time::{Duration, Instant};

use anyhow::bail;

use crate::command::{Cargo, run_within, say, target_dir};

/// A mutant that hangs its witness is caught, too: a lost wake-up does just that.
const WITNESS_LIMIT: Duration = Duration::from_secs(60);

/// A deliberate fault in the ring, under `cfg(ring_mutant = "name")`, and the test that must fail on it.
struct Mutant {
    name: &'static str,
    fault: &'static str,
    witness: Witness,
}

/// Stands for the unit tests where a test file is named.
const LIB: &str = "lib";

/// A test in a file of `engine/ring/tests`, or in [`LIB`].
struct Witness {
    file: &'static str,
    test: &'static str,
}

const MUTANTS: [Mutant; 17] = [
    Mutant {
        name: "relaxed_commit",
        fault: "commit words are stored without release",
        witness: Witness {
            file: "loom",
            test: "two_producers_store_both_frames_and_a_reader_sees_them_whole",
        },
    },
    Mutant {
        name: "frame_bound",
        fault: "a segment takes one frame too many",
        witness: Witness {
            file: LIB,
            test: "words::tests::a_claim_fits_up_to_the_last_byte_and_the_last_frame_and_not_further",
        },
    },
    Mutant {
        name: "reuse_pinned",
        fault: "a segment is reused under a reader",
        witness: Witness { file: "oracle", test: "every_history_matches_the_specification" },
    },
    Mutant {
        name: "unsettled_reuse",
        fault: "a segment is reused under a producer",
        witness: Witness {
            file: "loom",
            test: "an_unfinished_append_is_waited_for_before_its_segment_is_reused",
        },
    },
    Mutant {
        name: "gate_ignored",
        fault: "rotation does not look at gated cursors",
        witness: Witness { file: "promises", test: "a_slow_gated_reader_fills_the_ring_and_misses_nothing" },
    },
    Mutant {
        name: "nothing_lent",
        fault: "a spared cursor is overtaken like a lossy one",
        witness: Witness { file: "oracle", test: "every_history_matches_the_specification" },
    },
    Mutant {
        name: "loan_kept",
        fault: "appends are refused while spared cursors have spare segments",
        witness: Witness {
            file: "spared",
            test: "what_a_spared_reader_was_lent_comes_back_before_an_append_is_refused",
        },
    },
    Mutant {
        name: "quota_ignored",
        fault: "a queue takes large segments though others hold all there may be",
        witness: Witness { file: "quota", test: "queues_that_share_a_quota_hold_no_more_than_it_together" },
    },
    Mutant {
        name: "quota_kept",
        fault: "what a queue held of its quota is never given back",
        witness: Witness { file: "quota", test: "what_one_queue_gives_back_another_may_hold" },
    },
    Mutant {
        name: "lost_wake",
        fault: "a producer that found a sleeper does not wake it",
        witness: Witness { file: "loom", test: "a_parked_reader_is_woken_by_the_first_frame" },
    },
    Mutant {
        name: "sleep_unchecked",
        fault: "a reader sleeps although something was claimed",
        witness: Witness { file: "loom", test: "a_parked_reader_is_woken_by_the_first_frame" },
    },
    Mutant {
        name: "forgotten_sleeper",
        fault: "rotation drops the sleep bit",
        witness: Witness { file: "loom", test: "a_parked_reader_is_woken_across_rotations" },
    },
    Mutant {
        name: "lost_room",
        fault: "the last reader does not wake producers",
        witness: Witness {
            file: "loom",
            test: "a_producer_waiting_for_a_held_run_is_woken_when_it_is_dropped",
        },
    },
    Mutant {
        name: "forgotten_size",
        fault: "room is made for a smaller frame than the refused one",
        witness: Witness {
            file: "queue",
            test: "who_waits_for_room_for_a_large_frame_is_not_told_of_small_segments",
        },
    },
    Mutant {
        name: "turn_left_early",
        fault: "who did the work does not look whether more was left meanwhile",
        witness: Witness { file: "loom", test: "work_that_is_left_while_another_has_the_turn_is_done" },
    },
    Mutant {
        name: "dirty_words",
        fault: "a new segment's commit words are not 0",
        witness: Witness { file: "memory", test: "a_new_segment_has_no_frames" },
    },
    Mutant {
        name: "stale_words",
        fault: "commit words outlive the round of tags",
        witness: Witness { file: "memory", test: "frames_of_63_uses_ago_do_not_come_back" },
    },
];

pub(crate) fn loom() -> anyhow::Result<()> {
    Cargo::new("test --release -p twinlane-ring --test loom")
        .env("RUSTFLAGS", "--cfg loom")
        .env("CARGO_TARGET_DIR", target_dir().join("loom"))
        .run()
}

pub(crate) fn miri() -> anyhow::Result<()> {
    Cargo::new("+nightly miri test -p twinlane-ring --lib --tests").run()
}

pub(crate) fn tsan() -> anyhow::Result<()> {
    // The standard library is rebuilt: without instrumentation its locks look like races.
    Cargo::new("+nightly test -Zbuild-std --target x86_64-unknown-linux-gnu -p twinlane-ring --release --test stress")
        .env("RUSTFLAGS", "-Zsanitizer=thread")
        .env("CARGO_TARGET_DIR", target_dir().join("tsan"))
        .run()
}

pub(crate) fn mutants() -> anyhow::Result<()> {
    let start = Instant::now();
    let mut failures = Vec::new();
    for Mutant { name, fault, witness } in &MUTANTS {
        // A witness that fails without the fault proves nothing.
        let without = outcome("none", witness)?;
        let outcome = outcome(name, witness)?;
        let seconds = start.elapsed().as_secs_f64();
        say(&format!("{seconds:5.1} s  {name:18} {:9} {fault:50} {}", outcome.word(), witness.test));
        if outcome == Outcome::Passed || without != Outcome::Passed {
            failures.push(*name);
        }
    }
    if !failures.is_empty() {
        bail!("survived, or caught by a witness that always fails: {}", failures.join(", "));
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Failed,
    Hung,
    Passed,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Failed => "caught",
            Self::Hung => "hung",
            Self::Passed => "SURVIVED",
        }
    }
}

/// Runs `witness` on the ring with the fault `mutant`.
fn outcome(mutant: &str, witness: &Witness) -> anyhow::Result<Outcome> {
    let Witness { file, test } = witness;
    let (flags, dir) = if *file == "loom" { ("--cfg loom ", "loom-") } else { ("", "") };
    // Built first, so that a mutant that does not compile is no catch.
    let tests = if *file == LIB { "--lib".to_owned() } else { format!("--test {file}") };
    let executable = Cargo::new(&format!("test -p twinlane-ring {tests} --no-run"))
        .env("RUSTFLAGS", format!("{flags}--cfg ring_mutant=\"{mutant}\""))
        .env("CARGO_TARGET_DIR", target_dir().join("mutants").join(format!("{dir}{mutant}")))
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .built_test()?;
    Ok(match run_within(WITNESS_LIMIT, &executable, &["--exact", test])? {
        None => Outcome::Hung,
        Some(status) if status.success() => Outcome::Passed,
        Some(_) => Outcome::Failed,
    })
}
