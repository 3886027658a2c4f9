//! A publisher of a fast topic: it never waits for anybody, and writes down what it was told.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use twinlane::{MessageOptions, Publisher, PublisherOptions, Session, TryPublishError};
use twinlane_tests::Seeded;

use super::{REST, Shared, TOPICS, Topic};
use crate::history::{Event, FastEvent, FastMode, Recorder};
use crate::payload::{Identity, Payloads, mix};

/// Small, so that a bad link fills it and publishes are refused.
const QUEUE_BYTES: usize = 64 << 10;
/// Keys of a publisher. Half of them rest at any time.
const KEYS: u64 = 40;
/// How long keys rest.
const KEY_REST: Duration = Duration::from_millis(2_500);
/// Deadlines that messages may have of their own, in milliseconds.
const OWN_DEADLINES_MS: [u32; 3] = [10, 20, 40];

/// A publisher stream of the run.
pub(super) struct Stream {
    shared: Arc<Shared>,
    recorder: Recorder,
    publisher: Publisher,
    topic: u16,
    of: Topic,
    number: u16,
    random: Seeded,
    payloads: Payloads,
    payload: Vec<u8>,
    began: Instant,
    published: u64,
    refused: u64,
}

impl Stream {
    pub(super) async fn open(
        shared: &Arc<Shared>,
        session: &Session,
        topic: u16,
        client: u16,
    ) -> anyhow::Result<Self> {
        let number = shared.next_publisher.fetch_add(1, Ordering::Relaxed);
        let of = TOPICS[usize::from(topic)];
        let mut options = PublisherOptions::default();
        options.queue_bytes = QUEUE_BYTES;
        let mut recorder = shared.history.recorder();
        let opening_us = recorder.now_us();
        let publisher = session.publisher_with(of.name, options).await?;
        let opened_us = recorder.now_us();
        let opened = FastEvent::Publisher { publisher: number, topic, client, opening_us, opened_us };
        recorder.record(&Event::Fast(opened));
        Ok(Self {
            recorder,
            publisher,
            topic,
            of,
            number,
            random: Seeded::new(shared.seed(u64::from(number) << 32)),
            payloads: shared.payloads(topic),
            payload: Vec::new(),
            began: Instant::now(),
            published: 0,
            refused: 0,
            shared: Arc::clone(shared),
        })
    }

    /// Publishes until nobody wants it any more, rests, and closes.
    pub(super) async fn publish(mut self) {
        let streams = (super::PUBLISHING.len() * TOPICS.len()) as u32;
        let per_second = (self.shared.settings.rate / streams).max(1);
        let mut due = Instant::now();
        let mut why = String::new();
        while self.shared.publishing.load(Ordering::Acquire) && why.is_empty() {
            // Mostly one by one; now and then so many at once that they have to wait for the link.
            let count = if self.random.chance(10) { 20 + self.random.below(60) as u32 } else { 1 };
            for _ in 0..count {
                if let Err(failed) = self.one().await {
                    why = failed;
                    break;
                }
            }
            due = (due + count * Duration::from_secs(1) / per_second).max(Instant::now());
            tokio::time::sleep_until(due).await;
        }
        tokio::time::sleep(REST).await;
        let Self { mut recorder, publisher, number, published, refused, .. } = self;
        if let Err(error) = publisher.close().await
            && why.is_empty()
        {
            why = format!("its close failed: {error}");
        }
        let at_us = recorder.now_us();
        recorder.record(&Event::Fast(FastEvent::Closed {
            publisher: number,
            at_us,
            published,
            refused,
            why,
        }));
    }

    /// One message, or none where it is refused.
    async fn one(&mut self) -> Result<(), String> {
        let seq = self.published + 1;
        self.payloads.write(Identity { publisher: self.number, seq }, false, &mut self.payload);
        let key = (self.of.mode == FastMode::Latest).then(|| self.key());
        let own_ms = (self.of.own_deadlines && self.random.chance(300))
            .then(|| OWN_DEADLINES_MS[self.random.below(OWN_DEADLINES_MS.len() as u64) as usize]);
        let deadline_us = u64::from(own_ms.unwrap_or(self.of.deadline_ms)) * 1_000;
        let is_plain = key.is_none() && own_ms.is_none();
        let before_us = self.recorder.now_us();
        let given = if is_plain && self.random.chance(500) {
            match self.publisher.try_publish(&self.payload) {
                Ok(given) => given,
                Err(TryPublishError::QueueFull) => {
                    self.refused += 1;
                    return Ok(());
                }
                Err(error) => return Err(format!("message {seq} was not taken: {error}")),
            }
        } else {
            let mut options = MessageOptions::default();
            options.key = key;
            options.deadline = own_ms.map(|own_ms| Duration::from_millis(own_ms.into()));
            let sent = self.publisher.send_with(&self.payload, options).await;
            sent.map_err(|error| format!("message {seq} was not taken: {error}"))?
        };
        let after_us = self.recorder.now_us();
        self.published += 1;
        self.shared.published[usize::from(self.topic)].fetch_add(1, Ordering::AcqRel);
        let publisher = self.number;
        let published = FastEvent::Published { publisher, seq: given, before_us, after_us, key, deadline_us };
        self.recorder.record(&Event::Fast(published));
        Ok(())
    }

    /// One of the keys that do not rest now. No two publishers have one in common.
    fn key(&mut self) -> u64 {
        let turn = self.began.elapsed().as_millis() / KEY_REST.as_millis();
        let key = self.random.below(KEYS / 2) * 2 + turn as u64 % 2;
        mix(u64::from(self.number) << 32 | key)
    }
}
