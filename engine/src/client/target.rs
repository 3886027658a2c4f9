//! Where the server is: `host:port`, `twinlane://host:port` or just a host, resolved to an address.

use std::net::SocketAddr;

use crate::config::DEFAULT_PORT;
use crate::transport::ConnectError;

/// A server's name as its certificate has it, and one address of it.
pub(super) struct Target {
    pub(super) name: String,
    pub(super) addr: SocketAddr,
}

pub(super) async fn resolve(server: &str) -> Result<Target, ConnectError> {
    let (name, port) = split(server);
    let bad = || ConnectError::ServerName { name: server.to_owned() };
    let port = port.map_or(Ok(DEFAULT_PORT), str::parse).map_err(|_| bad())?;
    let mut addrs = tokio::net::lookup_host((name, port)).await.map_err(|_| bad())?;
    let addr = addrs.next().ok_or_else(bad)?;
    Ok(Target { name: name.to_owned(), addr })
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
