//! Durable topics (R1, R2, R6, R8, R9, I10): what was acknowledged survives the server, and slow readers read the disk.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use twinlane::{
    Code, ConnectOptions, DeclareError, Delivery, Engine, EngineConfig, GapCause, Last, Level, ListenOptions,
    MessageOptions, Missing, PublishError, PublisherOptions, QueueOptions, Session, SlowPolicy, Start,
    SubscribeOptions, Subscription, TopicSpec, TopicStatus,
};

use crate::world::{
    Carrier, next_delivery, next_message, next_message_or_resumed, payload, proven, until, within,
};

const SPEC: TopicSpec = TopicSpec::durable();

/// An engine on a directory that outlives it.
struct Server {
    engine: Engine,
    addr: SocketAddr,
}

impl Server {
    async fn start(dir: &Path, addr: Option<SocketAddr>) -> Self {
        Self::with(config(dir), addr).await
    }

    async fn with(config: EngineConfig, addr: Option<SocketAddr>) -> Self {
        let engine = Engine::new(config).unwrap();
        let mut options = ListenOptions::new(addr.unwrap_or_else(|| "127.0.0.1:0".parse().unwrap()));
        options.plain = true;
        options.quic = false;
        let listening = engine.listen(options).await.unwrap();
        Self { engine, addr: listening.addr() }
    }

    /// Ends it as a crash would, as far as one process can: nobody is told, nothing is waited for.
    async fn crash(self) {
        self.engine.shutdown(Duration::ZERO).await;
        drop(self.engine);
    }

    fn topic(&self, name: &str) -> Option<TopicStatus> {
        self.engine.status().topics.into_iter().find(|topic| topic.name == name)
    }

    async fn session(&self, carrier: Carrier) -> Session {
        match carrier {
            Carrier::Local => Session::local(&self.engine),
            _ => Session::connect(plain(self.addr)).await.unwrap(),
        }
    }
}

fn config(dir: &Path) -> EngineConfig {
    let mut config = EngineConfig::default();
    config.data_dir = Some(dir.join("log"));
    // Small enough that readers fall out of it.
    config.limits.topic_retain_bytes = 256 << 10;
    config.limits.reliable_payload_bytes_max = 16 << 10;
    config.limits.log_segment_bytes = 1 << 20;
    config
}

fn plain(addr: SocketAddr) -> ConnectOptions {
    let mut options = ConnectOptions::plain(addr.to_string());
    options.reconnect.first = Duration::from_millis(10);
    options.reconnect.max = Duration::from_millis(50);
    options
}

fn publishing(spec: TopicSpec) -> PublisherOptions {
    let mut options = PublisherOptions::default();
    options.spec = Some(spec);
    options
}

fn from(start: Start) -> SubscribeOptions {
    let mut options = SubscribeOptions::default();
    options.start = start;
    options
}

async fn expect_messages(subscription: &mut Subscription, publisher: u32, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let message = next_message(subscription).await;
        assert_eq!(proven(message.payload()), (publisher, number));
    }
}

// R1, R6, I10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_on_disk_is_there_after_a_restart() {
    for carrier in [Carrier::Local, Carrier::Tcp] {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(dir.path(), None).await;
        let session = server.session(carrier).await;
        let mut publisher = session.publisher_with("orders", publishing(SPEC)).await.unwrap();
        for number in 0..500 {
            publisher.send(&payload(1, number)).await.unwrap();
        }
        assert_eq!(publisher.flush().await.unwrap().acked, 500, "{carrier:?}");
        let ack = publisher.publish(&payload(1, 500)).await.unwrap();
        assert_eq!((ack.offset, ack.level), (Some(500), Some(Level::Disk)), "{carrier:?}");
        drop((publisher, session));
        server.crash().await;

        let server = Server::start(dir.path(), None).await;
        let session = server.session(carrier).await;
        let mut all = session.subscribe_with("orders", from(Start::All)).await.unwrap();
        expect_messages(&mut all, 1, 0..501).await;
        let mut publisher = session.publisher("orders").await.unwrap();
        let next = publisher.publish(&payload(2, 0)).await.unwrap();
        assert_eq!((next.offset, next.epoch), (Some(501), ack.epoch), "{carrier:?}: the same log goes on");
        assert_eq!(proven(next_message(&mut all).await.payload()), (2, 0));
    }
}

