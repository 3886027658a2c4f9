//! What a ring promises, one sentence per test, single-threaded or with a handful of threads.
#![cfg(not(loom))]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use common::{Wakes, append, drain, expect_run, fill_to, ring};
use twinlane_ring::{AppendError, Appended, ConfigError, Gating, Read, Ring, RingConfig, Start};

#[test]
fn offsets_count_frames_from_zero_without_a_hole() {
    let ring = ring(16, 4, 3, 0);
    for expected in 0..50 {
        assert_eq!(append(&ring, b"abc"), Ok(expected));
    }
    assert_eq!(ring.next(), 50);
}

#[test]
fn a_frame_is_its_parts_in_order_and_the_stamp_comes_last() {
    let ring = ring(64, 8, 2, 0);
    let mut cursor = ring.cursor(Start::Next, Gating::Lossy);
    ring.append(&[b"_", b"", b"head", b"body"], |offset, frame| frame[0] = b'0' + offset as u8)
        .expect("room");
    assert_eq!(expect_run(&mut cursor).bytes(), b"0headbody");
}

#[test]
fn a_reader_takes_many_frames_as_one_range_and_knows_where_each_ends() {
    let ring = ring(64, 8, 2, 0);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
    for frame in [&b"a"[..], b"", b"bcd", b"ef"] {
        append(&ring, frame).expect("room");
    }
    let run = expect_run(&mut cursor);
    assert_eq!((run.first_offset(), run.frames(), run.bytes()), (0, 4, &b"abcdef"[..]));
    assert_eq!(run.frame_ends().collect::<Vec<_>>(), [1, 1, 4, 6]);
    assert_eq!(cursor.position(), 4);
    assert!(matches!(cursor.read(usize::MAX), Read::Empty));
}

#[test]
fn a_run_holds_at_most_the_wanted_bytes_but_always_one_frame() {
    let ring = ring(64, 8, 2, 0);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
    for frame in [&b"abcdef"[..], b"gh", b"ij"] {
        append(&ring, frame).expect("room");
    }
    let Read::Run(run) = cursor.read(3) else { panic!("a frame is there") };
    assert_eq!(run.bytes(), b"abcdef");
    let Read::Run(run) = cursor.read(3) else { panic!("a frame is there") };
    assert_eq!(run.bytes(), b"gh");
}

#[test]
fn a_run_of_frames_is_appended_as_its_longest_prefix_that_fits() {
    let ring = ring(8, 3, 2, 0);
    let run = b"aabbccdd";
    let all = ring.append_run(run, &[2, 4, 6, 8], |_, _| ()).expect("room");
    assert_eq!(all, Appended { first_offset: 0, frames: 3, bytes: 6 }, "three frames fill the index");
    let rest = ring.append_run(&run[6..], &[2], |_, _| ()).expect("room");
    assert_eq!(rest, Appended { first_offset: 3, frames: 1, bytes: 2 });
    let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
    let frames: Vec<_> = drain(&mut cursor).into_iter().map(|(_, frame)| frame).collect();
    assert_eq!(frames, [b"aa", b"bb", b"cc", b"dd"]);
}

#[test]
fn frame_ends_that_do_not_increase_are_refused_before_anything_is_claimed() {
    let ring = ring(8, 3, 2, 0);
    for ends in [&[3_u32, 2, 4][..], &[0, 4], &[2, 2, 4], &[2, 3], &[5]] {
        let refused = catch_unwind(AssertUnwindSafe(|| ring.append_run(b"abcd", ends, |_, _| ())));
        assert!(refused.is_err(), "{ends:?}");
    }
    assert_eq!(ring.next(), 0);
}

#[test]
fn an_oversize_frame_is_refused_and_nothing_is_stored() {
    let ring = ring(8, 4, 2, 0);
    let refused = AppendError::TooLarge { frame_bytes: 9, frame_bytes_max: 8 };
    assert_eq!(append(&ring, &[0; 9]), Err(refused));
    assert_eq!(ring.append_run(&[0; 10], &[9, 10], |_, _| ()), Err(refused));
    assert_eq!(append(&ring, &[7; 8]), Ok(0));
    let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
    assert_eq!(drain(&mut cursor), [(0, vec![7; 8])]);
}

