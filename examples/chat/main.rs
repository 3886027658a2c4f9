//! A chat: browsers and terminals in the same rooms. Who is here, who types, and nothing missed after a lost connection.
//!
//! ```sh
//! cargo run --example chat                                     # then open http://127.0.0.1:4780
//! cargo run --example chat -- --terminal ann --room lobby      # the same room, from a terminal
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example shows what it does")]

mod rooms;
mod server;
mod terminal;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use twinlane::events::Events;
use twinlane::{Engine, EngineConfig, ListenOptions};
use twinlane_gateway::console::{Console, Token};
use twinlane_gateway::{Gateway, GatewayOptions, pages};

const PAGE: &[pages::File] = &[
    ("index.html", include_bytes!("page/index.html")),
    ("style.css", include_bytes!("page/style.css")),
    ("chat.js", include_bytes!("page/chat.js")),
    ("view.js", include_bytes!("page/view.js")),
    ("socket.js", include_bytes!("page/socket.js")),
    ("icon.svg", include_bytes!("page/icon.svg")),
];
/// How long those who are there get to hear that the server stops.
const DRAIN: Duration = Duration::from_secs(2);

/// A chat in the browser and in the terminal.
#[derive(Parser)]
struct Args {
    /// Where browsers connect
    #[arg(long, default_value = "127.0.0.1:4780")]
    listen: SocketAddr,
    /// Where terminals connect
    #[arg(long, default_value = "127.0.0.1:4781")]
    native: SocketAddr,
    /// Chat from this terminal, by this name, with a server that runs already
    #[arg(long, value_name = "NAME")]
    terminal: Option<String>,
    /// The room to begin in
    #[arg(long, default_value = "lobby", requires = "terminal")]
    room: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match &args.terminal {
        Some(name) => terminal::run(args.native, name, &args.room).await,
        None => serve(&args).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: &Args) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let engine = Engine::new(EngineConfig::default())?;
    let events = Events::new(&engine)?;
    server::open(&events).await?;

    let console = Console::new(&engine, Token::generate());
    let pages = pages::files("/", PAGE).merge(console.router());
    let gateway = Arc::new(Gateway::bind(&events, GatewayOptions::new(args.listen).pages(pages)).await?);
    let mut native = ListenOptions::new(args.native);
    // Both ends are on this machine.
    (native.quic, native.plain) = (false, true);
    engine.listen(native).await?;
    println!("chat      http://{}", gateway.addr());
    println!("terminal  cargo run --example chat -- --terminal NAME --room lobby");
    println!("console   {}", console.url(gateway.addr(), false));

    let shown = Arc::downgrade(&gateway);
    console.show("gateway", move || shown.upgrade().map(|gateway| gateway.status()));
    console.show("events", move || events.status());
    tokio::signal::ctrl_c().await?;
    console.close();
    gateway.shutdown(DRAIN).await;
    engine.shutdown(DRAIN).await;
    Ok(())
}
