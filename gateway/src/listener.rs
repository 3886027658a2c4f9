//! The accept loop, and HTTP/1 on each connection.
//!
//! Nothing that a client does, and nothing that the system refuses, ends the loop.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::admission::Permit;
use crate::http::{self, Peer};
use crate::shared::{Shared, Stop};
use crate::stream::Stream;

/// After an error of the system, which most often means that it has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A request's head, and what of a body is read at a time.
const READ_BYTES_MAX: usize = 16 << 10;
/// Browsers send about twenty.
const HEADERS_MAX: usize = 64;

/// Accepts connections until the gateway stops.
pub(crate) async fn accept(shared: Arc<Shared>, listener: TcpListener, tls: Option<TlsAcceptor>) {
    let _task = shared.task();
    let mut stopping = shared.stopping();
    loop {
        let accepted = tokio::select! {
            _ = stopping.wait_for(|stop| *stop != Stop::Not) => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                shared.counters.accept_error();
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match shared.connections.admit(address.ip()) {
            Ok(permit) => {
                tokio::spawn(serve(Arc::clone(&shared), socket, address, permit, tls.clone()));
            }
            Err(full) => shared.counters.refused_connection(full),
        }
    }
}

async fn serve(
    shared: Arc<Shared>,
    socket: TcpStream,
    address: SocketAddr,
    permit: Permit,
    tls: Option<TlsAcceptor>,
) {
    let _task = shared.task();
    // Packets are small, and each is waited for.
    let _ = socket.set_nodelay(true);
    let secure = tls.is_some();
    let stream = match tls {
        None => Stream::plain(socket, permit),
        Some(tls) => {
            let handshake = tokio::time::timeout(shared.options.http.header_timeout, tls.accept(socket));
            match handshake.await {
                Ok(Ok(socket)) => Stream::tls(socket, permit),
                Ok(Err(_)) | Err(_) => return shared.counters.tls_error(),
            }
        }
    };
    let peer = Peer { address, secure };
    let requests = Arc::clone(&shared);
    let service = service_fn(move |request| {
        let answer = http::answer(Arc::clone(&requests), peer, request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(shared.options.http.header_timeout)
        .max_buf_size(READ_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let mut stopping = shared.stopping();
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, peer = %address, "an HTTP connection ended");
                }
                return;
            }
            _ = stopping.changed() => {
                if shared.stop() == Stop::Now {
                    return;
                }
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
