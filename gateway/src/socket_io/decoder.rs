//! Messages of a client become what it says; binary attachments are waited for.

use bytes::Bytes;
use twinlane::events::Payload;
use twinlane::events::peer::FromClient;

use super::error::DecodeError;
use super::{Parser, msgpack, text};
use crate::engine_io::Data;

/// How much a client may say at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a packet with its attachments. Default 1 MiB.
    pub packet_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { packet_bytes_max: 1 << 20 }
    }
}

/// Reads one client's messages.
#[derive(Debug)]
pub struct Decoder {
    parser: Parser,
    limits: Limits,
    /// A packet whose attachments are not all there.
    awaiting: Option<Box<Awaiting>>,
}

#[derive(Debug)]
struct Awaiting {
    packet: FromClient,
    missing: usize,
    bytes: usize,
}

impl Decoder {
    /// For a client that has said nothing yet.
    #[must_use]
    pub fn new(parser: Parser, limits: Limits) -> Self {
        Self { parser, limits, awaiting: None }
    }

    /// Takes a message; `None` while attachments are missing. What it returns shares the message's memory, unless it was
    /// MessagePack. After an error the client's connection is to be closed.
    ///
    /// # Errors
    ///
    /// Everything that [`DecodeError`] lists.
    pub fn take(&mut self, message: Data) -> Result<Option<FromClient>, DecodeError> {
        match (self.parser, message) {
            (Parser::Json, Data::Text(packet)) => self.text(&packet),
            (Parser::Json, Data::Binary(attachment)) => self.attachment(attachment),
            (Parser::Msgpack, Data::Text(_)) => Err(DecodeError::NotMsgpack),
            (Parser::Msgpack, Data::Binary(packet)) => {
                self.check_bytes(packet.len())?;
                msgpack::decode(&packet, self.limits.packet_bytes_max).map(Some)
            }
        }
    }

    fn text(&mut self, packet: &Bytes) -> Result<Option<FromClient>, DecodeError> {
        if let Some(awaiting) = &self.awaiting {
            return Err(DecodeError::AttachmentsMissing { missing: awaiting.missing });
        }
        let bytes = packet.len();
        self.check_bytes(bytes)?;
        let (packet, missing) = text::decode(packet)?;
        if missing == 0 {
            return Ok(Some(packet));
        }
        self.awaiting = Some(Box::new(Awaiting { packet, missing, bytes }));
        Ok(None)
    }

    fn attachment(&mut self, attachment: Bytes) -> Result<Option<FromClient>, DecodeError> {
        let mut awaiting = self.awaiting.take().ok_or(DecodeError::NoPacketForAttachment)?;
        awaiting.bytes += attachment.len();
        self.check_bytes(awaiting.bytes)?;
        payload(&mut awaiting.packet).attachments.push(attachment);
        awaiting.missing -= 1;
        if awaiting.missing == 0 {
            return Ok(Some(awaiting.packet));
        }
        self.awaiting = Some(awaiting);
        Ok(None)
    }

    fn check_bytes(&self, bytes: usize) -> Result<(), DecodeError> {
        let bytes_max = self.limits.packet_bytes_max;
        if bytes <= bytes_max { Ok(()) } else { Err(DecodeError::TooLarge { bytes, bytes_max }) }
    }
}

fn payload(packet: &mut FromClient) -> &mut Payload {
    match packet {
        FromClient::Event { payload, .. } | FromClient::Ack { payload, .. } => payload,
        FromClient::Connect { .. } | FromClient::Disconnect { .. } => {
            unreachable!("only events and acknowledgements have attachments")
        }
    }
}
