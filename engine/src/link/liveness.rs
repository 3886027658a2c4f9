//! How often each side of a connection asks whether the other is still there.
//!
//! Clients ask first: an idle connection costs one exchange per interval, not two. QUIC needs no keep-alive of its
//! own beside it: one exchange holds a NAT binding, too.

use std::time::Duration;

use twinlane_proto::control::Purpose;
use twinlane_proto::limits::{DEAD_AFTER, PING_INTERVAL};
use twinlane_proto::session::SessionConfig;

use crate::transport::Carrier;

/// Over QUIC an exchange costs four times what it does over TCP, and a lost ping is sent again within a round trip
/// or two: one in time for `DEAD_AFTER` is enough. Three fit QUIC's idle timeout, and NAT bindings of 30 s.
const QUIC_PING_INTERVAL: Duration = PING_INTERVAL.saturating_mul(2);

/// A client's side of a connection.
pub(crate) fn client(purpose: Purpose, carrier: Carrier) -> SessionConfig {
    let dead_after = match purpose {
        Purpose::Primary => DEAD_AFTER,
        // While it is used its silence is noticed much earlier, and the one beside it is asked often enough.
        Purpose::Datagrams => 2 * DEAD_AFTER,
    };
    SessionConfig { ping_interval: client_ping_interval(carrier), dead_after, ..SessionConfig::default() }
}

/// A server's side, which does not know yet what a QUIC connection is for.
pub(crate) fn server(is_quic: bool) -> SessionConfig {
    let (carrier, dead_after) =
        if is_quic { (Carrier::Quic, 2 * DEAD_AFTER) } else { (Carrier::Tcp, DEAD_AFTER) };
    SessionConfig {
        ping_interval: client_ping_interval(carrier) * 3 / 2,
        dead_after,
        ..SessionConfig::default()
    }
}

/// How often a client asks, and its server's `Welcome` says that it should.
pub(crate) fn client_ping_interval(carrier: Carrier) -> Duration {
    if carrier.is_quic() { QUIC_PING_INTERVAL } else { PING_INTERVAL }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_asks_before_its_server_does_and_in_time_to_be_heard() {
        for (carrier, is_quic) in [(Carrier::Tcp, false), (Carrier::Quic, true)] {
            for purpose in [Purpose::Primary, Purpose::Datagrams] {
                let (client, server) = (client(purpose, carrier), server(is_quic));
                assert!(client.ping_interval < server.ping_interval, "{carrier} {purpose:?}");
                let spare = client.dead_after.min(server.dead_after) - client.ping_interval;
                assert!(
                    Duration::from_secs(5) <= spare,
                    "{carrier} {purpose:?}: {spare:?} to be heard again"
                );
            }
        }
    }

    #[test]
    fn a_client_notices_a_dead_server_in_the_time_of_the_protocol() {
        for carrier in [Carrier::Tcp, Carrier::Quic] {
            assert_eq!(client(Purpose::Primary, carrier).dead_after, DEAD_AFTER);
        }
    }
}
