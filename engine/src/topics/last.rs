//! The newest message of a topic, or of each of its keys, kept however old it is.
//!
//! Bounded in values and bytes: the least recently changed is given up first. It never waits. On a durable topic the
//! values that retention is about to give up are copied into the log's own state by [`super::store`].

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Mutex;

use bytes::Bytes;
use twinlane_proto::Last;
use twinlane_proto::frame::{Frames, MessageRef};

use crate::lock::lock;
use crate::message::TopicRun;

/// Bytes of one topic's last values.
const BYTES_MAX: usize = 64 << 20;

pub(crate) struct LastValues {
    by_key: bool,
    /// The key of messages without one; `None`: they are no values.
    no_key: Option<u64>,
    values_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    offsets: HashMap<u64, u64>,
    values: BTreeMap<u64, Value>,
    bytes: usize,
    /// Keys whose saved value is not kept any more.
    given_up: Vec<u64>,
}

struct Value {
    key: u64,
    frame: Bytes,
    /// It is in the log's state, so its message may go.
    is_saved: bool,
}

/// A value for the log's state.
pub(crate) struct Unsaved {
    pub(crate) key: u64,
    pub(crate) offset: u64,
    pub(crate) frame: Bytes,
}

impl LastValues {
    /// `None`: the topic keeps none.
    pub(crate) fn new(last: Last, values_max: usize) -> Option<Self> {
        let by_key = match last {
            Last::None => return None,
            Last::Topic => false,
            Last::Key => true,
        };
        let values_max = if by_key { values_max.max(1) } else { 1 };
        Some(Self { by_key, no_key: None, values_max, state: Mutex::default() })
    }

    /// The newest of each key, and of all messages without one: what a `latest` topic is about.
    pub(crate) fn of_latest(values_max: usize) -> Self {
        Self { by_key: true, no_key: Some(0), values_max: values_max.max(1), state: Mutex::default() }
    }

    /// A message was stored. Of two with the same key the higher offset stays, whichever is noted first.
    pub(crate) fn note(&self, offset: u64, frame: &[u8]) {
        let Some(key) = self.key_of(frame) else { return };
        self.put(key, offset, Bytes::copy_from_slice(frame), false);
    }

    /// Notes the messages of a run.
    pub(crate) fn note_run(&self, first_offset: u64, frames: &[u8]) {
        (first_offset..)
            .zip(Frames::new(frames))
            .for_each(|(offset, frame)| self.note(offset, frame.as_bytes()));
    }

    /// Puts a value back that the log has saved.
    pub(crate) fn restore(&self, key: u64, offset: u64, frame: &[u8]) {
        self.put(key, offset, Bytes::copy_from_slice(frame), true);
    }

    /// The values with offsets below `end`, ascending.
    pub(crate) fn before(&self, end: u64) -> Vec<TopicRun> {
        let state = lock(&self.state);
        let values = state.values.range(..end);
        values.map(|(offset, value)| TopicRun::read_back(*offset, 1, value.frame.clone())).collect()
    }

    /// Values with offsets from `from` to below `to`, ascending.
    pub(crate) fn within(&self, from: u64, to: u64) -> Vec<(u64, Bytes)> {
        let state = lock(&self.state);
        state.values.range(from..to).map(|(offset, value)| (*offset, value.frame.clone())).collect()
    }

    /// Offsets in `range` that have values.
    pub(crate) fn offsets_within(&self, range: Range<u64>) -> Vec<u64> {
        lock(&self.state).values.range(range).map(|(offset, _)| *offset).collect()
    }

    /// Those of `offsets` that have values.
    pub(crate) fn offsets_among(&self, offsets: &[u64]) -> Vec<u64> {
        let state = lock(&self.state);
        offsets.iter().filter(|offset| state.values.contains_key(offset)).copied().collect()
    }

    /// The value at `offset`, if it has one.
    pub(crate) fn at(&self, offset: u64) -> Option<Bytes> {
        lock(&self.state).values.get(&offset).map(|value| value.frame.clone())
    }

    /// The oldest value whose message must be kept, because it is nowhere else.
    pub(crate) fn floor(&self) -> Option<u64> {
        let state = lock(&self.state);
        state.values.iter().find(|(_, value)| !value.is_saved).map(|(offset, _)| *offset)
    }

