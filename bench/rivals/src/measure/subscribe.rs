//! The subscribers of a flow: receive, verify, count, until told that it is over.

use std::{pin::pin, sync::atomic::Ordering::Relaxed};

use anyhow::{Context as _, Result};
use twinlane_bench::{clock::now_ns, stats::Latencies};

use super::{Plan, books::Books, shared::Shared};
use crate::system::{Setup, Subscribe as _, System};

/// What all subscribers of a run received.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) delivered: u64,
    pub(super) out_of_order: u64,
    pub(super) latencies: Latencies,
}

/// Connects all subscribers and receives.
///
/// # Errors
///
/// The client failed, or delivered something that was not sent.
pub(super) async fn subscribe<S: System>(
    system: &S,
    plan: &Plan,
    setup: &Setup,
    server: &S::Server,
    shared: &Shared,
) -> Result<Received> {
    let subscribers = setup.subscribers;
    let mut group = system.subscribers(setup, server, subscribers).await.context("cannot subscribe")?;
    shared.connected.store(true, Relaxed);
    let mut books = Books::new(subscribers, plan.payload_bytes);
    let mut latencies = Latencies::default();
    let is_timed = plan.workload.open_loop_rate().is_some();
    let mut over = pin!(shared.over());
    while !shared.is_over() {
        let mut each = |subscriber: usize, payload: &[u8]| {
            let Some(stamp) = books.message(subscriber, payload) else { return };
            if is_timed && stamp.due_ns >= shared.window_ns.load(Relaxed) {
                latencies.record(now_ns().saturating_sub(stamp.due_ns));
            }
        };
        tokio::select! {
            biased;
            received = group.recv(&mut each) => received?,
            () = &mut over => break,
        }
        shared.set_delivered(books.delivered());
        if books.delivered() == 0 {
            shared.probed.store(books.probed(), Relaxed);
        }
    }
    books.proven()?;
    Ok(Received { delivered: books.delivered(), out_of_order: books.out_of_order(), latencies })
}
