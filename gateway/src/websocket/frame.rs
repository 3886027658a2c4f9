//! WebSocket frames (RFC 6455): what a server sends, and what it reads from clients.
//!
//! The decoder has no buffer of its own but for a fragmented message: it takes frames off the front of what its caller
//! received, unmasks them in place and hands out slices. So an idle connection costs no buffer at all, and nothing is
//! reserved for what a frame only announces. It answers nothing: pings and closing are the connection's business.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::engine_io::Data;

/// The longest header of a frame that is not masked.
pub(crate) const HEADER_BYTES_MAX: usize = 10;
/// What a control frame may hold.
const CONTROL_BYTES_MAX: usize = 125;
const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
const MASK_BYTES: usize = 4;
/// A client closes normally.
pub const CLOSE_NORMAL: u16 = 1000;
/// This server goes away.
pub const CLOSE_GOING_AWAY: u16 = 1001;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// More of the message before.
    Continuation = 0,
    /// Text.
    Text = 1,
    /// Bytes.
    Binary = 2,
    /// The last frame.
    Close = 8,
    /// Asks for a pong.
    Ping = 9,
    /// Answers a ping.
    Pong = 10,
}

/// Appends the header of a complete, unmasked frame.
pub fn put_header(opcode: Opcode, payload_bytes: usize, frames: &mut BytesMut) {
    frames.put_u8(FINAL | opcode as u8);
    match payload_bytes {
        0..126 => frames.put_u8(payload_bytes as u8),
        126..0x1_0000 => {
            frames.put_u8(126);
            frames.put_u16(payload_bytes as u16);
        }
        _ => {
            frames.put_u8(127);
            frames.put_u64(payload_bytes as u64);
        }
    }
}

/// Appends a message in one frame.
pub fn put_message(message: &Data, frames: &mut BytesMut) {
    let opcode = match message {
        Data::Text(_) => Opcode::Text,
        Data::Binary(_) => Opcode::Binary,
    };
    frames.reserve(HEADER_BYTES_MAX + message.bytes().len());
    put_header(opcode, message.bytes().len(), frames);
    frames.put_slice(message.bytes());
}

/// Appends the answer to a ping, with its data.
pub fn put_pong(data: &[u8], frames: &mut BytesMut) {
    put_header(Opcode::Pong, data.len(), frames);
    frames.put_slice(data);
}

/// Appends the last frame. It carries no words: the client's library shows the code.
pub fn put_close(code: u16, frames: &mut BytesMut) {
    put_header(Opcode::Close, 2, frames);
    frames.put_u16(code);
}

/// How much a client may send at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a message, however it is cut. Default 1 MiB.
    pub message_bytes_max: usize,
    /// Frames of a message. Default 1,024.
    pub fragments_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { message_bytes_max: 1 << 20, fragments_max: 1_024 }
    }
}

/// What a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A whole message. Text is valid UTF-8.
    Message(Data),
    /// To be answered by [`put_pong`] with the same data.
    Ping(Bytes),
    /// Answers a ping of ours, or nothing.
    Pong(Bytes),
    /// Its last frame, with the code it gave. To be answered by [`put_close`]; then the stream ends.
    Close(Option<u16>),
}

/// A client's mistake. The connection is to be closed with [`FrameError::close_code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Clients must mask what they send.
    #[error("a client's frame is not masked")]
    NotMasked,
    /// No extension was agreed on that would use them.
    #[error("reserved bits {0:#04x} are set, but no extension was agreed on")]
    ReservedBits(u8),
    /// A kind of frame that does not exist.
    #[error("frames of kind {0} do not exist")]
    UnknownOpcode(u8),
    /// A length in more bytes than it needs, or above 2⁶³.
    #[error("a length of {0} is not written in the shortest way")]
    Length(u64),
    /// A control frame in pieces or longer than 125 bytes.
    #[error("a control frame is whole and has at most 125 bytes")]
    Control,
    /// More of a message of which nothing came.
    #[error("a message is continued that was never begun")]
    NothingToContinue,
    /// A message within another.
    #[error("a message begins before the one before it has ended")]
    NotContinued,
    /// A message in too many pieces.
    #[error("a message of more than {fragments_max} frames")]
    TooManyFragments {
        /// The limit.
        fragments_max: usize,
    },
    /// A message that is too long.
    #[error("a message of {message_bytes} bytes or more, limit is {message_bytes_max}")]
    TooLarge {
        /// As far as it was announced.
        message_bytes: u64,
        /// The limit.
        message_bytes_max: usize,
    },
    /// Text that is no UTF-8.
    #[error("text is not UTF-8 from byte {valid_bytes} on")]
    NotUtf8 {
        /// Bytes before the wrong one.
        valid_bytes: usize,
    },
    /// A code that nobody may send.
    #[error("a connection cannot be closed with code {0}")]
    CloseCode(u16),
    /// A code of one byte.
    #[error("half a code to close with")]
    HalfCloseCode,
}

