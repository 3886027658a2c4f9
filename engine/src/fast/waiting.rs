//! Newest values of keys that wait to be read, each key once, in the order in which they began to wait.
//!
//! A newer value takes the place of the one that waits and keeps that place in the line: keys that change all the time
//! are served as often as others. Bounded in bytes; beyond it the longest waiting value is given up and counted.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use twinlane_proto::frame::MessageRef;

use super::deadline::is_in_time;
use super::left_out::LeftOut;
use crate::message::TopicRun;

pub(crate) struct Waiting {
    line: VecDeque<u64>,
    values: HashMap<u64, Value>,
    bytes: usize,
    bytes_max: usize,
}

struct Value {
    offset: u64,
    frame: Vec<u8>,
}

impl Waiting {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { line: VecDeque::new(), values: HashMap::new(), bytes: 0, bytes_max }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// Puts a value in the line, or in the place of its key's older one. Messages without a key share one.
    pub(crate) fn put(&mut self, offset: u64, frame: &MessageRef<'_>, left_out: &LeftOut) {
        let key = key_of(frame);
        let bytes = frame.as_bytes();
        if let Some(waiting) = self.values.get_mut(&key) {
            left_out.add_coalesced(1);
            if offset > waiting.offset {
                self.bytes = self.bytes - waiting.frame.len() + bytes.len();
                waiting.offset = offset;
                waiting.frame.clear();
                waiting.frame.extend_from_slice(bytes);
            }
        } else {
            self.bytes += bytes.len();
            self.values.insert(key, Value { offset, frame: bytes.to_vec() });
            self.line.push_back(key);
        }
        while self.bytes > self.bytes_max && self.line.len() > 1 && self.take_one().is_some() {
            left_out.add_dropped_slow(1);
        }
    }

    /// Puts a value in the line that was read before, unless a newer one of its key waits.
    pub(crate) fn put_again(&mut self, offset: u64, frame: &MessageRef<'_>) {
        if !self.values.contains_key(&key_of(frame)) {
            self.put(offset, frame, &LeftOut::default());
        }
    }

    /// The first values in the line that are not too old, at most `bytes_max` bytes unless one is larger. `leaving`:
    /// their deadlines become the time that is left.
    pub(crate) fn take(
        &mut self,
        bytes_max: usize,
        now_us: u32,
        leaving: bool,
        left_out: &LeftOut,
    ) -> Option<TopicRun> {
        let (mut run, mut first_offset, mut end_offset, mut frames) = (Vec::new(), u64::MAX, 0, 0);
        while let Some(next) = self.line.front() {
            let next_bytes = self.values[next].frame.len();
            if frames > 0 && run.len() + next_bytes > bytes_max {
                break;
            }
            let Some(mut value) = self.take_one() else { break };
            if !is_in_time(&mut value.frame, now_us, leaving) {
                left_out.add_expired(1);
                continue;
            }
            first_offset = first_offset.min(value.offset);
            end_offset = end_offset.max(value.offset + 1);
            frames += 1;
            run.extend_from_slice(&value.frame);
        }
        if self.line.is_empty() {
            // Whoever keeps up again keeps no memory for this.
            *self = Self::new(self.bytes_max);
        }
        (frames > 0).then(|| TopicRun::sparse(first_offset..end_offset, frames, Bytes::from(run)))
    }

    fn take_one(&mut self) -> Option<Value> {
        let key = self.line.pop_front()?;
        let value = self.values.remove(&key).expect("each key in the line has a value");
        self.bytes -= value.frame.len();
        Some(value)
    }
}

/// The key that a message of a `latest` topic has; those without one share 0.
pub(crate) fn key_of(frame: &MessageRef<'_>) -> u64 {
    frame.fixed_options().key.unwrap_or(0)
}