#[test]
fn a_slow_lossy_reader_is_moved_forward_and_told_exactly_what_it_missed() {
    let ring = ring(4, 4, 2, 0);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
    fill_to(&ring, 3);
    assert_eq!(expect_run(&mut cursor).frames(), 3);
    fill_to(&ring, 17);
    assert_eq!(ring.oldest(), 12);
    let Read::Missed { from: 3, to: 12 } = cursor.read(1) else { panic!("frames were overwritten") };
    let rest: Vec<_> = drain(&mut cursor).into_iter().map(|(offset, _)| offset).collect();
    assert_eq!(rest, [12, 13, 14, 15, 16]);
}

#[test]
fn a_slow_gated_reader_fills_the_ring_and_misses_nothing() {
    let ring = ring(4, 4, 2, 3);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Gated);
    fill_to(&ring, 8);
    assert_eq!(append(&ring, b"x"), Err(AppendError::Full));
    assert_eq!(append(&ring, b"x"), Err(AppendError::Full), "spares are for pins, not for gates");
    assert_eq!(drain(&mut cursor).len(), 8);
    assert_eq!(append(&ring, b"x"), Ok(8));
    assert_eq!(drain(&mut cursor), [(8, b"x".to_vec())]);
}

#[test]
fn lossy_and_gated_readers_share_a_ring_and_only_the_gated_one_holds_producers_back() {
    let ring = ring(4, 4, 2, 0);
    let mut lossy = ring.cursor(Start::Oldest, Gating::Lossy);
    let mut gated = ring.cursor(Start::Oldest, Gating::Gated);
    fill_to(&ring, 5);
    assert_eq!(drain(&mut gated).len(), 5);
    fill_to(&ring, 12);
    assert!(matches!(lossy.read(1), Read::Missed { from: 0, to: 4 }));
    assert_eq!(
        append(&ring, b"x"),
        Err(AppendError::Full),
        "the gated reader stands in the segment from 4 on"
    );
    assert_eq!(drain(&mut gated).len(), 7);
    fill_to(&ring, 16);
    drop(gated);
    fill_to(&ring, 41);
    assert_eq!(ring.oldest(), 36);
}

#[test]
fn a_dropped_gated_reader_gates_no_more() {
    let ring = ring(4, 4, 2, 0);
    let cursor = ring.cursor(Start::Oldest, Gating::Gated);
    fill_to(&ring, 8);
    assert_eq!(append(&ring, b"x"), Err(AppendError::Full));
    drop(cursor);
    assert_eq!(append(&ring, b"x"), Ok(8));
}

#[test]
fn a_gated_reader_below_the_oldest_misses_exactly_that_much_and_gates_from_there() {
    let ring = ring(4, 4, 2, 0);
    fill_to(&ring, 17);
    let mut cursor = ring.cursor(Start::Offset(2), Gating::Gated);
    fill_to(&ring, 20);
    assert_eq!(append(&ring, b"x"), Err(AppendError::Full));
    assert!(matches!(cursor.read(1), Read::Missed { from: 2, to: 12 }));
    assert_eq!(drain(&mut cursor).len(), 8);
}

#[test]
fn a_pinned_run_stays_intact_while_spares_take_its_place_and_then_the_ring_is_full() {
    let ring = ring(4, 4, 2, 1);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
    fill_to(&ring, 4);
    let held = expect_run(&mut cursor);
    fill_to(&ring, 16);
    assert_eq!(held.bytes(), [0, 1, 2, 3], "one spare keeps the ring going");
    drop(held);

    cursor.seek(12);
    let held = expect_run(&mut cursor);
    fill_to(&ring, 20);
    let also_held = expect_run(&mut cursor);
    fill_to(&ring, 24);
    assert_eq!(append(&ring, b"x"), Err(AppendError::Full), "two segments are held and one spare exists");
    assert_eq!((held.bytes(), also_held.bytes()), (&[12, 13, 14, 15][..], &[16, 17, 18, 19][..]));
    drop(held);
    assert_eq!(append(&ring, b"x"), Ok(24));
}

