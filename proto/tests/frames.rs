//! Frames: what a decoder promises about hostile, half-received and large streams, and what fits where.
#![allow(clippy::unwrap_used, reason = "the helpers of tests may unwrap as tests do")]

use twinlane_proto::frame::{
    Decoder, FLAG_DUE, FLAG_HEADERS, FLAG_JOB, FrameError, Headers, Item, Job, KIND_CONTROL, KIND_MESSAGE,
    MESSAGE_HEADER_BYTES, MessageHeader, MessageRef, Options, Packer, Push, RUN_HEADER_BYTES, RunHeader,
    decode_datagram, encode_end, encode_headers, encode_job_head, encode_message_head, stamp_due, stamp_seq,
    stamp_source, stamp_topic,
};
use twinlane_proto::limits::{CONTROL_BYTES_MAX, FRAME_BYTES_CEILING, HEADERS_BYTES_MAX};

const TOPIC: u32 = 7;

fn message(seq: u64, payload: &[u8]) -> Vec<u8> {
    let header = MessageHeader { topic: TOPIC, source: 1, seq, time_us: 5 };
    let mut frame = Vec::new();
    encode_message_head(&header, &Options::default(), payload.len(), &mut frame).unwrap();
    frame.extend_from_slice(payload);
    frame
}

fn run(first: u64, frames: &[Vec<u8>]) -> Vec<u8> {
    let bytes = frames.concat();
    let header = RunHeader {
        lane: 4,
        topic: TOPIC,
        first,
        frames: frames.len() as u32,
        run_bytes: bytes.len() as u32,
    };
    [&header.encode()[..], &bytes].concat()
}

fn run_of_lane(lane: u32, first: u64, frame: &[u8]) -> Vec<u8> {
    let header = RunHeader { lane, topic: TOPIC, first, frames: 1, run_bytes: frame.len() as u32 };
    [&header.encode()[..], frame].concat()
}

fn prefix(frame_bytes: u32, kind: u8) -> Vec<u8> {
    let mut prefix = frame_bytes.to_le_bytes().to_vec();
    prefix.extend_from_slice(&[kind, 0, 0x82, 0]);
    prefix
}

#[test]
fn a_run_is_handed_out_in_pieces_as_its_frames_arrive() {
    let stream = run(10, &[message(1, b"a"), message(2, b"bb"), message(3, b"")]);
    let mut decoder = Decoder::stream(1_024);
    let first_two = RUN_HEADER_BYTES + 33 + 34 + 31;
    let item = decoder.next(&stream[..first_two]).unwrap().unwrap();
    let Item::Frames { first: 10, frames: 2, last: false, .. } = item else { panic!("{item:?}") };
    assert_eq!((item.consumed(), decoder.ends()), (RUN_HEADER_BYTES + 67, &[33, 67][..]));
    assert_eq!(decoder.bytes_wanted(), 32);

    let rest = &stream[item.consumed()..];
    let item = decoder.next(rest).unwrap().unwrap();
    let Item::Frames { run, first: 12, frames: 1, last: true, .. } = item else { panic!("{item:?}") };
    assert_eq!((run.first, item.consumed()), (10, rest.len()));
    assert!(!decoder.is_inside_run());
}

#[test]
fn a_run_header_without_a_whole_frame_is_not_consumed() {
    let stream = run(0, &[message(1, b"hello")]);
    let mut decoder = Decoder::stream(1_024);
    for received in 0..stream.len() {
        assert_eq!(decoder.next(&stream[..received]), Ok(None));
        assert!(decoder.bytes_wanted() > received);
    }
    assert_eq!(decoder.next(&stream).unwrap().unwrap().consumed(), stream.len());
}

#[test]
fn good_frames_before_a_bad_one_are_handed_out_first() {
    let mut stream = run(0, &[message(1, b"good"), message(2, b"bad")]);
    stream[RUN_HEADER_BYTES + 36 + 4] = 9;
    let mut decoder = Decoder::stream(1_024);
    let item = decoder.next(&stream).unwrap().unwrap();
    let Item::Frames { frames: 1, last: false, .. } = item else { panic!("{item:?}") };
    assert_eq!(decoder.next(&stream[item.consumed()..]), Err(FrameError::UnknownKind { kind: 9 }));
}

