//! Publish and subscribe within one process, through the public functions, beside the channels people use for it.
//!
//! The same job for all: every receiver gets every message, in order for each sender, nobody loses one, and a full
//! queue makes senders wait. The bytes begin in the sender's buffer. Each side is a task of one runtime with two
//! threads. Every run proves its answer by the sum of what each receiver got.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use tokio::runtime::Runtime;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;
use twinlane::{DeliveryRef, Engine, EngineConfig, Session, TopicSpec};

/// Slots of every channel; the engine keeps as many bytes of history.
const SLOTS: usize = 4_096;
/// Messages that a receiver takes at once where a channel can hand out several.
const TAKE: usize = 256;
/// Bytes of a frame's header in the engine's history.
const HEADER_BYTES: usize = 32;
/// The longest a run may take: instead of waiting for ever for a message that was lost.
const DEADLINE: Duration = Duration::from_secs(60);

/// How many senders and receivers.
#[derive(Clone, Copy)]
struct Shape {
    senders: u64,
    receivers: u64,
}

const SHAPES: [Shape; 4] = [
    Shape { senders: 1, receivers: 1 },
    Shape { senders: 1, receivers: 4 },
    Shape { senders: 1, receivers: 16 },
    Shape { senders: 4, receivers: 1 },
];

/// What a channel carries: a copy of the sender's bytes.
trait Packet: Clone + Send + Sync + 'static {
    fn copied(payload: &[u8]) -> Self;
    fn bytes(&self) -> &[u8];
}

/// Small enough to be moved through a channel in place.
impl Packet for [u8; 64] {
    fn copied(payload: &[u8]) -> Self {
        *payload.first_chunk().expect("64 bytes")
    }

    fn bytes(&self) -> &[u8] {
        self
    }
}

/// One allocation, shared by all receivers.
impl Packet for Bytes {
    fn copied(payload: &[u8]) -> Self {
        Self::copy_from_slice(payload)
    }

    fn bytes(&self) -> &[u8] {
        self
    }
}

/// Counts what one receiver got; proves it at the end.
#[derive(Default)]
struct Tally {
    messages: u64,
    sum: u64,
}

impl Tally {
    fn add(&mut self, payload: &[u8]) {
        self.messages += 1;
        self.sum += u64::from_le_bytes(*payload.first_chunk().expect("8 bytes"));
    }

    fn check(&self, per_sender: u64, senders: u64) {
        let sum = senders * (per_sender * per_sender.saturating_sub(1) / 2);
        assert_eq!((self.messages, self.sum), (per_sender * senders, sum), "lost or damaged messages");
    }
}

/// Makes the payloads of one sender.
struct Payload(Vec<u8>);

impl Payload {
    fn new(payload_bytes: usize) -> Self {
        Self(vec![7; payload_bytes])
    }

    fn number(&mut self, number: u64) -> &[u8] {
        self.0[..8].copy_from_slice(&number.to_le_bytes());
        &self.0
    }
}

/// One run: how many messages, of which size, between how many.
#[derive(Clone, Copy)]
struct Run {
    shape: Shape,
    payload_bytes: usize,
    per_sender: u64,
}

/// The tasks of one run.
#[derive(Default)]
struct Sides {
    senders: JoinSet<()>,
    receivers: JoinSet<Tally>,
}

impl Run {
    fn total(self) -> u64 {
        self.per_sender * self.shape.senders
    }

    /// Waits for all tasks and checks what they got; how long that took since `start`.
    async fn finish(self, start: Instant, mut sides: Sides) -> Duration {
        let all = async {
            while let Some(sender) = sides.senders.join_next().await {
                sender.expect("a sender does not panic");
            }
            while let Some(tally) = sides.receivers.join_next().await {
                tally.expect("a receiver does not panic").check(self.per_sender, self.shape.senders);
            }
        };
        tokio::time::timeout(DEADLINE, all).await.expect("every message arrives within the deadline");
        start.elapsed()
    }

