//! What each publisher stream asked for and was answered: I1, I3, I4, I5 and I7.

use std::collections::BTreeMap;

use super::log::{Log, Logs, Place};
use super::named;
use super::report::{Invariant, Violations};
use crate::payload::Identity;

const INVOKED: u8 = 1;
const ACKED: u8 = 2;
pub(super) const REFUSED: u8 = 4;
pub(super) const UNKNOWN: u8 = 8;
/// A seq beyond this is a lie: nobody publishes as many messages in one run.
const SEQS_MAX: u64 = 1 << 28;

/// One message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    pub(super) invoked_us: u64,
    /// Where somebody read it.
    pub(super) found: Place,
    /// Where its publisher was told it is. Of messages acknowledged together only the last one knows.
    told: Place,
    flags: u8,
}

impl Message {
    const NEW: Self = Self { invoked_us: 0, found: Place::NONE, told: Place::NONE, flags: 0 };

    pub(super) fn is_acked(&self) -> bool {
        self.is(ACKED)
    }

    fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

#[derive(Debug, Default)]
pub(super) struct Stream {
    topic: Option<u16>,
    /// Seq 1 first.
    pub(super) messages: Vec<Message>,
}

#[derive(Debug, Default)]
pub(super) struct Streams(BTreeMap<u16, Stream>);

/// Where lost messages were.
#[derive(Debug, Default)]
struct Lost {
    prefix: u64,
    middle: u64,
    tail: u64,
}

impl Streams {
    pub(super) fn declare(&mut self, publisher: u16, topic: u16) {
        self.0.entry(publisher).or_default().topic = Some(topic);
    }

    pub(super) fn topic_of(&self, publisher: u16) -> Option<u16> {
        self.0.get(&publisher)?.topic
    }

    pub(super) fn invoke(&mut self, publisher: u16, first: u64, count: u32, at_us: u64) {
        self.each(publisher, first, count, |message| {
            message.flags |= INVOKED;
            message.invoked_us = at_us;
        });
    }

    pub(super) fn ok(&mut self, publisher: u16, first: u64, count: u32, last: Option<Place>) {
        self.each(publisher, first, count, |message| message.flags |= ACKED);
        let last_seq = first + u64::from(count.saturating_sub(1));
        if let (Some(last), Some(message)) = (last, self.message(Identity { publisher, seq: last_seq })) {
            message.told = last;
        }
    }

    pub(super) fn refuse(&mut self, publisher: u16, first: u64, count: u32) {
        self.each(publisher, first, count, |message| message.flags |= REFUSED);
    }

    pub(super) fn unknown(&mut self, publisher: u16, first: u64, count: u32) {
        self.each(publisher, first, count, |message| message.flags |= UNKNOWN);
    }

    /// Somebody read the message at `place`. Returns the other place where it was read before.
    pub(super) fn found(&mut self, message: Identity, place: Place) -> Option<Place> {
        let message = self.message(message)?;
        if message.found.is_none() {
            message.found = place;
        }
        (message.found != place).then_some(message.found)
    }

    pub(super) fn is_acked(&self, message: Identity) -> bool {
        let index = message.seq.wrapping_sub(1) as usize;
        let stream = self.0.get(&message.publisher);
        stream.and_then(|stream| stream.messages.get(index)).is_some_and(|message| message.is(ACKED))
    }

    pub(super) fn acked(&self) -> u64 {
        self.count(ACKED)
    }

    pub(super) fn count(&self, flag: u8) -> u64 {
        let all = self.0.values().flat_map(|stream| &stream.messages);
        all.filter(|message| message.is(flag)).count() as u64
    }

    pub(super) fn of_topic(&self, topic: u16) -> impl Iterator<Item = (u16, &Stream)> {
        let streams = self.0.iter().filter(move |(_, stream)| stream.topic == Some(topic));
        streams.map(|(publisher, stream)| (*publisher, stream))
    }

    /// Messages without any outcome: which, and when they were published.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = (Identity, u64)> {
        self.0.iter().flat_map(|(publisher, stream)| {
            let open = (1..).zip(&stream.messages).filter(|(_, message)| message.flags == INVOKED);
            open.map(|(seq, message)| (Identity { publisher: *publisher, seq }, message.invoked_us))
        })
    }

