//! Fills datagrams with frames and control messages, up to the path's limit.
//!
//! Frames that follow each other share one run header. The packer never splits a frame and never
//! reorders; when to send a datagram that is not full is the caller's decision.

use bytes::{Bytes, BytesMut};

use super::RUN_HEADER_BYTES;
use super::layout::RunHeader;

/// Where `frames` and `run_bytes` lie within a run header.
const COUNTS_AT: usize = 24;

/// Bytes reserved for a datagram at most: no UDP payload is larger.
const RESERVE_BYTES_MAX: usize = 64 << 10;

/// What became of a frame or control message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a frame that was not packed is still the caller's to send"]
pub enum Push {
    /// It is in the datagram.
    Packed,
    /// No room is left: [`Packer::take`] the datagram, then push again.
    Full,
    /// It does not even fit an empty datagram: send it another way.
    TooBig,
}

/// Collects frames into one datagram after the other.
///
/// ```
/// use twinlane_proto::frame::{MessageHeader, Packer, Push, encode_end};
///
/// let mut packer = Packer::new(1_200);
/// let frame = encode_end(&MessageHeader { topic: 7, source: 1, seq: 3, time_us: 0 });
/// assert_eq!(packer.push(4, 7, 0, &frame), Push::Packed);
/// assert_eq!(packer.push(4, 7, 1, &frame), Push::Packed);
/// assert_eq!(packer.take().unwrap().len(), 32 + 2 * 32, "one run header for both");
/// ```
#[derive(Debug)]
pub struct Packer {
    datagram_bytes_max: usize,
    datagram: BytesMut,
    run: Option<PackedRun>,
}

/// The run at the end of the datagram.
#[derive(Debug)]
struct PackedRun {
    at: usize,
    header: RunHeader,
}

impl Packer {
    /// An empty packer for datagrams of at most `datagram_bytes_max` bytes.
    #[must_use]
    pub fn new(datagram_bytes_max: usize) -> Self {
        Self { datagram_bytes_max, datagram: BytesMut::new(), run: None }
    }

    /// Limits datagrams to `datagram_bytes_max` bytes from now on. Call it when the path changes.
    ///
    /// A datagram that is already larger stays as it is: [`Self::take`] it first.
    pub fn set_datagram_bytes_max(&mut self, datagram_bytes_max: usize) {
        self.datagram_bytes_max = datagram_bytes_max;
    }

    /// Adds one message or end frame with number `first` of `topic` on `lane`.
    #[inline]
    pub fn push(&mut self, lane: u32, topic: u32, first: u64, frame: &[u8]) -> Push {
        let used = self.datagram.len();
        if let Some(run) = self.run.as_mut().filter(|run| run.continues(lane, topic, first)) {
            if used + frame.len() > self.datagram_bytes_max {
                return self.refusal(RUN_HEADER_BYTES + frame.len());
            }
            run.header.frames += 1;
            run.header.run_bytes += frame.len() as u32;
            let counts = &mut self.datagram[run.at + COUNTS_AT..run.at + RUN_HEADER_BYTES];
            counts[..4].copy_from_slice(&run.header.frames.to_le_bytes());
            counts[4..].copy_from_slice(&run.header.run_bytes.to_le_bytes());
            self.datagram.extend_from_slice(frame);
            return Push::Packed;
        }
        let bytes = RUN_HEADER_BYTES + frame.len();
        if used + bytes > self.datagram_bytes_max {
            return self.refusal(bytes);
        }
        let header = RunHeader { lane, topic, first, frames: 1, run_bytes: frame.len() as u32 };
        self.reserve();
        self.datagram.extend_from_slice(&header.encode());
        self.datagram.extend_from_slice(frame);
        self.run = Some(PackedRun { at: used, header });
        Push::Packed
    }

    /// Adds one whole control frame.
    pub fn push_control(&mut self, frame: &[u8]) -> Push {
        if self.datagram.len() + frame.len() > self.datagram_bytes_max {
            return self.refusal(frame.len());
        }
        self.reserve();
        self.datagram.extend_from_slice(frame);
        self.run = None;
        Push::Packed
    }

    /// The datagram so far, unless nothing is in it; the next push begins a new one.
    pub fn take(&mut self) -> Option<Bytes> {
        self.run = None;
        (!self.is_empty()).then(|| self.datagram.split().freeze())
    }

    /// Whether nothing waits to be taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.datagram.is_empty()
    }

    /// Bytes that wait to be taken.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.datagram.len()
    }

    fn refusal(&self, bytes: usize) -> Push {
        if bytes > self.datagram_bytes_max { Push::TooBig } else { Push::Full }
    }

    /// Makes room for a whole datagram at its start, in memory of datagrams already sent if possible.
    fn reserve(&mut self) {
        if self.datagram.is_empty() {
            self.datagram.reserve(self.datagram_bytes_max.min(RESERVE_BYTES_MAX));
        }
    }
}

impl PackedRun {
    #[inline]
    fn continues(&self, lane: u32, topic: u32, first: u64) -> bool {
        let RunHeader { first: run_first, frames, .. } = self.header;
        self.header.lane == lane
            && self.header.topic == topic
            && run_first.checked_add(u64::from(frames)) == Some(first)
    }
}
