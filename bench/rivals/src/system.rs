//! What a messaging system is to this harness: a server, a publisher, and a group of subscribers.
//!
//! The same workload code drives every system through these traits, with static dispatch: no boxing, no
//! channel and no `block_on` stands between a workload and a client. Everything a system makes stays on the
//! thread that asked for it, each with a current-thread tokio runtime; a blocking client simply blocks there.

use std::{future::Future, path::PathBuf};

use anyhow::Result;

use crate::measure::{self, Figures, Plan};

/// The one topic, subject or channel of every run.
pub const TOPIC: &str = "rivals";

/// The longest a blocking [`Subscribe::recv`] may keep its thread without a message.
pub const BLOCK_MAX: std::time::Duration = std::time::Duration::from_millis(100);

/// What a system needs to know to start and to connect.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Bytes of every payload of this run, so that a client without framing can cut its stream.
    pub payload_bytes: usize,
    /// Subscribers of the run, all groups together.
    pub subscribers: usize,
    /// This program: its hidden subcommands are relays, echo servers and routers.
    pub harness: PathBuf,
    /// twinlane's server program.
    pub twinlane: PathBuf,
    /// Further arguments of `twinlane serve`.
    pub twinlane_args: Vec<String>,
    /// A directory of this run alone, for configuration, certificates and logs.
    pub directory: PathBuf,
}

/// A messaging system.
///
/// The order of calls is `start`, all `subscribers`, `publisher`; or `start`, `pair`. The server is dropped
/// last, and must then be gone.
pub trait System: Send + Sync + 'static {
    /// Whatever must live during a run: child processes and addresses, or nothing.
    type Server: Send + Sync;
    /// The publishing client.
    type Publisher: Publish;
    /// A group of subscribing clients.
    type Subscribers: Subscribe;

    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// What exactly is measured, in one line.
    fn about(&self) -> &'static str;

    /// What is missing here and how to get it; `None`: it can run.
    fn missing(&self, _setup: &Setup) -> Option<String> {
        None
    }

    /// Whether it takes part in a workload.
    fn takes_part(&self, _workload: measure::Workload) -> bool {
        true
    }

    /// For a system that has no back-pressure from end to end: the messages that may be under way (to each
    /// subscriber, on average) when the publisher runs flat out. The harness keeps that window for it, which costs it
    /// little and saves it losses. It should last some milliseconds.
    fn window_messages(&self) -> Option<u64> {
        None
    }

    /// Starts the server on loopback and returns once it accepts clients.
    ///
    /// # Errors
    ///
    /// Says what did not start.
    fn start(&self, setup: &Setup) -> Result<Self::Server>;

    /// The server's processes, whose CPU time and memory are counted.
    fn processes(&self, server: &Self::Server) -> Vec<u32>;

    /// Connects the publisher.
    fn publisher(
        &self,
        setup: &Setup,
        server: &Self::Server,
    ) -> impl Future<Output = Result<Self::Publisher>>;

    /// Connects `count` subscribers of [`TOPIC`], each with a connection of its own. Where the system can tell,
    /// returns when they are subscribed.
    fn subscribers(
        &self,
        setup: &Setup,
        server: &Self::Server,
        count: usize,
    ) -> impl Future<Output = Result<Self::Subscribers>>;

    /// One client that publishes and receives what it published: the round trip. Both halves live on one thread.
    fn pair(
        &self,
        setup: &Setup,
        server: &Self::Server,
    ) -> impl Future<Output = Result<(Self::Publisher, Self::Subscribers)>> {
        async move {
            let subscribers = self.subscribers(setup, server, 1).await?;
            Ok((self.publisher(setup, server).await?, subscribers))
        }
    }
}

/// A publishing client.
pub trait Publish {
    /// Queues one message; waits only for the system's own back-pressure.
    fn send(&mut self, payload: &[u8]) -> impl Future<Output = Result<()>>;

    /// Puts everything queued on its way, without waiting for anybody. Not called while running flat out: then
    /// `send` itself decides when a batch is worth a write, and the harness yields to the runtime every 64 KiB.
    fn flush(&mut self) -> impl Future<Output = Result<()>>;

    /// As [`Self::flush`], for a caller that then waits for an answer. A client whose connection is a task of this
    /// runtime has nothing to do: the task gets its turn by that.
    fn flush_before_waiting(&mut self) -> impl Future<Output = Result<()>> {
        self.flush()
    }

    /// Ends the stream: everything sent has left this process. Called once, at the end.
    fn finish(&mut self) -> impl Future<Output = Result<()>> {
        self.flush()
    }
}

/// A group of subscribers on one thread.
pub trait Subscribe {
    /// Waits for messages and hands everything at hand to `each`: (number within the group, payload). Returns after
    /// at least one message, or after at most [`BLOCK_MAX`] if it blocks its thread. Cancel-safe: what was not
    /// handed to `each` comes with the next call.
    fn recv(&mut self, each: &mut impl FnMut(usize, &[u8])) -> impl Future<Output = Result<()>>;
}

/// Any [`System`], for lists.
pub trait AnySystem: Send + Sync {
    /// [`System::name`].
    fn name(&self) -> &'static str;
    /// [`System::about`].
    fn about(&self) -> &'static str;
    /// [`System::missing`].
    fn missing(&self, setup: &Setup) -> Option<String>;
    /// [`System::takes_part`].
    fn takes_part(&self, workload: measure::Workload) -> bool;
    /// Runs one workload once.
    ///
    /// # Errors
    ///
    /// The system failed, or delivered something that was not sent.
    fn measure(&self, plan: &Plan, setup: &Setup) -> Result<Figures>;
}

impl<S: System> AnySystem for S {
    fn name(&self) -> &'static str {
        System::name(self)
    }

    fn about(&self) -> &'static str {
        System::about(self)
    }

    fn missing(&self, setup: &Setup) -> Option<String> {
        System::missing(self, setup)
    }

    fn takes_part(&self, workload: measure::Workload) -> bool {
        workload != measure::Workload::Durable && System::takes_part(self, workload)
    }

    fn measure(&self, plan: &Plan, setup: &Setup) -> Result<Figures> {
        measure::run(self, plan, setup)
    }
}
