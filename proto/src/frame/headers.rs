//! User headers of a message: a short list of names and values that twinlane carries and never reads.
//!
//! Layout: `u16` count, then for each header `u16` length and name, `u16` length and value. Names are
//! not unique; order is kept.

use super::FrameError;
use crate::limits::{HEADER_NAME_BYTES_MAX, HEADERS_BYTES_MAX, HEADERS_MAX};

/// User headers that were checked: every name and value can be read without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<'a> {
    bytes: &'a [u8],
}

impl<'a> Headers<'a> {
    /// Checks encoded user headers; `bytes` is all of them and nothing else.
    ///
    /// # Errors
    ///
    /// Too many, too large, a bad name, or bytes missing or left over: [`FrameError`] says which.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FrameError> {
        if bytes.len() > HEADERS_BYTES_MAX {
            return Err(FrameError::HeadersTooLarge { bytes: bytes.len(), bytes_max: HEADERS_BYTES_MAX });
        }
        let mismatch = FrameError::HeadersMismatch { bytes: bytes.len() };
        let Some((count, mut rest)) = split_u16(bytes) else { return Err(mismatch) };
        if count > HEADERS_MAX {
            return Err(FrameError::TooManyHeaders { headers: count, headers_max: HEADERS_MAX });
        }
        for index in 0..count {
            let Some((name, after_name)) = split_counted(rest) else { return Err(mismatch) };
            check_name(index, name)?;
            let Some((_, after_value)) = split_counted(after_name) else { return Err(mismatch) };
            rest = after_value;
        }
        if rest.is_empty() { Ok(Self { bytes }) } else { Err(mismatch) }
    }

    /// The headers in their order.
    #[must_use]
    pub fn iter(&self) -> HeadersIter<'a> {
        let (left, rest) = split_u16(self.bytes).unwrap_or((0, &[]));
        HeadersIter { left, rest }
    }

    /// The value of the first header with this name.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&'a [u8]> {
        self.iter().find_map(|(candidate, value)| (candidate == name).then_some(value))
    }

    /// The headers as they lie in a frame.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

impl<'a> IntoIterator for Headers<'a> {
    type Item = (&'a str, &'a [u8]);
    type IntoIter = HeadersIter<'a>;

    fn into_iter(self) -> HeadersIter<'a> {
        self.iter()
    }
}

/// The names and values of [`Headers`], in their order.
#[derive(Clone, Debug)]
pub struct HeadersIter<'a> {
    left: usize,
    rest: &'a [u8],
}

impl<'a> Iterator for HeadersIter<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let (name, rest) = split_counted(self.rest)?;
        let (value, rest) = split_counted(rest)?;
        self.rest = rest;
        Some((std::str::from_utf8(name).ok()?, value))
    }
}

/// Encodes user headers; [`Headers::parse`] the result to put them in [`Options`](super::Options).
///
/// # Errors
///
/// Too many, too large, or a bad name: [`FrameError`] says which.
///
/// ```
/// use twinlane_proto::frame::{Headers, Options, encode_headers};
///
/// let encoded = encode_headers(&[("trace", b"7f3a")])?;
/// let options = Options { headers: Some(Headers::parse(&encoded)?), ..Options::default() };
/// assert_eq!(options.headers.unwrap().value("trace"), Some(&b"7f3a"[..]));
/// # Ok::<(), twinlane_proto::FrameError>(())
/// ```
pub fn encode_headers(headers: &[(&str, &[u8])]) -> Result<Vec<u8>, FrameError> {
    if headers.len() > HEADERS_MAX {
        return Err(FrameError::TooManyHeaders { headers: headers.len(), headers_max: HEADERS_MAX });
    }
    let bytes = 2 + headers.iter().map(|(name, value)| 4 + name.len() + value.len()).sum::<usize>();
    if bytes > HEADERS_BYTES_MAX {
        return Err(FrameError::HeadersTooLarge { bytes, bytes_max: HEADERS_BYTES_MAX });
    }
    let mut out = Vec::with_capacity(bytes);
    // Every length below is at most HEADERS_BYTES_MAX, which fits 16 bits.
    out.extend_from_slice(&(headers.len() as u16).to_le_bytes());
    for (index, (name, value)) in headers.iter().enumerate() {
        check_name(index, name.as_bytes())?;
        for part in [name.as_bytes(), value] {
            out.extend_from_slice(&(part.len() as u16).to_le_bytes());
            out.extend_from_slice(part);
        }
    }
    Ok(out)
}

fn check_name(index: usize, name: &[u8]) -> Result<(), FrameError> {
    let length_is_good = (1..=HEADER_NAME_BYTES_MAX).contains(&name.len());
    let text = std::str::from_utf8(name).ok().filter(|text| !text.contains(char::is_control));
    if length_is_good && text.is_some() { Ok(()) } else { Err(FrameError::HeaderName { index }) }
}

fn split_u16(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((usize::from(u16::from_le_bytes(*number)), rest))
}

fn split_counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = split_u16(bytes)?;
    rest.split_at_checked(length)
}