#[test]
fn a_declared_length_of_4_gib_allocates_nothing_and_is_refused_at_once() {
    let mut decoder = Decoder::stream(1 << 20);
    let declared = prefix(u32::MAX, KIND_CONTROL);
    let refused = decoder.next(&declared);
    let frame_bytes_max = CONTROL_BYTES_MAX;
    assert_eq!(refused, Err(FrameError::FrameTooLarge { frame_bytes: u32::MAX as usize, frame_bytes_max }));

    // 2^26 frames of 64 bytes are possible, so the run stands; memory follows what arrives.
    let header = RunHeader { lane: 0, topic: TOPIC, first: 0, frames: 1 << 26, run_bytes: u32::MAX };
    let stream = [&header.encode()[..], &message(1, &[0; 32])].concat();
    let item = decoder.next(&stream).unwrap().unwrap();
    assert_eq!((item.consumed(), decoder.ends().len()), (stream.len(), 1));
}

#[test]
fn frame_lengths_around_every_edge_are_refused_or_waited_for_but_never_panic() {
    let edges = [0, 1, 7, 8, 31, 32, 33, 1_023, 1_024, 1_025, 1 << 31, u32::MAX - 1, u32::MAX];
    for kind in 0..=u8::MAX {
        for frame_bytes in edges {
            let frame = prefix(frame_bytes, kind);
            let mut decoder = Decoder::stream(1_024);
            let result = decoder.next(&frame);
            let may_wait = kind == 2 || (kind == KIND_CONTROL && (9..=1_024).contains(&frame_bytes));
            let whole = kind == KIND_CONTROL && frame_bytes == 8;
            assert_eq!(result == Ok(None), may_wait, "kind {kind}, {frame_bytes} bytes");
            assert_eq!(result.is_err(), !may_wait && !whole, "kind {kind}, {frame_bytes} bytes");
            assert!(decoder.bytes_wanted() <= 1_024);
        }
    }
}

#[test]
fn run_numbers_around_every_edge_are_refused_or_exact() {
    let edges = [0, 1, 2, (1 << 31) - 1, 1 << 31, u32::MAX - 1, u32::MAX];
    for frames in edges {
        for run_bytes in edges.into_iter().chain([31, 32, 33, 63, 64]) {
            let header = RunHeader { lane: 0, topic: TOPIC, first: 0, frames, run_bytes };
            let decoded = RunHeader::decode(&header.encode());
            let possible = frames > 0 && u64::from(run_bytes) >= 32 * u64::from(frames);
            assert_eq!(decoded == Ok(header), possible, "{frames} frames, {run_bytes} bytes");
            let stream = [&header.encode()[..], &message(1, b"")].concat();
            let mut decoder = Decoder::stream(1_024);
            // One frame of 32 bytes is there; a run of one frame and 33 bytes is found out by it.
            let fits = possible
                && u64::from(run_bytes) <= u64::from(frames) * 1_024
                && (frames > 1 || run_bytes == 32);
            assert_eq!(decoder.next(&stream).is_ok(), fits, "{frames} frames, {run_bytes} bytes");
        }
    }
    for first in [0, 1, u64::MAX - 1, u64::MAX] {
        let header = RunHeader { lane: 0, topic: 0, first, frames: 1, run_bytes: 32 };
        assert_eq!(RunHeader::decode(&header.encode()).is_ok(), first < u64::MAX);
    }
}

#[test]
fn before_the_handshake_only_small_control_frames_pass() {
    let mut decoder = Decoder::stream(100);
    assert!(decoder.next(&prefix(101, KIND_CONTROL)).is_err());
    let stream = run(0, &[message(1, &[0; 69])]);
    assert!(decoder.next(&stream).is_err());
    decoder.set_frame_bytes_max(101);
    assert_eq!(decoder.next(&prefix(101, KIND_CONTROL)), Ok(None));
    assert!(decoder.next(&stream).unwrap().is_some());
}

#[test]
fn an_empty_payload_is_a_message_and_an_end_has_none() {
    let empty = message(1, b"");
    let read = MessageRef::parse(&empty).unwrap();
    assert!(!read.is_end() && read.payload().is_empty());
    let end = encode_end(&read.header());
    assert!(MessageRef::parse(&end).unwrap().is_end());
}

#[test]
fn a_message_above_the_ceiling_is_not_encoded() {
    let mut out = vec![1, 2, 3];
    let header = MessageHeader::default();
    let fits = FRAME_BYTES_CEILING - 32;
    for payload_bytes in [fits + 1, usize::MAX] {
        assert!(encode_message_head(&header, &Options::default(), payload_bytes, &mut out).is_err());
    }
    assert_eq!(out, [1, 2, 3]);
    assert!(encode_message_head(&header, &Options::default(), fits, &mut out).is_ok());
}

