//! The topics of one engine: declared once, found by name or number, watched by wildcard subscriptions.

mod explain;
pub(crate) mod ingest;
pub(crate) mod last;
mod lazy_ring;
#[cfg(test)]
mod many;
mod record;
pub(crate) mod runs;
mod sizes;
pub(crate) mod store;
mod subscriber;
mod topic;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use twinlane_log::{AppendError, Entry, Failure, Log, RecoveredState, RecoveredTopic};
use twinlane_proto::topic::NameError;
use twinlane_proto::{Channel, Code, Filter, Last, Mode, Storage as Kept, TopicName, TopicSpec};

use crate::config::Limits;
use crate::error::DeclareError;
use crate::lock::lock;
use crate::storage::Storage;

pub(crate) use record::{RecordError, StreamRecord, TopicRecord};
use sizes::fast_payload_default;
pub(crate) use sizes::{frame_bytes_max, ring_config_for};
pub(crate) use subscriber::Subscriber;
pub(crate) use topic::{Drops, Miss, Subscribed, Topic, random_u64};

/// Largest history that the queue core's segments can hold.
pub(crate) const RETAIN_BYTES_MAX: u64 = 60 << 20;

pub(crate) struct Topics {
    limits: Limits,
    /// Where durable topics are kept.
    storage: Storage,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    by_name: HashMap<TopicName, Arc<Topic>>,
    by_id: BTreeMap<u32, Arc<Topic>>,
    last_id: u32,
    /// Who declares many topics is remembered once.
    last_declarer: Arc<str>,
    watchers: Vec<Watcher>,
    next_watcher: u64,
}

struct Watcher {
    number: u64,
    filter: Filter,
    found: Box<dyn Fn(Arc<Topic>) + Send>,
}

/// Keeps a watch on new topics until dropped.
pub(crate) struct Watch {
    topics: Arc<Topics>,
    number: u64,
}

impl Drop for Watch {
    fn drop(&mut self) {
        lock(&self.topics.state).watchers.retain(|watcher| watcher.number != self.number);
    }
}

impl Topics {
    pub(crate) fn new(limits: Limits, storage: Storage) -> Self {
        Self { limits, storage, state: Mutex::default() }
    }

    /// Where durable topics are, if there were any.
    pub(crate) fn log(&self) -> Option<&Log> {
        self.storage.log()
    }

    /// Puts a topic back that the log remembers, before there is any other. How much of it is kept is the operator's to
    /// change: `configured` says so for all topics that are in the configuration.
    pub(crate) fn restore(
        &self,
        recovered: &RecoveredTopic,
        configured: &[(String, TopicSpec)],
    ) -> Result<(), RecordError> {
        let mut record = TopicRecord::decode(&recovered.value)?;
        let log = self.log().expect("what was recovered came from the log");
        let wanted = configured.iter().find(|(name, _)| name == record.name.as_str());
        if let Some(Ok(wanted)) = wanted.map(|(_, spec)| self.effective(&record.name, *spec)) {
            let TopicSpec { retain_bytes, retain_messages, retain_age_ms, .. } = wanted;
            let spec = TopicSpec { retain_bytes, retain_messages, retain_age_ms, ..record.spec };
            if spec != record.spec {
                record.spec = spec;
                let value = record.encode();
                // Not written, it is changed again at the next start.
                let _ = log.append(&[Entry::Topic { id: recovered.id, value: &value }], None);
            }
        }
        let topic = Arc::new(Topic::durable(recovered.id, record, log, recovered.next, &self.limits));
        let mut state = lock(&self.state);
        state.last_id = state.last_id.max(recovered.id);
        state.by_id.insert(recovered.id, Arc::clone(&topic));
        state.by_name.insert(topic.meta.name.clone(), topic);
        Ok(())
    }

    /// Puts the last values of durable topics back: those that were saved, and those among the messages.
    pub(crate) fn restore_last_values(&self, states: &[RecoveredState]) {
        for state in states {
            let Some((topic, key)) = store::parse_last_key(&state.key) else { continue };
            if let Some(store) = self.by_id(topic).and_then(|topic| topic.store.clone()) {
                store.restore_last(key, &state.snapshot);
            }
        }
        for topic in self.all().iter().filter(|topic| topic.meta.spec.last != Last::None) {
            topic.read_last_values();
        }
    }

