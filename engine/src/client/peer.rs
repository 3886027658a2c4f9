//! What a server's messages mean: outcomes to publishers, runs to subscriptions, answers to requests.

use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;
use twinlane_proto::Control;
use twinlane_proto::control::Welcome;
use twinlane_proto::session::Event;

use super::ClientCore;
use super::inbox::RemoteSubscription;
use super::outgoing::RemotePublisher;
use crate::link::{Closing, Link, Peer, Piece};
use crate::lock::lock;
use crate::queue::Ear as _;
use crate::session_events::SessionEvent;

/// One connection's end of a client session.
pub(super) struct ServerPeer {
    pub(super) core: Arc<ClientCore>,
    /// Whoever waits for the handshake.
    pub(super) welcome: Mutex<Option<oneshot::Sender<Result<Welcome, Closing>>>>,
    /// Set when the connection is over.
    pub(super) closing: Mutex<Option<Closing>>,
}

impl Peer for ServerPeer {
    fn event(&self, _link: &Arc<Link>, event: Event) {
        match event {
            Event::Welcome(welcome) => {
                if let Some(waiting) = lock(&self.welcome).take() {
                    // Who stopped waiting closes the connection.
                    let _ = waiting.send(Ok(welcome));
                }
            }
            Event::Control(message) => self.control(message),
            Event::Hello(_) => unreachable!("the session machine lets no server send a hello"),
        }
    }

    fn frames(&self, link: &Arc<Link>, piece: Piece<'_>) -> Result<(), Closing> {
        match self.subscription(piece.lane) {
            Some(subscription) => subscription.frames(link, piece),
            // Still under way when the subscription was closed.
            None => Ok(()),
        }
    }

    fn datagrams_lost(&self, link: &Arc<Link>, why: &str) {
        let why = format!("the QUIC connection was lost: {why}");
        lock(&self.core.state).why_fast.clone_from(&why);
        self.core.say(SessionEvent::FastMoved { to: link.carrier.name(), why });
    }

    fn closed(&self, link: &Arc<Link>, closing: &Closing) {
        self.core.lose_members(link);
        *lock(&self.closing) = Some(closing.clone());
        if let Some(waiting) = lock(&self.welcome).take() {
            let _ = waiting.send(Err(closing.clone()));
        }
    }
}

impl ServerPeer {
    fn control(&self, message: Control) {
        match message {
            Control::Acked(acked) => {
                self.with_publisher(acked.publisher, |publisher| publisher.acked(&acked));
            }
            Control::Refused(refused) => {
                self.with_publisher(refused.publisher, |publisher| publisher.refused(&refused));
            }
            Control::Credit(credit) => {
                self.with_publisher(credit.lane, |publisher| publisher.add_credit(credit.bytes));
            }
            Control::PublisherClosed(closed) => {
                let asked = lock(&self.core.state).closing.remove(&closed.publisher);
                match asked {
                    Some(waiting) => drop(waiting.send(())),
                    None => self.with_publisher(closed.publisher, |publisher| publisher.end(closed.code)),
                }
            }
            Control::TopicBound(bound) => {
                self.with_subscription(bound.subscription, |subscription| subscription.bound(&bound));
            }
            Control::Gap(gap) => {
                self.with_subscription(gap.subscription, |subscription| subscription.gap(&gap));
            }
            Control::LeftOut(left_out) => {
                self.with_subscription(left_out.lane, |subscription| subscription.left_out(&left_out));
            }
            Control::StreamEnd(end) => {
                self.with_subscription(end.subscription, |subscription| subscription.stream_end(&end));
            }
            Control::Unsubscribed(ended) => {
                let subscription = lock(&self.core.state).subscriptions.remove(&ended.subscription);
                subscription.inspect(|subscription| subscription.end(ended.code, &ended.reason));
            }
            Control::Settled(settled) => self.core.settled(&settled),
            Control::Wanted(wanted) => {
                let member = self.core.member(wanted.member);
                member.inspect(|member| member.events.want_ended(wanted.unused));
            }
            Control::MemberClosed(closed) => {
                self.core.member_closed(closed.member, closed.code, &closed.reason);
            }
            answer => self.answer(answer),
        }
    }

    fn answer(&self, answer: Control) {
        let request = match &answer {
            Control::Declared(declared) => declared.request,
            Control::PublisherOpened(opened) => opened.request,
            Control::Subscribed(subscribed) => subscribed.request,
            Control::QueueJoined(joined) => joined.request,
            Control::Failed(failed) => failed.request,
            _ => return,
        };
        if let Some(waiting) = lock(&self.core.state).requests.remove(&request) {
            let _ = waiting.send(answer);
        }
    }

    fn subscription(&self, lane: u32) -> Option<Arc<RemoteSubscription>> {
        lock(&self.core.state).subscriptions.get(&lane).cloned()
    }

    fn with_subscription(&self, lane: u32, act: impl FnOnce(&RemoteSubscription)) {
        if let Some(subscription) = self.subscription(lane) {
            act(&subscription);
        }
    }

    fn with_publisher(&self, lane: u32, act: impl FnOnce(&RemotePublisher)) {
        let publisher = lock(&self.core.state).publishers.get(&lane).cloned();
        if let Some(publisher) = publisher {
            act(&publisher);
        }
    }
}