#[test]
fn stamping_changes_one_field() {
    let mut frame = message(1, b"payload");
    stamp_seq(&mut frame, u64::MAX - 1);
    stamp_source(&mut frame, u32::MAX - 1);
    stamp_topic(&mut frame, u32::MAX - 2);
    let read = MessageRef::parse(&frame).unwrap();
    let expected = MessageHeader { topic: u32::MAX - 2, source: u32::MAX - 1, seq: u64::MAX - 1, time_us: 5 };
    assert_eq!((read.header(), read.payload()), (expected, &b"payload"[..]));
}

const JOB: Job = Job { lease: [7; 16], offset: 41, epoch: 0xe0, attempt: 1 };

/// A message with due time 9 and user headers of `bytes` bytes that nobody checked.
fn message_with_raw_headers(bytes: usize) -> Vec<u8> {
    let mut frame = message(1, &vec![0xff; 8 + bytes]);
    frame.extend_from_slice(b"payload");
    let frame_bytes = frame.len() as u32;
    frame[..4].copy_from_slice(&frame_bytes.to_le_bytes());
    frame[5] = FLAG_DUE | FLAG_HEADERS;
    frame[6..8].copy_from_slice(&(8 + bytes as u16).to_le_bytes());
    assert!(stamp_due(&mut frame, 9));
    frame
}

#[test]
fn a_message_with_malformed_user_headers_is_handed_over_as_it_is() {
    let frame = message_with_raw_headers(20);
    let stored = MessageRef::parse(&frame).unwrap();
    assert!(stored.options().is_err());
    assert_eq!(stored.fixed_options(), Options { due_us: Some(9), ..Options::default() });
    let mut handed = Vec::new();
    encode_job_head(&stored, &JOB, &mut handed).unwrap();
    handed.extend_from_slice(stored.payload());
    let read = MessageRef::parse(&handed).unwrap();
    assert_eq!(read.flags(), FLAG_JOB | FLAG_DUE | FLAG_HEADERS);
    assert_eq!(read.fixed_options(), Options { job: Some(JOB), due_us: Some(9), ..Options::default() });
    assert_eq!((read.header(), read.payload()), (stored.header(), &b"payload"[..]));
    assert_eq!(handed[MESSAGE_HEADER_BYTES + 44..][..20], [0xff; 20], "user headers are copied");
}

#[test]
fn what_cannot_be_a_job_is_an_error_and_leaves_nothing_behind() {
    let mut out = vec![1, 2, 3];
    let end = encode_end(&MessageHeader::default());
    let refused = encode_job_head(&MessageRef::parse(&end).unwrap(), &JOB, &mut out);
    assert_eq!(refused, Err(FrameError::EndNotEmpty { frame_bytes: 68 }));
    let large = message(1, &vec![0; FRAME_BYTES_CEILING - 32 - 35]);
    let refused = encode_job_head(&MessageRef::parse(&large).unwrap(), &JOB, &mut out);
    assert!(matches!(refused, Err(FrameError::FrameTooLarge { .. })), "{refused:?}");
    assert_eq!(out, [1, 2, 3]);
}

#[test]
fn user_headers_that_nobody_may_write_are_refused_before_they_are_looked_into() {
    assert!(MessageRef::parse(&message_with_raw_headers(HEADERS_BYTES_MAX)).is_ok());
    let refused = MessageRef::parse(&message_with_raw_headers(HEADERS_BYTES_MAX + 1)).map(|_| ());
    assert!(matches!(refused, Err(FrameError::OptionsMismatch { .. })), "{refused:?}");
}

#[test]
fn a_message_without_a_due_time_is_not_stamped_with_one() {
    let mut frame = message(1, b"payload");
    assert!(!stamp_due(&mut frame, 9));
    assert_eq!(frame, message(1, b"payload"));
}

