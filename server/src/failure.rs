//! How a command fails: the exit code, the words, and a hint about what to do.

use std::io;

use twinlane::{Code, ConnectError, DeclareError, ListenError, OpenError, PublishError, RequestError};

use crate::config::ConfigError;
use crate::output::{self, harmless};
use crate::signals::INTERRUPTED;
use crate::tokens::TokenError;

/// The command was asked for something that makes no sense. The text says what to change.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) &'static str);

/// The user stopped the command before its work was done.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted;

/// The server refused some of what was published.
#[derive(Debug, thiserror::Error)]
#[error("{refused} of {sent} messages were refused by the server")]
pub(crate) struct SomeRefused {
    pub(crate) refused: u64,
    pub(crate) sent: u64,
}

/// A log does not hold all that it should.
#[derive(Debug, thiserror::Error)]
#[error("the log does not hold all that was acknowledged")]
pub(crate) struct LogDamaged;

/// The other side ended a subscription.
#[derive(Debug, thiserror::Error)]
#[error("the subscription ended: {reason}")]
pub(crate) struct Ended {
    pub(crate) code: Code,
    pub(crate) reason: String,
}

/// Exit code for a general failure.
const FAILED: u8 = 1;
/// Exit code for wrong usage or configuration.
const USAGE: u8 = 2;
/// Exit code when there is no connection.
const NOT_CONNECTED: u8 = 3;
/// Exit code when the server refuses, or does not answer in time.
const REFUSED: u8 = 4;

/// Tells the user what went wrong and returns the exit code.
pub(crate) fn report(error: &anyhow::Error) -> u8 {
    if is_closed_stdout(error) {
        return 0;
    }
    let terminal = output::stderr_is_terminal();
    let label = output::styled(terminal, output::ERROR, "error:");
    output::notice(format_args!("{label} {}", words(error)));
    if let Some(hint) = hint(error) {
        output::notice(format_args!("{} {hint}", output::styled(terminal, output::STRONG, "hint:")));
    }
    exit_code(error)
}

/// The whole chain, without saying the same thing twice.
fn words(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text.lines().map(harmless_line).collect::<Vec<_>>().join("\n")
}

/// Longer than a peer's text, because an error may quote one and still has to say what to do.
fn harmless_line(line: &str) -> String {
    let chars: Vec<char> = line.chars().collect();
    chars.chunks(64).map(|piece| harmless(&piece.iter().collect::<String>())).take(16).collect()
}

/// A reader that closed our standard output has what it wanted.
fn is_closed_stdout(error: &anyhow::Error) -> bool {
    let broken = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    error.downcast_ref::<io::Error>().is_some_and(broken)
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<Interrupted>() {
        return INTERRUPTED;
    }
    if error.is::<Usage>()
        || error.is::<ConfigError>()
        || error.is::<TokenError>()
        || error.downcast_ref::<twinlane::ConfigError>().is_some_and(config_is_usage)
    {
        return USAGE;
    }
    if let Some(error) = error.downcast_ref::<ConnectError>() {
        // Reached, and sent away: connecting is not what failed.
        return match error {
            ConnectError::Rejected { code, .. } if code_is_refusal(*code) => REFUSED,
            _ => NOT_CONNECTED,
        };
    }
    let refused = error.is::<SomeRefused>()
        || error.downcast_ref::<Ended>().is_some_and(|ended| code_is_refusal(ended.code))
        || error.downcast_ref::<OpenError>().is_some_and(open_is_refusal)
        || error.downcast_ref::<DeclareError>().is_some_and(declare_is_refusal)
        || error.downcast_ref::<PublishError>().is_some_and(publish_is_refusal)
        || error.downcast_ref::<RequestError>().is_some_and(request_is_refusal);
    if refused { REFUSED } else { FAILED }
}

/// A log that cannot be opened is no mistake of whoever wrote the configuration.
fn config_is_usage(error: &twinlane::ConfigError) -> bool {
    !matches!(error, twinlane::ConfigError::Storage { .. })
}

fn code_is_refusal(code: Code) -> bool {
    !matches!(code, Code::Normal | Code::ServerShutdown | Code::Closed | Code::Dead | Code::Internal)
}

fn declare_is_refusal(error: &DeclareError) -> bool {
    !matches!(error, DeclareError::Closed { .. })
}

fn open_is_refusal(error: &OpenError) -> bool {
    match error {
        OpenError::Declare(error) => declare_is_refusal(error),
        _ => true,
    }
}

fn publish_is_refusal(error: &PublishError) -> bool {
    !matches!(error, PublishError::Closed { .. } | PublishError::Unknown { .. })
}

