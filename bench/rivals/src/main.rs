//! The command line of the rivals harness; everything else is in the library.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;

/// One allocator for every client in this process, as the server program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[allow(clippy::print_stderr, reason = "a command's failure")]
fn main() -> ExitCode {
    match twinlane_rivals::cli::run(twinlane_rivals::cli::Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A bar that is missed is no place in the code: no trace of the calls.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
