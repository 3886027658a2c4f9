//! How long threads waited for a processor, by time: what a busy machine adds to every delay that is measured.

/// Times in which threads waited. Entries may overlap.
#[derive(Debug, Default)]
pub(super) struct Waits {
    entries: Vec<(u64, u64, u64)>,
    /// Begins and ends, each ascending, with the sum of what was waited up to there.
    begins: Vec<(u64, u64)>,
    ends: Vec<(u64, u64)>,
}

impl Waits {
    pub(super) fn add(&mut self, from_us: u64, to_us: u64, waited_us: u64) {
        self.entries.push((from_us, to_us, waited_us));
    }

    /// To be called once all are there.
    pub(super) fn sort(&mut self) {
        let summed = |mut at: Vec<(u64, u64)>| {
            at.sort_unstable();
            let mut sum = 0;
            at.iter_mut().for_each(|(_, waited)| {
                sum += *waited;
                *waited = sum;
            });
            at
        };
        self.begins = summed(self.entries.iter().map(|(from, _, waited)| (*from, *waited)).collect());
        self.ends = summed(self.entries.iter().map(|(_, to, waited)| (*to, *waited)).collect());
    }

    /// All that was waited in entries that overlap this time.
    pub(super) fn between(&self, from_us: u64, to_us: u64) -> u64 {
        let before = |at: &[(u64, u64)], count: usize| count.checked_sub(1).map_or(0, |last| at[last].1);
        let begun = self.begins.partition_point(|(begin_us, _)| *begin_us < to_us);
        let over = self.ends.partition_point(|(end_us, _)| *end_us <= from_us);
        before(&self.begins, begun).saturating_sub(before(&self.ends, over))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overlaps_counts_and_nothing_else() {
        let mut waits = Waits::default();
        for (from_us, to_us, waited_us) in [(10, 20, 1), (20, 30, 10), (15, 25, 100), (90, 99, 1_000)] {
            waits.add(from_us, to_us, waited_us);
        }
        waits.sort();
        assert_eq!(waits.between(0, 10), 0);
        assert_eq!(waits.between(0, 11), 1);
        assert_eq!(waits.between(16, 17), 101);
        assert_eq!(waits.between(20, 21), 110);
        assert_eq!(waits.between(26, 95), 1_010);
        assert_eq!(waits.between(30, 90), 0);
    }
}
