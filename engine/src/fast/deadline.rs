//! The deadline of a frame: in a ring or queue the moment when it is over, on a wire the time that is left.

use twinlane_proto::frame::{deadline_us, stamp_deadline};
use twinlane_proto::limits::DEADLINE_MAX;

use super::clock::remaining_us;

/// Whether a frame in a queue is too old. The clock is only read where there is a deadline to compare it with.
pub(crate) fn is_over(frame: &[u8], now_us: impl FnOnce() -> u32) -> bool {
    deadline_us(frame).is_some_and(|expiry| remaining_us(expiry, now_us()) == 0)
}

/// Whether a frame that is taken out of a queue is still worth it. `leaving`: it goes on a wire, and its deadline becomes
/// the time that is left.
pub(crate) fn is_in_time(frame: &mut [u8], now_us: u32, leaving: bool) -> bool {
    let Some(expiry) = deadline_us(frame) else { return true };
    let left_us = remaining_us(expiry, now_us);
    if leaving && left_us > 0 {
        stamp_deadline(frame, left_us);
    }
    left_us > 0
}

/// A frame came from a wire: its deadline becomes the moment when it is over. Returns whether it has one.
pub(crate) fn arrive(frame: &mut [u8], now_us: impl FnOnce() -> u32) -> bool {
    let Some(left_us) = deadline_us(frame) else { return false };
    stamp_deadline(frame, now_us().wrapping_add(left_us.min(DEADLINE_MAX.as_micros() as u32)));
    true
}
