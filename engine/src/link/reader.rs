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
/// Bytes read before whoever shares the thread has its turn. With a sender that never pauses the runtime alone would let
/// 16 MiB pass, and subscribers fall behind; with less than a write may carry, every subscriber's writes are smaller, and
/// a fan-out to 100 loses up to a seventh.
const SHARE_AFTER_BYTES: usize = 128 << 10;

pub(super) async fn run(link: Arc<Link>, stream: ReadHalf<Stream>) {
    let mut reader = Reader {
        link,
        stream,
        buffer: ReadBuffer::default(),
        decoder: Decoder::stream(FRAME_BYTES_MAX_BEFORE_WELCOME),
        end: None,
        unshared_bytes: 0,
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
    /// Read since others on the thread had their turn.
    unshared_bytes: usize,
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
            if SHARE_AFTER_BYTES <= self.unshared_bytes {
                self.unshared_bytes = 0;
                tokio::task::yield_now().await;
            }
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
                    self.unshared_bytes += bytes;
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
                    self.unshared_bytes = 0;
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use tokio::io::AsyncWriteExt;
    use twinlane_proto::control::{Auth, Hello, Purpose, Welcome};
    use twinlane_proto::frame::{MESSAGE_HEADER_BYTES, MessageHeader, RunHeader, encode_plain_head};
    use twinlane_proto::session::{Event, Session, SessionConfig};
    use twinlane_proto::{Control, VERSION};

    use super::super::Peer;
    use super::*;
    use crate::transport::Carrier;

    /// Lets everybody in and counts the bytes of messages.
    #[derive(Default)]
    struct Counting {
        read_bytes: AtomicUsize,
    }

    impl Peer for Counting {
        fn event(&self, link: &Arc<Link>, _: Event) {
            link.input(Input::Accept(Welcome {
                version: 0,
                capabilities: 0,
                session: [1; 16],
                secret: [2; 16],
                resumed: false,
                server: String::new(),
                ping_interval_ms: 0,
                frame_bytes_max: FRAME_BYTES_MAX as u32,
            }));
        }

        fn frames(&self, _: &Arc<Link>, piece: Piece<'_>) -> Result<(), Closing> {
            self.read_bytes.fetch_add(piece.bytes.len(), Ordering::Relaxed);
            Ok(())
        }

        fn datagrams_lost(&self, _: &Arc<Link>, _: &str) {}

        fn closed(&self, _: &Arc<Link>, _: &Closing) {}
    }

    #[tokio::test]
    async fn others_on_the_thread_have_their_turns_between_those_of_a_connection_that_never_pauses() {
        const ALL_BYTES: usize = 4 << 20;
        let (near, mut far) = tokio::io::duplex(2 * ALL_BYTES);
        let mut sent = hello();
        let run = run_of(1_000);
        let run_bytes = run.len() - twinlane_proto::frame::RUN_HEADER_BYTES;
        let runs = ALL_BYTES / run.len();
        sent.extend(run.repeat(runs));
        far.write_all(&sent).await.expect("the pipe takes it all");

        let peer = Arc::new(Counting::default());
        let stream =
            Stream::foreign(Box::new(near), Carrier::Tcp, "127.0.0.1:1".parse().expect("an address"));
        let session = Session::server(SessionConfig::default(), Instant::now());
        let _link = Link::spawn(stream, session, Arc::<Counting>::clone(&peer));
        let (mut longest_bytes, mut read_bytes) = (0, 0);
        while read_bytes < runs * run_bytes {
            tokio::task::yield_now().await;
            let now = peer.read_bytes.load(Ordering::Relaxed);
            longest_bytes = longest_bytes.max(now - read_bytes);
            read_bytes = now;
        }
        // The last read may bring as much as a buffer holds.
        let allowed_bytes = SHARE_AFTER_BYTES + 2 * TURN_BYTES;
        assert!(longest_bytes <= allowed_bytes, "{longest_bytes} bytes in one go");
    }

    fn hello() -> Vec<u8> {
        let mut frame = Vec::new();
        let hello = Hello {
            version_min: VERSION,
            version_max: VERSION,
            capabilities: 0,
            purpose: Purpose::Primary,
            client: String::new(),
            auth: Auth::None,
            resume: None,
        };
        Control::Hello(hello).try_encode(&mut frame).expect("a hello fits a frame");
        frame
    }

    /// A run of one message.
    fn run_of(payload_bytes: usize) -> Vec<u8> {
        let header = MessageHeader { topic: 0, source: 1, seq: 1, time_us: 0 };
        let mut head = [0; MESSAGE_HEADER_BYTES];
        encode_plain_head(&header, payload_bytes, &mut head).expect("the payload is small");
        let message = [&head[..], &vec![7; payload_bytes]].concat();
        let (frames, run_bytes) = (1, message.len() as u32);
        let header = RunHeader { lane: 1, topic: 1, first: 1, frames, run_bytes };
        [&header.encode()[..], &message].concat()
    }
}
