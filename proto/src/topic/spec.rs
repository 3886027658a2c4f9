//! What a topic was declared as. Two declarations of one topic must agree; zero means "no opinion".

use std::fmt;
use std::time::Duration;

use thiserror::Error;

use crate::limits::DEADLINE_MAX;

/// How a topic's messages travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Channel {
    /// May lose messages, never waits for one.
    #[default]
    Fast = 0,
    /// Keeps every accepted message, in order.
    Reliable = 1,
}

/// Which message of a fast topic may overtake or replace which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mode {
    /// Seqs of one publisher rise; a late message is dropped. The only mode of a reliable topic.
    #[default]
    Ordered = 0,
    /// As ordered, and only the newest message of each key is kept.
    Latest = 1,
    /// Any order.
    Unordered = 2,
}

/// Where the server keeps a topic's messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Storage {
    /// In memory: they are gone when the server is. The only storage of a fast topic.
    #[default]
    Memory = 0,
    /// In a log on disk: what was acknowledged survives the server's crash and power loss.
    Disk = 1,
}

/// Which messages of a reliable topic stay however old they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Last {
    /// None beyond what is retained.
    #[default]
    None = 0,
    /// The newest of the topic.
    Topic = 1,
    /// The newest of each key.
    Key = 2,
}

/// What a topic is declared as. In the numbers 0 means "the server's default".
///
/// ```
/// use twinlane_proto::topic::TopicSpec;
///
/// let spec = TopicSpec::fast().with_payload_bytes_max(1_024);
/// assert_eq!(spec.to_string(), "fast ordered, payload ≤ 1024 B");
/// assert!(spec.conflict(&TopicSpec::fast()).is_none());
/// assert!(spec.conflict(&TopicSpec::reliable()).is_some());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TopicSpec {
    /// How messages travel.
    pub channel: Channel,
    /// Order of a fast topic; [`Mode::Ordered`] on a reliable one.
    pub mode: Mode,
    /// Where messages are kept; [`Storage::Memory`] on a fast topic.
    pub storage: Storage,
    /// Which last values are kept; [`Last::None`] on a fast topic.
    pub last: Last,
    /// Bytes of one payload at most.
    pub payload_bytes_max: u32,
    /// Bytes of messages that the server keeps at most.
    pub retain_bytes: u64,
    /// Messages that the server keeps at most.
    pub retain_messages: u64,
    /// Milliseconds that the server keeps a message at most.
    pub retain_age_ms: u64,
    /// Microseconds that a message of a fast topic may spend in queues; 0 on a reliable one. Here 0 means no limit.
    pub deadline_us: u32,
}

impl TopicSpec {
    /// A fast, ordered topic with the server's default limits.
    #[must_use]
    pub const fn fast() -> Self {
        Self {
            channel: Channel::Fast,
            mode: Mode::Ordered,
            storage: Storage::Memory,
            last: Last::None,
            payload_bytes_max: 0,
            retain_bytes: 0,
            retain_messages: 0,
            retain_age_ms: 0,
            deadline_us: 0,
        }
    }

    /// A reliable topic in memory with the server's default limits.
    #[must_use]
    pub const fn reliable() -> Self {
        Self { channel: Channel::Reliable, ..Self::fast() }
    }

    /// A reliable topic on disk with the server's default limits.
    #[must_use]
    pub const fn durable() -> Self {
        Self { storage: Storage::Disk, ..Self::reliable() }
    }

    /// The same with another mode.
    ///
    /// # Panics
    ///
    /// If the topic is reliable and `mode` is not [`Mode::Ordered`].
    #[must_use]
    pub fn with_mode(self, mode: Mode) -> Self {
        let spec = Self { mode, ..self };
        assert!(spec.is_consistent(), "a reliable topic is always ordered, not {mode:?}");
        spec
    }

    /// The same with payloads of at most `payload_bytes_max` bytes.
    #[must_use]
    pub const fn with_payload_bytes_max(self, payload_bytes_max: u32) -> Self {
        Self { payload_bytes_max, ..self }
    }

