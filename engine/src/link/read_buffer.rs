//! Received bytes that are not decoded yet, in memory that whoever decodes them may keep a part of.
//!
//! An idle connection holds none: the memory goes back to a pool of its thread, and is used again as soon as nobody
//! keeps a part of it. It grows with what arrives, never to a length that a peer only declared.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The size at which a buffer starts and to which it returns.
const BUFFER_BYTES: usize = 128 << 10;
/// Room for a read: less costs more system calls than moving an unfinished frame to the front.
const ROOM_BYTES: usize = BUFFER_BYTES / 2;
/// Buffers a thread keeps, free ones and such as somebody still has a part of.
const POOLED_MAX: usize = 16;

thread_local! {
    static POOL: RefCell<VecDeque<BytesMut>> = const { RefCell::new(VecDeque::new()) };
}

/// Bytes that were received and not taken.
#[derive(Default)]
pub(crate) struct ReadBuffer {
    memory: BytesMut,
}

impl ReadBuffer {
    /// What was received and not taken.
    pub(crate) fn filled(&self) -> &[u8] {
        &self.memory
    }

    /// Reads once from `reader`, perhaps a part of a frame of `wanted_bytes`. Cancel-safe.
    pub(crate) fn poll_read<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        wanted_bytes: usize,
    ) -> Poll<std::io::Result<usize>> {
        self.make_room(wanted_bytes);
        pin!(reader.read_buf(&mut self.memory)).poll(cx)
    }

    /// Whether the last read could have brought more.
    pub(crate) fn has_room(&self) -> bool {
        self.memory.len() < self.memory.capacity()
    }

    /// The first `bytes` of [`Self::filled`], to keep for as long as one likes.
    pub(crate) fn take(&mut self, bytes: usize) -> Bytes {
        self.memory.split_to(bytes).freeze()
    }

    pub(crate) fn skip(&mut self, bytes: usize) {
        self.memory.advance(bytes);
    }

    /// Gives the memory back if nothing is in it.
    pub(crate) fn release_if_empty(&mut self) {
        if self.memory.is_empty() && self.memory.capacity() > 0 {
            give_back(std::mem::take(&mut self.memory));
        }
    }

    fn make_room(&mut self, wanted_bytes: usize) {
        if self.memory.capacity() == 0 {
            self.memory = borrow();
            return;
        }
        // In place, if nobody keeps a part of what was taken.
        if self.memory.try_reclaim(ROOM_BYTES) {
            return;
        }
        let unfinished = self.memory.len();
        if unfinished <= ROOM_BYTES {
            let mut next = borrow();
            next.extend_from_slice(&self.memory);
            give_back(std::mem::replace(&mut self.memory, next));
        } else if self.memory.capacity() == unfinished {
            // Full of one unfinished frame: grows by doubling at most.
            let rest = wanted_bytes.saturating_sub(unfinished).next_multiple_of(4096);
            self.memory.reserve(rest.clamp(4096, unfinished));
        }
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        if self.memory.capacity() > 0 {
            give_back(std::mem::take(&mut self.memory));
        }
    }
}

fn borrow() -> BytesMut {
    let pooled = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        for _ in 0..pool.len() {
            let mut memory = pool.pop_front()?;
            if memory.try_reclaim(BUFFER_BYTES) {
                return Some(memory);
            }
            pool.push_back(memory);
        }
        None
    });
    pooled.ok().flatten().unwrap_or_else(|| BytesMut::with_capacity(BUFFER_BYTES))
}

