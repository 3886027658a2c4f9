//! Any bytes as a message of a Rust client of the event layer: no more packets are read than can be there.

use twinlane::events::fuzzing::read_packets;

/// What a packet has at least.
const PACKET_BYTES_MIN: usize = 20;

pub(crate) fn check(data: &[u8]) {
    if let Ok(packets) = read_packets(data) {
        assert!(packets <= data.len() / PACKET_BYTES_MIN, "{packets} packets in {} bytes", data.len());
    }
}
