//! One message or end frame: making it, reading it in place, stamping fields into it.
//!
//! Reading checks the frame's own lengths once; options are looked into only when asked for.

use std::ops::Range;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use super::layout::{MessageLayout, Prefix};
use super::options::{JOB_BYTES, Job, Options, lengths_fit, option_at};
use super::{FLAG_DEADLINE, FLAG_DUE, FLAG_JOB, FrameError, KIND_END, KIND_MESSAGE, MESSAGE_HEADER_BYTES};
use crate::limits::{FRAME_BYTES_CEILING, OPTIONS_BYTES_MAX};

const FLAGS_AT: usize = 5;
const TOPIC_AT: usize = 8;
const SOURCE_AT: usize = 12;
const SEQ_AT: usize = 16;
/// The first option, where there is one.
const DEADLINE_AT: usize = MESSAGE_HEADER_BYTES;

/// The fields that every message has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageHeader {
    /// Server-wide number of the topic. In what a server sends of a fast topic, whose number the run says: the low
    /// 32 bits of the message's offset.
    pub topic: u32,
    /// Number of the publisher stream, unique per topic, given by the server.
    pub source: u32,
    /// Number of the message within its publisher stream, from 1, dense.
    pub seq: u64,
    /// When the publisher published it, in microseconds of Unix time.
    pub time_us: u64,
}

/// Appends the header and options of a message whose payload of `payload_bytes` bytes follows.
///
/// Without options this writes 32 bytes and nothing else.
///
/// # Errors
///
/// [`FrameError::FrameTooLarge`] above [`FRAME_BYTES_CEILING`]; nothing was appended.
///
/// ```
/// use twinlane_proto::frame::{MessageHeader, MessageRef, Options, encode_message_head};
///
/// let header = MessageHeader { topic: 7, source: 1, seq: 1, time_us: 1_700_000_000_000_000 };
/// let mut frame = Vec::new();
/// encode_message_head(&header, &Options::default(), 5, &mut frame)?;
/// frame.extend_from_slice(b"hello");
/// let message = MessageRef::parse(&frame)?;
/// assert_eq!((message.header(), message.payload()), (header, &b"hello"[..]));
/// # Ok::<(), twinlane_proto::FrameError>(())
/// ```
#[inline]
pub fn encode_message_head(
    header: &MessageHeader,
    options: &Options<'_>,
    payload_bytes: usize,
    out: &mut Vec<u8>,
) -> Result<(), FrameError> {
    let flags = options.flags();
    if flags == 0 {
        let mut head = [0; MESSAGE_HEADER_BYTES];
        encode_plain_head(header, payload_bytes, &mut head)?;
        out.extend_from_slice(&head);
        return Ok(());
    }
    let options_bytes = options.encoded_bytes();
    debug_assert!(options_bytes <= OPTIONS_BYTES_MAX, "checked headers fit the options");
    let frame_bytes = payload_bytes.saturating_add(MESSAGE_HEADER_BYTES + options_bytes);
    if frame_bytes > FRAME_BYTES_CEILING {
        return Err(FrameError::FrameTooLarge { frame_bytes, frame_bytes_max: FRAME_BYTES_CEILING });
    }
    let prefix = Prefix {
        frame_bytes: U32::new(frame_bytes as u32),
        kind: KIND_MESSAGE,
        flags,
        extra: U16::new(options_bytes as u16),
    };
    out.extend_from_slice(layout(prefix, header).as_bytes());
    options.encode(out);
    Ok(())
}

