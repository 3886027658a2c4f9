//! Every interleaving (within a preemption bound) of a few operations on tiny rings.
//!
//! Payload bytes are checked for data races, a thread that is never woken is a deadlock, and leaked
//! memory fails the model. Run with `cargo xtask loom`.
#![cfg(loom)]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use loom::sync::{Condvar, Mutex};
use loom::thread;
use twinlane_ring::{AppendError, Cursor, Gating, Quota, Read, Ring, RingConfig, Start, Turns};

const FOREVER: Duration = Duration::MAX;

fn check(preemption_bound: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemption_bound);
    builder.max_branches = 20_000;
    builder.check(model);
}

fn ring(segment_frames: usize, segments: usize, spare_segments: usize) -> Ring {
    let config = RingConfig { segment_bytes: 2 * segment_frames, segment_frames, segments, spare_segments };
    Ring::new(config).expect("a valid configuration")
}

fn append(ring: &Ring, value: u8) -> Result<u64, AppendError> {
    ring.append(&[&[value, value]], |_, _| ())
}

/// The values of the frames readable now; checks that each frame is whole.
fn values(cursor: &mut Cursor) -> Vec<u8> {
    let mut values = Vec::new();
    while let Read::Run(run) = cursor.read(usize::MAX) {
        for frame in run.chunks(2) {
            assert_eq!(frame[0], frame[1], "a torn frame");
            values.push(frame[0]);
        }
    }
    values
}

#[derive(Default)]
struct Parked(Mutex<bool>, Condvar);

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        *self.0.lock().expect("not poisoned") = true;
        self.1.notify_one();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let parked = Arc::new(Parked::default());
    let waker = Waker::from(parked.clone());
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        let mut is_woken = parked.0.lock().expect("not poisoned");
        while !*is_woken {
            is_woken = parked.1.wait(is_woken).expect("not poisoned");
        }
        *is_woken = false;
        drop(is_woken);
        thread::yield_now();
    }
}

fn append_waiting(ring: &Ring, value: u8) {
    while append(ring, value) == Err(AppendError::Full) {
        block_on(ring.room());
    }
}

#[test]
fn two_producers_store_both_frames_and_a_reader_sees_them_whole() {
    check(4, || {
        let ring = ring(2, 2, 0);
        let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
        let other = ring.clone();
        let producer = thread::spawn(move || append(&other, 1).expect("room"));
        let mine = append(&ring, 2).expect("room");
        let mut seen = values(&mut cursor);
        let theirs = producer.join().expect("no panic");
        seen.extend(values(&mut cursor));
        let expected = if theirs < mine { [1, 2] } else { [2, 1] };
        assert_eq!(seen, expected);
    });
}

#[test]
fn producers_that_run_past_the_end_together_rotate_once() {
    check(4, || {
        let ring = ring(1, 4, 0);
        append(&ring, 0).expect("room");
        let other = ring.clone();
        let producer = thread::spawn(move || append(&other, 1).expect("room"));
        let mine = append(&ring, 2).expect("room");
        let theirs = producer.join().expect("no panic");
        assert_eq!(mine + theirs, 1 + 2);
        let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
        assert_eq!(values(&mut cursor), if theirs < mine { [0, 1, 2] } else { [0, 2, 1] });
    });
}

#[test]
fn a_lapped_reader_never_touches_reused_memory() {
    check(4, || {
        let ring = ring(1, 2, 0);
        append(&ring, 0).expect("room");
        append(&ring, 1).expect("room");
        let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
        // The reader may hold the oldest segment: then a frame is refused, and the next one has its offset.
        let producer = thread::spawn(move || {
            for _ in 2..4 {
                let _ = ring.append(&[&[0, 0]], |offset, frame| frame.fill(offset as u8));
            }
        });
        let mut expected = 0;
        for _ in 0..3 {
            match cursor.read(usize::MAX) {
                Read::Run(run) => {
                    assert_eq!(run.first_offset(), expected);
                    assert_eq!(run.bytes(), [expected as u8; 2]);
                    expected += 1;
                }
                Read::Missed { from, to } => {
                    assert_eq!(from, expected);
                    assert!(from < to);
                    expected = to;
                }
                Read::Empty | Read::Closed => {}
            }
        }
        producer.join().expect("no panic");
    });
}

