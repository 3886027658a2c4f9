//! The connecting side: a session on another machine that survives its connections.
//!
//! [`driver`] connects and comes back; [`fallback`] keeps a QUIC connection beside a TCP one; [`peer`] hands on what
//! arrives; [`outgoing`] and [`inbox`] hold what waits to be sent and to be read, across reconnects.

mod dial;
mod driver;
mod fallback;
pub(crate) mod inbox;
mod opening;
pub(crate) mod outgoing;
mod peer;
mod probing;
pub(crate) mod queue;
mod target;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::{broadcast, oneshot, watch};
use tokio::time::Instant;
use twinlane_proto::control::{Goodbye, Resume};
use twinlane_proto::{Code, Control};
use twinlane_ring::Quota;

use crate::config::ConnectOptions;
use crate::error::{DeclareError, OpenError};
use crate::link::Link;
use crate::lock::lock;
use crate::session_events::SessionEvent;
use crate::status::{SessionStatus, Switches};
use crate::transport::ConnectError;
use inbox::RemoteSubscription;
use outgoing::RemotePublisher;

/// Events a slow listener may fall behind.
const EVENTS_MAX: usize = 64;

pub(crate) struct ClientCore {
    pub(crate) options: ConnectOptions,
    /// The connection as it is now.
    link: watch::Sender<LinkState>,
    state: Mutex<State>,
    next_lane: AtomicU32,
    next_request: AtomicU32,
    reconnects: AtomicU64,
    events: broadcast::Sender<SessionEvent>,
    /// What all publishers' queues hold together.
    queues: Quota,
}

#[derive(Clone)]
enum LinkState {
    Down,
    Up(Arc<Link>),
    /// For good.
    Closed(Goodbye),
}

#[derive(Default)]
struct State {
    resume: Option<Resume>,
    server: String,
    why_fast: String,
    switches: Switches,
    /// By lane: opened again in the order in which they were opened.
    publishers: BTreeMap<u32, Arc<RemotePublisher>>,
    subscriptions: BTreeMap<u32, Arc<RemoteSubscription>>,
    requests: HashMap<u32, oneshot::Sender<Control>>,
    members: BTreeMap<u32, Arc<queue::RemoteMember>>,
    /// Publishers that said they are done; the server confirms.
    closing: HashMap<u32, oneshot::Sender<()>>,
}

/// The connection on which something was asked for last: the application and a reconnect may both want to ask.
#[derive(Default)]
pub(crate) struct AskedOn(Mutex<Weak<Link>>);

impl AskedOn {
    /// Whether nobody has asked on `link` yet; the caller then does.
    fn claim(&self, link: &Arc<Link>) -> bool {
        let link = Arc::downgrade(link);
        !std::mem::replace(&mut *lock(&self.0), link.clone()).ptr_eq(&link)
    }
}

