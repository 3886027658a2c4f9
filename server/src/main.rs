//! The `twinlane` command: a server and its clients, for people and shell scripts.
//!
//! Flags, files, text and logs only: what a message is and how it travels is the engine's business.
#![forbid(unsafe_code)]

mod args;
mod client;
mod commands;
mod config;
mod config_values;
mod descriptors;
mod failure;
mod home;
mod input;
mod logs;
mod message_text;
mod output;
mod signals;
mod suggest;
mod tokens;
mod topic_record;
mod units;

use std::process::ExitCode;

use clap::Parser as _;

/// Sessions come and go on many threads; this allocator keeps that cheap.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    refuse_huge_pages();
    match commands::run(args::Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(failure::report(&error)),
    }
}

/// The allocator asks the system for huge pages, and idle connections then cost an eighth more: memory that was touched
/// once becomes resident 2 MiB at a time.
fn refuse_huge_pages() {
    // Older systems do not know the call; memory is then what it is.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_thp_disable(true);
}
