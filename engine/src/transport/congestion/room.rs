//! How much may wait in quinn's datagram queue.
//!
//! That queue knows no deadline, so it holds what leaves in the next milliseconds and no more; what is not in it can
//! still be replaced or dropped by those who know better. What the window does not let leave is not in it either, unless
//! streams compete for it: if acks stop, it would lie there until a probe takes it along, long after its deadline.
//!
//! And the queue is served before the streams: beside a fast topic that is always ready they would get nothing. So when
//! the window is full and datagrams have had their share of it, none is added until the streams had the chance to use
//! what acks free.
//!
//! Nothing waits here and nothing is queued here.

use super::send_state::SendState;

/// Queued at most is what leaves in this many milliseconds.
const QUEUE_MILLISECONDS: u64 = 3;

/// The queue always takes that many packets: one may be on its way to the socket while the next is packed.
const QUEUE_PACKETS_MIN: u64 = 2;

/// So much of the queue stays free: what is packed is a packet or two more than there was room for, and of a queue that is
/// full quinn drops the oldest without a word. Measured at 2.8 M msg/s on loopback: 0.06 to 0.25 % of the messages.
const SPARE: u64 = 4;

/// For each byte of others, datagrams may have that many while the window is full.
const DATAGRAM_SHARE: u64 = 3;

/// One byte of acks for so many of datagrams is usual, where both sides send them.
const ACKS_SHARE: u64 = 8;

/// Bytes of a packet that are not of its datagram: header, tag, and the frame's own header.
const PACKET_OVERHEAD_BYTES: u64 = 40;

/// Bytes that datagrams may have before their share is counted: so many packets, or so much of the window.
const BURST_PACKETS: u64 = 8;
const BURST_WINDOWS: u64 = 4;

/// Decides how much may be queued. One per connection.
#[derive(Debug, Default)]
pub(in crate::transport) struct Room {
    /// What had been sent when the count of shares began.
    sent_bytes: u64,
    sent_packets: u64,
    datagram_bytes: u64,
    /// The acks at the look before, and when they had last changed: what had been queued, and whether streams used the
    /// window. Without acks nobody's use of it can be told from probes, which carry whatever there is.
    acks: u64,
    given_at_ack_bytes: u64,
    has_streams: bool,
}

impl Room {
    /// Bytes that may be queued now, at least a packet's, of `space_bytes` in a queue that can hold `bound_bytes`.
    /// `given_bytes` is what was ever queued. `None`: not now; packets have to leave or to be acknowledged first.
    pub(in crate::transport) fn now(
        &mut self,
        path: &SendState,
        bound_bytes: usize,
        space_bytes: usize,
        given_bytes: u64,
    ) -> Option<usize> {
        let mtu = path.mtu_bytes();
        let queued = bound_bytes.saturating_sub(space_bytes) as u64;
        let bound = bound_bytes as u64;
        let sent = self.sent_while_full(path, given_bytes.saturating_sub(queued));
        let limit = path.rate() / 1_000 * QUEUE_MILLISECONDS;
        let mut limit = limit.max(QUEUE_PACKETS_MIN * mtu).min(bound - bound / SPARE);
        self.look_at_acks(path, given_bytes, sent);
        if !self.has_streams {
            limit = limit.min(self.may_leave(path, given_bytes));
        }
        let room = limit.saturating_sub(queued).min(space_bytes as u64);
        if room < mtu || !sent.leaves_others_their_share(path) {
            return None;
        }
        Some(room as usize)
    }

    /// What was sent since the window is full, two windows of it at most.
    fn sent_while_full(&mut self, path: &SendState, datagram_bytes: u64) -> Sent {
        let (window, mtu) = (path.window_bytes(), path.mtu_bytes());
        let sent = path.sent_bytes().saturating_sub(self.sent_bytes);
        let is_full = path.in_flight_bytes() + 2 * mtu >= window;
        if !is_full || sent > 2 * window {
            (self.sent_bytes, self.sent_packets) = (path.sent_bytes(), path.sent_packets());
            self.datagram_bytes = datagram_bytes;
            return Sent::default();
        }
        let datagrams = datagram_bytes.saturating_sub(self.datagram_bytes);
        let packets = path.sent_packets().saturating_sub(self.sent_packets);
        Sent { packets, datagrams, others: sent.saturating_sub(datagrams) }
    }

    fn look_at_acks(&mut self, path: &SendState, given_bytes: u64, sent: Sent) {
        let acks = path.acks();
        if acks != self.acks {
            (self.acks, self.given_at_ack_bytes) = (acks, given_bytes);
            self.has_streams = sent.has_streams();
        }
    }

    /// Bytes that the window lets leave, those that are queued included.
    fn may_leave(&self, path: &SendState, given_bytes: u64) -> u64 {
        // quinn sends a packet only if it leaves some of the window free, and small datagrams need more than their bytes.
        let left = path.window_bytes().saturating_sub(path.in_flight_bytes() + 1);
        let left = left.min((left / 4 * 3).max(path.mtu_bytes()));
        if given_bytes == self.given_at_ack_bytes {
            // Acks of our own are counted as in flight until the peer acknowledges something, which it has no reason to
            // do before it is sent something else: a packet always may.
            return left.max(path.mtu_bytes());
        }
        left
    }
}

