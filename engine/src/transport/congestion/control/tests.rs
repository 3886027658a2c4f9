//! The window after acks, losses and marks, and the way that goes with it.

use super::*;

const MTU: u16 = 1_200;

/// Whole windows are acknowledged, each after 20 ms. The time after so many.
fn acked(control: &mut Control, mut now: Instant, rounds: usize) -> Instant {
    for _ in 0..rounds {
        now = acked_after(control, now, Duration::from_millis(20));
    }
    now
}

/// A whole window is acknowledged `round_trip` after it was sent. The time then.
fn acked_after(control: &mut Control, sent: Instant, round_trip: Duration) -> Instant {
    let now = sent + round_trip;
    for left in (0..control.window() / u64::from(MTU)).rev() {
        control.acked(now, sent, u64::from(MTU), round_trip);
        control.end_of_ack(now, left * u64::from(MTU));
    }
    now
}

/// What a path of 100 µs without a queue leads to, and the time.
fn on_a_short_path() -> (Control, Instant) {
    let mut control = Control::new(27_000, MTU);
    let mut now = Instant::now();
    for _ in 0..60 {
        now = acked_after(&mut control, now, Duration::from_micros(100));
    }
    assert_eq!(control.window(), WINDOW_BYTES_MAX);
    (control, now)
}

#[test]
fn a_path_without_a_queue_gets_at_most_two_mebibytes() {
    let mut control = Control::new(27_000, MTU);
    acked(&mut control, Instant::now(), 60);
    assert_eq!(control.window(), WINDOW_BYTES_MAX);
}

#[test]
fn a_receiver_that_was_off_its_core_is_no_queue_on_a_short_path() {
    for pause_ms in [5, 7, 15] {
        let (mut control, mut now) = on_a_short_path();
        for _ in 0..20 {
            now = acked_after(&mut control, now, Duration::from_millis(pause_ms));
        }
        assert_eq!(control.window(), WINDOW_BYTES_MAX, "{pause_ms} ms");
    }
}

#[test]
fn a_queue_on_a_short_path_leaves_what_fills_a_welcome_one() {
    let (mut control, mut now) = on_a_short_path();
    let queue = Duration::from_millis(40);
    let rate = control.window() as f64 / queue.as_secs_f64();
    let packet_time = Duration::from_secs_f64(f64::from(MTU) / rate);
    for _ in 0..4 * control.window() / u64::from(MTU) {
        now += packet_time;
        control.acked(now, now - queue, u64::from(MTU), queue);
        control.end_of_ack(now, control.window());
    }
    let welcome = (rate * QUEUE_MIN.as_secs_f64()) as u64;
    assert!((welcome / 2..4 * welcome).contains(&control.window()), "{} of {welcome}", control.window());
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
