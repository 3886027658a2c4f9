//! A Rust client's side of events: what a socket of a browser can do, over a session.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::oneshot;

use super::link::Link;
use super::packet::{self, Kind, Packet};
use crate::events::emit::event_payload;
use crate::events::error::{AckError, EmitError};
use crate::events::event::{Event, Give};
use crate::events::listeners::{HandlerError, ListenerId, Listeners, Outcome, Running, erased, start};
use crate::events::payload::Payload;
use crate::lock::lock;
use crate::session::Session;

/// How long the server may take to let a client in.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an acknowledgement is waited for where nothing is said.
const ACK_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a client is not in a namespace.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum JoinNamespaceError {
    /// The namespace does not let it in.
    #[error("not let into {namespace}: {message}")]
    Refused {
        /// Which.
        namespace: String,
        /// Why, as the namespace says it.
        message: String,
        /// Details, if it gave any.
        data: Option<Value>,
    },
    /// The session has another socket in the namespace.
    #[error("the session is in {namespace} already: use that socket, or another session")]
    Twice {
        /// Which.
        namespace: String,
    },
    /// The server did not answer, or has no event layer.
    #[error("no answer from {namespace}: {why}; does the server have an event layer?")]
    NoAnswer {
        /// Which.
        namespace: String,
        /// What went wrong.
        why: String,
    },
}

/// A client in a namespace, or on its way there. Cheap to clone; all clones are the same socket.
///
/// It comes back by itself: what was missed meanwhile comes first, or [`Self::on_gap`] hears what will not come.
///
/// ```
/// # use twinlane::{Engine, EngineConfig, Session, events::{ClientSocket, Event, Events, Socket}};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Engine::new(EngineConfig::default())?;
/// let io = Events::new(&engine)?;
/// io.of("/chat")?.on_connection(|socket: Socket| async move {
///     socket.on("hello", |_, event: Event| async move { drop(event.ack(&"hello yourself")) });
/// });
///
/// let chat = Session::local(&engine).socket("/chat");
/// chat.on("news", |_: ClientSocket, event: Event| async move { println!("{}", event.name()) });
/// chat.connect().await?;
/// let answer: String = chat.emit_with_ack("hello", &()).await?;
/// assert_eq!(answer, "hello yourself");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ClientSocket {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) session: Session,
    pub(super) namespace: String,
    auth: Mutex<Value>,
    state: Mutex<State>,
    listeners: Mutex<Listeners<ClientSocket, String>>,
    asked: Mutex<HashMap<u64, oneshot::Sender<Payload>>>,
    last_ack: AtomicU64,
    link: Mutex<Option<Arc<Link>>>,
}

#[derive(Default)]
struct State {
    id: Option<Arc<str>>,
    pid: Option<String>,
    offset: Option<String>,
    is_connected: bool,
    is_recovered: bool,
    /// Who waits to be let in.
    joining: Option<oneshot::Sender<Result<(), JoinNamespaceError>>>,
}

