//! Control messages: hostile bytes give errors, people's texts are cut, secrets are not printed.
#![allow(clippy::unwrap_used, reason = "the helpers of tests may unwrap as tests do")]

mod samples;

use twinlane_proto::control::{
    Action, Auth, Control, ControlError, Declare, Goodbye, GroupSettings, Hello, JoinQueue, Position,
    Purpose, Resume, Settle, SlowPolicy, Start, Subscribe, Verdict,
};
use twinlane_proto::limits::{CONTROL_BYTES_MAX, FRAME_BYTES_MAX_BEFORE_WELCOME};
use twinlane_proto::topic::{Last, Mode, Storage, TopicSpec};
use twinlane_proto::{Code, frame::PREFIX_BYTES};

fn encoded(control: &Control) -> Vec<u8> {
    let mut frame = Vec::new();
    control.encode(&mut frame);
    frame
}

/// Sets the length in a frame's prefix to its real one.
fn with_length(mut frame: Vec<u8>) -> Vec<u8> {
    let frame_bytes = frame.len() as u32;
    frame[..4].copy_from_slice(&frame_bytes.to_le_bytes());
    frame
}

#[test]
fn there_is_a_sample_of_every_type() {
    let samples = samples::controls();
    for (number, name) in Control::TYPES {
        assert!(samples.iter().any(|(_, control)| control.number() == *number), "{name}");
    }
}

#[test]
fn every_cut_and_every_extra_byte_is_an_error() {
    for (name, control) in samples::controls() {
        let frame = encoded(&control);
        for cut in 0..frame.len() {
            let short = frame[..cut].to_vec();
            let short = if cut < 4 { short } else { with_length(short) };
            assert!(Control::decode(&short).is_err(), "{name} cut at {cut}");
        }
        let long = with_length([&frame[..], &[0]].concat());
        assert!(Control::decode(&long).is_err(), "{name} with a byte left over");
    }
}

#[test]
fn every_byte_at_every_edge_gives_an_error_or_another_message() {
    for (name, control) in samples::controls() {
        let frame = encoded(&control);
        for at in PREFIX_BYTES..frame.len() {
            for edge in [0, 1, 0x7f, 0x80, 0xfe, 0xff] {
                let mut hostile = frame.clone();
                hostile[at] = edge;
                if let Ok(other) = Control::decode(&hostile) {
                    assert_eq!(encoded(&other), hostile, "{name}: byte {at} = {edge}");
                }
            }
        }
    }
}

#[test]
fn every_type_number_but_the_known_is_unknown() {
    for number in 0..=u16::MAX {
        let mut frame = vec![8, 0, 0, 0, 3, 0];
        frame.extend_from_slice(&number.to_le_bytes());
        let is_known = Control::TYPES.iter().any(|(known, _)| *known == number);
        let unknown = Control::decode(&frame) == Err(ControlError::UnknownType { number });
        assert_eq!(unknown, !is_known, "{number}");
    }
}

#[test]
fn a_topic_name_of_64_kib_is_refused_by_its_declared_length() {
    let declare = Declare { request: 1, name: "n".repeat(255), spec: TopicSpec::fast() };
    let mut frame = encoded(&declare.into());
    frame[PREFIX_BYTES + 4..PREFIX_BYTES + 6].copy_from_slice(&u16::MAX.to_le_bytes());
    let refused = ControlError::TooLong { what: "Declare.name", length: 65_535, length_max: 255 };
    assert_eq!(Control::decode(&frame), Err(refused));
}

#[test]
fn a_name_too_long_is_not_encoded_and_leaves_nothing_behind() {
    let declare = Control::from(Declare { request: 1, name: "n".repeat(256), spec: TopicSpec::fast() });
    let mut out = vec![1, 2, 3];
    let refused = ControlError::TooLong { what: "Declare.name", length: 256, length_max: 255 };
    assert_eq!(declare.try_encode(&mut out), Err(refused));
    assert_eq!(out, [1, 2, 3]);
}

#[test]
fn a_reason_is_cut_at_a_character_and_becomes_one_line() {
    // One of the two lengths puts the cut within an `é`.
    for begin in ["line\nline\u{202e}", "line\nline\u{202e}x"] {
        let reason = format!("{begin}{}", "é".repeat(200));
        let frame = encoded(&Goodbye { code: Code::Normal, reason }.into());
        let Ok(Control::Goodbye(goodbye)) = Control::decode(&frame) else { panic!("a goodbye") };
        assert!(goodbye.reason.starts_with("line line "), "{}", goodbye.reason);
        assert!((250..=256).contains(&goodbye.reason.len()), "{}", goodbye.reason.len());
    }
}

