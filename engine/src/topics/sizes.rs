//! How large a topic's ring and frames are, from what the topic was declared as.

use twinlane_proto::TopicSpec;
use twinlane_proto::frame::MESSAGE_HEADER_BYTES;
use twinlane_proto::limits::OPTIONS_BYTES_MAX;
use twinlane_ring::RingConfig;

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

/// The ring that holds `queue_bytes` of frames as large as `frame_bytes_max`.
pub(crate) fn ring_config_for(queue_bytes: usize, frame_bytes_max: usize) -> RingConfig {
    let segment_bytes = (queue_bytes / SEGMENTS).max(frame_bytes_max).next_multiple_of(64);
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
