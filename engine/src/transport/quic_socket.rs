//! The UDP socket under QUIC, with batches cut to what one system call can carry.
//!
//! quinn sends up to ten packets in one call (segmentation offload). Ten jumbo packets exceed the 64 KiB that the
//! kernel takes, the call fails, and all ten would be lost without a word. quinn also reserves room for 64 packets of
//! the largest size per receive, 18 MB per socket, where the kernel never joins more than 64 KiB.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime as _, TokioRuntime, UdpPoller};

/// The largest payload of one UDP system call over IPv4; IPv6 allows 20 bytes more.
const CALL_BYTES_MAX: usize = 65_507;

/// The most that the kernel joins into one receive.
const RECEIVE_BYTES_MAX: usize = 65_536;

/// A socket of the current runtime.
pub(super) struct QuicSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    receive_segments: usize,
}

impl QuicSocket {
    /// `payload_bytes_max` is the endpoint's own limit of one packet. Call it inside the runtime that shall own the
    /// socket.
    pub(super) fn new(socket: UdpSocket, payload_bytes_max: u16) -> io::Result<Arc<Self>> {
        let socket = TokioRuntime.wrap_udp_socket(socket)?;
        let enough = RECEIVE_BYTES_MAX.div_ceil(usize::from(payload_bytes_max));
        let receive_segments = socket.max_receive_segments().min(enough);
        Ok(Arc::new(Self { socket, receive_segments }))
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
        self.socket.poll_recv(cx, bufs, meta)
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
    use super::*;

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
