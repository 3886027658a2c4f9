//! The seam between the event layer and whatever carries packets: Socket.IO over HTTP, twinlane's own protocol, a test.
//!
//! A transport opens a [`Connection`](super::Connection) for each client, hands it what the client says ([`receive`](super::Connection::receive)) and sends
//! what its [`Outbox`](super::Outbox) yields. It knows how packets look on its wire; it decides nothing about rooms, acks or order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use super::burst::Burst;
use super::payload::Payload;
use super::socket::DisconnectReason;

/// Who connects, as its transport saw it.
#[derive(Debug, Clone)]
pub struct Handshake {
    /// The peer's address; `None` in this process.
    pub address: Option<SocketAddr>,
    /// The HTTP headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The query of the first request, decoded.
    pub query: Vec<(String, String)>,
    /// The path and query of the first request.
    pub url: String,
    /// Whether it came over TLS.
    pub secure: bool,
    /// Whether it came from a page of another origin.
    pub cross_origin: bool,
    /// When it came.
    pub issued: SystemTime,
}

/// What a client says.
#[derive(Debug, Clone, PartialEq)]
pub enum FromClient {
    /// It wants to be in a namespace.
    Connect {
        /// `/` or `/name`.
        namespace: String,
        /// A JSON object: credentials and, to recover, `pid` and `offset`.
        auth: Option<bytes::Bytes>,
    },
    /// An event: `payload` is `[name, ...arguments]`.
    Event {
        /// Where it is emitted.
        namespace: String,
        /// Asks for an acknowledgement with this number.
        ack: Option<u64>,
        /// Name and arguments.
        payload: Payload,
    },
    /// The answer to an event that asked for it: `payload` is `[...arguments]`.
    Ack {
        /// Where the event was emitted.
        namespace: String,
        /// The event's number.
        ack: u64,
        /// The arguments.
        payload: Payload,
    },
    /// It leaves a namespace.
    Disconnect {
        /// Which.
        namespace: String,
    },
}

/// What a client is to be told, in this order.
#[derive(Debug, Clone)]
pub enum ToClient {
    /// It is in.
    Connected {
        /// Where.
        namespace: Arc<str>,
        /// Its public number.
        sid: Arc<str>,
        /// Its private number, to recover with; `None` where nothing can be recovered.
        pid: Option<Arc<str>>,
    },
    /// It is not let in.
    Refused {
        /// Where.
        namespace: Arc<str>,
        /// A JSON object: `message` and, where the middleware gave some, `data`.
        error: bytes::Bytes,
    },
    /// Events, shared with whoever else gets them.
    Burst(Arc<Burst>),
    /// The answer to an event of its own: `payload` is `[...arguments]`.
    Ack {
        /// Where the event was emitted.
        namespace: Arc<str>,
        /// The event's number.
        ack: u64,
        /// The arguments.
        payload: Payload,
    },
    /// The server ends its stay in a namespace.
    Disconnect {
        /// Where.
        namespace: Arc<str>,
    },
    /// The transport is to be closed, once what came before is sent.
    Close(DisconnectReason),
}

/// How much may wait for one client that does not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxLimits {
    /// Bytes of payload. Default 4 MiB.
    pub bytes_max: usize,
    /// Events. Default 10,000.
    pub events_max: usize,
}

impl Default for OutboxLimits {
    fn default() -> Self {
        Self { bytes_max: 4 << 20, events_max: 10_000 }
    }
}

/// A packet that breaks the rules of events; the transport closes the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// An event's payload is no JSON array that begins with its name.
    #[error("an event is a JSON array that begins with its name (a text or a number)")]
    NoName,
    /// A name that only the library itself may emit.
    #[error("`{0}` is reserved: choose another name for the event")]
    Reserved(String),
    /// What should let the client in is no JSON.
    #[error("the CONNECT packet carries something that is no JSON")]
    BadAuth,
    /// An acknowledgement or event for a namespace that the client is not in.
    #[error("the client is not in namespace {0:?}")]
    NotConnected(String),
    /// More namespaces than a client may be in.
    #[error("a client may be in at most {0} namespaces")]
    TooManyNamespaces(usize),
}