#[test]
fn a_lossy_reader_that_holds_no_run_holds_no_memory() {
    let ring = ring(4, 4, 2, 0);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
    fill_to(&ring, 2);
    drop(expect_run(&mut cursor));
    fill_to(&ring, 100);
}

#[test]
fn bytes_outlive_the_run_the_cursor_and_the_ring() {
    let ring = ring(64, 8, 2, 0);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
    append(&ring, b"kept").expect("room");
    append(&ring, b"alive").expect("room");
    let bytes = expect_run(&mut cursor).into_bytes();
    let slice = bytes.slice(4..);
    drop((ring, cursor, bytes));
    assert_eq!(thread::spawn(move || slice.to_vec()).join().expect("no panic"), b"alive");
}

#[test]
fn a_producer_that_panics_loses_its_frame_and_nothing_else() {
    let ring = ring(16, 8, 2, 0);
    let mut lossy = ring.cursor(Start::Oldest, Gating::Lossy);
    let mut gated = ring.cursor(Start::Oldest, Gating::Gated);
    append(&ring, b"a").expect("room");
    let panicked =
        catch_unwind(AssertUnwindSafe(|| ring.append(&[b"bad"], |_, _| resume_unwind(Box::new(())))));
    assert!(panicked.is_err());
    let run = catch_unwind(AssertUnwindSafe(|| {
        ring.append_run(b"bad", &[1, 3], |_, _| resume_unwind(Box::new(())))
    }));
    assert!(run.is_err());
    append(&ring, b"e").expect("room");
    for cursor in [&mut lossy, &mut gated] {
        assert_eq!(expect_run(cursor).bytes(), b"a");
        assert!(matches!(cursor.read(9), Read::Missed { from: 1, to: 4 }));
        assert_eq!(drain(cursor), [(4, b"e".to_vec())]);
    }
}

#[test]
fn a_preempted_producer_stops_readers_before_its_frame_but_not_other_producers() {
    let ring = ring(4, 4, 2, 1);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
    let (claimed, is_claimed) = mpsc::channel();
    let (resume, may_resume) = mpsc::channel::<()>();
    let slow = thread::spawn({
        let ring = ring.clone();
        move || {
            ring.append(&[b"0"], |_, _| {
                claimed.send(()).expect("the test waits");
                may_resume.recv().expect("the test resumes");
            })
        }
    });
    is_claimed.recv().expect("the producer claims");
    fill_to(&ring, 3);
    assert!(matches!(cursor.read(9), Read::Empty), "never out of order");
    assert!(cursor.is_empty());
    let (wakes, waker) = Wakes::new();
    assert!(cursor.poll_readable(&mut Context::from_waker(&waker)).is_pending());
    assert_eq!(wakes.count(), 1, "a claim in flight is worth another look, not a sleep");

    fill_to(&ring, 16);
    assert_eq!(ring.oldest(), 8, "a spare took the place of the unfinished segment");
    assert_eq!(append(&ring, b"x"), Ok(16));
    assert!(matches!(cursor.read(9), Read::Missed { from: 0, to: 12 }));
    resume.send(()).expect("the producer waits");
    assert_eq!(slow.join().expect("no panic"), Ok(0));
    assert_eq!(drain(&mut cursor).len(), 5);
}

#[test]
fn an_unfinished_append_holds_the_oldest_segment_like_a_reader_would() {
    let ring = ring(4, 4, 2, 0);
    let inner = ring.clone();
    ring.append(&[b"0"], |_, _| {
        fill_to(&inner, 8);
        assert_eq!(append(&inner, b"x"), Err(AppendError::Full));
        let (wakes, waker) = Wakes::new();
        assert!(inner.poll_room(&mut Context::from_waker(&waker)).is_pending());
        assert_eq!(wakes.count(), 1, "an append is short: look again");
    })
    .expect("room");
    assert_eq!(append(&ring, b"x"), Ok(8));
}

