//! One end of a simulated connection: quinn's state machine, and how it is configured.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, ServerConfig, TransportConfig};
use quinn_proto::{Connection, ConnectionHandle, DatagramEvent, Endpoint, Event, Transmit};

use super::{INITIAL_WINDOW_BYTES, MTU_BYTES, SEND_BUFFER_BYTES};
use crate::transport::congestion::FreshFactory;

/// Who controls a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Ours,
    Cubic,
    NewReno,
    Bbr,
}

/// One end of a connection.
pub(super) struct Side {
    pub(super) endpoint: Endpoint,
    pub(super) connection: Option<(ConnectionHandle, Connection)>,
    pub(super) deadline: Option<Duration>,
    pub(super) is_connected: bool,
}

impl Side {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, connection: None, deadline: None, is_connected: false }
    }

    pub(super) fn handle(&mut self, now: Instant, bytes: &[u8]) {
        let mut answer = Vec::new();
        let event = self.endpoint.handle(now, address(), None, None, BytesMut::from(bytes), &mut answer);
        match event {
            Some(DatagramEvent::ConnectionEvent(_, event)) => {
                if let Some((_, connection)) = &mut self.connection {
                    connection.handle_event(event);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) if self.connection.is_none() => {
                self.connection = self.endpoint.accept(incoming, now, &mut answer, None).ok();
            }
            _ => {}
        }
    }

    pub(super) fn pump(&mut self, now: Instant, began: Instant, mut send: impl FnMut(Vec<u8>)) {
        let Some((handle, connection)) = &mut self.connection else { return };
        if connection.poll_timeout().is_some_and(|at| at <= now) {
            connection.handle_timeout(now);
        }
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
        while let Some(event) = connection.poll() {
            match event {
                Event::Connected => self.is_connected = true,
                Event::ConnectionLost { .. } => self.is_connected = false,
                _ => {}
            }
        }
        let mut buffer = Vec::new();
        while let Some(transmit) = connection.poll_transmit(now, 10, &mut buffer) {
            for packet in packets(&transmit, &buffer) {
                send(packet.to_vec());
            }
            buffer.clear();
        }
        let deadline = connection.poll_timeout();
        self.deadline = deadline.map(|at| at.saturating_duration_since(began));
    }
}

fn packets<'a>(transmit: &Transmit, buffer: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    buffer[..transmit.size].chunks(transmit.segment_size.unwrap_or(transmit.size))
}

pub(super) fn transport(who: Who) -> TransportConfig {
    let factory: Arc<dyn ControllerFactory + Send + Sync> = match who {
        Who::Ours => FreshFactory::new(INITIAL_WINDOW_BYTES),
        Who::Cubic => {
            let mut cubic = CubicConfig::default();
            cubic.initial_window(INITIAL_WINDOW_BYTES);
            Arc::new(cubic)
        }
        Who::NewReno => {
            let mut reno = NewRenoConfig::default();
            reno.initial_window(INITIAL_WINDOW_BYTES);
            Arc::new(reno)
        }
        Who::Bbr => {
            let mut bbr = BbrConfig::default();
            bbr.initial_window(INITIAL_WINDOW_BYTES);
            Arc::new(bbr)
        }
    };
    let mut config = TransportConfig::default();
    config
        .initial_mtu(MTU_BYTES)
        .mtu_discovery_config(None)
        .datagram_send_buffer_size(SEND_BUFFER_BYTES)
        .congestion_controller_factory(factory);
    config
}

pub(super) fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

pub(super) struct Configs {
    pub(super) client: ClientConfig,
    pub(super) server: ServerConfig,
}

pub(super) static CONFIGS: LazyLock<Configs> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let certificate = made.cert.der().clone();
    let key = rustls_pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls13 = &[&rustls::version::TLS13];
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(tls13)
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .expect("the key of the certificate");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).expect("a certificate");
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(tls13)
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = QuicClientConfig::try_from(client).expect("the initial cipher suite is there");
    let server = QuicServerConfig::try_from(server).expect("the initial cipher suite is there");
    Configs {
        client: ClientConfig::new(Arc::new(client)),
        server: ServerConfig::with_crypto(Arc::new(server)),
    }
});
