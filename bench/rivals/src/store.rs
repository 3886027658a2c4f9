//! What a system that keeps messages is to this harness: a server on a directory, a writer, and a way to read back.
//!
//! The harness makes and numbers the payloads, counts what was acknowledged while it writes, kills the server, starts
//! it again on the same directory and reads everything back: what was acknowledged and is not there is lost, whatever
//! the system says. That proves what is in files; that a system waits for the disk, its settings say.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use anyhow::Result;
use crossbeam_utils::CachePadded;
use twinlane_bench::payload::{Stamp, fill};

use crate::{
    measure::{self, Figures, Plan, Workload},
    system::{AnySystem, Setup},
};

/// A system that keeps messages and says when it has.
///
/// The order of calls is `start`, `writer`, the server is dropped and must then be gone; `start` again, `read_back`.
pub trait Store: Send + Sync + 'static {
    /// Whatever must live during a run: child processes and addresses, or nothing.
    type Server: Send + Sync;
    /// The clients that write, all on one thread.
    type Writer: Write;

    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// What exactly is measured, in one line.
    fn about(&self) -> &'static str;

    /// What is missing here and how to get it; `None`: it can run.
    fn missing(&self, _setup: &Setup) -> Option<String> {
        None
    }

    /// Starts the server on loopback and returns once it accepts clients. Started a second time, it has what is in
    /// the run's directory.
    ///
    /// # Errors
    ///
    /// Says what did not start.
    fn start(&self, setup: &Setup) -> Result<Self::Server>;

    /// Processes whose CPU time is the server's.
    fn processes(&self, server: &Self::Server) -> Vec<u32>;

    /// Connects the writer.
    fn writer(&self, setup: &Setup, server: &Self::Server) -> impl Future<Output = Result<Self::Writer>>;

    /// Hands what is kept to `each`, oldest first: `messages_max` messages, or fewer if there are no more.
    fn read_back(
        &self,
        setup: &Setup,
        server: &Self::Server,
        messages_max: u64,
        each: &mut impl FnMut(&[u8]) -> Result<()>,
    ) -> impl Future<Output = Result<()>>;
}

/// The writing side of a store.
pub trait Write {
    /// Stores messages of one stream or more until [`Desk::is_enough`], and returns when every one of them is
    /// acknowledged: how many there are, by stream.
    fn write(&mut self, desk: &Arc<Desk>) -> impl Future<Output = Result<Vec<u64>>>;
}

/// Where a writer gets its messages and hands in what was acknowledged.
#[derive(Debug)]
pub struct Desk {
    payload_bytes: usize,
    enough: AtomicBool,
    acked: CachePadded<AtomicU64>,
}

/// The messages of one stream, numbered from 1.
#[derive(Debug)]
pub struct Stream {
    number: u16,
    seq: u64,
    payload: Vec<u8>,
}

impl Desk {
    pub(crate) fn new(payload_bytes: usize) -> Arc<Self> {
        let (enough, acked) = (AtomicBool::new(false), CachePadded::default());
        Arc::new(Self { payload_bytes, enough, acked })
    }

    /// The messages of stream `number`; each number is used once.
    #[must_use]
    pub fn stream(&self, number: u16) -> Stream {
        Stream { number, seq: 0, payload: vec![0; self.payload_bytes] }
    }

    /// Whether to write no more.
    #[must_use]
    pub fn is_enough(&self) -> bool {
        self.enough.load(Relaxed)
    }

    /// Counts `messages` more as acknowledged. All writers live on one thread.
    pub fn add_acked(&self, messages: u64) {
        self.acked.store(self.acked.load(Relaxed) + messages, Relaxed);
    }

    pub(crate) fn acked(&self) -> u64 {
        self.acked.load(Relaxed)
    }

    pub(crate) fn end(&self) {
        self.enough.store(true, Relaxed);
    }
}

impl Stream {
    /// The next message.
    pub fn next_payload(&mut self) -> &[u8] {
        self.seq += 1;
        fill(Stamp { publisher: self.number, seq: self.seq, due_ns: 0 }, &mut self.payload);
        &self.payload
    }

    /// How many messages were taken from it.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.seq
    }
}

/// A store among the systems.
pub(crate) struct Kept<S>(pub(crate) S);

impl<S: Store> AnySystem for Kept<S> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn about(&self) -> &'static str {
        self.0.about()
    }

    fn missing(&self, setup: &Setup) -> Option<String> {
        self.0.missing(setup)
    }

    fn takes_part(&self, workload: Workload) -> bool {
        workload == Workload::Durable
    }

    fn measure(&self, plan: &Plan, setup: &Setup) -> Result<Figures> {
        measure::run_store(&self.0, plan, setup)
    }
}
