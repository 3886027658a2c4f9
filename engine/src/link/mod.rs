//! One connection of a session: its reader, its writer, its datagrams, and the state machine between them.
//!
//! ```text
//!  stream ─► reader ─┬─ control frames ─► proto::Session ─► Peer::event
//!                    └─ runs of messages ────────────────► Peer::frames
//!  rings ─► outlets ─┬─► writer ─► stream         control frames go first
//!                    └─► datagram writer ─► QUIC   fast topics, while there is a QUIC connection
//! ```
//!
//! Client and server use the same link; what differs is their [`Peer`]. A link knows no topic, retries nothing
//! and reconnects nothing. Every wait in it has a deadline.

mod datagrams;
mod fragments;
mod guest;
mod health;
pub(crate) mod liveness;
mod outlet;
mod read_buffer;
mod reader;
mod redundancy;
mod stream_writer;
mod write_batch;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use atomic_waker::AtomicWaker;
use bytes::Bytes;
use tokio::sync::Notify;
use twinlane_proto::session::{Event, Input, Output};
use twinlane_proto::{Code, Control, ProtocolError, Session};

use crate::lock::lock;
use crate::transport::{Carrier, Stream, activity};
use datagrams::DatagramCounts;
use guest::Guest;

pub(crate) use outlet::{Commands, Outlet, OutletOwner, Seat, Verdict};

/// Control frames that wait for a peer to read: far more than an honest one leaves unread, for whom we stop reading
/// before ([`Peer::answers_bytes_max`]).
const CONTROL_QUEUE_BYTES_MAX: usize = 4 << 20;

/// How long the last bytes of a closing connection may take.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// A piece of a run that arrived: some of its frames, checked by the decoder.
pub(crate) struct Piece<'b> {
    pub(crate) lane: u32,
    /// Number of the first frame: its offset (from a server) or seq (from a client).
    pub(crate) first: u64,
    pub(crate) topic: u32,
    /// A part of the memory that was read into.
    pub(crate) bytes: Bytes,
    /// Ends of the frames within `bytes`.
    pub(crate) ends: &'b [u32],
}

/// Why a connection ends.
#[derive(Debug, Clone)]
pub(crate) struct Closing {
    pub(crate) code: Code,
    pub(crate) reason: String,
}

impl Closing {
    pub(crate) fn new(code: Code, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }
}

/// What one role does with what arrives. Calls come from the link's tasks, one reader at a time, and must not block.
pub(crate) trait Peer: Send + Sync + 'static {
    /// A control message, already checked for role, phase and limits.
    fn event(&self, link: &Arc<Link>, event: Event);
    /// Messages. An error ends the connection.
    fn frames(&self, link: &Arc<Link>, piece: Piece<'_>) -> Result<(), Closing>;
    /// The QUIC connection went away; fast topics are on the stream again.
    fn datagrams_lost(&self, link: &Arc<Link>, why: &str);
    /// Bytes of answers that may wait for the other side: with more, nothing further is read from it until it has read
    /// some. Only one side of a connection may have a bound, or both could wait for each other.
    fn answers_bytes_max(&self) -> Option<usize> {
        None
    }
    /// The connection is over. Called once.
    fn closed(&self, link: &Arc<Link>, closing: &Closing);
}

/// One connection. Shared by its tasks and by whoever sends on it.
pub(crate) struct Link {
    pub(crate) carrier: Carrier,
    peer: Arc<dyn Peer>,
    state: Mutex<State>,
    writer: AtomicWaker,
    /// The reader, while too many answers wait.
    reader: AtomicWaker,
    /// Outlets for the stream's writer and for the datagram writer.
    stream: Commands,
    datagrams: Commands,
    has_datagrams: AtomicBool,
    datagram_counts: DatagramCounts,
    guest: Mutex<Guest>,
    detached: Notify,
    finished: AtomicBool,
    over: AtomicBool,
    over_notify: Notify,
}

struct State {
    session: Session,
    /// The moment of the session's last traffic or tick.
    at: Instant,
    control: Vec<u8>,
    deadline: Option<Instant>,
    /// Set once: write what is there, then close.
    closing: Option<Closing>,
}

impl State {
    /// The clock is read where time matters: what is decoded arrived when the session heard of traffic, and reading it for
    /// each run and each answer took a thousand topics 4 % of their time.
    fn handle(&mut self, input: Input<'_>) -> Result<(), ProtocolError> {
        if matches!(input, Input::Traffic | Input::Tick) {
            self.at = now();
        }
        self.session.handle(self.at, input)
    }

    /// A peer that asks and asks and never reads the answers is cut off.
    fn queue_control(&mut self, frame: &[u8]) {
        if self.control.len() + frame.len() <= CONTROL_QUEUE_BYTES_MAX {
            return self.control.extend_from_slice(frame);
        }
        self.control = Vec::new();
        let reason = format!("more than {CONTROL_QUEUE_BYTES_MAX} bytes of answers were not read");
        self.closing.get_or_insert(Closing { code: Code::SlowConsumer, reason });
    }
}

impl Link {
    /// Runs a connection on the current runtime until it closes.
    pub(crate) fn spawn(stream: Stream, session: Session, peer: Arc<dyn Peer>) -> Arc<Self> {
        let state = State { session, at: now(), control: Vec::new(), deadline: None, closing: None };
        let link = Arc::new(Self {
            carrier: stream.carrier(),
            peer,
            state: Mutex::new(state),
            writer: AtomicWaker::new(),
            reader: AtomicWaker::new(),
            stream: Commands::new(),
            datagrams: Commands::closed(),
            has_datagrams: AtomicBool::new(false),
            datagram_counts: DatagramCounts::default(),
            guest: Mutex::default(),
            detached: Notify::new(),
            finished: AtomicBool::new(false),
            over: AtomicBool::new(false),
            over_notify: Notify::new(),
        });
        link.pump(lock(&link.state));
        let taken = stream.taken();
        let (read_half, write_half) = tokio::io::split(stream);
        tokio::spawn(reader::run(Arc::clone(&link), read_half));
        tokio::spawn(stream_writer::run(Arc::clone(&link), write_half, taken));
        link
    }

