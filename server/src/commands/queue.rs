//! `twinlane queue`: workers, single jobs, what waits where, and dead letters.
//!
//! A job's message goes to a command's standard input; its exit status is the verdict.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::task::JoinSet;
use twinlane::{
    Delivery, Headers, Job, Message, MessageOptions, Queue, QueueOptions, QueueRow, Session, SettleError,
    Start, SubscribeOptions,
};

use crate::args::{ListArgs, QueueAction, QueueArgs, QueueDeadArgs, QueuePullArgs, QueueWorkArgs};
use crate::client::Client;
use crate::failure::{Ended, Interrupted};
use crate::output::{self, Hex, harmless, thousands};

/// The first pause before a failed job is tried again; doubled for each further attempt.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// The longest such pause.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// The group that retries dead letters: what one call has retried, the next one leaves alone.
const RETRY_GROUP: &str = "retry";
/// Dead letters taken at once.
const RETRY_BATCH: usize = 100;
/// How long one question for a job lasts.
const JOB_WAIT: Duration = Duration::from_secs(60);
/// How long to wait for dead letters that are there.
const LETTER_WAIT: Duration = Duration::from_secs(1);

/// Why a command did not do its job.
#[derive(Debug, thiserror::Error)]
enum WorkError {
    #[error("cannot run the command: {0}")]
    Io(#[from] io::Error),
    #[error("the command failed ({0})")]
    Failed(ExitStatus),
    #[error("the command took longer than {}", output::rounded_time(*.0))]
    Timeout(Duration),
}

/// Runs one of the actions.
pub(crate) async fn run(args: QueueArgs) -> anyhow::Result<()> {
    match args.action {
        QueueAction::Work(args) => work(args).await,
        QueueAction::Pull(args) => pull(args).await,
        QueueAction::Ls(args) => list(args).await,
        QueueAction::Dead(args) => dead(args).await,
    }
}

/// Works until the count, an interruption or the end of the session.
async fn work(args: QueueWorkArgs) -> anyhow::Result<()> {
    let mut client = Client::connect(&args.client).await?;
    let mut options = QueueOptions::default();
    // With a count nothing is taken ahead: a job that is not wanted any more would have cost it an attempt.
    options.prefetch = if args.count.is_some() { 0 } else { args.jobs.into() };
    options.settings.ack_wait = args.ack_wait;
    options.settings.max_deliver = args.max_deliver;
    let group = args.group.as_str();
    let mut queue = client.session.queue_with(args.topic.as_str(), group, options).await?;
    client.notice(format_args!("working on {} as one of {}", args.topic, harmless(group)));
    let lease = queue.settings().ack_wait.unwrap_or(BACKOFF_MAX);
    let mut running = JoinSet::new();
    let (mut taken, mut done) = (0, 0);
    let interrupted = loop {
        if args.count.is_some_and(|count| taken == count) {
            break false;
        }
        tokio::select! {
            job = next_job(&mut queue, args.count), if running.len() < usize::from(args.jobs) => match job {
                Some(job) => {
                    taken += 1;
                    let (command, timeout, json) = (args.command.clone(), args.timeout, args.json);
                    running.spawn(async move { work_on(job, &command, timeout, lease, json).await });
                }
                None => break false,
            },
            // Only then: a question for a job that is dropped and asked again may be answered twice.
            Some(finished) = running.join_next(), if running.len() >= usize::from(args.jobs) => done += u64::from(finished.unwrap_or(Ok(false))?),
            () = client.interrupt.wait() => break true,
        }
    };
    if !interrupted {
        while let Some(finished) = running.join_next().await {
            done += u64::from(finished.unwrap_or(Ok(false))?);
        }
    }
    let end = queue.end();
    // What is still being worked on goes to others at once.
    drop((running, queue));
    client.notice(format_args!("{}, {} done", output::counted(taken, "job"), thousands(done)));
    client.close().await;
    match end {
        Some(end) => Err(Ended { code: end.code, reason: end.to_string() }.into()),
        None => Ok(()),
    }
}

/// The next job; `count`: jobs are asked for one by one. `None`: none come any more.
async fn next_job(queue: &mut Queue, count: Option<u64>) -> Option<Job> {
    if count.is_none() {
        return queue.next().await;
    }
    loop {
        if let Some(job) = queue.fetch(1, JOB_WAIT).await.ok()?.pop() {
            return Some(job);
        }
    }
}

/// Does one job and says what became of it. Whether it is done.
async fn work_on(
    job: Job,
    command: &[String],
    timeout: Duration,
    lease: Duration,
    json: bool,
) -> io::Result<bool> {
    let offset = job.offset();
    let outcome = match command {
        [] => {
            print(&job, Some(job.attempt()), json)?;
            Ok(())
        }
        [program, arguments @ ..] => exec(program, arguments, &job, timeout, lease).await,
    };
    let settled = match &outcome {
        Ok(()) => job.ack().await,
        Err(error) => {
            let pause = backoff(job.attempt());
            let next = output::rounded_time(pause);
            output::notice(format_args!("job {offset}: {error}; again in {next}"));
            job.nack_because(pause, &error.to_string()).await
        }
    };
    if let Err(error) = &settled {
        output::notice(format_args!("job {offset}: {error}"));
    }
    Ok(outcome.is_ok() && settled.is_ok())
}

/// Runs the command with the job's payload on its standard input, and keeps the lease while it runs.
async fn exec(
    program: &str,
    arguments: &[String],
    job: &Job,
    timeout: Duration,
    lease: Duration,
) -> Result<(), WorkError> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("TWINLANE_TOPIC", job.topic().as_str())
        .env("TWINLANE_OFFSET", job.offset().to_string())
        .env("TWINLANE_ATTEMPT", job.attempt().to_string())
        .env_remove("TWINLANE_TOKEN")
        .stdin(Stdio::piped())
        .kill_on_drop(true);
    if let Some(key) = job.key() {
        command.env("TWINLANE_KEY", key.to_string());
    }
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().expect("the child was given a pipe as input");
    let working = async {
        match stdin.write_all(job.payload()).await {
            // A command need not read its job.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => drop(stdin),
        }
        child.wait().await
    };
    let lasting = async {
        loop {
            tokio::time::sleep(lease / 3).await;
            match job.extend().await {
                // Somebody else has it: what this command does is for nothing, and may do harm.
                Err(SettleError::Stale) => return,
                _ => continue,
            }
        }
    };
    tokio::select! {
        status = working => match status? {
            status if status.success() => Ok(()),
            status => Err(WorkError::Failed(status)),
        },
        () = lasting => Err(WorkError::Timeout(lease)),
        () = tokio::time::sleep(timeout) => Err(WorkError::Timeout(timeout)),
    }
}

