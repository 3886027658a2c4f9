//! Messages to a store: acknowledgements per second of the window, and whether everything acknowledged is there after
//! the server was killed.

use std::{
    path::Path,
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use twinlane_bench::{clock::now_ns, payload::check};

use super::{Figures, Plan, flow::kill, on_runtime, resources::cpu_ns};
use crate::{
    store::{Desk, Store, Write as _},
    system::Setup,
};

/// The longest that connecting and the last acknowledgements may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at the counters.
const LOOK: Duration = Duration::from_millis(2);

/// What the kernel calls a file system in memory.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Runs the writer, kills the server, reads back.
///
/// # Errors
///
/// A client failed, something took too long, or what was read back was not written.
pub(super) fn run<S: Store>(system: &S, plan: &Plan, setup: &Setup) -> Result<Figures> {
    ensure_disk(&setup.directory)?;
    let server = system.start(setup)?;
    let (window, sent) = write(system, plan, setup, &server)?;
    // It is killed: what is only in its memory is gone.
    drop(server);
    let owed: u64 = sent.iter().sum();
    let mut books = Books { payload_bytes: plan.payload_bytes, found: vec![0; sent.len()], order: None };
    let server = system.start(setup).context("the server does not start again on what it kept")?;
    let read = on_runtime(system.read_back(setup, &server, owed + 1, &mut |payload| books.message(payload)));
    read.context("what was kept cannot be read back")?;
    let delivered = books.close(&sent)?;
    Ok(Figures {
        deliveries_per_second: Some(window.acked as f64 / window.seconds),
        cpu_seconds_per_million: (window.acked > 0).then(|| window.cpu_ns as f64 / 1e3 / window.acked as f64),
        owed,
        delivered,
        lost: owed - delivered,
        ..Figures::default()
    })
}

/// Nothing is durable in a file system that is memory.
fn ensure_disk(directory: &Path) -> Result<()> {
    let kind = rustix::fs::statfs(directory).context("cannot tell the file system")?.f_type;
    ensure!(
        kind as u64 != TMPFS_MAGIC,
        "{} is in memory: set TMPDIR to a directory on a disk",
        directory.display()
    );
    Ok(())
}

/// Counters at both ends of the window.
struct Window {
    seconds: f64,
    acked: u64,
    cpu_ns: u64,
}

/// The window, and what each stream has written when all is acknowledged.
fn write<S: Store>(system: &S, plan: &Plan, setup: &Setup, server: &S::Server) -> Result<(Window, Vec<u64>)> {
    let (desk, servers) = (Desk::new(plan.payload_bytes), system.processes(server));
    thread::scope(|scope| {
        let writing = || {
            on_runtime(async {
                let mut writer = system.writer(setup, server).await.context("cannot open the writer")?;
                writer.write(&desk).await
            })
        };
        let writer = thread::Builder::new().name("writer".to_owned()).spawn_scoped(scope, writing)?;
        let course = observe(&writer, plan, &desk, &servers);
        desk.end();
        let ended = wait(|| writer.is_finished(), "the last acknowledgements", || false);
        if ended.is_err() {
            // A client that blocks in a call of a server that hangs would never come back.
            kill(&servers);
        }
        let sent = writer.join().map_err(|_| anyhow!("the writer panicked"))?;
        ended?;
        let sent = sent.context("the writer")?;
        let (acked, owed) = (desk.acked(), sent.iter().sum::<u64>());
        ensure!(acked == owed, "{acked} of {owed} messages were acknowledged");
        Ok((course?, sent))
    })
}

fn observe(
    writer: &ScopedJoinHandle<'_, Result<Vec<u64>>>,
    plan: &Plan,
    desk: &Desk,
    servers: &[u32],
) -> Result<Window> {
    let has_failed = || writer.is_finished();
    wait(|| desk.acked() > 0, "the first acknowledgement", has_failed)?;
    thread::sleep(plan.warmup);
    let look = || (now_ns(), desk.acked(), cpu_ns(servers));
    let before = look();
    thread::sleep(plan.window);
    let after = look();
    ensure!(!has_failed(), "the writer ended before the run did");
    Ok(Window {
        seconds: (after.0 - before.0) as f64 / 1e9,
        acked: after.1 - before.1,
        cpu_ns: after.2.saturating_sub(before.2),
    })
}

fn wait(reached: impl Fn() -> bool, what: &str, has_failed: impl Fn() -> bool) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while !reached() {
        ensure!(!has_failed(), "the writer ended before {what}");
        if Instant::now() >= until {
            bail!("waited {PATIENCE:?} in vain for {what}");
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

/// What is found again: every stream densely from 1, in order.
struct Books {
    payload_bytes: usize,
    /// The last seq found, by stream.
    found: Vec<u64>,
    /// The first message that was not the next of its stream.
    order: Option<String>,
}

impl Books {
    fn message(&mut self, payload: &[u8]) -> Result<()> {
        let stamp = check(payload, self.payload_bytes)?;
        let stream = usize::from(stamp.publisher);
        let Some(found) = self.found.get_mut(stream) else { bail!("there is no stream {stream}") };
        if stamp.seq == *found + 1 {
            *found = stamp.seq;
        } else if self.order.is_none() {
            self.order = Some(format!("seq {} of stream {stream} follows {found}", stamp.seq));
        }
        Ok(())
    }

    /// How many messages are there. A missing end is a loss; a hole or a repeat is an error.
    fn close(&self, sent: &[u64]) -> Result<u64> {
        if let Some(order) = &self.order {
            bail!("what was kept is not what was written: {order}");
        }
        for (stream, (found, sent)) in self.found.iter().zip(sent).enumerate() {
            ensure!(found <= sent, "stream {stream} has {found} messages, of {sent} sent");
        }
        Ok(self.found.iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinlane_bench::payload::{Stamp, fill};

    fn books_of(messages: &[(u16, u64)]) -> Books {
        let mut books = Books { payload_bytes: 32, found: vec![0; 2], order: None };
        for &(publisher, seq) in messages {
            let mut payload = [0; 32];
            fill(Stamp { publisher, seq, due_ns: 0 }, &mut payload);
            books.message(&payload).unwrap();
        }
        books
    }

    #[test]
    fn streams_may_be_mixed_and_a_missing_end_is_a_loss() {
        let books = books_of(&[(0, 1), (1, 1), (1, 2), (0, 2)]);
        assert_eq!(books.close(&[2, 2]).unwrap(), 4);
        assert_eq!(books.close(&[3, 2]).unwrap(), 4);
    }

    #[test]
    fn holes_repeats_surplus_and_strangers_are_errors() {
        for messages in [&[(0, 1), (0, 3)][..], &[(0, 1), (0, 1)], &[(0, 2)]] {
            assert!(books_of(messages).close(&[3, 0]).is_err(), "{messages:?}");
        }
        assert!(books_of(&[(0, 1), (0, 2)]).close(&[1, 0]).is_err());
        let mut stranger = [0; 32];
        fill(Stamp { publisher: 2, seq: 1, due_ns: 0 }, &mut stranger);
        assert!(books_of(&[]).message(&stranger).is_err());
    }
}
