//! What a remote client's words about queues mean: the members of one connection.
//!
//! They end with the connection; the client joins again on the next one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use twinlane_proto::control::{
    JoinQueue, LeaveQueue, MemberClosed, QueueJoined, Settle, Settled, Want, Wanted,
};
use twinlane_proto::{Code, Control};

use super::group::MemberId;
use super::{Ear, Joined, QueueGroup, Queues};
use crate::error::DeclareError;
use crate::link::Link;
use crate::lock::lock;
use crate::topics::Topic;

/// The members of one connection, by lane. Dropped or cleared, they leave.
#[derive(Default)]
pub(crate) struct Lanes(Mutex<BTreeMap<u32, Lane>>);

struct Lane {
    group: Arc<QueueGroup>,
    member: MemberId,
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.group.leave(self.member);
    }
}

impl Lanes {
    /// Takes part in a group of `topic`, for `session`.
    pub(crate) fn join(
        &self,
        link: &Arc<Link>,
        queues: &Arc<Queues>,
        topic: &Arc<Topic>,
        session: &str,
        join: &JoinQueue,
    ) -> Result<(), DeclareError> {
        let lane = join.member;
        let ear = Arc::new(LaneEar { link: Arc::downgrade(link), lane });
        let Joined { group, member, inbox } =
            queues.join(topic, &join.group, &join.settings, session, ear)?;
        let joined = QueueJoined {
            request: join.request,
            member: lane,
            topic: topic.meta.id,
            epoch: topic.meta.epoch,
            inbox: inbox.meta.name.to_string(),
            settings: group.settings(),
        };
        let earlier = lock(&self.0).insert(lane, Lane { group, member });
        drop(earlier);
        link.send(Control::QueueJoined(joined));
        Ok(())
    }

    pub(crate) fn want(&self, want: &Want) {
        self.with(want.member, |group, member| group.want(member, want.messages, want.wait_ms));
    }

    pub(crate) fn settle(&self, link: &Arc<Link>, settle: &Settle) {
        let Settle { request, member: lane, verdicts } = settle;
        let (request, lane, link) = (*request, *lane, Arc::downgrade(link));
        let told = move |outcomes| {
            if let Some(link) = link.upgrade() {
                link.send(Control::Settled(Settled { request, member: lane, outcomes }));
            }
        };
        self.with(lane, |group, member| group.settle(member, verdicts, Box::new(told)));
    }

    pub(crate) fn leave(&self, link: &Arc<Link>, leave: LeaveQueue) {
        let member = leave.member;
        drop(lock(&self.0).remove(&member));
        link.send(Control::MemberClosed(MemberClosed { member, code: Code::Normal, reason: String::new() }));
    }

    /// The connection is over.
    pub(crate) fn clear(&self) {
        drop(std::mem::take(&mut *lock(&self.0)));
    }

    fn with(&self, lane: u32, act: impl FnOnce(&Arc<QueueGroup>, MemberId)) {
        let found = lock(&self.0).get(&lane).map(|lane| (Arc::clone(&lane.group), lane.member));
        if let Some((group, member)) = found {
            act(&group, member);
        }
    }
}

/// Tells a remote member.
struct LaneEar {
    link: Weak<Link>,
    lane: u32,
}

impl Ear for LaneEar {
    fn want_ended(&self, unused: u32) {
        if let Some(link) = self.link.upgrade() {
            link.send(Control::Wanted(Wanted { member: self.lane, unused }));
        }
    }

    fn closed(&self, code: Code, reason: &str) {
        if let Some(link) = self.link.upgrade() {
            let (member, reason) = (self.lane, reason.to_owned());
            link.send(Control::MemberClosed(MemberClosed { member, code, reason }));
        }
    }
}
