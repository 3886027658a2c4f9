//! The codec: heads, runs and datagrams, as a connection meets them.

use std::hint::black_box;

use twinlane_proto::FrameError;
use twinlane_proto::frame::{
    Decoder, Frames, Item, MessageHeader, Options, Packer, Push, RUN_HEADER_BYTES, RunHeader,
    decode_datagram, encode_message_head,
};

use crate::{BURST, MESSAGES, PAYLOAD_BYTES, SUM, number, stamp};

/// A datagram that every path carries.
const DATAGRAM_BYTES: usize = 1_200;
const FRAME_BYTES_MAX: usize = 1 << 20;
const LANE: u32 = 3;
const TOPIC: u32 = 7;

/// What a path worked out, and what it worked on: giving that back is not part of the path.
#[must_use = "only a checked path may be counted"]
pub struct Done<I> {
    input: I,
    messages: u64,
    sum: u64,
}

impl<I> Done<I> {
    /// Proves that every message was met once.
    ///
    /// # Panics
    ///
    /// If that is not so.
    pub fn check(self) {
        assert_eq!((self.messages, self.sum), (MESSAGES, SUM));
    }

    fn of(input: I, tally: &Tally) -> Self {
        Self { input, messages: tally.messages, sum: tally.sum }
    }
}

#[derive(Default)]
struct Tally {
    messages: u64,
    sum: u64,
}

impl Tally {
    fn add(&mut self, number: u64) {
        self.messages += 1;
        self.sum += number;
    }
}

/// A buffer as large as it will ever be.
#[must_use]
pub fn head_buffer() -> Vec<u8> {
    Vec::with_capacity(256)
}

/// Encodes the head of every message.
///
/// # Panics
///
/// If a head is refused.
pub fn encode_heads(mut out: Vec<u8>) -> Done<Vec<u8>> {
    let options = Options::default();
    let mut tally = Tally::default();
    for message in 0..MESSAGES {
        let header = MessageHeader { topic: TOPIC, source: 1, seq: message, time_us: message };
        out.clear();
        encode_message_head(black_box(&header), black_box(&options), PAYLOAD_BYTES, &mut out)
            .expect("the frame is small");
        // The seq lies in bytes 16 to 23.
        tally.add(number(&black_box(&out)[16..]));
    }
    Done::of(out, &tally)
}

/// All messages as frames, one by one.
#[must_use]
pub fn frames() -> Vec<Vec<u8>> {
    (0..MESSAGES).map(frame).collect()
}

/// All messages as a stream of runs of [`BURST`].
#[must_use]
pub fn stream() -> Vec<u8> {
    let mut stream = Vec::new();
    for first in (0..MESSAGES).step_by(BURST as usize) {
        let body: Vec<u8> = (first..first + BURST).flat_map(frame).collect();
        let (frames, run_bytes) = (BURST as u32, body.len() as u32);
        stream.extend(RunHeader { lane: LANE, topic: TOPIC, first, frames, run_bytes }.encode());
        stream.extend(body);
    }
    stream
}

/// Splits the stream into runs, without looking at the messages.
///
/// # Panics
///
/// If the stream is malformed.
pub fn scan(stream: Vec<u8>) -> Done<Vec<u8>> {
    let mut decoder = Decoder::stream(FRAME_BYTES_MAX);
    let (mut at, mut seen) = (0, 0);
    while let Some(item) = decoder.next(black_box(&stream[at..])).expect("the stream is well-formed") {
        at += item.consumed();
        if let Item::Frames { frames, .. } = item {
            seen += frames as u64;
        }
    }
    Done { input: stream, messages: seen, sum: 0 }
}

/// Proves that all messages were scanned.
///
/// # Panics
///
/// If one was not.
pub fn check_scan(done: Done<Vec<u8>>) {
    assert_eq!(done.messages, MESSAGES);
    read_stream(done.input).check();
}

/// Splits the stream into runs and reads each message.
///
/// # Panics
///
/// If the stream is malformed.
pub fn read_stream(stream: Vec<u8>) -> Done<Vec<u8>> {
    let mut decoder = Decoder::stream(FRAME_BYTES_MAX);
    let (mut at, mut tally) = (0, Tally::default());
    while let Some(item) = decoder.next(black_box(&stream[at..])).expect("the stream is well-formed") {
        at += item.consumed();
        item.messages().for_each(|message| tally.add(number(message.payload())));
    }
    Done::of(stream, &tally)
}

