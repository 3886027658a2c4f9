//! The sizes of a ring and their check. They are chosen once; nothing here changes at run time.

use thiserror::Error;

/// Largest `segment_bytes`: a commit word has 24 bits for a frame's end.
pub const SEGMENT_BYTES_MAX: usize = (1 << 24) - 1;
/// Largest `segment_frames`: leaves the tail word headroom for claims past the end.
pub const SEGMENT_FRAMES_MAX: usize = 1 << 20;
/// Largest `segments + spare_segments`: the tail word has 8 bits for a segment.
pub const SEGMENTS_MAX: usize = 256;

/// Sizes of one [`Ring`](crate::Ring).
///
/// Memory grows on demand up to `(segments + spare_segments) * (segment_bytes + 4 * segment_frames)`;
/// a ring that never saw a frame holds no segment at all. One that holds little takes little: beside those it has two
/// segments of 16 KiB where its own have 64 KiB or more, one of 64 KiB where they have 256 KiB or more, and one of
/// 256 KiB where they have 1 MiB or more, and begins with the smallest.
///
/// | field | default | why this value |
/// | --- | --- | --- |
/// | `segment_bytes` | 262 144 | fits the second-level cache beside its reader; largest frame |
/// | `segment_frames` | 4 096 | 64-byte frames fill both limits at once |
/// | `segments` | 4 | three quarters of the memory are always retained |
/// | `spare_segments` | 2 | two slow socket writes may each hold a segment, or a spared cursor lag by two more |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingConfig {
    /// Bytes of frames in one segment, at most [`SEGMENT_BYTES_MAX`]. Also the largest frame.
    pub segment_bytes: usize,
    /// Frames in one segment, at most [`SEGMENT_FRAMES_MAX`]; costs 4 bytes each.
    pub segment_frames: usize,
    /// Segments in the ring, at least 2. At least `segments - 1` full ones stay readable.
    pub segments: usize,
    /// Extra segments allowed while readers still hold runs of old ones, and lent to
    /// [spared](crate::Gating::Spared) cursors that lag.
    pub spare_segments: usize,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self { segment_bytes: 256 * 1024, segment_frames: 4096, segments: 4, spare_segments: 2 }
    }
}

impl RingConfig {
    /// Checks the bounds.
    ///
    /// # Errors
    ///
    /// The first [`ConfigError`] found; its text says what to change.
    pub fn check(&self) -> Result<(), ConfigError> {
        let Self { segment_bytes, segment_frames, segments, spare_segments } = *self;
        if segment_bytes == 0 || SEGMENT_BYTES_MAX < segment_bytes {
            return Err(ConfigError::SegmentBytes { segment_bytes });
        }
        if segment_frames == 0 || SEGMENT_FRAMES_MAX < segment_frames {
            return Err(ConfigError::SegmentFrames { segment_frames });
        }
        if segments < 2 {
            return Err(ConfigError::TooFewSegments { segments });
        }
        if SEGMENTS_MAX < segments.saturating_add(spare_segments) {
            return Err(ConfigError::TooManySegments { segments, spare_segments });
        }
        Ok(())
    }
}

/// Why a [`RingConfig`] was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// `segment_bytes` is out of bounds.
    #[error("segment_bytes is {segment_bytes}; choose 1 to {SEGMENT_BYTES_MAX}")]
    SegmentBytes {
        /// The refused value.
        segment_bytes: usize,
    },
    /// `segment_frames` is out of bounds.
    #[error("segment_frames is {segment_frames}; choose 1 to {SEGMENT_FRAMES_MAX}")]
    SegmentFrames {
        /// The refused value.
        segment_frames: usize,
    },
    /// One segment cannot be written while another is kept.
    #[error("segments is {segments}; choose at least 2")]
    TooFewSegments {
        /// The refused value.
        segments: usize,
    },
    /// More segments than the tail word can name.
    #[error(
        "segments {segments} + spare_segments {spare_segments} exceed {SEGMENTS_MAX}; use larger segments"
    )]
    TooManySegments {
        /// The refused value.
        segments: usize,
        /// The refused value.
        spare_segments: usize,
    },
}
