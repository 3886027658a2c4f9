//! The newest number taken of each key, so that an older value, or the same one again, is told from news.
//!
//! Bounded: of the keys that were longest without news it only remembers that all of them were below one number.
//! So nothing is ever taken twice; beyond the bound a late value may be taken for an old one.

use std::collections::HashMap;

pub(crate) struct NewestByKey {
    newest: HashMap<u64, u64>,
    keys_max: usize,
    /// Whatever is not above it may have been taken. 0: nothing was forgotten.
    floor: u64,
}

impl NewestByKey {
    pub(crate) fn new(keys_max: usize) -> Self {
        Self { newest: HashMap::new(), keys_max: keys_max.max(2), floor: 0 }
    }

    /// Whether `number`, from 1, is news of `key`; then it is its newest from now on.
    pub(crate) fn take(&mut self, key: u64, number: u64) -> bool {
        match self.newest.get_mut(&key) {
            Some(newest) if number <= *newest => return false,
            Some(newest) => {
                *newest = number;
                return true;
            }
            None if number <= self.floor => return false,
            None => {}
        }
        if self.newest.len() >= self.keys_max {
            self.forget_half();
        }
        self.newest.insert(key, number);
        true
    }

    fn forget_half(&mut self) {
        let mut numbers: Vec<u64> = self.newest.values().copied().collect();
        let middle = numbers.len() / 2;
        let (_, median, _) = numbers.select_nth_unstable(middle);
        self.floor = self.floor.max(*median);
        self.newest.retain(|_, newest| *newest > self.floor);
    }
}

impl std::fmt::Debug for NewestByKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewestByKey").field("keys", &self.newest.len()).field("floor", &self.floor).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_news_once_and_older_ones_never_are() {
        let mut newest = NewestByKey::new(8);
        assert!(newest.take(1, 10));
        assert!(!newest.take(1, 10));
        assert!(!newest.take(1, 9));
        assert!(newest.take(2, 9), "another key has an order of its own");
        assert!(newest.take(1, 11));
    }

    #[test]
    fn what_was_forgotten_is_never_taken_again() {
        let mut newest = NewestByKey::new(64);
        for number in 1..=1_000 {
            assert!(newest.take(number, number));
            assert!(newest.newest.len() <= 64);
        }
        assert!((1..=1_000).all(|number| !newest.take(number, number)));
        assert!(newest.take(1, 1_001));
    }
}
