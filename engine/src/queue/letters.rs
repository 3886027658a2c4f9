//! Dead letters: messages that a group gave up, kept on a topic of their own with where they came from and why.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use twinlane_proto::frame::{
    FrameError, Headers, MessageHeader, MessageRef, Options, encode_headers, encode_message_head,
};
use twinlane_proto::limits::{HEADERS_BYTES_MAX, HEADERS_MAX};

use crate::topics::Topic;

/// A message that is to become a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dying {
    pub(super) offset: u64,
    pub(super) attempts: u32,
    pub(super) reason: String,
}

/// The topic for a group's dead letters, and its publisher stream there.
pub(super) struct Letters {
    pub(super) topic: Arc<Topic>,
    source: u32,
    last_seq: AtomicU64,
}

impl Letters {
    pub(super) fn new(topic: Arc<Topic>) -> Self {
        let source = topic.open_source();
        Self { topic, source, last_seq: AtomicU64::new(0) }
    }

    /// The dead letter of `message` as one frame: its payload, key and headers, and what became of it.
    pub(super) fn write(
        &self,
        from: &Topic,
        message: &MessageRef<'_>,
        dying: &Dying,
    ) -> Result<Vec<u8>, FrameError> {
        let (epoch, offset) = (from.meta.epoch.to_string(), dying.offset.to_string());
        let attempts = dying.attempts.to_string();
        let mut headers: Vec<(&str, &[u8])> = vec![
            ("twinlane-topic", from.meta.name.as_str().as_bytes()),
            ("twinlane-epoch", epoch.as_bytes()),
            ("twinlane-offset", offset.as_bytes()),
            ("twinlane-attempts", attempts.as_bytes()),
            ("twinlane-error", dying.reason.as_bytes()),
        ];
        let bytes = |(name, value): &(&str, &[u8])| 4 + name.len() + value.len();
        let mut left = HEADERS_BYTES_MAX - 2 - headers.iter().map(bytes).sum::<usize>();
        // Malformed headers of a publisher are not worth losing the letter for.
        let options = message.options().unwrap_or_else(|_| message.fixed_options());
        for header in options.headers.iter().flat_map(Headers::iter) {
            // A letter that died again tells of its last death.
            let is_ours = header.0.starts_with("twinlane-");
            if headers.len() == HEADERS_MAX || is_ours || bytes(&header) > left {
                continue;
            }
            left -= bytes(&header);
            headers.push(header);
        }
        let headers = encode_headers(&headers)?;
        let options =
            Options { key: options.key, headers: Some(Headers::parse(&headers)?), ..Options::default() };
        let header = MessageHeader {
            topic: self.topic.meta.id,
            source: self.source,
            seq: self.last_seq.fetch_add(1, Ordering::Relaxed) + 1,
            time_us: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64),
        };
        let mut frame = Vec::new();
        encode_message_head(&header, &options, message.payload().len(), &mut frame)?;
        frame.extend_from_slice(message.payload());
        Ok(frame)
    }
}

impl Drop for Letters {
    fn drop(&mut self) {
        self.topic.close_source(self.source, self.last_seq.load(Ordering::Relaxed));
    }
}
