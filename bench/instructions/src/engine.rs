//! The engine through its public functions: in process, and over plain TCP with both ends in one thread.
//!
//! One thread, one runtime, bursts of a fixed size: nothing is left to chance but the kernel's hand.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use tokio::runtime::Runtime;
use twinlane::{
    ConnectOptions, Engine, EngineConfig, ListenOptions, Publisher, Session, Subscription, TopicSpec,
};

use crate::{BURST, MESSAGES, PAYLOAD_BYTES, SUM, number, stamp};

const TOPIC: &str = "counted";
/// Small, so that it has been round before anything is counted.
const RETAIN_BYTES: u64 = 1 << 20;
/// Before anything is counted: more than fit the history.
const WARM_MESSAGES: u64 = 4 * MESSAGES;
/// The longest that a path may take: instead of waiting for ever for a message that was lost.
const DEADLINE: Duration = Duration::from_secs(120);

/// A publisher and its subscribers, warm.
pub struct Path {
    runtime: Runtime,
    /// Lives as long as its sessions are used.
    _engine: Engine,
    publisher: Publisher,
    subscribers: Vec<Subscriber>,
}

struct Subscriber {
    subscription: Subscription,
    messages: u64,
    sum: u64,
}

impl Path {
    /// A reliable topic in process, which nobody reads.
    #[must_use]
    pub fn unread() -> Self {
        Self::local(TopicSpec::reliable(), 0)
    }

    /// A reliable topic in process with one subscriber.
    #[must_use]
    pub fn reliable() -> Self {
        Self::local(TopicSpec::reliable(), 1)
    }

    /// A reliable topic in process with four subscribers.
    #[must_use]
    pub fn reliable_to_four() -> Self {
        Self::local(TopicSpec::reliable(), 4)
    }

    /// A fast topic in process with one subscriber.
    #[must_use]
    pub fn fast() -> Self {
        Self::local(TopicSpec::fast(), 1)
    }

    /// A reliable topic with publisher and subscriber each behind a TCP connection without TLS.
    ///
    /// # Panics
    ///
    /// If there is no port left on loopback.
    #[must_use]
    pub fn tcp() -> Self {
        Self::new(TopicSpec::reliable(), 1, async |engine| {
            let mut options = ListenOptions::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
            (options.plain, options.quic) = (true, false);
            let listening = engine.listen(options).await.expect("loopback has a free port");
            let connect = || Session::connect(ConnectOptions::plain(listening.addr().to_string()));
            (connect().await.expect("the engine listens"), connect().await.expect("the engine listens"))
        })
    }

    fn local(spec: TopicSpec, subscribers: usize) -> Self {
        Self::new(spec, subscribers, async |engine| (Session::local(engine), Session::local(engine)))
    }

    fn new(
        spec: TopicSpec,
        subscribers: usize,
        sessions: impl AsyncFnOnce(&Engine) -> (Session, Session),
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime without threads");
        let engine = Engine::new(EngineConfig::default()).expect("the defaults are valid");
        engine.declare(TOPIC, spec.with_retain_bytes(RETAIN_BYTES)).expect("a new topic");
        let (publisher, subscribers) = runtime.block_on(async {
            let (here, there) = sessions(&engine).await;
            let mut all = Vec::new();
            for _ in 0..subscribers {
                let subscription = there.subscribe(TOPIC).await.expect("the topic exists");
                all.push(Subscriber { subscription, messages: 0, sum: 0 });
            }
            (here.publisher(TOPIC).await.expect("the topic exists"), all)
        });
        let mut path = Self { runtime, _engine: engine, publisher, subscribers };
        path.exchange(WARM_MESSAGES);
        for subscriber in &mut path.subscribers {
            (subscriber.messages, subscriber.sum) = (0, 0);
        }
        path
    }

    /// Publishes all messages without a future.
    ///
    /// # Panics
    ///
    /// If one is refused.
    pub fn try_publish(&mut self) {
        let mut payload = [0; PAYLOAD_BYTES];
        for message in 0..MESSAGES {
            stamp(&mut payload, message);
            self.publisher.try_publish(&payload).expect("nobody holds the topic back");
        }
    }

    /// Publishes all messages with `send`.
    ///
    /// # Panics
    ///
    /// If one is refused.
    pub fn send(&mut self) {
        let mut payload = [0; PAYLOAD_BYTES];
        self.runtime.block_on(async {
            for message in 0..MESSAGES {
                stamp(&mut payload, message);
                self.publisher.send(&payload).await.expect("nobody holds the topic back");
            }
        });
    }

