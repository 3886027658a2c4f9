//! A WebSocket as a byte stream: what its binary messages hold, one after the other.
//!
//! Where a message ends means nothing. Pings are answered here; text is refused. Nothing is timed out: the protocol
//! inside looks after that.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::engine_io::Data;
use crate::websocket::frame::{self, Decoder, Incoming, Limits, Opcode};

/// Bytes of one message to a client. What waits here can no longer be replaced by something newer, so it is little.
const MESSAGE_BYTES_MAX: usize = 16 << 10;
/// Answers to pings that wait for the socket; a client that asks for more is cut off.
const ANSWERS_BYTES_MAX: usize = 16 << 10;
/// Room for one read.
const READ_BYTES: usize = 16 << 10;
/// A message of a kind that this is not for (RFC 6455).
const CLOSE_UNSUPPORTED: u16 = 1003;

/// The bytes in a WebSocket's binary messages.
pub(super) struct MessageStream<S> {
    socket: S,
    decoder: Decoder,
    received: BytesMut,
    /// What is left of the message that is being read.
    message: Bytes,
    /// Frames that the socket did not take yet.
    unsent: BytesMut,
    /// The reader is the one who waits for the socket to take them.
    reader_sends: bool,
    /// The client said that it is done, or must go.
    ended: bool,
    /// The last frame is said.
    closed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> MessageStream<S> {
    pub(super) fn new(socket: S, read_ahead: Bytes) -> Self {
        Self {
            socket,
            decoder: Decoder::new(Limits::default()),
            received: read_ahead.into(),
            message: Bytes::new(),
            unsent: BytesMut::new(),
            reader_sends: false,
            ended: false,
            closed: false,
        }
    }

    /// Takes what the client sent, up to the next message with something in it.
    fn decode(&mut self) -> io::Result<()> {
        while self.message.is_empty() && !self.ended {
            let decoded = match self.decoder.decode(&mut self.received) {
                Ok(Some(decoded)) => decoded,
                Ok(None) => break,
                Err(error) => {
                    self.close(error.close_code());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            };
            match decoded {
                Incoming::Message(Data::Binary(message)) => self.message = message,
                Incoming::Message(Data::Text(_)) => {
                    self.close(CLOSE_UNSUPPORTED);
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "text in a connection of binary messages",
                    ));
                }
                Incoming::Ping(data) => self.answer(&data)?,
                Incoming::Pong(_) => {}
                Incoming::Close(_) => {
                    self.ended = true;
                    self.close(frame::CLOSE_NORMAL);
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, ping: &[u8]) -> io::Result<()> {
        if self.unsent.len() > MESSAGE_BYTES_MAX + ANSWERS_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more pings than answers are read"));
        }
        self.say(|unsent| frame::put_pong(ping, unsent));
        Ok(())
    }

    fn close(&mut self, code: u16) {
        if !self.closed {
            self.closed = true;
            self.say(|unsent| frame::put_close(code, unsent));
        }
    }

    /// Adds a frame of the reader's own. Whoever writes sends it along; if nobody waits to, the reader does.
    fn say(&mut self, put: impl FnOnce(&mut BytesMut)) {
        self.reader_sends |= self.unsent.is_empty();
        put(&mut self.unsent);
    }

    /// Sends what is there. Pending: the socket wakes this task.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let sent_bytes = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.unsent))?;
            if sent_bytes == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.advance(sent_bytes);
        }
        // An idle connection holds no memory.
        self.unsent = BytesMut::new();
        self.reader_sends = false;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for MessageStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let decoded = this.decode();
            // While a writer waits the socket wakes that one, and there is only one it can wake.
            if this.reader_sends
                && let Poll::Ready(Err(error)) = this.poll_send(cx)
            {
                return Poll::Ready(Err(error));
            }
            decoded?;
            if !this.message.is_empty() {
                let bytes = this.message.len().min(buf.remaining());
                buf.put_slice(&this.message.split_to(bytes));
                return Poll::Ready(Ok(()));
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            let received_bytes = this.received.len();
            this.received.reserve(READ_BYTES);
            let read = read_once(&mut this.socket, cx, &mut this.received);
            if this.received.is_empty() {
                this.received = BytesMut::new();
            }
            ready!(read)?;
            this.ended = this.received.len() == received_bytes;
        }
    }
}

