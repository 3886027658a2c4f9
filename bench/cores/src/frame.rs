//! What is in a frame, and the check that every frame arrived once and in order.
//!
//! A frame begins and ends with its number, so that a torn one is noticed. The bytes between are not looked at.

/// Producers that a tally tells apart.
pub(crate) const PRODUCERS_MAX: usize = 16;

const PRODUCER_SHIFT: u32 = 56;

/// The number of a producer's `nth` frame.
#[inline]
pub(crate) fn number(producer: usize, nth: u64) -> u64 {
    (producer as u64) << PRODUCER_SHIFT | nth
}

/// Writes `number` into both ends of a frame of at least 8 bytes.
#[inline]
pub(crate) fn stamp<const N: usize>(frame: &mut [u8; N], number: u64) {
    frame[..8].copy_from_slice(&number.to_le_bytes());
    frame[N - 8..].copy_from_slice(&number.to_le_bytes());
}

/// The number in the first bytes of `frame`.
#[inline]
pub(crate) fn number_of(frame: &[u8]) -> u64 {
    u64::from_le_bytes(*frame.first_chunk().expect("frames have at least 8 bytes"))
}

/// What one consumer has seen.
#[derive(Debug, Default)]
pub struct Tally {
    seen: u64,
    missed: u64,
    /// Per producer, what its next frame must be.
    next: [u64; PRODUCERS_MAX],
    is_wrong: bool,
}

impl Tally {
    /// Counts and checks a frame.
    ///
    /// # Panics
    ///
    /// If it has less than 8 bytes.
    #[inline]
    pub fn take(&mut self, frame: &[u8]) {
        let number = number_of(frame);
        let last = u64::from_le_bytes(*frame.last_chunk().expect("frames have at least 8 bytes"));
        let next = &mut self.next[(number >> PRODUCER_SHIFT) as usize % PRODUCERS_MAX];
        self.is_wrong |= number != last || number << 8 != *next << 8;
        *next += 1;
        self.seen += 1;
    }

    /// Counts frames of the only producer that the queue says are lost to this consumer.
    #[inline]
    pub fn miss(&mut self, frames: u64) {
        self.missed += frames;
        self.next[0] += frames;
    }

    /// Frames seen.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Frames that the queue said are lost to this consumer.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Seen or told missed.
    pub(crate) fn accounted(&self) -> u64 {
        self.seen + self.missed
    }

    /// Panics unless every frame came in its producer's order, whole, and none was missed silently.
    pub(crate) fn check(&self) {
        assert!(!self.is_wrong, "a frame was torn, lost, repeated or out of order: {self:?}");
    }
}
