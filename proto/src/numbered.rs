//! Maps by numbers that are handed out one after the other: lanes, topics, a topic's publishers.
//!
//! Neighbours among the numbers are neighbours in memory, so whoever goes through a thousand topics in turn finds the
//! next one where the processor has fetched already. The numbers are often a peer's choice: where a block of them
//! begins is a secret of the map, so no choice makes many of them collide.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

/// A map by numbers that are handed out one after the other.
///
/// ```
/// use twinlane_proto::numbered::Numbered;
///
/// let mut lanes = Numbered::default();
/// lanes.insert(7, "orders");
/// assert_eq!(lanes.get(&7), Some(&"orders"));
/// ```
pub type Numbered<T> = HashMap<u32, T, NumberHash>;

/// Numbers that lie next to each other. More at a time would bring nothing, and leave a peer more to choose from.
const BLOCK: u32 = 64;
/// The map tells entries apart by these bits of a hash before it compares their numbers.
const TAG_SHIFT: u32 = 57;

/// Hashes numbers for one [`Numbered`] map.
#[derive(Clone, Debug)]
pub struct NumberHash {
    secret: [u64; 2],
}

/// The [`Hasher`] of a [`NumberHash`], for one `u32`.
#[derive(Clone, Debug)]
pub struct NumberHasher {
    secret: [u64; 2],
    hash: u64,
}

impl Default for NumberHash {
    /// With a secret of its own.
    fn default() -> Self {
        let random = RandomState::new();
        // Odd, so that multiplying by it loses nothing.
        Self { secret: [random.hash_one(0), random.hash_one(1) | 1] }
    }
}

impl BuildHasher for NumberHash {
    type Hasher = NumberHasher;

    #[inline]
    fn build_hasher(&self) -> NumberHasher {
        NumberHasher { secret: self.secret, hash: 0 }
    }
}

impl Hasher for NumberHasher {
    /// The place of a number in its block, behind a start that the multiplication of two 64-bit words makes of the
    /// block's number (as wyhash and its relatives mix their input).
    #[inline]
    fn write_u32(&mut self, number: u32) {
        let (block, place) = (u64::from(number / BLOCK), u64::from(number % BLOCK));
        let mixed = u128::from(block ^ self.secret[0]) * u128::from(self.secret[1]);
        let start = (mixed >> 64) as u64 ^ mixed as u64;
        self.hash = start.wrapping_add(place) ^ place << TAG_SHIFT;
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("the keys of a map of numbers are of type u32");
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a map that has room for `places` looks first.
    fn places(hash: &NumberHash, numbers: impl Iterator<Item = u32>, places: u64) -> Vec<u64> {
        numbers.map(|number| hash.hash_one(number) % places).collect()
    }

    #[test]
    fn neighbouring_numbers_are_neighbours_in_the_map() {
        let hash = NumberHash::default();
        let places = places(&hash, 1..=1_000, 1 << 11);
        let neighbours = places.windows(2).filter(|pair| (pair[0] + 1) % (1 << 11) == pair[1]).count();
        assert!(neighbours >= 1_000 - 1_000 / BLOCK as usize - 2, "{neighbours}");
    }

    #[test]
    fn numbers_that_a_peer_spaces_out_are_spread_over_the_map() {
        for stride in [BLOCK, 1 << 12, 1 << 16, BLOCK + 1] {
            let hash = NumberHash::default();
            let mut places = places(&hash, (0..1 << 12).map(|nth: u32| nth.wrapping_mul(stride)), 1 << 14);
            places.sort_unstable();
            let most = places.chunk_by(|one, next| one == next).map(<[u64]>::len).max();
            // Of 4,096 in 16,384 places, thrown at random, 12 in one is less likely than one in 10^11.
            assert!(most < Some(12), "stride {stride}: {most:?} in one place, {hash:?}");
        }
    }

    #[test]
    fn two_maps_do_not_begin_a_block_at_the_same_place() {
        let [one, other] = [NumberHash::default(), NumberHash::default()];
        assert_ne!(one.hash_one(0_u32), other.hash_one(0_u32));
    }
}
