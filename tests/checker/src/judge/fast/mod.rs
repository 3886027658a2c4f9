//! Judges a history of fast topics: F2 and F-a to F-d by name, with the first witnesses of what broke them.
//!
//! Pure: events in, a report out. It keeps all events, about 100 bytes for each delivery: a verdict needs both what
//! was published and what was delivered, and they come in no common order.

mod accounts;
mod report;
mod residence;
mod settling;
mod waits;

use std::collections::BTreeMap;

pub use report::FastReport;

use super::report::{Invariant, Violations};
use crate::history::{Arrived, FastEvent, FastMode, FastPlan, FastStats, LinkCounts};
use waits::Waits;

/// A history of fast topics, as far as it was read.
#[derive(Debug, Default)]
pub struct FastJudge {
    plan: FastPlan,
    clients: BTreeMap<u16, Client>,
    topics: BTreeMap<u16, FastMode>,
    streams: BTreeMap<u16, Stream>,
    readers: BTreeMap<u16, Reader>,
    waits: Waits,
    /// When things were so bad for a client that resting keys are not judged.
    troubled: Vec<(u16, u64, u64)>,
    blocked: u64,
    moves_to_tcp: u64,
    moves_to_udp: u64,
    disconnects: u64,
    ended: bool,
    violations: Violations,
}

#[derive(Debug, Default)]
struct Client {
    udp: bool,
    link_us: u64,
    link: LinkCounts,
}

/// A publisher stream.
#[derive(Debug)]
struct Stream {
    topic: u16,
    client: u16,
    opening_us: u64,
    /// In the order of their seqs, from 1.
    published: Vec<Published>,
    refused: u64,
    /// `None`: it was never closed. The text: why it was not closed cleanly.
    closed: Option<String>,
}

#[derive(Clone, Copy, Debug)]
struct Published {
    before_us: u64,
    after_us: u64,
    key: Option<u64>,
    deadline_us: u64,
}

/// A subscription to one topic.
#[derive(Debug)]
struct Reader {
    topic: u16,
    client: u16,
    opened_us: u64,
    prompt: bool,
    seen: Vec<Seen>,
    /// When it went away; `u64::MAX`: it is not known.
    ended_us: u64,
    stats: Option<FastStats>,
    why: String,
}

#[derive(Debug)]
enum Seen {
    Message { polled_us: u64, at_us: u64, message: Arrived },
    Gap { at_us: u64, source: u32, from: u64, to: u64 },
}

impl FastJudge {
    /// A path that died is noticed within this time.
    const SWITCH_US: u64 = 6_000_000;
    /// After something was repaired, what rests may take this much longer to show.
    const RECOVERY_US: u64 = 2_000_000;

    /// Takes in the next event.
    pub fn event(&mut self, event: &FastEvent) {
        match event {
            FastEvent::Plan(plan) => self.plan = plan.clone(),
            FastEvent::Client { client, udp, link_us } => {
                let client = self.clients.entry(*client).or_default();
                (client.udp, client.link_us) = (*udp, *link_us);
            }
            FastEvent::Topic { topic, mode } => {
                self.topics.insert(*topic, *mode);
            }
            FastEvent::Publisher { publisher, topic, client, opening_us, .. } => {
                let (topic, client, opening_us) = (*topic, *client, *opening_us);
                let (published, refused, closed) = (Vec::new(), 0, None);
                let stream = Stream { topic, client, opening_us, published, refused, closed };
                self.streams.insert(*publisher, stream);
            }
            FastEvent::Published { .. } => self.published(event),
            FastEvent::Closed { publisher, refused, why, .. } => {
                if let Some(stream) = self.streams.get_mut(publisher) {
                    (stream.refused, stream.closed) = (*refused, Some(why.clone()));
                }
            }
            FastEvent::Blocked { client, from_us, to_us } => {
                self.blocked += 1;
                let noticed_us = (*to_us).min(from_us.saturating_add(Self::SWITCH_US));
                self.troubled.push((*client, *from_us, noticed_us + Self::RECOVERY_US));
            }
            FastEvent::Disconnected { client, at_us, .. } => {
                self.disconnects += 1;
                self.troubled.push((*client, *at_us, at_us.saturating_add(Self::SWITCH_US)));
            }
            FastEvent::Moved { to_udp: true, .. } => self.moves_to_udp += 1,
            FastEvent::Moved { .. } => self.moves_to_tcp += 1,
            FastEvent::Link { client, counts } => self.clients.entry(*client).or_default().link = *counts,
            FastEvent::Waited { from_us, to_us, waited_us } => self.waits.add(*from_us, *to_us, *waited_us),
            FastEvent::End { .. } => self.ended = true,
            FastEvent::Reader { .. }
            | FastEvent::Delivered { .. }
            | FastEvent::Corrupt { .. }
            | FastEvent::Gap { .. }
            | FastEvent::ReaderEnd { .. } => self.reader_event(event),
        }
    }

