//! What each subscription was shown, in its order: I6, and how far it had come when.

use std::collections::BTreeMap;

use super::report::{Invariant, Violations};

/// A reader's position is kept this often at most, for [`Readers::reached_at`].
const POSITION_EVERY_US: u64 = 20_000;

/// One reading of one topic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Read {
    pub(super) reader: u16,
    pub(super) topic: u16,
    pub(super) epoch: u64,
    pub(super) at_us: u64,
    pub(super) drains: bool,
}

#[derive(Debug, Default)]
struct Reader {
    from_start: bool,
    drains: bool,
    ended_us: Option<u64>,
    topics: BTreeMap<u16, Position>,
}

#[derive(Debug, Default)]
struct Position {
    epoch: u64,
    /// `None`: it may begin anywhere.
    next: Option<u64>,
    /// Times and the next offset then.
    path: Vec<(u64, u64)>,
}

#[derive(Debug, Default)]
pub(super) struct Readers {
    readers: BTreeMap<u16, Reader>,
    delivered: u64,
}

impl Readers {
    pub(super) fn begin(&mut self, reader: u16, from_start: bool, drains: bool) {
        self.readers.insert(reader, Reader { from_start, drains, ..Reader::default() });
    }

    pub(super) fn end(&mut self, reader: u16, at_us: u64) {
        if let Some(reader) = self.readers.get_mut(&reader) {
            reader.ended_us = Some(at_us);
        }
    }

    pub(super) fn read(&self, reader: u16, topic: u16, epoch: u64, at_us: u64) -> Read {
        let drains = self.readers.get(&reader).is_some_and(|reader| reader.drains);
        Read { reader, topic, epoch, at_us, drains }
    }

    /// I6: `count` messages with dense offsets came.
    pub(super) fn delivered(&mut self, read: Read, first: u64, count: u64, violations: &mut Violations) {
        self.delivered += count;
        let position = self.position(read.reader, read.topic);
        if position.epoch != read.epoch {
            // In another epoch the offsets begin anew; that it may not be another one is I10's business.
            let is_first = position.path.is_empty();
            let begins = if is_first { position.next } else { Some(0) };
            (position.epoch, position.next) = (read.epoch, begins);
        }
        let expected = position.next.unwrap_or(first);
        if first != expected {
            let Read { reader, topic, at_us, .. } = read;
            violations.add(Invariant::I6, || {
                let what = if first > expected { "skipped" } else { "repeated" };
                format!("reader {reader}, topic {topic}: offset {first} came instead of {expected} ({what}) at {at_us} µs")
            });
        }
        let next = first.saturating_add(count);
        position.next = Some(next);
        match position.path.last_mut() {
            // Later than it was, so that nobody is blamed for being late by this much.
            Some(last) if read.at_us.saturating_sub(last.0) < POSITION_EVERY_US => last.1 = next,
            _ => position.path.push((read.at_us, next)),
        }
    }

    /// The reader was told that offsets will not come.
    pub(super) fn gap(&mut self, reader: u16, topic: u16, from: u64, to: u64) {
        let position = self.position(reader, topic);
        if position.next.is_none_or(|next| next == from) {
            position.next = Some(to);
        }
    }

    /// Readers that were meant to see everything and were there to the end: which, topic, and when they had come
    /// to `offset` of it.
    pub(super) fn lasting(
        &self,
        topic: u16,
        epoch: u64,
    ) -> impl Iterator<Item = (u16, impl Fn(u64) -> Option<u64>)> {
        let lasting = self
            .readers
            .iter()
            .filter(|(_, reader)| reader.from_start && reader.ended_us.is_none() && !reader.drains);
        lasting.map(move |(number, reader)| {
            let position = reader.topics.get(&topic).filter(|position| position.epoch == epoch);
            let path = position.map_or(&[][..], |position| &position.path);
            let reached =
                move |offset: u64| path.iter().find(|(_, next)| *next > offset).map(|(at_us, _)| *at_us);
            (*number, reached)
        })
    }

    pub(super) fn delivered_total(&self) -> u64 {
        self.delivered
    }

    pub(super) fn len(&self) -> u64 {
        self.readers.len() as u64
    }

    fn position(&mut self, reader: u16, topic: u16) -> &mut Position {
        let reader = self.readers.entry(reader).or_default();
        let next = reader.from_start.then_some(0);
        reader.topics.entry(topic).or_insert_with(|| Position { next, ..Position::default() })
    }
}
