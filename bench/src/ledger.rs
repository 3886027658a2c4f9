//! The books of one subscription: what arrived, what was reported missing, and whether that adds up.
//!
//! A ledger believes payloads, not the engine: holes are counted from the seqs inside the payloads and must
//! agree exactly with the gaps the engine reported once the publishers have closed.

use thiserror::Error;

use crate::payload::{PayloadError, Stamp, check};

/// A promise was broken: the run ends with an error, whatever its figures.
#[derive(Debug, Error)]
pub enum Violation {
    /// A payload arrived with wrong content.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// A payload names a stream this run does not have.
    #[error("a payload names stream {stream}, this run has {streams}")]
    UnknownStream {
        /// Stream named by the payload.
        stream: u16,
        /// Streams of this run.
        streams: usize,
    },
    /// A message arrived on another topic than it was sent to.
    #[error("stream {stream}: seq {seq} arrived on topic {topic}, it was sent to topic {meant_for}")]
    Topic {
        /// Stream of the message.
        stream: u16,
        /// Seq of the message.
        seq: u64,
        /// Number of the topic it came on.
        topic: usize,
        /// Number of its own topic.
        meant_for: usize,
    },
    /// A gap names a topic this run does not have.
    #[error("a gap is reported on topic {topic}, this run has {topics}")]
    UnknownTopic {
        /// Number of that topic.
        topic: usize,
        /// Topics of this run.
        topics: usize,
    },
    /// A message arrived a second time, or after a later one.
    #[error("stream {stream}: seq {seq} arrived after seq {last_seq}")]
    Order {
        /// Stream of both messages.
        stream: u16,
        /// Seq of the message that came too late.
        seq: u64,
        /// Seq that had arrived before.
        last_seq: u64,
    },
    /// The engine's header and the payload disagree about the message's number.
    #[error("stream {stream}: payload says seq {seq}, the header says {header_seq}")]
    Header {
        /// Stream named by the payload.
        stream: u16,
        /// Seq in the payload.
        seq: u64,
        /// Seq in the engine's header.
        header_seq: u64,
    },
    /// A reliable topic lost messages, reported or not.
    #[error("a reliable topic lost {lost} messages of stream {stream} before seq {seq}")]
    Lost {
        /// Stream whose messages are missing.
        stream: u16,
        /// First seq after the hole.
        seq: u64,
        /// Messages in the hole.
        lost: u64,
    },
    /// A reliable topic reported a gap.
    #[error("a reliable topic reported a gap: {gap}")]
    Gap {
        /// The engine's own words.
        gap: String,
    },
    /// After a clean close the sum is wrong.
    #[error("topic {topic}: {delivered} delivered + {lost} reported lost is not {sent} sent")]
    Sum {
        /// Number of the topic.
        topic: usize,
        /// Messages that arrived.
        delivered: u64,
        /// Messages the engine reported missing.
        lost: u64,
        /// Messages the publishers sent.
        sent: u64,
    },
}

/// Counts and checks what one subscription of a run receives, topic by topic.
///
/// A publisher has a stream of its own on every topic: stream `s` of a run on `n` topics belongs to topic `s % n`.
#[derive(Debug)]
pub struct Ledger {
    payload_bytes: usize,
    reliable: bool,
    last_seqs: Vec<u64>,
    topics: Vec<Closed>,
    all: Closed,
}

impl Ledger {
    /// A ledger for a run of `publishers` publishers that send payloads of `payload_bytes` to `topics` topics.
    #[must_use]
    pub fn new(publishers: usize, topics: usize, payload_bytes: usize, reliable: bool) -> Self {
        Self {
            payload_bytes,
            reliable,
            last_seqs: vec![0; publishers * topics],
            topics: vec![Closed::default(); topics],
            all: Closed::default(),
        }
    }

