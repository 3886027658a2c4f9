//! Subscribers: those that stay, one that comes and goes, and the final drain.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::Instant;
use twinlane::{
    Batch, Delivery, DeliveryRef, MessageView, Missing, Session, SlowPolicy, Start, SubscribeOptions,
    Subscription,
};

use super::{Shared, ends};
use crate::history::{Event, Recorder};
use crate::payload::{Identity, Payloads};

const ALL_TOPICS: &str = "check/*";
/// How long the first message of a topic may take that has some.
const FIRST_PATIENCE: Duration = Duration::from_secs(3);
const VISIT: Duration = Duration::from_millis(1_500);

fn from_start() -> SubscribeOptions {
    let mut options = SubscribeOptions::default();
    (options.start, options.slow) = (Start::All, SlowPolicy::Spill);
    options
}

/// Writes down what one subscription is handed.
struct Scribe<'a> {
    shared: &'a Shared,
    recorder: &'a mut Recorder,
    reader: u16,
    /// Which of the lasting readers this is.
    lasting: Option<u16>,
    messages: Vec<Identity>,
}

impl<'a> Scribe<'a> {
    fn new(shared: &'a Shared, recorder: &'a mut Recorder, lasting: Option<u16>, drains: bool) -> Self {
        let reader = shared.next_reader.fetch_add(1, Ordering::Relaxed);
        recorder.record(&Event::Reader { reader, from_start: true, drains });
        Self { shared, recorder, reader, lasting, messages: Vec::new() }
    }

    /// Takes down a batch; returns its topic and the offset after its last message, where it has messages.
    fn batch(&mut self, batch: &Batch) -> Option<(u16, u64)> {
        let topic = self.shared.topic(batch.topic().as_ref())?;
        let payloads = self.shared.payloads(topic);
        let (reader, at_us) = (self.reader, self.recorder.now_us());
        let mut run: Option<(u64, u64)> = None;
        let mut next = None;
        for delivery in batch.iter() {
            match delivery {
                DeliveryRef::Message(view) => {
                    let (epoch, offset) = (view.epoch(), view.offset());
                    match read(payloads, &view) {
                        Ok(identity) => {
                            let is_dense = run.is_some_and(|(run_epoch, first)| {
                                run_epoch == epoch && first + self.messages.len() as u64 == offset
                            });
                            if !is_dense {
                                self.flush(at_us, topic, run.take());
                                run = Some((epoch, offset));
                            }
                            self.messages.push(identity);
                        }
                        Err(what) => {
                            self.flush(at_us, topic, run.take());
                            self.recorder.record(&Event::Corrupt {
                                at_us,
                                reader,
                                topic,
                                epoch,
                                offset,
                                what,
                            });
                        }
                    }
                    next = Some(offset + 1);
                }
                DeliveryRef::Gap(gap) => {
                    self.flush(at_us, topic, run.take());
                    if let Missing::Offsets { from, to } = gap.missing {
                        let cause = gap.cause.to_string();
                        self.recorder.record(&Event::Gap { at_us, reader, topic, from, to, cause });
                        next = Some(to);
                    }
                }
                _ => {}
            }
        }
        self.flush(at_us, topic, run);
        let next = next?;
        if let Some(lasting) = self.lasting {
            self.shared.read_to[usize::from(lasting)][usize::from(topic)].store(next, Ordering::Release);
        }
        Some((topic, next))
    }

    fn flush(&mut self, at_us: u64, topic: u16, run: Option<(u64, u64)>) {
        let Some((epoch, first_offset)) = run else { return };
        self.shared.delivered.fetch_add(self.messages.len() as u64, Ordering::Relaxed);
        let messages = std::mem::take(&mut self.messages);
        let event = Event::Delivered { at_us, reader: self.reader, topic, epoch, first_offset, messages };
        self.recorder.record(&event);
    }

    fn end(self, why: String) {
        let (at_us, reader) = (self.recorder.now_us(), self.reader);
        self.recorder.record(&Event::ReaderEnd { at_us, reader, why });
    }
}

