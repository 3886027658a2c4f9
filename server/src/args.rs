//! The command line: every command, option and help text of `twinlane`.
//!
//! Values are checked here as far as text alone allows; nothing here touches a file or the network.

mod http;
mod queue;
mod topics;

pub(crate) mod log;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueHint};
use clap_complete::Shell;
use twinlane::{Filter, Fingerprint, IoPolicy, SlowPolicy, Start, TopicName, TopicSpec};
use twinlane_bench::cli::BenchArgs;

use crate::units;
pub(crate) use http::HttpArgs;
pub(crate) use queue::{QueueAction, QueueArgs, QueueDeadArgs, QueuePullArgs, QueueWorkArgs};
pub(crate) use topics::{ChannelArgs, DeclareArgs, TopicsAction, TopicsArgs};

const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  failed
    2  wrong usage or configuration
    3  cannot connect
    4  refused by the server, or no answer in time
  130  interrupted before the work was done";

/// A low-latency messaging server and its client, over UDP (QUIC) and TCP at once
///
/// Fast topics may lose a message and never wait for one; reliable topics keep every message, in order.
#[derive(Debug, Parser)]
#[command(name = "twinlane", version, max_term_width = 100, after_help = EXIT_CODES, subcommand_required = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a server
    Serve(ServeArgs),
    /// Publish a message, or every line of standard input
    Pub(PubArgs),
    /// Print the messages of the topics that match a filter
    Sub(SubArgs),
    /// Ask a question on a topic and print the answer
    Req(ReqArgs),
    /// Answer the questions asked on the topics that match a filter
    Reply(ReplyArgs),
    /// Work on queues: each message of a topic goes to one worker of each group
    Queue(Box<QueueArgs>),
    /// List the server's topics, or declare one
    Topics(TopicsArgs),
    /// Show the server, its sessions and which transport each one uses
    Status(ListArgs),
    /// Say how one topic is delivered, by whom it is read and what was dropped, and why
    Explain(ExplainArgs),
    /// Measure latency or throughput of this build on this machine, or of a server
    Bench(Box<BenchArgs>),
    /// Check a configuration file
    Config(ConfigArgs),
    /// Check, print, compact or repair the log that durable topics are kept in
    Log(log::LogArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell to complete in
        shell: Shell,
    },
}

/// How to run the server.
#[derive(Args, Debug, Default)]
#[command(after_help = "\
Settings come from the flags, then the file, then the defaults.

Without --token-file anybody who can connect may publish and subscribe. That is why an address other
than loopback is refused without it, and never served without TLS.

Log levels: TWINLANE_LOG=debug, or per target as in TWINLANE_LOG=info,twinlane=debug")]
pub(crate) struct ServeArgs {
    /// Read settings and topics from this TOML file (see `twinlane config check`)
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// Listen here; may be given several times [default: 127.0.0.1:4747]
    #[arg(short, long, value_name = "ADDR:PORT", value_parser = units::parse_listen)]
    pub(crate) listen: Vec<SocketAddr>,
    /// Name of this server, shown to its clients [default: the host's name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Listen on TCP only
    #[arg(long, conflicts_with = "quic_only")]
    pub(crate) tcp_only: bool,
    /// Listen on QUIC (UDP) only
    #[arg(long)]
    pub(crate) quic_only: bool,
    /// Declare a topic, as in prices=fast,latest,deadline=50ms or orders=durable,retain=10GiB,age=7d,last=key
    ///
    /// The channel is fast, reliable, or durable: reliable on disk, which needs --data-dir. After it come, in any
    /// order: latest or unordered and deadline=TIME (fast topics only), payload=SIZE, retain=SIZE, messages=N, age=TIME,
    /// and last=topic or last=key (reliable topics only), which keeps the newest message however old it is. May be given
    /// several times.
    #[arg(short, long = "topic", value_name = "NAME=SPEC", value_parser = units::parse_topic)]
    pub(crate) topics: Vec<(String, TopicSpec)>,
    /// Let in only clients whose token is listed in this file
    ///
    /// One token per line, either the token itself or `sha256:` and its hash in hex; `#` begins a comment.
    /// Make one with: head -c 32 /dev/urandom | base64 > token; chmod 600 token
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) token_file: Option<PathBuf>,
    /// Keep durable topics and the certificate here
    ///
    /// The directory belongs to one server. Without it there are no durable topics, and the certificate is in
    /// $XDG_DATA_HOME/twinlane, else ~/.local/share/twinlane, which all servers of a user share.
    #[arg(long, visible_alias = "data", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) data_dir: Option<PathBuf>,
    /// Number of I/O threads [default: one per two processors]: between two connections on different threads every
    /// message costs one wake more
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) io_threads: Option<u16>,
    /// How an I/O thread waits: park, adaptive:20us (spin that long, then sleep) or spin
    #[arg(long, value_name = "POLICY")]
    pub(crate) io_policy: Option<IoPolicy>,
    /// Serve TCP without TLS (loopback only; for measurements)
    #[arg(long)]
    pub(crate) plain: bool,
    /// Allow an address other than loopback without --token-file
    #[arg(long)]
    pub(crate) allow_insecure_bind: bool,
    /// Write the log as JSON, one object per line
    #[arg(long)]
    pub(crate) log_json: bool,
    #[command(flatten)]
    pub(crate) http: HttpArgs,
    /// Break this server on purpose
    #[cfg(feature = "faults")]
    #[arg(long, hide = true)]
    pub(crate) plant: Vec<String>,
}

