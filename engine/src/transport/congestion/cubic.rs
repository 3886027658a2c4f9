//! The window over time that CUBIC would have (RFC 9438): what a flow needs to hold its own beside flows that fill
//! every buffer.

use std::time::Duration;

/// What is left of a window after a loss.
pub(super) const BETA: f64 = 0.7;

const C: f64 = 0.4;

/// CUBIC's curve since one loss, in packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Curve {
    packets_max: f64,
    start: f64,
    k: f64,
}

impl Curve {
    /// A loss at `window` packets left `start` of them.
    pub(super) fn after_loss(window: f64, start: f64) -> Self {
        Self { packets_max: window, start, k: ((window - start).max(0.0) / C).cbrt() }
    }

    /// The window after `since`, at the least what NewReno would have.
    pub(super) fn packets(&self, since: Duration, rtt: Duration) -> f64 {
        let cubic = C * (since.as_secs_f64() - self.k).powi(3) + self.packets_max;
        let rounds = since.as_secs_f64() / rtt.as_secs_f64().max(1e-6);
        let reno = self.start + RENO_PACKETS_PER_ROUND * rounds;
        cubic.max(reno)
    }
}

/// What makes a flow that keeps [`BETA`] after a loss as fast as NewReno, which keeps half.
pub(super) const RENO_PACKETS_PER_ROUND: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);
