//! One subscriber of one topic, for status and for cutting off one that blocks publishers too long.
//!
//! It reads nothing; that is its cursor's work.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use twinlane_proto::{Channel, Code, Mode, SlowPolicy, Storage, TopicSpec};
use twinlane_ring::Gate;

use crate::fast::{Counts, Flow, LeftOut};
use crate::status::SubscriberRow;

#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) session: String,
    pub(crate) over: &'static str,
    pub(crate) slow: SlowPolicy,
    pub(crate) position: AtomicU64,
    /// What of a fast topic was not sent to it, and why.
    pub(super) left_out: Arc<LeftOut>,
    /// What publishers of a fast topic had left out before.
    upstream_before: Counts,
    /// Before this offset it is sent last values only.
    pub(super) live_from: u64,
    /// What it misses before this offset of a fast topic was overwritten while it had no connection.
    pub(super) cut_off_before: u64,
    /// What keeps publishers from overwriting what this subscriber has not read.
    pub(super) gate: Option<Gate>,
    /// On a durable topic: it was up with what is in memory once. Catching up from further back is no fault.
    was_current: AtomicBool,
    /// Why it was ended by the engine.
    end: OnceLock<(Code, String)>,
}

impl Subscriber {
    /// A subscriber that will be sent what comes from `position` on, and nothing but last values before `live_from`.
    /// `flow`: of the topic, if that is fast.
    pub(super) fn new(
        (session, over, slow): (&str, &'static str, SlowPolicy),
        (position, live_from): (u64, u64),
        gate: Option<Gate>,
        flow: Option<&Flow>,
    ) -> Self {
        Self {
            session: session.to_owned(),
            over,
            slow,
            position: AtomicU64::new(position),
            left_out: flow.map_or_else(Arc::default, Flow::downstream),
            upstream_before: flow.map_or_else(Counts::default, |flow| flow.upstream.counts()),
            live_from,
            cut_off_before: 0,
            gate,
            was_current: AtomicBool::new(false),
            end: OnceLock::new(),
        }
    }

    /// What it should hear now of messages of `flow` that were left out since it began, if anything. `at_once`: nothing
    /// follows that would tell it later.
    pub(super) fn untold(&self, flow: &Flow, at_once: bool) -> Option<Counts> {
        self.left_out.untold(flow.upstream.counts().since(self.upstream_before), at_once)
    }

    pub(super) fn set_current(&self) {
        self.was_current.store(true, Ordering::Relaxed);
    }

    pub(super) fn was_current(&self) -> bool {
        self.was_current.load(Ordering::Relaxed)
    }

    /// Whether it keeps publishers waiting, where what is in memory begins with `shown_from`.
    pub(super) fn blocks(&self, shown_from: u64) -> bool {
        self.was_current() && self.ended().is_none() && self.position.load(Ordering::Relaxed) < shown_from
    }

    /// The engine ends this subscription; it finds out at its next read.
    pub(super) fn end(&self, code: Code, why: &str) {
        let _ = self.end.set((code, why.to_owned()));
    }

    pub(super) fn ended(&self) -> Option<&(Code, String)> {
        self.end.get()
    }

    pub(super) fn row(&self, next: u64, spec: &TopicSpec) -> SubscriberRow {
        let position = self.position.load(Ordering::Relaxed);
        let policy = match (spec.channel, self.slow) {
            (Channel::Fast, _) if spec.mode == Mode::Latest => "keep newest",
            (Channel::Fast, _) => "drop oldest",
            (Channel::Reliable, SlowPolicy::Block) => "block",
            (Channel::Reliable, SlowPolicy::Disconnect) => "disconnect",
            (Channel::Reliable, SlowPolicy::Spill) if spec.storage == Storage::Disk => "spill",
            (Channel::Reliable, SlowPolicy::Spill) => "block",
        };
        SubscriberRow {
            session: self.session.clone(),
            over: self.over.to_owned(),
            position,
            lag: next.saturating_sub(position),
            policy: policy.to_owned(),
        }
    }
}