/// All messages back to back, as a subscriber's batch has them.
#[must_use]
pub fn batch() -> Vec<u8> {
    (0..MESSAGES).flat_map(frame).collect()
}

/// Reads message after message of a batch.
pub fn read_batch(batch: Vec<u8>) -> Done<Vec<u8>> {
    let mut tally = Tally::default();
    Frames::new(black_box(&batch)).for_each(|message| tally.add(number(message.payload())));
    Done::of(batch, &tally)
}

/// Packs every frame into datagrams.
///
/// # Panics
///
/// If an empty datagram has no room for a frame.
pub fn pack(frames: Vec<Vec<u8>>) -> Done<Vec<Vec<u8>>> {
    let mut packer = Packer::new(DATAGRAM_BYTES);
    let mut bytes = 0;
    // Datagrams go out of scope at once, as they do when a socket has taken them.
    each_datagram(&mut packer, &frames, |datagram| bytes += datagram.len() as u64);
    Done { messages: frames.len() as u64, sum: bytes, input: frames }
}

/// Proves that datagrams hold every message once and in order.
///
/// # Panics
///
/// If they do not.
pub fn check_packed(done: Done<Vec<Vec<u8>>>) {
    let Done { input: frames, sum: packed_bytes, .. } = done;
    let datagrams = datagrams_of(&frames);
    assert_eq!(packed_bytes, datagrams.iter().map(|datagram| datagram.len() as u64).sum::<u64>());
    decode(datagrams).check();
}

/// All messages in datagrams.
#[must_use]
pub fn datagrams() -> Vec<Vec<u8>> {
    datagrams_of(&frames())
}

/// Decodes every datagram and reads each message.
///
/// # Panics
///
/// If a datagram is malformed.
pub fn decode(datagrams: Vec<Vec<u8>>) -> Done<Vec<Vec<u8>>> {
    let mut decoder = Decoder::stream(FRAME_BYTES_MAX);
    let mut tally = Tally::default();
    for datagram in &datagrams {
        let decoded = decode_datagram(black_box(datagram), &mut decoder, |item, _| {
            item.messages().for_each(|message| tally.add(number(message.payload())));
            Ok::<(), FrameError>(())
        });
        decoded.expect("what was packed decodes");
    }
    Done::of(datagrams, &tally)
}

/// One run header per message: what the worst peer sends.
#[must_use]
pub fn run_headers() -> Vec<[u8; RUN_HEADER_BYTES]> {
    let run_bytes = frame(0).len() as u32;
    let header = |first| RunHeader { lane: LANE, topic: TOPIC, first, frames: 1, run_bytes };
    (0..MESSAGES).map(|first| header(first).encode()).collect()
}

/// Decodes every run header.
///
/// # Panics
///
/// If one is malformed.
pub fn decode_run_headers(headers: Vec<[u8; RUN_HEADER_BYTES]>) -> Done<Vec<[u8; RUN_HEADER_BYTES]>> {
    let mut tally = Tally::default();
    for header in &headers {
        tally.add(RunHeader::decode(black_box(header)).expect("the header is well-formed").first);
    }
    Done::of(headers, &tally)
}

fn frame(message: u64) -> Vec<u8> {
    let header = MessageHeader { topic: TOPIC, source: 1, seq: message, time_us: message };
    let mut frame = Vec::new();
    encode_message_head(&header, &Options::default(), PAYLOAD_BYTES, &mut frame).expect("the frame is small");
    let head_bytes = frame.len();
    frame.resize(head_bytes + PAYLOAD_BYTES, 0);
    stamp(&mut frame[head_bytes..], message);
    frame
}

fn datagrams_of(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut datagrams = Vec::new();
    each_datagram(&mut Packer::new(DATAGRAM_BYTES), frames, |datagram| datagrams.push(datagram.to_vec()));
    datagrams
}

fn each_datagram(packer: &mut Packer, frames: &[Vec<u8>], mut datagram: impl FnMut(&[u8])) {
    for (first, frame) in (0..).zip(frames) {
        if packer.push(LANE, TOPIC, first, black_box(frame)) == Push::Packed {
            continue;
        }
        datagram(&packer.take().expect("a full packer holds a datagram"));
        assert_eq!(packer.push(LANE, TOPIC, first, frame), Push::Packed, "an empty datagram has room");
    }
    if let Some(last) = packer.take() {
        datagram(&last);
    }
}
