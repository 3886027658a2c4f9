//! The server's log: one line per event on standard error, as text or JSON.
//!
//! Values that a peer may have chosen are written so that they can neither break a line nor move the cursor.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

use crate::config::ConfigError;
use crate::output::harmless;

/// The environment variable that sets the level: `debug`, or per target `info,twinlane=debug`.
const LEVEL_VARIABLE: &str = "TWINLANE_LOG";

/// Starts logging for the rest of the program.
///
/// # Errors
///
/// The level in the environment makes no sense.
pub(crate) fn start(json: bool) -> Result<(), ConfigError> {
    let levels = match std::env::var(LEVEL_VARIABLE) {
        Ok(levels) => levels.parse::<EnvFilter>().map_err(|error| {
            let what = format!("{LEVEL_VARIABLE}={levels:?} is no log level: {error}");
            ConfigError::Contradiction(format!("{what}; write info or info,twinlane=debug"))
        })?,
        Err(_) => EnvFilter::new("info"),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(levels).with_writer(io::stderr);
    if json {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
    } else {
        let fields = debug_fn(|writer: &mut Writer<'_>, field, value| {
            let mut text = String::new();
            let _infallible = write!(text, "{value:?}");
            match field.name() {
                "message" => write!(writer, "{}", harmless(&text)),
                name => write!(writer, "{name}={}", harmless(&text)),
            }
        });
        builder
            .with_ansi(io::stderr().is_terminal())
            .with_target(false)
            .fmt_fields(fields.delimited(" "))
            .init();
    }
    Ok(())
}