    /// The same, keeping at most `retain_bytes` bytes of messages.
    #[must_use]
    pub const fn with_retain_bytes(self, retain_bytes: u64) -> Self {
        Self { retain_bytes, ..self }
    }

    /// The same, keeping at most `retain_messages` messages.
    #[must_use]
    pub const fn with_retain_messages(self, retain_messages: u64) -> Self {
        Self { retain_messages, ..self }
    }

    /// The same, keeping a message for `retain_age` at most: rounded up to a millisecond, so that it is not 0 unless
    /// `retain_age` is.
    #[must_use]
    pub fn with_retain_age(self, retain_age: Duration) -> Self {
        let retain_age_ms = retain_age.as_nanos().div_ceil(1_000_000);
        Self { retain_age_ms: u64::try_from(retain_age_ms).unwrap_or(u64::MAX), ..self }
    }

    /// The same, with messages that are dropped once they spent `deadline` in queues, or would have when they arrive:
    /// rounded up to a microsecond, and at most [`DEADLINE_MAX`].
    ///
    /// # Panics
    ///
    /// If the topic is reliable and `deadline` is not zero.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        let deadline_us = deadline.min(DEADLINE_MAX).as_nanos().div_ceil(1_000) as u32;
        let spec = Self { deadline_us, ..self };
        assert!(
            spec.is_consistent(),
            "messages of a reliable topic have no deadline, asked for {deadline:?}"
        );
        spec
    }

    /// The same, keeping these last values whatever their age.
    ///
    /// # Panics
    ///
    /// If the topic is fast and `last` is not [`Last::None`].
    #[must_use]
    pub fn with_last(self, last: Last) -> Self {
        let spec = Self { last, ..self };
        assert!(spec.is_consistent(), "a fast topic keeps no last values, asked for {last:?}");
        spec
    }

    /// Whether the channel allows mode, storage, last values and deadline.
    #[must_use]
    pub const fn is_consistent(&self) -> bool {
        match self.channel {
            Channel::Fast => matches!((self.storage, self.last), (Storage::Memory, Last::None)),
            Channel::Reliable => matches!((self.mode, self.deadline_us), (Mode::Ordered, 0)),
        }
    }

    /// The first difference between this declaration and `asked`, unless one of them has no opinion.
    #[must_use]
    pub fn conflict(&self, asked: &Self) -> Option<Conflict> {
        let differ = |declared: u64, asked: u64| declared != 0 && asked != 0 && declared != asked;
        if self.channel != asked.channel {
            return Some(Conflict::Channel { declared: self.channel, asked: asked.channel });
        }
        if self.mode != asked.mode {
            return Some(Conflict::Mode { declared: self.mode, asked: asked.mode });
        }
        if self.storage != asked.storage {
            return Some(Conflict::Storage { declared: self.storage, asked: asked.storage });
        }
        if asked.last != Last::None && self.last != asked.last {
            return Some(Conflict::Last { declared: self.last, asked: asked.last });
        }
        if differ(self.payload_bytes_max.into(), asked.payload_bytes_max.into()) {
            let (declared, asked) = (self.payload_bytes_max, asked.payload_bytes_max);
            return Some(Conflict::PayloadBytesMax { declared, asked });
        }
        if differ(self.retain_bytes, asked.retain_bytes) {
            let (declared, asked) = (self.retain_bytes, asked.retain_bytes);
            return Some(Conflict::RetainBytes { declared, asked });
        }
        if differ(self.retain_messages, asked.retain_messages) {
            let (declared, asked) = (self.retain_messages, asked.retain_messages);
            return Some(Conflict::RetainMessages { declared, asked });
        }
        if differ(self.retain_age_ms, asked.retain_age_ms) {
            let (declared_ms, asked_ms) = (self.retain_age_ms, asked.retain_age_ms);
            return Some(Conflict::RetainAge { declared_ms, asked_ms });
        }
        if differ(self.deadline_us.into(), asked.deadline_us.into()) {
            let (declared_us, asked_us) = (self.deadline_us, asked.deadline_us);
            return Some(Conflict::Deadline { declared_us, asked_us });
        }
        None
    }
}

