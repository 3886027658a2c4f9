//! HTTP requests: which are for Engine.IO, who may make them, and what they ask for.
//!
//! Sessions are opened here and their requests handed to them; what packets mean is not known here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tower_service::Service as _;
use twinlane::events::peer::Handshake;

use crate::origin::Verdict;
use crate::query::Query;
use crate::refusal::Refusal;
use crate::shared::Shared;
use crate::webtransport::Advertised;
use crate::webtransport::native::NATIVE_PATH;
use crate::{polling, websocket};

/// The version of Engine.IO that is spoken here.
const VERSION: &str = "4";
/// Where pages find out how to reach WebTransport.
const WEB_TRANSPORT_PATH: &str = "/twinlane/webtransport";
/// How long a browser may remember what is allowed.
const PREFLIGHT_SECONDS: &str = "600";

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) secure: bool,
}

/// Answers one request.
pub(crate) async fn answer(shared: Arc<Shared>, peer: Peer, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path();
    let is_ours = shared.options.path.strip_prefix(path).is_some_and(|rest| matches!(rest, "" | "/"));
    let is_native = shared.options.native.is_some() && path == NATIVE_PATH;
    let is_web_transport = shared.web_transport.get().is_some() && path == WEB_TRANSPORT_PATH;
    if !is_ours && !is_native && !is_web_transport {
        return page(&shared, peer, request).await;
    }
    shared.counters.request();
    let verdict = judge(&shared, request.headers());
    let origin = request.headers().get(header::ORIGIN).cloned();
    let asked_headers = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let result = if !verdict.allowed() {
        Err(Refusal::ForeignOrigin)
    } else if request.method() == Method::OPTIONS {
        Ok(preflight(asked_headers))
    } else if is_web_transport {
        Ok(web_transport(&shared))
    } else if is_native {
        websocket::native(&shared, peer, request)
    } else {
        engine_io(&shared, peer, verdict, request).await
    };
    let mut response = result.unwrap_or_else(|refusal| {
        shared.counters.refused(&refusal);
        tracing::debug!(%refusal, peer = %peer.address, "a request is refused");
        refusal.response()
    });
    allow_origin(verdict, origin, response.headers_mut());
    response
}

/// What is thought of the origin of a request with these headers.
fn judge(shared: &Shared, headers: &HeaderMap) -> Verdict {
    // A value that is no text is no origin that anybody allows.
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    shared.options.origins.judge(text(header::ORIGIN), text(header::HOST), shared.on_loopback)
}

async fn engine_io(
    shared: &Arc<Shared>,
    peer: Peer,
    verdict: Verdict,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let options = &shared.options;
    let is_websocket = match query.get("transport") {
        Some("polling") if options.polling => false,
        Some("websocket") if options.websocket => true,
        _ => return Err(Refusal::UnknownTransport),
    };
    if let Some(sid) = query.get("sid") {
        let handle = shared.find(sid)?;
        return match (is_websocket, request.method()) {
            (true, _) => websocket::probe(shared, handle, request),
            (false, &Method::GET) => polling::poll(&handle).await,
            (false, &Method::POST) => polling::post(shared, handle, request).await,
            (false, _) => Err(Refusal::BadRequest),
        };
    }
    if request.method() != Method::GET {
        return Err(Refusal::BadMethod);
    }
    if query.get("EIO") != Some(VERSION) {
        return Err(Refusal::UnsupportedVersion);
    }
    let handshake = handshake(peer, verdict, query, &request);
    if let Some(rule) = &options.allow_request {
        rule(&handshake).map_err(Refusal::NotAllowed)?;
    }
    match is_websocket {
        true => websocket::open(shared, handshake, request),
        false => polling::open(shared, handshake),
    }
}

fn handshake(peer: Peer, verdict: Verdict, query: Query, request: &Request<Incoming>) -> Handshake {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    Handshake {
        address: Some(peer.address),
        headers: request.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        query: query.into_pairs(),
        url: request.uri().to_string(),
        secure: peer.secure,
        cross_origin: verdict != Verdict::Own,
        issued: SystemTime::now(),
    }
}

/// Where WebTransport is, and its certificate's hash.
fn web_transport(shared: &Shared) -> Response<Body> {
    let json = shared.web_transport.get().map(Advertised::json).unwrap_or_default();
    let mut response = Response::new(Body::from(json.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn preflight(asked_headers: Option<HeaderValue>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    let methods = HeaderValue::from_static("GET, POST");
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(PREFLIGHT_SECONDS));
    if let Some(asked) = asked_headers {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked);
    }
    response
}

fn allow_origin(verdict: Verdict, origin: Option<HeaderValue>, headers: &mut HeaderMap) {
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    let (Verdict::Foreign { credentials }, Some(origin)) = (verdict, origin) else { return };
    let allowed = if credentials { origin } else { HeaderValue::from_static("*") };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    if credentials {
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

/// Other pages on the same port.
async fn page(shared: &Shared, peer: Peer, mut request: Request<Incoming>) -> Response<Body> {
    request.extensions_mut().insert(crate::pages::Peer(peer.address));
    let mut pages = shared.options.pages.clone();
    match pages.call(request.map(Body::new)).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
