//! Any message frame and any user headers: reading and writing are inverse.

use twinlane_proto::frame::{Frames, Headers, MessageRef, encode_end, encode_headers, encode_message_head};

/// The whole of `data` is taken as user headers, as one frame, and as frames back to back.
pub(crate) fn check(data: &[u8]) {
    check_headers(data);
    check_frame(data);
    let mut frames = Frames::new(data);
    let bytes: usize = frames.by_ref().map(|message| message.frame_bytes()).sum();
    assert_eq!(bytes + frames.rest().len(), data.len());
}

fn check_headers(data: &[u8]) {
    let Ok(headers) = Headers::parse(data) else { return };
    let list: Vec<(&str, &[u8])> = headers.iter().collect();
    assert_eq!(encode_headers(&list).expect("headers that were read"), data);
    for (name, _) in list {
        assert!(headers.value(name).is_some());
    }
}

fn check_frame(data: &[u8]) {
    let Ok(message) = MessageRef::parse(data) else { return };
    assert_eq!(message.payload(), &data[message.payload_range()]);
    if message.is_end() {
        assert_eq!(encode_end(&message.header()), data);
        return;
    }
    let Ok(options) = message.options() else { return };
    assert_eq!(options.flags(), message.flags());
    let mut encoded = Vec::new();
    encode_message_head(&message.header(), &options, message.payload().len(), &mut encoded)
        .expect("it fitted");
    assert_eq!(encoded.len(), message.payload_range().start);
    encoded.extend_from_slice(message.payload());
    assert_eq!(encoded, data, "a message has one encoding");
}
