//! The engine: topics in this process, and the doors through which others reach them.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;
use twinlane_proto::limits::PEER_NAME_BYTES_MAX;
use twinlane_proto::{Code, TopicSpec};

use crate::config::{EngineConfig, Limits, ListenOptions};
use crate::error::{ConfigError, DeclareError};
use crate::lock::lock;
use crate::queue::Queues;
use crate::server::sessions::{ServerSession, Sessions};
use crate::server::{self, Listening};
use crate::status::{EngineStatus, LogRow, TopicStatus};
use crate::storage::{Remembered, Storage, StorageError};
use crate::topics::ingest::Ingest;
use crate::topics::{StreamRecord, Topic, Topics, client_topic, parse_name};
use crate::transport::{IoThreads, ListenError, Listener, Refusal};

/// How long I/O threads may take to end once their connections are closed.
const IO_DRAIN: Duration = Duration::from_secs(1);
/// How often a server that shuts down looks whether everything was sent.
const DRAIN_LOOK: Duration = Duration::from_millis(5);

/// The messaging engine. Cheap to clone; all clones are the same engine, which lives as long as any of them or
/// any session does.
///
/// ```
/// use twinlane::{Engine, EngineConfig, Session, TopicSpec};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Engine::new(EngineConfig::default())?;
/// engine.declare("orders", TopicSpec::reliable())?;
/// let session = Session::local(&engine);
/// let mut orders = session.subscribe("orders").await?;
/// session.publisher("orders").await?.publish(b"one tea").await?;
/// let batch = orders.next_batch().await.ok_or("ended")?;
/// assert_eq!(batch.messages().next().map(|message| message.payload()), Some(&b"one tea"[..]));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Engine {
    core: Arc<Core>,
}

pub(crate) struct Core {
    pub(crate) config: EngineConfig,
    pub(crate) topics: Arc<Topics>,
    pub(crate) sessions: Sessions,
    pub(crate) queues: Arc<Queues>,
    started: Instant,
    io: Mutex<Option<Arc<IoThreads>>>,
    listeners: Mutex<Vec<Listener>>,
    /// They hold the engine: it lives until it is shut down once it has listened.
    answering: Mutex<Option<[AbortHandle; 2]>>,
    refused: Mutex<BTreeMap<String, u64>>,
    /// Whether it has an event layer.
    pub(crate) has_events: AtomicBool,
}

impl Engine {
    /// An engine with the configured topics, and those its data directory remembers. Opens no port; starts no thread
    /// unless there is a data directory, which it reads first: about a second for each GiB.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the field and what it may be.
    pub fn new(config: EngineConfig) -> Result<Self, ConfigError> {
        check(&config)?;
        let dir = config.data_dir.clone();
        let unusable = |source| ConfigError::Storage { dir: dir.clone().unwrap_or_default(), source };
        let (storage, remembered) = Storage::open(dir.clone(), &config.limits).map_err(unusable)?;
        let sessions = Sessions::new(config.limits.sessions_max, Arc::clone(&storage.resume_key));
        let topics = Arc::new(Topics::new(config.limits.clone(), storage));
        restore(&topics, &sessions, &remembered, &config.topics).map_err(unusable)?;
        let queues = Queues::new(Arc::clone(&topics), config.session_retention);
        let restored = queues.restore(&remembered.states);
        restored.map_err(|why| unusable(StorageError::Group { why: why.to_string() }))?;
        for (name, spec) in &config.topics {
            let declared =
                client_topic(name).and_then(|name| topics.declare(&name, *spec, "the configuration"));
            declared.map_err(|source| ConfigError::Topic { topic: name.clone(), source })?;
        }
        let core = Core {
            sessions,
            queues,
            topics,
            started: Instant::now(),
            io: Mutex::default(),
            listeners: Mutex::default(),
            answering: Mutex::default(),
            refused: Mutex::default(),
            has_events: AtomicBool::new(false),
            config,
        };
        Ok(Self::of(Arc::new(core)))
    }

