//! The closed loop: one message to the server and back, then the next one. What somebody waits for an answer.

use std::{
    future::Future,
    pin::{Pin, pin},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use indicatif::ProgressBar;
use tokio::{
    task::yield_now,
    time::{Instant, Sleep, sleep, timeout_at},
};
use twinlane::{Batch, DeliveryRef, IoPolicy, Publisher, Session, Subscription};

use crate::{
    clock::now_ns,
    crew::Crews,
    ledger::{Closed, Ledger},
    machine::cpu_seconds,
    payload::{Stamp, fill},
    plan::{Flow, Plan},
    receive::{ledger, topic_of},
    recorder::{Course, Recorder, slice_of},
    report::Results,
    run::counted,
    stage::{Connector, Stage},
    stats::Latencies,
};

/// How long a message may be under way before it counts as lost: on a reliable topic the run fails then.
const LOST_AFTER: Duration = Duration::from_secs(1);

/// How long the report of the last losses may take after the publisher has closed.
const SETTLE: Duration = Duration::from_secs(10);

/// What the loop found out.
struct Looped {
    window: Duration,
    /// By slice of the window.
    round_trips: Vec<u64>,
    cpu_seconds: f64,
    sent: u64,
    books: Closed,
    latencies: Latencies,
    course: Course,
}

/// The one client and its two ends.
struct Loop {
    reliable: bool,
    io_policy: IoPolicy,
    /// One session, or one for each end.
    sessions: Vec<Session>,
    publisher: Publisher,
    subscription: Subscription,
    ledger: Ledger,
    payload: Vec<u8>,
    seq: u64,
    /// Goes off when nothing has come for a long time; set once and for all, because a timer for each message costs.
    alarm: Pin<Box<Sleep>>,
}

/// Runs the loop on a thread of its own.
pub(crate) async fn run(
    plan: &Plan,
    io_policy: IoPolicy,
    stage: &Stage,
    bar: &ProgressBar,
) -> anyhow::Result<Results> {
    let flow = plan.flows()[0];
    let mut crews = Crews::new();
    let looping = {
        let (plan, connector) = (plan.clone(), stage.connector());
        async move { Loop::open(&plan, flow, io_policy, &connector).await?.run(&plan, &connector).await }
    };
    bar.set_message("measuring");
    // The loop takes its time from when it is connected: it is never home before this, however late this thread runs.
    let until = Instant::now() + plan.warmup + plan.window;
    crews.start_on(stage.clients(), "bench-client".to_owned(), looping)?;
    crews.watch(until, bar).await?;
    let looped = crews.all("the client to settle its books").await?.pop();
    Ok(results(plan, flow, &looped.context("there is one client")?))
}

fn results(plan: &Plan, flow: Flow, looped: &Looped) -> Results {
    let round_trips: u64 = looped.round_trips.iter().sum();
    let mut results = counted(plan, flow.name, looped.window, &[round_trips]);
    results.add_books(looped.sent, &[looped.books]);
    results.cpu_seconds_per_million =
        (round_trips > 0).then(|| looped.cpu_seconds * 1e6 / round_trips as f64);
    results.latency = looped.latencies.summary();
    let slice_seconds = slice_of(plan.window).as_secs_f64();
    let window_seconds = looped.window.as_secs_f64();
    results.timeline = looped
        .round_trips
        .iter()
        .enumerate()
        .map(|(number, &count)| {
            let (from, to) = (number as f64 * slice_seconds, (number + 1) as f64 * slice_seconds);
            let to = to.min(window_seconds);
            looped.course.interval(number..number + 1, to, count as f64 / (to - from))
        })
        .collect();
    results
}

impl Loop {
    async fn open(
        plan: &Plan,
        flow: Flow,
        io_policy: IoPolicy,
        connector: &Connector,
    ) -> anyhow::Result<Self> {
        let mut sessions = vec![connector.session("bench client").await?];
        if plan.sessions > 1 {
            sessions.push(connector.session("bench client, receiving").await?);
        }
        let receiving = sessions.last().expect("there is at least one");
        let subscription = receiving.subscribe(&connector.filter(flow)).await.context("cannot subscribe")?;
        let publisher = sessions[0].publisher(&connector.topic(flow, 0)).await;
        Ok(Self {
            reliable: flow.reliable,
            io_policy,
            publisher: publisher.context("cannot open a publisher")?,
            subscription,
            sessions,
            ledger: ledger(plan, flow),
            payload: vec![0; plan.payload_bytes],
            seq: 0,
            alarm: Box::pin(sleep(LOST_AFTER)),
        })
    }

    async fn run(mut self, plan: &Plan, connector: &Connector) -> anyhow::Result<Looped> {
        let window_ns = now_ns() + plan.warmup.as_nanos() as u64;
        while now_ns() < window_ns {
            self.round_trip().await?;
        }
        let (start_ns, cpu_before) = (now_ns(), cpu_seconds());
        let slice_ns = slice_of(plan.window).as_nanos() as u64;
        let window_ns = plan.window.as_nanos() as u64;
        let mut round_trips = vec![0; window_ns.div_ceil(slice_ns) as usize];
        let mut recorder = Recorder::new(start_ns, plan.window);
        let mut at_ns = start_ns;
        while at_ns - start_ns < window_ns {
            let sent_ns = now_ns();
            let is_back = self.round_trip().await?;
            at_ns = now_ns();
            // What was still under way at the end has a latency like all others; it is only no part of the rate.
            if is_back {
                recorder.record(sent_ns, at_ns);
                if let Some(count) = round_trips.get_mut(((at_ns - start_ns) / slice_ns) as usize) {
                    *count += 1;
                }
            }
        }
        let cpu_seconds = cpu_seconds() - cpu_before;
        let books = self.close(connector).await?;
        let (latencies, course) = recorder.finish();
        Ok(Looped {
            window: plan.window,
            round_trips,
            cpu_seconds,
            sent: books.1,
            books: books.0,
            latencies,
            course,
        })
    }

    /// Publishes one message and waits until it is back (`true`) or certainly, or after a long time probably, lost.
    async fn round_trip(&mut self) -> anyhow::Result<bool> {
        self.seq += 1;
        fill(Stamp { publisher: 0, seq: self.seq, due_ns: 0 }, &mut self.payload);
        let seq = self.publisher.send(&self.payload).await.context("cannot publish")?;
        assert!(seq == self.seq, "seqs are dense from 1: sent {}, told {seq}", self.seq);
        let mut is_back = false;
        let mut patience = 1;
        while !self.ledger.is_settled(self.seq) {
            let waiting = wait_spinning(self.io_policy, self.subscription.next_batch());
            tokio::select! {
                biased;
                batch = waiting => is_back |= book(&mut self.ledger, batch)? == Some(seq),
                () = &mut self.alarm => {
                    // It may have been about to go off before the message left.
                    self.alarm.as_mut().reset(Instant::now() + LOST_AFTER);
                    if patience == 0 {
                        ensure!(!self.reliable, "message {seq} was not back after {} s", LOST_AFTER.as_secs());
                        break;
                    }
                    patience -= 1;
                }
            }
        }
        Ok(is_back)
    }

    async fn close(mut self, connector: &Connector) -> anyhow::Result<(Closed, u64)> {
        let flushed = self.publisher.close().await.context("cannot close the publisher")?;
        ensure!(flushed.refused == 0, "the server refused {} messages", flushed.refused);
        let until = Instant::now() + SETTLE;
        // Running out of time is no error of its own: the books then say how many messages are missing.
        while !self.ledger.is_settled(self.seq) {
            let Ok(batch) = timeout_at(until, self.subscription.next_batch()).await else { break };
            book(&mut self.ledger, batch)?;
        }
        let books = self.ledger.close(&[self.seq])?;
        for session in &self.sessions {
            connector.check_carrier(session)?;
            session.close().await;
        }
        Ok((books, self.seq))
    }
}

/// Books a batch; `Some` is the seq of its last message.
fn book(ledger: &mut Ledger, batch: Option<Batch>) -> anyhow::Result<Option<u64>> {
    let batch = batch.context("the subscription ended during the run")?;
    let topic = topic_of(&batch);
    let mut last_seq = None;
    for delivery in batch.iter() {
        match delivery {
            DeliveryRef::Message(message) => {
                last_seq = Some(ledger.message(topic, message.payload(), message.seq())?.seq);
            }
            DeliveryRef::Gap(gap) => ledger.gap(topic, gap.count(), || gap.to_string())?,
            other => bail!("a run keeps its connections, and yet received {other:?}"),
        }
    }
    Ok(last_seq)
}

/// Waits for `future` as an I/O thread with `io_policy` would: a client that wants the least latency does so too.
async fn wait_spinning<F: Future>(io_policy: IoPolicy, future: F) -> F::Output {
    let mut future = pin!(future);
    let spin = match io_policy {
        IoPolicy::Adaptive { spin } => spin,
        IoPolicy::Spin => Duration::MAX,
        _ => Duration::ZERO,
    };
    let spin_ns = u64::try_from(spin.as_nanos()).unwrap_or(u64::MAX);
    let start_ns = now_ns();
    while now_ns() - start_ns < spin_ns {
        tokio::select! {
            biased;
            output = &mut future => return output,
            () = look_around() => {}
        }
    }
    future.await
}

/// Lets the connections of this thread work, and whoever waits for this core.
async fn look_around() {
    thread::yield_now();
    yield_now().await;
}
