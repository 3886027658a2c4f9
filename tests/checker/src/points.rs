//! Crash points: the server dies at one chosen system call, loses what it had not synced, and has to come back.
//!
//! Half of the points die within or around a change of the log, as the forgetting disk counts them; the others at
//! the n-th call of some kind, by strace. Some die while they start, some while they recover.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use twinlane_tests::Seeded;

use crate::drive::{Drive, Workload};
use crate::history::{Event, FaultKind};
use crate::judge::Report;
use crate::payload::mix;
use crate::rollback::Loss;
use crate::server::{Launch, Server};
use crate::shim::{Control, Shim};
use crate::suite::{self, Settings};

/// Calls that change files, talk to clients or wait. The forgetting disk sleeps where a real one would sync.
const CALLS: [&str; 14] = [
    "pwrite64",
    "pwritev",
    "openat",
    "renameat2",
    "ftruncate",
    "fallocate",
    "unlinkat",
    "mkdir",
    "nanosleep",
    "sendto",
    "writev",
    "recvfrom",
    "epoll_wait",
    "futex",
];
/// How long a server may take to die of its point.
const DIE_PATIENCE: Duration = Duration::from_millis(600);
/// How long clients go on with the server that came back.
const AFTERWARDS: Duration = Duration::from_millis(150);
/// Runs for each point at most: many calls are never reached.
const DRAWS: u64 = 6;
/// How long the clients may take to get an answer from the server that came back.
const ACKED_PATIENCE: Duration = Duration::from_secs(10);
/// Fewer acknowledged messages say nothing of one point.
const ACKED_MIN: u64 = 20;

/// How many points.
#[derive(Clone, Copy, Debug)]
pub struct Points {
    /// In all.
    pub count: u64,
    /// At once.
    pub jobs: usize,
}

/// Where one run dies.
#[derive(Clone, Debug)]
struct Point {
    seed: u64,
    /// `None`: at a change of the log.
    call: Option<&'static str>,
    nth: u64,
    /// While the server recovers from an earlier crash.
    in_recovery: bool,
}

impl Point {
    fn new(seed: u64) -> Self {
        let mut random = Seeded::new(mix(seed));
        let call = random.chance(500).then(|| CALLS[random.below(CALLS.len() as u64) as usize]);
        // From the first few calls to some hundred, as many between 2 and 4 as between 200 and 400.
        let nth = 1 + (random.below(600) >> random.below(10));
        Self { seed, call, nth, in_recovery: random.chance(250) }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = if self.in_recovery { " while it recovers" } else { "" };
        write!(f, "seed {}: {} {}{when}", self.seed, self.call.unwrap_or("change of the log"), self.nth)
    }
}

/// What all points came to.
#[derive(Debug, Default)]
pub struct Outcome {
    wanted: u64,
    valid: u64,
    /// Runs whose call was never reached: judged, but no crash points.
    missed: u64,
    not_valid: Vec<String>,
    acked: u64,
    /// Points whose call was reached, by call.
    died: BTreeMap<&'static str, u64>,
    seconds: f64,
}

impl Outcome {
    /// Whether every one of them was valid.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.not_valid.is_empty() && self.valid >= self.wanted
    }

    /// Points so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.valid + self.not_valid.len() as u64
    }

    fn count_in(&mut self, point: &Point, report: anyhow::Result<(Report, bool)>) {
        let (report, died) = match report {
            Ok(done) => done,
            Err(error) => return self.not_valid.push(format!("{point}\nUNKNOWN: {error:#}")),
        };
        self.acked += report.acked();
        if died {
            *self.died.entry(point.call.unwrap_or("changes of the log")).or_default() += 1;
        } else {
            self.missed += 1;
        }
        match suite::is_success(&report) {
            true => self.valid += u64::from(died),
            false => self.not_valid.push(format!("{point}\n{report}")),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.not_valid.iter().take(5).try_for_each(|what| writeln!(f, "{what}"))?;
        let died: Vec<_> = self.died.iter().map(|(call, times)| format!("{times} {call}")).collect();
        let verdict = if self.is_success() { "VALID" } else { "NOT VALID" };
        write!(
            f,
            "{verdict}: {} of {} crash points valid, {} wanted, {} runs never came to theirs, {} messages acked, {:.0} s; died of: {}",
            self.valid,
            self.count(),
            self.wanted,
            self.missed,
            self.acked,
            self.seconds,
            died.join(", ")
        )
    }
}

