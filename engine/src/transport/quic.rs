//! QUIC: one connection carries a [`Stream`] and [`Datagrams`].
//!
//! quinn's datagram queue drops the oldest and knows no deadline, so it is kept short ([`Datagrams::poll_room`]): queueing
//! is the layer above's work. `endpoint` sets quinn's knobs.

mod endpoint;

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use quinn::crypto::rustls::{HandshakeData, QuicClientConfig};
use quinn::{ConnectionError, SendDatagramError, TransportErrorCode, VarInt};
use rustls::AlertDescription;

use self::endpoint::{DATAGRAM_SEND_BYTES, H3_STREAMS_MAX, client_endpoint, transport_config};
pub(super) use self::endpoint::{bind_udp, server_endpoint};
use super::congestion::{Fresh, Room, SendState};
use super::error::ConnectError;
use super::limits::{OpenConnection, Refusal};
use super::link_fault::LinkFault;
use super::stream::{Carrier, Stream};
use super::trust::ClientTls;
use super::{ALPN, H3, printable};
use crate::lock::lock;

/// Above this many handshakes the server asks unknown addresses to prove that they receive there (Retry).
pub(super) const RETRY_ABOVE_PENDING: usize = 256;

/// The lossy side of a QUIC connection. Clones share it; the connection ends when the last clone and its streams are
/// dropped.
#[derive(Clone)]
pub(crate) struct Datagrams {
    path: Path,
    /// Held for its drop: the connection is open until then.
    _open: Option<Arc<OpenConnection>>,
}

#[derive(Clone)]
enum Path {
    Quic(Arc<Quic>),
    #[cfg(feature = "simulation")]
    Simulated(Arc<dyn super::simulated::DatagramPath>, Arc<super::simulated::RoomWait>),
}

/// A QUIC connection, and how much waits in its queue.
struct Quic {
    connection: quinn::Connection,
    /// What each datagram begins with on the wire: in HTTP/3 the session's number, else nothing.
    prefix: Box<[u8]>,
    /// Bytes of datagrams ever queued.
    given_bytes: AtomicU64,
    /// One task fills the queue, so nobody waits for this lock.
    filling: Mutex<Filling>,
}

/// What the task that fills the queue needs.
struct Filling {
    room: Room,
    /// Of the path's controller, which goes when the peer's address changes.
    path: Weak<SendState>,
    closed: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// Why a datagram was not sent, or none will arrive any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DatagramError {
    /// It does not fit the path. The path may have shrunk: ask [`Datagrams::datagram_bytes_max`] again.
    #[error("a {datagram_bytes}-byte datagram does not fit the path, limit is {datagram_bytes_max}")]
    TooLarge { datagram_bytes: usize, datagram_bytes_max: usize },
    /// The peer takes no datagrams. Use the stream.
    #[error("the peer takes no datagrams")]
    Unsupported,
    /// The connection is over.
    #[error("the connection is closed: {reason}")]
    Closed { reason: String },
}

/// How the path of a connection is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DatagramStats {
    /// Smoothed round trip.
    pub(crate) rtt: Duration,
    /// Bytes that may be in flight.
    pub(crate) congestion_window_bytes: u64,
    /// Packets sent so far.
    pub(crate) sent_packets: u64,
    /// Packets sent and taken for lost so far.
    pub(crate) lost_packets: u64,
    /// Packets received that acknowledge anything new. Changes for as long as the peer hears us; frames that acknowledge
    /// once more what they did before come even if it does not.
    pub(crate) answers: u64,
    /// Frames sent that the peer acknowledges: messages, streams, and QUIC's own probes.
    pub(crate) asked: u64,
    /// Times that the congestion controller backed off.
    pub(crate) congestion_events: u64,
    /// The largest UDP payload the path is known to carry.
    pub(crate) mtu_bytes: u16,
}

