//! How often each side of a connection asks whether the other is still there.

use std::time::Duration;

use twinlane_proto::control::Purpose;
use twinlane_proto::limits::{DEAD_AFTER, PING_INTERVAL};
use twinlane_proto::session::SessionConfig;

/// How often a client asks.
pub(crate) fn client_ping_interval(purpose: Purpose) -> Duration {
    match purpose {
        Purpose::Primary => PING_INTERVAL,
        // QUIC notices a dead peer by itself, and the connection beside it is asked often enough.
        Purpose::Datagrams => PING_INTERVAL * 4,
    }
}

/// A client's side of a connection.
pub(crate) fn client(purpose: Purpose) -> SessionConfig {
    asking_every(client_ping_interval(purpose))
}

/// A server's side, which does not know yet what a QUIC connection is for. Clients ask first: an idle connection
/// costs one exchange per interval, not two.
pub(crate) fn server(is_quic: bool) -> SessionConfig {
    let purpose = if is_quic { Purpose::Datagrams } else { Purpose::Primary };
    asking_every(client_ping_interval(purpose) * 3 / 2)
}

fn asking_every(ping_interval: Duration) -> SessionConfig {
    SessionConfig { ping_interval, dead_after: DEAD_AFTER.max(ping_interval * 2), ..SessionConfig::default() }
}
