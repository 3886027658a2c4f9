//! The native protocol for browsers, as over TCP and QUIC: its stream and its datagrams, or its stream alone in the
//! messages of a WebSocket. Who a client is and what it may do is the engine's business.

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use twinlane::Engine;
use twinlane::gateway::{self, H3Connection};
use web_transport_quinn::quinn::{RecvStream, SendStream};

use super::message_stream::MessageStream;
use super::opening::DATAGRAM_PREFIX;

/// Where it is, on the HTTP port and on the QUIC port.
pub(crate) const NATIVE_PATH: &str = "/twinlane";

/// Serves a client on a stream of its WebTransport session, which is all of `connection`.
pub(super) fn serve_webtransport(
    engine: &Engine,
    connection: H3Connection,
    stream: (SendStream, RecvStream),
) {
    gateway::accept_webtransport(engine, connection, stream, DATAGRAM_PREFIX);
}

/// Serves a client on `socket`, whose WebSocket handshake is done; `read_ahead` was received behind it. Call it inside
/// the runtime that shall carry it: it returns at once.
pub(crate) fn serve_websocket(
    engine: &Engine,
    socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    read_ahead: Bytes,
    peer: SocketAddr,
) {
    gateway::accept_websocket(engine, Box::new(MessageStream::new(socket, read_ahead)), peer);
}
