//! Reads a connection's stream: bytes in, control frames and runs of messages out.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf, ReadHalf};
use twinlane_proto::Code;
use twinlane_proto::frame::{Decoder, Item};
use twinlane_proto::limits::{FRAME_BYTES_MAX, FRAME_BYTES_MAX_BEFORE_WELCOME};
use twinlane_proto::session::{Input, Phase};

use super::read_buffer::ReadBuffer;
use super::{Closing, Link, Piece};
use crate::lock::lock;
use crate::transport::{Stream, activity};

pub(super) async fn run(link: Arc<Link>, stream: ReadHalf<Stream>) {
    let mut reader = Reader {
        link,
        stream,
        buffer: ReadBuffer::default(),
        decoder: Decoder::stream(FRAME_BYTES_MAX_BEFORE_WELCOME),
    };
    let link = Arc::clone(&reader.link);
    let closing = tokio::select! {
        closing = reader.read_all() => closing,
        () = link.wait_over() => Closing::new(Code::Normal, ""),
    };
    if closing.code != Code::Normal {
        // The peer hears why, if it still listens; the writer then ends the link.
        link.close(closing.code, &closing.reason);
    }
    link.reader_done(closing).await;
}

struct Reader {
    link: Arc<Link>,
    stream: ReadHalf<Stream>,
    buffer: ReadBuffer,
    decoder: Decoder,
}

impl Reader {
    async fn read_all(&mut self) -> Closing {
        loop {
            match std::future::poll_fn(|cx| self.poll_read(cx)).await {
                Ok(0) => return Closing::new(Code::Normal, "the peer closed the connection"),
                Ok(_) => {}
                Err(error) => return Closing::new(Code::Normal, error.to_string()),
            }
            activity();
            if let Err(closing) = self.decode() {
                return closing;
            }
            self.buffer.release_if_empty();
        }
    }

    /// Reads once. While nothing arrives, no memory is held.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        let mut room = ReadBuf::new(self.buffer.room(self.decoder.bytes_wanted()));
        let polled = Pin::new(&mut self.stream).poll_read(cx, &mut room);
        let bytes = room.filled().len();
        if polled.is_pending() {
            self.buffer.release_if_empty();
        }
        ready!(polled)?;
        self.buffer.received(bytes);
        Poll::Ready(Ok(bytes))
    }

    /// Hands on everything complete that was received.
    fn decode(&mut self) -> Result<(), Closing> {
        self.link.traffic();
        loop {
            let item = self
                .decoder
                .next(self.buffer.filled())
                .map_err(|error| Closing::new(Code::ProtocolViolation, error.to_string()))?;
            let Some(item) = item else { return Ok(()) };
            let consumed = item.consumed();
            let is_control = matches!(item, Item::Control(_));
            dispatch(&self.link, item, self.decoder.ends())?;
            self.buffer.consume(consumed);
            if is_control {
                self.adopt_limits()?;
            }
        }
    }

    /// After the handshake frames may be as large as agreed; after a goodbye nothing more is read.
    fn adopt_limits(&mut self) -> Result<(), Closing> {
        let state = lock(&self.link.state);
        match state.session.phase() {
            Phase::Ready => self.decoder.set_frame_bytes_max(FRAME_BYTES_MAX),
            Phase::Closed => {
                return Err(state.closing.clone().unwrap_or_else(|| Closing::new(Code::Normal, "")));
            }
            Phase::Opening | Phase::Deciding => {}
        }
        Ok(())
    }
}

/// One item, from a stream or from a datagram.
pub(super) fn dispatch(link: &Arc<Link>, item: Item<'_>, ends: &[u32]) -> Result<(), Closing> {
    match item {
        Item::Control(frame) => {
            link.input(Input::Control(frame));
            Ok(())
        }
        Item::Frames { run, first, bytes, .. } => {
            link.peer.frames(link, Piece { lane: run.lane, topic: run.topic, first, bytes, ends })
        }
    }
}
