//! twinlane inside a program: no server, no socket.
//!
//! `cargo run --release -p twinlane-examples --example embed`
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use twinlane::{Delivery, Engine, EngineConfig, Session, TopicSpec};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::new(EngineConfig::default())?;
    engine.declare("orders", TopicSpec::reliable())?;

    let session = Session::local(&engine);
    let mut orders = session.subscribe("orders").await?;
    let ack = session.publisher("orders").await?.publish(b"one tea").await?;
    println!("stored as message {} of its publisher, at offset {:?}", ack.seq, ack.offset);

    if let Some(Delivery::Message(message)) = orders.next().await {
        println!("{}: {}", message.topic(), String::from_utf8_lossy(message.payload()));
    }
    Ok(())
}
