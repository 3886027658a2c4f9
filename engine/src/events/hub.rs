//! What the parts of one namespace share: its log, and whoever drains it to the members' outboxes.
//!
//! Emitting appends a record to the log, which fixes the event's place for everybody. Then whoever emitted drains the log
//! to the outboxes, unless somebody else is doing so: that one will find this record, too. Membership changes only
//! between two records, so everybody agrees on who was where when an event came. While draining takes most of the time, a
//! task does it, many events at a time, and events in a row for the same audience go as one burst.
//!
//! No code of the application is called while anything is held.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, broadcast};
use twinlane_ring::{AppendError, Turn, Turns};

use super::burst::Outgoing;
use super::error::EmitError;
use super::layer::Settings;
use super::payload::Payload;
use super::record::{self, Audience};
use super::rooms::{FACTS_MAX, RoomEvent};
use super::socket::Socket;
use super::state::State;
use crate::heads::Heads;
use crate::lock::lock;
use crate::publisher::MessageOptions;
use crate::topics::Topic;

/// How often absent sockets are looked at, at most.
const LOOK_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Part of the log that may wait to be drained before whoever emits has to do it.
const UNDRAINED_PART: u64 = 4;

pub(super) struct Hub {
    pub(super) name: Arc<str>,
    pub(super) settings: Arc<Settings>,
    pub(super) topic: Arc<Topic>,
    log: Mutex<LogEnd>,
    /// Bytes of records appended so far, and of those drained.
    appended_bytes: AtomicU64,
    drained_bytes: AtomicU64,
    /// Until when draining is the task's: as long after a drain as that took. µs since `started`.
    rest_until_us: AtomicU64,
    started: Instant,
    /// The state, and who drains: the work is counted in records.
    turns: Turns<State>,
    room_events: broadcast::Sender<RoomEvent>,
    work: Arc<Work>,
}

/// Work for the task that drains.
#[derive(Default)]
struct Work {
    wake: Notify,
    is_waiting: AtomicBool,
}

/// Where records are appended.
struct LogEnd {
    heads: Heads,
    source: u32,
    seq: u64,
}

/// The state, held. Letting go drains what came meanwhile.
pub(super) struct Held<'a> {
    hub: &'a Hub,
    turn: Option<Turn<'a, State>>,
}

impl Hub {
    /// The hub of a namespace whose log is `topic`. A task drains for it while it lives.
    pub(super) fn new(settings: Arc<Settings>, name: Arc<str>, topic: Arc<Topic>) -> Arc<Self> {
        let source = topic.open_source();
        let state = State::new(Arc::clone(&name), topic.reader(0), Arc::clone(&settings));
        let hub = Arc::new(Self {
            name,
            settings,
            topic,
            log: Mutex::new(LogEnd { heads: Heads::new(), source, seq: 0 }),
            appended_bytes: AtomicU64::new(0),
            drained_bytes: AtomicU64::new(0),
            rest_until_us: AtomicU64::new(0),
            started: Instant::now(),
            turns: Turns::new(state),
            room_events: broadcast::channel(FACTS_MAX).0,
            work: Arc::default(),
        });
        let look_interval = (hub.settings.options.recovery / 4).max(LOOK_INTERVAL_MIN);
        let draining = drain_on_demand(Arc::downgrade(&hub), Arc::clone(&hub.work), look_interval);
        hub.settings.runtime.spawn(draining);
        hub
    }

    /// Puts an event into the log, and sees to it that it goes out.
    pub(super) fn emit(
        &self,
        flags: u8,
        ack: Option<u64>,
        audience: &Audience,
        payload: &Payload,
    ) -> Result<(), EmitError> {
        self.append(&record::encode(flags, ack, audience, payload))?;
        let undrained_bytes = self
            .appended_bytes
            .load(Ordering::Relaxed)
            .saturating_sub(self.drained_bytes.load(Ordering::Relaxed));
        if undrained_bytes > self.topic.meta.spec.retain_bytes / UNDRAINED_PART {
            drop(self.hold());
        } else if self.now_us() < self.rest_until_us.load(Ordering::Relaxed) {
            self.call_task();
        } else {
            self.help();
        }
        Ok(())
    }