/// Runs all points.
///
/// # Errors
///
/// Never for what a server does; only if no point can be run at all.
pub async fn run(base: &Settings, points: Points) -> anyhow::Result<Outcome> {
    let began = Instant::now();
    let seats = Arc::new(Semaphore::new(points.jobs.max(1)));
    let mut running = JoinSet::new();
    let base = Settings { library: Some(base.build_library()?), ..base.clone() };
    let wanted = Arc::new(AtomicU64::new(points.count));
    for index in 0..points.count * DRAWS {
        let wanted = Arc::clone(&wanted);
        let (base, seats) = (base.clone(), Arc::clone(&seats));
        running.spawn(async move {
            let _seat = seats.acquire_owned().await;
            if wanted.load(Ordering::Acquire) == 0 {
                return None;
            }
            let point = Point::new(base.workload.seed.wrapping_add(index));
            let mut settings = base;
            settings.dir = settings.dir.join(format!("point-{}", point.seed));
            let report = one(&settings, &point).await;
            if report.as_ref().is_ok_and(|(report, _)| suite::is_success(report)) {
                suite::remove(&settings.dir);
            }
            // A call that the server never came to is no point; another one is drawn for it.
            if report.as_ref().is_ok_and(|(_, died)| *died) {
                let one_less = |left: u64| left.checked_sub(1);
                let _none_left = wanted.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less);
            }
            Some((point, report))
        });
    }
    let mut outcome = Outcome { wanted: points.count, ..Outcome::default() };
    let mut said = 0;
    while let Some(done) = running.join_next().await {
        let Some((point, report)) = done.context("a point's task ended")? else { continue };
        outcome.count_in(&point, report);
        outcome.seconds = began.elapsed().as_secs_f64();
        if base.progress && outcome.count() > said && outcome.count().is_multiple_of(50) {
            said = outcome.count();
            eprintln!("{} points, {} valid, {:.0} s", outcome.count(), outcome.valid, outcome.seconds);
        }
    }
    Ok(outcome)
}

/// One point: its verdict, and whether the server died of the point and not of our patience.
async fn one(base: &Settings, point: &Point) -> anyhow::Result<(Report, bool)> {
    let mut settings = base.clone();
    settings.workload = Workload {
        seed: point.seed,
        topics: 2,
        publishers: 1,
        readers: 1,
        visitors: false,
        workers: 0,
        batch_max: 50,
        rate: 20_000,
        durable: true,
    };
    (settings.acked_min, settings.faults_min, settings.live) = (ACKED_MIN, 1, false);
    std::fs::create_dir_all(&settings.dir)?;
    let mut launch = settings.launch(None)?;
    let shim = launch.shim.clone().context("a durable server has the forgetting disk")?;
    let mut crash = Crash { point, shim, random: Seeded::new(point.seed), deaths: Vec::new(), lost_bytes: 0 };
    if !point.in_recovery {
        launch.inject = point.call.map(|call| injection(call, point.nth));
        arm(&crash.shim, point)?;
    }
    let (mut server, mut drive) = crash.begin(launch, &settings).await?;
    if crash.deaths.is_empty() {
        crash.as_it_works(&mut server, &mut drive).await?;
    } else {
        crash.record_earlier(&drive);
    }
    let until = Instant::now() + ACKED_PATIENCE;
    while drive.progress().0 < ACKED_MIN && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(AFTERWARDS).await;
    let report = drive.finish(&server).await?;
    server.kill().await?;
    Ok((report, !crash.deaths.is_empty()))
}