    /// Values below `end` that are not saved, the oldest first: at most `count`, and `bytes_max` unless one is larger.
    pub(crate) fn unsaved_below(&self, end: u64, count: usize, bytes_max: usize) -> Vec<Unsaved> {
        let state = lock(&self.state);
        let mut bytes = 0;
        let unsaved = state.values.range(..end).filter(|(_, value)| !value.is_saved).take(count);
        unsaved
            .take_while(|(_, value)| {
                let is_first = bytes == 0;
                bytes += value.frame.len();
                is_first || bytes <= bytes_max
            })
            .map(|(offset, value)| Unsaved { key: value.key, offset: *offset, frame: value.frame.clone() })
            .collect()
    }

    /// Keys whose saved value the log may forget, since the last call.
    pub(crate) fn take_given_up(&self) -> Vec<u64> {
        std::mem::take(&mut lock(&self.state).given_up)
    }

    pub(crate) fn saved(&self, offsets: &[u64]) {
        let mut state = lock(&self.state);
        for offset in offsets {
            // A newer value of the key may have taken its place.
            if let Some(value) = state.values.get_mut(offset) {
                value.is_saved = true;
            }
        }
    }

    fn key_of(&self, frame: &[u8]) -> Option<u64> {
        let message = MessageRef::parse(frame).ok()?;
        if self.by_key { message.fixed_options().key.or(self.no_key) } else { Some(0) }
    }

    fn put(&self, key: u64, offset: u64, frame: Bytes, is_saved: bool) {
        let mut state = lock(&self.state);
        if state.offsets.get(&key).is_some_and(|newest| offset <= *newest) {
            return;
        }
        if let Some(earlier) = state.offsets.insert(key, offset) {
            state.remove(earlier);
        }
        state.bytes += frame.len();
        state.values.insert(offset, Value { key, frame, is_saved });
        while state.values.len() > self.values_max || (state.bytes > BYTES_MAX && state.values.len() > 1) {
            let Some((&oldest, value)) = state.values.first_key_value() else { break };
            let (key, is_saved) = (value.key, value.is_saved);
            state.offsets.remove(&key);
            state.remove(oldest);
            if is_saved {
                state.given_up.push(key);
            }
        }
    }
}

impl State {
    fn remove(&mut self, offset: u64) {
        if let Some(value) = self.values.remove(&offset) {
            self.bytes -= value.frame.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use twinlane_proto::frame::{MessageHeader, Options, encode_message_head};

    use super::*;

    fn frame(key: u64, seq: u64) -> Vec<u8> {
        let header = MessageHeader { seq, ..MessageHeader::default() };
        let mut frame = Vec::new();
        encode_message_head(&header, &Options { key: Some(key), ..Options::default() }, 0, &mut frame)
            .unwrap();
        frame
    }

    fn offsets(values: &LastValues) -> Vec<u64> {
        values.before(u64::MAX).iter().map(TopicRun::first_offset).collect()
    }

    #[test]
    fn each_key_keeps_its_newest_message_whatever_the_order_of_notes() {
        let values = LastValues::new(Last::Key, 10).unwrap();
        for (offset, key) in [(0, 1), (2, 1), (1, 2), (5, 3), (4, 3)] {
            values.note(offset, &frame(key, offset + 1));
        }
        assert_eq!(offsets(&values), [1, 2, 5]);
        assert_eq!(values.before(3).len(), 2, "what comes later comes as it is published");
    }

    #[test]
    fn a_topic_without_keys_keeps_one_message() {
        let values = LastValues::new(Last::Topic, 10).unwrap();
        (0..5).for_each(|offset| values.note(offset, &frame(offset, offset + 1)));
        assert_eq!(offsets(&values), [4]);
    }

    #[test]
    fn the_least_recently_changed_value_goes_when_there_are_too_many() {
        let values = LastValues::new(Last::Key, 3).unwrap();
        for (offset, key) in [(0, 1), (1, 2), (2, 3), (3, 1), (4, 4)] {
            values.note(offset, &frame(key, offset + 1));
        }
        assert_eq!(offsets(&values), [2, 3, 4]);
    }

    #[test]
    fn a_value_holds_its_message_until_it_is_saved() {
        let values = LastValues::new(Last::Key, 10).unwrap();
        (0..4).for_each(|offset| values.note(offset, &frame(offset, offset + 1)));
        assert_eq!(values.floor(), Some(0));
        let unsaved = |count, bytes_max| -> Vec<_> {
            values.unsaved_below(2, count, bytes_max).iter().map(|one| one.offset).collect()
        };
        assert_eq!(unsaved(10, 1), [0], "one that is larger than the bound is saved alone");
        let both = unsaved(10, 1 << 20);
        values.saved(&both);
        assert_eq!((both, values.floor()), (vec![0, 1], Some(2)));
    }
}
