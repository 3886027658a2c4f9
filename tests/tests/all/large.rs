//! Large messages of fast topics (F2): whole or absent over every carrier, in fragments where no datagram holds them.

use std::time::Duration;

use twinlane::{
    DeclareError, Delivery, Engine, EngineConfig, PublishError, Publisher, Session, Subscription, TopicSpec,
    TopicStatus, TryPublishError,
};
use twinlane_tests::Seeded;

use crate::world::{Carrier, World, within};

const MIB: usize = 1 << 20;
/// One byte, just above what one small datagram holds, some datagrams, the default limit, the highest limit.
const SIZES: [usize; 5] = [1, 1_100, 20_000, 64 << 10, MIB];

/// `bytes` bytes that no other size and seed has.
fn body(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = Seeded::new(seed << 32 | bytes as u64);
    (0..bytes).map(|_| random.next_u64() as u8).collect()
}

/// Publishes until a message comes: on a busy machine a socket may drop a datagram. What comes is intact.
async fn publish_until_it_comes(publisher: &mut Publisher, subscription: &mut Subscription, body: &[u8]) {
    loop {
        publisher.publish(body).await.unwrap();
        let coming = async {
            loop {
                let next = subscription.next().await.expect("the subscription lives");
                if let Delivery::Message(message) = next {
                    break message;
                }
            }
        };
        if let Ok(message) = tokio::time::timeout(Duration::from_secs(2), coming).await {
            // An earlier size may have come late, but never another content.
            assert!(
                message.payload() == body,
                "F2: {} bytes came of {}",
                message.payload().len(),
                body.len()
            );
            return;
        }
    }
}

async fn over(carrier: Carrier) -> (World, Publisher, Subscription) {
    let world = World::new().await;
    world.engine.declare("images", TopicSpec::fast().with_payload_bytes_max(MIB as u32)).unwrap();
    let subscription = world.session(carrier).await.subscribe("images").await.unwrap();
    let publisher = world.session(carrier).await.publisher("images").await.unwrap();
    (world, publisher, subscription)
}

fn status(engine: &Engine, topic: &str) -> TopicStatus {
    engine.status().topics.into_iter().find(|status| status.name == topic).unwrap()
}

// F2.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fast_messages_of_every_size_arrive_intact_over_every_carrier() {
    for carrier in [Carrier::Local, Carrier::Tcp, Carrier::Quic] {
        let (world, mut publisher, mut subscription) = over(carrier).await;
        for (seed, bytes) in (1..).zip(SIZES) {
            let body = body(seed, bytes);
            let arriving = publish_until_it_comes(&mut publisher, &mut subscription, &body);
            within(&format!("{bytes} bytes over {carrier:?}"), arriving).await;
        }
        assert_eq!(status(&world.engine, "images").drops["too_big"], 0, "{carrier:?}");
    }
}

// F2: refused where it is published, with the limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_above_its_topics_limit_is_refused_with_the_limit() {
    for carrier in [Carrier::Local, Carrier::Tcp, Carrier::Quic] {
        let (_world, mut publisher, _subscription) = over(carrier).await;
        let above = vec![7; MIB + 1];
        let refused = PublishError::TooLarge { payload_bytes: MIB + 1, limit: MIB };
        assert_eq!(publisher.publish(&above).await.unwrap_err(), refused, "{carrier:?}");
        assert!(refused.to_string().contains("limit is 1048576"), "{refused}");
        let refused = TryPublishError::TooLarge { payload_bytes: MIB + 1, limit: MIB };
        assert_eq!(publisher.try_publish(&above).unwrap_err(), refused, "{carrier:?}");
    }
}

#[tokio::test]
async fn a_fast_topic_takes_64_kib_unless_it_chooses_and_1_mib_at_most() {
    let engine = Engine::new(EngineConfig::default()).unwrap();
    let declare = |name: &str, spec| engine.declare(name, spec).map(|topic| topic.payload_bytes_max);
    assert_eq!(declare("default", TopicSpec::fast()), Ok(64 << 10));
    assert_eq!(declare("small", TopicSpec::fast().with_payload_bytes_max(512)), Ok(512));
    let above = declare("above", TopicSpec::fast().with_payload_bytes_max(MIB as u32 + 1)).unwrap_err();
    assert!(matches!(above, DeclareError::OverLimit { asked_max: 1_048_576, .. }), "{above}");
}

// F6: what a topic keeps bounds its memory; nobody pays for large messages that a topic did not ask for.
#[tokio::test]
async fn a_small_history_stays_small_without_a_word_about_payloads() {
    let engine = Engine::new(EngineConfig::default()).unwrap();
    let spec = TopicSpec::fast().with_retain_bytes(64 << 10);
    assert!(engine.declare("little", spec).unwrap().payload_bytes_max >= 1_024);
    let mut publisher = Session::local(&engine).publisher("little").await.unwrap();
    for _ in 0..1_000 {
        publisher.publish(&[7; 1_024]).await.unwrap();
    }
    let memory_bytes = status(&engine, "little").memory_bytes;
    assert!(memory_bytes < 160 << 10, "{memory_bytes} bytes");
}