/// Connects to `addr` over QUIC and opens one stream, on the current runtime.
///
/// `fault` is what its datagrams meet. The server learns of the connection with the first byte written to the stream.
/// The whole call takes at most `timeout`; a blocked UDP port looks like silence. Cancel-safe: a dropped future has closed
/// its socket.
///
/// # Errors
///
/// [`ConnectError`] says whether the server was not reached, is someone else, or does not speak the protocol.
pub(crate) async fn connect_quic(
    addr: SocketAddr,
    server_name: &str,
    tls: &ClientTls,
    timeout: Duration,
    fault: Option<&LinkFault>,
) -> Result<(Stream, Datagrams), ConnectError> {
    #[cfg(feature = "simulation")]
    if let Some(connecting) = super::simulated::connect(addr, Carrier::Quic, timeout) {
        let (stream, datagrams) = connecting.await?;
        return Ok((stream, datagrams.expect("a simulated QUIC connection has datagrams")));
    }
    let check = tls.check(server_name, addr.port())?;
    let crypto = QuicClientConfig::try_from(Arc::clone(&check.config))
        .map_err(|error| ConnectError::Tls { detail: error.to_string() })?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport_config()));
    let endpoint =
        client_endpoint(addr, fault).map_err(|source| ConnectError::Unreachable { addr, source })?;

    let connecting = async {
        let failed = |error| check.mismatch().unwrap_or_else(|| failure(addr, timeout, &error));
        let connection = endpoint
            .connect_with(config, addr, server_name)
            .map_err(|error| ConnectError::Handshake { addr, detail: error.to_string() })?
            .await
            .map_err(failed)?;
        if protocol(&connection).as_deref() != Some(ALPN) {
            return Err(ConnectError::WrongAlpn { addr });
        }
        check.remember()?;
        let (send, recv) = connection.open_bi().await.map_err(failed)?;
        let stream = Stream::quic(Carrier::Quic, (send, recv), addr, None);
        Ok((stream, Datagrams::quic(connection, &[], None)))
    };
    match tokio::time::timeout(timeout, connecting).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ConnectError::Timeout { addr, timeout }),
    }
}

impl Datagrams {
    /// Those datagrams of `connection` that begin with `prefix`, which stays hidden.
    pub(super) fn quic(
        connection: quinn::Connection,
        prefix: &[u8],
        open: Option<Arc<OpenConnection>>,
    ) -> Self {
        Self { path: Path::Quic(Arc::new(Quic::new(connection, prefix))), _open: open }
    }

    /// The largest datagram that fits now, in bytes; changes with the path. `None`: the peer takes none.
    pub(crate) fn datagram_bytes_max(&self) -> Option<usize> {
        match &self.path {
            Path::Quic(quic) => quic.datagram_bytes_max(),
            #[cfg(feature = "simulation")]
            Path::Simulated(path, _) => Some(path.datagram_bytes_max()),
        }
    }

    /// How many bytes may be queued now, at least a packet's: what leaves within about 3 ms. Pending while that much
    /// is queued, or while streams must have their turn; woken when packets leave or are acknowledged. On a closed
    /// connection it is ready, so that sending can say so.
    ///
    /// For one task: the waker of the latest call is the only one kept.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<usize> {
        match &self.path {
            Path::Quic(quic) => quic.poll_room(cx),
            #[cfg(feature = "simulation")]
            Path::Simulated(path, waiting) => waiting.poll_room(path, cx),
        }
    }

    /// Queues a datagram and returns at once. Where there is no space the oldest queued ones are dropped: ask
    /// [`poll_room`](Self::poll_room) first to keep the choice.
    ///
    /// # Errors
    ///
    /// [`DatagramError`]; nothing was queued.
    pub(crate) fn send(&self, datagram: Bytes) -> Result<(), DatagramError> {
        let datagram_bytes = datagram.len();
        match &self.path {
            Path::Quic(quic) => {
                let datagram = quic.prefixed(datagram);
                let queued_bytes = datagram.len();
                let sent = quic.connection.send_datagram(datagram);
                quic.given(queued_bytes);
                sent.map_err(|error| self.send_error(&error, datagram_bytes))
            }
            #[cfg(feature = "simulation")]
            Path::Simulated(path, _) => path.send(datagram).map_err(DatagramError::closed),
        }
    }

    /// The next datagram. Cancel-safe: a dropped future has taken none.
    ///
    /// # Errors
    ///
    /// [`DatagramError::Closed`] when the connection is over.
    pub(crate) async fn recv(&self) -> Result<Bytes, DatagramError> {
        match &self.path {
            Path::Quic(quic) => quic.recv().await.map_err(|error| closed(&error)),
            #[cfg(feature = "simulation")]
            Path::Simulated(path, _) => path.recv().await.map_err(DatagramError::closed),
        }
    }

    /// How long a datagram that leaves now is under way, as far as this side can tell; zero: too short to be known.
    pub(crate) fn way(&self) -> Duration {
        match &self.path {
            Path::Quic(quic) => quic.way(),
            #[cfg(feature = "simulation")]
            Path::Simulated(..) => Duration::ZERO,
        }
    }

    /// How the path is doing.
    pub(crate) fn stats(&self) -> DatagramStats {
        let (stats, answers) = match &self.path {
            Path::Quic(quic) => (quic.connection.stats(), quic.state().acks()),
            #[cfg(feature = "simulation")]
            Path::Simulated(..) => return DatagramStats::default(),
        };
        let (path, sent) = (stats.path, stats.frame_tx);
        DatagramStats {
            rtt: path.rtt,
            congestion_window_bytes: path.cwnd,
            sent_packets: path.sent_packets,
            lost_packets: path.lost_packets,
            answers,
            asked: sent.datagram + sent.stream + sent.ping + sent.immediate_ack,
            congestion_events: path.congestion_events,
            mtu_bytes: path.current_mtu,
        }
    }

    /// Ends the connection, its streams included: what is queued is not sent. The peer sees `code` and `reason`. A
    /// connection that is over stays as it is.
    pub(crate) fn close(&self, code: u16, reason: &str) {
        match &self.path {
            // Closing again would make quinn forget what ended it.
            Path::Quic(quic) if quic.connection.close_reason().is_some() => {}
            Path::Quic(quic) => quic.connection.close(VarInt::from(code), reason.as_bytes()),
            #[cfg(feature = "simulation")]
            Path::Simulated(path, _) => path.close(reason),
        }
    }

    /// Waits until the connection is over, and says why. Cancel-safe.
    pub(crate) async fn closed(&self) -> DatagramError {
        match &self.path {
            Path::Quic(quic) => closed(&quic.connection.closed().await),
            #[cfg(feature = "simulation")]
            Path::Simulated(path, _) => DatagramError::closed(path.closed().await),
        }
    }

    fn send_error(&self, error: &SendDatagramError, datagram_bytes: usize) -> DatagramError {
        match error {
            SendDatagramError::UnsupportedByPeer | SendDatagramError::Disabled => DatagramError::Unsupported,
            SendDatagramError::TooLarge => DatagramError::TooLarge {
                datagram_bytes,
                datagram_bytes_max: self.datagram_bytes_max().unwrap_or(0),
            },
            SendDatagramError::ConnectionLost(error) => closed(error),
        }
    }
}

