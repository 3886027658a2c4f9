//! Sockets, TLS and QUIC: how bytes reach the other machine, and on which thread.
//!
//! A [`Stream`] is one ordered byte stream (TLS over TCP, plain TCP on loopback, or one QUIC stream), a
//! [`Datagrams`] is the lossy side of a QUIC connection, a [`Listener`] makes both from one port number, and
//! [`IoThreads`] are the threads they live on.
//!
//! Nothing here knows frames, topics, sessions or acks. Nothing here retries: a failed connection is an error
//! that names its cause, and the layer above decides.

mod buffered;
mod congestion;
mod error;
mod h3;
mod identity;
mod io_threads;
mod limits;
mod link_fault;
mod listener;
mod quic;
mod quic_socket;
#[cfg(feature = "simulation")]
pub(crate) mod simulated;
mod stream;
mod tcp;
mod trust;
mod web_certificate;

#[cfg(test)]
mod tests;

pub use error::{ConnectError, ListenError};
pub use h3::H3Connection;
pub use identity::{Fingerprint, FingerprintParseError, Identity};
pub use io_threads::{IoPolicy, IoPolicyParseError};
pub use link_fault::{FaultCounts, Faults, LinkFault};
pub use stream::ByteStream;
pub use trust::Trust;
pub use web_certificate::WebCertificate;

pub(crate) use h3::OnH3;
pub(crate) use identity::ServerTls;
pub(crate) use io_threads::{IoThreads, activity};
pub(crate) use limits::{ConnectionLimits, Refusal};
pub(crate) use listener::{Incoming, ListenConfig, Listener};
pub(crate) use quic::{DatagramError, Datagrams, connect_quic};
pub(crate) use stream::{Carrier, Stream, TLS_BYTES, TakenBytes};
pub(crate) use tcp::{connect_tcp, keep_short};
pub(crate) use trust::ClientTls;

/// The protocol both sides must name during the TLS handshake. A peer that names another one, or none, is
/// refused before it can send a byte: this is what stops cross-protocol attacks (ALPACA).
const ALPN: &[u8] = b"twinlane/1";

/// HTTP/3, which browsers speak: offered on the QUIC port where somebody takes such connections.
const H3: &[u8] = b"h3";

/// The peer's words, safe for a log line: control characters escaped, cut at 256 bytes.
fn printable(words: &[u8]) -> String {
    let cut = &words[..words.len().min(256)];
    cut.escape_ascii().to_string()
}
