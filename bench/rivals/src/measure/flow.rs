//! Messages from one publisher to a group of subscribers: what the measuring thread does meanwhile.
//!
//! Connect the subscribers, then the publisher; probe until everybody has received something; warm up; read the
//! counters at both ends of the window; stop the publisher; wait until what is under way has come.

use std::{
    sync::atomic::Ordering::Relaxed,
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use twinlane_bench::clock::now_ns;

use super::{
    Figures, Plan, Quantiles, on_runtime,
    publish::{Published, publish},
    resources::cpu_ns,
    shared::Shared,
    subscribe::{Received, subscribe},
};
use crate::system::{Setup, System};

/// The longest that connecting, probing, or the end of a run may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Once nothing has come for so long after the publisher has ended, what is missing is lost. nats-server may hold a
/// connection for a second.
const QUIET: Duration = Duration::from_millis(2_500);

/// Between two looks at the counters.
const LOOK: Duration = Duration::from_millis(2);

/// Runs one flow.
///
/// # Errors
///
/// A client failed, or something took too long.
pub(super) fn run<S: System>(system: &S, plan: &Plan, setup: &Setup, server: &S::Server) -> Result<Figures> {
    let shared = Shared::default();
    let servers = system.processes(server);
    thread::scope(|scope| {
        let spawn_subscribers = || on_runtime(subscribe(system, plan, setup, server, &shared));
        let spawn_publisher = || on_runtime(publish(system, plan, setup, server, &shared));
        let builder = |name: &str| thread::Builder::new().name(name.to_owned());
        let mut crew = Crew {
            subscribers: builder("subscribers").spawn_scoped(scope, spawn_subscribers)?,
            publisher: None,
        };
        let course =
            crew.wait("the subscribers to connect", || shared.connected.load(Relaxed)).and_then(|()| {
                crew.publisher = Some(builder("publisher").spawn_scoped(scope, spawn_publisher)?);
                crew.wait("every subscriber to receive a probe", || shared.begun.load(Relaxed))?;
                let window = Window::observe(&mut crew, plan, &shared, &servers)?;
                shared.enough.store(true, Relaxed);
                crew.wait("the publisher to end", || shared.finished.load(Relaxed))?;
                settle(&shared, setup.subscribers as u64);
                Ok(window)
            });
        shared.enough.store(true, Relaxed);
        shared.end();
        if course.is_err() {
            // A client that blocks in a call of a server that hangs would never come back.
            kill(&servers);
        }
        let (window, received, published) = crew.join(course)?;
        Ok(figures(plan, setup, &window, &received, &published))
    })
}

/// The client threads of a run.
struct Crew<'scope> {
    subscribers: ScopedJoinHandle<'scope, Result<Received>>,
    publisher: Option<ScopedJoinHandle<'scope, Result<Published>>>,
}

/// A client thread ended before its time; its own error says why.
#[derive(Debug)]
struct EndedEarly;

impl std::fmt::Display for EndedEarly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a client ended before the run did")
    }
}

impl std::error::Error for EndedEarly {}

impl Crew<'_> {
    fn wait(&self, what: &str, reached: impl Fn() -> bool) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while !reached() {
            self.check()?;
            if Instant::now() >= until {
                bail!("waited {PATIENCE:?} in vain for {what}");
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let publisher_ended = self.publisher.as_ref().is_some_and(ScopedJoinHandle::is_finished);
        if self.subscribers.is_finished() || publisher_ended { Err(EndedEarly.into()) } else { Ok(()) }
    }

    fn pass(&self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.check()?;
            thread::sleep(left.min(Duration::from_millis(50)));
        }
        Ok(())
    }

    /// The first thing that went wrong, or everything that was found.
    fn join(self, course: Result<Window>) -> Result<(Window, Received, Published)> {
        let received = self.subscribers.join().map_err(|_| anyhow!("the subscribers panicked"))?;
        let published = self
            .publisher
            .map(|publisher| publisher.join().unwrap_or_else(|_| Err(anyhow!("the publisher panicked"))));
        match course {
            Err(error) if !error.is::<EndedEarly>() => Err(error),
            Err(early) => {
                received.map_err(|error| error.context("the subscribers"))?;
                published.transpose().map_err(|error| error.context("the publisher"))?;
                Err(early)
            }
            Ok(window) => {
                let published = published.ok_or(EndedEarly)?;
                Ok((window, received?, published?))
            }
        }
    }
}

/// Counters at both ends of the window.
struct Window {
    seconds: f64,
    delivered: u64,
    cpu_ns: u64,
}

impl Window {
    fn observe(crew: &mut Crew<'_>, plan: &Plan, shared: &Shared, servers: &[u32]) -> Result<Self> {
        crew.pass(plan.warmup)?;
        let look = || (now_ns(), shared.delivered(), cpu_ns(servers));
        let before = look();
        crew.pass(plan.window)?;
        let after = look();
        Ok(Self {
            seconds: (after.0 - before.0) as f64 / 1e9,
            delivered: after.1 - before.1,
            cpu_ns: after.2.saturating_sub(before.2),
        })
    }
}

/// Waits until everything sent has come, or nothing comes any more.
fn settle(shared: &Shared, subscribers: u64) {
    let owed = shared.sent.load(Relaxed) * subscribers;
    let mut delivered = shared.delivered();
    let mut quiet_since = Instant::now();
    while delivered < owed && quiet_since.elapsed() < QUIET {
        thread::sleep(LOOK);
        let now = shared.delivered();
        if now > delivered {
            (delivered, quiet_since) = (now, Instant::now());
        }
    }
}

/// Ends servers whose clients would otherwise block for ever.
pub(super) fn kill(servers: &[u32]) {
    for pid in servers.iter().filter_map(|pid| Pid::from_raw(i32::try_from(*pid).ok()?)) {
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::KILL);
    }
}

fn figures(
    plan: &Plan,
    setup: &Setup,
    window: &Window,
    received: &Received,
    published: &Published,
) -> Figures {
    let owed = published.sent * setup.subscribers as u64;
    let messages = window.delivered as f64;
    Figures {
        deliveries_per_second: Some(messages / window.seconds),
        latency: Quantiles::of(&received.latencies),
        cpu_seconds_per_million: (window.delivered > 0).then(|| window.cpu_ns as f64 / 1e3 / messages),
        bytes_per_connection: None,
        owed,
        delivered: received.delivered,
        lost: owed.saturating_sub(received.delivered),
        out_of_order: received.out_of_order,
        behind_us_max: plan.workload.open_loop_rate().map(|_| published.behind_ns_max as f64 / 1e3),
    }
}
