//! What one run does, after the command line has been checked: everything a report must repeat.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Serialize, Serializer};
use twinlane::TopicSpec;

/// What is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// How many messages per second get through when publishers send as fast as they can.
    Throughput,
    /// How late messages arrive that are due at fixed instants (an open loop).
    Latency,
    /// How many deliveries per second one publisher causes at many subscribers, each on its own connection.
    Fanout,
}

/// Which promise the topic makes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ChannelKind {
    /// May lose messages; every loss is reported.
    Fast,
    /// Every message, once, in order.
    Reliable,
}

/// What carries the messages.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TransportKind {
    /// One TCP connection per client, with TLS unless --plain.
    Tcp,
    /// One QUIC connection per client: datagrams for fast, a stream for reliable.
    Quic,
    /// No network: publisher and subscriber share the engine of this process.
    Local,
}

/// A checked run.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// What is measured.
    pub workload: Workload,
    /// Which promise the topic makes.
    pub channel: ChannelKind,
    /// What carries the messages.
    pub transport: TransportKind,
    /// Whether bytes on the wire are encrypted.
    pub encrypted: bool,
    /// Bytes of every payload.
    pub payload_bytes: usize,
    /// Publishers, each on a session of its own.
    pub publishers: usize,
    /// Subscribers, each on a session of its own.
    pub subscribers: usize,
    /// Messages per second of all publishers together; `None`: as fast as they can.
    pub rate: Option<u64>,
    /// Time before the window that counts.
    #[serde(rename = "warmup_seconds", serialize_with = "seconds")]
    pub warmup: Duration,
    /// The window that counts.
    #[serde(rename = "window_seconds", serialize_with = "seconds")]
    pub window: Duration,
    /// A server elsewhere; `None`: one embedded in this process.
    pub server: Option<String>,
    /// The embedded server's threads, if it is embedded.
    pub embedded: Option<Embedded>,
    /// Threads that run subscribers; publishers have one more.
    pub subscriber_threads: usize,
}

/// How the server inside this process runs.
#[derive(Clone, Debug, Serialize)]
pub struct Embedded {
    /// Its I/O threads.
    pub io_threads: usize,
    /// What they do when idle.
    pub io_policy: String,
}

impl Plan {
    /// Whether every message must arrive.
    #[must_use]
    pub fn is_reliable(&self) -> bool {
        self.channel == ChannelKind::Reliable
    }

    /// The specification of the run's topic.
    #[must_use]
    pub fn topic_spec(&self) -> TopicSpec {
        match self.channel {
            ChannelKind::Fast => TopicSpec::fast(),
            ChannelKind::Reliable => TopicSpec::reliable(),
        }
    }

    /// The messages of the whole schedule, warm-up included, if there is a schedule.
    #[must_use]
    pub fn scheduled_messages(&self) -> Option<u64> {
        let seconds = (self.warmup + self.window).as_secs_f64();
        (self.workload == Workload::Latency).then(|| (self.rate.unwrap_or(1) as f64 * seconds).ceil() as u64)
    }

    /// The run in one line.
    #[must_use]
    pub fn headline(&self) -> String {
        let server = match (&self.server, &self.embedded) {
            (Some(server), _) => format!("server {server}"),
            (None, Some(Embedded { io_threads, io_policy })) if self.transport != TransportKind::Local => {
                format!("embedded server, {io_threads} I/O thread(s), {io_policy}")
            }
            (None, _) => "in process".to_owned(),
        };
        let crypto = if self.encrypted { "encrypted" } else { "not encrypted" };
        format!(
            "{}: {} over {} ({crypto}), {} B, {} → {}, {server}",
            word(&self.workload),
            word(&self.channel),
            word(&self.transport),
            self.payload_bytes,
            self.publishers,
            self.subscribers,
        )
    }
}

/// The word of a choice on the command line.
fn word(choice: &impl ValueEnum) -> String {
    choice.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}
