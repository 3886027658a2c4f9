//! What the ring's tests share: small rings, random numbers with a printed seed, counting wakers.
#![allow(dead_code, unreachable_pub, reason = "each test file uses the part it needs")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use twinlane_ring::{AppendError, Cursor, Read, Ring, RingConfig, Run};

pub fn ring(segment_bytes: usize, segment_frames: usize, segments: usize, spare_segments: usize) -> Ring {
    let config = RingConfig { segment_bytes, segment_frames, segments, spare_segments };
    Ring::new(config).expect("a valid configuration")
}

pub fn append(ring: &Ring, frame: &[u8]) -> Result<u64, AppendError> {
    ring.append(&[frame], |_, _| ())
}

/// Appends one-byte frames `0, 1, …` until the ring holds `next` frames in all.
pub fn fill_to(ring: &Ring, next: u64) {
    for value in ring.next()..next {
        append(ring, &[value as u8]).expect("no gate");
    }
}

pub fn expect_run(cursor: &mut Cursor) -> Run {
    match cursor.read(usize::MAX) {
        Read::Run(run) => run,
        other => panic!("expected a run at {}, got {other:?}", cursor.position()),
    }
}

/// Everything readable now, as (offset, frame).
pub fn drain(cursor: &mut Cursor) -> Vec<(u64, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Read::Run(run) = cursor.read(usize::MAX) {
        let mut start = 0;
        for (nth, end) in run.frame_ends().enumerate() {
            frames.push((run.first_offset() + nth as u64, run[start..end as usize].to_vec()));
            start = end as usize;
        }
    }
    frames
}

/// Splitmix64: a reproducible stream of numbers.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// A waker that counts.
#[derive(Default)]
pub struct Wakes(AtomicUsize);

impl Wakes {
    pub fn new() -> (Arc<Self>, Waker) {
        let wakes = Arc::new(Self::default());
        (wakes.clone(), Waker::from(wakes))
    }

    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}
