//! F-d: once a key rests, every subscription that reads shows its last value within a second.
//!
//! A value rests when nobody publishes the key again for a second and what links and waits add. Not judged are: values
//! with a deadline, which may die of it; readers that are slow on purpose or came later; times when the path of one
//! of the two was blocked or its connection lost; runs in which a link loses more than 30 %.

use std::collections::{BTreeMap, HashMap};

use super::super::report::{Invariant, Violations};
use super::{FastJudge, Reader, Seen, Stream};
use crate::history::FastMode;

const SETTLE_US: u64 = 1_000_000;
/// As for deadlines.
const ALLOWED_US: u64 = 2_000;
const LOSE_PERMILLE_MAX: u32 = 300;
/// Up to this much waiting a value is judged closely.
const CLOSELY_US: u64 = 500_000;

/// How much was judged.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Settling {
    /// Values that rested, times readers.
    pub(super) judged: u64,
    pub(super) closely: u64,
    /// The longest that one of those judged closely took; waits and links not taken off.
    pub(super) worst_us: u64,
}

/// A value that the key kept for long enough.
struct Rest {
    publisher: u16,
    key: u64,
    seq: u64,
    before_us: u64,
    after_us: u64,
    /// When the key was published again; `u64::MAX`: never.
    until_us: u64,
}

/// The keys of a publisher, each with the seqs that a reader was handed, by time.
type Shown = HashMap<(u16, u64), Vec<(u64, u64)>>;

pub(super) fn judge(run: &FastJudge, violations: &mut Violations) -> Settling {
    let mut settling = Settling::default();
    if run.plan.lose_permille > LOSE_PERMILLE_MAX {
        return settling;
    }
    let rests: BTreeMap<u16, Vec<Rest>> = run
        .streams
        .iter()
        .filter(|(_, stream)| run.topics.get(&stream.topic) == Some(&FastMode::Latest))
        .map(|(publisher, stream)| (*publisher, rests(*publisher, stream)))
        .collect();
    for (number, reader) in run.readers.iter().filter(|(_, reader)| reader.prompt) {
        if run.topics.get(&reader.topic) != Some(&FastMode::Latest) {
            continue;
        }
        let shown = shown(reader);
        for (publisher, rests) in &rests {
            let stream = &run.streams[publisher];
            if stream.topic == reader.topic {
                let place = Place { run, number: *number, reader, stream };
                rests.iter().for_each(|rest| place.judge(rest, &shown, &mut settling, violations));
            }
        }
    }
    settling
}

/// One reader and one publisher.
struct Place<'a> {
    run: &'a FastJudge,
    number: u16,
    reader: &'a Reader,
    stream: &'a Stream,
}

impl Place<'_> {
    fn judge(&self, rest: &Rest, shown: &Shown, settling: &mut Settling, violations: &mut Violations) {
        let (reader, clients) = (self.reader, [self.stream.client, self.reader.client]);
        let second_us = rest.after_us + SETTLE_US;
        let waited_us = self.run.waits.between(rest.before_us, second_us);
        let until_us = second_us + ALLOWED_US + self.run.link_us(clients[0], clients[1]) + waited_us;
        if rest.before_us < reader.opened_us
            || reader.ended_us.min(rest.until_us) < until_us
            || self.run.is_troubled(clients, rest.before_us, until_us)
        {
            return;
        }
        settling.judged += 1;
        let values = shown.get(&(rest.publisher, rest.key)).map_or(&[][..], Vec::as_slice);
        let shown_us = values.iter().find(|(_, seq)| *seq >= rest.seq).map(|(at_us, _)| *at_us);
        if waited_us <= CLOSELY_US {
            settling.closely += 1;
            let took_us = shown_us.map_or(u64::MAX, |at_us| at_us.saturating_sub(rest.after_us));
            settling.worst_us = settling.worst_us.max(took_us);
        }
        if shown_us.is_none_or(|at_us| at_us > until_us) {
            let Rest { publisher, key, seq, after_us, .. } = rest;
            violations.add(Invariant::Fd, || {
                let when = shown_us.map_or("never".to_owned(), |at_us| format!("at {at_us} µs"));
                format!(
                    "reader {} showed message {seq} of publisher {publisher}, published at {after_us} µs and the \
                     last of key {key:x}, {when}; {until_us} µs is the latest",
                    self.number
                )
            });
        }
    }
}

/// The values without a deadline that a publisher's keys kept for a second.
fn rests(publisher: u16, stream: &Stream) -> Vec<Rest> {
    let mut last: HashMap<u64, Rest> = HashMap::new();
    let mut rests = Vec::new();
    let mut keep = |rest: Rest| {
        if rest.until_us.saturating_sub(rest.after_us) >= SETTLE_US {
            rests.push(rest);
        }
    };
    for (published, seq) in stream.published.iter().zip(1..) {
        let Some(key) = published.key else { continue };
        let (before_us, after_us, until_us) = (published.before_us, published.after_us, u64::MAX);
        let replaced = match published.deadline_us {
            0 => last.insert(key, Rest { publisher, key, seq, before_us, after_us, until_us }),
            _ => last.remove(&key),
        };
        if let Some(replaced) = replaced {
            keep(Rest { until_us: before_us, ..replaced });
        }
    }
    last.into_values().for_each(keep);
    rests
}

fn shown(reader: &Reader) -> Shown {
    let mut shown = Shown::new();
    for seen in &reader.seen {
        if let Seen::Message { at_us, message, .. } = seen
            && let Some(key) = message.key
        {
            shown.entry((message.publisher, key)).or_default().push((*at_us, message.seq));
        }
    }
    shown
}
