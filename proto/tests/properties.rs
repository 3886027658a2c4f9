//! Round trips and checks over random inputs. A failure prints its seed and the smallest input found.
#![allow(clippy::unwrap_used, reason = "the helpers of tests may unwrap as tests do")]

mod check;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use twinlane_proto::frame::{
    Headers, Job, MessageHeader, MessageRef, Options, Packer, Push, ReplyTo, RunHeader, encode_end,
    encode_headers, encode_job_head, encode_message_head, stamp_due,
};

/// User headers before they are encoded.
type HeaderList = Vec<(String, Vec<u8>)>;

/// One message: header, options without user headers, user headers, payload.
type Message = (MessageHeader, Options<'static>, Option<HeaderList>, Vec<u8>);

fn message() -> impl Strategy<Value = Message> {
    let header = (any::<u32>(), any::<u64>(), any::<u64>())
        .prop_map(|(source, seq, time_us)| MessageHeader { topic: 7, source, seq, time_us });
    let reply_to = any::<(u32, u64)>().prop_map(|(topic, correlation)| ReplyTo { topic, correlation });
    let numbers = (any::<Option<u32>>(), any::<Option<u64>>(), any::<Option<u64>>(), any::<Option<u64>>());
    let options = (numbers, option::of(reply_to), option::of(job())).prop_map(
        |((deadline_us, key, correlation, due_us), reply_to, job)| Options {
            deadline_us,
            key,
            reply_to,
            correlation,
            job,
            due_us,
            headers: None,
        },
    );
    let headers = option::of(vec(("[a-z]{1,9}", vec(any::<u8>(), 0..20)), 0..5));
    (header, options, headers, vec(any::<u8>(), 0..100))
}

fn job() -> impl Strategy<Value = Job> {
    any::<([u8; 16], u64, u64, u32)>().prop_map(|(lease, offset, epoch, attempt)| Job {
        lease,
        offset,
        epoch,
        attempt,
    })
}

fn encode((header, options, headers, payload): &Message) -> Vec<u8> {
    let list = headers.as_ref().map(|headers| {
        headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect::<Vec<_>>()
    });
    let encoded = list.map(|list| encode_headers(&list).unwrap());
    let headers = encoded.as_ref().map(|bytes| Headers::parse(bytes).unwrap());
    let mut frame = Vec::new();
    encode_message_head(header, &Options { headers, ..*options }, payload.len(), &mut frame).unwrap();
    frame.extend_from_slice(payload);
    frame
}

fn stream(runs: &[(u32, u64, Vec<Message>)]) -> Vec<u8> {
    let mut stream = Vec::new();
    for (lane, first, messages) in runs {
        let frames: Vec<u8> = messages.iter().flat_map(encode).collect();
        let (frame_count, run_bytes) = (messages.len() as u32 + 1, frames.len() as u32 + 32);
        let run = RunHeader { lane: *lane, topic: 7, first: *first, frames: frame_count, run_bytes };
        stream.extend_from_slice(&run.encode());
        stream.extend_from_slice(&frames);
        stream.extend_from_slice(&encode_end(&MessageHeader { topic: 7, ..MessageHeader::default() }));
    }
    stream
}

fn runs() -> impl Strategy<Value = Vec<(u32, u64, Vec<Message>)>> {
    vec((any::<u32>(), 0..u64::MAX - 10, vec(message(), 0..5)), 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_message_reads_as_it_was_written(message in message()) {
        let frame = encode(&message);
        let (header, options, headers, payload) = &message;
        let read = MessageRef::parse(&frame).unwrap();
        let read_options = read.options().unwrap();
        prop_assert_eq!(read.header(), *header);
        prop_assert_eq!(read.payload(), payload);
        prop_assert_eq!(Options { headers: None, ..read_options }, *options);
        prop_assert_eq!(read.fixed_options(), *options);
        let read_headers = read_options.headers.map(|headers| {
            headers.iter().map(|(name, value)| (name.to_owned(), value.to_vec())).collect::<Vec<_>>()
        });
        prop_assert_eq!(&read_headers, headers);
    }

    #[test]
    fn a_job_is_its_message_with_one_option_more(message in message(), job in job()) {
        let frame = encode(&message);
        let stored = MessageRef::parse(&frame).unwrap();
        let mut handed = b"before".to_vec();
        encode_job_head(&stored, &job, &mut handed).unwrap();
        handed.extend_from_slice(stored.payload());
        let read = MessageRef::parse(&handed[6..]).unwrap();
        prop_assert_eq!((read.header(), read.payload()), (stored.header(), stored.payload()));
        let expected = Options { job: Some(job), ..stored.options().unwrap() };
        prop_assert_eq!(read.options(), Ok(expected));
    }

    #[test]
    fn stamping_the_due_time_changes_nothing_else(message in message(), due_us: u64) {
        let (header, options, headers, payload) = message;
        let stamp = options.due_us.map(|_| due_us);
        let mut frame = encode(&(header, options, headers.clone(), payload.clone()));
        prop_assert_eq!(stamp_due(&mut frame, due_us), stamp.is_some());
        let expected = encode(&(header, Options { due_us: stamp, ..options }, headers, payload));
        prop_assert_eq!(frame, expected);
    }

    #[test]
    fn the_cut_of_a_stream_does_not_change_what_is_read(runs in runs(), seed: u8) {
        let mut data = vec![seed];
        data.extend(stream(&runs));
        check::stream::check(&data);
    }

    #[test]
    fn a_damaged_stream_is_read_the_same_however_it_is_cut(
        runs in runs(),
        seed: u8,
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut data = vec![seed];
        data.extend(stream(&runs));
        for (at, byte) in damage {
            let at = at.index(data.len());
            data[at] = byte;
        }
        check::stream::check(&data);
        check::datagram::check(&data[1..]);
        check::message::check(data.get(33..).unwrap_or_default());
    }

    #[test]
    fn what_is_packed_fits_and_reads_the_same(runs in runs(), datagram_bytes_max in 32usize..2_000) {
        let mut packer = Packer::new(datagram_bytes_max);
        for (lane, first, messages) in &runs {
            for (number, message) in (*first..).zip(messages) {
                let frame = encode(message);
                let mut push = packer.push(*lane, 7, number, &frame);
                if push == Push::Full {
                    let datagram = packer.take().expect("a full datagram");
                    prop_assert!(datagram.len() <= datagram_bytes_max);
                    check::datagram::check(&datagram);
                    push = packer.push(*lane, 7, number, &frame);
                }
                prop_assert_eq!(push == Push::TooBig, frame.len() + 32 > datagram_bytes_max);
                prop_assert_ne!(push, Push::Full);
            }
        }
    }

    #[test]
    fn any_text_is_a_name_and_a_filter_by_the_rules(
        filter in "([a-c$]|\\*|\\*\\*|/|\u{0}|é){0,12}",
        name in "[a-c$/]{0,8}",
    ) {
        check::topic::check(format!("{filter}\n{name}").as_bytes());
    }

    #[test]
    fn a_matching_filter_is_found_by_the_model_too(levels in vec("[ab]", 1..5), stars in any::<u8>(), tail: bool) {
        let name = levels.join("/");
        let mut pattern: Vec<&str> = levels
            .iter()
            .enumerate()
            .map(|(index, level)| if stars >> index & 1 == 1 { "*" } else { level.as_str() })
            .collect();
        if tail {
            pattern.push("**");
        }
        check::topic::check(format!("{}\n{name}", pattern.join("/")).as_bytes());
    }

    #[test]
    fn any_bytes_are_no_danger(data in vec(any::<u8>(), 0..300)) {
        check::stream::check(&data);
        check::datagram::check(&data);
        check::control::check(&data);
        check::topic::check(&data);
        check::message::check(&data);
        check::session::check(&data);
    }
}
