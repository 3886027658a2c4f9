//! The published vectors in `proto/vectors`: each is read, and what it means is written again.
//!
//! A vector is three lines, `name`, `meaning` for people, and `hex`; invalid ones have `error` in addition.
#![allow(clippy::unwrap_used, reason = "the helpers of tests may unwrap as tests do")]

mod samples;

use std::collections::BTreeMap;
use std::path::Path;

use twinlane_proto::Control;
use twinlane_proto::frame::erasure::make_parity;
use twinlane_proto::frame::{
    Cut, Decoder, Fragment, FragmentHeader, FrameError, Headers, Item, Job, MessageHeader, MessageRef,
    Options, Packer, Push, ReplyTo, RunHeader, decode_datagram, encode_end, encode_headers,
    encode_message_head,
};

/// Fields of a vector by their names.
type Vector = BTreeMap<String, String>;

const HEADER: MessageHeader = MessageHeader { topic: 7, source: 1, seq: 12, time_us: 1_700_000_000_000_000 };

fn vectors(file: &str) -> BTreeMap<String, Vector> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut vectors: BTreeMap<String, Vector> = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (key, value) = line.split_once(": ").unwrap_or_else(|| panic!("{file}: {line}"));
        if key == "name" {
            name = value.to_owned();
            let before = vectors.insert(name.clone(), Vector::new());
            assert!(before.is_none(), "{file} has {name} twice");
        } else {
            vectors.get_mut(&name).expect("a name comes first").insert(key.to_owned(), value.to_owned());
        }
    }
    vectors
}

