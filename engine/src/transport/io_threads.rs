//! The threads that do I/O, and whether they sleep or spin when there is nothing to do.
//!
//! Each thread runs one single-threaded runtime, so a connection stays on the core that accepted it and its tasks
//! need no lock among themselves. Nothing here knows what the tasks do.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError, mpsc};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::error::ListenError;

/// What an I/O thread does when it has nothing to do: the choice between latency and idle CPU.
///
/// Waking a sleeping thread costs tens of microseconds per hop on common machines; a spinning one answers at once.
///
/// | policy | an idle thread uses | the first message after a pause |
/// |---|---|---|
/// | `park` | no CPU | pays a wake-up |
/// | `adaptive` (20 µs, the default) | no CPU; up to 20 µs more after each burst | pays a wake-up if the pause was longer than the spin |
/// | `spin` | one whole core per I/O thread | pays nothing |
///
/// A TCP round trip between two spinning threads of one machine fits in the default of 20 µs; a QUIC one takes
/// longer: `adaptive:50us` covers it. A spinning thread gives way to any other that wants its core, so with fewer
/// cores than threads spinning gains nothing, and costs little but CPU. In a process that may use only one core
/// `adaptive` parks.
///
/// Reads and prints as `park`, `adaptive`, `adaptive:50us` (units `ns`, `us`, `ms`) and `spin`.
///
/// ```
/// # use twinlane::IoPolicy;
/// # use std::time::Duration;
/// let policy: IoPolicy = "adaptive:50us".parse().unwrap();
/// assert_eq!(policy, IoPolicy::Adaptive { spin: Duration::from_micros(50) });
/// assert_eq!(policy.to_string(), "adaptive:50us");
/// ```
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoPolicy {
    /// Sleep at once.
    Park,
    /// Spin for a while after the last activity, then sleep.
    Adaptive {
        /// How long to spin after the last activity. Above a few hundred microseconds this is `Spin` in disguise.
        spin: Duration,
    },
    /// Never sleep.
    Spin,
}

/// A text is not an [`IoPolicy`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an I/O policy is park, adaptive, adaptive:50us (or ns, ms; at most 1 s) or spin, got {text:?}")]
pub struct IoPolicyParseError {
    text: String,
}

/// The I/O threads of one engine, or the caller's own runtime.
pub(crate) struct IoThreads {
    handles: Vec<Handle>,
    /// Empty when the runtime is the caller's.
    threads: Vec<IoThread>,
}

/// Tells this thread's policy that something was read or written. Call it once per batch; costs a nanosecond, and
/// is harmless on any other thread.
pub(crate) fn activity() {
    PULSE.with(|pulse| {
        pulse.active.set(true);
        if pulse.asleep.get() {
            pulse.wake();
        }
    });
}

impl Default for IoPolicy {
    fn default() -> Self {
        Self::Adaptive { spin: SPIN_DEFAULT }
    }
}

impl fmt::Display for IoPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Park => f.write_str("park"),
            Self::Spin => f.write_str("spin"),
            Self::Adaptive { spin: SPIN_DEFAULT } => f.write_str("adaptive"),
            Self::Adaptive { spin } if spin.subsec_nanos() % 1_000 == 0 => {
                write!(f, "adaptive:{}us", spin.as_micros())
            }
            Self::Adaptive { spin } => write!(f, "adaptive:{}ns", spin.as_nanos()),
        }
    }
}

impl FromStr for IoPolicy {
    type Err = IoPolicyParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let policy = match text.trim() {
            "park" => Some(Self::Park),
            "spin" => Some(Self::Spin),
            "adaptive" => Some(Self::default()),
            other => {
                other.strip_prefix("adaptive:").and_then(short_duration).map(|spin| Self::Adaptive { spin })
            }
        };
        policy.ok_or_else(|| IoPolicyParseError { text: text.chars().take(64).collect() })
    }
}

impl IoThreads {
    /// Starts `count` threads named `twinlane-io-0`, `twinlane-io-1`, ….
    ///
    /// # Errors
    ///
    /// [`ListenError::Thread`] if the system refuses a thread or its epoll descriptor; the ones already started
    /// end.
    ///
    /// # Panics
    ///
    /// If `count` is 0.
    pub(crate) fn start(count: usize, policy: IoPolicy) -> Result<Self, ListenError> {
        assert!(0 < count, "an engine needs at least one I/O thread");
        let mut started = Self { handles: Vec::with_capacity(count), threads: Vec::with_capacity(count) };
        for index in 0..count {
            let (thread, handle) = IoThread::start(index, policy)
                .map_err(|source| ListenError::Thread { thread: index, source })?;
            started.threads.push(thread);
            started.handles.push(handle);
        }
        Ok(started)
    }

