//! The emit chain: whom an event is for, how it is to be treated, and the emit itself.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::acks::Collected;
use super::error::{AckError, EmitError, JoinError};
use super::event::{is_reserved, name_of};
use super::hub::Hub;
use super::payload::Payload;
use super::record::{Audience, LOCAL, UNCOMPRESSED, VOLATILE};
use super::socket::Socket;

/// How long acknowledgements are waited for where nothing is said.
const ACK_TIMEOUT: Duration = Duration::from_secs(10);

/// Names of rooms: a text, or several.
pub trait Rooms {
    /// Calls `each` with every name.
    fn each_room(&self, each: &mut dyn FnMut(&str));
}

impl Rooms for str {
    fn each_room(&self, each: &mut dyn FnMut(&str)) {
        each(self);
    }
}

impl Rooms for String {
    fn each_room(&self, each: &mut dyn FnMut(&str)) {
        each(self);
    }
}

impl Rooms for Arc<str> {
    fn each_room(&self, each: &mut dyn FnMut(&str)) {
        each(self);
    }
}

impl<R: Rooms + ?Sized> Rooms for &R {
    fn each_room(&self, each: &mut dyn FnMut(&str)) {
        (**self).each_room(each);
    }
}

impl<R: Rooms> Rooms for [R] {
    fn each_room(&self, each: &mut dyn FnMut(&str)) {
        self.iter().for_each(|rooms| rooms.each_room(each));
    }
}

impl<R: Rooms, const N: usize> Rooms for [R; N] {
    fn each_room(&self, each: &mut dyn FnMut(&str)) {
        self.as_slice().each_room(each);
    }
}

impl<R: Rooms> Rooms for Vec<R> {
    fn each_room(&self, each: &mut dyn FnMut(&str)) {
        self.as_slice().each_room(each);
    }
}

/// An emit to many: the members of a namespace, of rooms, without some.
///
/// ```
/// # use std::time::Duration;
/// # use twinlane::{Engine, EngineConfig, events::Events};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let io = Events::new(&Engine::new(EngineConfig::default())?)?;
/// let chat = io.of("/chat")?;
/// chat.to("r1").to(["r2", "r3"]).except("r4").emit("news", &("a title", 3)).await?;
/// let answers = chat.to("r1").timeout(Duration::from_secs(1)).emit_with_ack("ready?", &()).await?;
/// assert!(answers.answers().is_empty() && answers.missing().is_empty());
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "nothing is emitted before `emit`"]
pub struct Emit {
    hub: Arc<Hub>,
    audience: Audience,
    flags: u8,
    timeout: Duration,
}

impl Emit {
    pub(super) fn new(hub: &Arc<Hub>) -> Self {
        Self { hub: Arc::clone(hub), audience: Audience::default(), flags: 0, timeout: ACK_TIMEOUT }
    }

    /// Only those who are in any of the rooms named so.
    pub fn to(mut self, rooms: impl Rooms) -> Self {
        rooms.each_room(&mut |room| self.audience.to.push(room.into()));
        self
    }

    /// As [`Self::to`]: Socket.IO's `in`, which is a word of Rust's.
    pub fn within(self, rooms: impl Rooms) -> Self {
        self.to(rooms)
    }

    /// Nobody who is in any of the rooms named so.
    pub fn except(mut self, rooms: impl Rooms) -> Self {
        rooms.each_room(&mut |room| self.audience.except.push(room.into()));
        self
    }

    /// Only the clients of this server.
    pub fn local(mut self) -> Self {
        self.flags |= LOCAL;
        self
    }

    /// Rather not at all than late: dropped for clients that are behind, and not recovered.
    pub fn volatile(mut self) -> Self {
        self.flags |= VOLATILE;
        self
    }

    /// Whether compression is worth it, where the transport compresses. It is by default.
    pub fn compress(mut self, compress: bool) -> Self {
        self.flags = if compress { self.flags & !UNCOMPRESSED } else { self.flags | UNCOMPRESSED };
        self
    }

