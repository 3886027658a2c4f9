//! Opens publishers and subscriptions on a connection, for the application and again after a reconnect.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;
use tokio::time::Instant;
use twinlane_proto::control::{
    ClosePublisher, Declare, OpenPublisher, PublisherOpened, TopicRef, Unsubscribe,
};
use twinlane_proto::{Code, Control, TopicSpec};

use super::ClientCore;
use super::inbox::RemoteSubscription;
use super::outgoing::RemotePublisher;
use crate::config::{PublisherOptions, SubscribeOptions};
use crate::error::{DeclareError, OpenError};
use crate::link::{Link, OutletOwner as _};
use crate::lock::lock;
use crate::message::TopicMeta;
use crate::topics::parse_name;

impl ClientCore {
    /// Opens a publisher stream for the application.
    pub(crate) async fn open_publisher(
        self: &Arc<Self>,
        topic: TopicRef,
        options: PublisherOptions,
    ) -> Result<Arc<RemotePublisher>, OpenError> {
        let lane = self.next_lane();
        let deadline = Instant::now() + self.options.outcome_timeout;
        loop {
            let link = self.connected(deadline).await?;
            let ask = |request| open_message(request, lane, topic.clone(), options.spec, 0);
            let Some(answer) = self.request_on(&link, ask, deadline).await? else { continue };
            let Control::PublisherOpened(opened) = answer else { continue };
            let name = match &topic {
                TopicRef::Name(name) => parse_name(name).map_err(DeclareError::from)?,
                // Its name is the other side's business.
                TopicRef::Id(id) => parse_name(&format!("$topic/{id}")).map_err(DeclareError::from)?,
            };
            let meta = TopicMeta { id: opened.topic, name, epoch: opened.epoch, spec: opened.spec };
            let (meta, queue_bytes) = (Arc::new(meta), options.queue_bytes);
            let publisher = RemotePublisher::new(lane, topic.clone(), meta, queue_bytes, &self.queues);
            let publisher = Arc::new(publisher);
            lock(&self.state).publishers.insert(lane, Arc::clone(&publisher));
            publisher.asked_on.claim(&link);
            publisher.start(&link, &opened);
            match self.link() {
                // A reconnect may have looked before it was among the open ones.
                Some(newer) if link.is_over() => {
                    let (core, publisher) = (Arc::clone(self), Arc::clone(&publisher));
                    tokio::spawn(async move { core.reopen_publisher(&newer, &publisher, true).await });
                }
                _ => {}
            }
            return Ok(publisher);
        }
    }

    /// Ends a publisher stream. The receiver hears when the server has all that will come of it.
    pub(crate) fn close_publisher(&self, publisher: &RemotePublisher) -> oneshot::Receiver<()> {
        let (confirm, confirmed) = oneshot::channel();
        let lane = publisher.lane;
        publisher.close();
        let Some(link) = self.link().filter(|link| !link.is_over()) else {
            // It stays among the open ones, so that the next connection tells the server of its end.
            publisher.abandon();
            return confirmed;
        };
        {
            let mut state = lock(&self.state);
            state.publishers.remove(&lane);
            state.closing.insert(lane, confirm);
        }
        match lock(&publisher.topic).is_latest() {
            true => link.finish_on_stream(lane),
            false => link.remove_outlets(lane),
        }
        tell_end(&link, publisher);
        confirmed
    }

    /// Opens a subscription for the application.
    pub(crate) async fn subscribe(
        self: &Arc<Self>,
        filter: &str,
        options: SubscribeOptions,
    ) -> Result<Arc<RemoteSubscription>, OpenError> {
        let lane = self.next_lane();
        let subscription = Arc::new(RemoteSubscription::new(lane, filter, options));
        // Known before it is asked for, because its first messages may come with the answer.
        lock(&self.state).subscriptions.insert(lane, Arc::clone(&subscription));
        let asked = self.first_subscribe(&subscription).await;
        asked.inspect_err(|_| drop(lock(&self.state).subscriptions.remove(&lane)))?;
        Ok(subscription)
    }

    /// Subscribes, on the next connection if this one is lost, unless the reconnect has done so already.
    async fn first_subscribe(&self, subscription: &RemoteSubscription) -> Result<(), OpenError> {
        let deadline = Instant::now() + self.options.outcome_timeout;
        loop {
            let link = self.connected(deadline).await?;
            if !subscription.asked_on.claim(&link) {
                return Ok(());
            }
            if self.request_on(&link, |request| subscription.subscribe(request), deadline).await?.is_some() {
                return Ok(());
            }
        }
    }