    /// Uses the runtime of the caller: no thread is made, and the caller decides whether it spins.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub(crate) fn current() -> Self {
        Self { handles: vec![Handle::current()], threads: Vec::new() }
    }

    /// How many threads there are; 1 for the caller's runtime.
    pub(crate) fn count(&self) -> usize {
        self.handles.len()
    }

    /// Where to spawn tasks of thread `index`.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`count`](Self::count).
    pub(crate) fn handle(&self, index: usize) -> &Handle {
        &self.handles[index]
    }

    /// Drops every task, each at its next await point, and ends the threads. A thread that has not ended after
    /// `timeout` is left alone and logged. The caller's own runtime is not touched.
    ///
    /// Blocks: not for use inside one of these threads.
    pub(crate) fn shutdown(mut self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let threads: Vec<_> = self.threads.drain(..).map(IoThread::stop).collect();
        for (index, ended) in threads.into_iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            if ended.recv_timeout(left) == Err(mpsc::RecvTimeoutError::Timeout) {
                tracing::warn!(
                    thread = index,
                    ?timeout,
                    "an I/O thread did not end in time and is left alone"
                );
            }
        }
    }
}

/// Long enough for a request and its reply over TCP on one machine, short enough to cost an idle thread nothing.
const SPIN_DEFAULT: Duration = Duration::from_micros(20);

struct IoThread {
    /// Dropping it ends the thread too.
    stop: oneshot::Sender<()>,
    /// Disconnected when the thread has dropped its runtime and every task in it.
    ended: Mutex<mpsc::Receiver<()>>,
}

impl IoThread {
    fn start(index: usize, policy: IoPolicy) -> std::io::Result<(Self, Handle)> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let (alive, ended) = mpsc::channel::<()>();
        thread::Builder::new().name(format!("twinlane-io-{index}")).spawn(move || {
            let _alive = alive;
            match policy {
                IoPolicy::Park => {}
                // Whoever would answer needs this one core.
                IoPolicy::Adaptive { .. }
                    if thread::available_parallelism().is_ok_and(|cores| cores.get() == 1) => {}
                IoPolicy::Adaptive { spin } => drop(runtime.spawn(spin_after_activity(spin))),
                IoPolicy::Spin => drop(runtime.spawn(spin_for_ever())),
            }
            // Either way it is time to end: asked to, or the owner is gone.
            let _ = runtime.block_on(stopped);
            drop(runtime);
        })?;
        Ok((Self { stop, ended: Mutex::new(ended) }, handle))
    }

    fn stop(self) -> mpsc::Receiver<()> {
        // An error means that the thread has ended already.
        let _ = self.stop.send(());
        self.ended.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether something happened on this thread, as the spinning task sees it.
struct Pulse {
    active: Cell<bool>,
    asleep: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

thread_local! {
    static PULSE: Pulse =
        const { Pulse { active: Cell::new(false), asleep: Cell::new(false), waker: RefCell::new(None) } };
}

impl Pulse {
    #[cold]
    fn wake(&self) {
        self.asleep.set(false);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// Keeps the runtime polling its sockets without sleeping until nothing has happened for `spin`.
async fn spin_after_activity(spin: Duration) {
    loop {
        let mut sleep_at = Instant::now() + spin;
        loop {
            let was_active = look_around().await;
            let now = Instant::now();
            if was_active {
                sleep_at = now + spin;
            } else if sleep_at <= now {
                break;
            }
        }
        poll_fn(|cx| {
            PULSE.with(|pulse| {
                if pulse.active.take() {
                    return Poll::Ready(());
                }
                pulse.waker.replace(Some(cx.waker().clone()));
                pulse.asleep.set(true);
                Poll::Pending
            })
        })
        .await;
    }
}

async fn spin_for_ever() {
    loop {
        look_around().await;
    }
}

/// One turn of spinning: every socket and every other task of this thread is looked at once. Returns whether there
/// was something to do.
async fn look_around() -> bool {
    tokio::task::yield_now().await;
    let was_active = PULSE.with(|pulse| pulse.active.take());
    if !was_active {
        // The peer may be a thread that waits for this very core: without this each hop would last a whole spin.
        // Not after activity: what was just read is still to be answered by another task of this thread.
        thread::yield_now();
    }
    was_active
}

/// `50us`, `200ns`, `1ms`: above zero, at most one second.
fn short_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let nanos = match unit {
        "ns" => Some(number),
        "us" | "µs" => number.checked_mul(1_000),
        "ms" => number.checked_mul(1_000_000),
        _ => None,
    };
    nanos.filter(|nanos| (1..=1_000_000_000).contains(nanos)).map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_prints_what_it_reads() {
        for text in ["park", "adaptive", "adaptive:50us", "adaptive:1500ns", "spin"] {
            assert_eq!(text.parse::<IoPolicy>().unwrap().to_string(), text);
        }
        assert_eq!("adaptive:1ms".parse(), Ok(IoPolicy::Adaptive { spin: Duration::from_millis(1) }));
        assert_eq!("adaptive:20us".parse(), Ok(IoPolicy::default()));
    }

    #[test]
    fn a_text_that_is_no_policy_is_refused() {
        for text in
            ["", "Spin", "adaptive:", "adaptive:5", "adaptive:0us", "adaptive:2000ms", "adaptive:-1us"]
        {
            let error = text.parse::<IoPolicy>().unwrap_err().to_string();
            assert!(error.contains(&format!("got {text:?}")), "{error}");
        }
    }
}
