//! Lost connections and restarted servers (R2, R8): nothing lost, nothing twice, and everyone is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use twinlane::{
    Code, Delivery, EngineConfig, ListenError, Outcome, PublisherOptions, Session, SessionEvent,
    SessionEvents, TopicSpec,
};
use twinlane_proto::Control;
use twinlane_proto::control::{Acked, Resume};
use twinlane_tests::Relay;

use crate::raw::{Raw, open_publisher, plain_engine};
use crate::world::{
    Carrier, World, next_delivery, next_message, next_message_or_resumed, payload, proven, until, within,
};

// R2, R3, R7, R8.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_cut_again_and_again_lose_nothing_and_repeat_nothing() {
    const MESSAGES: u64 = 6_000;
    let seed = 4_711;
    let world = World::new().await;
    let relay = Relay::start(world.addr(), seed).await.unwrap();
    let publishing = world.session_via(Carrier::Tcp, &relay).await;
    let subscribing = world.session_via(Carrier::Tcp, &relay).await;
    let mut events = subscribing.events();
    let mut subscription = subscribing.subscribe("stream").await.unwrap();
    let mut publisher = publishing.publisher("stream").await.unwrap();
    relay.cut_after(60_000);
    relay.cut();
    let writing = tokio::spawn(async move {
        for number in 0..MESSAGES {
            if number % 50 == 0 {
                let ack = publisher.publish(&payload(0, number)).await.unwrap();
                assert_eq!(ack.offset, Some(number), "seed {seed}: the ack tells where it is");
            } else {
                publisher.send(&payload(0, number)).await.unwrap();
            }
        }
        publisher.flush().await.unwrap()
    });
    let mut resumed = 0;
    for number in 0..MESSAGES {
        let message = next_message_or_resumed(&mut subscription, &mut resumed).await;
        assert_eq!((message.offset(), proven(message.payload())), (number, (0, number)), "seed {seed}");
    }
    let flushed = within("a flush", writing).await.unwrap();
    assert_eq!((flushed.acked, flushed.refused), (MESSAGES, 0), "seed {seed}");
    assert!(
        relay.connections() > 12,
        "seed {seed}: only {} connections, no fault took effect",
        relay.connections()
    );
    assert!(resumed > 5, "seed {seed}: {resumed} resumes were delivered");
    assert_eq!(subscription.stats().resumes, resumed);
    let status = world.engine.status();
    let topic = status.topics.iter().find(|topic| topic.name == "stream").unwrap();
    assert_eq!(topic.next, MESSAGES, "seed {seed}: R2: nothing is stored twice");
    assert!(subscribing.status().reconnects > 5);
    expect_reconnect(&mut events).await;
}

/// The events of one lost connection, in their order.
async fn expect_reconnect(events: &mut SessionEvents) {
    let mut next = async || within("an event", events.next()).await.expect("the session lives");
    // Those of the first cuts may have been overwritten by later ones.
    while !matches!(next().await, SessionEvent::Disconnected { .. }) {}
    loop {
        match next().await {
            SessionEvent::Reconnecting { attempt, .. } => assert!(attempt >= 1),
            SessionEvent::Connected { resumed, .. } => {
                assert!(resumed, "the session goes on");
                return;
            }
            other => panic!("unexpected: {other}"),
        }
    }
}

// R8, R10: a restarted server is a new epoch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_server_is_found_again_and_its_topics_begin_anew() {
    for carrier in Carrier::REMOTE {
        let identity = tempfile::tempdir().unwrap();
        let listen = async |addr: std::net::SocketAddr| {
            let engine = twinlane::Engine::new(EngineConfig::default()).unwrap();
            let mut options = twinlane::ListenOptions::new(addr);
            options.identity = twinlane::Identity::SelfSigned { dir: identity.path().to_owned() };
            // The earlier server's sockets close a moment after its shutdown returned.
            let listening = async {
                loop {
                    match engine.listen(options.clone()).await {
                        Ok(listening) => return listening,
                        Err(ListenError::AddressInUse { .. }) => {
                            tokio::time::sleep(Duration::from_millis(2)).await;
                        }
                        Err(other) => panic!("{carrier:?}: {other}"),
                    }
                }
            };
            let listening = within("the port", listening).await;
            World { engine, listening }
        };
        let first = listen("127.0.0.1:0".parse().unwrap()).await;
        let session = first.session(carrier).await;
        let mut subscription = session.subscribe("t").await.unwrap();
        let mut publisher = session.publisher("t").await.unwrap();
        let before = publisher.publish(b"before").await.unwrap();
        assert_eq!(next_message(&mut subscription).await.epoch(), before.epoch);
        let addr = first.addr();
        first.engine.shutdown(Duration::from_secs(2)).await;
        drop(first);
        let second = listen(addr).await;
        let after = within("a publish", publisher.publish(b"after")).await.unwrap();
        assert_ne!(after.epoch, before.epoch, "{carrier:?}");
        assert_eq!(after.offset, Some(0), "{carrier:?}");
        let fresh = next_delivery(&mut subscription).await;
        let is_fresh = matches!(&fresh, Delivery::Resumed { outcome: Outcome::Fresh, .. });
        assert!(is_fresh, "{carrier:?}: never a silent jump, got {fresh:?}");
        let message = next_message(&mut subscription).await;
        assert_eq!((message.payload(), message.epoch()), (&b"after"[..], after.epoch), "{carrier:?}");
        drop(second);
    }
}

