//! How many messages of each key are begun, and which wait because that is the limit.
//!
//! A message is begun from when it may be handed over for the first time until the group is done with it, so that
//! with a limit of 1 nothing of a key overtakes a message that is handed over again.

use std::collections::{BTreeSet, HashMap};

#[derive(Debug)]
pub(super) struct Keys {
    /// 0: no limit, and nothing is counted.
    begun_max: u32,
    by_key: HashMap<u64, Key>,
    waiting: usize,
}

#[derive(Debug, Default)]
struct Key {
    begun: u32,
    waiting: BTreeSet<u64>,
}

impl Keys {
    pub(super) fn new(begun_max: u32) -> Self {
        Self { begun_max, by_key: HashMap::new(), waiting: 0 }
    }

    /// Messages that wait for their key.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether message `offset` may begin; if not, it waits until [`Self::end`] names it.
    pub(super) fn begin(&mut self, key: Option<u64>, offset: u64) -> bool {
        let Some(key) = key.filter(|_| self.begun_max > 0) else { return true };
        let key = self.by_key.entry(key).or_default();
        if key.begun < self.begun_max {
            key.begun += 1;
            return true;
        }
        self.waiting += usize::from(key.waiting.insert(offset));
        false
    }

    /// A begun message is done. Returns the one that begins in its place.
    pub(super) fn end(&mut self, key: Option<u64>) -> Option<u64> {
        let number = key.filter(|_| self.begun_max > 0)?;
        let key = self.by_key.get_mut(&number)?;
        let next = key.waiting.pop_first();
        if next.is_some() {
            self.waiting -= 1;
            return next;
        }
        key.begun -= 1;
        if key.begun == 0 {
            self.by_key.remove(&number);
        }
        None
    }

    /// A waiting message is done without having begun.
    pub(super) fn forget(&mut self, key: Option<u64>, offset: u64) {
        if let Some(key) = key.and_then(|key| self.by_key.get_mut(&key)) {
            self.waiting -= usize::from(key.waiting.remove(&offset));
        }
    }
}