    /// Publishes all messages in bursts; every subscriber reads each burst as batches.
    ///
    /// # Panics
    ///
    /// If a message is lost.
    pub fn publish_and_read(&mut self) {
        self.exchange(MESSAGES);
    }

    /// As [`Self::publish_and_read`], but the subscriber takes message after message.
    ///
    /// # Panics
    ///
    /// If a message is lost.
    pub fn publish_and_read_each(&mut self) {
        let Self { runtime, publisher, subscribers, .. } = self;
        let mut payload = [0; PAYLOAD_BYTES];
        runtime.block_on(within(async {
            for first in (0..MESSAGES).step_by(BURST as usize) {
                for message in first..first + BURST {
                    stamp(&mut payload, message);
                    publisher.send(&payload).await.expect("the topic is open");
                }
                for subscriber in &mut *subscribers {
                    subscriber.read_each(first + BURST).await;
                }
            }
        }));
    }

    /// Publishes all messages, one after the other, each to a subscriber that sleeps: without the scheduler that
    /// would then run it.
    ///
    /// # Panics
    ///
    /// If the subscriber did not sleep, or was not woken.
    pub fn wake_for_each(&mut self) {
        let Self { runtime, publisher, subscribers, .. } = self;
        let _inside = runtime.enter();
        let [subscriber] = &mut subscribers[..] else { panic!("one subscriber is woken") };
        let alarm = Arc::new(Alarm::default());
        let waker = Waker::from(Arc::clone(&alarm));
        let mut payload = [0; PAYLOAD_BYTES];
        for message in 0..MESSAGES {
            let mut context = Context::from_waker(&waker);
            let mut read = pin!(subscriber.read(message + 1));
            assert!(read.as_mut().poll(&mut context).is_pending(), "nothing was published");
            stamp(&mut payload, message);
            publisher.try_publish(&payload).expect("nobody holds the topic back");
            assert!(alarm.0.swap(false, Ordering::Relaxed), "a subscriber that sleeps is woken");
            assert!(read.as_mut().poll(&mut context).is_ready(), "a message was published");
        }
    }

    /// Proves that every subscriber met every message once.
    ///
    /// # Panics
    ///
    /// If one did not.
    pub fn check(self) {
        for subscriber in &self.subscribers {
            assert_eq!((subscriber.messages, subscriber.sum), (MESSAGES, SUM));
        }
    }

    /// Proves that every message was stored.
    ///
    /// # Panics
    ///
    /// If one was not.
    pub fn check_stored(mut self) {
        let next_seq = self.publisher.try_publish(&[0; PAYLOAD_BYTES]).expect("nobody holds the topic back");
        assert_eq!(next_seq, WARM_MESSAGES + MESSAGES + 1);
    }

    fn exchange(&mut self, messages: u64) {
        let Self { runtime, publisher, subscribers, .. } = self;
        let mut payload = [0; PAYLOAD_BYTES];
        runtime.block_on(within(async {
            for first in (0..messages).step_by(BURST as usize) {
                for message in first..first + BURST {
                    stamp(&mut payload, message);
                    publisher.send(&payload).await.expect("the topic is open");
                }
                for subscriber in &mut *subscribers {
                    subscriber.read(first + BURST).await;
                }
            }
        }));
    }
}

impl Subscriber {
    /// Reads batches until it has met `messages`.
    async fn read(&mut self, messages: u64) {
        while self.messages < messages {
            let batch = self.subscription.next_batch().await.expect("the engine lives");
            for message in batch.messages() {
                self.messages += 1;
                self.sum += number(message.payload());
            }
        }
    }

    /// Reads message after message until it has met `messages`.
    async fn read_each(&mut self, messages: u64) {
        while self.messages < messages {
            let delivery = self.subscription.next().await.expect("the engine lives");
            let twinlane::Delivery::Message(message) = delivery else {
                panic!("one thread lost a message: {delivery:?}")
            };
            self.messages += 1;
            self.sum += number(message.payload());
        }
    }
}

/// Remembers that it rang.
#[derive(Default)]
struct Alarm(AtomicBool);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn within<T>(path: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, path).await.expect("every message arrives within two minutes")
}
