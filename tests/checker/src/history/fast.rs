//! The events of a run with fast topics.
//!
//! Publisher streams, readers and clients have numbers of the run. `source` is the server's number of a publisher
//! stream within its topic, which only deliveries tie to the run's own. Offsets play no part: fast topics promise
//! nothing about them.

/// What a verdict needs besides the events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FastPlan {
    /// Seed of everything random in the run.
    pub seed: u64,
    /// Datagrams in a thousand that each relay loses, repeats, holds back; each way.
    pub lose_permille: u32,
    /// See `lose_permille`.
    pub repeat_permille: u32,
    /// See `lose_permille`.
    pub delay_permille: u32,
    /// UDP is blocked from time to time.
    pub switches: bool,
    /// Fewer delivered messages say nothing.
    pub delivered_min: u64,
    /// Fewer deadlines and resting keys that could be judged closely say nothing.
    pub judged_min: u64,
}

/// What a topic does with late and old messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FastMode {
    /// Seqs of a publisher stream rise.
    Ordered = 0,
    /// Seqs of a publisher stream rise for each key; only the newest counts.
    Latest = 1,
    /// Any order.
    Unordered = 2,
}

impl FastMode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ordered, Self::Latest, Self::Unordered];
}

/// One message that a reader was handed, every byte of it right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// The server's number of its publisher stream.
    pub source: u32,
    /// Its frame's seq.
    pub seq: u64,
    /// Whose it is, by its payload.
    pub publisher: u16,
    /// Which of its publisher's messages it is, by its payload.
    pub number: u64,
    /// The key it came with.
    pub key: Option<u64>,
}

/// What a subscription says of itself, summed over its topic's publisher streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of `SubscriptionStats`")]
pub struct FastStats {
    pub delivered: u64,
    pub lost: u64,
    pub late: u64,
    pub expired: u64,
    pub coalesced: u64,
    pub dropped_slow: u64,
    pub no_route: u64,
    pub not_retained: u64,
    pub discarded: u64,
}

impl FastStats {
    /// Messages that it says it was not handed.
    #[must_use]
    pub fn missing(&self) -> u64 {
        let causes = [self.lost, self.late, self.expired, self.coalesced, self.dropped_slow, self.no_route];
        causes.into_iter().fold(0, u64::saturating_add)
    }

    /// Messages that it accounts for.
    #[must_use]
    pub fn accounted(&self) -> u64 {
        self.missing().saturating_add(self.delivered)
    }
}

/// What a relay did to datagrams, both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct LinkCounts {
    pub datagrams: u64,
    pub lost: u64,
    pub repeated: u64,
    /// Held back.
    pub delayed: u64,
    /// Sent after one that had come in later.
    pub overtaken: u64,
    /// Swallowed while UDP was blocked.
    pub blocked: u64,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields' names say it, units are in them")]
pub enum FastEvent {
    /// How to judge; once per history, before everything else.
    Plan(FastPlan),
    /// A client. `udp`: it may use QUIC, and did when the faults began. `link_us`: its relay holds a datagram back no
    /// longer than this.
    Client {
        client: u16,
        udp: bool,
        link_us: u64,
    },
    Topic {
        topic: u16,
        mode: FastMode,
    },
    /// A publisher stream was opened between two times.
    Publisher {
        publisher: u16,
        topic: u16,
        client: u16,
        opening_us: u64,
        opened_us: u64,
    },
    /// The local call took the message between two times. `deadline_us` 0: it has none.
    Published {
        publisher: u16,
        seq: u64,
        before_us: u64,
        after_us: u64,
        key: Option<u64>,
        deadline_us: u64,
    },
    /// The stream was closed after so many messages; `why`: not cleanly.
    Closed {
        publisher: u16,
        at_us: u64,
        published: u64,
        refused: u64,
        why: String,
    },
    /// A subscription was opened between two times. `prompt`: it reads whatever there is at once.
    Reader {
        reader: u16,
        topic: u16,
        client: u16,
        opening_us: u64,
        opened_us: u64,
        prompt: bool,
    },
    /// Handed over by a call that was made at `polled_us` and had returned at `at_us`.
    Delivered {
        reader: u16,
        polled_us: u64,
        at_us: u64,
        messages: Vec<Arrived>,
    },
    /// A message that is not what anybody published.
    Corrupt {
        reader: u16,
        at_us: u64,
        source: u32,
        seq: u64,
        what: String,
    },
    /// Seqs `from..to` will not come, it was said.
    Gap {
        reader: u16,
        at_us: u64,
        source: u32,
        from: u64,
        to: u64,
        cause: String,
    },
    /// The reader goes away, because it was asked to or because of `why`.
    ReaderEnd {
        reader: u16,
        at_us: u64,
        stats: FastStats,
        why: String,
    },
    /// The client's fast topics use another transport.
    Moved {
        client: u16,
        at_us: u64,
        to_udp: bool,
        why: String,
    },
    /// The client's connection was lost.
    Disconnected {
        client: u16,
        at_us: u64,
        why: String,
    },
    /// Nothing passed the client's relay over UDP, in one direction at least.
    Blocked {
        client: u16,
        from_us: u64,
        to_us: u64,
    },
    Link {
        client: u16,
        counts: LinkCounts,
    },
    /// Threads of server and checker together were ready and waited so long for a processor between two times.
    Waited {
        from_us: u64,
        to_us: u64,
        waited_us: u64,
    },
    /// All publishers are closed and the readers had time.
    End {
        at_us: u64,
    },
}
