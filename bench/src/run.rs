//! The course of one run: connect, start, warm up, measure a window, stop, settle the books.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use indicatif::ProgressBar;
use tokio::time::Instant;

use crate::{
    cli::RunArgs,
    clock::now_ns,
    connections,
    crew::{Crews, PATIENCE},
    durable,
    ledger::Closed,
    machine::{Pinned, cpu_seconds},
    plan::{Flow, Pace, Plan, Workload},
    publish::{Published, publish},
    receive::{Received, receive},
    recorder::{Course, slice_of},
    report::{Interval, Report, Results, Spread},
    roundtrip,
    shared::{Shared, Start},
    stage::Stage,
    stats::Latencies,
};

/// How long an open loop may go on after its window before the rate counts as too high for this machine.
const BEHIND_MAX: Duration = Duration::from_secs(5);

/// How long the warm-up may be extended until every subscriber has received something.
const FIRST_MESSAGES_MAX: Duration = Duration::from_secs(10);

/// How often conditions without a wake-up are looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Runs one workload and reports it. Prints nothing.
///
/// Must be called inside a tokio runtime; the clients of the benchmark run on threads of their own.
///
/// # Errors
///
/// Arguments that contradict each other, a client that cannot connect or publish, and every
/// [`Violation`](crate::ledger::Violation).
pub async fn measure(args: &RunArgs) -> anyhow::Result<Report> {
    measure_showing(args, &ProgressBar::hidden()).await
}

/// As [`measure`], with a bar for who waits; it moves once per millisecond of warm-up and window.
///
/// # Errors
///
/// As [`measure`].
pub async fn measure_showing(args: &RunArgs, bar: &ProgressBar) -> anyhow::Result<Report> {
    let plan = args.plan()?;
    let pinned = plan.pin.map(Pinned::to).transpose();
    let pinned = pinned.with_context(|| {
        format!("cannot run on core {} alone (--pin): is there such a core?", plan.pin.unwrap_or_default())
    })?;
    let results = results_of(&plan, args, bar).await;
    // The report tells how many cores the machine has, not the run.
    drop(pinned);
    bar.finish_and_clear();
    Ok(Report::new(plan, results?))
}

async fn results_of(plan: &Plan, args: &RunArgs, bar: &ProgressBar) -> anyhow::Result<Vec<Results>> {
    match plan.workload {
        Workload::Connections => return Ok(vec![connections::run(plan, args, bar).await?]),
        Workload::Durable | Workload::Replay => return Ok(vec![durable::run(plan, args, bar).await?]),
        _ => {}
    }
    let stage = Stage::build(plan, args.access()?).await?;
    let results = match plan.workload {
        Workload::Roundtrip => roundtrip::run(plan, args.io_policy, &stage, bar).await.map(|one| vec![one]),
        _ => flows(plan, &stage, bar).await,
    };
    stage.close().await;
    results
}

/// What one thread of clients brings home.
enum Outcome {
    Published(Published),
    Received(Received),
}

/// One reading of all counters.
struct Reading {
    at: Instant,
    /// By flow, then by subscriber.
    received: Vec<Vec<u64>>,
    cpu_seconds: f64,
}

/// A reading of the sums at the end of some slices of the window.
struct Sample {
    at: Instant,
    /// Slices of the window that are over.
    slices: usize,
    /// By flow.
    received: Vec<u64>,
}

/// The window as it came out.
pub(crate) struct Window {
    before: Reading,
    after: Reading,
    samples: Vec<Sample>,
}