impl FrameError {
    /// How the connection is to be closed because of it.
    #[must_use]
    pub fn close_code(&self) -> u16 {
        match self {
            Self::NotUtf8 { .. } => 1007,
            Self::TooLarge { .. } | Self::TooManyFragments { .. } => 1009,
            _ => 1002,
        }
    }
}

impl From<std::str::Utf8Error> for FrameError {
    fn from(error: std::str::Utf8Error) -> Self {
        Self::NotUtf8 { valid_bytes: error.valid_up_to() }
    }
}

/// Reads a client's frames.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    /// A message of which more is to come.
    unfinished: Option<Box<Unfinished>>,
}

#[derive(Debug)]
struct Unfinished {
    is_text: bool,
    fragments: usize,
    payload: BytesMut,
}

/// A frame's first bytes.
struct Header {
    is_final: bool,
    opcode: Opcode,
    bytes: usize,
    mask: [u8; MASK_BYTES],
    payload_bytes: usize,
}

impl Decoder {
    /// At the begin of a stream.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, unfinished: None }
    }

    /// Takes frames off the front of `received` until one of them ends a message or is a control frame; `None` if more
    /// must be read first. What is handed out shares `received`'s memory. An error ends the stream.
    ///
    /// # Errors
    ///
    /// What the client did wrong; limits are checked as soon as a frame's header is there.
    pub fn decode(&mut self, received: &mut BytesMut) -> Result<Option<Incoming>, FrameError> {
        loop {
            let Some(header) = self.header(received)? else { return Ok(None) };
            if received.len() < header.bytes + header.payload_bytes {
                return Ok(None);
            }
            received.advance(header.bytes);
            let mut payload = received.split_to(header.payload_bytes);
            unmask(&mut payload, header.mask);
            let incoming = match header.opcode {
                Opcode::Ping => Some(Incoming::Ping(payload.freeze())),
                Opcode::Pong => Some(Incoming::Pong(payload.freeze())),
                Opcode::Close => Some(Incoming::Close(close_code(&payload)?)),
                Opcode::Continuation => self.continued(&payload, header.is_final)?,
                data => self.begun(data == Opcode::Text, payload, header.is_final)?,
            };
            if incoming.is_some() {
                return Ok(incoming);
            }
        }
    }

    /// The next frame's header, if it is all there and allowed now.
    fn header(&self, received: &[u8]) -> Result<Option<Header>, FrameError> {
        let Some(&[first, second]) = received.first_chunk() else { return Ok(None) };
        if first & RESERVED != 0 {
            return Err(FrameError::ReservedBits(first & RESERVED));
        }
        if second & MASKED == 0 {
            return Err(FrameError::NotMasked);
        }
        let is_final = first & FINAL != 0;
        let opcode = self.opcode(first & 0x0f, is_final, second & !MASKED)?;
        let after = &received[2..];
        let (length_bytes, payload_bytes) = match second & !MASKED {
            126 => {
                let Some(length) = after.first_chunk() else { return Ok(None) };
                (2, shortest(u16::from_be_bytes(*length).into(), 126)?)
            }
            127 => {
                let Some(length) = after.first_chunk() else { return Ok(None) };
                (8, shortest(u64::from_be_bytes(*length), 1 << 16)?)
            }
            short => (0, short.into()),
        };
        let payload_bytes = self.checked_bytes(opcode, payload_bytes)?;
        let Some(mask) = after[length_bytes..].first_chunk() else { return Ok(None) };
        let bytes = 2 + length_bytes + MASK_BYTES;
        Ok(Some(Header { is_final, opcode, bytes, mask: *mask, payload_bytes }))
    }

    fn opcode(&self, number: u8, is_final: bool, short_bytes: u8) -> Result<Opcode, FrameError> {
        let opcode = match number {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            other => return Err(FrameError::UnknownOpcode(other)),
        };
        match (opcode, &self.unfinished) {
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => {
                let is_whole = is_final && usize::from(short_bytes) <= CONTROL_BYTES_MAX;
                if is_whole { Ok(opcode) } else { Err(FrameError::Control) }
            }
            (Opcode::Continuation, None) => Err(FrameError::NothingToContinue),
            (Opcode::Text | Opcode::Binary, Some(_)) => Err(FrameError::NotContinued),
            (Opcode::Continuation, Some(unfinished)) if unfinished.fragments == self.limits.fragments_max => {
                Err(FrameError::TooManyFragments { fragments_max: self.limits.fragments_max })
            }
            _ => Ok(opcode),
        }
    }

    fn checked_bytes(&self, opcode: Opcode, payload_bytes: u64) -> Result<usize, FrameError> {
        let before_bytes = match (opcode, &self.unfinished) {
            (Opcode::Continuation, Some(unfinished)) => unfinished.payload.len(),
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => return Ok(payload_bytes as usize),
            _ => 0,
        };
        let message_bytes_max = self.limits.message_bytes_max;
        let message_bytes = payload_bytes.saturating_add(before_bytes as u64);
        match usize::try_from(message_bytes) {
            Ok(bytes) if bytes <= message_bytes_max => Ok(bytes - before_bytes),
            _ => Err(FrameError::TooLarge { message_bytes, message_bytes_max }),
        }
    }

    fn begun(
        &mut self,
        is_text: bool,
        payload: BytesMut,
        is_final: bool,
    ) -> Result<Option<Incoming>, FrameError> {
        if is_final {
            return message(is_text, payload).map(Some);
        }
        // A copy: the slice would keep all that was received with it for as long as the client likes.
        let payload = BytesMut::from(&payload[..]);
        self.unfinished = Some(Box::new(Unfinished { is_text, fragments: 1, payload }));
        Ok(None)
    }

    fn continued(&mut self, payload: &[u8], is_final: bool) -> Result<Option<Incoming>, FrameError> {
        let mut unfinished = self.unfinished.take().expect("the header was checked");
        unfinished.payload.extend_from_slice(payload);
        unfinished.fragments += 1;
        if is_final {
            return message(unfinished.is_text, unfinished.payload).map(Some);
        }
        self.unfinished = Some(unfinished);
        Ok(None)
    }
}

