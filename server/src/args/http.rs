//! Flags of `twinlane serve` for browsers.

use std::net::SocketAddr;

use clap::Args;

use crate::units;

/// How browsers and Socket.IO clients reach the server.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Browsers")]
pub(crate) struct HttpArgs {
    /// Serve browsers and Socket.IO clients here, over WebSocket and HTTP, and over WebTransport on the ports for QUIC
    /// [default address: 127.0.0.1:4780]
    ///
    /// In namespace / a client emits `subscribe` and `unsubscribe` with a topic or filter, and `publish` with a topic and
    /// a message; messages come as event `message`. Where the server asks for tokens, the client gives one as
    /// `auth: { token }`. An address other than loopback is served over HTTPS with the server's certificate.
    #[arg(long, value_name = "ADDR:PORT", num_args = 0..=1, default_missing_value = "127.0.0.1:4780",
        value_parser = units::parse_http_listen)]
    pub(crate) http: Option<SocketAddr>,
    /// Serve the console, too: a page that shows what the server does. Its address is printed with its token
    #[arg(long)]
    pub(crate) console: bool,
    /// Let pages of this origin connect, as in `https://example.org`; may be given several times [default: pages of the
    /// same host]
    #[arg(long = "origin", value_name = "ORIGIN")]
    pub(crate) origins: Vec<String>,
}
