//! Remembers which of the last 1,024 seqs of one publisher stream were seen, for streams without an order.
//!
//! Fixed memory; a seq older than the window counts as seen, so nothing is ever taken twice.

/// Seqs that can be told apart from the newest one downwards: the duplicate window of promise F1.
pub(crate) const WINDOW_SEQS: u64 = 1_024;

const WORDS: usize = (WINDOW_SEQS / 64) as usize;

#[derive(Debug, Clone)]
pub(crate) struct SeqWindow {
    newest: u64,
    /// Bit `seq % 1024`: seen. Bits of seqs not yet reached are clear.
    seen: [u64; WORDS],
    /// The first seq that counts: those before it were never expected here.
    first: u64,
}

/// What a seq turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// For the first time. `lost` older seqs left the window unseen.
    New { lost: u64 },
    /// Again, or too old to tell.
    Before,
}

impl SeqWindow {
    /// Starts with `seq` as the first one seen.
    pub(crate) fn starting_at(seq: u64) -> Self {
        let mut window = Self { newest: seq, seen: [0; WORDS], first: seq };
        window.set(seq);
        window
    }

    /// Starts before the first seq of a stream that is known from its beginning.
    pub(crate) fn from_beginning() -> Self {
        Self { newest: 0, seen: [0; WORDS], first: 1 }
    }

    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    pub(crate) fn see(&mut self, seq: u64) -> Seen {
        if seq > self.newest {
            return Seen::New { lost: self.advance(seq) };
        }
        if seq < self.first || self.newest - seq >= WINDOW_SEQS || self.is_set(seq) {
            return Seen::Before;
        }
        self.set(seq);
        Seen::New { lost: 0 }
    }

    /// The stream ended with `last`: how many seqs up to it were never seen.
    pub(crate) fn finish(&mut self, last: u64) -> u64 {
        let before = if last > self.newest { self.advance(last) + 1 } else { 0 };
        let from = self.first.max(self.newest.saturating_sub(WINDOW_SEQS - 1));
        let unseen = (from..=self.newest).filter(|seq| !self.is_set(*seq)).count() as u64;
        before + unseen
    }

    /// Moves the window so that `seq` is its newest; counts unseen seqs that fall out.
    fn advance(&mut self, seq: u64) -> u64 {
        let mut lost = (seq - self.newest).saturating_sub(WINDOW_SEQS);
        let steps = (seq - self.newest).min(WINDOW_SEQS);
        // The slots that the new seqs take over hold the oldest seqs of the window.
        for step in 1..=steps {
            let taken = self.newest + step;
            let leaving = taken.checked_sub(WINDOW_SEQS);
            if leaving.is_some_and(|leaving| leaving >= self.first && !self.is_set(leaving)) {
                lost += 1;
            }
            self.clear(taken);
        }
        self.newest = seq;
        self.set(seq);
        lost
    }

    fn is_set(&self, seq: u64) -> bool {
        self.seen[Self::word(seq)] & (1 << (seq % 64)) != 0
    }

    fn set(&mut self, seq: u64) {
        self.seen[Self::word(seq)] |= 1 << (seq % 64);
    }

    fn clear(&mut self, seq: u64) {
        self.seen[Self::word(seq)] &= !(1 << (seq % 64));
    }

    fn word(seq: u64) -> usize {
        ((seq % WINDOW_SEQS) / 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_seq_is_new_once_and_never_again() {
        let mut window = SeqWindow::starting_at(5);
        assert_eq!(window.see(5), Seen::Before);
        assert_eq!(window.see(4), Seen::Before, "before the first");
        assert_eq!(window.see(8), Seen::New { lost: 0 });
        assert_eq!(window.see(6), Seen::New { lost: 0 });
        assert_eq!(window.see(6), Seen::Before);
        assert_eq!(window.finish(9), 2, "7 and 9 never came");
    }

    #[test]
    fn seqs_that_leave_the_window_unseen_are_counted_once() {
        let mut window = SeqWindow::starting_at(1);
        assert_eq!(window.see(3 + WINDOW_SEQS), Seen::New { lost: 2 });
        assert_eq!(window.see(3), Seen::Before, "older than the window");
        assert_eq!(window.see(4), Seen::New { lost: 0 });
    }

    #[test]
    fn seen_and_lost_always_add_up() {
        for seed in 1..50_u64 {
            let mut state = seed;
            let mut next = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state
            };
            let mut window = SeqWindow::starting_at(1);
            let (mut taken, mut lost, mut at) = (BTreeSet::from([1]), 0, 1);
            for _ in 0..2_000 {
                at += next() % 5;
                let seq = if next() % 50 == 0 { at + 1_500 } else { at.saturating_sub(next() % 40) };
                if let Seen::New { lost: gone } = window.see(seq) {
                    assert!(taken.insert(seq), "seed {seed}: {seq} twice");
                    lost += gone;
                }
                at = at.max(seq);
            }
            let last = window.newest() + 10;
            lost += window.finish(last);
            assert_eq!(taken.len() as u64 + lost, last, "seed {seed}");
        }
    }
}
