//! One monotonic clock for publishers and subscribers, and the schedule of an open loop.
//!
//! Both ends of a run live in this process, also against a remote server, so one clock serves both and
//! nothing has to be synchronised.

use std::{sync::OnceLock, time::Instant};

const SECOND_NS: u64 = 1_000_000_000;

/// Nanoseconds since the first call in this process; never goes back.
#[must_use]
pub fn now_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    // 64 bits of nanoseconds last 584 years.
    start.elapsed().as_nanos() as u64
}

/// Fixed instants at which messages are due, whatever happened to the messages before.
///
/// Because an instant never moves, a stall delays every message that was due during it, and each of them is
/// charged its own share: latency from *due* needs no correction for coordinated omission.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    start_ns: u64,
    per_second: u64,
}

impl Schedule {
    /// Message 0 is due at `start_ns`; `per_second` messages are due each second after it.
    ///
    /// # Panics
    ///
    /// If `per_second` is 0 or above one per nanosecond: the command line refuses both.
    #[must_use]
    pub fn new(start_ns: u64, per_second: u64) -> Self {
        assert!(
            (1..=SECOND_NS).contains(&per_second),
            "{per_second} messages per second cannot be scheduled"
        );
        Self { start_ns, per_second }
    }

    /// When message `n` is due. Exact for every `n`: rounding does not add up.
    #[must_use]
    pub fn due_ns(&self, n: u64) -> u64 {
        let (seconds, rest) = (n / self.per_second, n % self.per_second);
        self.start_ns + seconds * SECOND_NS + rest * SECOND_NS / self.per_second
    }

    /// How many messages are due at `now_ns`.
    #[must_use]
    pub fn due_by(&self, now_ns: u64) -> u64 {
        let Some(elapsed_ns) = now_ns.checked_sub(self.start_ns) else { return 0 };
        let (seconds, rest) = (elapsed_ns / SECOND_NS, elapsed_ns % SECOND_NS);
        // Message n is due at floor(n * second / rate): the largest such n is ceil((rest + 1) * rate / second) - 1.
        seconds * self.per_second + ((rest + 1) * self.per_second).div_ceil(SECOND_NS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_goes_back() {
        let readings: Vec<u64> = (0..1_000).map(|_| now_ns()).collect();
        assert!(readings.is_sorted());
    }

    #[test]
    fn message_n_is_due_n_intervals_after_the_start() {
        let schedule = Schedule::new(500, 1_000);
        assert_eq!(schedule.due_ns(0), 500);
        assert_eq!(schedule.due_ns(1), 1_000_500);
        assert_eq!(schedule.due_ns(86_400_000), 86_400 * SECOND_NS + 500);
    }

    #[test]
    fn a_rate_that_does_not_divide_a_second_does_not_drift() {
        let schedule = Schedule::new(0, 7);
        assert_eq!(schedule.due_ns(7_000_000), 1_000_000 * SECOND_NS);
        assert_eq!(schedule.due_ns(3), 3 * SECOND_NS / 7);
    }

    #[test]
    fn exactly_the_messages_whose_instant_has_come_are_due() {
        for per_second in [1, 7, 1_000, 333_333, 1_000_000, 7_654_321] {
            let schedule = Schedule::new(42, per_second);
            assert_eq!(schedule.due_by(41), 0, "{per_second}/s");
            for n in [0, 1, 2, 5, 999, 12_345_678] {
                let due_ns = schedule.due_ns(n);
                assert_eq!(schedule.due_by(due_ns), n + 1, "{per_second}/s, at the instant of message {n}");
                assert!(schedule.due_by(due_ns.max(1) - 1) <= n, "{per_second}/s, just before message {n}");
            }
        }
    }

    #[test]
    fn the_highest_rate_is_one_message_per_nanosecond() {
        let schedule = Schedule::new(0, SECOND_NS);
        assert_eq!(schedule.due_ns(12_345), 12_345);
        assert_eq!(schedule.due_by(12_345), 12_346);
    }
}
