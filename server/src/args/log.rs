//! The arguments of `twinlane log`: which log, and how much of it to show.
//!
//! Nothing here opens a file.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use twinlane::Filter;

const LOG_EXIT_CODES: &str = "\
Exit codes:
    0  done, and nothing is wrong with the log
    1  the log is damaged, or the command failed
    2  wrong usage";

#[derive(Args, Debug)]
#[command(after_help = LOG_EXIT_CODES, subcommand_required = true)]
pub(crate) struct LogArgs {
    #[command(subcommand)]
    pub(crate) action: LogAction,
}

/// What to do with a log.
#[derive(Debug, Subcommand)]
pub(crate) enum LogAction {
    /// Read every record and say what is damaged, and which messages each topic has
    Check(CheckArgs),
    /// Print what is in the log: topics, publishers, messages
    Dump(DumpArgs),
    /// Give back the disk that messages no longer kept take up; the server must not run
    Compact(CompactArgs),
    /// Save what can be read of a damaged log; the server must not run
    ///
    /// Without --yes nothing is changed. Every topic that lost an acknowledged message gets a new epoch, so that
    /// no subscriber takes a new message for the one that was lost.
    Repair(RepairArgs),
}

/// Which log.
#[derive(Args, Debug)]
pub(crate) struct LogDir {
    /// The server's data directory, or the folder `log` in it
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) dir: PathBuf,
    /// Print no progress or notice on standard error; errors only
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) log: LogDir,
    /// Write one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DumpArgs {
    #[command(flatten)]
    pub(crate) log: LogDir,
    /// Only what concerns the topics that match this filter
    #[arg(long, value_name = "FILTER", value_parser = Filter::parse)]
    pub(crate) topic: Option<Filter>,
    /// Only messages from this offset on
    #[arg(long, value_name = "OFFSET")]
    pub(crate) from: Option<u64>,
    /// Write one JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
    /// Write each message, with its payload, instead of one line for many
    #[arg(long)]
    pub(crate) payload: bool,
}

#[derive(Args, Debug)]
pub(crate) struct CompactArgs {
    #[command(flatten)]
    pub(crate) log: LogDir,
}

#[derive(Args, Debug)]
pub(crate) struct RepairArgs {
    #[command(flatten)]
    pub(crate) log: LogDir,
    /// Give up what cannot be read
    #[arg(long)]
    pub(crate) yes: bool,
}
