//! A TCP socket that is read 128 KiB at a time, although the TLS library asks for 4 KiB.
//!
//! One system call then brings up to 128 KiB. The buffer is borrowed from a pool of the current thread only while
//! it holds bytes, so an idle connection owns none. Writes pass straight through.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::stream::TakenBytes;

/// As much as one system call brings: what a peer of ours writes at once, but for the heads of its records.
const READ_BUFFER_BYTES: usize = 128 << 10;

/// Buffers kept per thread. A thread works on one connection at a time, and a buffer stays out only while a
/// reader has stopped in the middle of it, so a few are enough; the rest go back to the allocator.
const POOLED_BUFFERS_MAX: usize = 16;

thread_local! {
    static POOL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A TCP socket with a borrowed read buffer.
pub(super) struct Buffered {
    socket: TcpStream,
    held: Option<Held>,
    taken: TakenBytes,
}

/// Bytes read from the socket and not yet taken: `bytes[start..end]`, never empty.
struct Held {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffered {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self { socket, held: None, taken: TakenBytes::default() }
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub(super) fn taken(&self) -> &TakenBytes {
        &self.taken
    }
}

impl AsyncRead for Buffered {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.held.is_none() {
            if READ_BUFFER_BYTES <= buf.remaining() {
                return Pin::new(&mut this.socket).poll_read(cx, buf);
            }
            match ready!(fill(&mut this.socket, cx))? {
                Some(held) => this.held = Some(held),
                None => return Poll::Ready(Ok(())),
            }
        }
        let held = this.held.as_mut().expect("the buffer was filled above");
        let taken_bytes = buf.remaining().min(held.end - held.start);
        buf.put_slice(&held.bytes[held.start..held.start + taken_bytes]);
        held.start += taken_bytes;
        if held.start == held.end
            && let Some(drained) = this.held.take()
        {
            give_back(drained.bytes);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Buffered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.taken.note(Pin::new(&mut this.socket).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let socket = Pin::new(&mut this.socket);
        this.taken.note(match bufs {
            // The usual case, one record: `send` costs the kernel less than a `writev` of one slice.
            [only] => socket.poll_write(cx, only),
            _ => socket.poll_write_vectored(cx, bufs),
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

impl Drop for Buffered {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            give_back(held.bytes);
        }
    }
}

/// One read into a borrowed buffer; `None` at the end of the stream.
fn fill(socket: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<Option<Held>>> {
    let mut bytes = borrow();
    let mut target = ReadBuf::new(&mut bytes);
    let outcome = Pin::new(socket).poll_read(cx, &mut target);
    let end = target.filled().len();
    if end == 0 {
        give_back(bytes);
        return outcome.map_ok(|()| None);
    }
    Poll::Ready(Ok(Some(Held { bytes, start: 0, end })))
}

fn borrow() -> Box<[u8]> {
    let pooled = POOL.try_with(|pool| pool.borrow_mut().pop()).ok().flatten();
    pooled.unwrap_or_else(|| vec![0; READ_BUFFER_BYTES].into_boxed_slice())
}

fn give_back(bytes: Box<[u8]>) {
    // A connection may be dropped while its thread ends: then there is no pool, and the allocator takes the buffer.
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < POOLED_BUFFERS_MAX {
            pool.push(bytes);
        }
    });
}

#[cfg(test)]
pub(super) fn pooled_buffers() -> usize {
    POOL.with(|pool| pool.borrow().len())
}