#[test]
fn close_refuses_producers_and_lets_readers_drain() {
    let ring = ring(4, 4, 2, 0);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Gated);
    fill_to(&ring, 6);
    ring.close();
    ring.close();
    assert!(ring.is_closed());
    assert_eq!(append(&ring, b"x"), Err(AppendError::Closed));
    assert_eq!(ring.append_run(b"x", &[1], |_, _| ()), Err(AppendError::Closed));
    assert_eq!(ring.next(), 6);
    assert_eq!(drain(&mut cursor).len(), 6);
    assert!(matches!(cursor.read(1), Read::Closed));
    cursor.seek(5);
    assert_eq!(drain(&mut cursor), [(5, vec![5])]);
}

#[test]
fn an_empty_ring_and_a_full_one_close_like_any_other() {
    let empty = ring(4, 4, 2, 0);
    let mut cursor = empty.cursor(Start::Oldest, Gating::Lossy);
    assert!(matches!(cursor.read(1), Read::Empty));
    empty.close();
    assert!(matches!(cursor.read(1), Read::Closed));

    let full = ring(4, 4, 2, 0);
    let mut cursor = full.cursor(Start::Oldest, Gating::Gated);
    fill_to(&full, 8);
    assert_eq!(append(&full, b"x"), Err(AppendError::Full));
    full.close();
    assert_eq!(append(&full, b"x"), Err(AppendError::Closed));
    assert_eq!(drain(&mut cursor).len(), 8);
    assert!(matches!(cursor.read(1), Read::Closed));
}

#[test]
fn the_last_handle_closes_the_ring() {
    let ring = ring(4, 4, 2, 0);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
    let other = ring.clone();
    drop(ring);
    assert_eq!(append(&other, b"x"), Ok(0));
    drop(other);
    assert_eq!(drain(&mut cursor).len(), 1);
    assert!(matches!(cursor.read(1), Read::Closed));
}

#[test]
fn a_sleeping_reader_is_woken_once_per_sleep_and_not_per_message() {
    let ring = ring(16, 8, 2, 0);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
    let (wakes, waker) = Wakes::new();
    let mut cx = Context::from_waker(&waker);
    assert!(cursor.poll_readable(&mut cx).is_pending());
    fill_to(&ring, 5);
    assert_eq!(wakes.count(), 1);
    assert!(cursor.poll_readable(&mut cx).is_ready());
    assert_eq!(drain(&mut cursor).len(), 5);
    assert!(cursor.poll_readable(&mut cx).is_pending());
    fill_to(&ring, 30);
    assert_eq!(wakes.count(), 2);
}

#[test]
fn every_one_of_many_sleeping_readers_is_woken() {
    let ring = ring(16, 8, 2, 0);
    let mut sleepers: Vec<_> = (0..40)
        .map(|_| {
            let mut cursor = ring.cursor(Start::Next, Gating::Lossy);
            let (wakes, waker) = Wakes::new();
            assert!(cursor.poll_readable(&mut Context::from_waker(&waker)).is_pending());
            (cursor, wakes)
        })
        .collect();
    drop(sleepers.remove(7));
    append(&ring, b"x").expect("room");
    assert!(sleepers.iter().all(|(_, wakes)| wakes.count() == 1));
}

#[test]
fn a_sleeping_reader_is_woken_across_a_rotation_by_an_abandoned_frame_and_by_close() {
    let ring = ring(4, 4, 2, 0);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
    let (wakes, waker) = Wakes::new();
    let mut cx = Context::from_waker(&waker);
    fill_to(&ring, 4);
    drain(&mut cursor);
    assert!(cursor.poll_readable(&mut cx).is_pending());
    append(&ring, b"x").expect("room");
    assert_eq!(wakes.count(), 1);
    drain(&mut cursor);
    assert!(cursor.poll_readable(&mut cx).is_pending());
    catch_unwind(AssertUnwindSafe(|| ring.append(&[b"bad"], |_, _| resume_unwind(Box::new(())))))
        .expect_err("it panicked");
    assert_eq!(wakes.count(), 2);
    assert!(matches!(cursor.read(1), Read::Missed { from: 5, to: 6 }));
    assert!(cursor.poll_readable(&mut cx).is_pending());
    ring.close();
    assert_eq!(wakes.count(), 3);
    assert!(cursor.poll_readable(&mut cx).is_ready());
}

