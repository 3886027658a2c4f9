//! What one run does, after the command line has been checked: everything a report must repeat.

use std::{
    fmt::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use twinlane::TopicSpec;
use twinlane_netlab::Link;

/// What is measured.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// How many messages per second get through when publishers send as fast as they can.
    #[default]
    Throughput,
    /// How late messages arrive that are due at fixed instants (an open loop).
    Latency,
    /// How long one message takes to the server and back, one after the other (a closed loop).
    Roundtrip,
    /// How many deliveries per second one publisher causes at many subscribers, each on its own connection.
    Fanout,
    /// How fast connections are accepted, and what an idle one costs the server.
    Connections,
    /// Latency on a fast topic while a reliable one takes all it can, on the same sessions.
    Mixed,
    /// How many messages per second are acknowledged once they are on disk.
    Durable,
    /// How fast a server that starts again serves what it has on disk.
    Replay,
}

/// Which promise a topic makes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ChannelKind {
    /// May lose messages; every loss is reported.
    Fast,
    /// Every message, once, in order.
    Reliable,
    /// One topic of each: what `mixed` is.
    #[value(skip)]
    Both,
}

/// What carries the messages.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TransportKind {
    /// One TCP connection per client, with TLS unless --plain.
    Tcp,
    /// One QUIC connection per client: datagrams for fast, a stream for reliable.
    Quic,
    /// A TCP connection for reliable topics and a QUIC one for fast topics, as clients have by default.
    Both,
    /// No network: publisher and subscriber share the engine of this process.
    Local,
}

/// A checked run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// What is measured.
    pub workload: Workload,
    /// Which promise the topics make.
    pub channel: ChannelKind,
    /// What carries the messages.
    pub transport: TransportKind,
    /// Whether bytes on the wire are encrypted.
    pub encrypted: bool,
    /// Bytes of every payload.
    pub payload_bytes: usize,
    /// Publishers, each on a session of its own.
    pub publishers: usize,
    /// Subscribers, each on a session of its own, but for `roundtrip` with one session.
    pub subscribers: usize,
    /// Topics of each channel; publishers send to them in turn.
    pub topics: usize,
    /// Messages that a publisher sends to a topic in a row.
    #[serde(default = "one")]
    pub burst: u64,
    /// Sessions of `roundtrip`: 1 when what is sent comes back on the session that sent it.
    pub sessions: usize,
    /// Messages per second of all publishers together; `None`: as fast as they can. For `mixed` of the fast topic.
    pub rate: Option<u64>,
    /// Time before the window that counts.
    #[serde(rename = "warmup_seconds", with = "seconds")]
    pub warmup: Duration,
    /// The window that counts.
    #[serde(rename = "window_seconds", with = "seconds")]
    pub window: Duration,
    /// A server elsewhere; `None`: one of our own.
    pub server: Option<String>,
    /// Our own server's threads, if it is our own.
    pub embedded: Option<Embedded>,
    /// Threads that run subscribers; publishers have one more.
    pub subscriber_threads: usize,
    /// Messages of each publisher of `durable` and `replay` that may wait for their acknowledgement; 1: it publishes
    /// one and waits. `None` elsewhere.
    pub unacked_max: Option<u64>,
    /// Where `durable` and `replay` make the directory of their log; `None`: where temporary files are.
    pub dir: Option<PathBuf>,
    /// What `replay` writes before it starts again, headers included.
    pub fill_bytes: Option<u64>,
    /// The one core that everything runs on, if it is pinned.
    pub pin: Option<usize>,
    /// The emulated link between the server and all clients, if there is one.
    #[serde(default, with = "text")]
    pub link: Option<Link>,
    /// What is random on that link is the same for the same seed.
    #[serde(default)]
    pub link_seed: u64,
}

/// How the server of the run's own runs: inside this process, for `connections` as a process of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Embedded {
    /// Its I/O threads.
    pub io_threads: usize,
    /// What they do when idle.
    pub io_policy: String,
}

/// When the messages of a flow are sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Pace {
    /// As fast as the queues take them.
    FlatOut,
    /// Not more than this many per second, in small groups.
    Capped(u64),
    /// Each at its instant, this many per second; latency counts from that instant.
    OpenLoop(u64),
}

/// The messages of one channel within a run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Flow {
    pub(crate) name: &'static str,
    pub(crate) reliable: bool,
    /// Whether it is kept on disk.
    pub(crate) durable: bool,
    pub(crate) pace: Pace,
}

