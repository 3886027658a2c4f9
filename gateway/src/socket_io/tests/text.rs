//! Packets as text.

use super::super::{ATTACHMENTS_MAX, DEPTH_MAX, NAMESPACE_BYTES_MAX};
use super::*;

fn decoded(packet: &str) -> Result<FromClient, DecodeError> {
    take(Parser::Json, [text(packet)]).map(|said| said.expect("no attachment is missing"))
}

fn wrong(kind: &'static str) -> DecodeError {
    super::super::wrong_data(kind)
}

#[test]
fn a_client_connects_with_or_without_credentials() {
    let connect = |namespace: &str, auth: Option<&'static str>| {
        Ok(FromClient::Connect { namespace: namespace.into(), auth: auth.map(Bytes::from) })
    };
    assert_eq!(decoded("0"), connect("/", None));
    assert_eq!(decoded("0/admin"), connect("/admin", None));
    assert_eq!(decoded("0/admin,"), connect("/admin", None));
    assert_eq!(decoded(r#"0{"token":"123"}"#), connect("/", Some(r#"{"token":"123"}"#)));
    assert_eq!(decoded(r#"0/admin,{"a":[]}"#), connect("/admin", Some(r#"{"a":[]}"#)));
    assert_eq!(decoded("0[]"), Err(wrong("CONNECT")));
    assert_eq!(decoded("0\"a\""), Err(wrong("CONNECT")));
    assert_eq!(decoded("07"), Err(wrong("CONNECT")));
    assert_eq!(decoded("0{"), Err(DecodeError::NotJson { line: 1, column: 1 }));
}

#[test]
fn a_client_leaves_a_namespace() {
    let disconnect = |namespace: &str| Ok(FromClient::Disconnect { namespace: namespace.into() });
    assert_eq!(decoded("1"), disconnect("/"));
    assert_eq!(decoded("1/admin,"), disconnect("/admin"));
    assert_eq!(decoded("1{}"), Err(wrong("DISCONNECT")));
}

#[test]
fn an_event_has_a_name_and_arguments_and_perhaps_a_number() {
    assert_eq!(decoded(r#"2["hey"]"#), Ok(event("/", None, payload(r#"["hey"]"#, &[]))));
    let json = r#"["project:delete",123,{"a":[1.0,"b"]}]"#;
    assert_eq!(decoded(&format!("2/admin,456{json}")), Ok(event("/admin", Some(456), payload(json, &[]))));
    assert_eq!(decoded("20[12]"), Ok(event("/", Some(0), payload("[12]", &[]))));
    assert_eq!(decoded("2[-1.5]"), Ok(event("/", None, payload("[-1.5]", &[]))));
}

#[test]
fn an_acknowledgement_has_a_number_and_arguments() {
    let ack = |namespace: &str, ack, json| {
        Ok(FromClient::Ack { namespace: namespace.into(), ack, payload: payload(json, &[]) })
    };
    assert_eq!(decoded("3/admin,456[]"), ack("/admin", 456, "[]"));
    assert_eq!(decoded("39007199254740991[null]"), ack("/", 9_007_199_254_740_991, "[null]"));
    assert_eq!(decoded("3[]"), Err(DecodeError::AckNumber));
    assert_eq!(decoded("31{}"), Err(wrong("ACK")));
    assert_eq!(decoded("31"), Err(wrong("ACK")));
}

#[test]
fn a_payload_shares_the_memory_of_its_message() {
    let message = Bytes::from_static(br#"2/a,1["ev",{}]"#);
    let said = take(Parser::Json, [Data::Text(message.clone())]);
    let Ok(Some(FromClient::Event { payload, .. })) = said else { panic!("{said:?}") };
    assert_eq!(payload.json.as_ptr(), message[5..].as_ptr());
}

#[test]
fn attachments_are_waited_for() {
    let json = r#"["a",{"_placeholder":true,"num":1},{"b":{"num":0,"_placeholder":true}}]"#;
    let packet = text(&format!("52-/admin,7{json}"));
    let said = take(Parser::Json, [packet.clone(), binary(&[1]), binary(&[])]);
    assert_eq!(said, Ok(Some(event("/admin", Some(7), payload(json, &[&[1], &[]])))));
    assert_eq!(take(Parser::Json, [packet.clone(), binary(&[1])]), Ok(None));
    let json = r#"[{"_placeholder":true,"num":0}]"#;
    let said = take(Parser::Json, [text(&format!("61-7{json}")), binary(&[1])]);
    let payload = payload(json, &[&[1]]);
    assert_eq!(said, Ok(Some(FromClient::Ack { namespace: "/".into(), ack: 7, payload })));
    let said = take(Parser::Json, [packet, text("1")]);
    assert_eq!(said, Err(DecodeError::AttachmentsMissing { missing: 2 }));
    assert_eq!(take(Parser::Json, [binary(&[1])]), Err(DecodeError::NoPacketForAttachment));
}

#[test]
fn the_number_of_attachments_is_from_1_to_64() {
    let names = (0..ATTACHMENTS_MAX).map(|number| format!(r#",{{"_placeholder":true,"num":{number}}}"#));
    let most = format!(r#"564-["a"{}]"#, names.collect::<String>());
    let messages = [text(&most)].into_iter().chain((0..ATTACHMENTS_MAX).map(|_| binary(&[])));
    assert!(matches!(take(Parser::Json, messages), Ok(Some(FromClient::Event { .. }))));
    for packet in [
        r#"5["a"]"#,
        r#"50-["a"]"#,
        r#"565-["a"]"#,
        r#"51["a"]"#,
        r#"5-1-["a"]"#,
        r#"51.5-["a"]"#,
        "51",
        "5",
        r#"599999999999999999999-["a"]"#,
    ] {
        assert_eq!(decoded(packet), Err(DecodeError::Attachments { attachments_max: 64 }), "{packet}");
    }
}

#[test]
fn each_attachment_has_one_placeholder() {
    let held = r#"{"_placeholder":true,"num":0}"#;
    for arguments in [
        String::new(),
        format!("{held},{held}"),
        r#"{"_placeholder":true,"num":1}"#.into(),
        r#"{"_placeholder":true,"num":-1}"#.into(),
        r#"{"_placeholder":true,"num":0.0}"#.into(),
        r#"{"_placeholder":true,"num":"0"}"#.into(),
        r#"{"_placeholder":true,"num":18446744073709551616}"#.into(),
        r#"{"_placeholder":true}"#.into(),
        r#"{"_placeholder":true,"num":0,"more":1}"#.into(),
        r#"{"_placeholder":true,"num":0,"num":0}"#.into(),
        r#"{"_placeholder":1,"num":0}"#.into(),
        r#"[["_placeholder",true,"num",0]]"#.into(),
        format!(r#"{held},{{"\u005fplaceholder":true,"num":1}}"#),
    ] {
        let comma = if arguments.is_empty() { "" } else { "," };
        let packet = format!(r#"51-["a"{comma}{arguments}]"#);
        assert_eq!(take(Parser::Json, [text(&packet)]), Err(DecodeError::Placeholder), "{packet}");
    }
    assert_eq!(decoded(&format!(r#"2["a",{held}]"#)), Err(DecodeError::Placeholder));
    assert_eq!(decoded(&format!("31[{held}]")), Err(DecodeError::Placeholder));
    let harmless = r#"["_placeholder",{"_placeholder":false,"num":0},{"a":"_placeholder"}]"#;
    assert_eq!(decoded(&format!("2{harmless}")), Ok(event("/", None, payload(harmless, &[]))));
    let escaped = r#"["a",{"\u005fplaceholder" : true , "n\u0075m": 0 }]"#;
    let said = take(Parser::Json, [text(&format!("51-{escaped}")), binary(&[1])]);
    assert_eq!(said, Ok(Some(event("/", None, payload(escaped, &[&[1]])))));
}

#[test]
fn an_event_is_an_array_that_begins_with_a_name() {
    for data in ["", "{}", "\"a\"", "[]", "[null]", "[true]", "[[\"a\"]]", "[{\"a\":1}]", " [\"a\"]"] {
        assert_eq!(decoded(&format!("2{data}")), Err(wrong("EVENT")), "{data}");
    }
    for data in ["[\"a\"", "[\"a\"]]", "[\"a\",]", "[\"a\",01]", "[\"a\n\"]", "[\"a\",nul]", "[\"\\x\"]"] {
        assert!(matches!(decoded(&format!("2{data}")), Err(DecodeError::NotJson { .. })), "{data}");
    }
}

#[test]
fn names_of_the_library_itself_are_reserved_however_they_are_written() {
    for name in ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"] {
        assert_eq!(decoded(&format!("2[\"{name}\",1]")), Err(DecodeError::Reserved(name)));
    }
    assert_eq!(decoded(r#"2["c\u006fnnect"]"#), Err(DecodeError::Reserved("connect")));
    assert!(decoded(r#"2["connected"]"#).is_ok());
    assert!(decoded(r#"31["connect"]"#).is_ok());
}

#[test]
fn data_is_at_most_64_deep() {
    let nested = |depth: usize| format!("[\"{{[[\\\"\",{}{}]", "[".repeat(depth - 1), "]".repeat(depth - 1));
    assert!(decoded(&format!("2{}", nested(DEPTH_MAX))).is_ok());
    assert_eq!(decoded(&format!("2{}", nested(DEPTH_MAX + 1))), Err(DecodeError::TooDeep { depth_max: 64 }));
    assert_eq!(decoded(&format!("31{}", nested(100_000))), Err(DecodeError::TooDeep { depth_max: 64 }));
    let wide = format!("2[\"a\"{}]", ",{}".repeat(1_000));
    assert!(decoded(&wide).is_ok());
    let auth = format!("0{}{}", "{\"a\":".repeat(64), "1".to_owned() + &"}".repeat(64));
    assert!(decoded(&auth).is_ok());
    assert_eq!(decoded(&auth.replace('1', "[]")), Err(DecodeError::TooDeep { depth_max: 64 }));
}

#[test]
fn what_browsers_send_for_half_an_emoji_is_let_through() {
    let json = r#"["a","\ud83d","\ude00\u0000"]"#;
    assert_eq!(decoded(&format!("2{json}")), Ok(event("/", None, payload(json, &[]))));
    assert!(decoded(r#"31[{"\ud83d":"\ud83d"}]"#).is_ok());
    assert!(decoded(r#"0{"\ud83d":"\ud83d"}"#).is_ok());
}

#[test]
fn packets_of_no_type_or_of_servers_are_refused() {
    assert_eq!(decoded(""), Err(DecodeError::UnknownType));
    assert_eq!(decoded("7"), Err(DecodeError::UnknownType));
    assert_eq!(decoded("abc"), Err(DecodeError::UnknownType));
    assert_eq!(decoded("4{\"message\":\"no\"}"), Err(DecodeError::ConnectError));
    let said = take(Parser::Json, [Data::Text(Bytes::from_static(b"2[\"\xff\"]"))]);
    assert_eq!(said, Err(DecodeError::NotUtf8 { valid_bytes: 3 }));
}

#[test]
fn numbers_above_what_javascript_counts_to_are_refused() {
    for number in ["9007199254740992", "18446744073709551616", "99999999999999999999999999"] {
        assert_eq!(decoded(&format!("2{number}[\"a\"]")), Err(DecodeError::AckNumber));
        assert_eq!(decoded(&format!("3{number}[]")), Err(DecodeError::AckNumber));
    }
}

#[test]
fn a_namespace_has_a_limited_name_without_control_characters() {
    let longest = format!("/{}", "a".repeat(NAMESPACE_BYTES_MAX - 1));
    assert!(decoded(&format!("0{longest},")).is_ok());
    for name in [format!("{longest}a"), "/a\u{1e}b".into(), "/\n".into(), "/\u{85}".into(), "/\0".into()] {
        assert_eq!(decoded(&format!("0{name},")), Err(DecodeError::Namespace { bytes_max: 255 }), "{name:?}");
    }
}

#[test]
fn a_packet_is_limited_with_its_attachments() {
    let mut decoder = Decoder::new(Parser::Json, Limits { packet_bytes_max: 50 });
    let refused = Err(DecodeError::TooLarge { bytes: 51, bytes_max: 50 });
    assert_eq!(decoder.take(text(&format!("2[\"{}\"]", "a".repeat(46)))), refused);
    let packet = r#"51-["a",{"_placeholder":true,"num":0}]"#;
    assert_eq!(decoder.take(text(packet)), Ok(None));
    assert_eq!(decoder.take(binary(&vec![0; 51 - packet.len()])), refused);
}
