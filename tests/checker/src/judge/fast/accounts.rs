//! F2, F-a and F-b: what one subscription was handed, stream by stream, and whether the rest is accounted for.
//!
//! `ordered`: seqs rise, and every hole is a `Gap` before what follows it. `latest`: seqs rise for each key. In both
//! nothing comes twice, and in no mode. What a subscription says it missed, together with what it was handed, makes
//! up all that its publishers sent from the first seq it saw.

use std::collections::{BTreeMap, HashMap};

use super::super::report::{Invariant, Violations};
use super::{FastJudge, Reader, Seen};
use crate::history::{Arrived, FastMode};

/// Judges every subscription.
pub(super) fn judge(run: &FastJudge, violations: &mut Violations) {
    let owners = owners(run, violations);
    for (number, reader) in &run.readers {
        let Some(mode) = run.topics.get(&reader.topic).copied() else { continue };
        let mut account =
            Account { run, reader, number: *number, mode, owners: &owners, views: BTreeMap::new() };
        account.read(violations);
        account.judge_ends(violations);
        account.judge_sums(violations);
    }
}

type Owners = HashMap<(u16, u32), u16>;

/// Which publisher each of a topic's sources is.
fn owners(run: &FastJudge, violations: &mut Violations) -> Owners {
    let mut owners = Owners::new();
    for (number, reader) in &run.readers {
        for seen in &reader.seen {
            let Seen::Message { at_us, message, .. } = seen else { continue };
            if run.original(message).is_none() {
                continue;
            }
            let owner = *owners.entry((reader.topic, message.source)).or_insert(message.publisher);
            if owner != message.publisher {
                violations.add(Invariant::F2, || {
                    let Arrived { source, seq, publisher, .. } = message;
                    format!(
                        "reader {number} at {at_us} µs: source {source} seq {seq} is of publisher {publisher}, \
                         earlier ones were of publisher {owner}"
                    )
                });
            }
        }
    }
    owners
}

/// One subscription.
struct Account<'a> {
    run: &'a FastJudge,
    reader: &'a Reader,
    number: u16,
    mode: FastMode,
    owners: &'a Owners,
    views: BTreeMap<u32, View>,
}

/// What it saw of one publisher stream.
#[derive(Debug, Default)]
struct View {
    /// The seq that must come next, in a delivery or a gap; `None`: any.
    next: Option<u64>,
    /// The lowest and the highest seq it was handed or told of.
    first: Option<u64>,
    newest: u64,
    newest_of_key: HashMap<Option<u64>, u64>,
    delivered: Seqs,
    /// Seqs that gaps named.
    gone: Seqs,
}

