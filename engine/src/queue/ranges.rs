//! The offsets of a topic that a group is done with: a floor and ranges above it.
//!
//! It counts and merges; what being done means is the group's business.

use std::collections::BTreeMap;

/// Every offset below a floor, and ranges above it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    floor: u64,
    /// First offset of each range to the offset after its last. None touches another or the floor.
    above: BTreeMap<u64, u64>,
}

impl Ranges {
    pub(super) fn starting_at(floor: u64) -> Self {
        Self { floor, above: BTreeMap::new() }
    }

    /// Everything below is in the set.
    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    /// The ranges above the floor, by rising offset: first, and one after the last.
    pub(super) fn above(&self) -> impl ExactSizeIterator<Item = (u64, u64)> + '_ {
        self.above.iter().map(|(first, end)| (*first, *end))
    }

    pub(super) fn contains(&self, offset: u64) -> bool {
        offset < self.floor || self.end_of(offset).is_some()
    }

    /// The first offset at or after `offset` that is not in the set.
    pub(super) fn next_missing(&self, offset: u64) -> u64 {
        let offset = offset.max(self.floor);
        self.end_of(offset).unwrap_or(offset)
    }

    /// Adds the offsets from `first` up to, not including, `end`.
    pub(super) fn insert(&mut self, first: u64, end: u64) {
        if end <= first || end <= self.floor {
            return;
        }
        let (mut first, mut end) = (first, end);
        if let Some((&before, &before_end)) = self.above.range(..=first).next_back()
            && before_end >= first
        {
            (first, end) = (before, end.max(before_end));
        }
        while let Some((&after, &after_end)) = self.above.range(first..=end).next() {
            self.above.remove(&after);
            end = end.max(after_end);
        }
        if first <= self.floor {
            self.floor = end;
        } else {
            self.above.insert(first, end);
        }
    }

    /// Takes out every offset from `end` on.
    pub(super) fn cut(&mut self, end: u64) {
        self.floor = self.floor.min(end);
        self.above.split_off(&end);
        if let Some(mut last) = self.above.last_entry() {
            let cut = (*last.get()).min(end);
            last.insert(cut);
        }
    }

    /// The end of the range that holds `offset`.
    fn end_of(&self, offset: u64) -> Option<u64> {
        self.above.range(..=offset).next_back().map(|(_, end)| *end).filter(|end| *end > offset)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_range_set_is_the_set_of_its_offsets_in_the_fewest_ranges() {
        for seed in 1..200_u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut next = |below: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % below
            };
            let floor = next(5);
            let (mut ranges, mut model) = (Ranges::starting_at(floor), (0..floor).collect::<BTreeSet<u64>>());
            for _ in 0..60 {
                let first = next(64);
                let end = first + next(6);
                ranges.insert(first, end);
                model.extend(first..end);
                for offset in 0..80 {
                    assert_eq!(
                        ranges.contains(offset),
                        model.contains(&offset),
                        "seed {seed} offset {offset}"
                    );
                    let missing = (offset..).find(|other| !model.contains(other));
                    assert_eq!(Some(ranges.next_missing(offset)), missing, "seed {seed} offset {offset}");
                }
                let floor = (0..).find(|offset| !model.contains(offset));
                assert_eq!(Some(ranges.floor()), floor, "seed {seed}");
                let mut before = ranges.floor();
                for (first, end) in ranges.above() {
                    assert!(before < first && first < end, "seed {seed}: {ranges:?} is not minimal");
                    before = end;
                }
            }
        }
    }
}
