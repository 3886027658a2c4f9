//! What an application registered on a socket, and how it is called.
//!
//! Listeners are started in the order of the events and then run concurrently: what one does before its first `await` is
//! done before the next begins. One that does not end at once becomes a task of its own.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::burst::Outgoing;
use super::event::Event;

/// An error of a listener or middleware: whatever the application has.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

pub(super) type Running = Pin<Box<dyn Future<Output = Result<(), HandlerError>> + Send>>;
/// Called with a socket of type `S` and an argument.
pub(super) type Call<S, A> = Arc<dyn Fn(S, A) -> Running + Send + Sync>;
pub(super) type OnEvent<S> = Call<S, Event>;
pub(super) type OnOutgoing = Arc<dyn Fn(&Outgoing) + Send + Sync>;
pub(super) type OnError = Arc<dyn Fn(&Event, &HandlerError) + Send + Sync>;

/// What a listener may return: nothing, or a `Result` whose error is reported.
pub trait Outcome {
    /// As a result.
    ///
    /// # Errors
    ///
    /// The listener's own.
    fn into_result(self) -> Result<(), HandlerError>;
}

impl Outcome for () {
    fn into_result(self) -> Result<(), HandlerError> {
        Ok(())
    }
}

impl<E: Into<HandlerError>> Outcome for Result<(), E> {
    fn into_result(self) -> Result<(), HandlerError> {
        self.map_err(Into::into)
    }
}

/// A registered listener, to take it off again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListenerId(u64);

/// The listeners of one socket, which is an `S` and is left for a reason `R`.
pub(super) struct Listeners<S, R> {
    last: u64,
    named: HashMap<Box<str>, Vec<Listener<S>>>,
    any: Vec<(ListenerId, OnEvent<S>)>,
    outgoing: Vec<(ListenerId, OnOutgoing)>,
    middlewares: Vec<OnEvent<S>>,
    connected: Vec<Call<S, bool>>,
    disconnecting: Vec<Call<S, R>>,
    disconnect: Vec<Call<S, R>>,
    error: Vec<OnError>,
}

struct Listener<S> {
    id: ListenerId,
    is_once: bool,
    call: OnEvent<S>,
}

/// What is to be called for one event, in this order.
pub(super) struct Calls<S> {
    pub(super) middlewares: Vec<OnEvent<S>>,
    pub(super) listeners: Vec<OnEvent<S>>,
}

impl<S, R> Default for Listeners<S, R> {
    fn default() -> Self {
        Self {
            last: 0,
            named: HashMap::new(),
            any: Vec::new(),
            outgoing: Vec::new(),
            middlewares: Vec::new(),
            connected: Vec::new(),
            disconnecting: Vec::new(),
            disconnect: Vec::new(),
            error: Vec::new(),
        }
    }
}

impl<S, R> Listeners<S, R> {
    pub(super) fn on(&mut self, name: &str, is_once: bool, call: OnEvent<S>) -> ListenerId {
        let id = self.next();
        self.named.entry(name.into()).or_default().push(Listener { id, is_once, call });
        id
    }

    pub(super) fn on_any(&mut self, is_first: bool, call: OnEvent<S>) -> ListenerId {
        let id = self.next();
        let at = if is_first { 0 } else { self.any.len() };
        self.any.insert(at, (id, call));
        id
    }

    pub(super) fn on_outgoing(&mut self, is_first: bool, call: OnOutgoing) -> ListenerId {
        let id = self.next();
        let at = if is_first { 0 } else { self.outgoing.len() };
        self.outgoing.insert(at, (id, call));
        id
    }

    pub(super) fn on_connected(&mut self, call: Call<S, bool>) {
        self.connected.push(call);
    }

    pub(super) fn on_leaving(&mut self, is_before: bool, call: Call<S, R>) {
        if is_before { self.disconnecting.push(call) } else { self.disconnect.push(call) }
    }

    pub(super) fn on_error(&mut self, call: OnError) {
        self.error.push(call);
    }

    pub(super) fn add_middleware(&mut self, call: OnEvent<S>) {
        self.middlewares.push(call);
    }

    /// Takes a listener off, whatever kind it is.
    pub(super) fn off(&mut self, id: ListenerId) {
        for listeners in self.named.values_mut() {
            listeners.retain(|listener| listener.id != id);
        }
        self.named.retain(|_, listeners| !listeners.is_empty());
        self.any.retain(|(known, _)| *known != id);
        self.outgoing.retain(|(known, _)| *known != id);
    }

    /// Takes the listeners of `name` off, or with `None` those of every name.
    pub(super) fn off_named(&mut self, name: Option<&str>) {
        match name {
            Some(name) => drop(self.named.remove(name)),
            None => self.named.clear(),
        }
    }

    pub(super) fn off_any(&mut self) {
        self.any.clear();
    }

    pub(super) fn off_outgoing(&mut self) {
        self.outgoing.clear();
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.named.keys().map(ToString::to_string).collect()
    }

    pub(super) fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    pub(super) fn outgoing(&self) -> Vec<OnOutgoing> {
        self.outgoing.iter().map(|(_, call)| Arc::clone(call)).collect()
    }

    pub(super) fn errors(&self) -> Vec<OnError> {
        self.error.clone()
    }

    pub(super) fn connected(&self) -> Vec<Call<S, bool>> {
        self.connected.clone()
    }

    pub(super) fn leaving(&self, is_before: bool) -> Vec<Call<S, R>> {
        if is_before { self.disconnecting.clone() } else { self.disconnect.clone() }
    }

    /// What to call for an event `name`. Listeners for one event are gone with that.
    pub(super) fn calls(&mut self, name: &str) -> Calls<S> {
        let mut listeners: Vec<_> = self.any.iter().map(|(_, call)| Arc::clone(call)).collect();
        if let Some(named) = self.named.get_mut(name) {
            listeners.extend(named.iter().map(|listener| Arc::clone(&listener.call)));
            named.retain(|listener| !listener.is_once);
            if named.is_empty() {
                self.named.remove(name);
            }
        }
        Calls { middlewares: self.middlewares.clone(), listeners }
    }

    fn next(&mut self) -> ListenerId {
        self.last += 1;
        ListenerId(self.last)
    }
}

impl<S, R> fmt::Debug for Listeners<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listeners({:?})", self.named.keys())
    }
}

/// A listener in the form in which it is kept.
pub(super) fn erased<S, A, F, Fut>(call: F) -> Call<S, A>
where
    S: 'static,
    A: 'static,
    F: Fn(S, A) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: Outcome> + Send + 'static,
{
    Arc::new(move |socket, argument| {
        let running = call(socket, argument);
        Box::pin(async move { running.await.into_result() })
    })
}

/// Starts what runs, and lets it go on as a task if it does not end at once. `ended` is told how it ends.
pub(super) fn start(mut running: Running, ended: impl FnOnce(Result<(), HandlerError>) + Send + 'static) {
    match running.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => ended(outcome),
        Poll::Pending => drop(tokio::spawn(async move { ended(running.await) })),
    }
}