#[test]
fn a_spared_reader_beside_a_producer_misses_nothing_while_there_is_a_segment_to_spare() {
    check(3, || {
        let ring = ring(1, 2, 1);
        append(&ring, 0).expect("room");
        append(&ring, 1).expect("room");
        let mut cursor = ring.cursor(Start::Oldest, Gating::Spared);
        let producer = thread::spawn(move || {
            // Without a loan the first would be overwritten.
            append(&ring, 2).expect("room");
            ring
        });
        let mut seen = values(&mut cursor);
        let ring = producer.join().expect("no panic");
        seen.extend(values(&mut cursor));
        assert_eq!(seen, [0, 1, 2]);
        append(&ring, 3).expect("room");
        assert_eq!(values(&mut cursor), [3]);
    });
}

#[test]
fn a_run_held_by_a_reader_is_not_overwritten() {
    check(4, || {
        let ring = ring(1, 2, 1);
        append(&ring, 0).expect("room");
        let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
        let reader = thread::spawn(move || {
            let Read::Run(run) = cursor.read(1) else { return };
            let offset = run.first_offset();
            let bytes = run.into_bytes();
            thread::yield_now();
            assert_eq!(bytes[..], [offset as u8; 2]);
        });
        for value in 1..4 {
            append(&ring, value).expect("one reader holds one segment, and there is a spare");
        }
        reader.join().expect("no panic");
    });
}

#[test]
fn bytes_dropped_after_the_ring_free_the_segment_once() {
    check(4, || {
        let ring = ring(1, 2, 0);
        append(&ring, 5).expect("room");
        let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
        let Read::Run(run) = cursor.read(1) else { panic!("committed") };
        let bytes = run.into_bytes();
        let other = bytes.clone();
        let reader = thread::spawn(move || assert_eq!(other[..], [5, 5]));
        drop((ring, cursor));
        assert_eq!(bytes[..], [5, 5]);
        drop(bytes);
        reader.join().expect("no panic");
    });
}

#[test]
fn a_parked_reader_is_woken_by_the_first_frame() {
    check(4, || {
        let ring = ring(2, 2, 0);
        let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
        let producer = thread::spawn(move || {
            append(&ring, 1).expect("room");
            ring
        });
        assert!(cursor.park_readable(FOREVER));
        assert_eq!(values(&mut cursor), [1]);
        drop(producer.join().expect("no panic"));
    });
}

#[test]
fn a_parked_reader_behind_two_producers_gets_both_frames() {
    check(2, || {
        let ring = ring(2, 2, 0);
        append(&ring, 0).expect("room");
        append(&ring, 0).expect("room");
        let mut cursor = ring.cursor(Start::Next, Gating::Lossy);
        let producers = [1, 2].map(|value| {
            let ring = ring.clone();
            thread::spawn(move || append(&ring, value).expect("room"))
        });
        let mut seen = Vec::new();
        while seen.len() < 2 {
            assert!(cursor.park_readable(FOREVER));
            seen.extend(values(&mut cursor));
        }
        seen.sort_unstable();
        assert_eq!(seen, [1, 2]);
        for producer in producers {
            producer.join().expect("no panic");
        }
    });
}

#[test]
fn a_parked_reader_is_woken_across_rotations() {
    check(3, || {
        let ring = ring(1, 3, 0);
        append(&ring, 0).expect("room");
        let mut cursor = ring.cursor(Start::Next, Gating::Lossy);
        let producer = thread::spawn(move || {
            append(&ring, 1).expect("room");
            append(&ring, 2).expect("room");
            ring
        });
        let mut seen = Vec::new();
        while seen.len() < 2 {
            assert!(cursor.park_readable(FOREVER));
            seen.extend(values(&mut cursor));
        }
        assert_eq!(seen, [1, 2]);
        drop(producer.join().expect("no panic"));
    });
}

#[test]
fn two_sleeping_readers_are_both_woken() {
    check(4, || {
        let ring = ring(2, 2, 0);
        let mut first = ring.cursor(Start::Oldest, Gating::Lossy);
        let parked = Arc::new(Parked::default());
        assert!(first.poll_readable(&mut Context::from_waker(&Waker::from(parked.clone()))).is_pending());
        let mut second = ring.cursor(Start::Oldest, Gating::Lossy);
        let other = ring.clone();
        let producer = thread::spawn(move || append(&other, 1).expect("room"));
        assert!(second.park_readable(FOREVER));
        assert_eq!(values(&mut second), [1]);
        producer.join().expect("no panic");
        assert!(*parked.0.lock().expect("not poisoned"), "the producer left a sleeper behind");
        assert_eq!(values(&mut first), [1]);
    });
}

