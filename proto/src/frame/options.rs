//! What a message may carry between its header and its payload, each marked by one flag bit.
//!
//! Options lie in the order of their bits and have fixed lengths, except the user headers, which come
//! last, whatever their bit, and fill the rest. Most messages have none; then nothing here runs.

use super::headers::Headers;
use super::{
    FLAG_CORRELATION, FLAG_DEADLINE, FLAG_DUE, FLAG_HEADERS, FLAG_JOB, FLAG_KEY, FLAG_REPLY_TO, FLAGS_KNOWN,
    FrameError,
};
use crate::limits::HEADERS_BYTES_MAX;

/// Where the answer to a message should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    /// Server-wide number of the topic to publish the answer on.
    pub topic: u32,
    /// Number the answer carries as its correlation.
    pub correlation: u64,
}

/// Makes a message in a member's inbox the job it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// What the member settles it with.
    pub lease: [u8; 16],
    /// Offset of the message in the topic it was published on.
    pub offset: u64,
    /// Epoch of that topic.
    pub epoch: u64,
    /// Which hand-over of the message in its group this is, from 1.
    pub attempt: u32,
}

/// Bytes of a [`Job`] in a frame.
pub(super) const JOB_BYTES: usize = 36;

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
    /// The message is a job for a member of a queue group.
    pub job: Option<Job>,
    /// When queues may hand the message over, in microseconds. From a client: from now on. Stored, and from a
    /// server: Unix time by the server's clock.
    pub due_us: Option<u64>,
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
            | bit(self.job.is_some(), FLAG_JOB)
            | bit(self.due_us.is_some(), FLAG_DUE)
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
        if let Some(job) = self.job {
            job.encode(out);
        }
        if let Some(due_us) = self.due_us {
            out.extend_from_slice(&due_us.to_le_bytes());
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
        let mut options = Self::take_fixed(flags, &mut rest);
        if flags & FLAG_HEADERS != 0 {
            options.headers = Some(Headers::parse(rest)?);
        }
        Ok(options)
    }

    /// Takes the options of fixed length off the front of `rest`, which is long enough for `flags`.
    pub(super) fn take_fixed(flags: u8, rest: &mut &[u8]) -> Self {
        let mut options = Self::default();
        if flags & FLAG_DEADLINE != 0 {
            options.deadline_us = split_array(rest).map(u32::from_le_bytes);
        }
        if flags & FLAG_KEY != 0 {
            options.key = split_array(rest).map(u64::from_le_bytes);
        }
        if flags & FLAG_REPLY_TO != 0 {
            let topic = split_array(rest).map(u32::from_le_bytes);
            let correlation = split_array(rest).map(u64::from_le_bytes);
            options.reply_to =
                topic.zip(correlation).map(|(topic, correlation)| ReplyTo { topic, correlation });
        }
        if flags & FLAG_CORRELATION != 0 {
            options.correlation = split_array(rest).map(u64::from_le_bytes);
        }
        if flags & FLAG_JOB != 0 {
            options.job = Job::take(rest);
        }
        if flags & FLAG_DUE != 0 {
            options.due_us = split_array(rest).map(u64::from_le_bytes);
        }
        options
    }
}

impl Job {
    /// Appends the option as it lies in a frame.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.lease);
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.attempt.to_le_bytes());
    }

    fn take(rest: &mut &[u8]) -> Option<Self> {
        Some(Self {
            lease: split_array(rest)?,
            offset: split_array(rest).map(u64::from_le_bytes)?,
            epoch: split_array(rest).map(u64::from_le_bytes)?,
            attempt: split_array(rest).map(u32::from_le_bytes)?,
        })
    }
}

/// Whether options of `options_bytes` bytes can belong to `flags`. User headers are not looked into.
#[inline]
pub(super) fn lengths_fit(flags: u8, options_bytes: usize) -> bool {
    let fixed = fixed_bytes(flags);
    let known = flags & !FLAGS_KNOWN == 0;
    // The shortest user headers are their count; of what is longer than any, nothing could be made later on.
    let headers_bytes_max = if flags & FLAG_HEADERS == 0 { 0 } else { HEADERS_BYTES_MAX };
    let headers_bytes_min = headers_bytes_max.min(2);
    let fits = (fixed + headers_bytes_min..=fixed + headers_bytes_max).contains(&options_bytes);
    known && fits
}

/// Where the option of `flag` lies, counted from the first option, among those of a frame with `flags`. User headers
/// have a lower bit than some but lie behind all: they count as nothing.
pub(super) fn option_at(flags: u8, flag: u8) -> usize {
    fixed_bytes(flags & (flag - 1))
}

/// Bytes of the options of fixed length.
#[inline]
fn fixed_bytes(flags: u8) -> usize {
    FIXED_BYTES[usize::from(flags)].into()
}

/// [`fixed_bytes`] of all flags.
static FIXED_BYTES: [u8; 256] = {
    const BYTES: [u8; 8] = [4, 8, 12, 8, 0, JOB_BYTES as u8, 8, 0];
    let mut sums = [0; 256];
    let mut flags = 0;
    while flags < 256 {
        let mut bit = 0;
        while bit < 8 {
            sums[flags] += (flags >> bit & 1) as u8 * BYTES[bit];
            bit += 1;
        }
        flags += 1;
    }
    sums
};

fn split_array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (array, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*array)
}