fn bytes(vector: &Vector) -> Vec<u8> {
    let digits: String = vector["hex"].split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn message(options: &Options<'_>, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_message_head(&HEADER, options, payload.len(), &mut frame).unwrap();
    frame.extend_from_slice(payload);
    frame
}

#[test]
fn every_control_vector_means_what_it_says() {
    let vectors = vectors("control.txt");
    let samples = samples::controls();
    assert_eq!(vectors.len(), samples.len(), "one vector for each sample");
    for (name, control) in samples {
        let frame = bytes(&vectors[name]);
        assert_eq!(Control::decode(&frame).as_ref(), Ok(&control), "{name}");
        let mut encoded = Vec::new();
        control.encode(&mut encoded);
        assert_eq!(encoded, frame, "{name}");
    }
}

#[test]
fn every_message_vector_means_what_it_says() {
    let vectors = vectors("message.txt");
    let encoded_headers = encode_headers(&[("trace", b"7f3a"), ("empty", b"")]).unwrap();
    let headers = Headers::parse(&encoded_headers).unwrap();
    let all = Options {
        deadline_us: Some(20_000),
        key: Some(0x0102_0304_0506_0708),
        reply_to: Some(ReplyTo { topic: 8, correlation: 99 }),
        correlation: Some(98),
        job: Some(Job { lease: *b"lease-of-16-byte", offset: 41, epoch: 0xe0, attempt: 2 }),
        due_us: Some(1_700_000_010_000_000),
        headers: Some(headers),
    };
    let samples: [(&str, Options<'_>, &[u8]); 6] = [
        ("message-plain", Options::default(), b"hello"),
        ("message-empty", Options::default(), b""),
        ("message-deadline", Options { deadline_us: Some(20_000), ..Options::default() }, b"hello"),
        ("message-due", Options { due_us: Some(10_000_000), ..Options::default() }, b"hello"),
        ("message-job", Options { job: all.job, ..Options::default() }, b"hello"),
        ("message-all-options", all, b"hello"),
    ];
    assert_eq!(vectors.len(), samples.len() + 1);
    for (name, options, payload) in samples {
        let frame = bytes(&vectors[name]);
        let read = MessageRef::parse(&frame).unwrap();
        assert_eq!((read.header(), read.options(), read.payload()), (HEADER, Ok(options), payload), "{name}");
        assert_eq!(message(&options, payload), frame, "{name}");
    }
    let end = bytes(&vectors["end"]);
    let read = MessageRef::parse(&end).unwrap();
    assert!(read.is_end());
    assert_eq!((read.header(), &encode_end(&HEADER)[..]), (HEADER, &end[..]));
}

#[test]
fn the_run_vector_means_what_it_says() {
    let stream = bytes(&vectors("run.txt")["run"]);
    let mut decoder = Decoder::stream(4_096);
    let item = decoder.next(&stream).unwrap().unwrap();
    let Item::Frames { run, first: 41, frames: 2, last: true, .. } = item else { panic!("{item:?}") };
    assert_eq!(run, RunHeader { lane: 4, topic: 7, first: 41, frames: 2, run_bytes: 69 });
    assert_eq!((item.consumed(), decoder.ends()), (stream.len(), &[37, 69][..]));

    let mut written = run.encode().to_vec();
    written.extend_from_slice(&message(&Options::default(), b"hello"));
    written.extend_from_slice(&encode_end(&HEADER));
    assert_eq!(written, stream);
}

#[test]
fn the_datagram_vector_means_what_it_says() {
    let datagram = bytes(&vectors("run.txt")["datagram"]);
    let mut seen = Vec::new();
    decode_datagram(&datagram, &mut Decoder::stream(1_200), |item, _| {
        seen.push(match item {
            Item::Control(frame) => Control::decode(frame).unwrap().name().to_owned(),
            Item::Frames { run, frames, .. } => {
                format!("lane {} first {} frames {frames}", run.lane, run.first)
            }
            Item::Fragment(fragment) => panic!("{fragment:?}"),
        });
        Ok::<(), FrameError>(())
    })
    .unwrap();
    assert_eq!(seen, ["lane 4 first 41 frames 2", "lane 4 first 50 frames 1", "Ping"]);

    let mut packer = Packer::new(1_200);
    let hello = message(&Options::default(), b"hello");
    for (number, frame) in [(41, &hello[..]), (42, &encode_end(&HEADER)), (50, &hello)] {
        assert_eq!(packer.push(4, 7, number, frame), Push::Packed);
    }
    assert_eq!(packer.push_control(&bytes(&vectors("control.txt")["ping"])), Push::Packed);
    assert_eq!(packer.take().unwrap(), datagram);
}

#[test]
fn the_fragment_vectors_mean_what_they_say() {
    let vectors = vectors("fragment.txt");
    let payload: Vec<u8> = (0..600).map(|at| (7 * at) as u8).collect();
    let frame = message(&Options::default(), &payload);
    let cut = Cut::new(frame.len(), 2, 2).unwrap();
    let blocks = [&frame[cut.range(0)], &frame[cut.range(1)]];
    for (index, name) in ["data-0", "data-1", "parity-0", "parity-1"].into_iter().enumerate() {
        let mut part = vec![0; cut.block_bytes()];
        match index.checked_sub(2) {
            None => part.copy_from_slice(blocks[index]),
            Some(row) => make_parity(row, &blocks, &mut part),
        }
        let header = FragmentHeader {
            lane: 4,
            topic: 7,
            number: 41,
            message: 3,
            cut,
            index: index as u16,
            budget_us: 20_000,
        };
        let datagram = bytes(&vectors[name]);
        assert_eq!([&header.encode()[..], &part].concat(), datagram, "{name}");
        let mut seen = 0;
        decode_datagram(&datagram, &mut Decoder::stream(1_200), |item, _| {
            assert_eq!(item, Item::Fragment(Fragment { header, bytes: &part }), "{name}");
            seen += 1;
            Ok::<(), FrameError>(())
        })
        .unwrap();
        assert_eq!(seen, 1);
    }
    assert_eq!(vectors.len(), 4);
}

#[test]
fn every_invalid_vector_is_refused_for_its_reason() {
    for (name, vector) in vectors("invalid.txt") {
        let stream = bytes(&vector);
        let mut decoder = Decoder::stream(4_096);
        let mut taken = 0;
        let error = loop {
            match decoder.next(&stream[taken..]) {
                Ok(Some(Item::Control(frame))) => break Control::decode(frame).unwrap_err().to_string(),
                Ok(Some(item)) => taken += item.consumed(),
                Ok(None) => panic!("{name}: no error, {} bytes are left", stream.len() - taken),
                Err(error) => break error.to_string(),
            }
        };
        assert_eq!(error, vector["error"], "{name}");
    }
}
