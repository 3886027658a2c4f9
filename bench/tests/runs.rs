//! Short runs of every workload over every way, for their verdict: the figures of runs this short mean nothing.

use std::time::Duration;

use twinlane::IoPolicy;
use twinlane_bench::{
    plan::{ChannelKind, Embedded, Plan, TransportKind, Workload},
    run::{Measured, run},
    stage::Access,
};

fn plan(workload: Workload, channel: ChannelKind, transport: TransportKind) -> Plan {
    Plan {
        workload,
        channel,
        transport,
        encrypted: transport != TransportKind::Local,
        payload_bytes: 64,
        publishers: 1,
        subscribers: 1,
        rate: (workload == Workload::Latency).then_some(2_000),
        warmup: Duration::from_millis(50),
        window: Duration::from_millis(200),
        server: None,
        embedded: Some(Embedded { io_threads: 1, io_policy: IoPolicy::default().to_string() }),
        subscriber_threads: 1,
    }
}

async fn measured(plan: &Plan) -> Measured {
    let access = Access { fingerprint: None, token: None, plain: false, io_policy: IoPolicy::default() };
    let measured = run(plan, access).await.unwrap_or_else(|error| panic!("{}: {error:?}", plan.headline()));
    assert!(measured.sent > 0, "{}: nothing was sent", plan.headline());
    assert_eq!(measured.books.len(), plan.subscribers);
    for books in &measured.books {
        assert_eq!(books.delivered + books.lost, measured.sent, "{}", plan.headline());
    }
    measured
}

#[tokio::test]
async fn every_reliable_message_arrives_over_every_transport() {
    for transport in [TransportKind::Local, TransportKind::Tcp, TransportKind::Quic] {
        let measured = measured(&plan(Workload::Throughput, ChannelKind::Reliable, transport)).await;
        assert_eq!(measured.books[0].lost, 0, "{transport:?}");
    }
}

#[tokio::test]
async fn fast_messages_arrive_or_are_reported_over_every_transport() {
    for transport in [TransportKind::Local, TransportKind::Tcp, TransportKind::Quic] {
        let measured = measured(&plan(Workload::Throughput, ChannelKind::Fast, transport)).await;
        assert!(measured.books[0].delivered > 0, "{transport:?}");
    }
}

#[tokio::test]
async fn an_open_loop_sends_its_whole_schedule_and_times_the_window_only() {
    for (channel, transport) in
        [(ChannelKind::Reliable, TransportKind::Tcp), (ChannelKind::Fast, TransportKind::Quic)]
    {
        let measured = measured(&plan(Workload::Latency, channel, transport)).await;
        assert_eq!(measured.sent, 500, "2,000 per second for 250 ms");
        let timed = measured.latencies.summary().expect("messages arrived").count;
        assert!(timed <= 400, "{timed} timed, the warm-up's 100 messages do not count");
        assert!(channel == ChannelKind::Fast || timed == 400, "{timed} of 400 reliable messages timed");
    }
}

#[tokio::test]
async fn several_publishers_and_subscribers_settle_their_books() {
    for transport in [TransportKind::Local, TransportKind::Tcp] {
        for channel in [ChannelKind::Reliable, ChannelKind::Fast] {
            let plan = Plan {
                publishers: 3,
                subscribers: 4,
                subscriber_threads: 2,
                ..plan(Workload::Throughput, channel, transport)
            };
            measured(&plan).await;
        }
    }
}

#[tokio::test]
async fn a_fan_out_delivers_to_every_subscriber() {
    let plan = Plan { subscribers: 20, ..plan(Workload::Fanout, ChannelKind::Reliable, TransportKind::Tcp) };
    let measured = measured(&plan).await;
    assert_eq!(measured.window_deliveries.len(), 20);
    assert!(measured.books.iter().all(|books| books.lost == 0), "{:?}", measured.books);
}