// R2 at the level of the protocol.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_sent_twice_are_stored_once_and_get_their_first_answer_again() {
    let (engine, addr) = plain_engine(EngineConfig::default()).await;
    let (mut raw, welcome) = Raw::welcomed(addr, None).await;
    raw.send(open_publisher(1, 9, "once", 0)).await;
    assert!(matches!(raw.next().await, Some(Control::PublisherOpened(_))));
    let payloads: [&[u8]; 3] = [b"one", b"two", b"three"];
    raw.send_run(9, 1, &payloads).await;
    assert_eq!(answered(&mut raw, 3).await, [(1, 0), (2, 1), (3, 2)]);
    raw.send_run(9, 1, &payloads).await;
    assert_eq!(answered(&mut raw, 3).await, [(1, 0), (2, 1), (3, 2)], "on the same connection");
    raw.send_run(9, 3, &[b"three", b"four"]).await;
    assert_eq!(answered(&mut raw, 4).await, [(3, 2), (4, 3)], "partly new");
    drop(raw);
    let resume = Some(Resume { session: welcome.session, secret: welcome.secret });
    let (mut again, welcome) = Raw::welcomed(addr, resume).await;
    assert!(welcome.resumed);
    again.send(open_publisher(1, 9, "once", 1)).await;
    let Some(Control::PublisherOpened(opened)) = again.next().await else { panic!("not opened") };
    assert_eq!(opened.last_seq, 4);
    assert_eq!(answered(&mut again, 4).await, [(2, 1), (3, 2), (4, 3)], "what was not heard is told again");
    again.send_run(9, 2, &[b"two", b"three", b"four", b"five"]).await;
    assert_eq!(answered(&mut again, 5).await, [(2, 1), (3, 2), (4, 3), (5, 4)], "on another connection");
    assert_eq!(engine.status().topics.iter().find(|topic| topic.name == "once").unwrap().next, 5);
}

/// Seqs with their offsets from acks, until `last_seq` has one.
async fn answered(raw: &mut Raw, last_seq: u64) -> Vec<(u64, u64)> {
    let mut answers = Vec::new();
    while answers.last().is_none_or(|(seq, _)| *seq < last_seq) {
        match raw.next().await {
            Some(Control::Acked(Acked { first_seq, count, first_offset, .. })) => {
                answers.extend((0..u64::from(count)).map(|at| (first_seq + at, first_offset + at)));
            }
            other => panic!("expected an ack, got {other:?}"),
        }
    }
    answers
}

// R3: no hole, whoever sends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_in_a_publisher_stream_ends_its_connection() {
    let (_engine, addr) = plain_engine(EngineConfig::default()).await;
    let (mut raw, _) = Raw::welcomed(addr, None).await;
    raw.send(open_publisher(1, 1, "dense", 0)).await;
    assert!(matches!(raw.next().await, Some(Control::PublisherOpened(_))));
    raw.send_run(1, 2, &[b"second without a first"]).await;
    assert_eq!(raw.closed().await.map(|goodbye| goodbye.code), Some(Code::ProtocolViolation));
}