impl Quic {
    fn new(connection: quinn::Connection, prefix: &[u8]) -> Self {
        let filling = Filling { room: Room::default(), path: Weak::new(), closed: None };
        Self {
            connection,
            prefix: prefix.into(),
            given_bytes: AtomicU64::new(0),
            filling: Mutex::new(filling),
        }
    }

    fn datagram_bytes_max(&self) -> Option<usize> {
        Some(self.connection.max_datagram_size()?.saturating_sub(self.prefix.len()))
    }

    /// The datagram as it is sent. With a prefix it is a copy: quinn takes datagrams in one piece.
    fn prefixed(&self, datagram: Bytes) -> Bytes {
        if self.prefix.is_empty() { datagram } else { [&self.prefix[..], &datagram].concat().into() }
    }

    /// The next datagram that is ours. Cancel-safe: a dropped future has taken none that is.
    async fn recv(&self) -> Result<Bytes, ConnectionError> {
        loop {
            let mut datagram = self.connection.read_datagram().await?;
            if datagram.starts_with(&self.prefix) {
                datagram.advance(self.prefix.len());
                return Ok(datagram);
            }
        }
    }

    /// What the controller says of the path.
    fn state(&self) -> Arc<SendState> {
        let mut filling = lock(&self.filling);
        filling.path(&self.connection)
    }

    fn way(&self) -> Duration {
        let state = self.state();
        let (way, rate) = (state.way(), state.rate());
        if way.is_zero() || rate == 0 {
            return way;
        }
        let space_bytes = self.connection.datagram_send_buffer_space();
        let before = DATAGRAM_SEND_BYTES.saturating_sub(space_bytes) as u64 + state.mtu_bytes();
        way + Duration::from_secs_f64(before as f64 / rate as f64)
    }

    fn given(&self, datagram_bytes: usize) {
        self.given_bytes.fetch_add(datagram_bytes as u64, Ordering::Relaxed);
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<usize> {
        let mut filling = lock(&self.filling);
        let path = filling.path(&self.connection);
        if let Some(room) = self.room(&mut filling.room, &path) {
            return Poll::Ready(room);
        }
        // Registered before the second look: what leaves in between wakes us.
        path.register(cx.waker());
        if let Some(room) = self.room(&mut filling.room, &path) {
            return Poll::Ready(room);
        }
        let closed = filling.closed.get_or_insert_with(|| {
            let connection = self.connection.clone();
            Box::pin(async move {
                connection.closed().await;
            })
        });
        if closed.as_mut().poll(cx).is_ready() {
            filling.closed = None;
            return Poll::Ready(DATAGRAM_SEND_BYTES);
        }
        Poll::Pending
    }

    fn room(&self, room: &mut Room, path: &SendState) -> Option<usize> {
        let space_bytes = self.connection.datagram_send_buffer_space();
        room.now(path, DATAGRAM_SEND_BYTES, space_bytes, self.given_bytes.load(Ordering::Relaxed))
    }
}

impl Filling {
    /// The state of the connection's path, which is another one after the peer's address has changed.
    fn path(&mut self, connection: &quinn::Connection) -> Arc<SendState> {
        if let Some(path) = self.path.upgrade() {
            return path;
        }
        let controller = connection.congestion_state().into_any();
        let fresh = controller.downcast::<Fresh>().expect("every connection is made with our controller");
        self.path = Arc::downgrade(fresh.state());
        Arc::clone(fresh.state())
    }
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datagrams").field("bytes_max", &self.datagram_bytes_max()).finish_non_exhaustive()
    }
}

