//! A remote publisher's messages between the application and the server's answer.
//!
//! They wait in a ring of their own: the connection sends from it, and a reliable publisher's acks let go of it.
//! A lost connection therefore loses nothing: the next one sends again from the first unanswered message.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use twinlane_proto::control::{Acked, PublisherOpened, Refused, TopicRef};
use twinlane_proto::{Code, Control, Mode};
use twinlane_ring::{Gating, Quota, Ring, Start};

use super::AskedOn;
use crate::cursors::Credit;
use crate::error::PublishError;
use crate::fast::{Counts, Flow, LeftOut, Sieve};
use crate::link::{Link, Outlet, OutletOwner, Seat, Verdict};
use crate::lock::lock;
use crate::message::TopicMeta;
use crate::outcomes::{Outcomes, Progress};
use crate::topic_cursor::TopicCursor;
use crate::topics::last::LastValues;
use crate::topics::{frame_bytes_max, ring_config_for};

/// What the publishers of one session hold together beyond what each of them begins with, in multiples of the longest
/// of their queues. Without it a thousand topics at full speed filled gigabytes with messages that wait, and where the
/// host gives memory back slowly each message took half as long again.
const QUEUES_HELD_AT_ONCE: usize = 4;

/// Keys of one publisher of a `latest` topic whose newest value is kept until it has surely arrived.
const KEYS_MAX: usize = 65_536;

pub(crate) struct RemotePublisher {
    pub(crate) lane: u32,
    /// How the application named the topic.
    pub(crate) named: TopicRef,
    pub(crate) ring: Ring,
    /// What the readers of `ring` share, if the topic is fast.
    pub(crate) flow: Option<Arc<Flow>>,
    /// What was not sent, and why.
    left_out: Arc<LeftOut>,
    /// The topic as the server described it last.
    pub(crate) topic: Mutex<Arc<TopicMeta>>,
    outcomes: Outcomes,
    /// Ring offset up to which everything was given to a transport.
    sent: AtomicU64,
    /// Fast: what was not sent before this ring offset was overwritten while there was no connection.
    cut_off_before: AtomicU64,
    /// The application closed it while there was no connection; the server does not know.
    is_abandoned: AtomicBool,
    credit: Mutex<Option<Arc<Credit>>>,
    pub(super) asked_on: AskedOn,
    refused_from_now_on: OnceLock<Code>,
}

impl RemotePublisher {
    /// `quota` is the session's.
    pub(crate) fn new(
        lane: u32,
        named: TopicRef,
        topic: Arc<TopicMeta>,
        queue_bytes: usize,
        quota: &Quota,
    ) -> Self {
        let frame_bytes_max = frame_bytes_max(&topic.spec);
        let config = ring_config_for(queue_bytes, frame_bytes_max);
        quota.raise_to(QUEUES_HELD_AT_ONCE * config.segments * config.segment_bytes);
        let ring =
            Ring::queue_within(config, quota).expect("the server's limits are within the ring's bounds");
        let newest = topic.is_latest().then(|| Arc::new(LastValues::of_latest(KEYS_MAX)));
        let flow = topic.is_fast().then(|| Arc::new(Flow::new(topic.spec.deadline_us > 0, newest)));
        let unanswered = flow.is_none().then(|| ring.cursor(Start::Oldest, Gating::Gated));
        Self {
            lane,
            named,
            ring,
            flow,
            left_out: Arc::default(),
            topic: Mutex::new(topic),
            outcomes: Outcomes::of(unanswered),
            sent: AtomicU64::new(0),
            cut_off_before: AtomicU64::new(0),
            is_abandoned: AtomicBool::new(false),
            credit: Mutex::new(None),
            asked_on: AskedOn::default(),
            refused_from_now_on: OnceLock::new(),
        }
    }

    pub(crate) fn is_fast(&self) -> bool {
        self.flow.is_some()
    }

    /// The newest values, if the topic is `latest`.
    #[inline]
    pub(crate) fn newest(&self) -> Option<&Arc<LastValues>> {
        self.flow.as_ref()?.newest.as_ref()
    }

    pub(crate) fn epoch(&self) -> u64 {
        lock(&self.topic).epoch
    }

    /// Whether a reliable message has no outcome yet.
    pub(crate) fn has_unanswered(&self) -> bool {
        !self.is_fast() && self.outcomes.progress().answered_seq < self.ring.next()
    }

    /// The server described the topic anew.
    pub(crate) fn adopt(&self, opened: &PublisherOpened) {
        let mut topic = lock(&self.topic);
        let name = topic.name.clone();
        *topic = Arc::new(TopicMeta { id: opened.topic, name, epoch: opened.epoch, spec: opened.spec });
    }

    /// What to tell the server when opening the stream (again).
    pub(crate) fn resume_seq(&self) -> u64 {
        if self.is_fast() { self.sent.load(Ordering::Relaxed) } else { self.outcomes.progress().answered_seq }
    }

