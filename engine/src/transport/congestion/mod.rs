//! How much may be in flight on a QUIC connection: enough to keep the path busy, little enough to stay fresh.
//!
//! Loss alone does not slow us down, a standing queue does; beside flows that fill every buffer we take our share like
//! them. At most 2 MiB are in flight: on a path that never loses, a window grows without end, the receiver's socket
//! buffer does not, and a receiver that is off its core for a few milliseconds then loses whole bursts. Measured on
//! loopback with 2 M msg/s of 130 B: windows of 17 MB, 20 % of the messages lost in the receiver's socket.
//!
//! `control` decides, `estimate` measures, `send_state` tells those who fill the queue. Pacing and the detection of
//! losses are quinn's.

mod control;
mod cubic;
mod estimate;
mod room;
mod send_state;
#[cfg(test)]
mod simulator;

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};

use control::Control;

pub(super) use room::Room;
pub(super) use send_state::SendState;

/// Makes a controller for each path of each connection.
pub(super) struct FreshFactory {
    initial_window_bytes: u64,
}

/// The controller of one path.
pub(super) struct Fresh {
    control: Control,
    in_flight_bytes: u64,
    state: Arc<SendState>,
}

impl FreshFactory {
    pub(super) fn new(initial_window_bytes: u64) -> Arc<Self> {
        Arc::new(Self { initial_window_bytes })
    }
}

impl ControllerFactory for FreshFactory {
    fn build(self: Arc<Self>, _now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let control = Control::new(self.initial_window_bytes, current_mtu);
        let fresh = Fresh { control, in_flight_bytes: 0, state: Arc::default() };
        fresh.publish();
        Box::new(fresh)
    }
}

impl Fresh {
    /// What others may see of it while the connection lives.
    pub(super) fn state(&self) -> &Arc<SendState> {
        &self.state
    }

    fn publish(&self) {
        let window_bytes = self.control.window();
        self.state.set_path(window_bytes, self.control.rate(), self.control.mtu());
        self.state.set_way(self.control.way());
        self.state.set_in_flight(self.in_flight_bytes);
        self.state.wake();
    }
}

impl Controller for Fresh {
    fn on_sent(&mut self, _now: Instant, bytes: u64, _last_packet_number: u64) {
        self.in_flight_bytes += bytes;
        self.state.sent(bytes);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        _app_limited: bool,
        rtt: &quinn_proto::RttEstimator,
    ) {
        self.control.acked(now, sent, bytes, rtt.get());
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        _app_limited: bool,
        _largest_packet_num_acked: Option<u64>,
    ) {
        self.in_flight_bytes = in_flight;
        self.control.end_of_ack(now, in_flight);
        self.state.acked();
        self.publish();
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(lost_bytes);
        self.control.lost(now, sent, lost_bytes, is_persistent_congestion);
        self.publish();
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.control.set_mtu(new_mtu);
        self.publish();
    }

    fn window(&self) -> u64 {
        self.control.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window();
        metrics.pacing_rate = Some(self.control.rate() * 8);
        metrics
    }

    /// Shares what others see: quinn clones a controller when the peer's port changes, and goes on with the clone.
    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            control: self.control.clone(),
            in_flight_bytes: self.in_flight_bytes,
            state: Arc::clone(&self.state),
        })
    }

    fn initial_window(&self) -> u64 {
        self.control.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // The path may have been replaced: whoever waits for its room has to look again.
        self.state.wake();
    }
}