// R2, R7, R8.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_go_on_across_restarts_of_their_server() {
    const MESSAGES: u64 = 4_000;
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), None).await;
    let addr = server.addr;
    let (publishing_session, reading) =
        (server.session(Carrier::Tcp).await, server.session(Carrier::Tcp).await);
    let mut publisher = publishing_session.publisher_with("orders", publishing(SPEC)).await.unwrap();
    let mut subscription = reading.subscribe_with("orders", from(Start::All)).await.unwrap();
    let writing = tokio::spawn(async move {
        for number in 0..MESSAGES {
            publisher.send(&payload(0, number)).await.unwrap();
            if number % 100 == 99 {
                publisher.flush().await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        publisher.flush().await.unwrap()
    });
    let mut resumed = 0;
    for number in 0..MESSAGES {
        let message = next_message_or_resumed(&mut subscription, &mut resumed).await;
        assert_eq!((message.offset(), proven(message.payload())), (number, (0, number)), "R4, R7");
        if number % 1_000 == 500 {
            server.crash().await;
            server = Server::start(dir.path(), Some(addr)).await;
        }
    }
    let flushed = within("a flush", writing).await.unwrap();
    assert_eq!((flushed.acked, flushed.refused), (MESSAGES, 0));
    assert_eq!(resumed, 4, "each restart was a resume, and nothing was missed");
    let topic = publishing_session.explain("orders").await.unwrap();
    assert_eq!(topic.next, MESSAGES, "R2: nothing is stored twice");
}

// R9: spill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_stopped_reading_reads_from_disk_what_memory_does_not_have() {
    const MESSAGES: u64 = 20_000;
    for carrier in [Carrier::Local, Carrier::Tcp] {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(dir.path(), None).await;
        let session = server.session(carrier).await;
        let mut publisher = session.publisher_with("orders", publishing(SPEC)).await.unwrap();
        let mut slow = session.subscribe("orders").await.unwrap();
        let mut quick = session.subscribe("orders").await.unwrap();
        let writing = tokio::spawn(async move {
            for number in 0..MESSAGES {
                publisher.send(&payload(1, number)).await.unwrap();
            }
            publisher.flush().await.unwrap()
        });
        expect_messages(&mut quick, 1, 0..MESSAGES).await;
        assert_eq!(within("a flush", writing).await.unwrap().acked, MESSAGES, "{carrier:?}: nobody waited");
        expect_messages(&mut slow, 1, 0..MESSAGES).await;
        assert_eq!(slow.stats().not_retained, 0, "{carrier:?}");
    }
}

