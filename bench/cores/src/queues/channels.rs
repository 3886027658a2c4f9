//! Bounded channels: any number of producers, one frame per call, one consumer that takes one or all.

use crate::frame::number_of;
use crate::{BATCH, Consume, Park, Produce, Queue, SLOTS, Tally};

/// `tokio::sync::mpsc`.
pub struct TokioMpsc;

/// `flume`.
pub struct Flume;

/// `kanal`.
pub struct Kanal;

/// A kanal receiver with the buffer it drains into: its way to take many under one lock.
pub struct Draining<const N: usize> {
    receiver: kanal::Receiver<[u8; N]>,
    drained: Vec<[u8; N]>,
}

macro_rules! open {
    ($producers:ident, $consumers:ident, $channel:expr) => {{
        assert_eq!($consumers, 1, "consumers would share the frames");
        let (sender, receiver) = $channel;
        (vec![sender; $producers], receiver)
    }};
}

impl<const N: usize> Queue<N> for TokioMpsc {
    type Producer = tokio::sync::mpsc::Sender<[u8; N]>;
    type Consumer = tokio::sync::mpsc::Receiver<[u8; N]>;

    fn open(producers: usize, consumers: usize) -> (Vec<Self::Producer>, Vec<Self::Consumer>) {
        let (senders, receiver) = open!(producers, consumers, tokio::sync::mpsc::channel(SLOTS));
        (senders, vec![receiver])
    }
}

impl<const N: usize> Produce<N> for tokio::sync::mpsc::Sender<[u8; N]> {
    #[inline]
    fn try_push(&mut self, frame: &[u8; N]) -> bool {
        self.try_send(*frame).is_ok()
    }
}

impl<const N: usize> Consume for tokio::sync::mpsc::Receiver<[u8; N]> {
    #[inline]
    fn poll(&mut self, tally: &mut Tally) -> bool {
        self.try_recv().is_ok_and(|frame| {
            tally.take(&frame);
            true
        })
    }
}

impl<const N: usize> Park for tokio::sync::mpsc::Receiver<[u8; N]> {
    fn take_parked(&mut self) -> u64 {
        number_of(&self.blocking_recv().expect("the sender lives"))
    }
}

impl<const N: usize> Queue<N> for Flume {
    type Producer = flume::Sender<[u8; N]>;
    type Consumer = flume::Receiver<[u8; N]>;

    fn open(producers: usize, consumers: usize) -> (Vec<Self::Producer>, Vec<Self::Consumer>) {
        let (senders, receiver) = open!(producers, consumers, flume::bounded(SLOTS));
        (senders, vec![receiver])
    }
}

impl<const N: usize> Produce<N> for flume::Sender<[u8; N]> {
    #[inline]
    fn try_push(&mut self, frame: &[u8; N]) -> bool {
        self.try_send(*frame).is_ok()
    }
}

impl<const N: usize> Consume for flume::Receiver<[u8; N]> {
    #[inline]
    fn poll(&mut self, tally: &mut Tally) -> bool {
        let mut drained = self.drain().peekable();
        let has_any = drained.peek().is_some();
        drained.for_each(|frame| tally.take(&frame));
        has_any
    }
}

impl<const N: usize> Park for flume::Receiver<[u8; N]> {
    fn take_parked(&mut self) -> u64 {
        number_of(&self.recv().expect("the sender lives"))
    }
}

impl<const N: usize> Queue<N> for Kanal {
    type Producer = kanal::Sender<[u8; N]>;
    type Consumer = Draining<N>;

    fn open(producers: usize, consumers: usize) -> (Vec<Self::Producer>, Vec<Self::Consumer>) {
        let (senders, receiver) = open!(producers, consumers, kanal::bounded(SLOTS));
        (senders, vec![Draining { receiver, drained: Vec::with_capacity(SLOTS + BATCH) }])
    }
}

impl<const N: usize> Produce<N> for kanal::Sender<[u8; N]> {
    #[inline]
    fn try_push(&mut self, frame: &[u8; N]) -> bool {
        self.try_send(*frame).expect("the receiver lives")
    }
}

impl<const N: usize> Consume for Draining<N> {
    #[inline]
    fn poll(&mut self, tally: &mut Tally) -> bool {
        self.drained.clear();
        let drained = self.receiver.drain_into(&mut self.drained).expect("the sender lives");
        self.drained.iter().for_each(|frame| tally.take(frame));
        drained > 0
    }
}

impl<const N: usize> Park for Draining<N> {
    fn take_parked(&mut self) -> u64 {
        number_of(&self.receiver.recv().expect("the sender lives"))
    }
}
