//! What becomes of each datagram of one direction, and when it arrives. Decisions only: no clock, no socket, no bytes.

use std::time::Duration;

use tokio::time::Instant;

use super::{FaultCounts, Faults};

/// How long a datagram may wait for the rate, and how many bytes may in any case: as routers have it.
const QUEUE: Duration = Duration::from_millis(50);
const QUEUE_BYTES_MIN: u64 = 16 << 10;

/// The largest UDP payload that gets through: what a link with packets of 1,500 bytes carries. On loopback QUIC would find
/// out that much larger ones do, and a few of those are more than a slow link may hold.
const DATAGRAM_BYTES_MAX: usize = 1_472;

pub(super) struct Course {
    pub(super) faults: Faults,
    pub(super) counts: FaultCounts,
    chance: Chance,
}

/// Where one socket stands with its link.
#[derive(Debug)]
pub(super) struct Wire {
    /// When what was queued for the rate will have left.
    free_at: Instant,
    /// When the last datagram that keeps order is due.
    last_due: Instant,
}

/// When the copies of a datagram are due: none, one or two.
pub(super) type Dues = [Option<Instant>; 2];

impl Course {
    pub(super) fn new(faults: Faults, seed: u64) -> Self {
        Self { faults, counts: FaultCounts::default(), chance: Chance(seed) }
    }

    /// What becomes of a datagram that is sent `now`.
    pub(super) fn offer(&mut self, wire: &mut Wire, now: Instant, bytes: usize) -> Dues {
        self.counts.offered += 1;
        // As many numbers for each, so that the fate of one does not hang on what became of others.
        let [lost, duplicated, held_back, held_for] = [(); 4].map(|()| self.chance.next());
        if self.faults.udp_blocked {
            self.counts.blocked += 1;
            return [None; 2];
        }
        if bytes > DATAGRAM_BYTES_MAX {
            self.counts.too_big += 1;
            return [None; 2];
        }
        let Some(sent_at) = wire.queue(now, bytes, self.faults.bytes_per_second) else {
            self.counts.queue_full += 1;
            return [None; 2];
        };
        if lost < self.faults.loss {
            self.counts.lost += 1;
            return [None; 2];
        }
        let mut due = (sent_at + self.faults.delay).max(wire.last_due);
        if held_back < self.faults.reorder {
            self.counts.held_back += 1;
            due += self.faults.reorder_by.mul_f64(held_for);
        } else {
            wire.last_due = due;
        }
        let is_duplicated = duplicated < self.faults.duplicate;
        self.counts.duplicated += u64::from(is_duplicated);
        [Some(due), is_duplicated.then_some(due)]
    }
}

impl Wire {
    pub(super) fn new(now: Instant) -> Self {
        Self { free_at: now, last_due: now }
    }

    /// When a datagram has left, if the queue before it takes it.
    fn queue(&mut self, now: Instant, bytes: usize, bytes_per_second: u64) -> Option<Instant> {
        if bytes_per_second == 0 {
            return Some(now);
        }
        let free_at = self.free_at.max(now);
        let queue = QUEUE.max(time_of(QUEUE_BYTES_MIN, bytes_per_second));
        let leaves_at = free_at + time_of(bytes as u64, bytes_per_second);
        if leaves_at - now > queue {
            return None;
        }
        self.free_at = leaves_at;
        Some(leaves_at)
    }
}

/// How long `bytes` take; a rate of 0 takes no time.
pub(super) fn time_of(bytes: u64, bytes_per_second: u64) -> Duration {
    let nanoseconds = u128::from(bytes) * 1_000_000_000;
    let nanoseconds = nanoseconds.checked_div(u128::from(bytes_per_second)).unwrap_or(0);
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

/// Numbers that are the same for the same seed (SplitMix64). Not for secrets.
struct Chance(u64);

impl Chance {
    /// From 0 to below 1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// When each of `count` datagrams of 1,000 bytes arrives, sent one a millisecond, in milliseconds.
    fn arrivals(faults: Faults, seed: u64, count: u32) -> (Vec<Vec<u64>>, FaultCounts) {
        let start = Instant::now();
        let (mut course, mut wire) = (Course::new(faults, seed), Wire::new(start));
        let arrivals = (0..count).map(|number| {
            let dues = course.offer(&mut wire, start + MS * number, 1_000);
            dues.into_iter().flatten().map(|due| (due - start).as_millis() as u64).collect()
        });
        (arrivals.collect(), course.counts)
    }

    #[test]
    fn the_same_seed_loses_the_same_datagrams_and_another_one_others() {
        let lossy = Faults::NONE.with_loss(0.1);
        assert_eq!(arrivals(lossy, 7, 5_000), arrivals(lossy, 7, 5_000));
        assert_ne!(arrivals(lossy, 7, 5_000).0, arrivals(lossy, 8, 5_000).0);
        let (some, counts) = arrivals(lossy, 7, 50_000);
        // 5,000 are expected; four times the spread is 270.
        assert!((4_730..5_270).contains(&counts.lost), "{counts:?}");
        assert_eq!(some.iter().filter(|one| one.is_empty()).count() as u64, counts.lost);
        let more = arrivals(lossy.with_delay(20 * MS).with_duplicate(0.5), 7, 50_000).0;
        let gone = |all: &[Vec<u64>]| all.iter().map(Vec::is_empty).collect::<Vec<_>>();
        assert_eq!(gone(&some), gone(&more), "other faults do not change which are lost");
    }

    #[test]
    fn delayed_datagrams_keep_their_order_but_for_those_that_are_held_back() {
        let (delayed, _) = arrivals(Faults::NONE.with_delay(20 * MS), 1, 100);
        assert!(delayed.iter().enumerate().all(|(at, due)| *due == [at as u64 + 20]));
        let (held, counts) = arrivals(Faults::NONE.with_reorder(0.5, 10 * MS), 1, 1_000);
        let overtaken = held.windows(2).filter(|pair| pair[1] < pair[0]).count();
        assert!(overtaken > 100 && (400..600).contains(&counts.held_back), "{overtaken}, {counts:?}");
    }

    #[test]
    fn a_rate_spaces_datagrams_and_drops_what_would_wait_too_long() {
        // 1,000 bytes take 2 ms, and come every 1 ms; 50 ms may wait.
        let (arrived, counts) = arrivals(Faults::NONE.with_rate(500_000), 1, 1_000);
        let arrived: Vec<u64> = arrived.into_iter().flatten().collect();
        assert!(arrived.windows(2).all(|pair| pair[1] - pair[0] >= 2), "{arrived:?}");
        assert_eq!(counts.queue_full + arrived.len() as u64, 1_000);
        assert!((470..=490).contains(&counts.queue_full), "{counts:?}");
    }

    #[test]
    fn nothing_gets_through_a_block() {
        let (arrived, counts) = arrivals(Faults::NONE.with_udp_blocked(true), 1, 100);
        assert!(arrived.iter().all(Vec::is_empty));
        assert_eq!((counts.offered, counts.blocked), (100, 100));
    }

    #[test]
    fn what_no_packet_of_an_ordinary_link_holds_vanishes() {
        let now = Instant::now();
        let (mut course, mut wire) = (Course::new(Faults::NONE, 1), Wire::new(now));
        assert_eq!(course.offer(&mut wire, now, 1_472), [Some(now), None]);
        assert_eq!(course.offer(&mut wire, now, 1_473), [None; 2]);
        assert_eq!((course.counts.offered, course.counts.too_big), (2, 1));
    }
}
