//! Reports as a run would have made them, for the tests of everything that reads reports.

use std::time::Duration;

use crate::{
    machine::Machine,
    plan::{ChannelKind, Embedded, Plan, TransportKind, Workload},
    report::{ConnectionFigures, Interval, LatencySummary, Percentile, Report, Results},
};

/// A run of `latency` whose latencies are `factor` times those of every other.
pub(crate) fn latency(factor: f64) -> Report {
    let us = |us: f64| us * factor;
    let percentiles = [(0.0, 8.0), (50.0, 20.0), (90.0, 31.0), (99.0, 60.0), (99.9, 140.0), (100.0, 300.0)];
    let latency = LatencySummary {
        count: 30_000,
        min_us: us(8.0),
        mean_us: us(22.0),
        p50_us: us(20.0),
        p90_us: us(31.0),
        p99_us: us(60.0),
        p999_us: us(140.0),
        p9999_us: us(290.0),
        max_us: us(300.0),
        percentiles: percentiles.map(|(percent, at)| Percentile { percent, us: us(at) }).to_vec(),
    };
    let timeline = (1..=30).map(|tenth| Interval {
        at_seconds: f64::from(tenth) / 10.0,
        deliveries_per_second: 10_000.0,
        p50_us: Some(us(20.0)),
        p99_us: Some(us(60.0 + f64::from(tenth))),
        max_us: Some(us(200.0)),
    });
    let results = Results {
        latency: Some(latency),
        behind_us_max: Some(40.0),
        timeline: timeline.collect(),
        ..throughput(10_000.0).results.remove(0)
    };
    let plan = Plan { workload: Workload::Latency, rate: Some(10_000), ..plan() };
    Report { configuration: plan, results: vec![results], ..throughput(1.0) }
}

/// A run of `throughput` with this many deliveries per second.
pub(crate) fn throughput(per_second: f64) -> Report {
    let timeline = (1..=30).map(|tenth| Interval {
        at_seconds: f64::from(tenth) / 10.0,
        deliveries_per_second: per_second,
        ..Interval::default()
    });
    let results = Results {
        name: "reliable".into(),
        window_seconds: 3.0,
        deliveries_per_second: per_second,
        megabytes_per_second: per_second * 64.0 / 1e6,
        cpu_seconds_per_million: Some(0.5e6 / per_second),
        sent: (per_second * 3.0) as u64,
        delivered: (per_second * 3.0) as u64,
        timeline: timeline.collect(),
        ..Results::default()
    };
    Report {
        version: "0.1.0".into(),
        commit: Some("0123456789ab".into()),
        date: "2026-11-21T03:40:00Z".into(),
        machine: Machine {
            cpu: Some("An \"ideal\" CPU, <fast>".into()),
            cores: 2,
            kernel: Some("linux 6.1".into()),
        },
        configuration: plan(),
        results: vec![results],
    }
}

/// A run of `connections`.
pub(crate) fn connections() -> Report {
    let figures = ConnectionFigures {
        connections: 1_000,
        accepted_per_second: 2_345.0,
        server_bytes_per_connection: Some(51_200.0),
        idle_cpu_percent: Some(0.4),
    };
    let results = Results { name: "reliable".into(), connections: Some(figures), ..Results::default() };
    let plan = Plan { workload: Workload::Connections, subscribers: 1_000, ..plan() };
    Report { configuration: plan, results: vec![results], ..throughput(1.0) }
}

fn plan() -> Plan {
    Plan {
        workload: Workload::Throughput,
        channel: ChannelKind::Reliable,
        transport: TransportKind::Tcp,
        encrypted: true,
        payload_bytes: 64,
        publishers: 1,
        subscribers: 1,
        topics: 1,
        burst: 1,
        sessions: 1,
        rate: None,
        warmup: Duration::from_secs(1),
        window: Duration::from_secs(3),
        server: None,
        embedded: Some(Embedded { io_threads: 1, io_policy: "adaptive".into() }),
        subscriber_threads: 1,
        unacked_max: None,
        dir: None,
        fill_bytes: None,
        pin: None,
        link: None,
        link_seed: 0,
    }
}
