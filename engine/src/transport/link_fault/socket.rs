//! A UDP socket whose datagrams meet the faults of a link, both ways.
//!
//! Datagrams that are due go straight on; others wait here, bounded, until a timer or a task of its own sends them. What
//! the system's socket does not take is dropped and counted: it is a network.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep};

use super::course::Wire;
use super::{LinkFault, Way};
use crate::lock::lock;

/// Bytes that wait in one direction: four times what we ever have in flight.
const WAITING_BYTES_MAX: usize = 8 << 20;
/// Reads of the system's socket in a row.
const READS_MAX: usize = 16;

pub(crate) struct FaultySocket {
    socket: Arc<dyn AsyncUdpSocket>,
    link: LinkFault,
    outgoing: Arc<Outgoing>,
    incoming: Mutex<Incoming>,
    sending: AbortHandle,
}

struct Outgoing {
    waiting: Mutex<Waiting<Head>>,
    changed: Notify,
}

struct Incoming {
    waiting: Waiting<RecvMeta>,
    timer: Pin<Box<Sleep>>,
}

/// Where a datagram goes.
#[derive(Clone, Copy)]
struct Head {
    destination: SocketAddr,
    ecn: Option<EcnCodepoint>,
    src_ip: Option<IpAddr>,
}

/// Datagrams under way.
struct Waiting<H> {
    wire: Wire,
    heap: BinaryHeap<Reverse<Datagram<H>>>,
    bytes: usize,
    /// Datagrams so far, so that those due at once keep their order.
    serial: u64,
}

struct Datagram<H> {
    due: Instant,
    serial: u64,
    head: H,
    contents: Box<[u8]>,
}

impl FaultySocket {
    /// `socket` with the faults of `link`. Call it inside the runtime that owns the socket.
    pub(crate) fn new(socket: Arc<dyn AsyncUdpSocket>, link: LinkFault) -> Arc<Self> {
        let outgoing = Arc::new(Outgoing { waiting: Mutex::new(Waiting::new()), changed: Notify::new() });
        let sending = send_when_due(Arc::clone(&socket), Arc::clone(&outgoing), link.clone());
        let timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        let incoming = Mutex::new(Incoming { waiting: Waiting::new(), timer });
        Arc::new(Self { socket, link, outgoing, incoming, sending: tokio::spawn(sending).abort_handle() })
    }

    /// Takes what has arrived at the system's socket. `bufs` and `meta` are only lent.
    fn take(
        &self,
        incoming: &mut Incoming,
        cx: &mut Context<'_>,
        (bufs, meta): (&mut [IoSliceMut<'_>], &mut [RecvMeta]),
    ) -> io::Result<()> {
        for _ in 0..READS_MAX {
            let Poll::Ready(received) = self.socket.poll_recv(cx, bufs, meta)? else { return Ok(()) };
            for (buf, meta) in bufs.iter().zip(meta.iter()).take(received) {
                for contents in buf[..meta.len].chunks(meta.stride.max(1)) {
                    let head = RecvMeta { len: contents.len(), stride: contents.len(), ..*meta };
                    incoming.waiting.offer(&self.link, Way::Incoming, head, contents);
                }
            }
        }
        // There may be more.
        cx.waker().wake_by_ref();
        Ok(())
    }
}

impl AsyncUdpSocket for FaultySocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Transmit { destination, ecn, src_ip, contents, segment_size } = *transmit;
        let head = Head { destination, ecn, src_ip };
        let mut waiting = lock(&self.outgoing.waiting);
        for contents in contents.chunks(segment_size.unwrap_or(contents.len()).max(1)) {
            waiting.offer(&self.link, Way::Outgoing, head, contents);
        }
        waiting.send_due(&*self.socket, &self.link);
        if !waiting.heap.is_empty() {
            self.outgoing.changed.notify_one();
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut incoming = lock(&self.incoming);
        let incoming = &mut *incoming;
        self.take(incoming, cx, (&mut *bufs, &mut *meta))?;
        loop {
            let mut arrived = 0;
            while arrived < bufs.len().min(meta.len())
                && let Some(datagram) = incoming.waiting.pop_due(Instant::now())
            {
                let bytes = datagram.contents.len();
                bufs[arrived][..bytes].copy_from_slice(&datagram.contents);
                meta[arrived] = datagram.head;
                self.link.course(Way::Incoming).counts.delivered += 1;
                arrived += 1;
            }
            if arrived > 0 {
                return Poll::Ready(Ok(arrived));
            }
            let Some(due) = incoming.waiting.next_due() else { return Poll::Pending };
            incoming.timer.as_mut().reset(due);
            if incoming.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

impl Drop for FaultySocket {
    fn drop(&mut self) {
        self.sending.abort();
    }
}

impl fmt::Debug for FaultySocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultySocket").field("link", &self.link).finish_non_exhaustive()
    }
}

/// Sends what waits, for as long as its socket lives.
async fn send_when_due(socket: Arc<dyn AsyncUdpSocket>, outgoing: Arc<Outgoing>, link: LinkFault) {
    loop {
        let next_due = lock(&outgoing.waiting).next_due();
        let Some(due) = next_due else {
            outgoing.changed.notified().await;
            continue;
        };
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            () = outgoing.changed.notified() => {}
        }
        lock(&outgoing.waiting).send_due(&*socket, &link);
    }
}

impl<H: Copy> Waiting<H> {
    fn new() -> Self {
        Self { wire: Wire::new(Instant::now()), heap: BinaryHeap::new(), bytes: 0, serial: 0 }
    }

    fn offer(&mut self, link: &LinkFault, way: Way, head: H, contents: &[u8]) {
        let mut course = link.course(way);
        let dues = course.offer(&mut self.wire, Instant::now(), contents.len());
        for due in dues.into_iter().flatten() {
            if self.bytes + contents.len() > WAITING_BYTES_MAX {
                course.counts.queue_full += 1;
                continue;
            }
            self.bytes += contents.len();
            self.serial += 1;
            self.heap.push(Reverse(Datagram { due, serial: self.serial, head, contents: contents.into() }));
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(next)| next.due)
    }

    fn pop_due(&mut self, now: Instant) -> Option<Datagram<H>> {
        self.next_due().filter(|due| *due <= now)?;
        let Reverse(datagram) = self.heap.pop()?;
        self.bytes -= datagram.contents.len();
        Some(datagram)
    }
}

impl Waiting<Head> {
    fn send_due(&mut self, socket: &dyn AsyncUdpSocket, link: &LinkFault) {
        while let Some(Datagram { head, contents, .. }) = self.pop_due(Instant::now()) {
            let Head { destination, ecn, src_ip } = head;
            let sent = socket.try_send(&Transmit {
                destination,
                ecn,
                contents: &contents,
                segment_size: None,
                src_ip,
            });
            let mut course = link.course(Way::Outgoing);
            match sent {
                Ok(()) => course.counts.delivered += 1,
                Err(_) => course.counts.queue_full += 1,
            }
        }
    }
}

impl<H> PartialEq for Datagram<H> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<H> Eq for Datagram<H> {}

impl<H> PartialOrd for Datagram<H> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<H> Ord for Datagram<H> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.serial).cmp(&(other.due, other.serial))
    }
}
