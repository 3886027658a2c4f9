//! From an HTTP/3 connection to a WebTransport session with its first stream, and for Engine.IO to its first packet.

use std::sync::Arc;
use std::time::SystemTime;

use twinlane::events::peer::Handshake;
use twinlane::gateway::H3Connection;
use web_transport_quinn::http::StatusCode;
use web_transport_quinn::http::header::ORIGIN;
use web_transport_quinn::proto::Frame;
use web_transport_quinn::quinn::{Connection, ReadExactError, RecvStream, SendStream};
use web_transport_quinn::{Request, Session};

use super::OPENING_DEADLINE;
use super::native::NATIVE_PATH;
use super::stream_pipe::StreamPipe;
use crate::engine_io::Packet;
use crate::origin::Verdict;
use crate::query::Query;
use crate::refusal::Refusal;
use crate::shared::{Carrier, Shared};

/// The session's number: that of the stream of its CONNECT, a connection's first.
const SESSION: u64 = 0;
/// What its datagrams begin with: a fourth of that number.
pub(super) const DATAGRAM_PREFIX: &[u8] = &[0];

/// A session whose client opened its first stream.
pub(super) struct Opening {
    pub(super) session: Session,
    pub(super) stream: (SendStream, RecvStream),
    pub(super) purpose: Purpose,
}

/// What a session is for.
pub(super) enum Purpose {
    Native,
    EngineIo(Box<Handshake>),
}

/// Why there is no session.
pub(super) enum Refused {
    /// The client was answered.
    Told(Refusal),
    /// It broke off, or speaks something else.
    Broken(String),
}

impl Opening {
    /// The caller bounds the time.
    pub(super) async fn of(shared: &Shared, connection: &H3Connection) -> Result<Self, Refused> {
        let quic = connection.quic();
        let request = Request::accept(quic.clone()).await.map_err(broken)?;
        let purpose = match admit(shared, connection, &request) {
            Ok(purpose) => purpose,
            Err(refusal) => {
                tracing::debug!(%refusal, peer = %connection.peer(), "a WebTransport session is refused");
                let status = match refusal {
                    Refusal::UnknownTransport => StatusCode::NOT_FOUND,
                    _ => StatusCode::FORBIDDEN,
                };
                request.reject(status).await.map_err(broken)?;
                return Err(Refused::Told(refusal));
            }
        };
        let session = request.ok().await.map_err(broken)?;
        let stream = first_stream(quic).await?;
        Ok(Self { session, stream, purpose })
    }
}

/// Reads the first packet of a client of Engine.IO: it opens a session, or names the one that it wants to carry.
pub(super) async fn first_packet(
    shared: &Arc<Shared>,
    connection: H3Connection,
    session: Session,
    stream: (SendStream, RecvStream),
    handshake: Handshake,
) {
    let bytes_max = shared.options.max_payload_bytes;
    let mut pipe = Box::new(StreamPipe::new(session, stream, bytes_max, connection));
    let first = tokio::time::timeout(OPENING_DEADLINE, std::future::poll_fn(|cx| pipe.poll_next(cx))).await;
    let Ok(Some(Ok(Packet::Open(wish)))) = first else {
        // Dropping it ends the session.
        return shared.counters.refused(&Refusal::BadRequest);
    };
    let opened = match sid(&wish) {
        Ok(None) => shared.open_pipe(pipe, Carrier::WebTransport, handshake),
        Ok(Some(sid)) if shared.options.allow_upgrades => shared.find(&sid).map(|handle| handle.offer(pipe)),
        Ok(Some(_)) => Err(Refusal::BadRequest),
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = opened {
        shared.counters.refused(&refusal);
    }
}

/// The session that a client's first packet names.
fn sid(wish: &[u8]) -> Result<Option<String>, Refusal> {
    #[derive(serde::Deserialize)]
    struct Wish {
        sid: String,
    }
    if wish.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice::<Wish>(wish).map(|wish| Some(wish.sid)).map_err(|_| Refusal::BadRequest)
}

fn admit(shared: &Shared, connection: &H3Connection, request: &Request) -> Result<Purpose, Refusal> {
    let verdict = judge(shared, request);
    if !verdict.allowed() {
        return Err(Refusal::ForeignOrigin);
    }
    let path = request.url.path();
    if path == NATIVE_PATH {
        return Ok(Purpose::Native);
    }
    if !shared.options.path.strip_prefix(path).is_some_and(|rest| matches!(rest, "" | "/")) {
        return Err(Refusal::UnknownTransport);
    }
    let handshake = handshake(connection, verdict, request);
    if let Some(rule) = &shared.options.allow_request {
        rule(&handshake).map_err(Refusal::NotAllowed)?;
    }
    Ok(Purpose::EngineIo(Box::new(handshake)))
}

/// A page has the gateway's port in its origin and QUIC's in its request: either is the same host.
fn judge(shared: &Shared, request: &Request) -> Verdict {
    let origin = request.headers.get(ORIGIN).map(|origin| origin.to_str().unwrap_or_default());
    let judge = |host: &str| shared.options.origins.judge(origin, Some(host), shared.on_loopback);
    let verdict = judge(request.url.authority());
    let Some(host) = request.url.host_str().filter(|_| verdict != Verdict::Own) else { return verdict };
    match judge(&format!("{host}:{}", shared.port)) {
        Verdict::Own => Verdict::Own,
        _ => verdict,
    }
}

fn handshake(connection: &H3Connection, verdict: Verdict, request: &Request) -> Handshake {
    let url = &request.url;
    let headers = request
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    Handshake {
        address: Some(connection.peer()),
        headers: headers.chain([("host".to_owned(), url.authority().to_owned())]).collect(),
        query: Query::parse(url.query().unwrap_or_default()).into_pairs(),
        url: match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        },
        secure: true,
        cross_origin: verdict != Verdict::Own,
        issued: SystemTime::now(),
    }
}

/// The client's first stream of the session, behind its header. Requests for anything else are let go.
async fn first_stream(quic: &Connection) -> Result<(SendStream, RecvStream), Refused> {
    loop {
        let (send, mut recv) = quic.accept_bi().await.map_err(broken)?;
        let kind = number(&mut recv).await.map_err(broken)?;
        if kind != Frame::WEBTRANSPORT.0.into_inner() {
            continue;
        }
        if number(&mut recv).await.map_err(broken)? == SESSION {
            return Ok((send, recv));
        }
    }
}

/// A number in QUIC's encoding: the first two bits say in how many bytes it is.
async fn number(recv: &mut RecvStream) -> Result<u64, ReadExactError> {
    let mut bytes = [0; 8];
    recv.read_exact(&mut bytes[..1]).await?;
    let length = 1 << (bytes[0] >> 6);
    recv.read_exact(&mut bytes[1..length]).await?;
    let first = u64::from(bytes[0] & 0x3f);
    Ok(bytes[1..length].iter().fold(first, |number, byte| number << 8 | u64::from(*byte)))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn broken(why: impl ToString) -> Refused {
    Refused::Broken(why.to_string())
}
