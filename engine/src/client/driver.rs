//! Connects, says hello, opens everything again that was open, and comes back when the connection is lost.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use twinlane_proto::control::{Auth, Goodbye, Hello, Purpose, Resume, Welcome};
use twinlane_proto::session::SessionConfig;
use twinlane_proto::{Code, Session, VERSION};

use super::dial::{Beside, Dialing, reach};
use super::fallback::Fallback;
use super::peer::ServerPeer;
use super::target::{Target, resolve};
use super::{ClientCore, LinkState};
use crate::config::{ConnectOptions, Transports};
use crate::link::{Closing, Link, liveness};
use crate::lock::lock;
use crate::session_events::SessionEvent;
use crate::transport::{ClientTls, ConnectError, Stream};

/// How long a new session waits for QUIC, from when it began to connect, before fast topics begin over TCP.
const QUIC_HEAD_START: Duration = Duration::from_millis(500);

/// Opens a session and keeps it open on the current runtime.
pub(crate) async fn connect(options: ConnectOptions) -> Result<Arc<ClientCore>, ConnectError> {
    let core = Arc::new(ClientCore::new(options));
    let tls = match core.options.plain {
        true => None,
        false => Some(ClientTls::new(&core.options.trust)?),
    };
    let driver = Driver { core: Arc::clone(&core), tls: tls.map(Arc::new) };
    let connection = driver.connect().await?;
    tokio::spawn(driver.stay_connected(connection));
    Ok(core)
}

#[derive(Clone)]
pub(super) struct Driver {
    pub(super) core: Arc<ClientCore>,
    pub(super) tls: Option<Arc<ClientTls>>,
}

/// Why one attempt to connect failed.
pub(super) enum Failed {
    Transport(ConnectError),
    /// The server answered and refused.
    Rejected(Closing),
}

impl From<ConnectError> for Failed {
    fn from(error: ConnectError) -> Self {
        Self::Transport(error)
    }
}

impl From<Failed> for ConnectError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Transport(error) => error,
            Failed::Rejected(Closing { code, reason }) => Self::Rejected { code, reason },
        }
    }
}

/// A connection whose handshake is done.
pub(super) struct Connection {
    pub(super) link: Arc<Link>,
    peer: Arc<ServerPeer>,
}

impl Driver {
    async fn stay_connected(self, mut connection: Connection) {
        loop {
            connection.link.wait_over().await;
            self.core.link.send_if_modified(|state| {
                let up = matches!(state, LinkState::Up(_));
                if up {
                    *state = LinkState::Down;
                }
                up
            });
            lock(&self.core.state).closing.clear();
            if self.core.closed().is_some() {
                return;
            }
            let closing =
                lock(&connection.peer.closing).clone().unwrap_or_else(|| Closing::new(Code::Closed, ""));
            let reason =
                if closing.reason.is_empty() { closing.code.to_string() } else { closing.reason.clone() };
            self.core.say(SessionEvent::Disconnected { reason });
            if !self.core.options.reconnect.enabled || is_final(closing.code) {
                return self.core.end(Goodbye { code: closing.code, reason: closing.reason });
            }
            match self.reconnect().await {
                Ok(next) => connection = next,
                Err(goodbye) => return self.core.end(goodbye),
            }
        }
    }

