//! How much may be in flight on a QUIC connection: CUBIC, up to what a receiver's socket buffer holds.
//!
//! On a path that never loses, CUBIC's window grows without end; the receiver's socket buffer does not. A receiver
//! that is off its core for a few milliseconds then loses whole bursts. Measured on loopback with 2 M msg/s of
//! 130 B: windows of 17 MB, 20 % of the messages lost in the receiver's socket.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};

/// Bytes in flight at most. 2 MiB fit an 8 MiB socket buffer with the kernel's book-keeping, and still carry
/// 160 Mbit/s over a round trip of 100 ms.
const WINDOW_BYTES_MAX: u64 = 2 << 20;

/// Makes CUBIC controllers whose window is capped.
pub(super) struct CappedCubic {
    cubic: Arc<CubicConfig>,
}

impl CappedCubic {
    pub(super) fn new(initial_window_bytes: u64) -> Arc<Self> {
        let mut cubic = CubicConfig::default();
        cubic.initial_window(initial_window_bytes);
        Arc::new(Self { cubic: Arc::new(cubic) })
    }
}

impl ControllerFactory for CappedCubic {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Capped { inner: Arc::clone(&self.cubic).build(now, current_mtu) })
    }
}

struct Capped {
    inner: Box<dyn Controller>,
}

impl Controller for Capped {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &quinn_proto::RttEstimator,
    ) {
        // Held back by the cap is held back by us: the window must not go on growing behind it.
        let is_capped = self.inner.window() >= WINDOW_BYTES_MAX;
        self.inner.on_ack(now, sent, bytes, app_limited || is_capped, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.inner.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.inner.window().min(WINDOW_BYTES_MAX)
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.inner.metrics();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { inner: self.inner.clone_box() })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