/// How two declarations of one topic differ. Use what is declared, or another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Conflict {
    /// Fast against reliable.
    #[error("topic is declared {declared}, not {asked}")]
    Channel {
        /// What the topic is.
        declared: Channel,
        /// What was asked for.
        asked: Channel,
    },
    /// Different modes.
    #[error("topic is declared {declared}, not {asked}")]
    Mode {
        /// What the topic is.
        declared: Mode,
        /// What was asked for.
        asked: Mode,
    },
    /// In memory against on disk.
    #[error("topic is declared {declared}, not {asked}")]
    Storage {
        /// What the topic is.
        declared: Storage,
        /// What was asked for.
        asked: Storage,
    },
    /// Different last values.
    #[error("topic is declared to keep {declared}, not {asked}")]
    Last {
        /// What the topic is.
        declared: Last,
        /// What was asked for.
        asked: Last,
    },
    /// Different payload limits.
    #[error("topic is declared with payloads of at most {declared} bytes, not {asked}")]
    PayloadBytesMax {
        /// What the topic is.
        declared: u32,
        /// What was asked for.
        asked: u32,
    },
    /// Different retention in bytes.
    #[error("topic is declared to keep {declared} bytes, not {asked}")]
    RetainBytes {
        /// What the topic is.
        declared: u64,
        /// What was asked for.
        asked: u64,
    },
    /// Different retention in messages.
    #[error("topic is declared to keep {declared} messages, not {asked}")]
    RetainMessages {
        /// What the topic is.
        declared: u64,
        /// What was asked for.
        asked: u64,
    },
    /// Different retention in time.
    #[error("topic is declared to keep messages for {declared_ms} ms, not {asked_ms} ms")]
    RetainAge {
        /// What the topic is.
        declared_ms: u64,
        /// What was asked for.
        asked_ms: u64,
    },
    /// Different deadlines.
    #[error("topic is declared with a deadline of {declared_us} µs, not {asked_us} µs")]
    Deadline {
        /// What the topic is.
        declared_us: u32,
        /// What was asked for.
        asked_us: u32,
    },
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fast => "fast",
            Self::Reliable => "reliable",
        })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ordered => "ordered",
            Self::Latest => "latest",
            Self::Unordered => "unordered",
        })
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "in memory",
            Self::Disk => "on disk",
        })
    }
}

impl fmt::Display for Last {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no last value",
            Self::Topic => "the last value",
            Self::Key => "the last value of each key",
        })
    }
}

