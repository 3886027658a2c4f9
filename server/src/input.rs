//! Standard input as messages: big blocks read beside the network, cut into lines without copying each.
//!
//! Bounded: at most a few blocks wait, and no line grows beyond the topic's payload limit.

use std::io::{self, Read};
use std::thread;

use memchr::memchr;
use tokio::sync::mpsc;

/// One read: as much as a pipe holds, times four for files.
const BLOCK_BYTES: usize = 256 << 10;
/// Blocks that may wait for the network. With the one being read: 1.25 MiB.
const BLOCKS_WAITING_MAX: usize = 4;

/// Blocks read from standard input by a thread of their own, because a terminal or pipe may block for ever.
pub(crate) struct Blocks {
    waiting: mpsc::Receiver<io::Result<Vec<u8>>>,
}

impl Blocks {
    /// Starts reading.
    pub(crate) fn of_stdin() -> io::Result<Self> {
        Self::of(io::stdin())
    }

    fn of(mut input: impl Read + Send + 'static) -> io::Result<Self> {
        let (blocks, waiting) = mpsc::channel(BLOCKS_WAITING_MAX);
        thread::Builder::new().name("twinlane-input".to_owned()).spawn(move || {
            let mut block = vec![0; BLOCK_BYTES];
            loop {
                let read = match input.read(&mut block) {
                    Ok(0) => return,
                    Ok(bytes) => Ok(block[..bytes].to_vec()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                let failed = read.is_err();
                // Nobody waits any more when the command ends before its input does.
                if blocks.blocking_send(read).is_err() || failed {
                    return;
                }
            }
        })?;
        Ok(Self { waiting })
    }

    /// The next block; `None` at the end. Cancel-safe.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.waiting.recv().await.transpose()
    }

    /// Everything up to the end as one piece of at most `bytes_max` bytes.
    pub(crate) async fn all(mut self, bytes_max: usize) -> io::Result<Vec<u8>> {
        let mut whole = Vec::new();
        while let Some(block) = self.next().await? {
            if bytes_max - whole.len() < block.len() {
                let text =
                    format!("the input is longer than the {bytes_max} bytes that one message may have");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            whole.extend_from_slice(&block);
        }
        Ok(whole)
    }
}

/// Cuts blocks into lines. Only the line that spans two blocks is moved.
pub(crate) struct Lines {
    bytes: Vec<u8>,
    /// Where the next line begins.
    at: usize,
    /// Up to here there is no newline after `at`; a long line is not searched again for each block.
    searched: usize,
    /// Lines handed out so far.
    count: u64,
    line_bytes_max: usize,
}

/// A line is longer than a message may be.
#[derive(Debug, thiserror::Error)]
#[error(
    "line {line} of the input is longer than the {line_bytes_max} bytes that a message on this topic may have; \
     use --raw to send the input as one message, or declare the topic with a larger payload"
)]
pub(crate) struct LineTooLong {
    line: u64,
    line_bytes_max: usize,
}

impl Lines {
    pub(crate) fn new(line_bytes_max: usize) -> Self {
        Self { bytes: Vec::new(), at: 0, searched: 0, count: 0, line_bytes_max }
    }

    /// Adds a block. Call it only after [`Self::next`] has returned `None`.
    pub(crate) fn push(&mut self, block: Vec<u8>) {
        if self.at == self.bytes.len() {
            self.bytes = block;
            self.searched = 0;
        } else {
            self.bytes.drain(..self.at);
            self.searched = self.bytes.len();
            self.bytes.extend_from_slice(&block);
        }
        self.at = 0;
    }

    /// The next complete line, without its newline.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, LineTooLong> {
        let Some(found) = memchr(b'\n', &self.bytes[self.searched..]) else {
            self.searched = self.bytes.len();
            return self.check(self.bytes.len() - self.at).map(|()| None);
        };
        let (start, end) = (self.at, self.searched + found);
        self.check(end - start)?;
        self.at = end + 1;
        self.searched = self.at;
        self.count += 1;
        Ok(Some(&self.bytes[start..end]))
    }

    /// What is left at the end of the input: a last line that has no newline.
    pub(crate) fn rest(&self) -> Option<&[u8]> {
        let rest = &self.bytes[self.at..];
        (!rest.is_empty()).then_some(rest)
    }

    fn check(&self, line_bytes: usize) -> Result<(), LineTooLong> {
        let line_bytes_max = self.line_bytes_max;
        if line_bytes_max < line_bytes {
            Err(LineTooLong { line: self.count + 1, line_bytes_max })
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &[u8], block_bytes: usize) -> Vec<Vec<u8>> {
        let mut lines = Lines::new(1_000);
        let mut cut = Vec::new();
        for block in text.chunks(block_bytes) {
            lines.push(block.to_vec());
            while let Some(line) = lines.next().unwrap() {
                cut.push(line.to_vec());
            }
        }
        cut.extend(lines.rest().map(<[u8]>::to_vec));
        cut
    }

    #[test]
    fn lines_come_out_the_same_however_the_input_is_cut_into_blocks() {
        let text = b"one\n\ntwo and a bit\r\nthree\xFF\n\nlast without newline";
        let expected: Vec<Vec<u8>> = text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        for block_bytes in 1..=text.len() {
            assert_eq!(cut(text, block_bytes), expected, "blocks of {block_bytes}");
        }
    }

    #[test]
    fn a_final_newline_begins_no_further_line() {
        assert_eq!(cut(b"a\nb\n", 3), [b"a", b"b"]);
        assert!(cut(b"", 3).is_empty());
    }

    #[test]
    fn a_line_without_end_is_refused_at_the_limit() {
        let mut lines = Lines::new(10);
        lines.push(b"ok\n12345".to_vec());
        assert_eq!(lines.next().unwrap().unwrap(), b"ok");
        assert!(lines.next().unwrap().is_none());
        lines.push(b"678901".to_vec());
        let shown = lines.next().unwrap_err().to_string();
        assert!(shown.starts_with("line 2 of the input is longer than the 10 bytes"), "{shown}");
    }

    #[test]
    fn a_whole_input_is_taken_up_to_the_limit() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let read = |bytes: usize| {
            runtime.block_on(Blocks::of(io::repeat(7).take(bytes as u64)).unwrap().all(300_000))
        };
        assert_eq!(read(300_000).unwrap().len(), 300_000);
        assert!(read(300_001).unwrap_err().to_string().contains("300000 bytes"));
    }
}
