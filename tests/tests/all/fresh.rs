//! What fast topics do with messages that are late: deadlines (F5), newest values (F3b, F3c), honest counts (F4).

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use twinlane::{
    Delivery, Message, MessageOptions, Mode, Publisher, Session, Start, SubscribeOptions, Subscription,
    SubscriptionStats, TopicSpec,
};
use twinlane_tests::{Relay, UdpFaults};

use crate::bad_input::resident_bytes;
use crate::world::{Carrier, DEADLINE, World, accounted, next_delivery, until, within};

fn latest() -> TopicSpec {
    TopicSpec::fast().with_mode(Mode::Latest)
}

/// A value that says which key it is of and how often that was set.
fn value(key: u64, version: u64) -> Vec<u8> {
    [key.to_le_bytes(), version.to_le_bytes()].concat()
}

fn parsed(payload: &[u8]) -> (u64, u64) {
    let (key, version) = payload.split_at(8);
    (u64::from_le_bytes(key.try_into().unwrap()), u64::from_le_bytes(version.try_into().unwrap()))
}

/// The next message; holes before it are counted elsewhere.
async fn next_past_gaps(subscription: &mut Subscription) -> Message {
    loop {
        match next_delivery(subscription).await {
            Delivery::Message(message) => return message,
            Delivery::Gap(_) => {}
            other => panic!("expected a message, got {other:?}"),
        }
    }
}

// F5, where the subscriber is what is slow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_waited_beyond_its_deadline_is_never_handed_over() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        let spec = TopicSpec::fast().with_deadline(Duration::from_millis(80));
        world.engine.declare("prices", spec).unwrap();
        let session = world.session(carrier).await;
        let mut subscription = session.subscribe("prices").await.unwrap();
        let mut publisher = session.publisher("prices").await.unwrap();
        publisher.publish(b"in time").await.unwrap();
        assert_eq!(next_past_gaps(&mut subscription).await.payload(), b"in time", "{carrier:?}");
        for _ in 0..10 {
            publisher.publish(b"too late").await.unwrap();
        }
        publisher.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let longer = MessageOptions::default().with_deadline(Duration::from_secs(60));
        publisher.publish_with(b"has time", longer).await.unwrap();
        assert_eq!(next_past_gaps(&mut subscription).await.payload(), b"has time", "{carrier:?}");
        let stats = subscription.stats();
        assert_eq!(
            (stats.delivered, stats.expired, accounted(&stats)),
            (2, 10, 12),
            "{carrier:?}: {stats:?}"
        );
    }
}

// F5, where the server is what the messages wait in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_expire_at_the_server_are_not_sent_and_are_told_apart_from_lost_ones() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        let spec = TopicSpec::fast().with_deadline(Duration::from_millis(50));
        world.engine.declare("prices", spec).unwrap();
        let mut publisher = Session::local(&world.engine).publisher("prices").await.unwrap();
        for _ in 0..5 {
            publisher.publish(b"history").await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut options = SubscribeOptions::default();
        options.start = Start::All;
        let session = world.session(carrier).await;
        let mut subscription = session.subscribe_with("prices", options).await.unwrap();
        publisher.publish(b"news").await.unwrap();
        assert_eq!(next_past_gaps(&mut subscription).await.payload(), b"news", "{carrier:?}");
        publisher.close().await.unwrap();
        assert_eq!(subscription.stats().delivered, 1, "{carrier:?}");
    }
}