/// How to reach the server.
#[derive(Args, Debug)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ClientArgs {
    /// The server to connect to
    #[arg(short, long, env = "TWINLANE_SERVER", value_name = "HOST:PORT", default_value = "127.0.0.1:4747")]
    pub(crate) server: String,
    /// Trust the server whose certificate has this SHA-256 fingerprint, and no other
    #[arg(long, value_name = "HEX", conflicts_with_all = ["known_hosts", "ca", "plain"])]
    pub(crate) fingerprint: Option<Fingerprint>,
    /// Trust a server on first use and remember it here [default: ~/.config/twinlane/known_hosts]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["ca", "plain"])]
    pub(crate) known_hosts: Option<PathBuf>,
    /// Trust servers whose certificate was signed by an authority in this PEM file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "plain")]
    pub(crate) ca: Option<PathBuf>,
    /// Use TCP only
    #[arg(long, conflicts_with = "quic_only")]
    pub(crate) tcp_only: bool,
    /// Use QUIC (UDP) only
    #[arg(long, conflicts_with = "plain")]
    pub(crate) quic_only: bool,
    /// Connect without TLS to a server that was started with --plain
    #[arg(long)]
    pub(crate) plain: bool,
    /// Read the token from this file (or from the environment: TWINLANE_TOKEN)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) token_file: Option<PathBuf>,
    /// Give up when the first connection takes longer
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = units::parse_duration)]
    pub(crate) connect_timeout: Duration,
    /// Fail when the connection is lost, instead of connecting again
    #[arg(long)]
    pub(crate) no_reconnect: bool,
    /// Print no summary, progress or notice on standard error; errors only
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  twinlane pub orders/eu 'one message'
  twinlane pub orders/eu < lines.txt            one message per line, without its newline
  twinlane pub images/7 --raw < picture.png     the whole input is one message
  twinlane pub prices 'tick' --fast --count 1000 --rate 100/s
  twinlane pub positions '3,4' --mode latest --key car7 --deadline 50ms
  twinlane pub mail/out 'dear …' --durable --delay 10s --key ann@example.org

A key is the 64-bit FNV-1a hash of the text given.")]
pub(crate) struct PubArgs {
    /// The topic to publish on
    #[arg(value_parser = TopicName::parse)]
    pub(crate) topic: TopicName,
    /// The message; `-` or nothing reads standard input
    #[arg(allow_negative_numbers = true)]
    pub(crate) message: Option<String>,
    #[command(flatten)]
    pub(crate) channel: ChannelArgs,
    /// Publish MESSAGE this many times; of standard input, this many lines at most
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Publish no faster than this: 100, 10k/s, 30/m
    #[arg(short, long, value_name = "RATE", value_parser = units::parse_rate)]
    pub(crate) rate: Option<f64>,
    /// Publish all of standard input as one message
    #[arg(long)]
    pub(crate) raw: bool,
    /// What the messages are about: of a latest topic only the newest message of each key counts, and topics that keep a
    /// last value keep one for each key
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) key: Option<String>,
    /// Let queue groups wait this long before they hand the messages over; other subscribers get them at once
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    pub(crate) delay: Option<Duration>,
    /// Drop a message of a fast topic that has spent this long in queues, whatever the topic's own deadline is
    #[arg(long, value_name = "TIME", value_parser = units::parse_deadline)]
    pub(crate) deadline: Option<Duration>,
    /// Write the summary on standard error as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "\
A filter is a topic name in which `*` stands for one level and a last `**` for any number of them:
  twinlane sub 'orders/*/new' --from all
  twinlane sub 'prices/**' --json | jq .payload
  twinlane sub orders --from 10m                         what was stored in the last ten minutes, and what follows
  twinlane sub orders --from 2026-11-21T10:00:00Z

