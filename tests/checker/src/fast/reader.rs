//! A subscription to a fast topic, and everything it is handed, with the time of the poll that handed it over.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use twinlane::{Batch, DeliveryRef, Missing, Session, SubscribeOptions, Subscription};
use twinlane_tests::Seeded;

use super::{Shared, TOPICS, stats_of};
use crate::history::{Arrived, Event, FastEvent, Recorder};
use crate::payload::Payloads;

/// A slow reader's queue: less than what comes while it pauses.
const SLOW_QUEUE_BYTES: usize = 16 << 10;
/// How often a reader that is handed nothing looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);
/// A slow reader that is handed nothing for so long has read all there is.
const QUIET: Duration = Duration::from_millis(20);

/// A subscription of the run.
pub(super) struct Reader {
    shared: Arc<Shared>,
    recorder: Recorder,
    subscription: Subscription,
    number: u16,
    payloads: Payloads,
    prompt: bool,
    /// Messages that its counters account for.
    account: Arc<AtomicU64>,
    messages: Vec<Arrived>,
}

/// What waiting for a batch came to.
enum Next {
    Batch { polled_us: u64, batch: Batch },
    Nothing,
    Ended,
}

impl Reader {
    pub(super) async fn open(
        shared: &Arc<Shared>,
        session: &Session,
        topic: u16,
        client: u16,
        prompt: bool,
    ) -> anyhow::Result<Self> {
        let number = shared.next_reader.fetch_add(1, Ordering::Relaxed);
        let mut options = SubscribeOptions::default();
        if !prompt {
            options.queue_bytes = SLOW_QUEUE_BYTES;
        }
        let mut recorder = shared.history.recorder();
        let opening_us = recorder.now_us();
        let subscription = session.subscribe_with(TOPICS[usize::from(topic)].name, options).await?;
        let opened_us = recorder.now_us();
        let opened = FastEvent::Reader { reader: number, topic, client, opening_us, opened_us, prompt };
        recorder.record(&Event::Fast(opened));
        Ok(Self {
            recorder,
            subscription,
            number,
            payloads: shared.payloads(topic),
            prompt,
            account: Arc::default(),
            messages: Vec::new(),
            shared: Arc::clone(shared),
        })
    }

    /// Messages that its counters account for, as it reads.
    pub(super) fn account(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.account)
    }

    /// Reads until nobody wants it any more.
    pub(super) async fn read(mut self) {
        let mut random = Seeded::new(self.shared.seed(u64::from(self.number) << 48));
        let mut why = String::new();
        while self.shared.reading.load(Ordering::Acquire) {
            let is_slow = !self.prompt && !self.shared.draining.load(Ordering::Acquire);
            let next = self.next(if is_slow { QUIET } else { LOOK }).await;
            match next {
                Next::Batch { polled_us, batch } => self.batch(polled_us, &batch),
                Next::Nothing if is_slow => {
                    tokio::time::sleep(Duration::from_millis(200 + random.below(1_300))).await;
                }
                Next::Nothing => {}
                Next::Ended => {
                    let end = self.subscription.end().map(|end| end.to_string());
                    why = end.unwrap_or_else(|| "the subscription ended".to_owned());
                    break;
                }
            }
            let accounted = stats_of(&self.subscription.stats()).accounted();
            self.account.store(accounted, Ordering::Release);
        }
        let (stats, at_us) = (stats_of(&self.subscription.stats()), self.recorder.now_us());
        self.recorder.record(&Event::Fast(FastEvent::ReaderEnd { reader: self.number, at_us, stats, why }));
    }

    /// The next batch, and when the poll began that handed it over: whatever was decided about it was decided later.
    async fn next(&mut self, patience: Duration) -> Next {
        let clock = self.shared.clock();
        let mut polled_us = 0;
        let mut batch = pin!(self.subscription.next_batch());
        let timed = std::future::poll_fn(|cx| {
            polled_us = clock.now_us();
            batch.as_mut().poll(cx)
        });
        let next = tokio::time::timeout(patience, timed).await;
        match next {
            Ok(Some(batch)) => Next::Batch { polled_us, batch },
            Ok(None) => Next::Ended,
            Err(_) => Next::Nothing,
        }
    }

    fn batch(&mut self, polled_us: u64, batch: &Batch) {
        let (reader, at_us) = (self.number, self.recorder.now_us());
        for delivery in batch.iter() {
            match delivery {
                DeliveryRef::Message(view) => {
                    let (source, seq, key) = (view.source(), view.seq(), view.key());
                    match self.payloads.read(view.payload(), None) {
                        Ok(identity) => {
                            let (publisher, number) = (identity.publisher, identity.seq);
                            self.messages.push(Arrived { source, seq, publisher, number, key });
                        }
                        Err(what) => {
                            self.flush(polled_us, at_us);
                            let corrupt = FastEvent::Corrupt { reader, at_us, source, seq, what };
                            self.recorder.record(&Event::Fast(corrupt));
                        }
                    }
                }
                DeliveryRef::Gap(gap) => {
                    self.flush(polled_us, at_us);
                    if let Missing::Seqs { source, from, to } = gap.missing {
                        let cause = gap.cause.to_string();
                        let gap = FastEvent::Gap { reader, at_us, source, from, to, cause };
                        self.recorder.record(&Event::Fast(gap));
                    }
                }
                _ => {}
            }
        }
        self.flush(polled_us, at_us);
    }

    fn flush(&mut self, polled_us: u64, at_us: u64) {
        if self.messages.is_empty() {
            return;
        }
        self.shared.delivered.fetch_add(self.messages.len() as u64, Ordering::Relaxed);
        let messages = std::mem::take(&mut self.messages);
        let delivered = FastEvent::Delivered { reader: self.number, polled_us, at_us, messages };
        self.recorder.record(&Event::Fast(delivered));
    }
}
