//! Topics on disk: how many messages per second are acknowledged once they are durable, and how fast a server that
//! starts again is back and hands out what it kept.
//!
//! Both workloads write, end the server, start it again on the same directory and read everything back, so that every
//! run proves its answer. The new start is within this process: it opens files that the system still has in memory,
//! and says nothing about a cold disk.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use indicatif::ProgressBar;
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use twinlane::{DeliveryRef, Level, Publisher, SlowPolicy, Start, SubscribeOptions};

use crate::{
    cli::RunArgs,
    clock::now_ns,
    crew::{Crews, PATIENCE},
    ledger::{Closed, Ledger},
    machine::{cpu_seconds, is_in_memory},
    payload::{Stamp, fill},
    plan::{Plan, Workload},
    receive::topic_of,
    recorder::{Course, Recorder},
    report::{ReplayFigures, Results},
    run::{Window, counted, watch_window},
    shared::Shared,
    stage::{Connector, Stage},
    stats::Latencies,
};

/// How long nothing may come from a topic that still has messages.
const SETTLE: Duration = Duration::from_secs(10);

/// Bytes of a message besides its payload, in the log as on the wire.
const HEAD_BYTES: u64 = 32;

/// Writes, starts again, reads back.
pub(crate) async fn run(plan: &Plan, args: &RunArgs, bar: &ProgressBar) -> anyhow::Result<Results> {
    let folder = folder(plan.dir.as_deref())?;
    let plan = &Plan { dir: Some(folder.path().to_owned()), ..plan.clone() };
    let stage = Stage::build(plan, args.access()?).await?;
    let (stored, window) = match plan.workload {
        Workload::Replay => (fill_log(plan, &stage, bar).await?, None),
        _ => {
            let (stored, window) = store(plan, &stage, bar).await?;
            (stored, Some(window))
        }
    };
    bar.set_message("starting again");
    let restarted = Instant::now();
    let (stage, opened) = stage.reopen(plan, args.access()?).await?;
    let read = read_back(plan, &stage, &stored, restarted).await?;
    stage.close().await;
    let sent: u64 = stored.sent.iter().sum();
    let mut results = match window {
        Some(window) => acknowledged(plan, &window, &stored),
        None => replayed(plan, opened, &read, sent),
    };
    results.add_books(sent, &[read.books]);
    Ok(results)
}

/// A directory of this run alone, gone afterwards.
fn folder(parent: Option<&Path>) -> anyhow::Result<TempDir> {
    let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
    ensure!(
        !is_in_memory(&parent),
        "{} is a file system in memory, where nothing is durable: give --dir on a disk",
        parent.display()
    );
    let folder = tempfile::Builder::new().prefix("twinlane-bench-").tempdir_in(&parent);
    folder.with_context(|| format!("cannot make a directory in {}", parent.display()))
}

/// What the publishers did.
struct Stored {
    /// By stream.
    sent: Vec<u64>,
    latencies: Latencies,
    course: Course,
}

/// One stream of a publisher. With a window there are two, which take turns: while one waits until its half of the
/// window is acknowledged, the other fills its own.
struct Stream {
    publisher: Publisher,
    number: u16,
    /// Messages until it waits for their acknowledgements; `None`: each message is published and waited for.
    half_window: Option<u64>,
    seq: u64,
    payload: Vec<u8>,
    recorder: Option<Recorder>,
}

/// When a stream is done.
#[derive(Clone, Copy)]
enum Until {
    Stopped,
    Sent(u64),
}

async fn store(plan: &Plan, stage: &Stage, bar: &ProgressBar) -> anyhow::Result<(Stored, Window)> {
    let (shared, mut ready) = Shared::new(1, plan.publishers * streams_each(plan));
    let mut crews = Crews::new();
    let publishing = publish(plan.clone(), stage.connector(), Arc::clone(&shared), Until::Stopped);
    crews.start("bench-pub".to_owned(), publishing)?;
    crews.ready(&mut ready, plan.publishers).await?;
    let window = watch_window(plan, &shared, &mut crews, bar).await?;
    shared.stop();
    let stored = crews.all("the last acknowledgements").await?.pop();
    Ok((stored.context("there is one crew of publishers")?, window))
}

