//! What an operator or embedder may choose: one plain struct per layer, each field with unit, default and reason.
//!
//! Nothing here reads the environment or a file; the `twinlane` binary does that.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use twinlane_proto::control::{SlowPolicy, Start};
use twinlane_proto::topic::TopicSpec;

use crate::transport::{Identity, IoPolicy, LinkFault, Trust};

/// Bytes of a payload on a fast topic that does not choose: at 20 Mbit/s its fragments still arrive within 30 ms.
pub(crate) const FAST_PAYLOAD_BYTES: u32 = 64 << 10;
/// A payload of which a fast topic may always take one, however little it keeps: with its headers it fits the smallest
/// datagram that every QUIC path carries (RFC 9000, section 14).
pub(crate) const DATAGRAM_PAYLOAD_BYTES: u32 = 1_024;

/// The port a server listens on, for TCP and UDP alike, when none is named.
pub const DEFAULT_PORT: u16 = 4747;

/// How an [`Engine`](crate::Engine) behaves.
///
/// | field | default | why this value |
/// |---|---|---|
/// | `name` | `"twinlane"` | shown to clients and in status |
/// | `topics` | none | topics that exist from the start |
/// | `declare_on_use` | `true` | a first use may name the channel; switch it off where topics are an operator's matter |
/// | `auth` | [`Auth::Open`] | a loopback server needs none; other addresses are refused without |
/// | `io_threads` | 0 | 0 runs connections on the caller's tokio runtime |
/// | `io_policy` | adaptive | see [`IoPolicy`] |
/// | `block_timeout` | 5 s | how long one slow subscriber may hold publishers before it is cut off |
/// | `data_dir` | none | where durable topics are; without it there are none |
/// | `session_retention` | 10 min | how long a session whose connections died can be resumed |
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EngineConfig {
    /// The name this engine gives itself; at most 64 bytes.
    pub name: String,
    /// Topics declared at the start, with their specification.
    pub topics: Vec<(String, TopicSpec)>,
    /// Whether a publisher or subscriber may declare a topic by using it.
    pub declare_on_use: bool,
    /// Who may open a session over the network.
    pub auth: Auth,
    /// Threads for network connections, each with a runtime of its own; 0 uses the caller's runtime.
    pub io_threads: usize,
    /// What those threads do when there is nothing to do.
    pub io_policy: IoPolicy,
    /// Bounds on what clients may ask for.
    pub limits: Limits,
    /// The longest a subscriber with [`SlowPolicy::Block`] may hold publishers back.
    pub block_timeout: Duration,
    /// How long a disconnected session keeps its publisher streams.
    pub session_retention: Duration,
    /// The directory that durable topics are kept in: made if it does not exist, used by one engine at a time.
    pub data_dir: Option<PathBuf>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            name: "twinlane".to_owned(),
            topics: Vec::new(),
            declare_on_use: true,
            auth: Auth::Open,
            io_threads: 0,
            io_policy: IoPolicy::default(),
            limits: Limits::default(),
            block_timeout: Duration::from_secs(5),
            session_retention: Duration::from_secs(600),
            data_dir: None,
        }
    }
}

/// Bounds on what one engine serves. Exceeding one is an answer ([`Code::LimitReached`](crate::Code)), never a crash.
///
/// | field | default | why this value |
/// |---|---|---|
/// | `connections_max` | 10 000 | descriptors and memory of an ordinary machine |
/// | `connections_per_ip_max` | 200 | one address cannot take them all (loopback is exempt) |
/// | `new_connections_per_ip_per_second` | 100 | slows connection floods (loopback is exempt) |
/// | `topics_max` | 100 000 | memory of names and rings |
/// | `sessions_max` | 100 000 | memory of resumable sessions |
/// | `subscriptions_per_session_max` | 1 000 | a cursor each |
/// | `publishers_per_session_max` | 1 000 | a publisher stream each |
/// | `reliable_payload_bytes_max` | 1 MiB | largest frame a peer must buffer |
/// | `fast_payload_bytes_max` | 1 MiB | likewise, in fragments; a topic that does not choose takes 64 KiB |
/// | `topic_retain_bytes` | 8 MiB | history window of a topic that does not choose |
/// | `topic_retain_messages` | 1 000 000 | likewise, in messages |
/// | `durable_retain_bytes` | 1 TiB | likewise, of a topic on disk |
/// | `durable_retain_messages` | 2^40 | likewise, in messages |
/// | `log_bytes_max` | 0 | disk for all durable topics together; 0: what the disk has |
/// | `log_segment_bytes` | 64 MiB | a file of the log; smaller ones suit small disks |
/// | `last_keys_max` | 65 536 | newest values that one topic keeps by key |
#[derive(Clone, Debug)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the table above documents each field")]
pub struct Limits {
    pub connections_max: usize,
    pub connections_per_ip_max: usize,
    pub new_connections_per_ip_per_second: u32,
    pub topics_max: usize,
    pub sessions_max: usize,
    pub subscriptions_per_session_max: usize,
    pub publishers_per_session_max: usize,
    pub reliable_payload_bytes_max: u32,
    pub fast_payload_bytes_max: u32,
    pub topic_retain_bytes: u64,
    pub topic_retain_messages: u64,
    pub durable_retain_bytes: u64,
    pub durable_retain_messages: u64,
    pub log_bytes_max: u64,
    pub log_segment_bytes: u64,
    pub last_keys_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            connections_per_ip_max: 200,
            new_connections_per_ip_per_second: 100,
            topics_max: 100_000,
            sessions_max: 100_000,
            subscriptions_per_session_max: 1_000,
            publishers_per_session_max: 1_000,
            reliable_payload_bytes_max: twinlane_proto::limits::PAYLOAD_BYTES_MAX as u32,
            fast_payload_bytes_max: twinlane_proto::limits::PAYLOAD_BYTES_MAX as u32,
            topic_retain_bytes: 8 << 20,
            topic_retain_messages: 1_000_000,
            durable_retain_bytes: 1 << 40,
            durable_retain_messages: 1 << 40,
            log_bytes_max: 0,
            log_segment_bytes: 64 << 20,
            last_keys_max: 65_536,
        }
    }
}

