//! The fixed headers as they lie in memory, and the run header as plain values.
//!
//! Little-endian, unaligned, read in place. Nothing here judges a value except [`RunHeader::decode`].

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{FrameError, KIND_RUN, MESSAGE_HEADER_BYTES, PREFIX_BYTES, RUN_HEADER_BYTES};

/// What every frame begins with.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Prefix {
    pub(crate) frame_bytes: U32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) extra: U16,
}

/// Header of a message or end frame.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct MessageLayout {
    pub(crate) prefix: Prefix,
    pub(crate) topic: U32,
    pub(crate) source: U32,
    pub(crate) seq: U64,
    pub(crate) time_us: U64,
}

/// A run frame.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RunLayout {
    prefix: Prefix,
    lane: U32,
    topic: U32,
    first: U64,
    frames: U32,
    run_bytes: U32,
}

const _: () = assert!(size_of::<Prefix>() == PREFIX_BYTES);
const _: () = assert!(size_of::<MessageLayout>() == MESSAGE_HEADER_BYTES);
const _: () = assert!(size_of::<RunLayout>() == RUN_HEADER_BYTES);

/// Announces `frames` message or end frames of one topic that follow back to back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunHeader {
    /// Server to client: the subscription. Client to server: the publisher. Both chosen by the client.
    pub lane: u32,
    /// Topic of every frame in the run.
    pub topic: u32,
    /// Server to client: offset of the first frame, the others follow densely. Client to server: seq of
    /// the first frame.
    pub first: u64,
    /// Frames in the run, at least 1.
    pub frames: u32,
    /// Bytes of those frames together.
    pub run_bytes: u32,
}

impl RunHeader {
    /// The run frame.
    #[must_use]
    pub fn encode(&self) -> [u8; RUN_HEADER_BYTES] {
        zerocopy::transmute!(RunLayout {
            prefix: Prefix {
                frame_bytes: U32::new(RUN_HEADER_BYTES as u32),
                kind: KIND_RUN,
                flags: 0,
                extra: U16::ZERO,
            },
            lane: U32::new(self.lane),
            topic: U32::new(self.topic),
            first: U64::new(self.first),
            frames: U32::new(self.frames),
            run_bytes: U32::new(self.run_bytes),
        })
    }

    /// Reads a run frame and checks that such a run can exist.
    ///
    /// # Errors
    ///
    /// Not a run frame, or numbers that contradict each other: [`FrameError`] says which.
    pub fn decode(frame: &[u8; RUN_HEADER_BYTES]) -> Result<Self, FrameError> {
        let raw: RunLayout = zerocopy::transmute!(*frame);
        let Prefix { frame_bytes, kind, flags, extra } = raw.prefix;
        let (frame_bytes, extra) = (frame_bytes.get() as usize, extra.get());
        if kind != KIND_RUN {
            return Err(FrameError::UnknownKind { kind });
        }
        if frame_bytes != RUN_HEADER_BYTES {
            return Err(FrameError::LengthMismatch { bytes: RUN_HEADER_BYTES, frame_bytes });
        }
        if flags != 0 || extra != 0 {
            return Err(FrameError::UnknownFlags { kind, flags, extra });
        }
        let run = Self {
            lane: raw.lane.get(),
            topic: raw.topic.get(),
            first: raw.first.get(),
            frames: raw.frames.get(),
            run_bytes: raw.run_bytes.get(),
        };
        run.checked()
    }

    fn checked(self) -> Result<Self, FrameError> {
        let Self { first, frames, run_bytes, .. } = self;
        if frames == 0 || u64::from(run_bytes) < u64::from(frames) * MESSAGE_HEADER_BYTES as u64 {
            return Err(FrameError::RunMismatch { frames, run_bytes });
        }
        if first.checked_add(u64::from(frames)).is_none() {
            return Err(FrameError::RunOverflow { first, frames });
        }
        Ok(self)
    }
}
