//! What an operator can ask an engine or a session about itself: plain data, serialisable, no behaviour.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// A whole engine at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names say it, units are in them")]
pub struct EngineStatus {
    pub name: String,
    pub version: String,
    pub uptime_seconds: u64,
    pub connections_open: u64,
    /// Connections and sessions turned away, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Sessions that there are; the list may hold fewer where an answer would not fit one message.
    pub sessions_total: u64,
    pub sessions: Vec<SessionRow>,
    /// Topics that there are; likewise.
    pub topics_total: u64,
    pub topics: Vec<TopicStatus>,
    /// Memory of all topic histories, in bytes.
    pub memory_bytes: u64,
    /// The log of durable topics, if there is one.
    #[serde(default)]
    pub log: Option<LogRow>,
    /// Queue groups that there are; likewise.
    #[serde(default)]
    pub queues_total: u64,
    #[serde(default)]
    pub queues: Vec<QueueRow>,
}

impl EngineStatus {
    /// Halves the lists; the totals stay. Histories go first.
    pub(crate) fn shorten(&mut self) {
        if self.sessions.iter().any(|session| !session.switches.is_empty()) {
            return self.sessions.iter_mut().for_each(|session| session.switches.clear());
        }
        self.sessions.truncate(self.sessions.len() / 2);
        self.queues.truncate(self.queues.len() / 2);
        self.topics.iter_mut().for_each(TopicStatus::shorten);
        if self.topics.iter().all(|topic| topic.subscribers.is_empty()) {
            self.topics.truncate(self.topics.len() / 2);
        }
    }
}

impl TopicStatus {
    /// Halves the list of subscribers; the total stays.
    pub(crate) fn shorten(&mut self) {
        self.subscribers.truncate(self.subscribers.len() / 2);
    }
}

/// The log of durable topics as its engine sees it. Counts are since the engine started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names say it, units are in them")]
pub struct LogRow {
    /// Files with content.
    pub segments: u64,
    /// All files together, those that wait to be used included.
    pub file_bytes: u64,
    /// Writes to disk, each with one sync.
    pub batches: u64,
    pub bytes_written: u64,
    /// The longest write with its sync.
    pub sync_us_max: u64,
    /// Batches that were refused because there was no space.
    pub no_space: u64,
    /// Why nothing is accepted any more.
    pub failed: Option<String>,
}

/// One queue group as its server sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names say it, units are in them")]
pub struct QueueRow {
    pub topic: String,
    pub group: String,
    /// Messages that could be handed over if a worker wanted them.
    pub ready: u64,
    /// Messages handed over and not settled.
    pub in_flight: u64,
    /// Messages that are not handed over before a time.
    pub delayed: u64,
    /// Messages acknowledged since the server started.
    pub settled: u64,
    pub members: u64,
    /// Dead letters since the server started.
    pub dead: u64,
    /// Messages that were gone before they could be handed over, since the server started.
    pub missing: u64,
    /// The topic that dead letters go to.
    pub dead_letters: String,
}

/// One session as its server sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names say it, units are in them")]
pub struct SessionRow {
    pub id: String,
    pub client: String,
    pub peer: String,
    /// What carries reliable topics: `tcp`, `quic`, `local`, or `-` while disconnected.
    pub reliable_over: String,
    /// What carries fast topics.
    pub fast_over: String,
    /// Why fast topics use that transport.
    pub why: String,
    pub publishers: u64,
    pub subscriptions: u64,
    /// How its QUIC connection is doing, where it has one.
    pub udp: Option<UdpPath>,
    /// The last changes of what carries fast topics, the newest last; 16 at most.
    #[serde(default)]
    pub switches: Vec<SwitchRow>,
}

/// A change of what carries a session's fast topics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SwitchRow {
    /// How long ago.
    pub ago_ms: u64,
    /// What carries them since: `tcp` or `quic`.
    pub to: String,
    /// Why.
    pub why: String,
}

/// How one QUIC connection is doing, as its sender measures it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names say it, units are in them")]
pub struct UdpPath {
    pub round_trip_us: u64,
    pub sent_packets: u64,
    pub lost_packets: u64,
    pub congestion_events: u64,
    pub congestion_window_bytes: u64,
    /// The largest UDP payload the path is known to carry.
    pub mtu_bytes: u16,
    /// Small messages that were sent again because the path loses packets.
    #[serde(default)]
    pub repeated_messages: u64,
    /// Large messages that came in fragments, all of them, and those of them that lacked some and were restored.
    #[serde(default)]
    pub whole_messages: u64,
    #[serde(default)]
    pub restored_messages: u64,
    /// Large messages of which too little came.
    #[serde(default)]
    pub incomplete_messages: u64,
}

