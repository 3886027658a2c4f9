//! socketioxide with axum, as its documentation shows it.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use socketioxide::{
    SocketIo,
    extract::{AckSender, Data, SocketRef},
};
use tokio::net::TcpListener;

use super::{Credit, QUEUE_EVENTS_MAX};
use crate::{events::fanout::CONTROL, process::loopback};

/// Serves until emitting fails.
pub(super) async fn serve(port: u16) -> Result<()> {
    // Its default of 128 packets is less than the largest window; what does not fit would be dropped.
    let (layer, io) = SocketIo::builder().max_buffer_size(QUEUE_EVENTS_MAX).build_layer();
    let credit = Arc::new(Credit::default());
    io.ns("/", async |socket: SocketRef| {
        socket.on("echo", async |Data(text): Data<String>, ack: AckSender| {
            // The client may be gone.
            ack.send(&text).ok();
        });
    });
    let given = Arc::clone(&credit);
    io.ns(CONTROL, async move |socket: SocketRef| {
        socket.on("credit", async move |Data(events): Data<u64>| given.give(events));
    });
    let listener = TcpListener::bind(loopback(port)).await?;
    let app = axum::Router::new().layer(layer);
    tokio::spawn(async { axum::serve(listener, app).await });
    let mut emitted = 0;
    loop {
        let text = credit.next(&mut emitted).await;
        io.emit("tick", &text).await.map_err(|error| anyhow!("cannot emit: {error}"))?;
    }
}
