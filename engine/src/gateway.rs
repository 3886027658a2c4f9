//! The door for gateways: clients whose bytes another crate takes in, with the native protocol in them.
//!
//! For this project's own gateway; it may change in any release. What the bytes mean is the engine's business, and who
//! may come in is decided by the session's hello as for any other client.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::config::ListenOptions;
use crate::engine::Engine;
use crate::server::{self, Listening, connection};
use crate::transport::{self, Carrier, Identity, Incoming, ListenError, ServerTls, Stream};

pub use crate::transport::{ByteStream, H3Connection, WebCertificate};

/// As [`Engine::listen`], and HTTP/3 on the QUIC port: each of its connections is handed to `on_h3`, on the thread
/// that owns it, inside its runtime.
///
/// # Errors
///
/// As [`Engine::listen`].
pub async fn listen(
    engine: &Engine,
    options: ListenOptions,
    on_h3: impl Fn(H3Connection) + Send + Sync + 'static,
) -> Result<Listening, ListenError> {
    server::listen(engine.core(), options, Some(Arc::new(on_h3))).await
}

/// What browsers are shown, whose fingerprint they are to be told. `None`: they know the server's authority, or there is
/// no HTTP/3.
#[must_use]
pub fn web_certificate(listening: &Listening) -> Option<Arc<WebCertificate>> {
    listening.web_certificate()
}

/// TLS with `identity`'s certificate for a port of the gateway's own, where `protocols` are spoken (ALPN).
///
/// # Errors
///
/// [`ListenError`] names the file that cannot be used and why.
pub fn tls_config(
    identity: &Identity,
    protocols: &[&[u8]],
) -> Result<Arc<rustls::ServerConfig>, ListenError> {
    Ok(ServerTls::new(identity)?.speaking(protocols))
}

/// What is written to `socket` waits in the system only in small amounts, so that what is written next is the newest
/// there is.
pub fn keep_short(socket: &TcpStream) {
    transport::keep_short(socket);
}

/// Takes a client whose bytes come in the messages of a WebSocket. Call it inside the runtime that shall carry it.
pub fn accept_websocket(engine: &Engine, bytes: Box<dyn ByteStream>, peer: SocketAddr) {
    let stream = Stream::foreign(bytes, Carrier::WebSocket, peer);
    connection::accept(engine.core(), Incoming { stream, datagrams: None });
}

/// Takes a client that opened `stream` in the WebTransport session which is all of `connection`, behind the header of
/// that stream. Datagrams of the session begin with `prefix`.
pub fn accept_webtransport(
    engine: &Engine,
    connection: H3Connection,
    stream: (quinn::SendStream, quinn::RecvStream),
    prefix: &[u8],
) {
    connection::accept(engine.core(), connection.into_client(stream, prefix));
}
