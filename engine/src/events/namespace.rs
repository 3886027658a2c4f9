//! A namespace: who is let in, what happens then, and emitting to all who are there.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use serde::Serialize;

use super::emit::{Answers, Emit, Rooms};
use super::error::EmitError;
use super::hub::Hub;
use super::listeners::{HandlerError, Outcome, Running, start};
use super::peer::Handshake;
use super::rooms::RoomEvents;
use super::socket::Socket;
use crate::engine::Core;
use crate::lock::lock;

type Let = Pin<Box<dyn Future<Output = Result<(), Refusal>> + Send>>;
type Middleware = Arc<dyn Fn(Connecting) -> Let + Send + Sync>;
type OnConnection = Arc<dyn Fn(Socket) -> Running + Send + Sync>;

/// A namespace: a place of its own for events, with its own rooms and its own door. Cheap to clone.
#[derive(Clone)]
pub struct Namespace {
    hub: Arc<Hub>,
    door: Arc<Door>,
}

/// See [`Namespace::downgrade`].
pub(super) struct WeakNamespace {
    hub: Weak<Hub>,
    door: Arc<Door>,
}

impl WeakNamespace {
    pub(super) fn upgrade(&self) -> Option<Namespace> {
        Some(Namespace { hub: self.hub.upgrade()?, door: Arc::clone(&self.door) })
    }
}

/// Namespaces that clients make by naming them. They share middlewares and handlers.
#[derive(Clone)]
pub struct DynamicNamespace {
    door: Arc<Door>,
}

/// Who is let in, and what is done with them.
#[derive(Default)]
pub(super) struct Door {
    middlewares: Mutex<Vec<Middleware>>,
    handlers: Mutex<Vec<OnConnection>>,
}

/// A client that wants to be let in.
#[derive(Debug, Clone)]
pub struct Connecting {
    pub(super) namespace: Arc<str>,
    pub(super) handshake: Arc<Handshake>,
    pub(super) auth: serde_json::Value,
    pub(super) data: super::data::Data,
}

impl Connecting {
    /// Where it wants to be.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Who it is, and how it comes.
    #[must_use]
    pub fn handshake(&self) -> &Handshake {
        &self.handshake
    }

    /// What it gives to be let in: `{}` if nothing.
    #[must_use]
    pub fn auth(&self) -> &serde_json::Value {
        &self.auth
    }

    /// What will be the socket's data, unless it recovers.
    #[must_use]
    pub fn data(&self) -> &super::data::Data {
        &self.data
    }
}

/// Why a client is not let in. It gets this as `connect_error`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    message: String,
    data: Option<serde_json::Value>,
}

impl Refusal {
    /// With a message for the client.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), data: None }
    }

    /// And details.
    #[must_use]
    pub fn with_data(self, data: serde_json::Value) -> Self {
        Self { data: Some(data), ..self }
    }

    /// As the client gets it.
    pub(super) fn to_json(&self) -> bytes::Bytes {
        let mut object = serde_json::Map::new();
        object.insert("message".to_owned(), self.message.clone().into());
        if let Some(data) = &self.data {
            object.insert("data".to_owned(), data.clone());
        }
        serde_json::Value::Object(object).to_string().into()
    }
}

impl Namespace {
    pub(super) fn new(hub: Arc<Hub>, door: Arc<Door>) -> Self {
        Self { hub, door }
    }

