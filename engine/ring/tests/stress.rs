//! Many threads on one small ring, every byte of every frame checked.
#![cfg(not(loom))]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use common::{Random, ring};
use twinlane_ring::{AppendError, Cursor, Gating, Read, Ring, Run, Start};

const PATIENCE: Duration = Duration::from_secs(60);

fn scaled(frames: u64) -> u64 {
    if cfg!(miri) { frames / 3000 } else { frames }
}

/// `[producer, length, number: 8 bytes, filler…]`; the filler follows from the rest.
fn frame(producer: u8, number: u64) -> Vec<u8> {
    let length = 10 + (number.wrapping_mul(2_654_435_761) >> 7) as u8 % 50;
    let mut frame = vec![producer, length];
    frame.extend(number.to_le_bytes());
    let mut filler = Random(number << 8 | u64::from(producer));
    frame.resize_with(length as usize, || filler.next() as u8);
    frame
}

/// The (producer, number) of each frame; checks every byte.
fn check(run: &Run) -> Vec<(u8, u64)> {
    let mut start = 0;
    let frames = run.frame_ends().map(|end| {
        let bytes = &run[start..end as usize];
        start = end as usize;
        let number = u64::from_le_bytes(bytes[2..10].try_into().expect("eight bytes"));
        assert_eq!(bytes, frame(bytes[0], number), "damaged frame at run from {}", run.first_offset());
        (bytes[0], number)
    });
    frames.collect()
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn wait_for_room(ring: &Ring) {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut room = pin!(ring.room());
    while room.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Pending {
        thread::park_timeout(PATIENCE);
    }
}

/// Appends `frames` frames, alone, in runs, and now and then one that panics. Returns how many panicked.
fn produce(ring: &Ring, producer: u8, frames: u64) -> u64 {
    let (mut number, mut panics) = (0, 0);
    let mut random = Random(u64::from(producer));
    while number < frames {
        let outcome = match random.below(16) {
            0 => {
                let gone = catch_unwind(AssertUnwindSafe(|| {
                    ring.append(&[b"never seen"], |_, _| resume_unwind(Box::new(())))
                }));
                panics += u64::from(gone.is_err());
                gone.map_or(Ok(0), |refused| refused.map(|_| 0))
            }
            1..4 => {
                let run: Vec<_> = (number..frames).take(20).map(|number| frame(producer, number)).collect();
                let mut end = 0;
                let ends: Vec<_> = run.iter().map(|frame| (end += frame.len() as u32, end).1).collect();
                ring.append_run(&run.concat(), &ends, |_, _| ()).map(|appended| appended.frames as u64)
            }
            _ => {
                let frame = frame(producer, number);
                let (head, body) = frame.split_at(10);
                ring.append(&[head, body], |_, _| ()).map(|_| 1)
            }
        };
        match outcome {
            Ok(stored) => number += stored,
            Err(AppendError::Full) => wait_for_room(ring),
            Err(error) => panic!("producer {producer}: {error}"),
        }
    }
    panics
}

/// Reads to the end; returns (frames seen, frames missed). Numbers of one producer only rise, without a
/// hole if nothing may be missed.
fn consume(mut cursor: Cursor, is_gated: bool, seed: u64) -> (u64, u64) {
    let mut random = Random(seed);
    let (mut seen, mut missed) = (0, 0);
    let mut expected = [0_u64; 8];
    let mut held = Vec::new();
    loop {
        let position = cursor.position();
        match cursor.read(1 << random.below(12)) {
            Read::Run(run) => {
                assert_eq!(run.first_offset(), position);
                for (producer, number) in check(&run) {
                    let next = &mut expected[producer as usize];
                    assert!(*next == number || *next < number && !is_gated, "producer {producer}: {number}");
                    *next = number + 1;
                }
                seen += run.frames() as u64;
                if random.below(8) == 0 {
                    held.push(run);
                }
                if 2 < held.len() {
                    check(&held.swap_remove(0));
                }
            }
            Read::Missed { from, to } => {
                assert_eq!(from, position);
                missed += to - from;
            }
            Read::Empty => {
                // Whoever sleeps on runs it holds may keep producers waiting for ever.
                held.drain(..).for_each(|run| drop(check(&run)));
                let is_there = if random.below(2) == 0 {
                    cursor.park_readable(PATIENCE)
                } else {
                    cursor.spin_readable(Duration::from_micros(20)) || cursor.park_readable(PATIENCE)
                };
                assert!(is_there, "a sleeping reader was forgotten at {}", cursor.position());
            }
            Read::Closed => return (seen, missed),
        }
    }
}

fn run_all(segment_bytes: usize, segment_frames: usize, producers: u8, readers: &[Gating], frames: u64) {
    let ring = ring(segment_bytes, segment_frames, 3, 2 * readers.len());
    let readers: Vec<_> = (1..)
        .zip(readers)
        .map(|(seed, &gating)| {
            let cursor = ring.cursor(Start::Oldest, gating);
            thread::spawn(move || (gating, consume(cursor, gating == Gating::Gated, seed)))
        })
        .collect();
    let producers: Vec<_> = (0..producers)
        .map(|producer| {
            let ring = ring.clone();
            thread::spawn(move || produce(&ring, producer, frames))
        })
        .collect();
    let count = producers.len() as u64;
    let panics: u64 = producers.into_iter().map(|thread| thread.join().expect("a producer failed")).sum();
    ring.close();
    assert_eq!(ring.next(), count * frames + panics, "every claim has one offset");
    for reader in readers {
        let (gating, (seen, missed)) = reader.join().expect("a reader failed");
        assert_eq!(seen + missed, count * frames + panics, "{gating:?}: every offset is seen or missed");
        if gating == Gating::Gated {
            assert_eq!(missed, panics, "a gated reader misses only what was never written");
        }
    }
}

#[test]
fn stress_gated_readers_see_every_frame_of_every_producer() {
    run_all(1 << 10, 32, 3, &[Gating::Gated, Gating::Gated], scaled(150_000));
}

#[test]
fn stress_lossy_readers_see_or_are_told_of_every_frame() {
    run_all(1 << 10, 32, 2, &[Gating::Lossy, Gating::Spared], scaled(300_000));
}

#[test]
fn stress_all_kinds_of_readers_share_the_smallest_segments() {
    run_all(64, 1, 2, &[Gating::Lossy, Gating::Gated, Gating::Spared], scaled(50_000));
}

#[test]
fn stress_one_to_one_with_sleeping_on_every_frame() {
    let frames = scaled(20_000);
    let (there, back) = (ring(256, 4, 2, 1), ring(256, 4, 2, 1));
    let echo = {
        let mut cursor = there.cursor(Start::Oldest, Gating::Gated);
        let back = back.clone();
        thread::spawn(move || {
            loop {
                assert!(cursor.park_readable(PATIENCE), "the ping was forgotten");
                match cursor.read(usize::MAX) {
                    Read::Run(run) => drop(back.append(&[&run], |_, _| ()).expect("one at a time")),
                    Read::Closed => return,
                    other => panic!("{other:?}"),
                }
            }
        })
    };
    let mut cursor = back.cursor(Start::Oldest, Gating::Gated);
    for number in 0..frames {
        there.append(&[&number.to_le_bytes()], |_, _| ()).expect("one at a time");
        assert!(cursor.park_readable(PATIENCE), "the pong was forgotten");
        let Read::Run(run) = cursor.read(usize::MAX) else { panic!("readable but nothing to read") };
        assert_eq!(run.bytes(), number.to_le_bytes());
    }
    there.close();
    echo.join().expect("the echo failed");
}

#[test]
fn stress_cursors_that_come_and_go_disturb_nobody() {
    let ring = ring(512, 16, 3, 2);
    let steady = ring.cursor(Start::Oldest, Gating::Gated);
    let steady = thread::spawn(move || consume(steady, true, 9));
    let visits = Arc::new(AtomicU64::new(0));
    let visitors: Vec<_> = [Gating::Gated, Gating::Lossy, Gating::Spared]
        .map(|gating| {
            let (ring, visits) = (ring.clone(), visits.clone());
            thread::spawn(move || {
                while !ring.is_closed() {
                    let mut cursor = ring.cursor(Start::Oldest, gating);
                    for _ in 0..4 {
                        if let Read::Run(run) = cursor.read(100) {
                            check(&run);
                        }
                        cursor.poll_readable(&mut Context::from_waker(Waker::noop())).is_ready();
                    }
                    visits.fetch_add(1, Ordering::Relaxed);
                    thread::yield_now();
                }
            })
        })
        .into();
    let frames = scaled(60_000);
    let panics = produce(&ring, 0, frames);
    ring.close();
    visitors.into_iter().for_each(|visitor| visitor.join().expect("a visitor failed"));
    assert_eq!(steady.join().expect("the reader failed"), (frames, panics));
    assert!(0 < visits.load(Ordering::Relaxed) || cfg!(miri));
}
