//! A publisher stream's way into its topic: order, repeats, answers, back-pressure.
//!
//! It stores runs of frames that a decoder has checked: in memory at once, on a durable topic by way of the log, which
//! answers later. It outlives connections, so that a publisher that comes back finds out what became of each message.
//! It sends nothing itself; callers pass its answers on.

mod answers;
mod check;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Buf, Bytes};
use twinlane_log::{Committed, Entry, Failure, Listener, Origin};
use twinlane_proto::Code;
use twinlane_proto::control::{Acked, Refused};
use twinlane_proto::frame::{MessageRef, due_us, stamp_due, stamp_seq, stamp_source, stamp_topic};
use twinlane_ring::AppendError;

use self::answers::{Answer, Answers, What};
use self::check::{IngestError, SEQ_MAX, check, frame_seq, frames};
use super::runs::{frame_bytes, rebased};
use super::store::Store;
use super::{Drops, Topic};
use crate::fast::{Counts, Flow, NewestByKey, arrive, key_of, ticks_us};
use crate::faults;
use crate::heads::now_us;
use crate::lock::lock;
use crate::message::kept;
use crate::seq_window::{Look, SeqWindow};

/// Keys of one publisher stream whose order is watched.
const KEYS_MAX: usize = 65_536;

/// A session's number, as the log knows it.
pub(crate) type SessionId = [u8; 16];

/// Passes on what became of messages, from whichever thread finds out.
pub(crate) type Teller = Box<dyn Fn(Taken) + Send>;

/// One publisher stream of one session.
pub(crate) struct Ingest {
    pub(crate) topic: Arc<Topic>,
    pub(crate) source: u32,
    session: SessionId,
    /// Its lane in the session's connections.
    pub(crate) lane: u32,
    /// Seqs that an earlier session of the publisher used up: this stream's frames count from 1 again.
    pub(crate) seq_base: u64,
    /// Held from taking messages until their outcomes are told.
    telling: Mutex<Option<Teller>>,
    state: Mutex<State>,
}

struct State {
    /// The highest seq taken: it is stored, refused, or on its way to disk.
    last_seq: u64,
    answers: Answers,
    /// Runs on their way to disk, in order.
    staged: VecDeque<Staged>,
    /// Fast: which seqs were seen.
    window: Option<SeqWindow>,
    /// Latest: the newest seq of each key.
    by_key: NewestByKey,
    /// What the publisher says that it left out.
    left_out: Counts,
    /// Runs that wait for room, in order. Bounded by the publisher's credit, and by 16 times that with what else was read
    /// into the memory that they share.
    waiting: VecDeque<Waiting>,
    ended: bool,
}

struct Staged {
    first_seq: u64,
    count: u64,
    bytes: usize,
}

struct Waiting {
    first: u64,
    bytes: Bytes,
    ends: Vec<u32>,
}

/// What became of some messages.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outcome {
    Acked(Acked),
    Refused(Refused),
}

/// What a run's arrival led to, for the connection to act on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Taken {
    pub(crate) outcomes: Vec<Outcome>,
    /// Bytes that no longer count against the publisher's credit.
    pub(crate) bytes_done: usize,
    /// There is no room: call [`Ingest::retry`] when there is.
    pub(crate) stalled: bool,
    /// The stream is over, for this reason: what has no outcome yet gets none.
    pub(crate) ended: Option<Code>,
}

impl Ingest {
    /// A stream whose first message will have seq `last_seq + 1`.
    pub(crate) fn new(topic: Arc<Topic>, session: SessionId, lane: u32, last_seq: u64) -> Self {
        let last_seq = last_seq.min(SEQ_MAX);
        let source = topic.open_source();
        Self::of(topic, source, (session, lane), last_seq, last_seq, Answers::default())
    }

    /// A stream that the log remembers. Seqs up to `last_seq` that it has no answer for were refused.
    pub(crate) fn recovered(
        topic: Arc<Topic>,
        source: u32,
        seq_base: u64,
        recovered: &twinlane_log::RecoveredStream,
    ) -> Self {
        topic.reopen_source();
        let last_seq = recovered.last_seq.max(seq_base);
        let answers = Answers::recovered(last_seq, &recovered.answers);
        Self::of(topic, source, (recovered.session, recovered.lane), seq_base, last_seq, answers)
    }

    fn of(
        topic: Arc<Topic>,
        source: u32,
        (session, lane): (SessionId, u32),
        seq_base: u64,
        last_seq: u64,
        answers: Answers,
    ) -> Self {
        let state = State {
            last_seq,
            answers,
            staged: VecDeque::new(),
            window: None,
            by_key: NewestByKey::new(KEYS_MAX),
            left_out: Counts::default(),
            waiting: VecDeque::new(),
            ended: false,
        };
        Self { topic, source, session, lane, seq_base, telling: Mutex::new(None), state: Mutex::new(state) }
    }