/// Appends the head of `message` with `job` added to its options; the payload of `message` follows unchanged.
///
/// A job it already has is replaced; every other option is copied as it lies there, user headers unread. Topic,
/// source and seq are those of `message`: stamp what differs.
///
/// # Errors
///
/// [`FrameError::FrameTooLarge`] above [`FRAME_BYTES_CEILING`], [`FrameError::EndNotEmpty`] for an end frame; nothing
/// was appended.
///
/// ```
/// use twinlane_proto::frame::{Job, MessageHeader, MessageRef, Options, encode_job_head, encode_message_head};
///
/// let mut stored = Vec::new();
/// encode_message_head(&MessageHeader::default(), &Options::default(), 5, &mut stored)?;
/// stored.extend_from_slice(b"hello");
/// let stored = MessageRef::parse(&stored)?;
///
/// let job = Job { lease: [7; 16], offset: 41, epoch: 0xe0, attempt: 1 };
/// let mut frame = Vec::new();
/// encode_job_head(&stored, &job, &mut frame)?;
/// frame.extend_from_slice(stored.payload());
/// assert_eq!(MessageRef::parse(&frame)?.options()?.job, Some(job));
/// # Ok::<(), twinlane_proto::FrameError>(())
/// ```
pub fn encode_job_head(message: &MessageRef<'_>, job: &Job, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let frame_bytes = message.frame_bytes();
    let flags = message.flags();
    if message.is_end() {
        return Err(FrameError::EndNotEmpty { frame_bytes: frame_bytes + JOB_BYTES });
    }
    let bytes = message.options_bytes();
    let (before, after) = bytes.split_at(option_at(flags, FLAG_JOB));
    let replaced_bytes = if flags & FLAG_JOB == 0 { 0 } else { JOB_BYTES };
    let added_bytes = JOB_BYTES - replaced_bytes;
    let (frame_bytes, options_bytes) = (frame_bytes + added_bytes, bytes.len() + added_bytes);
    debug_assert!(options_bytes <= OPTIONS_BYTES_MAX, "checked headers fit the options");
    if frame_bytes > FRAME_BYTES_CEILING {
        return Err(FrameError::FrameTooLarge { frame_bytes, frame_bytes_max: FRAME_BYTES_CEILING });
    }
    let prefix = Prefix {
        frame_bytes: U32::new(frame_bytes as u32),
        kind: KIND_MESSAGE,
        flags: flags | FLAG_JOB,
        extra: U16::new(options_bytes as u16),
    };
    out.extend_from_slice(layout(prefix, &message.header()).as_bytes());
    out.extend_from_slice(before);
    job.encode(out);
    out.extend_from_slice(&after[replaced_bytes..]);
    Ok(())
}

/// Writes the head of a message without options whose payload of `payload_bytes` bytes follows: what
/// [`encode_message_head`] appends for it, in place.
///
/// # Errors
///
/// [`FrameError::FrameTooLarge`] above [`FRAME_BYTES_CEILING`]; nothing was written.
#[inline]
pub fn encode_plain_head(
    header: &MessageHeader,
    payload_bytes: usize,
    head: &mut [u8; MESSAGE_HEADER_BYTES],
) -> Result<(), FrameError> {
    let frame_bytes = payload_bytes.saturating_add(MESSAGE_HEADER_BYTES);
    if frame_bytes > FRAME_BYTES_CEILING {
        return Err(FrameError::FrameTooLarge { frame_bytes, frame_bytes_max: FRAME_BYTES_CEILING });
    }
    let frame_bytes = U32::new(frame_bytes as u32);
    let prefix = Prefix { frame_bytes, kind: KIND_MESSAGE, flags: 0, extra: U16::ZERO };
    let in_place: &mut MessageLayout = zerocopy::transmute_mut!(head);
    *in_place = layout(prefix, header);
    Ok(())
}

/// The frame that says publisher stream `header.source` ended with `header.seq` as its last message.
#[must_use]
pub fn encode_end(header: &MessageHeader) -> [u8; MESSAGE_HEADER_BYTES] {
    let frame_bytes = U32::new(MESSAGE_HEADER_BYTES as u32);
    let prefix = Prefix { frame_bytes, kind: KIND_END, flags: 0, extra: U16::ZERO };
    zerocopy::transmute!(layout(prefix, header))
}

/// Writes `seq` into a message or end frame in place.
///
/// # Panics
///
/// If `frame` is shorter than a header.
#[inline]
pub fn stamp_seq(frame: &mut [u8], seq: u64) {
    frame[SEQ_AT..SEQ_AT + 8].copy_from_slice(&seq.to_le_bytes());
}

/// Writes `source` into a message or end frame in place.
///
/// # Panics
///
/// If `frame` is shorter than a header.
#[inline]
pub fn stamp_source(frame: &mut [u8], source: u32) {
    frame[SOURCE_AT..SOURCE_AT + 4].copy_from_slice(&source.to_le_bytes());
}

/// Writes `topic` into a message or end frame in place.
///
/// # Panics
///
/// If `frame` is shorter than a header.
#[inline]
pub fn stamp_topic(frame: &mut [u8], topic: u32) {
    frame[TOPIC_AT..TOPIC_AT + 4].copy_from_slice(&topic.to_le_bytes());
}

/// The `deadline` option of a message whose lengths were checked, if it has one. One look at the flags where it has none.
#[must_use]
#[inline]
pub fn deadline_us(frame: &[u8]) -> Option<u32> {
    if frame[FLAGS_AT] & FLAG_DEADLINE == 0 {
        return None;
    }
    frame.get(DEADLINE_AT..DEADLINE_AT + 4)?.first_chunk().copied().map(u32::from_le_bytes)
}

