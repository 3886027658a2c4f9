//! What a topic was declared as. Two declarations of one topic must agree; zero means "no opinion".

use std::fmt;

use thiserror::Error;

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
    /// Bytes of one payload at most.
    pub payload_bytes_max: u32,
    /// Bytes of messages that the server keeps at most.
    pub retain_bytes: u64,
    /// Messages that the server keeps at most.
    pub retain_messages: u64,
}

impl TopicSpec {
    /// A fast, ordered topic with the server's default limits.
    #[must_use]
    pub const fn fast() -> Self {
        Self {
            channel: Channel::Fast,
            mode: Mode::Ordered,
            payload_bytes_max: 0,
            retain_bytes: 0,
            retain_messages: 0,
        }
    }

    /// A reliable topic with the server's default limits.
    #[must_use]
    pub const fn reliable() -> Self {
        Self { channel: Channel::Reliable, ..Self::fast() }
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

    /// Whether channel and mode go together.
    #[must_use]
    pub const fn is_consistent(&self) -> bool {
        matches!((self.channel, self.mode), (Channel::Fast, _) | (Channel::Reliable, Mode::Ordered))
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

impl fmt::Display for TopicSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.channel)?;
        if self.channel == Channel::Fast {
            write!(f, " {}", self.mode)?;
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
    fn a_spec_reads_like_a_sentence() {
        assert_eq!(TopicSpec::reliable().to_string(), "reliable");
        let spec =
            TopicSpec::fast().with_mode(Mode::Latest).with_payload_bytes_max(64).with_retain_messages(1);
        assert_eq!(spec.to_string(), "fast latest, payload ≤ 64 B, keeps 1 messages");
    }
}
