//! rtrb: one producer, one consumer; element by element, or in chunks on the consumer's side, or on both.

use rtrb::chunks::ChunkError;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::{BATCH, Consume, Produce, Queue, SLOTS, Tally};

/// `push` and `pop`; many frames go in as one chunk.
pub struct Rtrb;

/// As [`Rtrb`], but the consumer takes whatever is there as one chunk.
pub struct RtrbChunks;

/// The only way in.
pub struct Pushing<const N: usize>(Producer<[u8; N]>);

/// Takes element by element.
pub struct Popping<const N: usize>(Consumer<[u8; N]>);

/// Takes chunks.
pub struct Chunking<const N: usize>(Consumer<[u8; N]>);

fn open<const N: usize>(producers: usize, consumers: usize) -> (Pushing<N>, Consumer<[u8; N]>) {
    assert_eq!((producers, consumers), (1, 1), "rtrb has one producer and one consumer");
    let (producer, consumer) = RingBuffer::new(SLOTS);
    (Pushing(producer), consumer)
}

impl<const N: usize> Queue<N> for Rtrb {
    type Producer = Pushing<N>;
    type Consumer = Popping<N>;

    fn open(producers: usize, consumers: usize) -> (Vec<Pushing<N>>, Vec<Popping<N>>) {
        let (producer, consumer) = open(producers, consumers);
        (vec![producer], vec![Popping(consumer)])
    }
}

impl<const N: usize> Queue<N> for RtrbChunks {
    type Producer = Pushing<N>;
    type Consumer = Chunking<N>;

    fn open(producers: usize, consumers: usize) -> (Vec<Pushing<N>>, Vec<Chunking<N>>) {
        let (producer, consumer) = open(producers, consumers);
        (vec![producer], vec![Chunking(consumer)])
    }
}

impl<const N: usize> Produce<N> for Pushing<N> {
    #[inline]
    fn try_push(&mut self, frame: &[u8; N]) -> bool {
        self.0.push(*frame).is_ok()
    }

    #[inline]
    fn try_push_all(&mut self, frames: &[[u8; N]]) -> usize {
        self.0.push_partial_slice(frames).0.len()
    }
}

impl<const N: usize> Consume for Popping<N> {
    #[inline]
    fn poll(&mut self, tally: &mut Tally) -> bool {
        self.0.pop().is_ok_and(|frame| {
            tally.take(&frame);
            true
        })
    }
}

impl<const N: usize> Consume for Chunking<N> {
    #[inline]
    fn poll(&mut self, tally: &mut Tally) -> bool {
        // Room is given back in pieces that the producer can use while the next one is read.
        let frames = self.0.slots().min(8 * BATCH);
        let chunk = match self.0.read_chunk(frames) {
            Ok(chunk) if frames > 0 => chunk,
            Ok(_) | Err(ChunkError::TooFewSlots(_)) => return false,
        };
        let (first, second) = chunk.as_slices();
        first.iter().chain(second).for_each(|frame| tally.take(frame));
        chunk.commit_all();
        true
    }
}
