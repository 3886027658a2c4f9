//! What all tasks of one gateway have in common: its options, its counters, and its sessions by their sid.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::task::AtomicWaker;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use twinlane::events::peer::Handshake;
use twinlane::events::{DisconnectReason, Events};

use crate::admission::{Admission, Permit};
use crate::application::Application;
use crate::driver::Driver;
use crate::engine_io::Packet;
use crate::line::Line;
use crate::mailbox::{Mailbox, REQUESTS_MAX, Request};
use crate::options::GatewayOptions;
use crate::pipe::Pipe;
use crate::refusal::Refusal;
use crate::session::{Session, Timing};
use crate::socket_io;
use crate::status::{Counters, GatewayStatus};
use crate::webtransport::Advertised;

/// Random bytes of a sid: too many to guess, and 20 characters as the reference has them.
const SID_BYTES: usize = 15;

/// What carries a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// HTTP long-polling.
    Polling,
    /// WebSocket.
    WebSocket,
    /// WebTransport.
    WebTransport,
}

/// How a gateway stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(crate) enum Stop {
    /// It does not.
    Not,
    /// When all is said.
    Soon,
    /// At once.
    Now,
}

/// What sessions talk to.
pub(crate) enum Source {
    /// The event layer.
    Events(Events),
    /// An echo, for tests of Engine.IO alone.
    Echo,
}

/// One gateway.
pub(crate) struct Shared {
    pub(crate) options: GatewayOptions,
    pub(crate) counters: Counters,
    /// Whether it listens on a loopback address.
    pub(crate) on_loopback: bool,
    /// The port that it listens on.
    pub(crate) port: u16,
    /// Where WebTransport is, if it is served.
    pub(crate) web_transport: OnceLock<Advertised>,
    /// TCP connections.
    pub(crate) connections: Arc<Admission>,
    /// Sessions: one that polls has a place here even when it has no connection.
    sessions_admitted: Arc<Admission>,
    source: Source,
    sessions: Mutex<HashMap<Box<str>, Arc<Handle>>>,
    /// The same as `stop`, cheap to look at.
    stop_now: AtomicU8,
    stop: watch::Sender<Stop>,
    /// One receiver for each task that is to end before the gateway has.
    tasks: watch::Sender<()>,
}

/// What a client is told first, in the reference's order.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Opening<'a> {
    sid: &'a str,
    upgrades: Vec<&'static str>,
    /// In milliseconds, as the next one.
    ping_interval: u64,
    ping_timeout: u64,
    max_payload: usize,
}

/// What others know of a session.
pub(crate) struct Handle {
    sid: Box<str>,
    carrier: AtomicU8,
    /// `None`: it never polled.
    requests: Option<mpsc::Sender<Request>>,
    /// A body is being read.
    is_posting: AtomicBool,
    /// Wakes the session's task.
    waker: AtomicWaker,
    _permit: Permit,
}

impl Shared {
    /// A gateway that listens on `addr`.
    pub(crate) fn new(options: GatewayOptions, addr: SocketAddr, source: Source) -> Arc<Self> {
        let http = options.http;
        Arc::new(Self {
            connections: Admission::new(http.connections_max, http.connections_per_ip_max),
            sessions_admitted: Admission::new(http.sessions_max, http.connections_per_ip_max),
            options,
            counters: Counters::default(),
            on_loopback: addr.ip().to_canonical().is_loopback(),
            port: addr.port(),
            web_transport: OnceLock::new(),
            source,
            sessions: Mutex::default(),
            stop_now: AtomicU8::new(Stop::Not as u8),
            stop: watch::Sender::new(Stop::Not),
            tasks: watch::Sender::new(()),
        })
    }

    pub(crate) fn status(&self) -> GatewayStatus {
        self.counters.read(self.connections.open())
    }

    /// Opens a session that polls; the answer to its first request.
    pub(crate) fn open_polling(self: &Arc<Self>, handshake: Handshake) -> Result<Packet, Refusal> {
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        let (handle, session, application) = self.open(Carrier::Polling, Some(sender), handshake)?;
        let opening = self.opening(Carrier::Polling, &handle);
        let mailbox = Mailbox::new(requests);
        let driver = Driver::polling(Arc::clone(self), handle, session, application, mailbox);
        self.spawn(driver);
        Ok(opening)
    }

    /// Opens a session over a connection of its own.
    pub(crate) fn open_pipe(
        self: &Arc<Self>,
        pipe: Box<dyn Pipe>,
        carrier: Carrier,
        handshake: Handshake,
    ) -> Result<(), Refusal> {
        let (handle, session, application) = match self.open(carrier, None, handshake) {
            Ok(opened) => opened,
            Err(refusal) => {
                Line::new(pipe).abandon();
                return Err(refusal);
            }
        };
        let opening = self.opening(carrier, &handle);
        let driver = Driver::connected(Arc::clone(self), handle, session, application, pipe, &opening);
        self.spawn(driver);
        Ok(())
    }

    /// The session with this sid.
    pub(crate) fn find(&self, sid: &str) -> Result<Arc<Handle>, Refusal> {
        self.sessions().get(sid).cloned().ok_or(Refusal::UnknownSession)
    }

    /// Takes a session that is over out of the books; doing it again changes nothing.
    pub(crate) fn forget(&self, handle: &Handle, reason: DisconnectReason) {
        if self.sessions().remove(&handle.sid).is_some() {
            self.counters.closed(handle.carrier(), reason);
        }
    }

    /// How it stops, to be waited for.
    pub(crate) fn stopping(&self) -> watch::Receiver<Stop> {
        self.stop.subscribe()
    }

