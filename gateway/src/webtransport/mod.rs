//! WebTransport on the engine's QUIC port, for browsers: HTTP/3 beside the native protocol, told apart by ALPN.
//!
//! A session is one QUIC connection, and what it is for is said by its path: `/twinlane` carries the native protocol on
//! the first stream and in datagrams, the Socket.IO path one Engine.IO transport on the first stream. Which pages may
//! come is the gateway's one rule of origins. Later streams of a session are never taken.

mod message_stream;
pub(crate) mod native;
mod opening;
mod stream_pipe;

use std::sync::Arc;
use std::time::Duration;

use twinlane::gateway::{self, H3Connection, WebCertificate};
use twinlane::{Engine, ListenError, ListenOptions, Listening};
use web_transport_quinn::Session;
use web_transport_quinn::quinn::Connection;

use crate::gateway::Gateway;
use crate::shared::{Shared, Stop};
use opening::{Opening, Purpose, Refused};

/// From the end of a QUIC handshake to a session's first words: two lost packets on a bad mobile link.
const OPENING_DEADLINE: Duration = Duration::from_secs(5);
/// How long a refused client has to read why.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(2);
/// Nothing is wrong (RFC 9114).
const H3_NO_ERROR: u32 = 0x100;
/// The client did not say what it wants, or not in time (RFC 9114).
const H3_REQUEST_INCOMPLETE: u32 = 0x10d;

/// Where WebTransport is, for pages that want to connect.
pub(crate) struct Advertised {
    port: u16,
    certificate: Option<Arc<WebCertificate>>,
}

impl Gateway {
    /// Opens `engine` to native clients, as [`Engine::listen`] does, and its QUIC port to browsers: WebTransport for
    /// Socket.IO clients and for the native protocol. The gateway's rule of origins holds there, too.
    ///
    /// A page reads at `/twinlane/webtransport` on the gateway's port which port that is, and what to give
    /// `serverCertificateHashes` while the server's certificate is self-signed: browsers take such a one by its
    /// fingerprint only if it is valid for less than two weeks, so they are shown one of their own, which is made
    /// at the start and replaced every six days. Where an authority vouches for the server, both are shown its
    /// certificate.
    ///
    /// With the same port number as the gateway's (and [`ListenOptions::tcp`] off) clients can upgrade from
    /// polling to WebTransport.
    ///
    /// # Errors
    ///
    /// [`ListenError`] says what to change.
    pub async fn listen(&self, engine: &Engine, options: ListenOptions) -> Result<Listening, ListenError> {
        let door = Door { shared: Arc::clone(self.shared()), engine: engine.clone() };
        let listening = gateway::listen(engine, options, move |connection| {
            tokio::spawn(serve(door.clone(), connection));
        })
        .await?;
        let certificate = gateway::web_certificate(&listening);
        let advertised = Advertised { port: listening.addr().port(), certificate };
        // A second port is served as well, and not shown.
        let _ = self.shared().web_transport.set(advertised);
        Ok(listening)
    }
}

impl Advertised {
    /// The port for QUIC.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What a page reads.
    pub(crate) fn json(&self) -> serde_json::Value {
        let hash = |certificate: &Arc<WebCertificate>| serde_json::json!({ "algorithm": "sha-256", "value": certificate.fingerprint().to_string() });
        let hashes: Vec<_> = self.certificate.iter().map(hash).collect();
        serde_json::json!({ "port": self.port, "serverCertificateHashes": hashes })
    }
}

/// Who may come in, and to what.
#[derive(Clone)]
struct Door {
    shared: Arc<Shared>,
    engine: Engine,
}

async fn serve(door: Door, connection: H3Connection) {
    let quic = connection.quic().clone();
    let mut stopping = door.shared.stopping();
    let opened = tokio::select! {
        opened = tokio::time::timeout(OPENING_DEADLINE, Opening::of(&door.shared, &connection)) => opened,
        _ = stopping.wait_for(|stop| *stop != Stop::Not) => {
            return quic.close(H3_NO_ERROR.into(), b"the server is closing");
        }
    };
    match opened {
        Ok(Ok(Opening { session, stream, purpose: Purpose::Native })) => {
            native::serve_webtransport(&door.engine, connection, stream);
            tokio::spawn(keep(session));
        }
        Ok(Ok(Opening { session, stream, purpose: Purpose::EngineIo(handshake) })) => {
            opening::first_packet(&door.shared, connection, session, stream, *handshake).await;
            tokio::spawn(drain(quic));
        }
        Ok(Err(Refused::Told(refusal))) => {
            door.shared.counters.refused(&refusal);
            let _ = tokio::time::timeout(REFUSAL_DEADLINE, quic.closed()).await;
            quic.close(H3_NO_ERROR.into(), b"");
        }
        Ok(Err(Refused::Broken(why))) => {
            tracing::debug!(peer = %connection.peer(), why, "no WebTransport session");
            quic.close(H3_REQUEST_INCOMPLETE.into(), b"");
        }
        Err(_) => quic.close(H3_REQUEST_INCOMPLETE.into(), b"too slow"),
    }
}

/// A session lives on its CONNECT stream, which goes with this. Apart, because what opened it was a larger task.
async fn keep(session: Session) {
    session.closed().await;
}

/// Engine.IO has no datagrams: a client that sends some fills no buffer with them.
async fn drain(quic: Connection) {
    while quic.read_datagram().await.is_ok() {}
}
