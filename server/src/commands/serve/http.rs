//! Browsers and Socket.IO clients of `twinlane serve`, and the console.

use std::sync::Arc;

use anyhow::Context as _;
use twinlane::events::{Connecting, Events, Refusal};
use twinlane::{Auth, Engine, ListenError, ListenOptions, Listening};
use twinlane_gateway::console::{Console, Token};
use twinlane_gateway::{Gateway, GatewayOptions, Origins};

use super::bridge;
use crate::config::{HttpSettings, Settings};

/// What runs for browsers until the server stops.
pub(super) struct Http {
    gateway: Arc<Gateway>,
    console: Option<Console>,
    /// The scheme is https.
    is_secure: bool,
}

impl Http {
    /// Starts what the settings ask for; they know the address.
    pub(super) async fn start(
        engine: &Engine,
        settings: &Settings,
        http: &HttpSettings,
        auth: &Auth,
        connections_max: usize,
    ) -> anyhow::Result<Self> {
        let events = Events::new(engine)?;
        let auth = auth.clone();
        events.middleware(move |connecting| {
            let answer = admit(&auth, &connecting);
            async move { answer }
        });
        bridge::open(engine, &events);
        let console = http.console.then(|| Console::new(engine, Token::generate()));
        let mut options = options(engine, settings, http, connections_max);
        if let Some(console) = &console {
            options = options.pages(console.router());
        }
        let gateway = Gateway::bind(&events, options).await.context("cannot serve browsers")?;
        let gateway = Arc::new(gateway);
        if let Some(console) = &console {
            let shown = Arc::downgrade(&gateway);
            console.show("gateway", move || shown.upgrade().map(|gateway| gateway.status()));
            console.show("events", move || events.status());
        }
        Ok(Self { gateway, console, is_secure: http.tls })
    }

    /// Opens a port for clients of twinlane's own protocol and for WebTransport.
    pub(super) async fn listen(
        &self,
        engine: &Engine,
        options: ListenOptions,
    ) -> Result<Listening, ListenError> {
        self.gateway.listen(engine, options).await
    }

    /// Where browsers connect.
    pub(super) fn url(&self) -> String {
        format!("{}://{}", if self.is_secure { "https" } else { "http" }, self.gateway.addr())
    }

    /// The address that opens the console, token included.
    pub(super) fn console_url(&self) -> Option<String> {
        self.console.as_ref().map(|console| console.url(self.gateway.addr(), self.is_secure))
    }

    /// Says goodbye to browsers.
    pub(super) async fn shutdown(&self) {
        if let Some(console) = &self.console {
            console.close();
        }
        self.gateway.shutdown(super::DRAIN_TIMEOUT).await;
    }
}

fn options(
    engine: &Engine,
    settings: &Settings,
    http: &HttpSettings,
    connections_max: usize,
) -> GatewayOptions {
    let mut options = GatewayOptions::new(http.listen);
    options.origins = match &*http.origins {
        [] => Origins::SameHost,
        list if list.iter().any(|origin| origin == "*") => Origins::Any,
        list => Origins::List(list.to_vec()),
    };
    options.tls = http.tls.then(|| settings.identity.clone());
    options.danger_plain_off_loopback = settings.allow_insecure_bind;
    options.native = Some(engine.clone());
    options.http.connections_max = connections_max;
    options.http.connections_per_ip_max = settings.limits.connections_per_ip_max;
    options.http.sessions_max = settings.limits.sessions_max;
    options
}

/// Whoever gives a known token is let in.
fn admit(auth: &Auth, connecting: &Connecting) -> Result<(), Refusal> {
    let token = connecting.auth()["token"].as_str();
    let refusal = || Refusal::new("not authorized: give a token as `auth: { token }`");
    if auth.admits(token.map(str::as_bytes)) { Ok(()) } else { Err(refusal()) }
}
