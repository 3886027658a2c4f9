//! Fast topics between QUIC and TCP: UDP blocked from the start, on the way, one way, and back again; TCP blocked; a
//! client whose address changes. What was promised (F1 to F4) holds across every switch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use twinlane::{Delivery, Session, SessionRow, Subscription, SubscriptionStats, SwitchRow, TopicSpec};
use twinlane_tests::{Relay, UdpBlock};

use crate::world::{Carrier, FastWitness, World, accounted, next_message, payload, proven, until, within};

/// After UDP was cut.
const FLOWS_AGAIN: Duration = Duration::from_secs(5);
/// After UDP is open again, for clients that reconnect as fast as these.
const QUIC_AGAIN: Duration = Duration::from_secs(20);

/// A publisher that goes on and on, and a subscriber that checks all that comes.
pub(crate) struct Flow {
    stop: Arc<AtomicBool>,
    published: Arc<AtomicU64>,
    newest: Arc<AtomicU64>,
    writing: JoinHandle<u64>,
    reading: JoinHandle<(FastWitness, Subscription)>,
}

impl Flow {
    /// `number` tells its payloads from those of other flows, and names its topic.
    pub(crate) async fn start(number: u32, writer: &Session, reader: &Session, every: Duration) -> Self {
        let topic = format!("flow/{number}");
        writer.declare(&topic, TopicSpec::fast()).await.unwrap();
        let mut subscription = reader.subscribe(&topic).await.unwrap();
        let mut publisher = writer.publisher(&topic).await.unwrap();
        let (stop, published) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let newest = Arc::new(AtomicU64::new(0));
        let (stopping, publishing) = (Arc::clone(&stop), Arc::clone(&published));
        let writing = tokio::spawn(async move {
            let mut seq = 0;
            while !stopping.load(Ordering::Acquire) {
                seq += 1;
                publisher.publish(&payload(number, seq)).await.unwrap();
                publishing.store(seq, Ordering::Release);
                tokio::time::sleep(every).await;
            }
            publisher.close().await.unwrap();
            seq
        });
        let (stopped, arriving) = (Arc::clone(&stop), Arc::clone(&newest));
        let last = Arc::clone(&published);
        let reading = tokio::spawn(async move {
            let mut witness = FastWitness::default();
            // Once the publisher has closed its stream, everything is accounted for up to its last message.
            while !(stopped.load(Ordering::Acquire)
                && witness.lasts().first() == Some(&last.load(Ordering::Acquire)))
            {
                let next = tokio::time::timeout(Duration::from_millis(100), subscription.next()).await;
                let Ok(next) = next else { continue };
                witness.see(&next.expect("the subscription lives"));
                if let Some(seen) = witness.lasts().first() {
                    arriving.store(*seen, Ordering::Release);
                }
            }
            (witness, subscription)
        });
        Self { stop, published, newest, writing, reading }
    }

    /// Waits until messages that are published from now on arrive; how long that took.
    pub(crate) async fn flows(&self) -> Duration {
        let (began, from) = (Instant::now(), self.published.load(Ordering::Acquire));
        until("messages", || self.newest.load(Ordering::Acquire) >= from + 3).await;
        began.elapsed()
    }

    /// Ends it; everything must add up.
    pub(crate) async fn finish(self) -> (FastWitness, SubscriptionStats) {
        self.stop.store(true, Ordering::Release);
        let last = within("the publisher", self.writing).await.unwrap();
        let (witness, subscription) = within("the subscriber", self.reading).await.unwrap();
        let stats = subscription.stats();
        witness.adds_up(&stats);
        assert_eq!(witness.lasts(), [last]);
        (witness, stats)
    }
}

/// A client behind a relay, and one in the server's process.
struct Pair {
    world: World,
    relay: Relay,
    client: Session,
    local: Session,
}

impl Pair {
    async fn over_quic() -> Self {
        let world = World::new().await;
        let relay = Relay::start(world.addr(), 1).await.unwrap();
        let client = world.session_via(Carrier::Both, &relay).await;
        until("QUIC", || client.status().fast_over == "quic").await;
        let local = world.session(Carrier::Local).await;
        Self { world, relay, client, local }
    }

    /// The client's session as the server sees it.
    fn row(&self) -> SessionRow {
        self.world.engine.status().sessions.into_iter().next().expect("the client has a session")
    }

    /// Waits until both sides say that fast topics go over `transport`.
    async fn both_over(&self, transport: &str) {
        until(&format!("{transport} on both sides"), || {
            self.client.status().fast_over == transport && self.row().fast_over == transport
        })
        .await;
    }
}

