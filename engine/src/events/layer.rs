//! What all namespaces of one event layer share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use twinlane_proto::TopicSpec;

use super::connection::Client;
use super::error::EventsError;
use super::hub::Hub;
use super::namespace::{Door, Namespace};
use super::outbox::Crowd;
use crate::engine::Core;
use crate::error::DeclareError;
use crate::lock::lock;
use crate::topics::parse_name;

/// The topic under which namespaces are kept, each with its name behind.
const LOGS: &str = "$events";

/// How an event layer behaves.
#[derive(Debug, Clone)]
pub struct EventsOptions {
    /// How long a client that lost its connection may stay away and find everything as it was. Zero: it never does.
    /// Default 120 s.
    pub recovery: Duration,
    /// Bytes of events that a namespace keeps for those who come back. Default 8 MiB.
    pub history_bytes: u64,
    /// Events that it keeps. Default 10,000.
    pub history_events: u64,
    /// Absent clients that a namespace remembers. Default 10,000.
    pub absent_max: usize,
    /// Rooms that a socket may be in beside its own. Default 100.
    pub rooms_max: usize,
    /// Namespaces that a client may be in. Default 16.
    pub namespaces_per_client_max: usize,
    /// Namespaces in all: dynamic ones are made by clients. Default 1,000.
    pub namespaces_max: usize,
    /// How long whoever emits waits for a client that is far behind, before that is cut off. Default 100 ms.
    pub patience: Duration,
    /// Listeners of one client that may run at the same time; it is read on when one ends. Default 256.
    pub running_max: usize,
}

impl Default for EventsOptions {
    fn default() -> Self {
        Self {
            recovery: Duration::from_secs(120),
            history_bytes: 8 << 20,
            history_events: 10_000,
            absent_max: 10_000,
            rooms_max: 100,
            namespaces_per_client_max: 16,
            namespaces_max: 1_000,
            patience: Duration::from_millis(100),
            running_max: 256,
        }
    }
}

/// What the parts below need to know.
pub(super) struct Settings {
    pub(super) options: EventsOptions,
    pub(super) crowd: Arc<Crowd>,
    pub(super) runtime: Handle,
    pub(super) core: Arc<Core>,
    /// Clients that are connected.
    pub(super) clients: AtomicUsize,
}

pub(super) struct Layer {
    pub(super) settings: Arc<Settings>,
    namespaces: Mutex<Namespaces>,
    /// So that all can be told when the server goes.
    clients: Mutex<Vec<std::sync::Weak<Client>>>,
}

#[derive(Default)]
struct Namespaces {
    known: HashMap<Arc<str>, Namespace>,
    dynamic: Vec<(Matches, Arc<Door>)>,
    told: Vec<Tell>,
}

/// Told of new namespaces.
pub(super) type Tell = Arc<dyn Fn(&Namespace) + Send + Sync>;
pub(super) type Matches = Box<dyn Fn(&str) -> bool + Send + Sync>;

impl Settings {
    /// Whether clients can find what they missed.
    pub(super) fn recovers(&self) -> bool {
        !self.options.recovery.is_zero()
    }
}

impl Layer {
    pub(super) fn new(core: Arc<Core>, options: EventsOptions, runtime: Handle) -> Self {
        let (crowd, clients) = (Arc::default(), AtomicUsize::new(0));
        let settings = Arc::new(Settings { options, crowd, runtime, core, clients });
        Self { settings, namespaces: Mutex::default(), clients: Mutex::default() }
    }

    /// The namespace `name`, made if there is none.
    pub(super) fn namespace(&self, name: &str) -> Result<Namespace, EventsError> {
        let mut namespaces = lock(&self.namespaces);
        if let Some(namespace) = namespaces.known.get(name) {
            return Ok(namespace.clone());
        }
        let namespace = self.make(name, Arc::default())?;
        namespaces.known.insert(Arc::clone(namespace.name_shared()), namespace.clone());
        let told = namespaces.told.clone();
        drop(namespaces);
        told.iter().for_each(|tell| tell(&namespace));
        Ok(namespace)
    }

    /// The namespace that a client names: one that is known, or that a dynamic one makes.
    pub(super) fn namespace_for_client(&self, name: &str) -> Option<Namespace> {
        let mut namespaces = lock(&self.namespaces);
        if let Some(namespace) = namespaces.known.get(name) {
            return Some(namespace.clone());
        }
        if namespaces.known.len() >= self.settings.options.namespaces_max {
            tracing::warn!(name, "a namespace was not made: there are too many");
            return None;
        }
        let door = namespaces.dynamic.iter().find(|(matches, _)| matches(name)).map(|(_, door)| door)?;
        let made = self.make(name, Arc::clone(door));
        let namespace = made.inspect_err(|error| tracing::warn!(name, %error, "no namespace")).ok()?;
        namespaces.known.insert(Arc::clone(namespace.name_shared()), namespace.clone());
        let told = namespaces.told.clone();
        drop(namespaces);
        told.iter().for_each(|tell| tell(&namespace));
        Some(namespace)
    }

    pub(super) fn add_dynamic(&self, matches: Matches, door: Arc<Door>) {
        lock(&self.namespaces).dynamic.push((matches, door));
    }

    pub(super) fn on_new_namespace(&self, tell: Tell) {
        lock(&self.namespaces).told.push(tell);
    }

    pub(super) fn all(&self) -> Vec<Namespace> {
        let mut all: Vec<_> = lock(&self.namespaces).known.values().cloned().collect();
        all.sort_by(|one, other| one.name().cmp(other.name()));
        all
    }

    pub(super) fn add_client(&self, client: &Arc<Client>) {
        self.settings.clients.fetch_add(1, Ordering::Relaxed);
        let mut clients = lock(&self.clients);
        if clients.len() == clients.capacity() {
            clients.retain(|client| client.strong_count() > 0);
        }
        clients.push(Arc::downgrade(client));
    }

    pub(super) fn clients(&self) -> Vec<Arc<Client>> {
        lock(&self.clients).iter().filter_map(std::sync::Weak::upgrade).collect()
    }

    fn make(&self, name: &str, door: Arc<Door>) -> Result<Namespace, EventsError> {
        let failed = |source| EventsError::Namespace { namespace: name.to_owned(), source };
        let log = match name.strip_prefix('/') {
            // A comma ends the name in packets.
            Some(rest) if !rest.contains(',') => {
                format!("{LOGS}{}{rest}", if rest.is_empty() { "" } else { "/" })
            }
            _ => return Err(EventsError::Name { namespace: name.to_owned() }),
        };
        let log = parse_name(&log).map_err(DeclareError::from).map_err(failed)?;
        let EventsOptions { history_bytes, history_events, .. } = self.settings.options;
        let spec =
            TopicSpec::reliable().with_retain_bytes(history_bytes).with_retain_messages(history_events);
        let topic = self.settings.core.topics.declare(&log, spec, "the event layer").map_err(failed)?;
        let hub = Hub::new(Arc::clone(&self.settings), name.into(), topic);
        Ok(Namespace::new(hub, door))
    }
}

/// Whether a topic is the log of a namespace: nobody else writes there.
pub(super) fn is_log(topic: &str) -> bool {
    topic.strip_prefix(LOGS).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
