//! The threads of a run: groups of clients, each with a runtime of its own, and waiting for them with a deadline.

use std::{future::Future, thread, time::Duration};

use anyhow::{Context as _, Error, anyhow, bail};
use indicatif::ProgressBar;
use tokio::{
    runtime,
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, timeout_at},
};
use twinlane_netlab::Side;

/// How long all clients together may take to connect, and all books to settle.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How often the progress bar moves.
const TICK: Duration = Duration::from_millis(200);

/// Threads whose clients bring home a `T` each.
pub(crate) struct Crews<T> {
    running: JoinSet<anyhow::Result<T>>,
    home: Vec<T>,
}

impl<T: Send + 'static> Crews<T> {
    pub(crate) fn new() -> Self {
        Self { running: JoinSet::new(), home: Vec::new() }
    }

    /// Runs `clients` on a thread of its own, with a runtime of its own: a group of clients neither steals from nor
    /// waits for another group's runtime, and the kernel decides which of them shares a core.
    pub(crate) fn start(
        &mut self,
        name: String,
        clients: impl Future<Output = anyhow::Result<T>> + Send + 'static,
    ) -> anyhow::Result<()> {
        self.start_on(None, name, clients)
    }

    /// As [`Self::start`], on one side of an emulated link.
    pub(crate) fn start_on(
        &mut self,
        side: Option<&Side>,
        name: String,
        clients: impl Future<Output = anyhow::Result<T>> + Send + 'static,
    ) -> anyhow::Result<()> {
        let (done, outcome) = oneshot::channel();
        let runtime =
            runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
        let thread = thread::Builder::new().name(name.clone());
        let side = side.cloned();
        let spawned = thread.spawn(move || {
            if let Some(Err(error)) = side.map(|side| side.enter()) {
                // Nobody listens when the run has already failed.
                let _ = done.send(Err(error.into()));
                return;
            }
            // As a task of its own, like an application's: the future that a runtime blocks on is woken differently,
            // and tokio looks for events once more before it sleeps, one `epoll_wait` for every round trip.
            let clients = runtime.spawn(clients);
            let outcome = runtime.block_on(clients).map_err(Error::from).flatten();
            // Nobody listens when the run has already failed.
            let _ = done.send(outcome);
        });
        spawned.with_context(|| format!("cannot start the thread {name}"))?;
        self.running.spawn(async move { outcome.await.map_err(|_| anyhow!("the thread {name} panicked"))? });
        Ok(())
    }

    /// Waits until as many `clients` are ready. An error of one crew is the error of the run.
    pub(crate) async fn ready(
        &mut self,
        ready: &mut mpsc::Receiver<()>,
        clients: usize,
    ) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        for connected in 0..clients {
            tokio::select! {
                _ = ready.recv() => {}
                ended = Self::next(&mut self.running, until, "the clients to connect") => {
                    ended.with_context(|| format!("{connected} of {clients} clients had connected"))?;
                    bail!("a client ended before the start");
                }
            }
        }
        Ok(())
    }

    /// Waits until `until`, unless a crew fails first.
    pub(crate) async fn watch(&mut self, until: Instant, bar: &ProgressBar) -> anyhow::Result<()> {
        while Instant::now() < until {
            let (from, tick) = (Instant::now(), until.min(Instant::now() + TICK));
            match timeout_at(tick, self.running.join_next()).await {
                Ok(Some(joined)) => self.home.push(joined.context("a task of the benchmark panicked")??),
                Ok(None) => bail!("every client ended before the window did"),
                Err(_) => bar.inc(from.elapsed().as_millis() as u64),
            }
        }
        Ok(())
    }

    /// Waits until one of those that are home is what `wanted` finds, at most until `until`.
    pub(crate) async fn find<W>(
        &mut self,
        wanted: impl Fn(&T) -> Option<W>,
        until: Instant,
        waiting_for: &str,
    ) -> anyhow::Result<W> {
        loop {
            if let Some(found) = self.home.iter().find_map(&wanted) {
                return Ok(found);
            }
            self.home.push(Self::next(&mut self.running, until, waiting_for).await?);
        }
    }

    /// Waits until all are home.
    pub(crate) async fn all(self, waiting_for: &str) -> anyhow::Result<Vec<T>> {
        self.all_within(PATIENCE, waiting_for).await
    }

    /// As [`Self::all`], for what may take longer.
    pub(crate) async fn all_within(
        mut self,
        patience: Duration,
        waiting_for: &str,
    ) -> anyhow::Result<Vec<T>> {
        let until = Instant::now() + patience;
        while !self.running.is_empty() {
            self.home.push(Self::next(&mut self.running, until, waiting_for).await?);
        }
        Ok(self.home)
    }

    async fn next(
        running: &mut JoinSet<anyhow::Result<T>>,
        until: Instant,
        waiting_for: &str,
    ) -> anyhow::Result<T> {
        match timeout_at(until, running.join_next()).await {
            Ok(Some(joined)) => joined.context("a task of the benchmark panicked")?,
            Ok(None) => bail!("no thread is left"),
            Err(_) => bail!("waited in vain for {waiting_for}"),
        }
    }
}
