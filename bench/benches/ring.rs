//! The ring beside what people use instead: one producer, several producers, several readers.
//!
//! Every bench checks the sum of what it handed over. All threads of one measurement are started
//! once per sample and the reader reads the clock, so thread start-up is not part of a message.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::hint::{black_box, spin_loop};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use crossbeam_queue::ArrayQueue;
use disruptor::{BusySpin, Polling, Producer, RingBufferFull};
use tokio::sync::broadcast;
use twinlane_ring::{AppendError, Cursor, Gating, Read, Ring, RingConfig, Start};

/// Frames that fit one segment; every queue beside the ring gets this many slots.
const SLOTS: usize = 4096;
/// Bytes a reader takes at once: what one socket write would get.
const READ_BYTES: usize = 16 * 1024;

fn ring(frame_bytes: usize) -> Ring {
    let config = RingConfig {
        segment_bytes: SLOTS / 4 * frame_bytes,
        segment_frames: SLOTS / 4,
        segments: 4,
        spare_segments: 2,
    };
    let ring = Ring::new(config).expect("a valid configuration");
    let frame = vec![0; frame_bytes];
    // Every page is touched before anything is measured.
    for _ in 0..2 * SLOTS {
        ring.append(&[&frame], |_, _| ()).expect("nobody gates");
    }
    ring
}

/// Waits a little: spins first, then leaves the core to the other side. The same for every queue.
struct Patience(u32);

impl Patience {
    fn wait(&mut self) {
        self.0 += 1;
        if self.0.is_multiple_of(128) { thread::yield_now() } else { spin_loop() }
    }
}

fn append(ring: &Ring, frame: &[u8]) {
    let mut patience = Patience(0);
    while let Err(error) = ring.append(&[frame], |_, _| ()) {
        assert_eq!(error, AppendError::Full);
        patience.wait();
    }
}

/// A frame that carries `number` in its first bytes.
fn stamp(frame: &mut [u8], number: u64) {
    frame[..8].copy_from_slice(&number.to_le_bytes());
}

fn number(frame: &[u8]) -> u64 {
    u64::from_le_bytes(*frame.first_chunk().expect("frames have at least 8 bytes"))
}

/// Reads until `frames` frames were seen; returns the sum of their numbers.
fn read_frames(cursor: &mut Cursor, frames: u64, frame_bytes: usize) -> u64 {
    let (mut seen, mut sum, mut patience) = (0, 0_u64, Patience(0));
    while seen < frames {
        match cursor.read(READ_BYTES) {
            Read::Run(run) => {
                seen += run.frames() as u64;
                sum = run.chunks_exact(frame_bytes).fold(sum, |sum, frame| sum.wrapping_add(number(frame)));
            }
            Read::Empty => patience.wait(),
            other => panic!("a gated reader of an open ring saw {other:?}"),
        }
    }
    sum
}

/// Hands `messages` numbers, split evenly, through the `producers` to every one of the `consumers`, each
/// in a thread; returns the time from the first producer's start to the last consumer's end.
fn hand_over<P, C>(messages: u64, producers: Vec<P>, consumers: Vec<C>) -> Duration
where
    P: FnMut(u64) + Send,
    C: FnOnce(u64) -> u64 + Send,
{
    let per_producer = messages.div_ceil(producers.len() as u64);
    let total = per_producer * producers.len() as u64;
    let expected = (per_producer * (per_producer - 1) / 2).wrapping_mul(producers.len() as u64);
    let barrier = &Barrier::new(producers.len() + consumers.len());
    thread::scope(|scope| {
        let starts: Vec<_> = producers
            .into_iter()
            .map(|produce| {
                scope.spawn(move || {
                    barrier.wait();
                    let start = Instant::now();
                    (0..per_producer).for_each(produce);
                    start
                })
            })
            .collect();
        let ends: Vec<_> = consumers
            .into_iter()
            .map(|consume| {
                scope.spawn(move || {
                    barrier.wait();
                    assert_eq!(consume(total), expected, "messages were lost or damaged");
                    Instant::now()
                })
            })
            .collect();
        let start = starts.into_iter().map(|thread| thread.join().expect("no panic")).min();
        let end = ends.into_iter().map(|thread| thread.join().expect("no panic")).max();
        let elapsed = end.expect("a consumer") - start.expect("a producer");
        elapsed.mul_f64(messages as f64 / total as f64)
    })
}

