//! What all readers of one fast ring share: whether its messages have deadlines, its newest values, and its ends.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use twinlane_proto::frame::{MessageHeader, encode_end};

use super::left_out::{Counts, LeftOut};
use crate::lock::lock;
use crate::topics::last::LastValues;

/// Ends of publisher streams that are remembered for readers that were overtaken.
const ENDED_MAX: usize = 1_024;

#[derive(Default)]
pub(crate) struct Flow {
    has_deadlines: AtomicBool,
    /// The newest message of each key, where the topic's mode is `latest` and the ring overtakes its readers.
    pub(crate) newest: Option<Arc<LastValues>>,
    /// What publishers, and whoever stored their messages, left out.
    pub(crate) upstream: LeftOut,
    /// What all readers together were not given.
    downstream: Arc<LeftOut>,
    ended: Mutex<VecDeque<Ended>>,
}

/// A publisher stream that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Where the ring says so.
    pub(crate) offset: u64,
    pub(crate) source: u32,
    pub(crate) last_seq: u64,
}

impl Ended {
    pub(crate) fn frame(&self) -> [u8; twinlane_proto::frame::MESSAGE_HEADER_BYTES] {
        let Self { offset, source, last_seq: seq } = *self;
        encode_end(&MessageHeader { topic: offset as u32, source, seq, time_us: 0 })
    }
}

impl Flow {
    pub(crate) fn new(has_deadlines: bool, newest: Option<Arc<LastValues>>) -> Self {
        Self { has_deadlines: has_deadlines.into(), newest, ..Self::default() }
    }

    /// Readers look for deadlines from now on. Call it before the message with one is stored.
    #[inline]
    pub(crate) fn expect_deadlines(&self) {
        if !self.has_deadlines() {
            self.has_deadlines.store(true, Ordering::Release);
        }
    }

    #[inline]
    pub(crate) fn has_deadlines(&self) -> bool {
        self.has_deadlines.load(Ordering::Relaxed)
    }

    /// Counts for one more reader.
    pub(crate) fn downstream(&self) -> Arc<LeftOut> {
        Arc::new(LeftOut::part_of(Arc::clone(&self.downstream)))
    }

    /// What was left out so far, before and after the ring.
    pub(crate) fn left_out(&self) -> Counts {
        self.upstream.counts().plus(self.downstream.counts())
    }

    pub(crate) fn ended(&self, end: Ended) {
        let mut ended = lock(&self.ended);
        if ended.len() == ENDED_MAX {
            ended.pop_front();
        }
        ended.push_back(end);
    }

    /// Streams whose ends lie at `from..to`, which somebody could not read.
    pub(crate) fn ended_within(&self, from: u64, to: u64) -> Vec<Ended> {
        lock(&self.ended).iter().filter(|end| (from..to).contains(&end.offset)).copied().collect()
    }
}
