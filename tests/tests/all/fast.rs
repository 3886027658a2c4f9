//! Fast topics (F1 to F6): over clean networks, over a network that loses, repeats and reorders, and without UDP.

use std::time::Duration;

use twinlane::{
    Delivery, Engine, GapCause, Missing, Mode, PublishError, Publisher, Session, SessionEvent,
    SubscribeOptions, Subscription, TopicSpec,
};
use twinlane_tests::{Relay, UdpFaults};

use crate::world::{
    Carrier, FastWitness, World, accounted, next_delivery, next_message, payload, proven, until, within,
};

const LOSSY: UdpFaults = UdpFaults { lose_permille: 50, repeat_permille: 20, delay_permille: 100 };

/// Publishes messages 1 to `last` as fast as a sender does that lets others run, and closes the stream.
async fn publish_paced(mut publisher: Publisher, number: u32, last: u64) {
    for seq in 1..=last {
        publisher.publish(&payload(number, seq)).await.unwrap();
        if seq % 20 == 0 {
            publisher.flush().await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert_eq!(publisher.close().await.unwrap().acked, last);
}

/// Reads until every one of `streams` streams is accounted for up to seq `last`.
async fn witness(mut subscription: Subscription, streams: usize, last: u64) -> (FastWitness, Subscription) {
    let mut witness = FastWitness::default();
    while witness.lasts() != vec![last; streams] {
        let next = tokio::time::timeout(crate::world::DEADLINE, subscription.next()).await;
        let Ok(next) = next else { panic!("stuck at {:?}, {:?}", witness.lasts(), subscription.stats()) };
        witness.see(&next.expect("the subscription lives"));
    }
    witness.adds_up(&subscription.stats());
    (witness, subscription)
}

// F1, F2, F3a, F4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_clean_network_fast_messages_come_in_order_and_every_hole_is_reported() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        world.engine.declare("prices", TopicSpec::fast()).unwrap();
        let subscription = world.session(carrier).await.subscribe("prices").await.unwrap();
        let mut writers = Vec::new();
        for number in 0..2 {
            let publisher = world.session(carrier).await.publisher("prices").await.unwrap();
            writers.push(tokio::spawn(publish_paced(publisher, number, 2_000)));
        }
        let (witness, _) = witness(subscription, 2, 2_000).await;
        for writer in writers {
            within("the publishers", writer).await.unwrap();
        }
        if matches!(carrier, Carrier::Local | Carrier::Tcp) {
            assert_eq!(witness.missing, 0, "{carrier:?}: nothing on the way may lose anything");
        }
        assert!(witness.messages > 3_800, "{carrier:?}: {} of 4000 arrived", witness.messages);
    }
}

// F1, F2, F3a, F4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lossy_network_costs_messages_but_never_order_and_never_silence() {
    for (carrier, seed) in [(Carrier::Quic, 1), (Carrier::Both, 2)] {
        let world = World::new().await;
        world.engine.declare("prices", TopicSpec::fast()).unwrap();
        let relay = Relay::start(world.addr(), seed).await.unwrap();
        let reader = world.session_via(carrier, &relay).await;
        let writer = world.session_via(carrier, &relay).await;
        until("QUIC", || [&reader, &writer].iter().all(|session| session.status().fast_over == "quic")).await;
        let subscription = reader.subscribe("prices").await.unwrap();
        let publisher = writer.publisher("prices").await.unwrap();
        relay.disturb(LOSSY);
        let writing = tokio::spawn(publish_paced(publisher, 7, 4_000));
        let (witness, subscription) = witness(subscription, 1, 4_000).await;
        within("the publisher", writing).await.unwrap();
        let stats = subscription.stats();
        assert!(
            relay.lost() > 20,
            "seed {seed}: {carrier:?}: {} datagrams lost, no fault took effect",
            relay.lost()
        );
        assert!(witness.missing > 0, "seed {seed}: {carrier:?}: {stats:?}");
        assert!(witness.messages > 2_000, "seed {seed}: {carrier:?}: {stats:?}");
    }
}

// R7 over QUIC streams, on the network that costs the fast ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reliable_messages_cross_a_lossy_network_whole() {
    for (carrier, seed) in [(Carrier::Quic, 3), (Carrier::Both, 4)] {
        let world = World::new().await;
        let relay = Relay::start(world.addr(), seed).await.unwrap();
        let session = world.session_via(carrier, &relay).await;
        let mut subscription = session.subscribe("orders").await.unwrap();
        let mut publisher = session.publisher("orders").await.unwrap();
        relay.disturb(LOSSY);
        let writing = tokio::spawn(async move {
            for number in 0..1_000 {
                publisher.send(&payload(0, number)).await.unwrap();
            }
            publisher.flush().await.unwrap()
        });
        for number in 0..1_000 {
            let message = next_message(&mut subscription).await;
            assert_eq!(
                (message.offset(), proven(message.payload()).1),
                (number, number),
                "seed {seed}: {carrier:?}"
            );
        }
        assert_eq!(within("a flush", writing).await.unwrap().acked, 1_000);
    }
}