async fn flows(plan: &Plan, stage: &Stage, bar: &ProgressBar) -> anyhow::Result<Vec<Results>> {
    let flows = plan.flows();
    let (shared, mut ready) = Shared::new(flows.len(), plan.subscribers);
    let mut crews = Crews::new();
    bar.set_message("connecting");
    for thread in 0..plan.subscriber_threads.min(plan.subscribers) {
        let numbers = (thread..plan.subscribers).step_by(plan.subscriber_threads).collect();
        let receiving = receive(plan.clone(), stage.connector(), Arc::clone(&shared), numbers);
        let receiving = async { receiving.await.map(Outcome::Received) };
        crews.start_on(stage.clients(), format!("bench-sub-{thread}"), receiving)?;
    }
    crews.ready(&mut ready, plan.subscribers).await?;
    let publishing = publish(plan.clone(), stage.connector(), Arc::clone(&shared));
    let publishing = async { publishing.await.map(Outcome::Published) };
    crews.start_on(stage.clients(), "bench-pub".to_owned(), publishing)?;
    crews.ready(&mut ready, plan.publishers).await?;

    let window = watch_window(plan, &shared, &mut crews, bar).await?;

    bar.set_message("settling the books");
    if flows.iter().any(|flow| flow.is_timed()) {
        // An open loop ends by itself, when its last message has been sent; too late is an error of its own.
        let until = Instant::now() + BEHIND_MAX;
        while !shared.schedule_is_done() && Instant::now() < until {
            crews.watch(Instant::now() + LOOK, bar).await?;
        }
    }
    shared.stop();
    let published = |outcome: &Outcome| match outcome {
        Outcome::Published(published) => Some(published.clone()),
        Outcome::Received(_) => None,
    };
    let published = crews.find(published, Instant::now() + PATIENCE, "the publishers to close").await?;
    let refused = published.refused;
    ensure!(refused == 0, "the server refused {refused} messages");
    shared.publishers_closed(published.sent.clone());
    let received = crews.all("the subscribers to settle their books").await?;
    results(plan, &flows, &window, &published, received)
}

/// Starts the clients, lets them warm up, and reads all counters while the window lasts.
pub(crate) async fn watch_window<T: Send + 'static>(
    plan: &Plan,
    shared: &Shared,
    crews: &mut Crews<T>,
    bar: &ProgressBar,
) -> anyhow::Result<Window> {
    let flows = plan.flows().len();
    let start_ns = now_ns();
    let warmup_ns = u64::try_from(plan.warmup.as_nanos()).expect("the command line bounds the warm-up");
    shared.start(Start { start_ns, window_ns: start_ns + warmup_ns });
    let mut start = Instant::now() + plan.warmup;
    bar.set_message("warming up");
    crews.watch(start, bar).await?;
    if plan.flows().iter().all(|flow| flow.pace == Pace::FlatOut) {
        // With very many subscribers the server needs its time to come round to the last one.
        let until = start + FIRST_MESSAGES_MAX;
        while (0..flows).any(|flow| shared.received(flow).contains(&0)) && Instant::now() < until {
            crews.watch(Instant::now() + LOOK, bar).await?;
        }
        start = Instant::now();
    }
    bar.set_message("measuring");
    let before = Reading::take(flows, shared);
    let slice = slice_of(plan.window);
    let mut samples = Vec::new();
    let mut slices = 0;
    while slice * slices < plan.window {
        // A late look covers all the slices that are over.
        let over = start.elapsed().div_duration_f64(slice) as u32;
        slices = slices.max(over) + 1;
        crews.watch(start + plan.window.min(slice * slices), bar).await?;
        samples.push(Sample::take(flows, shared, slices as usize));
    }
    let after = Reading::take(flows, shared);
    Ok(Window { before, after, samples })
}

impl Reading {
    fn take(flows: usize, shared: &Shared) -> Self {
        let received = (0..flows).map(|flow| shared.received(flow)).collect();
        Self { at: Instant::now(), received, cpu_seconds: cpu_seconds() }
    }
}

impl Sample {
    fn take(flows: usize, shared: &Shared, slices: usize) -> Self {
        let received = (0..flows).map(|flow| shared.received(flow).iter().sum()).collect();
        Self { at: Instant::now(), slices, received }
    }
}

