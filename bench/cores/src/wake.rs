//! What a sleeping reader costs: the publisher that wakes it, and the time until it runs.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::frame::stamp;
use crate::stats::percentile;
use crate::{Park, Produce, Queue};

/// Long enough for the reader to be asleep after it said that it goes to sleep.
const SETTLING: Duration = Duration::from_micros(200);

/// Nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct WakeTimes {
    /// From the publish call to the reader running with the frame: half were faster.
    pub reader_p50_ns: u64,
    /// All but one in a hundred.
    pub reader_p99_ns: u64,
    /// The publish call that woke the reader.
    pub publish_p50_ns: u64,
}

/// Wakes a sleeping reader `rounds` times.
///
/// # Panics
///
/// If another frame arrives than was published.
pub fn wake_times<Q, const N: usize>(rounds: u64) -> WakeTimes
where
    Q: Queue<N>,
    Q::Consumer: Park,
{
    let (mut producers, mut consumers) = Q::open(1, 1);
    let (mut producer, mut consumer) =
        (producers.pop().expect("one was asked for"), consumers.pop().expect("one was asked for"));
    let (asked, base) = (&AtomicU64::new(0), Instant::now());
    let since_base = move || base.elapsed().as_nanos() as u64;
    thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut delays = Vec::new();
            for round in 1..=rounds {
                asked.store(round, Ordering::Release);
                let published_at = consumer.take_parked();
                delays.push(since_base().saturating_sub(published_at));
            }
            delays
        });
        let mut calls = Vec::new();
        let mut frame = [0; N];
        for round in 1..=rounds {
            while asked.load(Ordering::Acquire) < round {
                spin_loop();
            }
            let settled = Instant::now() + SETTLING;
            while Instant::now() < settled {
                spin_loop();
            }
            let before = since_base();
            stamp(&mut frame, before);
            assert!(producer.try_push(&frame), "one frame fits");
            calls.push(since_base() - before);
        }
        let mut delays = reader.join().expect("the reader does not panic");
        WakeTimes {
            reader_p50_ns: percentile(&mut delays, 50.0),
            reader_p99_ns: percentile(&mut delays, 99.0),
            publish_p50_ns: percentile(&mut calls, 50.0),
        }
    })
}