    /// Sends a control message.
    pub(crate) fn send(self: &Arc<Self>, message: Control) {
        self.input(Input::Send(message));
    }

    /// Says goodbye, writes what is waiting, and closes.
    pub(crate) fn close(self: &Arc<Self>, code: Code, reason: &str) {
        self.input(Input::Close { code, reason: reason.to_owned() });
    }

    /// Feeds the session and acts on what it wants.
    pub(crate) fn input(self: &Arc<Self>, input: Input<'_>) {
        let mut state = lock(&self.state);
        if let Err(error) = state.handle(input) {
            let (code, reason) = (error.code(), error.to_string());
            if error.is_ours() {
                tracing::warn!(%error, "a control message could not be sent");
                return self.pump(state);
            }
            let _ = state.handle(Input::Close { code, reason: reason.clone() });
            state.closing.get_or_insert(Closing { code, reason });
        }
        self.pump(state);
    }

    /// Sends runs of a ring from now on: fast ones in datagrams while there are any, the others on the stream.
    pub(crate) fn add_outlet(&self, seat: Seat) {
        let seat = Box::new(seat);
        let refused = if seat.outlet.fast { self.datagrams.add(seat) } else { Err(seat) };
        if let Err(seat) = refused {
            // Refused here as well: the connection is over and its outlets with it.
            let _ = self.stream.add(seat);
        }
    }

    /// Stops sending on `lane`.
    pub(crate) fn remove_outlets(&self, lane: u32) {
        self.stream.remove(lane);
        self.datagrams.remove(lane);
    }

    /// Sends what there is on `lane`, and what may not have arrived, on the stream from now on: the lane is about to be
    /// closed.
    pub(crate) fn finish_on_stream(&self, lane: u32) {
        self.datagrams.move_lane(lane);
    }

    pub(crate) async fn wait_over(&self) {
        while !self.is_over() {
            let notified = self.over_notify.notified();
            if self.is_over() {
                return;
            }
            notified.await;
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// The reader is done. If something is still to be said, the writer says it and ends the link.
    async fn reader_done(self: &Arc<Self>, closing: Closing) {
        let speaking = lock(&self.state).closing.is_some();
        if speaking {
            let _ = tokio::time::timeout(CLOSE_DEADLINE, self.wait_over()).await;
        }
        self.finish(closing);
    }

    /// The connection is over, for this or an earlier reason.
    fn finish(self: &Arc<Self>, closing: Closing) {
        let closing = lock(&self.state).closing.get_or_insert(closing).clone();
        if self.finished.swap(true, Ordering::AcqRel) {
            return;
        }
        // Whoever waits for the end then finds out why it came.
        self.peer.closed(self, &closing);
        self.over.store(true, Ordering::Release);
        self.over_notify.notify_waiters();
        self.writer.wake();
        self.stream.wake();
        self.datagrams.wake();
    }
}

impl Link {
    /// Does what the session wants, outside its lock where others are called.
    fn pump(self: &Arc<Self>, mut state: std::sync::MutexGuard<'_, State>) {
        // One at most, most often.
        let (mut event, mut further) = (None, Vec::new());
        let mut wake = false;
        loop {
            match state.session.poll() {
                Output::Send(frame) => {
                    state.queue_control(&frame);
                    wake = true;
                }
                Output::Event(first) if event.is_none() => event = Some(first),
                Output::Event(next) => further.push(next),
                Output::Close { code, reason } => {
                    state.closing.get_or_insert(Closing { code, reason });
                    wake = true;
                }
                Output::Wait(deadline) => {
                    wake |= state.deadline != deadline
                        && state.deadline.is_none_or(|old| deadline.is_some_and(|new| new < old));
                    state.deadline = deadline;
                    break;
                }
            }
        }
        drop(state);
        if wake {
            self.writer.wake();
        }
        // A sign of life is no event: an idle connection makes no thread spin.
        if event.is_some() {
            activity();
        }
        for event in event.into_iter().chain(further) {
            match event {
                // Which transport carries what is this layer's business.
                Event::Control(Control::Detached(detached)) => self.peer_detached(&detached.reason),
                event => self.peer.event(self, event),
            }
        }
    }

    /// Bytes arrived.
    fn traffic(&self) {
        let heard = lock(&self.state).handle(Input::Traffic);
        heard.expect("traffic is never refused");
    }

    /// Waits until the peer has read enough of its answers.
    async fn answers_read(&self) {
        let Some(bytes_max) = self.peer.answers_bytes_max() else { return };
        let is_read = || lock(&self.state).control.len() <= bytes_max;
        std::future::poll_fn(|cx| {
            if is_read() {
                return Poll::Ready(());
            }
            // Registered before the second look: what is written in between wakes us.
            self.reader.register(cx.waker());
            if is_read() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Messages arrived on a lane whose sender needs credit for them.
    pub(crate) fn spend_credit(&self, lane: u32, bytes: usize) -> Result<(), Closing> {
        let spent = lock(&self.state).handle(Input::Run { lane, bytes });
        spent.map_err(|error| Closing::new(error.code(), error.to_string()))
    }
}

/// The runtime's clock, which a simulation drives.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