    /// Waits for the state. All that was emitted before is drained.
    pub(super) fn hold(&self) -> Held<'_> {
        let mut turn = self.turns.take();
        turn.catch_up(|state, to| self.drain(state, to));
        Held { hub: self, turn: Some(turn) }
    }

    pub(super) fn room_events(&self) -> broadcast::Receiver<RoomEvent> {
        self.room_events.subscribe()
    }

    fn append(&self, record: &[u8]) -> Result<(), EmitError> {
        let bytes_max = self.topic.meta.spec.payload_bytes_max as usize;
        let too_large = || EmitError::TooLarge { bytes: record.len(), bytes_max };
        if record.len() > bytes_max {
            return Err(too_large());
        }
        let mut log = lock(&self.log);
        let LogEnd { heads, source, seq } = &mut *log;
        let place = (self.topic.meta.id, *source, *seq + 1);
        let encoded = heads.encode(place, &MessageOptions::default(), record.len(), false);
        encoded.map_err(|_| too_large())?;
        let offset =
            self.topic.ring.append(&[heads.bytes(), record], |_, _| ()).map_err(|why| match why {
                AppendError::TooLarge { .. } => too_large(),
                _ => EmitError::Closed,
            })?;
        *seq += 1;
        self.appended_bytes.fetch_add(record.len() as u64, Ordering::Relaxed);
        self.turns.leave(offset + 1);
        Ok(())
    }

    /// Drains what is in the log, unless somebody has the turn: that one does it then.
    fn help(&self) {
        let drain = |state: &mut State, to| {
            self.drain(state, to);
            self.tell_facts(state);
            state.take_overheard()
        };
        self.turns.help(drain, tell_overheard);
    }

    fn drain(&self, state: &mut State, to: u64) {
        let (began_us, appended_bytes) = (self.now_us(), self.appended_bytes.load(Ordering::Relaxed));
        state.drain(to);
        let ended_us = self.now_us();
        self.rest_until_us.store(ended_us + (ended_us - began_us), Ordering::Relaxed);
        self.drained_bytes.store(appended_bytes, Ordering::Relaxed);
    }

    /// Tells what became of rooms, in order: the state is held.
    fn tell_facts(&self, state: &mut State) {
        for fact in state.members.take_events() {
            // Without listeners there is nobody to tell.
            let _ = self.room_events.send(fact);
        }
    }

    fn call_task(&self) {
        if !self.work.is_waiting.swap(true, Ordering::AcqRel) {
            self.work.wake.notify_one();
        }
    }

    fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }
}

impl std::ops::Deref for Held<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        self.turn.as_ref().expect("held until it is dropped")
    }
}

impl std::ops::DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut State {
        self.turn.as_mut().expect("held until it is dropped")
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.hub.tell_facts(self);
        let overheard = self.take_overheard();
        drop(self.turn.take());
        tell_overheard(overheard);
        self.hub.help();
    }
}

/// Tells catch-all listeners what they overheard: nothing is held any more.
fn tell_overheard(overheard: Vec<(Socket, Outgoing)>) {
    for (socket, event) in overheard {
        socket.overhear(&event);
    }
}

/// Drains when there is more than whoever emits should do, and forgets who is away for too long. Ends with the hub.
async fn drain_on_demand(hub: Weak<Hub>, work: Arc<Work>, look_interval: Duration) {
    loop {
        let _ = tokio::time::timeout(look_interval, work.wake.notified()).await;
        let Some(hub) = hub.upgrade() else { return };
        work.is_waiting.store(false, Ordering::Release);
        hub.hold().forget_absent();
    }
}