// F3b, F4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_slowly_gets_the_newest_value_of_each_key_and_the_others_are_counted_as_replaced() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        world.engine.declare("cells", latest()).unwrap();
        let session = world.session(carrier).await;
        let mut subscription = session.subscribe("cells").await.unwrap();
        let mut publisher = session.publisher("cells").await.unwrap();
        let (keys, versions) = (50, 40);
        for version in 1..=versions {
            for key in 0..keys {
                let options = MessageOptions::default().with_key(key);
                publisher.publish_with(&value(key, version), options).await.unwrap();
            }
        }
        within("a close", publisher.close()).await.unwrap();
        let mut newest = HashMap::new();
        let settled = |newest: &HashMap<u64, u64>, stats: &SubscriptionStats| {
            newest.len() as u64 == keys
                && newest.values().all(|version| *version == versions)
                && accounted(stats) == keys * versions
                // Why they are missing may be told later than that they are. Datagrams that come after the stream has
                // ended are lost for good.
                && (stats.lost == 0 || matches!(carrier, Carrier::Quic | Carrier::Both))
        };
        let reading = async {
            while !settled(&newest, &subscription.stats()) {
                let next = tokio::time::timeout(Duration::from_millis(100), subscription.next()).await;
                let Ok(Some(delivery)) = next else { continue };
                let Delivery::Message(message) = delivery else { panic!("{carrier:?}: {delivery:?}") };
                let (key, version) = parsed(message.payload());
                let earlier = newest.insert(key, version).unwrap_or(0);
                assert!(earlier < version, "{carrier:?}: key {key} went from {earlier} to {version}");
            }
        };
        let outcome = tokio::time::timeout(DEADLINE, reading).await;
        let stats = subscription.stats();
        assert!(outcome.is_ok(), "{carrier:?}: stuck with {} keys, {stats:?}", newest.len());
    }
}

// F3c: at 30 % loss, and also where the QUIC connection dies right after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_stops_changing_shows_its_final_value_within_a_second_on_a_path_that_loses_a_third() {
    let world = World::new().await;
    world.engine.declare("cells", latest()).unwrap();
    let seed = 11;
    let relay = Relay::start(world.addr(), seed).await.unwrap();
    let session = world.session_via(Carrier::Both, &relay).await;
    until("QUIC", || session.status().fast_over == "quic").await;
    let mut subscription = session.subscribe("cells").await.unwrap();
    let mut publisher = session.publisher("cells").await.unwrap();
    relay.disturb(UdpFaults { lose_permille: 300, repeat_permille: 0, delay_permille: 0 });
    let (keys, versions) = (100, 20);
    for version in 1..=versions {
        for key in 0..keys {
            let options = MessageOptions::default().with_key(key);
            publisher.publish_with(&value(key, version), options).await.unwrap();
        }
        publisher.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let stopped = Instant::now();
    let mut newest = HashMap::new();
    while newest.len() < keys as usize || newest.values().any(|version| *version < versions) {
        let next = tokio::time::timeout(DEADLINE, subscription.next()).await;
        let Ok(Some(Delivery::Message(message))) = next else {
            panic!("seed {seed}: stuck at {newest:?}, {:?}", subscription.stats())
        };
        let (key, version) = parsed(message.payload());
        let earlier = newest.insert(key, version).unwrap_or(0);
        assert!(earlier < version, "seed {seed}: key {key} went from {earlier} to {version}");
    }
    // Each of the two hops has a second.
    assert!(stopped.elapsed() < Duration::from_secs(2), "seed {seed}: settled after {:?}", stopped.elapsed());
    assert!(relay.lost() > 20, "seed {seed}: no fault took effect");
}

// F3b for who comes late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_the_last_values_gets_one_of_each_key() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        world.engine.declare("cells", latest()).unwrap();
        let mut publisher = Session::local(&world.engine).publisher("cells").await.unwrap();
        for version in 1..=10 {
            for key in 0..5 {
                let options = MessageOptions::default().with_key(key);
                publisher.publish_with(&value(key, version), options).await.unwrap();
            }
        }
        let mut options = SubscribeOptions::default();
        options.start = Start::Last;
        let mut subscription = world.session(carrier).await.subscribe_with("cells", options).await.unwrap();
        let mut values = Vec::new();
        for _ in 0..5 {
            values.push(parsed(next_past_gaps(&mut subscription).await.payload()));
        }
        values.sort_unstable();
        assert_eq!(values, (0..5).map(|key| (key, 10)).collect::<Vec<_>>(), "{carrier:?}");
    }
}