    /// Outcomes are told in the order of their messages: hold this from [`Self::take`] or [`Self::retry`] until
    /// theirs are passed on.
    pub(crate) fn in_order(&self) -> MutexGuard<'_, Option<Teller>> {
        lock(&self.telling)
    }

    /// The publisher is here, on a new connection perhaps, and sends (again) from the first message that was not taken:
    /// those that wait for room are not waited for any more. `tell` passes on what is found out later.
    pub(crate) fn reopen(&self, telling: &mut MutexGuard<'_, Option<Teller>>, tell: Teller) {
        **telling = Some(tell);
        lock(&self.state).waiting.clear();
    }

    /// Takes messages that wait for room back.
    pub(crate) fn give_back_waiting(&self) {
        lock(&self.state).waiting.clear();
    }

    /// The highest seq that need not be sent again.
    pub(crate) fn last_seq(&self) -> u64 {
        lock(&self.state).last_seq
    }

    /// The outcomes of the messages after `seq`, for a publisher that may not have heard them. Forgets older ones.
    pub(crate) fn outcomes_after(&self, seq: u64) -> Vec<Outcome> {
        let seq = seq.min(SEQ_MAX);
        let mut state = lock(&self.state);
        state.answers.forget_through(seq);
        state.answers.between(seq + 1, u64::MAX).map(|answer| self.outcome(answer)).collect()
    }

    /// Forgets what came after `seq`, if that fault is planted.
    pub(crate) fn forget_dedup_after(&self, seq: u64) {
        if faults::no_dedup() {
            let mut state = lock(&self.state);
            state.last_seq = state.last_seq.min(seq.max(self.seq_base));
        }
    }

    /// What is known of the stream is not needed any more: it, or its session, is over for good.
    pub(crate) fn forget(&self) {
        if let Some(store) = &self.topic.store {
            // A log that takes no more remembers it until its session expires after a restart.
            let _ = store.log.forget_stream(self.session, self.lane);
        }
    }

    /// Takes a run of frames with seqs from `first`. `bytes` and `ends` are as the decoder gives them.
    pub(crate) fn take(
        self: &Arc<Self>,
        first: u64,
        mut bytes: Bytes,
        ends: &[u32],
    ) -> Result<Taken, IngestError> {
        check(&self.topic.meta, first, &bytes, ends)?;
        let mut state = lock(&self.state);
        if self.topic.meta.is_fast() {
            self.take_fast(&mut state, &bytes, ends);
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
        bytes.advance(done_bytes);
        let (first, ends) = (first + new_at as u64, rebased(&ends[new_at..], done_bytes));
        if state.waiting.is_empty() {
            self.store(&mut state, first, &bytes, &ends, &mut taken);
        } else {
            // Whoever waits for room already will retry with these too.
            state.wait_for_room(first, bytes, ends.into_owned());
        }
        Ok(taken)
    }

    /// Tries again to store what waits for room.
    pub(crate) fn retry(self: &Arc<Self>) -> Taken {
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
    fn store(
        self: &Arc<Self>,
        state: &mut State,
        first: u64,
        bytes: &Bytes,
        ends: &[u32],
        taken: &mut Taken,
    ) {
        if let Some(store) = &self.topic.store {
            return self.stage(store, state, first, bytes, ends, taken);
        }
        let (mut at, mut byte) = (0, 0);
        while at < ends.len() {
            let rest = rebased(&ends[at..], byte);
            let stored = self.topic.ring.append_run(&bytes[byte..], &rest, |first_offset, run| {
                self.stamp(first_offset, run);
                self.topic.note_last(first_offset, run);
            });
            match stored {
                Ok(appended) => {
                    let (first_seq, count) = (first + at as u64, appended.frames as u64);
                    state.last_seq = first_seq + count - 1;
                    let stored = Answer { first_seq, count, what: What::Stored(appended.first_offset) };
                    taken.outcomes.push(self.outcome(state.answers.remember(stored)));
                    taken.bytes_done += appended.bytes;
                    at += appended.frames;
                    byte += appended.bytes;
                }
                Err(AppendError::Full) => {
                    let first = first + at as u64;
                    state.wait_for_room(first, bytes.slice(byte..), rest.into_owned());
                    taken.stalled = true;
                    return;
                }
                Err(error) => {
                    let code =
                        if matches!(error, AppendError::Closed) { Code::Closed } else { Code::TooLarge };
                    taken.bytes_done += bytes.len() - byte;
                    let count = (ends.len() - at) as u64;
                    return self.refuse(state, first + at as u64, count, code, taken);
                }
            }
        }
    }

    /// Durable: hands a run to the log; its outcome comes when it is on disk.
    fn stage(
        self: &Arc<Self>,
        store: &Store,
        state: &mut State,
        first: u64,
        bytes: &Bytes,
        ends: &[u32],
        taken: &mut Taken,
    ) {
        let count = ends.len() as u64;
        if store.is_held() {
            taken.stalled = true;
            return state.wait_for_room(first, bytes.clone(), ends.to_vec());
        }
        let mut run = bytes.to_vec();
        self.stamp(0, &mut run);
        let frames = if faults::skip() { skip_one(&mut run, first, ends) } else { count as u32 };
        let run = Entry::Run {
            topic: self.topic.meta.id,
            origin: Origin { session: self.session, lane: self.lane, first_seq: first },
            frames,
            bytes: &run,
        };
        // Known as staged before the log's thread can say that it is committed: it waits for `state`.
        match self.topic.append(store, run, Arc::clone(self) as Arc<dyn Listener>) {
            Ok(()) => {
                state.last_seq = first + count - 1;
                state.staged.push_back(Staged { first_seq: first, count, bytes: bytes.len() });
            }
            Err(twinlane_log::AppendError::Full { .. }) => {
                taken.stalled = true;
                state.wait_for_room(first, bytes.clone(), ends.to_vec());
            }
            Err(error) => {
                tracing::debug!(%error, topic = %self.topic.meta.name, "the log takes no more");
                taken.ended = Some(Code::StorageFailed);
            }
        }
    }

    fn refuse(&self, state: &mut State, first_seq: u64, count: u64, code: Code, taken: &mut Taken) {
        state.last_seq = first_seq + count - 1;
        let refused = Answer { first_seq, count, what: What::Refused(code) };
        taken.outcomes.push(self.outcome(state.answers.remember(refused)));
    }

    /// Skips what was stored before, repeating its answers. Returns how many frames that is.
    fn answer_repeats(&self, state: &mut State, first: u64, count: usize, taken: &mut Taken) -> usize {
        if first > state.last_seq {
            return 0;
        }
        let last = state.last_seq.min(first + count as u64 - 1);
        taken.outcomes.extend(state.answers.between(first, last).map(|answer| self.outcome(answer)));
        (last + 1 - first) as usize
    }

    /// Fast: stores what is new, in pieces between what is not.
    fn take_fast(&self, state: &mut State, bytes: &[u8], ends: &[u32]) {
        let mut from = 0;
        for (at, frame) in frames(bytes, ends).enumerate() {
            let why_not = match self.look(state, frame) {
                Look::New { .. } => continue,
                Look::Late => {
                    let late = |flow: &Arc<Flow>| match self.topic.meta.is_latest() {
                        true => flow.upstream.add_coalesced(1),
                        false => flow.upstream.add_late(1),
                    };
                    self.topic.flow.iter().for_each(late);
                    &self.topic.drops.late
                }
                Look::Before => &self.topic.drops.repeats,
            };
            Drops::add(why_not, 1);
            self.store_fast(bytes, ends, from, at);
            from = at + 1;
        }
        self.store_fast(bytes, ends, from, ends.len());
    }

    /// Whether a fast message is to be stored.
    fn look(&self, state: &mut State, frame: &[u8]) -> Look {
        let seq = frame_seq(frame);
        state.last_seq = state.last_seq.max(seq);
        let seen = match &mut state.window {
            Some(window) => window.look(seq),
            window => {
                *window = Some(SeqWindow::starting_at(seq));
                Look::New { lost: 0 }
            }
        };
        if self.topic.meta.is_latest() {
            let key = MessageRef::parse(frame).map_or(0, |frame| key_of(&frame));
            return match (state.by_key.take(key, seq), seen) {
                (true, _) => Look::New { lost: 0 },
                (false, Look::Before) => Look::Before,
                // A newer value of its key was faster.
                (false, _) => Look::Late,
            };
        }
        match seen {
            Look::Late if self.topic.meta.is_unordered() => Look::New { lost: 0 },
            seen => seen,
        }
    }

    /// The publisher says how many messages it left out so far.
    pub(crate) fn left_out(&self, counts: Counts) {
        let Some(flow) = &self.topic.flow else { return };
        let earlier = std::mem::replace(&mut lock(&self.state).left_out, counts);
        flow.upstream.add(counts.since(earlier));
    }

    fn store_fast(&self, bytes: &[u8], ends: &[u32], from: usize, to: usize) {
        let mut at = from;
        while at < to {
            let byte = if at == 0 { 0 } else { ends[at - 1] as usize };
            let until = ends[to - 1] as usize;
            let rest = rebased(&ends[at..to], byte);
            let stored = self.topic.ring.append_run(&bytes[byte..until], &rest, |first_offset, run| {
                self.stamp(first_offset, run);
                self.topic.note_last(first_offset, run);
            });
            match stored {
                Ok(appended) => at += appended.frames,
                Err(_) => return Drops::add(&self.topic.drops.queue_full, (to - at) as u64),
            }
        }
    }

    /// Frames carry what the server knows about them, whatever the publisher wrote there; on a fast topic their place.
    fn stamp(&self, first_offset: u64, run: &mut [u8]) {
        let flow = self.topic.flow.as_ref();
        let (mut rest, mut offset) = (run, first_offset);
        while !rest.is_empty() {
            let frame_bytes = frame_bytes(rest).expect("the decoder hands out whole frames");
            let (frame, after) = rest.split_at_mut(frame_bytes);
            stamp_topic(frame, if flow.is_some() { offset as u32 } else { self.topic.meta.id });
            stamp_source(frame, self.source);
            stamp_delay(frame);
            if let Some(flow) = flow
                && arrive(frame, ticks_us)
            {
                flow.expect_deadlines();
            }
            if self.seq_base > 0 {
                stamp_seq(frame, frame_seq(frame) - self.seq_base);
            }
            offset += 1;
            rest = after;
        }
    }

    fn outcome(&self, answer: Answer) -> Outcome {
        let Answer { first_seq, count, what } = answer;
        let (publisher, count) = (self.lane, count as u32);
        match what {
            What::Stored(first_offset) => {
                let level = self.topic.level();
                Outcome::Acked(Acked { publisher, first_seq, count, first_offset, level })
            }
            What::Refused(code) => Outcome::Refused(Refused { publisher, first_seq, count, code }),
        }
    }
}

/// The log's answers to what was staged.
impl Listener for Ingest {
    fn committed(&self, record: Committed<'_>) {
        let Some(store) = &self.topic.store else { return };
        let telling = self.in_order();
        let mut taken = Taken::default();
        for run in record.runs() {
            store.show(run.first_offset, run.bytes);
            let mut state = lock(&self.state);
            let staged = state.staged.pop_front().expect("the log answers each staged run once, in order");
            let what = What::Stored(run.first_offset);
            let stored = Answer { first_seq: staged.first_seq, count: staged.count, what };
            taken.outcomes.push(self.outcome(state.answers.remember(stored)));
            taken.bytes_done += staged.bytes;
        }
        telling.iter().for_each(|tell| tell(std::mem::take(&mut taken)));
    }

    fn failed(&self, why: Failure) {
        let telling = self.in_order();
        let mut taken = Taken::default();
        let mut state = lock(&self.state);
        match (why, state.staged.pop_front()) {
            (Failure::NoSpace, Some(Staged { first_seq, count, bytes })) => {
                let refused = Answer { first_seq, count, what: What::Refused(Code::NoSpace) };
                taken.outcomes.push(self.outcome(state.answers.remember(refused)));
                taken.bytes_done += bytes;
            }
            _ => taken.ended = Some(Code::StorageFailed),
        }
        drop(state);
        telling.iter().for_each(|tell| tell(std::mem::take(&mut taken)));
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        let last_seq = self.last_seq();
        self.end(last_seq);
    }
}

impl State {
    fn wait_for_room(&mut self, first: u64, bytes: Bytes, ends: Vec<u32>) {
        self.waiting.push_back(Waiting { first, bytes: kept(bytes), ends });
    }
}

/// The fault `skip`: takes one message in many out of a run. Returns how many are left.
fn skip_one(run: &mut Vec<u8>, first: u64, ends: &[u32]) -> u32 {
    let skipped = (0..ends.len()).find(|at| (first + *at as u64).is_multiple_of(faults::SKIPPED));
    let Some(at) = skipped.filter(|_| ends.len() > 1) else { return ends.len() as u32 };
    let from = if at == 0 { 0 } else { ends[at - 1] as usize };
    run.drain(from..ends[at] as usize);
    ends.len() as u32 - 1
}

/// Makes a message's delay, if it has one, the time when it is over.
#[inline]
pub(crate) fn stamp_delay(frame: &mut [u8]) {
    if let Some(delay_us) = due_us(frame) {
        stamp_due(frame, now_us().saturating_add(delay_us));
    }
}
