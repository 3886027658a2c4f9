//! One ordered byte stream, whatever carries it.
//!
//! It moves bytes and counts as one open connection until it is dropped; it frames nothing and times nothing out.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::buffered::Buffered;
use super::limits::OpenConnection;
use super::tcp;

/// Which transport carries a [`Stream`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// TCP, with or without TLS.
    Tcp,
    /// One bidirectional QUIC stream.
    Quic,
    /// Binary messages of a WebSocket.
    WebSocket,
    /// One bidirectional stream of a WebTransport session, which is a QUIC connection.
    WebTransport,
}

impl Carrier {
    /// The word for it in status and logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
            Self::WebSocket => "websocket",
            Self::WebTransport => "webtransport",
        }
    }

    /// Whether it is a stream of a QUIC connection, which lives and dies with it.
    pub(crate) fn is_quic(self) -> bool {
        matches!(self, Self::Quic | Self::WebTransport)
    }
}

impl std::fmt::Display for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Bytes that are encrypted for one write and wait for the socket at most. More at once would be several writes.
pub(crate) const TLS_BYTES: usize = 128 << 10;

/// How much of what was written has left this process so far. Held by who writes, while the stream itself is split
/// between tasks: whoever takes something now and then is slow, and not dead.
#[derive(Clone, Debug, Default)]
pub(crate) struct TakenBytes(Arc<AtomicU64>);

impl TakenBytes {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// The outcome of a write, which is passed on.
    pub(super) fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.0.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        written
    }
}

/// Bytes in order, both ways.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for S {}

/// One ordered byte stream. Reads and writes are cancel-safe: they are polls of the socket.
pub(crate) struct Stream {
    pipe: Pipe,
    peer: SocketAddr,
    taken: TakenBytes,
    /// Held for its drop: the connection is open until then.
    _open: Option<Arc<OpenConnection>>,
}

impl Stream {
    /// Which transport carries it.
    pub(crate) fn carrier(&self) -> Carrier {
        match &self.pipe {
            Pipe::Tls(_) | Pipe::Plain(_) => Carrier::Tcp,
            Pipe::Quic(quic) => quic.carrier,
            Pipe::Foreign(_, carrier) => *carrier,
        }
    }

    /// What it has carried.
    pub(crate) fn taken(&self) -> TakenBytes {
        self.taken.clone()
    }

    /// The other end, as it was when the connection was made.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub(super) fn tls(
        mut tls: TlsStream<Buffered>,
        peer: SocketAddr,
        open: Option<Arc<OpenConnection>>,
    ) -> Self {
        bound_waiting(&mut tls, TLS_BYTES);
        // What TLS takes of a write waits in it; the next one comes when that is gone.
        tcp::keep_short(tls.get_ref().0.socket());
        // TLS takes more than the socket does.
        let taken = tls.get_ref().0.taken().clone();
        Self { taken, ..Self::new(Pipe::Tls(Box::new(tls)), peer, open) }
    }

    pub(super) fn plain(socket: TcpStream, peer: SocketAddr, open: Option<Arc<OpenConnection>>) -> Self {
        tcp::keep_short(&socket);
        Self::new(Pipe::Plain(socket), peer, open)
    }

    /// Bytes that are carried by somebody else.
    pub(crate) fn foreign(bytes: Box<dyn ByteStream>, carrier: Carrier, peer: SocketAddr) -> Self {
        Self::new(Pipe::Foreign(bytes, carrier), peer, None)
    }

    /// The same stream to whoever uses it, whose bytes go through `bytes` on their way to `self`.
    pub(super) fn carried_by(&self, bytes: Box<dyn ByteStream>) -> Self {
        Self::new(Pipe::Foreign(bytes, self.carrier()), self.peer, None)
    }

    /// A stream of a QUIC connection: `carrier` says of which kind.
    pub(super) fn quic(
        carrier: Carrier,
        (send, recv): (quinn::SendStream, quinn::RecvStream),
        peer: SocketAddr,
        open: Option<Arc<OpenConnection>>,
    ) -> Self {
        Self::new(Pipe::Quic(QuicPipe { carrier, send, recv, taken: None }), peer, open)
    }

    fn new(pipe: Pipe, peer: SocketAddr, open: Option<Arc<OpenConnection>>) -> Self {
        Self { pipe, peer, taken: TakenBytes::default(), _open: open }
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("carrier", &self.carrier()).field("peer", &self.peer).finish()
    }
}