impl ClientSocket {
    pub(crate) fn new(session: Session, namespace: &str) -> Self {
        let inner = Inner {
            session,
            namespace: namespace.to_owned(),
            auth: Mutex::new(Value::Null),
            state: Mutex::default(),
            listeners: Mutex::default(),
            asked: Mutex::default(),
            last_ack: AtomicU64::new(0),
            link: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What the namespace gets to let this client in; a JSON object. Set it before [`Self::connect`].
    pub fn set_auth(&self, auth: Value) {
        *lock(&self.inner.auth) = auth;
    }

    /// Enters the namespace. Register listeners before: what comes first is missed by later ones.
    ///
    /// # Errors
    ///
    /// [`JoinNamespaceError`] says what to do.
    pub async fn connect(&self) -> Result<(), JoinNamespaceError> {
        let namespace = self.inner.namespace.clone();
        let unanswered = |why: String| JoinNamespaceError::NoAnswer { namespace: namespace.clone(), why };
        let link = self.inner.session.events_link().await.map_err(|error| unanswered(error.to_string()))?;
        if !link.add(&self.inner) {
            return Err(JoinNamespaceError::Twice { namespace });
        }
        *lock(&self.inner.link) = Some(Arc::clone(&link));
        let (joining, joined) = oneshot::channel();
        lock(&self.inner.state).joining = Some(joining);
        let asked = link.send(&self.inner.knock()).await;
        asked.map_err(|error| unanswered(error.to_string()))?;
        match tokio::time::timeout(JOIN_TIMEOUT, joined).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(unanswered("the session ended".to_owned())),
            Err(_) => Err(unanswered(format!("none within {JOIN_TIMEOUT:?}"))),
        }
    }

    /// Leaves the namespace, for good unless [`Self::connect`] is called again.
    pub async fn disconnect(&self) {
        let Some(link) = lock(&self.inner.link).take() else { return };
        let _ = link.send(&self.inner.packet(Kind::Disconnect, None, &Payload::default())).await;
        link.remove(&self.inner);
        self.inner.left("client namespace disconnect");
        lock(&self.inner.state).pid = None;
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.inner.namespace
    }

    /// Its public number, the same as the server's socket has. `None` before it was let in.
    #[must_use]
    pub fn id(&self) -> Option<Arc<str>> {
        lock(&self.inner.state).id.clone()
    }

    /// Whether it is in the namespace.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        lock(&self.inner.state).is_connected
    }

    /// Whether it came back as who it was, and got every event it missed.
    #[must_use]
    pub fn recovered(&self) -> bool {
        lock(&self.inner.state).is_recovered
    }

    /// Emits an event to the server. The elements of a tuple are arguments each, `()` is none, anything else is one.
    /// While the connection is lost it waits in the session's queue. Cancel-safe, but it may have been emitted.
    ///
    /// # Errors
    ///
    /// [`EmitError`]: nothing was emitted.
    pub async fn emit(&self, name: &str, arguments: &(impl Serialize + ?Sized)) -> Result<(), EmitError> {
        self.inner.emit(None, &event_payload(name, arguments)?).await
    }

    /// Sends an event named `message`.
    ///
    /// # Errors
    ///
    /// As [`Self::emit`].
    pub async fn send(&self, arguments: &(impl Serialize + ?Sized)) -> Result<(), EmitError> {
        self.emit("message", arguments).await
    }

    /// Emits, and waits for the answer at most 10 s: its first argument.
    ///
    /// # Errors
    ///
    /// [`AckError::Timeout`]: the server may have got the event. The others say why there can be no answer.
    pub async fn emit_with_ack<T: DeserializeOwned>(
        &self,
        name: &str,
        arguments: &(impl Serialize + ?Sized),
    ) -> Result<T, AckError> {
        self.timeout(ACK_TIMEOUT).emit_with_ack(name, arguments).await
    }

    /// An emit whose answer is waited for at most `timeout`.
    pub fn timeout(&self, timeout: Duration) -> ClientDirected {
        ClientDirected { socket: self.clone(), is_volatile: false, timeout }
    }

    /// An emit that is dropped while there is no connection.
    pub fn volatile(&self) -> ClientDirected {
        ClientDirected { socket: self.clone(), is_volatile: true, timeout: ACK_TIMEOUT }
    }

    /// Calls `listener` for each event `name`.
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

    /// Calls `listener` for every event, before the listeners of its name.
    pub fn on_any<F, Fut>(&self, listener: F) -> ListenerId
    where
        F: Fn(Self, Event) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Outcome> + Send + 'static,
    {
        lock(&self.inner.listeners).on_any(false, erased(listener))
    }

    /// Takes a listener off.
    pub fn off(&self, id: ListenerId) {
        lock(&self.inner.listeners).off(id);
    }

    /// Takes all listeners of `name` off, or with `None` those of every name.
    pub fn remove_all_listeners(&self, name: Option<&str>) {
        lock(&self.inner.listeners).off_named(name);
    }

    /// Calls `listener` when events were missed that will not come: `{from, to, cause}`, offsets of the namespace or null.
    pub fn on_gap<F, Fut>(&self, listener: F) -> ListenerId
    where
        F: Fn(Self, Event) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Outcome> + Send + 'static,
    {
        self.on("$gap", listener)
    }

