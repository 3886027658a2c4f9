//! As much of WebSocket as the load client and the server without a library need: the handshake, text frames, masked and
//! not, and a walk over the headers of what a server sends. Fragments and compression are not offered, so they are errors.

use anyhow::{Context as _, Result, bail};

/// A text frame that is its message's last (and here only) one.
const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;

/// Marks a frame as masked, in the byte of its length.
const MASKED: u8 = 0x80;

/// The key that masks everything. A client in a browser picks one at random for the sake of proxies in between.
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The request that opens a Socket.IO session over a WebSocket.
pub(super) fn upgrade_request(port: u16) -> String {
    format!(
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n\
         Host: 127.0.0.1:{port}\r\n\
         Connection: Upgrade\r\n\
         Upgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// Where the answer to [`upgrade_request`] ends; `None`: not all of it is there.
///
/// # Errors
///
/// The server refused.
pub(super) fn upgraded(answer: &[u8]) -> Result<Option<usize>> {
    let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return Ok(None) };
    if !answer.starts_with(b"HTTP/1.1 101 ") {
        bail!("the server refused: {}", String::from_utf8_lossy(&answer[..end.min(200)]));
    }
    Ok(Some(end + 4))
}

/// Appends `text` as a masked frame.
pub(super) fn put_text(text: &[u8], out: &mut Vec<u8>) {
    out.push(TEXT);
    match text.len() {
        short @ ..=125 => out.push(MASKED | short as u8),
        long => {
            out.push(MASKED | 126);
            let long = u16::try_from(long).expect("the load client sends short packets");
            out.extend_from_slice(&long.to_be_bytes());
        }
    }
    out.extend_from_slice(&KEY);
    out.extend(text.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// Appends `text`, of at most 125 bytes, as a server does.
pub(super) fn put_plain(text: &[u8], out: &mut Vec<u8>) {
    assert!(text.len() <= 125, "a frame with a short header has at most 125 bytes, not {}", text.len());
    out.extend_from_slice(&[TEXT, text.len() as u8]);
    out.extend_from_slice(text);
}

/// The text of the masked frame that `bytes` begin with, and what is behind it.
///
/// # Errors
///
/// Not all of it is there, or it is longer than 125 bytes.
pub(super) fn unmasked(bytes: &mut [u8]) -> Result<(&[u8], &mut [u8])> {
    let (header, rest) = bytes.split_first_chunk_mut::<6>().context("a frame's header is cut")?;
    let [_, length, key @ ..] = *header;
    let text_bytes = usize::from(length & !MASKED);
    if text_bytes > 125 || text_bytes > rest.len() {
        bail!("a frame is cut, or long")
    }
    let (text, behind) = rest.split_at_mut(text_bytes);
    text.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
    Ok((text, behind))
}

/// Hands every whole text frame in `bytes` to `each` and returns how many bytes they have.
///
/// # Errors
///
/// The server closed, sent another kind of frame, or `each` found fault.
#[inline]
pub(super) fn walk(bytes: &[u8], mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<usize> {
    let mut at = 0;
    while let Some(&[kind, length]) = bytes[at..].first_chunk() {
        let (header_bytes, text_bytes) = match length {
            ..=125 => (2, usize::from(length)),
            126 => match bytes[at..].first_chunk() {
                Some(&[_, _, high, low]) => (4, usize::from(u16::from_be_bytes([high, low]))),
                None => break,
            },
            _ => bail!("the server sent a masked frame, or one of more than 64 KiB"),
        };
        let begin = at + header_bytes;
        let Some(text) = bytes.get(begin..begin + text_bytes) else { break };
        match kind {
            TEXT => each(text)?,
            CLOSE => {
                bail!("the server closed: {}", String::from_utf8_lossy(text.get(2..).unwrap_or_default()))
            }
            other => bail!("the server sent a frame of kind {other:#04x}"),
        }
        at = begin + text_bytes;
    }
    Ok(at)
}

/// The number in the first digits of an event's text.
///
/// # Errors
///
/// There is none.
pub(super) fn number(text: &[u8], digits: usize) -> Result<u64> {
    let digits = text.get(..digits).context("an event is too short")?;
    digits.iter().try_fold(0, |number: u64, digit| {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            bail!("an event does not begin with its number")
        }
        Ok(number * 10 + u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(bytes: &[u8]) -> (usize, Vec<String>) {
        let mut texts = Vec::new();
        let used = walk(bytes, |text| {
            texts.push(String::from_utf8(text.to_vec())?);
            Ok(())
        });
        (used.unwrap(), texts)
    }

    #[test]
    fn frames_are_walked_and_a_cut_one_is_left() {
        let mut bytes = b"\x81\x012\x81\x0342[".to_vec();
        bytes.extend_from_slice(&[TEXT, 126, 0, 200]);
        bytes.extend_from_slice(&[b'x'; 199]);
        assert_eq!(texts(&bytes), (8, vec!["2".to_owned(), "42[".to_owned()]));
        bytes.push(b'x');
        assert_eq!(texts(&bytes).0, bytes.len());
        assert_eq!(texts(&bytes[..1]), (0, Vec::new()));
    }

    #[test]
    fn a_close_frame_and_a_fragment_are_errors() {
        assert!(walk(b"\x88\x05\x03\xe8bye", |_| Ok(())).unwrap_err().to_string().contains("bye"));
        assert!(walk(b"\x01\x01x", |_| Ok(())).is_err());
    }

    #[test]
    fn what_is_sent_is_masked() {
        let mut out = Vec::new();
        put_text(b"40", &mut out);
        assert_eq!(out, [0x81, 0x82, 0x37, 0xfa, 0x21, 0x3d, b'4' ^ 0x37, b'0' ^ 0xfa]);
        out.extend_from_slice(b"behind");
        let (text, behind) = unmasked(&mut out).unwrap();
        assert_eq!((text, &*behind), (&b"40"[..], &b"behind"[..]));
        assert!(unmasked(&mut [0x81, 0x82, 0, 0, 0, 0, b'4']).is_err());
    }

    #[test]
    fn the_answer_ends_with_an_empty_line() {
        assert_eq!(upgraded(b"HTTP/1.1 101 Switching Protocols\r\n\r").unwrap(), None);
        assert_eq!(upgraded(b"HTTP/1.1 101 x\r\n\r\n\x81").unwrap(), Some(18));
        assert!(upgraded(b"HTTP/1.1 400 Bad Request\r\n\r\n").is_err());
    }

    #[test]
    fn a_number_is_read_from_its_digits_alone() {
        assert_eq!(number(b"0042xx", 4).unwrap(), 42);
        assert!(number(b"00x2", 4).is_err());
        assert!(number(b"00", 4).is_err());
    }
}
