//! What queues that share a quota promise: a bound for all of them together, and that none stops another.
#![cfg(not(loom))]

mod common;

use std::task::{Context, Waker};

use common::{Random, expect_run};
use twinlane_ring::{AppendError, Cursor, Gating, Quota, Read, Ring, RingConfig, Start};

const SMALL_BYTES: usize = 16 * 1024;
/// Of the two smallest segments and the one of the next step.
const STEPS_BYTES: usize = 2 * SMALL_BYTES + 4 * SMALL_BYTES;
const LARGE_BYTES: usize = 256 * 1024;
const CONFIG: RingConfig =
    RingConfig { segment_bytes: LARGE_BYTES, segment_frames: 4 * 1024, segments: 4, spare_segments: 2 };
const FRAME: [u8; 1024] = [7; 1024];

fn queue(quota: &Quota) -> (Ring, Cursor) {
    let ring = Ring::queue_within(CONFIG, quota).expect("the sizes are in bounds");
    let gated = ring.cursor(Start::Oldest, Gating::Gated);
    (ring, gated)
}

/// Appends until the queue is full; returns how many bytes it took.
fn fill(ring: &Ring) -> usize {
    (0..).take_while(|_| ring.append(&[&FRAME], |_, _| ()).is_ok()).count() * FRAME.len()
}

fn drain(cursor: &mut Cursor) -> usize {
    let runs = std::iter::from_fn(|| match cursor.read(usize::MAX) {
        Read::Run(run) => Some(run.frames()),
        _ => None,
    });
    runs.sum()
}

#[test]
fn queues_that_share_a_quota_hold_no_more_than_it_together() {
    let quota = Quota::new(3 * LARGE_BYTES);
    let queues: Vec<_> = (0..4).map(|_| queue(&quota)).collect();
    let held: Vec<_> = queues.iter().map(|(ring, _)| fill(ring)).collect();
    assert_eq!(held, [STEPS_BYTES + 3 * LARGE_BYTES, STEPS_BYTES, STEPS_BYTES, STEPS_BYTES]);
    assert_eq!(quota.held_bytes(), 3 * LARGE_BYTES);
}

#[test]
fn a_queue_that_stands_still_stops_no_other_one() {
    let quota = Quota::new(LARGE_BYTES);
    let (standing, _unread) = queue(&quota);
    fill(&standing);
    let (ring, mut cursor) = queue(&quota);
    for _ in 0..10 {
        let taken = fill(&ring);
        assert!(taken >= STEPS_BYTES - SMALL_BYTES, "{taken} bytes");
        assert_eq!(drain(&mut cursor) * FRAME.len(), taken);
    }
}

#[test]
fn what_one_queue_gives_back_another_may_hold() {
    let quota = Quota::new(2 * LARGE_BYTES);
    let (first, mut reading) = queue(&quota);
    let (second, mut reading_too) = queue(&quota);
    fill(&first);
    assert_eq!(fill(&second), STEPS_BYTES);
    for _ in 0..=SMALL_BYTES / FRAME.len() {
        drain(&mut reading);
        first.append(&[&FRAME], |_, _| ()).expect("all was read");
    }
    // It looks for room when its own reader has made some.
    assert!(matches!(reading_too.read(SMALL_BYTES), Read::Run(_)));
    assert!(matches!(reading_too.read(1), Read::Run(_)));
    assert_eq!(fill(&second), 2 * LARGE_BYTES, "the first one is back in its small segments");
    drop((first, reading, second, reading_too));
    assert_eq!(quota.held_bytes(), 0, "a queue that is gone holds nothing");
}

#[test]
fn a_frame_too_large_for_a_small_segment_passes_though_the_quota_is_used_up() {
    let quota = Quota::new(0);
    let (ring, mut cursor) = queue(&quota);
    let large = vec![7; LARGE_BYTES];
    for with_small in [false, true] {
        for _ in 0..10 {
            if with_small {
                ring.append(&[&FRAME], |_, _| ()).expect("a small one has room");
                assert_eq!(expect_run(&mut cursor).bytes(), FRAME);
            }
            ring.append(&[&large], |_, _| ()).expect("nothing waits before it");
            assert_eq!(expect_run(&mut cursor).bytes(), large);
        }
    }
    ring.append(&[&large], |_, _| ()).expect("one segment waits, and it is passed");
    assert_eq!(ring.append(&[&large], |_, _| ()), Err(AppendError::Full), "two segments wait");
    assert_eq!(drain(&mut cursor), 1);
    ring.append(&[&large], |_, _| ()).expect("they were passed");
}

#[test]
fn who_waits_is_woken_when_a_reader_lets_go_of_a_small_segment() {
    let quota = Quota::new(0);
    let (ring, mut cursor) = queue(&quota);
    let mut cx = Context::from_waker(Waker::noop());
    fill(&ring);
    // It has passed all of them, and holds them.
    let held: Vec<_> = std::iter::from_fn(|| match cursor.read(usize::MAX) {
        Read::Run(run) => Some(run),
        _ => None,
    })
    .collect();
    assert_eq!(held.len(), 3);
    assert_eq!(ring.append(&[&FRAME], |_, _| ()), Err(AppendError::Full));
    assert!(ring.poll_room(&mut cx).is_pending());
    drop(held);
    assert!(ring.poll_room(&mut cx).is_ready());
    ring.append(&[&FRAME], |_, _| ()).expect("there is room");
}

#[test]
fn a_bound_is_raised_and_never_lowered() {
    let quota = Quota::new(0);
    let (ring, _unread) = queue(&quota);
    assert_eq!(fill(&ring), STEPS_BYTES);
    for bytes_max in [LARGE_BYTES, 0] {
        quota.raise_to(bytes_max);
    }
    assert!(ring.poll_room(&mut Context::from_waker(Waker::noop())).is_ready());
    assert_eq!(fill(&ring), LARGE_BYTES);
}

/// Sizes and readers at random: whatever is appended is read once and in order, nobody waits for ever, and what is
/// held at the end is given back.
#[test]
#[cfg_attr(miri, ignore = "too many frames for it")]
fn random_queues_lose_nothing_and_give_everything_back() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut random = Random(seed);
    let quota = Quota::new(2 * LARGE_BYTES);
    let mut queues: Vec<_> = (0..6).map(|_| (queue(&quota), 0_u64, 0_u64)).collect();
    let large = vec![0; LARGE_BYTES];
    for step in 0..100_000 {
        let ((ring, cursor), appended, read) = &mut queues[random.below(6)];
        let frame_bytes = [8, 100, 20_000, 70_000, LARGE_BYTES][random.below(5)];
        for _ in 0..random.below(20) {
            let body = &large[8..frame_bytes];
            match ring.append(&[&appended.to_le_bytes(), body], |_, _| ()) {
                Ok(offset) => {
                    assert_eq!(offset, *appended, "seed {seed}, step {step}");
                    *appended += 1;
                }
                Err(error) => {
                    assert_eq!(error, AppendError::Full);
                    assert!(*read < *appended, "seed {seed}, step {step}: full though all was read");
                    break;
                }
            }
        }
        for _ in 0..random.below(20) {
            let Read::Run(run) = cursor.read(1) else { break };
            assert_eq!(run.bytes()[..8], read.to_le_bytes(), "seed {seed}, step {step}");
            *read += 1;
        }
    }
    drop(queues);
    assert_eq!(quota.held_bytes(), 0, "seed {seed}");
}
