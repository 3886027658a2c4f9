//! The command line of the rivals harness; everything else is in the library.

#![forbid(unsafe_code)]

use clap::Parser as _;

/// One allocator for every client in this process, as the server program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    twinlane_rivals::cli::run(twinlane_rivals::cli::Args::parse())
}
