//! Random numbers that are the same for the same seed, in steps of one in a million. Not for secrets.

use crate::link::Share;

/// SplitMix64: every seed, also a small one, starts a sequence of its own.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `most`, both included.
    pub(crate) fn up_to(&mut self, most: u64) -> u64 {
        let wide = u128::from(self.next_u64()) * (u128::from(most) + 1);
        (wide >> 64) as u64
    }

    /// `true` in that share of all calls. A share of nothing takes no number, so that a link which does not lose
    /// delays the same packets as one that does.
    pub(crate) fn chance(&mut self, share: Share) -> bool {
        share != Share::NONE && self.up_to(999_999) < u64::from(share.per_million())
    }
}
