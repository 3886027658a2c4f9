//! Files that are part of the program, served as pages with the headers that keep foreign pages out.
//!
//! Nothing is read from disk, so no path can lead out of a directory; there is no templating and no compression.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::get;

/// The document that stands for its folder.
const INDEX: &str = "index.html";
/// A page loads what is its own, talks to its own server and is shown in no other page.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// One file: its name, as in `style.css`, and its content.
pub type File = (&'static str, &'static [u8]);

/// Who sent a request; the gateway puts it into the extensions of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Serves `files` under `folder`, which begins and ends with `/`; `index.html` is also the folder itself. They are
/// not kept by browsers, are loaded by no other page and load nothing from elsewhere.
///
/// ```
/// let pages = twinlane_gateway::pages::files("/hello/", &[("index.html", b"<!doctype html><p>Hello.")]);
/// # let _: twinlane_gateway::Router = pages;
/// ```
///
/// # Panics
///
/// If `folder` does not begin and end with `/`.
pub fn files(folder: &str, files: &'static [File]) -> Router {
    assert!(
        folder.starts_with('/') && folder.ends_with('/'),
        "a folder begins and ends with `/`: {folder:?}"
    );
    let mut router = Router::new();
    for (name, content) in files {
        let served = move || async move { file(name, content) };
        router = router.route(&format!("{folder}{name}"), get(served));
        if *name == INDEX {
            router = router.route(folder, get(served));
        }
    }
    match folder.strip_suffix('/') {
        None | Some("") => router,
        Some(bare) => {
            let folder = HeaderValue::from_str(folder).expect("a folder is given in plain letters");
            router.route(bare, get(move || async move { moved(folder.clone()) }))
        }
    }
}

/// Adds the headers that every answer to a page has.
pub(crate) fn protect(headers: &mut HeaderMap) {
    let same_origin = HeaderValue::from_static("same-origin");
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), same_origin.clone());
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), same_origin);
}

fn file(name: &str, content: &'static [u8]) -> Response {
    let mut response = Response::new(Body::from(content));
    protect(response.headers_mut());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type(name)));
    response
}

fn moved(to: HeaderValue) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    protect(response.headers_mut());
    response.headers_mut().insert(LOCATION, to);
    response
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.') {
        Some((_, "html")) => "text/html; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "js")) => "text/javascript; charset=utf-8",
        Some((_, "svg")) => "image/svg+xml",
        Some((_, "json")) => "application/json",
        _ => "application/octet-stream",
    }
}