// F3b: a slow link has no bytes to waste.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_waited_for_a_slow_link_go_out_many_in_a_run_and_cost_few_bytes_beside_their_frames() {
    const KEYS: u64 = 1_000;
    const VERSIONS: u64 = 20;
    /// Head, key and payload.
    const FRAME_BYTES: u64 = 32 + 8 + 16;
    let world = World::new().await;
    world.engine.declare("cells", latest()).unwrap();
    let relay = Relay::start_slow(world.addr(), 1, 250_000).await.unwrap();
    let session = world.session_via(Carrier::Tcp, &relay).await;
    let mut subscription = session.subscribe("cells").await.unwrap();
    let mut publisher = Session::local(&world.engine).publisher("cells").await.unwrap();
    relay.hold(true);
    let before = relay.tcp_bytes_to_clients();
    for version in 1..=VERSIONS {
        for key in 0..KEYS {
            let options = MessageOptions::default().with_key(key);
            publisher.publish_with(&value(key, version), options).await.unwrap();
        }
    }
    relay.hold(false);
    let (mut newest, mut values) = (HashMap::new(), 0);
    while newest.len() as u64 != KEYS || newest.values().any(|version| *version != VERSIONS) {
        let (key, version) = parsed(next_past_gaps(&mut subscription).await.payload());
        newest.insert(key, version);
        values += 1;
    }
    let carried_bytes = relay.tcp_bytes_to_clients() - before;
    assert!(values < KEYS * VERSIONS / 4, "{values} values: the link was not too slow, nothing was tested");
    assert!(carried_bytes < values * FRAME_BYTES * 11 / 10, "{carried_bytes} bytes for {values} values");
}

/// What one subscriber was given, from when every key was sent once and the links were full.
#[derive(Default)]
struct Held {
    /// Ages of the values that it holds of each key, looked at every 50 ms.
    ages: Ages,
    /// How many values came.
    values: u64,
}

/// How often each age was seen, by milliseconds: what is measured is the memory of others.
struct Ages([u32; 10_000]);

impl Default for Ages {
    fn default() -> Self {
        Self([0; 10_000])
    }
}

impl Ages {
    fn note(&mut self, age: Duration) {
        self.0[(age.as_millis() as usize).min(self.0.len() - 1)] += 1;
    }

    fn quantile(many: &[&Self], share: f64) -> Duration {
        let at = |millis: usize| many.iter().map(|ages| u64::from(ages.0[millis])).sum::<u64>();
        let all: u64 = (0..10_000).map(at).sum();
        let mut left = (all as f64 * share) as u64;
        let found = (0..10_000).find(|&millis| {
            at(millis) > left || {
                left -= at(millis);
                false
            }
        });
        Duration::from_millis(found.expect("ages were noted") as u64)
    }
}

/// Until then there is nothing to hold.
const SETTLED_AFTER: Duration = Duration::from_secs(3);

async fn held(mut subscription: Subscription, keys: u64, began: Instant, until: Instant) -> Box<Held> {
    let (mut newest, mut held) = (vec![None; keys as usize], Box::<Held>::default());
    let mut look = tokio::time::interval(Duration::from_millis(50));
    let settled = began + SETTLED_AFTER;
    while Instant::now() < until {
        tokio::select! {
            batch = subscription.next_batch() => {
                for message in batch.expect("the subscription lives").messages() {
                    let (key, at_us) = parsed(message.payload());
                    newest[key as usize] = Some(began + Duration::from_micros(at_us));
                    held.values += u64::from(Instant::now() >= settled);
                }
            }
            _ = look.tick() => {
                let now = Instant::now();
                if now >= settled {
                    newest.iter().for_each(|at| held.ages.note(now - at.unwrap_or(began)));
                }
            }
        }
    }
    held
}

