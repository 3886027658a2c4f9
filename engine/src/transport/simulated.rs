//! Stands in for sockets on a thread that a simulation has entered: the simulation's network carries the bytes.
//!
//! This is the seam only. How bytes are delayed, lost and cut off is the simulation's concern, and so is where
//! random numbers come from. Without the feature `simulation` none of it is compiled.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::error::ConnectError;
use super::quic::Datagrams;
use super::stream::{Carrier, Stream};

pub use super::stream::ByteStream;

/// A future that a trait object returns.
pub type Waiting<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What is simulated: the network, and chance.
pub trait World: Send + Sync {
    /// Connects to `addr`, with datagrams (QUIC) or without (TCP). The caller bounds its time.
    fn connect(&self, addr: SocketAddr, quic: bool) -> Waiting<'static, io::Result<Connection>>;
    /// The next number of the seed.
    fn random(&self) -> u64;
}

/// One end of a connection whose handshake is done.
pub struct Connection {
    /// The other end.
    pub peer: SocketAddr,
    /// Bytes in order.
    pub stream: Box<dyn ByteStream>,
    /// The lossy side of a QUIC connection.
    pub datagrams: Option<Arc<dyn DatagramPath>>,
}

/// The lossy side of a QUIC connection. An error is the reason why the connection is over.
pub trait DatagramPath: Send + Sync + 'static {
    /// The largest datagram.
    fn datagram_bytes_max(&self) -> usize;
    /// Bytes that can be queued now.
    fn send_space_bytes(&self) -> usize;
    /// Queues a datagram.
    ///
    /// # Errors
    ///
    /// The connection is over; nothing was queued.
    fn send(&self, datagram: Bytes) -> Result<(), String>;
    /// Waits until `bytes` can be queued.
    fn room(&self, bytes: usize) -> Waiting<'_, Result<(), String>>;
    /// The next datagram.
    fn recv(&self) -> Waiting<'_, Result<Bytes, String>>;
    /// Ends the connection.
    fn close(&self, reason: &str);
    /// Waits until the connection is over.
    fn closed(&self) -> Waiting<'_, String>;
}

/// Whoever fills a path's queue, while it is full.
#[derive(Default)]
pub(super) struct RoomWait(Mutex<Option<Waiting<'static, ()>>>);

impl RoomWait {
    /// How many bytes can be queued, once a datagram can. Ready on a path that is over, so that sending can say so.
    pub(super) fn poll_room(&self, path: &Arc<dyn DatagramPath>, cx: &mut Context<'_>) -> Poll<usize> {
        let datagram_bytes_max = path.datagram_bytes_max();
        let space_bytes = path.send_space_bytes();
        if space_bytes >= datagram_bytes_max {
            return Poll::Ready(space_bytes);
        }
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = waiting.get_or_insert_with(|| {
            let path = Arc::clone(path);
            Box::pin(async move {
                let _over = path.room(datagram_bytes_max).await;
            })
        });
        ready!(room.as_mut().poll(cx));
        *waiting = None;
        Poll::Ready(path.send_space_bytes().max(datagram_bytes_max))
    }
}

/// Until it is dropped, connections, random numbers and the beginning of time on this thread are the simulation's.
#[must_use]
pub struct Entered(());

/// Makes `world` this thread's. Its time begins now.
pub fn enter(world: Arc<dyn World>) -> Entered {
    BEGINNING.set(Some(Instant::now()));
    WORLD.set(Some(world));
    Entered(())
}

impl Drop for Entered {
    fn drop(&mut self) {
        WORLD.set(None);
        BEGINNING.set(None);
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

thread_local! {
    static WORLD: RefCell<Option<Arc<dyn World>>> = const { RefCell::new(None) };
    static BEGINNING: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// When what this thread simulates began.
pub(crate) fn beginning() -> Option<Instant> {
    BEGINNING.get()
}

/// What this thread simulates, if anything.
pub(crate) fn world() -> Option<Arc<dyn World>> {
    WORLD.with_borrow(Clone::clone)
}

type Connected = Result<(Stream, Option<Datagrams>), ConnectError>;

/// A connection over the simulated network; `None` where sockets are real.
pub(super) fn connect(
    addr: SocketAddr,
    carrier: Carrier,
    timeout: Duration,
) -> Option<Waiting<'static, Connected>> {
    let connecting = world()?.connect(addr, carrier == Carrier::Quic);
    Some(Box::pin(async move {
        match tokio::time::timeout(timeout, connecting).await {
            Ok(Ok(connection)) => Ok(connection.into_parts()),
            Ok(Err(source)) => Err(ConnectError::Unreachable { addr, source }),
            Err(_) => Err(ConnectError::Timeout { addr, timeout }),
        }
    }))
}

impl Connection {
    pub(crate) fn into_parts(self) -> (Stream, Option<Datagrams>) {
        let carrier = if self.datagrams.is_some() { Carrier::Quic } else { Carrier::Tcp };
        let stream = Stream::foreign(self.stream, carrier, self.peer);
        (stream, self.datagrams.map(Datagrams::simulated))
    }
}
