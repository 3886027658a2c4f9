//! Drives a server: publishers, readers and workers over real sockets, each writing down what it sees.
//!
//! Nothing here judges; what happens to the server meanwhile is the nemesis' business.

mod publisher;
mod reader;
mod worker;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::task::JoinSet;
use tokio::time::Instant;
use twinlane::{ConnectOptions, Session, TopicSpec};

use crate::history::{Event, History, HistoryReader, Plan, Recorder};
use crate::judge::{Judge, Report};
use crate::payload::Payloads;
use crate::server::Server;

pub use worker::Group;

/// The group that works through the queue topic.
const GROUP: &str = "workers";
/// How long publishers may take to come to an end.
const PUBLISHERS_PATIENCE: Duration = Duration::from_secs(40);
/// How long the jobs may take to come to an end.
const JOBS_PATIENCE: Duration = Duration::from_secs(60);
/// How long the final drain may take.
const DRAIN_PATIENCE: Duration = Duration::from_secs(120);
/// How long a new session is tried for.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
/// A little more than readers are allowed by the promise.
const READERS_PATIENCE: Duration = Duration::from_millis(10_500);

/// What to drive.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Of everything random.
    pub seed: u64,
    /// Topics.
    pub topics: u16,
    /// Publishers on each topic, each with a session of its own.
    pub publishers: u16,
    /// Subscribers to all topics from their start.
    pub readers: u16,
    /// Whether one more subscriber comes and goes, each time reading from the start.
    pub visitors: bool,
    /// Workers of one more topic, a queue; 0: no queue.
    pub workers: u16,
    /// Messages that a publisher sends before it waits for the outcome, at most.
    pub batch_max: u32,
    /// Messages a second that all publishers together try for.
    pub rate: u32,
    /// Topics on disk.
    pub durable: bool,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            seed: 1,
            topics: 3,
            publishers: 3,
            readers: 2,
            visitors: true,
            workers: 0,
            batch_max: 400,
            rate: 40_000,
            durable: true,
        }
    }
}

impl Workload {
    fn spec(&self) -> TopicSpec {
        match self.durable {
            true => TopicSpec::durable().with_retain_bytes(1 << 40).with_retain_messages(1 << 40),
            false => TopicSpec::reliable().with_retain_bytes(32 << 20),
        }
    }

    /// All topics as `serve --topic` writes them.
    #[must_use]
    pub fn topic_flags(&self) -> Vec<String> {
        let spec = match self.durable {
            true => "durable,retain=1024GiB,messages=1099511627776",
            false => "reliable,retain=32MiB",
        };
        self.names().iter().map(|name| format!("{name}={spec}")).collect()
    }

    /// All topics, the queue last.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = (0..self.topics).map(|topic| format!("check/t{topic}")).collect();
        if self.workers > 0 {
            names.push("check/jobs".to_owned());
        }
        names
    }

    fn queue(&self) -> Option<u16> {
        (self.workers > 0).then_some(self.topics)
    }
}

/// What all tasks of a run share.
#[derive(Debug)]
struct Shared {
    workload: Workload,
    names: Vec<String>,
    history: History,
    options: ConnectOptions,
    publishing: AtomicBool,
    reading: AtomicBool,
    working: AtomicBool,
    next_publisher: AtomicU16,
    next_reader: AtomicU16,
    acked: AtomicU64,
    refused: AtomicU64,
    delivered: AtomicU64,
    /// By topic: the offset after the highest acknowledged one.
    acked_to: Vec<AtomicU64>,
    /// By lasting reader and topic: the offset after the last one read.
    read_to: Vec<Vec<AtomicU64>>,
}

impl Shared {
    fn payloads(&self, topic: u16) -> Payloads {
        Payloads::new(self.workload.seed, topic)
    }

    fn topic(&self, name: &str) -> Option<u16> {
        self.names.iter().position(|known| known == name).map(|index| index as u16)
    }

