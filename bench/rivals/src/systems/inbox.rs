//! Hands messages from a client library's own threads to the thread of a group of subscribers.
//!
//! Payloads are copied into one flat buffer that is exchanged as a whole, so a message costs a short lock and no
//! allocation, and the reader is woken once per batch. A full inbox holds the library's thread up: that is the
//! back-pressure a library with callbacks expects.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::system::BLOCK_MAX;

/// Payload bytes that may wait before the library's thread does.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// The queue between the library's threads and one reader.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    filled: Condvar,
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Batch,
    is_closed: bool,
}

/// Messages taken out together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Whose message it is, and where its payload ends.
    ends: Vec<(usize, usize)>,
    bytes: Vec<u8>,
}

impl Inbox {
    /// Adds a message for subscriber `number`; waits while the inbox is full. After [`Self::close`] it drops it.
    pub(super) fn push(&self, number: usize, payload: &[u8]) {
        let mut state = self
            .emptied
            .wait_while(self.lock(), |state| {
                !state.is_closed && state.waiting.bytes.len() >= WAITING_BYTES_MAX
            })
            .unwrap_or_else(PoisonError::into_inner);
        if state.is_closed {
            return;
        }
        let was_empty = state.waiting.ends.is_empty();
        state.waiting.bytes.extend_from_slice(payload);
        let end = state.waiting.bytes.len();
        state.waiting.ends.push((number, end));
        drop(state);
        if was_empty {
            self.filled.notify_one();
        }
    }

    /// Puts everything that waits into `batch`, whose own content is dropped. Waits at most [`BLOCK_MAX`] for it.
    pub(super) fn take(&self, batch: &mut Batch) {
        batch.ends.clear();
        batch.bytes.clear();
        let (mut state, _) = self
            .filled
            .wait_timeout_while(self.lock(), BLOCK_MAX, |state| state.waiting.ends.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        let was_full = state.waiting.bytes.len() >= WAITING_BYTES_MAX;
        std::mem::swap(batch, &mut state.waiting);
        drop(state);
        if was_full {
            self.emptied.notify_all();
        }
    }

    /// Lets nobody wait any more: the reader is gone.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.emptied.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Batch {
    /// Hands every message to `each`: (number of the subscriber, payload).
    pub(super) fn deliver(&self, each: &mut impl FnMut(usize, &[u8])) {
        let mut start = 0;
        for &(number, end) in &self.ends {
            each(number, &self.bytes[start..end]);
            start = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    #[test]
    fn messages_come_out_in_order_with_their_subscriber() {
        let inbox = Inbox::default();
        inbox.push(3, b"one");
        inbox.push(0, b"");
        inbox.push(3, b"three");
        let mut batch = Batch::default();
        inbox.take(&mut batch);
        let mut seen = Vec::new();
        batch.deliver(&mut |number, payload| seen.push((number, payload.to_vec())));
        assert_eq!(seen, [(3, b"one".to_vec()), (0, Vec::new()), (3, b"three".to_vec())]);
        inbox.push(1, b"four");
        inbox.take(&mut batch);
        let mut count = 0;
        batch.deliver(&mut |number, _| count += number);
        assert_eq!(count, 1, "a batch holds only what was taken last");
    }

    #[test]
    fn a_full_inbox_holds_the_writer_up_and_loses_nothing() {
        const MESSAGES: usize = 10_000;
        let inbox = Arc::new(Inbox::default());
        let writer = thread::spawn({
            let inbox = Arc::clone(&inbox);
            move || (0..MESSAGES).for_each(|number| inbox.push(number, &[7; 1_000]))
        });
        let (mut batch, mut next) = (Batch::default(), 0);
        while next < MESSAGES {
            inbox.take(&mut batch);
            assert!(batch.bytes.len() < WAITING_BYTES_MAX + 1_000);
            batch.deliver(&mut |number, _| {
                assert_eq!(number, next);
                next += 1;
            });
        }
        writer.join().expect("the writer does not panic");
    }

    #[test]
    fn a_closed_inbox_releases_a_waiting_writer() {
        let inbox = Arc::new(Inbox::default());
        inbox.push(0, &vec![0; WAITING_BYTES_MAX]);
        let writer = thread::spawn({
            let inbox = Arc::clone(&inbox);
            move || inbox.push(0, b"late")
        });
        inbox.close();
        writer.join().expect("the writer does not panic");
    }
}
