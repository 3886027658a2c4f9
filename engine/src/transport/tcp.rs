//! TCP sockets, with TLS or plain.
//!
//! Sockets are set up here and the handshake is made here; accepting, limits and deadlines of a server are the
//! listener's.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::AlertDescription;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::ALPN;
use super::buffered::Buffered;
use super::error::ConnectError;
use super::limits::Refusal;
use super::stream::Stream;
use super::trust::{Check, ClientTls};

/// Connections that wait for `accept`: a burst of clients that reconnect at once must not be dropped by the kernel.
const BACKLOG: i32 = 4_096;

/// Unsent bytes that a socket may hold: 32 ms of a link of 1 Mbit/s. What the network takes at once is never unsent, so
/// it bounds no path that is faster than its reader.
const SHORT_BACKLOG_BYTES: u32 = 4 << 10;

/// Connects to `addr` over TCP, with TLS unless `tls` is `None`.
///
/// `server_name` is what the certificate is checked for. The whole call takes at most `timeout`. Cancel-safe: a
/// dropped future has closed its socket.
///
/// # Errors
///
/// [`ConnectError`] says whether the server was not reached, is someone else, or does not speak the protocol.
pub(crate) async fn connect_tcp(
    addr: SocketAddr,
    server_name: &str,
    tls: Option<&ClientTls>,
    timeout: Duration,
) -> Result<Stream, ConnectError> {
    #[cfg(feature = "simulation")]
    if let Some(connecting) = super::simulated::connect(addr, super::stream::Carrier::Tcp, timeout) {
        return connecting.await.map(|(stream, _)| stream);
    }
    let check = tls.map(|tls| tls.check(server_name, addr.port())).transpose()?;
    let connecting = async {
        let unreachable = |source| ConnectError::Unreachable { addr, source };
        let socket = dial(addr).await.map_err(unreachable)?;
        match check {
            None => Ok(Stream::plain(socket, addr, None)),
            Some(check) => secure(socket, addr, &check).await,
        }
    };
    match tokio::time::timeout(timeout, connecting).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ConnectError::Timeout { addr, timeout }),
    }
}

async fn dial(addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if addr.ip().is_loopback() {
        refuse_pacing(&SockRef::from(&socket));
    }
    let socket = socket.connect(addr).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// A listening socket. With `shared`, several of them may listen on one port and the kernel spreads connections.
pub(super) fn listen(addr: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = bound(addr, shared)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A bound socket that does not listen: whoever gets it knows that nobody else listens on that port.
pub(super) fn bound(addr: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // Or a restarted server would wait a minute for its old connections to be forgotten.
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if addr.is_ipv6() {
        // What is bound is what was asked for: `::` does not take IPv4 connections too.
        socket.set_only_v6(true)?;
    }
    if addr.ip().is_loopback() {
        refuse_pacing(&SockRef::from(&socket));
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// Connections of `socket` send at once what they may send, also where the system's congestion control, as BBR does,
/// spreads it over time by a timer for each piece. Within one machine there is no path to spare. Before the connection
/// is made, or never: who is paced stays so. Accepted connections are as their listener is.
fn refuse_pacing(socket: &SockRef<'_>) {
    #[cfg(target_os = "linux")]
    // Every kernel has this one and lets everybody use it; without it all works, only slower.
    let _ = socket.set_tcp_congestion(b"reno");
    let _ = socket;
}

/// From now on `socket` takes more only when little of what it has is unsent. What waits does so in the rings, where
/// messages that wait for one another get into one write with one header and one TLS record, and where an old value can
/// still be replaced by a new one. It costs a wake for every few kilobytes on a slow path.
pub(crate) fn keep_short(socket: &TcpStream) {
    // Fails only on a connection that is gone.
    let _ = SockRef::from(socket).set_tcp_notsent_lowat(SHORT_BACKLOG_BYTES);
}

/// The server's side of the TLS handshake. The caller bounds its time.
pub(super) async fn accept(
    acceptor: &TlsAcceptor,
    socket: TcpStream,
) -> Result<TlsStream<Buffered>, (Refusal, String)> {
    match acceptor.accept(Buffered::new(socket)).await {
        Ok(tls) if tls.get_ref().1.alpn_protocol() == Some(ALPN) => Ok(tls.into()),
        Ok(_) => Err((Refusal::WrongAlpn, "the peer named no protocol".to_owned())),
        Err(error) => {
            let why = match tls_error(&error) {
                Some(rustls::Error::NoApplicationProtocol) => Refusal::WrongAlpn,
                _ => Refusal::HandshakeFailed,
            };
            Err((why, error.to_string()))
        }
    }
}

/// The client's side of the TLS handshake.
async fn secure(socket: TcpStream, addr: SocketAddr, check: &Check) -> Result<Stream, ConnectError> {
    let connector = TlsConnector::from(Arc::clone(&check.config));
    let tls = connector
        .connect(check.name.clone(), Buffered::new(socket))
        .await
        .map_err(|error| check.mismatch().unwrap_or_else(|| failure(addr, error)))?;
    if tls.get_ref().1.alpn_protocol() != Some(ALPN) {
        return Err(ConnectError::WrongAlpn { addr });
    }
    check.remember()?;
    Ok(Stream::tls(tls.into(), addr, None))
}

fn failure(addr: SocketAddr, error: io::Error) -> ConnectError {
    match tls_error(&error) {
        Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
            ConnectError::WrongAlpn { addr }
        }
        Some(rustls::Error::InvalidCertificate(why)) => {
            ConnectError::Certificate { addr, detail: format!("{why:?}") }
        }
        Some(other) => ConnectError::Handshake { addr, detail: other.to_string() },
        None if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            ConnectError::ClosedByServer { addr }
        }
        None => ConnectError::Unreachable { addr, source: error },
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_within_one_machine_are_not_paced() {
        let listener = listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let addr = listener.local_addr().unwrap();
        let (dialled, accepted) = tokio::join!(dial(addr), listener.accept());
        for socket in [dialled.unwrap(), accepted.unwrap().0] {
            let congestion = SockRef::from(&socket).tcp_congestion().unwrap();
            assert!(congestion.starts_with(b"reno"), "{}", congestion.escape_ascii());
        }
    }
}
