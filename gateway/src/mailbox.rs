//! The side of a session whose client polls: requests that wait, and what waits for the next of them.

use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};

use crate::engine_io::Packet;
use crate::engine_io::payload::{self, Packets};
use crate::line::Line;
use crate::pipe::Pipe;
use crate::refusal::Refusal;

/// Requests that may wait for the session's task: one poll, one body, one probe, and one too many.
pub(crate) const REQUESTS_MAX: usize = 4;
/// What one answer carries at most, but for its last chunk.
const BODY_BYTES_MAX: usize = 256 << 10;

/// What a request wants from a session.
pub(crate) enum Request {
    /// What is new.
    Poll(oneshot::Sender<Result<Bytes, Refusal>>),
    /// To say something.
    Packets(Packets, oneshot::Sender<Result<(), Refusal>>),
    /// To take over.
    Probe(Box<dyn Pipe>),
    /// It came while one of its kind was under way.
    Overlap,
}

/// What a client says, on its way to the application.
pub(crate) struct Body {
    pub(crate) packets: Packets,
    pub(crate) answer: oneshot::Sender<Result<(), Refusal>>,
}

/// One session's requests.
pub(crate) struct Mailbox {
    requests: mpsc::Receiver<Request>,
    waiting: Option<oneshot::Sender<Result<Bytes, Refusal>>>,
    /// Encoded packets that no poll has taken yet.
    chunks: Vec<Bytes>,
    /// The body that is being taken: there is one at a time.
    pub(crate) body: Option<Body>,
    /// The connection that wants to take over.
    pub(crate) probe: Option<Line>,
}

impl Mailbox {
    pub(crate) fn new(requests: mpsc::Receiver<Request>) -> Self {
        Self { requests, waiting: None, chunks: Vec::new(), body: None, probe: None }
    }

    /// The next request.
    pub(crate) fn poll_request(&mut self, cx: &mut Context<'_>) -> Option<Request> {
        match self.requests.poll_recv(cx) {
            Poll::Ready(request) => request,
            Poll::Pending => None,
        }
    }

    /// Lets `answer` wait for something to say.
    pub(crate) fn wait(&mut self, answer: oneshot::Sender<Result<Bytes, Refusal>>) {
        self.waiting = Some(answer);
    }

    /// Whether a poll waits.
    pub(crate) fn has_poll(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether the poll that waited was given up by its client.
    pub(crate) fn poll_left(&mut self, cx: &mut Context<'_>) -> bool {
        let left = self.waiting.as_mut().is_some_and(|waiting| waiting.poll_closed(cx).is_ready());
        if left {
            self.waiting = None;
        }
        left
    }

    /// Puts a packet behind what waits.
    pub(crate) fn put(&mut self, packet: &Packet) {
        let mut text = BytesMut::new();
        packet.encode_text(&mut text);
        self.chunks.push(text.freeze());
    }

    /// Where chunks for the next answer are put.
    pub(crate) fn chunks(&mut self) -> &mut Vec<Bytes> {
        &mut self.chunks
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Whether the next answer may get larger.
    pub(crate) fn has_room(&self) -> bool {
        self.chunks.iter().map(Bytes::len).sum::<usize>() < BODY_BYTES_MAX
    }

    /// Answers the poll with all that waits; how many bytes that is. If its client has left meanwhile, the next poll gets
    /// them.
    pub(crate) fn answer_poll(&mut self) -> u64 {
        let Some(waiting) = self.waiting.take() else { return 0 };
        let body = join(std::mem::take(&mut self.chunks));
        let body_bytes = body.len() as u64;
        match waiting.send(Ok(body)) {
            Ok(()) => body_bytes,
            Err(returned) => {
                self.chunks.extend(returned);
                0
            }
        }
    }

    /// Nobody polls any more: what no poll has taken.
    pub(crate) fn end_polling(mut self) -> Vec<Packet> {
        let chunks = std::mem::take(&mut self.chunks);
        self.put(&Packet::Noop);
        self.answer_poll();
        let limits = payload::Limits { packets_max: usize::MAX, bytes_max: usize::MAX };
        // Our own words: there is no wrong one among them.
        payload::decode(join(chunks), limits).flatten().collect()
    }

    /// Closes the connection that wanted to take over.
    pub(crate) fn drop_probe(&mut self) {
        if let Some(line) = self.probe.take() {
            line.abandon();
        }
    }

    /// The session is over: `word` is the last one the client hears.
    pub(crate) fn end(mut self, word: &Packet) {
        self.put(word);
        self.answer_poll();
    }
}

/// A body of all chunks; one that is alone is not copied.
fn join(mut chunks: Vec<Bytes>) -> Bytes {
    if chunks.len() == 1 {
        return chunks.swap_remove(0);
    }
    let mut body = BytesMut::with_capacity(chunks.iter().map(|chunk| chunk.len() + 1).sum());
    for chunk in chunks {
        if !body.is_empty() {
            body.put_u8(payload::SEPARATOR);
        }
        body.put_slice(&chunk);
    }
    body.freeze()
}