#[test]
fn a_producer_waiting_for_room_is_woken_by_reading_dropping_seeking_unpinning_and_closing() {
    type Cause = fn(&Ring, &mut Option<twinlane_ring::Cursor>);
    let causes: [(&str, Cause); 4] = [
        ("reading", |_, cursor| drop(drain(cursor.as_mut().expect("it is there")))),
        ("dropping", |_, cursor| drop(cursor.take())),
        ("seeking", |_, cursor| cursor.as_mut().expect("it is there").seek(8)),
        ("closing", |ring, _| ring.close()),
    ];
    for (name, cause) in causes {
        let ring = ring(4, 4, 2, 0);
        let mut cursor = Some(ring.cursor(Start::Oldest, Gating::Gated));
        fill_to(&ring, 8);
        assert_eq!(append(&ring, b"x"), Err(AppendError::Full));
        let (wakes, waker) = Wakes::new();
        let mut cx = Context::from_waker(&waker);
        assert_eq!(ring.poll_room(&mut cx), Poll::Pending);
        assert_eq!(ring.poll_room(&mut cx), Poll::Pending);
        cause(&ring, &mut cursor);
        assert_eq!(wakes.count(), 1, "{name}");
        assert_eq!(ring.poll_room(&mut cx), Poll::Ready(()), "{name}");
    }

    let ring = ring(4, 4, 2, 0);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
    fill_to(&ring, 8);
    let (held, bytes) = (cursor.read(1), cursor.read(1));
    assert_eq!(append(&ring, b"x"), Err(AppendError::Full));
    let (wakes, waker) = Wakes::new();
    assert_eq!(ring.poll_room(&mut Context::from_waker(&waker)), Poll::Pending);
    drop(held);
    assert_eq!(wakes.count(), 0, "another run still holds the segment");
    drop(bytes);
    assert_eq!(wakes.count(), 1, "unpinning");
    assert_eq!(append(&ring, b"x"), Ok(8));
}

#[test]
fn a_dropped_room_future_leaves_nothing_behind() {
    let ring = ring(4, 4, 2, 0);
    let cursor = ring.cursor(Start::Oldest, Gating::Gated);
    fill_to(&ring, 8);
    assert_eq!(append(&ring, b"x"), Err(AppendError::Full));
    let (wakes, waker) = Wakes::new();
    let mut cx = Context::from_waker(&waker);
    let mut room = Box::pin(ring.room());
    assert!(room.as_mut().poll(&mut cx).is_pending());
    drop(room);
    let mut room = Box::pin(ring.room());
    assert!(room.as_mut().poll(&mut cx).is_pending());
    drop(cursor);
    assert_eq!(wakes.count(), 1, "only the living future is woken");
    assert!(room.as_mut().poll(&mut cx).is_ready());
}

#[test]
fn a_parked_and_a_spinning_reader_see_the_next_frame() {
    let ring = ring(16, 8, 2, 0);
    let (ready, is_ready) = mpsc::channel();
    let readers: Vec<_> = [true, false]
        .into_iter()
        .map(|parks| {
            let mut cursor = ring.cursor(Start::Next, Gating::Lossy);
            let ready = ready.clone();
            thread::spawn(move || {
                ready.send(()).expect("the test waits");
                let patience = Duration::from_secs(60);
                let is_there =
                    if parks { cursor.park_readable(patience) } else { cursor.spin_readable(patience) };
                is_there && expect_run(&mut cursor).bytes() == b"x"
            })
        })
        .collect();
    for _ in &readers {
        is_ready.recv().expect("the readers start");
    }
    append(&ring, b"x").expect("room");
    assert!(readers.into_iter().all(|reader| reader.join().expect("no panic")));
    let mut cursor = ring.cursor(Start::Next, Gating::Lossy);
    assert!(!cursor.park_readable(Duration::ZERO));
    assert!(!cursor.spin_readable(Duration::ZERO));
}

