//! What a gateway can be told, with the reason for each default.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use twinlane::events::peer::{Handshake, OutboxLimits};
use twinlane::{Engine, Identity};

use crate::origin::Origins;
use crate::session::Timing;
use crate::socket_io::Parser;

/// Options of a [`Gateway`](crate::Gateway).
///
/// | field | default | why |
/// |---|---|---|
/// | `path` | `/socket.io/` | where the official clients look |
/// | `ping_interval` | 25 s | as the reference; proxies cut connections that are silent for 30 or 60 s |
/// | `ping_timeout` | 20 s | as the reference; clients count on the sum of both |
/// | `upgrade_timeout` | 10 s | as the reference |
/// | `connect_timeout` | 45 s | as the reference: whoever joins no namespace until then is of no use |
/// | `max_payload_bytes` | 1 MiB | a polling body or a WebSocket message; the engine's limit for a message |
/// | `polling`, `websocket` | on | clients begin with polling unless they are told otherwise |
/// | `allow_upgrades` | on | |
/// | `parser` | JSON | what the official clients speak unless they are told otherwise |
/// | `origins` | same host | a foreign page must not speak for whoever looks at it |
/// | `allow_request` | everyone | |
/// | `tls` | none | a proxy in front often has it; off loopback it is asked for |
/// | `danger_plain_off_loopback` | no | what clients send as their token can be read on the way |
/// | `pages` | none | |
/// | `native` | none | |
/// | `outbox` | 4 MiB, 10,000 events | what may wait for a client that does not read |
/// | `http` | [`HttpLimits`] | |
#[non_exhaustive]
#[derive(Clone)]
pub struct GatewayOptions {
    /// Where to listen; port 0 takes a free one.
    pub addr: SocketAddr,
    /// The path that Socket.IO is served under.
    pub path: String,
    /// From a client's last sign of life to the next ping.
    pub ping_interval: Duration,
    /// How long a client may take to answer a ping.
    pub ping_timeout: Duration,
    /// How long an upgrade from polling may take.
    pub upgrade_timeout: Duration,
    /// How long a client may be connected without being in a namespace.
    pub connect_timeout: Duration,
    /// Bytes of a polling body and of a WebSocket message, with all its fragments.
    pub max_payload_bytes: usize,
    /// Serve HTTP long-polling.
    pub polling: bool,
    /// Serve WebSocket.
    pub websocket: bool,
    /// Let clients go from polling to WebSocket.
    pub allow_upgrades: bool,
    /// How packets are written; clients must be set to the same.
    pub parser: Parser,
    /// Which web pages may connect.
    pub origins: Origins,
    /// Asked before a client is let in, with what its first request says.
    pub allow_request: Option<AllowRequest>,
    /// HTTPS, with this certificate.
    pub tls: Option<Identity>,
    /// Permit plain HTTP on an address other than loopback, for instance behind a proxy in the same network.
    pub danger_plain_off_loopback: bool,
    /// Other pages on the same port.
    pub pages: Router,
    /// Serve the native protocol, too, in WebSocket messages under `/twinlane`: to topics of this engine.
    pub native: Option<Engine>,
    /// How much may wait for one client.
    pub outbox: OutboxLimits,
    /// Limits of the HTTP server.
    pub http: HttpLimits,
}

/// Decides whether a client is let in; an error's text is told to the client.
pub type AllowRequest = Arc<dyn Fn(&Handshake) -> Result<(), String> + Send + Sync>;

/// What one gateway takes from the network, and how long it waits for it.
///
/// | field | default | why |
/// |---|---|---|
/// | `connections_max` | 10,000 | 40 MiB of buffers if all of them ask at once |
/// | `connections_per_ip_max` | 200 | one address cannot take them all; loopback is exempt. IPv6: one /64 network |
/// | `sessions_max` | 20,000 | a client that polls has no connection between two requests |
/// | `header_timeout` | 5 s | whoever needs longer for a request's head is not in earnest; also how long a connection may be idle between requests |
/// | `body_timeout` | 10 s | 1 MiB at 0.8 Mbit/s |
/// | `write_timeout` | 10 s | a client that takes nothing for so long is gone |
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// Connections at a time.
    pub connections_max: usize,
    /// Sessions at a time.
    pub sessions_max: usize,
    /// Connections, and sessions, at a time from one address.
    pub connections_per_ip_max: usize,
    /// How long the head of a request may take, TLS included.
    pub header_timeout: Duration,
    /// How long the body of a polling request may take.
    pub body_timeout: Duration,
    /// How long a client may take nothing of what is sent to it.
    pub write_timeout: Duration,
}

impl GatewayOptions {
    /// A gateway at `addr` with the defaults above.
    #[must_use]
    pub fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            path: "/socket.io/".into(),
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            upgrade_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(45),
            max_payload_bytes: 1 << 20,
            polling: true,
            websocket: true,
            allow_upgrades: true,
            parser: Parser::Json,
            origins: Origins::SameHost,
            allow_request: None,
            tls: None,
            danger_plain_off_loopback: false,
            pages: Router::new(),
            native: None,
            outbox: OutboxLimits::default(),
            http: HttpLimits::default(),
        }
    }

    /// The same with other pages on the port.
    #[must_use]
    pub fn pages(mut self, pages: Router) -> Self {
        self.pages = pages;
        self
    }

    /// The same with a rule for who is let in.
    #[must_use]
    pub fn allow_request(
        mut self,
        rule: impl Fn(&Handshake) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.allow_request = Some(Arc::new(rule));
        self
    }

    pub(crate) fn timing(&self) -> Timing {
        Timing {
            ping_interval: self.ping_interval,
            ping_timeout: self.ping_timeout,
            upgrade_timeout: self.upgrade_timeout,
            connect_timeout: Some(self.connect_timeout),
        }
    }
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            sessions_max: 20_000,
            connections_per_ip_max: 200,
            header_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
        }
    }
}