#[test]
fn user_headers_have_limits_and_clean_names() {
    let value = vec![0; HEADERS_BYTES_MAX];
    let too_large = encode_headers(&[("n", &value)]);
    assert!(matches!(too_large, Err(FrameError::HeadersTooLarge { .. })));
    let many: Vec<(&str, &[u8])> = vec![("n", &[]); 33];
    assert_eq!(encode_headers(&many), Err(FrameError::TooManyHeaders { headers: 33, headers_max: 32 }));
    assert!(encode_headers(&many[..32]).is_ok());
    for name in ["", "a\0b", "a\nb", &"n".repeat(256)] {
        assert_eq!(encode_headers(&[("ok", b""), (name, b"")]), Err(FrameError::HeaderName { index: 1 }));
    }
    let good = encode_headers(&[("ok", b"v")]).unwrap();
    for cut in 0..good.len() {
        assert!(Headers::parse(&good[..cut]).is_err(), "cut at {cut}");
    }
    assert!(Headers::parse(&[&good[..], &[0]].concat()).is_err(), "a byte is left over");
}

#[test]
fn a_datagram_ends_with_a_whole_item() {
    let datagram = run(0, &[message(1, b"a"), message(2, b"b")]);
    let mut decoder = Decoder::stream(1_200);
    for cut in 0..=datagram.len() {
        let mut frames = 0;
        let result = decode_datagram(&datagram[..cut], &mut decoder, |_, ends| {
            frames += ends.len();
            Ok::<(), FrameError>(())
        });
        assert_eq!(result.is_ok(), cut == 0 || cut == datagram.len(), "cut at {cut}");
        assert_eq!(frames, if cut == datagram.len() { 2 } else { 0 }, "a cut run is not handed out");
    }
}

#[test]
fn frames_that_follow_each_other_share_a_run_header_and_others_do_not() {
    let frame = message(1, b"x");
    let mut packer = Packer::new(1_200);
    for (lane, topic, first) in [(1, TOPIC, 5), (1, TOPIC, 6), (1, TOPIC, 8), (2, TOPIC, 9)] {
        assert_eq!(packer.push(lane, topic, first, &frame), Push::Packed);
    }
    let mut runs = Vec::new();
    let datagram = packer.take().unwrap();
    decode_datagram(&datagram, &mut Decoder::stream(1_200), |item, _| {
        let Item::Frames { run, .. } = item else { panic!("{item:?}") };
        runs.push((run.lane, run.first, run.frames));
        Ok::<(), FrameError>(())
    })
    .unwrap();
    assert_eq!(runs, [(1, 5, 2), (1, 8, 1), (2, 9, 1)]);
    assert!(packer.is_empty() && packer.take().is_none());
}

#[test]
fn a_control_frame_between_messages_ends_their_run() {
    let (frame, control) = (message(1, b"x"), prefix(8, KIND_CONTROL));
    let mut packer = Packer::new(1_200);
    assert_eq!(packer.push(1, TOPIC, 5, &frame), Push::Packed);
    assert_eq!(packer.push_control(&control), Push::Packed);
    assert_eq!(packer.push(1, TOPIC, 6, &frame), Push::Packed);
    let expected = [run_of_lane(1, 5, &frame), control, run_of_lane(1, 6, &frame)].concat();
    assert_eq!(packer.take().unwrap(), expected);
}

#[test]
fn a_frame_goes_in_the_next_datagram_when_this_one_is_full_and_nowhere_when_too_big() {
    let frame = message(1, &[0; 68]);
    let mut packer = Packer::new(132);
    assert_eq!(packer.push(1, TOPIC, 0, &frame), Push::Packed);
    assert_eq!(packer.push(1, TOPIC, 1, &frame), Push::Full);
    assert_eq!(packer.take().map(|datagram| datagram.len()), Some(132));
    assert_eq!(packer.push(1, TOPIC, 1, &frame), Push::Packed);
    assert_eq!(packer.push_control(&prefix(8, KIND_CONTROL)), Push::Full);
    assert_eq!(packer.push(1, TOPIC, 2, &message(1, &[0; 69])), Push::TooBig);
    packer.set_datagram_bytes_max(131);
    assert_eq!(packer.push(1, TOPIC, 2, &frame), Push::TooBig);
    assert_eq!(packer.push_control(&[0; 132]), Push::TooBig);
    assert_eq!(packer.take().map(|datagram| datagram.len()), Some(132), "what was packed before stays");
}

#[test]
#[should_panic(expected = "not inside a stream's run")]
fn a_datagram_is_not_decoded_inside_a_stream_s_run() {
    let stream = run(0, &[message(1, b"a"), message(2, b"b")]);
    let mut decoder = Decoder::stream(1_024);
    decoder.next(&stream[..stream.len() - 1]).unwrap();
    let _ = decode_datagram(&[KIND_MESSAGE], &mut decoder, |_, _| Ok::<(), FrameError>(()));
}