// R9: block, disconnect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocking_subscriber_holds_publishers_for_a_bounded_time_and_is_then_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.block_timeout = Duration::from_millis(300);
    let server = Server::with(config, None).await;
    let session = server.session(Carrier::Local).await;
    let mut publisher = session.publisher_with("orders", publishing(SPEC)).await.unwrap();
    let mut options = from(Start::New);
    options.slow = SlowPolicy::Block;
    let mut blocking = session.subscribe_with("orders", options).await.unwrap();
    options.slow = SlowPolicy::Disconnect;
    let mut hasty = session.subscribe_with("orders", options).await.unwrap();
    publisher.publish(&payload(1, 0)).await.unwrap();
    expect_messages(&mut blocking, 1, 0..1).await;
    expect_messages(&mut hasty, 1, 0..1).await;
    for number in 1..20_000 {
        publisher.send(&payload(1, number)).await.unwrap();
    }
    assert_eq!(publisher.flush().await.unwrap().acked, 20_000, "held for a while, not for ever");
    for subscription in [&mut blocking, &mut hasty] {
        while let Some(delivery) = within("the end", subscription.next()).await {
            assert!(matches!(delivery, Delivery::Message(_)), "never a silent skip: {delivery:?}");
        }
        assert_eq!(subscription.end().map(|end| end.code), Some(Code::SlowConsumer));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_value_of_each_key_is_there_for_whoever_comes_later_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let spec = SPEC.with_last(Last::Key);
    let publish = async |session: &Session, values: std::ops::Range<u64>| {
        let mut publisher = session.publisher_with("prices", publishing(spec)).await.unwrap();
        for number in values {
            let options = MessageOptions::default().with_key(number % 3);
            publisher.publish_with(&payload(1, number), options).await.unwrap();
        }
    };
    for carrier in [Carrier::Local, Carrier::Tcp] {
        let server = Server::start(dir.path(), None).await;
        let session = server.session(carrier).await;
        let before = server.topic("prices").map_or(0, |topic| topic.next);
        publish(&session, before..before + 10).await;
        let mut late = session.subscribe_with("prices", from(Start::Last)).await.unwrap();
        expect_messages(&mut late, 1, before + 7..before + 10).await;
        publish(&session, before + 10..before + 11).await;
        expect_messages(&mut late, 1, before + 10..before + 11).await;
        drop((late, session));
        server.crash().await;
        let server = Server::start(dir.path(), None).await;
        let session = server.session(carrier).await;
        let mut late = session.subscribe_with("prices", from(Start::Last)).await.unwrap();
        expect_messages(&mut late, 1, before + 8..before + 11).await;
        drop((late, session));
        server.crash().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_may_begin_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), None).await;
    for (carrier, topic, spec) in
        [(Carrier::Local, "memory", TopicSpec::reliable()), (Carrier::Tcp, "disk", SPEC)]
    {
        let session = server.session(carrier).await;
        let mut publisher = session.publisher_with(topic, publishing(spec)).await.unwrap();
        publisher.publish(&payload(1, 0)).await.unwrap();
        // Times of messages are microseconds.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let now_us = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
        publisher.publish(&payload(1, 1)).await.unwrap();
        let mut since = session.subscribe_with(topic, from(Start::Time(now_us))).await.unwrap();
        expect_messages(&mut since, 1, 1..2).await;
        let mut ever = session.subscribe_with(topic, from(Start::Time(0))).await.unwrap();
        expect_messages(&mut ever, 1, 0..2).await;
    }
}

// R7, R10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_retention_gave_up_is_a_gap_with_its_exact_size() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), None).await;
    let session = server.session(Carrier::Tcp).await;
    let spec = SPEC.with_retain_messages(1_000);
    let mut publisher = session.publisher_with("orders", publishing(spec)).await.unwrap();
    for number in 0..30_000 {
        publisher.send(&payload(1, number)).await.unwrap();
    }
    publisher.flush().await.unwrap();
    until("retention", || server.topic("orders").is_some_and(|topic| topic.oldest > 0)).await;
    let mut all = session.subscribe_with("orders", from(Start::Offset(0))).await.unwrap();
    let oldest = match next_delivery(&mut all).await {
        Delivery::Gap(gap) => {
            let Missing::Offsets { from: 0, to } = gap.missing else { panic!("{gap}") };
            assert_eq!(gap.cause, GapCause::Retention);
            to
        }
        other => panic!("{other:?}"),
    };
    assert!(oldest <= 29_000, "never less than what was asked for: {oldest}");
    expect_messages(&mut all, 1, oldest..30_000).await;
}

#[tokio::test]
async fn a_durable_topic_needs_a_data_directory() {
    let engine = Engine::new(EngineConfig::default()).unwrap();
    let error = engine.declare("orders", SPEC).unwrap_err();
    assert!(matches!(error, DeclareError::NoStorage { .. }), "{error}");
    assert!(error.to_string().contains("--data"), "{error} says what to do");
}

#[tokio::test]
async fn a_data_directory_belongs_to_one_engine_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let first = Engine::new(config(dir.path())).unwrap();
    first.declare("orders", SPEC).unwrap();
    let second = Engine::new(config(dir.path())).map(|_| ()).unwrap_err().to_string();
    assert!(second.contains("in use"), "{second}");
}