async fn fill_log(plan: &Plan, stage: &Stage, bar: &ProgressBar) -> anyhow::Result<Stored> {
    bar.set_message("filling the log");
    let (shared, _ready) = Shared::new(1, plan.publishers * streams_each(plan));
    shared.start(crate::shared::Start { start_ns: now_ns(), window_ns: u64::MAX });
    let messages = plan.fill_bytes.unwrap_or_default() / (plan.payload_bytes as u64 + HEAD_BYTES);
    let each = messages.div_ceil((plan.publishers * streams_each(plan)) as u64);
    let mut crews = Crews::new();
    let publishing = publish(plan.clone(), stage.connector(), shared, Until::Sent(each));
    crews.start("bench-pub".to_owned(), publishing)?;
    crews
        .all_within(patience(messages * plan.payload_bytes as u64), "the log to be filled")
        .await?
        .pop()
        .context("there is one crew of publishers")
}

/// How long writing or reading so much may take: the slowest disk worth measuring has 4 MiB/s.
fn patience(payload_bytes: u64) -> Duration {
    PATIENCE + Duration::from_secs(payload_bytes >> 22)
}

/// Streams of each publisher.
fn streams_each(plan: &Plan) -> usize {
    if plan.unacked_max == Some(1) { 1 } else { 2 }
}

/// Connects every publisher, says so, waits for the start, publishes until told to stop, and closes cleanly.
async fn publish(
    plan: Plan,
    connector: Connector,
    shared: Arc<Shared>,
    until: Until,
) -> anyhow::Result<Stored> {
    let (flow, streams_each) = (plan.flows()[0], streams_each(&plan));
    let (mut sessions, mut streams) = (Vec::new(), Vec::new());
    for number in 0..plan.publishers {
        let session = connector.session(&format!("bench publisher {number}")).await?;
        for half in 0..streams_each {
            let publisher = session.publisher(&connector.topic(flow, 0)).await;
            streams.push(Stream {
                publisher: publisher.context("cannot open a publisher")?,
                number: u16::try_from(number * streams_each + half)
                    .expect("the command line bounds the streams"),
                half_window: plan.unacked_max.filter(|window| *window > 1).map(|window| window / 2),
                seq: 0,
                payload: vec![0; plan.payload_bytes],
                recorder: None,
            });
        }
        sessions.push(session);
        shared.client_is_ready().await;
    }
    let start = shared.started().await;
    let mut tasks = JoinSet::new();
    for mut stream in streams {
        stream.recorder = stream.half_window.is_none().then(|| Recorder::new(start.window_ns, plan.window));
        let shared = Arc::clone(&shared);
        tasks.spawn(async move { stream.run(until, &shared).await });
    }
    let nothing = (Latencies::default(), Course::default());
    let mut stored = Stored { sent: vec![0; tasks.len()], latencies: nothing.0, course: nothing.1 };
    while let Some(done) = tasks.join_next().await {
        let stream = done.context("a publisher panicked")??;
        stored.sent[usize::from(stream.number)] = stream.seq;
        if let Some((latencies, course)) = stream.recorder.map(Recorder::finish) {
            stored.latencies.merge(&latencies);
            stored.course.merge(course);
        }
    }
    for session in sessions {
        connector.check_carrier(&session)?;
        session.close().await;
    }
    Ok(stored)
}

/// A stream that has ended.
struct Ended {
    number: u16,
    seq: u64,
    recorder: Option<Recorder>,
}

impl Stream {
    async fn run(mut self, until: Until, shared: &Shared) -> anyhow::Result<Ended> {
        loop {
            let turn = self.half_window.unwrap_or(1);
            let turn = match until {
                Until::Stopped if shared.is_stopped() => 0,
                Until::Stopped => turn,
                Until::Sent(messages) => turn.min(messages - self.seq),
            };
            if turn == 0 {
                break;
            }
            match self.half_window {
                Some(_) => self.send(turn).await?,
                None => self.publish().await?,
            }
            shared.set_received(0, self.number.into(), self.seq);
        }
        let flushed = self.publisher.close().await.context("cannot close a publisher")?;
        ensure!(flushed.refused == 0, "the server refused {} messages", flushed.refused);
        Ok(Ended { number: self.number, seq: self.seq, recorder: self.recorder })
    }

