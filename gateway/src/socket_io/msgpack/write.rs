//! Packets for clients, as MessagePack.

use bytes::Bytes;
use rmp::encode;

use twinlane::events::json::{Container, Placeholders, Token, Tokens, unescaped};

/// What a packet says.
pub(crate) struct Packet<'a> {
    /// 0 to 4.
    pub(crate) kind: u8,
    pub(crate) namespace: &'a str,
    pub(crate) ack: Option<u64>,
    /// JSON; empty if there is none.
    pub(crate) data: &'a [u8],
    pub(crate) attachments: &'a [Bytes],
}

/// Memory takes everything.
const WRITTEN: &str = "memory takes everything";

/// Writes a packet.
pub(crate) fn put_packet(packet: &Packet<'_>, out: &mut Vec<u8>) {
    let has_data = !packet.data.is_empty();
    let fields = 2 + u32::from(has_data) + u32::from(packet.ack.is_some());
    encode::write_map_len(out, fields).expect(WRITTEN);
    encode::write_str(out, "type").expect(WRITTEN);
    encode::write_uint(out, packet.kind.into()).expect(WRITTEN);
    if has_data {
        encode::write_str(out, "data").expect(WRITTEN);
        put_json(packet.data, packet.attachments, out);
    }
    if let Some(ack) = packet.ack {
        encode::write_str(out, "id").expect(WRITTEN);
        encode::write_uint(out, ack).expect(WRITTEN);
    }
    encode::write_str(out, "nsp").expect(WRITTEN);
    encode::write_str(out, packet.namespace).expect(WRITTEN);
}

/// Writes what `json` says, attachments in place of their placeholders.
fn put_json(json: &[u8], attachments: &[Bytes], out: &mut Vec<u8>) {
    // A payload that is no text is a fault of whoever emitted it; the client gets nothing rather than nonsense.
    let json = std::str::from_utf8(json).unwrap_or("null");
    let mut lengths = lengths(json).into_iter();
    let mut placeholders = Placeholders::default();
    let mut begins = Vec::new();
    for token in Tokens::new(json) {
        match token {
            Token::Open(container) => {
                begins.push(out.len());
                put_length(container, lengths.next().unwrap_or(0), out);
            }
            Token::Text(text) => encode::write_str(out, &unescaped(text)).expect(WRITTEN),
            Token::Literal(literal) => put_literal(literal, out),
            Token::Close | Token::Comma | Token::Colon => {}
        }
        let found = placeholders.feed(token);
        let Some(begin) = (token == Token::Close).then(|| begins.pop()).flatten() else { continue };
        let named = found.flatten().and_then(|number| attachments.get(usize::try_from(number).ok()?));
        if let Some(attachment) = named {
            out.truncate(begin);
            encode::write_bin(out, attachment).expect(WRITTEN);
        }
    }
}

/// How many values each array has and how many keys each object, in the order in which they begin.
fn lengths(json: &str) -> Vec<u32> {
    let mut lengths = Vec::new();
    let mut open = Vec::new();
    for token in Tokens::new(json) {
        let within = open.last().map(|index: &usize| &mut lengths[*index]);
        match (token, within) {
            (Token::Close, _) => _ = open.pop(),
            (Token::Comma, Some(length)) => *length += 1,
            (Token::Text(_) | Token::Literal(_) | Token::Open(_), Some(length)) if *length == 0 => {
                *length = 1;
            }
            _ => {}
        }
        if matches!(token, Token::Open(_)) {
            open.push(lengths.len());
            lengths.push(0);
        }
    }
    lengths
}

fn put_length(container: Container, length: u32, out: &mut Vec<u8>) {
    match container {
        Container::Array => encode::write_array_len(out, length).expect(WRITTEN),
        Container::Object => encode::write_map_len(out, length).expect(WRITTEN),
    };
}

fn put_literal(literal: &str, out: &mut Vec<u8>) {
    match literal {
        "true" => encode::write_bool(out, true).expect(WRITTEN),
        "false" => encode::write_bool(out, false).expect(WRITTEN),
        "null" => encode::write_nil(out).expect(WRITTEN),
        number => put_number(number, out),
    }
}

fn put_number(number: &str, out: &mut Vec<u8>) {
    // In this order, so that an integer stays one as long as 64 bits hold it.
    if let Ok(number) = number.parse() {
        encode::write_uint(out, number).expect(WRITTEN);
    } else if let Ok(number) = number.parse() {
        encode::write_sint(out, number).expect(WRITTEN);
    } else if let Ok(number) = number.parse() {
        encode::write_f64(out, number).expect(WRITTEN);
    } else {
        encode::write_nil(out).expect(WRITTEN);
    }
}