enum Pipe {
    /// Boxed: a TLS session is over a kilobyte, and streams are moved into tasks.
    Tls(Box<TlsStream<Buffered>>),
    Plain(TcpStream),
    Quic(QuicPipe),
    Foreign(Box<dyn ByteStream>, Carrier),
}

struct QuicPipe {
    carrier: Carrier,
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    /// Ready once the peer has everything, or wants no more.
    taken: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl QuicPipe {
    /// Ends the stream and waits until its last bytes have arrived: a connection that closes sends nothing again.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { send, taken, .. } = self;
        let taken = taken.get_or_insert_with(|| {
            // Fails only where it was finished or reset before.
            let _ = send.finish();
            let stopped = send.stopped();
            Box::pin(async move {
                let _ = stopped.await;
            })
        });
        taken.as_mut().poll(cx).map(Ok)
    }

    /// Copies slice after slice into the connection's send buffer: the packets are made later, from all of them.
    fn poll_write_vectored(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut written_bytes = 0;
        for buf in bufs.iter().filter(|buf| !buf.is_empty()) {
            match AsyncWrite::poll_write(Pin::new(&mut self.send), cx, buf) {
                Poll::Ready(Ok(taken_bytes)) => {
                    written_bytes += taken_bytes;
                    if taken_bytes < buf.len() {
                        break;
                    }
                }
                // What was taken counts; the next call meets the same end again and reports it.
                Poll::Ready(Err(_)) | Poll::Pending if 0 < written_bytes => break,
                other => return other,
            }
        }
        Poll::Ready(Ok(written_bytes))
    }
}

/// Encrypts no more than so much ahead of what the socket takes.
fn bound_waiting(tls: &mut TlsStream<Buffered>, bytes_max: usize) {
    match tls {
        TlsStream::Client(client) => client.get_mut().1.set_buffer_limit(Some(bytes_max)),
        TlsStream::Server(server) => server.get_mut().1.set_buffer_limit(Some(bytes_max)),
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().pipe {
            Pipe::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
            Pipe::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Pipe::Quic(quic) => AsyncRead::poll_read(Pin::new(&mut quic.recv), cx, buf),
            Pipe::Foreign(bytes, _) => Pin::new(bytes).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.taken.note(match &mut this.pipe {
            Pipe::Tls(tls) => return Pin::new(tls).poll_write(cx, buf),
            Pipe::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Pipe::Quic(quic) => AsyncWrite::poll_write(Pin::new(&mut quic.send), cx, buf),
            Pipe::Foreign(bytes, _) => Pin::new(bytes).poll_write(cx, buf),
        })
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.taken.note(match &mut this.pipe {
            Pipe::Tls(tls) => return Pin::new(tls).poll_write_vectored(cx, bufs),
            Pipe::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Pipe::Quic(quic) => quic.poll_write_vectored(cx, bufs),
            Pipe::Foreign(bytes, _) => Pin::new(bytes).poll_write_vectored(cx, bufs),
        })
    }

    fn is_write_vectored(&self) -> bool {
        match &self.pipe {
            Pipe::Tls(tls) => tls.is_write_vectored(),
            Pipe::Plain(socket) => socket.is_write_vectored(),
            Pipe::Quic(_) => true,
            Pipe::Foreign(bytes, _) => bytes.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().pipe {
            Pipe::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Pipe::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Pipe::Quic(quic) => AsyncWrite::poll_flush(Pin::new(&mut quic.send), cx),
            Pipe::Foreign(bytes, _) => Pin::new(bytes).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().pipe {
            Pipe::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Pipe::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Pipe::Quic(quic) => quic.poll_shutdown(cx),
            Pipe::Foreign(bytes, _) => Pin::new(bytes).poll_shutdown(cx),
        }
    }
}
