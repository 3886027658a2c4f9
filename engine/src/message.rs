//! What a subscriber receives: messages, gaps and resumes, one at a time or many in a batch.
//!
//! A [`Batch`] borrows from the topic's history without copying; a [`Message`] is owned and pins nothing there,
//! so it may be kept for as long as one likes.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use twinlane_proto::frame::{Frames, Headers, MessageRef, Options};
use twinlane_proto::{Channel, GapCause, Mode, Outcome, TopicName, TopicSpec};
use twinlane_ring::Run;

use crate::fast::{is_over, ticks_us};

/// Frames below this are copied out of a batch; larger ones share its memory where that pins no history: at most
/// four times their size, because a read shares 128 KiB.
const COPY_BELOW_BYTES: usize = 32 << 10;

/// Parts of a read below this are copied to be kept: a sixteenth of the memory that it shares.
const SHARED_BYTES_MIN: usize = 8 << 10;

/// What both sides know of a topic once it is bound.
#[derive(Debug)]
pub(crate) struct TopicMeta {
    pub(crate) id: u32,
    pub(crate) name: TopicName,
    pub(crate) epoch: u64,
    pub(crate) spec: TopicSpec,
}

impl TopicMeta {
    pub(crate) fn is_fast(&self) -> bool {
        self.spec.channel == Channel::Fast
    }

    pub(crate) fn is_unordered(&self) -> bool {
        self.is_fast() && self.spec.mode == Mode::Unordered
    }

    /// A fast topic whose holes are reported where they are.
    pub(crate) fn is_ordered(&self) -> bool {
        self.is_fast() && self.spec.mode == Mode::Ordered
    }

    pub(crate) fn is_latest(&self) -> bool {
        self.is_fast() && self.spec.mode == Mode::Latest
    }

    /// The offset of a frame that is number `index` in a run from `first` on. On a fast topic, whose runs have holes,
    /// the frame has the low 32 bits of it.
    #[inline]
    pub(crate) fn offset(&self, first: u64, index: usize, frame: &MessageRef<'_>) -> u64 {
        if !self.is_fast() {
            return first.saturating_add(index as u64);
        }
        offset_near(first, frame)
    }
}

/// The offset of a frame of a fast topic, of which it has the low 32 bits, in a run from `first` on.
#[inline]
pub(crate) fn offset_near(first: u64, frame: &MessageRef<'_>) -> u64 {
    let away = frame.topic().wrapping_sub(first as u32) as i32;
    first.saturating_add_signed(away.into())
}

/// One thing a subscription hands out.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Delivery {
    /// A message.
    Message(Message),
    /// Messages that will not come, reported before the first message after the hole.
    Gap(Gap),
    /// The subscription goes on after a lost connection; `outcome` says whether anything was missed.
    Resumed {
        /// The topic.
        topic: TopicName,
        /// `Resumed`: nothing was missed. `Gap(n)`: n messages are no longer retained. `Fresh`: the topic began anew.
        outcome: Outcome,
    },
}

/// One message, owned.
#[derive(Clone)]
pub struct Message {
    topic: Arc<TopicMeta>,
    offset: u64,
    frame: Bytes,
}

/// One message, borrowed from a [`Batch`]. Copying it to a [`Message`] makes it independent of the batch.
#[derive(Clone, Copy)]
pub struct MessageView<'a> {
    topic: &'a Arc<TopicMeta>,
    offset: u64,
    frame: MessageRef<'a>,
}

macro_rules! message_accessors {
    () => {
        /// The topic it was published on.
        #[must_use]
        pub fn topic(&self) -> &TopicName {
            &self.topic.name
        }

        /// Its place in the topic: from 0, dense, per epoch.
        #[must_use]
        pub fn offset(&self) -> u64 {
            self.offset
        }

        /// The epoch that the offset belongs to; it changes when a topic's log begins anew.
        #[must_use]
        pub fn epoch(&self) -> u64 {
            self.topic.epoch
        }

        /// Whether the topic is fast or reliable.
        #[must_use]
        pub fn channel(&self) -> Channel {
            self.topic.spec.channel
        }

        /// The publisher stream it came from; unique within the topic.
        #[must_use]
        pub fn source(&self) -> u32 {
            self.parsed().header().source
        }

        /// Its place in that publisher stream: from 1, dense.
        #[must_use]
        pub fn seq(&self) -> u64 {
            self.parsed().header().seq
        }

        /// When it was published, by the publisher's clock, in microseconds since 1970. Messages published in a
        /// burst may share a reading of that clock, which is then at most one tick of the kernel old (1 to 10 ms).
        #[must_use]
        pub fn time_us(&self) -> u64 {
            self.parsed().header().time_us
        }

        /// When it was published, by the publisher's clock.
        #[must_use]
        pub fn published_at(&self) -> SystemTime {
            UNIX_EPOCH + Duration::from_micros(self.time_us())
        }

        /// The key it was published with.
        #[must_use]
        pub fn key(&self) -> Option<u64> {
            self.options().key
        }

        /// The headers it was published with.
        #[must_use]
        pub fn headers(&self) -> Option<Headers<'_>> {
            self.options().headers
        }
    };
}