/// Reads once into the room behind `received`.
fn read_once(
    socket: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
    received: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    use tokio::io::AsyncReadExt as _;
    std::pin::pin!(socket.read_buf(received)).poll(cx)
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for MessageStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    /// Takes a message's worth when what was taken before is sent.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.reader_sends = false;
        ready!(this.poll_send(cx))?;
        if this.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let offered_bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        let message_bytes = offered_bytes.min(MESSAGE_BYTES_MAX);
        if message_bytes == 0 {
            return Poll::Ready(Ok(0));
        }
        frame::put_header(Opcode::Binary, message_bytes, &mut this.unsent);
        let mut left_bytes = message_bytes;
        for slice in slices {
            let taken = &slice[..slice.len().min(left_bytes)];
            this.unsent.extend_from_slice(taken);
            left_bytes -= taken.len();
        }
        // Taken is taken: what the socket does not take now goes with the next write or flush.
        match this.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(message_bytes)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.reader_sends = false;
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.reader_sends = false;
        if !this.closed {
            this.closed = true;
            frame::put_close(frame::CLOSE_NORMAL, &mut this.unsent);
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// A client's frame, masked as clients must.
    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        const MASK: [u8; 4] = [7, 5, 3, 1];
        let mut frame = vec![first];
        match payload.len() {
            short @ 0..126 => frame.push(0x80 | short as u8),
            long => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(long as u16).to_be_bytes());
            }
        }
        frame.extend_from_slice(&MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    fn binary(payload: &[u8]) -> Vec<u8> {
        masked(0x82, payload)
    }

    fn pair(pipe_bytes: usize) -> (DuplexStream, MessageStream<DuplexStream>) {
        let (client, server) = duplex(pipe_bytes);
        (client, MessageStream::new(server, Bytes::new()))
    }

    /// What the server sent, frame by frame: first byte and payload.
    fn frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut frames = Vec::new();
        while let [first, length, rest @ ..] = bytes {
            let (length, rest) = match length {
                126 => (u16::from_be_bytes([rest[0], rest[1]]).into(), &rest[2..]),
                short => (usize::from(*short), rest),
            };
            frames.push((*first, rest[..length].to_vec()));
            bytes = &rest[length..];
        }
        frames
    }

    #[tokio::test]
    async fn what_messages_hold_is_read_as_one_stream_wherever_they_are_cut() {
        let sent: Vec<u8> = (0..50_000_u32).map(|at| at as u8).collect();
        let bytes =
            [binary(&sent[..1]), binary(&[]), binary(&sent[1..40_000]), binary(&sent[40_000..])].concat();
        for chunk_bytes in [1_000, 4_096, bytes.len()] {
            let (mut client, mut server) = pair(1 << 20);
            let (ahead, rest) = bytes.split_at(3);
            server.received.extend_from_slice(ahead);
            for chunk in rest.chunks(chunk_bytes) {
                client.write_all(chunk).await.unwrap();
            }
            let mut received = vec![0; sent.len()];
            server.read_exact(&mut received).await.unwrap();
            assert_eq!(received, sent);
        }
    }

    #[tokio::test]
    async fn what_is_written_goes_in_binary_messages_of_bounded_size() {
        let (mut client, mut server) = pair(1 << 20);
        let sent: Vec<u8> = (0..50_000_u32).map(|at| at as u8).collect();
        server.write_all(&sent).await.unwrap();
        server.shutdown().await.unwrap();
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).await.unwrap();
        let mut frames = frames(&bytes);
        assert_eq!(frames.pop(), Some((0x88, vec![3, 0xe8])), "closed normally");
        assert!(frames.iter().all(|(first, payload)| *first == 0x82 && payload.len() <= MESSAGE_BYTES_MAX));
        assert_eq!(frames.into_iter().flat_map(|(_, payload)| payload).collect::<Vec<_>>(), sent);
    }

    #[tokio::test]
    async fn a_ping_is_answered_although_nobody_writes() {
        let (mut client, mut server) = pair(1 << 20);
        client.write_all(&[masked(0x89, b"there?"), binary(b"x")].concat()).await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'x');
        let mut answer = [0; 8];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"\x8a\x06there?");
    }

    #[tokio::test]
    async fn a_ping_while_the_socket_is_full_is_answered_behind_what_was_written() {
        let (mut client, mut server) = pair(64);
        let written = [7; 1_000];
        let writing = server.write(&written).await.unwrap();
        assert_eq!(writing, written.len(), "taken, and on its way");
        client.write_all(&[masked(0x89, b""), binary(b"x")].concat()).await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'x');
        let mut bytes = vec![0; 4 + written.len() + 2];
        let (flushed, read) = tokio::join!(server.flush(), client.read_exact(&mut bytes));
        flushed.unwrap();
        read.unwrap();
        assert_eq!(frames(&bytes), [(0x82, written.to_vec()), (0x8a, Vec::new())]);
    }

    #[tokio::test]
    async fn more_pings_than_answers_are_read_end_the_connection() {
        let (mut client, mut server) = pair(64);
        let flood = tokio::spawn(async move {
            let ping = masked(0x89, &[0; 125]);
            while client.write_all(&ping).await.is_ok() {}
        });
        let error = server.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        drop(server);
        flood.await.unwrap();
    }

    #[tokio::test]
    async fn a_clients_close_is_answered_and_is_the_end() {
        let (mut client, mut server) = pair(1 << 20);
        client.write_all(&masked(0x88, &[3, 0xe8])).await.unwrap();
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
        let mut answer = [0; 4];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [0x88, 2, 3, 0xe8]);
        assert!(server.write(b"more").await.is_err());
    }

    #[tokio::test]
    async fn text_and_broken_frames_are_refused_with_their_code() {
        for (wrong, code) in [(masked(0x81, b"text"), 1003_u16), (vec![0x82, 1, 0], 1002)] {
            let (mut client, mut server) = pair(1 << 20);
            client.write_all(&wrong).await.unwrap();
            assert_eq!(server.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
            let mut answer = [0; 4];
            client.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer[..2], [0x88, 2]);
            assert_eq!(answer[2..], code.to_be_bytes());
        }
    }

    #[tokio::test]
    async fn an_idle_connection_holds_no_memory() {
        let (mut client, mut server) = pair(1 << 20);
        client.write_all(&binary(b"x")).await.unwrap();
        server.read_u8().await.unwrap();
        server.write_all(b"y").await.unwrap();
        let idle = tokio::time::timeout(std::time::Duration::from_millis(1), server.read_u8()).await;
        assert!(idle.is_err(), "nothing more comes");
        assert_eq!((server.received.capacity(), server.unsent.capacity()), (0, 0));
    }
}
