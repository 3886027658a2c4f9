//! Fragments: a frame that no datagram can carry, cut into parts that each fill one, with parity to spare.
//!
//! This says which bytes of a frame which fragment carries, and refuses fragments that cannot be. It neither cuts nor
//! puts together, and keeps nothing.

use std::ops::Range;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::erasure::DATA_BLOCKS_MAX;
use super::layout::Prefix;
use super::{FRAGMENT_HEADER_BYTES, FrameError, KIND_FRAGMENT, MESSAGE_HEADER_BYTES};
use crate::limits::{FRAGMENT_BYTES_MIN, FRAME_BYTES_MAX};

/// A fragment's header.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct FragmentLayout {
    prefix: Prefix,
    lane: U32,
    topic: U32,
    number: U64,
    message: U32,
    frame_bytes: U32,
    data: U16,
    parity: U16,
    budget_us: U32,
}

const _: () = assert!(size_of::<FragmentLayout>() == FRAGMENT_HEADER_BYTES);

/// How a frame is cut: into `data` fragments of equal length, the last of which may be shorter, and `parity` more.
///
/// More than [`DATA_BLOCKS_MAX`] data fragments are shared out to several codes, `codes`: every fragment whose number
/// leaves the same remainder belongs to the same one, and each mends itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    frame_bytes: u32,
    data: u16,
    parity: u16,
}

impl Cut {
    /// Cuts a frame of `frame_bytes` bytes into `data` fragments and makes `parity` more.
    ///
    /// # Errors
    ///
    /// [`FrameError::FrameTooLarge`] above [`FRAME_BYTES_MAX`]; [`FrameError::BadCut`] if a fragment would be empty,
    /// below [`FRAGMENT_BYTES_MIN`] although there are several, or if `parity` is above `data` + 2.
    pub fn new(frame_bytes: usize, data: usize, parity: usize) -> Result<Self, FrameError> {
        if frame_bytes > FRAME_BYTES_MAX {
            return Err(FrameError::FrameTooLarge { frame_bytes, frame_bytes_max: FRAME_BYTES_MAX });
        }
        let bad = FrameError::BadCut { frame_bytes, data, parity };
        if data == 0 || parity.saturating_sub(2) > data || frame_bytes < MESSAGE_HEADER_BYTES {
            return Err(bad);
        }
        let block_bytes = frame_bytes.div_ceil(data);
        let is_last_empty = block_bytes * (data - 1) >= frame_bytes;
        if is_last_empty || (data > 1 && block_bytes < FRAGMENT_BYTES_MIN) {
            return Err(bad);
        }
        // A frame of the largest size in the smallest fragments stays below 16 bits with parity and all.
        Ok(Self { frame_bytes: frame_bytes as u32, data: data as u16, parity: parity as u16 })
    }

    /// The fewest data fragments for datagrams of at most `datagram_bytes_max` bytes, without parity.
    ///
    /// # Errors
    ///
    /// As [`Self::new`]: the frame is too large or the datagrams are too small.
    pub fn fitting(frame_bytes: usize, datagram_bytes_max: usize) -> Result<Self, FrameError> {
        let fragment_bytes_max = datagram_bytes_max.saturating_sub(FRAGMENT_HEADER_BYTES);
        let data = if fragment_bytes_max == 0 { 0 } else { frame_bytes.div_ceil(fragment_bytes_max) };
        Self::new(frame_bytes, data, 0)
    }

    /// Bytes of the whole frame.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        self.frame_bytes as usize
    }

    /// Data fragments; as many of each code put it together.
    #[must_use]
    pub fn data(&self) -> usize {
        self.data.into()
    }

    /// Parity fragments.
    #[must_use]
    pub fn parity(&self) -> usize {
        self.parity.into()
    }

    /// All fragments.
    #[must_use]
    pub fn fragments(&self) -> usize {
        self.data() + self.parity()
    }

    /// Bytes that every fragment has but the last data fragment, which counts as filled up with zeros.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        self.frame_bytes().div_ceil(self.data())
    }

    /// Where data fragment `index` lies in the frame.
    #[must_use]
    pub fn range(&self, index: usize) -> Range<usize> {
        let at = index * self.block_bytes();
        at..self.frame_bytes().min(at + self.block_bytes())
    }

    /// Bytes of fragment `index`, without its header.
    #[must_use]
    pub fn fragment_bytes(&self, index: usize) -> usize {
        if index < self.data() { self.range(index).len() } else { self.block_bytes() }
    }

    /// Codes that the fragments are shared out to.
    #[must_use]
    pub fn codes(&self) -> usize {
        self.data().div_ceil(DATA_BLOCKS_MAX)
    }

    /// Data fragments of one code.
    #[must_use]
    pub fn code_data(&self, code: usize) -> usize {
        (self.data() - code).div_ceil(self.codes())
    }

    /// The code that fragment `index` belongs to, and its number there, parity counted after data.
    #[must_use]
    pub fn place(&self, index: usize) -> (usize, usize) {
        let codes = self.codes();
        match index.checked_sub(self.data()) {
            None => (index % codes, index / codes),
            Some(row) => (row % codes, self.code_data(row % codes) + row / codes),
        }
    }
}

