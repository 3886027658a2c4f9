//! Work on one side of an emulated link: what runs there has its sockets there.

use std::future::Future;

use anyhow::{Context as _, anyhow};
use tokio::{runtime, sync::oneshot};
use twinlane_netlab::Side;

/// Makes and drives a future on a thread of `side` with a runtime of its own, to its end. What it leaves running must have
/// threads of its own.
pub(crate) async fn run_on<T: Send + 'static, F: Future<Output = anyhow::Result<T>>>(
    side: &Side,
    name: &str,
    work: impl FnOnce() -> F + Send + 'static,
) -> anyhow::Result<T> {
    let (done, outcome) = oneshot::channel();
    let thread = side.spawn(name, move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start a runtime");
        // Nobody listens when the run has already failed.
        let _ = done.send(runtime.and_then(|runtime| runtime.block_on(work())));
    });
    thread.with_context(|| format!("cannot start the thread {name}"))?;
    outcome.await.map_err(|_| anyhow!("the thread {name} panicked"))?
}
