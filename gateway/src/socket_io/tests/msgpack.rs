//! Packets as MessagePack. The bytes in hexadecimal are what `notepack.io` 2.2 writes.

use super::super::{ATTACHMENTS_MAX, DEPTH_MAX};
use super::*;

fn hex(digits: &str) -> Data {
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("two digits");
    Data::Binary((0..digits.len()).step_by(2).map(byte).collect())
}

fn decoded(message: Data) -> Result<FromClient, DecodeError> {
    take(Parser::Msgpack, [message]).map(|said| said.expect("packets are whole"))
}

/// An event in `/` with these bytes as its data.
fn with_data(data: &[u8]) -> Result<FromClient, DecodeError> {
    let head = b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data";
    decoded(Data::Binary([head, data].concat().into()))
}

/// The JSON of `["a", value]`, where `value` is these bytes.
fn argument(value: &[u8]) -> Result<String, DecodeError> {
    let said = with_data(&[b"\x92\xa1a", value].concat())?;
    let FromClient::Event { payload, .. } = said else { panic!("{said:?}") };
    let json = std::str::from_utf8(&payload.json).unwrap();
    Ok(json.strip_prefix("[\"a\",").and_then(|json| json.strip_suffix(']')).unwrap().to_owned())
}

fn wrong(at: usize, what: &'static str) -> DecodeError {
    DecodeError::Msgpack { at, what }
}

