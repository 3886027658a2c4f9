//! What a gateway has counted.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use twinlane::events::DisconnectReason;

use crate::admission::Full;
use crate::refusal::Refusal;
use crate::shared::Carrier;

/// A gateway at one moment.
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GatewayStatus {
    /// TCP connections, those of polling clients and of other pages included.
    pub connections: u64,
    /// Sessions by what carries them.
    pub open: ByTransport,
    /// Sessions since the start, by what they began with.
    pub opened_total: ByTransport,
    /// Sessions that went from polling to another transport.
    pub upgrades_total: u64,
    /// HTTP requests under the Socket.IO path.
    pub requests_total: u64,
    /// Bytes of packets received, with the framing of their transport.
    pub received_bytes_total: u64,
    /// Bytes of packets sent, with the framing of their transport.
    pub sent_bytes_total: u64,
    /// What was refused, and why.
    pub refused_total: Refused,
    /// Sessions that ended, and why.
    pub closed_total: Closed,
}

/// A number for each transport.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ByTransport {
    /// HTTP long-polling.
    pub polling: u64,
    /// WebSocket.
    pub websocket: u64,
    /// WebTransport.
    pub webtransport: u64,
}

macro_rules! counters {
    ($(#[$doc:meta])* $public:ident, $private:ident { $($(#[$field_doc:meta])* $field:ident),* $(,)? }) => {
        $(#[$doc])*
        #[non_exhaustive]
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
        pub struct $public { $($(#[$field_doc])* pub $field: u64),* }

        #[derive(Debug, Default)]
        struct $private { $($field: AtomicU64),* }

        impl $private {
            fn read(&self) -> $public {
                $public { $($field: self.$field.load(Ordering::Relaxed)),* }
            }
        }
    };
}

counters! {
    /// Refused connections and requests.
    Refused, RefusedCounters {
        /// Connections beyond the limit in all.
        connections_max,
        /// Connections beyond the limit of one address.
        connections_per_ip_max,
        /// Sessions beyond a limit.
        sessions_max,
        /// The system could not accept a connection.
        accept_error,
        /// TLS handshakes that failed or took too long.
        tls,
        /// No such transport, or switched off.
        unknown_transport,
        /// No such session, or not any more.
        unknown_session,
        /// A handshake by another method than GET.
        bad_method,
        /// Against the protocol.
        bad_request,
        /// A page of another origin.
        foreign_origin,
        /// By `allow_request`.
        not_allowed,
        /// Another version of the protocol than 4.
        unsupported_version,
        /// A body beyond `max_payload_bytes`.
        too_large,
        /// A body that took too long.
        too_slow,
    }
}

counters! {
    /// Sessions that ended.
    Closed, ClosedCounters {
        /// The client left.
        transport_close,
        /// Something was wrong with its connection or requests.
        transport_error,
        /// No answer to a ping.
        ping_timeout,
        /// No packet.
        parse_error,
        /// It did not take what was sent.
        slow_consumer,
        /// The server closed.
        server_shutdown,
        /// Any other reason: the application's wish, no namespace in time.
        other,
    }
}

/// The counters of a gateway.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    open: [AtomicU64; 3],
    opened: [AtomicU64; 3],
    upgrades: AtomicU64,
    requests: AtomicU64,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    refused: RefusedCounters,
    closed: ClosedCounters,
}

impl Counters {
    pub(crate) fn opened(&self, carrier: Carrier) {
        add(&self.open[carrier as usize], 1);
        add(&self.opened[carrier as usize], 1);
    }

    pub(crate) fn upgraded(&self, from: Carrier, to: Carrier) {
        self.open[from as usize].fetch_sub(1, Ordering::Relaxed);
        add(&self.open[to as usize], 1);
        add(&self.upgrades, 1);
    }

    pub(crate) fn closed(&self, carrier: Carrier, reason: DisconnectReason) {
        self.open[carrier as usize].fetch_sub(1, Ordering::Relaxed);
        let counter = match reason {
            DisconnectReason::TransportClose => &self.closed.transport_close,
            DisconnectReason::TransportError => &self.closed.transport_error,
            DisconnectReason::PingTimeout => &self.closed.ping_timeout,
            DisconnectReason::ParseError => &self.closed.parse_error,
            DisconnectReason::SlowConsumer => &self.closed.slow_consumer,
            DisconnectReason::ServerShutdown => &self.closed.server_shutdown,
            _ => &self.closed.other,
        };
        add(counter, 1);
    }

    pub(crate) fn request(&self) {
        add(&self.requests, 1);
    }

    pub(crate) fn received(&self, bytes: u64) {
        if bytes > 0 {
            add(&self.received_bytes, bytes);
        }
    }

    pub(crate) fn sent(&self, bytes: u64) {
        if bytes > 0 {
            add(&self.sent_bytes, bytes);
        }
    }

    pub(crate) fn refused(&self, refusal: &Refusal) {
        let refused = &self.refused;
        let counter = match refusal {
            Refusal::UnknownTransport => &refused.unknown_transport,
            Refusal::UnknownSession => &refused.unknown_session,
            Refusal::BadMethod => &refused.bad_method,
            Refusal::BadRequest | Refusal::Closing => &refused.bad_request,
            Refusal::ForeignOrigin => &refused.foreign_origin,
            Refusal::NotAllowed(_) => &refused.not_allowed,
            Refusal::UnsupportedVersion => &refused.unsupported_version,
            Refusal::TooLarge => &refused.too_large,
            Refusal::TooSlow => &refused.too_slow,
            Refusal::Full => &refused.sessions_max,
        };
        add(counter, 1);
    }

    pub(crate) fn refused_connection(&self, full: Full) {
        match full {
            Full::All => add(&self.refused.connections_max, 1),
            Full::Network => add(&self.refused.connections_per_ip_max, 1),
        }
    }

    pub(crate) fn accept_error(&self) {
        add(&self.refused.accept_error, 1);
    }

    pub(crate) fn tls_error(&self) {
        add(&self.refused.tls, 1);
    }

    /// All of them, with `connections` open.
    pub(crate) fn read(&self, connections: usize) -> GatewayStatus {
        GatewayStatus {
            connections: connections as u64,
            open: by_transport(&self.open),
            opened_total: by_transport(&self.opened),
            upgrades_total: self.upgrades.load(Ordering::Relaxed),
            requests_total: self.requests.load(Ordering::Relaxed),
            received_bytes_total: self.received_bytes.load(Ordering::Relaxed),
            sent_bytes_total: self.sent_bytes.load(Ordering::Relaxed),
            refused_total: self.refused.read(),
            closed_total: self.closed.read(),
        }
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

fn by_transport(counters: &[AtomicU64; 3]) -> ByTransport {
    let [polling, websocket, webtransport] = counters;
    ByTransport {
        polling: polling.load(Ordering::Relaxed),
        websocket: websocket.load(Ordering::Relaxed),
        webtransport: webtransport.load(Ordering::Relaxed),
    }
}
