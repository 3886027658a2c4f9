//! Events, as users of Socket.IO know them: emit, listen, acknowledge, namespaces, rooms, and what was missed.
//!
//! One layer for every peer: browsers reach it through the gateway crate, Rust clients through a session, and handlers in
//! this process use it directly. A namespace is one log with one order for everybody; a room is membership in it, and
//! who comes back within [`EventsOptions::recovery`] finds every event that it missed, in that order.
//!
//! ```
//! use twinlane::events::{Event, Events, HandlerError, Socket};
//! use twinlane::{Engine, EngineConfig};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::new(EngineConfig::default())?;
//! let io = Events::new(&engine)?;
//! io.on_connection(|socket: Socket| async move {
//!     socket.on("hello", |socket: Socket, event: Event| async move {
//!         let name: String = event.arg(0)?;
//!         socket.broadcast().emit("joined", &name).await?;
//!         event.ack(&format!("hello, {name}"));
//!         Ok::<_, HandlerError>(())
//!     });
//! });
//! io.emit("news", &("everybody gets this", 1)).await?;
//! # Ok(()) }
//! ```

mod acks;
mod admission;
mod away;
mod bridge;
mod burst;
mod connection;
mod data;
mod emit;
mod error;
mod event;
mod hub;
#[doc(hidden)]
pub mod json;
mod layer;
mod listeners;
mod members;
mod namespace;
pub(crate) mod native;
mod outbox;
mod payload;
pub mod peer;
mod record;
mod rooms;
mod socket;
mod state;
mod status;

use std::sync::Arc;

use serde::Serialize;
use tokio::runtime::Handle;

use self::layer::Layer;
use self::namespace::Door;
use self::peer::{Handshake, OutboxLimits};
use crate::engine::Engine;
use crate::topics::Watch;

pub use burst::{Burst, Outgoing, Wire};
pub use connection::Connection;
pub use data::Data;
pub use emit::{Answers, Directed, Emit, Rooms};
pub use error::{AckError, EmitError, EventsError, JoinError};
pub use event::Event;
pub use layer::EventsOptions;
pub use listeners::{HandlerError, ListenerId, Outcome};
pub use namespace::{Connecting, DynamicNamespace, Namespace, Refusal};
pub use native::{ClientDirected, ClientSocket, JoinNamespaceError};
pub use outbox::Outbox;
pub use payload::{Binary, Payload};
pub use rooms::{RoomEvent, RoomEvents};
pub use socket::{DisconnectReason, Socket};
pub use status::{EventsStatus, NamespaceRow, RoomRow};

/// The event layer of an engine. Cheap to clone; all clones are the same.
///
/// What it offers for all clients it offers for namespace `/`: [`Self::of`] has the others.
#[derive(Clone)]
pub struct Events {
    layer: Arc<Layer>,
    main: Namespace,
    /// Held for its drop.
    _rust_clients: Arc<Watch>,
}

impl Events {
    /// The event layer of `engine`, which runs on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// [`EventsError`]: there is no runtime, or the engine has an event layer already.
    pub fn new(engine: &Engine) -> Result<Self, EventsError> {
        Self::with(engine, EventsOptions::default())
    }

    /// As [`Self::new`], with options.
    ///
    /// # Errors
    ///
    /// As [`Self::new`]; and a history that does not fit the engine's limits.
    pub fn with(engine: &Engine, options: EventsOptions) -> Result<Self, EventsError> {
        let runtime = Handle::try_current().map_err(|_| EventsError::NoRuntime)?;
        let core = engine.core();
        if core.has_events.swap(true, std::sync::atomic::Ordering::AcqRel) {
            return Err(EventsError::Twice);
        }
        let layer = Arc::new(Layer::new(Arc::clone(core), options, runtime));
        let main = layer.namespace("/")?;
        let rust_clients = Arc::new(native::serve(&layer));
        Ok(Self { layer, main, _rust_clients: rust_clients })
    }

    /// The namespace `name`, made if there is none: `/` or `/name`.
    ///
    /// # Errors
    ///
    /// [`EventsError::Namespace`]: the name is none, or there are too many topics.
    pub fn of(&self, name: &str) -> Result<Namespace, EventsError> {
        self.layer.namespace(name)
    }

    /// Namespaces that clients make by naming them: those for which `matches` is true.
    pub fn of_matching(&self, matches: impl Fn(&str) -> bool + Send + Sync + 'static) -> DynamicNamespace {
        let door = Arc::<Door>::default();
        self.layer.add_dynamic(Box::new(matches), Arc::clone(&door));
        DynamicNamespace::new(door)
    }

    /// Calls `tell` for each namespace that is made from now on.
    pub fn on_new_namespace(&self, tell: impl Fn(&Namespace) + Send + Sync + 'static) {
        self.layer.on_new_namespace(Arc::new(tell));
    }

    /// The namespaces there are, by name.
    #[must_use]
    pub fn namespaces(&self) -> Vec<Namespace> {
        self.layer.all()
    }

    /// A client connects: what carries its packets gets these two.
    #[must_use]
    pub fn connect(&self, handshake: Handshake, limits: OutboxLimits) -> (Connection, Outbox) {
        Connection::open(&self.layer, handshake, limits)
    }

    /// Ends all connections, once what waits for them is sent. Clients may recover on another server's start only if
    /// they come back to this one.
    pub fn close(&self) {
        for client in self.layer.clients() {
            client.outbox.close(DisconnectReason::ServerShutdown);
        }
    }

    /// What there is and happens at this moment.
    #[must_use]
    pub fn status(&self) -> EventsStatus {
        status::status(&self.layer)
    }

    /// Emits to everybody in namespace `/`.
    ///
    /// # Errors
    ///
    /// As [`Emit::emit`].
    pub async fn emit(&self, name: &str, arguments: &(impl Serialize + ?Sized)) -> Result<(), EmitError> {
        self.main.emit(name, arguments).await
    }
}

impl std::ops::Deref for Events {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.main
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("namespaces", &self.namespaces()).finish()
    }
}

/// What the decoders of this module are fuzzed through.
#[doc(hidden)]
pub mod fuzzing {
    pub use super::native::{NativeError, read_packets};
}