/// Publishes `keys` in turns, so many updates a second; `settled` is called once the links are full. How many were sent.
async fn publish_in_turns(
    publisher: &mut Publisher,
    (keys, updates_per_second): (u64, u64),
    (began, until): (Instant, Instant),
    mut settled: impl FnMut(),
) -> u64 {
    let (mut sent, mut is_settled) = (0, false);
    while Instant::now() < until {
        if !is_settled && began.elapsed() >= SETTLED_AFTER {
            is_settled = true;
            settled();
        }
        let due = began.elapsed().as_micros() as u64 * updates_per_second / 1_000_000;
        while sent < due {
            let key = sent % keys;
            let value = value(key, began.elapsed().as_micros() as u64);
            publisher.send_with(&value, MessageOptions::default().with_key(key)).await.unwrap();
            sent += 1;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    sent
}

// F3b, F6: 100 subscribers, of whom 10 have 1 Mbit/s for 1,000 keys that change 50,000 times a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "half a minute of load: `cargo test --release -p twinlane-tests --test all -- --ignored --nocapture slow_links`"]
async fn subscribers_on_slow_links_hold_fresh_values_and_the_others_do_not_notice() {
    const KEYS: u64 = 1_000;
    const UPDATES_PER_SECOND: u64 = 50_000;
    const LINK_BYTES_PER_SECOND: u64 = 125_000;
    for slow in [0, 10] {
        let world = World::new().await;
        world.engine.declare("cells", latest()).unwrap();
        let (began, until) = (Instant::now(), Instant::now() + Duration::from_secs(12));
        let (mut relays, mut readers) = (Vec::new(), Vec::new());
        for number in 0..100 {
            let session = if number < slow {
                let relay = Relay::start_slow(world.addr(), number, LINK_BYTES_PER_SECOND).await.unwrap();
                let session = world.session_via(Carrier::Tcp, &relay).await;
                relays.push(relay);
                session
            } else {
                world.session(Carrier::Tcp).await
            };
            let subscription = session.subscribe("cells").await.unwrap();
            readers.push(tokio::spawn(async move {
                let held = held(subscription, KEYS, began, until).await;
                drop(session);
                held
            }));
        }
        let carried = || relays.iter().map(Relay::tcp_bytes_to_clients).sum::<u64>();
        let (mut carried_before, mut resident_before) = (0, 0);
        let mut publisher = Session::local(&world.engine).publisher("cells").await.unwrap();
        let load = (KEYS, UPDATES_PER_SECOND);
        let settled = || (carried_before, resident_before) = (carried(), resident_bytes());
        let sent = publish_in_turns(&mut publisher, load, (began, until), settled).await;
        let carried_bytes = carried() - carried_before;
        let grown_bytes = resident_bytes().saturating_sub(resident_before);
        let mut all = Vec::new();
        for reader in readers {
            all.push(within("a reader", reader).await.unwrap());
        }
        let (slow_ones, fast_ones) = all.split_at(slow as usize);
        for (who, ones) in [("slow", slow_ones), ("fast", fast_ones)] {
            if !ones.is_empty() {
                let ages: Vec<_> = ones.iter().map(|held| &held.ages).collect();
                let [median, p99] = [0.5, 0.99].map(|share| Ages::quantile(&ages, share));
                eprintln!("{slow} slow of 100: {who}: held values are {median:?} old, p99 {p99:?}");
            }
        }
        eprintln!("{sent} sent, {grown_bytes} bytes of memory more than when the links were first full");
        if slow > 0 {
            let seconds = (until - began - SETTLED_AFTER).as_secs_f64();
            let values: u64 = slow_ones.iter().map(|held| held.values).sum();
            let rate = carried_bytes as f64 / seconds / slow as f64;
            let of_each = carried_bytes as f64 / values.max(1) as f64;
            eprintln!("a slow link carried {rate:.0} bytes/s, {of_each:.1} for each value");
        }
        let p99 = slow_ones.iter().map(|held| Ages::quantile(&[&held.ages], 0.99)).max();
        assert!(p99.is_none_or(|p99| p99 <= Duration::from_secs(1)), "{p99:?}");
        assert!(grown_bytes <= 16 << 20, "{grown_bytes} bytes");
    }
}
