//! Any polling body and any WebTransport stream: what is read can be written and read again, however the stream is cut.

use bytes::{Bytes, BytesMut};
use twinlane_gateway::fuzzing::engine_io::{Data, DecodeError, Packet, payload, stream};

const PACKETS_MAX: usize = 100;
const BYTES_MAX: usize = 4_096;

/// The first byte chooses what the rest is, and how it is cut.
pub(crate) fn check(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    if choice % 2 == 0 { polled(bytes) } else { streamed(bytes, usize::from(choice / 2)) }
}

fn polled(body: &[u8]) {
    let limits = payload::Limits { packets_max: PACKETS_MAX, bytes_max: BYTES_MAX };
    let mut read = payload::decode(Bytes::copy_from_slice(body), limits);
    let packets: Vec<_> = read.by_ref().map_while(Result::ok).collect();
    assert!(packets.len() <= PACKETS_MAX);
    assert!(read.next().is_none(), "packets after an error");
    packets.iter().for_each(is_text);
    if packets.is_empty() {
        return;
    }
    let mut written = BytesMut::new();
    assert_eq!(payload::encode(&packets, usize::MAX, &mut written), packets.len());
    let limits = payload::Limits { packets_max: PACKETS_MAX, bytes_max: usize::MAX };
    let again: Result<Vec<_>, _> = payload::decode(written.freeze(), limits).collect();
    assert_eq!(again, Ok(packets));
}

fn streamed(stream: &[u8], chunk_bytes: usize) {
    let (packets, error) = read(stream, stream.len());
    assert_eq!((&packets, &error), (&read(stream, chunk_bytes).0, &read(stream, chunk_bytes).1));
    packets.iter().for_each(is_text);
    let mut written = BytesMut::new();
    packets.iter().for_each(|packet| stream::encode(packet, &mut written));
    assert_eq!(read(&written, written.len()), (packets, None));
}

fn read(stream: &[u8], chunk_bytes: usize) -> (Vec<Packet>, Option<DecodeError>) {
    let decoder = stream::Decoder::new(BYTES_MAX);
    let mut received = BytesMut::new();
    let mut packets = Vec::new();
    for chunk in stream.chunks(chunk_bytes.max(1)) {
        received.extend_from_slice(chunk);
        loop {
            match decoder.decode(&mut received) {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(error) => return (packets, Some(error)),
            }
        }
        assert!(received.len() < BYTES_MAX + 9, "a whole packet was not read");
    }
    (packets, None)
}

fn is_text(packet: &Packet) {
    let text = match packet {
        Packet::Open(text) | Packet::Ping(text) | Packet::Pong(text) | Packet::Message(Data::Text(text)) => {
            text
        }
        Packet::Message(Data::Binary(_)) | Packet::Close | Packet::Upgrade | Packet::Noop => return,
    };
    assert!(std::str::from_utf8(text).is_ok(), "{packet:?} is not UTF-8");
}
