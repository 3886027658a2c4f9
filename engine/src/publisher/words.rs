//! What goes into a publish beside the payload, and what comes out of it: plain data.

use std::time::Duration;

use twinlane_proto::Level;
use twinlane_proto::frame::ReplyTo;

/// The outcome of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ack {
    /// The message's place in this publisher's stream, from 1.
    pub seq: u64,
    /// Its place in the topic. `None` on a fast topic of a remote engine: nobody answers for it.
    pub offset: Option<u64>,
    /// The epoch the offset belongs to.
    pub epoch: u64,
    /// How safely it is kept. `None` on a fast topic.
    pub level: Option<Level>,
}

/// The outcome of [`Publisher::publish_batch`](crate::Publisher::publish_batch): all of them are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchAck {
    /// The first message's seq; the others follow densely.
    pub first_seq: u64,
    /// How many there are.
    pub count: u64,
    /// The last message's place in the topic; `None` on a fast topic.
    pub last_offset: Option<u64>,
}

/// Outcomes of everything published so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Flushed {
    /// Messages stored (reliable) or sent (fast).
    pub acked: u64,
    /// Messages certainly not stored.
    pub refused: u64,
}

/// What a message carries besides its payload.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct MessageOptions<'a> {
    /// A hash of what the message is about.
    pub key: Option<u64>,
    /// Names and values for the subscribers: at most 32, together 4 KiB.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// Queue groups hand the message over no earlier than this long after it reached the server. Subscribers get it
    /// at once.
    pub delay: Option<Duration>,
    /// Fast topics: how long the message may wait in queues, from the publisher's to the subscriber's. Then it is dropped
    /// and counted as expired. `None`: the topic's deadline. At most half an hour.
    pub deadline: Option<Duration>,
    pub(crate) reply_to: Option<ReplyTo>,
    pub(crate) correlation: Option<u64>,
}

impl<'a> MessageOptions<'a> {
    /// Sets the key.
    #[must_use]
    pub fn with_key(mut self, key: u64) -> Self {
        self.key = Some(key);
        self
    }

    /// Sets the headers.
    #[must_use]
    pub fn with_headers(mut self, headers: &'a [(&'a str, &'a [u8])]) -> Self {
        self.headers = headers;
        self
    }

    /// Sets the delay until queue groups hand the message over.
    #[must_use]
    pub fn with_delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Sets the deadline.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    #[inline]
    pub(crate) fn is_none(&self) -> bool {
        let Self { key, headers, delay, deadline, reply_to, correlation } = self;
        let is_plain = key.is_none() && headers.is_empty() && delay.is_none() && deadline.is_none();
        is_plain && reply_to.is_none() && correlation.is_none()
    }
}
