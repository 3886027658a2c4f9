//! An embeddable messaging engine with two channels: **fast** topics may lose messages and never wait for them,
//! **reliable** topics keep every acknowledged message in one order.
//!
//! Each topic is declared once as fast or reliable and means the same for everyone: in this process (no socket, no
//! copy), over TCP with TLS, and over QUIC. Fast topics travel in QUIC datagrams, reliable ones over TCP.
//!
//! ```
//! use twinlane::{Engine, EngineConfig, Session, TopicSpec};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::new(EngineConfig::default())?;
//! engine.declare("orders", TopicSpec::reliable())?;
//!
//! let session = Session::local(&engine);
//! let mut orders = session.subscribe("orders").await?;
//! let ack = session.publisher("orders").await?.publish(b"one tea").await?;
//! assert_eq!(ack.offset, Some(0));
//! assert!(orders.next().await.is_some());
//! # Ok(()) }
//! ```
//!
//! - [`Engine`]: topics in this process; [`Engine::listen`] opens it to others
//! - [`Session`]: publish and subscribe, [`local`](Session::local) or [over the network](Session::connect)
//! - [`Publisher`], [`Subscription`], [`Queue`], [`Session::request`], [`Responder`]
//!
//! The library runs on the caller's tokio runtime, reads no environment and installs nothing global.
#![forbid(unsafe_code)]

mod client;
mod config;
mod cursors;
mod engine;
mod error;
pub mod events;
mod fast;
#[cfg(feature = "faults")]
#[doc(hidden)]
pub mod faults;
#[cfg(not(feature = "faults"))]
mod faults;
#[doc(hidden)]
pub mod gateway;
mod heads;
mod incoming;
mod job;
mod link;
mod local_source;
mod lock;
mod message;
mod outcomes;
mod publisher;
mod queue;
mod random;
mod request;
mod seq_window;
mod server;
mod session;
mod session_events;
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod simulation;
mod status;
mod storage;
mod subscription;
mod topic_cursor;
mod topics;
mod tracker;
mod transport;
mod worker;

pub use config::{
    Auth, ConnectOptions, DEFAULT_PORT, EngineConfig, Limits, ListenOptions, ParseTokenHashError,
    PublisherOptions, Reconnect, SubscribeOptions, TokenHash, Transports,
};
pub use engine::Engine;
pub use error::{
    ConfigError, DeclareError, EndReason, OpenError, PublishError, QueueError, RequestError, SettleError,
    TryPublishError,
};
pub use job::Job;
pub use message::{Batch, Delivery, DeliveryRef, Gap, Message, MessageView, Missing};
pub use publisher::{Ack, BatchAck, Flushed, MessageOptions, Publisher};
pub use request::{Request, Responder};
pub use server::Listening;
pub use session::Session;
pub use session_events::{SessionEvent, SessionEvents};
pub use status::{
    EngineStatus, LogRow, QueueRow, SessionRow, SessionStatus, SubscriberRow, SubscriptionStats, SwitchRow,
    TopicStatus, UdpPath,
};
pub use storage::StorageError;
pub use subscription::Subscription;
pub use transport::{
    ConnectError, FaultCounts, Faults, Fingerprint, FingerprintParseError, Identity, IoPolicy,
    IoPolicyParseError, LinkFault, ListenError, Trust,
};
pub use twinlane_proto::control::{GapCause, Level, Outcome, SlowPolicy, Start};
pub use twinlane_proto::topic::{Channel, Filter, Last, Mode, NameError, Storage, TopicName, TopicSpec};
pub use twinlane_proto::{Code, frame::Headers};
pub use worker::{Queue, QueueOptions, QueueSettings};