/// One topic as its engine sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names say it, units are in them")]
pub struct TopicStatus {
    pub name: String,
    pub id: u32,
    /// `reliable` or `fast`.
    pub channel: String,
    /// `ordered`, `latest` or `unordered`.
    pub mode: String,
    /// What a message of a fast topic may spend in queues. 0: without limit.
    #[serde(default)]
    pub deadline_us: u32,
    pub payload_bytes_max: u32,
    pub retain_bytes: u64,
    pub retain_messages: u64,
    /// 0: however old they are.
    #[serde(default)]
    pub retain_age_ms: u64,
    /// `memory` or `disk`: where messages are, and how safely those are kept that were acknowledged.
    #[serde(default)]
    pub storage: String,
    /// Whose newest message is kept however old it is: of the `topic`, of each `key`, or `none`.
    #[serde(default)]
    pub last: String,
    /// Bytes of its messages on disk.
    #[serde(default)]
    pub log_bytes: u64,
    pub epoch: u64,
    /// The oldest offset a subscriber can still start from.
    pub oldest: u64,
    /// The offset the next message will get: messages published so far.
    pub next: u64,
    pub memory_bytes: u64,
    pub publishers: u64,
    /// Subscribers that there are; the list may hold fewer where an answer would not fit one message.
    pub subscribers_total: u64,
    pub subscribers: Vec<SubscriberRow>,
    /// Messages lost inside this engine, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Who declared the topic.
    pub declared_by: String,
    /// What this topic promises, in sentences.
    pub explanation: Vec<String>,
}

/// One subscriber of a topic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names say it, units are in them")]
pub struct SubscriberRow {
    pub session: String,
    /// What carries this subscription: `tcp`, `quic` or `local`.
    pub over: String,
    /// The next offset it will be sent.
    pub position: u64,
    /// Messages between its position and the newest.
    pub lag: u64,
    /// `block`, `spill` or `disconnect`; on fast topics `drop oldest`, or `keep newest` of each key.
    pub policy: String,
}

/// A session as its own side sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names say it, units are in them")]
pub struct SessionStatus {
    pub id: String,
    pub server: String,
    /// `local`, `connected`, `reconnecting` or `closed: why`.
    pub state: String,
    pub reliable_over: String,
    pub fast_over: String,
    /// Why fast topics use that transport.
    pub why: String,
    pub reconnects: u64,
    pub publishers: u64,
    pub subscriptions: u64,
    /// How the QUIC connection is doing, where there is one.
    pub udp: Option<UdpPath>,
    /// The last changes of what carries fast topics, the newest last; 16 at most.
    #[serde(default)]
    pub switches: Vec<SwitchRow>,
}

/// What one subscription has received and missed since it was opened.
///
/// On `ordered` and `latest` fast topics, for each publisher stream,
/// `delivered + lost + late + expired + coalesced + dropped_slow + no_route = last − first + 1` over the seqs it saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SubscriptionStats {
    /// Messages handed to the application.
    pub delivered: u64,
    /// Payload bytes handed to the application.
    pub bytes: u64,
    /// Messages that never arrived.
    pub lost: u64,
    /// Messages that arrived after a newer one of the same publisher and were counted as a hole of cause `late`.
    pub late: u64,
    /// Messages whose deadline passed on the way.
    pub expired: u64,
    /// Messages replaced by a newer one of the same key.
    pub coalesced: u64,
    /// Messages dropped because this subscriber did not keep up.
    pub dropped_slow: u64,
    /// Messages given up while this subscriber, or their publisher, had no connection.
    #[serde(default)]
    pub no_route: u64,
    /// Messages a reliable topic no longer retained when this subscriber asked for them.
    pub not_retained: u64,
    /// Copies discarded: the same message again, or one older than its successor.
    pub discarded: u64,
    /// Times the subscription continued on a new connection.
    pub resumes: u64,
}

/// The last changes of what carries a session's fast topics.
#[derive(Debug, Default)]
pub(crate) struct Switches(VecDeque<(Instant, &'static str, String)>);

impl Switches {
    const MAX: usize = 16;

    /// Fast topics go over `to` from now on. The same again changes nothing.
    pub(crate) fn note(&mut self, to: &'static str, why: &str) {
        if self.0.back().is_some_and(|(_, last, _)| *last == to) {
            return;
        }
        if self.0.len() == Self::MAX {
            self.0.pop_front();
        }
        self.0.push_back((Instant::now(), to, why.to_owned()));
    }

    pub(crate) fn rows(&self) -> Vec<SwitchRow> {
        let row = |(at, to, why): &(Instant, &'static str, String)| SwitchRow {
            ago_ms: at.elapsed().as_millis() as u64,
            to: (*to).to_owned(),
            why: why.clone(),
        };
        self.0.iter().map(row).collect()
    }
}
