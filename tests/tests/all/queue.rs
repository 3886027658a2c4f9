//! Queue groups over every carrier: each promise by its name.
//!
//! What crashes, cuts and restarts do to them is in `queue_faults`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use twinlane::{
    EngineConfig, Job, MessageOptions, PublishError, Queue, QueueOptions, Session, SettleError, Start,
    SubscribeOptions, TopicSpec,
};
use twinlane_tests::{Relay, Seeded};

use crate::world::{Carrier, DEADLINE, World, next_message, payload, proven, until, within};

/// The longest a redelivery may take to begin (Q4).
const SOON: Duration = Duration::from_secs(1);

pub(crate) fn options(change: impl FnOnce(&mut QueueOptions)) -> QueueOptions {
    let mut options = QueueOptions::default();
    change(&mut options);
    options
}

pub(crate) async fn publish(session: &Session, topic: &str, count: u64) {
    let mut publisher = session.publisher(topic).await.unwrap();
    for number in 0..count {
        publisher.send(&payload(1, number)).await.unwrap();
    }
    publisher.flush().await.unwrap();
}

pub(crate) async fn next(queue: &mut Queue) -> Job {
    let next = within("the next job", queue.next()).await;
    next.unwrap_or_else(|| panic!("the queue ended: {:?}", queue.end()))
}

/// The number in a job's payload, every byte of which is checked.
pub(crate) fn number(job: &Job) -> u64 {
    proven(job.payload()).1
}

