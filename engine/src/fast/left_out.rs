//! How many messages one sender left out on purpose, by reason, so that whoever misses them can tell them from lost ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use twinlane_proto::Control;
use twinlane_proto::control::LeftOut as TheyLeftOut;

use super::clock::ticks_us;

/// The receiver hears of changes this often at most. It counts right without; the causes are known later then.
const TELL_EVERY_US: u32 = 50_000;

/// Counts that only grow.
#[derive(Debug, Default)]
pub(crate) struct LeftOut {
    expired: AtomicU64,
    coalesced: AtomicU64,
    dropped_slow: AtomicU64,
    late: AtomicU64,
    no_route: AtomicU64,
    /// Counts the same, and those of others.
    total: Option<Arc<Self>>,
    /// The sum that the receiver was told of last, and when.
    told: AtomicU64,
    told_at_us: AtomicU32,
}

/// Those counts at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) expired: u64,
    pub(crate) coalesced: u64,
    pub(crate) dropped_slow: u64,
    pub(crate) late: u64,
    pub(crate) no_route: u64,
}

impl LeftOut {
    /// Counts that add to `total` as well.
    pub(crate) fn part_of(total: Arc<Self>) -> Self {
        Self { total: Some(total), ..Self::default() }
    }

    pub(crate) fn add_expired(&self, messages: u64) {
        self.add(Counts { expired: messages, ..Counts::default() });
    }

    pub(crate) fn add_coalesced(&self, messages: u64) {
        self.add(Counts { coalesced: messages, ..Counts::default() });
    }

    pub(crate) fn add_dropped_slow(&self, messages: u64) {
        self.add(Counts { dropped_slow: messages, ..Counts::default() });
    }

    pub(crate) fn add_late(&self, messages: u64) {
        self.add(Counts { late: messages, ..Counts::default() });
    }

    pub(crate) fn add_no_route(&self, messages: u64) {
        self.add(Counts { no_route: messages, ..Counts::default() });
    }

    pub(crate) fn add(&self, counts: Counts) {
        for (counter, messages) in [
            (&self.expired, counts.expired),
            (&self.coalesced, counts.coalesced),
            (&self.dropped_slow, counts.dropped_slow),
            (&self.late, counts.late),
            (&self.no_route, counts.no_route),
        ] {
            if messages > 0 {
                counter.fetch_add(messages, Ordering::Relaxed);
            }
        }
        self.total.iter().for_each(|total| total.add(counts));
    }

    pub(crate) fn counts(&self) -> Counts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            expired: count(&self.expired),
            coalesced: count(&self.coalesced),
            dropped_slow: count(&self.dropped_slow),
            late: count(&self.late),
            no_route: count(&self.no_route),
        }
    }

    /// What the receiver should hear now, if anything: `upstream` and these together. `at_once`: nothing follows that
    /// would tell it later.
    pub(crate) fn untold(&self, upstream: Counts, at_once: bool) -> Option<Counts> {
        let counts = self.counts().plus(upstream);
        let sum = counts.sum();
        if sum == self.told.load(Ordering::Relaxed) {
            return None;
        }
        let now = ticks_us();
        let since = now.wrapping_sub(self.told_at_us.load(Ordering::Relaxed));
        if !at_once && since < TELL_EVERY_US {
            return None;
        }
        self.told.store(sum, Ordering::Relaxed);
        self.told_at_us.store(now, Ordering::Relaxed);
        Some(counts)
    }
}

impl From<&TheyLeftOut> for Counts {
    fn from(told: &TheyLeftOut) -> Self {
        let TheyLeftOut { expired, coalesced, dropped_slow, late, no_route, .. } = *told;
        Self { expired, coalesced, dropped_slow, late, no_route }
    }
}

impl Counts {
    /// The message that tells them to whoever receives runs on `lane`.
    pub(crate) fn told_on(self, lane: u32, topic: u32) -> Control {
        let Self { expired, coalesced, dropped_slow, late, no_route } = self;
        Control::LeftOut(TheyLeftOut { lane, topic, expired, coalesced, dropped_slow, late, no_route })
    }

    pub(crate) fn sum(self) -> u64 {
        self.expired + self.coalesced + self.dropped_slow + self.late + self.no_route
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            expired: self.expired.saturating_add(other.expired),
            coalesced: self.coalesced.saturating_add(other.coalesced),
            dropped_slow: self.dropped_slow.saturating_add(other.dropped_slow),
            late: self.late.saturating_add(other.late),
            no_route: self.no_route.saturating_add(other.no_route),
        }
    }

    /// What grew since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            expired: self.expired.saturating_sub(earlier.expired),
            coalesced: self.coalesced.saturating_sub(earlier.coalesced),
            dropped_slow: self.dropped_slow.saturating_sub(earlier.dropped_slow),
            late: self.late.saturating_sub(earlier.late),
            no_route: self.no_route.saturating_sub(earlier.no_route),
        }
    }
}
