//! Fast topics while one side has no connection at all: what is given up is counted as that (F4), and no final value is.

use std::time::Duration;

use twinlane::{
    Delivery, GapCause, MessageOptions, Mode, Outcome, PublishError, PublisherOptions, Session, Subscription,
    SubscriptionStats, TopicSpec,
};
use twinlane_tests::Relay;

use crate::world::{
    Carrier, FastWitness, World, accounted, next_delivery, next_message, payload, proven, until, within,
};

/// More than the small histories and queues here hold.
const MANY: u64 = 5_000;

/// A fast topic that keeps little.
fn small() -> TopicSpec {
    TopicSpec::fast().with_payload_bytes_max(256).with_retain_bytes(64 << 10)
}

/// A client behind a relay that can cut it off, and one in the server's process.
struct Pair {
    world: World,
    relay: Relay,
    remote: Session,
    local: Session,
}

impl Pair {
    async fn new() -> Self {
        let world = World::new().await;
        let relay = Relay::start(world.addr(), 1).await.unwrap();
        let mut options = world.options_via(Carrier::Tcp, relay.addr());
        options.outcome_timeout = Duration::from_millis(300);
        let remote = Session::connect(options).await.unwrap();
        let local = world.session(Carrier::Local).await;
        Self { world, relay, remote, local }
    }

    async fn cut_off(&self) {
        self.relay.refuse(true);
        self.relay.cut();
        let server_knows = || self.world.engine.status().sessions.iter().all(|row| row.reliable_over == "-");
        until("the cut", || self.remote.status().state == "reconnecting" && server_knows()).await;
    }

    async fn reconnect(&self) {
        self.relay.refuse(false);
        until("a connection", || self.remote.status().state == "connected").await;
    }

    /// What the server dropped of its only topic for want of a connection, and how many publishers that has.
    fn no_route_and_publishers(&self) -> (u64, u64) {
        let status = self.world.engine.status();
        let topic = status.topics.iter().find(|topic| topic.name == "t").unwrap();
        (topic.drops["no_route"], topic.publishers)
    }
}

/// What the subscription counted once all [`MANY`] are accounted for and every cause is known: those come after what they
/// explain, and whoever reads hears of them.
async fn causes(subscription: &mut Subscription) -> SubscriptionStats {
    let waiting = async {
        loop {
            let stats = subscription.stats();
            if accounted(&stats) == MANY && stats.lost == 0 {
                return stats;
            }
            tokio::select! {
                next = subscription.next() => panic!("nothing follows but causes: {next:?}, {stats:?}"),
                () = tokio::time::sleep(Duration::from_millis(2)) => {}
            }
        }
    };
    within("every cause", waiting).await
}

// F4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_subscriber_misses_while_it_is_cut_off_has_no_route() {
    let pair = Pair::new().await;
    pair.local.declare("t", small()).await.unwrap();
    let mut subscription = pair.remote.subscribe("t").await.unwrap();
    let mut publisher = pair.local.publisher("t").await.unwrap();
    let mut witness = FastWitness::default();
    publisher.publish(&payload(0, 1)).await.unwrap();
    witness.see(&next_delivery(&mut subscription).await);
    pair.cut_off().await;
    for number in 2..=MANY {
        publisher.publish(&payload(0, number)).await.unwrap();
    }
    publisher.close().await.unwrap();
    pair.reconnect().await;
    let (mut causes, mut missed) = (Vec::new(), 0);
    while witness.lasts() != [MANY] {
        match next_delivery(&mut subscription).await {
            Delivery::Resumed { outcome: Outcome::Gap(messages), .. } => missed = messages,
            delivery => {
                if let Delivery::Gap(gap) = &delivery {
                    causes.push(gap.cause);
                }
                witness.see(&delivery);
            }
        }
    }
    let stats = subscription.stats();
    assert_eq!(causes, [GapCause::NoRoute], "{stats:?}");
    assert!(missed > 0);
    assert_eq!((stats.no_route, stats.delivered + stats.no_route), (missed, MANY), "{stats:?}");
    witness.adds_up(&stats);
    assert_eq!(pair.no_route_and_publishers(), (missed, 0));
}