    /// Calls `listener` each time it was let in; `true`: it came back as who it was.
    pub fn on_connect<F, Fut>(&self, listener: F)
    where
        F: Fn(Self, bool) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Outcome> + Send + 'static,
    {
        lock(&self.inner.listeners).on_connected(erased(listener));
    }

    /// Calls `listener` when it is not in the namespace any more, with Socket.IO's word for the reason.
    pub fn on_disconnect<F, Fut>(&self, listener: F)
    where
        F: Fn(Self, String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Outcome> + Send + 'static,
    {
        lock(&self.inner.listeners).on_leaving(false, erased(listener));
    }
}

/// An emit to the server with options.
#[derive(Clone)]
#[must_use = "nothing is emitted before `emit`"]
pub struct ClientDirected {
    socket: ClientSocket,
    is_volatile: bool,
    timeout: Duration,
}

impl ClientDirected {
    /// As [`ClientSocket::emit`].
    ///
    /// # Errors
    ///
    /// As [`ClientSocket::emit`].
    pub async fn emit(&self, name: &str, arguments: &(impl Serialize + ?Sized)) -> Result<(), EmitError> {
        if self.is_volatile && !self.socket.is_connected() {
            return Ok(());
        }
        self.socket.emit(name, arguments).await
    }

    /// As [`ClientSocket::emit_with_ack`].
    ///
    /// # Errors
    ///
    /// As [`ClientSocket::emit_with_ack`].
    pub async fn emit_with_ack<T: DeserializeOwned>(
        &self,
        name: &str,
        arguments: &(impl Serialize + ?Sized),
    ) -> Result<T, AckError> {
        let inner = &self.socket.inner;
        let ack = inner.last_ack.fetch_add(1, Ordering::Relaxed);
        let (asker, answer) = oneshot::channel();
        lock(&inner.asked).insert(ack, asker);
        let _forget = Forget { inner, ack };
        inner.emit(Some(ack), &event_payload(name, arguments)?).await?;
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(Ok(answer)) => answer.argument(0).map_err(AckError::Answer),
            Ok(Err(_)) => Err(AckError::Disconnected),
            Err(_) => Err(AckError::Timeout(self.timeout)),
        }
    }
}

/// Takes a question that is over off the list.
struct Forget<'a> {
    inner: &'a Inner,
    ack: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(&self.inner.asked).remove(&self.ack);
    }
}

impl Inner {
    /// The server says something about this socket.
    pub(super) fn take(self: &Arc<Self>, packet: Packet, link: &Arc<Link>) {
        let Packet { kind, ack, payload, .. } = packet;
        match (kind, ack) {
            (Kind::Connected, _) => self.let_in(&payload),
            (Kind::Refused, _) => self.kept_out(&payload, link),
            (Kind::Event, ack) => self.hear(payload, ack, link),
            (Kind::Ack, Some(ack)) => {
                let asker = lock(&self.asked).remove(&ack);
                asker.map(|asker| asker.send(payload));
            }
            (Kind::Disconnect, _) => {
                link.remove(self);
                self.left("io server disconnect");
            }
            (Kind::Connect | Kind::Close | Kind::Ack, _) => {
                tracing::warn!(?kind, "the server sent what only clients send");
            }
        }
    }

    /// The packet that asks to be let in, as who it was if it was somebody.
    pub(super) fn knock(&self) -> Vec<u8> {
        let mut auth = match &*lock(&self.auth) {
            Value::Object(auth) => auth.clone(),
            _ => serde_json::Map::new(),
        };
        let state = lock(&self.state);
        for (name, value) in [("pid", &state.pid), ("offset", &state.offset)] {
            value.as_ref().map(|value| auth.insert(name.to_owned(), value.clone().into()));
        }
        drop(state);
        let payload = Payload { json: Value::Object(auth).to_string().into(), attachments: Vec::new() };
        self.packet(Kind::Connect, None, &payload)
    }