impl ClientCore {
    fn new(options: ConnectOptions) -> Self {
        Self {
            options,
            link: watch::Sender::new(LinkState::Down),
            state: Mutex::default(),
            next_lane: AtomicU32::new(1),
            next_request: AtomicU32::new(1),
            reconnects: AtomicU64::new(0),
            events: broadcast::Sender::new(EVENTS_MAX),
            // The first publisher raises it.
            queues: Quota::new(0),
        }
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<SessionEvent> {
        self.events.subscribe()
    }

    /// Fast topics use another transport now.
    fn fast_moved(&self, to: &'static str, why: &str) {
        why.clone_into(&mut lock(&self.state).why_fast);
        self.say(SessionEvent::FastMoved { to, why: why.to_owned() });
    }

    fn say(&self, event: SessionEvent) {
        if let SessionEvent::FastMoved { to, why } = &event {
            lock(&self.state).switches.note(to, why);
        }
        // Nobody may be listening.
        let _ = self.events.send(event);
    }

    pub(crate) fn next_lane(&self) -> u32 {
        self.next_lane.fetch_add(1, Ordering::Relaxed)
    }

    /// The current connection, once there is one.
    pub(crate) async fn connected(&self, deadline: Instant) -> Result<Arc<Link>, OpenError> {
        let mut link = self.link.subscribe();
        let waiting = link.wait_for(|state| !matches!(state, LinkState::Down));
        let Ok(Ok(state)) = tokio::time::timeout_at(deadline, waiting).await else {
            return Err(OpenError::Timeout(self.options.outcome_timeout));
        };
        match &*state {
            LinkState::Up(link) => Ok(Arc::clone(link)),
            LinkState::Closed(goodbye) => Err(closed(goodbye)),
            LinkState::Down => unreachable!("waited for until it is not"),
        }
    }

    pub(crate) fn link(&self) -> Option<Arc<Link>> {
        match &*self.link.borrow() {
            LinkState::Up(link) => Some(Arc::clone(link)),
            LinkState::Down | LinkState::Closed(_) => None,
        }
    }

    /// Why the session is closed for good, if it is.
    pub(crate) fn closed(&self) -> Option<Goodbye> {
        match &*self.link.borrow() {
            LinkState::Closed(goodbye) => Some(goodbye.clone()),
            LinkState::Down | LinkState::Up(_) => None,
        }
    }

    /// Asks the server and waits for its answer, on the next connection if this one is lost.
    pub(crate) async fn request(&self, ask: impl Fn(u32) -> Control) -> Result<Control, OpenError> {
        let deadline = Instant::now() + self.options.outcome_timeout;
        loop {
            let link = self.connected(deadline).await?;
            if let Some(answer) = self.request_on(&link, &ask, deadline).await? {
                return Ok(answer);
            }
        }
    }

    /// `None`: the connection was lost first.
    async fn request_on(
        &self,
        link: &Arc<Link>,
        ask: impl Fn(u32) -> Control,
        deadline: Instant,
    ) -> Result<Option<Control>, OpenError> {
        let request = self.next_request.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        lock(&self.state).requests.insert(request, answer);
        link.send(ask(request));
        let outcome = tokio::select! {
            biased;
            answer = answered => answer.ok(),
            () = link.wait_over() => None,
            () = tokio::time::sleep_until(deadline) => {
                lock(&self.state).requests.remove(&request);
                return Err(OpenError::Timeout(self.options.outcome_timeout));
            }
        };
        lock(&self.state).requests.remove(&request);
        match outcome {
            Some(Control::Failed(failed)) => {
                Err(DeclareError::Refused { code: failed.code, message: failed.message }.into())
            }
            outcome => Ok(outcome),
        }
    }

    pub(crate) fn status(&self) -> SessionStatus {
        let state = lock(&self.state);
        let id = state.resume.map(|resume| format!("{:032x}", u128::from_be_bytes(resume.session)));
        let mut status = SessionStatus {
            id: id.unwrap_or_default(),
            server: format!("{} ({})", state.server, self.options.server),
            reliable_over: "-".to_owned(),
            fast_over: "-".to_owned(),
            why: state.why_fast.clone(),
            reconnects: self.reconnects.load(Ordering::Relaxed),
            publishers: state.publishers.len() as u64,
            subscriptions: state.subscriptions.len() as u64,
            switches: state.switches.rows(),
            ..SessionStatus::default()
        };
        status.state = match &*self.link.borrow() {
            LinkState::Up(link) => {
                status.udp = link.udp_path();
                status.reliable_over = link.carrier.to_string();
                status.fast_over =
                    if link.has_datagrams() { "quic".to_owned() } else { link.carrier.to_string() };
                "connected".to_owned()
            }
            LinkState::Down => "reconnecting".to_owned(),
            LinkState::Closed(goodbye) => format!("closed: {}", goodbye.code),
        };
        status
    }

    /// Says goodbye and never comes back.
    pub(crate) async fn close(&self, code: Code, reason: &str) {
        let link = self.link();
        self.end(Goodbye { code, reason: reason.to_owned() });
        if let Some(link) = link {
            link.close(code, reason);
            let _ = tokio::time::timeout(Duration::from_secs(3), link.wait_over()).await;
        }
    }

    /// The session is over: everything that waits hears of it.
    fn end(&self, goodbye: Goodbye) {
        let changed = self.link.send_if_modified(|state| {
            let first = !matches!(state, LinkState::Closed(_));
            if first {
                *state = LinkState::Closed(goodbye.clone());
            }
            first
        });
        if !changed {
            return;
        }
        let (publishers, subscriptions, members) = {
            let mut state = lock(&self.state);
            state.requests.clear();
            state.closing.clear();
            let members = std::mem::take(&mut state.members);
            (std::mem::take(&mut state.publishers), std::mem::take(&mut state.subscriptions), members)
        };
        publishers.values().for_each(|publisher| publisher.close());
        subscriptions.values().for_each(|subscription| subscription.end(goodbye.code, &goodbye.reason));
        members.values().for_each(|member| member.end(goodbye.code, &goodbye.reason));
        self.say(SessionEvent::Closed { code: goodbye.code, reason: goodbye.reason });
    }
}

fn closed(goodbye: &Goodbye) -> OpenError {
    let why = if goodbye.reason.is_empty() { goodbye.code.to_string() } else { goodbye.reason.clone() };
    DeclareError::Closed { why }.into()
}

/// What the application's handles hold: when the last one is gone, the session closes.
pub(crate) struct Client(Arc<ClientCore>);

impl std::ops::Deref for Client {
    type Target = Arc<ClientCore>;

    fn deref(&self) -> &Arc<ClientCore> {
        &self.0
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let link = self.0.link();
        self.0.end(Goodbye { code: Code::Normal, reason: String::new() });
        if let Some(link) = link {
            link.close(Code::Normal, "");
        }
    }
}

/// Opens a session; returns when the first connection is ready.
///
/// A failed first attempt is an error: only a session that existed is worth coming back to.
pub(crate) async fn connect(options: ConnectOptions) -> Result<Client, ConnectError> {
    driver::connect(options).await.map(Client)
}
