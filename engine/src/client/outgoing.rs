//! A remote publisher's messages between the application and the server's answer.
//!
//! They wait in a ring of their own: the connection sends from it, and a reliable publisher's acks let go of it.
//! A lost connection therefore loses nothing: the next one sends again from the first unanswered message.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, oneshot};
use twinlane_proto::Code;
use twinlane_proto::control::{Acked, PublisherOpened, Refused, TopicRef};
use twinlane_ring::{Cursor, Gating, Ring, Start};

use super::AskedOn;
use crate::cursors::Credit;
use crate::error::PublishError;
use crate::link::{Link, Outlet, OutletOwner, Seat, Verdict};
use crate::lock::lock;
use crate::message::TopicMeta;
use crate::publisher::Ack;
use crate::topics::{frame_bytes_max, ring_config_for};

pub(crate) struct RemotePublisher {
    pub(crate) lane: u32,
    /// How the application named the topic.
    pub(crate) named: TopicRef,
    pub(crate) ring: Ring,
    is_fast: bool,
    /// The topic as the server described it last.
    pub(crate) topic: Mutex<Arc<TopicMeta>>,
    state: Mutex<State>,
    /// Ring offset up to which everything was given to a transport.
    sent: AtomicU64,
    credit: Mutex<Option<Arc<Credit>>>,
    /// Outcomes arrived, or bytes left.
    progress: Notify,
    pub(super) asked_on: AskedOn,
}

struct State {
    /// Reliable: keeps unanswered messages in the ring.
    unanswered: Option<Cursor>,
    /// All messages up to this seq have an outcome.
    answered_seq: u64,
    acked: u64,
    refused: u64,
    last_offset: Option<u64>,
    /// What became of messages that nobody waited for, first of its kind since the last look.
    bad_outcome: Option<PublishError>,
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

impl RemotePublisher {
    pub(crate) fn new(lane: u32, named: TopicRef, topic: Arc<TopicMeta>, queue_bytes: usize) -> Self {
        let frame_bytes_max = frame_bytes_max(&topic.spec);
        let config = ring_config_for(queue_bytes, frame_bytes_max);
        let ring = Ring::queue(config).expect("the server's limits are within the ring's bounds");
        let unanswered = (!topic.is_fast()).then(|| ring.cursor(Start::Oldest, Gating::Gated));
        let state = State {
            unanswered,
            answered_seq: 0,
            acked: 0,
            refused: 0,
            last_offset: None,
            bad_outcome: None,
            waiters: VecDeque::new(),
        };
        Self {
            lane,
            named,
            ring,
            is_fast: topic.is_fast(),
            topic: Mutex::new(topic),
            state: Mutex::new(state),
            sent: AtomicU64::new(0),
            credit: Mutex::new(None),
            progress: Notify::new(),
            asked_on: AskedOn::default(),
        }
    }

    pub(crate) fn is_fast(&self) -> bool {
        self.is_fast
    }

    pub(crate) fn epoch(&self) -> u64 {
        lock(&self.topic).epoch
    }

    /// Whether a reliable message has no outcome yet.
    pub(crate) fn has_unanswered(&self) -> bool {
        !self.is_fast() && lock(&self.state).answered_seq < self.ring.next()
    }

    /// The server described the topic anew.
    pub(crate) fn adopt(&self, opened: &PublisherOpened) {
        let mut topic = lock(&self.topic);
        let name = topic.name.clone();
        *topic = Arc::new(TopicMeta { id: opened.topic, name, epoch: opened.epoch, spec: opened.spec });
    }

    /// What to tell the server when opening the stream (again).
    pub(crate) fn resume_seq(&self) -> u64 {
        if self.is_fast() { self.sent.load(Ordering::Relaxed) } else { lock(&self.state).answered_seq }
    }

    /// Everything not answered yet is given up: nobody can tell any more what became of it.
    pub(crate) fn give_up_unanswered(&self) {
        let last_seq = self.ring.next();
        let mut state = lock(&self.state);
        if state.answered_seq < last_seq {
            let seq = state.answered_seq + 1;
            state.bad_outcome.get_or_insert(PublishError::Unknown { seq });
        }
        state.answer(last_seq, |seq| Err(PublishError::Unknown { seq }));
        drop(state);
        self.progress.notify_waiters();
    }

