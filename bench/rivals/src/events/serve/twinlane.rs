//! twinlane's event layer behind its gateway.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use twinlane::{
    Engine, EngineConfig,
    events::{Event, Events, Socket},
};
use twinlane_gateway::{Gateway, GatewayOptions};

use super::Credit;
use crate::{events::fanout::CONTROL, process::loopback};

/// More than any workload has.
const CONNECTIONS_MAX: usize = 20_000;

/// Serves until emitting fails.
pub(super) async fn serve(port: u16) -> Result<()> {
    let engine = Engine::new(EngineConfig::default())?;
    let io = Events::new(&engine)?;
    let everybody = io.of("/")?;
    everybody.on_connection(async |socket: Socket| {
        socket.on("echo", async |_, event: Event| {
            let text: String = event.arg(0)?;
            event.ack(&text);
            serde_json::Result::Ok(())
        });
    });
    let credit = Arc::new(Credit::default());
    let given = Arc::clone(&credit);
    io.of(CONTROL)?.on_connection(move |socket: Socket| {
        let given = Arc::clone(&given);
        async move {
            socket.on("credit", move |_, event: Event| {
                let events = event.arg(0).map(|events| given.give(events));
                async move { events }
            });
        }
    });
    let mut options = GatewayOptions::new(loopback(port));
    // Its default of 10,000 leaves none for the client that gives credit.
    options.http.connections_max = CONNECTIONS_MAX;
    let _gateway = Gateway::bind(&io, options).await?;
    let mut emitted = 0;
    loop {
        let text = credit.next(&mut emitted).await;
        everybody.emit("tick", &text).await.context("cannot emit")?;
    }
}