/// Writes `deadline_us` into a message that has that option, in place.
///
/// # Panics
///
/// If `frame` is shorter than its header and options.
#[inline]
pub fn stamp_deadline(frame: &mut [u8], deadline_us: u32) {
    debug_assert!(frame[FLAGS_AT] & FLAG_DEADLINE != 0, "only a message with a deadline is stamped with one");
    frame[DEADLINE_AT..DEADLINE_AT + 4].copy_from_slice(&deadline_us.to_le_bytes());
}

/// Whether a message whose lengths were checked has the `job` option.
///
/// # Panics
///
/// If `frame` is shorter than a header.
#[must_use]
#[inline]
pub fn is_job(frame: &[u8]) -> bool {
    frame[FLAGS_AT] & FLAG_JOB != 0
}

/// The `due` option of a message whose lengths were checked, if it has one. One look at the flags where it has none.
#[must_use]
#[inline]
pub fn due_us(frame: &[u8]) -> Option<u64> {
    let flags = frame[FLAGS_AT];
    if flags & FLAG_DUE == 0 {
        return None;
    }
    let at = MESSAGE_HEADER_BYTES + option_at(flags, FLAG_DUE);
    frame.get(at..at + 8)?.first_chunk().copied().map(u64::from_le_bytes)
}

/// Writes `due_us` into a message whose lengths were checked, in place. Returns whether it has that option; if not,
/// nothing was written.
///
/// # Panics
///
/// If `frame` is shorter than its header and options.
#[inline]
pub fn stamp_due(frame: &mut [u8], due_us: u64) -> bool {
    let flags = frame[FLAGS_AT];
    if flags & FLAG_DUE == 0 {
        return false;
    }
    let at = MESSAGE_HEADER_BYTES + option_at(flags, FLAG_DUE);
    frame[at..at + 8].copy_from_slice(&due_us.to_le_bytes());
    true
}

/// One message or end frame whose lengths were checked, read in place.
#[derive(Clone, Copy)]
pub struct MessageRef<'a> {
    frame: &'a [u8],
    layout: &'a MessageLayout,
}

impl<'a> MessageRef<'a> {
    /// Checks that `frame` is exactly one message or end frame.
    ///
    /// The options are checked for their length here and for their content by [`Self::options`].
    ///
    /// # Errors
    ///
    /// [`FrameError`] says what does not fit.
    #[inline]
    pub fn parse(frame: &'a [u8]) -> Result<Self, FrameError> {
        let Ok((layout, _)) = MessageLayout::ref_from_prefix(frame) else {
            return Err(FrameError::LengthMismatch { bytes: frame.len(), frame_bytes: 0 });
        };
        let frame_bytes = check_layout(layout)?;
        if frame_bytes != frame.len() {
            return Err(FrameError::LengthMismatch { bytes: frame.len(), frame_bytes });
        }
        Ok(Self { frame, layout })
    }

    /// The fields that every message has.
    #[must_use]
    #[inline]
    pub fn header(&self) -> MessageHeader {
        MessageHeader {
            topic: self.topic(),
            source: self.source(),
            seq: self.seq(),
            time_us: self.layout.time_us.get(),
        }
    }

    /// Server-wide number of the topic.
    #[must_use]
    #[inline]
    pub fn topic(&self) -> u32 {
        self.layout.topic.get()
    }

    /// Number of the publisher stream.
    #[must_use]
    #[inline]
    pub fn source(&self) -> u32 {
        self.layout.source.get()
    }

    /// Number of the message within its publisher stream.
    #[must_use]
    #[inline]
    pub fn seq(&self) -> u64 {
        self.layout.seq.get()
    }

    /// The option flags.
    #[must_use]
    #[inline]
    pub fn flags(&self) -> u8 {
        self.layout.prefix.flags
    }

