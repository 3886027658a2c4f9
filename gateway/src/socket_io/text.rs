//! Packets as text: `<type>[<attachments>-][<namespace>,][<ack number>][<JSON>]`.

use bytes::Bytes;
use twinlane::events::Payload;
use twinlane::events::json;
use twinlane::events::peer::FromClient;

use super::error::DecodeError;
use super::{ATTACHMENTS_MAX, checked_ack, checked_namespace, wrong_data};

/// Reads a packet; also says how many attachments it waits for. Its data shares `packet`'s memory.
pub(super) fn decode(packet: &Bytes) -> Result<(FromClient, usize), DecodeError> {
    let text = std::str::from_utf8(packet)?;
    let kind = *text.as_bytes().first().ok_or(DecodeError::UnknownType)?;
    let rest = match kind {
        b'0'..=b'3' | b'5' | b'6' => &text[1..],
        b'4' => return Err(DecodeError::ConnectError),
        _ => return Err(DecodeError::UnknownType),
    };
    let (attachments, rest) = if matches!(kind, b'5' | b'6') { attachments(rest)? } else { (0, rest) };
    let (namespace, rest) = namespace(rest)?;
    let is_numbered = matches!(kind, b'2' | b'3' | b'5' | b'6');
    let (ack, data) = if is_numbered { ack(rest)? } else { (None, rest) };
    let payload = || Payload { json: packet.slice(text.len() - data.len()..), attachments: Vec::new() };
    let said = match kind {
        b'0' if data.is_empty() => FromClient::Connect { namespace, auth: None },
        b'0' => {
            json::check_object(data)?;
            FromClient::Connect { namespace, auth: Some(payload().json) }
        }
        b'1' if data.is_empty() => FromClient::Disconnect { namespace },
        b'1' => return Err(wrong_data("DISCONNECT")),
        b'2' | b'5' => {
            json::check_event(data, attachments)?;
            FromClient::Event { namespace, ack, payload: payload() }
        }
        _ => {
            json::check_ack(data, attachments)?;
            FromClient::Ack { namespace, ack: ack.ok_or(DecodeError::AckNumber)?, payload: payload() }
        }
    };
    Ok((said, attachments))
}

fn attachments(text: &str) -> Result<(usize, &str), DecodeError> {
    let (digits, rest) = split_digits(text);
    let count = digits.parse().ok().filter(|count| (1..=ATTACHMENTS_MAX).contains(count));
    count.zip(rest.strip_prefix('-')).ok_or(DecodeError::Attachments { attachments_max: ATTACHMENTS_MAX })
}

fn namespace(text: &str) -> Result<(String, &str), DecodeError> {
    if !text.starts_with('/') {
        return Ok(("/".to_owned(), text));
    }
    let (name, rest) = text.split_once(',').unwrap_or((text, ""));
    Ok((checked_namespace(name)?, rest))
}

fn ack(text: &str) -> Result<(Option<u64>, &str), DecodeError> {
    let (digits, rest) = split_digits(text);
    if digits.is_empty() {
        return Ok((None, rest));
    }
    let number = digits.parse().map_err(|_| DecodeError::AckNumber)?;
    Ok((Some(checked_ack(number)?), rest))
}

fn split_digits(text: &str) -> (&str, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at(digits)
}
