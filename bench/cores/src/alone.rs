//! Appending without a reader: what a producer pays when nobody takes lines from it.
//!
//! A queue that fills up is emptied between the timed stretches, in the same thread.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::frame::{number, stamp};
use crate::{BATCH, Consume, Produce, Queue, SLOTS, Tally};

/// Frames between two emptyings: less than any queue here holds.
const STRETCH: usize = SLOTS / 2;

/// Time for handing `messages` frames over to a queue, `batch` with each call.
///
/// # Panics
///
/// If a frame was lost or damaged, or `batch` does not divide [`BATCH`].
pub fn append<Q: Queue<N>, const N: usize>(messages: u64, batch: usize) -> Duration {
    assert!(BATCH.is_multiple_of(batch), "a segment takes whole batches if they divide {BATCH}");
    let (mut producers, mut consumers) = Q::open(1, 1);
    let (producer, consumer) = (&mut producers[0], &mut consumers[0]);
    let mut tally = Tally::default();
    let (mut sent, mut elapsed) = (0, Duration::ZERO);
    let mut frames = vec![[0; N]; STRETCH];
    while sent < messages {
        // Written before the clock starts, as if they came from elsewhere.
        for (frame, nth) in frames.iter_mut().zip(sent..) {
            stamp(frame, number(0, nth));
        }
        let start = Instant::now();
        for frames in black_box(&frames).chunks(batch) {
            let taken = if let [frame] = frames {
                usize::from(producer.try_push(frame))
            } else {
                producer.try_push_all(frames)
            };
            assert_eq!(taken, frames.len(), "a stretch fits an empty queue");
        }
        elapsed += start.elapsed();
        sent += STRETCH as u64;
        while consumer.poll(&mut tally) {}
    }
    tally.check();
    assert_eq!(tally.seen(), sent, "every frame is there");
    elapsed.mul_f64(messages as f64 / sent as f64)
}