// F1, F3d.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unordered_messages_come_in_any_order_but_once() {
    for (carrier, seed) in [(Carrier::Local, 0), (Carrier::Tcp, 0), (Carrier::Quic, 5), (Carrier::Both, 6)] {
        let world = World::new().await;
        world.engine.declare("any", TopicSpec::fast().with_mode(Mode::Unordered)).unwrap();
        let relay = Relay::start(world.addr(), seed).await.unwrap();
        let session = async || match carrier {
            Carrier::Local => Session::local(&world.engine),
            remote => world.session_via(remote, &relay).await,
        };
        let (reader, writer) = (session().await, session().await);
        let mut subscription = reader.subscribe("any").await.unwrap();
        let publisher = writer.publisher("any").await.unwrap();
        relay.disturb(LOSSY);
        let writing = tokio::spawn(publish_paced(publisher, 1, 3_000));
        let mut seen = std::collections::HashSet::new();
        // The end of the stream settles the rest: what it lacks is counted then.
        let reading = async {
            while seen.len() as u64 + subscription.stats().lost < 3_000 {
                let next = tokio::time::timeout(Duration::from_millis(500), subscription.next()).await;
                let Ok(Some(delivery)) = next else { continue };
                let Delivery::Message(message) = delivery else { panic!("unordered: {delivery:?}") };
                assert_eq!(proven(message.payload()), (1, message.seq()));
                assert!(seen.insert(message.seq()), "F1: seed {seed}: {carrier:?}: {} twice", message.seq());
            }
        };
        if tokio::time::timeout(crate::world::DEADLINE, reading).await.is_err() {
            panic!("seed {seed}: {carrier:?}: {:?}", subscription.stats());
        }
        within("the publisher", writing).await.unwrap();
        let stats = subscription.stats();
        assert_eq!(stats.delivered, seen.len() as u64);
        assert_eq!(accounted(&stats), 3_000, "seed {seed}: {carrier:?}: {stats:?}");
    }
}

// F6, F4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fast_subscriber_that_does_not_read_misses_the_oldest_and_holds_nobody_back() {
    for carrier in [Carrier::Local, Carrier::Tcp] {
        let world = World::new().await;
        world.engine.declare("prices", TopicSpec::fast().with_retain_bytes(256 << 10)).unwrap();
        let slow = world.session(carrier).await.subscribe("prices").await.unwrap();
        let reader = world.session(carrier).await.subscribe("prices").await.unwrap();
        let reading = tokio::spawn(witness(reader, 1, 60_000));
        let publisher = world.session(Carrier::Local).await.publisher("prices").await.unwrap();
        // About 9 MB, while the slow one holds 256 KiB in process or 4 MiB on its connection.
        within("the publisher", publish_paced(publisher, 3, 60_000)).await;
        within("the reader", reading).await.unwrap();
        let (witness, slow) = witness(slow, 1, 60_000).await;
        let stats = slow.stats();
        assert!(stats.dropped_slow > 0, "{carrier:?}: {stats:?}");
        assert_eq!(stats.lost, 0, "{carrier:?}: slowness is not loss: {stats:?}");
        assert!(witness.messages > 100, "{carrier:?}: the newest are kept: {stats:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fast_subscriber_may_lag_for_a_moment_by_half_as_much_again_as_the_history_and_misses_nothing() {
    let world = World::new().await;
    world.engine.declare("prices", TopicSpec::fast().with_retain_bytes(256 << 10)).unwrap();
    let session = world.session(Carrier::Local).await;
    let lagging = session.subscribe("prices").await.unwrap();
    // 150 bytes each.
    publish_paced(session.publisher("prices").await.unwrap(), 1, 2_600).await;
    let (witness, lagging) = witness(lagging, 1, 2_600).await;
    assert_eq!(witness.messages, 2_600, "{:?}", lagging.stats());
}

// F5's neighbour F7: the answer of a fast publish is local, and says why not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fast_publish_answers_from_this_process() {
    for carrier in Carrier::REMOTE {
        let world = World::new().await;
        world.engine.declare("prices", TopicSpec::fast()).unwrap();
        let session = world.session(carrier).await;
        let mut publisher = session.publisher("prices").await.unwrap();
        let ack = publisher.publish(b"1").await.unwrap();
        assert_eq!((ack.seq, ack.offset, ack.level), (1, None, None), "{carrier:?}");
        session.close().await;
        let closed = publisher.publish(b"2").await;
        assert!(matches!(closed, Err(PublishError::Closed { .. })), "{carrier:?}: {closed:?}");
    }
}