    pub(crate) fn of(core: Arc<Core>) -> Self {
        Self { core }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Accepts connections from now on, until [`Self::shutdown`]. Needs a tokio runtime; with
    /// [`EngineConfig::io_threads`] above 0 connections run on threads of their own.
    ///
    /// # Errors
    ///
    /// [`ListenError`] names the address or file and says what to change.
    pub async fn listen(&self, options: ListenOptions) -> Result<Listening, ListenError> {
        server::listen(&self.core, options, None).await
    }

    /// Declares a topic. Does nothing if it is already declared so.
    ///
    /// # Errors
    ///
    /// [`DeclareError::Conflict`] names both sides; other variants say what is wrong with name or limits.
    pub fn declare(&self, topic: &str, spec: TopicSpec) -> Result<TopicStatus, DeclareError> {
        let name = client_topic(topic)?;
        Ok(self.core.topics.declare(&name, spec, "the embedding program")?.status())
    }

    /// What the engine has and does at this moment.
    #[must_use]
    pub fn status(&self) -> EngineStatus {
        self.core.status()
    }

    /// Stops accepting, says goodbye to every session and waits, at most `drain`, until all connections have
    /// written what was waiting and are closed. In-process sessions go on.
    pub async fn shutdown(&self, drain: Duration) {
        let listeners = std::mem::take(&mut *lock(&self.core.listeners));
        listeners.iter().for_each(Listener::stop_accepting);
        if tokio::time::timeout(drain / 2, self.all_sent()).await.is_err() {
            tracing::warn!("some subscribers were not sent everything in time");
        }
        for session in self.core.sessions.all() {
            if let Some(link) = session.link() {
                link.close(Code::ServerShutdown, "the server is shutting down");
            }
        }
        let all_closed = async {
            for listener in &listeners {
                listener.closed().await;
            }
        };
        if tokio::time::timeout(drain / 2, all_closed).await.is_err() {
            tracing::warn!(?drain, "some connections did not close in time");
        }
        if let Some(log) = self.core.topics.log().cloned() {
            // Waits for the disk: not something to do on this thread.
            let _ = tokio::task::spawn_blocking(move || log.close()).await;
        }
        lock(&self.core.answering).take().into_iter().flatten().for_each(|answering| answering.abort());
        let io = lock(&self.core.io).take().and_then(Arc::into_inner);
        if let Some(io) = io {
            // Waits for threads: not something to do on this one.
            let _ = tokio::task::spawn_blocking(move || io.shutdown(IO_DRAIN)).await;
        }
    }
}

impl Engine {
    /// Waits until every remote subscriber was sent all there is of its reliable topics.
    async fn all_sent(&self) {
        let waiting = || self.core.topics.all().iter().any(|topic| topic.has_remote_lag());
        while waiting() {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("name", &self.core.config.name).finish_non_exhaustive()
    }
}

impl Core {
    /// The threads that connections run on, started at the first call.
    pub(crate) fn io(&self) -> Result<Arc<IoThreads>, ListenError> {
        let mut started = lock(&self.io);
        if let Some(io) = &*started {
            return Ok(Arc::clone(io));
        }
        let io = Arc::new(match self.config.io_threads {
            0 => IoThreads::current(),
            count => IoThreads::start(count, self.config.io_policy)?,
        });
        Ok(Arc::clone(started.insert(io)))
    }

    pub(crate) fn add_listener(&self, listener: Listener) {
        lock(&self.listeners).push(listener);
    }

    /// Starts the tasks that answer the engine's own topics, unless they run.
    pub(crate) fn answer_with(&self, start: impl FnOnce() -> [AbortHandle; 2]) {
        lock(&self.answering).get_or_insert_with(start);
    }

    /// Declares one of the engine's own topics.
    pub(crate) fn declare_own(&self, name: &str) -> Result<Arc<Topic>, DeclareError> {
        self.topics.declare(&parse_name(name)?, crate::request::inbox_spec(), "the engine")
    }

    /// A session is over for good.
    pub(crate) fn forget_session(&self, session: &ServerSession) {
        self.sessions.remove(session);
        session.forget();
        self.remove_inbox(&session.name());
    }

    /// Nobody waits for answers to `session` any more, or for what it says.
    pub(crate) fn remove_inbox(&self, session: &str) {
        for name in [crate::request::inbox_name(session), crate::events::native::uplink(session)] {
            self.topics.remove(&parse_name(&name).expect("a session's number makes a good name"));
        }
    }

