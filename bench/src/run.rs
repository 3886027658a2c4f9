//! The course of one run: connect, start, warm up, measure a window, stop, settle the books.

use std::{future::Future, io::IsTerminal as _, thread, time::Duration};

use anyhow::{Context as _, anyhow, bail, ensure};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use tokio::{
    runtime,
    sync::oneshot,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::{
    clock::now_ns,
    ledger::Closed,
    machine::cpu_seconds,
    plan::{Plan, Workload},
    publish::{Published, publish},
    receive::{Received, receive},
    shared::{Shared, Start},
    stage::{Access, Stage},
    stats::Latencies,
};

/// How long all clients together may take to connect, and all books to settle.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long an open loop may go on after its window before the rate counts as too high for this machine.
const BEHIND_MAX: Duration = Duration::from_secs(5);

/// How often the progress bar moves.
const TICK: Duration = Duration::from_millis(200);

/// Everything a run found out; the report makes figures of it.
#[derive(Debug)]
pub struct Measured {
    /// Length of the window as it came out.
    pub window: Duration,
    /// Deliveries inside the window, by subscriber.
    pub window_deliveries: Vec<u64>,
    /// CPU time of this process inside the window.
    pub cpu_seconds: Option<f64>,
    /// Messages published in the whole run.
    pub sent: u64,
    /// The settled books of every subscriber, whole run.
    pub books: Vec<Closed>,
    /// Latencies of the messages due inside the window, all subscribers together.
    pub latencies: Latencies,
    /// How far the open loop fell behind at worst, whole run.
    pub behind: Duration,
}

/// What one thread of clients brings home.
enum Outcome {
    Published(Published),
    Received(Vec<Received>),
}

/// The threads of a run.
type Crews = JoinSet<anyhow::Result<Outcome>>;

/// One reading of all counters.
struct Reading {
    at: Instant,
    received: Vec<u64>,
    cpu_seconds: Option<f64>,
}

/// Runs `plan` from connecting to the settled books.
///
/// # Errors
///
/// A client that cannot connect or publish, and every [`Violation`](crate::ledger::Violation).
pub async fn run(plan: &Plan, access: Access) -> anyhow::Result<Measured> {
    let stage = Stage::build(plan, access).await?;
    let result = measure(plan, &stage).await;
    stage.close().await;
    result
}

async fn measure(plan: &Plan, stage: &Stage) -> anyhow::Result<Measured> {
    let bar = progress_bar(plan);
    let (shared, mut ready) = Shared::new(plan.subscribers);
    let mut crews = Crews::new();
    bar.set_message("connecting");
    for thread in 0..plan.subscriber_threads.min(plan.subscribers) {
        let numbers = (thread..plan.subscribers).step_by(plan.subscriber_threads).collect();
        let receiving = receive(plan.clone(), stage.connector(), shared.clone(), numbers);
        crew(&mut crews, format!("bench-sub-{thread}"), async { receiving.await.map(Outcome::Received) })?;
    }
    wait_ready(&mut crews, &mut ready, plan.subscribers).await?;
    let publishing = publish(plan.clone(), stage.connector(), shared.clone());
    crew(&mut crews, "bench-pub".to_owned(), async { publishing.await.map(Outcome::Published) })?;
    wait_ready(&mut crews, &mut ready, plan.publishers).await?;

    let start_ns = now_ns();
    let warmup_ns = u64::try_from(plan.warmup.as_nanos()).expect("the command line bounds the warm-up");
    shared.start(Start { start_ns, window_ns: start_ns + warmup_ns });
    let started = Instant::now();
    let mut outcomes = Outcomes::default();
    watch(&mut crews, &mut outcomes, started + plan.warmup, &bar, "warming up").await?;
    let before = Reading::take(&shared);
    watch(&mut crews, &mut outcomes, started + plan.warmup + plan.window, &bar, "measuring").await?;
    let after = Reading::take(&shared);

    bar.set_message("settling the books");
    if plan.workload == Workload::Latency {
        // The open loop ends by itself, when its last message has been sent.
        let until = Instant::now() + BEHIND_MAX;
        while outcomes.published.is_none() && Instant::now() < until {
            watch(&mut crews, &mut outcomes, Instant::now() + TICK, &bar, "settling the books").await?;
        }
    }
    shared.stop();
    let published = outcomes.published(&mut crews).await?;
    shared.publishers_closed(published.sent);
    outcomes.rest(&mut crews).await?;
    bar.finish_and_clear();
    outcomes.measured(plan, published, &before, &after)
}

/// What has come home so far.
#[derive(Default)]
struct Outcomes {
    published: Option<Published>,
    received: Vec<Received>,
}

impl Outcomes {
    fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Published(published) => self.published = Some(published),
            Outcome::Received(received) => self.received.extend(received),
        }
    }

    async fn published(&mut self, crews: &mut Crews) -> anyhow::Result<Published> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(published) = self.published {
                return Ok(published);
            }
            self.add(next(crews, until, "the publishers to close").await?);
        }
    }

    async fn rest(&mut self, crews: &mut Crews) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        while !crews.is_empty() {
            self.add(next(crews, until, "the subscribers to settle their books").await?);
        }
        Ok(())
    }

    fn measured(
        self,
        plan: &Plan,
        published: Published,
        before: &Reading,
        after: &Reading,
    ) -> anyhow::Result<Measured> {
        ensure!(self.received.len() == plan.subscribers, "a subscriber is missing");
        let refused = published.refused;
        ensure!(refused == 0, "the server refused {refused} of {} messages", published.sent);
        let mut latencies = Latencies::default();
        self.received.iter().for_each(|received| latencies.merge(&received.latencies));
        Ok(Measured {
            window: after.at - before.at,
            window_deliveries: after
                .received
                .iter()
                .zip(&before.received)
                .map(|(after, before)| after - before)
                .collect(),
            cpu_seconds: after.cpu_seconds.zip(before.cpu_seconds).map(|(after, before)| after - before),
            sent: published.sent,
            books: self.received.iter().map(|received| received.books).collect(),
            latencies,
            behind: Duration::from_nanos(published.behind_ns_max),
        })
    }
}