/// What became of one point so far.
struct Crash<'a> {
    point: &'a Point,
    shim: Shim,
    random: Seeded,
    /// When it died of its point.
    deaths: Vec<&'static str>,
    lost_bytes: u64,
}

impl Crash<'_> {
    /// Starts the server and its clients, again if it dies of its point meanwhile. A second time would be no point.
    async fn begin(&mut self, mut launch: Launch, settings: &Settings) -> anyhow::Result<(Server, Drive)> {
        let mut server = match Server::start(launch.clone()).await {
            Ok(server) => server,
            Err(_) => {
                self.died("as it started")?;
                launch.inject = None;
                Server::start(launch).await.context("it does not start after it died starting")?
            }
        };
        let drive = async |server: &Server| {
            Drive::start(server, settings.workload.clone(), settings.plan(), &settings.history()).await
        };
        let first = drive(&server).await;
        // Clients know of a death before the system does.
        let mut has_died = async || tokio::time::timeout(DIE_PATIENCE, server.wait()).await.is_ok();
        if first.is_ok() || !has_died().await {
            return Ok((server, first?));
        }
        self.died("as topics were declared")?;
        server.restart().await?;
        let second = drive(&server).await?;
        Ok((server, second))
    }

    /// Waits until it dies of its point while clients use it, and lets it come back.
    async fn as_it_works(&mut self, server: &mut Server, drive: &mut Drive) -> anyhow::Result<()> {
        let patience = if self.point.in_recovery { AFTERWARDS } else { DIE_PATIENCE };
        let died = tokio::time::timeout(patience, server.wait()).await.is_ok();
        let mut recorder = drive.recorder();
        let at_us = recorder.now_us();
        recorder.record(&Event::Fault { at_us, kind: FaultKind::Forget, what: self.point.to_string() });
        server.kill().await?;
        self.lose()?;
        if died {
            self.deaths.push("as it worked");
        }
        if self.point.in_recovery && self.recovery_dies(server).await? {
            self.deaths.push("as it recovered");
        }
        server.restart().await.context("it does not start after the crash")?;
        recorder.record(&Event::Healed {
            at_us: recorder.now_us(),
            kind: FaultKind::Forget,
            effective: true,
            lost_bytes: self.lost_bytes,
        });
        drive.ask_recovered(server).await
    }

    /// Starts the server once more so that it dies of its point; whether it did before it listened.
    async fn recovery_dies(&mut self, server: &mut Server) -> anyhow::Result<bool> {
        server.launch_mut().inject = self.point.call.map(|call| injection(call, self.point.nth));
        arm(&self.shim, self.point)?;
        let started = server.restart().await;
        server.launch_mut().inject = None;
        if started.is_ok() {
            server.kill().await?;
        }
        self.lose()?;
        Ok(started.is_err())
    }

    /// Deaths before there was a history to write them to.
    fn record_earlier(&self, drive: &Drive) {
        let mut recorder = drive.recorder();
        let (at_us, kind, lost_bytes) = (recorder.now_us(), FaultKind::Forget, self.lost_bytes);
        for what in &self.deaths {
            recorder.record(&Event::Fault { at_us, kind, what: (*what).to_owned() });
            recorder.record(&Event::Healed { at_us, kind, effective: true, lost_bytes });
        }
    }

    fn died(&mut self, when: &'static str) -> anyhow::Result<()> {
        self.deaths.push(when);
        self.lose()
    }

    /// The server is dead: nothing kills the next one, and what it had not synced is gone.
    fn lose(&mut self) -> anyhow::Result<()> {
        self.shim.set(Control::KillIn, 0)?;
        self.lost_bytes += self.shim.lose(Loss::random(&mut self.random), &mut self.random)?.bytes;
        Ok(())
    }
}

fn injection(call: &str, nth: u64) -> String {
    format!("{call}:signal=KILL:when={nth}")
}

fn arm(shim: &Shim, point: &Point) -> anyhow::Result<()> {
    let nth = if point.call.is_none() { point.nth } else { 0 };
    Ok(shim.set(Control::KillIn, nth)?)
}
