//! A publisher stream's way into its topic: order, repeats, answers, back-pressure.
//!
//! It stores runs of frames that a decoder has checked. It outlives connections, so that a publisher that comes
//! back finds out what became of each message. It sends nothing itself; callers pass its answers on.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use twinlane_proto::control::{Acked, Refused};
use twinlane_proto::frame::{MESSAGE_HEADER_BYTES, MessageRef, stamp_seq, stamp_source, stamp_topic};
use twinlane_proto::{Code, Level};
use twinlane_ring::AppendError;

use super::{Drops, Topic};
use crate::lock::lock;
use crate::seq_window::{Seen, SeqWindow};

/// Answers kept for a publisher that did not hear them: more than one can have outstanding runs.
const ANSWERS_MAX: usize = 65_536;

/// The level every ack has until topics can be durable.
pub(crate) const LEVEL: Level = Level::Memory;
/// Seqs above this are nonsense; sums with them would overflow.
const SEQ_MAX: u64 = 1 << 62;

/// One publisher stream of one session.
pub(crate) struct Ingest {
    pub(crate) topic: Arc<Topic>,
    pub(crate) source: u32,
    /// Its lane in the session's connections.
    pub(crate) lane: u32,
    /// Seqs that an earlier session of the publisher used up: this stream's frames count from 1 again.
    seq_base: u64,
    /// Held from taking messages until their outcomes are told.
    telling: Mutex<()>,
    state: Mutex<State>,
}

struct State {
    /// The highest seq stored or refused.
    last_seq: u64,
    answers: VecDeque<Answer>,
    /// Fast, unordered: which seqs were seen.
    window: Option<SeqWindow>,
    /// Runs that wait for room in the ring, in order. Bounded by the publisher's credit.
    waiting: VecDeque<Waiting>,
    ended: bool,
}

#[derive(Clone, Copy)]
struct Answer {
    first_seq: u64,
    count: u64,
    first_offset: u64,
}

struct Waiting {
    first: u64,
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

/// What became of some messages.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outcome {
    Acked(Acked),
    Refused(Refused),
}

/// What a run's arrival led to, for the connection to act on.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) outcomes: Vec<Outcome>,
    /// Bytes that no longer count against the publisher's credit.
    pub(crate) bytes_done: usize,
    /// The ring has no room: call [`Ingest::retry`] when it has.
    pub(crate) stalled: bool,
}

/// A publisher broke the rules; its connection ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IngestError {
    #[error("message {seq} came after {last_seq}: one publisher's messages have no holes")]
    OutOfOrder { seq: u64, last_seq: u64 },
    #[error("a message in a run that begins with {first} has another seq than its place says")]
    WrongSeq { first: u64 },
    #[error("a payload is larger than the topic's {payload_bytes_max} bytes")]
    TooLarge { payload_bytes_max: u32 },
}

impl IngestError {
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::OutOfOrder { .. } | Self::WrongSeq { .. } => Code::ProtocolViolation,
            Self::TooLarge { .. } => Code::TooLarge,
        }
    }
}

impl Ingest {
    /// A stream whose first message will have seq `last_seq + 1`.
    pub(crate) fn new(topic: Arc<Topic>, lane: u32, last_seq: u64) -> Self {
        let last_seq = last_seq.min(SEQ_MAX);
        let source = topic.open_source();
        let state = State {
            last_seq,
            answers: VecDeque::new(),
            window: None,
            waiting: VecDeque::new(),
            ended: false,
        };
        Self { topic, source, lane, seq_base: last_seq, telling: Mutex::default(), state: Mutex::new(state) }
    }