impl Reading {
    fn take(shared: &Shared) -> Self {
        Self { at: Instant::now(), received: shared.received(), cpu_seconds: cpu_seconds() }
    }
}

/// Runs `clients` on a thread of its own, with a runtime of its own: a group of clients neither steals from nor waits
/// for another group's runtime, and the kernel decides which of them shares a core.
fn crew(
    crews: &mut Crews,
    name: String,
    clients: impl Future<Output = anyhow::Result<Outcome>> + Send + 'static,
) -> anyhow::Result<()> {
    let (done, outcome) = oneshot::channel();
    let runtime =
        runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    let thread = thread::Builder::new().name(name.clone());
    let spawned = thread.spawn(move || {
        // Nobody listens when the run has already failed.
        let _ = done.send(runtime.block_on(clients));
    });
    spawned.with_context(|| format!("cannot start the thread {name}"))?;
    crews.spawn(async move { outcome.await.map_err(|_| anyhow!("the thread {name} panicked"))? });
    Ok(())
}

/// The next crew that comes home. An error of one crew is the error of the run.
async fn next(crews: &mut Crews, until: Instant, waiting_for: &str) -> anyhow::Result<Outcome> {
    match timeout_at(until, crews.join_next()).await {
        Ok(Some(joined)) => joined.context("a task of the benchmark panicked")?,
        Ok(None) => bail!("no thread is left"),
        Err(_) => bail!("waited {} s in vain for {waiting_for}", PATIENCE.as_secs()),
    }
}

async fn wait_ready(
    crews: &mut Crews,
    ready: &mut tokio::sync::mpsc::Receiver<()>,
    clients: usize,
) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    for connected in 0..clients {
        tokio::select! {
            _ = ready.recv() => {}
            ended = next(crews, until, "the clients to connect") => {
                ended.with_context(|| format!("{connected} of {clients} clients had connected"))?;
                bail!("a client ended before the start");
            }
        }
    }
    Ok(())
}

/// Waits until `until`, unless a crew fails first.
async fn watch(
    crews: &mut Crews,
    outcomes: &mut Outcomes,
    until: Instant,
    bar: &ProgressBar,
    message: &'static str,
) -> anyhow::Result<()> {
    bar.set_message(message);
    while Instant::now() < until {
        let tick = until.min(Instant::now() + TICK);
        match timeout_at(tick, crews.join_next()).await {
            Ok(Some(joined)) => outcomes.add(joined.context("a task of the benchmark panicked")??),
            Ok(None) => bail!("every client ended before the window did"),
            Err(_) => bar.inc(TICK.as_millis() as u64),
        }
    }
    Ok(())
}

/// On a terminal only: a log must not fill with bars, and a pipe gets the report alone.
fn progress_bar(plan: &Plan) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {msg}").expect("the template is well-formed");
    let bar = ProgressBar::new((plan.warmup + plan.window).as_millis() as u64);
    bar.with_style(style).with_finish(ProgressFinish::AndClear)
}
