//! Sockets and endpoints for QUIC, and all of quinn's knobs: they are set here and nowhere else.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    AsyncUdpSocket, Endpoint, EndpointConfig, MtuDiscoveryConfig, NoneTokenLog, ServerConfig, TokioRuntime,
    TransportConfig, ValidationTokenConfig, VarInt,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::transport::congestion::FreshFactory;
use crate::transport::error::ListenError;
use crate::transport::identity::ServerTls;
use crate::transport::link_fault::{FaultySocket, LinkFault};
use crate::transport::quic_socket::QuicSocket;

const KIB: u32 = 1024;

/// Absorbs a receiver that is not scheduled for 10 ms at 200 MB/s; a client can pin that much and no more.
const DATAGRAM_RECEIVE_BYTES: usize = 2 * 1024 * 1024;

/// Enough for one batch of large packets (20 × 8,952 bytes). More would be a queue that knows no deadline.
pub(super) const DATAGRAM_SEND_BYTES: usize = 256 * 1024;

/// One connection's stream data in flight or unread: 200 MB/s over 5 ms, or 10 MB/s over 100 ms.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * KIB;

/// One stream may use the connection's window whole: a session has one that matters.
const STREAM_WINDOW_BYTES: u32 = CONNECTION_WINDOW_BYTES;

/// Streams of each kind that a peer may have open. A client of ours has one; HTTP/3 asks for three before it begins. quinn
/// has room for all of them in each connection, used or not: 2 KiB where 16 are allowed.
const STREAMS_MAX: u32 = 3;

/// The same once a client has said that it speaks HTTP/3.
pub(super) const H3_STREAMS_MAX: u32 = 16;

/// A jumbo Ethernet frame less IPv6 and UDP headers. Discovery only goes as far as the path does.
const MTU_BYTES_MAX: u16 = 8_952;

/// A little more than a packet and an MTU probe of the largest size, which must fit together: otherwise everything
/// waits behind the probe, even the frame that closes the connection. On an ordinary path it is 22 packets.
const INITIAL_WINDOW_BYTES: u64 = 3 * MTU_BYTES_MAX as u64;

const SOCKET_BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// A server's endpoint on `socket`, which speaks HTTP/3 beside our own protocol if `h3`. Call it inside the runtime that
/// shall own it.
pub(in crate::transport) fn server_endpoint(
    socket: UdpSocket,
    tls: &ServerTls,
    h3: bool,
    addr: SocketAddr,
) -> Result<Endpoint, ListenError> {
    let config = if h3 { tls.with_h3() } else { Arc::clone(&tls.config) };
    let crypto =
        QuicServerConfig::try_from(config).map_err(|error| ListenError::Tls { detail: error.to_string() })?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(transport_config()));
    // Of tokens for later connections none are made, whatever features quinn was built with: what a server remembers of
    // those it has seen would be 10 MiB.
    config.validation_token_config(tokens());
    // Packets that arrive before the accept loop has looked at a connection.
    config.max_incoming(1_024).incoming_buffer_size(64 * 1024).incoming_buffer_size_total(8 * 1024 * 1024);
    endpoint(socket, Some(config)).map_err(|source| ListenError::Socket { addr, source })
}

/// A UDP socket with the largest buffers that the system grants: with the usual 208 KiB a receiver loses packets in
/// every scheduling gap, and the sender's window collapses.
pub(in crate::transport) fn bind_udp(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // The system cuts the wish down to its own maximum without an error.
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    let (recv_bytes, send_bytes) = (socket.recv_buffer_size()?, socket.send_buffer_size()?);
    tracing::debug!(%addr, recv_bytes, send_bytes, wished_bytes = SOCKET_BUFFER_BYTES, "UDP socket buffers granted");
    Ok(socket.into())
}

pub(super) fn client_endpoint(server: SocketAddr, fault: Option<&LinkFault>) -> io::Result<Endpoint> {
    let any: SocketAddr =
        if server.is_ipv6() { (Ipv6Addr::UNSPECIFIED, 0).into() } else { (Ipv4Addr::UNSPECIFIED, 0).into() };
    let socket = QuicSocket::new(bind_udp(any)?, MTU_BYTES_MAX)?;
    match fault {
        None => endpoint_on(socket, None),
        Some(fault) => endpoint_on(FaultySocket::new(socket, fault.clone()), None),
    }
}

pub(super) fn transport_config() -> TransportConfig {
    let mut mtu_discovery = MtuDiscoveryConfig::default();
    mtu_discovery.upper_bound(MTU_BYTES_MAX);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS_MAX))
        // Kept alive by whoever is above: it asks the peer anyway, and a PING of QUIC would come on top.
        .max_idle_timeout(Some(VarInt::from_u32(30_000).into()))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(u64::from(CONNECTION_WINDOW_BYTES))
        .datagram_receive_buffer_size(Some(DATAGRAM_RECEIVE_BYTES))
        .datagram_send_buffer_size(DATAGRAM_SEND_BYTES)
        .initial_mtu(1_200)
        .mtu_discovery_config(Some(mtu_discovery))
        .congestion_controller_factory(FreshFactory::new(INITIAL_WINDOW_BYTES));
    config
}

fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(MTU_BYTES_MAX).expect("the largest MTU is a legal payload size");
    config
}

fn endpoint(socket: UdpSocket, server: Option<ServerConfig>) -> io::Result<Endpoint> {
    endpoint_on(QuicSocket::new(socket, MTU_BYTES_MAX)?, server)
}

fn endpoint_on(socket: Arc<dyn AsyncUdpSocket>, server: Option<ServerConfig>) -> io::Result<Endpoint> {
    Endpoint::new_with_abstract_socket(endpoint_config(), server, socket, Arc::new(TokioRuntime))
}

fn tokens() -> ValidationTokenConfig {
    let mut tokens = ValidationTokenConfig::default();
    tokens.sent(0).log(Arc::new(NoneTokenLog));
    tokens
}