// F1 to F4 where UDP is blocked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_udp_is_blocked_fast_messages_flow_within_two_seconds_of_connecting() {
    let world = World::new().await;
    let relay = Relay::start(world.addr(), 1).await.unwrap();
    relay.block(UdpBlock::BOTH_WAYS);
    let began = Instant::now();
    let client = world.session_via(Carrier::Both, &relay).await;
    let flow = Flow::start(1, &client, &client, Duration::from_millis(5)).await;
    flow.flows().await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(client.status().fast_over, "tcp");
    let (witness, _) = flow.finish().await;
    assert_eq!(witness.missing, 0, "TCP loses nothing");
}

// R7 and F1 to F4 on QUIC alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_tcp_is_blocked_a_session_lives_on_quic_alone() {
    for answers_nothing in [false, true] {
        let world = World::new().await;
        let relay = Relay::start(world.addr(), 1).await.unwrap();
        match answers_nothing {
            true => relay.hold(true),
            false => relay.refuse(true),
        }
        let client = world.session_via(Carrier::Both, &relay).await;
        let status = client.status();
        assert_eq!(
            (status.reliable_over.as_str(), status.fast_over.as_str()),
            ("quic", "quic"),
            "{answers_nothing}: {status:?}"
        );
        let mut subscription = client.subscribe("orders").await.unwrap();
        let mut publisher = client.publisher("orders").await.unwrap();
        for number in 0..100 {
            publisher.send(&payload(0, number)).await.unwrap();
        }
        assert_eq!(within("a flush", publisher.flush()).await.unwrap().acked, 100);
        for number in 0..100 {
            assert_eq!(proven(next_message(&mut subscription).await.payload()), (0, number));
        }
        let flow = Flow::start(1, &client, &client, Duration::from_millis(5)).await;
        flow.flows().await;
        flow.finish().await;
    }
}

// F1 to F4 across the switch, whoever sends and whatever is cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_udp_is_cut_on_the_way_messages_flow_again_within_five_seconds() {
    let mut cases = tokio::task::JoinSet::new();
    for block in [UdpBlock::BOTH_WAYS, UdpBlock::TO_SERVER, UdpBlock::TO_CLIENTS] {
        for (up, down) in [(true, false), (false, true), (true, true)] {
            cases.spawn(async move {
                let pair = Pair::over_quic().await;
                let every = Duration::from_millis(10);
                let mut flows = Vec::new();
                if up {
                    flows.push(Flow::start(1, &pair.client, &pair.local, every).await);
                }
                if down {
                    flows.push(Flow::start(2, &pair.local, &pair.client, every).await);
                }
                for flow in &flows {
                    flow.flows().await;
                }
                pair.relay.block(block);
                let cut = Instant::now();
                // Where the one direction that is used still works, they never stop: then it is the acknowledgements
                // that are missed.
                pair.both_over("tcp").await;
                for flow in &flows {
                    flow.flows().await;
                }
                let took = cut.elapsed();
                assert!(took < FLOWS_AGAIN, "{block:?}, up {up}, down {down}: {took:?}");
                let why = pair.client.status().why;
                assert!(why.contains("UDP brought no answer"), "{block:?}, up {up}, down {down}: {why}");
                assert_eq!(pair.client.status().reconnects, 0, "the session itself was never lost");
                for flow in flows {
                    let (witness, _) = flow.finish().await;
                    assert!(witness.messages > 0);
                }
            });
        }
    }
    within("every case", cases.join_all()).await;
}

// The same for who sends so seldom that each message is the first for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_that_sends_now_and_then_is_heard_again_five_seconds_after_udp_was_cut() {
    let pair = Pair::over_quic().await;
    let mut subscription = pair.local.subscribe("rare").await.unwrap();
    pair.client.declare("rare", TopicSpec::fast()).await.unwrap();
    let mut publisher = pair.client.publisher("rare").await.unwrap();
    publisher.publish(&payload(1, 1)).await.unwrap();
    assert_eq!(next_message(&mut subscription).await.seq(), 1);
    pair.relay.block(UdpBlock::BOTH_WAYS);
    publisher.publish(&payload(1, 2)).await.unwrap();
    let cut = Instant::now();
    // One message is all that tells it.
    pair.both_over("tcp").await;
    publisher.publish(&payload(1, 3)).await.unwrap();
    let mut witness = FastWitness::default();
    while witness.messages == 0 {
        let next = within("a delivery", subscription.next()).await;
        witness.see(&next.expect("the subscription lives"));
    }
    assert!(cut.elapsed() < FLOWS_AGAIN, "{:?}", cut.elapsed());
    assert_eq!((witness.missing, witness.lasts()), (1, vec![3]), "the one that was on the way is reported");
}

