//! What clients are told.

use std::sync::Arc;

use bytes::BytesMut;
use proptest::prelude::*;
use twinlane::events::peer::ToClient;
use twinlane::events::{Burst, Outgoing};

use super::super::{Encoder, Framing, encode};
use super::*;
use crate::engine_io::{Packet, payload as body, stream};

fn burst(namespace: &str, events: Vec<(Option<u64>, Payload)>) -> ToClient {
    let outgoing = |(ack, payload)| Outgoing { payload, ack, volatile: false, compress: false };
    let events = events.into_iter().map(outgoing).collect();
    ToClient::Burst(Arc::new(Burst::new(namespace.into(), events)))
}

fn messages(parser: Parser, told: &ToClient) -> Vec<Data> {
    let mut messages = Vec::new();
    encode(parser, told, &mut messages);
    messages
}

fn two_events() -> ToClient {
    let picture = payload(r#"["b",{"_placeholder":true,"num":0}]"#, &[&[1, 2, 3, 4]]);
    burst("/chat", vec![(None, payload(r#"["a",1]"#, &[])), (Some(12), picture)])
}

fn framed(framing: Framing, parser: Parser, told: &ToClient) -> Bytes {
    let mut chunks = Vec::new();
    Encoder { framing, parser }.encode(told, &mut chunks);
    assert_eq!(chunks.len(), 1);
    chunks.remove(0)
}

#[test]
fn everything_that_clients_are_told_is_a_packet() {
    let namespace: Arc<str> = "/chat".into();
    let connected = |pid: Option<&str>| ToClient::Connected {
        namespace: "/".into(),
        sid: "s\"".into(),
        pid: pid.map(Into::into),
    };
    let refused =
        ToClient::Refused { namespace: namespace.clone(), error: Bytes::from_static(br#"{"message":"no"}"#) };
    let ack = ToClient::Ack { namespace: namespace.clone(), ack: 456, payload: payload("[]", &[]) };
    let with_bytes = payload(r#"[{"_placeholder":true,"num":0}]"#, &[&[9]]);
    let binary_ack = ToClient::Ack { namespace: "/".into(), ack: 0, payload: with_bytes };
    let cases = [
        (connected(None), vec![text(r#"0{"sid":"s\""}"#)]),
        (connected(Some("p")), vec![text(r#"0{"sid":"s\"","pid":"p"}"#)]),
        (refused, vec![text(r#"4/chat,{"message":"no"}"#)]),
        (ack, vec![text("3/chat,456[]")]),
        (binary_ack, vec![text(r#"61-0[{"_placeholder":true,"num":0}]"#), binary(&[9])]),
        (ToClient::Disconnect { namespace }, vec![text("1/chat,")]),
        (
            two_events(),
            vec![
                text(r#"2/chat,["a",1]"#),
                text(r#"51-/chat,12["b",{"_placeholder":true,"num":0}]"#),
                binary(&[1, 2, 3, 4]),
            ],
        ),
    ];
    for (told, expected) in cases {
        assert_eq!(messages(Parser::Json, &told), expected, "{told:?}");
    }
}

#[test]
fn messagepack_packets_are_what_the_official_parser_reads() {
    let told = [
        (
            ToClient::Connected { namespace: "/".into(), sid: "s".into(), pid: None },
            &b"\x83\xa4type\x00\xa4data\x81\xa3sid\xa1s\xa3nsp\xa1/"[..],
        ),
        (ToClient::Disconnect { namespace: "/a".into() }, b"\x82\xa4type\x01\xa3nsp\xa2/a"),
        (
            burst("/", vec![(Some(7), payload(r#"["e",{"_placeholder":true,"num":0},[ ]]"#, &[&[5]]))]),
            b"\x84\xa4type\x02\xa4data\x93\xa1e\xc4\x01\x05\x90\xa2id\x07\xa3nsp\xa1/",
        ),
        (
            ToClient::Refused {
                namespace: "/".into(),
                error: Bytes::from_static(br#"{"message":"\u00e9"}"#),
            },
            b"\x83\xa4type\x04\xa4data\x81\xa7message\xa2\xc3\xa9\xa3nsp\xa1/",
        ),
    ];
    for (told, expected) in told {
        assert_eq!(messages(Parser::Msgpack, &told), [binary(expected)]);
    }
}

#[test]
fn a_burst_is_ready_for_each_transport() {
    let told = two_events();
    let second = r#"451-/chat,12["b",{"_placeholder":true,"num":0}]"#;
    let first = r#"42/chat,["a",1]"#;
    let lengths = [first.len() as u8, second.len() as u8];
    let websocket = [
        &[0x81, lengths[0]][..],
        first.as_bytes(),
        &[0x81, lengths[1]],
        second.as_bytes(),
        &[0x82, 4, 1, 2, 3, 4],
    ];
    assert_eq!(framed(Framing::WebSocket, Parser::Json, &told), websocket.concat());
    let polling = format!("{first}\u{1e}{second}\u{1e}bAQIDBA==");
    assert_eq!(framed(Framing::Polling, Parser::Json, &told), polling);
    let web_transport =
        [&[lengths[0]][..], first.as_bytes(), &[lengths[1]], second.as_bytes(), &[0x84, 1, 2, 3, 4]];
    assert_eq!(framed(Framing::WebTransport, Parser::Json, &told), web_transport.concat());
}

#[test]
fn a_burst_is_written_once_for_all_clients_of_a_kind() {
    let told = two_events();
    for (framing, parser) in [
        (Framing::WebSocket, Parser::Json),
        (Framing::Polling, Parser::Json),
        (Framing::WebTransport, Parser::Json),
        (Framing::WebSocket, Parser::Msgpack),
        (Framing::Polling, Parser::Msgpack),
    ] {
        let (one, other) = (framed(framing, parser, &told), framed(framing, parser, &told));
        assert_eq!(one.as_ptr(), other.as_ptr());
    }
}

#[test]
fn both_parsers_survive_the_way_through_each_transport() {
    let told = two_events();
    for parser in [Parser::Json, Parser::Msgpack] {
        let expected: Vec<_> = messages(parser, &told).into_iter().map(Packet::Message).collect();
        let polled: Result<Vec<_>, _> =
            body::decode(framed(Framing::Polling, parser, &told), body::Limits::default()).collect();
        assert_eq!(polled.as_ref(), Ok(&expected));
        let mut received = BytesMut::from(framed(Framing::WebTransport, parser, &told));
        let decoder = stream::Decoder::new(1_000);
        let streamed: Vec<_> =
            std::iter::from_fn(|| decoder.decode(&mut received).expect("packets")).collect();
        assert_eq!(streamed, expected);
    }
}

#[test]
fn closing_says_nothing_here() {
    let close = ToClient::Close(twinlane::events::DisconnectReason::TransportClose);
    let mut chunks = Vec::new();
    Encoder { framing: Framing::WebSocket, parser: Parser::Json }.encode(&close, &mut chunks);
    assert!(chunks.is_empty());
    assert!(messages(Parser::Json, &close).is_empty());
}

#[test]
fn half_an_emoji_is_one_replacement_character_in_messagepack() {
    let told = burst("/", vec![(None, payload(r#"["a\ud83db","\ud83d\ude00","\ude00\ud83d"]"#, &[]))]);
    let json = r#"["a\u{fffd}b","😀","\u{fffd}\u{fffd}"]"#.replace("\\u{fffd}", "\u{fffd}");
    let said = take(Parser::Msgpack, messages(Parser::Msgpack, &told));
    assert_eq!(said, Ok(Some(event("/", None, payload(&json, &[])))));
}

#[test]
fn a_payload_that_is_no_json_harms_nobody_but_its_reader() {
    for json in ["", "[", "]]", "{\"a\"", "[\"\\\"", "\"", "[1,,", "tru", "{\"\\q\":}"] {
        messages(Parser::Msgpack, &burst("/", vec![(None, payload(json, &[]))]));
    }
    let not_utf_8 = Payload { json: Bytes::from_static(b"[\"\xff\"]"), attachments: Vec::new() };
    messages(Parser::Msgpack, &burst("/", vec![(None, not_utf_8)]));
}

/// Any JSON, with texts and keys of every kind.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<i8>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
        "[a-z\"\\\\\\x00-\\x20é€😀]{0,40}".prop_map(Into::into),
    ];
    leaf.prop_recursive(5, 40, 10, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..20).prop_map(Into::into),
            prop::collection::btree_map(any::<String>(), inner, 0..20)
                .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn json_survives_the_way_through_messagepack(arguments in prop::collection::vec(json(), 0..5)) {
        let mut data = vec![serde_json::Value::from("name")];
        data.extend(arguments);
        let sent = payload(&serde_json::to_string(&data).unwrap(), &[]);
        let message = messages(Parser::Msgpack, &burst("/", vec![(Some(3), sent.clone())]));
        prop_assert_eq!(take(Parser::Msgpack, message), Ok(Some(event("/", Some(3), sent))));
    }

    #[test]
    fn attachments_survive_the_way_through_both_parsers(
        attachments in prop::collection::vec((any::<u8>(), 0..70_000_usize), 0..5)
    ) {
        let attachments: Vec<_> = attachments.into_iter().map(|(byte, bytes)| vec![byte; bytes]).collect();
        let held = (0..attachments.len()).map(|number| format!(r#",{{"a":[{{"_placeholder":true,"num":{number}}}]}}"#));
        let attachments: Vec<_> = attachments.iter().map(Vec::as_slice).collect();
        let sent = payload(&format!("[\"name\"{}]", held.collect::<String>()), &attachments);
        for parser in [Parser::Json, Parser::Msgpack] {
            let message = messages(parser, &burst("/a", vec![(None, sent.clone())]));
            prop_assert_eq!(take(parser, message), Ok(Some(event("/a", None, sent.clone()))));
        }
    }
}
