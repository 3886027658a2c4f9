//! A client in a namespace, as the server sees it.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use serde::Serialize;

use super::away::Absent;
use super::burst::Outgoing;
use super::connection::Client;
use super::data::Data;
use super::emit::{Directed, Emit, Rooms};
use super::error::{EmitError, JoinError};
use super::event::Event;
use super::hub::Hub;
use super::listeners::{HandlerError, ListenerId, Listeners, OnError, Outcome, Running, erased, start};
use super::outbox::Shared as Outbox;
use super::payload::Payload;
use super::peer::{Handshake, ToClient};
use crate::lock::lock;

/// Answers that are remembered, to know which questions a client that comes back has had.
const ANSWERS_MAX: usize = 256;

/// Why a socket is not connected any more. `as_str` has Socket.IO's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// The connection was closed.
    TransportClose,
    /// The connection broke.
    TransportError,
    /// The client did not answer a heartbeat.
    PingTimeout,
    /// The client sent something that is no packet.
    ParseError,
    /// The client left the namespace.
    ClientNamespace,
    /// The server disconnected the socket.
    ServerNamespace,
    /// The server is shutting down.
    ServerShutdown,
    /// The server closed the connection.
    ForcedClose,
    /// The client did not read fast enough.
    SlowConsumer,
}

impl DisconnectReason {
    /// As Socket.IO says it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TransportClose => "transport close",
            Self::TransportError => "transport error",
            Self::PingTimeout => "ping timeout",
            Self::ParseError => "parse error",
            Self::ClientNamespace => "client namespace disconnect",
            Self::ServerNamespace => "server namespace disconnect",
            Self::ServerShutdown => "server shutting down",
            Self::ForcedClose => "forced close",
            Self::SlowConsumer => "slow consumer",
        }
    }

    /// Whether nobody wanted it, so that the client may come back and find what it missed.
    #[must_use]
    pub const fn is_recoverable(self) -> bool {
        !matches!(self, Self::ClientNamespace | Self::ServerNamespace | Self::ParseError)
    }
}

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A client in a namespace. Cheap to clone; all clones are the same socket.
///
/// ```
/// # use twinlane::{Engine, EngineConfig, events::{Event, Events, Socket}};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let io = Events::new(&Engine::new(EngineConfig::default())?)?;
/// io.of("/chat")?.on_connection(|socket: Socket| async move {
///     socket.join("lobby")?;
///     socket.on("message", |socket: Socket, event: Event| async move {
///         socket.to("lobby").emit("message", &event.arg::<String>(0)?).await?;
///         event.ack(&"stored");
///         Ok::<_, twinlane::events::HandlerError>(())
///     });
///     Ok::<_, twinlane::events::HandlerError>(())
/// });
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Socket {
    inner: Arc<Inner>,
}

struct Inner {
    id: Arc<str>,
    pid: Option<Arc<str>>,
    hub: Arc<Hub>,
    client: Weak<Client>,
    outbox: Arc<Outbox>,
    handshake: Arc<Handshake>,
    auth: serde_json::Value,
    data: Data,
    /// The first offset that was for it.
    since: u64,
    is_recovered: bool,
    /// Its number among the members, once it is one.
    key: OnceLock<usize>,
    is_over: AtomicBool,
    listeners: Mutex<Listeners<Socket, DisconnectReason>>,
    overhears: AtomicU8,
    answered: Mutex<VecDeque<u64>>,
}

/// What a socket is made of.
pub(super) struct Parts {
    pub(super) id: Arc<str>,
    pub(super) pid: Option<Arc<str>>,
    pub(super) client: Weak<Client>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) handshake: Arc<Handshake>,
    pub(super) auth: serde_json::Value,
    pub(super) data: Data,
    pub(super) since: u64,
    pub(super) is_recovered: bool,
    pub(super) answered: VecDeque<u64>,
}

impl Socket {
    pub(super) fn new(hub: Arc<Hub>, parts: Parts) -> Self {
        let Parts { id, pid, client, outbox, handshake, auth, data, since, is_recovered, answered } = parts;
        let inner = Inner {
            id,
            pid,
            hub,
            client,
            outbox,
            handshake,
            auth,
            data,
            since,
            is_recovered,
            key: OnceLock::new(),
            is_over: AtomicBool::new(false),
            listeners: Mutex::default(),
            overhears: AtomicU8::new(0),
            answered: Mutex::new(answered),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Its public number: 20 letters, digits, `-` and `_`. It is in a room of this name.
    #[must_use]
    pub fn id(&self) -> &Arc<str> {
        &self.inner.id
    }

    /// The namespace it is in.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.inner.hub.name
    }

    /// Who connected, and how.
    #[must_use]
    pub fn handshake(&self) -> &Handshake {
        &self.inner.handshake
    }

    /// What the client gave to be let in: `{}` if nothing.
    #[must_use]
    pub fn auth(&self) -> &serde_json::Value {
        &self.inner.auth
    }

    /// What the application keeps with it. It survives a recovery.
    #[must_use]
    pub fn data(&self) -> &Data {
        &self.inner.data
    }

    /// Whether the client came back, and got its number, rooms, data and every missed event.
    #[must_use]
    pub fn recovered(&self) -> bool {
        self.inner.is_recovered
    }

    /// Whether the client is there.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        !self.inner.is_over.load(Ordering::Acquire)
    }