fn request_is_refusal(error: &RequestError) -> bool {
    match error {
        RequestError::Publish(error) => publish_is_refusal(error),
        RequestError::Open(error) => open_is_refusal(error),
        RequestError::Timeout(_) | RequestError::NoSuchTopic { .. } => true,
        _ => false,
    }
}

/// What to do, where the error's own words do not say it.
fn hint(error: &anyhow::Error) -> Option<&'static str> {
    if let Some(error) = error.downcast_ref::<ConnectError>() {
        return match error {
            ConnectError::Unreachable { .. } => {
                Some("is the server running? start one with `twinlane serve`")
            }
            ConnectError::Timeout { .. } => {
                Some("with --quic-only a blocked UDP port looks like this; try without")
            }
            ConnectError::ClosedByServer { .. } => {
                Some("a server started with --plain needs --plain here too")
            }
            ConnectError::Rejected { code: Code::AuthRequired | Code::AuthFailed, .. } => {
                Some("if it asks for a token, pass yours with --token-file FILE or in TWINLANE_TOKEN")
            }
            ConnectError::Certificate { .. } => {
                Some("pin the server's own certificate with --fingerprint HEX")
            }
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref::<ListenError>() {
        return match error {
            ListenError::OpenToNetwork { .. } => {
                Some("give --token-file FILE, or --allow-insecure-bind if you mean it")
            }
            ListenError::AddressInUse { .. } => Some("choose another port, as in --listen 127.0.0.1:4748"),
            _ => None,
        };
    }
    if error.is::<LogDamaged>() {
        return Some("restore a backup, or save what can be read: `twinlane log repair DIR`");
    }
    if let Some(PublishError::Refused { code, .. }) = error.downcast_ref::<PublishError>() {
        return match code {
            Code::NoSpace => Some(
                "the server's disk or its `log_bytes_max` is full: raise it, or keep less (`retain_bytes`, `retain_age`)",
            ),
            Code::StorageFailed => Some(
                "the server could not write to its disk: look into its log, and restart it when that is mended",
            ),
            _ => None,
        };
    }
    let declare = match error.downcast_ref::<OpenError>() {
        Some(OpenError::Declare(error)) => Some(error),
        _ => error.downcast_ref::<DeclareError>(),
    };
    match declare {
        Some(DeclareError::Conflict { .. }) => Some("`twinlane explain TOPIC` shows how a topic is declared"),
        Some(DeclareError::Denied { .. }) => {
            Some("declare it at the server: `twinlane serve --topic NAME=fast` (or reliable), or in its file")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn unreachable_server() -> ConnectError {
        let source = io::Error::from(io::ErrorKind::ConnectionRefused);
        ConnectError::Unreachable { addr: "127.0.0.1:1".parse().unwrap(), source }
    }

    #[test]
    fn exit_codes_tell_failures_apart() {
        let codes = |error: anyhow::Error| exit_code(&error.context("while testing"));
        assert_eq!(codes(anyhow::anyhow!("anything")), FAILED);
        assert_eq!(codes(ConfigError::Contradiction("x".into()).into()), USAGE);
        assert_eq!(codes(Usage("x").into()), USAGE);
        assert_eq!(codes(unreachable_server().into()), NOT_CONNECTED);
        assert_eq!(
            codes(ConnectError::Rejected { code: Code::AuthFailed, reason: String::new() }.into()),
            REFUSED
        );
        assert_eq!(codes(RequestError::Timeout(Duration::from_secs(2)).into()), REFUSED);
        assert_eq!(codes(PublishError::Refused { seq: 1, code: Code::Busy }.into()), REFUSED);
        assert_eq!(codes(PublishError::Closed { why: "x".into() }.into()), FAILED);
        assert_eq!(codes(SomeRefused { refused: 1, sent: 2 }.into()), REFUSED);
        assert_eq!(codes(Ended { code: Code::SlowConsumer, reason: String::new() }.into()), REFUSED);
        assert_eq!(codes(Ended { code: Code::ServerShutdown, reason: String::new() }.into()), FAILED);
        assert_eq!(codes(Interrupted.into()), INTERRUPTED);
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let broken = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_closed_stdout(&broken.into()));
        assert!(!is_closed_stdout(&io::Error::other("x").into()));
    }

    #[test]
    fn a_server_that_is_not_there_gets_a_hint() {
        assert!(hint(&unreachable_server().into()).unwrap().contains("twinlane serve"));
    }

    #[test]
    fn words_name_each_cause_once_and_cannot_move_the_cursor() {
        let error =
            anyhow::anyhow!("disk \x1b[2Jfull").context("cannot write: disk \x1b[2Jfull").context("saving");
        assert_eq!(words(&error), "saving: cannot write: disk \\u{1b}[2Jfull");
    }
}
