//! Received bytes that are not decoded yet.
//!
//! An idle connection holds none: the memory goes back to a pool of its thread. It grows with what arrives,
//! never to a length that a peer only declared.

use std::cell::RefCell;
use std::ops::Range;

/// The size at which a buffer starts and to which it returns.
const BUFFER_BYTES: usize = 128 << 10;
/// Idle buffers a thread keeps.
const POOLED_MAX: usize = 4;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer with received bytes in the middle of it.
#[derive(Default)]
pub(crate) struct ReadBuffer {
    memory: Vec<u8>,
    filled: Range<usize>,
}

impl ReadBuffer {
    /// What was received and not consumed.
    pub(crate) fn filled(&self) -> &[u8] {
        &self.memory[self.filled.clone()]
    }

    /// Room for the next read, which may be part of a frame of `wanted_bytes`.
    pub(crate) fn room(&mut self, wanted_bytes: usize) -> &mut [u8] {
        if self.memory.is_empty() {
            self.memory = pooled();
        }
        let spare = self.memory.len() - self.filled.end;
        let unfinished = self.filled.len();
        if self.filled.start > 0 && (spare < self.memory.len() / 2 || unfinished == 0) {
            self.memory.copy_within(self.filled.clone(), 0);
            self.filled = 0..unfinished;
        }
        // Grows only once it is full of one unfinished frame, and only by doubling.
        if self.filled.end == self.memory.len() {
            let bytes = (self.memory.len() * 2)
                .min(wanted_bytes.next_multiple_of(4096))
                .max(self.memory.len() + 4096);
            self.memory.resize(bytes, 0);
        }
        &mut self.memory[self.filled.end..]
    }

    pub(crate) fn received(&mut self, bytes: usize) {
        self.filled.end += bytes;
    }

    pub(crate) fn consume(&mut self, bytes: usize) {
        self.filled.start += bytes;
    }

    /// Gives the memory back if nothing is in it.
    pub(crate) fn release_if_empty(&mut self) {
        if !self.filled.is_empty() || self.memory.is_empty() {
            return;
        }
        self.filled = 0..0;
        let memory = std::mem::take(&mut self.memory);
        if memory.len() == BUFFER_BYTES {
            POOL.with_borrow_mut(|pool| {
                if pool.len() < POOLED_MAX {
                    pool.push(memory);
                }
            });
        }
    }
}

fn pooled() -> Vec<u8> {
    POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; BUFFER_BYTES])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(buffer: &mut ReadBuffer, bytes: &[u8], wanted: usize) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = buffer.room(wanted);
            let n = room.len().min(rest.len());
            room[..n].copy_from_slice(&rest[..n]);
            buffer.received(n);
            rest = &rest[n..];
        }
    }

    #[test]
    fn a_frame_larger_than_the_buffer_grows_it_only_as_bytes_arrive() {
        let mut buffer = ReadBuffer::default();
        let wanted = 3 * BUFFER_BYTES + 17;
        let data: Vec<u8> = (0..wanted).map(|i| i as u8).collect();
        receive(&mut buffer, &data[..10], wanted);
        assert_eq!(buffer.memory.len(), BUFFER_BYTES, "a declared length allocates nothing");
        receive(&mut buffer, &data[10..], wanted);
        assert_eq!(buffer.filled(), data);
        assert!(buffer.memory.len() < wanted + 4096 * 2);
    }

    #[test]
    fn an_idle_buffer_holds_no_memory() {
        let mut buffer = ReadBuffer::default();
        receive(&mut buffer, b"abc", 3);
        buffer.consume(2);
        buffer.release_if_empty();
        assert_eq!(buffer.filled(), b"c");
        buffer.consume(1);
        buffer.release_if_empty();
        assert!(buffer.memory.is_empty());
    }

    #[test]
    fn unfinished_bytes_move_to_the_front_when_room_runs_out() {
        let mut buffer = ReadBuffer::default();
        receive(&mut buffer, &vec![1; BUFFER_BYTES - 3], 8);
        buffer.consume(BUFFER_BYTES - 5);
        assert!(buffer.room(8).len() > BUFFER_BYTES / 2);
        assert_eq!(buffer.filled(), [1, 1]);
    }
}