    /// `/` or `/name`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.hub.name
    }

    /// Asks `middleware` for each client that wants to be let in, also when it comes back: an error keeps it out.
    /// Several are asked in the order in which they were registered.
    pub fn middleware<F, Fut>(&self, middleware: F)
    where
        F: Fn(Connecting) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Refusal>> + Send + 'static,
    {
        self.door.add_middleware(middleware);
    }

    /// Calls `handler` for each client that was let in, before its first event.
    pub fn on_connection<F, Fut>(&self, handler: F)
    where
        F: Fn(Socket) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Outcome> + Send + 'static,
    {
        self.door.add_handler(handler);
    }

    /// An emit to everybody who is in any of these rooms.
    pub fn to(&self, rooms: impl Rooms) -> Emit {
        Emit::new(&self.hub).to(rooms)
    }

    /// As [`Self::to`].
    pub fn within(&self, rooms: impl Rooms) -> Emit {
        self.to(rooms)
    }

    /// An emit to everybody who is in none of these rooms.
    pub fn except(&self, rooms: impl Rooms) -> Emit {
        Emit::new(&self.hub).except(rooms)
    }

    /// An emit to the clients of this server only.
    pub fn local(&self) -> Emit {
        Emit::new(&self.hub).local()
    }

    /// An emit that is dropped where it would have to wait, and is not recovered.
    pub fn volatile(&self) -> Emit {
        Emit::new(&self.hub).volatile()
    }

    /// An emit that is worth compressing or not.
    pub fn compress(&self, compress: bool) -> Emit {
        Emit::new(&self.hub).compress(compress)
    }

    /// An emit whose acknowledgements are waited for at most `timeout`.
    pub fn timeout(&self, timeout: Duration) -> Emit {
        Emit::new(&self.hub).timeout(timeout)
    }

    /// Emits to everybody in the namespace.
    ///
    /// # Errors
    ///
    /// As [`Emit::emit`].
    pub async fn emit(&self, name: &str, arguments: &(impl Serialize + ?Sized)) -> Result<(), EmitError> {
        Emit::new(&self.hub).emit(name, arguments).await
    }

    /// Sends everybody an event named `message`.
    ///
    /// # Errors
    ///
    /// As [`Emit::emit`].
    pub async fn send(&self, arguments: &(impl Serialize + ?Sized)) -> Result<(), EmitError> {
        Emit::new(&self.hub).send(arguments).await
    }

    /// Asks everybody in the namespace, and waits for the answers at most 10 s.
    ///
    /// # Errors
    ///
    /// As [`Emit::emit_with_ack`].
    pub async fn emit_with_ack(
        &self,
        name: &str,
        arguments: &(impl Serialize + ?Sized),
    ) -> Result<Answers, EmitError> {
        Emit::new(&self.hub).emit_with_ack(name, arguments).await
    }

    /// The sockets that are there.
    #[must_use]
    pub fn fetch_sockets(&self) -> Vec<Socket> {
        Emit::new(&self.hub).fetch_sockets()
    }

    /// The socket with this number.
    #[must_use]
    pub fn socket(&self, id: &str) -> Option<Socket> {
        let held = self.hub.hold();
        held.members.get(held.members.find(id)?).cloned()
    }

    /// As [`Emit::sockets_join`], for everybody.
    ///
    /// # Errors
    ///
    /// As [`Emit::sockets_join`].
    pub fn sockets_join(&self, rooms: impl Rooms) -> Result<(), super::error::JoinError> {
        Emit::new(&self.hub).sockets_join(rooms)
    }

    /// As [`Emit::sockets_leave`], for everybody.
    pub fn sockets_leave(&self, rooms: impl Rooms) {
        Emit::new(&self.hub).sockets_leave(rooms);
    }

    /// As [`Emit::disconnect_sockets`], for everybody.
    pub fn disconnect_sockets(&self, close: bool) {
        Emit::new(&self.hub).disconnect_sockets(close);
    }

    /// The rooms there are, and how many sockets are in each. Each socket has one of its own.
    #[must_use]
    pub fn rooms(&self) -> BTreeMap<Arc<str>, usize> {
        self.hub.hold().members.rooms().map(|(room, sockets)| (Arc::clone(room), sockets)).collect()
    }

    /// What happens to rooms from now on.
    #[must_use]
    pub fn room_events(&self) -> RoomEvents {
        RoomEvents { receiver: self.hub.room_events() }
    }

    /// This namespace, for whoever must not keep it alive.
    pub(super) fn downgrade(&self) -> WeakNamespace {
        WeakNamespace { hub: Arc::downgrade(&self.hub), door: Arc::clone(&self.door) }
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.hub.settings.core
    }

    pub(super) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    pub(super) fn door(&self) -> &Arc<Door> {
        &self.door
    }

    pub(super) fn name_shared(&self) -> &Arc<str> {
        &self.hub.name
    }
}

impl DynamicNamespace {
    pub(super) fn new(door: Arc<Door>) -> Self {
        Self { door }
    }

    /// As [`Namespace::middleware`].
    pub fn middleware<F, Fut>(&self, middleware: F)
    where
        F: Fn(Connecting) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Refusal>> + Send + 'static,
    {
        self.door.add_middleware(middleware);
    }

    /// As [`Namespace::on_connection`].
    pub fn on_connection<F, Fut>(&self, handler: F)
    where
        F: Fn(Socket) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Outcome> + Send + 'static,
    {
        self.door.add_handler(handler);
    }
}

impl Door {
    /// Asks the middlewares.
    pub(super) async fn admits(&self, connecting: &Connecting) -> Result<(), Refusal> {
        let middlewares = lock(&self.middlewares).clone();
        for middleware in middlewares {
            middleware(connecting.clone()).await?;
        }
        Ok(())
    }

    /// Calls the handlers: each as far as it goes at once, on as a task.
    pub(super) fn welcome(&self, socket: &Socket) {
        let handlers = lock(&self.handlers).clone();
        for handler in handlers {
            let id = Arc::clone(socket.id());
            start(handler(socket.clone()), move |outcome| {
                if let Err(error) = outcome {
                    tracing::warn!(%id, %error, "a connection handler failed");
                }
            });
        }
    }

    fn add_middleware<F, Fut>(&self, middleware: F)
    where
        F: Fn(Connecting) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Refusal>> + Send + 'static,
    {
        lock(&self.middlewares).push(Arc::new(move |connecting| Box::pin(middleware(connecting))));
    }

    fn add_handler<F, Fut>(&self, handler: F)
    where
        F: Fn(Socket) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Outcome> + Send + 'static,
    {
        let handler = move |socket| -> Running {
            let running = handler(socket);
            Box::pin(async move { running.await.into_result() })
        };
        lock(&self.handlers).push(Arc::new(handler));
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Namespace({})", self.name())
    }
}

impl From<HandlerError> for Refusal {
    fn from(error: HandlerError) -> Self {
        Self::new(error.to_string())
    }
}