impl Message {
    message_accessors!();

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.parsed().payload()
    }

    /// The payload, sharing this message's memory.
    #[must_use]
    pub fn payload_bytes(&self) -> Bytes {
        self.frame.slice(self.parsed().payload_range())
    }

    pub(crate) fn options(&self) -> Options<'_> {
        self.parsed().options().unwrap_or_default()
    }

    /// The hole that it leaves, if holes of its topic are reported.
    pub(crate) fn hole(&self, cause: GapCause) -> Option<Gap> {
        let (source, from) = (self.source(), self.seq());
        let missing = Missing::Seqs { source, from, to: from.saturating_add(1) };
        self.topic.is_ordered().then(|| Gap { topic: self.topic.name.clone(), cause, missing })
    }

    /// Whether its deadline has passed.
    pub(crate) fn is_expired(&self) -> bool {
        self.topic.is_fast() && is_over(&self.frame, ticks_us)
    }

    /// The same message as one of `topic`, at `offset`.
    pub(crate) fn on(self, topic: Arc<TopicMeta>, offset: u64) -> Self {
        Self { topic, offset, ..self }
    }

    fn parsed(&self) -> MessageRef<'_> {
        MessageRef::parse(&self.frame).expect("a frame was checked before it became a message")
    }
}

impl<'a> MessageView<'a> {
    message_accessors!();

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.frame.payload()
    }

    pub(crate) fn options(&self) -> Options<'a> {
        self.frame.options().unwrap_or_default()
    }

    fn parsed(&self) -> MessageRef<'a> {
        self.frame
    }

    /// Copies the message out of its batch.
    #[must_use]
    pub fn to_message(&self) -> Message {
        let frame = Bytes::copy_from_slice(self.frame.as_bytes());
        Message { topic: Arc::clone(self.topic), offset: self.offset, frame }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug_message(f, self.topic(), self.offset, self.seq(), self.payload())
    }
}

impl fmt::Debug for MessageView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug_message(f, self.topic(), self.offset, self.seq(), self.payload())
    }
}

fn debug_message(
    f: &mut fmt::Formatter<'_>,
    topic: &TopicName,
    offset: u64,
    seq: u64,
    payload: &[u8],
) -> fmt::Result {
    f.debug_struct("Message")
        .field("topic", &topic.as_ref())
        .field("offset", &offset)
        .field("seq", &seq)
        .field("payload_bytes", &payload.len())
        .finish()
}

/// A hole: messages that will not come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The topic.
    pub topic: TopicName,
    /// Why they will not come.
    pub cause: GapCause,
    /// Which they are.
    pub missing: Missing,
}

/// Which messages a [`Gap`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Offsets of the topic, `from` inclusive, `to` exclusive.
    Offsets {
        /// The first missing offset.
        from: u64,
        /// The offset after the last missing one.
        to: u64,
    },
    /// Seqs of one publisher stream, `from` inclusive, `to` exclusive.
    Seqs {
        /// The publisher stream.
        source: u32,
        /// The first missing seq.
        from: u64,
        /// The seq after the last missing one.
        to: u64,
    },
}

impl Gap {
    /// How many messages are missing.
    #[must_use]
    pub fn count(&self) -> u64 {
        match self.missing {
            Missing::Offsets { from, to } | Missing::Seqs { from, to, .. } => to - from,
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, topic, cause) = (self.count(), &self.topic, self.cause);
        match self.missing {
            Missing::Offsets { from, to } => {
                write!(f, "{topic}: {count} missing, offsets {from} to {} ({cause})", to - 1)
            }
            Missing::Seqs { source, from, to } => {
                write!(
                    f,
                    "{topic}: {count} missing, messages {from} to {} of publisher {source} ({cause})",
                    to - 1
                )
            }
        }
    }
}

