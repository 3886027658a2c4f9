//! Queue groups when workers crash, connections are cut and the server restarts.
//!
//! The heavy one: `cargo test --release -p twinlane-tests --test all queue_faults -- --ignored --nocapture`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use twinlane::{
    Engine, EngineConfig, PublishError, QueueOptions, Session, SettleError, Start, SubscribeOptions,
    TopicSpec,
};
use twinlane_tests::{Relay, Seeded};

use crate::queue::{next, nothing_comes, number, options, publish};
use crate::world::{Carrier, World, next_message, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q3_under_cuts_and_crashes_every_message_is_acknowledged_once_or_dead() {
    let world = World::new().await;
    let relay = Relay::start(world.addr(), 5).await.unwrap();
    let acked: Arc<Mutex<BTreeSet<u64>>> = Arc::default();
    let unsure: Arc<Mutex<BTreeSet<u64>>> = Arc::default();
    publish(&world.session(Carrier::Local).await, "work", 1_000).await;
    let mut workers = Vec::new();
    for worker in 0..3_u64 {
        let session = world.session_via(Carrier::Tcp, &relay).await;
        let (acked, unsure) = (Arc::clone(&acked), Arc::clone(&unsure));
        workers.push(tokio::spawn(async move {
            let mut random = Seeded::new(worker + 10);
            let many = options(|options| {
                options.settings.max_deliver = Some(1_000);
                options.prefetch = 16;
            });
            let mut queue = session.queue_with("work", "crew", many.clone()).await.unwrap();
            loop {
                let job = next(&mut queue).await;
                let offset = job.offset();
                assert!(!acked.lock().unwrap().contains(&offset), "Q3: {offset} came after its ack");
                if random.chance(10) {
                    // A crash: the jobs of this worker are given back.
                    drop(queue);
                    queue = session.queue_with("work", "crew", many.clone()).await.unwrap();
                    continue;
                }
                match job.ack().await {
                    Ok(()) => assert!(acked.lock().unwrap().insert(offset), "Q3: two acks of {offset}"),
                    Err(SettleError::Unknown) => drop(unsure.lock().unwrap().insert(offset)),
                    Err(_) => {}
                }
            }
        }));
    }
    let cutting = async {
        loop {
            tokio::time::sleep(Duration::from_millis(150)).await;
            relay.cut();
        }
    };
    let all_done = until("all work to be done", || {
        let (acked, unsure) = (acked.lock().unwrap(), unsure.lock().unwrap());
        acked.union(&unsure).count() == 1_000
    });
    tokio::select! {
        () = cutting => {}
        () = all_done => {}
    }
    until("the group to be done", || {
        let queues = world.engine.status().queues;
        queues[0].ready + queues[0].in_flight + queues[0].delayed == 0
    })
    .await;
    workers.iter().for_each(tokio::task::JoinHandle::abort);
}

/// A million jobs, workers of which every hundredth job kills one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "heavy: a million jobs"]
async fn a_million_jobs_survive_workers_that_crash() {
    const JOBS: u64 = 1_000_000;
    for carrier in [Carrier::Local, Carrier::Tcp] {
        let world = World::new().await;
        let done: Arc<AtomicU64> = Arc::default();
        let publishing = {
            let session = world.session(carrier).await;
            tokio::spawn(async move {
                let mut publisher = session.publisher("work").await.unwrap();
                for number in 0..JOBS {
                    while let Err(error) = publisher.send(&number.to_le_bytes()).await {
                        assert!(matches!(error, PublishError::Timeout { .. }), "{error}");
                    }
                }
                publisher.flush().await.unwrap();
            })
        };
        let since = Instant::now();
        let mut workers = Vec::new();
        for worker in 0..4_u64 {
            let (session, done) = (world.session(carrier).await, Arc::clone(&done));
            workers.push(tokio::spawn(async move {
                let mut random = Seeded::new(worker + 1);
                let many = options(|options| options.settings.max_deliver = Some(100_000));
                let mut queue = session.queue_with("work", "crew", many.clone()).await.unwrap();
                let mut acks = tokio::task::JoinSet::new();
                while let Some(job) = queue.next().await {
                    if random.chance(10) {
                        drop(queue);
                        queue = session.queue_with("work", "crew", many.clone()).await.unwrap();
                        continue;
                    }
                    let done = Arc::clone(&done);
                    acks.spawn(async move {
                        if job.ack().await.is_ok() {
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                    while acks.try_join_next().is_some() {}
                }
            }));
        }
        while done.load(Ordering::Relaxed) < JOBS {
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(
                since.elapsed() < Duration::from_secs(300),
                "{carrier:?}: {:?}",
                done.load(Ordering::Relaxed)
            );
        }
        publishing.await.unwrap();
        let (seconds, row) = (since.elapsed().as_secs_f64(), world.engine.status().queues.remove(0));
        println!("{carrier:?}: {JOBS} jobs in {seconds:.1} s, {:.0} jobs/s, {row:?}", JOBS as f64 / seconds);
        assert_eq!((row.settled, row.ready, row.dead), (JOBS, 0, 0), "Q1, Q3");
        workers.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// An engine whose log outlives it, once its tasks have let go of the one before.
async fn durable_engine(dir: &std::path::Path) -> Engine {
    let mut config = EngineConfig::default();
    config.data_dir = Some(dir.join("log"));
    let mut engine = None;
    until("the log to be free", || {
        engine = Engine::new(config.clone()).ok();
        engine.is_some()
    })
    .await;
    engine.unwrap()
}

fn durable() -> QueueOptions {
    options(|options| {
        options.spec = Some(TopicSpec::durable());
        options.settings.max_deliver = Some(3);
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q2_q3_q5_acks_attempts_and_dead_letters_survive_a_restart_on_a_durable_topic() {
    let dir = tempfile::tempdir().unwrap();
    let mut letters_seen = 0;
    for life in 1..=4_u32 {
        let engine = durable_engine(dir.path()).await;
        let session = Session::local(&engine);
        let mut queue = session.queue_with("work", "crew", durable()).await.unwrap();
        if life == 1 {
            publish(&session, "work", 100).await;
        }
        let mut attempts = BTreeMap::new();
        let expected = match life {
            1 => 100,
            2 | 3 => 50,
            _ => 0,
        };
        for _ in 0..expected {
            let job = next(&mut queue).await;
            assert_eq!(number(&job), job.offset());
            attempts.insert(job.offset(), job.attempt());
            // Every other one is done at once, the rest never.
            if job.offset() % 2 == 0 {
                job.ack().await.unwrap();
            }
            let prefetched = attempts.len() % 50 == 0;
            if prefetched {
                tokio::task::yield_now().await;
            }
        }
        for (offset, attempt) in &attempts {
            assert_eq!(*attempt, life, "Q2: {offset} in life {life}");
            assert!(life == 1 || offset % 2 == 1, "Q3: {offset} was acknowledged");
        }
        if life == 4 {
            // Some may have died when the workers of the last life left, before its engine was gone.
            let letters = || engine.status().topics.into_iter().find(|topic| topic.name == "dead/work/crew");
            until("the dead letters", || letters().is_some_and(|letters| letters.next == 50)).await;
            nothing_comes(&mut queue, "all is done or dead").await;
            let mut all = SubscribeOptions::default();
            all.start = Start::All;
            let mut dead = session.subscribe_with("dead/work/crew", all).await.unwrap();
            let mut offsets = BTreeSet::new();
            for _ in 0..50 {
                let letter = next_message(&mut dead).await;
                let offset = letter.headers().unwrap().value("twinlane-offset").unwrap().to_vec();
                offsets.insert(String::from_utf8(offset).unwrap().parse::<u64>().unwrap());
                letters_seen += 1;
            }
            assert_eq!(offsets, (0..100).filter(|offset| offset % 2 == 1).collect(), "Q5: exactly once");
        }
        drop((queue, session, engine));
    }
    assert_eq!(letters_seen, 50);
}
