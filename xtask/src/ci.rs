//! All checks in one command: `cargo xtask ci`. It fails at the first step that does.
//!
//! What each step checks lies elsewhere; here is only their order: cheap ones first.

use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;

use crate::command::{Cargo, say};
use crate::{browsers, instructions, ring, tidy};

/// A step of the checks, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Step {
    /// Formatting
    Fmt,
    /// Headers, lengths, leftovers, unsafe code, links
    Tidy,
    /// Lints, all targets
    Clippy,
    /// Public documentation
    Doc,
    /// Every test, documentation examples and fuzz corpora included
    Test,
    /// The official Socket.IO clients, and Chromium
    Browsers,
    /// Instructions per message, against the record
    Instructions,
    /// The ring under its model checker
    Loom,
    /// The ring under Miri
    Miri,
    /// The ring under ThreadSanitizer
    Tsan,
    /// The ring broken on purpose
    MutantsRing,
}

/// Runs `chosen` steps, or all of them.
pub(crate) fn ci(chosen: &[Step]) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut done = Vec::new();
    for step in in_order(chosen) {
        let name = step.name();
        say(&format!("\n== ci: {name}"));
        let step_start = Instant::now();
        let outcome = step.run();
        let took = step_start.elapsed();
        outcome
            .with_context(|| format!("ci: {name} FAILED after {}; later steps did not run", seconds(took)))?;
        done.push((name, took));
    }
    say("");
    done.iter().for_each(|(name, took)| say(&format!("{name:12} ok {:>9}", seconds(*took))));
    say(&format!("{:12} ok {:>9}", "ci", seconds(start.elapsed())));
    Ok(())
}

impl Step {
    fn name(self) -> String {
        let value = self.to_possible_value().expect("no step is hidden");
        value.get_name().to_owned()
    }

    fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Fmt => {
                Cargo::new("fmt --all --check").run()?;
                Cargo::new("fmt --manifest-path fuzz/Cargo.toml --check").run()
            }
            Self::Tidy => tidy::tidy(),
            Self::Clippy => {
                Cargo::new("clippy --workspace --all-targets -- -D warnings").run()?;
                // As it is installed: the workspace's tests turn on features of the engine that it does without.
                Cargo::new("clippy --package twinlane-server -- -D warnings").run()
            }
            Self::Doc => doc(),
            // Word for word what the README tells people to run.
            Self::Test => Cargo::new("test --workspace").run(),
            Self::Browsers => browsers::browsers(),
            Self::Instructions => instructions::instructions(false),
            Self::Loom => ring::loom(),
            Self::Miri => ring::miri(),
            Self::Tsan => ring::tsan(),
            Self::MutantsRing => ring::mutants(),
        }
    }
}

/// The program `twinlane` and the library `twinlane` write to the same folder: the library's documentation stays.
fn doc() -> anyhow::Result<()> {
    let denied = "-D warnings";
    let programs = Cargo::new("doc --package twinlane-server --package xtask --no-deps --bins");
    programs.env("RUSTDOCFLAGS", denied).run()?;
    Cargo::new("doc --workspace --no-deps --lib").env("RUSTDOCFLAGS", denied).run()
}

/// All steps if none is chosen; each at most once.
fn in_order(chosen: &[Step]) -> Vec<Step> {
    let steps = Step::value_variants().iter().copied();
    steps.filter(|step| chosen.is_empty() || chosen.contains(step)).collect()
}

fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_choice_every_step_runs_and_cheap_ones_run_first() {
        let steps = in_order(&[]);
        assert!(steps.is_sorted());
        assert_eq!((steps[0], steps.len()), (Step::Fmt, Step::value_variants().len()));
    }

    #[test]
    fn chosen_steps_run_once_and_in_the_order_of_all_steps() {
        assert_eq!(in_order(&[Step::Miri, Step::Fmt, Step::Miri]), [Step::Fmt, Step::Miri]);
    }
}