impl Plan {
    /// What flows in this run: one channel, for `mixed` both.
    pub(crate) fn flows(&self) -> Vec<Flow> {
        let flow = |reliable, pace| {
            let name = if reliable { "reliable" } else { "fast" };
            Flow { name, reliable, durable: false, pace }
        };
        let rate = self.rate.unwrap_or(1);
        match self.workload {
            Workload::Mixed => vec![flow(true, Pace::FlatOut), flow(false, Pace::OpenLoop(rate))],
            Workload::Latency => vec![flow(self.channel == ChannelKind::Reliable, Pace::OpenLoop(rate))],
            Workload::Durable | Workload::Replay => {
                vec![Flow { name: "durable", reliable: true, durable: true, pace: Pace::FlatOut }]
            }
            Workload::Throughput | Workload::Fanout | Workload::Roundtrip | Workload::Connections => {
                vec![flow(
                    self.channel == ChannelKind::Reliable,
                    self.rate.map_or(Pace::FlatOut, Pace::Capped),
                )]
            }
        }
    }

    /// The messages of a whole schedule of `rate` per second, warm-up included.
    pub(crate) fn scheduled_messages(&self, rate: u64) -> u64 {
        (rate as f64 * (self.warmup + self.window).as_secs_f64()).ceil() as u64
    }

    /// The run in one line.
    #[must_use]
    pub fn headline(&self) -> String {
        let server = match (&self.server, &self.embedded) {
            (Some(server), _) => format!("server {server}"),
            (None, Some(Embedded { io_threads, io_policy })) if self.transport != TransportKind::Local => {
                let place = if self.workload == Workload::Connections {
                    "in a process of its own"
                } else {
                    "embedded"
                };
                format!("server {place}, {io_threads} I/O thread(s), {io_policy}")
            }
            (None, _) => "in process".to_owned(),
        };
        let crypto = if self.encrypted { "encrypted" } else { "not encrypted" };
        let ends = match (self.workload, self.sessions) {
            (Workload::Roundtrip, 1) => "one session".to_owned(),
            (Workload::Roundtrip, _) => "two sessions".to_owned(),
            (Workload::Connections, _) => format!("{} subscribers", self.subscribers),
            (Workload::Durable, _) => {
                let window = self.unacked_max.unwrap_or_default();
                format!("{} publishers, window {window}", self.publishers)
            }
            (Workload::Replay, _) => {
                format!("log of {} MiB", self.fill_bytes.unwrap_or_default() >> 20)
            }
            _ => format!("{} → {}", self.publishers, self.subscribers),
        };
        let size = match self.workload {
            Workload::Connections => String::new(),
            _ => format!("{} B, ", self.payload_bytes),
        };
        let mut topics = if self.topics > 1 { format!(", {} topics", self.topics) } else { String::new() };
        if self.burst > 1 {
            let _ = write!(topics, " in bursts of {}", self.burst);
        }
        let rate = self.rate.map(|rate| format!(", {rate} msg/s")).unwrap_or_default();
        let pin = self.pin.map(|core| format!(", all on core {core}")).unwrap_or_default();
        let link = self.link.map(|link| format!(", link {link}")).unwrap_or_default();
        let Self { workload, channel, transport, .. } = self;
        format!(
            "{workload}: {channel} over {transport} ({crypto}), {size}{ends}{topics}{rate}, {server}{pin}{link}"
        )
    }
}

impl Flow {
    /// The specification of the flow's topics.
    pub(crate) fn topic_spec(self) -> TopicSpec {
        match (self.durable, self.reliable) {
            (true, _) => TopicSpec::durable(),
            (_, true) => TopicSpec::reliable(),
            _ => TopicSpec::fast(),
        }
    }

    pub(crate) fn is_timed(self) -> bool {
        matches!(self.pace, Pace::OpenLoop(_))
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Throughput => "throughput",
            Self::Latency => "latency",
            Self::Roundtrip => "roundtrip",
            Self::Fanout => "fanout",
            Self::Connections => "connections",
            Self::Mixed => "mixed",
            Self::Durable => "durable",
            Self::Replay => "replay",
        })
    }
}

impl fmt::Display for ChannelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fast => "fast",
            Self::Reliable => "reliable",
            Self::Both => "reliable and fast",
        })
    }
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
            Self::Both => "tcp and quic",
            Self::Local => "local",
        })
    }
}

/// A link as it is written on the command line.
mod text {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};
    use twinlane_netlab::Link;

    pub(super) fn serialize<S: Serializer>(link: &Option<Link>, serializer: S) -> Result<S::Ok, S::Error> {
        link.map(|link| link.to_string()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Link>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// A duration as a number of seconds.
/// Reports that were written before there were bursts.
fn one() -> u64 {
    1
}

mod seconds {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
