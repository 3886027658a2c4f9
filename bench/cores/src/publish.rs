//! How long one publish takes while another producer publishes at the same moment.
//!
//! Bursts that fit the queue: the producers meet, publish side by side, and one of them empties the queue before
//! the next burst. So no reader takes a core from them and no call waits for room. The clock itself (20 to 40 ns)
//! is in every figure.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use crate::frame::{number, stamp};
use crate::patience::Patience;
use crate::stats::percentile;
use crate::{Consume, Produce, Queue, SLOTS, Tally};

/// Nanoseconds per publish.
#[derive(Clone, Copy, Debug)]
pub struct PublishTimes {
    /// Half of the calls were faster.
    pub p50_ns: u64,
    /// All but one in a hundred.
    pub p99_ns: u64,
}

/// Frames of one producer in a burst; all together leave room in any queue here.
fn burst(producers: usize) -> u64 {
    (SLOTS / 2 / producers) as u64
}

/// Times every one of about `messages` publishes by `producers` threads.
///
/// # Panics
///
/// If a frame was lost or damaged, or the queue had no room for a burst.
pub fn publish_times<Q: Queue<N>, const N: usize>(messages: u64, producers: usize) -> PublishTimes {
    let burst = burst(producers);
    let bursts = messages.div_ceil(burst * producers as u64);
    let (ways_in, mut ways_out) = Q::open(producers, 1);
    let meeting = &Meeting { producers: producers as u64, arrived: AtomicU64::new(0) };
    let mut times: Vec<u64> = thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(ways_in)
            .map(|(id, producer)| {
                let empties = ways_out.pop();
                scope.spawn(move || Publishing { producer, id, empties, meeting }.run(bursts, burst))
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    let [p50_ns, p99_ns] = [50.0, 99.0].map(|percent| percentile(&mut times, percent));
    PublishTimes { p50_ns, p99_ns }
}

/// Where producers wait for each other, awake.
struct Meeting {
    producers: u64,
    arrived: AtomicU64,
}

impl Meeting {
    /// The `nth` time that all are here.
    fn meet(&self, nth: u64) {
        self.arrived.fetch_add(1, Ordering::AcqRel);
        let mut patience = Patience::default();
        while self.arrived.load(Ordering::Acquire) < nth * self.producers {
            patience.wait();
        }
    }
}

/// One producer's thread.
struct Publishing<'m, P, C> {
    producer: P,
    id: usize,
    /// The first one empties the queue after each burst.
    empties: Option<C>,
    meeting: &'m Meeting,
}

impl<P, C: Consume> Publishing<'_, P, C> {
    /// Nanoseconds of each publish.
    fn run<const N: usize>(mut self, bursts: u64, burst: u64) -> Vec<u64>
    where
        P: Produce<N>,
    {
        let mut tally = Tally::default();
        // Every page of it is touched before anything is timed.
        let mut times = vec![u64::MAX; (bursts * burst) as usize];
        for (round, times) in (0..).zip(times.chunks_mut(burst as usize)) {
            self.meeting.meet(2 * round + 1);
            for (nth, time) in (round * burst..).zip(times) {
                *time = self.publish(nth);
            }
            self.meeting.meet(2 * round + 2);
            let expected = (round + 1) * burst * self.meeting.producers;
            if let Some(consumer) = &mut self.empties {
                while tally.seen() < expected {
                    assert!(consumer.poll(&mut tally), "a published frame is not there");
                }
            }
        }
        tally.check();
        times
    }

    #[inline]
    fn publish<const N: usize>(&mut self, nth: u64) -> u64
    where
        P: Produce<N>,
    {
        let mut frame = [0; N];
        stamp(&mut frame, number(self.id, nth));
        let start = Instant::now();
        let is_taken = self.producer.try_push(&frame);
        let elapsed = start.elapsed();
        assert!(is_taken, "a burst fits an empty queue");
        elapsed.as_nanos() as u64
    }
}
