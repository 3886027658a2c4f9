//! Any sequence of messages as packets with attachments: what is understood is JSON that is not too deep, with a
//! placeholder for each attachment, and others can be told the same in either form.

use bytes::Bytes;
use serde_json::Value;
use twinlane::events::Payload;
use twinlane::events::peer::FromClient;
use twinlane_gateway::fuzzing::engine_io::Data;
use twinlane_gateway::fuzzing::socket_io::{
    ATTACHMENTS_MAX, DEPTH_MAX, Decoder, Limits, NAMESPACE_BYTES_MAX, Parser,
};

use super::msgpack::told;

const PACKET_BYTES_MAX: usize = 8_192;
/// Between two messages. One that begins with [`BINARY`] is binary.
const SEPARATOR: u8 = 0x1e;
const BINARY: u8 = b'b';

pub(crate) fn check(data: &[u8]) {
    let mut decoder = Decoder::new(Parser::Json, Limits { packet_bytes_max: PACKET_BYTES_MAX });
    for message in data.split(|byte| *byte == SEPARATOR) {
        let message = match message.split_first() {
            Some((&BINARY, bytes)) => Data::Binary(Bytes::copy_from_slice(bytes)),
            _ => Data::Text(Bytes::copy_from_slice(message)),
        };
        match decoder.take(message) {
            Ok(Some(said)) => check_said(&said),
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

fn check_said(said: &FromClient) {
    let (namespace, payload) = match said {
        FromClient::Event { namespace, payload, .. } | FromClient::Ack { namespace, payload, .. } => {
            (namespace, payload)
        }
        FromClient::Connect { namespace, .. } | FromClient::Disconnect { namespace } => {
            assert!(namespace.starts_with('/') && namespace.len() <= NAMESPACE_BYTES_MAX);
            return;
        }
    };
    assert!(payload.attachments.len() <= ATTACHMENTS_MAX);
    let bytes = payload.attachments.iter().map(Bytes::len).sum::<usize>() + payload.json.len();
    assert!(bytes <= PACKET_BYTES_MAX);
    assert_eq!(&told(Parser::Json, namespace, payload), payload);
    let by_msgpack = told(Parser::Msgpack, namespace, payload);
    assert_eq!(by_msgpack.attachments.len(), payload.attachments.len());
    // Numbers that 64 bits cannot hold and surrogates without their other half are not the same in both forms.
    let (Some(value), Some(again)) = (value(payload), value(&by_msgpack)) else { return };
    assert!(depth(&value) <= DEPTH_MAX);
    assert!(same(&value, &again), "{value} became {again}");
}

/// The payload with its attachments, as hexadecimal digits, in place of their placeholders.
fn value(payload: &Payload) -> Option<Value> {
    let mut value = serde_json::from_slice(&payload.json).ok()?;
    fill(&mut value, &payload.attachments);
    Some(value)
}

fn fill(value: &mut Value, attachments: &[Bytes]) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| fill(value, attachments)),
        Value::Object(object) if object.get("_placeholder") == Some(&Value::Bool(true)) => {
            let number = object["num"].as_u64().and_then(|number| usize::try_from(number).ok());
            *value = format!("{:x}", attachments[number.expect("a number")]).into();
        }
        Value::Object(object) => object.values_mut().for_each(|value| fill(value, attachments)),
        _ => {}
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Object(object) => 1 + object.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Equal, but for the last digit of a fraction, which depends on who reads it.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let is_there =
                |(key, value): (&String, _)| other.get(key).is_some_and(|other| same(value, other));
            one.len() == other.len() && one.iter().all(is_there)
        }
        (Value::Number(one), Value::Number(other)) if one != other => {
            let (Some(one), Some(other)) = (one.as_f64(), other.as_f64()) else { return false };
            (one - other).abs() <= one.abs() * 4.0 * f64::EPSILON
        }
        _ => one == other,
    }
}