impl Window {
    pub(crate) fn length(&self) -> Duration {
        self.after.at - self.before.at
    }

    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.after.cpu_seconds - self.before.cpu_seconds
    }

    /// Deliveries of `flow` within the window, by subscriber.
    pub(crate) fn deliveries(&self, flow: usize) -> Vec<u64> {
        let counts = self.after.received[flow].iter().zip(&self.before.received[flow]);
        counts.map(|(after, before)| after - before).collect()
    }

    pub(crate) fn timeline(&self, flow: usize, course: &Course) -> Vec<Interval> {
        let (mut at, mut slices) = (self.before.at, 0);
        let mut received: u64 = self.before.received[flow].iter().sum();
        let interval = |sample: &Sample| {
            let deliveries = sample.received[flow] - received;
            let per_second = deliveries as f64 / (sample.at - at).as_secs_f64().max(1e-9);
            let at_seconds = (sample.at - self.before.at).as_secs_f64();
            let interval = course.interval(slices..sample.slices, at_seconds, per_second);
            (at, slices, received) = (sample.at, sample.slices, sample.received[flow]);
            interval
        };
        self.samples.iter().map(interval).collect()
    }
}

fn results(
    plan: &Plan,
    flows: &[Flow],
    window: &Window,
    published: &Published,
    received: Vec<Outcome>,
) -> anyhow::Result<Vec<Results>> {
    let mut books: Vec<Vec<Closed>> = vec![Vec::new(); flows.len()];
    let (mut latencies, mut course) = (Latencies::default(), Course::default());
    for outcome in received {
        let Outcome::Received(received) = outcome else { continue };
        books.iter_mut().zip(received.books).for_each(|(all, books)| all.extend(books));
        latencies.merge(&received.latencies);
        course.merge(received.course);
    }
    ensure!(books.iter().all(|books| books.len() == plan.subscribers), "a subscriber is missing");
    let nothing = Course::default();
    let results = flows.iter().enumerate().map(|(index, flow)| {
        let mut results = counted(plan, flow.name, window.length(), &window.deliveries(index));
        results.add_books(published.sent[index].iter().sum(), &books[index]);
        results.timeline = window.timeline(index, if flow.is_timed() { &course } else { &nothing });
        if flow.is_timed() {
            results.latency = latencies.summary();
            results.behind_us_max = Some(published.behind_ns_max as f64 / 1e3);
        }
        results
    });
    let mut results: Vec<Results> = results.collect();
    let deliveries: f64 = results.iter().map(|flow| flow.deliveries_per_second * flow.window_seconds).sum();
    results[0].cpu_seconds_per_million = (deliveries > 0.0).then(|| window.cpu_seconds() * 1e6 / deliveries);
    Ok(results)
}

/// The rates of `deliveries`, by subscriber, within `window`.
pub(crate) fn counted(plan: &Plan, name: &str, window: Duration, deliveries: &[u64]) -> Results {
    let window_seconds = window.as_secs_f64();
    let subscriber_rates: Vec<f64> = deliveries.iter().map(|&count| count as f64 / window_seconds).collect();
    let deliveries_per_second = deliveries.iter().sum::<u64>() as f64 / window_seconds;
    Results {
        name: name.to_owned(),
        window_seconds,
        deliveries_per_second,
        megabytes_per_second: deliveries_per_second * plan.payload_bytes as f64 / 1e6,
        subscribers: Spread::of(&subscriber_rates),
        subscriber_rates,
        ..Results::default()
    }
}

impl Results {
    /// Enters the settled books of all subscribers of a flow that `sent` messages.
    pub(crate) fn add_books(&mut self, sent: u64, books: &[Closed]) {
        self.sent = sent;
        self.delivered = books.iter().map(|books| books.delivered).sum();
        self.lost = books.iter().map(|books| books.lost).sum();
        self.gaps = books.iter().map(|books| books.gaps).sum();
        let expected = self.delivered + self.lost;
        self.loss_percent = if expected == 0 { 0.0 } else { self.lost as f64 * 100.0 / expected as f64 };
    }
}
