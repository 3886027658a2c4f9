//! The books of a group of subscribers: every payload is checked, every seq has its place.

use anyhow::{Result, bail};
use twinlane_bench::payload::{PayloadError, Stamp, check};

/// Publisher number of the messages that only find out who is subscribed.
pub(super) const PROBE: u16 = u16::MAX;

/// What a group has received.
#[derive(Debug)]
pub(super) struct Books {
    payload_bytes: usize,
    last_seqs: Vec<u64>,
    is_probed: Vec<bool>,
    probed: usize,
    delivered: u64,
    out_of_order: u64,
    corrupt: Option<PayloadError>,
}

impl Books {
    pub(super) fn new(subscribers: usize, payload_bytes: usize) -> Self {
        Self {
            payload_bytes,
            last_seqs: vec![0; subscribers],
            is_probed: vec![false; subscribers],
            probed: 0,
            delivered: 0,
            out_of_order: 0,
            corrupt: None,
        }
    }

    /// Books a payload; gives its stamp if it counts.
    #[inline]
    pub(super) fn message(&mut self, subscriber: usize, payload: &[u8]) -> Option<Stamp> {
        let stamp = match check(payload, self.payload_bytes) {
            Ok(stamp) => stamp,
            Err(error) => {
                self.corrupt.get_or_insert(error);
                return None;
            }
        };
        if stamp.publisher == PROBE {
            self.probe(subscriber);
            return None;
        }
        let last_seq = &mut self.last_seqs[subscriber];
        if stamp.seq <= *last_seq {
            self.out_of_order += 1;
            return None;
        }
        *last_seq = stamp.seq;
        self.delivered += 1;
        Some(stamp)
    }

    #[cold]
    fn probe(&mut self, subscriber: usize) {
        if !self.is_probed[subscriber] {
            self.is_probed[subscriber] = true;
            self.probed += 1;
        }
    }

    /// Subscribers that have received a probe.
    pub(super) fn probed(&self) -> usize {
        self.probed
    }

    /// Messages that arrived intact and in order.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Messages that arrived after a later one, or twice.
    pub(super) fn out_of_order(&self) -> u64 {
        self.out_of_order
    }

    /// Fails if anything arrived that was not sent.
    pub(super) fn proven(&self) -> Result<()> {
        match &self.corrupt {
            Some(error) => bail!("a payload was damaged: {error}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinlane_bench::payload::fill;

    fn payload(publisher: u16, seq: u64) -> [u8; 32] {
        let mut payload = [0; 32];
        fill(Stamp { publisher, seq, due_ns: 0 }, &mut payload);
        payload
    }

    #[test]
    fn only_messages_in_order_count() {
        let mut books = Books::new(2, 32);
        for (subscriber, seq) in [(0, 1), (0, 3), (0, 2), (0, 3), (1, 1)] {
            books.message(subscriber, &payload(0, seq));
        }
        assert_eq!((books.delivered(), books.out_of_order()), (3, 2));
        assert!(books.proven().is_ok());
    }

    #[test]
    fn probes_count_subscribers_and_nothing_else() {
        let mut books = Books::new(2, 32);
        for subscriber in [0, 0, 1] {
            assert!(books.message(subscriber, &payload(PROBE, 1)).is_none());
        }
        assert_eq!((books.probed(), books.delivered()), (2, 0));
    }

    #[test]
    fn a_damaged_payload_fails_the_run() {
        let mut books = Books::new(1, 32);
        let mut damaged = payload(0, 1);
        damaged[30] ^= 1;
        assert!(books.message(0, &damaged).is_none());
        assert!(books.proven().is_err());
    }
}