impl Account<'_> {
    fn read(&mut self, violations: &mut Violations) {
        for seen in &self.reader.seen {
            match seen {
                Seen::Message { at_us, message, .. } => self.message(*at_us, message, violations),
                Seen::Gap { at_us, source, from, to } => self.gap(*at_us, *source, *from, *to, violations),
            }
        }
    }

    fn message(&mut self, at_us: u64, message: &Arrived, violations: &mut Violations) {
        let number = self.number;
        let who = || format!("reader {number} at {at_us} µs");
        if let Some(what) = self.untrue(message) {
            return violations.add(Invariant::F2, || format!("{}: {what}", who()));
        }
        let (mode, seq) = (self.mode, message.seq);
        let name = || format!("{}: message {seq} of publisher {}", who(), message.publisher);
        let view = self.view(message.source);
        let newest_of_key = view.newest_of_key.get(&message.key).copied().unwrap_or(0);
        let is_again = !view.delivered.insert(seq);
        if is_again {
            violations.add(Invariant::Fa, || format!("{} again", name()));
        } else if mode == FastMode::Ordered && seq < view.newest {
            violations.add(Invariant::Fa, || format!("{} after {}", name(), view.newest));
        } else if mode == FastMode::Latest && seq < newest_of_key {
            let witness = || format!("{} after {newest_of_key}, both of key {:?}", name(), message.key);
            violations.add(Invariant::Fa, witness);
        } else if view.gone.contains(seq) {
            violations.add(Invariant::Fb, || format!("{}, which a gap had named", name()));
        } else if mode == FastMode::Ordered && view.next.is_some_and(|next| next < seq) {
            let from = view.next.unwrap_or(0);
            violations.add(Invariant::Fb, || format!("{}, and no gap for {from} to {}", name(), seq - 1));
        }
        view.newest_of_key.insert(message.key, newest_of_key.max(seq));
        view.newest = view.newest.max(seq);
        view.first = Some(view.first.map_or(seq, |first| first.min(seq)));
        view.next = Some(view.next.map_or(seq + 1, |next| next.max(seq + 1)));
    }

    /// What is wrong with a message taken for itself.
    fn untrue(&self, message: &Arrived) -> Option<String> {
        let Arrived { publisher, number, seq, key, .. } = message;
        let Some(original) = self.run.original(message) else {
            return Some(format!("message {number} of publisher {publisher}, which nobody published"));
        };
        if self.run.streams[publisher].topic != self.reader.topic {
            return Some(format!("message {number} of publisher {publisher}, which is of another topic"));
        }
        if seq != number {
            return Some(format!("message {number} of publisher {publisher} in the frame of {seq}"));
        }
        (original.key != *key).then(|| {
            format!("message {number} of publisher {publisher} with key {key:?}, not {:?}", original.key)
        })
    }

    fn gap(&mut self, at_us: u64, source: u32, from: u64, to: u64, violations: &mut Violations) {
        let number = self.number;
        let last = to.saturating_sub(1);
        let who = || format!("reader {number} at {at_us} µs: gap {from} to {last} of source {source}");
        let published = self.published_most(source);
        if to <= from || to > published + 1 {
            return violations.add(Invariant::Fb, || format!("{}, of {published} messages", who()));
        }
        let is_ordered = self.mode == FastMode::Ordered;
        let view = self.view(source);
        if let Some(delivered) = (from..to).find(|seq| view.delivered.contains(*seq)) {
            violations.add(Invariant::Fb, || format!("{}, but {delivered} had been delivered", who()));
        } else if let Some(twice) = (from..to).find(|seq| view.gone.contains(*seq)) {
            violations.add(Invariant::Fb, || format!("{}, but a gap had named {twice} before", who()));
        } else if let (true, Some(next)) = (is_ordered, view.next.filter(|next| *next < from)) {
            violations.add(Invariant::Fb, || format!("{}, and nothing of {next} to {}", who(), from - 1));
        }
        for seq in from..to {
            view.gone.insert(seq);
        }
        view.newest = view.newest.max(to - 1);
        view.first = Some(view.first.map_or(from, |first| first.min(from)));
        view.next = Some(view.next.map_or(to, |next| next.max(to)));
    }

    /// How many messages the source's publisher published; where it is not known who that is, any of the topic's.
    fn published_most(&self, source: u32) -> u64 {
        let owner = self.owners.get(&(self.reader.topic, source));
        let streams = self.run.streams.iter().filter(|(publisher, stream)| {
            stream.topic == self.reader.topic && owner.is_none_or(|owner| owner == *publisher)
        });
        streams.map(|(_, stream)| stream.published.len() as u64).max().unwrap_or(0)
    }

    fn view(&mut self, source: u32) -> &mut View {
        let owner = self.owners.get(&(self.reader.topic, source));
        let whole = owner.is_none_or(|owner| self.sees_all_of(*owner));
        self.views.entry(source).or_insert_with(|| View { next: whole.then_some(1), ..View::default() })
    }

    /// Whether the subscription was there before the publisher.
    fn sees_all_of(&self, publisher: u16) -> bool {
        self.run.streams.get(&publisher).is_some_and(|stream| stream.opening_us >= self.reader.opened_us)
    }

    /// After a clean close every message of an ordered stream was handed over or is in a gap.
    fn judge_ends(&self, violations: &mut Violations) {
        if self.mode != FastMode::Ordered || !self.is_whole() {
            return;
        }
        for (source, view) in &self.views {
            let Some(owner) = self.owners.get(&(self.reader.topic, *source)) else { continue };
            let published = self.run.streams[owner].published.len() as u64;
            if let Some(next) = view.next.filter(|next| *next <= published) {
                let number = self.number;
                violations.add(Invariant::Fb, || {
                    format!("reader {number}: no gap for the end of publisher {owner}, {next} to {published}")
                });
            }
        }
    }

    /// The equation of F4, and the subscription's own numbers against what it did.
    fn judge_sums(&self, violations: &mut Violations) {
        let (number, Some(stats)) = (self.number, self.reader.stats) else { return };
        let delivered: u64 = self.views.values().map(|view| view.delivered.count).sum();
        // A message that is untrue or comes twice breaks other promises.
        let handed =
            self.reader.seen.iter().filter(|seen| matches!(seen, Seen::Message { .. })).count() as u64;
        if stats.delivered != handed {
            let witness =
                || format!("reader {number} was handed {handed} messages and counts {}", stats.delivered);
            violations.add(Invariant::Fb, witness);
        }
        if !self.is_whole() {
            return;
        }
        let gone: u64 = self.views.values().map(|view| view.gone.count).sum();
        if self.mode == FastMode::Ordered && stats.missing() != gone {
            let witness = || format!("reader {number}: gaps name {gone} messages, its counters {stats:?}");
            violations.add(Invariant::Fb, witness);
        }
        let (least, most) = self.sent();
        if handed == delivered && !(least..=most).contains(&stats.accounted()) {
            violations.add(Invariant::Fb, || {
                format!(
                    "reader {number} on topic {}: {least} to {most} messages were sent from the first it saw, \
                     {} are accounted for: {stats:?}",
                    self.reader.topic,
                    stats.accounted()
                )
            });
        }
    }

    /// How many messages its topic's publishers sent from the first that it saw. Where holes come without a gap, a
    /// subscription that began later may have seen an earlier one that it did not hand over.
    fn sent(&self) -> (u64, u64) {
        let firsts: HashMap<u16, u64> = self
            .views
            .iter()
            .filter_map(|(source, view)| {
                Some((*self.owners.get(&(self.reader.topic, *source))?, view.first?))
            })
            .collect();
        let streams = self.run.streams.iter().filter(|(_, stream)| stream.topic == self.reader.topic);
        streams.fold((0, 0), |(least, most), (publisher, stream)| {
            let published = stream.published.len() as u64;
            if self.sees_all_of(*publisher) {
                return (least + published, most + published);
            }
            let from_first = firsts.get(publisher).map_or(0, |first| published + 1 - first);
            match self.mode {
                FastMode::Ordered => (least + from_first, most + from_first),
                FastMode::Latest | FastMode::Unordered => (least + from_first, most + published),
            }
        })
    }

    /// Whether all its publishers closed cleanly, and it was there to hear of it.
    fn is_whole(&self) -> bool {
        let mut streams = self.run.streams.values().filter(|stream| stream.topic == self.reader.topic);
        let is_clean = streams.all(|stream| stream.closed.as_ref().is_some_and(String::is_empty));
        is_clean && self.run.ended && self.reader.stats.is_some() && self.reader.why.is_empty()
    }
}

/// A set of seqs.
#[derive(Debug, Default)]
struct Seqs {
    words: Vec<u64>,
    count: u64,
}

impl Seqs {
    /// `false`: it was in it.
    fn insert(&mut self, seq: u64) -> bool {
        let (word, bit) = Self::place(seq);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += u64::from(is_new);
        is_new
    }

    fn contains(&self, seq: u64) -> bool {
        let (word, bit) = Self::place(seq);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    fn place(seq: u64) -> (usize, u64) {
        ((seq / 64) as usize, 1 << (seq % 64))
    }
}
