//! WebSocket: the handshake, and the connection as a [`Pipe`].
//!
//! A connection has no buffer while nothing is under way: what comes is read into the stack first, and what goes is
//! written from where it lies.

pub(crate) mod frame;

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tungstenite::handshake::derive_accept_key;
use twinlane::events::peer::Handshake;

use crate::engine_io::{Data, Packet};
use crate::http::Peer;
use crate::pipe::{End, Pipe, PipeError, Writer};
use crate::refusal::Refusal;
use crate::shared::{Carrier, Handle, Shared};
use crate::socket_io::Framing;
use crate::stream::Stream;
use crate::webtransport;
use frame::{Decoder, Incoming as Frame, Limits};

/// What one read takes from the socket.
const READ_BYTES: usize = 16 << 10;
/// Answers to pings that wait for the socket at most: the client asks faster than it listens.
const PONGS_MAX: usize = 16;
/// The client sent what no packet is (RFC 6455: a message that violates the endpoint's policy).
const CLOSE_POLICY: u16 = 1008;

/// Opens a session over a WebSocket.
pub(crate) fn open(
    shared: &Arc<Shared>,
    handshake: Handshake,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    upgrade(shared, request, |shared, stream, read_ahead| {
        let pipe = Box::new(WebSocket::new(stream, read_ahead, shared.options.max_payload_bytes));
        if let Err(refusal) = shared.open_pipe(pipe, Carrier::WebSocket, handshake) {
            shared.counters.refused(&refusal);
        }
    })
}

/// Offers a WebSocket to a session that polls.
pub(crate) fn probe(
    shared: &Arc<Shared>,
    handle: Arc<Handle>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    if !shared.options.allow_upgrades {
        return Err(Refusal::BadRequest);
    }
    upgrade(shared, request, move |shared, stream, read_ahead| {
        let pipe = WebSocket::new(stream, read_ahead, shared.options.max_payload_bytes);
        handle.offer(Box::new(pipe));
    })
}

/// Hands a WebSocket to the engine: its binary messages hold the native protocol.
pub(crate) fn native(
    shared: &Arc<Shared>,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    upgrade(shared, request, move |shared, stream, read_ahead| {
        if let Some(engine) = &shared.options.native {
            // Fast messages wait in the engine, where they can be replaced, and not in the system.
            twinlane::gateway::keep_short(stream.tcp());
            webtransport::native::serve_websocket(engine, stream, read_ahead, peer.address);
        }
    })
}

/// Makes a request's connection a WebSocket, and hands it to `taken` with what was read ahead.
fn upgrade(
    shared: &Arc<Shared>,
    mut request: Request<Incoming>,
    taken: impl FnOnce(&Arc<Shared>, Stream, Bytes) + Send + 'static,
) -> Result<Response<Body>, Refusal> {
    let response = switch(&request)?;
    let (shared, upgrade) = (Arc::clone(shared), hyper::upgrade::on(&mut request));
    tokio::spawn(async move {
        if let Some((stream, read_ahead)) = upgraded(&shared, upgrade).await {
            taken(&shared, stream, read_ahead);
        }
    });
    Ok(response)
}

/// The answer that makes a request's connection a WebSocket.
fn switch(request: &Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let headers = request.headers();
    let is_websocket = request.method() == Method::GET
        && has_token(headers, header::CONNECTION, "upgrade")
        && has_token(headers, header::UPGRADE, "websocket")
        && headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    // 16 bytes in base64.
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24);
    let (true, Some(key)) = (is_websocket, key) else { return Err(Refusal::BadRequest) };
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).map_err(|_| Refusal::BadRequest)?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

/// Whether a list of tokens has this one.
fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name);
    let texts = values.iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).any(|other| other.trim().eq_ignore_ascii_case(token))
}

/// The connection and what was read ahead, once HTTP has let go of it.
async fn upgraded(shared: &Shared, upgrade: OnUpgrade) -> Option<(Stream, Bytes)> {
    let upgraded = tokio::time::timeout(shared.options.http.header_timeout, upgrade).await.ok()?.ok()?;
    let parts = upgraded.downcast::<TokioIo<Stream>>().expect("all connections are served over this type");
    Some((parts.io.into_inner(), parts.read_buf))
}

/// Appends a packet as one frame.
pub(crate) fn put_packet(packet: &Packet, frames: &mut BytesMut) {
    match packet {
        Packet::Message(data @ Data::Binary(_)) => frame::put_message(data, frames),
        packet => {
            let mut text = BytesMut::new();
            packet.encode_text(&mut text);
            frame::put_message(&Data::Text(text.freeze()), frames);
        }
    }
}

