//! Workers of a queue: most jobs are done, some fail, some are forgotten, and workers go away in the middle.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::Instant;
use twinlane::{Delivery, Job, Queue, QueueOptions, Session, SettleError, Start, SubscribeOptions};
use twinlane_tests::Seeded;

use super::{GROUP, Shared};
use crate::history::{Action, Event, Recorder, Settlement};
use crate::payload::mix;
use crate::server::Server;

/// How the group of a run treats its jobs.
#[derive(Clone, Copy, Debug)]
pub struct Group;

impl Group {
    /// Attempts before a job is a dead letter: a run has many restarts, and each may cost one.
    pub const MAX_DELIVER: u32 = 12;
    /// How long a lease lasts.
    pub const ACK_WAIT: Duration = Duration::from_secs(4);
}

fn options(shared: &Shared) -> QueueOptions {
    let mut options = QueueOptions::default();
    options.spec = Some(shared.workload.spec());
    options.settings.ack_wait = Some(Group::ACK_WAIT);
    options.settings.max_deliver = Some(Group::MAX_DELIVER);
    options.settings.start = Some(Start::All);
    options
}

/// Works until nobody wants it any more.
pub(super) async fn work(shared: Arc<Shared>, number: u16) {
    let Some(topic) = shared.workload.queue() else { return };
    let mut random = Seeded::new(mix(shared.workload.seed ^ u64::from(number)));
    let mut recorder = shared.history.recorder();
    let mut member = number;
    while let Some(session) = shared.session(&shared.working).await {
        let name = &shared.names[usize::from(topic)];
        let Ok(mut queue) = session.queue_with(name, GROUP, options(&shared)).await else { continue };
        let mut worker = Worker { shared: &shared, recorder: &mut recorder, topic, member };
        let jobs = 200 + random.below(2_000);
        worker.some_jobs(&mut queue, &mut random, jobs).await;
        let at_us = recorder.now_us();
        drop(queue);
        session.close().await;
        recorder.record(&Event::Left { at_us, topic, member });
        // Whoever comes back is another member.
        member += shared.workload.workers;
    }
}

struct Worker<'a> {
    shared: &'a Shared,
    recorder: &'a mut Recorder,
    topic: u16,
    member: u16,
}

impl Worker<'_> {
    async fn some_jobs(&mut self, queue: &mut Queue, random: &mut Seeded, jobs: u64) {
        for _ in 0..jobs {
            let next = loop {
                match tokio::time::timeout(Duration::from_millis(200), queue.next()).await {
                    Ok(next) => break next,
                    Err(_) if self.shared.working.load(Ordering::Acquire) => {}
                    Err(_) => return,
                }
            };
            let Some(job) = next else { return };
            self.one(job, random).await;
        }
    }

    async fn one(&mut self, job: Job, random: &mut Seeded) {
        let (topic, member, offset, attempt) = (self.topic, self.member, job.offset(), job.attempt());
        let at_us = self.recorder.now_us();
        let message = match self.shared.payloads(topic).read(job.payload(), job.key()) {
            Ok(message) => message,
            Err(what) => {
                let epoch = job.epoch();
                return self.recorder.record(&Event::Corrupt {
                    at_us,
                    reader: u16::MAX,
                    topic,
                    epoch,
                    offset,
                    what,
                });
            }
        };
        self.recorder.record(&Event::Handed { at_us, topic, member, offset, message, attempt });
        let (action, delay) = match random.below(100) {
            0..4 => (Action::Nack, Duration::ZERO),
            4..6 => (Action::Nack, Duration::from_millis(random.below(300))),
            6 => (Action::Dead, Duration::ZERO),
            _ => (Action::Ack, Duration::ZERO),
        };
        if random.chance(2) {
            // Forgotten: the lease runs out.
            return;
        }
        let (at_us, delay_us) = (self.recorder.now_us(), delay.as_micros() as u64);
        self.recorder.record(&Event::Settling { at_us, topic, member, offset, attempt, action, delay_us });
        let answer = match action {
            Action::Nack => job.nack(delay).await,
            Action::Dead => job.dead("at random").await,
            Action::Ack | Action::Extend => job.ack().await,
        };
        let answer = match answer {
            Ok(()) => Settlement::Done,
            Err(SettleError::Stale) => Settlement::Stale,
            Err(_) => Settlement::Unknown,
        };
        let at_us = self.recorder.now_us();
        self.recorder.record(&Event::Settled { at_us, topic, member, offset, attempt, action, answer });
    }
}

/// Waits until the group has nothing left to do.
pub(super) async fn wait_for_jobs(server: &Server, topic: &str, patience: Duration) -> anyhow::Result<()> {
    let session = server.session().await?;
    let until = Instant::now() + patience;
    loop {
        let status = session.server_status().await?;
        let row = status.queues.iter().find(|row| row.topic == topic && row.group == GROUP);
        let row = row.with_context(|| format!("the server knows no group {GROUP} of {topic}"))?;
        if row.ready + row.in_flight + row.delayed == 0 {
            return Ok(());
        }
        if Instant::now() > until {
            // The judge says which.
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Reads the dead letters.
pub(super) async fn drain_dead(
    shared: &Shared,
    session: &Session,
    topic: u16,
    recorder: &mut Recorder,
) -> anyhow::Result<()> {
    let name = format!("dead/{}/{GROUP}", shared.names[usize::from(topic)]);
    // Nothing failed for the last time: there is no such topic.
    let Ok(status) = session.explain(&name).await else { return Ok(()) };
    let mut options = SubscribeOptions::default();
    options.start = Start::All;
    let mut subscription = session.subscribe_with(&name, options).await?;
    let mut next = status.oldest;
    while next < status.next {
        let Some(delivery) = subscription.next().await else {
            bail!("the dead letters end: {:?}", subscription.end())
        };
        let Delivery::Message(letter) = delivery else { continue };
        next = letter.offset() + 1;
        let header = |name: &str| {
            let headers = letter.headers()?;
            let value = headers.iter().find(|(known, _)| *known == name)?.1;
            std::str::from_utf8(value).ok()?.parse::<u64>().ok()
        };
        let Some(offset) = header("twinlane-offset") else {
            bail!("a dead letter does not say of which offset")
        };
        let attempts = header("twinlane-attempts").unwrap_or(0) as u32;
        let at_us = recorder.now_us();
        match shared.payloads(topic).read(letter.payload(), letter.key()) {
            Ok(message) => recorder.record(&Event::DeadLetter { at_us, topic, offset, message, attempts }),
            Err(what) => recorder.record(&Event::Corrupt {
                at_us,
                reader: u16::MAX,
                topic,
                epoch: letter.epoch(),
                offset,
                what: format!("as a dead letter: {what}"),
            }),
        }
    }
    Ok(())
}
