//! The subscribers of a run: receive in batches, verify every payload, and close the books.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use tokio::{task::JoinSet, time::timeout};
use twinlane::{Batch, DeliveryRef, Session, Subscription};

use crate::{
    clock::now_ns,
    ledger::{Closed, Ledger},
    plan::{Plan, Workload},
    shared::Shared,
    stage::Connector,
    stats::Latencies,
};

/// How long the last messages of a run, or the report of their loss, may take after the publishers have closed.
const SETTLE: Duration = Duration::from_secs(10);

/// How long nothing more may come once everything is accounted for.
const QUIET: Duration = Duration::from_millis(20);

/// Sessions that one thread connects at the same time: enough to overlap handshakes, too few to time out.
const CONNECTING_MAX: usize = 16;

/// What one subscriber received.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) books: Closed,
    pub(crate) latencies: Latencies,
}

/// One subscriber and its books.
struct Sink {
    number: usize,
    session: Session,
    subscription: Subscription,
    ledger: Ledger,
    latencies: Latencies,
    timed: bool,
    window_ns: u64,
}

/// Connects the subscribers `numbers`, says so, and receives until everything sent is accounted for.
pub(crate) async fn receive(
    plan: Plan,
    connector: Connector,
    shared: Arc<Shared>,
    numbers: Vec<usize>,
) -> anyhow::Result<Vec<Received>> {
    let mut connecting = JoinSet::new();
    let mut receiving = JoinSet::new();
    let mut waiting = numbers.into_iter();
    loop {
        while connecting.len() < CONNECTING_MAX {
            let Some(number) = waiting.next() else { break };
            let (plan, connector) = (plan.clone(), connector.clone());
            connecting.spawn(async move { Sink::open(&plan, &connector, number).await });
        }
        let Some(sink) = connecting.join_next().await else { break };
        let sink = sink.context("a subscriber panicked")??;
        receiving.spawn(sink.run(connector.clone(), Arc::clone(&shared)));
        shared.client_is_ready().await;
    }
    let mut all = Vec::with_capacity(receiving.len());
    while let Some(done) = receiving.join_next().await {
        all.push(done.context("a subscriber panicked")??);
    }
    Ok(all)
}

impl Sink {
    async fn open(plan: &Plan, connector: &Connector, number: usize) -> anyhow::Result<Self> {
        let session = connector.session(&format!("bench subscriber {number}")).await?;
        let subscription = session.subscribe(connector.topic()).await.context("cannot subscribe")?;
        Ok(Self {
            number,
            session,
            subscription,
            ledger: Ledger::new(plan.publishers, plan.payload_bytes, plan.is_reliable()),
            latencies: Latencies::default(),
            timed: plan.workload == Workload::Latency,
            window_ns: 0,
        })
    }

    async fn run(mut self, connector: Connector, shared: Arc<Shared>) -> anyhow::Result<Received> {
        self.window_ns = shared.started().await.window_ns;
        let sent = self.receive_until_all_is_sent(&shared).await?;
        let number = self.number;
        // Running out of time is no error of its own: the books then say how many messages are missing.
        if let Ok(settled) = timeout(SETTLE, self.settle(sent, &shared)).await {
            settled?;
            connector.check_carrier(&self.session)?;
        }
        let books = self.ledger.close(sent).with_context(|| format!("subscriber {number}"))?;
        self.subscription.close().await;
        self.session.close().await;
        Ok(Received { books, latencies: self.latencies })
    }

    async fn receive_until_all_is_sent(&mut self, shared: &Shared) -> anyhow::Result<u64> {
        let all_is_sent = shared.sent();
        tokio::pin!(all_is_sent);
        loop {
            let batch = tokio::select! {
                biased;
                batch = self.subscription.next_batch() => batch,
                sent = &mut all_is_sent => return Ok(sent),
            };
            self.book(batch, shared)?;
        }
    }

    async fn settle(&mut self, sent: u64, shared: &Shared) -> anyhow::Result<()> {
        while !self.ledger.is_settled(sent) {
            let batch = self.subscription.next_batch().await;
            self.book(batch, shared)?;
        }
        if let Ok(surplus) = timeout(QUIET, self.subscription.next_batch()).await {
            self.book(surplus, shared)?;
        }
        Ok(())
    }

    fn book(&mut self, batch: Option<Batch>, shared: &Shared) -> anyhow::Result<()> {
        let Some(batch) = batch else {
            let end =
                self.subscription.end().map_or_else(|| "no reason given".to_owned(), |end| end.to_string());
            bail!("subscription {} ended during the run: {end}", self.number);
        };
        for delivery in batch.iter() {
            match delivery {
                DeliveryRef::Message(message) => {
                    let stamp = self.ledger.message(message.payload(), message.seq())?;
                    if self.timed && stamp.due_ns >= self.window_ns {
                        self.latencies.record(now_ns().saturating_sub(stamp.due_ns));
                    }
                }
                DeliveryRef::Gap(gap) => self.ledger.gap(gap.count(), || gap.to_string())?,
                other => bail!("a run keeps its connections, and yet received {other:?}"),
            }
        }
        shared.set_received(self.number, self.ledger.delivered());
        Ok(())
    }
}
