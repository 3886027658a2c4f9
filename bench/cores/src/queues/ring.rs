//! The ring: `append` for one frame, `append_run` for many; readers take runs.

use std::time::Duration;

use twinlane_ring::{AppendError, Cursor, Gating, Read, Ring, RingConfig, Start};

use crate::frame::number_of;
use crate::{BATCH, Consume, Park, Produce, Queue, SLOTS, Tally};

/// Bytes a reader takes at once: what one socket write would get.
const READ_BYTES: usize = 16 * 1024;
/// Longer than any test.
const FOREVER: Duration = Duration::from_secs(3600);

/// The ring with readers that miss nothing: producers wait for them.
pub struct Gated;

/// The ring with readers that are moved on when they lag, and told what they missed.
pub struct Lossy;

/// A handle that appends.
pub struct Appending<const N: usize> {
    ring: Ring,
    ends: [u32; BATCH],
}

/// A cursor.
pub struct Reading<const N: usize>(Cursor);

fn open<const N: usize>(
    producers: usize,
    consumers: usize,
    gating: Gating,
) -> (Vec<Appending<N>>, Vec<Reading<N>>) {
    let ring = warm_ring::<N>();
    let consumers = (0..consumers).map(|_| Reading(ring.cursor(Start::Next, gating))).collect();
    let ends = std::array::from_fn(|nth| (nth + 1) as u32 * N as u32);
    let producers = (0..producers).map(|_| Appending { ring: ring.clone(), ends }).collect();
    (producers, consumers)
}

/// A ring whose pages were all touched.
fn warm_ring<const N: usize>() -> Ring {
    let config = RingConfig {
        segment_bytes: SLOTS / 4 * N,
        segment_frames: SLOTS / 4,
        segments: 4,
        spare_segments: 2,
    };
    let ring = Ring::new(config).expect("a valid configuration");
    for _ in 0..2 * SLOTS {
        ring.append(&[&[0; N]], |_, _| ()).expect("nobody gates");
    }
    ring
}

impl<const N: usize> Queue<N> for Gated {
    type Producer = Appending<N>;
    type Consumer = Reading<N>;

    fn open(producers: usize, consumers: usize) -> (Vec<Appending<N>>, Vec<Reading<N>>) {
        open(producers, consumers, Gating::Gated)
    }
}

impl<const N: usize> Queue<N> for Lossy {
    type Producer = Appending<N>;
    type Consumer = Reading<N>;

    fn open(producers: usize, consumers: usize) -> (Vec<Appending<N>>, Vec<Reading<N>>) {
        assert_eq!(producers, 1, "what a reader missed of several producers cannot be told apart");
        open(producers, consumers, Gating::Lossy)
    }
}

/// `None` if there is no room now.
fn is_taken<T>(result: Result<T, AppendError>) -> Option<T> {
    match result {
        Ok(taken) => Some(taken),
        Err(AppendError::Full) => None,
        Err(error) => panic!("an open ring refused a frame: {error}"),
    }
}

impl<const N: usize> Produce<N> for Appending<N> {
    #[inline]
    fn try_push(&mut self, frame: &[u8; N]) -> bool {
        is_taken(self.ring.append(&[frame], |_, _| ())).is_some()
    }

    #[inline]
    fn try_push_all(&mut self, frames: &[[u8; N]]) -> usize {
        let appended = self.ring.append_run(frames.as_flattened(), &self.ends[..frames.len()], |_, _| ());
        is_taken(appended).map_or(0, |appended| appended.frames)
    }
}

impl<const N: usize> Consume for Reading<N> {
    #[inline]
    fn poll(&mut self, tally: &mut Tally) -> bool {
        match self.0.read(READ_BYTES) {
            Read::Run(run) => {
                for frame in run.as_chunks::<N>().0 {
                    tally.take(frame);
                }
                true
            }
            Read::Missed { from, to } => {
                tally.miss(to - from);
                true
            }
            Read::Empty => false,
            Read::Closed => panic!("the ring is open while its producer lives"),
        }
    }
}

impl<const N: usize> Park for Reading<N> {
    fn take_parked(&mut self) -> u64 {
        assert!(self.0.park_readable(FOREVER), "woken without a frame");
        let Read::Run(run) = self.0.read(READ_BYTES) else { panic!("a readable cursor has a run") };
        number_of(&run)
    }
}
