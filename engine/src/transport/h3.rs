//! HTTP/3 connections on the QUIC port: they are counted and limited as ours are, and somebody else speaks on them.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::limits::OpenConnection;
use super::listener::Incoming;
use super::quic::Datagrams;
use super::stream::{Carrier, Stream};

/// Who takes HTTP/3 connections.
pub(crate) type OnH3 = Arc<dyn Fn(H3Connection) + Send + Sync>;

/// A QUIC connection whose client speaks HTTP/3. Clones share it; it counts as open until the last one is dropped.
#[derive(Clone)]
pub struct H3Connection {
    connection: quinn::Connection,
    open: Arc<OpenConnection>,
}

impl H3Connection {
    pub(super) fn new(connection: quinn::Connection, open: Arc<OpenConnection>) -> Self {
        Self { connection, open }
    }

    /// The connection itself.
    #[must_use]
    pub fn quic(&self) -> &quinn::Connection {
        &self.connection
    }

    /// The other end, as it is now.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// A client of ours on one of its streams, and on those of its datagrams that begin with `prefix`.
    pub(crate) fn into_client(
        self,
        stream: (quinn::SendStream, quinn::RecvStream),
        prefix: &[u8],
    ) -> Incoming {
        let stream = Stream::quic(Carrier::WebTransport, stream, self.peer(), Some(Arc::clone(&self.open)));
        let datagrams = Datagrams::quic(self.connection, prefix, Some(self.open));
        Incoming { stream, datagrams: Some(datagrams) }
    }
}

impl fmt::Debug for H3Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("H3Connection").field("peer", &self.peer()).finish_non_exhaustive()
    }
}
