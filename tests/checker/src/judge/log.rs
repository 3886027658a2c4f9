//! What was seen at which offset of which log: I2, I10 and I11.
//!
//! A log is a topic in one epoch. Its offsets are dense, so what is known of them lies in one vector.

use std::collections::{BTreeMap, HashMap};

use super::named;
use super::readers::Read;
use super::report::{Invariant, Violations};
use super::streams::Streams;
use crate::history::Event;
use crate::payload::Identity;

/// An offset beyond this is a lie: nobody publishes as many messages in one run.
const OFFSETS_MAX: u64 = 1 << 28;

/// An offset in a log. 8 bytes, because there is one for each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u64);

impl Place {
    const OFFSET_BITS: u32 = 48;
    /// Nowhere.
    pub(super) const NONE: Self = Self(u64::MAX);

    pub(super) fn new(log: u16, offset: u64) -> Self {
        Self(u64::from(log) << Self::OFFSET_BITS | offset & ((1 << Self::OFFSET_BITS) - 1))
    }

    pub(super) fn log(self) -> u16 {
        (self.0 >> Self::OFFSET_BITS) as u16
    }

    pub(super) fn offset(self) -> u64 {
        self.0 & ((1 << Self::OFFSET_BITS) - 1)
    }

    pub(super) fn is_none(self) -> bool {
        self == Self::NONE
    }
}

/// One offset: whose message, who was the first to read it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// [`Identity::word`]; 0: nothing was seen here.
    word: u64,
    first_reader: u16,
    /// The final drain read it.
    is_kept: bool,
}

#[derive(Debug)]
pub(super) struct Log {
    pub(super) topic: u16,
    pub(super) epoch: u64,
    seen: Vec<Seen>,
    /// Outcomes: when they were known, up to which offset.
    pub(super) acks: Vec<(u64, u64)>,
    /// How far the final drain read.
    pub(super) drained_to: Option<u64>,
    /// The first offset that the final drain read.
    pub(super) drained_from: u64,
}

#[derive(Debug, Default)]
pub(super) struct Logs {
    logs: Vec<Log>,
    numbers: HashMap<(u16, u64), u16>,
}

impl Logs {
    /// The number of the log of `topic` in `epoch`.
    pub(super) fn number(&mut self, topic: u16, epoch: u64) -> u16 {
        *self.numbers.entry((topic, epoch)).or_insert_with(|| {
            self.logs.push(Log {
                topic,
                epoch,
                seen: Vec::new(),
                acks: Vec::new(),
                drained_to: None,
                drained_from: u64::MAX,
            });
            (self.logs.len() - 1) as u16
        })
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (u16, &Log)> {
        (0..).zip(&self.logs)
    }

    pub(super) fn log(&self, number: u16) -> Option<&Log> {
        self.logs.get(usize::from(number))
    }

    pub(super) fn acked(&mut self, log: u16, last_offset: u64, at_us: u64) {
        self.logs[usize::from(log)].acks.push((at_us, last_offset));
    }

    /// A reader saw `message` at `offset`. `None`: the offset is no possible one.
    pub(super) fn found(
        &mut self,
        read: Read,
        offset: u64,
        message: Identity,
        violations: &mut Violations,
    ) -> Option<Place> {
        let (number, seen) = self.seen(read, offset)?;
        let Read { topic, reader, drains, .. } = read;
        match seen.word {
            0 => (seen.word, seen.first_reader) = (message.word(), reader),
            word if word != message.word() => {
                let (other, first_reader) = (Identity::of_word(word), seen.first_reader);
                violations.add(Invariant::I2, || {
                    format!(
                        "topic {topic} offset {offset}: {} for reader {first_reader}, {} for reader {reader}",
                        named(other),
                        named(message)
                    )
                });
                return None;
            }
            _ => {}
        }
        seen.is_kept |= drains;
        if drains {
            let log = &mut self.logs[usize::from(number)];
            log.drained_from = log.drained_from.min(offset);
        }
        Some(Place::new(number, offset))
    }

    pub(super) fn drained(&mut self, topic: u16, epoch: u64, next: u64) {
        let number = self.number(topic, epoch);
        self.logs[usize::from(number)].drained_to = Some(next);
    }

    pub(super) fn is_drained(&self, topic: u16) -> bool {
        self.logs.iter().any(|log| log.topic == topic && log.drained_to.is_some())
    }

    /// Whether the final drain saw this place. `None`: its log was not drained, so nobody knows.
    pub(super) fn is_kept(&self, place: Place) -> Option<bool> {
        let log = self.log(place.log())?;
        log.drained_to?;
        Some(log.seen.get(place.offset() as usize).is_some_and(|seen| seen.is_kept))
    }

    /// I10: what a server says of its logs after a restart.
    pub(super) fn recovered(
        &mut self,
        event: &Event,
        topics: &BTreeMap<u16, bool>,
        violations: &mut Violations,
    ) {
        let Event::Recovered { at_us, topic, epoch, oldest, next, first_read } = event else { return };
        if !topics.get(topic).copied().unwrap_or(false) {
            return;
        }
        let mut add = |what: String| {
            violations.add(Invariant::I10, || format!("topic {topic} at {at_us} µs: {what}"));
        };
        if let Some(earlier) = self.logs.iter().find(|log| log.topic == *topic && log.epoch != *epoch) {
            add(format!("epoch {epoch:x}, before it was {:x}", earlier.epoch));
        }
        if first_read.is_some_and(|offset| offset != *oldest) || (first_read.is_none() && next > oldest) {
            add(format!("its oldest offset is {oldest}, reading from there gave {first_read:?}"));
        }
        let number = self.number(*topic, *epoch);
        let acks = &self.logs[usize::from(number)].acks;
        let acked = acks.iter().filter(|(acked_us, _)| acked_us < at_us).map(|(_, offset)| *offset).max();
        if let Some(acked) = acked.filter(|acked| acked >= next) {
            add(format!("the next offset is {next}, but {acked} was acknowledged"));
        }
    }

    /// I11: what somebody was shown is still there. (Acknowledged messages are I1's.)
    pub(super) fn judge(&self, streams: &Streams, topics: &BTreeMap<u16, bool>, violations: &mut Violations) {
        for log in &self.logs {
            if !topics.get(&log.topic).copied().unwrap_or(false) || log.drained_to.is_none() {
                continue;
            }
            for (offset, seen) in (0..).zip(&log.seen).filter(|(_, seen)| seen.word != 0) {
                let message = Identity::of_word(seen.word);
                if !seen.is_kept && !streams.is_acked(message) {
                    let (topic, reader) = (log.topic, seen.first_reader);
                    violations.add(Invariant::I11, || {
                        format!(
                            "{} was shown to reader {reader} at topic {topic} offset {offset} and is gone",
                            named(message)
                        )
                    });
                }
            }
        }
    }

    fn seen(&mut self, read: Read, offset: u64) -> Option<(u16, &mut Seen)> {
        if offset >= OFFSETS_MAX {
            return None;
        }
        let number = self.number(read.topic, read.epoch);
        let seen = &mut self.logs[usize::from(number)].seen;
        if seen.len() <= offset as usize {
            seen.resize(offset as usize + 1, Seen { word: 0, first_reader: 0, is_kept: false });
        }
        Some((number, &mut seen[offset as usize]))
    }
}
