//! Every queue with every workload it can take part in, by name.

use std::time::Duration;

use crate::alone;
use crate::hand_over::{HandOver, Load, hand_over};
use crate::publish::{PublishTimes, publish_times};
use crate::queues::{
    Array, Broadcast, Disruptor, Flume, Gated, Kanal, Lossy, Rtrb, RtrbChunks, Seg, TokioMpsc,
};
use crate::wake::{WakeTimes, wake_times};
use crate::{Park, Queue};

/// What becomes of frames that a consumer is too slow for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Producers wait: nobody loses anything.
    Paced,
    /// Producers go on: a consumer is told what it missed.
    Free,
    /// Producers go on and the queue keeps everything.
    Unbounded,
}

/// One way to use a queue.
pub struct Contender {
    /// The queue and its calls.
    pub name: &'static str,
    /// What happens to slow consumers.
    pub pace: Pace,
    /// Several producers are allowed.
    pub takes_producers: bool,
    /// Several consumers each get everything.
    pub fans_out: bool,
    /// It has a call for several frames.
    pub takes_batches: bool,
    /// Throughput.
    pub hand_over: fn(&Load) -> HandOver,
    /// Time for that many frames without a reader, so many with each call.
    pub alone: fn(u64, usize) -> Duration,
    /// Time of single publishes: messages, producers.
    pub publish: fn(u64, usize) -> PublishTimes,
    /// How a sleeping reader is woken, if it can sleep: rounds.
    pub wake: Option<fn(u64) -> WakeTimes>,
}

impl Contender {
    fn new<Q: Queue<N>, const N: usize>(name: &'static str, pace: Pace) -> Self {
        Self {
            name,
            pace,
            takes_producers: false,
            fans_out: false,
            takes_batches: false,
            hand_over: hand_over::<Q, N>,
            alone: alone::append::<Q, N>,
            publish: publish_times::<Q, N>,
            wake: None,
        }
    }

    fn shared(self) -> Self {
        Self { takes_producers: true, ..self }
    }

    fn fanning_out(self) -> Self {
        Self { fans_out: true, ..self }
    }

    fn batching(self) -> Self {
        Self { takes_batches: true, ..self }
    }

    fn sleeping<Q: Queue<N, Consumer: Park>, const N: usize>(self) -> Self {
        Self { wake: Some(wake_times::<Q, N>), ..self }
    }

    /// It can carry this load.
    #[must_use]
    pub fn can(&self, load: &Load) -> bool {
        (load.producers == 1 || self.takes_producers)
            && (load.consumers == 1 || self.fans_out)
            && (load.batch == 1 || self.takes_batches)
    }
}

/// All of them, for frames of `N` bytes.
#[must_use]
pub fn contenders<const N: usize>() -> Vec<Contender> {
    use Pace::{Free, Paced, Unbounded};
    let new = [
        Contender::new::<Gated, N>("ring append", Paced)
            .shared()
            .fanning_out()
            .batching()
            .sleeping::<Gated, N>(),
        Contender::new::<Lossy, N>("ring append, lossy", Free).fanning_out().batching(),
        Contender::new::<Rtrb, N>("rtrb push/pop", Paced).batching(),
        Contender::new::<RtrbChunks, N>("rtrb push/read_chunk", Paced).batching(),
        Contender::new::<Array, N>("crossbeam ArrayQueue", Paced).shared(),
        Contender::new::<Seg, N>("crossbeam SegQueue", Unbounded).shared(),
        Contender::new::<Disruptor, N>("disruptor", Paced).shared().fanning_out().batching(),
        Contender::new::<TokioMpsc, N>("tokio mpsc", Paced).shared().sleeping::<TokioMpsc, N>(),
        Contender::new::<Broadcast, N>("tokio broadcast", Free).fanning_out().sleeping::<Broadcast, N>(),
        Contender::new::<Flume, N>("flume", Paced).shared().sleeping::<Flume, N>(),
        Contender::new::<Kanal, N>("kanal", Paced).shared().sleeping::<Kanal, N>(),
    ];
    new.into()
}