impl fmt::Display for TopicSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.channel)?;
        if self.channel == Channel::Fast {
            write!(f, " {}", self.mode)?;
        }
        if self.storage == Storage::Disk {
            write!(f, " {}", self.storage)?;
        }
        if self.deadline_us != 0 {
            write!(f, ", within {:?}", Duration::from_micros(self.deadline_us.into()))?;
        }
        if self.payload_bytes_max != 0 {
            write!(f, ", payload ≤ {} B", self.payload_bytes_max)?;
        }
        if self.retain_bytes != 0 {
            write!(f, ", keeps {} B", self.retain_bytes)?;
        }
        if self.retain_messages != 0 {
            write!(f, ", keeps {} messages", self.retain_messages)?;
        }
        if self.retain_age_ms != 0 {
            write!(f, ", keeps messages for {:?}", Duration::from_millis(self.retain_age_ms))?;
        }
        if self.last != Last::None {
            write!(f, ", keeps {}", self.last)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_conflicts_with_nothing() {
        let strict =
            TopicSpec::reliable().with_payload_bytes_max(9).with_retain_bytes(9).with_retain_messages(9);
        assert_eq!(strict.conflict(&TopicSpec::reliable()), None);
        assert_eq!(TopicSpec::reliable().conflict(&strict), None);
    }

    #[test]
    fn different_numbers_modes_or_channels_conflict() {
        let fast = TopicSpec::fast().with_payload_bytes_max(9);
        let conflict = |asked: TopicSpec| fast.conflict(&asked).unwrap().to_string();
        assert_eq!(conflict(TopicSpec::reliable()), "topic is declared fast, not reliable");
        assert_eq!(conflict(fast.with_mode(Mode::Latest)), "topic is declared ordered, not latest");
        assert_eq!(
            conflict(fast.with_payload_bytes_max(8)),
            "topic is declared with payloads of at most 9 bytes, not 8"
        );
    }

    #[test]
    fn storage_must_agree_and_last_values_and_the_age_where_both_are_named() {
        let durable = TopicSpec::durable().with_retain_age(Duration::from_secs(60)).with_last(Last::Key);
        let conflict = |asked: TopicSpec| durable.conflict(&asked).map(|conflict| conflict.to_string());
        let of = |text: &str| Some(text.to_owned());
        assert_eq!(conflict(TopicSpec::reliable()), of("topic is declared on disk, not in memory"));
        assert_eq!(conflict(TopicSpec::durable()), None, "who names no last value has no opinion");
        let key = "topic is declared to keep the last value of each key, not the last value";
        assert_eq!(conflict(TopicSpec::durable().with_last(Last::Topic)), of(key));
        let none = TopicSpec::durable().conflict(&durable).map(|conflict| conflict.to_string());
        assert_eq!(none, of("topic is declared to keep no last value, not the last value of each key"));
        assert_eq!(conflict(TopicSpec::durable().with_last(Last::Key)), None);
        assert_eq!(
            conflict(durable.with_retain_age(Duration::from_secs(61))),
            of("topic is declared to keep messages for 60000 ms, not 61000 ms")
        );
    }

    #[test]
    fn an_age_is_never_rounded_to_no_opinion() {
        let age_ms = |age| TopicSpec::durable().with_retain_age(age).retain_age_ms;
        assert_eq!(age_ms(Duration::ZERO), 0);
        assert_eq!(age_ms(Duration::from_nanos(1)), 1);
        assert_eq!(age_ms(Duration::from_millis(7)), 7);
        assert_eq!(age_ms(Duration::MAX), u64::MAX);
    }

    #[test]
    fn only_fast_topics_have_a_deadline_and_it_has_a_bound() {
        let spec = TopicSpec::fast().with_deadline(Duration::from_nanos(1));
        assert_eq!(spec.deadline_us, 1, "never rounded to no limit");
        assert_eq!(
            TopicSpec::fast().with_deadline(Duration::MAX).deadline_us,
            DEADLINE_MAX.as_micros() as u32
        );
        assert!(!TopicSpec { deadline_us: 1, ..TopicSpec::reliable() }.is_consistent());
        let conflict = spec.conflict(&TopicSpec::fast().with_deadline(Duration::from_millis(2))).unwrap();
        assert_eq!(conflict.to_string(), "topic is declared with a deadline of 1 µs, not 2000 µs");
        assert_eq!(spec.conflict(&TopicSpec::fast()), None);
    }

    #[test]
    fn only_reliable_topics_are_on_disk_or_keep_last_values() {
        for (storage, last) in
            [(Storage::Memory, Last::Topic), (Storage::Memory, Last::Key), (Storage::Disk, Last::None)]
        {
            assert!(!TopicSpec { storage, last, ..TopicSpec::fast() }.is_consistent(), "{storage}, {last}");
            assert!(
                TopicSpec { storage, last, ..TopicSpec::reliable() }.is_consistent(),
                "{storage}, {last}"
            );
        }
    }

    #[test]
    fn a_spec_reads_like_a_sentence() {
        assert_eq!(TopicSpec::reliable().to_string(), "reliable");
        let durable = TopicSpec::durable()
            .with_retain_bytes(1 << 20)
            .with_retain_age(Duration::from_secs(90))
            .with_last(Last::Key);
        assert_eq!(
            durable.to_string(),
            "reliable on disk, keeps 1048576 B, keeps messages for 90s, keeps the last value of each key"
        );
        let spec =
            TopicSpec::fast().with_mode(Mode::Latest).with_payload_bytes_max(64).with_retain_messages(1);
        assert_eq!(spec.to_string(), "fast latest, payload ≤ 64 B, keeps 1 messages");
        let soon = TopicSpec::fast().with_deadline(Duration::from_millis(50));
        assert_eq!(soon.to_string(), "fast ordered, within 50ms");
    }
}