    /// The topic `name` as `spec`, made now if it does not exist.
    pub(crate) fn declare(
        &self,
        name: &TopicName,
        spec: TopicSpec,
        declared_by: &str,
    ) -> Result<Arc<Topic>, DeclareError> {
        let mut state = lock(&self.state);
        if let Some(topic) = state.by_name.get(name) {
            return agree(topic, &spec).map(|()| Arc::clone(topic));
        }
        if state.by_id.len() >= self.limits.topics_max {
            return Err(DeclareError::TooMany { topics_max: self.limits.topics_max });
        }
        let spec = self.effective(name, spec)?;
        // Numbers are not used again: a late message for a topic that was removed finds none.
        let id = state
            .last_id
            .checked_add(1)
            .ok_or(DeclareError::TooMany { topics_max: self.limits.topics_max })?;
        state.last_id = id;
        if *state.last_declarer != *declared_by {
            state.last_declarer = declared_by.into();
        }
        let topic = Arc::new(self.make(id, name, spec, &state.last_declarer)?);
        state.by_id.insert(id, Arc::clone(&topic));
        state.by_name.insert(name.clone(), Arc::clone(&topic));
        for watcher in state.watchers.iter().filter(|watcher| watcher.filter.matches(name)) {
            (watcher.found)(Arc::clone(&topic));
        }
        if name.is_reserved() {
            tracing::debug!(topic = %name, declared_by, "topic declared");
        } else {
            tracing::info!(topic = %name, %spec, declared_by, "topic declared");
        }
        Ok(topic)
    }

    fn make(
        &self,
        id: u32,
        name: &TopicName,
        spec: TopicSpec,
        declared_by: &Arc<str>,
    ) -> Result<Topic, DeclareError> {
        let name = name.clone();
        if spec.storage == Kept::Memory {
            return Ok(Topic::new(id, name, spec, Arc::clone(declared_by), self.limits.last_keys_max));
        }
        let log = self.storage.log_or_make().map_err(|error| {
            tracing::error!(%error, "a durable topic cannot be made");
            DeclareError::Storage { topic: name.to_string(), code: Code::StorageFailed }
        })?;
        let Some(log) = log else {
            return Err(DeclareError::NoStorage { topic: name.to_string() });
        };
        let declared_by = declared_by.to_string();
        let record = TopicRecord { name, epoch: random_u64(), spec, declared_by, sources: 1 };
        // Whoever publishes on it is acknowledged only after this record: it comes first in the log.
        let value = record.encode();
        let declared = log.append(&[Entry::Topic { id, value: &value }], None);
        declared.map_err(|error| DeclareError::Storage {
            topic: record.name.to_string(),
            code: storage_code(&error),
        })?;
        Ok(Topic::durable(id, record, log, 0, &self.limits))
    }

    /// Forgets a topic. Its subscriptions end; publishers are told that it is closed.
    pub(crate) fn remove(&self, name: &TopicName) {
        let mut state = lock(&self.state);
        if let Some(topic) = state.by_name.remove(name) {
            state.by_id.remove(&topic.meta.id);
            topic.ring.close();
        }
    }

    pub(crate) fn by_name(&self, name: &TopicName) -> Option<Arc<Topic>> {
        lock(&self.state).by_name.get(name).cloned()
    }

    pub(crate) fn by_id(&self, id: u32) -> Option<Arc<Topic>> {
        lock(&self.state).by_id.get(&id).cloned()
    }

    /// The topic that a client names by using it: what it is must agree with `spec`; if it does not exist it is
    /// declared so, or as reliable, where that is permitted.
    pub(crate) fn find_or_declare(
        &self,
        name: &TopicName,
        spec: Option<TopicSpec>,
        may_declare: bool,
        declared_by: impl FnOnce() -> String,
    ) -> Result<Arc<Topic>, DeclareError> {
        if let Some(topic) = self.by_name(name) {
            return spec.map_or(Ok(()), |spec| agree(&topic, &spec)).map(|()| topic);
        }
        if name.is_reserved() {
            return Err(DeclareError::Reserved { topic: name.to_string() });
        }
        if !may_declare {
            return Err(DeclareError::Denied { topic: name.to_string() });
        }
        self.declare(name, spec.unwrap_or_else(TopicSpec::reliable), &declared_by())
    }