fn backoff(attempt: u32) -> Duration {
    BACKOFF_FIRST.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(BACKOFF_MAX)
}

/// Takes some jobs, prints and acknowledges them.
async fn pull(args: QueuePullArgs) -> anyhow::Result<()> {
    let mut client = Client::connect(&args.client).await?;
    let mut options = QueueOptions::default();
    options.prefetch = 0;
    let mut queue = client.session.queue_with(args.topic.as_str(), &args.group, options).await?;
    let jobs = tokio::select! {
        jobs = queue.fetch(args.count as usize, args.wait) => jobs?,
        () = client.interrupt.wait() => return Err(Interrupted.into()),
    };
    let count = jobs.len() as u64;
    for job in jobs {
        print(&job, Some(job.attempt()), args.json)?;
        job.ack().await?;
    }
    client.notice(output::counted(count, "job"));
    drop(queue);
    client.close().await;
    Ok(())
}

/// Prints what waits in every queue group.
async fn list(args: ListArgs) -> anyhow::Result<()> {
    let client = Client::connect(&args.client).await?;
    let queues = client.session.server_status().await?.queues;
    client.close().await;
    if args.json {
        return Ok(output::write_json(io::stdout().lock(), &Queues { queues: &queues })?);
    }
    if queues.is_empty() {
        output::notice("there are no queue groups yet");
        return Ok(());
    }
    Ok(output::write_text(queues_table(&queues))?)
}

#[derive(Serialize)]
struct Queues<'a> {
    queues: &'a [QueueRow],
}

fn queues_table(queues: &[QueueRow]) -> String {
    let header = ["topic", "group", "ready", "in flight", "delayed", "settled", "members", "dead"];
    let rows = queues.iter().map(|queue| {
        let counts = [queue.ready, queue.in_flight, queue.delayed, queue.settled, queue.members, queue.dead];
        let names = [harmless(&queue.topic), harmless(&queue.group)];
        names.into_iter().chain(counts.map(thousands)).collect()
    });
    output::table(&header, &header[2..], rows).trim_fmt()
}

/// Prints the dead letters of a group, or publishes them again.
async fn dead(args: QueueDeadArgs) -> anyhow::Result<()> {
    let mut client = Client::connect(&args.client).await?;
    let queues = client.session.server_status().await?.queues;
    let group = queues.iter().find(|row| row.topic == args.topic.as_str() && row.group == args.group);
    let letters =
        group.map_or_else(|| format!("dead/{}/{}", args.topic, args.group), |row| row.dead_letters.clone());
    let outcome = tokio::select! {
        outcome = act_on_letters(&client.session, &letters, &args) => outcome,
        () = client.interrupt.wait() => Err(Interrupted.into()),
    };
    let count = outcome?;
    let verb = if args.retry { "published again" } else { "kept" };
    client.notice(format_args!("{} {verb} on {}", output::counted(count, "dead letter"), harmless(&letters)));
    client.close().await;
    Ok(())
}

