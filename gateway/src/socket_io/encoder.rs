//! What clients are told becomes packets, and packets the bytes that a transport writes.
//!
//! A burst is written once for all clients with the same transport and parser. Everything else is short.

use std::fmt::Write as _;

use bytes::{BufMut, Bytes, BytesMut};
use twinlane::events::peer::ToClient;
use twinlane::events::{Burst, Payload, Wire};

use super::{Parser, msgpack};
use crate::engine_io::{Data, encode_base64, payload, stream};
use crate::websocket::frame::{self, Opcode};

/// How a transport tells one Engine.IO packet from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Unmasked WebSocket frames, back to back.
    WebSocket,
    /// An HTTP body with [`payload::SEPARATOR`] between packets.
    Polling,
    /// Lengths before the packets, back to back.
    WebTransport,
}

/// Writes what clients with the same transport and parser are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoder {
    /// The transport's.
    pub framing: Framing,
    /// The client's.
    pub parser: Parser,
}

impl Encoder {
    /// Appends `message` to `chunks`, ready to be written: Engine.IO messages, framed. Chunks follow each other without
    /// anything between them, but for [`Framing::Polling`], where [`payload::SEPARATOR`] goes between two.
    ///
    /// A burst is one chunk, shared with all others that get it. [`ToClient::Close`] says nothing here.
    pub fn encode(self, message: &ToClient, chunks: &mut Vec<Bytes>) {
        match message {
            ToClient::Burst(burst) => {
                chunks.push(burst.encoded(self.wire(), |burst| self.burst(burst)).clone());
            }
            ToClient::Close(_) => {}
            other => {
                let mut framed = Framed { framing: self.framing, out: BytesMut::new() };
                put(self.parser, other, &mut framed);
                chunks.push(framed.out.freeze());
            }
        }
    }

    /// Under what a burst in this form is kept.
    fn wire(self) -> Wire {
        match (self.framing, self.parser) {
            (Framing::WebSocket, Parser::Json) => Wire::WebSocket,
            (Framing::Polling, Parser::Json) => Wire::Polling,
            (Framing::WebTransport, Parser::Json) => Wire::WebTransport,
            (Framing::WebSocket, Parser::Msgpack) => Wire::WebSocketMsgpack,
            (Framing::Polling, Parser::Msgpack) => Wire::PollingMsgpack,
            (Framing::WebTransport, Parser::Msgpack) => Wire::WebTransportMsgpack,
        }
    }

    fn burst(self, burst: &Burst) -> Bytes {
        let mut framed = Framed { framing: self.framing, out: BytesMut::with_capacity(burst_bytes(burst)) };
        put_burst(self.parser, burst, &mut framed);
        framed.out.freeze()
    }
}

/// Appends `message` to `messages`: one Engine.IO message for each packet and each attachment.
pub fn encode(parser: Parser, message: &ToClient, messages: &mut Vec<Data>) {
    match message {
        ToClient::Burst(burst) => put_burst(parser, burst, messages),
        other => put(parser, other, messages),
    }
}

/// Where Engine.IO messages go.
trait Sink {
    /// A text made of two parts.
    fn text(&mut self, head: &[u8], json: &[u8]);
    fn binary(&mut self, bytes: &Bytes);
}

impl Sink for Vec<Data> {
    fn text(&mut self, head: &[u8], json: &[u8]) {
        self.push(Data::Text([head, json].concat().into()));
    }

    fn binary(&mut self, bytes: &Bytes) {
        self.push(Data::Binary(bytes.clone()));
    }
}

struct Framed {
    framing: Framing,
    out: BytesMut,
}

/// Engine.IO's type of messages.
const MESSAGE: u8 = b'4';

impl Sink for Framed {
    fn text(&mut self, head: &[u8], json: &[u8]) {
        let bytes = 1 + head.len() + json.len();
        self.out.reserve(bytes + frame::HEADER_BYTES_MAX);
        match self.framing {
            Framing::WebSocket => frame::put_header(Opcode::Text, bytes, &mut self.out),
            Framing::Polling => self.separate(),
            Framing::WebTransport => stream::put_header(false, bytes, &mut self.out),
        }
        self.out.put_u8(MESSAGE);
        self.out.put_slice(head);
        self.out.put_slice(json);
    }

