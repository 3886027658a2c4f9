//! The server of the browser tests: twinlane's event layer behind a gateway, with the scenarios that
//! `tests/browser/reference` has for Socket.IO's own server. Side by side they show how a line of JavaScript looks in Rust.
//!
//! It does what tests ask of it in namespace `/control` and nothing else, and ends with its standard input.
#![forbid(unsafe_code)]

mod any;
mod api;
mod lines;
mod options;
mod scenarios;
mod sockets;

use std::io::{Read, Write};
use std::sync::Arc;

use any::Any;
use options::Options;
use serde_json::{Value, json};
use twinlane::events::{Event, Events, Socket};
use twinlane::{Engine, EngineConfig, ListenOptions};
use twinlane_gateway::Gateway;

/// Whatever goes wrong; a test reads its text.
type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let options: Options = match std::env::args().nth(1) {
        Some(json) => serde_json::from_str(&json)?,
        None => Options::default(),
    };
    let engine = Engine::new(EngineConfig::default())?;
    let io = Events::with(&engine, options.events())?;
    let gateway = match options.echo {
        true => twinlane_gateway::testing::echo(options.gateway()?).await?,
        false => Gateway::bind(&io, options.gateway()?).await?,
    };
    let gateway = Arc::new(gateway);
    let mut quic = ListenOptions::new(gateway.addr());
    quic.tcp = false;
    let _listening = if options.webtransport() { Some(gateway.listen(&engine, quic).await?) } else { None };
    if options.suite {
        sockets::suite(&io)?;
    } else {
        control(&io, &gateway)?;
    }
    writeln!(std::io::stdout(), "{}", json!({ "port": gateway.addr().port() }))?;
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    gateway.shutdown(std::time::Duration::from_secs(2)).await;
    Ok(())
}

/// Runs the scenarios that tests ask for.
fn control(io: &Events, gateway: &Arc<Gateway>) -> Result<(), Failure> {
    let world = sockets::meet(io, Arc::clone(gateway));
    let io = io.clone();
    io.of("/control")?.on_connection(move |socket: Socket| {
        let (io, world) = (io.clone(), world.clone());
        async move {
            socket.on("run", move |_, event: Event| {
                let (io, world) = (io.clone(), world.clone());
                async move {
                    let name: String = event.arg(0)?;
                    // After the event's own name and the scenario's.
                    let arguments = Any::arguments(event.payload())?.into_iter().nth(2).unwrap_or_default();
                    let answer = match scenarios::run(&name, &io, arguments, &world).await {
                        Ok(value) => Any::object([("value", value)]),
                        Err(failure) => Any::object([("error", failure.to_string().into())]),
                    };
                    event.ack(&answer);
                    Ok::<_, Failure>(())
                }
            });
        }
    });
    Ok(())
}

/// A JSON value as an answer.
fn plain(value: impl Into<Value>) -> Result<Any, Failure> {
    Ok(Any::from(value.into()))
}
