//! What the controller promises, over simulated paths.

use super::*;

const SEED: u64 = 7;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// One flow alone, measured between two seconds.
fn alone(path: Path, plan: Plan, from_s: u64, until_s: u64) -> Outcome {
    run(path, &[plan], seconds(from_s), seconds(until_s), SEED).remove(0)
}

fn rates(path: Path, plans: &[Plan], from_s: u64, until_s: u64, seed: u64) -> Vec<f64> {
    let outcomes = run(path, plans, seconds(from_s), seconds(until_s), seed);
    outcomes.iter().map(|outcome| outcome.megabits_per_second(seconds(until_s - from_s))).collect()
}

fn largest_ratio(rates: &[f64]) -> f64 {
    let most = rates.iter().copied().fold(0.0, f64::max);
    most / rates.iter().copied().fold(f64::MAX, f64::min)
}

#[test]
fn a_flow_that_is_alone_fills_the_path_and_keeps_its_queue_short() {
    let outcome = alone(Path::new(10.0, 20).buffer(8.0), Plan::greedy(Who::Ours), 2, 6);
    let (rate, queueing) = (outcome.megabits_per_second(seconds(4)), percentile(&outcome.queueing, 0.99));
    assert!(rate > 9.3, "{rate} of 9.5 Mbit/s used");
    assert!(queueing < ms(20), "packets wait {queueing:?}");
}

#[test]
fn behind_a_deep_buffer_of_a_slow_path_packets_wait_below_70_ms() {
    let path = Path::new(1.0, 20).buffer_packets(1_000);
    let outcome = alone(path, Plan::greedy(Who::Ours), 1, 20);
    let (rate, queueing) = (outcome.megabits_per_second(seconds(19)), percentile(&outcome.queueing, 0.99));
    assert!(rate > 0.9, "{rate} of 0.95 Mbit/s used");
    assert!(queueing < ms(70), "packets wait {queueing:?}");
}

#[test]
fn losses_by_chance_do_not_slow_a_flow() {
    let path = Path::new(10.0, 20).losing(0.05);
    let ours = alone(path, Plan::greedy(Who::Ours), 2, 6).megabits_per_second(seconds(4));
    let cubic = alone(path, Plan::greedy(Who::Cubic), 2, 6).megabits_per_second(seconds(4));
    assert!(ours > 8.3, "{ours} of 9.0 Mbit/s at 5 % loss");
    assert!(ours > 3.0 * cubic, "{ours} beside CUBIC's {cubic} Mbit/s at 5 % loss");
}

#[test]
fn a_flow_that_sends_little_keeps_its_window_at_30_percent_loss() {
    let path = Path::new(10.0, 20).losing(0.3);
    let outcome = alone(path, Plan::paced(Who::Ours, 128, ms(1)), 1, 8);
    let window = outcome.windows.iter().min().copied().unwrap_or(0);
    assert!(window >= INITIAL_WINDOW_BYTES, "the window fell to {window} bytes");
    let age = percentile(&outcome.ages, 0.99);
    assert!(age < ms(12), "datagrams are {age:?} old after 10 ms on the way");
    let arrived = outcome.delivered as f64 / outcome.offered as f64;
    assert!(arrived > 0.68, "{arrived} arrived");
}

#[test]
fn who_sends_twice_what_the_path_carries_does_not_keep_its_buffer_full() {
    let path = Path::new(1.0, 20).buffer_packets(12);
    let outcome = alone(path, Plan::paced(Who::Ours, 500, ms(2)), 1, 8);
    let (lost, arrived) = (outcome.overflow_share(), outcome.delivered as f64 / outcome.offered as f64);
    assert!(lost < 0.15, "{lost} of what was sent overflowed");
    assert!(arrived > 0.35, "{arrived} of twice the path arrived");
}

#[test]
fn in_a_buffer_of_two_packets_a_flow_loses_at_most_15_percent_to_itself() {
    let outcome = alone(Path::new(10.0, 20).buffer_packets(2), Plan::greedy(Who::Ours), 2, 6);
    let (rate, lost) = (outcome.megabits_per_second(seconds(4)), outcome.overflow_share());
    assert!(rate > 9.0, "{rate} of 9.5 Mbit/s used");
    assert!(lost < 0.15, "{lost} lost");
}

#[test]
fn two_flows_and_one_of_cubic_share_within_a_factor_of_two() {
    let plans = [Plan::greedy(Who::Ours), Plan::greedy(Who::Ours), Plan::greedy(Who::Cubic)];
    for products in [0.5, 1.0, 4.0] {
        let rates = rates(Path::new(10.0, 20).buffer(products), &plans, 5, 17, SEED);
        assert!(largest_ratio(&rates) < 2.0, "{rates:?} Mbit/s, buffer of {products}");
    }
}

#[test]
#[ignore = "longer runs of the promise above, and other seeds"]
fn two_flows_and_one_of_cubic_share_within_a_factor_of_two_for_a_minute() {
    let plans = [Plan::greedy(Who::Ours), Plan::greedy(Who::Ours), Plan::greedy(Who::Cubic)];
    for products in [0.5, 1.0, 4.0] {
        for seed in 1..=10 {
            let rates = rates(Path::new(10.0, 20).buffer(products), &plans, 0, 60, seed);
            assert!(largest_ratio(&rates) < 2.0, "{rates:?} Mbit/s, buffer of {products}, seed {seed}");
        }
    }
}

