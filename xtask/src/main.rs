//! The project's chores: `cargo xtask <command>`. Most only run cargo; what is checked lives elsewhere.
#![forbid(unsafe_code)]

mod browsers;
mod ci;
mod command;
mod fuzz;
mod instructions;
mod ring;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "twinlane's checks and chores", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Run all checks, cheap ones first, until one fails
    Ci {
        /// Only these
        #[arg(value_enum)]
        steps: Vec<ci::Step>,
    },
    /// Check what no compiler checks: headers, lengths, leftovers, unsafe code, links, the README's facts
    Tidy,
    /// Fuzz the decoders
    Fuzz {
        /// For each target
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// All, if none is named
        targets: Vec<String>,
    },
    /// Count instructions per message and compare with bench/instructions.json; needs valgrind
    Instructions {
        /// Rewrite the file instead
        #[arg(long)]
        record: bool,
    },
    /// Model-check the ring: every interleaving of small programs, within a preemption bound
    Loom,
    /// Run the ring's tests under Miri: undefined behaviour and data races
    Miri,
    /// Run the ring's stress tests under ThreadSanitizer
    Tsan,
    /// Break the ring on purpose, one way at a time; each must be caught by its witness
    MutantsRing,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().chore {
        Chore::Ci { steps } => ci::ci(&steps),
        Chore::Tidy => tidy::tidy(),
        Chore::Fuzz { seconds, targets } => fuzz::fuzz(seconds, &targets),
        Chore::Instructions { record } => instructions::instructions(record),
        Chore::Loom => ring::loom(),
        Chore::Miri => ring::miri(),
        Chore::Tsan => ring::tsan(),
        Chore::MutantsRing => ring::mutants(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line: where in this program it came from helps nobody.
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