#[test]
fn close_wakes_a_parked_reader_and_every_stored_frame_is_drained_first() {
    check(3, || {
        let ring = ring(1, 2, 0);
        let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
        let other = ring.clone();
        let producer = thread::spawn(move || append(&other, 1));
        let closer = thread::spawn(move || ring.close());
        let mut seen = Vec::new();
        loop {
            assert!(cursor.park_readable(FOREVER));
            match cursor.read(usize::MAX) {
                Read::Run(run) => seen.extend_from_slice(run.bytes()),
                Read::Closed => break,
                Read::Empty => {}
                missed @ Read::Missed { .. } => panic!("{missed:?}"),
            }
        }
        closer.join().expect("no panic");
        match producer.join().expect("no panic") {
            Ok(offset) => assert_eq!((offset, &seen[..]), (0, &[1, 1][..])),
            Err(error) => assert_eq!((error, &seen[..]), (AppendError::Closed, &[][..])),
        }
    });
}

#[test]
fn a_producer_waiting_for_a_gated_reader_is_woken_and_nothing_is_lost() {
    check(4, || {
        let ring = ring(1, 2, 0);
        let mut cursor = ring.cursor(Start::Oldest, Gating::Gated);
        append(&ring, 0).expect("room");
        append(&ring, 1).expect("room");
        let producer = thread::spawn(move || {
            append_waiting(&ring, 2);
            ring
        });
        let mut seen = Vec::new();
        while seen.len() < 3 {
            assert!(cursor.park_readable(FOREVER));
            seen.extend(values(&mut cursor));
        }
        assert_eq!(seen, [0, 1, 2]);
        drop(producer.join().expect("no panic"));
    });
}

#[test]
fn a_producer_waiting_for_a_held_run_is_woken_when_it_is_dropped() {
    check(4, || {
        let ring = ring(1, 2, 0);
        append(&ring, 0).expect("room");
        append(&ring, 1).expect("room");
        let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
        let (Read::Run(run), Read::Run(second)) = (cursor.read(1), cursor.read(1)) else {
            panic!("committed")
        };
        let reader = thread::spawn(move || {
            assert_eq!(run.bytes(), [0, 0]);
            drop(run);
        });
        append_waiting(&ring, 2);
        assert_eq!(second.bytes(), [1, 1]);
        reader.join().expect("no panic");
    });
}

#[test]
fn an_unfinished_append_is_waited_for_before_its_segment_is_reused() {
    check(4, || {
        let ring = ring(1, 2, 0);
        append(&ring, 0).expect("room");
        append(&ring, 1).expect("room");
        let other = ring.clone();
        let producer = thread::spawn(move || append_waiting(&other, 2));
        append_waiting(&ring, 3);
        append_waiting(&ring, 4);
        producer.join().expect("no panic");
        assert_eq!(ring.next(), 5);
        assert_eq!(values(&mut ring.cursor(Start::Oldest, Gating::Lossy)).len(), 2);
    });
}

#[test]
fn close_wakes_a_producer_waiting_for_room() {
    check(4, || {
        let ring = ring(1, 2, 0);
        let _cursor = ring.cursor(Start::Oldest, Gating::Gated);
        append(&ring, 0).expect("room");
        append(&ring, 1).expect("room");
        let other = ring.clone();
        let producer = thread::spawn(move || {
            append_waiting(&other, 2);
            assert_eq!(append(&other, 2), Err(AppendError::Closed));
        });
        ring.close();
        producer.join().expect("no panic");
    });
}

#[test]
fn a_queue_goes_round_its_small_segments_and_loses_nothing() {
    check(3, || {
        // Of 16 bytes: four times as many as a small one has here.
        let config = RingConfig { segment_bytes: 16, segment_frames: 4, segments: 2, spare_segments: 0 };
        let ring = Ring::queue(config).expect("a valid configuration");
        let mut cursor = ring.cursor(Start::Oldest, Gating::Gated);
        append(&ring, 0).expect("room");
        let producer = thread::spawn(move || {
            for value in 1..4 {
                append(&ring, value).expect("room");
            }
            ring
        });
        let mut seen = Vec::new();
        while seen.len() < 4 {
            assert!(cursor.park_readable(FOREVER));
            seen.extend(values(&mut cursor));
        }
        assert_eq!(seen, [0, 1, 2, 3]);
        drop(producer.join().expect("no panic"));
    });
}

