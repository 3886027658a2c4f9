//! `twinlane completions`: a script that lets a shell complete this command line.

use std::io::{self, Write as _};

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::args::Cli;

/// Prints the script for `shell`.
pub(crate) fn run(shell: Shell) -> anyhow::Result<()> {
    // Through a buffer, because the generator panics when standard output is closed.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "twinlane", &mut script);
    io::stdout().write_all(&script)?;
    Ok(())
}
