//! Moments as they lie in the frames of fast topics: microseconds of this process's monotonic clock, in 32 bits.
//!
//! In a ring or queue a frame's deadline option holds such a moment; on a wire it holds the time that is left, so that
//! no two clocks are compared. The numbers wrap after 71 minutes, and no deadline is longer than 30.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;
use twinlane_proto::limits::DEADLINE_MAX;

/// Now.
pub(crate) fn ticks_us() -> u32 {
    let (beginning, now) = (beginning(), Instant::now());
    // Simulated clocks may begin before the first of them was read.
    match now.checked_duration_since(beginning) {
        Some(since) => since.as_micros() as u32,
        None => (beginning.duration_since(now).as_micros() as u32).wrapping_neg(),
    }
}

/// The moment `deadline` from now, rounded up.
pub(crate) fn expiry(deadline: Duration) -> u32 {
    let deadline = deadline.min(DEADLINE_MAX);
    ticks_us().wrapping_add(deadline.as_nanos().div_ceil(1_000) as u32)
}

/// What is left at `now` until `expiry`. 0: it has passed.
pub(crate) fn remaining_us(expiry: u32, now: u32) -> u32 {
    let left = expiry.wrapping_sub(now);
    if left > i32::MAX as u32 { 0 } else { left }
}

/// What moments count from.
fn beginning() -> Instant {
    static BEGINNING: OnceLock<Instant> = OnceLock::new();
    // A simulation has a clock of its own: what is left of a microsecond at its start would come from outside.
    #[cfg(feature = "simulation")]
    if let Some(simulated) = crate::transport::simulated::beginning() {
        return simulated;
    }
    *BEGINNING.get_or_init(Instant::now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_passes_also_where_the_numbers_wrap() {
        let now = u32::MAX - 5;
        assert_eq!(remaining_us(now.wrapping_add(10), now), 10);
        assert_eq!(remaining_us(now.wrapping_add(10), now.wrapping_add(10)), 0);
        assert_eq!(remaining_us(now.wrapping_add(10), now.wrapping_add(11)), 0);
        assert_eq!(remaining_us(now.wrapping_add(10), now.wrapping_add(1_000_000_000)), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn moments_follow_the_runtimes_clock() {
        let expiry = expiry(Duration::from_millis(50));
        assert_eq!(remaining_us(expiry, ticks_us()), 50_000);
        tokio::time::advance(Duration::from_millis(49)).await;
        assert_eq!(remaining_us(expiry, ticks_us()), 1_000);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(remaining_us(expiry, ticks_us()), 0);
    }
}