    /// A connection ended before it had a session.
    pub(crate) fn count_refused(&self, code: Code) {
        *lock(&self.refused).entry(code.to_string()).or_default() += 1;
    }

    pub(crate) fn status(&self) -> EngineStatus {
        let mut refused = lock(&self.refused).clone();
        let mut connections_open = 0;
        for listener in lock(&self.listeners).iter() {
            let counters = listener.counters();
            connections_open += counters.open as u64;
            for why in Refusal::ALL {
                *refused.entry(why.name().to_owned()).or_default() += counters.refused(why);
            }
        }
        refused.retain(|_, count| *count > 0);
        let topics: Vec<TopicStatus> = self.topics.all().iter().map(|topic| topic.status()).collect();
        let sessions: Vec<_> = self.sessions.all().iter().map(|session| session.row()).collect();
        let queues = self.queues.rows();
        EngineStatus {
            name: self.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            connections_open,
            refused,
            sessions_total: sessions.len() as u64,
            sessions,
            queues_total: queues.len() as u64,
            queues,
            topics_total: topics.len() as u64,
            log: self.topics.log().map(|log| log_row(&log.status())),
            memory_bytes: topics.iter().map(|topic| topic.memory_bytes).sum(),
            topics,
        }
    }
}

/// Puts back what an earlier life of the engine left: its durable topics, and publishers that go on where they were.
fn restore(
    topics: &Topics,
    sessions: &Sessions,
    remembered: &Remembered,
    configured: &[(String, TopicSpec)],
) -> Result<(), StorageError> {
    for topic in &remembered.topics {
        let restored = topics.restore(topic, configured);
        restored.map_err(|why| StorageError::Record { topic: topic.id, why: why.to_string() })?;
    }
    for stream in &remembered.streams {
        let (Some(topic), Ok(opened)) = (topics.by_id(stream.topic), StreamRecord::decode(&stream.value))
        else {
            // Nobody can come back for a stream of which it is not known whose it was.
            if let Some(topic) = topics.by_id(stream.topic).and_then(|topic| topic.store.clone()) {
                // A log that takes no more remembers it once more.
                let _ = topic.log.forget_stream(stream.session, stream.lane);
            }
            continue;
        };
        let StreamRecord { client, source, seq_base } = opened;
        sessions.restore(stream.session, &client, Ingest::recovered(topic, source, seq_base, stream));
    }
    topics.restore_last_values(&remembered.states);
    Ok(())
}

fn log_row(log: &twinlane_log::LogStatus) -> LogRow {
    LogRow {
        segments: log.segments as u64,
        file_bytes: log.file_bytes,
        batches: log.batches,
        bytes_written: log.bytes_written,
        sync_us_max: log.sync_us_max,
        no_space: log.no_space,
        failed: log.failed.map(|kind| kind.to_string()),
    }
}

/// A name that fits a hello, limits that the parts below can honour.
fn check(config: &EngineConfig) -> Result<(), ConfigError> {
    if config.name.len() > PEER_NAME_BYTES_MAX {
        return Err(ConfigError::NameTooLong { bytes: config.name.len(), bytes_max: PEER_NAME_BYTES_MAX });
    }
    let default = Limits::default();
    let Limits { reliable_payload_bytes_max, fast_payload_bytes_max, topic_retain_bytes, .. } = config.limits;
    let within = |limit, value: u64, value_max: u64| {
        if (1..=value_max).contains(&value) {
            Ok(())
        } else {
            Err(ConfigError::Limit { limit, value, value_max })
        }
    };
    within(
        "reliable_payload_bytes_max",
        reliable_payload_bytes_max.into(),
        default.reliable_payload_bytes_max.into(),
    )?;
    within("fast_payload_bytes_max", fast_payload_bytes_max.into(), default.fast_payload_bytes_max.into())?;
    within("topic_retain_bytes", topic_retain_bytes, crate::topics::RETAIN_BYTES_MAX)?;
    within("topics_max", config.limits.topics_max as u64, u64::from(u32::MAX) - 1)
}
