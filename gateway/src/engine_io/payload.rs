//! Bodies of HTTP long-polling: packets as text, with a separator between them.

use bytes::{BufMut, Bytes, BytesMut};

use super::error::DecodeError;
use super::packet::Packet;

/// Stands between two packets. JSON text never has it: a control character is escaped there.
pub const SEPARATOR: u8 = 0x1e;

/// How much one body may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Packets. Default 65,536: a body of 1 MiB full of the smallest sensible events.
    pub packets_max: usize,
    /// Bytes of the body as it was sent. Default 1 MiB, the handshake's `maxPayload`.
    pub bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { packets_max: 1 << 16, bytes_max: 1 << 20 }
    }
}

/// The packets of a body, read one by one; ends after the first error. Their data shares `body`'s memory, but for
/// binary data, which leaves base64.
///
/// # Errors
///
/// Those of [`Packet::decode_text`], and [`DecodeError::NotUtf8`], [`DecodeError::TooLarge`] before the first packet,
/// [`DecodeError::TooManyPackets`] after the last one allowed.
#[must_use]
pub fn decode(body: Bytes, limits: Limits) -> Packets {
    let refused = if body.len() > limits.bytes_max {
        Some(DecodeError::TooLarge { bytes: body.len() as u64, bytes_max: limits.bytes_max })
    } else {
        std::str::from_utf8(&body).err().map(Into::into)
    };
    Packets { left: Some(body), refused, packets: 0, packets_max: limits.packets_max }
}

/// See [`decode`].
#[derive(Debug)]
pub struct Packets {
    /// What is not read yet; `None` at the end.
    left: Option<Bytes>,
    /// What is wrong with the body as a whole.
    refused: Option<DecodeError>,
    packets: usize,
    packets_max: usize,
}

impl Packets {
    fn read(&mut self, mut left: Bytes) -> Result<Packet, DecodeError> {
        if let Some(error) = self.refused.take() {
            return Err(error);
        }
        if self.packets == self.packets_max {
            return Err(DecodeError::TooManyPackets { packets_max: self.packets_max });
        }
        let packet = match left.iter().position(|byte| *byte == SEPARATOR) {
            Some(end) => {
                let packet = left.split_to(end);
                self.left = Some(left.slice(1..));
                packet
            }
            None => left,
        };
        self.packets += 1;
        Packet::decode_text(packet).inspect_err(|_| self.left = None)
    }
}

impl Iterator for Packets {
    type Item = Result<Packet, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let left = self.left.take()?;
        Some(self.read(left))
    }
}

impl std::iter::FusedIterator for Packets {}

/// Appends packets to a body until the next one would make it longer than `bytes_max`, and returns how many it took.
/// An empty body takes the first packet however long it is: it must go sometime.
pub fn encode<'a>(
    packets: impl IntoIterator<Item = &'a Packet>,
    bytes_max: usize,
    body: &mut BytesMut,
) -> usize {
    let mut taken = 0;
    for packet in packets {
        let before = body.len();
        if before > 0 {
            body.put_u8(SEPARATOR);
        }
        packet.encode_text(body);
        if before > 0 && body.len() > bytes_max {
            body.truncate(before);
            break;
        }
        taken += 1;
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::super::packet::Data;
    use super::*;

    fn packets(body: &'static [u8], limits: Limits) -> Vec<Result<Packet, DecodeError>> {
        decode(Bytes::from_static(body), limits).collect()
    }

    fn message(text: &'static str) -> Packet {
        Packet::Message(Data::Text(Bytes::from_static(text.as_bytes())))
    }

    #[test]
    fn a_body_is_its_packets_with_a_separator_between_them() {
        let said = [message("hello"), Packet::Ping(Bytes::new()), message("€")];
        let binary = Packet::Message(Data::Binary(Bytes::from_static(&[1, 2, 3, 4])));
        let said = [&said[..], &[binary]].concat();
        let mut body = BytesMut::new();
        assert_eq!(encode(&said, usize::MAX, &mut body), 4);
        assert_eq!(&body[..], "4hello\u{1e}2\u{1e}4€\u{1e}bAQIDBA==".as_bytes());
        let read: Result<Vec<_>, _> = decode(body.freeze(), Limits::default()).collect();
        assert_eq!(read, Ok(said));
    }

    #[test]
    fn reading_ends_at_the_first_packet_that_is_none() {
        let seen = packets(b"4a\x1e9\x1e4b", Limits::default());
        assert_eq!(seen, [Ok(message("a")), Err(DecodeError::UnknownType(b'9'))]);
        assert_eq!(packets(b"4a\x1e", Limits::default()), [Ok(message("a")), Err(DecodeError::Empty)]);
        assert_eq!(packets(b"", Limits::default()), [Err(DecodeError::Empty)]);
    }

    #[test]
    fn a_body_that_is_not_utf_8_has_no_packets() {
        assert_eq!(
            packets(b"4a\x1e4\xff", Limits::default()),
            [Err(DecodeError::NotUtf8 { valid_bytes: 4 })]
        );
    }

    #[test]
    fn packets_and_bytes_of_a_body_are_limited() {
        let limits = Limits { packets_max: 2, bytes_max: 8 };
        let seen = packets(b"4a\x1e4b\x1e4c", limits);
        let refused = Err(DecodeError::TooManyPackets { packets_max: 2 });
        assert_eq!(seen, [Ok(message("a")), Ok(message("b")), refused]);
        let refused = Err(DecodeError::TooLarge { bytes: 9, bytes_max: 8 });
        assert_eq!(packets(b"4a\x1e4bcdef", limits), [refused]);
    }

    #[test]
    fn a_body_takes_what_fits_and_at_least_one_packet() {
        let said = [message("12345"), message("678"), message("9")];
        let mut body = BytesMut::new();
        assert_eq!(encode(&said, 3, &mut body), 1);
        assert_eq!(&body[..], b"412345");
        assert_eq!(encode(&said[1..], 11, &mut body), 1);
        assert_eq!(&body[..], b"412345\x1e4678");
        assert_eq!(encode(&[], 11, &mut body), 0);
    }
}