#[test]
fn a_flow_that_comes_late_gets_its_share() {
    let plans = [Plan::greedy(Who::Ours), Plan::greedy(Who::Ours).between(3, 100)];
    // TLS's own random numbers make no two runs the same, and a rare one ends in the middle of a change: the median counts.
    let path = Path::new(10.0, 20).buffer(1.0);
    let mut ratios = [0, 1, 2, 3, 4].map(|more| largest_ratio(&rates(path, &plans, 8, 12, SEED + more)));
    ratios.sort_by(f64::total_cmp);
    assert!(ratios[2] < 1.5, "{ratios:?}");
}

#[test]
fn when_a_flow_that_fills_buffers_has_gone_packets_wait_little_again() {
    let plans = [Plan::greedy(Who::Ours), Plan::greedy(Who::Cubic).between(0, 6)];
    let path = Path::new(10.0, 20).buffer(4.0);
    let beside = &run(path, &plans, seconds(2), seconds(6), SEED)[0];
    let (rate, queueing) = (beside.megabits_per_second(seconds(4)), percentile(&beside.queueing, 0.5));
    assert!(rate > 1.5 && queueing > ms(30), "nothing to recover from: {rate} Mbit/s, {queueing:?}");
    let after = &run(path, &plans, seconds(16), seconds(18), SEED)[0];
    let (rate, queueing) = (after.megabits_per_second(seconds(2)), percentile(&after.queueing, 0.99));
    assert!(rate > 9.0 && queueing < ms(20), "{rate} Mbit/s, packets wait {queueing:?}");
}

#[test]
fn a_path_that_becomes_slower_is_not_taken_for_somebody_else() {
    for at_ms in [2_000, 2_333] {
        let path = Path { change: Some((ms(at_ms), 1.0)), ..Path::new(10.0, 20).buffer(20.0) };
        let outcome = alone(path, Plan::greedy(Who::Ours), 5, 10);
        let (rate, queueing) = (outcome.megabits_per_second(seconds(5)), percentile(&outcome.queueing, 0.99));
        assert!(rate > 0.9, "{rate} of 0.95 Mbit/s used, slower at {at_ms} ms");
        assert!(queueing < ms(100), "packets wait {queueing:?}, slower at {at_ms} ms");
    }
}

#[test]
fn a_path_that_becomes_faster_is_used_again_within_seconds() {
    let path = Path { change: Some((seconds(2), 15.0)), ..Path::new(3.0, 20).buffer(8.0) };
    let rate = alone(path, Plan::greedy(Who::Ours), 4, 6).megabits_per_second(seconds(2));
    assert!(rate > 13.0, "{rate} of 14.2 Mbit/s used");
}

#[test]
fn a_path_that_becomes_longer_keeps_its_rate() {
    let path = Path { longer: Some((seconds(2), ms(80))), ..Path::new(2.0, 20).buffer(8.0) };
    let outcome = alone(path, Plan::greedy(Who::Ours), 2, 22);
    let rate = outcome.megabits_per_second(seconds(20));
    assert!(rate > 1.65, "{rate} of 1.9 Mbit/s used while the shortest round trip was out of date");
    let outcome = alone(path, Plan::greedy(Who::Ours), 17, 22);
    let (rate, queueing) = (outcome.megabits_per_second(seconds(5)), percentile(&outcome.queueing, 0.99));
    assert!(rate > 1.8 && queueing < ms(70), "{rate} Mbit/s, packets wait {queueing:?}");
}

#[test]
fn a_receiver_that_is_not_scheduled_for_milliseconds_is_no_congestion() {
    let round_trip = Duration::from_micros(100);
    let stalls = Some((ms(20), ms(3)));
    let path = Path { round_trip, buffer_bytes: 4e6, stalls, ..Path::new(300.0, 20) };
    let outcome = run(path, &[Plan::greedy(Who::Ours)], ms(100), ms(200), SEED).remove(0);
    let rate = outcome.megabits_per_second(ms(100));
    assert!(rate > 270.0, "{rate} of 285 Mbit/s used");
}

#[test]
fn what_waits_in_the_queue_of_quinn_leaves_within_milliseconds() {
    let outcome = alone(Path::new(10.0, 20).buffer(8.0), Plan::roomy(false), 2, 6);
    let rate = outcome.megabits_per_second(seconds(4));
    assert!(rate > 9.3, "{rate} of 9.5 Mbit/s used");
    let queued = outcome.queued_bytes_max;
    assert!(queued <= 6 * usize::from(MTU_BYTES), "{queued} bytes queued, 4,000 leave in 3 ms");
}

#[test]
fn a_fast_topic_that_is_always_ready_leaves_streams_a_fifth() {
    let outcome = alone(Path::new(10.0, 20).buffer(8.0), Plan::roomy(true), 2, 6);
    let share = outcome.stream_bytes as f64 / (outcome.stream_bytes + outcome.delivered_bytes) as f64;
    assert!((0.15..0.6).contains(&share), "streams had {share} of the path");
}