#[test]
fn the_largest_hello_passes_before_the_handshake_and_the_largest_subscribe_after() {
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        capabilities: u64::MAX,
        purpose: Purpose::Datagrams,
        client: "c".repeat(64),
        auth: Auth::Token(vec![0xff; 512]),
        resume: Some(Resume { session: [0xff; 16], secret: [0xff; 16] }),
    };
    assert!(encoded(&hello.into()).len() <= FRAME_BYTES_MAX_BEFORE_WELCOME);

    let position = Position { topic_name: "n".repeat(255), epoch: u64::MAX, offset: u64::MAX };
    let subscribe = Control::from(Subscribe {
        request: 1,
        subscription: 1,
        filter: "f".repeat(255),
        start: Start::Offset(u64::MAX),
        slow: SlowPolicy::Disconnect,
        credit_bytes: u64::MAX,
        spec: Some(TopicSpec::reliable()),
        positions: vec![position; 1_000],
    });
    let frame = encoded(&subscribe);
    assert!(frame.len() <= CONTROL_BYTES_MAX, "{} bytes", frame.len());
    assert_eq!(Control::decode(&frame), Ok(subscribe));
}

#[test]
fn the_largest_settle_fits_a_control_frame() {
    let verdict = Verdict {
        lease: [0xff; 16],
        offset: u64::MAX,
        attempt: u32::MAX,
        action: Action::Nack,
        delay_ms: u32::MAX,
        reason: "r".repeat(256),
    };
    let settle = Control::from(Settle { request: 1, member: 1, verdicts: vec![verdict; 1_000] });
    let frame = encoded(&settle);
    assert_eq!(frame.len(), 291_018, "`limits::CONTROL_BYTES_MAX` says so");
    assert!(frame.len() <= CONTROL_BYTES_MAX);
    assert_eq!(Control::decode(&frame), Ok(settle));
}

#[test]
fn the_name_of_a_group_is_refused_rather_than_changed() {
    let join = |group: &str| {
        Control::from(JoinQueue {
            request: 1,
            member: 1,
            topic: "orders".to_owned(),
            group: group.to_owned(),
            spec: None,
            settings: GroupSettings::default(),
        })
    };
    let what = "JoinQueue.group";
    let refused = |group: &str| join(group).try_encode(&mut Vec::new()).unwrap_err();
    assert_eq!(refused(&"g".repeat(65)), ControlError::TooLong { what, length: 65, length_max: 64 });
    assert_eq!(refused("a\nb"), ControlError::Character { what, character: '\n' });
    let mut frame = encoded(&join("a b"));
    let at = frame.windows(3).position(|bytes| bytes == b"a b").unwrap();
    frame[at + 1] = b'\n';
    assert_eq!(Control::decode(&frame), Err(ControlError::Character { what, character: '\n' }));
}

#[test]
fn a_spec_that_its_channel_does_not_allow_is_refused_by_the_first_bad_field() {
    let (fast, reliable) = (TopicSpec::fast(), TopicSpec::reliable());
    let specs = [
        (TopicSpec { mode: Mode::Unordered, storage: Storage::Disk, ..reliable }, 2),
        (TopicSpec { mode: Mode::Unordered, storage: Storage::Disk, last: Last::Key, ..fast }, 1),
        (TopicSpec { last: Last::Key, ..fast }, 2),
    ];
    for (spec, value) in specs {
        let declare = |spec| Control::from(Declare { request: 1, name: "a".to_owned(), spec });
        let refused = ControlError::Value { what: "Declare.spec", value };
        assert_eq!(declare(spec).try_encode(&mut Vec::new()).as_ref(), Err(&refused));
        let consistent =
            TopicSpec { mode: Mode::Ordered, storage: Storage::Memory, last: Last::None, ..spec };
        let mut frame = encoded(&declare(consistent));
        let at = PREFIX_BYTES + 4 + 2 + 1;
        frame[at + 1..at + 4].copy_from_slice(&[spec.mode as u8, spec.storage as u8, spec.last as u8]);
        assert_eq!(Control::decode(&frame), Err(refused));
    }
}

#[test]
fn secrets_are_not_printed() {
    for (name, control) in samples::controls() {
        let printed = format!("{control:?}");
        for secret in ["secret-of", "token\"", "115, 101, 99, 114", "116, 111, 107"] {
            assert!(!printed.contains(secret), "{name}: {printed}");
        }
    }
}