    async fn twinlane(self) -> Duration {
        let retain_bytes = (SLOTS * (HEADER_BYTES + self.payload_bytes)) as u64;
        let engine = Engine::new(EngineConfig::default()).expect("the defaults are valid");
        engine.declare("job", TopicSpec::reliable().with_retain_bytes(retain_bytes)).expect("a new topic");
        let session = Session::local(&engine);
        let mut subscriptions = Vec::new();
        for _ in 0..self.shape.receivers {
            subscriptions.push(session.subscribe("job").await.expect("the topic exists"));
        }
        let mut publishers = Vec::new();
        for _ in 0..self.shape.senders {
            publishers.push(session.publisher("job").await.expect("the topic exists"));
        }
        let (start, mut sides) = (Instant::now(), Sides::default());
        for mut subscription in subscriptions {
            sides.receivers.spawn(async move {
                let mut tally = Tally::default();
                while tally.messages < self.total() {
                    let batch = subscription.next_batch().await.expect("the engine lives");
                    for delivery in batch.iter() {
                        let DeliveryRef::Message(message) = delivery else { panic!("{delivery:?}") };
                        tally.add(message.payload());
                    }
                }
                tally
            });
        }
        for mut publisher in publishers {
            sides.senders.spawn(async move {
                let mut payload = Payload::new(self.payload_bytes);
                for number in 0..self.per_sender {
                    publisher.send(payload.number(number)).await.expect("the topic is open");
                    coop().await;
                }
            });
        }
        self.finish(start, sides).await
    }

    /// One channel of all, made for fan-out. It knows no waiting: senders look how full it is before they send.
    async fn broadcast<P: Packet>(self) -> Duration {
        let (sender, receiver) = broadcast::channel::<P>(2 * SLOTS);
        let mut receivers = vec![receiver];
        receivers.resize_with(self.shape.receivers as usize, || sender.subscribe());
        let (start, mut sides) = (Instant::now(), Sides::default());
        for mut receiver in receivers {
            sides.receivers.spawn(async move {
                let mut tally = Tally::default();
                while tally.messages < self.total() {
                    tally.add(receiver.recv().await.expect("nobody lags").bytes());
                }
                tally
            });
        }
        for _ in 0..self.shape.senders {
            let sender = sender.clone();
            sides.senders.spawn(async move {
                let mut payload = Payload::new(self.payload_bytes);
                for number in 0..self.per_sender {
                    // Asking takes its lock: not for every message.
                    if number.is_multiple_of(TAKE as u64) {
                        while sender.len() >= SLOTS {
                            tokio::task::yield_now().await;
                        }
                    }
                    assert!(sender.send(P::copied(payload.number(number))).is_ok(), "the receivers live");
                    coop().await;
                }
            });
        }
        self.finish(start, sides).await
    }

    /// One queue per receiver.
    async fn queues<Q: Queue<P>, P: Packet>(self) -> Duration {
        let (mut senders, mut sides) = (Vec::new(), Sides::default());
        let start = Instant::now();
        for _ in 0..self.shape.receivers {
            let (sender, mut receiver) = Q::bounded();
            senders.push(sender);
            sides.receivers.spawn(async move {
                let mut tally = Tally::default();
                while Q::take(&mut receiver, &mut tally).await {}
                tally
            });
        }
        for _ in 0..self.shape.senders {
            let senders = senders.clone();
            sides.senders.spawn(async move {
                let mut payload = Payload::new(self.payload_bytes);
                for number in 0..self.per_sender {
                    let packet = P::copied(payload.number(number));
                    for sender in &senders {
                        Q::send(sender, packet.clone()).await;
                    }
                    if !Q::COUNTS_STEPS {
                        coop().await;
                    }
                }
            });
        }
        // Receivers end when the last sender does.
        drop(senders);
        self.finish(start, sides).await
    }
}

/// A bounded queue between tasks, used as its documentation says.
trait Queue<P: Packet>: 'static {
    /// Whether it takes part in tokio's counting of a task's steps.
    const COUNTS_STEPS: bool = false;
    type Sender: Clone + Send + Sync + 'static;
    type Receiver: Send + 'static;

    /// With [`SLOTS`] slots.
    fn bounded() -> (Self::Sender, Self::Receiver);
    /// Waits for room; the receiver lives.
    fn send(sender: &Self::Sender, packet: P) -> impl Future<Output = ()> + Send;
    /// Waits for a message and takes what else is there; `false`: all senders are gone.
    fn take(receiver: &mut Self::Receiver, tally: &mut Tally) -> impl Future<Output = bool> + Send;
}

struct TokioMpsc;

