//! Reliable topics (R3 to R7): order, history, wildcards, declarations, limits, over every carrier.

use std::collections::HashMap;

use twinlane::{
    DeclareError, Delivery, EngineConfig, GapCause, MessageOptions, Missing, OpenError, PublishError,
    Publisher, PublisherOptions, Session, Start, SubscribeOptions, Subscription, TopicSpec, TryPublishError,
};
use twinlane_tests::Relay;

use crate::world::{Carrier, World, next_delivery, next_message, payload, proven, until, within};

const PUBLISHERS: u32 = 3;
const EACH: u64 = 200;

fn from(start: Start) -> SubscribeOptions {
    let mut options = SubscribeOptions::default();
    options.start = start;
    options
}

/// Publishes its messages one by one; returns where each of them was stored.
async fn publish_all(mut publisher: Publisher, number: u32) -> Vec<(u32, u64, u64)> {
    let mut stored = Vec::new();
    for seq in 1..=EACH {
        let ack = publisher.publish(&payload(number, seq)).await.unwrap();
        assert_eq!(ack.seq, seq);
        stored.push((number, seq, ack.offset.expect("a reliable publish has an offset")));
    }
    stored
}

async fn read_all(mut subscription: Subscription, messages: u64) -> Vec<(u32, u64)> {
    let mut seen = Vec::new();
    while (seen.len() as u64) < messages {
        let message = next_message(&mut subscription).await;
        assert_eq!(message.offset(), seen.len() as u64, "R7: none skipped, none twice");
        seen.push(proven(message.payload()));
    }
    seen
}

// R3, R4, R5, R7 and the acks' offsets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_and_subscribers_on_any_carrier_agree_on_one_dense_order() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        world.engine.declare("orders", TopicSpec::reliable()).unwrap();
        let mut readers = Vec::new();
        for _ in 0..2 {
            let subscription = world.session(carrier).await.subscribe("orders").await.unwrap();
            readers.push(tokio::spawn(read_all(subscription, u64::from(PUBLISHERS) * EACH)));
        }
        let mut writers = Vec::new();
        for number in 0..PUBLISHERS {
            let publisher = world.session(carrier).await.publisher("orders").await.unwrap();
            writers.push(tokio::spawn(publish_all(publisher, number)));
        }
        let mut stored = HashMap::new();
        for writer in writers {
            let mut last = None;
            for (number, seq, offset) in within("acks", writer).await.unwrap() {
                assert!(last < Some(offset), "R3, R5: {carrier:?}");
                last = Some(offset);
                assert!(stored.insert(offset, (number, seq)).is_none(), "R2: one offset, one message");
            }
        }
        for reader in readers {
            let seen = within("messages", reader).await.unwrap();
            for (offset, message) in (0..).zip(seen) {
                assert_eq!(stored[&offset], message, "R4: {carrier:?}");
            }
        }
    }
}

// R7.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_begins_where_it_was_asked_to() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        let session = world.session(carrier).await;
        let mut publisher = session.publisher("history").await.unwrap();
        for number in 0..10 {
            publisher.publish(&payload(0, number)).await.unwrap();
        }
        let starts = [(Start::New, 10), (Start::Last, 9), (Start::Offset(4), 4), (Start::All, 0)];
        let mut subscriptions = Vec::new();
        for (start, first) in starts {
            subscriptions.push((session.subscribe_with("history", from(start)).await.unwrap(), first));
        }
        publisher.publish(&payload(0, 10)).await.unwrap();
        for (mut subscription, first) in subscriptions {
            for offset in first..=10 {
                let message = next_message(&mut subscription).await;
                assert_eq!((message.offset(), proven(message.payload()).1), (offset, offset), "{carrier:?}");
            }
        }
    }
}

