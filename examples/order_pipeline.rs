//! An order pipeline: two workers bill orders, one of them crashes, one order is beyond help.
//!
//! No order is lost and none is billed twice: the crashed worker's orders go to the other one, and the order that
//! fails each time ends among the dead letters. The words are explained in `docs/QUEUES.md`.
//!
//! `cargo run --release -p twinlane-examples --example order_pipeline`
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use twinlane::{
    ConnectOptions, Delivery, Engine, EngineConfig, ListenOptions, MessageOptions, QueueOptions, Session,
    Start, SubscribeOptions, TopicSpec, Trust,
};

const ORDERS: u64 = 100;
/// The order that nobody can bill.
const CURSED: &str = "order 13";
/// After so many jobs the first worker crashes.
const CRASH_AFTER: usize = 20;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Billed = Arc<Mutex<BTreeSet<String>>>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let engine = Engine::new(EngineConfig::default())?;
    engine.declare("orders", TopicSpec::reliable())?;
    let listening = engine.listen(ListenOptions::new("127.0.0.1:0".parse()?)).await?;
    let fingerprint = listening.fingerprint().ok_or("TLS is on by default")?;
    let connect = async || {
        Session::connect(ConnectOptions::new(listening.url(), Trust::Fingerprint(fingerprint))).await
    };

    // Orders may come before there is anybody to work on them. The key keeps those of one customer in order.
    let mut orders = connect().await?.publisher("orders").await?;
    for number in 0..ORDERS {
        let customer = MessageOptions::default().with_key(number % 10);
        orders.publish_with(format!("order {number}").as_bytes(), customer).await?;
    }
    println!("published {ORDERS} orders");

    let billed = Billed::default();
    let crashing = tokio::spawn(bill(connect().await?, Arc::clone(&billed), CRASH_AFTER));
    let steady = tokio::spawn(bill(connect().await?, Arc::clone(&billed), usize::MAX));
    crashing.await??;
    println!("one worker crashed after {CRASH_AFTER} jobs with others in its hands");

    // What cannot be billed ends here, with the reason.
    let session = connect().await?;
    let mut all = SubscribeOptions::default();
    all.start = Start::All;
    let mut dead = session.subscribe_with("dead/orders/billing", all).await?;
    let Some(Delivery::Message(letter)) = dead.next().await else { return Err("no dead letter".into()) };
    let why = letter.headers().and_then(|headers| headers.value("twinlane-error")).unwrap_or_default();
    let (order, why) = (String::from_utf8_lossy(letter.payload()), String::from_utf8_lossy(why));
    println!("dead letter: {order} ({why})");
    assert_eq!(order, CURSED);

    while billed.lock().map_err(|_| "a worker panicked")?.len() < ORDERS as usize - 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    steady.abort();
    let row = session.server_status().await?.queues.remove(0);
    println!("billed {} orders, {} dead, {} left", row.settled, row.dead, row.ready + row.in_flight);
    assert_eq!((row.settled, row.dead, row.ready, row.in_flight), (ORDERS - 1, 1, 0, 0));
    engine.shutdown(Duration::from_secs(1)).await;
    Ok(())
}

/// Bills orders until it crashes after `jobs` of them.
async fn bill(session: Session, billed: Billed, jobs: usize) -> Result<(), Failure> {
    let mut options = QueueOptions::default();
    options.prefetch = 8;
    // One order of a customer at a time, in the order they came.
    options.settings.max_in_flight_per_key = Some(1);
    let mut queue = session.queue_with("orders", "billing", options).await?;
    for _ in 0..jobs {
        let Some(job) = queue.next().await else { break };
        let order = String::from_utf8_lossy(job.payload()).into_owned();
        if order == CURSED {
            job.nack_because(Duration::from_millis(10), "the customer moved away").await?;
            continue;
        }
        // The effect comes before the ack: after a crash in between, the order comes again and is billed already.
        billed.lock().map_err(|_| "a worker panicked")?.insert(order);
        job.ack().await?;
    }
    Ok(())
}
