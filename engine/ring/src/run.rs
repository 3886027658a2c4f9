//! A run: committed frames back to back, read in place.
//!
//! It keeps its segment from being reused, and alive even when cursor and ring are gone.

use std::fmt;
use std::ops::{Deref, Range};

use bytes::Bytes;

use crate::segment::Pin;

/// One or more frames as one byte range. Dereferences to the bytes.
///
/// While it lives (or the [`Bytes`] made of it), its segment is not reused: a spare takes its place,
/// and without a spare left producers see [`AppendError::Full`](crate::AppendError::Full).
pub struct Run {
    pin: Pin,
    first_offset: u64,
    first_index: u32,
    frames: u32,
    start: u32,
    end: u32,
}

impl Run {
    #[inline]
    pub(crate) fn new(pin: Pin, first_offset: u64, first_index: u32, frames: u32, bytes: Range<u32>) -> Self {
        pin.segment().note_read(bytes.start, bytes.end);
        Self { pin, first_offset, first_index, frames, start: bytes.start, end: bytes.end }
    }

    /// Offset of the first frame; the others follow without a hole.
    #[inline]
    pub fn first_offset(&self) -> u64 {
        self.first_offset
    }

    /// Number of frames, at least 1.
    #[inline]
    pub fn frames(&self) -> usize {
        self.frames as usize
    }

    /// The frames, back to back.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the cursor took the pin, then loaded the commit words of all these frames.
        unsafe { self.pin.bytes(self.start, self.end) }
    }

    /// The frames as shared bytes without a copy. The segment stays in use until the last clone or
    /// slice of it is dropped.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }

    /// Where each frame ends within [`bytes`](Self::bytes), in order; the last one is their length.
    pub fn frame_ends(&self) -> impl Iterator<Item = u32> + '_ {
        let segment = self.pin.segment();
        (self.first_index..self.first_index + self.frames)
            .map(move |index| segment.committed(index).end() - self.start)
    }
}

impl Deref for Run {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.bytes()
    }
}

impl AsRef<[u8]> for Run {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("first_offset", &self.first_offset)
            .field("frames", &self.frames)
            .field("bytes", &(self.end - self.start))
            .finish()
    }
}

#[cfg(loom)]
impl Drop for Run {
    fn drop(&mut self) {
        // The last moment at which somebody may have read through this run.
        self.pin.segment().note_read(self.start, self.end);
    }
}