/// A WebSocket that carries Engine.IO packets.
pub(crate) struct WebSocket<S> {
    socket: S,
    decoder: Decoder,
    /// What is received and not decoded; empty most of the time.
    received: BytesMut,
    received_bytes: u64,
    /// Pings answered since all was sent.
    pongs: usize,
    /// Nothing is read or said any more.
    ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> WebSocket<S> {
    /// Carries packets over `socket`, whose first bytes are `read_ahead`.
    pub(crate) fn new(socket: S, read_ahead: Bytes, message_bytes_max: usize) -> Self {
        let limits = Limits { message_bytes_max, ..Limits::default() };
        let received_bytes = read_ahead.len() as u64;
        let received = read_ahead.into();
        Self { socket, decoder: Decoder::new(limits), received, received_bytes, pongs: 0, ended: false }
    }

    /// Reads what there is; `false` at the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut bytes = [const { MaybeUninit::uninit() }; READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut bytes);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer))?;
        let read = buffer.filled();
        self.received_bytes += read.len() as u64;
        self.received.extend_from_slice(read);
        Poll::Ready(Ok(!read.is_empty()))
    }

    /// The next packet in what was received.
    fn decode(&mut self, writer: &mut Writer) -> Result<Option<Packet>, PipeError> {
        while !self.ended {
            let frame = self.decoder.decode(&mut self.received).map_err(|error| {
                self.put_close(error.close_code(), writer);
                PipeError::Transport(error.to_string())
            })?;
            match frame {
                Some(Frame::Message(Data::Text(text))) => return Ok(Some(Packet::decode_text(text)?)),
                Some(Frame::Message(Data::Binary(data))) => return Ok(Some(Packet::decode_binary(data))),
                Some(Frame::Ping(data)) => self.put_pong(&data, writer)?,
                Some(Frame::Pong(_)) => {}
                Some(Frame::Close(code)) => self.put_close(code.unwrap_or(frame::CLOSE_NORMAL), writer),
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    fn put_pong(&mut self, data: &[u8], writer: &mut Writer) -> Result<(), PipeError> {
        if writer.is_done() {
            self.pongs = 0;
        }
        self.pongs += 1;
        if self.pongs > PONGS_MAX {
            return Err(PipeError::Transport("pings faster than their answers are read".into()));
        }
        let mut frames = BytesMut::new();
        frame::put_pong(data, &mut frames);
        writer.push(frames.freeze());
        Ok(())
    }

    fn put_close(&mut self, code: u16, writer: &mut Writer) {
        if !self.ended {
            self.ended = true;
            let mut frames = BytesMut::new();
            frame::put_close(code, &mut frames);
            writer.push(frames.freeze());
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Pipe for WebSocket<S> {
    fn framing(&self) -> Framing {
        Framing::WebSocket
    }

    fn poll_packet(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut Writer,
    ) -> Poll<Option<Result<Packet, PipeError>>> {
        loop {
            if !self.received.is_empty() {
                match self.decode(writer) {
                    Ok(Some(packet)) => return Poll::Ready(Some(Ok(packet))),
                    Ok(None) if self.ended => return Poll::Ready(None),
                    Ok(None) => {}
                    Err(error) => return Poll::Ready(Some(Err(error))),
                }
            }
            if self.received.is_empty() {
                // The memory goes with the last message that lies in it.
                self.received = BytesMut::new();
            }
            match ready!(self.poll_read(cx)) {
                Ok(true) => {}
                Ok(false) => return Poll::Ready(None),
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    fn put(&mut self, packet: &Packet, writer: &mut Writer) {
        if self.ended {
            return;
        }
        let mut frames = BytesMut::new();
        put_packet(packet, &mut frames);
        writer.push(frames.freeze());
    }

    fn put_end(&mut self, end: End, writer: &mut Writer) {
        let code = match end {
            End::Normal => frame::CLOSE_NORMAL,
            End::GoingAway => frame::CLOSE_GOING_AWAY,
            End::Protocol => CLOSE_POLICY,
        };
        self.put_close(code, writer);
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match slices {
            // One event to one client is the most common write, and cheaper without a list.
            [slice] => Pin::new(&mut self.socket).poll_write(cx, slice),
            slices => Pin::new(&mut self.socket).poll_write_vectored(cx, slices),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.received.clear();
            match ready!(self.poll_read(cx)) {
                Ok(true) => {}
                Ok(false) | Err(_) => return Poll::Ready(()),
            }
        }
    }

    fn take_received_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.received_bytes)
    }
}
