//! Messages of a topic by their offset: the next ones as they come, and earlier ones again.
//!
//! It keeps the run it read last, because the next question is mostly about the next frame of it.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use twinlane_proto::frame::{Frames, MessageRef};

use crate::message::TopicRun;
use crate::topic_cursor::{TopicCursor, TopicRead};
use crate::topics::Topic;

/// Bytes read in one go at most: some hundred small messages.
const READ_BYTES: usize = 32 << 10;

pub(super) struct Reader {
    topic: Arc<Topic>,
    cursor: Option<TopicCursor>,
    /// What the cursor reads next.
    position: u64,
    /// It was asked for something that has to come from disk. Whoever asks next lets it finish first: two who ask in
    /// turns for different messages would otherwise never get either.
    is_reading: bool,
    run: Option<TopicRun>,
    /// Where each frame of the run begins.
    starts: Vec<u32>,
}

pub(super) enum Found<'r> {
    Message(MessageRef<'r>),
    /// There is no message at this offset; none up to `to`.
    Gone {
        to: u64,
    },
    /// The topic is closed.
    Closed,
}

impl Reader {
    pub(super) fn new(topic: Arc<Topic>) -> Self {
        Self { topic, cursor: None, position: 0, is_reading: false, run: None, starts: Vec::new() }
    }

    /// The message at `offset`. `Pending`: it is not there yet; `cx` is woken when it is.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, offset: u64) -> Poll<Found<'_>> {
        if self.is_reading && self.place(offset).is_none() {
            let asked = self.position;
            let read = ready!(self.poll_cursor(cx, asked));
            if let Some(found) = self.take(read, offset).filter(|_| asked == offset) {
                return Poll::Ready(found);
            }
        }
        if self.place(offset).is_none() {
            let read = ready!(self.poll_cursor(cx, offset));
            if let Some(found) = self.take(read, offset) {
                return Poll::Ready(found);
            }
        }
        Poll::Ready(match self.message(offset) {
            Some(message) => Found::Message(message),
            None => Found::Gone { to: offset + 1 },
        })
    }

    fn poll_cursor(&mut self, cx: &mut Context<'_>, offset: u64) -> Poll<TopicRead> {
        self.run = None;
        let cursor = match &mut self.cursor {
            Some(cursor) if self.position == offset => cursor,
            cursor => {
                self.position = offset;
                cursor.insert(self.topic.reader(offset))
            }
        };
        let polled = cursor.poll_read(cx, READ_BYTES);
        self.is_reading = polled.is_pending() && offset < self.topic.ring.next();
        polled
    }

    /// Keeps a run; anything else is what there is to say of `offset`.
    fn take(&mut self, read: TopicRead, offset: u64) -> Option<Found<'static>> {
        match read {
            TopicRead::Run(run) => {
                self.position = run.first_offset() + run.frames() as u64;
                self.keep(run);
                None
            }
            TopicRead::Missed { to, .. } => {
                self.position = to;
                Some(Found::Gone { to: to.max(offset + 1) })
            }
            TopicRead::Closed => Some(Found::Closed),
        }
    }

    /// The message at `offset` if the last run has it.
    pub(super) fn message(&self, offset: u64) -> Option<MessageRef<'_>> {
        let start = self.starts[self.place(offset)?] as usize;
        let run = self.run.as_ref()?;
        Frames::new(&run.bytes()[start..]).next().filter(|message| !message.is_end())
    }

    /// Lets go of the topic's memory: nobody knows when the next question comes.
    pub(super) fn let_go(&mut self) {
        self.run = None;
    }

    fn place(&self, offset: u64) -> Option<usize> {
        let at = offset.checked_sub(self.run.as_ref()?.first_offset())?;
        usize::try_from(at).ok().filter(|at| *at < self.starts.len())
    }

    fn keep(&mut self, run: TopicRun) {
        self.starts.clear();
        let mut start = 0;
        for frame in Frames::new(run.bytes()) {
            self.starts.push(start);
            start += frame.frame_bytes() as u32;
        }
        self.run = Some(run);
    }
}
