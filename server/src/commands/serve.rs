//! `twinlane serve`: an engine that listens, from settings to the last goodbye.

mod bridge;
mod http;

use std::io::{self, IsTerminal as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use twinlane::{Auth, Engine, EngineStatus, Identity, ListenOptions, Listening, Storage};

use crate::args::ServeArgs;
use crate::config::{ConfigFile, Settings};
use crate::descriptors::{self, Descriptors};
use crate::output::{self, Facts};
use crate::signals::Interrupt;
use crate::{home, logs, tokens};
use http::Http;

/// How long sessions get to receive what is queued for them when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// More topics than this are counted, not named.
const TOPICS_NAMED_MAX: usize = 8;

/// Serves until SIGINT or SIGTERM.
pub(crate) async fn run(args: ServeArgs) -> anyhow::Result<()> {
    logs::start(args.log_json)?;
    #[cfg(feature = "faults")]
    for name in &args.plant {
        anyhow::ensure!(twinlane::faults::plant(name), "there is no fault {name:?} to plant");
        tracing::warn!(name, "BROKEN ON PURPOSE");
    }
    let mut interrupt = Interrupt::listen().context("cannot listen for signals")?;
    let file = args.config.as_deref().map(ConfigFile::read).transpose()?.unwrap_or_default();
    let mut settings = Settings::resolve(&file, &args, &home::surroundings())?;
    // Browsers have as many connections for themselves.
    let doors = if settings.http.is_some() { 2 } else { 1 };
    let mut descriptors = descriptors::prepare(settings.limits.connections_max.saturating_mul(doors));
    descriptors.connections_max /= doors;
    settings.limits.connections_max = descriptors.connections_max;

    let auth = match &settings.token_file {
        Some(path) => Auth::Tokens(tokens::admitted(path)?),
        None => Auth::Open,
    };
    let engine = Engine::new(settings.engine_config(auth.clone()))?;
    let durable = durable(&settings, &engine.status());
    let mut browsers = None;
    if let Some(http) = &settings.http {
        browsers = Some(Http::start(&engine, &settings, http, &auth, descriptors.connections_max).await?);
    }
    let mut listening = Vec::new();
    for addr in &settings.listen {
        let options = listen_options(&settings, *addr);
        listening.push(match &browsers {
            // The port for QUIC takes browsers, too.
            Some(browsers) if options.quic => browsers.listen(&engine, options).await?,
            _ => engine.listen(options).await?,
        });
    }
    banner(&settings, &auth, &listening, browsers.as_ref(), &descriptors, durable);
    tracing::info!(name = settings.name, version = env!("CARGO_PKG_VERSION"), "serving");

    interrupt.wait().await;
    let sessions = engine.status().sessions.len();
    tracing::info!(sessions, "stopping: saying goodbye (a second signal stops at once)");
    if let Some(browsers) = &browsers {
        browsers.shutdown().await;
    }
    engine.shutdown(DRAIN_TIMEOUT).await;
    tracing::info!("stopped");
    Ok(())
}

fn listen_options(settings: &Settings, addr: SocketAddr) -> ListenOptions {
    let mut options = ListenOptions::new(addr);
    options.tcp = settings.tcp;
    options.quic = settings.quic;
    options.plain = settings.plain;
    options.identity = settings.identity.clone();
    options.allow_insecure_bind = settings.allow_insecure_bind;
    options
}

/// What a person who started the server wants to see first.
fn banner(
    settings: &Settings,
    auth: &Auth,
    listening: &[Listening],
    browsers: Option<&Http>,
    descriptors: &Descriptors,
    durable: String,
) {
    let terminal = io::stdout().is_terminal();
    let mut facts = Facts::default();
    for one in listening {
        facts.add("listening", format!("{} ({})", one.addr(), transports(settings)));
    }
    if let Some(browsers) = browsers {
        let web_transport = listening.first().filter(|_| settings.quic).map(|one| one.addr().port());
        let web_transport =
            web_transport.map_or_else(String::new, |port| format!(", WebTransport on port {port}"));
        facts.add("browsers", format!("{} (WebSocket, HTTP{web_transport})", browsers.url()));
        facts.add("console", browsers.console_url().unwrap_or_default());
    }
    if let Some(fingerprint) = listening.iter().find_map(Listening::fingerprint) {
        facts.add("fingerprint", fingerprint.to_string());
    }
    facts
        .add("certificate", certificate(settings))
        .add("topics", topics(settings))
        .add("durable", durable)
        .add("access", access(auth))
        .add("limits", limits(settings, descriptors))
        .add(
            "threads",
            format!("{}, {}", output::counted(settings.io_threads as u64, "I/O thread"), settings.io_policy),
        );
    let title =
        format!("twinlane {}, server \"{}\"", env!("CARGO_PKG_VERSION"), output::harmless(&settings.name));
    let mut text = format!("{}\n{}", output::styled(terminal, output::STRONG, title), facts.render(terminal));
    if let Some(first) = listening.first() {
        text += &format!(
            "connect with\n  {}\n",
            output::styled(terminal, output::STRONG, command(settings, auth, first))
        );
    }
    // Nobody may be there to read it; the server serves all the same.
    let mut out = io::stdout().lock();
    let _closed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn transports(settings: &Settings) -> String {
    let tcp = match (settings.tcp, settings.plain) {
        (true, true) => "TCP without TLS",
        (true, false) => "TCP with TLS 1.3",
        (false, _) => "",
    };
    let quic = if settings.quic { "QUIC" } else { "" };
    output::joined([tcp.to_owned(), quic.to_owned()])
}

fn certificate(settings: &Settings) -> String {
    match &settings.identity {
        _ if settings.plain && !settings.quic => String::new(),
        Identity::SelfSigned { dir } => format!("{} (self-signed)", dir.join("cert.pem").display()),
        Identity::Pem { cert, .. } => cert.display().to_string(),
        _ => String::new(),
    }
}

fn topics(settings: &Settings) -> String {
    let named = settings.topics.iter().take(TOPICS_NAMED_MAX).map(|(name, spec)| format!("{name} ({spec})"));
    let mut text = named.collect::<Vec<_>>().join("; ");
    let unnamed = settings.topics.len().saturating_sub(TOPICS_NAMED_MAX);
    if unnamed > 0 {
        text += &format!("; and {unnamed} more");
    }
    let others = if settings.declare_on_use { "declared on first use" } else { "refused" };
    match settings.topics.is_empty() {
        true => format!("none yet; they are {others}"),
        false => format!("{text}; others are {others}"),
    }
}

/// Where durable topics are kept and how many there are. `status` is from before clients could declare any.
fn durable(settings: &Settings, status: &EngineStatus) -> String {
    let Some(dir) = settings.log_dir() else { return "off: give --data-dir".to_owned() };
    let configured = |name: &str| settings.topics.iter().find(|(other, _)| other == name);
    // What is not configured can only have come from the log.
    let is_durable = |name: &str| configured(name).is_none_or(|(_, spec)| spec.storage == Storage::Disk);
    let names = status.topics.iter().map(|topic| topic.name.as_str()).filter(|name| !name.starts_with('$'));
    format!(
        "{}, {}",
        dir.display(),
        output::counted(names.filter(|name| is_durable(name)).count() as u64, "topic")
    )
}

fn access(auth: &Auth) -> String {
    match auth {
        Auth::Tokens(hashes) => format!("clients need a token ({} known)", hashes.len()),
        _ => "open: whoever can connect may publish and subscribe".to_owned(),
    }
}

fn limits(settings: &Settings, descriptors: &Descriptors) -> String {
    let connections = output::counted(descriptors.connections_max as u64, "connection");
    let why = match descriptors.limit {
        Some(limit) => format!("{connections} (descriptor limit {})", output::thousands(limit)),
        None => connections,
    };
    let topics = output::counted(settings.limits.topics_max as u64, "topic");
    let sessions = output::counted(settings.limits.sessions_max as u64, "session");
    output::joined([why, sessions, topics])
}

/// A command line that works when it is pasted into another terminal of this machine.
fn command(settings: &Settings, auth: &Auth, listening: &Listening) -> String {
    let filter = settings.topics.first().map_or("**", |(name, _)| name.as_str());
    let trust = match listening.fingerprint() {
        Some(fingerprint) if !settings.plain => format!(" --fingerprint {fingerprint}"),
        _ => " --plain".to_owned(),
    };
    let transport = match (settings.tcp, settings.quic) {
        (false, true) => " --quic-only",
        (true, false) if !settings.plain => " --tcp-only",
        _ => "",
    };
    let token = if matches!(auth, Auth::Tokens(_)) { " --token-file FILE" } else { "" };
    format!(
        "twinlane sub {} --server {}{trust}{transport}{token}",
        quoted(filter),
        reachable(listening.addr())
    )
}

/// An address to connect to, where the server may listen on all of them.
fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

/// A word for a shell: in quotes, unless every shell takes it as it is.
fn quoted(word: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.');
    if word.chars().all(safe) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pasted_command_reaches_a_server_that_listens_everywhere() {
        assert_eq!(reachable("0.0.0.0:7".parse().unwrap()).to_string(), "127.0.0.1:7");
        assert_eq!(reachable("[::]:7".parse().unwrap()).to_string(), "[::1]:7");
        assert_eq!(reachable("10.0.0.1:7".parse().unwrap()).to_string(), "10.0.0.1:7");
    }

    #[test]
    fn a_filter_is_quoted_for_the_shell_when_it_must_be() {
        assert_eq!(quoted("orders/eu-1"), "orders/eu-1");
        assert_eq!(quoted("a/**"), "'a/**'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }
}
