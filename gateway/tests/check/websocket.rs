//! Any stream of WebSocket frames: the same messages come out however it is cut, and none that is not allowed.

use bytes::BytesMut;
use twinlane_gateway::fuzzing::engine_io::Data;
use twinlane_gateway::fuzzing::frame::{Decoder, FrameError, Incoming, Limits, put_message};

const LIMITS: Limits = Limits { message_bytes_max: 2_048, fragments_max: 8 };
/// The longest header of a client's frame.
const HEADER_BYTES_MAX: usize = 14;

/// The first byte chooses how the rest, the stream, is cut.
pub(crate) fn check(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else { return };
    let uncut = read(stream, stream.len());
    assert_eq!(uncut, read(stream, usize::from(*cut)), "the cut of the stream changed what was read");
    let (incoming, error) = uncut;
    assert!(error.is_none_or(|error| matches!(error.close_code(), 1002 | 1007 | 1009)));
    for incoming in incoming {
        match incoming {
            Incoming::Message(message) => check_message(&message),
            Incoming::Ping(data) | Incoming::Pong(data) => assert!(data.len() <= 125),
            Incoming::Close(code) => assert!(code.is_none_or(|code| (1_000..5_000).contains(&code))),
        }
    }
}

fn check_message(message: &Data) {
    assert!(message.bytes().len() <= LIMITS.message_bytes_max);
    if let Data::Text(text) = message {
        assert!(std::str::from_utf8(text).is_ok(), "text is not UTF-8");
    }
    // What the server sends differs from what it reads in the mask; a mask of zeros changes nothing else.
    let mut sent = BytesMut::new();
    put_message(message, &mut sent);
    let header_bytes = sent.len() - message.bytes().len();
    let masked =
        [&[sent[0], sent[1] | 0x80], &sent[2..header_bytes], &[0; 4], &sent[header_bytes..]].concat();
    assert_eq!(read(&masked, masked.len()), (vec![Incoming::Message(message.clone())], None));
}

fn read(stream: &[u8], chunk_bytes: usize) -> (Vec<Incoming>, Option<FrameError>) {
    let mut decoder = Decoder::new(LIMITS);
    let mut received = BytesMut::new();
    let mut seen = Vec::new();
    for chunk in stream.chunks(chunk_bytes.max(1)) {
        received.extend_from_slice(chunk);
        loop {
            match decoder.decode(&mut received) {
                Ok(Some(incoming)) => seen.push(incoming),
                Ok(None) => break,
                Err(error) => return (seen, Some(error)),
            }
        }
        assert!(received.len() < LIMITS.message_bytes_max + HEADER_BYTES_MAX, "a whole frame was not read");
    }
    (seen, None)
}
