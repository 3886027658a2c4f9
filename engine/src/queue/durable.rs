//! What a group of a durable topic leaves in the engine's log: its settings and progress as a snapshot now and then,
//! and every change since.
//!
//! Nothing here waits for the disk; the log's thread calls back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use serde::{Deserialize, Serialize};
use twinlane_log::{AppendError, Committed, Entry, Failure, Listener, Origin, RecoveredState};
use twinlane_proto::{Code, Start};

use super::progress::{Delta, Progress};
use super::settings::Settings;
use super::store::{GroupStore, Recorded, StoreFull};
use crate::lock::lock;
use crate::topics::store::{Store, once};
use crate::topics::{Topic, failure_code, storage_code};

/// Keys of groups in the log's state begin with this.
const PREFIX: &[u8] = b"queue ";
/// Messages between two floors that a topic is told of.
const FLOOR_STEP: u64 = 256;
/// Bytes of changes after which a snapshot takes their place: what a restart reads back at most.
const CHANGES_BYTES_MAX: usize = 1 << 20;

/// A group's part of the log.
pub(super) struct LogStore {
    store: Arc<Store>,
    group: String,
    key: Vec<u8>,
    settings: Vec<u8>,
    recording: Arc<Mutex<Recording>>,
    /// What the topic was told last.
    floor: Arc<AtomicU64>,
}

struct Recording {
    /// With every change that was given to the log, and every dead letter that is in it.
    progress: Progress,
    changes_bytes: usize,
    /// Dead letters on their way: a snapshot now would make the log forget them.
    burials: usize,
}

/// A group as the log remembers it.
pub(super) struct Remembered {
    pub(super) topic: u32,
    pub(super) group: String,
    pub(super) settings: Settings,
    pub(super) progress: Progress,
}

