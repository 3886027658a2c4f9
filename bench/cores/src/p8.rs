//! The bars of the queue core: the ring beside its best rivals, interleaved in one process.
//!
//! A publish of the bars is one call for one frame that readers see at once, on both sides. Beside the bars stand
//! batches against batches.
//!
//! It needs a core for each side. Where the scheduler puts all threads on one core (a loaded machine, or short
//! runs at ordinary priority), no line travels, the figures are instruction counts, and the ratios are others.
//!
//! In each round every contender runs once, rivals next to the ring, and a ratio is made of neighbours: what
//! the machine does meanwhile strikes both. The value is the median over the rounds.

use crate::hand_over::{Load, hand_over};
use crate::publish::{PublishTimes, publish_times};
use crate::queues::{Array, Broadcast, Disruptor, Gated, Lossy, Rtrb, RtrbChunks};
use crate::stats::quartiles;
use crate::{BATCH, Queue};

/// Bytes of the frames that the bars are about.
const FRAME_BYTES: usize = 64;

/// The ring against one rival.
#[derive(Clone, Debug)]
pub struct Ratio {
    /// What was run.
    pub name: &'static str,
    /// The ring's call for one publish, or one batch.
    pub ring: &'static str,
    /// Against whom.
    pub rival: &'static str,
    /// Nanoseconds per frame (or the percentile of a call): the ring, median.
    pub ring_ns: f64,
    /// The rival's.
    pub rival_ns: f64,
    /// How many times faster the ring is: lower quartile, median, upper quartile over the rounds.
    pub quartiles: [f64; 3],
    /// What the median must reach; `None`: for information.
    pub bar: Option<f64>,
    /// Share of the deliveries that were told missed: the ring's, the rival's.
    pub missed: [f64; 2],
}

impl Ratio {
    /// How many times faster the ring is.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.quartiles[1]
    }

    /// The bar is reached, or there is none.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.bar.is_none_or(|bar| bar <= self.value())
    }
}

/// One comparison.
struct Pair {
    name: &'static str,
    ring_calls: &'static str,
    rival: &'static str,
    bar: Option<f64>,
    workload: Workload,
    ring: fn(u64, Workload) -> Figure,
    other: fn(u64, Workload) -> Figure,
}

#[derive(Clone, Copy)]
enum Workload {
    /// Time per frame, from that many, to that many.
    HandOver { producers: usize, consumers: usize, batch: usize },
    /// A percentile of the time of a call while two producers publish at once.
    Publish(fn(PublishTimes) -> u64),
}

/// What one run gives.
struct Figure {
    ns: f64,
    missed: f64,
}

/// Frames that one run hands over.
pub const MESSAGES: u64 = 1_000_000;

/// Runs every comparison `rounds` times with `messages` frames each, and the bars first in the result.
///
/// # Panics
///
/// If a queue lost, repeated or damaged a frame.
#[must_use]
pub fn p8(rounds: usize, messages: u64) -> Vec<Ratio> {
    let pairs = pairs();
    let mut figures: Vec<Vec<[Figure; 2]>> = pairs.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        for (pair, figures) in pairs.iter().zip(&mut figures) {
            // Who goes first alternates.
            let (ring, other) = if round % 2 == 0 {
                let ring = (pair.ring)(messages, pair.workload);
                (ring, (pair.other)(messages, pair.workload))
            } else {
                let other = (pair.other)(messages, pair.workload);
                ((pair.ring)(messages, pair.workload), other)
            };
            figures.push([ring, other]);
        }
    }
    pairs.iter().zip(&figures).map(|(pair, figures)| ratio(pair, figures)).collect()
}

fn pairs() -> Vec<Pair> {
    let to = |producers, consumers, batch| Workload::HandOver { producers, consumers, batch };
    let p99 = Workload::Publish(|times| times.p99_ns);
    let bars = [
        pair::<Gated, Rtrb>(["1 to 1", "append", "rtrb push/pop"], to(1, 1, 1), Some(1.5)),
        pair::<Gated, Array>(["4 to 1", "append", "ArrayQueue"], to(4, 1, 1), Some(2.0)),
        pair::<Lossy, Broadcast>(
            ["1 to 4, free-running", "append", "tokio broadcast"],
            to(1, 4, 1),
            Some(2.5),
        ),
        pair::<Gated, Disruptor>(["1 to 4, paced", "append", "disruptor"], to(1, 4, 1), Some(1.0)),
        pair::<Gated, Array>(["publish p99, 2 at once", "append", "ArrayQueue"], p99, Some(2.0)),
    ];
    // Beside the bars: both sides in batches.
    let others = [
        pair::<Gated, RtrbChunks>(["1 to 1", "append_run 32", "rtrb chunks of 32"], to(1, 1, BATCH), None),
        pair::<Gated, Disruptor>(
            ["1 to 4, paced", "append_run 32", "disruptor batches of 32"],
            to(1, 4, BATCH),
            None,
        ),
    ];
    bars.into_iter().chain(others).collect()
}

fn pair<R: Queue<FRAME_BYTES>, O: Queue<FRAME_BYTES>>(
    [name, ring_calls, rival]: [&'static str; 3],
    workload: Workload,
    bar: Option<f64>,
) -> Pair {
    Pair { name, ring_calls, rival, bar, workload, ring: run::<R>, other: run::<O> }
}

fn run<Q: Queue<FRAME_BYTES>>(messages: u64, workload: Workload) -> Figure {
    match workload {
        Workload::HandOver { producers, consumers, batch } => {
            let load = Load { messages, producers, consumers, batch };
            let done = hand_over::<Q, FRAME_BYTES>(&load);
            let all = (done.delivered + done.missed) as f64;
            Figure { ns: done.ns_per_message(&load), missed: done.missed as f64 / all }
        }
        Workload::Publish(percentile) => {
            let ns = percentile(publish_times::<Q, FRAME_BYTES>(messages, 2));
            Figure { ns: ns as f64, missed: 0.0 }
        }
    }
}

fn ratio(pair: &Pair, figures: &[[Figure; 2]]) -> Ratio {
    let median = |pick: fn(&[Figure; 2]) -> f64| quartiles(&mut figures.iter().map(pick).collect::<Vec<_>>());
    Ratio {
        name: pair.name,
        ring: pair.ring_calls,
        rival: pair.rival,
        ring_ns: median(|[ring, _]| ring.ns)[1],
        rival_ns: median(|[_, other]| other.ns)[1],
        quartiles: median(|[ring, other]| other.ns / ring.ns),
        bar: pair.bar,
        missed: [median(|[ring, _]| ring.missed)[1], median(|[_, other]| other.missed)[1]],
    }
}
