//! The window after acks, losses and marks, and the way that goes with it.

use super::*;

const MTU: u16 = 1_200;

/// A control, what has become of `packets` in flight at 20 ms, and the time.
fn acked(control: &mut Control, mut now: Instant, rounds: usize) -> Instant {
    for _ in 0..rounds {
        let packets = control.window() / u64::from(MTU);
        let sent = now;
        now += Duration::from_millis(20);
        for left in (0..packets).rev() {
            control.acked(now, sent, u64::from(MTU), Duration::from_millis(20));
            control.end_of_ack(now, left * u64::from(MTU));
        }
    }
    now
}

#[test]
fn a_path_without_a_queue_gets_at_most_two_mebibytes() {
    let mut control = Control::new(27_000, MTU);
    acked(&mut control, Instant::now(), 60);
    assert_eq!(control.window(), WINDOW_BYTES_MAX);
}

#[test]
fn after_a_long_silence_the_window_starts_again_at_its_first_size() {
    let mut control = Control::new(27_000, MTU);
    let now = acked(&mut control, Instant::now(), 20);
    assert!(control.window() > 200_000, "{}", control.window());
    control.lost(now, now, 100_000, true);
    assert!(control.window() <= 27_000, "{}", control.window());
    let before = control.window();
    acked(&mut control, now, 3);
    assert!(control.window() >= 7 * before, "slow start doubles {before}, not to {}", control.window());
}

#[test]
fn a_mark_of_the_network_is_congestion_without_a_queue() {
    let mut control = Control::new(27_000, MTU);
    let now = acked(&mut control, Instant::now(), 6);
    let before = control.window();
    control.lost(now, now, 0, false);
    assert!(control.window() < before, "{} of {before}", control.window());
    let once = control.window();
    control.lost(now, now, 0, false);
    assert_eq!(control.window(), once, "one event is one step back");
}

#[test]
fn the_way_is_as_long_as_it_was_at_most_in_the_last_seconds_and_unknown_on_short_paths() {
    let mut control = Control::new(27_000, MTU);
    assert_eq!(control.way(), Duration::ZERO, "nobody knows");
    let ack = |control: &mut Control, now: Instant, round_trip_ms: u64| {
        let round_trip = Duration::from_millis(round_trip_ms);
        control.acked(now, now - round_trip, u64::from(MTU), round_trip);
        control.end_of_ack(now, 0);
        control.way()
    };
    let now = Instant::now() + Duration::from_secs(1);
    assert_eq!(ack(&mut control, now, 20), Duration::from_millis(10));
    assert_eq!(ack(&mut control, now + Duration::from_millis(50), 50), Duration::from_millis(40));
    assert_eq!(ack(&mut control, now + Duration::from_millis(99), 20), Duration::from_millis(40));
    let later = now + QUEUE_PEAK_LIFE + Duration::from_secs(1);
    assert_eq!(ack(&mut control, later, 20), Duration::from_millis(10));
    assert_eq!(ack(&mut Control::new(27_000, MTU), now, 2), Duration::ZERO, "a short path");
}

#[test]
fn the_smallest_window_holds_four_of_the_largest_packets() {
    let mut control = Control::new(4_000, MTU);
    control.set_mtu(8_952);
    assert_eq!(control.window(), 4 * 8_952);
    control.set_mtu(MTU);
    control.lost(Instant::now(), Instant::now(), 1_200, true);
    assert!(control.window() >= 4 * u64::from(MTU));
}