    /// Everything not answered yet is given up: nobody can tell any more what became of it.
    pub(crate) fn give_up_unanswered(&self) {
        self.outcomes.give_up(self.ring.next());
    }

    /// The server is ready for the stream: send from the first message that it does not have.
    pub(crate) fn start(self: &Arc<Self>, link: &Arc<Link>, opened: &PublisherOpened) {
        let fast = self.is_fast();
        let from =
            if fast { self.sent.load(Ordering::Relaxed) } else { opened.last_seq.min(self.ring.next()) };
        let gating = if fast { Gating::Gated } else { Gating::Lossy };
        let cursor = self.ring.cursor(Start::Offset(from), gating);
        // From here on nothing is overwritten before the cursor has read it.
        self.cut_off_before.store(self.ring.oldest(), Ordering::Relaxed);
        let cursor = match &self.flow {
            Some(flow) => {
                let left_out = Arc::clone(&self.left_out);
                let sieve = Sieve::new(Arc::clone(flow), left_out, &opened.spec, true);
                TopicCursor::fast(cursor, sieve)
            }
            None => cursor.into(),
        };
        let credit = (!fast).then(|| Credit::new(opened.credit_bytes));
        credit.clone_into(&mut lock(&self.credit));
        let outlet = Outlet {
            lane: self.lane,
            // The server knows which topic and publisher a lane is; frames say 0.
            topic: 0,
            first_number: 1,
            fast,
            settles: fast && opened.spec.mode == Mode::Latest,
            owner: Arc::clone(self) as Arc<dyn OutletOwner>,
        };
        link.add_outlet(Seat { outlet, cursor, credit });
    }

    pub(crate) fn add_credit(&self, bytes: u64) {
        if let Some(credit) = &*lock(&self.credit) {
            credit.add(bytes);
        }
    }

    pub(crate) fn outcomes(&self) -> &Outcomes {
        &self.outcomes
    }

    pub(crate) fn acked(&self, acked: &Acked) {
        self.outcomes.acked(acked, self.epoch());
    }

    pub(crate) fn refused(&self, refused: &Refused) {
        self.outcomes.refused(refused);
    }

    /// The application closed it and there is no connection: what was not sent of a fast topic is given up.
    pub(crate) fn abandon(&self) {
        if self.is_fast() {
            let (sent, next) = (self.sent.load(Ordering::Acquire), self.ring.next());
            self.left_out.add_no_route(next.saturating_sub(sent));
        }
        self.is_abandoned.store(true, Ordering::Release);
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::Acquire)
    }

    /// The session is over.
    pub(crate) fn close(&self) {
        self.end(Code::Closed);
    }

    /// The server ended the stream, for this reason. What it does not say of messages, nobody knows.
    pub(crate) fn end(&self, code: Code) {
        self.ring.close();
        if code == Code::StorageFailed {
            let _ = self.refused_from_now_on.set(code);
            self.outcomes.give_up(self.ring.next());
        }
        self.outcomes.close(&PublishError::Closed { why: code.to_string() });
    }

    /// Why nothing is accepted any more, where that is not the end of the session.
    pub(crate) fn refused_from_now_on(&self) -> Option<Code> {
        self.refused_from_now_on.get().copied()
    }

    pub(crate) fn progress(&self) -> Progress {
        let mut progress = self.outcomes.progress();
        if self.is_fast() {
            progress.answered_seq = self.sent.load(Ordering::Acquire);
        }
        progress
    }

    /// Waits until every message up to `seq` has an outcome (reliable) or has left (fast), or the stream is closed.
    pub(crate) async fn settled(&self, seq: u64) {
        let is_settled = || self.progress().answered_seq >= seq || self.ring.is_closed();
        self.outcomes.wait_until(is_settled).await;
    }
}

impl OutletOwner for RemotePublisher {
    fn sent(&self, position: u64) {
        self.sent.fetch_max(position, Ordering::AcqRel);
        if self.is_fast() {
            self.outcomes.notify();
        }
    }

    fn missed(&self, _link: &Arc<Link>, from: u64, to: u64) -> Verdict {
        let no_route = self.cut_off_before.load(Ordering::Relaxed).min(to).saturating_sub(from);
        self.left_out.add_no_route(no_route);
        // With a connection nothing overwrites what this queue holds, except where a publisher failed half-way.
        self.left_out.add_dropped_slow(to - from - no_route);
        Verdict::Skip(None)
    }

    fn left_out(&self, at_once: bool) -> Option<Control> {
        let counts = self.left_out.untold(Counts::default(), at_once)?;
        Some(counts.told_on(self.lane, 0))
    }

    fn too_big(&self) {}

    fn closed(&self, _link: &Arc<Link>) {}
}
