//! One client's connection: which namespaces it is in, and what its packets mean.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use atomic_waker::AtomicWaker;
use bytes::Bytes;

use super::admission::admit;
use super::event::{Event, Give};
use super::layer::Layer;
use super::listeners::start;
use super::namespace::Refusal;
use super::outbox::{Outbox, Shared};
use super::peer::{FromClient, Handshake, OutboxLimits, PacketError, ToClient};
use super::socket::{DisconnectReason, Socket};
use crate::lock::lock;

/// Packets for a namespace that wait until the client is welcomed there.
const EARLY_MAX: usize = 64;

/// A client's connection. Dropping it closes it.
pub struct Connection {
    client: Arc<Client>,
}

/// What is known of one client.
pub(super) struct Client {
    pub(super) layer: Arc<Layer>,
    pub(super) handshake: Arc<Handshake>,
    pub(super) outbox: Arc<Shared>,
    seats: Mutex<Seats>,
    /// Listeners that run.
    running: AtomicUsize,
    /// Whoever reads its packets, while too many run.
    reader: AtomicWaker,
}

#[derive(Default)]
struct Seats {
    list: Vec<(Arc<str>, Seat)>,
    /// The connection is gone, for this reason: nobody is let in any more.
    closed: Option<DisconnectReason>,
}

/// A client's place in one namespace.
enum Seat {
    /// It is being let in; what it says meanwhile waits.
    Connecting(Vec<FromClient>),
    In(Socket),
}

impl Connection {
    /// A connection, and what its client is to be told.
    pub(super) fn open(layer: &Arc<Layer>, handshake: Handshake, limits: OutboxLimits) -> (Self, Outbox) {
        let outbox = Outbox::new(limits, Arc::clone(&layer.settings.crowd));
        let client = Arc::new(Client {
            handshake: Arc::new(handshake),
            outbox: Arc::clone(&outbox.shared),
            seats: Mutex::default(),
            running: AtomicUsize::new(0),
            reader: AtomicWaker::new(),
            layer: Arc::clone(layer),
        });
        layer.add_client(&client);
        (Self { client }, outbox)
    }

    /// The client says something. Listeners are started here, and go on as tasks if they do not end at once: call it
    /// inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`PacketError`]: close the connection, with [`DisconnectReason::ParseError`].
    pub fn receive(&self, packet: FromClient) -> Result<(), PacketError> {
        self.client.receive(packet)
    }

    /// Waits while too many listeners of this client run: read its next packet afterwards. Cancel-safe.
    pub async fn ready(&self) {
        std::future::poll_fn(|cx| self.poll_ready(cx)).await;
    }

    /// As [`Self::ready`]. `Pending`: `cx` is woken, unless another task asks meanwhile.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let is_ready = || {
            let running = self.client.running.load(Ordering::Acquire);
            running < self.client.layer.settings.options.running_max
        };
        if is_ready() {
            return Poll::Ready(());
        }
        self.client.reader.register(cx.waker());
        if is_ready() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The connection is gone. Does nothing the second time.
    pub fn close(&self, reason: DisconnectReason) {
        self.client.close(reason);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.client.close(DisconnectReason::TransportClose);
        self.client.layer.settings.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({:?})", self.client.handshake.address)
    }
}

impl Client {
    fn receive(self: &Arc<Self>, packet: FromClient) -> Result<(), PacketError> {
        let namespace = match packet {
            FromClient::Connect { namespace, auth } => return self.connect(&namespace, auth),
            FromClient::Event { ref namespace, .. }
            | FromClient::Ack { ref namespace, .. }
            | FromClient::Disconnect { ref namespace } => namespace,
        };
        let mut seats = lock(&self.seats);
        let seat = seats.list.iter_mut().find(|(name, _)| **name == **namespace);
        match seat {
            Some((_, Seat::In(socket))) => {
                let socket = socket.clone();
                drop(seats);
                self.deliver(&socket, packet)
            }
            Some((_, Seat::Connecting(early))) if early.len() < EARLY_MAX => {
                early.push(packet);
                Ok(())
            }
            // What was under way when the server disconnected it is no offence.
            None if matches!(packet, FromClient::Ack { .. } | FromClient::Disconnect { .. }) => Ok(()),
            Some(_) | None => Err(PacketError::NotConnected(namespace.clone())),
        }
    }

    /// The connection is gone.
    pub(super) fn close(&self, reason: DisconnectReason) {
        let mut seats = lock(&self.seats);
        if seats.closed.is_some() {
            return;
        }
        seats.closed = Some(reason);
        let list = std::mem::take(&mut seats.list);
        drop(seats);
        for (_, seat) in list {
            if let Seat::In(socket) = seat {
                socket.end(reason);
            }
        }
        self.outbox.end(None);
    }

