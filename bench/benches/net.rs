//! The way over loopback, through the public functions: messages per second, and round trips with one in flight.
//!
//! A server is embedded with one I/O thread; both clients share another thread. Nothing else runs. Every run proves
//! its answer: the number in every payload, dense seqs on reliable topics, and on fast ones rising seqs with every
//! hole accounted for.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::time::timeout;
use twinlane::{
    Channel, ConnectOptions, Delivery, DeliveryRef, Engine, EngineConfig, ListenOptions, Publisher, Session,
    Subscription, TopicSpec, Transports, Trust,
};

const SIZES: [usize; 3] = [64, 1_024, 16_384];
/// What a fast topic carries at most.
const FAST_BYTES_MAX: usize = 1_024;
/// Bytes that a publisher of a fast topic has under way: less than any queue or socket buffer on the way holds.
const FAST_WINDOW_BYTES: usize = 64 << 10;
/// When the last messages of a window are lost, the next one tells; it is sent after this long.
const FAST_PATIENCE: Duration = Duration::from_millis(50);
/// More loss than this within windows is a fault, not weather.
const FAST_LOSS_MAX: f64 = 0.01;
/// The longest a run may take: instead of waiting for ever for a message that was lost.
const DEADLINE: Duration = Duration::from_secs(60);

/// What carries the messages.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    channel: Channel,
    transports: Transports,
    plain: bool,
}

const WAYS: [Way; 4] = [
    Way { name: "tcp", channel: Channel::Reliable, transports: Transports::TcpOnly, plain: false },
    Way { name: "tcp without tls", channel: Channel::Reliable, transports: Transports::TcpOnly, plain: true },
    Way { name: "quic streams", channel: Channel::Reliable, transports: Transports::QuicOnly, plain: false },
    Way { name: "quic datagrams", channel: Channel::Fast, transports: Transports::QuicOnly, plain: false },
];

/// A server, and two sessions with it that use the way.
struct Rig {
    way: Way,
    /// Of the clients.
    runtime: Runtime,
    engine: Engine,
    here: Session,
    there: Session,
}

impl Rig {
    fn new(way: Way) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime on this thread");
        let mut config = EngineConfig::default();
        config.io_threads = 1;
        let engine = Engine::new(config).expect("a valid configuration");
        let (here, there) = runtime.block_on(async {
            let mut options = ListenOptions::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
            (options.plain, options.quic) = (way.plain, !way.plain);
            let listening = engine.listen(options).await.expect("loopback has a free port");
            let server = listening.addr().to_string();
            let mut connect = match listening.fingerprint() {
                Some(fingerprint) => ConnectOptions::new(server, Trust::Fingerprint(fingerprint)),
                None => ConnectOptions::plain(server),
            };
            connect.transports = way.transports;
            connect.reconnect.enabled = false;
            let session = || Session::connect(connect.clone());
            (session().await.expect("the server listens"), session().await.expect("the server listens"))
        });
        let rig = Self { way, runtime, engine, here, there };
        rig.check_way();
        rig
    }

    /// A figure of a session that fell back would bear the wrong name.
    fn check_way(&self) {
        let wanted = if self.way.transports == Transports::TcpOnly { "tcp" } else { "quic" };
        for status in [self.here.status(), self.there.status()] {
            let over =
                if self.way.channel == Channel::Fast { status.fast_over } else { status.reliable_over };
            assert_eq!((over.as_str(), status.reconnects), (wanted, 0), "{}", status.why);
        }
    }

    /// A new stream of messages from `from` to `to`.
    async fn stream(&self, from: &Session, to: &Session, topic: &str) -> (Publisher, Subscription) {
        let spec = TopicSpec { channel: self.way.channel, ..TopicSpec::default() };
        from.declare(topic, spec).await.expect("declared the same way each time");
        let subscription = to.subscribe(topic).await.expect("the topic exists");
        (from.publisher(topic).await.expect("the topic exists"), subscription)
    }

    /// Hands over `messages` as fast as they go.
    async fn throughput(&self, messages: u64, payload_bytes: usize) -> Duration {
        let (mut publisher, mut subscription) = self.stream(&self.here, &self.there, "bench/stream").await;
        let window = match self.way.channel {
            Channel::Fast => (FAST_WINDOW_BYTES / payload_bytes) as u64,
            Channel::Reliable => u64::MAX,
        };
        let (accounted, progress) = (Cell::new(0), Notify::new());
        let start = Instant::now();
        let send = async {
            let mut payload = vec![7; payload_bytes];
            for number in 0..messages {
                while number - accounted.get() >= window {
                    if timeout(FAST_PATIENCE, progress.notified()).await.is_err() {
                        break;
                    }
                }
                stamp(&mut payload, number);
                publisher.send(&payload).await.expect("the topic is open");
                // The subscriber runs on this thread too.
                tokio::task::coop::consume_budget().await;
            }
            publisher.close().await.expect("every message has an outcome");
        };
        let receive = async {
            let mut ledger = Ledger::default();
            while ledger.accounted() < messages {
                let batch = subscription.next_batch().await.expect("the session lives");
                batch.iter().for_each(|delivery| ledger.add(&delivery, payload_bytes));
                accounted.set(ledger.accounted());
                progress.notify_one();
            }
            (start.elapsed(), ledger)
        };
        let both = timeout(DEADLINE, async { tokio::join!(send, receive) });
        let ((), (elapsed, ledger)) = both.await.expect("every message is accounted for within the deadline");
        elapsed.mul_f64(ledger.check(self.way.channel, messages))
    }

    /// Sends one message there and back, `trips` times.
    async fn round_trips(&self, trips: u64, payload_bytes: usize) -> Duration {
        let (mut asks, mut asked) = self.stream(&self.here, &self.there, "bench/there").await;
        let (mut answers, mut answered) = self.stream(&self.there, &self.here, "bench/back").await;
        let start = Instant::now();
        let ask = async {
            let mut payload = vec![7; payload_bytes];
            for number in 0..trips {
                stamp(&mut payload, number);
                asks.send(&payload).await.expect("the topic is open");
                let answer = next_payload(&mut answered).await;
                assert!(answer.payload() == payload, "the answer to {number} is another");
            }
            start.elapsed()
        };
        let answer = async {
            for _ in 0..trips {
                let question = next_payload(&mut asked).await;
                answers.send(question.payload()).await.expect("the topic is open");
            }
        };
        let both = timeout(DEADLINE, async { tokio::join!(ask, answer) });
        let (elapsed, ()) = both.await.expect("every answer comes within the deadline");
        for publisher in [asks, answers] {
            publisher.close().await.expect("every message has an outcome");
        }
        elapsed
    }

    fn close(self) {
        self.check_way();
        self.runtime.block_on(async {
            self.here.close().await;
            self.there.close().await;
            self.engine.shutdown(Duration::from_secs(1)).await;
        });
    }
}

