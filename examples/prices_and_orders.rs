//! A fast and a reliable topic side by side, over the network (loopback) inside one process.
//!
//! Prices may be lost and nobody waits for them; orders are each acknowledged and come in order.
//!
//! `cargo run --release -p twinlane-examples --example prices_and_orders`
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use twinlane::{
    ConnectOptions, Delivery, Engine, EngineConfig, ListenOptions, Session, Subscription, TopicSpec, Trust,
};

const PRICES: u64 = 10_000;
const ORDERS: u64 = 100;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The server: two topics, TCP and QUIC on one port, a certificate made in memory.
    let engine = Engine::new(EngineConfig::default())?;
    engine.declare("prices", TopicSpec::fast())?;
    engine.declare("orders", TopicSpec::reliable())?;
    let listening = engine.listen(ListenOptions::new("127.0.0.1:0".parse()?)).await?;
    let fingerprint = listening.fingerprint().ok_or("TLS is on by default")?;

    // A client that listens, and one that speaks.
    let connect = async || {
        Session::connect(ConnectOptions::new(listening.url(), Trust::Fingerprint(fingerprint))).await
    };
    let (listener, speaker) = (connect().await?, connect().await?);
    let status = listener.status();
    println!(
        "orders travel over {}, prices over {} ({})",
        status.reliable_over, status.fast_over, status.why
    );

    let prices = tokio::spawn(read(listener.subscribe("prices").await?, PRICES));
    let orders = tokio::spawn(read(listener.subscribe("orders").await?, ORDERS));
    let mut price_publisher = speaker.publisher("prices").await?;
    let mut order_publisher = speaker.publisher("orders").await?;
    for tick in 1..=PRICES {
        price_publisher.publish(&tick.to_le_bytes()).await?;
        if tick % (PRICES / ORDERS) == 0 {
            order_publisher.publish(format!("buy at price {tick}").as_bytes()).await?;
        }
    }
    price_publisher.close().await?;
    println!("published {PRICES} prices and {ORDERS} orders");

    let (prices, orders) = (prices.await?, orders.await?);
    println!("prices: {} delivered, {} lost and reported", prices.delivered, prices.lost);
    println!("orders: {} delivered, {} lost", orders.delivered, orders.lost);
    assert_eq!(orders.delivered, ORDERS, "a reliable topic loses nothing");
    engine.shutdown(Duration::from_secs(1)).await;
    Ok(())
}

/// Reads until `messages` are accounted for, delivered or reported missing.
async fn read(mut subscription: Subscription, messages: u64) -> twinlane::SubscriptionStats {
    while subscription.stats().delivered + subscription.stats().lost < messages {
        match subscription.next().await {
            Some(Delivery::Gap(gap)) => println!("gap: {gap}"),
            Some(_) => {}
            None => break,
        }
    }
    subscription.stats()
}