    /// The rooms it is in, its own first.
    #[must_use]
    pub fn rooms(&self) -> Vec<Arc<str>> {
        let Some(key) = self.inner.key.get().filter(|_| self.is_connected()) else { return Vec::new() };
        self.inner.hub.hold().members.rooms_of(*key).cloned().collect()
    }

    /// Joins a room: every event that is emitted to it from now on is for this socket, and none from before.
    ///
    /// # Errors
    ///
    /// [`JoinError`]: the socket is in too many rooms, or gone.
    pub fn join(&self, room: &str) -> Result<(), JoinError> {
        let mut held = self.inner.hub.hold();
        let key = self.inner.key.get().filter(|_| self.is_connected()).ok_or(JoinError::Disconnected)?;
        let (at, rooms_max) = (held.drained(), self.inner.hub.settings.options.rooms_max);
        let joined = held.members.join(*key, room, at, rooms_max);
        joined.map(drop).map_err(|_| JoinError::TooManyRooms { rooms_max })
    }

    /// Leaves a room: no event that is emitted to it from now on is for this socket.
    pub fn leave(&self, room: &str) {
        let mut held = self.inner.hub.hold();
        if let Some(key) = self.inner.key.get().filter(|_| self.is_connected()) {
            let at = held.drained();
            held.members.leave(*key, room, at);
        }
    }

    /// Emits an event to this client. The elements of a tuple are arguments each, `()` is none, anything else is one.
    /// Waits a little where clients are far behind. Cancel-safe, but the event may have been emitted.
    ///
    /// # Errors
    ///
    /// [`EmitError`]: nothing was emitted.
    pub async fn emit(&self, name: &str, arguments: &(impl Serialize + ?Sized)) -> Result<(), EmitError> {
        self.directed().emit(name, arguments).await
    }

    /// Sends an event named `message`.
    ///
    /// # Errors
    ///
    /// As [`Self::emit`].
    pub async fn send(&self, arguments: &(impl Serialize + ?Sized)) -> Result<(), EmitError> {
        self.emit("message", arguments).await
    }

    /// As [`Emit::emit_payload`], to this client.
    ///
    /// # Errors
    ///
    /// As [`Emit::emit_payload`].
    pub async fn emit_payload(&self, payload: &Payload) -> Result<(), EmitError> {
        self.directed().emit_payload(payload).await
    }

    /// An emit to this client whose acknowledgement is waited for at most `timeout`.
    pub fn timeout(&self, timeout: Duration) -> Directed {
        self.directed().timeout(timeout)
    }

    /// An emit to this client that is dropped where it would have to wait, and is not recovered.
    pub fn volatile(&self) -> Directed {
        self.directed().volatile()
    }

    /// An emit to this client that is worth compressing or not.
    pub fn compress(&self, compress: bool) -> Directed {
        self.directed().compress(compress)
    }

    /// An emit to everybody in the namespace but this client.
    pub fn broadcast(&self) -> Emit {
        Emit::new(&self.inner.hub).without(self.id())
    }

    /// An emit to everybody in these rooms but this client.
    pub fn to(&self, rooms: impl Rooms) -> Emit {
        self.broadcast().to(rooms)
    }

    /// As [`Self::to`].
    pub fn within(&self, rooms: impl Rooms) -> Emit {
        self.to(rooms)
    }

    /// An emit to everybody but this client and those in these rooms.
    pub fn except(&self, rooms: impl Rooms) -> Emit {
        self.broadcast().except(rooms)
    }

    /// Disconnects the client from the namespace; with `close` its connection too, and thereby its other namespaces.
    pub fn disconnect(&self, close: bool) {
        self.inner.outbox.push(ToClient::Disconnect { namespace: Arc::clone(&self.inner.hub.name) }, false);
        self.end(DisconnectReason::ServerNamespace);
        if close {
            self.inner.outbox.close(DisconnectReason::ForcedClose);
        }
    }

