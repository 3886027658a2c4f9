//! Topics in a browser by the native protocol: `cargo run -p twinlane-gateway --example topics_for_browsers -- FOLDER [ADDRESS]`
//! serves the pages in FOLDER, and to them two topics, `orders` (reliable) and `ticks` (fast, 100 a second), and a
//! namespace `/chat` where what one says is heard by the others.
//!
//! `clients/browser` has the TypeScript client and, in `test/page.html`, a page that uses it.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use twinlane::events::{Binary, Event, Events, HandlerError, Socket};
use twinlane::{Engine, EngineConfig, ListenOptions, Session, TopicSpec};
use twinlane_gateway::{Gateway, GatewayOptions, Router};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "it says where it is")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("say which folder to serve")?);
    let addr = std::env::args().nth(2).unwrap_or_else(|| "127.0.0.1:0".to_owned()).parse()?;
    let engine = Engine::new(EngineConfig::default())?;
    engine.declare("orders", TopicSpec::reliable())?;
    engine.declare("ticks", TopicSpec::fast())?;

    let events = Events::new(&engine)?;
    events.of("/chat")?.on_connection(|socket: Socket| async move {
        socket.on("say", |socket: Socket, event: Event| async move {
            let payload: serde_json::Value = event.arg(0)?;
            socket.broadcast().emit("said", &payload).await?;
            event.ack(&payload);
            Ok::<_, HandlerError>(())
        });
        socket.on("show", |socket: Socket, event: Event| async move {
            let picture: Binary = event.arg(0)?;
            socket.broadcast().emit("shown", &picture).await?;
            event.ack(&picture);
            Ok::<_, HandlerError>(())
        });
    });
    let pages = Router::new().fallback(move |request: Request| page(folder.clone(), request));
    let mut options = GatewayOptions::new(addr).pages(pages);
    options.native = Some(engine.clone());
    let gateway = Gateway::bind(&events, options).await?;
    // WebTransport on the UDP port of the same number.
    let mut options = ListenOptions::new(gateway.addr());
    options.tcp = false;
    let _listening = gateway.listen(&engine, options).await?;
    println!("http://{}", gateway.addr());

    let session = Session::local(&engine);
    let mut ticks = session.publisher("ticks").await?;
    for tick in 0_u32.. {
        ticks.send(&tick.to_le_bytes()).await?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// A file in `folder`.
async fn page(folder: PathBuf, request: Request<Body>) -> Response {
    let path = Path::new(request.uri().path().trim_start_matches('/'));
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let content_type = match path.extension().and_then(|extension| extension.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript",
        _ => "application/octet-stream",
    };
    match std::fs::read(folder.join(path)) {
        Ok(bytes) => ([(CONTENT_TYPE, content_type)], bytes).into_response(),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}
