//! Events for Rust clients, in this process or over the network: the same layer that browsers reach through the gateway.
//!
//! A client's packets are messages on a topic that only its session may publish on; what it is told comes to its session's
//! inbox. So a lost connection is the session's business: nothing is missed while it resumes.

mod client;
mod link;
mod packet;
mod server;

use twinlane_proto::TopicName;

pub use client::{ClientDirected, ClientSocket, JoinNamespaceError};
pub(crate) use link::{EventsClient, Link};
pub use packet::NativeError;
pub(super) use server::serve;

/// What the names of clients' topics begin with; their session's number follows.
const UPLINKS: &str = "$io/";

/// The topic on which `session` sends its packets.
pub(crate) fn uplink(session: &str) -> String {
    format!("{UPLINKS}{session}")
}

/// Whether `session` may publish on `topic`: not as somebody else's client, and not past the event layer.
pub(crate) fn may_publish(topic: &TopicName, session: &str) -> bool {
    let topic = topic.as_str();
    !super::layer::is_log(topic) && (!is_uplink(topic) || topic == uplink(session))
}

fn is_uplink(topic: &str) -> bool {
    topic.starts_with(UPLINKS)
}

/// For fuzzing: takes packets off `message` until there is none.
#[doc(hidden)]
pub fn read_packets(message: &[u8]) -> Result<usize, NativeError> {
    let (mut rest, mut packets) = (bytes::Bytes::copy_from_slice(message), 0);
    while !rest.is_empty() {
        packet::take(&mut rest)?;
        packets += 1;
    }
    Ok(packets)
}
