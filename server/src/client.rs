//! A client command's session: from flags and environment to connected, and its ups and downs in words.

use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinHandle;
use twinlane::{ConnectOptions, Session, SessionEvent, SessionEvents, Transports, Trust};

use crate::args::ClientArgs;
use crate::failure::{Interrupted, Usage};
use crate::home;
use crate::output::{self, harmless};
use crate::signals::Interrupt;
use crate::tokens;

/// Holds the token where no file does.
const TOKEN_VARIABLE: &str = "TWINLANE_TOKEN";
/// The longest that saying goodbye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connected session, whose events are told on standard error.
pub(crate) struct Client {
    pub(crate) session: Session,
    pub(crate) interrupt: Interrupt,
    quiet: bool,
    events: JoinHandle<()>,
}

impl Client {
    /// Connects as the flags say.
    ///
    /// # Errors
    ///
    /// The flags name a file that cannot be used, or the server cannot be reached or trusted.
    pub(crate) async fn connect(args: &ClientArgs) -> anyhow::Result<Self> {
        let interrupt = Interrupt::listen().context("cannot listen for signals")?;
        let options = connect_options(args)?;
        let mut interrupted = interrupt.clone();
        let session = tokio::select! {
            session = Session::connect(options) => session?,
            () = interrupted.wait() => return Err(Interrupted.into()),
        };
        let events = tokio::spawn(tell_events(session.events(), args.server.clone(), args.quiet));
        Ok(Self { session, interrupt, quiet: args.quiet, events })
    }

    /// Tells the user something, unless they asked for silence.
    pub(crate) fn notice(&self, line: impl std::fmt::Display) {
        if !self.quiet {
            output::notice(line);
        }
    }

    /// Says goodbye to the server.
    pub(crate) async fn close(self) {
        // What the user hears from here on is the command's own summary.
        self.events.abort();
        // A server that does not answer the goodbye finds out by itself.
        let _late = tokio::time::timeout(CLOSE_TIMEOUT, self.session.close()).await;
    }
}

/// The engine's options for these flags.
fn connect_options(args: &ClientArgs) -> anyhow::Result<ConnectOptions> {
    let mut options = if args.plain {
        ConnectOptions::plain(&args.server)
    } else {
        ConnectOptions::new(&args.server, trust(args)?)
    };
    if args.tcp_only {
        options.transports = Transports::TcpOnly;
    } else if args.quic_only {
        options.transports = Transports::QuicOnly;
    }
    options.token = token(args)?;
    options.name = "twinlane".to_owned();
    options.connect_timeout = args.connect_timeout;
    options.reconnect.enabled = !args.no_reconnect;
    Ok(options)
}

fn trust(args: &ClientArgs) -> anyhow::Result<Trust> {
    if let Some(fingerprint) = args.fingerprint {
        return Ok(Trust::Fingerprint(fingerprint));
    }
    if let Some(ca) = &args.ca {
        return Ok(Trust::Roots(ca.clone()));
    }
    let known_hosts = args.known_hosts.clone().or_else(|| Some(home::config_dir()?.join("known_hosts")));
    let no_home =
        "there is no home directory to remember servers in: pass --fingerprint, --ca or --known-hosts";
    Ok(Trust::KnownHosts(known_hosts.ok_or(Usage(no_home))?))
}

fn token(args: &ClientArgs) -> anyhow::Result<Option<String>> {
    if let Some(path) = &args.token_file {
        return Ok(Some(tokens::own(path)?));
    }
    match std::env::var(TOKEN_VARIABLE) {
        Ok(token) => Ok(Some(token.trim().to_owned()).filter(|token| !token.is_empty())),
        Err(std::env::VarError::NotPresent) => Ok(None),
        // The value stays out of the message: it is a secret.
        Err(std::env::VarError::NotUnicode(_)) => Err(Usage("TWINLANE_TOKEN is no UTF-8 text").into()),
    }
}

async fn tell_events(mut events: SessionEvents, server: String, quiet: bool) {
    let terminal = output::stderr_is_terminal();
    let mut was_lost = false;
    while let Some(event) = events.next().await {
        let sentence = sentence(&event, &server, was_lost);
        was_lost = matches!(event, SessionEvent::Disconnected { .. } | SessionEvent::Reconnecting { .. })
            || (was_lost && !matches!(event, SessionEvent::Connected { .. }));
        if let (Some(sentence), false) = (sentence, quiet) {
            output::notice(output::styled(terminal, output::WARNING, sentence));
        }
    }
}

/// What to tell of an event; nothing of the first connection, which the user asked for, and of the end.
fn sentence(event: &SessionEvent, server: &str, was_lost: bool) -> Option<String> {
    Some(match event {
        SessionEvent::Connected { resumed, .. } if was_lost => {
            let session = if *resumed { "session resumed" } else { "the server began a new session" };
            format!("connected to {server} again; {session}")
        }
        // The end is told by the command itself, as its error, if it did not bring it about.
        SessionEvent::Connected { .. } | SessionEvent::Closed { .. } => return None,
        SessionEvent::Disconnected { reason } => {
            format!("lost the connection to {server} ({})", harmless(reason))
        }
        SessionEvent::Reconnecting { attempt, delay, last_error } => {
            let why = last_error.as_deref().map(|error| format!(": {}", harmless(error))).unwrap_or_default();
            format!("trying {server} again in {} (attempt {attempt}){why}", output::rounded_time(*delay))
        }
        other => harmless(&other.to_string()),
    })
}
