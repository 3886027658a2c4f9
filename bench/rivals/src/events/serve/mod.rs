//! The servers written in Rust: the same handlers with either library, or with none.
//!
//! - `/`: event `echo` is acknowledged with its argument.
//! - `/control`: event `credit` says up to which number events may be emitted; they go to everybody in `/`.

mod raw;
#[cfg(feature = "events")]
mod socketioxide;
#[cfg(feature = "events")]
mod twinlane;

#[cfg(feature = "events")]
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
#[cfg(feature = "events")]
use tokio::sync::Notify;

use super::{
    contender::Contender,
    fanout::{EVENT_BYTES, NUMBER_DIGITS},
};

/// The longest queue that may form for one client: more than any window.
#[cfg(feature = "events")]
const QUEUE_EVENTS_MAX: usize = 4_096;

/// Serves until it is killed.
///
/// # Errors
///
/// It cannot listen, an event could not be emitted, or it is not compiled in.
pub(super) fn run(system: Contender, port: u16) -> Result<()> {
    match system {
        Contender::Raw => raw::serve(port),
        #[cfg(feature = "events")]
        Contender::Twinlane => on_a_worker(twinlane::serve(port)),
        #[cfg(feature = "events")]
        Contender::Socketioxide => on_a_worker(socketioxide::serve(port)),
        _ => anyhow::bail!("{system} does not run in this program"),
    }
}

/// Emits where handlers emit: on a worker of the runtime, not on the thread that waits for its end.
#[cfg(feature = "events")]
fn on_a_worker(serving: impl Future<Output = Result<()>> + Send + 'static) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(runtime.spawn(serving))?
}

/// The argument of event number `seq`.
fn text(seq: u64) -> String {
    format!("{seq:0NUMBER_DIGITS$}{:x<1$}", "", EVENT_BYTES - NUMBER_DIGITS)
}

/// How far the load client lets the server go.
#[cfg(feature = "events")]
#[derive(Debug, Default)]
struct Credit {
    events: AtomicU64,
    grown: Notify,
}

#[cfg(feature = "events")]
impl Credit {
    fn give(&self, events: u64) {
        self.events.fetch_max(events, Ordering::AcqRel);
        self.grown.notify_one();
    }

    /// The argument of the event after number `emitted`, as soon as there is credit for it.
    async fn next(&self, emitted: &mut u64) -> String {
        while *emitted >= self.events.load(Ordering::Acquire) {
            self.grown.notified().await;
        }
        *emitted += 1;
        text(*emitted)
    }
}
