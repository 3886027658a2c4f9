//! What a seed means: who takes part, over what paths, and what goes wrong when.

use std::time::Duration;

use twinlane::{TopicSpec, Transports};
use twinlane_tests::Seeded;

use crate::network::{Conditions, Direction, Trap};

/// The reliable topic.
pub(crate) const ORDERS: &str = "orders";
/// The fast topic.
pub(crate) const PRICES: &str = "prices";

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) clients: Vec<ClientPlan>,
    pub(crate) orders: TopicSpec,
    /// Whether the topic is large enough for all that is published.
    pub(crate) keeps_all: bool,
    /// What goes wrong, each this long after the one before.
    pub(crate) faults: Vec<(Duration, Fault)>,
    pub(crate) calm_after: Duration,
}

#[derive(Debug)]
pub(crate) struct ClientPlan {
    pub(crate) conditions: Conditions,
    pub(crate) transports: Transports,
    pub(crate) publishers: Vec<PublisherPlan>,
    pub(crate) subscribers: Vec<SubscriberPlan>,
}

#[derive(Clone, Debug)]
pub(crate) struct PublisherPlan {
    pub(crate) seed: u64,
    pub(crate) topic: &'static str,
    pub(crate) fast: bool,
    /// One message at a time; otherwise in bursts.
    pub(crate) awaits: bool,
    pub(crate) burst_max: u64,
    pub(crate) messages_max: u64,
    pub(crate) payload_bytes_max: u16,
    pub(crate) pause_max: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct SubscriberPlan {
    pub(crate) seed: u64,
    pub(crate) topic: &'static str,
    pub(crate) fast: bool,
    pub(crate) blocks: bool,
    pub(crate) queue_bytes: usize,
    pub(crate) dawdles_permille: u32,
    pub(crate) dawdle_max: Duration,
}

#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Silence on a client's path, both ways or one way, until it is healed.
    Cut(usize, Vec<Direction>),
    /// A client's path works again.
    Heal(usize),
    /// A reset of one client's connections, or of all.
    Reset(Option<usize>),
    /// The server's process is killed, its system perhaps with it, and starts again after a while.
    Kill { silently: bool, down: Duration },
    /// The server is stopped as an operator does it, and starts again after a while.
    Restart { down: Duration },
    /// Something befalls a client's next connection while it is young.
    Trap(usize, Trap),
    /// A client's datagrams are lost.
    BlockUdp(usize),
    /// A client's path loses more, or less.
    Lose(usize, u32),
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut random = Seeded::new(seed);
        let clients_count = 1 + random.below(3) as usize;
        let keeps_all = random.chance(700);
        let mut orders = TopicSpec::reliable();
        orders.payload_bytes_max = 2_048;
        orders.retain_bytes = if keeps_all { 2 << 20 } else { 16 << 10 };
        let mut clients: Vec<_> = (0..clients_count).map(|_| ClientPlan::of(&mut random)).collect();
        let first = &mut clients[0];
        // There is always somebody to publish orders, and somebody to read them.
        first.publishers.push(PublisherPlan::of(&mut random, false));
        first.subscribers.push(SubscriberPlan::of(&mut random, false));
        if !keeps_all {
            // Or nothing would ever be forgotten.
            let publishers = clients.iter_mut().flat_map(|client| &mut client.publishers);
            publishers.for_each(|publisher| publisher.payload_bytes_max = 1_000);
        }
        let count = random.below(7);
        let faults = (0..count)
            .map(|_| (Duration::from_millis(random.below(4_000)), Fault::of(&mut random, clients_count)));
        let faults = faults.collect();
        let calm_after = Duration::from_millis(random.below(3_000));
        Self { clients, orders, keeps_all, faults, calm_after }
    }
}

impl ClientPlan {
    fn of(random: &mut Seeded) -> Self {
        let transports = match random.below(4) {
            0 | 1 => Transports::TcpOnly,
            2 => Transports::Both,
            _ => Transports::QuicOnly,
        };
        let some = |random: &mut Seeded| (0..random.below(3)).map(|_| random.chance(500)).collect::<Vec<_>>();
        let publishers = some(random);
        let subscribers = some(random);
        let mut conditions = conditions(random);
        // Who speaks only QUIC gets to know the server first.
        conditions.udp_blocked &= transports != Transports::QuicOnly;
        Self {
            conditions,
            transports,
            publishers: publishers.into_iter().map(|fast| PublisherPlan::of(random, fast)).collect(),
            subscribers: subscribers.into_iter().map(|fast| SubscriberPlan::of(random, fast)).collect(),
        }
    }
}

fn conditions(random: &mut Seeded) -> Conditions {
    Conditions {
        latency: Duration::from_micros(100 + random.below(30_000)),
        jitter: Duration::from_micros(random.below(20_000)),
        loss_permille: random.below(60) as u32,
        duplicate_permille: random.below(50) as u32,
        bytes_per_ms: 100 + random.below(10_000),
        segment_bytes: 100 + random.below(16_000) as usize,
        capacity_bytes: 4_000 + random.below(200_000) as usize,
        udp_blocked: random.chance(50),
    }
}

impl PublisherPlan {
    fn of(random: &mut Seeded, fast: bool) -> Self {
        Self {
            seed: random.next_u64(),
            topic: if fast { PRICES } else { ORDERS },
            fast,
            awaits: random.chance(500),
            burst_max: 1 + random.below(30),
            messages_max: 1 + random.below(60),
            payload_bytes_max: if random.chance(200) { 1_000 } else { 100 },
            pause_max: Duration::from_millis(5 + random.below(150)),
        }
    }
}

impl SubscriberPlan {
    fn of(random: &mut Seeded, fast: bool) -> Self {
        Self {
            seed: random.next_u64(),
            topic: if fast { PRICES } else { ORDERS },
            fast,
            blocks: random.chance(700),
            queue_bytes: 4_096 + random.below(60_000) as usize,
            dawdles_permille: if random.chance(300) { 1_000 } else { random.below(100) as u32 },
            dawdle_max: Duration::from_millis(1 + random.below(400)),
        }
    }
}

impl Fault {
    fn of(random: &mut Seeded, clients: usize) -> Self {
        let client = random.below(clients as u64) as usize;
        let down = Duration::from_millis(random.below(3_000));
        match random.below(14) {
            0 | 1 => Self::Cut(client, vec![Direction::Up, Direction::Down]),
            2 => Self::Cut(client, vec![Direction::Up]),
            3 => Self::Cut(client, vec![Direction::Down]),
            4 | 5 => Self::Heal(client),
            6 => Self::Reset(Some(client)),
            7 => Self::Reset(None),
            8 => Self::Kill { silently: random.chance(500), down },
            9 => Self::Restart { down },
            10 => Self::BlockUdp(client),
            11 | 12 => {
                let after = Duration::from_micros(random.below(100_000));
                let lasting = random.chance(700).then(|| Duration::from_millis(random.below(8_000)));
                Self::Trap(client, Trap { after, lasting })
            }
            _ => Self::Lose(client, random.below(300) as u32),
        }
    }
}
