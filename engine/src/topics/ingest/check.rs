//! What a publisher's run must be like before anything of it is taken. It stores and remembers nothing.

use twinlane_proto::Code;
use twinlane_proto::frame::{MESSAGE_HEADER_BYTES, MessageRef, is_job};

use crate::message::TopicMeta;

/// Seqs above this are nonsense; sums with them would overflow.
pub(super) const SEQ_MAX: u64 = 1 << 62;

/// A publisher broke the rules; its connection ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IngestError {
    #[error("message {seq} came after {last_seq}: one publisher's messages have no holes")]
    OutOfOrder { seq: u64, last_seq: u64 },
    #[error("a message in a run that begins with {first} has another seq than its place says")]
    WrongSeq { first: u64 },
    #[error("a payload is larger than the topic's {payload_bytes_max} bytes")]
    TooLarge { payload_bytes_max: u32 },
    #[error("message {seq} calls itself a job: only a server hands out jobs")]
    Job { seq: u64 },
}

impl IngestError {
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::OutOfOrder { .. } | Self::WrongSeq { .. } | Self::Job { .. } => Code::ProtocolViolation,
            Self::TooLarge { .. } => Code::TooLarge,
        }
    }
}

/// Looks at a run of frames with seqs from `first`, given as the decoder does.
pub(super) fn check(topic: &TopicMeta, first: u64, bytes: &[u8], ends: &[u32]) -> Result<(), IngestError> {
    let payload_bytes_max = topic.spec.payload_bytes_max;
    if first > SEQ_MAX {
        return Err(IngestError::WrongSeq { first });
    }
    let frames = || frames(bytes, ends);
    // What a publisher left out of a fast topic leaves holes in its runs.
    let is_wrong = |(frame, seq): (&[u8], u64)| match topic.is_fast() {
        true => frame_seq(frame) > SEQ_MAX,
        false => frame_seq(frame) != seq,
    };
    if frames().zip(first..).any(is_wrong) {
        return Err(IngestError::WrongSeq { first });
    }
    if let Some((_, seq)) = frames().zip(first..).find(|(frame, _)| is_job(frame)) {
        return Err(IngestError::Job { seq });
    }
    let mut sizes = frames().map(<[u8]>::len);
    let suspect = MESSAGE_HEADER_BYTES + payload_bytes_max as usize;
    if sizes.any(|frame_bytes| frame_bytes > suspect)
        && frames().any(|frame| payload_bytes(frame) > payload_bytes_max as usize)
    {
        return Err(IngestError::TooLarge { payload_bytes_max });
    }
    Ok(())
}

pub(super) fn frames<'b>(bytes: &'b [u8], ends: &'b [u32]) -> impl Iterator<Item = &'b [u8]> {
    let mut from = 0;
    ends.iter().map(move |end| {
        let frame = &bytes[from..*end as usize];
        from = *end as usize;
        frame
    })
}

pub(super) fn frame_seq(frame: &[u8]) -> u64 {
    let seq = frame[16..].first_chunk().expect("the decoder hands out whole frames");
    u64::from_le_bytes(*seq)
}

fn payload_bytes(frame: &[u8]) -> usize {
    MessageRef::parse(frame).map_or(usize::MAX, |message| message.payload().len())
}
