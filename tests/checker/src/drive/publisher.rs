//! A publisher that never stops trying, and writes down what it is told.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use twinlane::{Ack, Level, MessageOptions, PublishError, Publisher, PublisherOptions};
use twinlane_tests::Seeded;

use super::Shared;
use crate::history::{Event, Recorder};
use crate::payload::{Identity, Payloads, mix};

/// One publisher stream.
struct Stream<'a> {
    shared: &'a Shared,
    recorder: Recorder,
    topic: u16,
    number: u16,
    payloads: Payloads,
    payload: Vec<u8>,
    next_seq: u64,
}

/// Whether the stream can be used further.
enum After {
    GoOn,
    BeginAnew,
}

/// Publishes on `topic` until nobody wants it any more. `number`: which of the topic's publishers this is.
pub(super) async fn publish(shared: Arc<Shared>, topic: u16, number: u16) {
    let mut random = Seeded::new(mix(shared.workload.seed) ^ u64::from(topic) << 16 ^ u64::from(number));
    let streams = u64::from(shared.workload.publishers) * shared.names.len() as u64;
    let per_second = (u64::from(shared.workload.rate) / streams).max(1);
    while let Some(session) = shared.session(&shared.publishing).await {
        let options = {
            let mut options = PublisherOptions::default();
            options.spec = Some(shared.workload.spec());
            options
        };
        let Ok(mut publisher) = session.publisher_with(&shared.names[usize::from(topic)], options).await
        else {
            continue;
        };
        let mut stream = Stream::new(&shared, topic);
        while shared.publishing.load(Ordering::Acquire) {
            // Many small batches and some large ones; single messages are answered most exactly.
            let count = if random.chance(300) {
                1
            } else {
                1 + random.below(shared.workload.batch_max.into()) as u32
            };
            let due = Instant::now() + Duration::from_micros(u64::from(count) * 1_000_000 / per_second);
            if matches!(stream.batch(&mut publisher, count).await, After::BeginAnew) {
                break;
            }
            tokio::time::sleep_until(due).await;
        }
        // The session is ended with all that may still be under way.
        session.close().await;
    }
}

impl<'a> Stream<'a> {
    fn new(shared: &'a Shared, topic: u16) -> Self {
        let number = shared.next_publisher.fetch_add(1, Ordering::Relaxed);
        let mut recorder = shared.history.recorder();
        recorder.record(&Event::Stream { publisher: number, topic });
        let payloads = shared.payloads(topic);
        Self { shared, recorder, topic, number, payloads, payload: Vec::new(), next_seq: 1 }
    }

    /// Publishes `count` messages and waits for the outcome of the last one, which comes after all others'.
    async fn batch(&mut self, publisher: &mut Publisher, count: u32) -> After {
        let first = self.next_seq;
        let (number, last) = (self.number, first + u64::from(count) - 1);
        self.recorder.record(&Event::Invoke {
            at_us: self.recorder.now_us(),
            publisher: number,
            first,
            count,
        });
        for seq in first..last {
            self.payloads.write(Identity { publisher: number, seq }, false, &mut self.payload);
            match publisher.send(&self.payload).await {
                Ok(given) if given == seq => {}
                // Which of them it took is not known any more.
                _ => return self.unknown(first, count, After::BeginAnew),
            }
        }
        let identity = Identity { publisher: number, seq: last };
        let keyed = self.payloads.is_keyed(identity);
        self.payloads.write(identity, keyed, &mut self.payload);
        let options = match keyed {
            true => MessageOptions::default().with_key(identity.word()),
            false => MessageOptions::default(),
        };
        let outcome = publisher.publish_with(&self.payload, options).await;
        self.next_seq = last + 1;
        // All outcomes are there; this asks whether one of those that nobody waited for was bad.
        let others = publisher.flush().await;
        match outcome {
            Ok(ack) if ack.seq == last => self.acknowledged(&ack, first, count, others.is_ok()),
            Err(PublishError::Refused { code, .. }) => {
                let at_us = self.recorder.now_us();
                self.recorder.record(&Event::Refused {
                    at_us,
                    publisher: number,
                    first: last,
                    count: 1,
                    code: code.to_u16(),
                });
                self.shared.refused.fetch_add(1, Ordering::Relaxed);
                // What is refused once is refused again soon.
                tokio::time::sleep(Duration::from_millis(20)).await;
                self.unknown(first, count - 1, After::GoOn)
            }
            Err(PublishError::Unknown { .. } | PublishError::Timeout { .. }) => {
                self.unknown(first, count, After::GoOn)
            }
            Ok(_) | Err(_) => self.unknown(first, count, After::BeginAnew),
        }
    }

    fn acknowledged(&mut self, ack: &Ack, first: u64, count: u32, all: bool) -> After {
        let Some(last_offset) = ack.offset else { return self.unknown(first, count, After::BeginAnew) };
        let (at_us, publisher) = (self.recorder.now_us(), self.number);
        let disk = ack.level.is_some_and(|level| level >= Level::Disk);
        let (first_acked, acked) = if all { (first, count) } else { (ack.seq, 1) };
        let epoch = ack.epoch;
        self.recorder.record(&Event::Ok {
            at_us,
            publisher,
            first: first_acked,
            count: acked,
            last_offset,
            epoch,
            disk,
        });
        if !all {
            self.recorder.record(&Event::Unknown { at_us, publisher, first, count: count - 1 });
        }
        self.shared.acked.fetch_add(acked.into(), Ordering::Relaxed);
        self.shared.acked_to[usize::from(self.topic)].fetch_max(last_offset + 1, Ordering::AcqRel);
        After::GoOn
    }

    fn unknown(&mut self, first: u64, count: u32, after: After) -> After {
        if count > 0 {
            let (at_us, publisher) = (self.recorder.now_us(), self.number);
            self.recorder.record(&Event::Unknown { at_us, publisher, first, count });
        }
        after
    }
}
