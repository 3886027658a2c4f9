//! When a client tries for QUIC again after it failed or was lost: soon, then less and less often, and later for a
//! path that does not keep.
//!
//! Decisions only: no socket and no clock.

use std::time::Duration;

use tokio::time::Instant;

/// The first wait, unless the session reconnects faster than that; it doubles.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait after an attempt that failed, in first waits.
const FAILED_WAITS_MAX: u32 = 20;
/// The longest wait after a path was lost that had just come back, in first waits: together with the attempt itself
/// QUIC is back within a minute.
const FLAPPED_WAITS_MAX: u32 = 55;
/// A path lost within this time did not come back for good.
const FLAPPING: Duration = Duration::from_secs(60);
/// A path that held for this long has no past.
const STABLE: Duration = Duration::from_secs(300);

/// The waits of one session's connection between attempts.
#[derive(Debug)]
pub(super) struct Probing {
    first: Duration,
    /// Attempts that failed since there was a path.
    failed: u32,
    /// Paths lost soon after they came back.
    flapped: u32,
    /// Whether the path is one that came back.
    came_back: bool,
    attached_at: Option<Instant>,
}

impl Probing {
    /// For a session whose reconnects wait `reconnect_max` at most.
    pub(super) fn new(reconnect_max: Duration) -> Self {
        Self {
            first: FIRST_WAIT.min(reconnect_max),
            failed: 0,
            flapped: 0,
            came_back: false,
            attached_at: None,
        }
    }

    /// An attempt succeeded.
    pub(super) fn attached(&mut self, now: Instant) {
        self.failed = 0;
        self.attached_at = Some(now);
    }

    /// The path was lost.
    pub(super) fn lost(&mut self, now: Instant) {
        let held = self.attached_at.take().map_or(Duration::ZERO, |at| now - at);
        if held >= STABLE {
            self.flapped = 0;
        } else if self.came_back && held < FLAPPING {
            self.flapped += 1;
        }
        self.came_back = true;
    }

    /// An attempt failed.
    pub(super) fn failed(&mut self) {
        self.failed += 1;
        self.came_back = true;
    }

    /// How long to wait now. `fraction`, from 0 to 1, takes up to a quarter off: many clients of one server do not
    /// try at the same instant.
    pub(super) fn wait(&self, fraction: f64) -> Duration {
        let waits = match self.failed {
            0 => (1 << self.flapped.min(16)).min(FLAPPED_WAITS_MAX),
            failed => (1 << (failed - 1).min(16)).min(FAILED_WAITS_MAX),
        };
        (self.first * waits).mul_f64(1.0 - fraction / 4.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn probing() -> Probing {
        Probing::new(second(5))
    }

    #[test]
    fn attempts_come_after_1_2_4_and_at_most_20_seconds() {
        let mut probing = probing();
        let mut waits = Vec::new();
        for _ in 0..7 {
            probing.failed();
            waits.push(probing.wait(0.0).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 20, 20]);
        assert_eq!(probing.wait(1.0), second(15), "spread, and never later");
    }

    #[test]
    fn a_path_that_is_lost_again_and_again_waits_longer_each_time_and_less_than_a_minute() {
        let (mut probing, mut now) = (probing(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..9 {
            probing.attached(now);
            now += second(10);
            probing.lost(now);
            waits.push(probing.wait(0.0).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 55, 55, 55]);
        probing.attached(now);
        now += second(100);
        probing.lost(now);
        assert_eq!(probing.wait(0.0), second(55), "it held for a while, and is not trusted yet");
        probing.attached(now);
        now += STABLE;
        probing.lost(now);
        assert_eq!(probing.wait(0.0), second(1), "five stable minutes are trusted");
    }

    #[test]
    fn who_reconnects_faster_probes_faster() {
        let mut probing = Probing::new(Duration::from_millis(100));
        probing.failed();
        assert_eq!(probing.wait(0.0), Duration::from_millis(100));
    }
}