impl<P: Packet> Queue<P> for TokioMpsc {
    const COUNTS_STEPS: bool = true;
    type Sender = mpsc::Sender<P>;
    type Receiver = (mpsc::Receiver<P>, Vec<P>);

    fn bounded() -> (Self::Sender, Self::Receiver) {
        let (sender, receiver) = mpsc::channel(SLOTS);
        (sender, (receiver, Vec::with_capacity(TAKE)))
    }

    async fn send(sender: &Self::Sender, packet: P) {
        assert!(sender.send(packet).await.is_ok(), "the receivers live");
    }

    async fn take((receiver, taken): &mut Self::Receiver, tally: &mut Tally) -> bool {
        let count = receiver.recv_many(taken, TAKE).await;
        taken.drain(..).for_each(|packet| tally.add(packet.bytes()));
        count > 0
    }
}

struct Flume;

impl<P: Packet> Queue<P> for Flume {
    type Sender = flume::Sender<P>;
    type Receiver = flume::Receiver<P>;

    fn bounded() -> (Self::Sender, Self::Receiver) {
        flume::bounded(SLOTS)
    }

    async fn send(sender: &Self::Sender, packet: P) {
        assert!(sender.send_async(packet).await.is_ok(), "the receivers live");
    }

    async fn take(receiver: &mut Self::Receiver, tally: &mut Tally) -> bool {
        let Ok(packet) = receiver.recv_async().await else { return false };
        tally.add(packet.bytes());
        receiver.drain().for_each(|packet| tally.add(packet.bytes()));
        true
    }
}

struct Kanal;

impl<P: Packet> Queue<P> for Kanal {
    type Sender = kanal::AsyncSender<P>;
    type Receiver = (kanal::AsyncReceiver<P>, Vec<P>);

    fn bounded() -> (Self::Sender, Self::Receiver) {
        let (sender, receiver) = kanal::bounded_async(SLOTS);
        (sender, (receiver, Vec::with_capacity(SLOTS)))
    }

    async fn send(sender: &Self::Sender, packet: P) {
        assert!(sender.send(packet).await.is_ok(), "the receivers live");
    }

    async fn take((receiver, taken): &mut Self::Receiver, tally: &mut Tally) -> bool {
        let Ok(packet) = receiver.recv().await else { return false };
        tally.add(packet.bytes());
        if receiver.drain_into(taken).is_ok() {
            taken.drain(..).for_each(|packet: P| tally.add(packet.bytes()));
        }
        true
    }
}

/// Gives other tasks their turn as often for every channel: only tokio's own count a task's steps.
async fn coop() {
    tokio::task::coop::consume_budget().await;
}

fn measure<F: Future<Output = Duration>>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    runtime: &Runtime,
    name: &str,
    (shape, payload_bytes): (Shape, usize),
    job: impl Fn(Run) -> F,
) {
    group.bench_function(BenchmarkId::new(name, payload_bytes), |bencher| {
        bencher.iter_custom(|messages| {
            let per_sender = messages.div_ceil(shape.senders);
            let run = Run { shape, payload_bytes, per_sender };
            let elapsed = runtime.block_on(job(run));
            elapsed.mul_f64(messages as f64 / run.total() as f64)
        });
    });
}

fn all_of<P: Packet>(c: &mut Criterion, runtime: &Runtime, payload_bytes: usize) {
    for shape in SHAPES {
        let mut group = c.benchmark_group(format!("pubsub/{} to {}", shape.senders, shape.receivers));
        group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(shape.receivers));
        let job = (shape, payload_bytes);
        measure(&mut group, runtime, "twinlane", job, Run::twinlane);
        measure(&mut group, runtime, "tokio broadcast", job, Run::broadcast::<P>);
        measure(&mut group, runtime, "tokio mpsc", job, Run::queues::<TokioMpsc, P>);
        measure(&mut group, runtime, "flume", job, Run::queues::<Flume, P>);
        measure(&mut group, runtime, "kanal", job, Run::queues::<Kanal, P>);
        group.finish();
    }
}

fn pubsub(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("two threads");
    all_of::<[u8; 64]>(c, &runtime, 64);
    all_of::<Bytes>(c, &runtime, 1_024);
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1_200));
    targets = pubsub
}
criterion_main!(benches);
