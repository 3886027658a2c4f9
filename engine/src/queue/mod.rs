//! Queue groups: every message of a topic goes to one member of each group, again until it is done, and to the dead
//! letters when it cannot be.
//!
//! [`group`] decides, [`dispatcher`] acts, [`shared`] is what members and connections touch, [`lanes`] what a
//! connection's words mean. The rest are their parts.

mod dispatcher;
mod durable;
pub(crate) mod group;
#[cfg(test)]
mod histories;
mod keys;
pub(crate) mod lanes;
mod letters;
mod members;
mod progress;
#[cfg(test)]
mod promises;
mod ranges;
mod reader;
#[cfg(test)]
mod recording;
mod settings;
mod shared;
mod store;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use twinlane_log::RecoveredState;
use twinlane_proto::control::GroupSettings;
use twinlane_proto::limits::GROUP_BYTES_MAX;
use twinlane_proto::{Code, Start, TopicSpec};
use twinlane_ring::{Cursor, Gating, Start as RingStart};

use crate::error::DeclareError;
use crate::lock::lock;
use crate::status::QueueRow;
use crate::topics::{Topic, Topics, parse_name};
pub(crate) use durable::RememberError;
use durable::{LogStore, Remembered};
use group::{Group, LeaseId, MemberId};
use letters::Letters;
use progress::Progress;
use settings::{Settings, refused};
use shared::Parts;
pub(crate) use shared::QueueGroup;
use store::GroupStore;

/// Groups of one engine at most.
const GROUPS_MAX: usize = 10_000;
/// What a member's jobs wait in, beyond one message of any size.
const INBOX_BYTES: u64 = 256 << 10;

/// Where a member hears what is not a job.
pub(crate) trait Ear: Send + Sync {
    /// A want with a time limit ended; so many messages of it were not handed over.
    fn want_ended(&self, unused: u32);
    /// The membership ended, and not because the member wanted that.
    fn closed(&self, code: Code, reason: &str);
}

/// The queue groups of one engine.
pub(crate) struct Queues {
    topics: Arc<Topics>,
    /// How long a group of a topic in memory holds publishers back without members.
    retention: Duration,
    groups: Mutex<BTreeMap<(u32, String), Arc<QueueGroup>>>,
    next_inbox: AtomicU64,
}

/// A new membership.
pub(crate) struct Joined {
    pub(crate) group: Arc<QueueGroup>,
    pub(crate) member: MemberId,
    /// The topic that its jobs come on.
    pub(crate) inbox: Arc<Topic>,
}

/// The beginning of the inboxes' names of one session's members.
pub(crate) fn inbox_prefix(session: &str) -> String {
    format!("$queue/{session}/")
}

impl Queues {
    pub(crate) fn new(topics: Arc<Topics>, retention: Duration) -> Arc<Self> {
        Arc::new(Self { topics, retention, groups: Mutex::default(), next_inbox: AtomicU64::new(1) })
    }

    /// `session` takes part in `group` of `topic`, which is made now if it does not exist.
    pub(crate) fn join(
        self: &Arc<Self>,
        topic: &Arc<Topic>,
        group: &str,
        asked: &GroupSettings,
        session: &str,
        ear: Arc<dyn Ear>,
    ) -> Result<Joined, DeclareError> {
        check_group_name(group)?;
        if topic.meta.is_fast() {
            let message = format!("topic {} is fast: queue groups need a reliable one", topic.meta.name);
            return Err(refused(Code::TopicConflict, message));
        }
        let number = self.next_inbox.fetch_add(1, Ordering::Relaxed);
        let inbox = parse_name(&format!("{}{number}", inbox_prefix(session)))?;
        let spec = TopicSpec::reliable()
            .with_payload_bytes_max(topic.meta.spec.payload_bytes_max)
            .with_retain_bytes(INBOX_BYTES);
        let inbox = self.topics.declare(&inbox, spec, &format!("queue group {group:?}"))?;
        let joined = self.find_or_make(topic, group, asked).and_then(|group| {
            let closed = || refused(Code::Closed, "the queue group is closed; join again".to_owned());
            let member = group.join(Arc::clone(&inbox), ear).ok_or_else(closed)?;
            Ok(Joined { group, member, inbox: Arc::clone(&inbox) })
        });
        joined.inspect_err(|_| self.topics.remove(&inbox.meta.name))
    }

    pub(crate) fn rows(&self) -> Vec<QueueRow> {
        let groups: Vec<_> = lock(&self.groups).values().cloned().collect();
        groups.iter().map(|group| group.row()).collect()
    }

    /// The group is closed.
    fn forget(&self, group: &QueueGroup) {
        let key = (group.topic.meta.id, group.name.clone());
        let mut groups = lock(&self.groups);
        if groups.get(&key).is_some_and(|known| std::ptr::eq(&raw const **known, group)) {
            groups.remove(&key);
        }
    }

    fn find_or_make(
        self: &Arc<Self>,
        topic: &Arc<Topic>,
        name: &str,
        asked: &GroupSettings,
    ) -> Result<Arc<QueueGroup>, DeclareError> {
        let key = (topic.meta.id, name.to_owned());
        let mut groups = lock(&self.groups);
        if let Some(group) = groups.get(&key) {
            group.settings.agree(asked, name)?;
            return Ok(Arc::clone(group));
        }
        if groups.len() >= GROUPS_MAX {
            let message = format!("this server already has {GROUPS_MAX} queue groups, its limit");
            return Err(refused(Code::LimitReached, message));
        }
        let settings = Settings::new(asked, topic.meta.name.as_str(), name);
        let letters = self.letters(topic, &settings)?;
        let (gate, floor) = begin(topic, settings.start);
        let progress = Progress::starting_at(floor);
        let store = LogStore::make(topic, name, &settings, progress.clone()).transpose();
        let store =
            store.map_err(|code| DeclareError::Storage { topic: topic.meta.name.to_string(), code })?;
        let group = self.make(topic, name, (settings, letters), progress, (store, gate));
        tracing::info!(topic = %topic.meta.name, group = name, "queue group made");
        groups.insert(key, Arc::clone(&group));
        Ok(group)
    }