// R7: a hole comes only as a gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_older_than_what_is_kept_reports_exactly_what_is_gone() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        let session = world.session(carrier).await;
        session.declare("short", TopicSpec::reliable().with_retain_messages(10)).await.unwrap();
        let mut publisher = session.publisher("short").await.unwrap();
        for number in 0..25 {
            publisher.publish(&payload(0, number)).await.unwrap();
        }
        let mut subscription = session.subscribe_with("short", from(Start::Offset(3))).await.unwrap();
        let Delivery::Gap(gap) = next_delivery(&mut subscription).await else {
            panic!("{carrier:?}: no gap")
        };
        assert_eq!((gap.cause, gap.count()), (GapCause::Retention, 12), "{carrier:?}");
        assert_eq!(gap.missing, Missing::Offsets { from: 3, to: 15 });
        for offset in 15..25 {
            assert_eq!(next_message(&mut subscription).await.offset(), offset);
        }
        assert_eq!(subscription.stats().not_retained, 12);
        let mut all = session.subscribe_with("short", from(Start::All)).await.unwrap();
        assert_eq!(next_message(&mut all).await.offset(), 15, "{carrier:?}: all that is kept");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wildcards_match_topics_of_now_and_of_later() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        let session = world.session(carrier).await;
        let mut early = session.publisher("a/x").await.unwrap();
        let mut one_level = session.subscribe("a/*").await.unwrap();
        let mut any_level = session.subscribe("a/**").await.unwrap();
        let mut other = session.subscribe("b/**").await.unwrap();
        let mut deep = session.publisher("a/y/z").await.unwrap();
        let mut late = session.publisher("a/w").await.unwrap();
        for (number, publisher) in [(1, &mut early), (2, &mut deep), (3, &mut late)] {
            publisher.publish(&payload(0, number)).await.unwrap();
        }
        let mut seen = Vec::new();
        for _ in 0..3 {
            let message = next_message(&mut any_level).await;
            seen.push((message.topic().to_string(), proven(message.payload()).1));
        }
        seen.sort();
        let topic = |name: &str, number| (name.to_owned(), number);
        assert_eq!(seen, [topic("a/w", 3), topic("a/x", 1), topic("a/y/z", 2)], "{carrier:?}");
        let mut seen = [next_message(&mut one_level).await, next_message(&mut one_level).await];
        seen.sort_by_key(|message| message.topic().to_string());
        assert_eq!(seen[0].topic().as_str(), "a/w");
        assert_eq!(seen[1].topic().as_str(), "a/x");
        session.publisher("b/q").await.unwrap().publish(b"b").await.unwrap();
        assert_eq!(next_message(&mut other).await.payload(), b"b", "{carrier:?}: nothing of a/ came here");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conflicting_declaration_is_refused_and_names_both_sides() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        world.engine.declare("prices", TopicSpec::fast()).unwrap();
        let session = world.session(carrier).await;
        let error = session.declare("prices", TopicSpec::reliable()).await.unwrap_err();
        let text = error.to_string();
        for part in ["\"prices\"", "fast", "reliable", "the embedding program"] {
            assert!(text.contains(part), "{carrier:?}: {part:?} is missing in {text:?}");
        }
        let mut options = PublisherOptions::default();
        options.spec = Some(TopicSpec::reliable());
        let error = session.publisher_with("prices", options).await.unwrap_err().to_string();
        assert!(error.contains("fast") && error.contains("reliable"), "{carrier:?}: {error}");
        assert_eq!(
            session.declare("prices", TopicSpec::fast()).await.unwrap().channel,
            twinlane::Channel::Fast
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_use_does_not_declare_an_unknown_topic_is_refused() {
    for carrier in Carrier::ALL {
        let mut config = EngineConfig::default();
        config.declare_on_use = false;
        config.topics = vec![("known".to_owned(), TopicSpec::reliable())];
        let world = World::with(config).await;
        let session = world.session(carrier).await;
        let error = session.publisher("unknown").await.unwrap_err();
        assert!(error.to_string().contains("does not exist"), "{carrier:?}: {error}");
        session.publisher("known").await.unwrap().publish(b"1").await.unwrap();
        let declared = session.declare("also unknown", TopicSpec::reliable()).await;
        assert_eq!(declared.is_ok(), carrier == Carrier::Local, "only the embedder declares");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_the_server_are_refused() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        let session = world.session(carrier).await;
        let is_reserved =
            |error: OpenError| matches!(error, OpenError::Declare(DeclareError::Reserved { .. }));
        assert!(is_reserved(session.publisher("$sys/mine").await.unwrap_err()), "{carrier:?}");
        assert!(is_reserved(session.subscribe("$sys/status").await.unwrap_err()), "{carrier:?}");
        assert!(is_reserved(session.subscribe("$inbox/**").await.unwrap_err()), "{carrier:?}");
        assert!(session.declare("$mine", TopicSpec::fast()).await.is_err(), "{carrier:?}");
        let mut everything = session.subscribe("**").await.unwrap();
        session.server_status().await.unwrap();
        session.publisher("plain").await.unwrap().publish(b"1").await.unwrap();
        assert_eq!(
            next_message(&mut everything).await.payload(),
            b"1",
            "{carrier:?}: `**` matches no $ topic"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_above_the_limit_is_refused_and_one_at_the_limit_is_intact() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        let session = world.session(carrier).await;
        for (topic, spec, limit) in
            [("big", TopicSpec::reliable(), 1 << 20), ("small", TopicSpec::fast(), 64 << 10)]
        {
            session.declare(topic, spec).await.unwrap();
            let mut subscription = session.subscribe(topic).await.unwrap();
            let mut publisher = session.publisher(topic).await.unwrap();
            let mut payload: Vec<u8> = (0..=limit).map(|at| (at % 251) as u8).collect();
            let refused = publisher.publish(&payload).await.unwrap_err();
            assert_eq!(refused, PublishError::TooLarge { payload_bytes: limit + 1, limit }, "{carrier:?}");
            let refused = publisher.try_publish(&payload).unwrap_err();
            assert_eq!(refused, TryPublishError::TooLarge { payload_bytes: limit + 1, limit });
            payload.pop();
            publisher.publish(&payload).await.unwrap();
            assert!(next_message(&mut subscription).await.payload() == payload, "{carrier:?}: not intact");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_and_sends_are_stored_in_order_and_flush_counts_them() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        let session = world.session(carrier).await;
        let mut subscription = session.subscribe("log").await.unwrap();
        let mut publisher = session.publisher("log").await.unwrap();
        let batch: Vec<_> = (1..=100).map(|number| payload(0, number)).collect();
        let ack = publisher.publish_batch(&batch).await.unwrap();
        assert_eq!((ack.first_seq, ack.count, ack.last_offset), (1, 100, Some(99)), "{carrier:?}");
        for number in 101..=1_000 {
            assert_eq!(publisher.send(&payload(0, number)).await.unwrap(), number);
        }
        let flushed = publisher.flush().await.unwrap();
        assert_eq!((flushed.acked, flushed.refused), (1_000, 0), "{carrier:?}");
        let mut expected = 1;
        while expected <= 1_000 {
            let batch = within("a batch", subscription.next_batch()).await.unwrap();
            for message in batch.messages() {
                assert_eq!(proven(message.payload()), (0, expected), "{carrier:?}");
                expected += 1;
            }
        }
        assert_eq!(publisher.close().await.unwrap().acked, 1_000);
    }
}

// R9: bounded; full is an answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn try_publish_says_full_when_nobody_makes_room_and_goes_on_when_somebody_does() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        world.engine.declare("full", TopicSpec::reliable().with_retain_bytes(128 << 10)).unwrap();
        let session = world.session(carrier).await;
        let mut subscription = session.subscribe("full").await.unwrap();
        let mut publisher = session.publisher("full").await.unwrap();
        let payload = vec![7; 64 << 10];
        let mut sent = 0_u64;
        let full = async {
            loop {
                match publisher.try_publish(&payload) {
                    Ok(_) => sent += 1,
                    Err(TryPublishError::QueueFull) => break,
                    Err(other) => panic!("{carrier:?}: {other}"),
                }
                tokio::task::yield_now().await;
            }
        };
        within("a full queue", full).await;
        assert!(
            sent < 1_000,
            "{carrier:?}: {sent} messages of 64 KiB were taken for a subscriber that reads nothing"
        );
        for offset in 0..sent {
            assert_eq!(next_message(&mut subscription).await.offset(), offset, "{carrier:?}");
        }
        until("room again", || publisher.try_publish(&payload).is_ok()).await;
        assert_eq!(next_message(&mut subscription).await.offset(), sent, "{carrier:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_and_headers_arrive_as_they_were_given() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        let session = world.session(carrier).await;
        let mut subscription = session.subscribe("meta").await.unwrap();
        let mut publisher = session.publisher("meta").await.unwrap();
        let headers: [(&str, &[u8]); 2] = [("kind", b"tea"), ("empty", b"")];
        let options = MessageOptions::default().with_key(u64::MAX).with_headers(&headers);
        publisher.publish_with(b"body", options).await.unwrap();
        let message = next_message(&mut subscription).await;
        assert_eq!((message.payload(), message.key()), (&b"body"[..], Some(u64::MAX)), "{carrier:?}");
        let got = message.headers().unwrap();
        assert_eq!(
            (got.value("kind"), got.value("empty"), got.value("none")),
            (Some(&b"tea"[..]), Some(&b""[..]), None)
        );
        let too_many: Vec<(&str, &[u8])> = vec![("h", b"v"); 33];
        let refused =
            publisher.publish_with(b"body", MessageOptions::default().with_headers(&too_many)).await;
        assert!(matches!(refused, Err(PublishError::BadOptions(_))), "{carrier:?}: {refused:?}");
        assert_eq!(publisher.publish(b"next").await.unwrap().seq, 2, "what was refused took no seq");
    }
}

// A slow link has no bytes to waste: one by one each of these messages costs a header and a TLS record of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_wait_for_a_slow_link_share_headers_and_cost_few_bytes_beside_their_frames() {
    const MESSAGES: u64 = 3_000;
    /// Head and payload.
    const FRAME_BYTES: u64 = 32 + 16;
    let world = World::new().await;
    world.engine.declare("orders", TopicSpec::reliable()).unwrap();
    let relay = Relay::start_slow(world.addr(), 1, 1_000_000).await.unwrap();
    let mut behind = world.session_via(Carrier::Tcp, &relay).await.subscribe("orders").await.unwrap();
    let mut beside = world.session(Carrier::Tcp).await.subscribe("orders").await.unwrap();
    let mut publisher = Session::local(&world.engine).publisher("orders").await.unwrap();
    relay.hold(true);
    let before = relay.tcp_bytes_to_clients();
    for seq in 1..=MESSAGES {
        publisher.publish(&[seq.to_le_bytes(), seq.to_le_bytes()].concat()).await.unwrap();
        // When the other one has it, this one's connection was asked to carry it, too.
        assert_eq!(next_message(&mut beside).await.seq(), seq);
    }
    relay.hold(false);
    for seq in 1..=MESSAGES {
        assert_eq!(next_message(&mut behind).await.seq(), seq);
    }
    let carried_bytes = relay.tcp_bytes_to_clients() - before;
    assert!(
        carried_bytes < MESSAGES * FRAME_BYTES * 5 / 4,
        "{carried_bytes} bytes for {MESSAGES} messages of {FRAME_BYTES}"
    );
}
