//! The command line of `twinlane topics`, and how any command says what a topic shall be.

use std::time::Duration;

use clap::{Args, Subcommand};
use twinlane::{Channel, Last, Mode, TopicName, TopicSpec};

use super::ListArgs;
use crate::failure::Usage;
use crate::units;

/// The channel a topic gets when this command is the first to use it.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct ChannelArgs {
    /// On first use declare the topic fast: may lose a message, never waits for one
    #[arg(long, conflicts_with = "reliable")]
    pub(crate) fast: bool,
    /// On first use declare the topic reliable: every message once, in order
    #[arg(long)]
    pub(crate) reliable: bool,
    /// On first use declare the topic durable: reliable, and on the server's disk
    #[arg(long, conflicts_with = "fast")]
    pub(crate) durable: bool,
    /// On first use declare the topic fast, and: ordered, latest (only the newest message of each key counts) or
    /// unordered
    #[arg(long, value_name = "MODE", value_parser = units::parse_mode, conflicts_with_all = ["reliable", "durable"])]
    pub(crate) mode: Option<Mode>,
}

impl ChannelArgs {
    /// What to declare, if a channel was asked for.
    pub(crate) fn spec(self) -> Option<TopicSpec> {
        match (self.mode, self.fast, self.durable, self.reliable) {
            (Some(mode), ..) => Some(TopicSpec::fast().with_mode(mode)),
            (_, true, _, _) => Some(TopicSpec::fast()),
            (_, _, true, _) => Some(TopicSpec::durable()),
            (_, _, _, true) => Some(TopicSpec::reliable()),
            _ => None,
        }
    }
}

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct TopicsArgs {
    #[command(subcommand)]
    pub(crate) action: Option<TopicsAction>,
    /// Show the server's own topics too, whose names begin with `$`
    #[arg(short, long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TopicsAction {
    /// Declare a topic, or check that it is declared so, and explain it
    Declare(Box<DeclareArgs>),
}

#[derive(Args, Debug)]
#[command(
    group(clap::ArgGroup::new("channel").required(true).multiple(true).args(["fast", "reliable", "durable", "mode"])),
    after_help = "\
Examples:
  twinlane topics declare positions --mode latest --deadline 50ms
  twinlane topics declare orders --durable --retain 10GiB --age 7d

What is left open takes the server's default. A topic that exists stays as it is: asking for something else is
refused."
)]
pub(crate) struct DeclareArgs {
    /// The topic to declare
    #[arg(value_parser = TopicName::parse)]
    pub(crate) topic: TopicName,
    #[command(flatten)]
    pub(crate) channel: ChannelArgs,
    /// Drop a message of a fast topic that has spent this long in queues; its publisher may give it another limit
    #[arg(long, value_name = "TIME", value_parser = units::parse_deadline)]
    pub(crate) deadline: Option<Duration>,
    /// Refuse larger payloads [default: 64 KiB on fast topics, 1 MiB on reliable ones; never above 1 MiB]
    #[arg(long, value_name = "SIZE", value_parser = units::parse_payload_bytes)]
    pub(crate) payload: Option<u32>,
    /// Keep at most so many bytes of messages
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    pub(crate) retain: Option<u64>,
    /// Keep at most so many messages
    #[arg(long, value_name = "N")]
    pub(crate) messages: Option<u64>,
    /// Keep messages for this long at most
    #[arg(long, value_name = "TIME", value_parser = units::parse_age)]
    pub(crate) age: Option<Duration>,
    /// Of a reliable topic: keep the newest message of the topic, or of each key, however old it is
    #[arg(long, value_name = "WHICH", value_parser = units::parse_last, conflicts_with_all = ["fast", "mode"])]
    pub(crate) last: Option<Last>,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

impl DeclareArgs {
    /// The declaration that was asked for, or what is wrong with it.
    pub(crate) fn spec(&self) -> Result<TopicSpec, Usage> {
        let mut spec = self.channel.spec().expect("a channel is required when the arguments are read");
        spec.payload_bytes_max = self.payload.unwrap_or(0);
        spec.retain_bytes = self.retain.unwrap_or(0);
        spec.retain_messages = self.messages.unwrap_or(0);
        match (self.deadline, spec.channel) {
            (None, _) => {}
            (Some(deadline), Channel::Fast) => spec = spec.with_deadline(deadline),
            (Some(_), Channel::Reliable) => {
                return Err(Usage(
                    "--deadline: a reliable topic delivers every message, however late: make it fast, or keep its messages \
                     for a time only, as in --age 1m",
                ));
            }
        }
        if let Some(age) = self.age {
            spec = spec.with_retain_age(age);
        }
        Ok(self.last.map_or(spec, |last| spec.with_last(last)))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use clap::error::ErrorKind;

    use super::super::{Cli, Command};
    use super::*;

    fn parse(line: &str) -> Result<Box<DeclareArgs>, ErrorKind> {
        let words = ["twinlane", "topics", "declare", "a/b"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words).map_err(|error| error.kind())?.command {
            Command::Topics(TopicsArgs { action: Some(TopicsAction::Declare(args)), .. }) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    fn declared(line: &str) -> Result<TopicSpec, ErrorKind> {
        parse(line).map(|args| args.spec().unwrap())
    }

    #[test]
    fn a_topic_is_declared_with_channel_mode_deadline_and_limits() {
        let latest = TopicSpec::fast().with_mode(Mode::Latest).with_deadline(Duration::from_millis(50));
        assert_eq!(declared("--mode latest --deadline 50ms"), Ok(latest));
        assert_eq!(declared("--fast --mode unordered"), Ok(TopicSpec::fast().with_mode(Mode::Unordered)));
        let orders = TopicSpec::durable().with_retain_bytes(10 << 30).with_last(Last::Key);
        assert_eq!(
            declared("--durable --retain 10GiB --age 7d --last key"),
            Ok(orders.with_retain_age(Duration::from_secs(7 * 86_400)))
        );
        let small = TopicSpec::fast().with_payload_bytes_max(512).with_retain_messages(9);
        assert_eq!(declared("--fast --payload 512 --messages 9"), Ok(small));
    }

    #[test]
    fn what_a_channel_cannot_have_is_refused_before_connecting() {
        for (line, kind) in [
            ("", ErrorKind::MissingRequiredArgument),
            ("--deadline 50ms", ErrorKind::MissingRequiredArgument),
            ("--durable --mode latest", ErrorKind::ArgumentConflict),
            ("--fast --last key", ErrorKind::ArgumentConflict),
            ("--fast --mode newest", ErrorKind::ValueValidation),
            ("--fast --deadline 0s", ErrorKind::ValueValidation),
            ("--fast --deadline 2h", ErrorKind::ValueValidation),
        ] {
            assert_eq!(declared(line), Err(kind), "{line}");
        }
    }

    #[test]
    fn a_deadline_of_a_reliable_topic_is_refused_with_what_to_do_instead() {
        for channel in ["--reliable", "--durable"] {
            let refused = parse(&format!("{channel} --deadline 50ms")).unwrap().spec().unwrap_err();
            assert!(refused.to_string().contains("--age 1m"), "{refused}");
        }
    }

    #[test]
    fn options_of_the_list_are_none_of_the_declaration() {
        let line = ["twinlane", "topics", "--all", "declare", "a", "--fast"];
        assert_eq!(Cli::try_parse_from(line).unwrap_err().kind(), ErrorKind::ArgumentConflict);
    }
}