    fn make(
        self: &Arc<Self>,
        topic: &Arc<Topic>,
        name: &str,
        (settings, letters): (Settings, Letters),
        progress: Progress,
        (store, gate): (Option<LogStore>, Option<Cursor>),
    ) -> Arc<QueueGroup> {
        QueueGroup::new(Parts {
            topic: Arc::clone(topic),
            name: name.to_owned(),
            letters,
            group: Group::new(settings.rules, progress, leases()),
            settings,
            // What is on disk is kept however long nobody comes.
            retention: store.is_none().then_some(self.retention),
            store: store.map(|store| Arc::new(store) as Arc<dyn GroupStore>),
            gate,
            topics: Arc::clone(&self.topics),
            registry: Arc::downgrade(self),
        })
    }

    /// Puts back the groups of durable topics. What was handed over and not settled is handed over again.
    pub(crate) fn restore(self: &Arc<Self>, states: &[RecoveredState]) -> Result<(), RememberError> {
        for remembered in states.iter().filter_map(Remembered::read) {
            let Remembered { topic, group: name, settings, mut progress } = remembered?;
            let Some(topic) = self.topics.by_id(topic) else { continue };
            // After a repair.
            progress.cut(topic.ring.next());
            let store = LogStore::of(&topic, &name, &settings, progress.clone());
            let letters = match self.letters(&topic, &settings) {
                Ok(letters) => letters,
                Err(error) => {
                    tracing::error!(%error, topic = %topic.meta.name, group = name, "a queue group is left out");
                    continue;
                }
            };
            let group = self.make(&topic, &name, (settings, letters), progress, (store, None));
            lock(&self.groups).insert((topic.meta.id, name), group);
        }
        Ok(())
    }

    /// The topic for dead letters, which takes whatever `topic` takes.
    fn letters(&self, topic: &Topic, settings: &Settings) -> Result<Letters, DeclareError> {
        let name = parse_name(&settings.dead_letter)?;
        if name.is_reserved() {
            return Err(DeclareError::Reserved { topic: settings.dead_letter.clone() });
        }
        let payload_bytes_max = topic.meta.spec.payload_bytes_max;
        let letters = match self.topics.by_name(&name) {
            Some(letters) => letters,
            None => {
                let spec = TopicSpec { storage: topic.meta.spec.storage, ..TopicSpec::reliable() };
                let spec = spec.with_payload_bytes_max(payload_bytes_max);
                self.topics.declare(&name, spec, "a queue group, for its dead letters")?
            }
        };
        let spec = &letters.meta.spec;
        if letters.meta.is_fast()
            || letters.store.is_some() != topic.store.is_some()
            || spec.payload_bytes_max < payload_bytes_max
            || letters.meta.id == topic.meta.id
        {
            let message = format!(
                "topic {name} cannot take the dead letters of {}: it must be another one, reliable, kept as \
                 safely, and take {payload_bytes_max} B",
                topic.meta.name
            );
            return Err(refused(Code::TopicConflict, message));
        }
        Ok(Letters::new(letters))
    }
}

impl Drop for Queues {
    fn drop(&mut self) {
        let groups = std::mem::take(&mut *lock(&self.groups));
        groups.values().for_each(|group| group.close(Code::ServerShutdown, "the engine is gone"));
    }
}

/// Keeps what the group will want from now on. Returns the first offset that it wants.
fn begin(topic: &Topic, start: Start) -> (Option<Cursor>, u64) {
    let (oldest, next) = (topic.oldest(), topic.ring.next());
    let offset = match start {
        Start::New => next,
        Start::Last => next.saturating_sub(1).max(oldest),
        Start::All => oldest,
        Start::Time(time_us) => topic.offset_at(time_us),
        Start::Offset(offset) => offset.clamp(oldest, next),
    };
    // A durable topic's log keeps what the group says it needs.
    let gate = topic.store.is_none().then(|| topic.ring.cursor(RingStart::Offset(offset), Gating::Gated));
    (gate, offset)
}

/// A name that can be a level of a topic's name, since dead letters go to `dead/<topic>/<group>`.
fn check_group_name(group: &str) -> Result<(), DeclareError> {
    let is_level = parse_name(group).is_ok_and(|name| !name.is_reserved()) && !group.contains('/');
    if is_level && group.len() <= GROUP_BYTES_MAX {
        return Ok(());
    }
    let message =
        format!("{group:?} is no name for a queue group: one level of a topic name, at most 64 bytes");
    Err(refused(Code::BadName, message))
}

/// Random leases. Chance is asked for in bulk: each question costs a system call.
fn leases() -> impl FnMut() -> LeaseId + Send {
    let mut drawn = [0; 64 * 16];
    let mut left = 0;
    move || {
        if left == 0 {
            crate::random::fill(&mut drawn);
            left = drawn.len() / 16;
        }
        left -= 1;
        let mut lease = [0; 16];
        lease.copy_from_slice(&drawn[left * 16..][..16]);
        lease
    }
}
