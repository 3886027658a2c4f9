//! What became of one publisher's messages: counts, the first bad outcome, and whoever waits for one of them.
//!
//! Outcomes come in the order of the messages, from a server or from this process's own log. It sends nothing.

use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::sync::{Notify, oneshot};
use twinlane_proto::control::{Acked, Refused};
use twinlane_ring::Cursor;

use crate::error::PublishError;
use crate::lock::lock;
use crate::publisher::Ack;

#[derive(Default)]
pub(crate) struct Outcomes {
    state: Mutex<State>,
    /// Something was answered, sent, or closed.
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Keeps unanswered messages in the queue they wait in, where they wait in one.
    unanswered: Option<Cursor>,
    /// All messages up to this seq have an outcome.
    answered_seq: u64,
    acked: u64,
    refused: u64,
    last_offset: Option<u64>,
    /// What became of messages that nobody waited for, first of its kind since the last look.
    bad: Option<PublishError>,
    waiters: VecDeque<Waiter>,
}

struct Waiter {
    seq: u64,
    answer: oneshot::Sender<Result<Ack, PublishError>>,
}

/// Outcomes so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    pub(crate) answered_seq: u64,
    pub(crate) acked: u64,
    pub(crate) refused: u64,
    pub(crate) last_offset: Option<u64>,
}

impl Outcomes {
    /// `unanswered`: a gated cursor that lets go of messages once they are answered.
    pub(crate) fn of(unanswered: Option<Cursor>) -> Self {
        Self { state: Mutex::new(State { unanswered, ..State::default() }), changed: Notify::new() }
    }

    /// Wants to hear of the outcome of `seq`, which is not published yet.
    pub(crate) fn expect(&self, seq: u64) -> oneshot::Receiver<Result<Ack, PublishError>> {
        let (answer, receiver) = oneshot::channel();
        lock(&self.state).waiters.push_back(Waiter { seq, answer });
        receiver
    }

    pub(crate) fn acked(&self, acked: &Acked, epoch: u64) {
        let last_seq = last_of(acked.first_seq, acked.count);
        let mut state = lock(&self.state);
        let offset_of = |seq: u64| acked.first_offset.saturating_add(seq.saturating_sub(acked.first_seq));
        if last_seq > state.answered_seq {
            state.acked += state.unanswered_of(acked.first_seq, last_seq);
            state.last_offset = Some(offset_of(last_seq));
        }
        state.answer(last_seq, |seq| {
            let offset = offset_of(seq);
            Ok(Ack { seq, offset: Some(offset), epoch, level: Some(acked.level) })
        });
        drop(state);
        self.changed.notify_waiters();
    }

    pub(crate) fn refused(&self, refused: &Refused) {
        let last_seq = last_of(refused.first_seq, refused.count);
        let mut state = lock(&self.state);
        if last_seq > state.answered_seq {
            state.refused += state.unanswered_of(refused.first_seq, last_seq);
            state.bad.get_or_insert(PublishError::Refused { seq: refused.first_seq, code: refused.code });
        }
        state.answer(last_seq, |seq| Err(PublishError::Refused { seq, code: refused.code }));
        drop(state);
        self.changed.notify_waiters();
    }

    /// Everything up to `last_seq` that has no outcome is given up: nobody can tell any more what became of it.
    pub(crate) fn give_up(&self, last_seq: u64) {
        let mut state = lock(&self.state);
        if state.answered_seq < last_seq {
            let seq = state.answered_seq + 1;
            state.bad.get_or_insert(PublishError::Unknown { seq });
        }
        state.answer(last_seq, |seq| Err(PublishError::Unknown { seq }));
        drop(state);
        self.changed.notify_waiters();
    }

    /// Nobody can tell any more what becomes of the messages whose outcome is waited for.
    pub(crate) fn give_up_expected(&self) {
        let last_seq = lock(&self.state).waiters.back().map_or(0, |waiter| waiter.seq);
        let next_seq = lock(&self.state).answered_seq + 1;
        self.give_up(last_seq.max(next_seq));
    }

    /// No outcome will come any more: `closed` is what those who wait are told.
    pub(crate) fn close(&self, closed: &PublishError) {
        let waiters = std::mem::take(&mut lock(&self.state).waiters);
        for waiter in waiters {
            let _ = waiter.answer.send(Err(closed.clone()));
        }
        self.changed.notify_waiters();
    }

    pub(crate) fn progress(&self) -> Progress {
        let state = lock(&self.state);
        Progress {
            answered_seq: state.answered_seq,
            acked: state.acked,
            refused: state.refused,
            last_offset: state.last_offset,
        }
    }

    pub(crate) fn take_bad(&self) -> Option<PublishError> {
        lock(&self.state).bad.take()
    }

    /// Whoever waits looks again.
    pub(crate) fn notify(&self) {
        self.changed.notify_waiters();
    }

    /// Waits until `is_settled`.
    pub(crate) async fn wait_until(&self, is_settled: impl Fn() -> bool) {
        loop {
            let notified = self.changed.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if is_settled() {
                return;
            }
            notified.await;
        }
    }
}

/// The seq of the last of `count` messages from `first_seq`, whatever a server says these are.
fn last_of(first_seq: u64, count: u32) -> u64 {
    first_seq.saturating_add(u64::from(count.saturating_sub(1)))
}

impl State {
    /// How many of the messages from `first_seq` to `last_seq` have no outcome yet.
    fn unanswered_of(&self, first_seq: u64, last_seq: u64) -> u64 {
        last_seq.saturating_sub(self.answered_seq.max(first_seq.saturating_sub(1)))
    }

    fn answer(&mut self, last_seq: u64, outcome: impl Fn(u64) -> Result<Ack, PublishError>) {
        while self.waiters.front().is_some_and(|waiter| waiter.seq <= last_seq) {
            let Some(waiter) = self.waiters.pop_front() else { break };
            // Who stopped waiting does not want to know.
            let _ = waiter.answer.send(outcome(waiter.seq));
        }
        self.answer_through(last_seq);
    }

    fn answer_through(&mut self, last_seq: u64) {
        if last_seq <= self.answered_seq {
            return;
        }
        self.answered_seq = last_seq;
        if let Some(cursor) = &mut self.unanswered {
            // Ring offsets count from 0, seqs from 1: the next unanswered message has offset `last_seq`.
            cursor.seek(last_seq);
        }
    }
}