/// The header of one fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentHeader {
    /// As in [`RunHeader::lane`](super::RunHeader::lane).
    pub lane: u32,
    /// Topic of the frame.
    pub topic: u32,
    /// Number of the frame: what would be [`RunHeader::first`](super::RunHeader::first) of a run with only this one.
    pub number: u64,
    /// Which fragments belong together: the sender counts its messages up, over all lanes, and goes on at 0.
    pub message: u32,
    /// How the frame is cut.
    pub cut: Cut,
    /// Which fragment: first data, then parity.
    pub index: u16,
    /// Microseconds that all fragments may take to arrive after the first; 0: no limit but the receiver's.
    pub budget_us: u32,
}

impl FragmentHeader {
    /// The header; [`Cut::fragment_bytes`] of the frame or of parity follow it.
    #[must_use]
    pub fn encode(&self) -> [u8; FRAGMENT_HEADER_BYTES] {
        let fragment_bytes = FRAGMENT_HEADER_BYTES + self.cut.fragment_bytes(self.index.into());
        zerocopy::transmute!(FragmentLayout {
            prefix: Prefix {
                frame_bytes: U32::new(fragment_bytes as u32),
                kind: KIND_FRAGMENT,
                flags: 0,
                extra: U16::new(self.index),
            },
            lane: U32::new(self.lane),
            topic: U32::new(self.topic),
            number: U64::new(self.number),
            message: U32::new(self.message),
            frame_bytes: U32::new(self.cut.frame_bytes),
            data: U16::new(self.cut.data),
            parity: U16::new(self.cut.parity),
            budget_us: U32::new(self.budget_us),
        })
    }

    /// Whether both are of the same message and say the same of it.
    #[must_use]
    pub fn agrees(&self, other: &Self) -> bool {
        Self { index: 0, ..*self } == Self { index: 0, ..*other }
    }
}

/// One fragment, read in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'b> {
    /// What it is a part of.
    pub header: FragmentHeader,
    /// The part: exactly [`Cut::fragment_bytes`].
    pub bytes: &'b [u8],
}

impl<'b> Fragment<'b> {
    /// Reads the fragment at the start of `datagram`; more may follow it.
    ///
    /// # Errors
    ///
    /// It ends too early, or such a fragment cannot be: [`FrameError`] says why.
    pub fn decode(datagram: &'b [u8]) -> Result<Self, FrameError> {
        let incomplete = FrameError::DatagramIncomplete { bytes: datagram.len() };
        let Ok((layout, rest)) = FragmentLayout::ref_from_prefix(datagram) else { return Err(incomplete) };
        let Prefix { frame_bytes, kind, flags, extra } = layout.prefix;
        let (fragment_bytes, index) = (frame_bytes.get() as usize, extra.get());
        if kind != KIND_FRAGMENT {
            return Err(FrameError::UnknownKind { kind });
        }
        if flags != 0 {
            return Err(FrameError::UnknownFlags { kind, flags, extra: index });
        }
        let cut = Cut::new(
            layout.frame_bytes.get() as usize,
            layout.data.get().into(),
            layout.parity.get().into(),
        )?;
        if usize::from(index) >= cut.fragments() {
            return Err(FrameError::NoSuchFragment { index: index.into(), fragments: cut.fragments() });
        }
        let bytes = cut.fragment_bytes(index.into());
        if fragment_bytes != FRAGMENT_HEADER_BYTES + bytes {
            let fragment_bytes_needed = FRAGMENT_HEADER_BYTES + bytes;
            return Err(FrameError::FragmentLength { fragment_bytes, fragment_bytes_needed });
        }
        let header = FragmentHeader {
            lane: layout.lane.get(),
            topic: layout.topic.get(),
            number: layout.number.get(),
            message: layout.message.get(),
            cut,
            index,
            budget_us: layout.budget_us.get(),
        };
        Ok(Self { header, bytes: rest.get(..bytes).ok_or(incomplete)? })
    }

    /// Bytes of the datagram that it took.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        FRAGMENT_HEADER_BYTES + self.bytes.len()
    }
}