// F3c and F4: what rested before the topic's history was overwritten is there after the reconnection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_final_value_that_was_overwritten_while_its_subscriber_was_cut_off_comes_with_the_reconnection() {
    let pair = Pair::new().await;
    pair.local.declare("t", small().with_mode(Mode::Latest)).await.unwrap();
    let mut subscription = pair.remote.subscribe("t").await.unwrap();
    let mut publisher = pair.local.publisher("t").await.unwrap();
    publisher.publish(&payload(0, 1)).await.unwrap();
    assert_eq!(next_message(&mut subscription).await.seq(), 1);
    pair.cut_off().await;
    for number in 2..=MANY {
        let key = if number == 2 { 7 } else { 8 };
        let options = MessageOptions::default().with_key(key);
        publisher.publish_with(&payload(0, number), options).await.unwrap();
    }
    pair.reconnect().await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        if let Delivery::Message(message) = next_delivery(&mut subscription).await {
            seen.push((message.key(), proven(message.payload()).1));
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, [(Some(7), 2), (Some(8), MANY)]);
    let stats = causes(&mut subscription).await;
    assert_eq!((stats.coalesced, stats.no_route), (MANY - 3, 0), "they were replaced, not given up");
}

// F4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_publisher_overwrites_while_it_is_cut_off_has_no_route() {
    let pair = Pair::new().await;
    pair.remote.declare("t", small()).await.unwrap();
    let mut subscription = pair.local.subscribe("t").await.unwrap();
    let mut options = PublisherOptions::default();
    options.queue_bytes = 64 << 10;
    let mut publisher = pair.remote.publisher_with("t", options).await.unwrap();
    let mut witness = FastWitness::default();
    publisher.publish(&payload(0, 1)).await.unwrap();
    witness.see(&next_delivery(&mut subscription).await);
    pair.cut_off().await;
    for number in 2..=MANY {
        publisher.try_publish(&payload(0, number)).expect("whoever is cut off does not wait");
    }
    pair.reconnect().await;
    let reading = async {
        while witness.lasts() != [MANY] {
            witness.see(&next_delivery(&mut subscription).await);
        }
    };
    let (closed, ()) = tokio::join!(publisher.close(), reading);
    closed.unwrap();
    let stats = causes(&mut subscription).await;
    witness.adds_up(&stats);
    assert!(stats.no_route > 0, "{stats:?}");
    assert_eq!((stats.lost, stats.dropped_slow), (0, 0), "{stats:?}");
    until("the end", || pair.no_route_and_publishers() == (stats.no_route, 0)).await;
}

// F4: also the tail is counted, and the server keeps no stream that nobody writes to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_publisher_gives_up_when_it_closes_cut_off_is_told_with_the_next_connection() {
    let pair = Pair::new().await;
    pair.remote.declare("t", small()).await.unwrap();
    let mut subscription = pair.local.subscribe("t").await.unwrap();
    let mut publisher = pair.remote.publisher("t").await.unwrap();
    let mut witness = FastWitness::default();
    publisher.publish(&payload(0, 1)).await.unwrap();
    witness.see(&next_delivery(&mut subscription).await);
    pair.cut_off().await;
    for number in 2..=10 {
        publisher.publish(&payload(0, number)).await.unwrap();
    }
    let closed = within("the close", publisher.close()).await;
    assert!(matches!(closed, Err(PublishError::Timeout { .. })), "{closed:?}");
    pair.reconnect().await;
    let gap = next_delivery(&mut subscription).await;
    assert!(matches!(&gap, Delivery::Gap(gap) if gap.cause == GapCause::NoRoute), "{gap:?}");
    witness.see(&gap);
    let stats = subscription.stats();
    witness.adds_up(&stats);
    assert_eq!((stats.no_route, stats.lost), (9, 0), "{stats:?}");
    assert_eq!(pair.no_route_and_publishers(), (9, 0));
}
