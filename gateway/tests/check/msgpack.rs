//! Any bytes as a packet in MessagePack: what is understood can be told to others in either form, and is the same then.

use bytes::Bytes;
use twinlane::events::Payload;
use twinlane::events::peer::{FromClient, ToClient};
use twinlane_gateway::fuzzing::engine_io::Data;
use twinlane_gateway::fuzzing::socket_io::{Decoder, Limits, Parser, encode};

const PACKET_BYTES_MAX: usize = 16_384;

pub(crate) fn check(data: &[u8]) {
    let limits = Limits { packet_bytes_max: PACKET_BYTES_MAX };
    let message = Data::Binary(Bytes::copy_from_slice(data));
    let Ok(said) = Decoder::new(Parser::Msgpack, limits).take(message) else { return };
    let (namespace, payload) = match said.expect("packets are whole") {
        FromClient::Event { namespace, payload, .. } | FromClient::Ack { namespace, payload, .. } => {
            (namespace, payload)
        }
        FromClient::Connect { auth: Some(auth), .. } => {
            serde_json::from_slice::<serde_json::Map<_, _>>(&auth).expect("an object");
            return;
        }
        FromClient::Connect { auth: None, .. } | FromClient::Disconnect { .. } => return,
    };
    assert!(payload.json.len() <= PACKET_BYTES_MAX);
    for parser in [Parser::Msgpack, Parser::Json] {
        assert_eq!(told(parser, &namespace, &payload), payload, "{parser:?}");
    }
}

/// What a peer understands when it is told `payload`.
pub(crate) fn told(parser: Parser, namespace: &str, payload: &Payload) -> Payload {
    let ack = ToClient::Ack { namespace: namespace.into(), ack: 7, payload: payload.clone() };
    let mut messages = Vec::new();
    encode(parser, &ack, &mut messages);
    let mut decoder = Decoder::new(parser, Limits { packet_bytes_max: 64 * PACKET_BYTES_MAX });
    let mut heard = None;
    for message in messages {
        assert_eq!(heard, None, "more came after the packet was complete");
        heard = decoder.take(message).expect("what was written can be read");
    }
    match heard {
        Some(FromClient::Ack { namespace: heard, ack: 7, payload }) if heard == namespace => payload,
        other => panic!("an acknowledgement was told, {other:?} was understood"),
    }
}
