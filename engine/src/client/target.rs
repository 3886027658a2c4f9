//! Where the server is: `host:port`, `twinlane://host:port` or just a host, resolved to an address.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::DEFAULT_PORT;
use crate::transport::{ClientTls, ConnectError, Datagrams, LinkFault, Stream, connect_quic, connect_tcp};

/// A server's name as its certificate has it, one address of it, and what is wrong with the link to it on purpose.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) name: String,
    pub(super) addr: SocketAddr,
    pub(super) fault: Option<LinkFault>,
}

impl Target {
    pub(super) async fn tcp(
        &self,
        tls: Option<&ClientTls>,
        timeout: Duration,
    ) -> Result<Stream, ConnectError> {
        let addr = self.addr;
        if self.fault.as_ref().is_some_and(LinkFault::refuses_tcp) {
            let source = io::ErrorKind::ConnectionRefused.into();
            return Err(ConnectError::Unreachable { addr, source });
        }
        let stream = connect_tcp(addr, &self.name, tls, timeout).await?;
        Ok(match &self.fault {
            Some(fault) => fault.carry(stream),
            None => stream,
        })
    }

    pub(super) async fn quic(
        &self,
        tls: &ClientTls,
        timeout: Duration,
    ) -> Result<(Stream, Datagrams), ConnectError> {
        connect_quic(self.addr, &self.name, tls, timeout, self.fault.as_ref()).await
    }
}

pub(super) async fn resolve(server: &str, fault: Option<LinkFault>) -> Result<Target, ConnectError> {
    let (name, port) = split(server);
    let bad = || ConnectError::ServerName { name: server.to_owned() };
    let port = port.map_or(Ok(DEFAULT_PORT), str::parse).map_err(|_| bad())?;
    let mut addrs = tokio::net::lookup_host((name, port)).await.map_err(|_| bad())?;
    let addr = addrs.next().ok_or_else(bad)?;
    Ok(Target { name: name.to_owned(), addr, fault })
}

fn split(server: &str) -> (&str, Option<&str>) {
    let server = server.strip_prefix("twinlane://").unwrap_or(server).trim_end_matches('/');
    if let Some(rest) = server.strip_prefix('[')
        && let Some((name, port)) = rest.split_once(']')
    {
        return (name, port.strip_prefix(':'));
    }
    match server.split_once(':') {
        // More than one colon: an IPv6 address without a port.
        Some((_, port)) if port.contains(':') => (server, None),
        Some((name, port)) => (name, Some(port)),
        None => (server, None),
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn a_server_is_named_with_or_without_scheme_and_port() {
        assert_eq!(split("example.org"), ("example.org", None));
        assert_eq!(split("twinlane://example.org:1/"), ("example.org", Some("1")));
        assert_eq!(split("127.0.0.1:47"), ("127.0.0.1", Some("47")));
        assert_eq!(split("[::1]:47"), ("::1", Some("47")));
        assert_eq!(split("[::1]"), ("::1", None));
        assert_eq!(split("::1"), ("::1", None));
    }
}
