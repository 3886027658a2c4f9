//! The serving side of an engine: listening, sessions of remote clients, and the topics that describe the engine.
//!
//! What a client's messages mean is in [`connection`]; who may resume what is in [`sessions`].

pub(crate) mod connection;
mod delivery;
pub(crate) mod sessions;
pub(crate) mod system;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Auth, ListenOptions};
use crate::engine::Core;
use crate::transport::{
    ConnectionLimits, Fingerprint, Incoming, IoThreads, ListenConfig, ListenError, Listener, OnH3, ServerTls,
    WebCertificate,
};

/// How often expired sessions are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// An engine that accepts connections. Dropping it changes nothing: the engine owns the listener.
pub struct Listening {
    addr: SocketAddr,
    fingerprint: Option<Fingerprint>,
    web: Option<Arc<WebCertificate>>,
}

impl Listening {
    /// The address in use; its port is the one that was picked where port 0 was asked for.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The fingerprint of the server's certificate, for clients to pin. `None` without TLS.
    #[must_use]
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.fingerprint
    }

    /// What a client connects to.
    #[must_use]
    pub fn url(&self) -> String {
        format!("twinlane://{}", self.addr)
    }

    pub(crate) fn web_certificate(&self) -> Option<Arc<WebCertificate>> {
        self.web.clone()
    }
}

impl std::fmt::Debug for Listening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listening").field("addr", &self.addr).finish_non_exhaustive()
    }
}

/// Begins to accept connections for `core`, and HTTP/3 for `on_h3`.
pub(crate) async fn listen(
    core: &Arc<Core>,
    options: ListenOptions,
    on_h3: Option<OnH3>,
) -> Result<Listening, ListenError> {
    if !options.addr.ip().is_loopback() && matches!(core.config.auth, Auth::Open) {
        if !options.allow_insecure_bind {
            return Err(ListenError::OpenToNetwork { addr: options.addr });
        }
        tracing::warn!(addr = %options.addr, "anyone who reaches this address may connect: no authentication");
    }
    let needs_tls = !options.plain || options.quic;
    let tls = if needs_tls { Some(ServerTls::new(&options.identity)?) } else { None };
    let fingerprint = tls.as_ref().map(ServerTls::fingerprint);
    let web = tls.as_ref().filter(|_| on_h3.is_some() && options.quic).and_then(ServerTls::web).cloned();
    let limits = &core.config.limits;
    let limits = ConnectionLimits {
        connections_max: limits.connections_max,
        connections_per_ip_max: limits.connections_per_ip_max,
        new_per_second_per_ip: limits.new_connections_per_ip_per_second,
        ..ConnectionLimits::default()
    };
    let ListenOptions { addr, tcp, quic, plain, .. } = options;
    let config = ListenConfig { addr, tcp, quic, plain, limits };
    let io = core.io()?;
    let listener = Listener::bind(config, tls.as_ref(), &io)?.with_h3(on_h3);
    let addr = listener.local_addr();
    let accepting = Arc::clone(core);
    listener.serve(&io, move |incoming: Incoming| connection::accept(&accepting, incoming))?;
    core.add_listener(listener);
    system::start(core, &io);
    start_sweeping(core, &io);
    Ok(Listening { addr, fingerprint, web })
}

/// Forgets expired sessions from now on, for as long as there is an engine.
pub(crate) fn start_sweeping(core: &Arc<Core>, io: &IoThreads) {
    let weak = Arc::downgrade(core);
    io.handle(0).spawn(async move {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            let Some(core) = weak.upgrade() else { return };
            let expired = core.sessions.sweep(core.config.session_retention);
            expired.iter().for_each(|session| core.forget_session(session));
        }
    });
}
