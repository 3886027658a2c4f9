//! Events that go to the same sockets one after another, encoded once for all of them.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::payload::Payload;

/// Bytes that an event counts beside its payload, in bounds.
pub(super) const EVENT_OVERHEAD_BYTES: usize = 32;

/// One event on its way to clients.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Name and arguments. Where the event can be recovered, its offset is the last argument, as text.
    pub payload: Payload,
    /// The event's number, if an acknowledgement is asked for.
    pub ack: Option<u64>,
    /// May be dropped when the client cannot take it at once.
    pub volatile: bool,
    /// Worth compressing.
    pub compress: bool,
}

/// Events of one namespace that go to the same sockets, in order.
#[derive(Debug)]
pub struct Burst {
    namespace: Arc<str>,
    events: Vec<Outgoing>,
    weight_bytes: usize,
    wires: [OnceLock<Bytes>; Wire::COUNT],
}

/// The forms in which a burst is kept once somebody needed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// WebSocket frames with text packets.
    WebSocket,
    /// A polling body with text packets.
    Polling,
    /// WebTransport frames with text packets.
    WebTransport,
    /// WebSocket frames with MessagePack packets.
    WebSocketMsgpack,
    /// A polling body with MessagePack packets.
    PollingMsgpack,
    /// WebTransport frames with MessagePack packets.
    WebTransportMsgpack,
    /// twinlane's own protocol.
    Native,
}

impl Wire {
    const COUNT: usize = 7;
}

impl Burst {
    #[doc(hidden)]
    #[must_use]
    pub fn new(namespace: Arc<str>, events: Vec<Outgoing>) -> Self {
        let weight_bytes = events.iter().map(|event| event.payload.len() + EVENT_OVERHEAD_BYTES).sum();
        Self { namespace, events, weight_bytes, wires: Default::default() }
    }

    /// What it counts in bounds.
    pub(super) fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    /// `/` or `/name`.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The events, oldest first.
    #[must_use]
    pub fn events(&self) -> &[Outgoing] {
        &self.events
    }

    /// The burst as `wire` has it: made by `encode` for the first client that needs it, shared by the others.
    pub fn encoded(&self, wire: Wire, encode: impl FnOnce(&Self) -> Bytes) -> &Bytes {
        self.wires[wire as usize].get_or_init(|| encode(self))
    }
}