// F2 to F4 where only large packets are swallowed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_large_packets_are_swallowed_messages_flow_again_in_smaller_ones() {
    let pair = Pair::over_quic().await;
    let mtu_bytes = |session: &Session| session.status().udp.map_or(0, |udp| udp.mtu_bytes);
    // The path is probed for larger packets only while it is used.
    let flow = Flow::start(1, &pair.client, &pair.local, Duration::ZERO).await;
    until("larger packets", || mtu_bytes(&pair.client) > 1_400).await;
    pair.relay.block(UdpBlock::larger_than(1_300));
    let took = flow.flows().await;
    assert!(took < FLOWS_AGAIN, "{took:?}");
    assert!(pair.relay.lost() > 0, "no packet was larger: nothing was tested");
    flow.finish().await;
}

// F1 to F4 across a NAT that forgot the client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_address_changes_keeps_its_quic_connection() {
    let pair = Pair::over_quic().await;
    let up = Flow::start(1, &pair.client, &pair.local, Duration::from_millis(5)).await;
    let down = Flow::start(2, &pair.local, &pair.client, Duration::from_millis(5)).await;
    for _ in 0..3 {
        up.flows().await;
        down.flows().await;
        pair.relay.move_clients();
    }
    up.flows().await;
    down.flows().await;
    let status = pair.client.status();
    assert_eq!(status.fast_over, "quic");
    assert_eq!(status.switches.len(), 1, "it never left QUIC: {:?}", status.switches);
    let seen_by_server = since_quic(pair.row().switches);
    assert_eq!(seen_by_server.len(), 1, "nor on the other side: {seen_by_server:?}");
    up.finish().await;
    down.finish().await;
}

/// A server knows a session before it has a QUIC connection.
fn since_quic(switches: Vec<SwitchRow>) -> Vec<SwitchRow> {
    switches.into_iter().skip_while(|row| row.to != "quic").collect()
}

/// Cuts UDP and lets it through again, `cycles` times, with traffic both ways.
async fn cycles(cycles: usize) {
    let pair = Pair::over_quic().await;
    let up = Flow::start(1, &pair.client, &pair.local, Duration::from_millis(5)).await;
    let down = Flow::start(2, &pair.local, &pair.client, Duration::from_millis(5)).await;
    let blocks = [UdpBlock::BOTH_WAYS, UdpBlock::TO_SERVER, UdpBlock::TO_CLIENTS];
    for (cycle, block) in blocks.into_iter().cycle().take(cycles).enumerate() {
        let took = (up.flows().await, down.flows().await);
        assert!(took.0.max(took.1) < FLOWS_AGAIN, "cycle {cycle}: {took:?} before the cut");
        pair.relay.block(block);
        let cut = Instant::now();
        up.flows().await;
        down.flows().await;
        assert!(cut.elapsed() < FLOWS_AGAIN, "cycle {cycle}, {block:?}: {:?}", cut.elapsed());
        pair.both_over("tcp").await;
        pair.relay.block(UdpBlock::NOTHING);
        let open = Instant::now();
        pair.both_over("quic").await;
        assert!(open.elapsed() < QUIC_AGAIN, "cycle {cycle}: {:?}", open.elapsed());
    }
    let switches = since_quic(pair.client.status().switches);
    assert_eq!(switches.len(), (1 + 2 * cycles).min(15), "{switches:?}");
    assert!(switches.is_sorted_by(|a, b| a.ago_ms >= b.ago_ms && a.to != b.to), "{switches:?}");
    let seen_by_server = since_quic(pair.row().switches);
    assert!(
        seen_by_server.iter().map(|row| &row.to).eq(switches.iter().map(|row| &row.to)),
        "{seen_by_server:?}"
    );
    assert_eq!(pair.client.status().reconnects, 0, "the session itself was never lost");
    for flow in [up, down] {
        let (witness, stats) = flow.finish().await;
        assert_eq!(accounted(&stats), witness.messages + witness.missing, "{stats:?}");
        eprintln!(
            "{cycles} cycles: {} delivered, {} missing, all counted",
            witness.messages, witness.missing
        );
    }
}

// F1 to F4 across every switch, to TCP and back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn udp_that_comes_and_goes_costs_messages_but_no_order_and_no_count() {
    cycles(5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "about 8 minutes; run with `cargo test -p twinlane-tests --test all -- --ignored fifty_times`"]