// R11: ENOSPC.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_log_refuses_publishers_at_once_and_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.limits.log_bytes_max = 8 << 20;
    let server = Server::with(config.clone(), None).await;
    let session = server.session(Carrier::Tcp).await;
    let mut publisher = session.publisher_with("orders", publishing(SPEC)).await.unwrap();
    let mut reader = session.subscribe_with("orders", from(Start::All)).await.unwrap();
    let mut stored = 0;
    let refused = loop {
        match publisher.publish(&[7; 8 << 10]).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 2_000, "8 MiB hold no 16 MiB");
    };
    assert!(matches!(refused, PublishError::Refused { code: Code::NoSpace, .. }), "{refused}");
    for _ in 0..stored {
        next_message(&mut reader).await;
    }
    drop((publisher, reader, session));
    server.crash().await;
    config.limits.log_bytes_max = 16 << 20;
    let server = Server::with(config, None).await;
    let session = server.session(Carrier::Tcp).await;
    let ack = session.publisher("orders").await.unwrap().publish(&[7; 8 << 10]).await.unwrap();
    assert_eq!(ack.offset, Some(stored), "what was refused used up no offsets");
}

#[tokio::test]
async fn how_much_is_kept_is_the_operators_to_change() {
    let dir = tempfile::tempdir().unwrap();
    for retain_messages in [1_000, 2_000, 500] {
        let mut config = config(dir.path());
        config.topics = vec![("orders".to_owned(), SPEC.with_retain_messages(retain_messages))];
        let engine = Engine::new(config).unwrap();
        let topic = engine.status().topics.into_iter().find(|topic| topic.name == "orders").unwrap();
        assert_eq!(topic.retain_messages, retain_messages);
        engine.shutdown(Duration::ZERO).await;
    }
}

// Q1, Q4, beyond what memory holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_several_workers_left_behind_are_read_back_from_disk() {
    const JOBS: u64 = 6_000;
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), None).await;
    let session = server.session(Carrier::Tcp).await;
    let mut publisher = session.publisher_with("jobs", publishing(SPEC)).await.unwrap();
    let mut publish = async |numbers: std::ops::Range<u64>| {
        for number in numbers {
            publisher.send(&payload(1, number)).await.unwrap();
        }
        publisher.flush().await.unwrap();
    };
    publish(0..300).await;
    for _ in 0..3 {
        let mut options = QueueOptions::default();
        options.prefetch = 0;
        let mut leaving = session.queue_with("jobs", "workers", options).await.unwrap();
        assert_eq!(leaving.fetch(100, Duration::from_secs(5)).await.unwrap().len(), 100);
    }
    // What they held is in the ring no more.
    publish(300..JOBS).await;
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let mut queue = session.queue("jobs", "workers").await.unwrap();
        workers.spawn(async move {
            let mut done = Vec::new();
            while let Ok(Some(job)) = tokio::time::timeout(Duration::from_secs(3), queue.next()).await {
                done.push(proven(job.payload()).1);
                job.ack().await.unwrap();
            }
            done
        });
    }
    let mut done: Vec<u64> = within("all jobs", workers.join_all()).await.concat();
    done.sort_unstable();
    assert!(done.iter().copied().eq(0..JOBS), "{} jobs done, each once", done.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_last_value_outlives_the_retention_of_its_message() {
    const OTHERS: u64 = 30_000;
    let dir = tempfile::tempdir().unwrap();
    let spec = SPEC.with_last(Last::Key).with_retain_messages(100);
    let server = Server::start(dir.path(), None).await;
    let session = server.session(Carrier::Local).await;
    let mut publisher = session.publisher_with("prices", publishing(spec)).await.unwrap();
    for number in 0..=OTHERS {
        let options = MessageOptions::default().with_key(number.min(1));
        publisher.send_with(&payload(1, number), options).await.unwrap();
    }
    publisher.flush().await.unwrap();
    until("retention", || server.topic("prices").is_some_and(|topic| topic.oldest > 0)).await;
    drop((publisher, session));
    server.crash().await;

    let server = Server::start(dir.path(), None).await;
    let session = server.session(Carrier::Local).await;
    let mut late = session.subscribe_with("prices", from(Start::Last)).await.unwrap();
    expect_messages(&mut late, 1, 0..1).await;
    expect_messages(&mut late, 1, OTHERS..OTHERS + 1).await;
}
