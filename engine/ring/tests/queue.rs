//! A ring that is a queue and no history: what it uses again, and what it keeps.

#![cfg(not(loom))]

use std::collections::HashSet;
use std::task::{Context, Waker};

use twinlane_ring::{AppendError, Cursor, Gating, Read, Ring, RingConfig, Start};

/// Bytes of the two segments that a ring begins with.
const SMALL_BYTES: usize = 16 * 1024;
const LARGE: RingConfig =
    RingConfig { segment_bytes: 256 * 1024, segment_frames: 32 * 1024, segments: 4, spare_segments: 2 };

/// Appends and reads `frames` frames of 8 bytes.
fn pass(ring: &Ring, cursor: &mut Cursor, frames: usize, mut look: impl FnMut(*const u8)) {
    for number in 0..frames {
        ring.append(&[&number.to_le_bytes()], |_, _| ()).expect("a queue that is read has room");
        let Read::Run(run) = cursor.read(usize::MAX) else { panic!("{number} is committed") };
        assert_eq!(run.bytes(), number.to_le_bytes());
        look(run.bytes().as_ptr());
    }
}

#[test]
fn a_ring_that_holds_little_takes_little_memory() {
    for ring in [Ring::queue(LARGE).unwrap(), Ring::new(LARGE).unwrap()] {
        ring.append(&[b"8 bytes."], |_, _| ()).unwrap();
        assert!(ring.memory_bytes() < 2 * SMALL_BYTES, "{} bytes", ring.memory_bytes());
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many frames for it")]
fn a_queue_that_is_kept_short_stays_in_two_small_segments() {
    let ring = Ring::queue(LARGE).unwrap();
    let mut gated = ring.cursor(Start::Oldest, Gating::Gated);
    let mut places = HashSet::new();
    pass(&ring, &mut gated, 200_000, |place| {
        places.insert(place);
    });
    assert_eq!(places.len(), 2 * SMALL_BYTES / 8);
}

#[test]
#[cfg_attr(miri, ignore = "too many frames for it")]
fn a_queue_that_was_long_once_returns_to_its_small_segments() {
    let ring = Ring::queue(LARGE).unwrap();
    let mut gated = ring.cursor(Start::Oldest, Gating::Gated);
    let held = (0..).take_while(|_| ring.append(&[b"8 bytes."], |_, _| ()).is_ok()).count();
    let steps_bytes = 2 * SMALL_BYTES + 4 * SMALL_BYTES;
    assert_eq!(held, 4 * 32 * 1024 + steps_bytes / 8, "four large segments and those before them");
    for _ in 0..held {
        assert!(matches!(gated.read(1), Read::Run(_)));
    }
    pass(&ring, &mut gated, 100_000, |_| ());
    let mut places = HashSet::new();
    pass(&ring, &mut gated, 100_000, |place| {
        places.insert(place);
    });
    assert_eq!(places.len(), 2 * SMALL_BYTES / 8);
}

#[test]
#[cfg_attr(miri, ignore = "too many frames for it")]
fn a_ring_grows_by_steps() {
    let config = RingConfig { segment_bytes: 1 << 20, segment_frames: 128 << 10, ..LARGE };
    for ring in [Ring::queue(config).unwrap(), Ring::new(config).unwrap()] {
        // It keeps all of it.
        let _gated = ring.cursor(Start::Oldest, Gating::Gated);
        let mut memory_bytes = vec![ring.memory_bytes()];
        for _ in 0..(1 << 20) / 8 {
            ring.append(&[b"8 bytes."], |_, _| ()).unwrap();
            if memory_bytes.last() != Some(&ring.memory_bytes()) {
                memory_bytes.push(ring.memory_bytes());
            }
        }
        let grown: Vec<_> = memory_bytes.windows(2).map(|pair| (pair[1] - pair[0]) >> 14).collect();
        // With a commit word of 4 bytes for 8 bytes of frames, in units of 16 KiB.
        assert_eq!(grown, [1, 1, 6, 24, 96]);
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many frames for it")]
fn a_history_keeps_three_of_four_large_segments() {
    let ring = Ring::new(LARGE).unwrap();
    let mut gated = ring.cursor(Start::Oldest, Gating::Gated);
    pass(&ring, &mut gated, 200_000, |_| ());
    let kept = ring.next() - ring.oldest();
    assert!(kept >= 3 * 32 * 1024, "it keeps {kept} frames");
}

#[test]
fn a_frame_too_large_for_a_small_segment_is_stored_behind_one_and_alone() {
    let large = vec![7; LARGE.segment_bytes];
    for with_small in [false, true] {
        let ring = Ring::queue(LARGE).unwrap();
        let mut cursor = ring.cursor(Start::Oldest, Gating::Gated);
        if with_small {
            pass(&ring, &mut cursor, 1, |_| ());
        }
        for _ in 0..10 {
            ring.append(&[&large], |_, _| ()).unwrap();
            let Read::Run(run) = cursor.read(1) else { panic!("it is committed") };
            assert_eq!((run.frames(), run.bytes()), (1, &large[..]));
        }
    }
}

#[test]
fn a_reader_passes_a_small_segment_that_was_left_empty_for_a_large_frame() {
    let ring = Ring::queue(LARGE).unwrap();
    let mut cursor = ring.cursor(Start::Oldest, Gating::Gated);
    let mut cx = Context::from_waker(Waker::noop());
    // Whoever asks for room tells no size, and gets a small segment.
    assert!(ring.poll_room(&mut cx).is_ready() && cursor.poll_readable(&mut cx).is_pending());
    let large = vec![7; LARGE.segment_bytes];
    ring.append(&[&large], |_, _| ()).unwrap();
    assert!(cursor.poll_readable(&mut cx).is_ready());
    let Read::Run(run) = cursor.read(1) else { panic!("it is committed") };
    assert_eq!(run.bytes(), large);
}

#[test]
fn who_waits_for_room_for_a_large_frame_is_not_told_of_small_segments() {
    let config = RingConfig { segments: 2, spare_segments: 0, ..LARGE };
    let ring = Ring::queue(config).unwrap();
    let mut cursor = ring.cursor(Start::Oldest, Gating::Gated);
    let mut cx = Context::from_waker(Waker::noop());
    let large = vec![7; LARGE.segment_bytes];
    ring.append(&[&large], |_, _| ()).unwrap();
    ring.append(&[&large], |_, _| ()).unwrap();
    // Both large segments are held, and nothing but the second is in the queue.
    let (Read::Run(first), Read::Run(_second)) = (cursor.read(1), cursor.read(1)) else {
        panic!("committed")
    };
    assert_eq!(ring.append(&[&large], |_, _| ()), Err(AppendError::Full));
    assert!(ring.poll_room(&mut cx).is_pending());
    drop(first);
    assert!(ring.poll_room(&mut cx).is_ready());
    ring.append(&[&large], |_, _| ()).unwrap();
}

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

#[test]
fn a_ring_may_go_on_where_an_earlier_history_ended() {
    let ring = Ring::starting_at(RingConfig::default(), 1 << 40).expect("the default sizes are good");
    let mut early = ring.cursor(Start::Offset(7), Gating::Lossy);
    assert_eq!((ring.oldest(), ring.next()), (1 << 40, 1 << 40));
    assert!(matches!(early.read(usize::MAX), Read::Missed { from: 7, to } if to == 1 << 40));
    assert!(matches!(early.read(usize::MAX), Read::Empty));
    assert_eq!(ring.append(&[b"a"], |_, _| ()), Ok(1 << 40));
    assert!(matches!(early.read(usize::MAX), Read::Run(run) if run.first_offset() == 1 << 40));
    assert_eq!((ring.oldest(), ring.next()), (1 << 40, (1 << 40) + 1));
}