async fn udp_that_comes_and_goes_fifty_times_costs_messages_but_no_order_and_no_count() {
    cycles(50).await;
}

// F5's purpose where UDP is blocked: what is handed over is new, not what waited in a socket.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_slow_tcp_path_fast_messages_are_dropped_in_the_ring_and_not_queued_in_the_socket() {
    const BYTES_PER_SECOND: u64 = 125_000;
    const MESSAGE_BYTES: usize = 450;
    let world = World::new().await;
    let relay = Relay::start_slow(world.addr(), 1, BYTES_PER_SECOND).await.unwrap();
    // A ring of a quarter of a second, filled at twice the rate of the path.
    world.engine.declare("now", TopicSpec::fast().with_retain_bytes(32 << 10)).unwrap();
    let client = world.session_via(Carrier::Tcp, &relay).await;
    let mut subscription = client.subscribe("now").await.unwrap();
    let mut publisher = world.session(Carrier::Local).await.publisher("now").await.unwrap();
    let began = Instant::now();
    let publishing = tokio::spawn(async move {
        let mut sent = 0_u64;
        while began.elapsed() < Duration::from_secs(6) {
            let due =
                began.elapsed().as_millis() as u64 * BYTES_PER_SECOND * 2 / 1_000 / MESSAGE_BYTES as u64;
            while sent < due {
                let mut payload = [0; MESSAGE_BYTES];
                payload[..8].copy_from_slice(&(began.elapsed().as_micros() as u64).to_le_bytes());
                publisher.publish(&payload).await.unwrap();
                sent += 1;
            }
            tokio::time::sleep(Duration::from_millis(4)).await;
        }
    });
    let mut ages = Vec::new();
    while began.elapsed() < Duration::from_secs(6) {
        let next = tokio::time::timeout(Duration::from_millis(200), subscription.next()).await;
        let Ok(Some(Delivery::Message(message))) = next else { continue };
        let sent = u64::from_le_bytes(message.payload()[..8].try_into().unwrap());
        // By then whatever queues has filled.
        if sent > 3_000_000 {
            ages.push(began.elapsed() - Duration::from_micros(sent));
        }
    }
    within("the publisher", publishing).await.unwrap();
    ages.sort();
    let median = *ages.get(ages.len() / 2).expect("what arrives after 6 s was sent less than 3 s before");
    eprintln!("{} messages, age: median {median:?}, at most {:?}", ages.len(), ages.last());
    assert!(subscription.stats().dropped_slow > 0, "the path was not too slow: nothing was tested");
    assert!(median < Duration::from_millis(800), "{median:?}");
}

// Neither channel starves the other where both share a slow TCP connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_slow_tcp_path_fast_and_reliable_messages_each_get_their_share() {
    const BYTES_PER_SECOND: u64 = 250_000;
    const SECONDS: u64 = 4;
    let world = World::new().await;
    let relay = Relay::start_slow(world.addr(), 1, BYTES_PER_SECOND).await.unwrap();
    let client = world.session_via(Carrier::Tcp, &relay).await;
    let local = world.session(Carrier::Local).await;
    world.engine.declare("now", TopicSpec::fast().with_retain_bytes(32 << 10)).unwrap();
    world.engine.declare("kept", TopicSpec::reliable()).unwrap();
    let mut reading = Vec::new();
    let mut writing = tokio::task::JoinSet::new();
    for topic in ["now", "kept"] {
        let mut subscription = client.subscribe(topic).await.unwrap();
        let mut publisher = local.publisher(topic).await.unwrap();
        // Both offer more than the path takes.
        writing.spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(4));
            while publisher.publish(&[7; 1_000]).await.is_ok() && publisher.publish(&[7; 1_000]).await.is_ok()
            {
                ticks.tick().await;
            }
        });
        reading.push(tokio::spawn(async move {
            let mut bytes = 0;
            let enough = async {
                while let Some(delivery) = subscription.next().await {
                    if let Delivery::Message(message) = delivery {
                        bytes += message.payload().len() as u64;
                    }
                }
            };
            let _ = tokio::time::timeout(Duration::from_secs(SECONDS), enough).await;
            bytes
        }));
    }
    let mut shares = Vec::new();
    for reader in reading {
        shares.push(within("a reader", reader).await.unwrap() as f64 / (BYTES_PER_SECOND * SECONDS) as f64);
    }
    eprintln!("shares of the path: fast {:.2}, reliable {:.2}", shares[0], shares[1]);
    assert!(shares.iter().all(|share| *share > 0.25), "fast and reliable: {shares:?}");
}