#[cfg(feature = "simulation")]
impl Datagrams {
    pub(super) fn simulated(path: Arc<dyn super::simulated::DatagramPath>) -> Self {
        Self { path: Path::Simulated(path, Arc::default()), _open: None }
    }
}

#[cfg(feature = "simulation")]
impl DatagramError {
    fn closed(reason: String) -> Self {
        Self::Closed { reason }
    }
}

/// A client's connection whose handshake is done.
pub(super) enum Arrived {
    /// It has opened its first stream.
    Ours(quinn::Connection, quinn::SendStream, quinn::RecvStream),
    /// It speaks HTTP/3, and has said nothing yet.
    H3(quinn::Connection),
}

impl Arrived {
    /// The server's side of the handshake, in our protocol until the client's first stream. The caller bounds its time.
    pub(super) async fn from(incoming: quinn::Incoming) -> Result<Self, (Refusal, String)> {
        let failed = |error: ConnectionError| (refusal(&error), printable(error.to_string().as_bytes()));
        let connection = incoming.accept().map_err(failed)?.await.map_err(failed)?;
        match protocol(&connection).as_deref() {
            Some(ALPN) => {
                let (send, recv) = connection.accept_bi().await.map_err(failed)?;
                Ok(Self::Ours(connection, send, recv))
            }
            // Offered only where somebody takes it.
            Some(H3) => {
                let streams_max = VarInt::from_u32(H3_STREAMS_MAX);
                connection.set_max_concurrent_bi_streams(streams_max);
                connection.set_max_concurrent_uni_streams(streams_max);
                Ok(Self::H3(connection))
            }
            _ => Err((Refusal::WrongAlpn, "the peer named no protocol".to_owned())),
        }
    }
}

/// Both sides of a connection that speaks our protocol; `open` ends with the last of them.
pub(super) fn into_parts(
    connection: quinn::Connection,
    stream: (quinn::SendStream, quinn::RecvStream),
    open: Arc<OpenConnection>,
) -> (Stream, Datagrams) {
    let peer = connection.remote_address();
    let stream = Stream::quic(Carrier::Quic, stream, peer, Some(Arc::clone(&open)));
    (stream, Datagrams::quic(connection, &[], Some(open)))
}

/// What both sides agreed to speak.
fn protocol(connection: &quinn::Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}

fn failure(addr: SocketAddr, timeout: Duration, error: &ConnectionError) -> ConnectError {
    let detail = printable(error.to_string().as_bytes());
    match error {
        ConnectionError::TimedOut => ConnectError::Timeout { addr, timeout },
        ConnectionError::ConnectionClosed(close) if close.error_code == no_application_protocol() => {
            ConnectError::WrongAlpn { addr }
        }
        ConnectionError::ConnectionClosed(close)
            if close.error_code == TransportErrorCode::CONNECTION_REFUSED =>
        {
            ConnectError::Refused { addr }
        }
        ConnectionError::TransportError(error) if is_certificate_alert(error.code) => {
            ConnectError::Certificate { addr, detail }
        }
        _ => ConnectError::Handshake { addr, detail },
    }
}

fn refusal(error: &ConnectionError) -> Refusal {
    match error {
        ConnectionError::TransportError(error) if error.code == no_application_protocol() => {
            Refusal::WrongAlpn
        }
        ConnectionError::TimedOut => Refusal::HandshakeTimeout,
        _ => Refusal::HandshakeFailed,
    }
}

fn no_application_protocol() -> TransportErrorCode {
    TransportErrorCode::crypto(AlertDescription::NoApplicationProtocol.into())
}

/// The alerts that say something is wrong with a certificate: RFC 8446, section 6.2.
fn is_certificate_alert(code: TransportErrorCode) -> bool {
    [
        AlertDescription::BadCertificate,
        AlertDescription::UnsupportedCertificate,
        AlertDescription::CertificateRevoked,
        AlertDescription::CertificateExpired,
        AlertDescription::CertificateUnknown,
        AlertDescription::UnknownCA,
    ]
    .into_iter()
    .any(|alert| TransportErrorCode::crypto(alert.into()) == code)
}

fn closed(error: &ConnectionError) -> DatagramError {
    DatagramError::Closed { reason: printable(error.to_string().as_bytes()) }
}

#[cfg(test)]
mod tests;