    /// Books a message that came on topic number `topic`: checks its content, its number and its place in the
    /// publisher's order.
    ///
    /// # Errors
    ///
    /// [`Violation`]: the message breaks a promise.
    pub fn message(&mut self, topic: usize, payload: &[u8], header_seq: u64) -> Result<Stamp, Violation> {
        let stamp = check(payload, self.payload_bytes)?;
        let Stamp { publisher: stream, seq, .. } = stamp;
        let streams = self.last_seqs.len();
        let Some(last_seq) = self.last_seqs.get_mut(usize::from(stream)) else {
            return Err(Violation::UnknownStream { stream, streams });
        };
        let meant_for = usize::from(stream) % self.topics.len();
        if topic != meant_for {
            return Err(Violation::Topic { stream, seq, topic, meant_for });
        }
        if header_seq != seq {
            return Err(Violation::Header { stream, seq, header_seq });
        }
        if seq <= *last_seq {
            return Err(Violation::Order { stream, seq, last_seq: *last_seq });
        }
        let lost = seq - *last_seq - 1;
        if self.reliable && lost > 0 {
            return Err(Violation::Lost { stream, seq, lost });
        }
        *last_seq = seq;
        self.topics[topic].delivered += 1;
        self.all.delivered += 1;
        Ok(stamp)
    }

    /// Books a gap of `count` messages the engine reported on topic number `topic`; `gap` gives its words for the
    /// error.
    ///
    /// # Errors
    ///
    /// [`Violation::Gap`]: a reliable topic promises none, and [`Violation::UnknownTopic`].
    pub fn gap(&mut self, topic: usize, count: u64, gap: impl FnOnce() -> String) -> Result<(), Violation> {
        if self.reliable {
            return Err(Violation::Gap { gap: gap() });
        }
        let topics = self.topics.len();
        let of_topic = self.topics.get_mut(topic).ok_or(Violation::UnknownTopic { topic, topics })?;
        for books in [of_topic, &mut self.all] {
            books.gaps += 1;
            books.lost += count;
        }
        Ok(())
    }

    /// Whether every one of `sent` messages is accounted for. Call it after the publishers have closed.
    #[must_use]
    pub fn is_settled(&self, sent: u64) -> bool {
        self.all.delivered + self.all.lost >= sent
    }

    /// Closes the books; `sent` says how many messages were sent to each topic.
    ///
    /// # Errors
    ///
    /// [`Violation::Sum`]: a message is unaccounted for, or counted twice.
    ///
    /// # Panics
    ///
    /// If `sent` is of another number of topics.
    pub fn close(self, sent: &[u64]) -> Result<Closed, Violation> {
        assert_eq!(sent.len(), self.topics.len(), "a count for every topic");
        for (topic, (books, &sent)) in self.topics.iter().zip(sent).enumerate() {
            let Closed { delivered, lost, .. } = *books;
            if delivered + lost != sent {
                return Err(Violation::Sum { topic, delivered, lost, sent });
            }
        }
        Ok(self.all)
    }

    /// Messages that arrived so far.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.all.delivered
    }
}

