//! What can go wrong with events, for whoever emits them.

use std::time::Duration;

use crate::error::{DeclareError, OpenError};

/// Why an event layer or a namespace could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventsError {
    /// A namespace is kept as a topic, whose name is no good or whose bounds do not fit.
    #[error("namespace {namespace:?} cannot be kept: {source}")]
    Namespace {
        /// Which.
        namespace: String,
        /// Why.
        source: DeclareError,
    },
    /// A name that is none.
    #[error("{namespace:?} is no namespace: it begins with `/` and has no comma")]
    Name {
        /// The name.
        namespace: String,
    },
    /// A topic that is to be rooms, or to tell of them, cannot be used.
    #[error("{topic:?} cannot be used: {source}")]
    Bridge {
        /// Which.
        topic: String,
        /// Why.
        source: OpenError,
    },
    /// The engine has an event layer.
    #[error("the engine has an event layer already: use that one, or another engine")]
    Twice,
    /// There is no tokio runtime to run on.
    #[error("make the event layer inside a tokio runtime")]
    NoRuntime,
}

/// Why an event was not emitted. Nobody got it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmitError {
    /// The name is one that only the library emits.
    #[error("`{name}` is reserved: choose another name for the event")]
    Reserved {
        /// The name.
        name: String,
    },
    /// The arguments have no JSON form.
    #[error("the arguments cannot be serialized: {0}")]
    Arguments(#[from] serde_json::Error),
    /// Too large for the namespace's history.
    #[error("an event of {bytes} bytes, where {bytes_max} is the limit: send it in parts")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The engine or the connection is gone.
    #[error("the namespace is closed")]
    Closed,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AckError {
    /// None came in time. The client may have got the event.
    #[error("no acknowledgement within {0:?}")]
    Timeout(Duration),
    /// The client is gone for good, or was never there.
    #[error("the client is gone")]
    Disconnected,
    /// The answer is not what was expected.
    #[error("the acknowledgement is something else: {0}")]
    Answer(serde_json::Error),
    /// The question was not asked.
    #[error(transparent)]
    Emit(#[from] EmitError),
}

/// Why a socket is not in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// It is in as many as it may be.
    #[error("a socket may be in at most {rooms_max} rooms: leave one first")]
    TooManyRooms {
        /// How many that is.
        rooms_max: usize,
    },
    /// It is disconnected.
    #[error("the socket is disconnected")]
    Disconnected,
}
