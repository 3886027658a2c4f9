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
    /// A payload names a publisher this run does not have.
    #[error("a payload names publisher {publisher}, this run has {publishers}")]
    UnknownPublisher {
        /// Publisher named by the payload.
        publisher: u16,
        /// Publishers of this run.
        publishers: usize,
    },
    /// A message arrived a second time, or after a later one.
    #[error("publisher {publisher}: seq {seq} arrived after seq {last_seq}")]
    Order {
        /// Publisher of both messages.
        publisher: u16,
        /// Seq of the message that came too late.
        seq: u64,
        /// Seq that had arrived before.
        last_seq: u64,
    },
    /// The engine's header and the payload disagree about the message's number.
    #[error("publisher {publisher}: payload says seq {seq}, the header says {header_seq}")]
    Header {
        /// Publisher named by the payload.
        publisher: u16,
        /// Seq in the payload.
        seq: u64,
        /// Seq in the engine's header.
        header_seq: u64,
    },
    /// A reliable topic lost messages, reported or not.
    #[error("a reliable topic lost {lost} messages of publisher {publisher} before seq {seq}")]
    Lost {
        /// Publisher whose messages are missing.
        publisher: u16,
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
    #[error("{delivered} delivered + {lost} reported lost is not {sent} sent")]
    Sum {
        /// Messages that arrived.
        delivered: u64,
        /// Messages the engine reported missing.
        lost: u64,
        /// Messages the publishers sent.
        sent: u64,
    },
}

/// Counts and checks what one subscription of a run receives.
#[derive(Debug)]
pub struct Ledger {
    payload_bytes: usize,
    reliable: bool,
    last_seqs: Vec<u64>,
    delivered: u64,
    gaps: u64,
    lost: u64,
}

impl Ledger {
    /// A ledger for a run of `publishers` publishers that send payloads of `payload_bytes`.
    #[must_use]
    pub fn new(publishers: usize, payload_bytes: usize, reliable: bool) -> Self {
        Self { payload_bytes, reliable, last_seqs: vec![0; publishers], delivered: 0, gaps: 0, lost: 0 }
    }

    /// Books a message: checks its content, its number and its place in the publisher's order.
    ///
    /// # Errors
    ///
    /// [`Violation`]: the message breaks a promise.
    pub fn message(&mut self, payload: &[u8], header_seq: u64) -> Result<Stamp, Violation> {
        let stamp = check(payload, self.payload_bytes)?;
        let Stamp { publisher, seq, .. } = stamp;
        let publishers = self.last_seqs.len();
        let Some(last_seq) = self.last_seqs.get_mut(usize::from(publisher)) else {
            return Err(Violation::UnknownPublisher { publisher, publishers });
        };
        if header_seq != seq {
            return Err(Violation::Header { publisher, seq, header_seq });
        }
        if seq <= *last_seq {
            return Err(Violation::Order { publisher, seq, last_seq: *last_seq });
        }
        let lost = seq - *last_seq - 1;
        if self.reliable && lost > 0 {
            return Err(Violation::Lost { publisher, seq, lost });
        }
        *last_seq = seq;
        self.delivered += 1;
        Ok(stamp)
    }

    /// Books a gap of `count` messages the engine reported; `gap` gives its words for the error.
    ///
    /// # Errors
    ///
    /// [`Violation::Gap`]: a reliable topic promises none.
    pub fn gap(&mut self, count: u64, gap: impl FnOnce() -> String) -> Result<(), Violation> {
        if self.reliable {
            return Err(Violation::Gap { gap: gap() });
        }
        self.gaps += 1;
        self.lost += count;
        Ok(())
    }

    /// Whether every one of `sent` messages is accounted for. Call it after the publishers have closed.
    #[must_use]
    pub fn is_settled(&self, sent: u64) -> bool {
        self.delivered + self.lost >= sent
    }

    /// Closes the books.
    ///
    /// # Errors
    ///
    /// [`Violation::Sum`]: a message is unaccounted for, or counted twice.
    pub fn close(self, sent: u64) -> Result<Closed, Violation> {
        let Self { delivered, gaps, lost, .. } = self;
        if delivered + lost != sent {
            return Err(Violation::Sum { delivered, lost, sent });
        }
        Ok(Closed { delivered, gaps, lost })
    }

    /// Messages that arrived so far.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered
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
        ledger.message(&payload(publisher, seq), seq)
    }

    #[test]
    fn reliable_books_close_when_everything_arrived_in_order() {
        let mut ledger = Ledger::new(2, 32, true);
        for (publisher, seq) in [(0, 1), (1, 1), (1, 2), (0, 2), (0, 3)] {
            receive(&mut ledger, publisher, seq).unwrap();
        }
        assert!(ledger.is_settled(5));
        assert_eq!(ledger.close(5).unwrap(), Closed { delivered: 5, gaps: 0, lost: 0 });
    }

    #[test]
    fn a_reliable_hole_is_a_violation_that_counts_the_missing() {
        let mut ledger = Ledger::new(1, 32, true);
        receive(&mut ledger, 0, 1).unwrap();
        let error = receive(&mut ledger, 0, 5).unwrap_err();
        assert!(matches!(error, Violation::Lost { publisher: 0, seq: 5, lost: 3 }), "{error}");
    }

    #[test]
    fn a_repeat_and_a_step_back_are_violations_on_both_channels() {
        for reliable in [true, false] {
            for seq in [1, 2] {
                let mut ledger = Ledger::new(1, 32, reliable);
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
            let mut ledger = Ledger::new(1, 32, false);
            receive(&mut ledger, 0, 1).unwrap();
            ledger.gap(reported, String::new).unwrap();
            receive(&mut ledger, 0, 5).unwrap();
            assert_eq!(ledger.close(5).is_ok(), closes, "{reported} reported, 3 missing");
        }
    }

    #[test]
    fn messages_lost_before_the_first_that_arrived_must_be_reported_too() {
        for (reported, closes) in [(0, false), (7, true)] {
            let mut ledger = Ledger::new(1, 32, false);
            ledger.gap(reported, String::new).unwrap();
            receive(&mut ledger, 0, 8).unwrap();
            assert_eq!(ledger.close(8).is_ok(), closes, "{reported} reported, 7 missing");
        }
    }

    #[test]
    fn a_lost_tail_is_unsettled_until_it_is_reported() {
        let mut ledger = Ledger::new(1, 32, false);
        receive(&mut ledger, 0, 1).unwrap();
        assert!(!ledger.is_settled(3));
        ledger.gap(2, String::new).unwrap();
        assert!(ledger.is_settled(3));
        assert_eq!(ledger.close(3).unwrap(), Closed { delivered: 1, gaps: 1, lost: 2 });
    }

    #[test]
    fn a_gap_on_a_reliable_topic_is_a_violation() {
        let mut ledger = Ledger::new(1, 32, true);
        let error = ledger.gap(1, || "offsets 4..5".into()).unwrap_err();
        assert_eq!(error.to_string(), "a reliable topic reported a gap: offsets 4..5");
    }

    #[test]
    fn a_foreign_publisher_and_a_wrong_header_are_violations() {
        let mut ledger = Ledger::new(1, 32, true);
        let error = receive(&mut ledger, 1, 1).unwrap_err();
        assert!(matches!(error, Violation::UnknownPublisher { publisher: 1, publishers: 1 }), "{error}");
        let error = ledger.message(&payload(0, 1), 2).unwrap_err();
        assert!(matches!(error, Violation::Header { seq: 1, header_seq: 2, .. }), "{error}");
    }
}