/// Books that add up.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Closed {
    /// Messages that arrived.
    pub delivered: u64,
    /// Gap events the engine reported.
    pub gaps: u64,
    /// Messages in those gaps.
    pub lost: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::fill;

    fn payload(publisher: u16, seq: u64) -> [u8; 32] {
        let mut payload = [0; 32];
        fill(Stamp { publisher, seq, due_ns: 0 }, &mut payload);
        payload
    }

    fn receive(ledger: &mut Ledger, publisher: u16, seq: u64) -> Result<Stamp, Violation> {
        ledger.message(0, &payload(publisher, seq), seq)
    }

    #[test]
    fn reliable_books_close_when_everything_arrived_in_order() {
        let mut ledger = Ledger::new(2, 1, 32, true);
        for (publisher, seq) in [(0, 1), (1, 1), (1, 2), (0, 2), (0, 3)] {
            receive(&mut ledger, publisher, seq).unwrap();
        }
        assert!(ledger.is_settled(5));
        assert_eq!(ledger.close(&[5]).unwrap(), Closed { delivered: 5, gaps: 0, lost: 0 });
    }

    #[test]
    fn a_reliable_hole_is_a_violation_that_counts_the_missing() {
        let mut ledger = Ledger::new(1, 1, 32, true);
        receive(&mut ledger, 0, 1).unwrap();
        let error = receive(&mut ledger, 0, 5).unwrap_err();
        assert!(matches!(error, Violation::Lost { stream: 0, seq: 5, lost: 3 }), "{error}");
    }

    #[test]
    fn a_repeat_and_a_step_back_are_violations_on_both_channels() {
        for reliable in [true, false] {
            for seq in [1, 2] {
                let mut ledger = Ledger::new(1, 1, 32, reliable);
                receive(&mut ledger, 0, 1).unwrap();
                receive(&mut ledger, 0, 2).unwrap();
                let error = receive(&mut ledger, 0, seq).unwrap_err();
                assert!(matches!(error, Violation::Order { last_seq: 2, .. }), "{error}");
            }
        }
    }

    #[test]
    fn fast_books_close_only_when_the_reported_gaps_cover_the_holes_exactly() {
        for (reported, closes) in [(2, false), (3, true), (4, false)] {
            let mut ledger = Ledger::new(1, 1, 32, false);
            receive(&mut ledger, 0, 1).unwrap();
            ledger.gap(0, reported, String::new).unwrap();
            receive(&mut ledger, 0, 5).unwrap();
            assert_eq!(ledger.close(&[5]).is_ok(), closes, "{reported} reported, 3 missing");
        }
    }

    #[test]
    fn messages_lost_before_the_first_that_arrived_must_be_reported_too() {
        for (reported, closes) in [(0, false), (7, true)] {
            let mut ledger = Ledger::new(1, 1, 32, false);
            ledger.gap(0, reported, String::new).unwrap();
            receive(&mut ledger, 0, 8).unwrap();
            assert_eq!(ledger.close(&[8]).is_ok(), closes, "{reported} reported, 7 missing");
        }
    }

    #[test]
    fn a_lost_tail_is_unsettled_until_it_is_reported() {
        let mut ledger = Ledger::new(1, 1, 32, false);
        receive(&mut ledger, 0, 1).unwrap();
        assert!(!ledger.is_settled(3));
        ledger.gap(0, 2, String::new).unwrap();
        assert!(ledger.is_settled(3));
        assert_eq!(ledger.close(&[3]).unwrap(), Closed { delivered: 1, gaps: 1, lost: 2 });
    }

    #[test]
    fn a_gap_on_a_reliable_topic_is_a_violation() {
        let mut ledger = Ledger::new(1, 1, 32, true);
        let error = ledger.gap(0, 1, || "offsets 4..5".into()).unwrap_err();
        assert_eq!(error.to_string(), "a reliable topic reported a gap: offsets 4..5");
    }

    #[test]
    fn a_foreign_stream_and_a_wrong_header_are_violations() {
        let mut ledger = Ledger::new(1, 1, 32, true);
        let error = receive(&mut ledger, 1, 1).unwrap_err();
        assert!(matches!(error, Violation::UnknownStream { stream: 1, streams: 1 }), "{error}");
        let error = ledger.message(0, &payload(0, 1), 2).unwrap_err();
        assert!(matches!(error, Violation::Header { seq: 1, header_seq: 2, .. }), "{error}");
    }

    #[test]
    fn every_topic_has_books_of_its_own() {
        // Two publishers on three topics: stream 4 is publisher 1 on topic 1.
        let mut ledger = Ledger::new(2, 3, 32, false);
        ledger.message(1, &payload(4, 1), 1).unwrap();
        ledger.gap(2, 1, String::new).unwrap();
        assert!(ledger.is_settled(2));
        let error = ledger.close(&[0, 2, 0]).unwrap_err();
        assert!(matches!(error, Violation::Sum { topic: 1, delivered: 1, sent: 2, .. }), "{error}");
    }

    #[test]
    fn a_message_on_another_topic_is_a_violation() {
        let mut ledger = Ledger::new(1, 3, 32, true);
        let error = ledger.message(2, &payload(1, 1), 1).unwrap_err();
        assert!(matches!(error, Violation::Topic { topic: 2, meant_for: 1, .. }), "{error}");
    }
}