    /// How it stops, as of now.
    pub(crate) fn stop(&self) -> Stop {
        match self.stop_now.load(Ordering::Acquire) {
            0 => Stop::Not,
            1 => Stop::Soon,
            _ => Stop::Now,
        }
    }

    /// Stops all tasks.
    pub(crate) fn set_stop(&self, stop: Stop) {
        self.stop_now.fetch_max(stop as u8, Ordering::AcqRel);
        self.stop.send_modify(|current| *current = self.stop());
        for handle in self.sessions().values() {
            handle.waker.wake();
        }
    }

    /// To be kept by a task that is to end before the gateway has.
    pub(crate) fn task(&self) -> watch::Receiver<()> {
        self.tasks.subscribe()
    }

    /// Waits until all tasks have ended.
    pub(crate) async fn ended(&self) {
        self.tasks.closed().await;
    }

    fn spawn(&self, driver: Driver) {
        let task = self.task();
        tokio::spawn(async move {
            driver.await;
            drop(task);
        });
    }

    fn open(
        &self,
        carrier: Carrier,
        requests: Option<mpsc::Sender<Request>>,
        handshake: Handshake,
    ) -> Result<(Arc<Handle>, Session, Application), Refusal> {
        if self.stop() != Stop::Not {
            return Err(Refusal::Closing);
        }
        let address = handshake.address.map_or(IpAddr::from([127, 0, 0, 1]), |address| address.ip());
        let permit = self.sessions_admitted.admit(address).map_err(|_| Refusal::Full)?;
        let sid = new_sid();
        let handle = Arc::new(Handle {
            sid: sid.clone(),
            carrier: AtomicU8::new(carrier as u8),
            requests,
            is_posting: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            _permit: permit,
        });
        let (application, timing) = match &self.source {
            Source::Events(events) => {
                let client = events.connect(handshake, self.options.outbox);
                let limits = socket_io::Limits { packet_bytes_max: self.options.max_payload_bytes };
                let application = Application::events(client, self.options.parser, limits);
                (application, self.options.timing())
            }
            Source::Echo => {
                let timing = Timing { connect_timeout: None, ..self.options.timing() };
                (Application::Echo(std::collections::VecDeque::new()), timing)
            }
        };
        self.sessions().insert(sid, Arc::clone(&handle));
        self.counters.opened(carrier);
        let now = tokio::time::Instant::now().into_std();
        Ok((handle, Session::new(now, timing), application))
    }

    /// The server's first packet.
    fn opening(&self, carrier: Carrier, handle: &Handle) -> Packet {
        let options = &self.options;
        let mut upgrades = Vec::new();
        if carrier == Carrier::Polling && options.allow_upgrades {
            upgrades.extend(options.websocket.then_some("websocket"));
            // Clients look for it at the same port.
            let is_here = |advertised: &Advertised| advertised.port() == self.port;
            upgrades.extend(self.web_transport.get().is_some_and(is_here).then_some("webtransport"));
        }
        let opening = Opening {
            sid: &handle.sid,
            upgrades,
            ping_interval: options.ping_interval.as_millis() as u64,
            ping_timeout: options.ping_timeout.as_millis() as u64,
            max_payload: options.max_payload_bytes,
        };
        let json = serde_json::to_vec(&opening).expect("texts and numbers are JSON");
        Packet::Open(json.into())
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Handle>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handle {
    /// What carries the session now.
    pub(crate) fn carrier(&self) -> Carrier {
        match self.carrier.load(Ordering::Relaxed) {
            0 => Carrier::Polling,
            1 => Carrier::WebSocket,
            _ => Carrier::WebTransport,
        }
    }

    /// Another transport carries it from now on.
    pub(crate) fn set_carrier(&self, carrier: Carrier) {
        self.carrier.store(carrier as u8, Ordering::Relaxed);
    }

    /// The task to wake when something happens elsewhere.
    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Hands a request to the session's task; refused where the session does not poll, or no more.
    pub(crate) fn request(&self, request: Request) -> Result<(), Refusal> {
        let requests = self.requests.as_ref().ok_or(Refusal::BadRequest)?;
        requests.try_send(request).map_err(|_| Refusal::BadRequest)
    }

    /// Offers a connection that wants to take over; it is closed where the session takes none.
    pub(crate) fn offer(&self, pipe: Box<dyn Pipe>) {
        let Some(requests) = &self.requests else { return Line::new(pipe).abandon() };
        match requests.try_send(Request::Probe(pipe)) {
            Ok(()) => {}
            Err(TrySendError::Full(Request::Probe(pipe)) | TrySendError::Closed(Request::Probe(pipe))) => {
                Line::new(pipe).abandon();
            }
            Err(_) => {}
        }
    }

    /// Begins to read a body; refused while another one is read.
    pub(crate) fn begin_post(self: &Arc<Self>) -> Result<Posting, Refusal> {
        if self.is_posting.swap(true, Ordering::Acquire) {
            // The session is over: its client has lost count of its requests.
            let _ = self.request(Request::Overlap);
            return Err(Refusal::BadRequest);
        }
        Ok(Posting { handle: Arc::clone(self) })
    }
}

/// The one body of a session that is under way.
pub(crate) struct Posting {
    handle: Arc<Handle>,
}

impl Drop for Posting {
    fn drop(&mut self) {
        self.handle.is_posting.store(false, Ordering::Release);
    }
}

fn new_sid() -> Box<str> {
    let mut bytes = [0; SID_BYTES];
    getrandom::fill(&mut bytes).expect("the operating system has random bytes");
    URL_SAFE_NO_PAD.encode(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sid_has_20_characters_that_need_no_escape_in_a_url() {
        let sid = new_sid();
        assert_eq!(sid.len(), 20);
        assert!(sid.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{sid}");
        assert_ne!(sid, new_sid());
    }
}