/// Who may open a session over the network. In-process sessions are the embedder's own and need no proof.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Auth {
    /// Anyone who can connect.
    Open,
    /// Holders of one of these tokens.
    Tokens(Vec<TokenHash>),
}

impl Auth {
    /// Whether `token` opens a session. Every stored hash is compared, in constant time each.
    #[must_use]
    pub fn admits(&self, token: Option<&[u8]>) -> bool {
        match (self, token) {
            (Self::Open, _) => true,
            (Self::Tokens(_), None) => false,
            (Self::Tokens(hashes), Some(token)) => {
                let offered = TokenHash::of_bytes(token);
                let hits: u8 = hashes.iter().map(|known| known.0.ct_eq(&offered.0).unwrap_u8()).sum();
                hits > 0
            }
        }
    }
}

/// The SHA-256 of an access token: what a server keeps instead of the token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Hashes a token.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self::of_bytes(token.as_bytes())
    }

    fn of_bytes(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

/// The text was not 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a token hash is 64 hex digits (the SHA-256 of the token), got {chars} characters")]
pub struct ParseTokenHashError {
    chars: usize,
}

impl FromStr for TokenHash {
    type Err = ParseTokenHashError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseTokenHashError { chars: text.chars().count() };
        if text.len() != 64 || !text.is_ascii() {
            return Err(error());
        }
        let mut hash = [0_u8; 32];
        for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| error())?;
        }
        Ok(Self(hash))
    }
}

/// Where and how an engine accepts connections.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListenOptions {
    /// Address and port, the same number for TCP and UDP; port 0 picks a free one.
    pub addr: SocketAddr,
    /// Accept TCP (TLS 1.3).
    pub tcp: bool,
    /// Accept QUIC over UDP.
    pub quic: bool,
    /// TCP without TLS. Loopback only: meant for measuring what TLS costs.
    pub plain: bool,
    /// How the server proves who it is.
    pub identity: Identity,
    /// Permit an address other than loopback although [`Auth::Open`] lets anyone in.
    pub allow_insecure_bind: bool,
}

impl ListenOptions {
    /// Both transports on `addr` with a certificate made in memory.
    #[must_use]
    pub fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            tcp: true,
            quic: true,
            plain: false,
            identity: Identity::SelfSignedInMemory,
            allow_insecure_bind: false,
        }
    }
}

impl Default for ListenOptions {
    /// Loopback, [`DEFAULT_PORT`].
    fn default() -> Self {
        Self::new(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT))
    }
}

/// Which transports a client may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Transports {
    /// Reliable topics over TCP, fast topics over QUIC, or over TCP while UDP is blocked.
    #[default]
    Both,
    /// Everything over TCP.
    TcpOnly,
    /// Everything over QUIC: streams for reliable topics, datagrams for fast ones.
    QuicOnly,
}

/// How a client comes back after its connection is lost.
///
/// The n-th wait is `first × 2ⁿ`, at most `max`, drawn from ±50 % of it so that many clients of one server
/// do not return at the same instant.
#[derive(Clone, Copy, Debug)]
pub struct Reconnect {
    /// `false`: the first loss ends the session.
    pub enabled: bool,
    /// The first wait; 100 ms by default.
    pub first: Duration,
    /// The longest wait; 5 s by default.
    pub max: Duration,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self { enabled: true, first: Duration::from_millis(100), max: Duration::from_secs(5) }
    }
}

