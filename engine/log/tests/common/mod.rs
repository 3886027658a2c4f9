//! What the tests share: seeded numbers, a disk that crashes, a model of the log, and listeners that remember.

#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod disk;
pub(crate) mod model;

use std::sync::{Arc, Mutex};

use twinlane_log::{Committed, Entry, Failure, Listener, Log, LogConfig, Origin, ReadError};

/// Numbers that are the same for the same seed (splitmix64).
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn one_in(&mut self, chance: u64) -> bool {
        self.below(chance) == 0
    }
}

/// Remembers what became of a record.
#[derive(Default)]
pub(crate) struct Outcome(Mutex<Option<Result<Vec<u64>, Failure>>>);

impl Outcome {
    /// Offsets of the runs, the failure, or nothing yet.
    pub(crate) fn get(&self) -> Option<Result<Vec<u64>, Failure>> {
        self.0.lock().unwrap().clone()
    }

    fn set(&self, outcome: Result<Vec<u64>, Failure>) {
        let before = self.0.lock().unwrap().replace(outcome);
        assert!(before.is_none(), "a listener is told once");
    }
}

impl Listener for Outcome {
    fn committed(&self, record: Committed<'_>) {
        self.set(Ok(record.runs().map(|run| run.first_offset).collect()));
    }

    fn failed(&self, why: Failure) {
        self.set(Err(why));
    }
}

/// Small segments, and nothing that happens at a time of its own.
pub(crate) fn small() -> LogConfig {
    let mut config = LogConfig::default();
    config.segment_bytes = 64 << 10;
    config.prepares_ahead = false;
    config
}

pub(crate) fn origin(first_seq: u64) -> Origin {
    Origin { session: [9; 16], lane: 1, first_seq }
}

/// A frame of `bytes` bytes that says `number`.
pub(crate) fn frame(number: u64, bytes: usize) -> Vec<u8> {
    let mut frame = vec![number as u8; bytes.max(12)];
    let length = frame.len() as u32;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame[4..12].copy_from_slice(&number.to_le_bytes());
    frame
}

/// Publishes one frame on `topic` and waits until it is durable; its offset or why not.
pub(crate) fn publish(log: &Log, topic: u32, seq: u64, frame: &[u8]) -> Result<u64, Failure> {
    let outcome = Arc::new(Outcome::default());
    let run = Entry::Run { topic, origin: origin(seq), frames: 1, bytes: frame };
    log.append(&[run], Some(outcome.clone())).unwrap();
    let _ = log.commit();
    outcome.get().expect("a commit settles what was staged").map(|offsets| offsets[0])
}

/// Where in a segment's bytes the payload of a frame with this number lies.
pub(crate) fn payload(bytes: &[u8], number: u8) -> usize {
    bytes.windows(8).position(|window| window == [number; 8]).expect("the frame is there")
}

pub(crate) fn declare(log: &Log, topic: u32) {
    log.append(&[Entry::Topic { id: topic, value: b"value" }], None).unwrap();
    log.commit().unwrap();
}

/// The numbers in the frames of `topic` from `from` on.
pub(crate) fn numbers(log: &Log, topic: u32, from: u64) -> Vec<u64> {
    try_numbers(log, topic, from).unwrap()
}

pub(crate) fn try_numbers(log: &Log, topic: u32, from: u64) -> Result<Vec<u64>, ReadError> {
    let (mut next, mut numbers) = (from, Vec::new());
    loop {
        let mut frames = Vec::new();
        let run = log.read(topic, next, 10_000, &mut frames)?;
        if run.frames == 0 {
            return Ok(numbers);
        }
        assert_eq!(run.first_offset, next);
        let mut rest = &frames[..];
        for _ in 0..run.frames {
            let length = u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
            numbers.push(u64::from_le_bytes(rest[4..12].try_into().unwrap()));
            rest = &rest[length..];
        }
        assert!(rest.is_empty());
        next += u64::from(run.frames);
    }
}
