//! `twinlane reply`: answers questions with a text, with the question itself, or with what a command prints.
//!
//! Commands run beside each other up to a limit; each has a time limit, after which its whole process group is
//! killed and the asker gets no answer.

use std::io;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use twinlane::{Request, Responder};

use crate::args::ReplyArgs;
use crate::client::Client;
use crate::output::{self, harmless};

/// An answer longer than this fits no topic with default limits.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// The longest that commands which still run may take once the user has asked to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Where answers come from.
enum Source {
    Text(Vec<u8>),
    Echo,
    Exec { command: String, timeout: Duration },
}

/// Why a command gave no answer.
#[derive(Debug, thiserror::Error)]
enum ExecError {
    #[error("cannot run the command: {0}")]
    Io(#[from] io::Error),
    #[error("the command failed ({0})")]
    Failed(std::process::ExitStatus),
    #[error("the command took longer than {}", output::rounded_time(*.0))]
    Timeout(Duration),
    #[error("the command printed more than {ANSWER_BYTES_MAX} bytes")]
    TooLong,
}

/// Answers until the count, an interruption or the end of the session.
pub(crate) async fn run(args: ReplyArgs) -> anyhow::Result<()> {
    let client = Client::connect(&args.client).await?;
    let mut responder = client.session.responder(args.filter.as_str()).await?;
    client.notice(format_args!("answering questions on {}", args.filter));
    let source = Arc::new(match (args.exec, args.text) {
        (Some(command), _) => Source::Exec { command, timeout: args.exec_timeout },
        (None, Some(text)) => Source::Text(text.into_bytes()),
        (None, None) => Source::Echo,
    });
    let jobs = Arc::new(Semaphore::new(args.jobs.into()));
    let mut running = JoinSet::new();
    let (mut asked, mut answered) = (0, 0);
    let mut interrupted = client.interrupt.clone();
    let ended = loop {
        if args.count.is_some_and(|count| asked == count) {
            break false;
        }
        tokio::select! {
            // A question is taken only when a command may run for it, so that waiting ones wait at the server.
            request = next_when_free(&mut responder, &jobs) => match request {
                Some((request, permit)) => {
                    asked += 1;
                    let source = Arc::clone(&source);
                    running.spawn(async move {
                        let answered = answer(request, &source).await;
                        drop(permit);
                        answered
                    });
                }
                None => break true,
            },
            Some(done) = running.join_next() => answered += u64::from(done.unwrap_or(false)),
            () = interrupted.wait() => break false,
        }
    };
    let _late = tokio::time::timeout(
        if ended { Duration::ZERO } else { STOP_TIMEOUT.max(args.exec_timeout) },
        async {
            while let Some(done) = running.join_next().await {
                answered += u64::from(done.unwrap_or(false));
            }
        },
    )
    .await;
    drop(running);
    client.notice(format_args!(
        "{}, {} answered",
        output::counted(asked, "question"),
        output::thousands(answered)
    ));
    let state = client.session.status().state;
    client.close().await;
    if ended { anyhow::bail!("the session ended ({})", harmless(&state)) } else { Ok(()) }
}

async fn next_when_free(
    responder: &mut Responder,
    jobs: &Arc<Semaphore>,
) -> Option<(Request, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(jobs).acquire_owned().await.expect("nobody closes the semaphore");
    responder.next().await.map(|request| (request, permit))
}

/// Answers one question; tells why when it cannot.
async fn answer(request: Request, source: &Source) -> bool {
    let topic = request.topic().to_string();
    let sent = match source {
        Source::Text(text) => request.respond(text).await,
        Source::Echo => {
            let payload = request.payload().to_vec();
            request.respond(&payload).await
        }
        Source::Exec { command, timeout } => match exec(command, &topic, request.payload(), *timeout).await {
            Ok(answer) => request.respond(&answer).await,
            Err(error) => {
                output::notice(format_args!("{}: no answer: {error}", harmless(&topic)));
                return false;
            }
        },
    };
    if let Err(error) = &sent {
        output::notice(format_args!("{}: cannot answer: {error}", harmless(&topic)));
    }
    sent.is_ok()
}

/// Runs `command` with `question` on its standard input and returns what it prints.
async fn exec(command: &str, topic: &str, question: &[u8], timeout: Duration) -> Result<Vec<u8>, ExecError> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .env("TWINLANE_TOPIC", topic)
        .env_remove("TWINLANE_TOKEN")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let _group = Group::of(&child);
    tokio::time::timeout(timeout, talk(&mut child, question))
        .await
        .map_err(|_| ExecError::Timeout(timeout))?
}

async fn talk(child: &mut Child, question: &[u8]) -> Result<Vec<u8>, ExecError> {
    let mut stdin = child.stdin.take().expect("the child was given a pipe as input");
    let stdout = child.stdout.take().expect("the child was given a pipe as output");
    let ask = async move {
        match stdin.write_all(question).await {
            // A command need not read its question.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    };
    let listen = async {
        let mut answer = Vec::new();
        stdout.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let ((), mut answer) = tokio::try_join!(ask, listen)?;
    if answer.len() as u64 > ANSWER_BYTES_MAX {
        return Err(ExecError::TooLong);
    }
    let status = child.wait().await?;
    if !status.success() {
        return Err(ExecError::Failed(status));
    }
    // Like `$(command)`: commands end their output with a newline that is not part of the answer.
    if answer.last() == Some(&b'\n') {
        answer.pop();
    }
    Ok(answer)
}

/// Kills everything a command has started, when dropped.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Usually nobody is left, and that is the error.
        let _gone = self.0.map(|leader| kill_process_group(leader, Signal::KILL));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::AsRawFd as _;

    use super::*;

    fn run_exec(command: &str, question: &[u8], timeout: Duration) -> Result<Vec<u8>, ExecError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(exec(command, "a/b", question, timeout))
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_command_reads_the_question_and_prints_the_answer() {
        assert_eq!(run_exec("tr a-z A-Z", b"hello", LONG).unwrap(), b"HELLO");
        assert_eq!(run_exec("echo $TWINLANE_TOPIC", b"", LONG).unwrap(), b"a/b");
    }

    #[test]
    fn a_command_may_ignore_a_large_question() {
        assert_eq!(run_exec("echo hi", &vec![b'x'; 1 << 20], LONG).unwrap(), b"hi");
    }

    #[test]
    fn a_command_may_print_while_it_reads() {
        let question = vec![b'x'; 1 << 20];
        assert_eq!(run_exec("cat", &question, LONG).unwrap(), question);
    }

    #[test]
    fn a_command_that_fails_or_floods_gives_no_answer() {
        assert!(matches!(run_exec("exit 3", b"", LONG), Err(ExecError::Failed(_))));
        assert!(matches!(run_exec("yes", b"", LONG), Err(ExecError::TooLong)));
    }

    #[test]
    fn a_command_that_takes_too_long_is_killed_with_all_it_started() {
        let (mut reader, writer) = io::pipe().unwrap();
        let pipe = format!("/proc/{}/fd/{}", std::process::id(), writer.as_raw_fd());
        let command = format!("exec 3>{pipe}; sleep 600 & echo started >&3; wait");
        let outcome = run_exec(&command, b"", Duration::from_secs(1));
        assert!(matches!(outcome, Err(ExecError::Timeout(_))), "{outcome:?}");
        drop(writer);
        let mut heard = String::new();
        // The pipe ends when the last process that holds it is gone: this would wait for a living grandchild.
        reader.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "started\n");
    }
}
