//! What can go wrong when listening or connecting, in words that say what to do next.
//!
//! No rustls or quinn type appears here: their details arrive as text.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::identity::Fingerprint;

/// Why a server could not start listening.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another socket already listens there.
    #[error("{addr} is already in use: stop the other process or choose another port")]
    AddressInUse {
        /// The address that was asked for.
        addr: SocketAddr,
    },
    /// No port was free for both TCP and UDP, although the system was free to choose.
    #[error("found no port free for both TCP and UDP on {addr} in {attempts} attempts: name a port")]
    NoCommonPort {
        /// The address that was asked for, with port 0.
        addr: SocketAddr,
        /// How many ports were tried.
        attempts: usize,
    },
    /// Anyone on the network could connect, and nothing asks who they are.
    #[error(
        "{addr} can be reached by other machines, and anyone could connect: configure tokens, bind 127.0.0.1, \
         or allow an insecure bind explicitly"
    )]
    OpenToNetwork {
        /// The address that was asked for.
        addr: SocketAddr,
    },
    /// The system refused the socket.
    #[error("cannot listen on {addr}: {source}")]
    Socket {
        /// The address that was asked for.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Neither TCP nor QUIC was asked for.
    #[error("neither TCP nor QUIC is enabled on {addr}: enable at least one")]
    NoTransport {
        /// The address that was asked for.
        addr: SocketAddr,
    },
    /// Plain TCP was asked for on an address that other machines can reach.
    #[error("plain TCP is allowed on loopback only, and {addr} is not: use TLS, or bind 127.0.0.1 or ::1")]
    PlainOffLoopback {
        /// The address that was asked for.
        addr: SocketAddr,
    },
    /// TLS or QUIC was asked for, and no identity was given.
    #[error("TLS and QUIC need an identity, and none was given for {addr}")]
    IdentityMissing {
        /// The address that was asked for.
        addr: SocketAddr,
    },
    /// A certificate or key file could not be read or written.
    #[error("cannot use {}: {source}", path.display())]
    IdentityFile {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A certificate or key file was read, and it is not what it should be.
    #[error("{} is not usable: {detail}", path.display())]
    IdentityInvalid {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it and what to do.
        detail: String,
    },
    /// The certificate and key do not make a working TLS server.
    #[error("the certificate and key cannot be used together: {detail}")]
    Tls {
        /// What the TLS library said.
        detail: String,
    },
    /// A certificate could not be made.
    #[error("cannot make a self-signed certificate: {detail}")]
    SelfSigned {
        /// What the certificate library said.
        detail: String,
    },
    /// An I/O thread could not be started.
    #[error("cannot start I/O thread {thread}: {source}")]
    Thread {
        /// Index of the thread.
        thread: usize,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a connection to a server could not be made.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server's name is neither a DNS name nor an IP address.
    #[error("{name:?} is neither a DNS name nor an IP address")]
    ServerName {
        /// The name that was given.
        name: String,
    },
    /// The connection was not ready in time. Over QUIC this is also how a blocked UDP port looks.
    #[error(
        "{addr} did not answer within {timeout:?}: check the address, or that no firewall drops the port"
    )]
    Timeout {
        /// The server's address.
        addr: SocketAddr,
        /// The time that was allowed.
        timeout: Duration,
    },
    /// The system could not reach the server, or nothing listens there.
    #[error("cannot reach {addr}: {source}")]
    Unreachable {
        /// The server's address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The server hung up before the handshake was done.
    #[error("{addr} closed the connection during the handshake: it is full, or does not speak TLS")]
    ClosedByServer {
        /// The server's address.
        addr: SocketAddr,
    },
    /// The server refused a new QUIC connection.
    #[error("{addr} refused the connection: it is full or shutting down, try again later")]
    Refused {
        /// The server's address.
        addr: SocketAddr,
    },
    /// The server does not speak this protocol.
    #[error("{addr} does not speak twinlane/1: check the port")]
    WrongAlpn {
        /// The server's address.
        addr: SocketAddr,
    },
    /// The server's certificate is not the pinned one.
    #[error(
        "the server's fingerprint is {got}, expected {expected}: if its certificate was replaced on purpose, \
         pin the new fingerprint; otherwise someone else answers at this address"
    )]
    FingerprintMismatch {
        /// The pinned fingerprint.
        expected: Fingerprint,
        /// The fingerprint of the certificate the server showed.
        got: Fingerprint,
    },
    /// The server's certificate is not the one seen before.
    #[error(
        "the fingerprint of {host} is {got}, but {} says {expected}: if its certificate was replaced on \
         purpose, delete that line; otherwise someone else answers at this address", path.display()
    )]
    KnownHostChanged {
        /// `host:port`, as in the file.
        host: String,
        /// The file of known hosts.
        path: PathBuf,
        /// The recorded fingerprint.
        expected: Fingerprint,
        /// The fingerprint of the certificate the server showed.
        got: Fingerprint,
    },
    /// The file of known hosts could not be read or written.
    #[error("cannot use the known hosts in {}: {source}", path.display())]
    KnownHosts {
        /// The file of known hosts.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line in the file of known hosts cannot be understood. Nothing is trusted until it is mended.
    #[error("{}, line {line}: expected \"host:port fingerprint\"; mend or delete the line", path.display())]
    KnownHostsLine {
        /// The file of known hosts.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// The file of trusted roots holds no usable certificate.
    #[error("cannot use the root certificates in {}: {detail}", path.display())]
    Roots {
        /// The PEM file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The server's certificate is not trusted.
    #[error("the certificate of {addr} is not trusted: {detail}")]
    Certificate {
        /// The server's address.
        addr: SocketAddr,
        /// Why not.
        detail: String,
    },
    /// The server answered, and does not want this client.
    #[error("the server refused: {reason} ({code})")]
    Rejected {
        /// Why, for programs.
        code: twinlane_proto::Code,
        /// The server's words.
        reason: String,
    },
    /// The handshake failed for another reason.
    #[error("the handshake with {addr} failed: {detail}")]
    Handshake {
        /// The server's address.
        addr: SocketAddr,
        /// What the TLS or QUIC library said.
        detail: String,
    },
    /// The TLS library refused its configuration.
    #[error("cannot set up TLS: {detail}")]
    Tls {
        /// What the TLS library said.
        detail: String,
    },
}
