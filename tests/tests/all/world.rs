//! An engine with sessions over a carrier of choice, payloads that prove themselves, waits with a deadline.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use twinlane::{
    ConnectOptions, Delivery, Engine, EngineConfig, Gap, ListenOptions, Listening, Message, Missing, Session,
    Subscription, SubscriptionStats, Transports, Trust,
};
use twinlane_tests::{Relay, Seeded};

/// The longest anything may take that is expected to happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// What carries a session's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    Local,
    Tcp,
    Quic,
    Both,
}

impl Carrier {
    pub(crate) const ALL: [Self; 4] = [Self::Local, Self::Tcp, Self::Quic, Self::Both];
    pub(crate) const REMOTE: [Self; 3] = [Self::Tcp, Self::Quic, Self::Both];

    pub(crate) fn transports(self) -> Transports {
        match self {
            Self::Tcp => Transports::TcpOnly,
            Self::Quic => Transports::QuicOnly,
            Self::Local | Self::Both => Transports::Both,
        }
    }
}

/// An engine that listens on loopback.
pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) listening: Listening,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(EngineConfig::default()).await
    }

    pub(crate) async fn with(config: EngineConfig) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), config).await
    }

    pub(crate) async fn at(addr: SocketAddr, config: EngineConfig) -> Self {
        let engine = Engine::new(config).unwrap();
        let listening = engine.listen(ListenOptions::new(addr)).await.unwrap();
        Self { engine, listening }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.listening.addr()
    }

    pub(crate) fn options(&self, carrier: Carrier) -> ConnectOptions {
        self.options_via(carrier, self.addr())
    }

    /// As [`Self::options`], through something that listens at `addr`.
    pub(crate) fn options_via(&self, carrier: Carrier, addr: SocketAddr) -> ConnectOptions {
        let trust = Trust::Fingerprint(self.listening.fingerprint().unwrap());
        let mut options = ConnectOptions::new(addr.to_string(), trust);
        options.transports = carrier.transports();
        options.reconnect.first = Duration::from_millis(10);
        options.reconnect.max = Duration::from_millis(100);
        options
    }

    pub(crate) async fn session(&self, carrier: Carrier) -> Session {
        match carrier {
            Carrier::Local => Session::local(&self.engine),
            remote => Session::connect(self.options(remote)).await.unwrap(),
        }
    }

    pub(crate) async fn session_via(&self, carrier: Carrier, relay: &Relay) -> Session {
        Session::connect(self.options_via(carrier, relay.addr())).await.unwrap()
    }
}

/// Waits for `future`, not for ever.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: nothing within {DEADLINE:?}"))
}

/// Waits until `condition` holds, not for ever.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    within(what, waiting).await;
}

pub(crate) async fn next_delivery(subscription: &mut Subscription) -> Delivery {
    let next = within("the next delivery", subscription.next()).await;
    next.unwrap_or_else(|| panic!("the subscription ended: {:?}", subscription.end()))
}

/// The next delivery, which must be a message.
pub(crate) async fn next_message(subscription: &mut Subscription) -> Message {
    match next_delivery(subscription).await {
        Delivery::Message(message) => message,
        other => panic!("expected a message, got {other:?}"),
    }
}

/// The next message, passing over the news that the subscription goes on.
pub(crate) async fn next_message_or_resumed(subscription: &mut Subscription, resumed: &mut u64) -> Message {
    loop {
        match next_delivery(subscription).await {
            Delivery::Message(message) => return message,
            Delivery::Resumed { .. } => *resumed += 1,
            other => panic!("expected a message, got {other:?}"),
        }
    }
}

/// The payload of message `number` of `publisher`: any other bytes are recognised.
pub(crate) fn payload(publisher: u32, number: u64) -> Vec<u8> {
    let mut random = Seeded::new(u64::from(publisher) << 40 | number);
    let bytes = 12 + random.below(180) as usize;
    let mut payload = Vec::with_capacity(bytes);
    payload.extend_from_slice(&publisher.to_le_bytes());
    payload.extend_from_slice(&number.to_le_bytes());
    payload.resize_with(bytes, || random.next_u64() as u8);
    payload
}

/// Publisher and number of a payload; panics if a byte is not as [`payload`] made it.
pub(crate) fn proven(bytes: &[u8]) -> (u32, u64) {
    let publisher = u32::from_le_bytes(bytes[..4].try_into().unwrap());
    let number = u64::from_le_bytes(bytes[4..12].try_into().unwrap());
    assert_eq!(bytes, payload(publisher, number), "message {number} of publisher {publisher} is not intact");
    (publisher, number)
}

/// Checks F1, F2, F3a and F4 as deliveries of one fast, ordered topic come.
#[derive(Default)]
pub(crate) struct FastWitness {
    /// First seq and the seq that must come next, by publisher stream.
    streams: HashMap<u32, (u64, u64)>,
    pub(crate) messages: u64,
    pub(crate) missing: u64,
}

impl FastWitness {
    pub(crate) fn see(&mut self, delivery: &Delivery) {
        match delivery {
            Delivery::Message(message) => {
                let (_, number) = proven(message.payload());
                assert_eq!(number, message.seq(), "payload of another message");
                let (_, expected) =
                    self.streams.entry(message.source()).or_insert((message.seq(), message.seq()));
                assert_eq!(
                    message.seq(),
                    *expected,
                    "F3a, F4: every hole is reported before what follows it"
                );
                *expected += 1;
                self.messages += 1;
            }
            Delivery::Gap(gap) => self.gap(gap),
            other => panic!("unexpected {other:?}"),
        }
    }

    fn gap(&mut self, gap: &Gap) {
        let Missing::Seqs { source, from, to } = gap.missing else {
            panic!("a fast topic counts seqs: {gap}")
        };
        let (_, expected) = self.streams.entry(source).or_insert((from, from));
        assert_eq!(from, *expected, "a gap begins where the messages ended");
        assert!(to > from, "an empty gap");
        *expected = to;
        self.missing += to - from;
    }

    /// F4: the equation, for streams that all ended with seq `last`.
    pub(crate) fn adds_up(&self, stats: &SubscriptionStats) {
        let seen: u64 = self.streams.values().map(|(first, next)| next - first).sum();
        assert_eq!(stats.delivered, self.messages);
        assert_eq!(accounted(stats), seen, "F4: {stats:?}");
        assert_eq!(self.messages + self.missing, seen, "F4: every hole was reported");
    }

    /// The highest seq accounted for in each stream.
    pub(crate) fn lasts(&self) -> Vec<u64> {
        self.streams.values().map(|(_, next)| next - 1).collect()
    }
}

/// The left side of F4's equation.
pub(crate) fn accounted(stats: &SubscriptionStats) -> u64 {
    let missing =
        stats.lost + stats.late + stats.expired + stats.coalesced + stats.dropped_slow + stats.no_route;
    stats.delivered + missing
}