pub(crate) async fn nothing_comes(queue: &mut Queue, why: &str) {
    let came = tokio::time::timeout(Duration::from_millis(150), queue.next()).await;
    assert!(came.is_err(), "{why}: {came:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q1_every_message_is_handed_to_a_worker_and_acknowledged_whatever_carries_it() {
    for publishing in Carrier::ALL {
        for working in Carrier::ALL {
            let world = World::new().await;
            let session = world.session(publishing).await;
            publish(&session, "work", 300).await;
            let mut queue = world.session(working).await.queue("work", "crew").await.unwrap();
            let more = tokio::spawn(async move { publish(&session, "work", 200).await });
            let mut seen = Vec::new();
            for offset in 0..500 {
                let job = next(&mut queue).await;
                assert_eq!((job.offset(), job.attempt(), job.topic().as_str()), (offset, 1, "work"));
                seen.push(number(&job));
                job.ack().await.unwrap();
            }
            more.await.unwrap();
            assert_eq!(seen, (0..300).chain(0..200).collect::<Vec<_>>(), "{publishing:?} to {working:?}");
            let status = world.engine.status();
            assert_eq!((status.queues[0].settled, status.queues[0].in_flight), (500, 0));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_group_gets_every_message_and_each_of_its_workers_a_fair_share() {
    let world = World::new().await;
    publish(&world.session(Carrier::Local).await, "work", 1_000).await;
    for carrier in [Carrier::Local, Carrier::Tcp] {
        let group = format!("crew-{carrier:?}");
        let mut queues = Vec::new();
        for _ in 0..2 {
            let options = options(|options| options.prefetch = 10);
            queues.push(world.session(carrier).await.queue_with("work", &group, options).await.unwrap());
        }
        let shares: Arc<[AtomicU64; 2]> = Arc::default();
        let offsets: Arc<Mutex<BTreeSet<u64>>> = Arc::default();
        let workers: Vec<_> = queues
            .into_iter()
            .enumerate()
            .map(|(index, mut queue)| {
                let (shares, offsets) = (Arc::clone(&shares), Arc::clone(&offsets));
                tokio::spawn(async move {
                    loop {
                        let job = next(&mut queue).await;
                        let offset = job.offset();
                        // Yielding is the work: it gives the other one its turn.
                        tokio::task::yield_now().await;
                        job.ack().await.unwrap();
                        shares[index].fetch_add(1, Ordering::Relaxed);
                        assert!(offsets.lock().unwrap().insert(offset), "Q3: {offset} was handed over twice");
                    }
                })
            })
            .collect();
        until("all work to be done", || offsets.lock().unwrap().len() == 1_000).await;
        let shares = [0, 1].map(|index| shares[index].load(Ordering::Relaxed));
        assert!(shares.iter().all(|share| *share >= 200), "{carrier:?}: {shares:?}");
        workers.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q2_a_hanging_worker_loses_its_lease_and_the_attempt_number_rises() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        let session = world.session(carrier).await;
        publish(&session, "work", 1).await;
        let short = options(|options| options.settings.ack_wait = Some(Duration::from_millis(300)));
        let mut slow = session.queue_with("work", "crew", short).await.unwrap();
        let first = next(&mut slow).await;
        let mut other = world.session(carrier).await.queue("work", "crew").await.unwrap();
        let since = Instant::now();
        let second = next(&mut other).await;
        assert!(since.elapsed() < Duration::from_millis(300) + SOON, "Q4: {:?}", since.elapsed());
        assert_eq!((first.attempt(), second.attempt(), second.offset()), (1, 2, 0), "{carrier:?}");
        assert_eq!(first.ack().await, Err(SettleError::Stale), "Q7: the lease is over");
        second.ack().await.unwrap();
        nothing_comes(&mut other, "Q3: it was acknowledged").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extended_lease_outlives_the_ack_wait() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        let session = world.session(carrier).await;
        publish(&session, "work", 1).await;
        let short = options(|options| options.settings.ack_wait = Some(Duration::from_millis(400)));
        let mut queue = session.queue_with("work", "crew", short).await.unwrap();
        let job = next(&mut queue).await;
        let since = Instant::now();
        while since.elapsed() < Duration::from_millis(1_000) {
            nothing_comes(&mut queue, "the lease lives").await;
            job.extend().await.unwrap();
        }
        job.ack().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q4_jobs_of_a_worker_that_is_gone_come_to_another_at_once() {
    for carrier in Carrier::REMOTE {
        let world = World::new().await;
        let relay = Relay::start(world.addr(), 7).await.unwrap();
        let doomed = world.session_via(carrier, &relay).await;
        publish(&world.session(carrier).await, "work", 40).await;
        let mut first = doomed.queue("work", "crew").await.unwrap();
        let job = next(&mut first).await;
        let mut other = world.session(carrier).await.queue("work", "crew").await.unwrap();
        let since = Instant::now();
        match carrier {
            Carrier::Quic => doomed.close().await,
            _ => relay.cut(),
        }
        let mut offsets = BTreeMap::new();
        for _ in 0..40 {
            let job = next(&mut other).await;
            offsets.insert(job.offset(), job.attempt());
            job.ack().await.unwrap();
            assert!(since.elapsed() < SOON, "Q4: {:?}", since.elapsed());
            if offsets.len() == 40 {
                break;
            }
        }
        assert_eq!(offsets.keys().copied().collect::<Vec<_>>(), (0..40).collect::<Vec<_>>(), "{carrier:?}");
        let late = job.ack().await;
        assert!(late.is_err(), "Q7: the connection of that lease is gone, got {late:?}");
        assert_eq!(world.engine.status().queues[0].settled, 40);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_takes_part_again_after_its_connection_was_lost() {
    for carrier in [Carrier::Tcp, Carrier::Both] {
        let world = World::new().await;
        let relay = Relay::start(world.addr(), 3).await.unwrap();
        let session = world.session_via(carrier, &relay).await;
        publish(&world.session(Carrier::Local).await, "work", 3).await;
        let mut queue = session.queue("work", "crew").await.unwrap();
        let before = next(&mut queue).await;
        relay.cut();
        until("a reconnect", || session.status().reconnects > 0).await;
        let mut offsets = BTreeSet::new();
        while offsets.len() < 3 {
            let job = next(&mut queue).await;
            let offset = job.offset();
            if job.ack().await.is_ok() {
                offsets.insert(offset);
            }
        }
        assert!(before.ack().await.is_err(), "{carrier:?}: its lease went with the connection");
        let inboxes = || {
            let topics = world.engine.status().topics;
            topics.iter().filter(|topic| topic.name.starts_with("$queue")).count()
        };
        assert_eq!(inboxes(), 1, "{carrier:?}: the earlier one is gone");
        drop(queue);
        until("the inbox to go", || inboxes() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q4_a_job_given_back_comes_again_after_its_delay_to_another_worker_if_one_is_free() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        let mut one = world.session(carrier).await.queue("work", "crew").await.unwrap();
        let mut two = world.session(carrier).await.queue("work", "crew").await.unwrap();
        publish(&world.session(carrier).await, "work", 1).await;
        let (job, other) = tokio::select! {
            job = next(&mut one) => (job, &mut two),
            job = next(&mut two) => (job, &mut one),
        };
        let since = Instant::now();
        job.nack(Duration::from_millis(200)).await.unwrap();
        let again = next(other).await;
        assert!(since.elapsed() >= Duration::from_millis(200), "{carrier:?}");
        assert!(since.elapsed() < Duration::from_millis(200) + SOON, "{carrier:?}: Q4");
        assert_eq!(again.attempt(), 2);
        again.ack().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q5_a_message_that_fails_too_often_becomes_a_dead_letter_exactly_once() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        let session = world.session(carrier).await;
        let headers: &[(&str, &[u8])] = &[("trace", b"7f")];
        let options_of = MessageOptions::default().with_key(9).with_headers(headers);
        let mut publisher = session.publisher("work").await.unwrap();
        publisher.publish_with(&payload(1, 0), options_of).await.unwrap();
        publisher.publish(&payload(1, 1)).await.unwrap();
        let twice = options(|options| options.settings.max_deliver = Some(2));
        let mut queue = session.queue_with("work", "crew", twice).await.unwrap();
        for attempt in 1..=2 {
            let job = loop {
                let job = next(&mut queue).await;
                if job.offset() == 0 {
                    break job;
                }
                job.dead("not for me").await.unwrap();
            };
            assert_eq!(job.attempt(), attempt);
            job.nack_because(Duration::ZERO, "it burns").await.unwrap();
        }
        let mut all = SubscribeOptions::default();
        all.start = Start::All;
        let mut dead = session.subscribe_with("dead/work/crew", all).await.unwrap();
        let mut letters = HashMap::new();
        for _ in 0..2 {
            let letter = next_message(&mut dead).await;
            let header = |name: &str| {
                let value = letter.headers().unwrap().value(name).unwrap_or_default();
                String::from_utf8(value.to_vec()).unwrap()
            };
            let facts =
                ["topic", "offset", "attempts", "error"].map(|name| header(&format!("twinlane-{name}")));
            assert_eq!(header("twinlane-epoch"), session.explain("work").await.unwrap().epoch.to_string());
            letters.insert(proven(letter.payload()).1, (facts, letter.key(), header("trace")));
        }
        let facts =
            |offset: &str, attempts: &str, error: &str| ["work", offset, attempts, error].map(str::to_owned);
        assert_eq!(letters[&0], (facts("0", "2", "it burns"), Some(9), "7f".to_owned()), "{carrier:?}");
        assert_eq!(letters[&1], (facts("1", "1", "not for me"), None, String::new()), "{carrier:?}");
        let another = tokio::time::timeout(Duration::from_millis(150), dead.next()).await;
        assert!(another.is_err(), "{carrier:?}: exactly once, got {another:?}");
        nothing_comes(&mut queue, "dead letters are done").await;
        assert_eq!(world.engine.status().queues[0].dead, 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q6_with_one_in_flight_per_key_each_key_is_worked_on_in_order() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        let session = world.session(carrier).await;
        let mut publisher = session.publisher("work").await.unwrap();
        for number in 0..200_u64 {
            let options = MessageOptions::default().with_key(number % 5);
            publisher.publish_with(&payload(1, number), options).await.unwrap();
        }
        let done: Arc<Mutex<BTreeMap<u64, Vec<u64>>>> = Arc::default();
        let workers: Vec<_> = (0..3_u64)
            .map(|seed| {
                let (session, done) = (session.clone(), Arc::clone(&done));
                tokio::spawn(async move {
                    let mut random = Seeded::new(seed + 1);
                    let one = options(|options| options.settings.max_in_flight_per_key = Some(1));
                    let mut queue = session.queue_with("work", "crew", one).await.unwrap();
                    loop {
                        let job = next(&mut queue).await;
                        if job.attempt() < 4 && random.below(4) == 0 {
                            job.nack(Duration::from_millis(random.below(5))).await.unwrap();
                            continue;
                        }
                        let (key, number) = (job.key().unwrap(), number(&job));
                        done.lock().unwrap().entry(key).or_default().push(number);
                        job.ack().await.unwrap();
                    }
                })
            })
            .collect();
        until("all work to be done", || done.lock().unwrap().values().map(Vec::len).sum::<usize>() == 200)
            .await;
        for (key, numbers) in done.lock().unwrap().iter() {
            assert!(numbers.is_sorted(), "{carrier:?}: key {key} was worked on in the order {numbers:?}");
        }
        workers.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_message_is_handed_over_when_it_is_due_and_not_before() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        let session = world.session(carrier).await;
        let mut queue = session.queue("work", "crew").await.unwrap();
        let mut publisher = session.publisher("work").await.unwrap();
        let since = Instant::now();
        let late = MessageOptions::default().with_delay(Duration::from_millis(400));
        publisher.publish_with(&payload(1, 0), late).await.unwrap();
        publisher.publish(&payload(1, 1)).await.unwrap();
        let now = next(&mut queue).await;
        assert_eq!(now.offset(), 1, "{carrier:?}: the delayed one holds nobody up");
        assert_eq!(world.engine.status().queues[0].delayed, 1);
        now.ack().await.unwrap();
        let due = next(&mut queue).await;
        assert_eq!(due.offset(), 0);
        assert!(since.elapsed() >= Duration::from_millis(390), "{carrier:?}: {:?}", since.elapsed());
        assert!(since.elapsed() < Duration::from_millis(400) + SOON, "{carrier:?}: {:?}", since.elapsed());
        due.ack().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_gets_what_is_there_and_ends_in_time() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        let session = world.session(carrier).await;
        publish(&session, "work", 5).await;
        let pull = options(|options| options.prefetch = 0);
        let mut queue = session.queue_with("work", "crew", pull).await.unwrap();
        let some = queue.fetch(3, DEADLINE).await.unwrap();
        assert_eq!(some.iter().map(Job::offset).collect::<Vec<_>>(), [0, 1, 2], "{carrier:?}");
        let since = Instant::now();
        let rest = queue.fetch(10, Duration::from_millis(200)).await.unwrap();
        assert_eq!(rest.iter().map(Job::offset).collect::<Vec<_>>(), [3, 4], "{carrier:?}");
        assert!((190..1_200).contains(&since.elapsed().as_millis()), "{carrier:?}: {:?}", since.elapsed());
        assert!(queue.fetch(1, Duration::from_millis(50)).await.unwrap().is_empty());
        publish(&session, "work", 1).await;
        assert_eq!(world.engine.status().queues[0].ready, 1, "{carrier:?}: nobody wants it");
        let last = queue.fetch(1, Duration::ZERO).await.unwrap();
        for job in some.into_iter().chain(rest).chain(last) {
            job.ack().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_holds_no_more_than_its_prefetch() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        let session = world.session(carrier).await;
        publish(&session, "work", 20).await;
        let four = options(|options| options.prefetch = 4);
        let mut queue = session.queue_with("work", "crew", four).await.unwrap();
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(next(&mut queue).await);
        }
        nothing_comes(&mut queue, "four are in its hands").await;
        assert_eq!(world.engine.status().queues[0].in_flight, 4, "{carrier:?}");
        held.remove(1).ack().await.unwrap();
        assert_eq!(next(&mut queue).await.offset(), 4);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_holds_its_publishers_back_and_loses_nothing() {
    let mut config = EngineConfig::default();
    config.block_timeout = Duration::from_millis(50);
    let world = World::with(config).await;
    let spec = TopicSpec::reliable().with_retain_bytes(64 << 10).with_payload_bytes_max(1 << 10);
    world.engine.declare("work", spec).unwrap();
    let session = world.session(Carrier::Local).await;
    let mut queue = session.queue("work", "crew").await.unwrap();
    let mut publisher = session.publisher("work").await.unwrap();
    let mut stored = 0;
    let refused = loop {
        match publisher.publish(&payload(1, stored)).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, PublishError::Timeout { .. }), "{refused}");
    for offset in 0..stored {
        let job = next(&mut queue).await;
        assert_eq!((job.offset(), number(&job)), (offset, offset));
        job.ack().await.unwrap();
    }
    within("room", publisher.publish(&payload(1, stored))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_what_its_first_member_said_and_names_are_checked() {
    for carrier in Carrier::ALL {
        let world = World::new().await;
        let session = world.session(carrier).await;
        world.engine.declare("fast", TopicSpec::fast()).unwrap();
        let three = options(|options| options.settings.max_deliver = Some(3));
        let _first = session.queue_with("work", "crew", three.clone()).await.unwrap();
        let _same = session.queue_with("work", "crew", three).await.unwrap();
        let _no_wish = session.queue("work", "crew").await.unwrap();
        let four = options(|options| options.settings.max_deliver = Some(4));
        let error = session.queue_with("work", "crew", four).await.unwrap_err().to_string();
        assert!(error.contains("max_deliver is 3, not 4"), "{carrier:?}: {error}");
        let error = session.queue("fast", "crew").await.unwrap_err().to_string();
        assert!(error.contains("reliable"), "{carrier:?}: {error}");
        assert!(session.queue("work", "a/b").await.is_err(), "{carrier:?}");
        assert!(session.queue("$sys/status", "crew").await.is_err(), "{carrier:?}");
        let inboxes = world.engine.status().topics;
        let inboxes = inboxes.iter().filter(|topic| topic.name.starts_with("$queue")).count();
        assert_eq!(inboxes, 3, "{carrier:?}: who was refused leaves nothing behind");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_reads_the_jobs_of_another_session() {
    let world = World::new().await;
    let _queue = world.session(Carrier::Tcp).await.queue("work", "crew").await.unwrap();
    let inbox =
        world.engine.status().topics.into_iter().find(|topic| topic.name.starts_with("$queue")).unwrap();
    for carrier in Carrier::ALL {
        let spy = world.session(carrier).await;
        assert!(spy.subscribe(&inbox.name).await.is_err(), "{carrier:?}");
        assert!(spy.publisher(&inbox.name).await.is_err(), "{carrier:?}");
    }
}
