//! The publisher of a flow: probe, then flat out, at a capped rate, or on the open loop's schedule.

use std::{
    num::NonZeroU64,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tokio::{task::yield_now, time::sleep};
use twinlane_bench::{
    clock::{Schedule, now_ns},
    payload::{Stamp, fill},
};

use super::{Plan, books::PROBE, shared::Shared, wait::Waiter};
use crate::system::{Publish, Setup, System};

/// Payload bytes between two looks at whether to go on.
const TURN_BYTES: usize = 64 << 10;

/// Between two probes.
const PROBE_INTERVAL: Duration = Duration::from_millis(5);

/// How long until every subscriber must have received one.
const PROBE_MAX: Duration = Duration::from_secs(15);

/// Between two looks at whether there is room in the window, or anything due.
const PAUSE: Duration = Duration::from_millis(1);

/// Before the first message of an open loop.
const LEAD_IN_NS: u64 = 5_000_000;

/// What the publisher did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Published {
    pub(super) sent: u64,
    pub(super) behind_ns_max: u64,
}

/// A publisher, its payload buffer, and what it has sent.
struct Source<'a, P> {
    publisher: P,
    payload: Vec<u8>,
    sent: u64,
    behind_ns_max: u64,
    shared: &'a Shared,
}

/// Publishes until told to stop.
///
/// # Errors
///
/// The client failed, or nobody receives.
pub(super) async fn publish<S: System>(
    system: &S,
    plan: &Plan,
    setup: &Setup,
    server: &S::Server,
    shared: &Shared,
) -> Result<Published> {
    let publisher = system.publisher(setup, server).await.context("cannot open the publisher")?;
    // Timers of the publisher's thread shall not be late on purpose.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let payload = vec![0; plan.payload_bytes];
    let mut source = Source { publisher, payload, sent: 0, behind_ns_max: 0, shared };
    source.probe(setup.subscribers).await?;
    match plan.workload.open_loop_rate() {
        Some(per_second) => source.open_loop(plan, per_second).await?,
        None => source.flat_out(plan, system.window_messages(), setup.subscribers as u64).await?,
    }
    source.publisher.finish().await.context("cannot finish publishing")?;
    shared.finished.store(true, Relaxed);
    // A connection closed now could be reset with messages that the server has not read yet.
    shared.over().await;
    Ok(Published { sent: source.sent, behind_ns_max: source.behind_ns_max })
}

impl<P: Publish> Source<'_, P> {
    #[inline]
    async fn send(&mut self, due_ns: u64) -> Result<()> {
        self.sent += 1;
        fill(Stamp { publisher: 0, seq: self.sent, due_ns }, &mut self.payload);
        self.publisher.send(&self.payload).await
    }

    /// Sends probes until every subscriber has received one.
    async fn probe(&mut self, subscribers: usize) -> Result<()> {
        let until = Instant::now() + PROBE_MAX;
        let mut seq = 0;
        while self.shared.probed.load(Relaxed) < subscribers {
            let probed = self.shared.probed.load(Relaxed);
            ensure!(Instant::now() < until, "{probed} of {subscribers} subscribers receive anything");
            seq += 1;
            fill(Stamp { publisher: PROBE, seq, due_ns: 0 }, &mut self.payload);
            self.publisher.send(&self.payload).await?;
            self.publisher.flush().await?;
            sleep(PROBE_INTERVAL).await;
        }
        Ok(())
    }

    async fn flat_out(&mut self, plan: &Plan, window: Option<u64>, subscribers: u64) -> Result<()> {
        let turn =
            (TURN_BYTES / plan.payload_bytes).min(window.map_or(usize::MAX, |window| window as usize / 2));
        let turn = turn.max(1) as u64;
        let schedule = plan.rate.map(|per_second| Schedule::new(now_ns(), per_second));
        self.shared.begun.store(true, Relaxed);
        while !self.shared.enough.load(Relaxed) {
            let due = schedule
                .map_or(turn, |schedule| schedule.due_by(now_ns()).saturating_sub(self.sent).min(turn));
            if window.is_some_and(|window| !self.has_room(due, window, subscribers)) {
                // What the client still collects for a batch would keep the window shut.
                self.publisher.flush().await?;
                sleep(PAUSE).await;
                continue;
            }
            for _ in 0..due {
                self.send(0).await?;
            }
            self.shared.sent.store(self.sent, Relaxed);
            if due < turn {
                self.publisher.flush().await?;
                sleep(PAUSE).await;
            } else {
                yield_now().await;
            }
        }
        Ok(())
    }

    /// Whether `more` messages fit the window, on average over all subscribers.
    fn has_room(&self, more: u64, window: u64, subscribers: u64) -> bool {
        (self.sent + more) * subscribers <= self.shared.delivered() + window * subscribers
    }

    async fn open_loop(&mut self, plan: &Plan, per_second: u64) -> Result<()> {
        let waiter = Waiter::new(plan.wait, per_second)?;
        let start_ns = now_ns() + LEAD_IN_NS;
        let window_ns = start_ns + plan.warmup.as_nanos() as u64;
        let schedule = Schedule::new(start_ns, per_second);
        self.shared.window_ns.store(window_ns, Relaxed);
        self.shared.begun.store(true, Relaxed);
        while !self.shared.enough.load(Relaxed) {
            let now = waiter.until(schedule.due_ns(self.sent)).await?;
            // What is due together goes in one go, as an application that is late would send it.
            let due = schedule.due_by(now);
            while self.sent < due {
                let due_ns = schedule.due_ns(self.sent);
                self.send(due_ns).await?;
                if due_ns >= window_ns {
                    self.behind_ns_max = self.behind_ns_max.max(now_ns() - due_ns);
                }
            }
            self.publisher.flush().await?;
            self.shared.sent.store(self.sent, Relaxed);
        }
        Ok(())
    }
}
