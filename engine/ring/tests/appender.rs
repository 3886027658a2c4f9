//! What a gathering producer promises: order, nothing twice, nothing lost without being told.
#![cfg(not(loom))]

mod common;

use std::collections::VecDeque;
use std::task::Context;

use common::{Random, Wakes, append, drain, expect_run, ring};
use twinlane_ring::{AppendError, Appender, Cursor, Gating, Read, Ring, Start};

fn frames(cursor: &mut Cursor) -> Vec<Vec<u8>> {
    drain(cursor).into_iter().map(|(_, frame)| frame).collect()
}

#[test]
fn gathered_frames_are_seen_by_nobody_until_they_are_flushed_as_one_run() {
    let ring = ring(64, 8, 2, 0);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
    let mut appender = ring.appender();
    for parts in [&[&b"a"[..]][..], &[b"b", b"", b"c"], &[b"def"]] {
        appender.append(parts).expect("room");
    }
    assert_eq!((appender.gathered(), ring.next()), (3, 0));
    assert!(matches!(cursor.read(usize::MAX), Read::Empty));
    appender.flush().expect("room");
    let run = expect_run(&mut cursor);
    assert_eq!((run.frames(), run.bytes()), (3, &b"abcdef"[..]));
    assert_eq!(run.frame_ends().collect::<Vec<_>>(), [1, 3, 6]);
    assert_eq!(appender.gathered(), 0);
}

#[test]
fn more_frames_than_are_gathered_flush_those_before() {
    let ring = ring(4096, 256, 2, 0);
    let mut appender = ring.appender();
    for value in 0..129 {
        appender.append(&[&[value]]).expect("room");
    }
    assert_eq!((ring.next(), appender.gathered()), (128, 1));
}

#[test]
fn empty_and_large_frames_keep_their_place_between_gathered_ones() {
    let ring = ring(40_000, 64, 2, 0);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
    let large = vec![7; 9_000];
    let expected: [&[u8]; 7] = [b"a", b"", b"b", &large, b"c", &large[..8_192], b"d"];
    let mut appender = ring.appender();
    for frame in expected {
        appender.append(&[frame]).expect("room");
    }
    appender.flush().expect("room");
    assert_eq!(frames(&mut cursor), expected);
}

#[test]
fn a_frame_larger_than_a_segment_is_refused_and_those_gathered_stay() {
    let ring = ring(4, 8, 2, 0);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
    let mut appender = ring.appender();
    appender.append(&[b"ab"]).expect("room");
    let refused = appender.append(&[b"abcde"]);
    assert_eq!(refused, Err(AppendError::TooLarge { frame_bytes: 5, frame_bytes_max: 4 }));
    appender.append(&[b"abcd"]).expect("a segment's size fits");
    appender.flush().expect("room");
    assert_eq!(frames(&mut cursor), [&b"ab"[..], b"abcd"]);
}

#[test]
fn frames_that_find_no_room_stay_gathered_and_are_stored_once_when_there_is_some() {
    // Two segments of three frames: five frames fill the second one in the middle of a run.
    let ring = ring(64, 3, 2, 0);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Gated);
    append(&ring, b"0").expect("room");
    let mut appender = ring.appender();
    for frame in [b"1", b"2", b"3", b"4", b"5", b"6", b"7"] {
        appender.append(&[frame]).expect("it is only gathered");
    }
    assert_eq!(appender.flush(), Err(AppendError::Full));
    assert_eq!((ring.next(), appender.gathered()), (6, 2), "what fits is stored");
    assert_eq!(appender.flush(), Err(AppendError::Full));
    let mut seen = frames(&mut cursor);
    appender.append(&[b"8"]).expect("it is only gathered");
    appender.flush().expect("the reader made room");
    seen.extend(frames(&mut cursor));
    assert_eq!(seen, [b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8"]);
}

#[test]
fn a_full_ring_refuses_a_frame_only_when_no_more_can_be_gathered() {
    let ring = ring(64, 1, 2, 0);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Gated);
    let mut appender = ring.appender();
    let taken = (0..200_u8).take_while(|&value| appender.append(&[&[value]]).is_ok()).count();
    assert_eq!(taken, 2 + 128, "two segments of one frame, and those gathered");
    let mut seen = frames(&mut cursor);
    while appender.gathered() > 0 {
        let _ = appender.flush();
        seen.extend(frames(&mut cursor));
    }
    assert_eq!(seen.concat(), (0..130).collect::<Vec<_>>());
}