#[test]
fn the_packets_of_the_official_parser_are_understood() {
    let connect = |namespace: &str, auth: Option<&'static str>| {
        Ok(FromClient::Connect { namespace: namespace.into(), auth: auth.map(Bytes::from) })
    };
    let with_auth = hex("83a47479706500a46461746181a5746f6b656ea161a36e7370a52f63686174");
    assert_eq!(decoded(with_auth), connect("/chat", Some(r#"{"token":"a"}"#)));
    let with_undefined = hex("83a47479706500a464617461d40000a36e7370a12f");
    assert_eq!(decoded(with_undefined), connect("/", None));
    let disconnect = FromClient::Disconnect { namespace: "/".into() };
    assert_eq!(decoded(hex("82a47479706501a36e7370a12f")), Ok(disconnect));
    let emitted = "85a47479706502a46461746198a2657601ffcb3ff8000000000000a2c3a9c0c381a16190\
        a76f7074696f6e7381a8636f6d7072657373c3a2696407a36e7370a12f";
    let json = r#"["ev",1,-1,1.5,"é",null,true,{"a":[]}]"#;
    assert_eq!(decoded(hex(emitted)), Ok(event("/", Some(7), payload(json, &[]))));
    let payload = payload("[]", &[]);
    let ack = FromClient::Ack { namespace: "/a".into(), ack: 3, payload };
    assert_eq!(decoded(hex("84a47479706503a46461746190a2696403a36e7370a22f61")), Ok(ack));
}

#[test]
fn bytes_become_attachments_that_share_the_messages_memory() {
    let message = hex(
        "84a47479706502a46461746193a162c403010203c702000405a76f7074696f6e7381a8636f6d7072657373c3a36e7370a12f",
    );
    let json = r#"["b",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#;
    let said = decoded(message.clone());
    assert_eq!(said, Ok(event("/", None, payload(json, &[&[1, 2, 3], &[4, 5]]))));
    let Ok(FromClient::Event { payload, .. }) = said else { unreachable!("just compared") };
    assert!(message.bytes().as_ptr_range().contains(&payload.attachments[0].as_ptr()));
}

#[test]
fn what_json_lacks_becomes_what_browsers_make_of_it() {
    let message = "83a47479706502a46461746198a164d7000000018df4dc5495d40000cb7ff8000000000000cb7ff0000000000000\
        d700ffffffffffffffffd700ffffc76e394a7400d700001eb208c2dc0000a36e7370a12f";
    let json = r#"["d","2024-02-29T12:34:56.789Z",null,null,null,"1969-12-31T23:59:59.999Z","-000001-01-01T00:00:00.000Z","+275760-09-13T00:00:00.000Z"]"#;
    assert_eq!(decoded(hex(message)), Ok(event("/", None, payload(json, &[]))));
    let date = |milliseconds: i64| argument(&[&[0xd7, 0], &milliseconds.to_be_bytes()[..]].concat());
    assert_eq!(date(-8_640_000_000_000_000).unwrap(), r#""-271821-04-20T00:00:00.000Z""#);
    assert_eq!(date(253_402_300_799_999).unwrap(), r#""9999-12-31T23:59:59.999Z""#);
    assert_eq!(date(-62_167_219_200_000).unwrap(), r#""0000-01-01T00:00:00.000Z""#);
    assert_eq!(date(8_640_000_000_000_001).unwrap(), "null");
    assert_eq!(date(i64::MIN).unwrap(), "null");
}

#[test]
fn numbers_of_every_form_keep_their_value() {
    let cases: [(&[u8], &str); 14] = [
        (&[0x7f], "127"),
        (&[0xe0], "-32"),
        (&[0xcc, 0xff], "255"),
        (&[0xcd, 0xff, 0xff], "65535"),
        (&[0xce, 0xff, 0xff, 0xff, 0xff], "4294967295"),
        (&[0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "18446744073709551615"),
        (&[0xd0, 0x80], "-128"),
        (&[0xd0, 0x05], "5"),
        (&[0xd1, 0x80, 0], "-32768"),
        (&[0xd2, 0x80, 0, 0, 0], "-2147483648"),
        (&[0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0], "-9223372036854775808"),
        (&[0xca, 0x3f, 0xc0, 0, 0], "1.5"),
        (&[0xca, 0xff, 0x80, 0, 0], "null"),
        (&[0xcb, 0x40, 0x09, 0x21, 0xfb, 0x54, 0x44, 0x2d, 0x18], "3.141592653589793"),
    ];
    for (bytes, json) in cases {
        assert_eq!(argument(bytes).as_deref(), Ok(json), "{bytes:02x?}");
    }
}

#[test]
fn texts_of_every_form_are_escaped() {
    let texts: [&[u8]; 4] =
        [b"\xa4\"\\\x1e\n", b"\xd9\x04\"\\\x1e\n", b"\xda\0\x04\"\\\x1e\n", b"\xdb\0\0\0\x04\"\\\x1e\n"];
    for bytes in texts {
        assert_eq!(argument(bytes).as_deref(), Ok(r#""\"\\\u001e\n""#));
    }
    assert_eq!(argument(b"\xa1\xff"), Err(DecodeError::NotUtf8 { valid_bytes: 0 }));
}

#[test]
fn a_length_that_is_not_there_is_refused_and_reserves_nothing() {
    const EARLY: &str = "the message ends before the value does";
    for value in [
        &[0xdb, 0xff, 0xff, 0xff, 0xff][..],
        &[0xc6, 0xff, 0xff, 0xff, 0xff],
        &[0xdd, 0xff, 0xff, 0xff, 0xff],
        &[0xdf, 0xff, 0xff, 0xff, 0xff],
        &[0xc9, 0xff, 0xff, 0xff, 0xff, 0],
        &[0xcb, 0],
        &[0xa1],
        &[0xd4, 0],
        &[0x91],
        &[],
    ] {
        let error = argument(value).unwrap_err();
        assert!(matches!(error, DecodeError::Msgpack { what: EARLY, .. }), "{value:02x?}: {error}");
    }
    let nested = [0xdd, 0xff, 0xff, 0xff, 0xff].repeat(10_000);
    assert!(matches!(argument(&nested), Err(DecodeError::Msgpack { what: EARLY, .. })));
}

#[test]
fn extensions_and_markers_that_mean_nothing_are_refused() {
    const UNKNOWN: &str = "an extension that JSON has nothing for: send a text or bytes";
    for value in [
        &[0xd6, 0xff, 0, 0, 0, 0][..],
        &[0xd7, 0xff, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0xd5, 0, 0, 0],
        &[0xd8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0xc7, 1, 5, 0],
        &[0xd4, 1, 0],
    ] {
        let error = argument(value).unwrap_err();
        assert!(matches!(error, DecodeError::Msgpack { what: UNKNOWN, .. }), "{value:02x?}: {error}");
    }
    assert_eq!(argument(&[0xc1]), Err(wrong(22, "0xc1 means nothing")));
}

#[test]
fn nothing_follows_after_a_packet_and_keys_are_texts() {
    let after = hex("82a47479706501a36e7370a12f00");
    assert_eq!(decoded(after), Err(wrong(13, "bytes follow after the packet")));
    assert_eq!(argument(&[0x81, 1, 2]), Err(wrong(23, "a key is not a text")));
    assert_eq!(decoded(hex("810102")), Err(wrong(2, "a key is not a text")));
    assert_eq!(decoded(hex("90")), Err(wrong(1, "a packet is a map")));
    assert_eq!(decoded(hex("")), Err(wrong(0, "the message ends before the value does")));
}

#[test]
fn a_packet_has_a_type_a_namespace_and_the_data_of_its_type() {
    let packet = |fields: &[u8]| decoded(Data::Binary(fields.to_vec().into()));
    assert_eq!(packet(b"\x81\xa3nsp\xa1/"), Err(DecodeError::UnknownType));
    assert_eq!(packet(b"\x82\xa3nsp\xa1/\xa4type\x07"), Err(DecodeError::UnknownType));
    assert_eq!(packet(b"\x82\xa3nsp\xa1/\xa4type\xa10"), Err(DecodeError::UnknownType));
    assert_eq!(packet(b"\x82\xa3nsp\xa1/\xa4type\x04"), Err(DecodeError::ConnectError));
    assert_eq!(packet(b"\x81\xa4type\x01"), Err(wrong(7, "a packet has a namespace, `nsp`")));
    assert_eq!(packet(b"\x82\xa3nsp\x01\xa4type\x01"), Err(wrong(5, "a namespace is a text")));
    assert_eq!(packet(b"\x82\xa3nsp\xa1a\xa4type\x01"), Err(DecodeError::Namespace { bytes_max: 255 }));
    let kinds = [(0, "CONNECT"), (1, "DISCONNECT"), (2, "EVENT"), (3, "ACK")];
    for (kind, name) in kinds {
        let fields = [b"\x84\xa3nsp\xa1/\xa2id\x01\xa4data\xa1a\xa4type", &[kind][..]].concat();
        assert_eq!(packet(&fields), Err(super::super::wrong_data(name)));
    }
    assert_eq!(packet(b"\x83\xa3nsp\xa1/\xa4type\x03\xa4data\x90"), Err(DecodeError::AckNumber));
    assert_eq!(packet(b"\x83\xa3nsp\xa1/\xa4type\x03\xa2id\xff"), Err(DecodeError::AckNumber));
    assert_eq!(
        packet(b"\x83\xa3nsp\xa1/\xa4type\x00\xa4data\x81\xa1a\xc4\x00"),
        Err(DecodeError::Placeholder)
    );
}

#[test]
fn an_event_begins_with_a_name_that_is_not_reserved() {
    for data in [&b"\x90"[..], b"\x91\xc0", b"\x91\xc3", b"\x91\x90", b"\x91\xcb\x7f\xf8\0\0\0\0\0\0"] {
        assert_eq!(with_data(data), Err(super::super::wrong_data("EVENT")), "{data:02x?}");
    }
    assert_eq!(with_data(b"\x91\xa7connect"), Err(DecodeError::Reserved("connect")));
    assert_eq!(with_data(b"\x91\x05"), Ok(event("/", None, payload("[5]", &[]))));
}

#[test]
fn nobody_makes_a_placeholder_by_hand() {
    assert_eq!(argument(b"\x82\xac_placeholder\xc3\xa3num\x00"), Err(DecodeError::Placeholder));
    let harmless = r#"{"_placeholder":false,"num":0}"#;
    assert_eq!(argument(b"\x82\xac_placeholder\xc2\xa3num\x00").as_deref(), Ok(harmless));
}

#[test]
fn depth_attachments_and_bytes_are_limited() {
    let nested = |depth: usize| argument(&[vec![0x91; depth - 2], vec![0x90]].concat());
    assert!(nested(DEPTH_MAX).is_ok());
    assert_eq!(nested(DEPTH_MAX + 1), Err(DecodeError::TooDeep { depth_max: 64 }));
    assert_eq!(nested(500_000), Err(DecodeError::TooDeep { depth_max: 64 }));
    let attached = |count: usize| argument(&[&[0xdc, 0, count as u8], &[0xc4, 0].repeat(count)[..]].concat());
    assert!(attached(ATTACHMENTS_MAX).is_ok());
    assert_eq!(attached(ATTACHMENTS_MAX + 1), Err(DecodeError::Attachments { attachments_max: 64 }));
    let controls = [b"\xdb\x00\x04\x00\x00", &[0; 0x4_0000][..]].concat();
    assert!(matches!(argument(&controls), Err(DecodeError::TooLarge { bytes_max: 0x10_0000, .. })));
}

#[test]
fn text_is_refused_where_messagepack_is_spoken() {
    assert_eq!(decoded(text("0")), Err(DecodeError::NotMsgpack));
}
