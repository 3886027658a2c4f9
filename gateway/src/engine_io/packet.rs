//! One Engine.IO packet.

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose};
use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::error::DecodeError;

/// What a message holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// Valid UTF-8: checked where it left the wire.
    Text(Bytes),
    /// Anything.
    Binary(Bytes),
}

impl Data {
    /// Its bytes, whatever they are.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        match self {
            Self::Text(bytes) | Self::Binary(bytes) => bytes,
        }
    }
}

/// A packet of either direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// The server's handshake, in JSON; over WebTransport also the client's first word.
    Open(Bytes),
    /// The other side is to close the transport.
    Close,
    /// Asks for a pong with the same text.
    Ping(Bytes),
    /// Answers a ping.
    Pong(Bytes),
    /// What the layer above says.
    Message(Data),
    /// From now on this transport is used.
    Upgrade,
    /// Nothing: ends a waiting request.
    Noop,
}

/// Some clients leave the padding away.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const BASE64: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, LENIENT);

impl Packet {
    /// Reads a packet that came as text, which must be valid UTF-8. Its data shares `text`'s memory.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Empty`], [`DecodeError::UnknownType`], [`DecodeError::NotBase64`].
    pub fn decode_text(mut text: Bytes) -> Result<Self, DecodeError> {
        let Some(&kind) = text.first() else { return Err(DecodeError::Empty) };
        text.advance(1);
        let rest = text;
        Ok(match kind {
            b'0' => Self::Open(rest),
            b'1' => Self::Close,
            b'2' => Self::Ping(rest),
            b'3' => Self::Pong(rest),
            b'4' => Self::Message(Data::Text(rest)),
            b'5' => Self::Upgrade,
            b'6' => Self::Noop,
            b'b' => Self::Message(Data::Binary(BASE64.decode(&rest)?.into())),
            other => return Err(DecodeError::UnknownType(other)),
        })
    }

    /// Binary bytes are always a message.
    #[must_use]
    pub fn decode_binary(bytes: Bytes) -> Self {
        Self::Message(Data::Binary(bytes))
    }

    /// Appends the packet as text; binary data goes into base64. Where frames can be binary, such data goes into one as
    /// it is instead.
    pub fn encode_text(&self, text: &mut BytesMut) {
        let (kind, data) = match self {
            Self::Open(data) => (b'0', Some(data)),
            Self::Close => (b'1', None),
            Self::Ping(data) => (b'2', Some(data)),
            Self::Pong(data) => (b'3', Some(data)),
            Self::Message(Data::Text(data)) => (b'4', Some(data)),
            Self::Message(Data::Binary(data)) => return encode_base64(data, text),
            Self::Upgrade => (b'5', None),
            Self::Noop => (b'6', None),
        };
        text.put_u8(kind);
        if let Some(data) = data {
            text.put_slice(data);
        }
    }
}

/// Appends `b` and `data` in base64.
pub(crate) fn encode_base64(data: &[u8], text: &mut BytesMut) {
    text.put_u8(b'b');
    let begin = text.len();
    text.put_bytes(0, data.len().div_ceil(3) * 4);
    let written = general_purpose::STANDARD.encode_slice(data, &mut text[begin..]);
    assert_eq!(written, Ok(text.len() - begin), "base64 has four characters for three bytes");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(packet: &Packet) -> String {
        let mut text = BytesMut::new();
        packet.encode_text(&mut text);
        String::from_utf8(text.into()).unwrap()
    }

    fn decoded(text: &'static str) -> Result<Packet, DecodeError> {
        Packet::decode_text(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn every_packet_is_its_type_and_its_data() {
        let packets = [
            ("0{\"sid\":\"a\"}", Packet::Open(Bytes::from_static(b"{\"sid\":\"a\"}"))),
            ("1", Packet::Close),
            ("2", Packet::Ping(Bytes::new())),
            ("2probe", Packet::Ping(Bytes::from_static(b"probe"))),
            ("3probe", Packet::Pong(Bytes::from_static(b"probe"))),
            ("4hello €", Packet::Message(Data::Text(Bytes::from_static("hello €".as_bytes())))),
            ("4", Packet::Message(Data::Text(Bytes::new()))),
            ("5", Packet::Upgrade),
            ("6", Packet::Noop),
            ("bAQIDBA==", Packet::Message(Data::Binary(Bytes::from_static(&[1, 2, 3, 4])))),
            ("b", Packet::Message(Data::Binary(Bytes::new()))),
        ];
        for (encoded, packet) in packets {
            assert_eq!(text(&packet), encoded);
            assert_eq!(decoded(encoded), Ok(packet));
        }
    }

    #[test]
    fn data_after_a_packet_that_has_none_is_ignored_as_the_reference_does() {
        assert_eq!(decoded("1really"), Ok(Packet::Close));
        assert_eq!(decoded("6{}"), Ok(Packet::Noop));
    }

    #[test]
    fn a_packet_without_a_known_type_is_refused() {
        assert_eq!(decoded(""), Err(DecodeError::Empty));
        assert_eq!(decoded("7"), Err(DecodeError::UnknownType(b'7')));
        assert_eq!(decoded("€"), Err(DecodeError::UnknownType(0xe2)));
    }

    #[test]
    fn base64_may_lack_its_padding_but_nothing_else() {
        assert_eq!(decoded("bAQIDBA"), decoded("bAQIDBA=="));
        for wrong in ["bAQIDB", "bAQ ID", "bAQIDBA==AQ", "b====", "b_-"] {
            assert!(matches!(decoded(wrong), Err(DecodeError::NotBase64(_))), "{wrong}");
        }
    }

    #[test]
    fn binary_bytes_are_a_message() {
        let bytes = Bytes::from_static(&[0xff, 0]);
        assert_eq!(Packet::decode_binary(bytes.clone()), Packet::Message(Data::Binary(bytes)));
    }
}