#[test]
fn frames_gathered_when_the_ring_closes_are_told_not_stored() {
    let ring = ring(64, 8, 2, 0);
    let mut appender = ring.appender();
    appender.append(&[b"late"]).expect("it is only gathered");
    ring.close();
    assert_eq!(appender.flush(), Err(AppendError::Closed));
    assert_eq!((appender.gathered(), ring.next()), (1, 0));
}

#[test]
fn a_dropped_appender_flushes_and_the_ring_stays_open_for_other_handles() {
    let ring = ring(64, 8, 2, 0);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
    let mut appender = ring.appender();
    appender.append(&[b"last"]).expect("room");
    drop(appender);
    assert_eq!(frames(&mut cursor), [b"last"]);
    assert!(!ring.is_closed());
}

#[test]
fn the_last_appender_flushes_before_the_ring_closes() {
    let ring = ring(64, 8, 2, 0);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
    let mut appender = ring.appender();
    drop(ring);
    appender.append(&[b"last"]).expect("an appender is a handle");
    drop(appender);
    assert_eq!(frames(&mut cursor), [b"last"]);
    assert!(matches!(cursor.read(usize::MAX), Read::Closed));
}

#[test]
fn a_sleeping_reader_is_woken_by_the_flush_and_once_per_run() {
    let ring = ring(64, 8, 2, 0);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
    let (wakes, waker) = Wakes::new();
    assert!(cursor.poll_readable(&mut Context::from_waker(&waker)).is_pending());
    let mut appender = ring.appender();
    for frame in [b"a", b"b"] {
        appender.append(&[frame]).expect("room");
    }
    assert_eq!(wakes.count(), 0);
    appender.flush().expect("room");
    assert_eq!(wakes.count(), 1);
    assert_eq!(expect_run(&mut cursor).frames(), 2);
}

/// An appender beside what it should have gathered.
struct Twin {
    appender: Appender,
    gathered: VecDeque<Vec<u8>>,
}

impl Twin {
    /// Moves to `stored` what the appender stored.
    fn settle(&mut self, stored: &mut Vec<Vec<u8>>) {
        while self.appender.gathered() < self.gathered.len() {
            stored.extend(self.gathered.pop_front());
        }
        assert_eq!(self.appender.gathered(), self.gathered.len());
    }
}

fn random_history(seed: u64) {
    let mut random = Random(seed);
    let (segment_bytes, segment_frames) = (1 + random.below(60), 1 + random.below(12));
    let ring: Ring = ring(segment_bytes, segment_frames, 2 + random.below(3), random.below(2));
    let mut cursor = ring.cursor(Start::Oldest, Gating::Gated);
    let new = || Twin { appender: ring.appender(), gathered: VecDeque::new() };
    let (mut twins, mut stored, mut seen) = ([new(), new()], Vec::new(), Vec::new());
    for step in 0..if cfg!(miri) { 80 } else { 300 } {
        let twin = &mut twins[random.below(2)];
        match random.below(8) {
            0 => drop(twin.appender.flush()),
            1 => seen.extend(frames(&mut cursor)),
            _ => {
                let length = random.below(segment_bytes * 5 / 4 + 1) * random.below(3) / 2;
                let frame: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
                let (head, rest) = frame.split_at(length / 3);
                let taken = twin.appender.append(&[head, rest]);
                let is_large = matches!(taken, Err(AppendError::TooLarge { .. }));
                assert_eq!(is_large, segment_bytes < length, "seed {seed} step {step}: {length} bytes");
                if taken.is_ok() {
                    twin.gathered.push_back(frame);
                }
            }
        }
        twin.settle(&mut stored);
        assert_eq!(ring.next(), stored.len() as u64, "seed {seed} step {step}");
    }
    seen.extend(frames(&mut cursor));
    assert_eq!(seen, stored, "seed {seed}");
}

#[test]
fn every_history_of_two_appenders_stores_each_taken_frame_once_and_in_order() {
    for seed in 0..if cfg!(miri) { 4 } else { 2_000 } {
        random_history(seed);
    }
}
