//! Packets between the event layer and Rust clients: several in one message, back to back.
//!
//! ```text
//!  byte   0  kind: 1 CONNECT, 2 EVENT, 3 ACK, 4 DISCONNECT, 5 CONNECTED, 6 REFUSED, 7 CLOSE
//!         1  1 if an acknowledgement is asked for or given, else 0
//!   2 …   3  bytes of the namespace
//!   4 …   7  bytes of the JSON text
//!   8 …  11  attachments
//!  12 …  19  the number of the acknowledgement
//!  20 …      namespace, JSON text, and each attachment behind its length in 4 bytes; all numbers little-endian
//! ```

use bytes::{Buf, Bytes};

use crate::events::burst::Burst;
use crate::events::payload::Payload;

/// Bytes before the namespace.
const HEAD_BYTES: usize = 20;

/// What a packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Connect = 1,
    Event = 2,
    Ack = 3,
    Disconnect = 4,
    Connected = 5,
    Refused = 6,
    Close = 7,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) kind: Kind,
    pub(super) ack: Option<u64>,
    pub(super) namespace: String,
    pub(super) payload: Payload,
}

/// Bytes that are no packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NativeError {
    /// They end inside a packet.
    #[error("the message ends inside a packet")]
    Short,
    /// A kind that this version does not know.
    #[error("{0} is no kind of packet")]
    Kind(u8),
    /// A namespace that is no text.
    #[error("the namespace is no UTF-8")]
    Text,
}

impl Kind {
    fn of(byte: u8) -> Result<Self, NativeError> {
        let kinds = [
            Self::Connect,
            Self::Event,
            Self::Ack,
            Self::Disconnect,
            Self::Connected,
            Self::Refused,
            Self::Close,
        ];
        kinds.into_iter().find(|kind| *kind as u8 == byte).ok_or(NativeError::Kind(byte))
    }
}

/// Appends a packet.
pub(super) fn put(out: &mut Vec<u8>, kind: Kind, ack: Option<u64>, namespace: &str, payload: &Payload) {
    out.push(kind as u8);
    out.push(ack.is_some().into());
    out.extend_from_slice(&(namespace.len() as u16).to_le_bytes());
    out.extend_from_slice(&(payload.json.len() as u32).to_le_bytes());
    out.extend_from_slice(&(payload.attachments.len() as u32).to_le_bytes());
    out.extend_from_slice(&ack.unwrap_or_default().to_le_bytes());
    out.extend_from_slice(namespace.as_bytes());
    out.extend_from_slice(&payload.json);
    for attachment in &payload.attachments {
        out.extend_from_slice(&(attachment.len() as u32).to_le_bytes());
        out.extend_from_slice(attachment);
    }
}

/// The events of a burst, one packet each.
pub(super) fn encode_burst(burst: &Burst) -> Bytes {
    let mut out = Vec::new();
    for event in burst.events() {
        put(&mut out, Kind::Event, event.ack, burst.namespace(), &event.payload);
    }
    out.into()
}

/// Takes the first packet off `rest`, which must not be empty. Payloads share its memory.
pub(super) fn take(rest: &mut Bytes) -> Result<Packet, NativeError> {
    if rest.len() < HEAD_BYTES {
        return Err(NativeError::Short);
    }
    let kind = Kind::of(rest.get_u8())?;
    let has_ack = rest.get_u8() != 0;
    let namespace_bytes = rest.get_u16_le() as usize;
    let json_bytes = rest.get_u32_le() as usize;
    let attachments = rest.get_u32_le();
    let ack = Some(rest.get_u64_le()).filter(|_| has_ack);
    let namespace = String::from_utf8(split(rest, namespace_bytes)?.into()).map_err(|_| NativeError::Text)?;
    let mut payload = Payload { json: split(rest, json_bytes)?, attachments: Vec::new() };
    for _ in 0..attachments {
        let bytes = rest.try_get_u32_le().map_err(|_| NativeError::Short)? as usize;
        payload.attachments.push(split(rest, bytes)?);
    }
    Ok(Packet { kind, ack, namespace, payload })
}

fn split(rest: &mut Bytes, bytes: usize) -> Result<Bytes, NativeError> {
    if bytes > rest.len() {
        return Err(NativeError::Short);
    }
    Ok(rest.split_to(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet() -> Packet {
        let attachments = vec![Bytes::from_static(b"raw"), Bytes::new()];
        let payload = Payload { json: Bytes::from_static(br#"["name",1]"#), attachments };
        Packet { kind: Kind::Event, ack: Some(7), namespace: "/chat".to_owned(), payload }
    }

    fn encoded(packets: &[Packet]) -> Bytes {
        let mut out = Vec::new();
        for Packet { kind, ack, namespace, payload } in packets {
            put(&mut out, *kind, *ack, namespace, payload);
        }
        out.into()
    }

    #[test]
    fn packets_come_back_as_they_were() {
        let none = Packet {
            kind: Kind::Disconnect,
            ack: None,
            namespace: "/".to_owned(),
            payload: Payload::default(),
        };
        let packets = [packet(), none, packet()];
        let mut rest = encoded(&packets);
        for packet in packets {
            assert_eq!(take(&mut rest), Ok(packet));
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn whatever_is_cut_off_is_noticed() {
        let whole = encoded(&[packet()]);
        for bytes in 0..whole.len() {
            assert_eq!(take(&mut whole.slice(..bytes)), Err(NativeError::Short), "{bytes} bytes");
        }
    }

    #[test]
    fn lengths_that_are_not_there_allocate_nothing() {
        let mut bytes = encoded(&[packet()]).to_vec();
        bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(take(&mut bytes.into()), Err(NativeError::Short));
    }
}