    /// Outcomes are told in the order of their messages: hold this from [`Self::take`] or [`Self::retry`] until
    /// theirs are passed on.
    pub(crate) fn in_order(&self) -> MutexGuard<'_, ()> {
        lock(&self.telling)
    }

    /// The publisher is back on a new connection and sends again from the first message that is not stored: those
    /// that wait for room are not waited for any more.
    pub(crate) fn reopen(&self) {
        lock(&self.state).waiting.clear();
    }

    /// The highest seq whose outcome is decided.
    pub(crate) fn last_seq(&self) -> u64 {
        lock(&self.state).last_seq
    }

    /// The outcomes of the messages after `seq`, for a publisher that may not have heard them. Forgets older ones.
    pub(crate) fn outcomes_after(&self, seq: u64) -> Vec<Outcome> {
        let seq = seq.min(SEQ_MAX);
        let mut state = lock(&self.state);
        while state.answers.front().is_some_and(|answer| answer.first_seq + answer.count <= seq + 1) {
            state.answers.pop_front();
        }
        let after = state.answers.iter().filter_map(|answer| answer.from(seq + 1));
        after.map(|answer| self.acked(answer)).collect()
    }

    /// Takes a run of frames with seqs from `first`. `bytes` and `ends` are as the decoder gives them.
    pub(crate) fn take(&self, first: u64, bytes: &[u8], ends: &[u32]) -> Result<Taken, IngestError> {
        let payload_bytes_max = self.topic.meta.spec.payload_bytes_max;
        if first > SEQ_MAX {
            return Err(IngestError::WrongSeq { first });
        }
        let frames = || frames(bytes, ends);
        if frames().zip(first..).any(|(frame, seq)| frame_seq(frame) != seq) {
            return Err(IngestError::WrongSeq { first });
        }
        let mut sizes = frames().map(<[u8]>::len);
        let suspect = MESSAGE_HEADER_BYTES + payload_bytes_max as usize;
        if sizes.any(|frame_bytes| frame_bytes > suspect)
            && frames().any(|frame| payload_bytes(frame) > payload_bytes_max as usize)
        {
            return Err(IngestError::TooLarge { payload_bytes_max });
        }
        let mut state = lock(&self.state);
        if self.topic.meta.is_fast() {
            self.take_fast(&mut state, first, bytes, ends);
            return Ok(Taken { bytes_done: bytes.len(), ..Taken::default() });
        }
        let mut taken = Taken::default();
        let new_at = self.answer_repeats(&mut state, first, ends.len(), &mut taken);
        let expected =
            state.waiting.back().map_or(state.last_seq, |last| last.first + last.ends.len() as u64 - 1);
        if new_at == ends.len() {
            taken.bytes_done = bytes.len();
            return Ok(taken);
        }
        if first + new_at as u64 != expected + 1 {
            return Err(IngestError::OutOfOrder { seq: first + new_at as u64, last_seq: expected });
        }
        let done_bytes = if new_at == 0 { 0 } else { ends[new_at - 1] as usize };
        taken.bytes_done = done_bytes;
        let (bytes, ends) = (&bytes[done_bytes..], rebased(&ends[new_at..], done_bytes));
        let first = first + new_at as u64;
        if state.waiting.is_empty() {
            self.store(&mut state, first, bytes, &ends, &mut taken);
        } else {
            // Whoever waits for room already will retry with these too.
            state.waiting.push_back(Waiting { first, bytes: bytes.to_vec(), ends: ends.into_owned() });
        }
        Ok(taken)
    }

    /// Tries again to store what waits for room.
    pub(crate) fn retry(&self) -> Taken {
        let mut state = lock(&self.state);
        let mut taken = Taken::default();
        while let Some(next) = state.waiting.pop_front() {
            let behind = state.waiting.len();
            self.store(&mut state, next.first, &next.bytes, &next.ends, &mut taken);
            if taken.stalled {
                // What was left of it is at the back; it belongs to the front.
                state.waiting.rotate_left(behind);
                break;
            }
        }
        taken
    }

    /// The publisher closed the stream after `last_seq`.
    pub(crate) fn end(&self, last_seq: u64) {
        let mut state = lock(&self.state);
        if std::mem::replace(&mut state.ended, true) {
            return;
        }
        let last_seq = last_seq.min(SEQ_MAX).saturating_sub(self.seq_base);
        self.topic.close_source(self.source, last_seq);
    }

    /// Stores all of a run, or as much as there is room for; the rest waits.
    fn store(&self, state: &mut State, first: u64, bytes: &[u8], ends: &[u32], taken: &mut Taken) {
        let (mut at, mut byte) = (0, 0);
        while at < ends.len() {
            let rest = rebased(&ends[at..], byte);
            match self.topic.ring.append_run(&bytes[byte..], &rest, |_, run| self.stamp(run)) {
                Ok(appended) => {
                    let answer = Answer {
                        first_seq: first + at as u64,
                        count: appended.frames as u64,
                        first_offset: appended.first_offset,
                    };
                    state.last_seq = answer.first_seq + answer.count - 1;
                    state.remember(answer);
                    taken.outcomes.push(self.acked(answer));
                    taken.bytes_done += appended.bytes;
                    at += appended.frames;
                    byte += appended.bytes;
                }
                Err(AppendError::Full) => {
                    let first = first + at as u64;
                    state.waiting.push_back(Waiting {
                        first,
                        bytes: bytes[byte..].to_vec(),
                        ends: rest.into_owned(),
                    });
                    taken.stalled = true;
                    return;
                }
                Err(error) => {
                    let code =
                        if matches!(error, AppendError::Closed) { Code::Closed } else { Code::TooLarge };
                    let count = (ends.len() - at) as u32;
                    state.last_seq = first + ends.len() as u64 - 1;
                    taken.outcomes.push(Outcome::Refused(Refused {
                        publisher: self.lane,
                        first_seq: first + at as u64,
                        count,
                        code,
                    }));
                    taken.bytes_done += bytes.len() - byte;
                    return;
                }
            }
        }
    }

    /// Skips what was stored before, repeating its answers. Returns how many frames that is.
    fn answer_repeats(&self, state: &mut State, first: u64, count: usize, taken: &mut Taken) -> usize {
        if first > state.last_seq {
            return 0;
        }
        let last = state.last_seq.min(first + count as u64 - 1);
        let known = state.answers.iter().filter_map(|answer| answer.from(first)?.until(last));
        taken.outcomes.extend(known.map(|answer| self.acked(answer)));
        (last + 1 - first) as usize
    }

    /// Fast: stores what is new, in pieces between what is not.
    fn take_fast(&self, state: &mut State, first: u64, bytes: &[u8], ends: &[u32]) {
        let mut from = 0;
        for at in 0..ends.len() {
            if !self.is_new(state, first + at as u64) {
                self.store_fast(bytes, ends, from, at);
                from = at + 1;
                Drops::add(&self.topic.drops.late, 1);
            }
        }
        self.store_fast(bytes, ends, from, ends.len());
    }

    fn is_new(&self, state: &mut State, seq: u64) -> bool {
        if !self.topic.meta.is_unordered() {
            let new = seq > state.last_seq;
            state.last_seq = state.last_seq.max(seq);
            return new;
        }
        state.last_seq = state.last_seq.max(seq);
        match &mut state.window {
            Some(window) => matches!(window.see(seq), Seen::New { .. }),
            window => {
                *window = Some(SeqWindow::starting_at(seq));
                true
            }
        }
    }

    fn store_fast(&self, bytes: &[u8], ends: &[u32], from: usize, to: usize) {
        let mut at = from;
        while at < to {
            let byte = if at == 0 { 0 } else { ends[at - 1] as usize };
            let until = ends[to - 1] as usize;
            let rest = rebased(&ends[at..to], byte);
            match self.topic.ring.append_run(&bytes[byte..until], &rest, |_, run| self.stamp(run)) {
                Ok(appended) => at += appended.frames,
                Err(_) => return Drops::add(&self.topic.drops.queue_full, (to - at) as u64),
            }
        }
    }

    /// Frames carry what the server knows about their publisher, whatever the publisher wrote there.
    fn stamp(&self, run: &mut [u8]) {
        let mut rest = run;
        while !rest.is_empty() {
            let frame_bytes = frame_bytes(rest);
            let (frame, after) = rest.split_at_mut(frame_bytes);
            stamp_topic(frame, self.topic.meta.id);
            stamp_source(frame, self.source);
            if self.seq_base > 0 {
                stamp_seq(frame, frame_seq(frame) - self.seq_base);
            }
            rest = after;
        }
    }

    fn acked(&self, answer: Answer) -> Outcome {
        Outcome::Acked(Acked {
            publisher: self.lane,
            first_seq: answer.first_seq,
            count: answer.count as u32,
            first_offset: answer.first_offset,
            level: LEVEL,
        })
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        let last_seq = self.last_seq();
        self.end(last_seq);
    }
}

