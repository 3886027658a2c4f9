//! One error type per operation; each variant names the culprit, carries the numbers and says what to do.

use twinlane_proto::{Code, TopicSpec, topic::NameError};

/// An [`EngineConfig`](crate::EngineConfig) cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A configured topic cannot be declared.
    #[error("configured topic {topic:?}: {source}")]
    Topic {
        /// The topic as written.
        topic: String,
        /// What is wrong with it.
        source: DeclareError,
    },
    /// The engine's name is too long.
    #[error("the engine's name has {bytes} bytes, at most {bytes_max} fit; choose a shorter one")]
    NameTooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A limit is outside of what the engine can honour.
    #[error("limit {limit} is {value}, it must be between 1 and {value_max}")]
    Limit {
        /// Which limit.
        limit: &'static str,
        /// The configured value.
        value: u64,
        /// The largest value that works.
        value_max: u64,
    },
    /// The data directory cannot be used.
    #[error("data directory {}: {source}", dir.display())]
    Storage {
        /// The directory.
        dir: std::path::PathBuf,
        /// What is wrong with it, and what to do.
        source: crate::storage::StorageError,
    },
    /// No tokio runtime.
    #[error("an engine needs a tokio runtime: create it inside one")]
    NoRuntime,
    /// An I/O thread could not be started.
    #[error("cannot start an I/O thread: {0}")]
    IoThread(#[source] std::io::Error),
}

/// A topic could not be declared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeclareError {
    /// The topic exists and means something else.
    #[error(
        "topic {topic:?} is {declared} (declared by {declared_by}), but {asked} was asked for; use it as declared or choose another name"
    )]
    Conflict {
        /// The topic.
        topic: String,
        /// What it is.
        declared: Box<TopicSpec>,
        /// Who said so.
        declared_by: String,
        /// What was asked for.
        asked: Box<TopicSpec>,
    },
    /// The name breaks the rules for topic names.
    #[error("bad topic name: {0}")]
    BadName(#[from] NameError),
    /// Names that begin with `$` belong to the server.
    #[error(
        "topic {topic:?} is reserved: names that begin with '$' belong to the server; choose another name"
    )]
    Reserved {
        /// The topic.
        topic: String,
    },
    /// The topic does not exist and may not be declared here.
    #[error(
        "topic {topic:?} does not exist and this engine does not let clients declare topics; ask its operator"
    )]
    Denied {
        /// The topic.
        topic: String,
    },
    /// No more topics.
    #[error("the engine already has {topics_max} topics, its limit; raise `topics_max` or use fewer topics")]
    TooMany {
        /// The limit.
        topics_max: usize,
    },
    /// A size in the specification is beyond the engine's limits.
    #[error("topic {topic:?} asks for {field} = {asked}, at most {asked_max} is possible")]
    OverLimit {
        /// The topic.
        topic: String,
        /// Which field of the specification.
        field: &'static str,
        /// The value asked for.
        asked: u64,
        /// The limit.
        asked_max: u64,
    },
    /// A topic on disk needs a directory to be in.
    #[error(
        "topic {topic:?} is to be kept on disk, but this engine has no data directory; start it with one (`--data DIR`, `data_dir`) or declare the topic in memory"
    )]
    NoStorage {
        /// The topic.
        topic: String,
    },
    /// The log on disk takes no more.
    #[error("topic {topic:?} cannot be written to disk: {code}")]
    Storage {
        /// The topic.
        topic: String,
        /// Why.
        code: Code,
    },
    /// The server refused for another reason.
    #[error("the server refused: {message} ({code})")]
    Refused {
        /// Its code.
        code: Code,
        /// Its words.
        message: String,
    },
    /// No answer in time, or the session ended.
    #[error("the session is closed: {why}")]
    Closed {
        /// Why.
        why: String,
    },
}

impl DeclareError {
    /// The code a server answers with.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Conflict { .. } => Code::TopicConflict,
            Self::BadName(_) => Code::BadName,
            Self::Reserved { .. } => Code::ReservedName,
            Self::Denied { .. } => Code::DeclareDenied,
            Self::TooMany { .. } | Self::OverLimit { .. } => Code::LimitReached,
            Self::NoStorage { .. } => Code::StorageFailed,
            Self::Refused { code, .. } | Self::Storage { code, .. } => *code,
            Self::Closed { .. } => Code::Closed,
        }
    }
}

