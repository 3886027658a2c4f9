//! One ordered byte stream, whatever carries it.
//!
//! It moves bytes and counts as one open connection until it is dropped; it frames nothing and times nothing out.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::buffered::Buffered;
use super::limits::OpenConnection;

/// Which transport carries a [`Stream`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// TCP, with or without TLS.
    Tcp,
    /// One bidirectional QUIC stream.
    Quic,
}

impl Carrier {
    /// The word for it in status and logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
        }
    }
}

impl std::fmt::Display for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One ordered byte stream. Reads and writes are cancel-safe: they are polls of the socket.
pub(crate) struct Stream {
    pipe: Pipe,
    peer: SocketAddr,
    /// Held for its drop: the connection is open until then.
    _open: Option<Arc<OpenConnection>>,
}

impl Stream {
    /// Which transport carries it.
    pub(crate) fn carrier(&self) -> Carrier {
        match self.pipe {
            Pipe::Tls(_) | Pipe::Plain(_) => Carrier::Tcp,
            Pipe::Quic(_) => Carrier::Quic,
            #[cfg(feature = "simulation")]
            Pipe::Simulated(_, carrier) => carrier,
        }
    }

    /// The other end, as it was when the connection was made.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub(super) fn tls(tls: TlsStream<Buffered>, peer: SocketAddr, open: Option<Arc<OpenConnection>>) -> Self {
        Self { pipe: Pipe::Tls(Box::new(tls)), peer, _open: open }
    }

    pub(super) fn plain(socket: TcpStream, peer: SocketAddr, open: Option<Arc<OpenConnection>>) -> Self {
        Self { pipe: Pipe::Plain(socket), peer, _open: open }
    }

    #[cfg(feature = "simulation")]
    pub(super) fn simulated(
        bytes: Box<dyn super::simulated::ByteStream>,
        carrier: Carrier,
        peer: SocketAddr,
    ) -> Self {
        Self { pipe: Pipe::Simulated(bytes, carrier), peer, _open: None }
    }

    pub(super) fn quic(
        send: quinn::SendStream,
        recv: quinn::RecvStream,
        peer: SocketAddr,
        open: Option<Arc<OpenConnection>>,
    ) -> Self {
        Self { pipe: Pipe::Quic(QuicPipe { send, recv, taken: None }), peer, _open: open }
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
    #[cfg(feature = "simulation")]
    Simulated(Box<dyn super::simulated::ByteStream>, Carrier),
}

struct QuicPipe {
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

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().pipe {
            Pipe::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
            Pipe::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Pipe::Quic(quic) => AsyncRead::poll_read(Pin::new(&mut quic.recv), cx, buf),
            #[cfg(feature = "simulation")]
            Pipe::Simulated(bytes, _) => Pin::new(bytes).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().pipe {
            Pipe::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
            Pipe::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Pipe::Quic(quic) => AsyncWrite::poll_write(Pin::new(&mut quic.send), cx, buf),
            #[cfg(feature = "simulation")]
            Pipe::Simulated(bytes, _) => Pin::new(bytes).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().pipe {
            Pipe::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
            Pipe::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Pipe::Quic(quic) => quic.poll_write_vectored(cx, bufs),
            #[cfg(feature = "simulation")]
            Pipe::Simulated(bytes, _) => Pin::new(bytes).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.pipe {
            Pipe::Tls(tls) => tls.is_write_vectored(),
            Pipe::Plain(socket) => socket.is_write_vectored(),
            Pipe::Quic(_) => true,
            #[cfg(feature = "simulation")]
            Pipe::Simulated(bytes, _) => bytes.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().pipe {
            Pipe::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Pipe::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Pipe::Quic(quic) => AsyncWrite::poll_flush(Pin::new(&mut quic.send), cx),
            #[cfg(feature = "simulation")]
            Pipe::Simulated(bytes, _) => Pin::new(bytes).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().pipe {
            Pipe::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Pipe::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Pipe::Quic(quic) => quic.poll_shutdown(cx),
            #[cfg(feature = "simulation")]
            Pipe::Simulated(bytes, _) => Pin::new(bytes).poll_shutdown(cx),
        }
    }
}