/// Packets, and their bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    packets: u64,
    datagrams: u64,
    others: u64,
}

impl Sent {
    /// Streams use the window, too: not only acks of our own do. What waits when an ack comes is all that datagrams then
    /// get, so some of them must.
    fn has_streams(self) -> bool {
        self.others > self.datagrams / ACKS_SHARE + self.packets * PACKET_OVERHEAD_BYTES
    }

    fn leaves_others_their_share(self, path: &SendState) -> bool {
        let burst = (BURST_PACKETS * path.mtu_bytes()).max(path.window_bytes() / BURST_WINDOWS);
        self.datagrams <= DATAGRAM_SHARE * self.others + burst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: usize = 256 << 10;

    fn path(window: u64, rate: u64, in_flight: u64) -> SendState {
        let path = SendState::default();
        path.set_path(window, rate, 1_200);
        path.set_in_flight(in_flight);
        path
    }

    #[test]
    fn three_milliseconds_of_the_rate_may_wait() {
        let path = path(1 << 20, 10_000_000, 0);
        assert_eq!(Room::default().now(&path, BOUND, BOUND, 0), Some(30_000));
        assert_eq!(Room::default().now(&path, BOUND, BOUND - 20_000, 20_000), Some(10_000));
        assert_eq!(Room::default().now(&path, BOUND, BOUND - 29_000, 29_000), None, "less than a packet");
    }

    #[test]
    fn two_packets_may_wait_on_the_slowest_path_and_most_of_the_bound_on_the_fastest() {
        assert_eq!(Room::default().now(&path(5_000, 0, 0), BOUND, BOUND, 0), Some(2_400));
        assert_eq!(Room::default().now(&path(2 << 20, 1 << 30, 0), BOUND, BOUND, 0), Some(BOUND / 4 * 3));
    }

    #[test]
    fn where_the_window_is_full_of_datagrams_others_come_first() {
        let path = path(40_000, 1_000_000, 38_000);
        let mut room = Room::default();
        path.sent(20_000);
        path.set_in_flight(38_000);
        assert_eq!(room.now(&path, BOUND, BOUND, 20_000), None, "all was datagrams");
        path.sent(5_000);
        path.set_in_flight(38_000);
        assert!(room.now(&path, BOUND, BOUND, 20_000).is_some(), "a fifth was others");
        path.sent(10_000);
        path.set_in_flight(30_000);
        assert!(room.now(&path, BOUND, BOUND, 30_000).is_some(), "nobody else wanted it");
    }

    #[test]
    fn what_the_window_does_not_let_leave_is_not_queued() {
        let path = path(10_000, 10_000_000, 4_000);
        let mut room = Room::default();
        assert_eq!(
            room.now(&path, BOUND, BOUND, 500),
            Some(4_497),
            "three quarters, because of the packets' headers"
        );
        assert_eq!(room.now(&path, BOUND, BOUND - 3_000, 3_500), Some(1_497));
        assert_eq!(room.now(&path, BOUND, BOUND - 4_000, 4_500), None, "less than a packet");
        path.set_in_flight(8_700);
        assert_eq!(
            room.now(&path, BOUND, BOUND, 4_500),
            Some(1_200),
            "a packet leaves some of the window free"
        );
        path.set_in_flight(8_800);
        assert_eq!(room.now(&path, BOUND, BOUND, 4_500), None);
    }

    #[test]
    fn probes_after_the_last_acknowledgement_are_no_streams() {
        let path = path(10_000, 10_000_000, 10_000);
        let mut room = Room::default();
        path.acked();
        assert!(room.now(&path, BOUND, BOUND, 9_000).is_some());
        for probe in 1..10 {
            path.sent(1_200);
            assert_eq!(room.now(&path, BOUND, BOUND, 10_200), None, "after probe {probe}");
        }
    }

    #[test]
    fn the_headers_of_small_datagrams_are_no_streams() {
        let path = path(10_000, 10_000_000, 10_000);
        let mut room = Room::default();
        assert!(room.now(&path, BOUND, BOUND, 0).is_some());
        for given in 1..=20 {
            path.sent(100);
            path.set_in_flight(10_000);
            path.acked();
            let _ = room.now(&path, BOUND, BOUND, 62 * given);
        }
        assert!(!room.has_streams);
    }

    #[test]
    fn when_acknowledgements_stop_nothing_is_queued_until_the_next() {
        let path = path(10_000, 10_000_000, 10_000);
        let mut room = Room::default();
        path.acked();
        assert_eq!(
            room.now(&path, BOUND, BOUND, 9_000),
            Some(1_200),
            "what is in flight may be acks of our own"
        );
        assert_eq!(room.now(&path, BOUND, BOUND - 1_200, 10_200), None);
        assert_eq!(room.now(&path, BOUND, BOUND, 10_200), None, "a probe took it along");
        path.acked();
        path.set_in_flight(0);
        assert_eq!(room.now(&path, BOUND, BOUND, 10_200), Some(7_497));
    }
}