Messages go to standard output; gaps, resumed connections and the summary go to standard error.
With --json gaps and resumes are objects among the messages, told apart by \"type\".")]
pub(crate) struct SubArgs {
    /// Which topics to read
    #[arg(value_parser = Filter::parse)]
    pub(crate) filter: Filter,
    /// Start at new (messages from now on), last (the last one too; of a latest topic that of each key), all (everything
    /// kept), an offset, a time (UTC), or how long ago
    #[arg(long, value_name = "START", default_value = "new", value_parser = units::parse_start)]
    pub(crate) from: Start,
    /// End after this many messages
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) count: Option<u64>,
    #[command(flatten)]
    pub(crate) channel: ChannelArgs,
    /// When this reader is too slow for a reliable topic: spill (read from disk later; a topic in memory blocks), block
    /// its publishers, or disconnect this reader
    #[arg(long, value_name = "POLICY", default_value = "spill", value_parser = parse_slow)]
    pub(crate) slow: SlowPolicy,
    /// Write one JSON object per line, and the summary on standard error as another
    #[arg(long, conflicts_with_all = ["timestamps", "topics", "raw"])]
    pub(crate) json: bool,
    /// Begin each line with the time of publishing (UTC)
    #[arg(long, conflicts_with = "raw")]
    pub(crate) timestamps: bool,
    /// Begin each line with the topic's name
    #[arg(long, conflicts_with = "raw")]
    pub(crate) topics: bool,
    /// Write the payloads alone, with no newline after each
    #[arg(long)]
    pub(crate) raw: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ReqArgs {
    /// The topic to ask on
    #[arg(value_parser = TopicName::parse)]
    pub(crate) topic: TopicName,
    /// The question; `-` or nothing reads standard input
    #[arg(allow_negative_numbers = true)]
    pub(crate) message: Option<String>,
    /// Wait this long for the answer
    #[arg(short, long, value_name = "TIME", default_value = "2s", value_parser = units::parse_duration)]
    pub(crate) timeout: Duration,
    /// Write the answer alone, with no newline after it
    #[arg(long)]
    pub(crate) raw: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Args, Debug)]
#[command(
    group(clap::ArgGroup::new("answer").required(true).args(["exec", "echo", "text"])),
    after_help = "\
Examples:
  twinlane reply time --exec date
  twinlane reply 'upper/*' --exec 'tr a-z A-Z' --jobs 4

The command runs under `sh -c`, with the question on its standard input and the topic in TWINLANE_TOPIC;
what it prints is the answer. When it fails or takes too long there is no answer and the asker times out."
)]
pub(crate) struct ReplyArgs {
    /// Which topics to answer on
    #[arg(value_parser = Filter::parse)]
    pub(crate) filter: Filter,
    /// Answer always with this text
    #[arg(allow_negative_numbers = true)]
    pub(crate) text: Option<String>,
    /// Answer with what this shell command prints
    #[arg(long, value_name = "COMMAND", value_hint = ValueHint::CommandString)]
    pub(crate) exec: Option<String>,
    /// Answer with the question itself
    #[arg(long)]
    pub(crate) echo: bool,
    /// Stop the command after this time
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::parse_duration)]
    pub(crate) exec_timeout: Duration,
    /// Run at most this many commands at once; further questions wait
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) jobs: u16,
    /// End after this many questions
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) count: Option<u64>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Write one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    /// The topic to explain
    #[arg(value_parser = TopicName::parse)]
    pub(crate) topic: TopicName,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) action: ConfigAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigAction {
    /// Check a file and print the settings a server started with it would use
    Check {
        /// The file to check
        #[arg(default_value = "twinlane.toml", value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
}

fn parse_slow(text: &str) -> Result<SlowPolicy, String> {
    match text {
        "block" => Ok(SlowPolicy::Block),
        "disconnect" => Ok(SlowPolicy::Disconnect),
        "spill" => Ok(SlowPolicy::Spill),
        _ => Err(format!("`{text}` is no policy: write spill, block or disconnect")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Command, ErrorKind> {
        let words = std::iter::once("twinlane").chain(line.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.command).map_err(|error| error.kind())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_help_text_names_the_exit_codes_or_its_options() {
        let mut cli = Cli::command();
        assert!(cli.render_help().to_string().contains("cannot connect"));
        for command in cli.get_subcommands_mut() {
            assert!(!command.render_long_help().to_string().is_empty());
        }
    }

    #[test]
    fn serve_takes_several_addresses_and_topics() {
        let line =
            "serve -l 127.0.0.1:1 -l ::1 --topic a=fast --topic b/c=reliable,retain=1MiB --io-policy spin";
        let Ok(Command::Serve(serve)) = parse(line) else { panic!("{line}") };
        assert_eq!(serve.listen.len(), 2);
        assert_eq!(serve.topics[1].0, "b/c");
        assert!(serve.io_policy.is_some());
    }

    #[test]
    fn contradicting_flags_are_refused() {
        for line in [
            "serve --tcp-only --quic-only",
            "pub a b --fast --reliable",
            "pub a b --fast --durable",
            "pub a b --mode latest --reliable",
            "pub a b --tcp-only --quic-only",
            "sub a --plain --fingerprint 00",
            "sub a --json --raw",
            "reply a --echo text",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert_eq!(parse("reply a").unwrap_err(), ErrorKind::MissingRequiredArgument);
    }

    #[test]
    fn a_wrong_topic_or_filter_is_refused_before_connecting() {
        for line in ["pub a//b x", "pub a/* x", "sub a/**/b", "sub /a", "explain a/", "req * x"] {
            assert_eq!(parse(line).unwrap_err(), ErrorKind::ValueValidation, "{line}");
        }
    }

    #[test]
    fn a_negative_number_is_a_message() {
        let Ok(Command::Pub(publish)) = parse("pub temperature -5") else { panic!() };
        assert_eq!(publish.message.as_deref(), Some("-5"));
    }

    #[test]
    fn a_token_is_never_taken_from_the_command_line() {
        assert_eq!(parse("sub a --token secret").unwrap_err(), ErrorKind::UnknownArgument);
    }
}
