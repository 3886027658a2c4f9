//! What tests may set, by the same names for both servers. `tests/browser/README.md` lists them.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use twinlane::events::EventsOptions;
use twinlane_gateway::{GatewayOptions, Origins, Parser};

use crate::Failure;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Options {
    /// What the official protocol suites expect, instead of the scenarios.
    #[serde(default)]
    pub(crate) suite: bool,
    /// Every message goes back to whom it came from: Engine.IO alone, for its official suite.
    #[serde(default)]
    pub(crate) echo: bool,
    port: Option<u16>,
    path: Option<String>,
    ping_interval_ms: Option<u64>,
    ping_timeout_ms: Option<u64>,
    upgrade_timeout_ms: Option<u64>,
    connect_timeout_ms: Option<u64>,
    max_payload_bytes: Option<usize>,
    transports: Option<Vec<String>>,
    allow_upgrades: Option<bool>,
    parser: Option<String>,
    /// `true`: any; otherwise a list.
    origins: Option<serde_json::Value>,
    /// The gateway sets none: a cookie proves nothing.
    #[serde(rename = "cookie")]
    _cookie: Option<String>,
    recovery: Option<bool>,
    recovery_ms: Option<u64>,
    history_events: Option<u64>,
    outbox_bytes: Option<usize>,
    outbox_events: Option<usize>,
}

impl Options {
    pub(crate) fn events(&self) -> EventsOptions {
        let mut options = EventsOptions::default();
        set(&mut options.recovery, self.recovery_ms.map(Duration::from_millis));
        set(&mut options.history_events, self.history_events);
        if self.recovery == Some(false) {
            options.recovery = Duration::ZERO;
        }
        options
    }

    /// Whether HTTP/3 is served on the UDP port of the same number.
    pub(crate) fn webtransport(&self) -> bool {
        self.transports.iter().flatten().any(|transport| transport == "webtransport")
    }

    pub(crate) fn gateway(&self) -> Result<GatewayOptions, Failure> {
        let mut options = GatewayOptions::new(([127, 0, 0, 1], self.port.unwrap_or(0)).into());
        let ms = |ms: Option<u64>| ms.map(Duration::from_millis);
        set(&mut options.path, self.path.clone());
        set(&mut options.ping_interval, ms(self.ping_interval_ms));
        set(&mut options.ping_timeout, ms(self.ping_timeout_ms));
        set(&mut options.upgrade_timeout, ms(self.upgrade_timeout_ms));
        set(&mut options.connect_timeout, ms(self.connect_timeout_ms));
        set(&mut options.max_payload_bytes, self.max_payload_bytes);
        set(&mut options.allow_upgrades, self.allow_upgrades);
        set(&mut options.outbox.bytes_max, self.outbox_bytes);
        set(&mut options.outbox.events_max, self.outbox_events);
        if let Some(transports) = &self.transports {
            options.polling = transports.iter().any(|transport| transport == "polling");
            options.websocket = transports.iter().any(|transport| transport == "websocket");
        }
        if self.parser.as_deref() == Some("msgpack") {
            options.parser = Parser::Msgpack;
        }
        options.origins = match &self.origins {
            None => Origins::SameHost,
            Some(serde_json::Value::Bool(true)) => Origins::Any,
            Some(list) => Origins::List(serde_json::from_value(list.clone())?),
        };
        options.allow_request = Some(Arc::new(|handshake| {
            let is_refused = handshake.headers.iter().any(|(name, _)| name == "x-refuse");
            if is_refused { Err("Forbidden".to_owned()) } else { Ok(()) }
        }));
        Ok(options)
    }
}

fn set<T>(option: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *option = value;
    }
}
