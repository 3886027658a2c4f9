//! The queue core: appending and reading, one frame and many frames at a time, by one thread.

use std::hint::black_box;

use twinlane_ring::{Cursor, Gating, Read, Ring, RingConfig, Start};

use crate::{BURST, MESSAGES, PAYLOAD_BYTES, SUM, number, stamp};

/// A ring that has been round once, and its reader.
pub struct Warm {
    ring: Ring,
    cursor: Cursor,
    first: u64,
    sum: u64,
}

impl Warm {
    /// Nothing waits to be read.
    ///
    /// # Panics
    ///
    /// If the ring refuses frames that nobody keeps it from taking.
    #[must_use]
    pub fn new() -> Self {
        let config = RingConfig::default();
        let ring = Ring::new(config).expect("the defaults are valid");
        for _ in 0..2 * config.segments * config.segment_frames {
            ring.append(&[&[0; PAYLOAD_BYTES]], |_, _| ()).expect("nobody gates");
        }
        let cursor = ring.cursor(Start::Next, Gating::Lossy);
        Self { first: ring.next(), ring, cursor, sum: 0 }
    }

    /// All messages wait to be read.
    #[must_use]
    pub fn filled() -> Self {
        let mut warm = Self::new();
        warm.append();
        warm
    }

    /// Appends frame after frame.
    ///
    /// # Panics
    ///
    /// If a frame is refused.
    pub fn append(&mut self) {
        let mut frame = [0; PAYLOAD_BYTES];
        for message in 0..MESSAGES {
            stamp(&mut frame, message);
            self.ring.append(&[black_box(&frame)], |_, _| ()).expect("nobody gates");
        }
    }

    /// Appends [`BURST`] frames with each call.
    ///
    /// # Panics
    ///
    /// If a frame is refused.
    pub fn append_runs(&mut self, runs: &Runs) {
        for run in &runs.runs {
            let mut at = 0;
            // A run that meets the end of a segment is stored in two parts.
            while at < runs.ends.len() {
                let ends = &runs.ends[..runs.ends.len() - at];
                let bytes = &run[at * PAYLOAD_BYTES..];
                at += self.ring.append_run(black_box(bytes), ends, |_, _| ()).expect("nobody gates").frames;
            }
        }
    }

    /// Reads frame after frame.
    ///
    /// # Panics
    ///
    /// If a frame is not there.
    pub fn read(&mut self) {
        for _ in 0..MESSAGES {
            let Read::Run(run) = self.cursor.read(PAYLOAD_BYTES) else { panic!("a frame is committed") };
            self.sum += number(run.bytes());
        }
    }

    /// Reads at most [`BURST`] frames with each call.
    ///
    /// # Panics
    ///
    /// If a frame is not there.
    pub fn read_runs(&mut self) {
        let mut frames = 0;
        while frames < MESSAGES {
            let Read::Run(run) = self.cursor.read(BURST as usize * PAYLOAD_BYTES) else {
                panic!("frames are committed")
            };
            frames += run.frames() as u64;
            self.sum += run.bytes().chunks_exact(PAYLOAD_BYTES).map(number).sum::<u64>();
        }
    }

    /// Proves that all messages are in the ring, and reads them.
    ///
    /// # Panics
    ///
    /// If one is not there.
    pub fn check_appended(mut self) {
        assert_eq!(self.ring.next() - self.first, MESSAGES);
        self.read_runs();
        self.check_read();
    }

    /// Proves that all messages were read.
    ///
    /// # Panics
    ///
    /// If one was not, or another was.
    pub fn check_read(self) {
        assert_eq!((self.cursor.position() - self.first, self.sum), (MESSAGES, SUM));
    }
}

impl Default for Warm {
    fn default() -> Self {
        Self::new()
    }
}

/// All messages as runs of [`BURST`] frames.
pub struct Runs {
    runs: Vec<Vec<u8>>,
    ends: Vec<u32>,
}

impl Default for Runs {
    fn default() -> Self {
        let run = |first| {
            let mut run = vec![0; BURST as usize * PAYLOAD_BYTES];
            (first..)
                .zip(run.chunks_exact_mut(PAYLOAD_BYTES))
                .for_each(|(message, frame)| stamp(frame, message));
            run
        };
        let ends = (1..=BURST as u32).map(|frames| frames * PAYLOAD_BYTES as u32).collect();
        Self { runs: (0..MESSAGES).step_by(BURST as usize).map(run).collect(), ends }
    }
}
