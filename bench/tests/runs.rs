//! Short runs of every workload over every way, for their verdict: the figures of runs this short mean nothing.

use std::time::Duration;

use twinlane_bench::{
    cli::RunArgs,
    plan::{ChannelKind, TransportKind},
    report::{Report, Results, table},
    run::measure,
};

/// Runs `line` for a short time and checks what holds for every run.
async fn report(line: &str) -> Report {
    let args = RunArgs::from_line(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    let args = RunArgs { warmup: Duration::from_millis(50), duration: Duration::from_millis(250), ..args };
    let report = measure(&args).await.unwrap_or_else(|error| panic!("{line}: {error:?}"));
    for results in &report.results {
        let Results { name, sent, delivered, lost, window_seconds, .. } = results;
        assert!(*sent > 0, "{line}: nothing was sent on {name}");
        let subscribers = report.configuration.subscribers as u64;
        assert_eq!(delivered + lost, sent * subscribers, "{line}: {name}");
        // Less than 250 ms when the end of the warm-up was noticed late.
        assert!((0.1..5.0).contains(window_seconds), "{line}: {window_seconds}");
        let times: Vec<f64> = results.timeline.iter().map(|interval| interval.at_seconds).collect();
        assert_eq!(times.len(), 3, "{line}: 250 ms in slices of 100 ms: {times:?}");
        assert!(times.is_sorted_by(|a, b| a < b), "{line}: {times:?}");
        if name == "reliable" {
            assert_eq!(*lost, 0, "{line}");
        }
    }
    report
}

/// The results of a run of one channel.
async fn results(line: &str) -> Results {
    let mut report = report(line).await;
    assert_eq!(report.results.len(), 1, "{line}");
    report.results.remove(0)
}

#[tokio::test]
async fn every_reliable_message_arrives_over_every_transport() {
    for transport in ["local", "tcp", "quic"] {
        let results = results(&format!("throughput --transport {transport}")).await;
        assert!(results.deliveries_per_second > 0.0, "{transport}");
        assert!(results.cpu_seconds_per_million.is_some_and(|seconds| seconds > 0.0), "{transport}");
    }
}

#[tokio::test]
async fn fast_messages_arrive_or_are_reported_over_every_transport() {
    for transport in ["local", "tcp", "quic"] {
        let results = results(&format!("throughput --channel fast --transport {transport}")).await;
        assert!(results.delivered > 0, "{transport}");
    }
}

#[tokio::test]
async fn an_open_loop_sends_its_whole_schedule_and_times_the_window_only() {
    for line in ["latency --rate 2k", "latency --rate 2k --channel fast"] {
        let results = results(line).await;
        assert_eq!(results.sent, 600, "{line}: 2,000 per second for 300 ms");
        let latency = results.latency.expect("messages arrived");
        assert!(latency.count <= 500, "{line}: {} timed, the warm-up's 100 do not count", latency.count);
        assert_eq!(latency.count + results.lost.min(500), 500, "{line}");
        assert!(results.timeline.iter().any(|interval| interval.p50_us.is_some()), "{line}");
        let points = &latency.percentiles;
        assert!(points.is_sorted_by(|a, b| a.percent < b.percent && a.us <= b.us), "{line}: {points:?}");
    }
}

#[tokio::test]
async fn a_closed_loop_has_one_message_under_way_on_one_session_or_two() {
    for line in [
        "roundtrip --transport local",
        "roundtrip",
        "roundtrip --io-policy park",
        "roundtrip --transport quic --io-policy spin",
        "roundtrip --channel fast",
        "roundtrip --sessions 2",
    ] {
        let results = results(line).await;
        let latency = results.latency.expect(line);
        assert!(latency.count > 10 && latency.count <= results.sent, "{line}: {latency:?}");
        let counted = results.deliveries_per_second * results.window_seconds;
        assert!(counted <= latency.count as f64 + 0.5, "{line}: {counted} in the window");
        // One after the other: they cannot overlap.
        assert!(latency.mean_us * latency.count as f64 <= 1.1e6, "{line}: {latency:?}");
    }
}

#[tokio::test]
async fn one_session_carries_both_channels_at_once() {
    for transport in ["both", "tcp", "quic", "local"] {
        let line = format!("mixed --rate 2k --transport {transport} --subscribers 2 --publishers 2");
        let report = report(&line).await;
        let [reliable, fast] = &report.results[..] else { panic!("{line}: {:?}", report.results) };
        assert_eq!((reliable.name.as_str(), fast.name.as_str()), ("reliable", "fast"));
        assert_eq!(fast.sent, 600, "{line}");
        assert!(fast.latency.is_some() && reliable.latency.is_none(), "{line}");
        assert!(reliable.cpu_seconds_per_million.is_some(), "{line}");
    }
}

#[tokio::test]
async fn messages_on_many_topics_have_books_for_each() {
    for line in [
        "throughput --topics 50",
        "throughput --topics 50 --channel fast",
        "throughput --topics 50 --transport local",
        "latency --topics 7 --rate 2k --publishers 2",
        "fanout --topics 3 --subscribers 5",
    ] {
        report(line).await;
    }
}

#[tokio::test]
async fn a_capped_rate_is_kept() {
    let results = results("throughput --rate 4k --publishers 2").await;
    // 300 ms of it, and what the last turn and the settling add.
    assert!((1_000..4_000).contains(&results.sent), "{} sent", results.sent);
}

#[tokio::test]
async fn several_publishers_and_subscribers_settle_their_books() {
    for transport in ["local", "tcp"] {
        for channel in ["reliable", "fast"] {
            report(&format!(
                "throughput --publishers 3 --subscribers 4 --subscriber-threads 2 --transport {transport} \
                 --channel {channel}"
            ))
            .await;
        }
    }
}

#[tokio::test]
async fn a_fan_out_delivers_to_every_subscriber() {
    let results = results("fanout --subscribers 20").await;
    assert_eq!(results.subscriber_rates.len(), 20);
    let spread = results.subscribers.unwrap();
    assert!(spread.slowest <= spread.median && spread.median <= spread.fastest, "{spread:?}");
}

#[tokio::test]
async fn what_was_acknowledged_on_disk_is_there_after_a_new_start() {
    for line in [
        "durable --window 1 --publishers 3",
        "durable --window 64 --publishers 2 --size 100",
        "durable --transport local",
    ] {
        let results = results(line).await;
        assert!(results.deliveries_per_second > 0.0, "{line}");
        assert_eq!(results.latency.is_some(), line.contains("--window 1 "), "{line}");
    }
}

#[tokio::test]
async fn a_log_is_replayed_whole_by_a_server_that_starts_again() {
    for line in ["replay --fill 2MiB", "replay --fill 2MiB --size 64 --publishers 2 --transport local"] {
        let args = RunArgs::from_line(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let report = measure(&args).await.unwrap_or_else(|error| panic!("{line}: {error:?}"));
        let results = &report.results[0];
        let replay = results.replay.expect(line);
        assert!(replay.log_bytes >= 2 << 20, "{line}: {replay:?}");
        assert!(replay.opened_seconds <= replay.served_seconds, "{line}: {replay:?}");
        assert_eq!((results.delivered, results.lost), (results.sent, 0), "{line}");
        assert!(table(&[report]).contains("first message after"), "{line}");
    }
}

#[tokio::test]
async fn a_report_means_the_same_after_a_trip_through_json() {
    let report = report("mixed --rate 1k --transport local").await;
    assert_eq!(report.configuration.channel, ChannelKind::Both);
    assert_eq!(report.configuration.transport, TransportKind::Local);
    assert!(report.date.ends_with('Z') && report.date.len() == 20, "{}", report.date);
    let text = serde_json::to_string(&report).unwrap();
    let read: Report = serde_json::from_str(&text).unwrap();
    // Floating-point numbers may change in their last digit.
    assert_eq!((&read.machine, &read.configuration), (&report.machine, &report.configuration));
    for (read, results) in read.results.iter().zip(&report.results) {
        assert_eq!((read.sent, read.delivered), (results.sent, results.delivered));
        assert_eq!(read.timeline.len(), results.timeline.len());
        assert!((read.deliveries_per_second / results.deliveries_per_second - 1.0).abs() < 1e-12);
    }
}

#[tokio::test]
async fn the_table_of_several_runs_has_medians_and_extremes() {
    let line = "latency --rate 1k --transport local";
    let reports = [report(line).await, report(line).await, report(line).await];
    let text = table(&reports);
    for part in
        ["latency: reliable over local", "median of 3 runs", "delivered", "p99.9", "lowest", "highest"]
    {
        assert!(text.contains(part), "{part}:\n{text}");
    }
}
