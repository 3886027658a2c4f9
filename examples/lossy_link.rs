//! One lossy link, two topics: the fast one goes on at once and reports each gap, the reliable one arrives whole.
//!
//! A relay between client and server loses 5 % of the UDP datagrams, repeats 2 % and delays 10 %, from a seed.
//!
//! `cargo run --release -p twinlane-examples --example lossy_link`
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::{Duration, Instant};

use twinlane::{
    ConnectOptions, Delivery, Engine, EngineConfig, ListenOptions, Session, Subscription, SubscriptionStats,
    TopicSpec, Transports, Trust,
};
use twinlane_tests::{Relay, UdpFaults};

const SEED: u64 = 7;
const MESSAGES: u64 = 2_000;
const FAULTS: UdpFaults = UdpFaults { lose_permille: 50, repeat_permille: 20, delay_permille: 100 };
/// Gaps printed one by one.
const GAPS_SHOWN: usize = 5;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::new(EngineConfig::default())?;
    engine.declare("fast", TopicSpec::fast())?;
    engine.declare("reliable", TopicSpec::reliable())?;
    let listening = engine.listen(ListenOptions::new("127.0.0.1:0".parse()?)).await?;
    let trust = Trust::Fingerprint(listening.fingerprint().ok_or("TLS is on by default")?);

    // The reader comes through the relay, with everything over QUIC: both topics suffer the same losses.
    let relay = Relay::start(listening.addr(), SEED).await?;
    let mut options = ConnectOptions::new(relay.addr().to_string(), trust);
    options.transports = Transports::QuicOnly;
    let reader = Session::connect(options).await?;
    let fast = reader.subscribe("fast").await?;
    let reliable = reader.subscribe("reliable").await?;
    relay.disturb(FAULTS);

    let began = Instant::now();
    let fast = tokio::spawn(read(fast));
    let reliable = tokio::spawn(read(reliable));
    let session = Session::local(&engine);
    let (mut to_fast, mut to_reliable) =
        (session.publisher("fast").await?, session.publisher("reliable").await?);
    for number in 1..=MESSAGES {
        to_fast.publish(&[7; 200]).await?;
        to_reliable.publish(&[7; 200]).await?;
        if number % 10 == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    to_fast.close().await?;

    let (fast, reliable) = (fast.await?, reliable.await?);
    println!("the relay lost {} of {} datagrams (seed {SEED})", relay.lost(), relay.datagrams());
    println!("fast:     {} delivered, {} lost, each one reported", fast.delivered, fast.lost);
    println!("reliable: {} delivered, {} lost", reliable.delivered, reliable.lost);
    println!("{MESSAGES} messages on each in {:.1} s", began.elapsed().as_secs_f64());
    assert_eq!(reliable.delivered, MESSAGES, "a reliable topic loses nothing");
    Ok(())
}

/// Reads until every message is accounted for; shows the first gaps.
async fn read(mut subscription: Subscription) -> SubscriptionStats {
    let mut gaps = 0;
    while subscription.stats().delivered + subscription.stats().lost < MESSAGES {
        match subscription.next().await {
            Some(Delivery::Gap(gap)) => {
                gaps += 1;
                if gaps <= GAPS_SHOWN {
                    println!("gap: {gap}");
                }
            }
            Some(_) => {}
            None => break,
        }
    }
    if gaps > GAPS_SHOWN {
        println!("and {} more gaps", gaps - GAPS_SHOWN);
    }
    subscription.stats()
}
