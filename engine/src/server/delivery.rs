//! Topics on their way to one remote subscription: where each begins, and what the subscriber is told when
//! messages are missed.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use twinlane_proto::control::{Gap, StreamEnd, TopicBound, Unsubscribed};
use twinlane_proto::{Control, SlowPolicy, Start};

use crate::cursors::Credit;
use crate::fast::Ended;
use crate::link::{Link, Outlet, OutletOwner, Seat, Verdict};
use crate::topics::{Drops, Miss, Subscribed, Subscriber, Topic};

/// Connects topics to one subscription, those there are and those to come.
pub(super) struct Binder {
    pub(super) lane: u32,
    pub(super) session: String,
    pub(super) start: Start,
    pub(super) slow: SlowPolicy,
    /// Where an earlier connection left each topic: epoch and offset.
    pub(super) positions: HashMap<String, (u64, u64)>,
    pub(super) credit: Arc<Credit>,
    pub(super) link: Weak<Link>,
}

impl Binder {
    pub(super) fn bind(&self, topic: &Arc<Topic>, is_new: bool) {
        let Some(link) = self.link.upgrade() else { return };
        // Whatever a new topic has was published after this subscription began.
        let start = if is_new { Start::All } else { self.start };
        let resume = self.positions.get(topic.meta.name.as_str()).copied();
        let (fast, settles) = (topic.meta.is_fast(), topic.meta.is_latest());
        let over = if fast && link.has_datagrams() { "quic" } else { link.carrier.name() };
        let subscribed = topic.subscribe(start, resume, self.slow, &self.session, over);
        let Subscribed { cursor, subscriber, next_offset, next_source, outcome } = subscribed;
        link.send(Control::TopicBound(TopicBound {
            subscription: self.lane,
            topic: topic.meta.id,
            name: topic.meta.name.to_string(),
            epoch: topic.meta.epoch,
            spec: topic.meta.spec,
            next_offset,
            next_source,
            outcome,
        }));
        let owner = Arc::new(Delivery { lane: self.lane, topic: Arc::clone(topic), subscriber });
        let outlet = Outlet { lane: self.lane, topic: topic.meta.id, first_number: 0, fast, settles, owner };
        let credit = (!fast).then(|| Arc::clone(&self.credit));
        link.add_outlet(Seat { outlet, cursor, credit });
    }
}

struct Delivery {
    lane: u32,
    topic: Arc<Topic>,
    subscriber: Arc<Subscriber>,
}

impl OutletOwner for Delivery {
    fn sent(&self, position: u64) {
        self.subscriber.position.store(position, Ordering::Relaxed);
    }

    fn missed(&self, link: &Arc<Link>, from: u64, to: u64) -> Verdict {
        match self.topic.missed(&self.subscriber, from, to) {
            Miss::Skip(cause) => {
                let topic = self.topic.meta.id;
                Verdict::Skip(Some(Gap {
                    subscription: self.lane,
                    topic,
                    from_offset: from,
                    to_offset: to,
                    cause,
                }))
            }
            Miss::Dropped(ended) => {
                self.left_out(true).into_iter().for_each(|told| link.send(told));
                for Ended { source, last_seq, .. } in ended {
                    let (subscription, topic) = (self.lane, self.topic.meta.id);
                    link.send(Control::StreamEnd(StreamEnd { subscription, topic, source, last_seq }));
                }
                Verdict::Skip(None)
            }
            Miss::End(code, reason) => Verdict::End(Unsubscribed { subscription: self.lane, code, reason }),
        }
    }

    fn left_out(&self, at_once: bool) -> Option<Control> {
        let counts = self.topic.left_out_for(&self.subscriber, at_once)?;
        Some(counts.told_on(self.lane, self.topic.meta.id))
    }

    fn too_big(&self) {
        Drops::add(&self.topic.drops.too_big, 1);
    }

    fn closed(&self, _link: &Arc<Link>) {}
}