    /// The options, decoded now.
    ///
    /// # Errors
    ///
    /// [`FrameError`] if the user headers are malformed.
    #[inline]
    pub fn options(&self) -> Result<Options<'a>, FrameError> {
        let flags = self.flags();
        if flags == 0 {
            return Ok(Options::default());
        }
        Options::decode(flags, self.options_bytes())
    }

    /// The options without the user headers, which alone may be malformed.
    #[must_use]
    pub fn fixed_options(&self) -> Options<'static> {
        Options::take_fixed(self.flags(), &mut self.options_bytes())
    }

    /// The options as they lie in the frame.
    fn options_bytes(&self) -> &'a [u8] {
        &self.frame[MESSAGE_HEADER_BYTES..self.payload_range().start]
    }

    /// The payload; an end frame has none.
    #[must_use]
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.frame[self.payload_range()]
    }

    /// Where the payload lies within the frame.
    #[must_use]
    #[inline]
    pub fn payload_range(&self) -> Range<usize> {
        MESSAGE_HEADER_BYTES + usize::from(self.layout.prefix.extra.get())..self.frame.len()
    }

    /// Whether this says that a publisher stream ended, instead of carrying a message.
    #[must_use]
    #[inline]
    pub fn is_end(&self) -> bool {
        self.layout.prefix.kind == KIND_END
    }

    /// Length of the whole frame.
    #[must_use]
    #[inline]
    pub fn frame_bytes(&self) -> usize {
        self.frame.len()
    }

    /// The whole frame.
    #[must_use]
    #[inline]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.frame
    }
}

impl std::fmt::Debug for MessageRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MessageRef")
            .field("header", &self.header())
            .field("is_end", &self.is_end())
            .field("payload_bytes", &self.payload().len())
            .finish()
    }
}

/// The frames of a run that was scanned before, one after the other.
///
/// Made for bytes that a [`Decoder`](super::Decoder) handed out or that a ring stored. Given other bytes
/// it neither panics nor reads out of bounds: it stops at the first thing that is no frame.
#[derive(Clone, Copy, Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Frames<'a> {
    /// The frames in `run`, which lie back to back.
    #[must_use]
    #[inline]
    pub fn new(run: &'a [u8]) -> Self {
        Self { rest: run }
    }

    /// The bytes after the last frame taken. Empty at the end of a well-formed run.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = MessageRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<MessageRef<'a>> {
        let (layout, _) = MessageLayout::ref_from_prefix(self.rest).ok()?;
        let frame_bytes = check_layout(layout).ok()?;
        let (frame, rest) = self.rest.split_at_checked(frame_bytes)?;
        self.rest = rest;
        Some(MessageRef { frame, layout })
    }
}

/// Checks everything about a message or end frame that its header alone tells; returns its length.
#[inline]
pub(super) fn check_layout(layout: &MessageLayout) -> Result<usize, FrameError> {
    let Prefix { frame_bytes, kind, flags, extra } = layout.prefix;
    let (frame_bytes, options_bytes) = (frame_bytes.get() as usize, extra.get());
    if frame_bytes >= MESSAGE_HEADER_BYTES && kind == KIND_MESSAGE && flags == 0 && options_bytes == 0 {
        return Ok(frame_bytes);
    }
    check_unusual_layout(frame_bytes, kind, flags, options_bytes)
}

/// The rest of [`check_layout`], for frames with options, end frames and errors.
fn check_unusual_layout(
    frame_bytes: usize,
    kind: u8,
    flags: u8,
    options_bytes: u16,
) -> Result<usize, FrameError> {
    if kind != KIND_MESSAGE && kind != KIND_END {
        return Err(FrameError::UnknownKind { kind });
    }
    if frame_bytes < MESSAGE_HEADER_BYTES {
        return Err(FrameError::FrameTooShort { kind, frame_bytes, frame_bytes_min: MESSAGE_HEADER_BYTES });
    }
    if kind == KIND_END {
        if flags != 0 || options_bytes != 0 {
            return Err(FrameError::UnknownFlags { kind, flags, extra: options_bytes });
        }
        return match frame_bytes {
            MESSAGE_HEADER_BYTES => Ok(frame_bytes),
            _ => Err(FrameError::EndNotEmpty { frame_bytes }),
        };
    }
    if flags & !super::FLAGS_KNOWN != 0 {
        return Err(FrameError::UnknownFlags { kind, flags, extra: options_bytes });
    }
    let options_bytes = usize::from(options_bytes);
    if !lengths_fit(flags, options_bytes) || options_bytes > frame_bytes - MESSAGE_HEADER_BYTES {
        return Err(FrameError::OptionsMismatch { options_bytes, frame_bytes, flags });
    }
    Ok(frame_bytes)
}

#[inline]
fn layout(prefix: Prefix, header: &MessageHeader) -> MessageLayout {
    MessageLayout {
        prefix,
        topic: U32::new(header.topic),
        source: U32::new(header.source),
        seq: U64::new(header.seq),
        time_us: U64::new(header.time_us),
    }
}
