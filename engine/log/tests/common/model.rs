//! What the log should hold, kept in the plainest way: every record that counts, applied to maps.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use twinlane_log::{
    AppendError, Entry, Failure, Log, LogConfig, OpenError, Origin, ReadError, Recovered, Retention,
};

use super::disk::SimDisk;
use super::{Outcome, Random, frame, try_numbers};

pub(crate) const TOPICS: u32 = 4;
const STREAMS: u32 = 3;
const KEYS: u64 = 5;
/// Key of the state that says how many records there are.
const COUNT: &[u8] = b"count";

/// One entry, owned.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Topic { id: u32, value: Vec<u8> },
    Run { topic: u32, lane: u32, first_seq: u64, frames: Vec<Vec<u8>> },
    Stream { lane: u32, topic: u32, value: Vec<u8> },
    State { key: Vec<u8>, value: Vec<u8> },
    Delta { key: Vec<u8>, value: Vec<u8> },
}

type SnapshotAndDeltas = (Vec<u8>, Vec<Vec<u8>>);

#[derive(Clone, Default)]
pub(crate) struct Model {
    topics: BTreeMap<u32, (Vec<u8>, Vec<u64>)>,
    streams: BTreeMap<u32, Stream>,
    states: BTreeMap<Vec<u8>, SnapshotAndDeltas>,
}

#[derive(Clone, Default)]
struct Stream {
    topic: u32,
    value: Vec<u8>,
    last_seq: u64,
    offsets: BTreeMap<u64, u64>,
}

impl Model {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Topic { id, value } => self.topics.entry(*id).or_default().0 = value.clone(),
            Op::Run { topic, lane, first_seq, frames } => {
                let messages = &mut self.topics.get_mut(topic).unwrap().1;
                let stream = self.streams.get_mut(lane).unwrap();
                for (seq, frame) in (*first_seq..).zip(frames) {
                    stream.offsets.insert(seq, messages.len() as u64);
                    stream.last_seq = seq;
                    messages.push(u64::from_le_bytes(frame[4..12].try_into().unwrap()));
                }
            }
            Op::Stream { lane, topic, value } => {
                let stream = self.streams.entry(*lane).or_default();
                (stream.topic, stream.value) = (*topic, value.clone());
            }
            Op::State { key, value } if value.is_empty() => {
                self.states.remove(key);
            }
            Op::State { key, value } => {
                self.states.insert(key.clone(), (value.clone(), Vec::new()));
            }
            Op::Delta { key, value } => self.states.entry(key.clone()).or_default().1.push(value.clone()),
        }
    }
}

/// A log on a simulated disk beside what it should hold.
pub(crate) struct World {
    pub(crate) disk: SimDisk,
    pub(crate) random: Random,
    pub(crate) log: Option<Log>,
    config: LogConfig,
    /// Messages that each topic keeps.
    keeps: u64,
    /// What every record says, in order, and what became of it.
    records: Vec<(Vec<Op>, Arc<Outcome>)>,
    /// The records that certainly count.
    settled: Model,
    settled_records: u64,
    next_seqs: BTreeMap<u32, u64>,
    next_number: u64,
}

impl World {
    pub(crate) fn new(seed: u64, config: LogConfig, keeps: u64) -> Self {
        let disk = SimDisk::default();
        Self {
            disk,
            random: Random::seeded(seed),
            log: None,
            config,
            keeps,
            records: Vec::new(),
            settled: Model::default(),
            settled_records: 0,
            next_seqs: BTreeMap::new(),
            next_number: 0,
        }
    }

    pub(crate) fn open(&mut self) -> Result<Recovered, OpenError> {
        let (log, recovered) =
            Log::open_on(Arc::new(self.disk.clone()), Path::new("/log"), self.config.clone())?;
        for topic in 0..TOPICS {
            log.set_retention(topic, Retention { messages: self.keeps, bytes: 0, age: Duration::ZERO });
        }
        self.log = Some(log);
        Ok(recovered)
    }

