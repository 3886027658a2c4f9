//! Throughput: frames through a queue, every side in a thread of its own.
//!
//! The threads are started before the clock and stop it themselves, so starting them is not part of a frame.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::frame::{PRODUCERS_MAX, number, stamp};
use crate::patience::Patience;
use crate::{BATCH, Consume, Produce, Queue, Tally};

/// How much goes through, from how many, to how many.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Frames in all, split evenly.
    pub messages: u64,
    /// Threads that hand over.
    pub producers: usize,
    /// Threads that each get every frame.
    pub consumers: usize,
    /// Frames with each call; 1: one.
    pub batch: usize,
}

/// What a run took and brought.
#[derive(Clone, Copy, Debug)]
pub struct HandOver {
    /// From the first producer's start to the last consumer's end, scaled to [`Load::messages`].
    pub elapsed: Duration,
    /// From the first producer's start to the last producer's end, likewise.
    pub publishing: Duration,
    /// Frames that consumers saw, summed over them.
    pub delivered: u64,
    /// Frames that consumers were told they missed, summed over them.
    pub missed: u64,
}

impl HandOver {
    /// Nanoseconds per frame published.
    #[must_use]
    pub fn ns_per_message(&self, load: &Load) -> f64 {
        self.elapsed.as_nanos() as f64 / load.messages as f64
    }

    /// Nanoseconds per frame that a consumer saw.
    #[must_use]
    pub fn ns_per_delivery(&self) -> f64 {
        self.elapsed.as_nanos() as f64 / self.delivered as f64
    }
}

/// Hands frames over as fast as the queue takes them and checks every one.
///
/// # Panics
///
/// If a frame was lost silently, repeated, damaged or out of its producer's order.
pub fn hand_over<Q: Queue<N>, const N: usize>(load: &Load) -> HandOver {
    assert!(load.producers <= PRODUCERS_MAX, "the check tells {PRODUCERS_MAX} producers apart");
    let per_producer = load.messages.div_ceil(load.producers as u64).next_multiple_of(load.batch as u64);
    let total = per_producer * load.producers as u64;
    let (producers, consumers) = Q::open(load.producers, load.consumers);
    let barrier = &Barrier::new(load.producers + load.consumers);
    thread::scope(|scope| {
        let producers: Vec<_> = (0..)
            .zip(producers)
            .map(|(id, mut producer)| {
                scope.spawn(move || {
                    barrier.wait();
                    let start = Instant::now();
                    push(&mut producer, id, per_producer, load.batch);
                    // The producer lives on: dropping it would end some queues under their consumers.
                    (start, Instant::now(), producer)
                })
            })
            .collect();
        let consumers: Vec<_> = consumers
            .into_iter()
            .map(|mut consumer| {
                scope.spawn(move || {
                    barrier.wait();
                    let tally = drain(&mut consumer, total);
                    (Instant::now(), tally)
                })
            })
            .collect();
        let consumed: Vec<_> =
            consumers.into_iter().map(|thread| thread.join().expect("a consumer does not panic")).collect();
        let produced: Vec<_> =
            producers.into_iter().map(|thread| thread.join().expect("a producer does not panic")).collect();
        let start = produced.iter().map(|&(start, ..)| start).min().expect("a producer");
        let published = produced.iter().map(|&(_, end, _)| end).max().expect("a producer");
        let end = consumed.iter().map(|&(end, _)| end).max().expect("a consumer");
        consumed.iter().for_each(|(_, tally)| tally.check());
        let scale = load.messages as f64 / total as f64;
        HandOver {
            elapsed: (end - start).mul_f64(scale),
            publishing: (published - start).mul_f64(scale),
            delivered: consumed.iter().map(|(_, tally)| tally.seen()).sum(),
            missed: consumed.iter().map(|(_, tally)| tally.missed()).sum(),
        }
    })
}

/// Hands `frames` over. They are written a batch ahead: a call for one frame does not wait for bytes that were
/// stored an instant before.
fn push<const N: usize>(producer: &mut impl Produce<N>, id: usize, frames: u64, batch: usize) {
    let (mut buffer, mut patience) = ([[0; N]; BATCH], Patience::default());
    for first in (0..frames).step_by(BATCH) {
        let count = (frames - first).min(BATCH as u64) as usize;
        for (frame, nth) in buffer[..count].iter_mut().zip(first..) {
            stamp(frame, number(id, nth));
        }
        if batch == 1 {
            for frame in &buffer[..count] {
                while !producer.try_push(frame) {
                    patience.wait();
                }
            }
        } else {
            buffer[..count].chunks(batch).for_each(|frames| push_all(producer, frames, &mut patience));
        }
    }
}

fn push_all<const N: usize>(producer: &mut impl Produce<N>, frames: &[[u8; N]], patience: &mut Patience) {
    let mut rest = frames;
    while !rest.is_empty() {
        let taken = producer.try_push_all(rest);
        rest = &rest[taken..];
        if taken == 0 {
            patience.wait();
        }
    }
}

pub(crate) fn drain(consumer: &mut impl Consume, total: u64) -> Tally {
    let (mut tally, mut patience) = (Tally::default(), Patience::default());
    while tally.accounted() < total {
        if !consumer.poll(&mut tally) {
            patience.wait();
        }
    }
    tally
}