/// The books of one subscriber.
#[derive(Default)]
struct Ledger {
    delivered: u64,
    missed: u64,
    last_seq: u64,
}

impl Ledger {
    fn accounted(&self) -> u64 {
        self.delivered + self.missed
    }

    fn add(&mut self, delivery: &DeliveryRef<'_>, payload_bytes: usize) {
        match delivery {
            DeliveryRef::Message(message) => {
                assert!(message.seq() > self.last_seq, "{} came after {}", message.seq(), self.last_seq);
                self.delivered += 1;
                self.last_seq = message.seq();
                // Numbers begin at 0, seqs at 1.
                assert_eq!(
                    (number(message.payload()) + 1, message.payload().len()),
                    (self.last_seq, payload_bytes)
                );
                assert_eq!(self.accounted(), self.last_seq, "a hole that nobody reported");
            }
            DeliveryRef::Gap(gap) => self.missed += gap.count(),
            other => panic!("a session that reconnects measures something else: {other:?}"),
        }
    }

    /// By how much the time is to be stretched: a message that was lost was not handed over.
    fn check(&self, channel: Channel, messages: u64) -> f64 {
        assert_eq!(self.accounted(), messages);
        let loss = self.missed as f64 / messages as f64;
        let loss_max = if channel == Channel::Fast { FAST_LOSS_MAX } else { 0.0 };
        // A single message is not a rate.
        assert!(loss <= loss_max || messages < 1_000, "{} of {messages} messages were lost", self.missed);
        messages as f64 / self.delivered.max(1) as f64
    }
}

async fn next_payload(subscription: &mut Subscription) -> twinlane::Message {
    match subscription.next().await {
        Some(Delivery::Message(message)) => message,
        other => panic!("with one message in flight nothing is lost: {other:?}"),
    }
}

fn stamp(payload: &mut [u8], number: u64) {
    payload[..8].copy_from_slice(&number.to_le_bytes());
}

fn number(payload: &[u8]) -> u64 {
    u64::from_le_bytes(*payload.first_chunk().expect("payloads have at least 8 bytes"))
}

/// The sizes that a topic of this channel carries.
fn sizes(channel: Channel) -> impl Iterator<Item = usize> {
    SIZES.into_iter().filter(move |bytes| channel == Channel::Reliable || *bytes <= FAST_BYTES_MAX)
}

fn throughput(c: &mut Criterion) {
    let mut group = c.benchmark_group("net/throughput");
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(1));
    for way in WAYS {
        let rig = Rig::new(way);
        for payload_bytes in sizes(way.channel) {
            group.bench_function(BenchmarkId::new(way.name, payload_bytes), |bencher| {
                bencher.iter_custom(|messages| rig.runtime.block_on(rig.throughput(messages, payload_bytes)));
            });
        }
        rig.close();
    }
    group.finish();
}

fn round_trip(c: &mut Criterion) {
    let mut group = c.benchmark_group("net/round trip");
    group.sampling_mode(SamplingMode::Flat);
    for way in WAYS {
        let rig = Rig::new(way);
        for payload_bytes in sizes(way.channel) {
            group.bench_function(BenchmarkId::new(way.name, payload_bytes), |bencher| {
                bencher.iter_custom(|trips| rig.runtime.block_on(rig.round_trips(trips, payload_bytes)));
            });
        }
        rig.close();
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1_500));
    targets = throughput, round_trip
}
criterion_main!(benches);