/// Many deliveries of one topic, handed out together.
///
/// In process it borrows the topic's history: keep it only while you work through it. A few batches held for long
/// make publishers of that topic see a full queue.
#[derive(Debug)]
pub struct Batch {
    topic: Arc<TopicMeta>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// Every frame of the run is a message; offsets are dense from `first`.
    Whole { first: u64, messages: usize, bytes: RunBytes },
    /// Some frames of the run, with gaps between them.
    Picked { bytes: RunBytes, entries: Vec<Entry> },
    /// No messages.
    Resumed(Outcome),
}

/// A part of what was read, to keep: a large one as it is, a small one copied, so that what waits holds little more
/// memory than its own.
pub(crate) fn kept(part: Bytes) -> Bytes {
    if part.len() < SHARED_BYTES_MIN { Bytes::copy_from_slice(&part) } else { part }
}

/// Where a run of frames lies.
#[derive(Debug)]
pub(crate) enum RunBytes {
    /// Pinned in a topic's ring.
    Pinned(Run),
    /// Memory of its own.
    Own(Bytes),
}

impl std::ops::Deref for RunBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Pinned(run) => run.bytes(),
            Self::Own(bytes) => bytes,
        }
    }
}

/// Frames of one topic, back to back: as a cursor found them in the ring or in the log. Their offsets are dense, except
/// on a fast topic, where each frame tells its own.
#[derive(Debug)]
pub(crate) struct TopicRun {
    first_offset: u64,
    /// Above the offsets of all frames.
    end_offset: u64,
    frames: usize,
    bytes: RunBytes,
}

impl TopicRun {
    pub(crate) fn read_back(first_offset: u64, frames: usize, bytes: Bytes) -> Self {
        Self { first_offset, end_offset: first_offset + frames as u64, frames, bytes: RunBytes::Own(bytes) }
    }

    /// Frames of a fast topic some of whose offsets were left out.
    pub(crate) fn sparse(offsets: Range<u64>, frames: usize, bytes: Bytes) -> Self {
        Self { first_offset: offsets.start, end_offset: offsets.end, frames, bytes: RunBytes::Own(bytes) }
    }

    /// Whether offsets were left out, or are out of order.
    pub(crate) fn is_sparse(&self) -> bool {
        self.end_offset - self.first_offset != self.frames as u64
    }

    /// Where whoever has read these frames goes on.
    pub(crate) fn end_offset(&self) -> u64 {
        self.end_offset
    }

    pub(crate) fn first_offset(&self) -> u64 {
        self.first_offset
    }

    pub(crate) fn frames(&self) -> usize {
        self.frames
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn into_bytes(self) -> RunBytes {
        self.bytes
    }
}

impl From<Run> for TopicRun {
    #[inline]
    fn from(run: Run) -> Self {
        let (first_offset, frames) = (run.first_offset(), run.frames());
        let end_offset = first_offset + frames as u64;
        Self { first_offset, end_offset, frames, bytes: RunBytes::Pinned(run) }
    }
}

/// One delivery picked out of a run.
#[derive(Debug, Clone)]
pub(crate) enum Entry {
    Message { at: u32, frame_bytes: u32, offset: u64 },
    Gap(Gap),
}

/// One delivery of a [`Batch`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum DeliveryRef<'a> {
    /// A message.
    Message(MessageView<'a>),
    /// A hole before the next message.
    Gap(&'a Gap),
    /// See [`Delivery::Resumed`].
    Resumed {
        /// The topic.
        topic: &'a TopicName,
        /// Whether anything was missed.
        outcome: Outcome,
    },
}

impl DeliveryRef<'_> {
    pub(crate) fn to_delivery(self) -> Delivery {
        match self {
            Self::Message(view) => Delivery::Message(view.to_message()),
            Self::Gap(gap) => Delivery::Gap(gap.clone()),
            Self::Resumed { topic, outcome } => Delivery::Resumed { topic: topic.clone(), outcome },
        }
    }
}

impl Batch {
    pub(crate) fn whole(topic: Arc<TopicMeta>, first: u64, messages: usize, bytes: RunBytes) -> Self {
        Self { topic, content: Content::Whole { first, messages, bytes } }
    }

    pub(crate) fn picked(topic: Arc<TopicMeta>, bytes: RunBytes, entries: Vec<Entry>) -> Self {
        Self { topic, content: Content::Picked { bytes, entries } }
    }