async fn act_on_letters(session: &Session, letters: &str, args: &QueueDeadArgs) -> anyhow::Result<u64> {
    match session.explain(letters).await {
        Err(twinlane::RequestError::NoSuchTopic { .. }) => return Ok(0),
        Err(error) => return Err(error.into()),
        Ok(topic) if !args.retry => {
            return print_letters(session, letters, topic.oldest..topic.next, args.json).await;
        }
        Ok(_) => {}
    }
    let mut options = QueueOptions::default();
    options.prefetch = 0;
    let mut queue = session.queue_with(letters, RETRY_GROUP, options).await?;
    retry(session, &mut queue, args).await
}

async fn print_letters(
    session: &Session,
    letters: &str,
    offsets: std::ops::Range<u64>,
    json: bool,
) -> anyhow::Result<u64> {
    let mut options = SubscribeOptions::default();
    options.start = Start::All;
    let mut subscription = session.subscribe_with(letters, options).await?;
    let mut count = 0;
    while count < offsets.end - offsets.start {
        match tokio::time::timeout(LETTER_WAIT, subscription.next()).await {
            Ok(Some(Delivery::Message(letter))) if letter.offset() >= offsets.end => break,
            Ok(Some(Delivery::Message(letter))) => print(&letter, None, json)?,
            Ok(Some(_)) => continue,
            Ok(None) | Err(_) => break,
        }
        count += 1;
    }
    Ok(count)
}

/// Publishes each dead letter again, where it came from, until there are no more.
async fn retry(session: &Session, queue: &mut Queue, args: &QueueDeadArgs) -> anyhow::Result<u64> {
    let mut publisher = session.publisher(args.topic.as_str()).await?;
    let mut count = 0;
    loop {
        let jobs = queue.fetch(RETRY_BATCH, LETTER_WAIT).await?;
        if jobs.is_empty() {
            return Ok(count);
        }
        for job in jobs {
            let headers: Vec<_> = job.headers().into_iter().flat_map(|headers| headers.iter()).collect();
            let own: Vec<_> =
                headers.into_iter().filter(|(name, _)| !name.starts_with("twinlane-")).collect();
            let mut options = MessageOptions::default().with_headers(&own);
            options.key = job.key();
            publisher.publish_with(job.payload(), options).await?;
            // Acknowledged only now: what fails in between is published twice rather than not at all.
            job.ack().await?;
            count += 1;
        }
    }
}

/// Writes a message to standard output: its payload, or an object with all there is to know.
fn print(message: &Message, attempt: Option<u32>, json: bool) -> io::Result<()> {
    let stdout = io::stdout();
    let line = if json {
        serde_json::to_string(&object(message, attempt))?.into_bytes()
    } else if stdout.is_terminal() {
        output::for_terminal(message.payload()).into_bytes()
    } else {
        message.payload().to_vec()
    };
    let mut out = stdout.lock();
    out.write_all(&line)?;
    out.write_all(b"\n")?;
    out.flush()
}

fn object(message: &Message, attempt: Option<u32>) -> Value {
    let mut object = Map::new();
    object.insert("topic".into(), message.topic().as_str().into());
    object.insert("offset".into(), message.offset().into());
    object.insert("time_us".into(), message.time_us().into());
    if let Some(attempt) = attempt {
        object.insert("attempt".into(), attempt.into());
    }
    if let Some(key) = message.key() {
        object.insert("key".into(), key.into());
    }
    if let Some(headers) = message.headers() {
        object.insert("headers".into(), headers_object(headers));
    }
    insert_bytes(&mut object, "payload", message.payload());
    Value::Object(object)
}

fn headers_object(headers: Headers<'_>) -> Value {
    let mut object = Map::new();
    let by_name: BTreeMap<&str, &[u8]> = headers.iter().collect();
    by_name.into_iter().for_each(|(name, value)| insert_bytes(&mut object, name, value));
    Value::Object(object)
}

/// JSON holds text only: bytes that are none go under another name, in hex.
fn insert_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => object.insert(format!("{name}_hex"), Hex(bytes).to_string().into()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_job_waits_longer_each_time_and_not_for_ever() {
        let seconds: Vec<_> = [1, 2, 3, 6, 7, 500].map(|attempt| backoff(attempt).as_secs()).into();
        assert_eq!(seconds, [1, 2, 4, 32, 60, 60]);
    }

    #[test]
    fn queues_are_listed_with_where_their_messages_are() {
        let mut row = QueueRow::default();
        row.topic = "orders".into();
        row.group = "billing".into();
        (row.ready, row.in_flight, row.delayed) = (1_234, 2, 3);
        (row.settled, row.members, row.dead) = (4, 5, 6);
        let text = queues_table(&[row]);
        let cells: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(cells, ["orders", "billing", "1,234", "2", "3", "4", "5", "6"]);
    }
}