    /// What all of it comes to.
    #[must_use]
    pub fn finish(mut self) -> FastReport {
        self.waits.sort();
        let mut violations = std::mem::take(&mut self.violations);
        accounts::judge(&self, &mut violations);
        let residence = residence::judge(&self, &mut violations);
        let settling = settling::judge(&self, &mut violations);
        FastReport::new(&self, violations, residence, settling)
    }

    fn published(&mut self, event: &FastEvent) {
        let FastEvent::Published { publisher, seq, before_us, after_us, key, deadline_us } = event else {
            return;
        };
        let Some(stream) = self.streams.get_mut(publisher) else { return };
        let expected = stream.published.len() as u64 + 1;
        if *seq != expected {
            let witness = || {
                format!("publisher {publisher} was told seq {seq} for message {expected} at {after_us} µs")
            };
            self.violations.add(Invariant::Fb, witness);
        }
        let (before_us, after_us, key, deadline_us) = (*before_us, *after_us, *key, *deadline_us);
        stream.published.push(Published { before_us, after_us, key, deadline_us });
    }

    fn reader_event(&mut self, event: &FastEvent) {
        match event {
            FastEvent::Reader { reader, topic, client, opened_us, prompt, .. } => {
                let reader_of = Reader {
                    topic: *topic,
                    client: *client,
                    opened_us: *opened_us,
                    prompt: *prompt,
                    seen: Vec::new(),
                    ended_us: u64::MAX,
                    stats: None,
                    why: String::new(),
                };
                self.readers.insert(*reader, reader_of);
            }
            FastEvent::Delivered { reader, polled_us, at_us, messages } => {
                let Some(reader) = self.readers.get_mut(reader) else { return };
                let (polled_us, at_us) = (*polled_us, *at_us);
                let seen = |message: &Arrived| Seen::Message { polled_us, at_us, message: *message };
                reader.seen.extend(messages.iter().map(seen));
            }
            FastEvent::Corrupt { reader, at_us, source, seq, what } => {
                let witness = || format!("reader {reader} at {at_us} µs, source {source} seq {seq}: {what}");
                self.violations.add(Invariant::F2, witness);
            }
            FastEvent::Gap { reader, at_us, source, from, to, .. } => {
                let Some(reader) = self.readers.get_mut(reader) else { return };
                reader.seen.push(Seen::Gap { at_us: *at_us, source: *source, from: *from, to: *to });
            }
            FastEvent::ReaderEnd { reader, at_us, stats, why } => {
                let Some(reader) = self.readers.get_mut(reader) else { return };
                (reader.ended_us, reader.stats) = (*at_us, Some(*stats));
                reader.why.clone_from(why);
            }
            _ => {}
        }
    }

    /// What was published as this message, if it was.
    fn original(&self, message: &Arrived) -> Option<&Published> {
        let stream = self.streams.get(&message.publisher)?;
        stream.published.get(usize::try_from(message.number.checked_sub(1)?).ok()?)
    }

    /// How long relays may have held back a message from one client to the other.
    fn link_us(&self, from: u16, to: u16) -> u64 {
        [from, to].iter().filter_map(|client| self.clients.get(client)).map(|client| client.link_us).sum()
    }

    /// Whether something was wrong with one of the two clients in this time.
    fn is_troubled(&self, clients: [u16; 2], from_us: u64, to_us: u64) -> bool {
        let overlaps = |(client, begin_us, end_us): &(u16, u64, u64)| {
            clients.contains(client) && *begin_us < to_us && from_us < *end_us
        };
        self.troubled.iter().any(overlaps)
    }
}
