//! Fills datagrams with frames and control messages, up to the path's limit.
//!
//! Frames that follow each other share one run header. The packer never splits a frame and never
//! reorders; when to send a datagram that is not full is the caller's decision.

use bytes::{Bytes, BytesMut};

use super::RUN_HEADER_BYTES;
use super::layout::RunHeader;
use super::message::Frames;

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

    /// Bytes of a datagram at most.
    #[must_use]
    pub fn datagram_bytes_max(&self) -> usize {
        self.datagram_bytes_max
    }

    /// Adds one message or end frame with number `first` of `topic` on `lane`.
    #[inline]
    pub fn push(&mut self, lane: u32, topic: u32, first: u64, frame: &[u8]) -> Push {
        let used = self.datagram.len();
        if self.run.as_ref().is_some_and(|run| run.continues(lane, topic, first)) {
            if used + frame.len() > self.datagram_bytes_max {
                return self.refusal(RUN_HEADER_BYTES + frame.len());
            }
            self.extend(1, frame);
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

    /// Adds frames from the front of `run`, whose first has number `first`, until the datagram is full or an end
    /// frame comes. Returns how many it added and their bytes; 0 frames: see what [`Self::push`] says of the next.
    ///
    /// `run` is well-formed: made by a decoder or taken from a ring.
    pub fn push_run(&mut self, lane: u32, topic: u32, first: u64, run: &[u8]) -> (u64, usize) {
        let continues = self.run.as_ref().is_some_and(|packed| packed.continues(lane, topic, first));
        let header_bytes = if continues { 0 } else { RUN_HEADER_BYTES };
        let room = self.datagram_bytes_max.saturating_sub(self.datagram.len() + header_bytes);
        let (frames, run_bytes) = fitting(run, room);
        if frames == 0 {
            return (0, 0);
        }
        if !continues {
            self.reserve();
            let at = self.datagram.len();
            let header = RunHeader { lane, topic, first, frames: 0, run_bytes: 0 };
            self.datagram.extend_from_slice(&header.encode());
            self.run = Some(PackedRun { at, header });
        }
        self.extend(frames, &run[..run_bytes]);
        (u64::from(frames), run_bytes)
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

    /// Adds `frames` to the run at the end, for which there is room.
    #[inline]
    fn extend(&mut self, frames: u32, bytes: &[u8]) {
        let run = self.run.as_mut().expect("there is a run to extend");
        run.header.frames += frames;
        run.header.run_bytes += bytes.len() as u32;
        let counts = &mut self.datagram[run.at + COUNTS_AT..run.at + RUN_HEADER_BYTES];
        counts[..4].copy_from_slice(&run.header.frames.to_le_bytes());
        counts[4..].copy_from_slice(&run.header.run_bytes.to_le_bytes());
        self.datagram.extend_from_slice(bytes);
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

/// How many whole messages at the front of `run` fit `room` bytes, up to an end frame, and their bytes.
fn fitting(run: &[u8], room: usize) -> (u32, usize) {
    let (mut frames, mut bytes) = (0, 0);
    for frame in Frames::new(run) {
        if frame.is_end() || bytes + frame.frame_bytes() > room {
            break;
        }
        frames += 1;
        bytes += frame.frame_bytes();
    }
    (frames, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{MessageHeader, Options, encode_end, encode_message_head};

    fn message(seq: u64, payload_bytes: usize) -> Vec<u8> {
        let header = MessageHeader { topic: 7, source: 1, seq, time_us: 0 };
        let mut frame = Vec::new();
        encode_message_head(&header, &Options::default(), payload_bytes, &mut frame).unwrap();
        frame.resize(frame.len() + payload_bytes, seq as u8);
        frame
    }

    #[test]
    fn a_run_packs_into_the_same_bytes_as_its_frames_one_by_one() {
        let frames: Vec<_> = (1..=60).map(|seq| message(seq, (seq as usize * 37) % 200)).collect();
        let run = frames.concat();
        let (mut whole, mut single) = (Packer::new(1_200), Packer::new(1_200));
        let (mut from_run, mut from_frames) = (Vec::new(), Vec::new());
        let (mut number, mut at) = (0, 0);
        while at < run.len() {
            let (packed, bytes) = whole.push_run(4, 7, number, &run[at..]);
            (number, at) = (number + packed, at + bytes);
            if packed == 0 {
                from_run.extend(whole.take());
            }
        }
        from_run.extend(whole.take());
        for (number, frame) in (0..).zip(&frames) {
            if single.push(4, 7, number, frame) == Push::Full {
                from_frames.extend(single.take());
                assert_eq!(single.push(4, 7, number, frame), Push::Packed);
            }
        }
        from_frames.extend(single.take());
        assert_eq!(from_run, from_frames);
    }

    #[test]
    fn a_run_is_packed_up_to_an_end_frame_or_a_frame_that_is_too_big() {
        let end = encode_end(&MessageHeader { topic: 7, source: 1, seq: 2, time_us: 0 });
        let mut packer = Packer::new(300);
        let run = [message(1, 10), end.to_vec(), message(3, 10)].concat();
        assert_eq!(packer.push_run(4, 7, 0, &run), (1, 42));
        assert_eq!(packer.push_run(4, 7, 1, &run[42..]), (0, 0), "an end frame is not packed");
        assert_eq!(packer.push_run(4, 7, 2, &message(4, 400)), (0, 0));
        assert_eq!(packer.push(4, 7, 2, &message(4, 400)), Push::TooBig);
        assert_eq!(packer.bytes(), RUN_HEADER_BYTES + 42);
    }
}