    /// Closes the client's connection once what waits is sent. It may come back, and then finds what it missed.
    pub fn close_connection(&self) {
        self.inner.outbox.close(DisconnectReason::ForcedClose);
    }

    pub(super) fn hub(&self) -> &Arc<Hub> {
        &self.inner.hub
    }

    pub(super) fn outbox(&self) -> &Arc<Outbox> {
        &self.inner.outbox
    }

    pub(super) fn set_key(&self, key: usize) {
        self.inner.key.set(key).expect("a socket becomes a member once");
    }

    fn directed(&self) -> Directed {
        Directed::new(Emit::new(&self.inner.hub).to(self.id()))
    }
}

/// Listening.
impl Socket {
    /// Calls `listener` for each event `name`. It may return nothing, or a `Result` whose error is reported to
    /// [`Self::on_error`] or logged.
    pub fn on<F, Fut>(&self, name: &str, listener: F) -> ListenerId
    where
        F: Fn(Self, Event) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Outcome> + Send + 'static,
    {
        lock(&self.inner.listeners).on(name, false, erased(listener))
    }

    /// As [`Self::on`], for the next such event only.
    pub fn once<F, Fut>(&self, name: &str, listener: F) -> ListenerId
    where
        F: Fn(Self, Event) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Outcome> + Send + 'static,
    {
        lock(&self.inner.listeners).on(name, true, erased(listener))
    }

    /// Takes a listener off.
    pub fn off(&self, id: ListenerId) {
        lock(&self.inner.listeners).off(id);
        self.note_overhearing();
    }

    /// Takes all listeners of `name` off, or with `None` those of every name.
    pub fn remove_all_listeners(&self, name: Option<&str>) {
        lock(&self.inner.listeners).off_named(name);
    }

    /// The names that are listened to.
    #[must_use]
    pub fn event_names(&self) -> Vec<String> {
        lock(&self.inner.listeners).names()
    }

    /// Calls `listener` for every event, before the listeners of its name.
    pub fn on_any<F, Fut>(&self, listener: F) -> ListenerId
    where
        F: Fn(Self, Event) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Outcome> + Send + 'static,
    {
        lock(&self.inner.listeners).on_any(false, erased(listener))
    }

    /// As [`Self::on_any`], before those that are registered.
    pub fn prepend_any<F, Fut>(&self, listener: F) -> ListenerId
    where
        F: Fn(Self, Event) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Outcome> + Send + 'static,
    {
        lock(&self.inner.listeners).on_any(true, erased(listener))
    }

    /// Takes all listeners for every event off.
    pub fn off_any(&self) {
        lock(&self.inner.listeners).off_any();
    }

    /// Calls `listener` for every event that goes to this client. Acknowledgements are no events.
    pub fn on_any_outgoing(&self, listener: impl Fn(&Outgoing) + Send + Sync + 'static) -> ListenerId {
        self.add_outgoing(false, listener)
    }

    /// As [`Self::on_any_outgoing`], before those that are registered.
    pub fn prepend_any_outgoing(&self, listener: impl Fn(&Outgoing) + Send + Sync + 'static) -> ListenerId {
        self.add_outgoing(true, listener)
    }

    /// Takes all listeners for outgoing events off.
    pub fn off_any_outgoing(&self) {
        lock(&self.inner.listeners).off_outgoing();
        self.note_overhearing();
    }

    /// Asks `middleware` before the listeners of each event: an error keeps the event from them.
    pub fn middleware<F, Fut>(&self, middleware: F)
    where
        F: Fn(Self, Event) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Outcome> + Send + 'static,
    {
        lock(&self.inner.listeners).add_middleware(erased(middleware));
    }

    /// Calls `listener` with what listeners and middlewares return as errors. Without one they are logged.
    pub fn on_error(&self, listener: impl Fn(&Event, &HandlerError) + Send + Sync + 'static) {
        lock(&self.inner.listeners).on_error(Arc::new(listener));
    }

    /// Calls `listener` when the socket is about to be disconnected; it still is in its rooms.
    pub fn on_disconnecting<F, Fut>(&self, listener: F)
    where
        F: Fn(Self, DisconnectReason) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Outcome> + Send + 'static,
    {
        lock(&self.inner.listeners).on_leaving(true, erased(listener));
    }

    /// Calls `listener` when the socket was disconnected.
    pub fn on_disconnect<F, Fut>(&self, listener: F)
    where
        F: Fn(Self, DisconnectReason) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Outcome> + Send + 'static,
    {
        lock(&self.inner.listeners).on_leaving(false, erased(listener));
    }

