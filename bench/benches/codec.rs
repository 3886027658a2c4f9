//! What one message costs in the wire codec: encoding a head, scanning runs, control messages, packing datagrams.
//!
//! Every benchmark first proves that what it times gives the right answer, and keeps a cheap check inside the timed
//! loop, so that an optimisation that skips the work also fails the bench.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use twinlane_proto::{
    Control,
    control::{Acked, Credit, Level, Ping},
    frame::{
        Decoder, Frames, Item, MESSAGE_HEADER_BYTES, MessageHeader, MessageRef, Options, Packer, Push,
        RunHeader, decode_datagram, encode_message_head,
    },
};

/// Bytes of frames in the runs that are scanned: what one large read brings.
const RUN_BYTES: usize = 64 << 10;

/// Frames packed into datagrams per iteration.
const PACKED_FRAMES: u64 = 1_024;

/// A datagram that every path carries.
const DATAGRAM_BYTES: usize = 1_200;

const FRAME_BYTES_MAX: usize = 1 << 20;
const LANE: u32 = 3;
const TOPIC: u32 = 7;

fn header(seq: u64) -> MessageHeader {
    MessageHeader { topic: TOPIC, source: 1, seq, time_us: 1_700_000_000_000_000 + seq }
}

fn frame(seq: u64, payload_bytes: usize, out: &mut Vec<u8>) {
    encode_message_head(&header(seq), &Options::default(), payload_bytes, out).expect("the frame is small");
    out.resize(out.len() + payload_bytes, seq as u8);
}

/// A run header and as many frames as fit [`RUN_BYTES`], and how many those are.
fn stream_with_run(payload_bytes: usize) -> (Vec<u8>, usize) {
    let frames = RUN_BYTES / (MESSAGE_HEADER_BYTES + payload_bytes);
    let mut body = Vec::with_capacity(RUN_BYTES);
    (1..=frames as u64).for_each(|seq| frame(seq, payload_bytes, &mut body));
    let run =
        RunHeader { lane: LANE, topic: TOPIC, first: 1, frames: frames as u32, run_bytes: body.len() as u32 };
    ([&run.encode()[..], &body].concat(), frames)
}

/// Scans a whole stream; answers the frames seen.
fn scan(decoder: &mut Decoder, stream: &[u8]) -> usize {
    let (mut at, mut seen) = (0, 0);
    while let Some(item) = decoder.next(&stream[at..]).expect("the stream is well-formed") {
        at += item.consumed();
        if let Item::Frames { frames, .. } = item {
            seen += frames;
        }
    }
    assert_eq!(at, stream.len(), "all bytes were scanned");
    seen
}

fn encode_head(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode_head");
    let with_key = Options { key: Some(42), deadline_us: Some(5_000), ..Options::default() };
    for (name, options) in [("no options", Options::default()), ("key and deadline", with_key)] {
        let mut out = Vec::with_capacity(256);
        encode_message_head(&header(9), &options, 64, &mut out).expect("the frame is small");
        out.resize(out.len() + 64, 0);
        let parsed = MessageRef::parse(&out).expect("what was encoded decodes");
        assert_eq!((parsed.header(), parsed.payload().len()), (header(9), 64));
        assert_eq!(parsed.options().expect("the options decode"), options);
        let head_bytes = out.len() - 64;
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |b| {
            let mut seq = 0;
            b.iter(|| {
                out.clear();
                seq += 1;
                encode_message_head(&header(seq), black_box(&options), 64, &mut out)
                    .expect("the frame is small");
                assert_eq!(black_box(&out).len(), head_bytes);
            });
        });
    }
    group.finish();
}

fn scan_run(c: &mut Criterion) {
    let mut group = c.benchmark_group("scan_run");
    for payload_bytes in [64, 256] {
        let (stream, frames) = stream_with_run(payload_bytes);
        let mut decoder = Decoder::stream(FRAME_BYTES_MAX);
        group.throughput(Throughput::Elements(frames as u64));
        group.bench_function(BenchmarkId::new("64 KiB", payload_bytes), |b| {
            b.iter(|| assert_eq!(scan(&mut decoder, black_box(&stream)), frames));
        });
    }
    group.finish();
}

