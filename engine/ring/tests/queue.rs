//! A ring that is a queue and no history: what it uses again, and what it keeps.

use twinlane_ring::{AppendError, Gating, Read, Ring, RingConfig, Start};

#[test]
fn a_queue_that_is_kept_short_works_in_three_segments() {
    let config = RingConfig { segment_bytes: 64, segment_frames: 8, segments: 8, spare_segments: 2 };
    let (queue, history) = (Ring::queue(config).unwrap(), Ring::new(config).unwrap());
    for ring in [&queue, &history] {
        let mut cursor = ring.cursor(Start::Oldest, Gating::Gated);
        for number in 0..1_000_u64 {
            ring.append(&[&number.to_le_bytes()], |_, _| ()).unwrap();
            let Read::Run(run) = cursor.read(usize::MAX) else { panic!("{number} is committed") };
            assert_eq!(run.bytes(), number.to_le_bytes());
        }
        assert_eq!(ring.next(), 1_000);
    }
    assert!(history.memory_bytes() > 2 * queue.memory_bytes());
    assert!(history.oldest() + 7 * 8 <= 1_000, "a history keeps what was passed");
}

#[test]
fn a_queue_keeps_everything_that_some_gated_cursor_has_not_passed() {
    let config = RingConfig { segment_bytes: 64, segment_frames: 8, segments: 4, spare_segments: 0 };
    let ring = Ring::queue(config).unwrap();
    let mut first = ring.cursor(Start::Oldest, Gating::Gated);
    let mut second = ring.cursor(Start::Oldest, Gating::Gated);
    for number in 0..32_u64 {
        ring.append(&[&number.to_le_bytes()], |_, _| ()).unwrap();
        assert!(matches!(first.read(usize::MAX), Read::Run(_)));
    }
    assert_eq!(ring.append(&[b"8 bytes."], |_, _| ()), Err(AppendError::Full));
    for number in 0..32_u64 {
        let Read::Run(run) = second.read(1) else { panic!("{number} is kept") };
        assert_eq!(run.bytes(), number.to_le_bytes());
    }
}