#[test]
fn producers_of_a_large_and_a_small_frame_leave_a_small_segment_once() {
    check(3, || {
        let config = RingConfig { segment_bytes: 16, segment_frames: 4, segments: 2, spare_segments: 0 };
        let ring = Ring::queue(config).expect("a valid configuration");
        let mut cursor = ring.cursor(Start::Oldest, Gating::Gated);
        append(&ring, 0).expect("room");
        let other = ring.clone();
        let producer = thread::spawn(move || other.append(&[&[1; 6]], |_, _| ()).expect("room"));
        let mine = append(&ring, 2).expect("room");
        let theirs = producer.join().expect("no panic");
        let mut seen = Vec::new();
        while let Read::Run(run) = cursor.read(1) {
            seen.push((run.first_offset(), run.bytes().len()));
        }
        let mut expected = vec![(0, 2), (mine, 2), (theirs, 6)];
        expected.sort_unstable();
        assert_eq!(seen, expected);
    });
}

#[test]
fn a_run_of_frames_is_whole_beside_another_producer() {
    check(4, || {
        let ring = ring(3, 2, 0);
        let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
        let other = ring.clone();
        let producer = thread::spawn(move || {
            let appended = other.append_run(&[1, 1, 2, 2], &[2, 4], |_, _| ()).expect("room");
            assert_eq!(appended.frames, 2);
        });
        let mine = append(&ring, 3).expect("room");
        let mut seen = values(&mut cursor);
        producer.join().expect("no panic");
        seen.extend(values(&mut cursor));
        assert_eq!(seen, if mine == 0 { [3, 1, 2] } else { [1, 2, 3] });
    });
}

#[test]
fn a_queue_climbs_its_steps_while_it_is_read_and_loses_nothing() {
    // Its segments have 4, 4, 16 and 64 bytes: two frames of 2 bytes, then more.
    let config = RingConfig { segment_bytes: 64, segment_frames: 32, segments: 2, spare_segments: 0 };
    check(3, move || {
        climb(&Ring::queue(config).expect("a valid configuration"));
    });
}

#[test]
fn a_queue_whose_quota_is_used_up_is_woken_by_what_is_read_and_loses_nothing() {
    // It has two small segments of 4 bytes, of two frames each: the fifth one waits.
    let config = RingConfig { segment_bytes: 16, segment_frames: 8, segments: 2, spare_segments: 0 };
    check(2, move || {
        climb(&Ring::queue_within(config, &Quota::new(0)).expect("a valid configuration"));
    });
}

/// One appends six frames, three of them before the other begins to read.
fn climb(ring: &Ring) {
    let mut cursor = ring.cursor(Start::Oldest, Gating::Gated);
    for value in 0..3 {
        append(ring, value).expect("room");
    }
    let producer = {
        let ring = ring.clone();
        thread::spawn(move || {
            for value in 3..6 {
                append_waiting(&ring, value);
            }
            ring
        })
    };
    let mut seen = Vec::new();
    while seen.len() < 6 {
        assert!(cursor.park_readable(FOREVER));
        seen.extend(values(&mut cursor));
    }
    assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
    drop(producer.join().expect("no panic"));
}

/// Leaves one piece of work and helps. What is left is there: so appending and saying so go together.
fn leave_one(ring: &Mutex<Ring>, turns: &Turns<(Cursor, Vec<u8>)>, value: u8) {
    let ring = ring.lock().expect("not poisoned");
    turns.leave(append(&ring, value).expect("there is room") + 1);
    drop(ring);
    turns.help(|(cursor, seen), _| seen.extend(values(cursor)), |()| ());
}

#[test]
fn work_that_is_left_while_another_has_the_turn_is_done() {
    check(3, || {
        let ring = ring(4, 2, 0);
        let cursor = ring.cursor(Start::Offset(0), Gating::Lossy);
        let turns = Arc::new(Turns::new((cursor, Vec::new())));
        let ring = Arc::new(Mutex::new(ring));
        let helpers: Vec<_> = (1..=2)
            .map(|value| {
                let (ring, turns) = (Arc::clone(&ring), Arc::clone(&turns));
                thread::spawn(move || leave_one(&ring, &turns, value))
            })
            .collect();
        helpers.into_iter().for_each(|helper| helper.join().expect("a helper ends"));
        let mut seen = turns.take().1.clone();
        seen.sort_unstable();
        assert_eq!(seen, [1, 2], "nobody is left to do the rest");
    });
}

#[test]
fn who_waits_for_the_turn_leaves_nothing_undone_either() {
    check(3, || {
        let turns = Arc::new(Turns::new(0));
        let helper = {
            let turns = Arc::clone(&turns);
            thread::spawn(move || {
                turns.leave(1);
                turns.help(|done, to| *done = to, |()| ());
            })
        };
        drop(turns.take());
        turns.help(|done, to| *done = to, |()| ());
        helper.join().expect("a helper ends");
        assert_eq!((*turns.take(), turns.undone()), (1, 0));
    });
}