fn read_messages(c: &mut Criterion) {
    let mut group = c.benchmark_group("read_messages");
    for payload_bytes in [64, 256] {
        let (stream, frames) = stream_with_run(payload_bytes);
        let body = &stream[stream.len() - frames * (MESSAGE_HEADER_BYTES + payload_bytes)..];
        let seqs = frames as u64 * (frames as u64 + 1) / 2;
        group.throughput(Throughput::Elements(frames as u64));
        group.bench_function(BenchmarkId::new("64 KiB", payload_bytes), |b| {
            b.iter(|| {
                let messages = Frames::new(black_box(body));
                let sum: u64 =
                    messages.map(|message| message.seq() + black_box(message.payload()).len() as u64).sum();
                assert_eq!(sum, seqs + (frames * payload_bytes) as u64);
            });
        });
    }
    group.finish();
}

fn decode_control(c: &mut Criterion) {
    let acked =
        Acked { publisher: LANE, first_seq: 1_001, count: 256, first_offset: 5_000, level: Level::Memory };
    let controls = [
        ("Acked", Control::Acked(acked)),
        ("Credit", Control::Credit(Credit { lane: LANE, bytes: 1 << 20 })),
        ("Ping", Control::Ping(Ping { nonce: 77 })),
    ];
    let mut group = c.benchmark_group("decode_control");
    for (name, control) in controls {
        let mut bytes = Vec::new();
        control.encode(&mut bytes);
        group.bench_function(name, |b| {
            b.iter(|| assert_eq!(Control::decode(black_box(&bytes)).as_ref(), Ok(&control)));
        });
    }
    group.finish();
}

/// Packs every frame and hands each full datagram to `datagram`.
fn pack(packer: &mut Packer, frames: &[Vec<u8>], mut datagram: impl FnMut(&[u8])) {
    for (first, frame) in (0..).zip(frames) {
        if packer.push(LANE, TOPIC, first, frame) == Push::Packed {
            continue;
        }
        datagram(&packer.take().expect("a full packer holds a datagram"));
        assert_eq!(packer.push(LANE, TOPIC, first, frame), Push::Packed, "an empty datagram has room");
    }
    if let Some(last) = packer.take() {
        datagram(&last);
    }
}

fn pack_datagrams(c: &mut Criterion) {
    let mut group = c.benchmark_group("pack_datagrams");
    for payload_bytes in [64, 256] {
        let frames: Vec<Vec<u8>> = (1..=PACKED_FRAMES)
            .map(|seq| {
                let mut out = Vec::new();
                frame(seq, payload_bytes, &mut out);
                out
            })
            .collect();
        let mut packer = Packer::new(DATAGRAM_BYTES);
        let datagrams = check_packing(&mut packer, &frames);
        group.throughput(Throughput::Elements(PACKED_FRAMES));
        group.bench_function(BenchmarkId::new("1200 B", payload_bytes), |b| {
            b.iter(|| {
                let mut packed = 0;
                pack(&mut packer, black_box(&frames), |datagram| packed += usize::from(!datagram.is_empty()));
                assert_eq!(packed, datagrams);
            });
        });
    }
    group.finish();
}

/// Proves that the datagrams hold every frame once and in order; answers how many datagrams that took.
fn check_packing(packer: &mut Packer, frames: &[Vec<u8>]) -> usize {
    let mut decoder = Decoder::stream(FRAME_BYTES_MAX);
    let (mut datagrams, mut seqs) = (0, Vec::new());
    pack(packer, frames, |datagram| {
        assert!(datagram.len() <= DATAGRAM_BYTES, "a datagram of {} bytes", datagram.len());
        datagrams += 1;
        let decoded = decode_datagram(datagram, &mut decoder, |item, _| {
            seqs.extend(item.messages().map(|message| message.seq()));
            Ok::<(), twinlane_proto::FrameError>(())
        });
        decoded.expect("what was packed decodes");
    });
    assert!(seqs.iter().copied().eq(1..=PACKED_FRAMES), "every frame once, in order");
    datagrams
}

criterion_group!(codec, encode_head, scan_run, read_messages, decode_control, pack_datagrams);
criterion_main!(codec);
