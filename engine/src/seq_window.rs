//! Remembers which of the last 1,024 seqs of one publisher stream were seen: tells what is new from what comes late or
//! again.
//!
//! Fixed memory; a seq older than the window counts as seen, so nothing is ever taken twice. It does not count what is
//! missing: an ordered stream's holes are found by its newest seq, an unordered one's when they leave the window.

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
pub(crate) enum Look {
    /// Newer than all before it. `lost` older seqs left the window unseen.
    New { lost: u64 },
    /// For the first time, but after a newer one: one of the missing seqs came after all.
    Late,
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

    /// The highest seq seen; 0 before the first one.
    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// The lowest seq that is expected here.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Sees `seq`.
    pub(crate) fn look(&mut self, seq: u64) -> Look {
        if seq > self.newest {
            return Look::New { lost: self.advance(seq) };
        }
        if seq < self.first || self.newest - seq >= WINDOW_SEQS || self.is_set(seq) {
            return Look::Before;
        }
        self.set(seq);
        Look::Late
    }

    /// Sees `seq`, with which the stream begins earlier than was known. Returns how many seqs between it and what was
    /// the first are missing from now on; nothing happens if it is not earlier.
    pub(crate) fn begin_at(&mut self, seq: u64) -> u64 {
        if seq >= self.first {
            return 0;
        }
        let missing = self.first - seq - 1;
        self.first = seq;
        // A bit further back than the window belongs to another seq.
        if self.newest - seq < WINDOW_SEQS {
            self.set(seq);
        }
        missing
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
    fn each_seq_is_new_or_late_once_and_never_again() {
        let mut window = SeqWindow::starting_at(5);
        assert_eq!(window.look(5), Look::Before);
        assert_eq!(window.look(4), Look::Before, "before the first");
        assert_eq!(window.look(8), Look::New { lost: 0 });
        assert_eq!(window.look(6), Look::Late);
        assert_eq!(window.look(6), Look::Before);
        assert_eq!(window.finish(9), 2, "7 and 9 never came");
    }

    #[test]
    fn seqs_that_leave_the_window_unseen_are_counted_once() {
        let mut window = SeqWindow::starting_at(1);
        assert_eq!(window.look(3 + WINDOW_SEQS), Look::New { lost: 2 });
        assert_eq!(window.look(3), Look::Before, "older than the window");
        assert_eq!(window.look(4), Look::Late);
    }

    #[test]
    fn a_stream_that_begins_earlier_than_was_known_misses_what_lies_between() {
        let mut window = SeqWindow::starting_at(10);
        assert_eq!(window.begin_at(12), 0, "that is not earlier");
        assert_eq!(window.begin_at(7), 2);
        assert_eq!(window.first(), 7);
        assert_eq!(window.look(7), Look::Before, "it was seen with that");
        assert_eq!(window.look(8), Look::Late);
        assert_eq!(window.look(6), Look::Before, "before the first");
        assert_eq!(window.finish(10), 1, "9 never came");
        let mut window = SeqWindow::starting_at(5_000);
        assert_eq!(window.begin_at(5_001 - WINDOW_SEQS - 1), WINDOW_SEQS - 1);
        assert_eq!(window.look(5_001 - WINDOW_SEQS), Look::Late, "the oldest seq of the window");
    }

    /// What an ordered stream counts: a hole when it opens, a late seq when it comes after all.
    #[test]
    fn holes_less_late_seqs_are_what_never_came() {
        for seed in 1..50_u64 {
            let mut next = random(seed);
            let mut window = SeqWindow::starting_at(1);
            let (mut came, mut missing) = (BTreeSet::from([1]), 0);
            for at in 2..2_000_u64 {
                let newest = window.newest();
                let seq = at.saturating_sub(next() % 30).max(1);
                match window.look(seq) {
                    Look::New { .. } => missing += seq - newest - 1,
                    Look::Late => missing -= 1,
                    Look::Before => assert!(came.contains(&seq), "seed {seed}: {seq} is new"),
                }
                came.insert(seq);
                assert_eq!(came.len() as u64 + missing, window.newest(), "seed {seed}, {at}");
            }
        }
    }

    #[test]
    fn seen_and_lost_always_add_up() {
        for seed in 1..50_u64 {
            let mut next = random(seed);
            let mut window = SeqWindow::starting_at(1);
            let (mut taken, mut lost, mut at) = (BTreeSet::from([1]), 0, 1);
            for _ in 0..2_000 {
                at += next() % 5;
                let seq = if next().is_multiple_of(50) { at + 1_500 } else { at.saturating_sub(next() % 40) };
                match window.look(seq) {
                    Look::New { lost: gone } => {
                        assert!(taken.insert(seq), "seed {seed}: {seq} twice");
                        lost += gone;
                    }
                    Look::Late => assert!(taken.insert(seq), "seed {seed}: {seq} twice"),
                    Look::Before => {}
                }
                at = at.max(seq);
            }
            let last = window.newest() + 10;
            lost += window.finish(last);
            assert_eq!(taken.len() as u64 + lost, last, "seed {seed}");
        }
    }

    fn random(seed: u64) -> impl FnMut() -> u64 {
        let mut state = seed;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        }
    }
}
