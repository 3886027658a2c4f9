//! The subscribers of a run: receive in batches, verify every payload, and close the books.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    task::{JoinSet, yield_now},
    time::timeout,
};
use twinlane::{Batch, DeliveryRef, Session, Subscription};

use crate::{
    clock::now_ns,
    ledger::{Closed, Ledger},
    plan::{Flow, Plan},
    recorder::{Course, Recorder},
    shared::Shared,
    stage::Connector,
    stats::Latencies,
};

/// How long nothing may come after the publishers have closed, while messages, or reports of their loss, are missing. What
/// waits in queues then may take longer: at a thousand subscribers it is seconds.
const SETTLE: Duration = Duration::from_secs(10);

/// How long nothing more may come once everything is accounted for.
const QUIET: Duration = Duration::from_millis(20);

/// Sessions that one thread connects at the same time: enough to overlap handshakes, too few to time out.
const CONNECTING_MAX: usize = 16;

/// Messages one subscription takes before the others of its thread have their turn, if it is never out of messages.
const TURN_MESSAGES: u64 = 1_024;

/// The same where another channel of the session wants its messages soon.
const TURN_MESSAGES_BESIDE: u64 = 64;

/// What the subscribers of one thread received.
#[derive(Debug)]
pub(crate) struct Received {
    /// By flow, then by subscriber in the order in which they finished.
    pub(crate) books: Vec<Vec<Closed>>,
    /// Of the flow that is timed.
    pub(crate) latencies: Latencies,
    pub(crate) course: Course,
}

/// One subscriber of one flow, and its books.
struct Sink {
    flow: usize,
    number: usize,
    subscription: Subscription,
    ledger: Ledger,
    turn_messages: u64,
    /// Shared by the sinks of a thread, which take turns: never contended.
    recorder: Option<Arc<Mutex<Option<Recorder>>>>,
}

/// Connects the subscribers `numbers`, says so, and receives until everything sent is accounted for.
pub(crate) async fn receive(
    plan: Plan,
    connector: Connector,
    shared: Arc<Shared>,
    numbers: Vec<usize>,
) -> anyhow::Result<Received> {
    let recorder = Arc::new(Mutex::new(None));
    let mut connecting = JoinSet::new();
    let mut receiving = JoinSet::new();
    let mut sessions = Vec::with_capacity(numbers.len());
    let is_alone = numbers.len() == 1;
    let mut waiting = numbers.into_iter();
    loop {
        while connecting.len() < CONNECTING_MAX {
            let Some(number) = waiting.next() else { break };
            let (plan, connector, recorder) = (plan.clone(), connector.clone(), Arc::clone(&recorder));
            connecting.spawn(async move { open(&plan, &connector, number, is_alone, &recorder).await });
        }
        let Some(opened) = connecting.join_next().await else { break };
        let (session, sinks) = opened.context("a subscriber panicked")??;
        sessions.push(session);
        for sink in sinks {
            receiving.spawn(sink.run(plan.window, Arc::clone(&shared)));
        }
        shared.client_is_ready().await;
    }
    let mut books = vec![Vec::new(); plan.flows().len()];
    while let Some(done) = receiving.join_next().await {
        let (flow, closed): (usize, Closed) = done.context("a subscriber panicked")??;
        books[flow].push(closed);
    }
    for session in sessions {
        connector.check_carrier(&session)?;
        session.close().await;
    }
    let recorder = lock(&recorder).take();
    let (latencies, course) = recorder.map(Recorder::finish).unwrap_or_default();
    Ok(Received { books, latencies, course })
}

async fn open(
    plan: &Plan,
    connector: &Connector,
    number: usize,
    is_alone: bool,
    recorder: &Arc<Mutex<Option<Recorder>>>,
) -> anyhow::Result<(Session, Vec<Sink>)> {
    let session = connector.session(&format!("bench subscriber {number}")).await?;
    let flows = plan.flows();
    let turn_messages = match flows.len() {
        // Nobody else waits for a turn, and what arrived in the meantime would overflow a fast topic's queue.
        1 if is_alone => u64::MAX,
        1 => TURN_MESSAGES,
        _ => TURN_MESSAGES_BESIDE,
    };
    let mut sinks = Vec::new();
    for (index, flow) in flows.into_iter().enumerate() {
        let subscription = session.subscribe(&connector.filter(flow)).await.context("cannot subscribe")?;
        sinks.push(Sink {
            flow: index,
            number,
            subscription,
            ledger: ledger(plan, flow),
            turn_messages,
            recorder: flow.is_timed().then(|| Arc::clone(recorder)),
        });
    }
    Ok((session, sinks))
}