    /// Appends a random record, if the log takes it.
    pub(crate) fn append(&mut self) {
        let ops = self.random_record();
        let outcome = Arc::new(Outcome::default());
        let log = self.log.as_ref().expect("the log is open");
        let bytes: Vec<Vec<u8>> = ops
            .iter()
            .map(|op| match op {
                Op::Run { frames, .. } => frames.concat(),
                _ => Vec::new(),
            })
            .collect();
        let entries: Vec<Entry<'_>> = ops.iter().zip(&bytes).map(|(op, bytes)| op.entry(bytes)).collect();
        match log.append(&entries, Some(outcome.clone())) {
            Ok(_) => self.records.push((ops, outcome)),
            Err(AppendError::Failed(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits for outcomes. Whatever was refused never was.
    pub(crate) fn commit(&mut self) {
        let _ = self.log.as_ref().expect("the log is open").commit();
        for (ops, outcome) in std::mem::take(&mut self.records) {
            match outcome.get().expect("a commit settles what was staged") {
                Ok(_) => self.count(&ops),
                Err(Failure::NoSpace) => self.set_seqs(),
                Err(Failure::Failed(_)) => self.records.push((ops, outcome)),
            }
        }
        self.set_seqs();
    }

    /// What the log recovered is what was settled, and perhaps the next of what nobody knows.
    pub(crate) fn check(&mut self, recovered: &Recovered, context: &str) {
        let unknown = std::mem::take(&mut self.records);
        let count = recovered.states.iter().find(|state| state.key == COUNT);
        let count = count.map_or(0, |state| u64::from_le_bytes(state.snapshot[..].try_into().unwrap()));
        assert!(count >= self.settled_records, "{context}: {count} of {} records", self.settled_records);
        for (ops, _) in unknown.into_iter().take((count - self.settled_records) as usize) {
            self.count(&ops);
        }
        assert_eq!(self.settled_records, count, "{context}: records that nobody appended");
        self.set_seqs();
        self.check_topics(recovered, context);
        self.check_streams(recovered, context);
        let states = recovered.states.iter().map(|state| (&state.key, (&state.snapshot, &state.deltas)));
        let expected = self.settled.states.iter().map(|(key, (snapshot, deltas))| (key, (snapshot, deltas)));
        assert!(states.eq(expected), "{context}: states differ");
    }

    fn check_topics(&self, recovered: &Recovered, context: &str) {
        let log = self.log.as_ref().expect("the log is open");
        let known: Vec<u32> = recovered.topics.iter().map(|topic| topic.id).collect();
        assert!(known.iter().eq(self.settled.topics.keys()), "{context}: topics {known:?}");
        for topic in &recovered.topics {
            let (value, messages) = &self.settled.topics[&topic.id];
            assert_eq!(&topic.value, value, "{context}: topic {}", topic.id);
            assert_eq!(topic.next, messages.len() as u64, "{context}: topic {}", topic.id);
            let keeps = if self.keeps == 0 { topic.next } else { self.keeps };
            assert!(topic.oldest <= topic.next.saturating_sub(keeps), "{context}: {topic:?} lost messages");
            self.check_messages(log, topic.id, context);
        }
    }

    fn check_streams(&self, recovered: &Recovered, context: &str) {
        assert_eq!(recovered.streams.len(), self.settled.streams.len(), "{context}: streams");
        for stream in &recovered.streams {
            let expected = &self.settled.streams[&stream.lane];
            let facts = (stream.topic, &stream.value, stream.last_seq);
            assert_eq!(facts, (expected.topic, &expected.value, expected.last_seq), "{context}");
            let offsets: BTreeMap<u64, u64> = stream
                .answers
                .iter()
                .flat_map(|answer| (0..answer.count).map(|n| (answer.first_seq + n, answer.first_offset + n)))
                .collect();
            assert_eq!(offsets, expected.offsets, "{context}: answers of stream {}", stream.lane);
        }
    }

    /// Every message that is kept is what was published.
    pub(crate) fn check_reads(&self, context: &str) {
        let log = self.log.as_ref().expect("the log is open");
        for topic in self.settled.topics.keys() {
            self.check_messages(log, *topic, context);
        }
    }

    fn check_messages(&self, log: &Log, topic: u32, context: &str) {
        loop {
            let oldest = log.bounds(topic).oldest;
            let messages = &self.settled.topics[&topic].1[oldest as usize..];
            match try_numbers(log, topic, oldest) {
                Ok(numbers) => {
                    return assert_eq!(numbers, messages, "{context}: topic {topic} from {oldest}");
                }
                // Retention was faster.
                Err(ReadError::Gone { oldest: newer }) if newer > oldest => {}
                Err(error) => panic!("{context}: topic {topic} from {oldest}: {error}"),
            }
        }
    }

    pub(crate) fn messages(&self) -> usize {
        self.settled.topics.values().map(|(_, messages)| messages.len()).sum()
    }

    fn count(&mut self, ops: &[Op]) {
        ops.iter().for_each(|op| self.settled.apply(op));
        self.settled_records += 1;
    }

    /// Refused numbers are given again, as a client would.
    fn set_seqs(&mut self) {
        let streams = self.settled.streams.iter();
        self.next_seqs = streams.map(|(lane, stream)| (*lane, stream.last_seq + 1)).collect();
    }

    fn random_record(&mut self) -> Vec<Op> {
        let count = self.settled_records + self.records.len() as u64 + 1;
        let mut ops = vec![Op::State { key: COUNT.to_vec(), value: count.to_le_bytes().to_vec() }];
        if count == 1 {
            ops.extend((0..TOPICS).map(|id| Op::Topic { id, value: vec![id as u8] }));
            ops.extend((0..STREAMS).map(|lane| Op::Stream { lane, topic: lane, value: vec![lane as u8] }));
            self.next_seqs = (0..STREAMS).map(|lane| (lane, 1)).collect();
        }
        for _ in 0..1 + self.random.below(3) {
            let op = self.random_op();
            ops.push(op);
        }
        ops
    }

    fn random_op(&mut self) -> Op {
        let value_bytes = self.random.below(60) as usize;
        let value = vec![self.random.next() as u8; value_bytes];
        let key = self.random.below(KEYS).to_le_bytes().to_vec();
        match self.random.below(12) {
            0 => Op::Topic { id: self.random.below(u64::from(TOPICS)) as u32, value },
            1 if self.random.one_in(3) => Op::State { key, value: Vec::new() },
            1 => Op::State { key, value },
            2..=4 => Op::Delta { key, value },
            _ => self.random_run(),
        }
    }

    fn random_run(&mut self) -> Op {
        let lane = self.random.below(u64::from(STREAMS)) as u32;
        // The last topic is quiet: its messages lie in segments that hold nothing else of use.
        let topic = if self.random.one_in(40) { TOPICS - 1 } else { lane };
        let first_seq = self.next_seqs.get(&lane).copied().unwrap_or(1);
        let frames: Vec<Vec<u8>> = (0..1 + self.random.below(4))
            .map(|_| {
                self.next_number += 1;
                let bytes = if self.random.one_in(20) { 3_000 } else { self.random.below(300) };
                frame(self.next_number, bytes as usize)
            })
            .collect();
        self.next_seqs.insert(lane, first_seq + frames.len() as u64);
        Op::Run { topic, lane, first_seq, frames }
    }
}

impl Op {
    fn entry<'a>(&'a self, bytes: &'a [u8]) -> Entry<'a> {
        let session = [7; 16];
        match self {
            Self::Topic { id, value } => Entry::Topic { id: *id, value },
            Self::Run { topic, lane, first_seq, frames } => Entry::Run {
                topic: *topic,
                origin: Origin { session, lane: *lane, first_seq: *first_seq },
                frames: frames.len() as u32,
                bytes,
            },
            Self::Stream { lane, topic, value } => {
                Entry::Stream { session, lane: *lane, topic: *topic, value }
            }
            Self::State { key, value } => Entry::State { key, value },
            Self::Delta { key, value } => Entry::Delta { key, value },
        }
    }
}
