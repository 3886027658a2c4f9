//! Subscribing: messages and gaps of every topic that a filter matches, as they come.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use tokio::time::{Instant, Sleep};
use twinlane_proto::numbered::Numbered;
use twinlane_proto::{Filter, GapCause, Outcome};

use crate::client::Client;
use crate::client::inbox::RemoteSubscription;
use crate::config::SubscribeOptions;
use crate::error::{DeclareError, EndReason, OpenError};
use crate::incoming::Incoming;
use crate::local_source::LocalSource;
use crate::message::{Batch, BatchPosition, Delivery, Gap, Missing};
use crate::request::declare_local_inbox;
use crate::session::Reach;
use crate::status::SubscriptionStats;
use crate::tracker::Tracker;

/// How long messages of an ended publisher stream may still be under way.
const END_GRACE: Duration = Duration::from_millis(200);
/// Less would send every message on its own.
const QUEUE_BYTES_MIN: usize = 4 << 10;

/// Messages of every topic that a filter matches, with every hole reported.
///
/// A [`Stream`] of [`Delivery`]; [`Self::next_batch`] hands out many at a time. Dropping it unsubscribes.
///
/// ```
/// use twinlane::{Delivery, Engine, EngineConfig, Session};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let session = Session::local(&Engine::new(EngineConfig::default())?);
/// let mut all = session.subscribe("prices/**").await?;
/// session.publisher("prices/gold").await?.publish(b"1").await?;
/// match all.next().await {
///     Some(Delivery::Message(message)) => assert_eq!(message.payload(), b"1"),
///     other => panic!("{other:?}"),
/// }
/// # Ok(()) }
/// ```
pub struct Subscription {
    source: Source,
    trackers: Numbered<Tracker>,
    stats: SubscriptionStats,
    current: Option<(Batch, BatchPosition)>,
    /// Batches that are ready before the next incoming is looked at.
    ready: std::collections::VecDeque<Batch>,
    /// Ended publisher streams whose last messages may be under way.
    ending: Vec<Ending>,
    grace: Option<Pin<Box<Sleep>>>,
}

enum Source {
    Local(LocalSource),
    Remote { client: Arc<Client>, subscription: Arc<RemoteSubscription> },
}

struct Ending {
    at: Instant,
    topic: u32,
    source: u32,
    last_seq: u64,
}

impl Subscription {
    pub(crate) async fn open(
        reach: &Reach,
        filter: &str,
        mut options: SubscribeOptions,
    ) -> Result<Self, OpenError> {
        options.queue_bytes = options.queue_bytes.max(QUEUE_BYTES_MIN);
        options.ahead_bytes = options.ahead_bytes.max(QUEUE_BYTES_MIN);
        let parsed = Filter::parse(filter).map_err(DeclareError::from)?;
        let source = match reach {
            Reach::Local(local) => Source::Local(LocalSource::open(local, parsed, options)?),
            Reach::Remote(client) => {
                let subscription = client.subscribe(filter, options).await?;
                Source::Remote { client: Arc::clone(client), subscription }
            }
        };
        Ok(Self::of(source))
    }

    /// A subscription to this session's own inbox.
    pub(crate) async fn open_inbox(
        reach: &Reach,
        name: &str,
        options: SubscribeOptions,
    ) -> Result<Self, OpenError> {
        declare_local_inbox(reach, name)?;
        Self::open(reach, name, options).await
    }