fn message(is_text: bool, payload: BytesMut) -> Result<Incoming, FrameError> {
    let payload = payload.freeze();
    if !is_text {
        return Ok(Incoming::Message(Data::Binary(payload)));
    }
    std::str::from_utf8(&payload)?;
    Ok(Incoming::Message(Data::Text(payload)))
}

fn shortest(bytes: u64, bytes_min: u64) -> Result<u64, FrameError> {
    if bytes < bytes_min || bytes > i64::MAX as u64 { Err(FrameError::Length(bytes)) } else { Ok(bytes) }
}

/// The code that a close frame gives, if any; its words are only checked.
fn close_code(payload: &[u8]) -> Result<Option<u16>, FrameError> {
    let Some((code, words)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok(None) } else { Err(FrameError::HalfCloseCode) };
    };
    let code = u16::from_be_bytes(*code);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(FrameError::CloseCode(code));
    }
    std::str::from_utf8(words)?;
    Ok(Some(code))
}

fn unmask(payload: &mut [u8], mask: [u8; MASK_BYTES]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    rest.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { message_bytes_max: 100_000, fragments_max: 3 };
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// A client's frame: `first` has the final bit and the kind.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = BytesMut::new();
        put_header(Opcode::Text, payload.len(), &mut frame);
        frame[0] = first;
        frame[1] |= MASKED;
        frame.put_slice(&MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame.to_vec()
    }

    fn text(text: &str) -> Incoming {
        Incoming::Message(Data::Text(Bytes::copy_from_slice(text.as_bytes())))
    }

    /// All that comes out of `stream`, and the error that ended it.
    fn read(stream: &[u8]) -> (Vec<Incoming>, Option<FrameError>) {
        let mut decoder = Decoder::new(LIMITS);
        let mut received = BytesMut::from(stream);
        let mut seen = Vec::new();
        loop {
            match decoder.decode(&mut received) {
                Ok(Some(incoming)) => seen.push(incoming),
                Ok(None) => return (seen, None),
                Err(error) => return (seen, Some(error)),
            }
        }
    }

    fn refused(stream: &[u8]) -> FrameError {
        read(stream).1.expect("an error")
    }

    #[test]
    fn a_message_is_unmasked_whatever_its_length() {
        // The example of RFC 6455, section 5.7.
        let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(read(&hello), (vec![text("Hello")], None));
        for payload_bytes in [0, 1, 7, 8, 9, 125, 126, 65_535, 65_536] {
            let payload: Vec<u8> = (0..payload_bytes).map(|index| index as u8).collect();
            let seen = read(&frame(0x82, &payload));
            assert_eq!(seen, (vec![Incoming::Message(Data::Binary(payload.into()))], None));
        }
    }

    #[test]
    fn a_message_in_pieces_is_one_message_and_control_frames_pass_between_them() {
        let stream = [
            frame(0x01, "€".as_bytes().split_at(1).0),
            frame(0x89, b"now"),
            frame(0x00, "€".as_bytes().split_at(1).1),
            frame(0x80, b"!"),
            frame(0x8a, b""),
        ]
        .concat();
        let expected =
            vec![Incoming::Ping(Bytes::from_static(b"now")), text("€!"), Incoming::Pong(Bytes::new())];
        assert_eq!(read(&stream), (expected.clone(), None));
        let mut decoder = Decoder::new(LIMITS);
        let mut received = BytesMut::new();
        let mut seen = Vec::new();
        for byte in stream {
            received.put_u8(byte);
            seen.extend(decoder.decode(&mut received).unwrap());
        }
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_message_that_is_too_long_is_refused_by_its_header() {
        let error = FrameError::TooLarge { message_bytes: 100_001, message_bytes_max: 100_000 };
        assert_eq!(refused(&frame(0x82, &[0; 100_001])[..10]), error);
        assert_eq!(error.close_code(), 1009);
        let pieces = [frame(0x02, &[0; 60_000]), frame(0x80, &[0; 40_001])[..4].to_vec()].concat();
        assert_eq!(refused(&pieces), error);
        let most = [0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        let bytes = i64::MAX as u64;
        assert_eq!(refused(&most), FrameError::TooLarge { message_bytes: bytes, message_bytes_max: 100_000 });
        let sign = [0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(refused(&sign), FrameError::Length(1 << 63));
    }

    #[test]
    fn a_message_has_a_limited_number_of_pieces_even_if_they_are_empty() {
        let pieces = [frame(0x02, b""), frame(0x00, b""), frame(0x00, b""), frame(0x80, b"")].concat();
        let error = FrameError::TooManyFragments { fragments_max: 3 };
        assert_eq!(refused(&pieces), error);
        assert_eq!(error.close_code(), 1009);
    }

    #[test]
    fn frames_that_break_the_protocol_are_refused() {
        let cases = [
            (vec![0x81, 0x05], FrameError::NotMasked),
            (frame(0xc1, b""), FrameError::ReservedBits(0x40)),
            (frame(0x83, b""), FrameError::UnknownOpcode(3)),
            (frame(0x8b, b""), FrameError::UnknownOpcode(11)),
            (vec![0x82, 0xfe, 0, 125], FrameError::Length(125)),
            (vec![0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], FrameError::Length(0xffff)),
            (frame(0x89, &[0; 126]), FrameError::Control),
            (frame(0x09, b""), FrameError::Control),
            (frame(0x80, b""), FrameError::NothingToContinue),
            ([frame(0x01, b""), frame(0x81, b"")].concat(), FrameError::NotContinued),
            (frame(0x88, &[3]), FrameError::HalfCloseCode),
            (frame(0x88, &[0x03, 0xed]), FrameError::CloseCode(1005)),
            (frame(0x88, &[0, 0]), FrameError::CloseCode(0)),
        ];
        for (stream, error) in cases {
            assert_eq!(refused(&stream), error);
            assert_eq!(error.close_code(), 1002, "{error}");
        }
    }

    #[test]
    fn text_that_is_not_utf_8_is_refused() {
        for stream in [
            frame(0x81, b"a\xff"),
            [frame(0x01, b"a\xe2"), frame(0x80, b"a")].concat(),
            frame(0x88, &[0x03, 0xe8, b'a', 0xff]),
        ] {
            let error = refused(&stream);
            assert_eq!(error, FrameError::NotUtf8 { valid_bytes: 1 });
            assert_eq!(error.close_code(), 1007);
        }
    }

    #[test]
    fn a_close_frame_may_have_a_code_and_words() {
        let closes = [frame(0x88, b""), frame(0x88, &[0x03, 0xe8]), frame(0x88, &[0x0f, 0xa0, b'x'])];
        let codes = [None, Some(CLOSE_NORMAL), Some(4_000)].map(Incoming::Close);
        assert_eq!(read(&closes.concat()), (codes.to_vec(), None));
    }

    #[test]
    fn what_the_server_sends_is_not_masked() {
        let mut frames = BytesMut::new();
        put_message(&Data::Text(Bytes::from_static(b"4hi")), &mut frames);
        put_message(&Data::Binary(Bytes::from_static(&[7; 126])), &mut frames);
        put_pong(b"p", &mut frames);
        put_close(CLOSE_GOING_AWAY, &mut frames);
        let expected =
            [&[0x81, 3][..], b"4hi", &[0x82, 126, 0, 126], &[7; 126], &[0x8a, 1, b'p'], &[0x88, 2, 3, 0xe9]];
        assert_eq!(&frames[..], expected.concat());
        let mut long = BytesMut::new();
        put_header(Opcode::Binary, 65_536, &mut long);
        assert_eq!(&long[..], [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}