    /// The connection to the event layer is lost, or the server ended the stay.
    pub(super) fn left(self: &Arc<Self>, reason: &str) {
        let was_connected = std::mem::take(&mut lock(&self.state).is_connected);
        if !was_connected {
            return;
        }
        let calls = lock(&self.listeners).leaving(false);
        for call in calls {
            self.call(call(self.socket(), reason.to_owned()), "disconnect");
        }
    }

    pub(super) fn socket(self: &Arc<Self>) -> ClientSocket {
        ClientSocket { inner: Arc::clone(self) }
    }

    fn let_in(self: &Arc<Self>, numbers: &Payload) {
        let Ok(numbers) = serde_json::from_slice::<Value>(&numbers.json) else { return };
        let text = |name: &str| numbers.get(name).and_then(Value::as_str);
        let mut state = lock(&self.state);
        state.is_recovered = state.pid.is_some() && state.pid.as_deref() == text("pid");
        if !state.is_recovered {
            state.offset = None;
        }
        state.id = text("sid").map(Arc::from);
        state.pid = text("pid").map(str::to_owned);
        state.is_connected = true;
        let (joining, is_recovered) = (state.joining.take(), state.is_recovered);
        drop(state);
        let calls = lock(&self.listeners).connected();
        for call in calls {
            self.call(call(self.socket(), is_recovered), "connect");
        }
        joining.map(|joining| joining.send(Ok(())));
    }

    fn kept_out(self: &Arc<Self>, error: &Payload, link: &Arc<Link>) {
        link.remove(self);
        let error: Value = serde_json::from_slice(&error.json).unwrap_or_default();
        let message = error.get("message").and_then(Value::as_str).unwrap_or("no reason given").to_owned();
        let (namespace, data) = (self.namespace.clone(), error.get("data").cloned());
        match lock(&self.state).joining.take() {
            Some(joining) => {
                let _ = joining.send(Err(JoinNamespaceError::Refused { namespace, message, data }));
            }
            None => tracing::warn!(%namespace, %message, "not let in again"),
        }
    }

    fn hear(self: &Arc<Self>, payload: Payload, ack: Option<u64>, link: &Arc<Link>) {
        if let Some(offset) = payload.last_text() {
            lock(&self.state).offset = Some(offset);
        }
        let answer = ack.map(|ack| (ack, self.give(link)));
        let event = match Event::new(payload, answer) {
            Ok(event) => event,
            Err(error) => return tracing::warn!(%error, "the server sent an event that is none"),
        };
        let calls = lock(&self.listeners).calls(event.name());
        for call in calls.listeners {
            self.call(call(self.socket(), event.clone()), event.name());
        }
    }

    fn give(&self, link: &Arc<Link>) -> Give {
        let (link, namespace) = (Arc::clone(link), self.namespace.clone());
        Box::new(move |ack, payload| {
            let mut answer = Vec::new();
            packet::put(&mut answer, Kind::Ack, Some(ack), &namespace, &payload);
            let link = Arc::clone(&link);
            tokio::spawn(async move { link.send(&answer).await });
        })
    }

    async fn emit(&self, ack: Option<u64>, payload: &Payload) -> Result<(), EmitError> {
        let link = lock(&self.link).clone().ok_or(EmitError::Closed)?;
        link.send(&self.packet(Kind::Event, ack, payload)).await
    }

    fn packet(&self, kind: Kind, ack: Option<u64>, payload: &Payload) -> Vec<u8> {
        let mut out = Vec::new();
        packet::put(&mut out, kind, ack, &self.namespace, payload);
        out
    }

    fn call(self: &Arc<Self>, running: Running, event: &str) {
        let (namespace, event) = (self.namespace.clone(), event.to_owned());
        start(running, move |outcome: Result<(), HandlerError>| {
            if let Err(error) = outcome {
                tracing::warn!(%namespace, %event, %error, "a listener failed");
            }
        });
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let link = self.link.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let (Some(link), Ok(runtime)) = (link, tokio::runtime::Handle::try_current()) {
            let goodbye = self.packet(Kind::Disconnect, None, &Payload::default());
            runtime.spawn(async move { link.send(&goodbye).await });
        }
    }
}

impl fmt::Debug for ClientSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientSocket({:?} in {})", self.id(), self.inner.namespace)
    }
}
