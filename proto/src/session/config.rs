//! What a session is configured with.

use std::time::Duration;

use crate::VERSION;
use crate::limits::{
    DEAD_AFTER, HANDSHAKE_TIMEOUT, MEMBERS_MAX, PING_INTERVAL, PUBLISHERS_MAX, SUBSCRIPTIONS_MAX,
};

/// Limits and times of one [`Session`](super::Session).
///
/// Worst-case memory is about 64 bytes for each subscription, publisher and queue member, 770 kB by default, plus
/// what the caller leaves in the outputs.
///
/// | field | default | why this value |
/// |---|---|---|
/// | `handshake_timeout` | 5 s | a bad mobile link makes it, a silent stranger does not stay |
/// | `ping_interval` | 5 s | three chances within `dead_after` |
/// | `dead_after` | 15 s | a short loss of signal is survived, a dead peer noticed |
/// | `subscriptions_max` | 1 000 | each costs the server a cursor per topic |
/// | `publishers_max` | 10 000 | as many as topics one client may have |
/// | `members_max` | 1 000 | each costs the server a topic for its jobs |
/// | `version_min`, `version_max` | 1 | the one version there is |
/// | `capabilities` | 0 | none is defined in version 1 |
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// From the start to `Welcome` at most.
    pub handshake_timeout: Duration,
    /// After this long without incoming traffic a ping is sent.
    pub ping_interval: Duration,
    /// After this long without incoming traffic the peer counts as dead.
    pub dead_after: Duration,
    /// Subscriptions at most.
    pub subscriptions_max: usize,
    /// Open publishers at most.
    pub publishers_max: usize,
    /// Queue members at most.
    pub members_max: usize,
    /// Server: lowest protocol version accepted. A client's versions are in its hello.
    pub version_min: u16,
    /// Server: highest protocol version accepted.
    pub version_max: u16,
    /// Server: optional abilities, one bit each. A client's are in its hello.
    pub capabilities: u64,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            handshake_timeout: HANDSHAKE_TIMEOUT,
            ping_interval: PING_INTERVAL,
            dead_after: DEAD_AFTER,
            subscriptions_max: SUBSCRIPTIONS_MAX,
            publishers_max: PUBLISHERS_MAX,
            members_max: MEMBERS_MAX,
            version_min: VERSION,
            version_max: VERSION,
            capabilities: 0,
        }
    }
}

impl SessionConfig {
    pub(super) fn assert_consistent(&self) {
        let Self { ping_interval, dead_after, version_min, version_max, .. } = self;
        assert!(!ping_interval.is_zero(), "ping_interval must be positive");
        assert!(dead_after > ping_interval, "dead_after {dead_after:?} leaves no time for a ping");
        assert!(version_min <= version_max, "versions {version_min} to {version_max} are an empty range");
    }
}
