//! Positions on a map: of each car only the newest counts, and an old one is not shown at all.
//!
//! Fifty cars send their positions through a relay that loses, repeats and delays datagrams, to a map that takes its
//! time. The map skips what is out of date and knows how much that was; when the cars stop it shows where each stands.
//!
//! `cargo run --release -p twinlane-examples --example live_map`
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use twinlane::{
    ConnectOptions, Delivery, Engine, EngineConfig, ListenOptions, MessageOptions, Mode, Session,
    Subscription, SubscriptionStats, TopicSpec, Transports, Trust,
};
use twinlane_tests::{Relay, UdpFaults};

const SEED: u64 = 7;
const CARS: u64 = 50;
const ROUNDS: u64 = 400;
/// One position in five or so is lost, comes twice or comes late.
const FAULTS: UdpFaults = UdpFaults { lose_permille: 100, repeat_permille: 20, delay_permille: 100 };

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::new(EngineConfig::default())?;
    // The newest position of each car, and none that waited for more than two seconds.
    let positions = TopicSpec::fast().with_mode(Mode::Latest).with_deadline(Duration::from_secs(2));
    engine.declare("positions", positions)?;
    let listening = engine.listen(ListenOptions::new("127.0.0.1:0".parse()?)).await?;
    let trust = Trust::Fingerprint(listening.fingerprint().ok_or("TLS is on by default")?);

    let relay = Relay::start(listening.addr(), SEED).await?;
    let mut options = ConnectOptions::new(relay.addr().to_string(), trust);
    options.transports = Transports::QuicOnly;
    let map = Session::connect(options).await?.subscribe("positions").await?;
    relay.disturb(FAULTS);
    let map = tokio::spawn(show(map));

    let mut cars = Session::local(&engine).publisher("positions").await?;
    for round in 1..=ROUNDS {
        for car in 0..CARS {
            let position = [car, round].map(u64::to_le_bytes).concat();
            cars.send_with(&position, MessageOptions::default().with_key(car)).await?;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let stopped = Instant::now();

    let (stats, settled) = map.await??;
    println!("the relay lost {} of {} datagrams (seed {SEED})", relay.lost(), relay.datagrams());
    println!("{} positions of {CARS} cars were published", CARS * ROUNDS);
    println!(
        "{} shown, {} replaced by newer ones, {} lost, {} expired",
        stats.delivered, stats.coalesced, stats.lost, stats.expired
    );
    println!("the map showed the last position of every car {:?} after they stopped", settled - stopped);
    Ok(())
}

/// Shows positions until each car is where it stopped; the counts, and when that was.
async fn show(mut positions: Subscription) -> Result<(SubscriptionStats, Instant), String> {
    let mut rounds: HashMap<u64, u64> = HashMap::new();
    while rounds.len() < CARS as usize || rounds.values().any(|round| *round < ROUNDS) {
        let Some(delivery) = positions.next().await else { return Err("the subscription ended".to_owned()) };
        let Delivery::Message(message) = delivery else { continue };
        let number = |at: usize| message.payload()[at..at + 8].try_into().map(u64::from_le_bytes);
        let (Ok(car), Ok(round)) = (number(0), number(8)) else { return Err("no position".to_owned()) };
        if rounds.insert(car, round).is_some_and(|shown| shown >= round) {
            return Err(format!("car {car} went back in time"));
        }
        // Drawing takes a while: more positions come than can be shown.
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    Ok((positions.stats(), Instant::now()))
}