/// A publisher, subscription or responder could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The topic or filter is not usable so.
    #[error(transparent)]
    Declare(#[from] DeclareError),
    /// A session has a bounded number of each.
    #[error("this session already has {open} {what}, its limit; close some or open another session")]
    TooMany {
        /// Publishers or subscriptions.
        what: &'static str,
        /// How many are open.
        open: usize,
    },
    /// No answer in time.
    #[error("no answer from the server within {0:?}; it may be overloaded or unreachable")]
    Timeout(std::time::Duration),
}

/// A publish has no `Ok` outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Certainly not stored.
    #[error("message {seq} was refused: {code}")]
    Refused {
        /// Its seq.
        seq: u64,
        /// Why.
        code: Code,
    },
    /// The connection was lost before the outcome arrived and the session could not be resumed: message `seq`
    /// may or may not have been stored.
    #[error(
        "the outcome of message {seq} is unknown: the connection was lost and the session could not be resumed"
    )]
    Unknown {
        /// Its seq.
        seq: u64,
    },
    /// The payload is larger than the topic allows. Nothing was stored.
    #[error(
        "the payload has {payload_bytes} bytes, this topic's limit is {limit}; split it or raise `payload_bytes_max`"
    )]
    TooLarge {
        /// Its size.
        payload_bytes: usize,
        /// The topic's limit.
        limit: usize,
    },
    /// Key, headers or the like break a limit. Nothing was stored.
    #[error("the message's options are not possible: {0}")]
    BadOptions(String),
    /// No outcome in time; the message may still be stored.
    #[error("no outcome within {waited:?}; the message may still be stored")]
    Timeout {
        /// How long was waited.
        waited: std::time::Duration,
    },
    /// The publisher, session or engine is closed. A message that was on its way by then may be stored.
    #[error("closed: {why}")]
    Closed {
        /// Why.
        why: String,
    },
}

/// [`Publisher::try_publish`](crate::Publisher::try_publish) queued nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TryPublishError {
    /// Subscribers or the network are slower than you: wait, retry or drop.
    #[error("the queue is full: the receiver is slower than this publisher; wait, retry or drop the message")]
    QueueFull,
    /// The payload is larger than the topic allows.
    #[error(
        "the payload has {payload_bytes} bytes, this topic's limit is {limit}; split it or raise `payload_bytes_max`"
    )]
    TooLarge {
        /// Its size.
        payload_bytes: usize,
        /// The topic's limit.
        limit: usize,
    },
    /// The publisher, session or engine is closed.
    #[error("closed: {why}")]
    Closed {
        /// Why.
        why: String,
    },
}

/// A request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Nobody answered in time.
    #[error("no answer within {0:?}: nobody answers this topic, or too slowly")]
    Timeout(std::time::Duration),
    /// The request could not be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The topic or the session's inbox could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no such topic.
    #[error("there is no topic {topic:?}; `twinlane topics` lists those there are")]
    NoSuchTopic {
        /// The topic asked about.
        topic: String,
    },
    /// The answer is not what it should be.
    #[error("the answer cannot be read: {0}")]
    BadAnswer(String),
}

/// A job's verdict was not recorded, or perhaps not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettleError {
    /// The lease is over: the job is somebody else's by now, or done. Nothing changed; do nothing.
    #[error("the lease is over: somebody else has the job, or it is done")]
    Stale,
    /// The connection was lost before the answer came: the job may be done, or handed over again.
    #[error("the connection was lost before the answer came; the job may be handed over again")]
    Unknown,
    /// The server could not record it; the job is handed over again later.
    #[error("the verdict was refused: {code}")]
    Refused {
        /// Why.
        code: Code,
    },
}

/// A worker's place in a queue group is lost for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no more jobs: {reason} ({code})")]
pub struct QueueError {
    /// The code.
    pub code: Code,
    /// In words.
    pub reason: String,
}

/// Why a subscription ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndReason {
    /// The code.
    pub code: Code,
    /// In words.
    pub reason: String,
}

impl std::fmt::Display for EndReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.reason.is_empty() {
            write!(f, "{}", self.code)
        } else {
            write!(f, "{} ({})", self.reason, self.code)
        }
    }
}
