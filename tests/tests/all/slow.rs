//! Slow subscribers of reliable topics (R9): what each policy means for them, for publishers and for the others.

use std::time::Duration;

use twinlane::{Code, EngineConfig, Publisher, SlowPolicy, SubscribeOptions, Subscription, TopicSpec};

use crate::world::{Carrier, World, next_message, within};

/// More than every queue on the way together, sockets included.
const FLOOD_BYTES: usize = 96 << 20;
const MESSAGE_BYTES: usize = 32 << 10;
const MESSAGES: u64 = (FLOOD_BYTES / MESSAGE_BYTES) as u64;

fn small_topic() -> TopicSpec {
    TopicSpec::reliable().with_retain_bytes(512 << 10).with_payload_bytes_max(MESSAGE_BYTES as u32)
}

fn numbered(number: u64) -> Vec<u8> {
    let mut payload = vec![0; MESSAGE_BYTES];
    payload[..8].copy_from_slice(&number.to_le_bytes());
    payload
}

/// Sends until it has to wait for longer than anything but back-pressure explains; returns how many went out.
async fn send_until_blocked(publisher: &mut Publisher, from: u64) -> u64 {
    for number in from..MESSAGES {
        let payload = numbered(number);
        if tokio::time::timeout(Duration::from_millis(500), publisher.send(&payload)).await.is_err() {
            return number;
        }
    }
    panic!("{FLOOD_BYTES} bytes went out although nobody reads");
}

async fn read_to(subscription: &mut Subscription, from: u64, to: u64) {
    for number in from..to {
        let message = next_message(subscription).await;
        assert_eq!(message.offset(), number);
        assert_eq!(message.payload()[..8], number.to_le_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocking_subscriber_stops_the_publisher_until_it_reads() {
    for carrier in [Carrier::Local, Carrier::Tcp, Carrier::Quic] {
        let mut config = EngineConfig::default();
        config.block_timeout = Duration::from_secs(60);
        let world = World::with(config).await;
        world.engine.declare("flood", small_topic()).unwrap();
        let mut subscription = world.session(carrier).await.subscribe("flood").await.unwrap();
        let mut publisher = world.session(carrier).await.publisher("flood").await.unwrap();
        let sent = send_until_blocked(&mut publisher, 0).await;
        let reading = tokio::spawn(async move {
            read_to(&mut subscription, 0, sent + 100).await;
            subscription
        });
        for number in sent..sent + 100 {
            within("room", publisher.send(&numbered(number))).await.unwrap();
        }
        within("a flush", publisher.flush()).await.unwrap();
        let subscription = within("all of it", reading).await.unwrap();
        assert_eq!(subscription.end(), None, "{carrier:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_blocks_for_too_long_is_cut_off_and_the_others_go_on() {
    for carrier in [Carrier::Local, Carrier::Tcp, Carrier::Quic] {
        let mut config = EngineConfig::default();
        config.block_timeout = Duration::from_millis(300);
        let world = World::with(config).await;
        world.engine.declare("flood", small_topic()).unwrap();
        let mut stuck = world.session(carrier).await.subscribe("flood").await.unwrap();
        let mut reader = world.session(carrier).await.subscribe("flood").await.unwrap();
        let reading = tokio::spawn(async move { read_to(&mut reader, 0, MESSAGES / 4).await });
        let mut publisher = world.session(carrier).await.publisher("flood").await.unwrap();
        for number in 0..MESSAGES / 4 {
            within("a publish", publisher.send(&numbered(number))).await.unwrap();
        }
        within("a flush", publisher.flush()).await.unwrap();
        within("the others", reading).await.unwrap();
        expect_slow_end(&mut stuck).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_asked_for_it_is_disconnected_when_slow_and_nobody_waits() {
    for carrier in [Carrier::Local, Carrier::Tcp, Carrier::Quic] {
        let mut config = EngineConfig::default();
        config.block_timeout = Duration::from_secs(60);
        let world = World::with(config).await;
        world.engine.declare("flood", small_topic()).unwrap();
        let mut options = SubscribeOptions::default();
        options.slow = SlowPolicy::Disconnect;
        let mut stuck = world.session(carrier).await.subscribe_with("flood", options).await.unwrap();
        let mut reader = world.session(carrier).await.subscribe("flood").await.unwrap();
        let reading = tokio::spawn(async move { read_to(&mut reader, 0, MESSAGES / 4).await });
        let mut publisher = world.session(carrier).await.publisher("flood").await.unwrap();
        for number in 0..MESSAGES / 4 {
            within("a publish", publisher.send(&numbered(number))).await.unwrap();
        }
        within("the others", reading).await.unwrap();
        expect_slow_end(&mut stuck).await;
    }
}

/// What was sent before comes densely, then the end.
async fn expect_slow_end(stuck: &mut Subscription) {
    let mut expected = 0;
    while let Some(delivery) = within("the end", stuck.next()).await {
        let twinlane::Delivery::Message(message) = delivery else {
            panic!("R9: no silent drop: {delivery:?}")
        };
        assert_eq!(message.offset(), expected, "R9: none skipped before the end");
        expected += 1;
    }
    assert!(expected < MESSAGES / 4);
    assert_eq!(stuck.end().map(|end| end.code), Some(Code::SlowConsumer));
}
