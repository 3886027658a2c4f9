//! Packets of the specification, packets that are none, and what the official parsers write.

mod encoder;
mod msgpack;
mod text;

use bytes::Bytes;
use twinlane::events::Payload;
use twinlane::events::peer::FromClient;

use super::{DecodeError, Decoder, Limits, Parser};
use crate::engine_io::Data;

fn payload(json: &str, attachments: &[&[u8]]) -> Payload {
    let attachments = attachments.iter().map(|bytes| Bytes::copy_from_slice(bytes)).collect();
    Payload { json: Bytes::copy_from_slice(json.as_bytes()), attachments }
}

fn event(namespace: &str, ack: Option<u64>, payload: Payload) -> FromClient {
    FromClient::Event { namespace: namespace.into(), ack, payload }
}

fn text(text: &str) -> Data {
    Data::Text(Bytes::copy_from_slice(text.as_bytes()))
}

fn binary(bytes: &[u8]) -> Data {
    Data::Binary(Bytes::copy_from_slice(bytes))
}

/// What the last of `messages` brings; those before bring nothing.
fn take(parser: Parser, messages: impl IntoIterator<Item = Data>) -> Result<Option<FromClient>, DecodeError> {
    let mut decoder = Decoder::new(parser, Limits::default());
    let mut said = None;
    for message in messages {
        assert_eq!(said, None);
        said = decoder.take(message)?;
    }
    Ok(said)
}
