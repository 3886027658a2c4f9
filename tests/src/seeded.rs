//! Random numbers that are the same for the same seed. Not for secrets.

/// A small pseudo-random generator (xorshift64*).
#[derive(Clone, Debug)]
pub struct Seeded(u64);

impl Seeded {
    /// The generator of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut seeded = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        seeded.next_u64();
        seeded
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next_u64() >> 16) % bound
    }

    /// `true` for `permille` of a thousand calls.
    pub fn chance(&mut self, permille: u32) -> bool {
        self.below(1_000) < u64::from(permille)
    }
}
