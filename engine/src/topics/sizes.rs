//! How large a topic's ring and frames are, from what the topic was declared as.

use twinlane_proto::TopicSpec;
use twinlane_proto::frame::MESSAGE_HEADER_BYTES;
use twinlane_proto::limits::OPTIONS_BYTES_MAX;
use twinlane_ring::{RingConfig, SEGMENT_BYTES_MAX};

use crate::config::{DATAGRAM_PAYLOAD_BYTES, FAST_PAYLOAD_BYTES};

/// Segments a topic's history is cut into: the retained window moves by one of them at a time.
const SEGMENTS: usize = 4;
/// Segments that readers may keep pinned beyond those before publishers see a full queue.
const SPARE_SEGMENTS: usize = 4;
/// Average frame for which a segment's frame index is sized; smaller frames end a segment earlier.
const INDEXED_FRAME_BYTES: usize = 48;

pub(crate) fn frame_bytes_max(spec: &TopicSpec) -> usize {
    MESSAGE_HEADER_BYTES + OPTIONS_BYTES_MAX + spec.payload_bytes_max as usize
}

/// What a fast topic takes unless it chooses: so little that its history needs no larger segments for it.
pub(super) fn fast_payload_default(retain_bytes: u64) -> u32 {
    let headers = (MESSAGE_HEADER_BYTES + OPTIONS_BYTES_MAX) as u64;
    let fitting = (retain_bytes / SEGMENTS as u64).saturating_sub(headers);
    fitting.clamp(DATAGRAM_PAYLOAD_BYTES.into(), FAST_PAYLOAD_BYTES.into()) as u32
}

/// The ring that holds `queue_bytes` of frames as large as `frame_bytes_max`, or 64 MiB if that is less.
pub(crate) fn ring_config_for(queue_bytes: usize, frame_bytes_max: usize) -> RingConfig {
    let segment_bytes = (queue_bytes / SEGMENTS).max(frame_bytes_max).next_multiple_of(64);
    let segment_bytes = segment_bytes.min(SEGMENT_BYTES_MAX);
    RingConfig {
        segment_bytes,
        segment_frames: segment_bytes / INDEXED_FRAME_BYTES,
        segments: SEGMENTS,
        spare_segments: SPARE_SEGMENTS,
    }
}

pub(super) fn ring_config(recent_bytes: u64, spec: &TopicSpec) -> RingConfig {
    ring_config_for(recent_bytes as usize, frame_bytes_max(spec))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_may_be_asked_for_that_is_longer_than_a_ring() {
        for queue_bytes in [0, 4 << 20, 1 << 30, usize::MAX / 2] {
            let config = ring_config_for(queue_bytes, 1 << 20);
            assert_eq!(config.check(), Ok(()), "{queue_bytes}");
        }
        assert_eq!(ring_config_for(1 << 30, 1 << 20).segment_bytes, SEGMENT_BYTES_MAX);
    }
}
