//! One client that publishes a message, waits until it has received it, and only then publishes the next.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tokio::time::sleep;
use twinlane_bench::{
    clock::now_ns,
    payload::{Stamp, fill},
    stats::Latencies,
};

use super::{
    Figures, Plan, Quantiles,
    books::{Books, PROBE},
    resources::cpu_ns,
};
use crate::system::{Publish, Setup, Subscribe, System};

/// A message that has not come back by then is lost.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long the first one may take, and how often it is repeated.
const PROBE_MAX: Duration = Duration::from_secs(15);
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// Both halves of the client, and what came back.
struct Loop<P, S> {
    publisher: P,
    subscriber: S,
    books: Books,
    payload: Vec<u8>,
}

/// Runs the loop for the warm-up and the window.
///
/// # Errors
///
/// The client failed, or something came back that was not sent.
pub(super) async fn run<S: System>(
    system: &S,
    plan: &Plan,
    setup: &Setup,
    server: &S::Server,
) -> Result<Figures> {
    let (publisher, subscriber) = system.pair(setup, server).await.context("cannot connect")?;
    let books = Books::new(1, plan.payload_bytes);
    let mut client = Loop { publisher, subscriber, books, payload: vec![0; plan.payload_bytes] };
    client.probe().await?;
    let servers = system.processes(server);
    let (_, warmup) = client.run_for(0, plan.warmup).await?;
    let cpu_before = cpu_ns(&servers);
    let (latencies, sent) = client.run_for(warmup, plan.window).await?;
    let cpu_ns = cpu_ns(&servers).saturating_sub(cpu_before);
    let trips = latencies.summary().map_or(0, |summary| summary.count);
    client.publisher.finish().await?;
    client.books.proven()?;
    Ok(Figures {
        deliveries_per_second: Some(trips as f64 / plan.window.as_secs_f64()),
        latency: Quantiles::of(&latencies),
        cpu_seconds_per_million: (trips > 0).then(|| cpu_ns as f64 / 1e3 / trips as f64),
        owed: sent,
        delivered: client.books.delivered(),
        lost: sent.saturating_sub(client.books.delivered()),
        out_of_order: client.books.out_of_order(),
        ..Figures::default()
    })
}

impl<P: Publish, S: Subscribe> Loop<P, S> {
    async fn send(&mut self, stamp: Stamp) -> Result<()> {
        fill(stamp, &mut self.payload);
        self.publisher.send(&self.payload).await?;
        self.publisher.flush_before_waiting().await
    }

    /// Sends probes until one has come back, and takes in those that come late.
    async fn probe(&mut self) -> Result<()> {
        let until = Instant::now() + PROBE_MAX;
        let mut seq = 0;
        while self.books.probed() == 0 {
            ensure!(Instant::now() < until, "nothing comes back");
            seq += 1;
            self.send(Stamp { publisher: PROBE, seq, due_ns: 0 }).await?;
            self.take_in(PROBE_INTERVAL).await?;
        }
        self.take_in(PROBE_INTERVAL).await
    }

    async fn take_in(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        let books = &mut self.books;
        let mut each = |number, payload: &[u8]| {
            books.message(number, payload);
        };
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            tokio::select! {
                biased;
                received = self.subscriber.recv(&mut each) => received?,
                () = sleep(left) => break,
            }
        }
        Ok(())
    }

    /// Goes round for `time`; returns the latencies and the number of messages sent so far.
    async fn run_for(&mut self, mut sent: u64, time: Duration) -> Result<(Latencies, u64)> {
        let mut latencies = Latencies::default();
        let until_ns = now_ns() + time.as_nanos() as u64;
        let mut patience = Box::pin(sleep(time + PATIENCE));
        loop {
            let began_ns = now_ns();
            if began_ns >= until_ns {
                return Ok((latencies, sent));
            }
            sent += 1;
            self.send(Stamp { publisher: 0, seq: sent, due_ns: began_ns }).await?;
            let returned_ns = Cell::new(None);
            let books = &mut self.books;
            let mut each = |number, payload: &[u8]| {
                if books.message(number, payload).is_some_and(|stamp| stamp.seq == sent) {
                    returned_ns.set(Some(now_ns()));
                }
            };
            while now_ns() < began_ns + PATIENCE.as_nanos() as u64 {
                // A blocking client returns by itself; the timer is for the others, and made once.
                tokio::select! {
                    biased;
                    received = self.subscriber.recv(&mut each) => received?,
                    () = &mut patience => break,
                }
                if returned_ns.get().is_some() {
                    break;
                }
            }
            match returned_ns.get() {
                Some(returned_ns) => latencies.record(returned_ns - began_ns),
                None => patience = Box::pin(sleep(PATIENCE)),
            }
        }
    }
}
