//! What of one run is for the application: all of it as it lies there, or a list once something was irregular.

use std::sync::Arc;

use twinlane_proto::frame::{Frames, MessageRef};

use crate::message::{Entry, Gap, Missing, TopicMeta};

/// What an examination found, as a list only once something was irregular.
pub(super) struct Found {
    pub(super) topic: Arc<TopicMeta>,
    /// Offset of the run's first frame.
    pub(super) first: u64,
    pub(super) entries: Option<Vec<Entry>>,
    /// Frames examined so far, and where the next one begins.
    pub(super) index: usize,
    byte: usize,
    pub(super) messages: usize,
    pub(super) payload_bytes: usize,
}

impl Found {
    pub(super) fn new(topic: Arc<TopicMeta>, first: u64) -> Self {
        Self { topic, first, entries: None, index: 0, byte: 0, messages: 0, payload_bytes: 0 }
    }

    pub(super) fn message(&mut self, frame: &MessageRef<'_>) {
        if let Some(entries) = &mut self.entries {
            let offset = self.topic.offset(self.first, self.index, frame);
            let (at, frame_bytes) = (self.byte as u32, frame.frame_bytes() as u32);
            entries.push(Entry::Message { at, frame_bytes, offset });
        }
        self.messages += 1;
        self.payload_bytes += frame.payload().len();
        self.pass(frame.frame_bytes());
    }

    /// The frame at hand is not for the application.
    pub(super) fn skip(&mut self, bytes: &[u8]) {
        self.listed(bytes);
        let frame_bytes = Frames::new(&bytes[self.byte..]).next().map_or(0, |frame| frame.frame_bytes());
        self.pass(frame_bytes);
    }

    /// A hole before the frame at hand. Those that follow each other for the same reason are one.
    pub(super) fn gap(&mut self, gap: Gap, bytes: &[u8]) {
        let entries = self.listed(bytes);
        if let (Some(Entry::Gap(earlier)), Missing::Seqs { source, from, to }) =
            (entries.last_mut(), gap.missing)
            && let Missing::Seqs { source: same, to: end, .. } = &mut earlier.missing
            && (*same, *end, earlier.cause) == (source, from, gap.cause)
        {
            *end = to;
            return;
        }
        entries.push(Entry::Gap(gap));
    }

    /// Offset of the frame at hand, on a reliable topic.
    pub(super) fn offset(&self) -> u64 {
        self.first.saturating_add(self.index as u64)
    }

    pub(super) fn pass(&mut self, frame_bytes: usize) {
        self.index += 1;
        self.byte += frame_bytes;
    }

    /// Turns "all of it so far" into a list.
    pub(super) fn listed(&mut self, bytes: &[u8]) -> &mut Vec<Entry> {
        let (topic, first, index, mut at) = (&self.topic, self.first, self.index, 0);
        self.entries.get_or_insert_with(|| {
            Frames::new(bytes)
                .take(index)
                .enumerate()
                .map(|(index, frame)| {
                    let frame_bytes = frame.frame_bytes() as u32;
                    let offset = topic.offset(first, index, &frame);
                    let entry = Entry::Message { at, frame_bytes, offset };
                    at += frame_bytes;
                    entry
                })
                .collect()
        })
    }
}