fn ring_hand_over(messages: u64, frame_bytes: usize, producers: usize, readers: usize) -> Duration {
    let ring = ring(frame_bytes);
    let consumers: Vec<_> = (0..readers)
        .map(|_| {
            let mut cursor = ring.cursor(Start::Next, Gating::Gated);
            move |total| read_frames(&mut cursor, total, frame_bytes)
        })
        .collect();
    let producers: Vec<_> = (0..producers)
        .map(|_| {
            let ring = ring.clone();
            let mut frame = vec![0; frame_bytes];
            move |value| {
                stamp(&mut frame, value);
                append(&ring, &frame);
            }
        })
        .collect();
    hand_over(messages, producers, consumers)
}

fn array_queue_hand_over(messages: u64, producers: usize) -> Duration {
    let queue = Arc::new(ArrayQueue::new(SLOTS));
    let producers: Vec<_> = (0..producers)
        .map(|_| {
            let queue = queue.clone();
            move |value| {
                let mut frame = [0_u8; 64];
                stamp(&mut frame, value);
                let mut patience = Patience(0);
                while queue.push(frame).is_err() {
                    patience.wait();
                }
            }
        })
        .collect();
    let consume = move |total| {
        let (mut seen, mut sum, mut patience) = (0, 0_u64, Patience(0));
        while seen < total {
            match queue.pop() {
                Some(frame) => {
                    seen += 1;
                    sum = sum.wrapping_add(number(&frame));
                }
                None => patience.wait(),
            }
        }
        sum
    };
    hand_over(messages, producers, vec![consume])
}

fn rtrb_hand_over(messages: u64) -> Duration {
    let (mut producer, mut consumer) = rtrb::RingBuffer::new(SLOTS);
    let produce = move |value| {
        let mut frame = [0_u8; 64];
        stamp(&mut frame, value);
        let mut patience = Patience(0);
        while producer.push(frame).is_err() {
            patience.wait();
        }
    };
    let consume = move |total| {
        let (mut seen, mut sum, mut patience) = (0, 0_u64, Patience(0));
        while seen < total {
            match consumer.pop() {
                Ok(frame) => {
                    seen += 1;
                    sum = sum.wrapping_add(number(&frame));
                }
                Err(_) => patience.wait(),
            }
        }
        sum
    };
    hand_over(messages, vec![produce], vec![consume])
}

/// A poller of the disruptor as a consumer.
macro_rules! poll_disruptor {
    ($poller:ident) => {
        move |total| {
            let (mut seen, mut sum, mut patience) = (0, 0_u64, Patience(0));
            while seen < total {
                match $poller.poll() {
                    Ok(mut events) => {
                        for frame in &mut events {
                            seen += 1;
                            sum = sum.wrapping_add(number(frame));
                        }
                    }
                    Err(Polling::NoEvents) => patience.wait(),
                    Err(Polling::Shutdown) => break,
                }
            }
            sum
        }
    };
}

fn disruptor_publish(producer: &mut impl Producer<[u8; 64]>, value: u64) {
    let mut patience = Patience(0);
    let mut sent = [0; 64];
    stamp(&mut sent, value);
    while let Err(RingBufferFull) = producer.try_publish(|frame| *frame = black_box(sent)) {
        patience.wait();
    }
}

type Consume = Box<dyn FnOnce(u64) -> u64 + Send>;

fn disruptor_hand_over(messages: u64, producers: usize, readers: usize) -> Duration {
    // The producers stay here until the consumers are done: dropping them would shut the pollers down.
    macro_rules! run {
        ($builder:expr, $producers:expr) => {{
            let (mut first, builder) = $builder.new_event_poller();
            let mut consumers: Vec<Consume> = vec![Box::new(poll_disruptor!(first))];
            if readers == 4 {
                let (mut second, builder) = builder.new_event_poller();
                let (mut third, builder) = builder.new_event_poller();
                let (mut fourth, builder) = builder.new_event_poller();
                consumers.push(Box::new(poll_disruptor!(second)));
                consumers.push(Box::new(poll_disruptor!(third)));
                consumers.push(Box::new(poll_disruptor!(fourth)));
                let mut producers = $producers(builder.build());
                let produce =
                    producers.iter_mut().map(|p| move |value| disruptor_publish(p, value)).collect();
                return hand_over(messages, produce, consumers);
            }
            let mut producers = $producers(builder.build());
            let produce = producers.iter_mut().map(|p| move |value| disruptor_publish(p, value)).collect();
            hand_over(messages, produce, consumers)
        }};
    }
    if producers == 1 {
        run!(disruptor::build_single_producer(SLOTS, || [0_u8; 64], BusySpin), |producer| [producer])
    } else {
        run!(disruptor::build_multi_producer(SLOTS, || [0_u8; 64], BusySpin), |producer| vec![
            producer;
            producers
        ])
    }
}

