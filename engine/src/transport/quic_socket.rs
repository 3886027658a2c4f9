//! The UDP socket under QUIC, with batches cut to what one system call can carry.
//!
//! quinn sends up to ten packets in one call (segmentation offload). Ten jumbo packets exceed the 64 KiB that the
//! kernel takes, the call fails, and all ten would be lost without a word. quinn also reserves room for 64 packets of
//! the largest size per receive, 18 MB per socket, where the kernel never joins more than 64 KiB. And it receives up to
//! 2 MiB before anything else on the thread has its turn, but sends no more than twenty packets in a turn: a server that
//! was off its core for a moment would then take in what it has missed and send none of it on.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime as _, TokioRuntime, UdpPoller};

/// The largest payload of one UDP system call over IPv4; IPv6 allows 20 bytes more.
const CALL_BYTES_MAX: usize = 65_507;

/// The most that the kernel joins into one receive.
const RECEIVE_BYTES_MAX: usize = 65_536;

/// Bytes received before whoever shares the thread has its turn: about what a connection sends in one.
const TURN_BYTES: usize = 2 * RECEIVE_BYTES_MAX;

/// A socket of the current runtime.
pub(super) struct QuicSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    receive_segments: usize,
    /// Received in this turn. Only the endpoint's task receives.
    turn_bytes: AtomicUsize,
}

impl QuicSocket {
    /// `payload_bytes_max` is the endpoint's own limit of one packet. Call it inside the runtime that shall own the
    /// socket.
    pub(super) fn new(socket: UdpSocket, payload_bytes_max: u16) -> io::Result<Arc<Self>> {
        let socket = TokioRuntime.wrap_udp_socket(socket)?;
        let enough = RECEIVE_BYTES_MAX.div_ceil(usize::from(payload_bytes_max));
        let receive_segments = socket.max_receive_segments().min(enough);
        Ok(Arc::new(Self { socket, receive_segments, turn_bytes: AtomicUsize::new(0) }))
    }
}

impl AsyncUdpSocket for QuicSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        for contents in calls(transmit.contents, transmit.segment_size) {
            // If a later call finds the socket full, quinn sends the batch again: the peer ignores what it has.
            self.socket.try_send(&Transmit { contents, ..*transmit })?;
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let turn_bytes = self.turn_bytes.swap(0, Ordering::Relaxed);
        if TURN_BYTES <= turn_bytes {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let calls = bufs.len().min(TURN_BYTES / RECEIVE_BYTES_MAX);
        let received = self.socket.poll_recv(cx, &mut bufs[..calls], meta);
        if let Poll::Ready(Ok(calls)) = received {
            let bytes: usize = meta[..calls].iter().map(|call| call.len).sum();
            self.turn_bytes.store(turn_bytes + bytes, Ordering::Relaxed);
        }
        received
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.receive_segments
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

impl fmt::Debug for QuicSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket.fmt(f)
    }
}

/// The parts of a batch, each a run of whole segments that fits one call.
fn calls(contents: &[u8], segment_bytes: Option<usize>) -> impl Iterator<Item = &[u8]> {
    let call_bytes = match segment_bytes {
        Some(segment_bytes) if CALL_BYTES_MAX < contents.len() => {
            (CALL_BYTES_MAX / segment_bytes).max(1) * segment_bytes
        }
        _ => contents.len(),
    };
    contents.chunks(call_bytes.max(1))
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::transport::quic::bind_udp;

    #[tokio::test]
    async fn a_turn_of_the_receiver_ends_although_more_has_arrived() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let socket = QuicSocket::new(bind_udp(any).unwrap(), 8_952).unwrap();
        let sender = UdpSocket::bind(any).unwrap();
        for _ in 0..TURN_BYTES / 8_192 + 1 {
            sender.send_to(&[7; 8_192], socket.local_addr().unwrap()).unwrap();
        }
        let mut memory = vec![[0; 8_192]; 4];
        let mut receive = |cx: &mut Context<'_>| {
            let mut bufs: Vec<_> = memory.iter_mut().map(|buf| IoSliceMut::new(buf)).collect();
            let mut meta = [RecvMeta::default(); 4];
            let received = socket.poll_recv(cx, &mut bufs, &mut meta);
            received.map(|calls| meta[..calls.unwrap()].iter().map(|call| call.len).sum::<usize>())
        };
        let mut received_bytes = std::future::poll_fn(&mut receive).await;
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(bytes) = receive(&mut cx) {
            received_bytes += bytes;
        }
        assert_eq!(received_bytes, TURN_BYTES);
        assert_eq!(receive(&mut cx), Poll::Ready(8_192), "the rest comes in the next turn");
    }

    #[test]
    fn a_batch_that_fits_one_call_is_one_call() {
        let batch = vec![0; 12_000];
        assert_eq!(calls(&batch, Some(1_200)).map(<[u8]>::len).collect::<Vec<_>>(), [12_000]);
        assert_eq!(calls(&batch[..1_200], None).count(), 1);
    }

    #[test]
    fn a_batch_of_jumbo_packets_is_cut_between_packets() {
        let batch = vec![0; 9 * 8_952 + 100];
        let parts: Vec<_> = calls(&batch, Some(8_952)).map(<[u8]>::len).collect();
        assert_eq!(parts, [7 * 8_952, 2 * 8_952 + 100]);
    }
}