/// Whose message it is, if every byte is right and the frame agrees with the payload.
fn read(payloads: Payloads, view: &MessageView<'_>) -> Result<Identity, String> {
    let identity = payloads.read(view.payload(), view.key())?;
    match view.seq() == identity.seq {
        true => Ok(identity),
        false => Err(format!("the frame says seq {}, the payload {identity:?}", view.seq())),
    }
}

/// Why a subscription ended.
fn why(subscription: &Subscription) -> String {
    subscription.end().map_or_else(|| "the subscription ended".to_owned(), |end| format!("ended: {end}"))
}

/// Reads everything from the start, as long as it is wanted.
pub(super) async fn lasting(shared: Arc<Shared>, number: u16) {
    let mut recorder = shared.history.recorder();
    while let Some(session) = shared.session(&shared.reading).await {
        let Ok(mut subscription) = session.subscribe_with(ALL_TOPICS, from_start()).await else { continue };
        let mut scribe = Scribe::new(&shared, &mut recorder, Some(number), false);
        loop {
            let next = tokio::time::timeout(Duration::from_millis(200), subscription.next_batch()).await;
            match next {
                Ok(Some(batch)) => drop(scribe.batch(&batch)),
                Ok(None) => break scribe.end(why(&subscription)),
                Err(_) => {}
            }
            if !shared.reading.load(Ordering::Acquire) {
                return;
            }
        }
    }
}

/// Reads from the start for a while, again and again: mostly what is no longer in memory.
pub(super) async fn visiting(shared: Arc<Shared>) {
    let mut recorder = shared.history.recorder();
    while let Some(session) = shared.session(&shared.publishing).await {
        let Ok(mut subscription) = session.subscribe_with(ALL_TOPICS, from_start()).await else { continue };
        let mut scribe = Scribe::new(&shared, &mut recorder, None, false);
        let until = Instant::now() + VISIT;
        loop {
            match tokio::time::timeout_at(until, subscription.next_batch()).await {
                Ok(Some(batch)) => drop(scribe.batch(&batch)),
                Ok(None) => break scribe.end(why(&subscription)),
                Err(_) => break scribe.end(String::new()),
            }
        }
        drop(subscription);
        session.close().await;
    }
}

/// The first offset that a reader from the start is handed, within a short time.
pub(super) async fn first_offset(
    session: &Session,
    topic: &str,
    payloads: Payloads,
) -> anyhow::Result<Option<u64>> {
    let mut subscription = session.subscribe_with(topic, from_start()).await?;
    let first = async {
        while let Some(delivery) = subscription.next().await {
            if let Delivery::Message(message) = delivery {
                let is_good = payloads.read(message.payload(), message.key()).is_ok();
                return is_good.then(|| message.offset());
            }
        }
        None
    };
    Ok(tokio::time::timeout(FIRST_PATIENCE, first).await.unwrap_or(None))
}

/// Reads every topic from its oldest message to its end.
pub(super) async fn drain(shared: &Shared, session: &Session, recorder: &mut Recorder) -> anyhow::Result<()> {
    let ends = ends(session, &shared.names).await?;
    let mut subscription = session.subscribe_with(ALL_TOPICS, from_start()).await?;
    let mut scribe = Scribe::new(shared, recorder, None, true);
    let mut left: BTreeMap<u16, u64> =
        ends.iter().map(|(topic, (_, oldest, next))| (*topic, *next.max(oldest))).collect();
    left.retain(|topic, next| *next > ends[topic].1);
    while !left.is_empty() {
        let Some(batch) = subscription.next_batch().await else { bail!("{}", why(&subscription)) };
        if let Some((topic, next)) = scribe.batch(&batch)
            && left.get(&topic).is_some_and(|end| next >= *end)
        {
            left.remove(&topic);
        }
    }
    let reader = scribe.reader;
    let now = self::ends(session, &shared.names).await.context("after the drain")?;
    for (topic, (epoch, _, next)) in ends {
        let at_us = recorder.now_us();
        if now[&topic].0 == epoch {
            recorder.record(&Event::Drained { at_us, reader, topic, epoch, next });
        }
    }
    Ok(())
}
