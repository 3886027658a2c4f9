//! What a session's messages mean: Socket.IO packets for the event layer, or, in tests of Engine.IO alone, an echo.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use twinlane::events::peer::ToClient;
use twinlane::events::{Connection, DisconnectReason, Outbox};

use crate::engine_io::{Data, Packet, stream};
use crate::socket_io::{self, Encoder, Framing, Parser};
use crate::websocket;

/// How much an echo keeps; a client that sends more without reading is cut off.
const ECHO_MESSAGES_MAX: usize = 1_000;

/// The consumer and source of one session's messages.
pub(crate) enum Application {
    /// The event layer.
    Events(Box<Events>),
    /// Whatever comes goes back.
    Echo(VecDeque<Data>),
}

/// A client of the event layer.
pub(crate) struct Events {
    parser: Parser,
    decoder: socket_io::Decoder,
    connection: Connection,
    outbox: Outbox,
}

/// What an application has for its client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Chunks were added.
    Chunks {
        /// Among them is the news that the client is in a namespace.
        joined: bool,
    },
    /// The transport is to be closed after what came before.
    Close(DisconnectReason),
}

impl Application {
    /// A client of the event layer that speaks `parser`.
    pub(crate) fn events(
        (connection, outbox): (Connection, Outbox),
        parser: Parser,
        limits: socket_io::Limits,
    ) -> Self {
        let decoder = socket_io::Decoder::new(parser, limits);
        Self::Events(Box::new(Events { parser, decoder, connection, outbox }))
    }

    /// Waits while so much of what the client said is being worked on that no more is to be read.
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Events(events) => events.connection.poll_ready(cx),
            Self::Echo(_) => Poll::Ready(()),
        }
    }

    /// Takes a message from the client.
    pub(crate) fn receive(&mut self, data: Data) -> Result<(), DisconnectReason> {
        match self {
            Self::Events(events) => events.receive(data),
            Self::Echo(waiting) if waiting.len() < ECHO_MESSAGES_MAX => {
                waiting.push_back(data);
                Ok(())
            }
            Self::Echo(_) => Err(DisconnectReason::SlowConsumer),
        }
    }

    /// The next messages for the client, as finished chunks.
    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        framing: Framing,
        chunks: &mut Vec<Bytes>,
    ) -> Poll<Next> {
        match self {
            Self::Events(events) => events.poll_next(cx, framing, chunks),
            Self::Echo(waiting) => match waiting.pop_front() {
                Some(data) => {
                    chunks.push(echo(framing, data));
                    Poll::Ready(Next::Chunks { joined: false })
                }
                None => Poll::Pending,
            },
        }
    }

    /// The client is gone, or is to be.
    pub(crate) fn close(&mut self, reason: DisconnectReason) {
        if let Self::Events(events) = self {
            events.connection.close(reason);
        }
    }
}

impl Events {
    fn receive(&mut self, data: Data) -> Result<(), DisconnectReason> {
        let packet = self.decoder.take(data).map_err(|error| {
            tracing::debug!(%error, "a client sent no Socket.IO packet");
            DisconnectReason::ParseError
        })?;
        let Some(packet) = packet else { return Ok(()) };
        self.connection.receive(packet).map_err(|error| {
            tracing::debug!(%error, "a client broke the rules of events");
            DisconnectReason::ParseError
        })
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, framing: Framing, chunks: &mut Vec<Bytes>) -> Poll<Next> {
        self.outbox.poll_next(cx).map(|next| match next {
            Some(ToClient::Close(reason)) => Next::Close(reason),
            Some(packet) => {
                Encoder { framing, parser: self.parser }.encode(&packet, chunks);
                Next::Chunks { joined: matches!(packet, ToClient::Connected { .. }) }
            }
            None => Next::Close(DisconnectReason::ForcedClose),
        })
    }
}

/// `data` as one finished chunk.
fn echo(framing: Framing, data: Data) -> Bytes {
    let mut chunk = BytesMut::new();
    let packet = Packet::Message(data);
    match framing {
        Framing::WebSocket => websocket::put_packet(&packet, &mut chunk),
        Framing::Polling => packet.encode_text(&mut chunk),
        Framing::WebTransport => stream::encode(&packet, &mut chunk),
    }
    chunk.freeze()
}