    async fn send(&mut self, messages: u64) -> anyhow::Result<()> {
        for _ in 0..messages {
            self.fill();
            self.publisher.send(&self.payload).await.context("cannot publish")?;
        }
        let flushed = self.publisher.flush().await.context("no acknowledgement")?;
        ensure!(flushed.acked == self.seq, "{} of {} messages were acknowledged", flushed.acked, self.seq);
        Ok(())
    }

    async fn publish(&mut self) -> anyhow::Result<()> {
        self.fill();
        let published_ns = now_ns();
        let ack = self.publisher.publish(&self.payload).await.context("cannot publish")?;
        ensure!(ack.level == Some(Level::Disk), "a durable topic answered with level {:?}", ack.level);
        if let Some(recorder) = &mut self.recorder {
            recorder.record(published_ns, now_ns());
        }
        Ok(())
    }

    fn fill(&mut self) {
        self.seq += 1;
        fill(Stamp { publisher: self.number, seq: self.seq, due_ns: 0 }, &mut self.payload);
    }
}

/// What came back after the new start.
struct Read {
    /// From the end of the old server until the first message was here.
    first_after: Duration,
    /// From the first to the last.
    took: Duration,
    cpu_seconds: f64,
    books: Closed,
}

async fn read_back(plan: &Plan, stage: &Stage, stored: &Stored, restarted: Instant) -> anyhow::Result<Read> {
    let mut crews = Crews::new();
    let (connector, sent) = (stage.connector(), stored.sent.clone());
    crews.start("bench-sub-0".to_owned(), read(plan.clone(), connector, sent, restarted))?;
    let patience = patience(stored.sent.iter().sum::<u64>() * plan.payload_bytes as u64);
    crews.all_within(patience, "everything to be read back").await?.pop().context("there is one reader")
}

async fn read(plan: Plan, connector: Connector, sent: Vec<u64>, restarted: Instant) -> anyhow::Result<Read> {
    let session = connector.session("bench subscriber").await?;
    let mut options = SubscribeOptions::default();
    options.start = Start::All;
    options.slow = SlowPolicy::Spill;
    let subscription = session.subscribe_with(&connector.filter(plan.flows()[0]), options).await;
    let mut subscription = subscription.context("cannot subscribe")?;
    let mut ledger = Ledger::new(sent.len(), 1, plan.payload_bytes, true);
    let total: u64 = sent.iter().sum();
    let (mut first, cpu_before) = (None, cpu_seconds());
    while !ledger.is_settled(total) {
        let batch = timeout(SETTLE, subscription.next_batch()).await;
        let batch = batch.with_context(|| format!("only {} of {total} came back", ledger.delivered()))?;
        let batch = batch.context("the subscription ended while it read back")?;
        first.get_or_insert_with(Instant::now);
        let topic = topic_of(&batch);
        for delivery in batch.iter() {
            match delivery {
                DeliveryRef::Message(message) => {
                    ledger.message(topic, message.payload(), message.seq())?;
                }
                other => bail!("a topic that is read from its beginning gave {other:?}"),
            }
        }
    }
    let (last, cpu_seconds) = (Instant::now(), cpu_seconds() - cpu_before);
    subscription.close().await;
    session.close().await;
    let first = first.unwrap_or(last);
    let books = ledger.close(&[total])?;
    Ok(Read { first_after: first - restarted, took: last - first, cpu_seconds, books })
}

fn acknowledged(plan: &Plan, window: &Window, stored: &Stored) -> Results {
    let acked = window.deliveries(0).iter().sum::<u64>();
    let mut results = counted(plan, "durable", window.length(), &[acked]);
    results.cpu_seconds_per_million = (acked > 0).then(|| window.cpu_seconds() * 1e6 / acked as f64);
    results.latency = stored.latencies.summary();
    results.timeline = window.timeline(0, &stored.course);
    results
}

fn replayed(plan: &Plan, opened: Duration, read: &Read, sent: u64) -> Results {
    let mut results = counted(plan, "durable", read.took, &[sent]);
    results.cpu_seconds_per_million = (sent > 0).then(|| read.cpu_seconds * 1e6 / sent as f64);
    results.replay = Some(ReplayFigures {
        log_bytes: sent * (plan.payload_bytes as u64 + HEAD_BYTES),
        opened_seconds: opened.as_secs_f64(),
        served_seconds: read.first_after.as_secs_f64(),
    });
    results
}
