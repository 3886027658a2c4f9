//! A transport that keeps its connection: what WebSocket and WebTransport have in common.
//!
//! How packets become bytes is each one's own affair; when to send what is the driver's.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};

use crate::engine_io::{DecodeError, Packet};
use crate::socket_io::Framing;

/// Slices of one write; more of them than this make no write cheaper.
const SLICES_MAX: usize = 64;
/// Places for chunks that an idle client keeps.
const CHUNKS_KEPT: usize = 4;
/// Bytes of one write, and about as much as waits behind a client's socket: the rest waits in its outbox.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// One client's connection.
pub(crate) trait Pipe: Send {
    /// How finished chunks look on it.
    fn framing(&self) -> Framing;

    /// The next packet; `None` when the client has left. Answers that the transport itself asks for go to `writer`.
    fn poll_packet(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut Writer,
    ) -> Poll<Option<Result<Packet, PipeError>>>;

    /// Puts a packet into `writer`.
    fn put(&mut self, packet: &Packet, writer: &mut Writer);

    /// Puts the transport's own good-bye into `writer`: there is nothing to say after it.
    fn put_end(&mut self, end: End, writer: &mut Writer);

    /// Writes some of `slices`; how much of them.
    fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>>;

    /// Gets out what was written.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ends the writing side, when all is flushed.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Waits until the client has ended its side, too, and looks at nothing that it still says.
    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Bytes received so far, since the last time it was asked.
    fn take_received_bytes(&mut self) -> u64;
}

/// How a connection ends, said to the client where its transport has words for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// All is well.
    Normal,
    /// The server goes away.
    GoingAway,
    /// The client broke the rules of what is carried; those of the transport have their own code.
    Protocol,
}

/// Why nothing more can be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PipeError {
    /// The connection is lost.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The client broke the transport's rules; the transport has put its good-bye into the writer.
    #[error("{0}")]
    Transport(String),
    /// No packet.
    #[error(transparent)]
    Packet(#[from] DecodeError),
}

/// Finished chunks on their way to one client's socket.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    chunks: Vec<Bytes>,
    /// How many of `chunks` are written.
    written: usize,
    /// When the socket took no more; `None` while it does.
    blocked_since: Option<Instant>,
    flushed: bool,
}

impl Writer {
    /// Where chunks are put.
    pub(crate) fn chunks(&mut self) -> &mut Vec<Bytes> {
        self.flushed = false;
        &mut self.chunks
    }

    /// Puts one chunk behind the others.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        self.chunks().push(chunk);
    }

    /// Whether all is written and flushed.
    pub(crate) fn is_done(&self) -> bool {
        self.flushed || self.chunks.is_empty()
    }

    /// Whether another chunk makes the next write better.
    pub(crate) fn has_room(&self) -> bool {
        let waiting = &self.chunks[self.written..];
        waiting.len() < SLICES_MAX && waiting.iter().map(Bytes::len).sum::<usize>() < WRITE_BYTES_MAX
    }

    /// When the client is given up if its socket takes nothing until then.
    pub(crate) fn deadline(&self, timeout: Duration) -> Option<Instant> {
        self.blocked_since.map(|since| since + timeout)
    }

    /// Writes until nothing is left; adds what was written to `written_bytes`.
    pub(crate) fn poll_write_all(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut dyn Pipe,
        now: Instant,
        written_bytes: &mut u64,
    ) -> Poll<io::Result<()>> {
        let result = self.poll_chunks(cx, pipe, written_bytes);
        match &result {
            Poll::Pending => {
                self.blocked_since.get_or_insert(now);
            }
            Poll::Ready(_) => self.blocked_since = None,
        }
        result
    }

    fn poll_chunks(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut dyn Pipe,
        written_bytes: &mut u64,
    ) -> Poll<io::Result<()>> {
        while self.written < self.chunks.len() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut slices_len = 0;
            let mut bytes = 0;
            for (slice, chunk) in slices.iter_mut().zip(&self.chunks[self.written..]) {
                if WRITE_BYTES_MAX <= bytes {
                    break;
                }
                *slice = IoSlice::new(chunk);
                bytes += chunk.len();
                slices_len += 1;
            }
            let taken = ready!(pipe.poll_write(cx, &slices[..slices_len]))?;
            if taken == 0 && bytes != 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *written_bytes += taken as u64;
            self.blocked_since = None;
            self.advance(taken);
        }
        if !self.flushed {
            ready!(pipe.poll_flush(cx))?;
            self.flushed = true;
            self.chunks.clear();
            // An idle client keeps no memory for the busiest moment of its past.
            self.chunks.shrink_to(CHUNKS_KEPT);
            self.written = 0;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut taken: usize) {
        while let Some(chunk) = self.chunks.get_mut(self.written) {
            if taken < chunk.len() {
                chunk.advance(taken);
                return;
            }
            taken -= chunk.len();
            // The burst's memory is shared: let go of it as soon as this client can.
            *chunk = Bytes::new();
            self.written += 1;
        }
    }
}
