//! A session's first stream as what carries Engine.IO: packets with their length before them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::AsyncWrite;
use twinlane::gateway::H3Connection;
use web_transport_quinn::Session;
use web_transport_quinn::quinn::{ConnectionError, ReadError, RecvStream, SendStream};

use crate::engine_io::{Packet, stream};
use crate::pipe::{End, Pipe, PipeError, Writer};
use crate::socket_io::Framing;

/// Bytes of one read: a few packets of the usual kind.
const READ_BYTES: usize = 4 << 10;

type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One client's stream. Its session, and the connection that is all of it, end when this is dropped.
pub(super) struct StreamPipe {
    session: Session,
    send: SendStream,
    recv: RecvStream,
    decoder: stream::Decoder,
    received: BytesMut,
    received_bytes: u64,
    /// Ready once the client has everything, or wants no more.
    taken: Option<Waiting>,
    closed: Option<Waiting>,
    /// Held for its drop: the connection counts as open until then.
    _connection: H3Connection,
}

impl StreamPipe {
    pub(super) fn new(
        session: Session,
        (send, recv): (SendStream, RecvStream),
        packet_bytes_max: usize,
        connection: H3Connection,
    ) -> Self {
        Self {
            session,
            send,
            recv,
            decoder: stream::Decoder::new(packet_bytes_max),
            received: BytesMut::new(),
            received_bytes: 0,
            taken: None,
            closed: None,
            _connection: connection,
        }
    }

    /// The next packet, as [`Pipe::poll_packet`] has it.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Packet, PipeError>>> {
        loop {
            match self.decoder.decode(&mut self.received) {
                Ok(Some(packet)) => return Poll::Ready(Some(Ok(packet))),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
            if self.received.is_empty() {
                // An idle client holds no memory.
                self.received = BytesMut::new();
            }
            let mut bytes = [0; READ_BYTES];
            match ready!(self.recv.poll_read(cx, &mut bytes)) {
                Ok(0) => return Poll::Ready(None),
                Ok(read_bytes) => {
                    self.received_bytes += read_bytes as u64;
                    self.received.extend_from_slice(&bytes[..read_bytes]);
                }
                Err(error) if has_left(&error) => return Poll::Ready(None),
                Err(error) => return Poll::Ready(Some(Err(io::Error::from(error).into()))),
            }
        }
    }
}

/// Whether it is a page that closed its session, or this side.
fn has_left(error: &ReadError) -> bool {
    matches!(
        error,
        ReadError::Reset(_)
            | ReadError::ConnectionLost(
                ConnectionError::ApplicationClosed(_) | ConnectionError::LocallyClosed
            )
    )
}

impl Pipe for StreamPipe {
    fn framing(&self) -> Framing {
        Framing::WebTransport
    }

    fn poll_packet(
        &mut self,
        cx: &mut Context<'_>,
        _writer: &mut Writer,
    ) -> Poll<Option<Result<Packet, PipeError>>> {
        self.poll_next(cx)
    }

    fn put(&mut self, packet: &Packet, writer: &mut Writer) {
        let mut bytes = BytesMut::new();
        stream::encode(packet, &mut bytes);
        writer.push(bytes.freeze());
    }

    /// The end of the session says it all.
    fn put_end(&mut self, _end: End, _writer: &mut Writer) {}

    fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        // Each is copied into the connection's buffer; the packets are made later, from all of them.
        let mut written_bytes = 0;
        for slice in slices.iter().filter(|slice| !slice.is_empty()) {
            match AsyncWrite::poll_write(Pin::new(&mut self.send), cx, slice) {
                Poll::Ready(Ok(taken_bytes)) => {
                    written_bytes += taken_bytes;
                    if taken_bytes < slice.len() {
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

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Ends the stream and, once its last bytes have arrived, the session: a connection that closes sends nothing again.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { send, taken, session, .. } = self;
        let taken = taken.get_or_insert_with(|| {
            // Fails only where it was finished or reset before.
            let _ = send.finish();
            let stopped = send.stopped();
            Box::pin(async move {
                let _ = stopped.await;
            })
        });
        ready!(taken.as_mut().poll(cx));
        session.close(0, b"");
        Poll::Ready(Ok(()))
    }

    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let session = &self.session;
        let closed = self.closed.get_or_insert_with(|| {
            let session = session.clone();
            Box::pin(async move {
                session.closed().await;
            })
        });
        closed.as_mut().poll(cx)
    }

    fn take_received_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.received_bytes)
    }
}

impl Drop for StreamPipe {
    fn drop(&mut self) {
        // Does nothing where it is closed.
        self.session.close(0, b"");
    }
}