    /// A session; tried for until it is there or nobody wants it any more.
    async fn session(&self, wanted: &AtomicBool) -> Option<Session> {
        while wanted.load(Ordering::Acquire) {
            if let Ok(session) = Session::connect(self.options.clone()).await {
                return Some(session);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        None
    }
}

/// A workload that runs.
#[derive(Debug)]
pub struct Drive {
    shared: Arc<Shared>,
    recorder: Recorder,
    publishers: JoinSet<()>,
    readers: JoinSet<()>,
    workers: JoinSet<()>,
}

impl Drive {
    /// Declares the topics on `server` and starts everything; the history goes to `history`.
    ///
    /// # Errors
    ///
    /// The server does not answer, or the history cannot be written.
    pub async fn start(
        server: &Server,
        workload: Workload,
        plan: Plan,
        history: &Path,
    ) -> anyhow::Result<Self> {
        let history = History::create(history)?;
        let mut recorder = history.recorder();
        recorder.record(&Event::Plan(plan));
        let names = workload.names();
        let session = server.session().await?;
        for (topic, name) in (0..).zip(&names) {
            session.declare(name, workload.spec()).await?;
            let queue = workload.queue() == Some(topic);
            recorder.record(&Event::Topic { topic, disk: workload.durable, queue });
        }
        let counters = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let shared = Arc::new(Shared {
            history,
            options: server.options(),
            publishing: AtomicBool::new(true),
            reading: AtomicBool::new(true),
            working: AtomicBool::new(true),
            next_publisher: AtomicU16::new(0),
            next_reader: AtomicU16::new(0),
            acked: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            acked_to: counters(names.len()),
            read_to: (0..workload.readers).map(|_| counters(names.len())).collect(),
            names,
            workload,
        });
        let mut drive = Self {
            shared: Arc::clone(&shared),
            recorder,
            publishers: JoinSet::new(),
            readers: JoinSet::new(),
            workers: JoinSet::new(),
        };
        drive.spawn();
        Ok(drive)
    }

    fn spawn(&mut self) {
        let workload = &self.shared.workload;
        for lasting in 0..workload.readers {
            self.readers.spawn(reader::lasting(Arc::clone(&self.shared), lasting));
        }
        if workload.visitors {
            self.readers.spawn(reader::visiting(Arc::clone(&self.shared)));
        }
        for worker in 0..workload.workers {
            self.workers.spawn(worker::work(Arc::clone(&self.shared), worker));
        }
        for topic in 0..self.shared.names.len() as u16 {
            let publishers = if Some(topic) == workload.queue() { 1 } else { workload.publishers };
            for number in 0..publishers {
                self.publishers.spawn(publisher::publish(Arc::clone(&self.shared), topic, number));
            }
        }
    }

    /// Where others write to the same history.
    #[must_use]
    pub fn recorder(&self) -> Recorder {
        self.recorder.sibling()
    }

    /// Messages acknowledged and delivered so far.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        (self.shared.acked.load(Ordering::Relaxed), self.shared.delivered.load(Ordering::Relaxed))
    }

    /// Messages refused so far.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Asks the server, just started, what it has; a server that dies meanwhile says nothing.
    ///
    /// # Errors
    ///
    /// The server does not answer.
    pub async fn ask_recovered(&mut self, server: &Server) -> anyhow::Result<()> {
        let at_us = self.recorder.now_us();
        let until = Instant::now() + CONNECT_PATIENCE;
        let session = loop {
            match Session::connect(server.options()).await {
                Err(_) if Instant::now() < until => tokio::time::sleep(Duration::from_millis(20)).await,
                outcome => break outcome,
            }
        };
        let took_us = self.recorder.now_us() - at_us;
        self.recorder.record(&Event::Connected { at_us, took_us, ok: session.is_ok() });
        let session = session?;
        for (topic, name) in (0..).zip(&self.shared.names) {
            let at_us = self.recorder.now_us();
            let status = session.explain(name).await?;
            let first_read = match status.next > status.oldest {
                true => reader::first_offset(&session, name, self.shared.payloads(topic)).await?,
                false => None,
            };
            let (epoch, oldest, next) = (status.epoch, status.oldest, status.next);
            self.recorder.record(&Event::Recovered { at_us, topic, epoch, oldest, next, first_read });
        }
        Ok(())
    }

    /// Lets everything come to its end and reads all topics from their start: the history is then complete. If the
    /// server does not let it be read, the report says so.
    ///
    /// # Errors
    ///
    /// The history cannot be read.
    pub async fn finish(mut self, server: &Server) -> anyhow::Result<Report> {
        self.shared.publishing.store(false, Ordering::Release);
        let healed = Instant::now();
        join_within(&mut self.publishers, PUBLISHERS_PATIENCE).await;
        let drained = self.drain(server).await;
        let until = healed + READERS_PATIENCE;
        while !self.readers_are_done() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.shared.reading.store(false, Ordering::Release);
        self.shared.working.store(false, Ordering::Release);
        if drained.is_ok() {
            self.recorder.record(&Event::End { at_us: self.recorder.now_us() });
        }
        join_within(&mut self.readers, Duration::from_secs(5)).await;
        join_within(&mut self.workers, Duration::from_secs(5)).await;
        let path = self.shared.history.path().to_owned();
        drop(self);
        let mut report = judge_file(&path)?;
        if let Err(error) = drained {
            report.doubts.push(format!("the final drain: {error:#}"));
        }
        Ok(report)
    }

    /// Ends everything where it is: there is no server any more.
    ///
    /// # Errors
    ///
    /// The history cannot be read.
    pub async fn abandon(mut self) -> anyhow::Result<Report> {
        for wanted in [&self.shared.publishing, &self.shared.reading, &self.shared.working] {
            wanted.store(false, Ordering::Release);
        }
        for tasks in [&mut self.publishers, &mut self.readers, &mut self.workers] {
            join_within(tasks, Duration::from_millis(500)).await;
        }
        let path = self.shared.history.path().to_owned();
        drop(self);
        judge_file(&path)
    }

    async fn drain(&mut self, server: &Server) -> anyhow::Result<()> {
        if let Some(queue) = self.shared.workload.queue() {
            worker::wait_for_jobs(server, &self.shared.names[usize::from(queue)], JOBS_PATIENCE).await?;
        }
        let session = server.session().await?;
        let draining = reader::drain(&self.shared, &session, &mut self.recorder);
        tokio::time::timeout(DRAIN_PATIENCE, draining).await.context("it takes too long")??;
        if let Some(queue) = self.shared.workload.queue() {
            let dead = worker::drain_dead(&self.shared, &session, queue, &mut self.recorder);
            tokio::time::timeout(DRAIN_PATIENCE, dead).await.context("the dead letters take too long")??;
        }
        Ok(())
    }

    fn readers_are_done(&self) -> bool {
        let goal = |topic: usize| self.shared.acked_to[topic].load(Ordering::Acquire);
        let is_there = |(topic, read): (usize, &AtomicU64)| read.load(Ordering::Acquire) >= goal(topic);
        self.shared.read_to.iter().all(|topics| topics.iter().enumerate().all(is_there))
    }
}

/// Judges a kept history.
///
/// # Errors
///
/// The file cannot be read.
pub fn judge_file(path: &Path) -> anyhow::Result<Report> {
    let mut events = HistoryReader::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut judge = Judge::default();
    while let Some(event) = events.next_event()? {
        judge.event(&event);
    }
    Ok(judge.finish())
}

/// Ends what does not end by itself: its history then lacks an outcome, and the judge says so.
async fn join_within(tasks: &mut JoinSet<()>, patience: Duration) {
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(patience, all).await.is_err() {
        tasks.shutdown().await;
    }
}

/// Where the log of each topic ends, by the server's word.
async fn ends(session: &Session, names: &[String]) -> anyhow::Result<BTreeMap<u16, (u64, u64, u64)>> {
    let mut ends = BTreeMap::new();
    for (topic, name) in (0..).zip(names) {
        let status = session.explain(name).await?;
        ensure!(
            status.next >= status.oldest,
            "topic {name} begins at {} and ends at {}",
            status.oldest,
            status.next
        );
        ends.insert(topic, (status.epoch, status.oldest, status.next));
    }
    Ok(ends)
}
