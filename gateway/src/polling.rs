//! HTTP long-polling: a GET waits for what is new, a POST says something.

use std::sync::Arc;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response};
use tokio::sync::oneshot;
use twinlane::events::peer::Handshake;

use crate::engine_io::payload;
use crate::mailbox::Request as Wish;
use crate::refusal::Refusal;
use crate::shared::{Carrier, Handle, Shared};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=UTF-8");

/// Opens a session.
pub(crate) fn open(shared: &Arc<Shared>, handshake: Handshake) -> Result<Response<Body>, Refusal> {
    let opening = shared.open_polling(handshake)?;
    let mut body = BytesMut::new();
    opening.encode_text(&mut body);
    shared.counters.sent(body.len() as u64);
    Ok(text(body.freeze()))
}

/// Waits for something new. What the session has said in a response that got lost on the way is not said again: the
/// client's library takes the connection for lost, too, and events are made up for when it comes back.
pub(crate) async fn poll(handle: &Handle) -> Result<Response<Body>, Refusal> {
    let (answer, body) = oneshot::channel();
    handle.request(Wish::Poll(answer))?;
    // No deadline of its own: the session's heartbeat answers, or ends it.
    body.await.map_err(|_| Refusal::BadRequest)?.map(text)
}

/// Hands on what the client says.
pub(crate) async fn post(
    shared: &Shared,
    handle: Arc<Handle>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    if handle.carrier() != Carrier::Polling {
        return Err(Refusal::BadRequest);
    }
    let bytes_max = shared.options.max_payload_bytes;
    if request.body().size_hint().lower() > bytes_max as u64 {
        return Err(Refusal::TooLarge);
    }
    let _posting = handle.begin_post()?;
    let body = Limited::new(request.into_body(), bytes_max).collect();
    let body = match tokio::time::timeout(shared.options.http.body_timeout, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(Refusal::TooLarge),
        Ok(Err(_)) => return Err(Refusal::BadRequest),
        Err(_) => return Err(Refusal::TooSlow),
    };
    shared.counters.received(body.len() as u64);
    let limits = payload::Limits { bytes_max, ..payload::Limits::default() };
    let (answer, done) = oneshot::channel();
    handle.request(Wish::Packets(payload::decode(body, limits), answer))?;
    done.await.map_err(|_| Refusal::BadRequest)??;
    Ok(text(Bytes::from_static(b"ok")))
}

fn text(body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, TEXT);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
