//! Packets as MessagePack: one map with `type`, `data`, `nsp` and perhaps `id`.
//!
//! The dialect is that of the package `notepack.io`, which the official parser uses: its extension 0 stands for
//! `undefined`, dates and byte arrays.

mod read;
mod transcode;
mod write;

use bytes::Bytes;
use twinlane::events::Payload;
use twinlane::events::peer::FromClient;

use self::read::{Reader, Token};
use super::error::DecodeError;
use super::{checked_ack, checked_namespace, reserved, wrong_data};

pub(super) use write::{Packet, put_packet};

/// Reads a packet. `json_bytes_max` is for its data, written as JSON.
pub(super) fn decode(packet: &Bytes, json_bytes_max: usize) -> Result<FromClient, DecodeError> {
    let Fields { kind, namespace, ack, data } = fields(packet)?;
    let namespace = checked_namespace(namespace)?;
    let payload = |data: Option<Reader<'_>>, kind| {
        let mut data = data.ok_or_else(|| wrong_data(kind))?;
        if !data.is_array() {
            return Err(wrong_data(kind));
        }
        transcode::to_json(&mut data, packet, json_bytes_max)
    };
    match kind {
        0 => Ok(FromClient::Connect { namespace, auth: auth(data, packet, json_bytes_max)? }),
        1 if data.is_none() => Ok(FromClient::Disconnect { namespace }),
        1 => Err(wrong_data("DISCONNECT")),
        2 => {
            check_name(data.clone())?;
            Ok(FromClient::Event { namespace, ack, payload: payload(data, "EVENT")? })
        }
        3 => {
            let ack = ack.ok_or(DecodeError::AckNumber)?;
            Ok(FromClient::Ack { namespace, ack, payload: payload(data, "ACK")? })
        }
        4 => Err(DecodeError::ConnectError),
        _ => Err(DecodeError::UnknownType),
    }
}

struct Fields<'a> {
    kind: u64,
    namespace: &'a str,
    ack: Option<u64>,
    /// Where the data begins. `None` also if it is nil or undefined, as clients write what they leave away.
    data: Option<Reader<'a>>,
}

fn fields(packet: &[u8]) -> Result<Fields<'_>, DecodeError> {
    let mut reader = Reader::new(packet);
    let Token::Map(entries) = reader.token()? else { return Err(reader.wrong("a packet is a map")) };
    let (mut kind, mut namespace, mut ack, mut data) = (None, None, None, None);
    for _ in 0..entries {
        let Token::Text(key) = reader.token()? else { return Err(reader.wrong("a key is not a text")) };
        let value = reader.clone();
        match (key, reader.token()?) {
            ("type", Token::Unsigned(number)) => kind = Some(number),
            ("type", _) => return Err(DecodeError::UnknownType),
            ("nsp", Token::Text(name)) => namespace = Some(name),
            ("nsp", _) => return Err(value.wrong("a namespace is a text")),
            ("id", Token::Unsigned(number)) => ack = Some(checked_ack(number)?),
            ("id", Token::Nil | Token::Undefined) => ack = None,
            ("id", _) => return Err(DecodeError::AckNumber),
            ("data", Token::Nil | Token::Undefined) => data = None,
            ("data", token) => {
                data = Some(value);
                reader.skip_rest_of(&token)?;
            }
            (_, token) => reader.skip_rest_of(&token)?,
        }
    }
    if !reader.is_at_end() {
        return Err(reader.wrong("bytes follow after the packet"));
    }
    let kind = kind.ok_or(DecodeError::UnknownType)?;
    let namespace = namespace.ok_or_else(|| reader.wrong("a packet has a namespace, `nsp`"))?;
    Ok(Fields { kind, namespace, ack, data })
}

/// What comes with a connect packet, as JSON.
fn auth(
    data: Option<Reader<'_>>,
    packet: &Bytes,
    json_bytes_max: usize,
) -> Result<Option<Bytes>, DecodeError> {
    let Some(mut data) = data else { return Ok(None) };
    if !data.is_map() {
        return Err(wrong_data("CONNECT"));
    }
    let Payload { json, attachments } = transcode::to_json(&mut data, packet, json_bytes_max)?;
    if attachments.is_empty() { Ok(Some(json)) } else { Err(DecodeError::Placeholder) }
}

/// An event's data begins with its name.
fn check_name(data: Option<Reader<'_>>) -> Result<(), DecodeError> {
    let Some(mut data) = data else { return Err(wrong_data("EVENT")) };
    let Token::Array(1..) = data.token()? else { return Err(wrong_data("EVENT")) };
    match data.token()? {
        Token::Text(name) => reserved(name).map_or(Ok(()), |name| Err(DecodeError::Reserved(name))),
        Token::Unsigned(_) | Token::Signed(_) => Ok(()),
        Token::Float(number) if number.is_finite() => Ok(()),
        _ => Err(wrong_data("EVENT")),
    }
}
