//! The console: a page that shows what the server does, and lets its operator publish and watch.
//!
//! It answers this machine only, and only with its own token; clients' tokens do not open it. What it may do is what an
//! in-process session may do: publish and subscribe. It changes no setting and ends no session.
//!
//! | request | answer |
//! |---|---|
//! | `GET /console/` and its files | the page; needs no token, and says nothing without one |
//! | `GET /console/api/status` | [`EngineStatus`] as `server`, and what else is [shown](Console::show) |
//! | `POST /console/api/publish` | `{topic, text, key?}` → `{seq, offset, channel}` |
//! | `GET /console/api/subscribe?topic=FILTER` | `text/event-stream`: `message`, `gap`, `second`, `end` |

mod publish;
mod subscribe;
mod token;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use twinlane::{Engine, EngineStatus, Session};

use crate::pages::{self, File, Peer};
pub use token::Token;

/// Where the console is.
const FOLDER: &str = "/console/";
/// What the page shows in one go is bounded: a status of everything may be tens of megabytes each second.
const TOPICS_MAX: usize = 1_000;
const SESSIONS_MAX: usize = 500;
const QUEUES_MAX: usize = 500;
const SUBSCRIBERS_MAX: usize = 100;
/// Subscriptions at a time: a person has a few tabs.
const SUBSCRIPTIONS_MAX: usize = 16;

const FILES: &[File] = &[
    ("index.html", include_bytes!("../../console/index.html")),
    ("style.css", include_bytes!("../../console/style.css")),
    ("console.js", include_bytes!("../../console/console.js")),
    ("api.js", include_bytes!("../../console/api.js")),
    ("charts.js", include_bytes!("../../console/charts.js")),
    ("rates.js", include_bytes!("../../console/rates.js")),
    ("tables.js", include_bytes!("../../console/tables.js")),
    ("words.js", include_bytes!("../../console/words.js")),
    ("icon.svg", include_bytes!("../../console/icon.svg")),
];

/// A console for one engine. Cheap to clone; all clones are the same console.
///
/// ```
/// use twinlane::{Engine, EngineConfig};
/// use twinlane_gateway::console::{Console, Token};
///
/// let engine = Engine::new(EngineConfig::default())?;
/// let console = Console::new(&engine, Token::generate());
/// let pages = console.router(); // for `GatewayOptions::pages`
/// println!("{}", console.url("127.0.0.1:4780".parse()?, false));
/// # let _ = pages;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Console {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Engine,
    session: Session,
    token: Token,
    parts: Mutex<BTreeMap<&'static str, Part>>,
    subscriptions: Arc<Semaphore>,
    /// Whether the console is closed.
    closed: watch::Sender<bool>,
}

/// Asked for its status each time.
type Part = Arc<dyn Fn() -> Value + Send + Sync>;

impl Console {
    /// A console that opens with `token`.
    #[must_use]
    pub fn new(engine: &Engine, token: Token) -> Self {
        let shared = Shared {
            engine: engine.clone(),
            session: Session::local(engine),
            token,
            parts: Mutex::default(),
            subscriptions: Arc::new(Semaphore::new(SUBSCRIPTIONS_MAX)),
            closed: watch::Sender::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Shows what `status` says as part `name` of the status; the page knows `events` and `gateway`.
    pub fn show<S: Serialize>(&self, name: &'static str, status: impl Fn() -> S + Send + Sync + 'static) {
        // What cannot be written as JSON is shown as absent.
        let part = move || serde_json::to_value(status()).unwrap_or_default();
        self.shared.parts().insert(name, Arc::new(part));
    }

    /// The console under `/console/`.
    pub fn router(&self) -> Router {
        let api = Router::new()
            .route("/console/api/status", get(status))
            .route("/console/api/publish", post(publish::publish))
            .route("/console/api/subscribe", get(subscribe::subscribe))
            .route_layer(from_fn_with_state(Arc::clone(&self.shared), authorize))
            .with_state(Arc::clone(&self.shared));
        pages::files(FOLDER, FILES).merge(api).route_layer(from_fn(only_this_machine))
    }

    /// Ends all subscriptions, so that nobody who watches keeps a gateway from shutting down.
    pub fn close(&self) {
        self.shared.closed.send_replace(true);
    }

    /// The address that opens the console, token included, where the gateway listens on `addr`, with TLS or without.
    #[must_use]
    pub fn url(&self, addr: SocketAddr, is_secure: bool) -> String {
        let scheme = if is_secure { "https" } else { "http" };
        let ip = match addr.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let addr = SocketAddr::new(ip, addr.port());
        format!("{scheme}://{addr}{FOLDER}#token={}", self.shared.token.reveal())
    }
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").field("engine", &self.shared.engine).finish_non_exhaustive()
    }
}

impl Shared {
    fn parts(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody reaches the console from another machine, token or not.
async fn only_this_machine(request: Request, next: Next) -> Response {
    match request.extensions().get::<Peer>() {
        Some(Peer(peer)) if peer.ip().to_canonical().is_loopback() => next.run(request).await,
        _ => problem(StatusCode::FORBIDDEN, "the console answers its own machine only"),
    }
}

async fn authorize(State(console): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
    if given.is_some_and(|given| console.token.admits(given)) {
        return next.run(request).await;
    }
    let mut response =
        problem(StatusCode::UNAUTHORIZED, "the console needs the token that the server printed");
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

async fn status(State(console): State<Arc<Shared>>) -> Response {
    let mut all = serde_json::Map::new();
    all.insert("server".to_owned(), json!(shortened(console.engine.status())));
    let parts: Vec<_> =
        console.parts().iter().map(|(name, part)| ((*name).to_owned(), Arc::clone(part))).collect();
    all.extend(parts.into_iter().map(|(name, part)| (name, part())));
    answer(StatusCode::OK, &Value::Object(all))
}

/// The busiest topics stay; totals stay true.
fn shortened(mut status: EngineStatus) -> EngineStatus {
    if TOPICS_MAX < status.topics.len() {
        status.topics.sort_by_key(|topic| std::cmp::Reverse(topic.next));
        status.topics.truncate(TOPICS_MAX);
    }
    status.topics.iter_mut().for_each(|topic| topic.subscribers.truncate(SUBSCRIBERS_MAX));
    status.sessions.truncate(SESSIONS_MAX);
    status.queues.truncate(QUEUES_MAX);
    status
}

/// `{"error": …}`: what was wrong with the request, or the server.
fn problem(status: StatusCode, error: &str) -> Response {
    answer(status, &json!({ "error": error }))
}

fn answer(status: StatusCode, value: &Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    pages::protect(response.headers_mut());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