#[test]
fn seek_reads_again_what_is_retained_and_skips_what_is_not_wanted() {
    let ring = ring(4, 4, 3, 0);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
    fill_to(&ring, 11);
    drain(&mut cursor);
    cursor.seek(6);
    assert_eq!(drain(&mut cursor)[0], (6, vec![6]));
    cursor.seek(99);
    assert_eq!(cursor.position(), 11, "past the next is the next");
    fill_to(&ring, 14);
    assert_eq!(drain(&mut cursor)[0], (11, vec![11]));
    cursor.seek(0);
    assert!(!cursor.is_empty());
    assert!(matches!(cursor.read(1), Read::Missed { from: 0, to: 4 }));
}

#[test]
fn starts_are_the_oldest_the_next_or_a_clamped_offset() {
    let ring = ring(4, 4, 2, 0);
    fill_to(&ring, 9);
    assert_eq!(ring.cursor(Start::Oldest, Gating::Lossy).position(), 4);
    assert_eq!(ring.cursor(Start::Next, Gating::Lossy).position(), 9);
    assert_eq!(ring.cursor(Start::Offset(6), Gating::Lossy).position(), 6);
    assert_eq!(ring.cursor(Start::Offset(77), Gating::Lossy).position(), 9);
}

#[test]
fn old_commit_words_say_nothing_however_often_a_segment_is_reused() {
    let ring = ring(8, 4, 2, 0);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Gated);
    for turn in 0..if cfg!(miri) { 300 } else { 2_000_u64 } {
        // Segments of differing fill, so that words of earlier uses lie past the current end.
        let frame = vec![turn as u8; (turn % 7) as usize];
        let offset = append(&ring, &frame).expect("the reader keeps up");
        assert_eq!(drain(&mut cursor), [(offset, frame)]);
        assert!(cursor.is_empty());
    }
}

#[test]
fn an_idle_ring_costs_less_than_512_bytes_and_a_used_one_stays_within_its_segments() {
    let ring = Ring::new(RingConfig::default()).expect("the default is valid");
    assert!(ring.memory_bytes() < 512, "{} bytes", ring.memory_bytes());
    fill_to(&ring, if cfg!(miri) { 20 } else { 100_000 });
    let config = RingConfig::default();
    let segment_bytes = config.segment_bytes + 4 * (config.segment_frames + 1);
    // And the three smaller ones that it began with: a sixteenth, a sixteenth and a quarter of that.
    let bound = config.segments * (segment_bytes + 256) + 3 * (segment_bytes / 8 + 256) + 512;
    assert!(ring.memory_bytes() <= bound, "{} bytes", ring.memory_bytes());
}

#[test]
fn sizes_out_of_bounds_are_refused_with_what_to_choose() {
    let good = RingConfig { segment_bytes: 8, segment_frames: 8, segments: 2, spare_segments: 0 };
    let check = |config: RingConfig| Ring::new(config).expect_err("out of bounds");
    let segment_bytes = 1 << 24;
    assert_eq!(check(RingConfig { segment_bytes, ..good }), ConfigError::SegmentBytes { segment_bytes });
    let segment_frames = (1 << 20) + 1;
    assert_eq!(check(RingConfig { segment_frames, ..good }), ConfigError::SegmentFrames { segment_frames });
    assert_eq!(check(RingConfig { segments: 1, ..good }), ConfigError::TooFewSegments { segments: 1 });
    let crowded = RingConfig { segments: 200, spare_segments: 57, ..good };
    assert_eq!(check(crowded), ConfigError::TooManySegments { segments: 200, spare_segments: 57 });
    assert!(check(crowded).to_string().contains("larger segments"));
}
