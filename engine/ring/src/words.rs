//! The two packed words: the tail (who claims what) and the commit word (what is readable).
//!
//! Pure arithmetic; who stores them when is the business of `ring` and `segment`.

/// Frames above this are claimed by compare-and-swap, which cannot overshoot.
///
/// The bound of the tail word: a claim by addition may run past the end of a segment, but a thread
/// does that at most once per use of a segment, because it then takes the rotation lock and meets
/// `halted` until a new segment is in place. With 2^20 threads inside that window at once the byte
/// field reaches 2 * 2^24 + 2^20 * 4032 < 2^32 and the index field 2^20 + 2^20 + 1 < 2^22.
pub(crate) const ADDED_FRAME_BYTES_MAX: usize = 4032;

/// What a segment holds at most; the same for all segments of a ring.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) bytes: u32,
    pub(crate) frames: u32,
}

/// `segment:8 | closed:1 | sleep:1 | index:22 | bytes:32`, the next free place of the newest segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tail(pub(crate) u64);

impl Tail {
    pub(crate) const SLEEP: u64 = 1 << 54;
    pub(crate) const CLOSED: u64 = 1 << 55;
    const INDEX_SHIFT: u32 = 32;
    const INDEX_MASK: u64 = (1 << 22) - 1;
    const SEGMENT_SHIFT: u32 = 56;

    /// Before the first segment: past the end of any segment, so the first append rotates.
    pub(crate) const UNBORN: Self = Self(1 << 25);

    /// The start of an empty segment, keeping the flags of `self`.
    pub(crate) fn moved_to(self, segment: usize) -> Self {
        Self((segment as u64) << Self::SEGMENT_SHIFT | self.0 & (Self::SLEEP | Self::CLOSED))
    }

    /// What to add for a claim of `frames` with `bytes` in all.
    #[inline]
    pub(crate) fn step(bytes: u32, frames: u32) -> u64 {
        u64::from(frames) << Self::INDEX_SHIFT | u64::from(bytes)
    }

    #[inline]
    pub(crate) fn segment(self) -> usize {
        (self.0 >> Self::SEGMENT_SHIFT) as usize
    }

    #[inline]
    pub(crate) fn index(self) -> u32 {
        (self.0 >> Self::INDEX_SHIFT & Self::INDEX_MASK) as u32
    }

    #[inline]
    pub(crate) fn bytes(self) -> u32 {
        self.0 as u32
    }

    #[inline]
    pub(crate) fn is_closed(self) -> bool {
        self.0 & Self::CLOSED != 0
    }

    #[inline]
    pub(crate) fn sleeps(self) -> bool {
        self.0 & Self::SLEEP != 0
    }

    /// Nobody has claimed past the end yet.
    #[inline]
    pub(crate) fn is_open(self, limits: Limits) -> bool {
        self.bytes() <= limits.bytes && self.index() <= limits.frames
    }

    /// A claim made from this state lies within the segment.
    #[inline]
    pub(crate) fn fits(self, bytes: u32, frames: u32, limits: Limits) -> bool {
        let frames_max = limits.frames + u32::from(cfg!(ring_mutant = "frame_bound"));
        u64::from(self.bytes()) + u64::from(bytes) <= u64::from(limits.bytes)
            && self.index() + frames <= frames_max
    }
}

/// What a commit word says about its frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Readable.
    Frame,
    /// Claimed, but its producer gave up: never readable.
    Abandoned,
    /// No frame: this segment ends here, or the ring was closed here.
    End,
}

/// `tag:6 | kind:2 | end:24`; a word whose tag is not the segment's belongs to an earlier use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Commit(pub(crate) u32);

impl Commit {
    /// Tags run from 1 to this; 0 is the tag of memory that was never written.
    pub(crate) const TAG_MAX: u32 = 63;
    const TAG_SHIFT: u32 = 26;
    const KIND_SHIFT: u32 = 24;
    const END_MASK: u32 = (1 << 24) - 1;

    #[inline]
    pub(crate) fn new(tag: u32, kind: Kind, end: u32) -> Self {
        debug_assert!(end <= Self::END_MASK && tag <= Self::TAG_MAX, "end {end}, tag {tag}");
        let kind = match kind {
            Kind::Frame => 0,
            Kind::Abandoned => 1,
            Kind::End => 2,
        };
        Self(tag << Self::TAG_SHIFT | kind << Self::KIND_SHIFT | end)
    }

    /// What the word says in a segment whose current tag is `tag`.
    #[inline]
    pub(crate) fn kind(self, tag: u32) -> Option<Kind> {
        if self.0 >> Self::TAG_SHIFT != tag {
            return None;
        }
        Some(match self.0 >> Self::KIND_SHIFT & 3 {
            0 => Kind::Frame,
            1 => Kind::Abandoned,
            _ => Kind::End,
        })
    }

    /// Where its frame ends, in bytes from the start of the segment.
    #[inline]
    pub(crate) fn end(self) -> u32 {
        self.0 & Self::END_MASK
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::config::{SEGMENT_BYTES_MAX, SEGMENT_FRAMES_MAX, SEGMENTS_MAX};

    const LIMITS: Limits = Limits { bytes: SEGMENT_BYTES_MAX as u32, frames: SEGMENT_FRAMES_MAX as u32 };

    #[test]
    fn a_million_producers_past_the_end_do_not_disturb_the_neighbouring_fields() {
        let largest_claim = Tail::step(SEGMENT_BYTES_MAX as u32, 1);
        let mut tail = Tail(0).moved_to(SEGMENTS_MAX - 1).0 | Tail::SLEEP;
        tail += Tail::step(LIMITS.bytes, LIMITS.frames);
        tail += largest_claim;
        tail += (1 << 20) * Tail::step(ADDED_FRAME_BYTES_MAX as u32, 1);
        let tail = Tail(tail);
        assert_eq!(tail.segment(), SEGMENTS_MAX - 1);
        assert!(tail.sleeps() && !tail.is_closed() && !tail.is_open(LIMITS));
    }

    #[test]
    fn a_full_segment_is_open_until_somebody_claims_past_its_end() {
        let full = Tail(Tail::step(LIMITS.bytes, 7));
        assert!(full.is_open(LIMITS) && !full.fits(1, 1, LIMITS) && full.fits(0, 1, LIMITS));
        assert!(!Tail(full.0 + Tail::step(1, 1)).is_open(LIMITS));
        assert!(!Tail::UNBORN.is_open(LIMITS));
    }

    #[test]
    fn a_claim_fits_up_to_the_last_byte_and_the_last_frame_and_not_further() {
        let limits = Limits { bytes: 10, frames: 3 };
        let tail = Tail(Tail::step(6, 2));
        assert!(tail.fits(4, 1, limits));
        assert!(!tail.fits(5, 1, limits));
        assert!(!tail.fits(4, 2, limits));
    }

    #[test]
    fn a_commit_word_of_another_use_says_nothing() {
        let word = Commit::new(5, Kind::Abandoned, 77);
        assert_eq!(word.kind(5), Some(Kind::Abandoned));
        assert_eq!(word.end(), 77);
        assert_eq!(word.kind(6), None);
        assert_eq!(Commit(0).kind(1), None);
    }
}
