//! Bytes on their way into one vectored write: control frames, run headers, and runs. Short runs are copied, so that a
//! write of many topics is one piece; long ones stay pinned where they are.

use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use twinlane_proto::frame::RUN_HEADER_BYTES;

use crate::message::{RunBytes, TopicRun};

/// Slices handed to one write call.
const SLICES_MAX: usize = 64;
/// Runs up to this are copied. Of pinned runs of one small message each, a write call would carry no more than
/// `SLICES_MAX` slices, in a TLS record and a system call of its own.
const COPIED_RUN_BYTES_MAX: usize = 1 << 10;

#[derive(Default)]
pub(super) struct WriteBatch {
    /// Headers and control frames, back to back.
    heads: Vec<u8>,
    chunks: Vec<Chunk>,
    bytes: usize,
    has_runs: bool,
    /// Chunks written whole, and bytes written of the next one.
    done_chunks: usize,
    done_bytes: usize,
}

enum Chunk {
    Head { from: usize, to: usize },
    Run(RunBytes),
    Copied(Vec<u8>),
}

impl WriteBatch {
    pub(super) fn push_head(&mut self, head: &[u8]) {
        let from = self.heads.len();
        self.heads.extend_from_slice(head);
        let to = self.heads.len();
        match self.chunks.last_mut() {
            Some(Chunk::Head { to: end, .. }) => *end = to,
            _ => self.chunks.push(Chunk::Head { from, to }),
        }
        self.bytes += head.len();
    }

    pub(super) fn push_run(&mut self, run: TopicRun) {
        self.has_runs = true;
        if run.bytes().len() <= COPIED_RUN_BYTES_MAX {
            return self.push_head(run.bytes());
        }
        self.bytes += run.bytes().len();
        self.chunks.push(Chunk::Run(run.into_bytes()));
    }

    /// Bytes that one more run may have for the batch to be of `batch_bytes` at most, header included. `None`: it is
    /// full, or the little that is left is not worth a run: a single frame would not fit, and what does not fit costs a
    /// TLS record and a system call of its own.
    pub(super) fn room(&self, batch_bytes: usize) -> Option<usize> {
        let left_bytes = batch_bytes.saturating_sub(self.bytes + RUN_HEADER_BYTES);
        (batch_bytes / 8 <= left_bytes).then_some(left_bytes)
    }

    /// Whether there are messages among what is to be written.
    pub(super) fn has_runs(&self) -> bool {
        self.has_runs
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Writes all of it. Cancel-safe: what was written is remembered.
    pub(super) fn poll_write_all<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<std::io::Result<()>> {
        while self.done_chunks < self.chunks.len() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let used = self.fill(&mut slices);
            let polled = Pin::new(&mut *writer).poll_write_vectored(cx, &slices[..used]);
            if polled.is_pending() {
                self.unpin();
            }
            match ready!(polled)? {
                0 => return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
                bytes => self.advance(bytes),
            }
        }
        self.clear();
        Poll::Ready(Ok(()))
    }

    fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut skip = self.done_bytes;
        let rest = &self.chunks[self.done_chunks..];
        for (slice, chunk) in slices.iter_mut().zip(rest) {
            *slice = IoSlice::new(&self.chunk_bytes(chunk)[skip..]);
            skip = 0;
        }
        rest.len().min(slices.len())
    }

    fn chunk_bytes<'a>(&'a self, chunk: &'a Chunk) -> &'a [u8] {
        match chunk {
            Chunk::Head { from, to } => &self.heads[*from..*to],
            Chunk::Run(bytes) => bytes,
            Chunk::Copied(bytes) => bytes,
        }
    }

    fn advance(&mut self, bytes: usize) {
        self.done_bytes += bytes;
        while self.done_chunks < self.chunks.len() {
            let chunk_bytes = self.chunk_bytes(&self.chunks[self.done_chunks]).len();
            if self.done_bytes < chunk_bytes {
                return;
            }
            self.done_bytes -= chunk_bytes;
            self.done_chunks += 1;
        }
    }

    /// The peer does not take more right now: copies what is left, so that a slow peer pins no topic's memory.
    /// Bounded by the size of a batch.
    fn unpin(&mut self) {
        for chunk in &mut self.chunks[self.done_chunks..] {
            if let Chunk::Run(RunBytes::Pinned(run)) = chunk {
                *chunk = Chunk::Copied(run.bytes().to_vec());
            }
        }
    }

    fn clear(&mut self) {
        self.heads.clear();
        self.chunks.clear();
        self.has_runs = false;
        (self.bytes, self.done_chunks, self.done_bytes) = (0, 0, 0);
        // An idle connection keeps little.
        self.heads.shrink_to(1 << 10);
        self.chunks.shrink_to(8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH_BYTES: usize = 64 << 10;

    #[test]
    fn a_run_as_large_as_the_room_fills_the_batch_and_no_more() {
        let mut batch = WriteBatch::default();
        batch.push_head(&[0; 100]);
        let room_bytes = batch.room(BATCH_BYTES).expect("the batch is nearly empty");
        batch.push_head(&[0; RUN_HEADER_BYTES]);
        batch.push_head(&vec![0; room_bytes]);
        assert_eq!(batch.bytes, BATCH_BYTES);
        assert_eq!(batch.room(BATCH_BYTES), None);
    }

    #[test]
    fn a_batch_with_less_room_than_a_frame_takes_no_further_run() {
        let mut batch = WriteBatch::default();
        batch.push_head(&vec![0; BATCH_BYTES - 64]);
        assert_eq!(batch.room(BATCH_BYTES), None);
    }

    #[test]
    fn a_batch_that_is_too_large_has_no_room() {
        let mut batch = WriteBatch::default();
        batch.push_head(&vec![0; BATCH_BYTES + 1]);
        assert_eq!(batch.room(BATCH_BYTES), None);
    }

    #[test]
    fn short_runs_are_one_piece_with_their_headers_and_long_ones_stay_where_they_are() {
        let run = |bytes: usize| TopicRun::read_back(1, 1, vec![7; bytes].into());
        let mut batch = WriteBatch::default();
        for _ in 0..100 {
            batch.push_head(&[0; RUN_HEADER_BYTES]);
            batch.push_run(run(72));
        }
        assert_eq!(batch.chunks.len(), 1, "a hundred topics' messages in one slice");
        assert!(batch.has_runs());
        assert_eq!(batch.bytes, 100 * (RUN_HEADER_BYTES + 72));
        batch.push_head(&[0; RUN_HEADER_BYTES]);
        batch.push_run(run(COPIED_RUN_BYTES_MAX + 1));
        assert_eq!(batch.chunks.len(), 2);
        batch.clear();
        assert!(batch.is_empty() && !batch.has_runs());
    }
}