// R2, R9: what waits for room when the connection is lost is neither lost nor stored twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_held_back_when_its_connection_is_lost_goes_on() {
    let mut config = EngineConfig::default();
    config.block_timeout = Duration::from_secs(60);
    let world = World::with(config).await;
    world
        .engine
        .declare("held", TopicSpec::reliable().with_retain_bytes(256 << 10).with_payload_bytes_max(8_192))
        .unwrap();
    let relay = Relay::start(world.addr(), 1).await.unwrap();
    let session = world.session_via(Carrier::Tcp, &relay).await;
    let mut subscription = world.session(Carrier::Local).await.subscribe("held").await.unwrap();
    let mut publisher = session.publisher("held").await.unwrap();
    let mut sent = 0_u64;
    while publisher.try_publish(&[sent as u8; 8_000]).is_ok() {
        sent += 1;
        tokio::task::yield_now().await;
    }
    relay.cut();
    until("a new connection", || session.status().reconnects == 1).await;
    let server_side = || world.engine.status().topics.into_iter().find(|topic| topic.name == "held").unwrap();
    assert!(server_side().next < sent, "nothing waits: the test proves nothing");
    for number in 0..sent {
        let message = next_message(&mut subscription).await;
        assert_eq!((message.offset(), message.payload()[0]), (number, number as u8));
    }
    let flushed = within("a flush", publisher.flush()).await.unwrap();
    assert_eq!((flushed.acked, flushed.refused), (sent, 0));
    assert_eq!(server_side().next, sent);
    assert_eq!(session.status().reconnects, 1, "{:?}", session.status());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_asked_for_when_the_connection_was_lost_is_asked_again() {
    let world = World::new().await;
    let relay = Relay::start(world.addr(), 1).await.unwrap();
    let mut options = world.options_via(Carrier::Tcp, relay.addr());
    options.outcome_timeout = Duration::from_secs(8);
    let session = Session::connect(options).await.unwrap();
    relay.hold(true);
    let asked = Arc::new(AtomicBool::new(false));
    let (subscribing, publishing, declaring) = (session.clone(), session.clone(), session.clone());
    let telling = Arc::clone(&asked);
    let subscribing = tokio::spawn(async move {
        telling.store(true, Ordering::Release);
        subscribing.subscribe("asked").await
    });
    let publishing = tokio::spawn(async move { publishing.publisher("asked").await });
    let declaring = tokio::spawn(async move { declaring.declare("other", TopicSpec::fast()).await });
    until("the requests", || asked.load(Ordering::Acquire)).await;
    until("the server to have them", || {
        let topics = world.engine.status().topics;
        topics.iter().any(|topic| topic.name == "asked") && topics.iter().any(|topic| topic.name == "other")
    })
    .await;
    relay.cut();
    relay.hold(false);
    within("a declaration", declaring).await.unwrap().unwrap();
    let mut publisher = within("a publisher", publishing).await.unwrap().unwrap();
    let mut subscription = within("a subscription", subscribing).await.unwrap().unwrap();
    publisher.publish(b"here").await.unwrap();
    let mut resumed = 0;
    assert_eq!(next_message_or_resumed(&mut subscription, &mut resumed).await.payload(), b"here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_out_of_reach_is_tried_again_until_it_is_back() {
    let world = World::new().await;
    let relay = Relay::start(world.addr(), 1).await.unwrap();
    let session = world.session_via(Carrier::Tcp, &relay).await;
    let mut subscription = session.subscribe("t").await.unwrap();
    let mut publisher = session.publisher_with("t", PublisherOptions::default()).await.unwrap();
    let mut events = session.events();
    relay.refuse(true);
    relay.cut();
    let third = async {
        while !matches!(
            events.next().await,
            Some(SessionEvent::Reconnecting { attempt: 3, last_error: Some(_), .. })
        ) {}
    };
    within("a third attempt", third).await;
    assert_eq!(session.status().state, "reconnecting");
    for number in 0..100 {
        publisher.send(&payload(1, number)).await.unwrap();
    }
    relay.refuse(false);
    within("a flush", publisher.flush()).await.unwrap();
    let mut resumed = 0;
    for number in 0..100 {
        let message = next_message_or_resumed(&mut subscription, &mut resumed).await;
        assert_eq!(proven(message.payload()), (1, number));
    }
    assert_eq!(session.status().state, "connected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_may_not_come_back_ends_and_says_why() {
    let world = World::new().await;
    let relay = Relay::start(world.addr(), 1).await.unwrap();
    let mut options = world.options_via(Carrier::Tcp, relay.addr());
    options.reconnect.enabled = false;
    let session = Session::connect(options).await.unwrap();
    let mut subscription = session.subscribe("t").await.unwrap();
    relay.cut();
    assert!(within("the end", subscription.next()).await.is_none());
    assert!(subscription.end().is_some());
    assert!(session.status().state.starts_with("closed"), "{:?}", session.status());
    assert!(session.publisher("t").await.is_err());
}