    pub(crate) fn gap(topic: Arc<TopicMeta>, gap: Gap) -> Self {
        Self::picked(topic, RunBytes::Own(Bytes::new()), vec![Entry::Gap(gap)])
    }

    pub(crate) fn resumed(topic: Arc<TopicMeta>, outcome: Outcome) -> Self {
        Self { topic, content: Content::Resumed(outcome) }
    }

    pub(crate) fn is_fast(&self) -> bool {
        self.topic.is_fast()
    }

    /// The topic all of it belongs to.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.topic.name
    }

    /// How many deliveries it holds, gaps included.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.content {
            Content::Whole { messages, .. } => *messages,
            Content::Picked { entries, .. } => entries.len(),
            Content::Resumed(_) => 1,
        }
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything in it, in order.
    pub fn iter(&self) -> impl Iterator<Item = DeliveryRef<'_>> {
        let mut at = BatchPosition::default();
        std::iter::from_fn(move || self.take(&mut at))
    }

    /// The messages in it, in order.
    pub fn messages(&self) -> impl Iterator<Item = MessageView<'_>> {
        self.iter().filter_map(|delivery| match delivery {
            DeliveryRef::Message(view) => Some(view),
            _ => None,
        })
    }

    /// The delivery at `at`, which then moves on.
    pub(crate) fn take(&self, at: &mut BatchPosition) -> Option<DeliveryRef<'_>> {
        let topic = &self.topic;
        match &self.content {
            Content::Whole { first, messages, bytes } => {
                if at.index == *messages {
                    return None;
                }
                let frame = Frames::new(&bytes[at.byte..]).next()?;
                let offset = topic.offset(*first, at.index, &frame);
                at.index += 1;
                at.byte += frame.frame_bytes();
                Some(DeliveryRef::Message(MessageView { topic, offset, frame }))
            }
            Content::Picked { bytes, entries } => {
                let entry = entries.get(at.index)?;
                at.index += 1;
                Some(match entry {
                    Entry::Gap(gap) => DeliveryRef::Gap(gap),
                    Entry::Message { at, frame_bytes, offset } => {
                        let range = *at as usize..(*at + *frame_bytes) as usize;
                        let frame = MessageRef::parse(&bytes[range]).expect("picked frames were checked");
                        DeliveryRef::Message(MessageView { topic, offset: *offset, frame })
                    }
                })
            }
            Content::Resumed(outcome) => {
                let first = at.index == 0;
                at.index = 1;
                first.then_some(DeliveryRef::Resumed { topic: &topic.name, outcome: *outcome })
            }
        }
    }

    /// What is left from `at` on, as a batch of its own. `None`: nothing.
    pub(crate) fn rest(self, at: &mut BatchPosition) -> Option<Self> {
        let Self { topic, content } = self;
        let content = match content {
            Content::Whole { first, messages, bytes } if at.index < messages => {
                let bytes = match (bytes, at.byte) {
                    (bytes, 0) => bytes,
                    (bytes, from) => RunBytes::Own(Bytes::copy_from_slice(&bytes[from..])),
                };
                Content::Whole {
                    first: first.saturating_add(at.index as u64),
                    messages: messages - at.index,
                    bytes,
                }
            }
            Content::Picked { bytes, mut entries } if at.index < entries.len() => {
                entries.drain(..at.index);
                Content::Picked { bytes, entries }
            }
            Content::Resumed(outcome) if at.index == 0 => Content::Resumed(outcome),
            _ => return None,
        };
        Some(Self { topic, content })
    }

    /// As [`Self::take`], owned. Large frames share the batch's memory where that pins no history.
    pub(crate) fn take_owned(&self, at: &mut BatchPosition) -> Option<Delivery> {
        let delivery = self.take(at)?;
        if let (DeliveryRef::Message(view), Content::Whole { bytes: RunBytes::Own(bytes), .. }) =
            (delivery, &self.content)
            && view.frame.frame_bytes() >= COPY_BELOW_BYTES
        {
            let frame = bytes.slice_ref(view.frame.as_bytes());
            return Some(Delivery::Message(Message {
                topic: Arc::clone(&self.topic),
                offset: view.offset,
                frame,
            }));
        }
        Some(delivery.to_delivery())
    }
}

/// How far a batch has been worked through.
#[derive(Debug, Default)]
pub(crate) struct BatchPosition {
    index: usize,
    byte: usize,
}