fn give_back(mut memory: BytesMut) {
    memory.clear();
    if memory.capacity() > BUFFER_BYTES {
        return;
    }
    // While the thread ends there is no pool any more, and the allocator takes it.
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() == POOLED_MAX {
            // Somebody has kept a part of the oldest for long.
            pool.pop_front();
        }
        pool.push_back(memory);
    });
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn receive(buffer: &mut ReadBuffer, mut bytes: &[u8], wanted: usize) {
        let mut cx = Context::from_waker(Waker::noop());
        while !bytes.is_empty() {
            assert!(buffer.poll_read(&mut cx, &mut bytes, wanted).is_ready());
        }
    }

    fn empty_the_pool() {
        POOL.with_borrow_mut(VecDeque::clear);
    }

    #[test]
    fn a_frame_larger_than_the_buffer_grows_it_only_as_bytes_arrive() {
        let mut buffer = ReadBuffer::default();
        let wanted = 3 * BUFFER_BYTES + 17;
        let data: Vec<u8> = (0..wanted).map(|i| i as u8).collect();
        receive(&mut buffer, &data[..10], wanted);
        assert_eq!(buffer.memory.capacity(), BUFFER_BYTES, "a declared length allocates nothing");
        for part in data[10..].chunks(1_000) {
            receive(&mut buffer, part, wanted);
            let received = buffer.filled().len();
            assert!(buffer.memory.capacity() <= 2 * received.max(BUFFER_BYTES), "it doubles at most");
        }
        assert_eq!(buffer.filled(), data);
    }

    #[test]
    fn only_a_read_that_fills_the_memory_may_have_left_something() {
        let mut buffer = ReadBuffer::default();
        receive(&mut buffer, b"abc", 3);
        assert!(buffer.has_room());
        receive(&mut buffer, &[0; BUFFER_BYTES - 3], 3);
        assert_eq!(buffer.filled().len(), BUFFER_BYTES);
        assert!(!buffer.has_room());
    }

    #[test]
    fn an_idle_buffer_holds_no_memory() {
        let mut buffer = ReadBuffer::default();
        receive(&mut buffer, b"abc", 3);
        buffer.skip(2);
        buffer.release_if_empty();
        assert_eq!(buffer.filled(), b"c");
        buffer.skip(1);
        buffer.release_if_empty();
        assert_eq!(buffer.memory.capacity(), 0);
    }

    #[test]
    fn memory_is_used_again_once_nobody_keeps_a_part_of_it() {
        empty_the_pool();
        let mut buffer = ReadBuffer::default();
        receive(&mut buffer, b"abc", 3);
        let first = buffer.filled().as_ptr();
        let kept = buffer.take(3);
        buffer.release_if_empty();
        receive(&mut buffer, b"def", 3);
        assert_ne!(buffer.filled().as_ptr(), first, "somebody keeps a part");
        assert_eq!(kept, b"abc"[..]);
        drop(kept);
        buffer.skip(3);
        buffer.release_if_empty();
        receive(&mut buffer, b"ghi", 3);
        let second = buffer.filled().as_ptr();
        assert_eq!(second, first, "the oldest free one is next");
    }

    #[test]
    fn parts_kept_for_ever_do_not_fill_the_pool() {
        empty_the_pool();
        let mut buffer = ReadBuffer::default();
        let mut kept = Vec::new();
        for _ in 0..3 * POOLED_MAX {
            receive(&mut buffer, b"abc", 3);
            kept.push(buffer.take(3));
            buffer.release_if_empty();
        }
        assert_eq!(POOL.with_borrow(VecDeque::len), POOLED_MAX);
        assert!(kept.iter().all(|part| part[..] == b"abc"[..]));
    }

    #[test]
    fn an_unfinished_frame_is_contiguous_when_room_runs_out() {
        let mut buffer = ReadBuffer::default();
        let data: Vec<u8> = (0..3 * BUFFER_BYTES).map(|i| (i / 7) as u8).collect();
        let (mut taken, mut kept) = (0, Vec::new());
        for part in data.chunks(10_000) {
            receive(&mut buffer, part, 8);
            let whole = buffer.filled().len() / 4_099 * 4_099;
            assert_eq!(buffer.filled()[..whole], data[taken..taken + whole]);
            kept.push(buffer.take(whole));
            taken += whole;
        }
        assert_eq!(buffer.filled(), &data[taken..]);
        assert_eq!(kept.concat(), data[..taken]);
    }
}