    /// How long acknowledgements are waited for. Default 10 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Emits. The elements of a tuple are arguments each, `()` is none, anything else is one. Waits a little where
    /// clients are far behind. Cancel-safe, but the event may have been emitted.
    ///
    /// # Errors
    ///
    /// [`EmitError`]: nothing was emitted.
    pub async fn emit(&self, name: &str, arguments: &(impl Serialize + ?Sized)) -> Result<(), EmitError> {
        self.emit_checked(&event_payload(name, arguments)?).await
    }

    /// Sends an event named `message`.
    ///
    /// # Errors
    ///
    /// As [`Self::emit`].
    pub async fn send(&self, arguments: &(impl Serialize + ?Sized)) -> Result<(), EmitError> {
        self.emit("message", arguments).await
    }

    /// Emits, and waits until everybody has answered or the time is over. Cancel-safe, but the event may have been
    /// emitted.
    ///
    /// # Errors
    ///
    /// [`EmitError`]: nothing was emitted. That not all have answered is no error: see [`Answers::missing`].
    pub async fn emit_with_ack(
        &self,
        name: &str,
        arguments: &(impl Serialize + ?Sized),
    ) -> Result<Answers, EmitError> {
        let Collected { answers, missing } = self.ask(&event_payload(name, arguments)?).await?;
        Ok(Answers { answers, missing })
    }

    /// The sockets it would be for at this moment.
    #[must_use]
    pub fn fetch_sockets(&self) -> Vec<Socket> {
        let mut found = Vec::new();
        let Audience { to, except, without } = &self.audience;
        let [to, except, without] = [to, except, without].map(|names| names.iter().map(|name| &**name));
        self.hub.hold().members.select(to, except, without, |_, socket| found.push(socket.clone()));
        found
    }

    /// Makes those sockets join rooms.
    ///
    /// # Errors
    ///
    /// [`JoinError`] of the first that could not; the others have joined.
    pub fn sockets_join(&self, rooms: impl Rooms) -> Result<(), JoinError> {
        let mut first = Ok(());
        for socket in self.fetch_sockets() {
            rooms.each_room(&mut |room| first = first.and(socket.join(room)));
        }
        first
    }

    /// Makes those sockets leave rooms.
    pub fn sockets_leave(&self, rooms: impl Rooms) {
        for socket in self.fetch_sockets() {
            rooms.each_room(&mut |room| socket.leave(room));
        }
    }

    /// Disconnects those sockets; with `close` their connections, too.
    pub fn disconnect_sockets(&self, close: bool) {
        self.fetch_sockets().iter().for_each(|socket| socket.disconnect(close));
    }

    /// Not this socket, whatever rooms it is in.
    pub(super) fn without(mut self, id: &Arc<str>) -> Self {
        self.audience.without.push(Arc::clone(id));
        self
    }

    /// Emits what came as an event, or was made by [`Payload::event`]: also with arguments of which nothing is known.
    ///
    /// # Errors
    ///
    /// As [`Self::emit`]; [`EmitError::Reserved`] also where there is no name.
    pub async fn emit_payload(&self, payload: &Payload) -> Result<(), EmitError> {
        let name = name_of(payload).unwrap_or_default();
        if name.is_empty() || is_reserved(&name) {
            return Err(EmitError::Reserved { name });
        }
        self.emit_checked(payload).await
    }

    async fn emit_checked(&self, payload: &Payload) -> Result<(), EmitError> {
        self.hub.emit(self.flags, None, &self.audience, payload)?;
        self.be_fair().await;
        Ok(())
    }

    async fn ask(&self, payload: &Payload) -> Result<Collected, EmitError> {
        let (ack, answers) = self.hub.hold().acks.open();
        let _forget = Forget { hub: &self.hub, ack };
        self.hub.emit(self.flags, Some(ack), &self.audience, payload)?;
        self.be_fair().await;
        Ok(self.collect(ack, answers).await)
    }

