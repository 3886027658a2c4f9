//! What a message may carry between its header and its payload, each marked by one flag bit.
//!
//! Options lie in the order of their bits and have fixed lengths, except the user headers, which come
//! last and fill the rest. Most messages have none; then nothing here runs.

use super::headers::Headers;
use super::{
    FLAG_CORRELATION, FLAG_DEADLINE, FLAG_HEADERS, FLAG_KEY, FLAG_REPLY_TO, FLAGS_KNOWN, FrameError,
};

/// Where the answer to a message should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    /// Server-wide number of the topic to publish the answer on.
    pub topic: u32,
    /// Number the answer carries as its correlation.
    pub correlation: u64,
}

/// The options of one message. The default has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options<'a> {
    /// Time the message may still spend in twinlane's queues, in microseconds.
    pub deadline_us: Option<u32>,
    /// Hash of the key that a `latest` topic keeps the newest message of.
    pub key: Option<u64>,
    /// Where the answer should go.
    pub reply_to: Option<ReplyTo>,
    /// The message answers the request with this number.
    pub correlation: Option<u64>,
    /// The user's own headers.
    pub headers: Option<Headers<'a>>,
}

impl<'a> Options<'a> {
    /// Bytes that [`Self::encode`] appends.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        fixed_bytes(self.flags()) + self.headers.map_or(0, |headers| headers.as_bytes().len())
    }

    /// The flag bits of a frame with these options.
    #[must_use]
    pub fn flags(&self) -> u8 {
        let bit = |present: bool, flag: u8| if present { flag } else { 0 };
        bit(self.deadline_us.is_some(), FLAG_DEADLINE)
            | bit(self.key.is_some(), FLAG_KEY)
            | bit(self.reply_to.is_some(), FLAG_REPLY_TO)
            | bit(self.correlation.is_some(), FLAG_CORRELATION)
            | bit(self.headers.is_some(), FLAG_HEADERS)
    }

    /// Appends the options as they lie in a frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        if let Some(deadline_us) = self.deadline_us {
            out.extend_from_slice(&deadline_us.to_le_bytes());
        }
        if let Some(key) = self.key {
            out.extend_from_slice(&key.to_le_bytes());
        }
        if let Some(ReplyTo { topic, correlation }) = self.reply_to {
            out.extend_from_slice(&topic.to_le_bytes());
            out.extend_from_slice(&correlation.to_le_bytes());
        }
        if let Some(correlation) = self.correlation {
            out.extend_from_slice(&correlation.to_le_bytes());
        }
        if let Some(headers) = self.headers {
            out.extend_from_slice(headers.as_bytes());
        }
    }

    /// Reads the options of a frame with these `flags`; `bytes` is all of them and nothing else.
    ///
    /// # Errors
    ///
    /// [`FrameError`] if flags and bytes do not fit together, or the user headers are malformed.
    pub fn decode(flags: u8, bytes: &'a [u8]) -> Result<Self, FrameError> {
        if !lengths_fit(flags, bytes.len()) {
            let frame_bytes = super::MESSAGE_HEADER_BYTES + bytes.len();
            return Err(FrameError::OptionsMismatch { options_bytes: bytes.len(), frame_bytes, flags });
        }
        let mut rest = bytes;
        let mut options = Self::default();
        if flags & FLAG_DEADLINE != 0 {
            options.deadline_us = split_array(&mut rest).map(u32::from_le_bytes);
        }
        if flags & FLAG_KEY != 0 {
            options.key = split_array(&mut rest).map(u64::from_le_bytes);
        }
        if flags & FLAG_REPLY_TO != 0 {
            let topic = split_array(&mut rest).map(u32::from_le_bytes);
            let correlation = split_array(&mut rest).map(u64::from_le_bytes);
            options.reply_to =
                topic.zip(correlation).map(|(topic, correlation)| ReplyTo { topic, correlation });
        }
        if flags & FLAG_CORRELATION != 0 {
            options.correlation = split_array(&mut rest).map(u64::from_le_bytes);
        }
        if flags & FLAG_HEADERS != 0 {
            options.headers = Some(Headers::parse(rest)?);
        }
        Ok(options)
    }
}

/// Whether options of `options_bytes` bytes can belong to `flags`. User headers are not looked into.
#[inline]
pub(super) fn lengths_fit(flags: u8, options_bytes: usize) -> bool {
    let fixed = fixed_bytes(flags);
    let known = flags & !FLAGS_KNOWN == 0;
    // The shortest user headers are their count.
    let fits = if flags & FLAG_HEADERS == 0 { options_bytes == fixed } else { options_bytes >= fixed + 2 };
    known && fits
}

/// Bytes of the options of fixed length.
#[inline]
fn fixed_bytes(flags: u8) -> usize {
    const BYTES: [usize; 4] = [4, 8, 12, 8];
    BYTES.iter().enumerate().map(|(bit, bytes)| usize::from(flags >> bit & 1) * bytes).sum()
}

fn split_array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (array, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*array)
}