/// How to reach a server. Only `server` and `trust` have no default.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// `host:port` or `twinlane://host:port`; the port may be left out.
    pub server: String,
    /// Whose certificate to accept.
    pub trust: Trust,
    /// Which transports to use.
    pub transports: Transports,
    /// TCP without TLS, for a server that listens so. Loopback only.
    pub plain: bool,
    /// The access token, where the server asks for one.
    pub token: Option<String>,
    /// A name for this client, shown in the server's status; at most 64 bytes.
    pub name: String,
    /// The longest one attempt to connect may take; 5 s by default.
    pub connect_timeout: Duration,
    /// The longest a publish, flush or request to the server waits for its outcome; 30 s by default.
    pub outcome_timeout: Duration,
    /// How to come back after a lost connection.
    pub reconnect: Reconnect,
    /// A bad link on purpose, for tests; none by default.
    pub link_fault: Option<LinkFault>,
}

impl ConnectOptions {
    /// Both transports to `server`, reconnecting for ever.
    #[must_use]
    pub fn new(server: impl Into<String>, trust: Trust) -> Self {
        Self {
            server: server.into(),
            trust,
            transports: Transports::default(),
            plain: false,
            token: None,
            name: "twinlane client".to_owned(),
            connect_timeout: Duration::from_secs(5),
            outcome_timeout: Duration::from_secs(30),
            reconnect: Reconnect::default(),
            link_fault: None,
        }
    }

    /// TCP without TLS to a loopback server.
    #[must_use]
    pub fn plain(server: impl Into<String>) -> Self {
        Self {
            plain: true,
            transports: Transports::TcpOnly,
            ..Self::new(server, Trust::KnownHosts(PathBuf::new()))
        }
    }
}

/// How to open a publisher.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PublisherOptions {
    /// Declare the topic so on first use; an existing topic must agree.
    pub spec: Option<TopicSpec>,
    /// Bytes that may wait in this process for the network; 4 MiB by default, at most 64 MiB. The publishers of one
    /// session together hold at most four times as much (of the largest of them), and each of them 352 KiB beside that:
    /// so no publisher whose topic stands still stops another one, and a thousand topics do not fill the memory. Unused
    /// in process.
    pub queue_bytes: usize,
}

impl Default for PublisherOptions {
    fn default() -> Self {
        Self { spec: None, queue_bytes: 4 << 20 }
    }
}

/// How to open a subscription.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SubscribeOptions {
    /// Where in the history to begin; [`Start::New`] by default.
    pub start: Start,
    /// What happens when this subscriber of a reliable topic does not keep up. [`SlowPolicy::Spill`] by default: from a
    /// durable topic it reads what it missed from disk, later; a topic in memory holds its publishers back, as with
    /// [`SlowPolicy::Block`].
    pub slow: SlowPolicy,
    /// Declare the topic so on first use; an existing topic must agree. Only for a filter without wildcards.
    pub spec: Option<TopicSpec>,
    /// Bytes of fast messages that may wait in this process for the application: 4 MiB by default; the oldest are
    /// dropped above that. Unused in process, where the topic's own history is the queue.
    pub queue_bytes: usize,
    /// Bytes of reliable messages that the server may send ahead of what the application has read: 512 KiB by
    /// default, so 10 MB/s at a round trip of 50 ms. What is behind waits in the topic's history, which all its
    /// subscribers share. A larger frame is sent alone. Unused in process.
    pub ahead_bytes: usize,
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        Self {
            start: Start::New,
            slow: SlowPolicy::Spill,
            spec: None,
            queue_bytes: 4 << 20,
            ahead_bytes: 512 << 10,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stored_token_is_admitted() {
        let auth = Auth::Tokens(vec![TokenHash::of("correct horse"), TokenHash::of("battery staple")]);
        assert!(auth.admits(Some(b"correct horse")));
        assert!(auth.admits(Some(b"battery staple")));
        assert!(!auth.admits(Some(b"battery stapl")));
        assert!(!auth.admits(Some(b"")));
        assert!(!auth.admits(None));
        assert!(Auth::Open.admits(None));
    }

    #[test]
    fn a_token_hash_reads_back_what_it_prints_and_debug_hides_it() {
        let hash = TokenHash::of("secret");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert!("zz".parse::<TokenHash>().is_err());
        assert!("é".repeat(32).parse::<TokenHash>().is_err());
        assert!(!format!("{hash:?}").contains(&hash.to_string()));
    }
}