    async fn collect(&self, ack: u64, answers: oneshot::Receiver<Collected>) -> Collected {
        match tokio::time::timeout(self.timeout, answers).await {
            Ok(Ok(collected)) => collected,
            Ok(Err(_)) | Err(_) => self.hub.hold().acks.give_up(ack),
        }
    }

    /// Lets others run, and clients catch up.
    async fn be_fair(&self) {
        tokio::task::coop::consume_budget().await;
        self.hub.settings.crowd.thin(self.hub.settings.options.patience).await;
    }
}

/// An emit to one client.
#[derive(Clone)]
#[must_use = "nothing is emitted before `emit`"]
pub struct Directed {
    emit: Emit,
}

impl Directed {
    pub(super) fn new(emit: Emit) -> Self {
        Self { emit }
    }

    /// As [`Emit::volatile`].
    pub fn volatile(self) -> Self {
        Self { emit: self.emit.volatile() }
    }

    /// As [`Emit::compress`].
    pub fn compress(self, compress: bool) -> Self {
        Self { emit: self.emit.compress(compress) }
    }

    /// As [`Emit::timeout`].
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { emit: self.emit.timeout(timeout) }
    }

    /// As [`Emit::emit`].
    ///
    /// # Errors
    ///
    /// As [`Emit::emit`].
    pub async fn emit(&self, name: &str, arguments: &(impl Serialize + ?Sized)) -> Result<(), EmitError> {
        self.emit.emit(name, arguments).await
    }

    /// As [`Emit::emit_payload`].
    ///
    /// # Errors
    ///
    /// As [`Emit::emit_payload`].
    pub async fn emit_payload(&self, payload: &Payload) -> Result<(), EmitError> {
        self.emit.emit_payload(payload).await
    }

    /// Emits, and waits for the client's answer: its first argument, or a tuple of all. While the client is away and may
    /// come back, the question waits for it.
    ///
    /// # Errors
    ///
    /// [`AckError::Timeout`]: the client may have got the event. The others say why there can be no answer.
    pub async fn emit_with_ack<T: DeserializeOwned>(
        &self,
        name: &str,
        arguments: &(impl Serialize + ?Sized),
    ) -> Result<T, AckError> {
        let mut collected = self.emit.ask(&event_payload(name, arguments)?).await?;
        match collected.answers.pop() {
            Some((_, answer)) => answer.argument(0).map_err(AckError::Answer),
            None if collected.missing.is_empty() => Err(AckError::Disconnected),
            None => Err(AckError::Timeout(self.emit.timeout)),
        }
    }
}

/// What became of a question to many.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    answers: Vec<(Arc<str>, Payload)>,
    missing: Vec<Arc<str>>,
}

impl Answers {
    /// Who answered what: `[...arguments]`, in the order in which the answers came.
    #[must_use]
    pub fn answers(&self) -> &[(Arc<str>, Payload)] {
        &self.answers
    }

    /// The first argument of each answer.
    ///
    /// # Errors
    ///
    /// One is no `T`.
    pub fn values<T: DeserializeOwned>(&self) -> serde_json::Result<Vec<T>> {
        self.answers.iter().map(|(_, answer)| answer.argument(0)).collect()
    }

    /// Who was asked and has not answered in time.
    #[must_use]
    pub fn missing(&self) -> &[Arc<str>] {
        &self.missing
    }
}

/// Nobody waits for a question whose asker stopped waiting.
struct Forget<'a> {
    hub: &'a Hub,
    ack: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let _ = self.hub.hold().acks.give_up(self.ack);
    }
}

/// The payload of an event that an application emits.
pub(super) fn event_payload(name: &str, arguments: &(impl Serialize + ?Sized)) -> Result<Payload, EmitError> {
    if is_reserved(name) {
        return Err(EmitError::Reserved { name: name.to_owned() });
    }
    Ok(Payload::event(name, arguments)?)
}
