//! Reads a connection's stream: bytes in, control frames and runs of messages out.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Buf;
use tokio::io::ReadHalf;
use twinlane_proto::Code;
use twinlane_proto::frame::{Decoder, Item};
use twinlane_proto::limits::{FRAME_BYTES_MAX, FRAME_BYTES_MAX_BEFORE_WELCOME};
use twinlane_proto::session::{Input, Phase};

use super::read_buffer::ReadBuffer;
use super::{Closing, Link, Piece};
use crate::lock::lock;
use crate::transport::{Stream, activity};

/// Bytes read before they are decoded, if they are there already: larger runs cost less per message.
const TURN_BYTES: usize = 64 << 10;

pub(super) async fn run(link: Arc<Link>, stream: ReadHalf<Stream>) {
    let mut reader = Reader {
        link,
        stream,
        buffer: ReadBuffer::default(),
        decoder: Decoder::stream(FRAME_BYTES_MAX_BEFORE_WELCOME),
        end: None,
    };
    let link = Arc::clone(&reader.link);
    let closing = tokio::select! {
        biased;
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
    /// How the stream ended, while what came before is decoded.
    end: Option<std::io::Result<usize>>,
}

impl Reader {
    async fn read_all(&mut self) -> Closing {
        loop {
            match std::future::poll_fn(|cx| self.poll_read(cx)).await {
                Ok(0) => return Closing::new(Code::Normal, "the peer closed the connection"),
                Ok(_) => {}
                Err(error) => return Closing::new(Code::Normal, error.to_string()),
            }
            if let Err(closing) = self.decode() {
                return closing;
            }
            self.buffer.release_if_empty();
            self.link.answers_read().await;
        }
    }

    /// Reads what is there, up to a turn. While nothing arrives, no memory is held.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        if let Some(end) = self.end.take() {
            return Poll::Ready(end);
        }
        let mut read_bytes = 0;
        while read_bytes < TURN_BYTES {
            match self.buffer.poll_read(cx, &mut self.stream, self.decoder.bytes_wanted()) {
                Poll::Ready(Ok(bytes @ 1..)) => {
                    read_bytes += bytes;
                    if self.buffer.has_room() {
                        // That was all there is: to hear it said would take as long as a small message does.
                        break;
                    }
                }
                Poll::Ready(end) if read_bytes == 0 => return Poll::Ready(end),
                Poll::Ready(end) => {
                    self.end = Some(end);
                    break;
                }
                Poll::Pending if read_bytes == 0 => {
                    self.buffer.release_if_empty();
                    return Poll::Pending;
                }
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(read_bytes))
    }

    /// Hands on everything complete that was received.
    fn decode(&mut self) -> Result<(), Closing> {
        self.link.traffic();
        loop {
            let item = self.decoder.next(self.buffer.filled());
            match item.map_err(|error| Closing::new(Code::ProtocolViolation, error.to_string()))? {
                Some(Item::Control(frame)) => {
                    self.link.input(Input::Control(frame));
                    let frame_bytes = frame.len();
                    self.buffer.skip(frame_bytes);
                    self.adopt_limits()?;
                }
                Some(item @ Item::Frames { run, first, bytes, .. }) => {
                    activity();
                    let (consumed, run_bytes) = (item.consumed(), bytes.len());
                    let mut bytes = self.buffer.take(consumed);
                    bytes.advance(consumed - run_bytes);
                    let piece =
                        Piece { lane: run.lane, topic: run.topic, first, bytes, ends: self.decoder.ends() };
                    self.link.peer.frames(&self.link, piece)?;
                }
                Some(Item::Fragment(_)) => unreachable!("the decoder takes fragments in datagrams only"),
                None => return Ok(()),
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
