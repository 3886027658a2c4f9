//! What reaches a subscription, whichever way it came: the one form that in-process and remote topics share.

use std::sync::Arc;

use twinlane_proto::{GapCause, Outcome};

use crate::fast::Counts;
use crate::message::{RunBytes, TopicMeta};

#[derive(Debug)]
pub(crate) enum Incoming {
    /// A topic was found, or (`again`) found again after a lost connection.
    Bound { topic: Arc<TopicMeta>, next_offset: u64, next_source: u32, outcome: Outcome, again: bool },
    /// Frames with offsets from `first`.
    Run { topic: Arc<TopicMeta>, first: u64, bytes: RunBytes },
    /// Offsets that will not come.
    Skipped { topic: Arc<TopicMeta>, from: u64, to: u64, cause: GapCause },
    /// So many messages of a fast topic were left out by their senders so far.
    LeftOut { topic: Arc<TopicMeta>, counts: Counts },
    /// A publisher stream ended.
    StreamEnd { topic: Arc<TopicMeta>, source: u32, last_seq: u64 },
}

impl Incoming {
    /// Bytes that count against a fast queue's bound.
    pub(crate) fn fast_bytes(&self) -> usize {
        match self {
            Self::Run { topic, bytes, .. } if topic.is_fast() => bytes.len(),
            _ => 0,
        }
    }

    /// Bytes that count against a reliable subscription's credit.
    pub(crate) fn reliable_bytes(&self) -> usize {
        match self {
            Self::Run { topic, bytes, .. } if !topic.is_fast() => bytes.len(),
            _ => 0,
        }
    }
}