    /// Tries until it works or cannot work any more.
    async fn reconnect(&self) -> Result<Connection, Goodbye> {
        let reconnect = self.core.options.reconnect;
        let mut last_error = None;
        for attempt in 1.. {
            let delay = backoff(reconnect.first, reconnect.max, attempt, random_fraction());
            self.core.say(SessionEvent::Reconnecting { attempt, delay, last_error: last_error.take() });
            let mut link = self.core.link.subscribe();
            tokio::select! {
                biased;
                () = tokio::time::sleep(delay) => {}
                closed = link.wait_for(|state| matches!(state, LinkState::Closed(_))) => {
                    drop(closed);
                    break;
                }
            }
            match self.connect().await {
                Ok(connection) => {
                    self.core.reconnects.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(Failed::Rejected(Closing { code, reason })) if is_final(code) => {
                    return Err(Goodbye { code, reason });
                }
                Err(failed) => last_error = Some(ConnectError::from(failed).to_string()),
            }
        }
        Err(self.core.closed().unwrap_or(Goodbye { code: Code::Closed, reason: String::new() }))
    }

    /// One attempt, everything opened again included.
    async fn connect(&self) -> Result<Connection, Failed> {
        let began = Instant::now();
        let target = resolve(&self.core.options.server, self.core.options.link_fault.clone()).await?;
        let (stream, beside) = self.reach(&target).await?;
        let (connection, welcome) = self.hello(stream, Purpose::Primary).await?;
        let resumed = welcome.resumed;
        {
            let mut state = lock(&self.core.state);
            state.server = welcome.server;
            state.why_fast = self.why_fast_at_first();
        }
        match beside {
            Beside::Datagrams(datagrams) => {
                connection.link.attach(datagrams);
                if self.core.options.transports == Transports::Both {
                    self.core.fast_moved("quic", "TCP does not get through");
                }
            }
            Beside::Dialing(Some(dialing)) => {
                let (first, first_attempt) = oneshot::channel();
                let fallback = Fallback::new(self.clone(), target, Arc::clone(&connection.link));
                tokio::spawn(fallback.run(dialing, first));
                let _ = tokio::time::timeout_at(began + QUIC_HEAD_START, first_attempt).await;
            }
            Beside::Dialing(None) => {}
        }
        self.core.link.send_if_modified(|state| {
            let open = !matches!(state, LinkState::Closed(_));
            if open {
                *state = LinkState::Up(Arc::clone(&connection.link));
            }
            open
        });
        self.core.say(SessionEvent::Connected {
            server: self.core.options.server.clone(),
            resumed,
            reliable_over: connection.link.carrier.name(),
        });
        self.open_again(&connection.link, resumed);
        Ok(connection)
    }

    fn why_fast_at_first(&self) -> String {
        match self.core.options.transports {
            Transports::Both if self.core.options.plain => "without TLS there is no QUIC".to_owned(),
            Transports::Both => "the QUIC connection is not there yet".to_owned(),
            Transports::QuicOnly => "only QUIC was asked for".to_owned(),
            Transports::TcpOnly => "only TCP was asked for".to_owned(),
        }
    }

    /// Connects over the transports that were asked for, at once.
    async fn reach(&self, target: &Target) -> Result<(Stream, Beside), ConnectError> {
        let timeout = self.core.options.connect_timeout;
        match (self.core.options.transports, &self.tls) {
            (Transports::QuicOnly, Some(tls)) => {
                let (stream, datagrams) = target.quic(tls, timeout).await?;
                Ok((stream, Beside::Datagrams(datagrams)))
            }
            (Transports::Both, Some(tls)) => {
                reach(target, Some(tls), Some(Dialing::start(target, tls, timeout)), timeout).await
            }
            (_, tls) => reach(target, tls.as_deref(), None, timeout).await,
        }
    }

    /// Says hello and waits for the welcome.
    pub(super) async fn hello(
        &self,
        stream: Stream,
        purpose: Purpose,
    ) -> Result<(Connection, Welcome), Failed> {
        let options = &self.core.options;
        let auth = options.token.as_ref().map_or(Auth::None, |token| Auth::Token(token.clone().into_bytes()));
        let hello = Hello {
            version_min: VERSION,
            version_max: VERSION,
            capabilities: 0,
            purpose,
            client: options.name.clone(),
            auth,
            resume: lock(&self.core.state).resume,
        };
        let (welcome, welcomed) = oneshot::channel();
        let peer = Arc::new(ServerPeer {
            core: Arc::clone(&self.core),
            welcome: Mutex::new(Some(welcome)),
            closing: Mutex::default(),
        });
        let handshake_timeout = options.connect_timeout;
        let config = SessionConfig { handshake_timeout, ..liveness::client(purpose, stream.carrier()) };
        let session = Session::client(config, hello, Instant::now().into_std());
        let link = Link::spawn(stream, session, Arc::clone(&peer) as _);
        // The session machine closes the connection if nothing comes in time.
        match welcomed.await {
            Ok(Ok(welcome)) => {
                lock(&self.core.state).resume =
                    Some(Resume { session: welcome.session, secret: welcome.secret });
                Ok((Connection { link, peer }, welcome))
            }
            Ok(Err(closing)) => Err(Failed::Rejected(closing)),
            Err(_) => Err(Failed::Rejected(Closing::new(Code::Closed, "the connection was closed"))),
        }
    }

    /// Opens on a new connection what the application has open.
    fn open_again(&self, link: &Arc<Link>, resumed: bool) {
        let (publishers, subscriptions) = {
            let state = lock(&self.core.state);
            let publishers: Vec<_> = state.publishers.values().cloned().collect();
            let subscriptions: Vec<_> = state.subscriptions.values().cloned().collect();
            (publishers, subscriptions)
        };
        for subscription in subscriptions {
            let (core, link) = (Arc::clone(&self.core), Arc::clone(link));
            tokio::spawn(async move { core.resubscribe(&link, &subscription).await });
        }
        for publisher in publishers {
            let (core, link) = (Arc::clone(&self.core), Arc::clone(link));
            tokio::spawn(async move { core.reopen_publisher(&link, &publisher, resumed).await });
        }
    }
}

/// Whether coming back cannot help. Where another connection took over it can: that may have been a hello of this very
/// client, given up long ago and late.
fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::AuthRequired
            | Code::AuthFailed
            | Code::PermissionDenied
            | Code::UnsupportedVersion
            | Code::ProtocolViolation
    )
}

/// The wait before attempt `attempt`, from half to one and a half times `first` doubled each time.
fn backoff(first: Duration, max: Duration, attempt: u32, fraction: f64) -> Duration {
    let doubled = first.saturating_mul(1 << attempt.saturating_sub(1).min(16));
    doubled.min(max).mul_f64(0.5 + fraction)
}

/// From 0 to 1.
pub(super) fn random_fraction() -> f64 {
    (crate::topics::random_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_are_spread_by_half() {
        let wait = |attempt, fraction| {
            backoff(Duration::from_millis(100), Duration::from_secs(5), attempt, fraction)
        };
        assert_eq!(wait(1, 0.5), Duration::from_millis(100));
        assert_eq!(wait(3, 0.5), Duration::from_millis(400));
        assert_eq!(wait(1, 0.0), Duration::from_millis(50));
        assert_eq!(wait(60, 0.999_999_9).as_secs(), 7);
    }
}