    /// Judges what only the end of the history shows.
    pub(super) fn judge(&self, logs: &Logs, topics: &BTreeMap<u16, bool>, violations: &mut Violations) {
        let mut lost = Lost::default();
        for (publisher, stream) in &self.0 {
            let Some(topic) = stream.topic else { continue };
            let durable = topics.get(&topic).copied().unwrap_or(false);
            let ends = Ends::of(stream, logs);
            // The last message so far that somebody read, and the first one after it that nobody did.
            let mut before: Option<(Identity, Place)> = None;
            let mut missing: Option<Identity> = None;
            for (seq, message) in (1..).zip(&stream.messages) {
                let who = Identity { publisher: *publisher, seq };
                judge_one(who, message, violations);
                if message.is(ACKED) && is_lost(message, topic, durable, logs) {
                    lost.count(seq, ends);
                    violations.add(Invariant::I1, || {
                        format!("{} of topic {topic}, {} is not there", named(who), told(message))
                    });
                }
                if message.found.is_none() {
                    // Refused, given up or acknowledged ones are no hole, or another invariant's.
                    if message.flags == INVOKED {
                        missing.get_or_insert(who);
                    }
                    continue;
                }
                in_order(who, message.found, before, missing.take(), violations);
                before = Some((who, message.found));
            }
        }
        violations.note(Invariant::I1, lost.to_string());
    }

    fn each(&mut self, publisher: u16, first: u64, count: u32, mut change: impl FnMut(&mut Message)) {
        for seq in (first..).take(count as usize) {
            if let Some(message) = self.message(Identity { publisher, seq }) {
                change(message);
            }
        }
    }

    fn message(&mut self, message: Identity) -> Option<&mut Message> {
        let index = message.seq.checked_sub(1).filter(|index| *index < SEQS_MAX)? as usize;
        let messages = &mut self.0.entry(message.publisher).or_default().messages;
        if messages.len() <= index {
            messages.resize(index + 1, Message::NEW);
        }
        Some(&mut messages[index])
    }
}

/// I5 and I7 of one message.
fn judge_one(who: Identity, message: &Message, violations: &mut Violations) {
    let is_found = !message.found.is_none();
    if is_found && (!message.is(INVOKED) || message.is(REFUSED)) {
        let why = if message.is(REFUSED) { "was refused" } else { "was never published" };
        let offset = message.found.offset();
        violations.add(Invariant::I5, || format!("{} {why} and is at offset {offset}", named(who)));
    }
    if is_found && !message.told.is_none() && message.told != message.found {
        let (told, found) = (message.told, message.found);
        violations.add(Invariant::I7, || {
            let place = |place: Place| format!("offset {} of log {}", place.offset(), place.log());
            format!("{} was acknowledged at {} and read at {}", named(who), place(told), place(found))
        });
    }
}

/// I1 of one acknowledged message.
fn is_lost(message: &Message, topic: u16, durable: bool, logs: &Logs) -> bool {
    let place = if message.found.is_none() { message.told } else { message.found };
    // In memory a topic keeps its newest messages only, and of most messages nobody was told the offset.
    let given_up = |log: &Log| place.offset() < log.drained_from;
    if !durable && (place.is_none() || logs.log(place.log()).is_some_and(given_up)) {
        return false;
    }
    match logs.is_kept(place) {
        Some(kept) => !kept,
        // Its log was not read in the end. A durable topic has no other one; one in memory ends with its server.
        None => durable && logs.is_drained(topic),
    }
}

/// I4 of two neighbours.
fn in_order(
    who: Identity,
    place: Place,
    before: Option<(Identity, Place)>,
    missing: Option<Identity>,
    violations: &mut Violations,
) {
    if let Some(missing) = missing {
        violations.add(Invariant::I4, || {
            format!("{} is stored, {} before it is not and has no outcome", named(who), named(missing))
        });
    }
    let Some((earlier, at)) = before.filter(|(_, at)| at.log() == place.log()) else { return };
    if place.offset() < at.offset() {
        violations.add(Invariant::I4, || {
            format!(
                "{} is at offset {}, {} before it at {}",
                named(who),
                place.offset(),
                named(earlier),
                at.offset()
            )
        });
    }
}

fn told(message: &Message) -> String {
    match message.told {
        told if told.is_none() => "acknowledged with others".to_owned(),
        told => format!("acknowledged at offset {}", told.offset()),
    }
}

/// The seqs of a stream between which something was kept.
#[derive(Clone, Copy, Debug)]
struct Ends {
    first: u64,
    last: u64,
}

impl Ends {
    fn of(stream: &Stream, logs: &Logs) -> Self {
        let kept = |message: &Message| !message.found.is_none() && logs.is_kept(message.found) == Some(true);
        let first = stream.messages.iter().position(kept).map_or(u64::MAX, |index| index as u64 + 1);
        let last = stream.messages.iter().rposition(kept).map_or(0, |index| index as u64 + 1);
        Self { first, last }
    }
}

impl Lost {
    fn count(&mut self, seq: u64, ends: Ends) {
        match seq {
            seq if seq > ends.last => self.tail += 1,
            seq if seq < ends.first => self.prefix += 1,
            _ => self.middle += 1,
        }
    }
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { prefix, middle, tail } = self;
        write!(
            f,
            "lost of their streams: {prefix} before the first, {middle} in the middle, {tail} after the last"
        )
    }
}
