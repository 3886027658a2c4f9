//! The gateway as its owner sees it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use twinlane::ListenError;
use twinlane::events::Events;

use crate::listener;
use crate::options::GatewayOptions;
use crate::shared::{Shared, Source, Stop};
use crate::status::GatewayStatus;

/// An HTTP server through which browsers and Socket.IO clients take part in [`Events`].
///
/// Dropping it closes all connections at once; [`Gateway::shutdown`] lets them finish.
pub struct Gateway {
    shared: Arc<Shared>,
    addr: SocketAddr,
}

/// A gateway could not be started.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {source}")]
    Bind {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Plain HTTP would show tokens to everyone on the way.
    #[error(
        "plain HTTP is allowed on loopback only, and {0} is not: set `tls`, bind 127.0.0.1 or ::1, or set \
         `danger_plain_off_loopback` where a proxy does TLS"
    )]
    PlainOffLoopback(SocketAddr),
    /// The certificate or its key cannot be used.
    #[error(transparent)]
    Tls(#[from] ListenError),
}

impl Gateway {
    /// Starts a gateway to `events` in the runtime that this is called in.
    ///
    /// # Errors
    ///
    /// [`GatewayError`]
    pub async fn bind(events: &Events, options: GatewayOptions) -> Result<Self, GatewayError> {
        Self::start(Source::Events(events.clone()), options).await
    }

    pub(crate) async fn start(source: Source, mut options: GatewayOptions) -> Result<Self, GatewayError> {
        let asked = options.addr;
        options.path = match options.path.trim_matches('/') {
            "" => "/".into(),
            path => format!("/{path}/"),
        };
        let on_loopback = asked.ip().to_canonical().is_loopback();
        if !on_loopback && options.tls.is_none() && !options.danger_plain_off_loopback {
            return Err(GatewayError::PlainOffLoopback(asked));
        }
        let tls = match &options.tls {
            Some(identity) => {
                Some(TlsAcceptor::from(twinlane::gateway::tls_config(identity, &[b"http/1.1"])?))
            }
            None => None,
        };
        let failed = |source| GatewayError::Bind { addr: asked, source };
        let listener = TcpListener::bind(asked).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let shared = Shared::new(options, addr, source);
        tokio::spawn(listener::accept(Arc::clone(&shared), listener, tls));
        Ok(Self { shared, addr })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it has counted so far.
    #[must_use]
    pub fn status(&self) -> GatewayStatus {
        self.shared.status()
    }

    /// Accepts nothing more, tells clients, and returns when all connections have ended; those that have not within
    /// `drain` are cut.
    pub async fn shutdown(&self, drain: Duration) {
        self.shared.set_stop(Stop::Soon);
        if tokio::time::timeout(drain, self.shared.ended()).await.is_err() {
            self.shared.set_stop(Stop::Now);
        }
    }

    /// What its tasks have in common.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.shared.set_stop(Stop::Now);
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("addr", &self.addr).finish_non_exhaustive()
    }
}
