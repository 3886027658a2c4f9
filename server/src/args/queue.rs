//! The command line of `twinlane queue`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueHint};
use twinlane::TopicName;

use super::{ClientArgs, ListArgs};
use crate::units;

#[derive(Args, Debug)]
pub(crate) struct QueueArgs {
    #[command(subcommand)]
    pub(crate) action: QueueAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QueueAction {
    /// Do the jobs of a group with a command, or print them
    Work(QueueWorkArgs),
    /// Take some jobs, print and acknowledge them
    Pull(QueuePullArgs),
    /// List queue groups and what waits in them
    Ls(ListArgs),
    /// Print the dead letters of a group, or publish them again
    Dead(QueueDeadArgs),
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  twinlane queue work orders billing -- ./bill-one-order
  twinlane queue work images thumbnails --jobs 4 -- sh -c 'convert - -resize 200 out/$TWINLANE_OFFSET.png'

The command gets the message on its standard input, and TWINLANE_TOPIC, TWINLANE_OFFSET, TWINLANE_ATTEMPT and
TWINLANE_KEY in its environment. Exit status 0 acknowledges the job; another one gives it back, to be tried again
after 1 s, then 2 s, up to a minute. Without a command jobs are printed and acknowledged.")]
pub(crate) struct QueueWorkArgs {
    /// The topic whose messages are the jobs
    #[arg(value_parser = TopicName::parse)]
    pub(crate) topic: TopicName,
    /// The group to work for
    pub(crate) group: String,
    /// The command to run for each job, after `--`
    #[arg(last = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<String>,
    /// Do at most this many jobs at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) jobs: u16,
    /// Stop the command and give the job back after this time
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = units::parse_duration)]
    pub(crate) timeout: Duration,
    /// When this is the group's first worker: a silent worker loses its job after this time [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    pub(crate) ack_wait: Option<Duration>,
    /// When this is the group's first worker: a message that failed so often becomes a dead letter [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_deliver: Option<u32>,
    /// End after this many jobs
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Print jobs as JSON objects, one per line
    #[arg(long, conflicts_with = "command")]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Args, Debug)]
pub(crate) struct QueuePullArgs {
    /// The topic whose messages are the jobs
    #[arg(value_parser = TopicName::parse)]
    pub(crate) topic: TopicName,
    /// The group to work for
    pub(crate) group: String,
    /// Take at most this many jobs
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1)]
    pub(crate) count: u32,
    /// Wait this long for so many
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = units::parse_duration)]
    pub(crate) wait: Duration,
    /// Print jobs as JSON objects, one per line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Args, Debug)]
pub(crate) struct QueueDeadArgs {
    /// The topic whose messages were the jobs
    #[arg(value_parser = TopicName::parse)]
    pub(crate) topic: TopicName,
    /// The group that gave them up
    pub(crate) group: String,
    /// Publish them again on the topic; what was retried once is not retried by the next call
    #[arg(long)]
    pub(crate) retry: bool,
    /// Print them as JSON objects, one per line: headers say where each comes from and why it failed
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}
