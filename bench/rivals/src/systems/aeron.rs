//! Aeron by its C client and C media driver: over UDP on loopback, and over IPC (shared memory).
//!
//! The media driver is a process of its own with Aeron's defaults: one thread each for conductor, sender and receiver,
//! which back off when idle. Publisher and subscribers are exclusive publications and subscriptions of clients of their
//! own. Aeron's flow control holds the publisher up, so nothing is lost.
//!
//! A client that waits spins and yields, as Aeron's clients do; it never sleeps. That is fast while a core is free,
//! and costs CPU time in every workload.
//!
//! Aeron is no broker: several subscriptions of one client to one channel read the same buffer, which the media driver
//! has filled once. Its fan-out is not comparable with that of separate connections, and is left out beyond 16.

use std::{
    fmt::Display,
    path::Path,
    thread::{self, yield_now},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rusteron_client::{
    Aeron, AeronExclusivePublication, AeronOfferError, AeronSubscription, Handlers, IntoCString as _,
};
use rusteron_media_driver::{AeronDriver, AeronDriverContext};
use tempfile::TempDir;

use crate::{
    measure::Workload,
    process::{Process, free_port},
    system::{AnySystem, BLOCK_MAX, Publish, Setup, Subscribe, System},
};

/// The stream of every run; its name is the topic's counterpart.
const STREAM: i32 = 1_001;

/// The longest that a message may wait for the subscribers.
const PATIENCE: Duration = Duration::from_secs(10);

/// Fragments taken from one subscription before the next has its turn.
const TURN_FRAGMENTS: usize = 256;

/// Looks at a buffer between two yields to other threads.
const SPINS: u32 = 100;

/// The longest message in one fragment of the default MTU; the assembly of longer ones is not measured here.
const PAYLOAD_BYTES_MAX: usize = 1_376;

/// Where the media driver keeps its buffers: memory, not a disk.
const SHARED_MEMORY: &str = "/dev/shm";

pub(super) fn systems() -> Vec<Box<dyn AnySystem>> {
    vec![
        Box::new(AeronOver {
            name: "aeron-udp",
            about: "Aeron over UDP, no broker; C driver and client",
            is_udp: true,
        }),
        Box::new(AeronOver {
            name: "aeron-ipc",
            about: "Aeron over shared memory; C driver and client",
            is_udp: false,
        }),
    ]
}

/// A media driver in `directory`; runs until it is killed.
///
/// # Errors
///
/// The driver cannot start, or fails.
pub(crate) fn driver(directory: &str) -> Result<()> {
    let context = AeronDriverContext::new().map_err(failed)?;
    context.set_dir(&directory.into_c_string()).map_err(failed)?;
    context.set_dir_delete_on_start(true).map_err(failed)?;
    let driver = AeronDriver::new(&context).map_err(failed)?;
    driver.start(true).map_err(failed)?;
    loop {
        driver.main_idle_strategy(driver.main_do_work().map_err(failed)?);
    }
}

struct AeronOver {
    name: &'static str,
    about: &'static str,
    is_udp: bool,
}

/// The driver process, and where clients find it.
struct Driver {
    // Ends before its directory is removed.
    process: Process,
    directory: TempDir,
    channel: String,
}

/// A publication with its client.
struct AeronPublisher {
    publication: AeronExclusivePublication,
}

/// Subscriptions of one client.
struct AeronSubscribers {
    subscriptions: Vec<AeronSubscription>,
}

impl System for AeronOver {
    type Server = Driver;
    type Publisher = AeronPublisher;
    type Subscribers = AeronSubscribers;

    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn missing(&self, _setup: &Setup) -> Option<String> {
        (!Path::new(SHARED_MEMORY).is_dir()).then(|| format!("mount a tmpfs at {SHARED_MEMORY}"))
    }

    fn takes_part(&self, workload: Workload) -> bool {
        match workload {
            Workload::Fanout100 | Workload::Fanout1000 | Workload::Idle => false,
            // One thread that writes into memory and reads it back is no round trip.
            Workload::Roundtrip | Workload::RoundtripHot | Workload::RoundtripPinned => self.is_udp,
            _ => true,
        }
    }

    fn start(&self, setup: &Setup) -> Result<Driver> {
        ensure!(
            setup.payload_bytes <= PAYLOAD_BYTES_MAX,
            "payloads of {} bytes: here Aeron carries at most {PAYLOAD_BYTES_MAX}",
            setup.payload_bytes
        );
        let directory = tempfile::Builder::new().prefix("rivals-aeron-").tempdir_in(SHARED_MEMORY)?;
        let place = directory.path().join("driver");
        let mut process = Process::harness(setup, "aeron-driver", &[place.display().to_string()])?;
        let connected = |_: &Process| Aeron::connect_dir(&place.to_string_lossy()).ok().map(drop);
        process.wait_for("accepting clients", connected)?;
        let channel = if self.is_udp {
            format!("aeron:udp?endpoint=127.0.0.1:{}", free_port()?)
        } else {
            "aeron:ipc".to_owned()
        };
        Ok(Driver { process, directory, channel })
    }

    fn processes(&self, server: &Driver) -> Vec<u32> {
        vec![server.process.id()]
    }

    async fn publisher(&self, _setup: &Setup, server: &Driver) -> Result<AeronPublisher> {
        let adding = server
            .client()?
            .async_add_exclusive_publication(&server.channel.as_str().into_c_string(), STREAM);
        let publication = adding.map_err(failed)?.poll_blocking(PATIENCE).map_err(failed)?;
        let until = Instant::now() + PATIENCE;
        while !publication.is_connected() {
            ensure!(Instant::now() < until, "no subscriber was found in {PATIENCE:?}");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(AeronPublisher { publication })
    }

    async fn subscribers(&self, _setup: &Setup, server: &Driver, count: usize) -> Result<AeronSubscribers> {
        let client = server.client()?;
        let channel = server.channel.as_str().into_c_string();
        let add = |_| {
            let adding = client.async_add_subscription(&channel, STREAM, Handlers::NONE, Handlers::NONE);
            adding.map_err(failed)?.poll_blocking(PATIENCE).map_err(failed)
        };
        Ok(AeronSubscribers { subscriptions: (0..count).map(add).collect::<Result<_>>()? })
    }
}

impl Driver {
    fn client(&self) -> Result<Aeron> {
        let directory = self.directory.path().join("driver");
        Aeron::connect_dir(&directory.to_string_lossy())
            .map_err(failed)
            .context("cannot reach the media driver")
    }
}

impl Publish for AeronPublisher {
    async fn send(&mut self, payload: &[u8]) -> Result<()> {
        let mut refused: u32 = 0;
        let mut until = None;
        loop {
            match self.publication.offer(payload) {
                Ok(_) => return Ok(()),
                Err(error) if error.is_retryable() => {}
                Err(AeronOfferError::Error(error)) => return Err(failed(error)),
                Err(error) => bail!("the publication failed: {error}"),
            }
            refused += 1;
            if !refused.is_multiple_of(SPINS) {
                std::hint::spin_loop();
                continue;
            }
            // The clock is read only where the wait is long already.
            let now = Instant::now();
            ensure!(
                now < *until.get_or_insert(now + PATIENCE),
                "no subscriber took a message for {PATIENCE:?}"
            );
            yield_now();
        }
    }

    /// What is in the log buffer is on its way.
    async fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Subscribe for AeronSubscribers {
    async fn recv(&mut self, each: &mut impl FnMut(usize, &[u8])) -> Result<()> {
        let mut until = None;
        for looks in 1_u32.. {
            let mut fragments = 0;
            for (number, subscription) in self.subscriptions.iter().enumerate() {
                let polled = subscription.poll_fn(|payload, _| each(number, payload), TURN_FRAGMENTS);
                fragments += polled.map_err(failed)?;
            }
            if fragments > 0 {
                break;
            }
            if !looks.is_multiple_of(SPINS) {
                std::hint::spin_loop();
                continue;
            }
            let now = Instant::now();
            if now >= *until.get_or_insert(now + BLOCK_MAX) {
                break;
            }
            yield_now();
        }
        Ok(())
    }
}

fn failed(error: impl Display) -> anyhow::Error {
    anyhow!("aeron: {error}")
}