    /// The number of the first topic it is bound to; `None`: it ended first.
    pub(crate) async fn first_topic_id(&mut self) -> Option<u32> {
        std::future::poll_fn(|cx| {
            loop {
                if let Some(id) = self.trackers.keys().next() {
                    return Poll::Ready(Some(*id));
                }
                match self.poll_incoming(cx) {
                    Poll::Ready(Some(incoming)) => {
                        let batch = self.take_in(incoming);
                        self.ready.extend(batch);
                    }
                    Poll::Ready(None) => return Poll::Ready(None),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    fn of(source: Source) -> Self {
        Self {
            source,
            trackers: Numbered::default(),
            stats: SubscriptionStats::default(),
            current: None,
            ready: std::collections::VecDeque::new(),
            ending: Vec::new(),
            grace: None,
        }
    }

    /// The next message or gap. `None`: the subscription ended, see [`Self::end`]. Cancel-safe.
    pub async fn next(&mut self) -> Option<Delivery> {
        std::future::poll_fn(|cx| self.poll_delivery(cx)).await
    }

    /// All that is there of one topic, at least one delivery. `None`: the subscription ended, see [`Self::end`].
    /// What [`Self::next`] has begun to hand out one by one is not handed out again. Cancel-safe.
    pub async fn next_batch(&mut self) -> Option<Batch> {
        std::future::poll_fn(|cx| {
            if let Some((batch, mut at)) = self.current.take()
                && let Some(rest) = batch.rest(&mut at)
            {
                return Poll::Ready(Some(rest));
            }
            self.poll_batch(cx)
        })
        .await
    }

    /// Why it ended; `None` while it lives.
    #[must_use]
    pub fn end(&self) -> Option<EndReason> {
        match &self.source {
            Source::Local(source) => source.end_reason(),
            Source::Remote { subscription, .. } => subscription.end_reason(),
        }
    }

    /// What was received and missed so far.
    #[must_use]
    pub fn stats(&self) -> SubscriptionStats {
        self.stats
    }

    /// Unsubscribes, as dropping it does.
    pub async fn close(self) {
        drop(self);
    }

    fn poll_delivery(&mut self, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        loop {
            if let Some((batch, at)) = &mut self.current {
                if let Some(delivery) = batch.take_owned(at) {
                    if !batch.is_fast() {
                        return Poll::Ready(Some(delivery));
                    }
                    match self.unless_expired(delivery) {
                        Some(delivery) => return Poll::Ready(Some(delivery)),
                        None => continue,
                    }
                }
                self.current = None;
            }
            match self.poll_batch(cx) {
                Poll::Ready(Some(batch)) => self.current = Some((batch, BatchPosition::default())),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// What is handed out of a fast topic: the application may have taken its time over what came before.
    fn unless_expired(&mut self, delivery: Delivery) -> Option<Delivery> {
        let Delivery::Message(message) = &delivery else { return Some(delivery) };
        if !message.is_expired() {
            return Some(delivery);
        }
        self.stats.delivered -= 1;
        self.stats.bytes -= message.payload().len() as u64;
        self.stats.expired += 1;
        message.hole(GapCause::Expired).map(Delivery::Gap)
    }

    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Option<Batch>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Poll::Ready(Some(batch));
            }
            match self.poll_incoming(cx) {
                Poll::Ready(Some(incoming)) => {
                    if let Some(batch) = self.take_in(incoming) {
                        return Poll::Ready(Some(batch));
                    }
                }
                Poll::Ready(None) if self.ending.is_empty() => return Poll::Ready(None),
                Poll::Ready(None) | Poll::Pending => {
                    if self.poll_ending(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Incoming>> {
        match &mut self.source {
            Source::Local(source) => source.poll_next(cx),
            Source::Remote { client, subscription } => subscription.poll_next(cx).map(|next| {
                let (incoming, credit) = next?;
                if let (Some(credit), Some(link)) = (credit, client.link()) {
                    link.send(credit);
                }
                Some(incoming)
            }),
        }
    }

    fn take_in(&mut self, incoming: Incoming) -> Option<Batch> {
        match incoming {
            Incoming::Run { topic, first, bytes, .. } => {
                let tracker = self.trackers.get_mut(&topic.id)?;
                tracker.run(first, bytes, &mut self.stats)
            }
            Incoming::Bound { topic, next_offset, next_source, outcome, again } => {
                let gone = gone(next_offset, outcome, again);
                let began = Tracker::new(Arc::clone(&topic), next_offset - gone, next_source);
                self.bind(began, gone, again.then_some(outcome));
                None
            }
            Incoming::Skipped { topic, from, to, cause } => {
                self.trackers.get_mut(&topic.id)?.skipped(from, to, cause, &mut self.stats)
            }
            Incoming::LeftOut { topic, counts } => {
                self.trackers.get_mut(&topic.id)?.left_out(counts, &mut self.stats);
                None
            }
            Incoming::StreamEnd { topic, source, last_seq } => {
                let tracker = self.trackers.get_mut(&topic.id)?;
                if tracker.is_complete(source, last_seq) {
                    return tracker.stream_end(source, last_seq, &mut self.stats);
                }
                self.ending.push(Ending {
                    at: Instant::now() + END_GRACE,
                    topic: topic.id,
                    source,
                    last_seq,
                });
                None
            }
        }
    }

    /// A topic begins, or goes on after a lost connection.
    /// `gone`: messages before the first one to come that are no longer kept.
    fn bind(&mut self, began: Tracker, gone: u64, resumed: Option<Outcome>) {
        let next_offset = began.next_offset() + gone;
        let topic = &Arc::clone(began.topic());
        let earlier =
            self.trackers.iter().find(|(_, tracker)| tracker.topic().name == topic.name).map(|(id, _)| *id);
        let earlier = earlier.and_then(|id| self.trackers.remove(&id));
        let goes_on = earlier.filter(|tracker| tracker.topic().epoch == topic.epoch);
        if let Some(outcome) = resumed {
            self.stats.resumes += 1;
            self.ready.push_back(Batch::resumed(Arc::clone(topic), outcome));
        }
        // A fast topic that goes on finds the hole in the seqs, and hears from the server why.
        let knows_seqs = topic.is_fast() && goes_on.is_some();
        let mut tracker = match goes_on {
            Some(tracker) => tracker.rebound(Arc::clone(topic)),
            None => began,
        };
        if gone > 0 && !knows_seqs {
            let gap = tracker.skipped(next_offset - gone, next_offset, GapCause::Retention, &mut self.stats);
            if topic.is_fast() {
                let missing = Missing::Offsets { from: next_offset - gone, to: next_offset };
                let gap = Gap { topic: topic.name.clone(), cause: GapCause::Retention, missing };
                self.stats.not_retained += gone;
                self.ready.push_back(Batch::gap(Arc::clone(topic), gap));
            }
            self.ready.extend(gap);
        }
        self.trackers.insert(topic.id, tracker);
    }

    /// Ends the publisher streams whose grace is over, or that turned out complete.
    fn poll_ending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        let (trackers, stats, ready) = (&mut self.trackers, &mut self.stats, &mut self.ready);
        self.ending.retain(|ending| {
            let Some(tracker) = trackers.get_mut(&ending.topic) else { return false };
            let over = ending.at <= now || tracker.is_complete(ending.source, ending.last_seq);
            if over {
                ready.extend(tracker.stream_end(ending.source, ending.last_seq, stats));
            }
            !over
        });
        if !self.ready.is_empty() {
            return Poll::Ready(());
        }
        let Some(next) = self.ending.iter().map(|ending| ending.at).min() else { return Poll::Pending };
        let grace = self.grace.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
        if grace.deadline() != next {
            grace.as_mut().reset(next);
        }
        grace.as_mut().poll(cx)
    }
}

/// How many messages before the first one to come are no longer kept.
fn gone(next_offset: u64, outcome: Outcome, again: bool) -> u64 {
    match outcome {
        Outcome::Gap(missed) => missed.min(next_offset),
        // The topic began anew while this subscription was away: it wanted all of the new epoch.
        Outcome::Fresh if again => next_offset,
        Outcome::Fresh | Outcome::Resumed => 0,
    }
}

impl Stream for Subscription {
    type Item = Delivery;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        self.get_mut().poll_delivery(cx)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Source::Remote { client, subscription } = &self.source {
            client.unsubscribe(subscription);
        }
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription")
            .field("topics", &self.trackers.len())
            .field("stats", &self.stats)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_began_anew_owes_all_of_its_new_epoch() {
        assert_eq!(
            gone(40, Outcome::Fresh, true),
            40,
            "0 to 39 were overwritten before the subscriber was back"
        );
        assert_eq!(gone(40, Outcome::Fresh, false), 0, "a first subscription begins where it asked to");
        assert_eq!(gone(40, Outcome::Gap(3), true), 3);
        assert_eq!(gone(40, Outcome::Gap(u64::MAX), true), 40, "there were no more");
        assert_eq!(gone(40, Outcome::Resumed, true), 0);
    }
}
