//! What whoever fills quinn's datagram queue may know of the path without asking quinn, and who is woken when packets
//! have left.
//!
//! Written by the controller, read by one task. Nothing is decided here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use atomic_waker::AtomicWaker;

/// A path's sender. Each number is right by itself; two of them may be a packet apart.
#[derive(Debug, Default)]
pub(in crate::transport) struct SendState {
    window_bytes: AtomicU64,
    in_flight_bytes: AtomicU64,
    rate: AtomicU64,
    sent_bytes: AtomicU64,
    sent_packets: AtomicU64,
    mtu_bytes: AtomicU64,
    way_us: AtomicU64,
    acks: AtomicU64,
    room: AtomicWaker,
}

impl SendState {
    /// Bytes that may be in flight.
    pub(in crate::transport) fn window_bytes(&self) -> u64 {
        self.window_bytes.load(Ordering::Acquire)
    }

    /// Bytes sent and not yet acknowledged or lost; acks of ours may be counted until the next ack comes.
    pub(in crate::transport) fn in_flight_bytes(&self) -> u64 {
        self.in_flight_bytes.load(Ordering::Acquire)
    }

    /// Bytes per second that may leave.
    pub(in crate::transport) fn rate(&self) -> u64 {
        self.rate.load(Ordering::Acquire)
    }

    /// Bytes of packets sent so far.
    pub(in crate::transport) fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Acquire)
    }

    /// Packets sent so far.
    pub(in crate::transport) fn sent_packets(&self) -> u64 {
        self.sent_packets.load(Ordering::Acquire)
    }

    /// Counts packets of the peer that acknowledged something: then the bytes in flight are exact.
    pub(in crate::transport) fn acks(&self) -> u64 {
        self.acks.load(Ordering::Acquire)
    }

    /// The largest packet.
    pub(in crate::transport) fn mtu_bytes(&self) -> u64 {
        self.mtu_bytes.load(Ordering::Acquire)
    }

    /// How long a packet that leaves now is under way; zero: too short to be known.
    pub(in crate::transport) fn way(&self) -> Duration {
        Duration::from_micros(self.way_us.load(Ordering::Relaxed))
    }

    /// Wakes `waker` once when packets leave, acks come, or the path is another one. Replaces the one before.
    pub(in crate::transport) fn register(&self, waker: &Waker) {
        self.room.register(waker);
    }

    pub(super) fn sent(&self, bytes: u64) {
        self.sent_bytes.fetch_add(bytes, Ordering::AcqRel);
        self.sent_packets.fetch_add(1, Ordering::AcqRel);
        self.in_flight_bytes.fetch_add(bytes, Ordering::AcqRel);
        self.room.wake();
    }

    pub(super) fn set_path(&self, window_bytes: u64, rate: u64, mtu_bytes: u64) {
        self.window_bytes.store(window_bytes, Ordering::Release);
        self.rate.store(rate, Ordering::Release);
        self.mtu_bytes.store(mtu_bytes, Ordering::Release);
    }

    pub(super) fn set_way(&self, way: Duration) {
        self.way_us.store(way.as_micros() as u64, Ordering::Relaxed);
    }

    pub(super) fn set_in_flight(&self, bytes: u64) {
        self.in_flight_bytes.store(bytes, Ordering::Release);
    }

    pub(super) fn acked(&self) {
        self.acks.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn wake(&self) {
        self.room.wake();
    }
}