/// Empty books for one subscription to `flow`.
pub(crate) fn ledger(plan: &Plan, flow: Flow) -> Ledger {
    Ledger::new(plan.publishers, plan.topics, plan.payload_bytes, flow.reliable)
}

/// The number of the topic that all of `batch` came on; `usize::MAX` if it is none of ours.
pub(crate) fn topic_of(batch: &Batch) -> usize {
    let last_level = batch.topic().as_str().rsplit('/').next();
    last_level.and_then(|number| number.parse().ok()).unwrap_or(usize::MAX)
}

impl Sink {
    async fn run(mut self, window: Duration, shared: Arc<Shared>) -> anyhow::Result<(usize, Closed)> {
        let window_ns = shared.started().await.window_ns;
        if let Some(recorder) = &self.recorder {
            lock(recorder).get_or_insert_with(|| Recorder::new(window_ns, window));
        }
        let sent = self.receive_until_all_is_sent(&shared).await?;
        let sent = &sent[self.flow];
        let number = self.number;
        // Running out of time is no error of its own: the books then say how many messages are missing.
        self.settle(sent.iter().sum(), &shared).await?;
        let books = self.ledger.close(sent).with_context(|| format!("subscriber {number}"))?;
        self.subscription.close().await;
        Ok((self.flow, books))
    }

    async fn receive_until_all_is_sent(&mut self, shared: &Shared) -> anyhow::Result<Arc<Vec<Vec<u64>>>> {
        let all_is_sent = shared.sent();
        tokio::pin!(all_is_sent);
        let mut turn_ends_at = self.turn_messages;
        loop {
            let batch = tokio::select! {
                biased;
                batch = self.subscription.next_batch() => batch,
                sent = &mut all_is_sent => return Ok(sent),
            };
            self.book(batch, shared)?;
            if self.ledger.delivered() >= turn_ends_at {
                turn_ends_at = self.ledger.delivered().saturating_add(self.turn_messages);
                yield_now().await;
            }
        }
    }

    async fn settle(&mut self, sent: u64, shared: &Shared) -> anyhow::Result<()> {
        while !self.ledger.is_settled(sent) {
            let Ok(batch) = timeout(SETTLE, self.subscription.next_batch()).await else { return Ok(()) };
            self.book(batch, shared)?;
        }
        if let Ok(surplus) = timeout(QUIET, self.subscription.next_batch()).await {
            self.book(surplus, shared)?;
        }
        Ok(())
    }

    fn book(&mut self, batch: Option<Batch>, shared: &Shared) -> anyhow::Result<()> {
        let Some(batch) = batch else {
            let end = self.subscription.end();
            let end = end.map_or_else(|| "no reason given".to_owned(), |end| end.to_string());
            bail!("subscription {} ended during the run: {end}", self.number);
        };
        let topic = topic_of(&batch);
        let mut recorder = self.recorder.as_ref().map(|recorder| lock(recorder));
        let mut recorder = recorder.as_mut().and_then(|recorder| recorder.as_mut());
        for delivery in batch.iter() {
            match delivery {
                DeliveryRef::Message(message) => {
                    let stamp = self.ledger.message(topic, message.payload(), message.seq())?;
                    if let Some(recorder) = &mut recorder {
                        recorder.record(stamp.due_ns, now_ns());
                    }
                }
                DeliveryRef::Gap(gap) => self.ledger.gap(topic, gap.count(), || gap.to_string())?,
                other => bail!("a run keeps its connections, and yet received {other:?}"),
            }
        }
        shared.set_received(self.flow, self.number, self.ledger.delivered());
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