/// Broadcast readers lag without telling producers: what is missed is counted from the error.
fn broadcast_hand_over(messages: u64, readers: usize) -> Duration {
    let (sender, _) = broadcast::channel::<[u8; 64]>(SLOTS);
    let consumers: Vec<_> = (0..readers)
        .map(|_| {
            let mut receiver = sender.subscribe();
            move |total: u64| {
                let (mut next, mut sum, mut patience) = (0, 0_u64, Patience(0));
                while next < total {
                    match receiver.try_recv() {
                        Ok(frame) => {
                            assert_eq!(number(&frame), next, "out of order");
                            sum = sum.wrapping_add(next);
                            next += 1;
                        }
                        Err(broadcast::error::TryRecvError::Lagged(missed)) => {
                            sum = (next..next + missed).fold(sum, u64::wrapping_add);
                            next += missed;
                        }
                        Err(_) => patience.wait(),
                    }
                }
                sum
            }
        })
        .collect();
    let produce = |value| {
        let mut frame = [0; 64];
        stamp(&mut frame, value);
        assert!(sender.send(frame).is_ok(), "the receivers live");
    };
    hand_over(messages, vec![produce], consumers)
}

fn alone(c: &mut Criterion) {
    let mut group = c.benchmark_group("ring/alone");
    for frame_bytes in [64, 256, 1024] {
        let (ring, frame) = (ring(frame_bytes), vec![7; frame_bytes]);
        group.bench_function(BenchmarkId::new("append", frame_bytes), |bencher| {
            let before = ring.next();
            let mut appended = 0;
            bencher.iter(|| {
                appended += 1;
                ring.append(&[black_box(&frame)], |_, _| ()).expect("nobody gates")
            });
            assert_eq!(ring.next(), before + appended, "every frame got an offset");
        });
    }
    let (ring, frames) = (ring(64), 64_u32);
    let run = vec![7; 64 * frames as usize];
    let ends: Vec<u32> = (1..=frames).map(|nth| nth * 64).collect();
    group.throughput(Throughput::Elements(u64::from(frames)));
    group.bench_function("append_run/64 frames of 64", |bencher| {
        bencher.iter(|| {
            let appended =
                ring.append_run(black_box(&run), black_box(&ends), |_, _| ()).expect("nobody gates");
            assert_eq!(appended.frames, frames as usize, "64 divides the segment");
        });
    });
}

fn one_to_one(c: &mut Criterion) {
    let mut group = c.benchmark_group("ring/1 to 1");
    for frame_bytes in [64, 256, 1024] {
        group.bench_function(BenchmarkId::new("ring", frame_bytes), |bencher| {
            bencher.iter_custom(|messages| ring_hand_over(messages, frame_bytes, 1, 1));
        });
    }
    group.bench_function("rtrb/64", |bencher| bencher.iter_custom(rtrb_hand_over));
    group.bench_function("ArrayQueue/64", |bencher| {
        bencher.iter_custom(|messages| array_queue_hand_over(messages, 1));
    });
    group.bench_function("disruptor/64", |bencher| {
        bencher.iter_custom(|messages| disruptor_hand_over(messages, 1, 1));
    });
    group.bench_function("broadcast, lossy/64", |bencher| {
        bencher.iter_custom(|messages| broadcast_hand_over(messages, 1));
    });
}

fn many_to_one(c: &mut Criterion) {
    for producers in [2, 4] {
        let mut group = c.benchmark_group(format!("ring/{producers} to 1"));
        group.bench_function("ring/64", |bencher| {
            bencher.iter_custom(|messages| ring_hand_over(messages, 64, producers, 1));
        });
        group.bench_function("ArrayQueue/64", |bencher| {
            bencher.iter_custom(|messages| array_queue_hand_over(messages, producers));
        });
        group.bench_function("disruptor/64", |bencher| {
            bencher.iter_custom(|messages| disruptor_hand_over(messages, producers, 1));
        });
    }
}

fn one_to_four(c: &mut Criterion) {
    let mut group = c.benchmark_group("ring/1 to 4");
    group.bench_function("ring/64", |bencher| {
        bencher.iter_custom(|messages| ring_hand_over(messages, 64, 1, 4));
    });
    group.bench_function("disruptor/64", |bencher| {
        bencher.iter_custom(|messages| disruptor_hand_over(messages, 1, 4));
    });
    group.bench_function("broadcast, lossy/64", |bencher| {
        bencher.iter_custom(|messages| broadcast_hand_over(messages, 4));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1_500));
    targets = alone, one_to_one, many_to_one, one_to_four
}
criterion_main!(benches);