/// What the log holds under a group's key cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RememberError {
    #[error("the key is no group's")]
    Key,
    #[error("the settings: {0}")]
    Settings(#[from] serde_json::Error),
    #[error("the progress: {0}")]
    Progress(#[from] super::progress::ProgressError),
}

#[derive(Serialize, Deserialize)]
struct WrittenSettings {
    ack_wait_ms: u64,
    max_deliver: u32,
    max_in_flight: u32,
    max_in_flight_per_key: u32,
    start: WrittenStart,
    dead_letter: String,
}

#[derive(Serialize, Deserialize)]
enum WrittenStart {
    New,
    Last,
    All,
    Offset(u64),
    Time(u64),
}

impl LogStore {
    /// Records a new group. `None`: the topic is in memory.
    pub(super) fn make(
        topic: &Topic,
        group: &str,
        settings: &Settings,
        progress: Progress,
    ) -> Option<Result<Self, Code>> {
        let made = Self::of(topic, group, settings, progress)?;
        let snapshot = made.snapshot(&lock(&made.recording).progress);
        let recorded = made.store.append(&[Entry::State { key: &made.key, value: &snapshot }], once(|_| ()));
        Some(recorded.map(|()| made).map_err(|error| storage_code(&error)))
    }

    /// A group that the log has already. `None`: the topic is in memory.
    pub(super) fn of(topic: &Topic, group: &str, settings: &Settings, progress: Progress) -> Option<Self> {
        let store = Arc::clone(topic.store.as_ref()?);
        store.set_queue_floor(group, progress.floor());
        Some(Self {
            store,
            group: group.to_owned(),
            key: key(topic.meta.id, group),
            settings: serde_json::to_vec(&WrittenSettings::of(settings))
                .expect("plain fields are always JSON"),
            floor: Arc::new(AtomicU64::new(progress.floor())),
            recording: Arc::new(Mutex::new(Recording { progress, changes_bytes: 0, burials: 0 })),
        })
    }

    fn snapshot(&self, progress: &Progress) -> Vec<u8> {
        let mut value = (self.settings.len() as u32).to_le_bytes().to_vec();
        value.extend_from_slice(&self.settings);
        progress.encode(&mut value);
        value
    }

    /// Gives `delta` to the log or, if there were many changes, a snapshot with it.
    fn append(&self, delta: &Delta, listener: Arc<dyn Listener>) -> Result<(), AppendError> {
        let mut recording = lock(&self.recording);
        let bytes = delta.as_bytes().len();
        if recording.changes_bytes + bytes > CHANGES_BYTES_MAX && recording.burials == 0 {
            let mut progress = recording.progress.clone();
            apply(&mut progress, delta);
            let value = self.snapshot(&progress);
            self.store.append(&[Entry::State { key: &self.key, value: &value }], listener)?;
            *recording = Recording { progress, changes_bytes: 0, burials: 0 };
            return Ok(());
        }
        self.store.append(&[Entry::Delta { key: &self.key, value: delta.as_bytes() }], listener)?;
        apply(&mut recording.progress, delta);
        recording.changes_bytes = recording.changes_bytes.saturating_add(bytes);
        Ok(())
    }
}

fn apply(progress: &mut Progress, delta: &Delta) {
    progress.apply(delta.as_bytes()).expect("a delta of this group is one that it can read");
}

impl GroupStore for LogStore {
    fn record(&self, delta: &Delta, floor: u64, recorded: Recorded) -> Result<(), StoreFull> {
        let (store, group) = (Arc::clone(&self.store), self.group.clone());
        let (recording, told_floor) = (Arc::clone(&self.recording), Arc::clone(&self.floor));
        let note = move |outcome: Result<(), Code>| {
            match outcome {
                // The topic keeps a little more than it must, and is not asked to give up each message on its own.
                Ok(()) if floor >= told_floor.load(Ordering::Relaxed) + FLOOR_STEP => {
                    told_floor.store(floor, Ordering::Relaxed);
                    store.set_queue_floor(&group, floor);
                }
                Ok(()) => {}
                // The group has moved on all the same: the next record says all of it.
                Err(_) => lock(&recording).changes_bytes = CHANGES_BYTES_MAX,
            }
        };
        let told = Told::new(None, note, recorded);
        tell_refusal(self.append(delta, Arc::clone(&told) as Arc<dyn Listener>), &told)
    }

    fn bury(
        &self,
        delta: &Delta,
        letters: &Arc<Topic>,
        letter: &[u8],
        recorded: Recorded,
    ) -> Result<(), StoreFull> {
        // No session's: its answers are nobody's to ask for.
        let origin = Origin { session: [0; 16], lane: letters.meta.id, first_seq: 1 };
        let run = Entry::Run { topic: letters.meta.id, origin, frames: 1, bytes: letter };
        let (recording, dead) = (Arc::clone(&self.recording), delta.clone());
        let note = move |outcome: Result<(), Code>| {
            let mut locked = lock(&recording);
            locked.burials -= 1;
            if outcome.is_ok() {
                apply(&mut locked.progress, &dead);
            }
        };
        let told = Told::new(letters.store.clone(), note, recorded);
        let mut recording = lock(&self.recording);
        let change = Entry::Delta { key: &self.key, value: delta.as_bytes() };
        let appended = self.store.append(&[run, change], Arc::clone(&told) as Arc<dyn Listener>);
        // Counted under the lock, before whoever hears of it can count down.
        recording.burials += 1;
        if matches!(appended, Err(AppendError::Full { .. })) {
            recording.burials -= 1;
        }
        drop(recording);
        tell_refusal(appended, &told)
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.store.log.poll_room(cx)
    }
}

/// Full is a matter of time; anything else is an answer.
fn tell_refusal(appended: Result<(), AppendError>, told: &Told) -> Result<(), StoreFull> {
    match appended {
        Ok(()) => Ok(()),
        Err(AppendError::Full { .. }) => match told.take() {
            Some(recorded) => Err(StoreFull(recorded)),
            None => Ok(()),
        },
        Err(error) => {
            told.say(Err(storage_code(&error)));
            Ok(())
        }
    }
}

/// Hears of one record, and shows the dead letter that is in it.
struct Told {
    letters: Option<Arc<Store>>,
    /// This store's own books, before anybody else hears.
    noted: Mutex<Option<Recorded>>,
    recorded: Mutex<Option<Recorded>>,
}

impl Told {
    fn new(
        letters: Option<Arc<Store>>,
        noted: impl FnOnce(Result<(), Code>) + Send + 'static,
        recorded: Recorded,
    ) -> Arc<Self> {
        let (noted, recorded) = (Mutex::new(Some(Box::new(noted) as Recorded)), Mutex::new(Some(recorded)));
        Arc::new(Self { letters, noted, recorded })
    }

    fn take(&self) -> Option<Recorded> {
        lock(&self.recorded).take()
    }

    fn say(&self, outcome: Result<(), Code>) {
        let noted = lock(&self.noted).take();
        for tell in noted.into_iter().chain(self.take()) {
            tell(outcome);
        }
    }
}

impl Listener for Told {
    fn committed(&self, record: Committed<'_>) {
        for run in record.runs() {
            self.letters.iter().for_each(|letters| letters.show(run.first_offset, run.bytes));
        }
        self.say(Ok(()));
    }

    fn failed(&self, why: Failure) {
        self.say(Err(failure_code(&why)));
    }
}

impl Remembered {
    /// The group under a key of the log's state; `None`: the key is of something else.
    pub(super) fn read(state: &RecoveredState) -> Option<Result<Self, RememberError>> {
        let name = state.key.strip_prefix(PREFIX)?;
        Some(Self::decode(name, state))
    }

    fn decode(name: &[u8], state: &RecoveredState) -> Result<Self, RememberError> {
        let (topic, group) = name.split_first_chunk().ok_or(RememberError::Key)?;
        let group = String::from_utf8(group.to_vec()).map_err(|_| RememberError::Key)?;
        let (length, rest) = state.snapshot.split_first_chunk().ok_or(RememberError::Key)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (settings, progress) = rest.split_at_checked(length).ok_or(RememberError::Key)?;
        let settings: WrittenSettings = serde_json::from_slice(settings)?;
        let mut progress = Progress::decode(progress)?;
        for delta in &state.deltas {
            progress.apply(delta)?;
        }
        Ok(Self { topic: u32::from_le_bytes(*topic), group, settings: settings.read(), progress })
    }
}

impl WrittenSettings {
    fn of(settings: &Settings) -> Self {
        let rules = &settings.rules;
        Self {
            ack_wait_ms: u64::try_from(rules.ack_wait.as_millis()).unwrap_or(u64::MAX),
            max_deliver: rules.max_deliver,
            max_in_flight: rules.max_in_flight,
            max_in_flight_per_key: rules.max_in_flight_per_key,
            start: match settings.start {
                Start::New => WrittenStart::New,
                Start::Last => WrittenStart::Last,
                Start::All => WrittenStart::All,
                Start::Offset(offset) => WrittenStart::Offset(offset),
                Start::Time(time_us) => WrittenStart::Time(time_us),
            },
            dead_letter: settings.dead_letter.clone(),
        }
    }

    fn read(self) -> Settings {
        let rules = super::group::Rules {
            ack_wait: std::time::Duration::from_millis(self.ack_wait_ms),
            max_deliver: self.max_deliver,
            max_in_flight: self.max_in_flight,
            max_in_flight_per_key: self.max_in_flight_per_key,
        };
        let start = match self.start {
            WrittenStart::New => Start::New,
            WrittenStart::Last => Start::Last,
            WrittenStart::All => Start::All,
            WrittenStart::Offset(offset) => Start::Offset(offset),
            WrittenStart::Time(time_us) => Start::Time(time_us),
        };
        Settings { rules, start, dead_letter: self.dead_letter }
    }
}

fn key(topic: u32, group: &str) -> Vec<u8> {
    [PREFIX, &topic.to_le_bytes(), group.as_bytes()].concat()
}
