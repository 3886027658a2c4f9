//! crossbeam's queues: any number of producers, one frame per call.

use std::sync::Arc;

use crossbeam_queue::{ArrayQueue, SegQueue};

use crate::{Consume, Produce, Queue, SLOTS, Tally};

/// `ArrayQueue`: bounded.
pub struct Array;

/// `SegQueue`: unbounded, so its producers never wait, and it may hold everything.
pub struct Seg;

/// A handle of an `ArrayQueue`.
pub struct ArrayHandle<const N: usize>(Arc<ArrayQueue<[u8; N]>>);

/// A handle of a `SegQueue`.
pub struct SegHandle<const N: usize>(Arc<SegQueue<[u8; N]>>);

impl<const N: usize> Queue<N> for Array {
    type Producer = ArrayHandle<N>;
    type Consumer = ArrayHandle<N>;

    fn open(producers: usize, consumers: usize) -> (Vec<ArrayHandle<N>>, Vec<ArrayHandle<N>>) {
        assert_eq!(consumers, 1, "consumers would share the frames");
        let queue = Arc::new(ArrayQueue::new(SLOTS));
        let consumer = ArrayHandle(queue.clone());
        ((0..producers).map(|_| ArrayHandle(queue.clone())).collect(), vec![consumer])
    }
}

impl<const N: usize> Queue<N> for Seg {
    type Producer = SegHandle<N>;
    type Consumer = SegHandle<N>;

    fn open(producers: usize, consumers: usize) -> (Vec<SegHandle<N>>, Vec<SegHandle<N>>) {
        assert_eq!(consumers, 1, "consumers would share the frames");
        let queue = Arc::new(SegQueue::new());
        let consumer = SegHandle(queue.clone());
        ((0..producers).map(|_| SegHandle(queue.clone())).collect(), vec![consumer])
    }
}

impl<const N: usize> Produce<N> for ArrayHandle<N> {
    #[inline]
    fn try_push(&mut self, frame: &[u8; N]) -> bool {
        self.0.push(*frame).is_ok()
    }
}

impl<const N: usize> Produce<N> for SegHandle<N> {
    #[inline]
    fn try_push(&mut self, frame: &[u8; N]) -> bool {
        self.0.push(*frame);
        true
    }
}

impl<const N: usize> Consume for ArrayHandle<N> {
    #[inline]
    fn poll(&mut self, tally: &mut Tally) -> bool {
        self.0.pop().is_some_and(|frame| {
            tally.take(&frame);
            true
        })
    }
}

impl<const N: usize> Consume for SegHandle<N> {
    #[inline]
    fn poll(&mut self, tally: &mut Tally) -> bool {
        self.0.pop().is_some_and(|frame| {
            tally.take(&frame);
            true
        })
    }
}