    fn binary(&mut self, bytes: &Bytes) {
        match self.framing {
            Framing::WebSocket => frame::put_header(Opcode::Binary, bytes.len(), &mut self.out),
            Framing::Polling => {
                self.separate();
                return encode_base64(bytes, &mut self.out);
            }
            Framing::WebTransport => return stream::put_binary(bytes, &mut self.out),
        }
        self.out.put_slice(bytes);
    }
}

impl Framed {
    fn separate(&mut self) {
        if !self.out.is_empty() {
            self.out.put_u8(payload::SEPARATOR);
        }
    }
}

/// One packet.
struct Packet<'a> {
    kind: Kind,
    namespace: &'a str,
    ack: Option<u64>,
    /// JSON; empty if there is none.
    data: &'a [u8],
    attachments: &'a [Bytes],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Connect = 0,
    Disconnect = 1,
    Event = 2,
    Ack = 3,
    ConnectError = 4,
}

/// What a packet with attachments adds to its type.
const BINARY: u8 = 3;

fn put_burst(parser: Parser, burst: &Burst, sink: &mut impl Sink) {
    let namespace = burst.namespace();
    // Events in a row differ little before their data, so one buffer serves them all.
    let mut head = String::new();
    for event in burst.events() {
        let Payload { json, attachments } = &event.payload;
        let packet = Packet { kind: Kind::Event, namespace, ack: event.ack, data: json, attachments };
        put_packet(parser, &packet, &mut head, sink);
    }
}

fn put(parser: Parser, message: &ToClient, sink: &mut impl Sink) {
    let connected;
    let (kind, namespace, ack, data, attachments): (_, _, _, &[u8], &[Bytes]) = match message {
        ToClient::Connected { namespace, sid, pid } => {
            connected = connected_json(sid, pid.as_deref());
            (Kind::Connect, namespace, None, connected.as_bytes(), &[])
        }
        ToClient::Refused { namespace, error } => (Kind::ConnectError, namespace, None, error, &[]),
        ToClient::Ack { namespace, ack, payload } => {
            (Kind::Ack, namespace, Some(*ack), &payload.json, &payload.attachments)
        }
        ToClient::Disconnect { namespace } => (Kind::Disconnect, namespace, None, &[], &[]),
        ToClient::Burst(_) | ToClient::Close(_) => return,
    };
    put_packet(parser, &Packet { kind, namespace, ack, data, attachments }, &mut String::new(), sink);
}

fn connected_json(sid: &str, pid: Option<&str>) -> String {
    #[derive(serde::Serialize)]
    struct Connected<'a> {
        sid: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        pid: Option<&'a str>,
    }
    serde_json::to_string(&Connected { sid, pid }).expect("two texts can be written as JSON")
}

fn put_packet(parser: Parser, packet: &Packet<'_>, head: &mut String, sink: &mut impl Sink) {
    let Packet { kind, namespace, ack, data, attachments } = *packet;
    if parser == Parser::Msgpack {
        let packet = msgpack::Packet { kind: kind as u8, namespace, ack, data, attachments };
        let mut bytes = Vec::with_capacity(data.len() + PACKET_BYTES);
        msgpack::put_packet(&packet, &mut bytes);
        return sink.binary(&bytes.into());
    }
    head.clear();
    let written = match attachments.len() {
        0 => write!(head, "{}", kind as u8),
        count => write!(head, "{}{count}-", kind as u8 + BINARY),
    };
    if namespace != "/" {
        head.push_str(namespace);
        head.push(',');
    }
    let written = written.and_then(|()| ack.map_or(Ok(()), |ack| write!(head, "{ack}")));
    written.expect("memory takes everything");
    sink.text(head.as_bytes(), data);
    attachments.iter().for_each(|attachment| sink.binary(attachment));
}

/// What a packet has beside its namespace and its data, with its frame, at most.
const PACKET_BYTES: usize = 48;

/// About as much as a burst takes; base64 grows beyond it.
fn burst_bytes(burst: &Burst) -> usize {
    let event_bytes = |payload: &Payload| {
        let attachments = payload.attachments.iter().map(|bytes| bytes.len() + frame::HEADER_BYTES_MAX);
        PACKET_BYTES + burst.namespace().len() + payload.json.len() + attachments.sum::<usize>()
    };
    burst.events().iter().map(|event| event_bytes(&event.payload)).sum()
}