    pub(crate) fn unsubscribe(&self, subscription: &RemoteSubscription) {
        if lock(&self.state).subscriptions.remove(&subscription.lane).is_none() {
            return;
        }
        if let Some(link) = self.link() {
            let request = self.next_request.fetch_add(1, Ordering::Relaxed);
            let subscription = subscription.lane;
            link.send(Control::Unsubscribe(Unsubscribe { request, subscription }));
        }
    }

    pub(super) async fn resubscribe(&self, link: &Arc<Link>, subscription: &RemoteSubscription) {
        if !subscription.asked_on.claim(link) {
            return;
        }
        let deadline = Instant::now() + self.options.outcome_timeout;
        match self.request_on(link, |request| subscription.subscribe(request), deadline).await {
            // Subscribed; or the connection is gone again and the next one asks again.
            Ok(_) => {}
            Err(error) => {
                lock(&self.state).subscriptions.remove(&subscription.lane);
                subscription.end(Code::Closed, &error.to_string());
            }
        }
    }

    pub(super) async fn reopen_publisher(
        &self,
        link: &Arc<Link>,
        publisher: &Arc<RemotePublisher>,
        resumed: bool,
    ) {
        if !publisher.asked_on.claim(link) {
            return;
        }
        if publisher.is_abandoned() && !resumed {
            // The server has forgotten the stream as well.
            lock(&self.state).publishers.remove(&publisher.lane);
            return;
        }
        let opened = self.ask_to_reopen(link, publisher, resumed).await;
        match opened {
            Ok(Some(_)) if publisher.is_abandoned() => {
                lock(&self.state).publishers.remove(&publisher.lane);
                tell_end(link, publisher);
            }
            Ok(Some(opened)) => {
                publisher.adopt(&opened);
                publisher.start(link, &opened);
            }
            // The connection is gone again; the next one asks again.
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, lane = publisher.lane, "a publisher could not be opened again");
                lock(&self.state).publishers.remove(&publisher.lane);
                publisher.close();
            }
        }
    }

    async fn ask_to_reopen(
        &self,
        link: &Arc<Link>,
        publisher: &RemotePublisher,
        resumed: bool,
    ) -> Result<Option<PublisherOpened>, OpenError> {
        let deadline = Instant::now() + self.options.outcome_timeout;
        let topic = Arc::clone(&lock(&publisher.topic));
        if !resumed && publisher.has_unanswered() {
            match self.epoch_now(link, publisher, &topic, deadline).await? {
                // The session was forgotten but the log was not: what is unanswered may be in it.
                Some(epoch) if epoch == topic.epoch => publisher.give_up_unanswered(),
                Some(_) => {}
                None => return Ok(None),
            }
        }
        let spec = matches!(publisher.named, TopicRef::Name(_)).then_some(topic.spec);
        let (lane, resume_seq) = (publisher.lane, publisher.resume_seq());
        let ask = |request| open_message(request, lane, publisher.named.clone(), spec, resume_seq);
        match self.request_on(link, ask, deadline).await? {
            // Another server life may have given the number to another topic.
            Some(Control::PublisherOpened(opened)) if spec.is_none() && opened.epoch != topic.epoch => {
                Err(DeclareError::Closed { why: "the asker is gone".to_owned() }.into())
            }
            Some(Control::PublisherOpened(opened)) => Ok(Some(opened)),
            _ => Ok(None),
        }
    }

    /// The epoch that the publisher's topic has now. `None`: the connection was lost first.
    async fn epoch_now(
        &self,
        link: &Arc<Link>,
        publisher: &RemotePublisher,
        topic: &TopicMeta,
        deadline: Instant,
    ) -> Result<Option<u64>, OpenError> {
        let TopicRef::Name(name) = &publisher.named else {
            // A number means the same topic as before or is not used at all.
            return Ok(Some(topic.epoch));
        };
        let ask = |request| Control::Declare(Declare { request, name: name.clone(), spec: topic.spec });
        Ok(match self.request_on(link, ask, deadline).await? {
            Some(Control::Declared(declared)) => Some(declared.epoch),
            _ => None,
        })
    }
}

/// Tells the server that nothing follows on this stream, and what of it was left out.
fn tell_end(link: &Arc<Link>, publisher: &RemotePublisher) {
    let (lane, last_seq) = (publisher.lane, publisher.ring.next());
    publisher.left_out(true).into_iter().for_each(|told| link.send(told));
    link.send(Control::ClosePublisher(ClosePublisher { publisher: lane, last_seq }));
}

fn open_message(
    request: u32,
    publisher: u32,
    topic: TopicRef,
    spec: Option<TopicSpec>,
    resume_seq: u64,
) -> Control {
    Control::OpenPublisher(OpenPublisher { request, publisher, topic, spec, resume_seq })
}