    /// Whether listeners hear what goes to this client.
    pub(super) fn overhears(&self) -> bool {
        self.inner.overhears.load(Ordering::Relaxed) > 0
    }

    pub(super) fn overhear(&self, event: &Outgoing) {
        let listeners = lock(&self.inner.listeners).outgoing();
        listeners.iter().for_each(|listener| listener(event));
    }

    fn add_outgoing(
        &self,
        is_first: bool,
        listener: impl Fn(&Outgoing) + Send + Sync + 'static,
    ) -> ListenerId {
        let id = lock(&self.inner.listeners).on_outgoing(is_first, Arc::new(listener));
        self.note_overhearing();
        id
    }

    fn note_overhearing(&self) {
        let listens = lock(&self.inner.listeners).has_outgoing();
        self.inner.overhears.store(listens.into(), Ordering::Relaxed);
    }
}

/// What its client does.
impl Socket {
    /// The client emitted an event.
    pub(super) fn receive(&self, event: &Event) {
        let calls = lock(&self.inner.listeners).calls(event.name());
        if calls.middlewares.is_empty() {
            return calls
                .listeners
                .iter()
                .for_each(|call| self.call(call(self.clone(), event.clone()), event));
        }
        let (socket, asked) = (self.clone(), event.clone());
        let run: Running = Box::pin(async move {
            for middleware in &calls.middlewares {
                middleware(socket.clone(), asked.clone()).await?;
            }
            calls.listeners.iter().for_each(|call| socket.call(call(socket.clone(), asked.clone()), &asked));
            Ok(())
        });
        self.call(run, event);
    }

    /// The client answered a question.
    pub(super) fn answer(&self, ack: u64, payload: Payload) {
        let mut answered = lock(&self.inner.answered);
        if answered.len() == ANSWERS_MAX {
            answered.pop_front();
        }
        answered.push_back(ack);
        drop(answered);
        if !self.inner.hub.hold().acks.answered(ack, self.id(), payload) {
            tracing::debug!(id = %self.id(), ack, "nobody waits for this acknowledgement");
        }
    }

    /// The socket is no member any more. Does nothing the second time.
    pub(super) fn end(&self, reason: DisconnectReason) {
        if self.inner.is_over.load(Ordering::Acquire) {
            return;
        }
        self.tell_leaving(true, reason);
        let mut held = self.inner.hub.hold();
        if self.inner.is_over.swap(true, Ordering::AcqRel) {
            return;
        }
        let stays = self.inner.key.get().and_then(|key| held.remove(*key));
        let may_return = reason.is_recoverable() && self.inner.hub.settings.recovers();
        if let (Some(stays), Some(pid), true) = (stays, &self.inner.pid, may_return) {
            held.keep(Absent {
                id: Arc::clone(self.id()),
                pid: Arc::clone(pid),
                stays,
                data: self.inner.data.clone(),
                since: self.inner.since,
                answered: std::mem::take(&mut lock(&self.inner.answered)),
            });
        }
        drop(held);
        if let Some(client) = self.inner.client.upgrade() {
            client.forget(self);
        }
        self.tell_leaving(false, reason);
        *lock(&self.inner.listeners) = Listeners::default();
    }

    /// Ends it and its client's connection: the client is here on another one.
    pub(super) fn give_way(&self) {
        self.end(DisconnectReason::TransportClose);
        self.inner.outbox.end(Some(DisconnectReason::TransportClose));
    }

    pub(super) fn pid(&self) -> Option<&Arc<str>> {
        self.inner.pid.as_ref()
    }

    fn tell_leaving(&self, is_before: bool, reason: DisconnectReason) {
        for call in lock(&self.inner.listeners).leaving(is_before) {
            let id = Arc::clone(self.id());
            start(call(self.clone(), reason), move |outcome| {
                if let Err(error) = outcome {
                    tracing::warn!(%id, %error, "a disconnect listener failed");
                }
            });
        }
    }

    /// Runs a listener; its error goes to whoever listens for errors.
    fn call(&self, running: Running, event: &Event) {
        let (socket, event) = (self.clone(), event.clone());
        let running_for = self.inner.client.upgrade().map(|client| client.running());
        start(running, move |outcome| {
            drop(running_for);
            let Err(error) = outcome else { return };
            let listeners: Vec<OnError> = lock(&socket.inner.listeners).errors();
            if listeners.is_empty() {
                tracing::warn!(id = %socket.id(), event = event.name(), %error, "a listener failed");
            }
            listeners.iter().for_each(|listener| listener(&event, &error));
        });
    }
}

impl PartialEq for Socket {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Socket({} in {})", self.inner.id, self.inner.hub.name)
    }
}
