//! The disruptor crate: every consumer sees every frame, and producers wait for the slowest.
//!
//! Its consumers are pollers, so that they run in our threads as all others do.

use disruptor::{
    BusySpin, EventPoller, MissingFreeSlots, MultiConsumerBarrier, MultiProducer, MultiProducerBarrier,
    Polling, Producer, RingBufferFull, SingleConsumerBarrier, SingleProducer, SingleProducerBarrier,
    build_multi_producer, build_single_producer,
};

use crate::{Consume, Produce, Queue, SLOTS, Tally};

/// With the single-producer builder where there is one producer, else with the other.
pub struct Disruptor;

/// A way in, by how many there are and how many consumers gate it.
pub enum Publishing<const N: usize> {
    /// One producer, one consumer.
    One(SingleProducer<[u8; N], SingleConsumerBarrier>),
    /// One producer, several consumers.
    OneToMany(SingleProducer<[u8; N], MultiConsumerBarrier>),
    /// Several producers, one consumer.
    Many(MultiProducer<[u8; N], SingleConsumerBarrier>),
}

/// A consumer's poller, by how many producers there are.
pub enum Polled<const N: usize> {
    /// One producer.
    One(EventPoller<[u8; N], SingleProducerBarrier>),
    /// Several.
    Many(EventPoller<[u8; N], MultiProducerBarrier>),
}

impl<const N: usize> Queue<N> for Disruptor {
    type Producer = Publishing<N>;
    type Consumer = Polled<N>;

    fn open(producers: usize, consumers: usize) -> (Vec<Publishing<N>>, Vec<Polled<N>>) {
        if producers > 1 {
            assert_eq!(consumers, 1, "no workload has several of both");
            let (poller, builder) = build_multi_producer(SLOTS, || [0; N], BusySpin).new_event_poller();
            let producer = builder.build();
            let clones = (0..producers).map(|_| Publishing::Many(producer.clone())).collect();
            return (clones, vec![Polled::Many(poller)]);
        }
        let (first, builder) = build_single_producer(SLOTS, || [0; N], BusySpin).new_event_poller();
        let mut pollers = vec![Polled::One(first)];
        if consumers == 1 {
            return (vec![Publishing::One(builder.build())], pollers);
        }
        let (second, mut builder) = builder.new_event_poller();
        pollers.push(Polled::One(second));
        while pollers.len() < consumers {
            let (next, builder_with_it) = builder.new_event_poller();
            pollers.push(Polled::One(next));
            builder = builder_with_it;
        }
        (vec![Publishing::OneToMany(builder.build())], pollers)
    }
}

#[inline]
fn publish<const N: usize>(producer: &mut impl Producer<[u8; N]>, frame: &[u8; N]) -> bool {
    !matches!(producer.try_publish(|slot| *slot = *frame), Err(RingBufferFull))
}

#[inline]
fn publish_all<const N: usize>(producer: &mut impl Producer<[u8; N]>, frames: &[[u8; N]]) -> usize {
    let published = producer.try_batch_publish(frames.len(), |slots| {
        slots.zip(frames).for_each(|(slot, frame)| *slot = *frame);
    });
    match published {
        Ok(_) => frames.len(),
        Err(MissingFreeSlots(_)) => 0,
    }
}

impl<const N: usize> Produce<N> for Publishing<N> {
    #[inline]
    fn try_push(&mut self, frame: &[u8; N]) -> bool {
        match self {
            Self::One(producer) => publish(producer, frame),
            Self::OneToMany(producer) => publish(producer, frame),
            Self::Many(producer) => publish(producer, frame),
        }
    }

    #[inline]
    fn try_push_all(&mut self, frames: &[[u8; N]]) -> usize {
        match self {
            Self::One(producer) => publish_all(producer, frames),
            Self::OneToMany(producer) => publish_all(producer, frames),
            Self::Many(producer) => publish_all(producer, frames),
        }
    }
}

macro_rules! poll {
    ($poller:expr, $tally:expr) => {
        match $poller.poll() {
            Ok(mut events) => {
                (&mut events).for_each(|frame| $tally.take(frame));
                true
            }
            Err(Polling::NoEvents) => false,
            Err(Polling::Shutdown) => panic!("the producers live"),
        }
    };
}

impl<const N: usize> Consume for Polled<N> {
    #[inline]
    fn poll(&mut self, tally: &mut Tally) -> bool {
        match self {
            Self::One(poller) => poll!(poller, tally),
            Self::Many(poller) => poll!(poller, tally),
        }
    }
}
