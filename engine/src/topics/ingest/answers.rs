//! What became of a publisher stream's messages, kept for a publisher that did not hear it.

use std::collections::VecDeque;

use twinlane_proto::Code;

/// Answers kept: more than one publisher can have outstanding runs.
const ANSWERS_MAX: usize = 65_536;

/// What became of `count` messages from `first_seq` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) first_seq: u64,
    pub(super) count: u64,
    pub(super) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The first of them has this offset, the others follow densely.
    Stored(u64),
    Refused(Code),
}

/// Answers in the order of their messages, neighbours merged.
#[derive(Default)]
pub(super) struct Answers {
    kept: VecDeque<Answer>,
}

impl Answers {
    /// The answers of a stream that was read back from the log: whatever is missing up to `last_seq` after the first
    /// was refused.
    pub(super) fn recovered(last_seq: u64, stored: &[twinlane_log::Answer]) -> Self {
        let mut answers = Self::default();
        let mut next_seq = stored.first().map_or(last_seq + 1, |first| first.first_seq);
        let refused = |first_seq: u64, until: u64| Answer {
            first_seq,
            count: until - first_seq,
            what: What::Refused(Code::NoSpace),
        };
        for one in stored {
            if next_seq < one.first_seq {
                answers.remember(refused(next_seq, one.first_seq));
            }
            let what = What::Stored(one.first_offset);
            answers.remember(Answer { first_seq: one.first_seq, count: one.count, what });
            next_seq = one.first_seq + one.count;
        }
        if next_seq <= last_seq {
            answers.remember(refused(next_seq, last_seq + 1));
        }
        answers
    }

    /// Keeps an answer; the oldest is forgotten where there are too many. Returns it.
    pub(super) fn remember(&mut self, answer: Answer) -> Answer {
        if let Some(last) = self.kept.back_mut()
            && last.is_followed_by(&answer)
            && last.count + answer.count <= u64::from(u32::MAX)
        {
            last.count += answer.count;
            return answer;
        }
        if self.kept.len() == ANSWERS_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(answer);
        answer
    }

    /// The publisher has heard of everything up to `seq`.
    pub(super) fn forget_through(&mut self, seq: u64) {
        while self.kept.front().is_some_and(|answer| answer.first_seq + answer.count <= seq + 1) {
            self.kept.pop_front();
        }
    }

    /// What is known of the seqs from `first` to `last`.
    pub(super) fn between(&self, first: u64, last: u64) -> impl Iterator<Item = Answer> {
        self.kept.iter().filter_map(move |answer| answer.from(first)?.until(last))
    }
}

impl Answer {
    fn is_followed_by(&self, next: &Self) -> bool {
        let is_same = match (self.what, next.what) {
            (What::Stored(offset), What::Stored(next)) => offset + self.count == next,
            (What::Refused(code), What::Refused(next)) => code == next,
            _ => false,
        };
        is_same && self.first_seq + self.count == next.first_seq
    }

    /// The part from `seq` on.
    fn from(self, seq: u64) -> Option<Self> {
        let skip = seq.saturating_sub(self.first_seq);
        let what = match self.what {
            What::Stored(offset) => What::Stored(offset + skip),
            refused @ What::Refused(_) => refused,
        };
        (skip < self.count).then(|| Self { first_seq: self.first_seq + skip, count: self.count - skip, what })
    }

    /// The part up to and with `seq`.
    fn until(self, seq: u64) -> Option<Self> {
        let until = |seq: u64| (seq - self.first_seq).saturating_add(1);
        (self.first_seq <= seq).then(|| Self { count: self.count.min(until(seq)), ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(first_seq: u64, count: u64, offset: u64) -> Answer {
        Answer { first_seq, count, what: What::Stored(offset) }
    }

    #[test]
    fn a_publisher_that_comes_back_hears_what_was_refused_too() {
        let mut answers = Answers::default();
        answers.remember(stored(1, 10, 100));
        answers.remember(Answer { first_seq: 11, count: 5, what: What::Refused(Code::NoSpace) });
        answers.remember(stored(16, 4, 110));
        answers.forget_through(9);
        let heard: Vec<_> = answers.between(10, u64::MAX).collect();
        let refused = Answer { first_seq: 11, count: 5, what: What::Refused(Code::NoSpace) };
        assert_eq!(heard, [stored(10, 1, 109), refused, stored(16, 4, 110)]);
    }

    #[test]
    fn what_the_log_does_not_have_up_to_its_last_seq_was_refused() {
        let log = [(3, 2, 7), (9, 1, 9)].map(|(first_seq, count, first_offset)| twinlane_log::Answer {
            first_seq,
            count,
            first_offset,
        });
        let answers = Answers::recovered(11, &log);
        let refused = |first_seq, count| Answer { first_seq, count, what: What::Refused(Code::NoSpace) };
        let heard: Vec<_> = answers.between(1, u64::MAX).collect();
        assert_eq!(heard, [stored(3, 2, 7), refused(5, 4), stored(9, 1, 9), refused(10, 2)]);
    }
}