// F1 to F4 hold over TCP as well, and the status says why it is used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_udp_is_blocked_fast_topics_go_over_tcp_and_the_status_says_why() {
    let world = World::new().await;
    world.engine.declare("prices", TopicSpec::fast()).unwrap();
    let relay = Relay::start(world.addr(), 1).await.unwrap();
    relay.disturb(UdpFaults::BLACKHOLE);
    let mut options = world.options_via(Carrier::Both, relay.addr());
    options.connect_timeout = Duration::from_secs(2);
    let session = Session::connect(options).await.unwrap();
    assert_eq!((session.status().reliable_over, session.status().fast_over), ("tcp".into(), "tcp".into()));
    let why = session.status().why;
    assert!(!why.contains("QUIC works"), "before the attempt is over: {why:?}");
    let subscription = session.subscribe("prices").await.unwrap();
    let publisher = session.publisher("prices").await.unwrap();
    let (writing, (witness, _)) =
        tokio::join!(publish_paced(publisher, 1, 1_000), witness(subscription, 1, 1_000));
    let () = writing;
    assert_eq!(witness.missing, 0, "TCP loses nothing");
    until("the reason", || session.status().why.contains("no QUIC connection")).await;
    assert!(session.status().why.contains("did not answer"), "{}", session.status().why);
    let row = &world.engine.status().sessions[0];
    assert_eq!(row.fast_over, "tcp", "the server sees it too: {row:?}");
}

// F1, F3a: never twice and never back, also across the switch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "QUIC takes 30 s to notice; run with `cargo test -p twinlane-tests --test all -- --ignored when_udp_dies`"]
async fn when_udp_dies_on_the_way_fast_topics_move_to_tcp_and_the_session_says_so() {
    let world = World::new().await;
    world.engine.declare("prices", TopicSpec::fast()).unwrap();
    let relay = Relay::start(world.addr(), 1).await.unwrap();
    let session = world.session_via(Carrier::Both, &relay).await;
    until("QUIC", || session.status().fast_over == "quic").await;
    let mut events = session.events();
    let mut subscription = session.subscribe("prices").await.unwrap();
    let mut publisher = session.publisher("prices").await.unwrap();
    let mut witness = FastWitness::default();
    publisher.publish(&payload(0, 1)).await.unwrap();
    witness.see(&next_delivery(&mut subscription).await);
    relay.disturb(UdpFaults::BLACKHOLE);
    let mut seq = 1;
    let moved = async {
        loop {
            tokio::select! {
                event = events.next() => {
                    if let Some(SessionEvent::FastMoved { to: "tcp", why }) = event {
                        return why;
                    }
                }
                () = tokio::time::sleep(Duration::from_millis(20)) => {
                    seq += 1;
                    publisher.publish(&payload(0, seq)).await.unwrap();
                }
            }
        }
    };
    let why = tokio::time::timeout(Duration::from_secs(45), moved).await.expect("QUIC gives up after 30 s");
    assert_eq!((session.status().fast_over.as_str(), session.status().why), ("tcp", why));
    // The server may notice later than the client: until then its datagrams go nowhere.
    let arrived = async {
        loop {
            seq += 1;
            publisher.publish(&payload(0, seq)).await.unwrap();
            let next = tokio::time::timeout(Duration::from_millis(50), subscription.next()).await;
            if let Ok(Some(delivery)) = next {
                witness.see(&delivery);
                if witness.messages > 10 {
                    return;
                }
            }
        }
    };
    within("messages over TCP", arrived).await;
    assert!(witness.missing > 0, "what the dead path swallowed is reported");
    assert_eq!(session.status().reconnects, 0, "the session itself was never lost");
}

// F4 at a start in the past.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_older_than_what_a_fast_topic_keeps_is_a_gap_of_offsets() {
    let engine = Engine::new(twinlane::EngineConfig::default()).unwrap();
    engine.declare("prices", TopicSpec::fast().with_retain_messages(5)).unwrap();
    let session = Session::local(&engine);
    let mut publisher = session.publisher("prices").await.unwrap();
    for number in 1..=12 {
        publisher.publish(&payload(0, number)).await.unwrap();
    }
    let mut options = SubscribeOptions::default();
    options.start = twinlane::Start::Offset(2);
    let mut subscription = session.subscribe_with("prices", options).await.unwrap();
    let Delivery::Gap(gap) = next_delivery(&mut subscription).await else { panic!("no gap") };
    assert_eq!((gap.cause, gap.missing), (GapCause::Retention, Missing::Offsets { from: 2, to: 7 }));
    assert_eq!(next_message(&mut subscription).await.seq(), 8);
}