    /// Calls `found` for every topic that matches now (before this returns) and for each one that will
    /// (`true` as its second argument), until the watch is dropped. `found` must not call back.
    pub(crate) fn watch(
        self: &Arc<Self>,
        filter: Filter,
        found: impl Fn(Arc<Topic>, bool) + Send + 'static,
    ) -> Watch {
        let mut state = lock(&self.state);
        state
            .by_id
            .values()
            .filter(|topic| filter.matches(&topic.meta.name))
            .for_each(|topic| found(Arc::clone(topic), false));
        let number = state.next_watcher;
        state.next_watcher += 1;
        state.watchers.push(Watcher { number, filter, found: Box::new(move |topic| found(topic, true)) });
        Watch { topics: Arc::clone(self), number }
    }

    pub(crate) fn all(&self) -> Vec<Arc<Topic>> {
        lock(&self.state).by_id.values().cloned().collect()
    }

    /// Fills the open fields of `spec` and checks it against the limits.
    fn effective(&self, name: &TopicName, spec: TopicSpec) -> Result<TopicSpec, DeclareError> {
        let limits = &self.limits;
        let payload_limit = match spec.channel {
            Channel::Fast => limits.fast_payload_bytes_max,
            Channel::Reliable => limits.reliable_payload_bytes_max,
        };
        let over = |field, asked: u64, asked_max: u64| {
            let topic = name.to_string();
            if asked > asked_max {
                Err(DeclareError::OverLimit { topic, field, asked, asked_max })
            } else {
                Ok(())
            }
        };
        over("payload_bytes_max", spec.payload_bytes_max.into(), payload_limit.into())?;
        let is_durable = spec.storage == Kept::Disk;
        if !is_durable {
            over("retain_bytes", spec.retain_bytes, RETAIN_BYTES_MAX)?;
        }
        let or = |asked: u64, default: u64| if asked == 0 { default } else { asked };
        let mut full = spec;
        full.mode = if spec.channel == Channel::Reliable { Mode::Ordered } else { spec.mode };
        let (bytes, messages) = match is_durable {
            true => (limits.durable_retain_bytes, limits.durable_retain_messages),
            false => (limits.topic_retain_bytes, limits.topic_retain_messages),
        };
        full.retain_bytes = or(spec.retain_bytes, bytes);
        let payload_default = match spec.channel {
            Channel::Fast => fast_payload_default(full.retain_bytes).min(payload_limit),
            Channel::Reliable => payload_limit,
        };
        full.payload_bytes_max = or(spec.payload_bytes_max.into(), payload_default.into()) as u32;
        full.retain_messages = or(spec.retain_messages, messages);
        Ok(full)
    }
}

/// What a client is told of a log that takes no more.
pub(crate) fn storage_code(error: &AppendError) -> Code {
    match error {
        AppendError::Full { .. } => Code::Busy,
        AppendError::TooLarge { .. } => Code::TooLarge,
        _ => Code::StorageFailed,
    }
}

/// What a client is told of entries that the log took and did not store.
pub(crate) fn failure_code(why: &Failure) -> Code {
    match why {
        Failure::NoSpace => Code::NoSpace,
        Failure::Failed(_) => Code::StorageFailed,
    }
}

/// Parses a name that clients may declare and publish on.
pub(crate) fn client_topic(name: &str) -> Result<TopicName, DeclareError> {
    let name = parse_name(name)?;
    if name.is_reserved() {
        return Err(DeclareError::Reserved { topic: name.to_string() });
    }
    Ok(name)
}

pub(crate) fn parse_name(name: &str) -> Result<TopicName, NameError> {
    TopicName::parse(name)
}

fn agree(topic: &Topic, spec: &TopicSpec) -> Result<(), DeclareError> {
    match topic.meta.spec.conflict(spec) {
        None => Ok(()),
        Some(_) => Err(DeclareError::Conflict {
            topic: topic.meta.name.to_string(),
            declared: Box::new(topic.meta.spec),
            declared_by: topic.declared_by().to_owned(),
            asked: Box::new(*spec),
        }),
    }
}