    /// The server is ready for the stream: send from the first message that it does not have.
    pub(crate) fn start(self: &Arc<Self>, link: &Arc<Link>, opened: &PublisherOpened) {
        let fast = self.is_fast();
        let from =
            if fast { self.sent.load(Ordering::Relaxed) } else { opened.last_seq.min(self.ring.next()) };
        let gating = if fast { Gating::Gated } else { Gating::Lossy };
        let cursor = self.ring.cursor(Start::Offset(from), gating);
        let credit = (!fast).then(|| Credit::new(opened.credit_bytes));
        credit.clone_into(&mut lock(&self.credit));
        let outlet = Outlet {
            lane: self.lane,
            // The server knows which topic and publisher a lane is; frames say 0.
            topic: 0,
            first_number: 1,
            fast,
            owner: Arc::clone(self) as Arc<dyn OutletOwner>,
        };
        link.add_outlet(Seat { outlet, cursor, credit });
    }

    pub(crate) fn add_credit(&self, bytes: u64) {
        if let Some(credit) = &*lock(&self.credit) {
            credit.add(bytes);
        }
    }

    /// Wants to hear of the outcome of `seq`, which is not published yet.
    pub(crate) fn expect(&self, seq: u64) -> oneshot::Receiver<Result<Ack, PublishError>> {
        let (answer, receiver) = oneshot::channel();
        lock(&self.state).waiters.push_back(Waiter { seq, answer });
        receiver
    }

    pub(crate) fn acked(&self, acked: &Acked) {
        let last_seq = last_of(acked.first_seq, acked.count);
        let epoch = self.epoch();
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
        self.progress.notify_waiters();
    }

    pub(crate) fn refused(&self, refused: &Refused) {
        let last_seq = last_of(refused.first_seq, refused.count);
        let mut state = lock(&self.state);
        if last_seq > state.answered_seq {
            state.refused += state.unanswered_of(refused.first_seq, last_seq);
            state
                .bad_outcome
                .get_or_insert(PublishError::Refused { seq: refused.first_seq, code: refused.code });
        }
        state.answer(last_seq, |seq| Err(PublishError::Refused { seq, code: refused.code }));
        drop(state);
        self.progress.notify_waiters();
    }

    /// The server ended the stream, or the session is over.
    pub(crate) fn close(&self) {
        self.ring.close();
        let closed = || PublishError::Closed { why: Code::Closed.to_string() };
        let waiters = std::mem::take(&mut lock(&self.state).waiters);
        for waiter in waiters {
            let _ = waiter.answer.send(Err(closed()));
        }
        self.progress.notify_waiters();
    }

    pub(crate) fn progress(&self) -> Progress {
        let state = lock(&self.state);
        Progress {
            answered_seq: if self.is_fast { self.sent.load(Ordering::Acquire) } else { state.answered_seq },
            acked: state.acked,
            refused: state.refused,
            last_offset: state.last_offset,
        }
    }

    pub(crate) fn take_bad_outcome(&self) -> Option<PublishError> {
        lock(&self.state).bad_outcome.take()
    }

    /// Waits until every message up to `seq` has an outcome (reliable) or has left (fast), or the stream is closed.
    pub(crate) async fn settled(&self, seq: u64) {
        loop {
            let notified = self.progress.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.progress().answered_seq >= seq || self.ring.is_closed() {
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

impl OutletOwner for RemotePublisher {
    fn sent(&self, position: u64) {
        self.sent.fetch_max(position, Ordering::AcqRel);
        if self.is_fast {
            self.progress.notify_waiters();
        }
    }

    fn missed(&self, _from: u64, _to: u64) -> Verdict {
        // Fast messages that were overwritten while there was no connection: the subscriber sees the hole.
        Verdict::Skip(None)
    }

    fn too_big(&self) {}

    fn closed(&self, _link: &Arc<Link>) {}
}
