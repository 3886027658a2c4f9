//! Engine.IO packets in a byte stream, as a WebTransport session has them.
//!
//! Before each packet stands its length: one byte, of which bit 7 says "binary" and the others the length up to 125;
//! 126 there is followed by a length of 16 bits, 127 by one of 64 bits, both big-endian.

use bytes::{Buf, BufMut, BytesMut};

use super::error::DecodeError;
use super::packet::{Data, Packet, encode_base64};

const BINARY: u8 = 0x80;
/// The longest header.
pub(crate) const HEADER_BYTES_MAX: usize = 9;

/// Appends the header of a packet of `packet_bytes`.
pub fn put_header(is_binary: bool, packet_bytes: usize, stream: &mut BytesMut) {
    let binary = if is_binary { BINARY } else { 0 };
    match packet_bytes {
        0..126 => stream.put_u8(binary | packet_bytes as u8),
        126..0x1_0000 => {
            stream.put_u8(binary | 126);
            stream.put_u16(packet_bytes as u16);
        }
        _ => {
            stream.put_u8(binary | 127);
            stream.put_u64(packet_bytes as u64);
        }
    }
}

/// Appends a binary message with its header.
///
/// An empty one goes as text, in base64: the official client takes a length of 0 for an error.
pub fn put_binary(data: &[u8], stream: &mut BytesMut) {
    if data.is_empty() {
        put_header(false, 1, stream);
        return encode_base64(data, stream);
    }
    put_header(true, data.len(), stream);
    stream.put_slice(data);
}

/// Appends a packet with its header.
pub fn encode(packet: &Packet, stream: &mut BytesMut) {
    if let Packet::Message(Data::Binary(data)) = packet {
        return put_binary(data, stream);
    }
    let mut text = BytesMut::new();
    packet.encode_text(&mut text);
    put_header(false, text.len(), stream);
    stream.put_slice(&text);
}

/// Reads packets from a stream.
#[derive(Debug, Clone, Copy)]
pub struct Decoder {
    packet_bytes_max: usize,
}

impl Decoder {
    /// Packets are at most `packet_bytes_max` long: the handshake's `maxPayload`.
    #[must_use]
    pub fn new(packet_bytes_max: usize) -> Self {
        Self { packet_bytes_max }
    }

    /// Takes the next packet off the front of `received`; `None` if it is not all there. The packet shares `received`'s
    /// memory. Nothing is reserved for what is only announced. An error ends the stream.
    ///
    /// # Errors
    ///
    /// [`DecodeError::TooLarge`] as soon as the length is read, [`DecodeError::Empty`], [`DecodeError::NotUtf8`], those
    /// of [`Packet::decode_text`].
    pub fn decode(&self, received: &mut BytesMut) -> Result<Option<Packet>, DecodeError> {
        let Some((is_binary, header_bytes, packet_bytes)) = header(received) else { return Ok(None) };
        if packet_bytes == 0 && !is_binary {
            return Err(DecodeError::Empty);
        }
        let bytes_max = self.packet_bytes_max;
        let packet_bytes = usize::try_from(packet_bytes)
            .ok()
            .filter(|bytes| *bytes <= bytes_max)
            .ok_or(DecodeError::TooLarge { bytes: packet_bytes, bytes_max })?;
        if received.len() - header_bytes < packet_bytes {
            return Ok(None);
        }
        received.advance(header_bytes);
        let packet = received.split_to(packet_bytes).freeze();
        if is_binary {
            return Ok(Some(Packet::decode_binary(packet)));
        }
        std::str::from_utf8(&packet)?;
        Packet::decode_text(packet).map(Some)
    }
}

/// Whether it is binary, the header's length, the packet's length.
fn header(received: &[u8]) -> Option<(bool, usize, u64)> {
    let (&first, rest) = received.split_first()?;
    let is_binary = first & BINARY != 0;
    Some(match first & !BINARY {
        126 => (is_binary, 3, u16::from_be_bytes(*rest.first_chunk()?).into()),
        127 => (is_binary, HEADER_BYTES_MAX, u64::from_be_bytes(*rest.first_chunk()?)),
        short => (is_binary, 1, short.into()),
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const BYTES_MAX: usize = 100_000;

    fn decode(stream: &[u8]) -> Result<Option<Packet>, DecodeError> {
        Decoder::new(BYTES_MAX).decode(&mut BytesMut::from(stream))
    }

    #[test]
    fn the_length_before_a_packet_has_one_three_or_nine_bytes() {
        for (message_bytes, header) in [
            (4, &[5][..]),
            (124, &[125]),
            (125, &[126, 0, 126]),
            (65_534, &[126, 0xff, 0xff]),
            (65_535, &[127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let packet = Packet::Message(Data::Text(vec![b'a'; message_bytes].into()));
            let mut stream = BytesMut::new();
            encode(&packet, &mut stream);
            assert_eq!(&stream[..header.len()], header);
            assert_eq!(decode(&stream), Ok(Some(packet)));
        }
    }

    #[test]
    fn bit_7_of_the_header_marks_binary_packets() {
        let packet = Packet::Message(Data::Binary(Bytes::from_static(&[1, 2, 3])));
        let mut stream = BytesMut::new();
        encode(&packet, &mut stream);
        assert_eq!(&stream[..], [0x83, 1, 2, 3]);
        assert_eq!(decode(&stream), Ok(Some(packet)));
    }

    #[test]
    fn packets_come_out_in_order_once_they_are_complete() {
        let mut stream = BytesMut::new();
        let packets = [Packet::Ping(Bytes::new()), Packet::Message(Data::Text(Bytes::from_static(b"a")))];
        packets.iter().for_each(|packet| encode(packet, &mut stream));
        let mut received = BytesMut::new();
        let mut seen = Vec::new();
        for byte in stream {
            received.put_u8(byte);
            seen.extend(Decoder::new(BYTES_MAX).decode(&mut received).unwrap());
        }
        assert_eq!(seen, packets);
        assert!(received.is_empty());
    }

    #[test]
    fn a_length_above_the_limit_is_refused_before_its_bytes_come() {
        let too_large = |bytes| Err(DecodeError::TooLarge { bytes, bytes_max: BYTES_MAX });
        assert_eq!(decode(&[127, 0, 0, 0, 0, 0, 1, 0x86, 0xa1]), too_large(100_001));
        assert_eq!(decode(&[0xff; 9]), too_large(u64::MAX));
    }

    #[test]
    fn an_empty_binary_message_goes_as_text_and_is_read_in_either_form() {
        let packet = Packet::Message(Data::Binary(Bytes::new()));
        let mut stream = BytesMut::new();
        encode(&packet, &mut stream);
        assert_eq!(&stream[..], [1, b'b']);
        assert_eq!(decode(&stream), Ok(Some(packet.clone())));
        assert_eq!(decode(&[0x80]), Ok(Some(packet)));
    }

    #[test]
    fn empty_text_and_text_that_is_not_utf_8_are_refused() {
        assert_eq!(decode(&[0, b'4']), Err(DecodeError::Empty));
        assert_eq!(decode(&[2, b'4', 0xff]), Err(DecodeError::NotUtf8 { valid_bytes: 1 }));
        assert_eq!(decode(&[1, b'7']), Err(DecodeError::UnknownType(b'7')));
    }
}