impl State {
    fn remember(&mut self, answer: Answer) {
        if let Some(last) = self.answers.back_mut()
            && last.first_seq + last.count == answer.first_seq
            && last.first_offset + last.count == answer.first_offset
            && last.count + answer.count <= u64::from(u32::MAX)
        {
            last.count += answer.count;
            return;
        }
        if self.answers.len() == ANSWERS_MAX {
            self.answers.pop_front();
        }
        self.answers.push_back(answer);
    }
}

impl Answer {
    /// The part from `seq` on.
    fn from(&self, seq: u64) -> Option<Self> {
        let skip = seq.saturating_sub(self.first_seq);
        (skip < self.count).then(|| Self {
            first_seq: self.first_seq + skip,
            count: self.count - skip,
            first_offset: self.first_offset + skip,
        })
    }

    /// The part up to and with `seq`.
    fn until(&self, seq: u64) -> Option<Self> {
        (self.first_seq <= seq).then(|| Self { count: self.count.min(seq - self.first_seq + 1), ..*self })
    }
}

fn frames<'b>(bytes: &'b [u8], ends: &'b [u32]) -> impl Iterator<Item = &'b [u8]> {
    let mut from = 0;
    ends.iter().map(move |end| {
        let frame = &bytes[from..*end as usize];
        from = *end as usize;
        frame
    })
}

fn frame_bytes(frame: &[u8]) -> usize {
    let length = frame.first_chunk().expect("the decoder hands out whole frames");
    u32::from_le_bytes(*length) as usize
}

fn frame_seq(frame: &[u8]) -> u64 {
    let seq = frame[16..].first_chunk().expect("the decoder hands out whole frames");
    u64::from_le_bytes(*seq)
}

fn payload_bytes(frame: &[u8]) -> usize {
    MessageRef::parse(frame).map_or(usize::MAX, |message| message.payload().len())
}

/// `ends` as positions after the first `byte` bytes.
fn rebased(ends: &[u32], byte: usize) -> std::borrow::Cow<'_, [u32]> {
    if byte == 0 {
        return ends.into();
    }
    ends.iter().map(|end| end - byte as u32).collect()
}