    /// The socket is over: its client may come into the namespace again.
    pub(super) fn forget(&self, socket: &Socket) {
        let is_it = |seat: &Seat| matches!(seat, Seat::In(other) if other == socket);
        lock(&self.seats).list.retain(|(_, seat)| !is_it(seat));
    }

    /// Counts a listener that runs until what is returned is dropped.
    pub(super) fn running(self: &Arc<Self>) -> RunningListener {
        self.running.fetch_add(1, Ordering::AcqRel);
        RunningListener(Arc::clone(self))
    }

    /// The client was let in as `socket`. `Err`: it has gone meanwhile.
    pub(super) fn seat(
        self: &Arc<Self>,
        socket: &Socket,
        welcome: impl FnOnce(),
    ) -> Result<(), DisconnectReason> {
        if let Some(reason) = lock(&self.seats).closed {
            return Err(reason);
        }
        // Listeners are there before the client's first word is heard.
        welcome();
        loop {
            let mut seats = lock(&self.seats);
            if let Some(reason) = seats.closed {
                return Err(reason);
            }
            let seat = seats.list.iter_mut().find(|(name, _)| **name == *socket.namespace());
            let Some((_, seat)) = seat else { return Err(DisconnectReason::ClientNamespace) };
            let early = match seat {
                Seat::Connecting(early) if !early.is_empty() => std::mem::take(early),
                _ => {
                    *seat = Seat::In(socket.clone());
                    return Ok(());
                }
            };
            drop(seats);
            for packet in early {
                if self.deliver(socket, packet).is_err() {
                    self.outbox.close(DisconnectReason::ParseError);
                }
            }
        }
    }

    /// The client is not let in.
    pub(super) fn refuse(&self, namespace: &Arc<str>, refusal: &Refusal) {
        lock(&self.seats).list.retain(|(name, _)| name != namespace);
        let (namespace, error) = (Arc::clone(namespace), refusal.to_json());
        self.outbox.push(ToClient::Refused { namespace, error }, false);
    }

    fn connect(self: &Arc<Self>, name: &str, auth: Option<Bytes>) -> Result<(), PacketError> {
        let namespaces_max = self.layer.settings.options.namespaces_per_client_max;
        let auth = match auth {
            Some(auth) => serde_json::from_slice(&auth).map_err(|_| PacketError::BadAuth)?,
            None => serde_json::Value::Object(serde_json::Map::new()),
        };
        let Some(namespace) = self.layer.namespace_for_client(name) else {
            self.refuse(&name.into(), &Refusal::new("Invalid namespace"));
            return Ok(());
        };
        let mut seats = lock(&self.seats);
        if seats.closed.is_some() || seats.list.iter().any(|(known, _)| **known == *name) {
            // It is in already: a second knock changes nothing.
            return Ok(());
        }
        if seats.list.len() >= namespaces_max {
            return Err(PacketError::TooManyNamespaces(namespaces_max));
        }
        seats.list.push((Arc::clone(namespace.name_shared()), Seat::Connecting(Vec::new())));
        drop(seats);
        let admission = admit(Arc::clone(self), namespace, auth);
        let admission = async move {
            admission.await;
            Ok(())
        };
        start(Box::pin(admission), |_| ());
        Ok(())
    }

    /// The way of answers to events in `namespace`.
    fn give_to(&self, namespace: &Arc<str>) -> Give {
        let (namespace, outbox) = (Arc::clone(namespace), Arc::clone(&self.outbox));
        Box::new(move |ack, payload| {
            outbox.push(ToClient::Ack { namespace: Arc::clone(&namespace), ack, payload }, false);
        })
    }

    fn deliver(self: &Arc<Self>, socket: &Socket, packet: FromClient) -> Result<(), PacketError> {
        match packet {
            FromClient::Event { ack, payload, .. } => {
                let answer = ack.map(|ack| (ack, self.give_to(&socket.hub().name)));
                socket.receive(&Event::new(payload, answer)?);
            }
            FromClient::Ack { ack, payload, .. } => socket.answer(ack, payload),
            FromClient::Disconnect { .. } => socket.end(DisconnectReason::ClientNamespace),
            FromClient::Connect { .. } => unreachable!("connecting is nothing that a socket is told"),
        }
        Ok(())
    }
}

/// A listener that runs.
pub(super) struct RunningListener(Arc<Client>);

impl Drop for RunningListener {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
        self.0.reader.wake();
    }
}
