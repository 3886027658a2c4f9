//! `twinlane pub`: a message from the command line, or standard input line by line.
//!
//! Lines are only queued one by one; the outcomes are collected once, at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use twinlane::{
    Channel, Flushed, MessageOptions, PublishError, Publisher, PublisherOptions, RequestError, Storage,
    TopicSpec,
};

use crate::args::PubArgs;
use crate::client::Client;
use crate::failure::{Interrupted, SomeRefused, Usage};
use crate::input::{Blocks, Lines};
use crate::output;

/// How often a long run tells where it is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Why a message of a reliable topic has no deadline.
const ONLY_FAST: &str = "--deadline is for fast topics, and this one is reliable, so it delivers every message, however late: \
                         leave --deadline out, or publish on a fast topic";

/// What was published, as told at the end.
#[derive(Serialize)]
struct Summary<'a> {
    topic: &'a str,
    channel: String,
    sent: u64,
    /// Only reliable topics acknowledge.
    acked: Option<u64>,
    /// How safely what was acked is kept: `memory` or `disk`.
    level: Option<&'static str>,
    refused: u64,
    seconds: f64,
    messages_per_second: f64,
}

/// Publishes and prints the summary.
pub(crate) async fn run(args: PubArgs) -> anyhow::Result<()> {
    if args.raw && (args.message.as_ref().is_some_and(|message| message != "-") || args.count.is_some()) {
        return Err(Usage(
            "--raw publishes all of standard input as one message: leave out MESSAGE and --count",
        )
        .into());
    }
    let spec = args.channel.spec();
    if args.deadline.is_some() && spec.is_some_and(|spec| spec.channel == Channel::Reliable) {
        return Err(Usage(ONLY_FAST).into());
    }
    let mut client = Client::connect(&args.client).await?;
    let mut options = PublisherOptions::default();
    options.spec = spec;
    if args.deadline.is_some() && spec.is_none() {
        check_deadline(&client, args.topic.as_str()).await?;
    }
    let mut publisher = client.session.publisher_with(args.topic.as_str(), options).await?;
    let sent = Arc::new(AtomicU64::new(0));
    let progress = (output::stderr_is_terminal() && !args.client.quiet)
        .then(|| tokio::spawn(show_progress(Arc::clone(&sent), Instant::now())));

    let started = Instant::now();
    let fed = tokio::select! {
        fed = feed(&mut publisher, &args, &sent) => fed,
        () = client.interrupt.wait() => Err(Interrupted.into()),
    };
    // Whatever stopped the input: what was sent before has an outcome, and the user wants to know it.
    let flushed = publisher.flush().await;
    let outcomes = counts(&mut publisher, &flushed).await;
    let elapsed = started.elapsed();
    if let Some(progress) = progress {
        progress.abort();
        output::overwrite("");
    }
    let sent = sent.load(Ordering::Relaxed);
    let Flushed { acked, refused, .. } = outcomes;
    let level = level(&publisher.spec());
    let summary = Summary {
        topic: args.topic.as_str(),
        channel: publisher.spec().channel.to_string(),
        sent,
        acked: level.map(|_| acked),
        level,
        refused,
        seconds: elapsed.as_secs_f64(),
        messages_per_second: sent as f64 / elapsed.as_secs_f64().max(1e-9),
    };
    summary.tell(&args, elapsed)?;
    let closed = match flushed {
        Ok(_) => publisher.close().await,
        failed => failed,
    };
    client.close().await;
    fed?;
    closed?;
    if refused > 0 { Err(SomeRefused { refused, sent }.into()) } else { Ok(()) }
}

/// Deadlines are for fast topics. Asked before the publisher is there, because it would declare a new topic reliable.
async fn check_deadline(client: &Client, topic: &str) -> anyhow::Result<()> {
    let why = match client.session.explain(topic).await {
        Ok(topic) if topic.channel == "fast" => return Ok(()),
        Ok(_) => ONLY_FAST,
        Err(RequestError::NoSuchTopic { .. }) => {
            "--deadline is for fast topics, and this one does not exist yet: add --fast, or --mode latest"
        }
        Err(error) => return Err(error.into()),
    };
    Err(Usage(why).into())
}

/// What became of the messages, also where one of them has made `flushed` an error.
async fn counts(publisher: &mut Publisher, flushed: &Result<Flushed, PublishError>) -> Flushed {
    match flushed {
        Ok(flushed) => *flushed,
        // The error is told once; what came of the others is there all the same.
        Err(PublishError::Refused { .. }) => publisher.flush().await.unwrap_or_default(),
        Err(_) => Flushed::default(),
    }
}

/// How safely the server keeps what it acknowledges on a topic; it never acknowledges less. `None`: it does not.
fn level(spec: &TopicSpec) -> Option<&'static str> {
    match (spec.channel, spec.storage) {
        (Channel::Fast, _) => None,
        (Channel::Reliable, Storage::Memory) => Some("memory"),
        (Channel::Reliable, Storage::Disk) => Some("disk"),
    }
}

impl Summary<'_> {
    fn tell(&self, args: &PubArgs, elapsed: Duration) -> anyhow::Result<()> {
        if args.client.quiet {
            return Ok(());
        }
        if args.json {
            output::notice(serde_json::to_string(self)?);
            return Ok(());
        }
        let outcome = match (self.acked, self.level) {
            (Some(acked), Some("disk")) => format!("{} acked on disk", output::thousands(acked)),
            (Some(acked), _) => format!("{} acked", output::thousands(acked)),
            (None, _) => "fast: not acknowledged".to_owned(),
        };
        let refused = if self.refused > 0 {
            format!("{} refused", output::thousands(self.refused))
        } else {
            String::new()
        };
        let parts =
            output::joined([format!("sent {}", output::counted(self.sent, "message")), outcome, refused]);
        let (time, rate) = (output::rounded_time(elapsed), output::rounded_rate(self.sent, elapsed));
        output::notice(format_args!("{parts} in {time} ({rate})"));
        Ok(())
    }
}

/// Queues everything the arguments ask for.
async fn feed(publisher: &mut Publisher, args: &PubArgs, sent: &AtomicU64) -> anyhow::Result<()> {
    let payload_bytes_max = match publisher.spec().payload_bytes_max {
        // An unknown limit is the server's to enforce.
        0 => u32::MAX as usize,
        bytes => bytes as usize,
    };
    let mut outlet = Outlet { publisher, options: message_options(args), pace: Pace::new(args.rate), sent };
    match args.message.as_deref() {
        Some(message) if message != "-" => {
            for _ in 0..args.count.unwrap_or(1) {
                outlet.send(message.as_bytes()).await?;
            }
        }
        _ if args.raw => {
            outlet.send(&Blocks::of_stdin()?.all(payload_bytes_max).await?).await?;
        }
        _ => feed_lines(&mut outlet, args.count.unwrap_or(u64::MAX), payload_bytes_max).await?,
    }
    Ok(())
}

async fn feed_lines(outlet: &mut Outlet<'_>, count_max: u64, payload_bytes_max: usize) -> anyhow::Result<()> {
    let mut blocks = Blocks::of_stdin()?;
    let mut lines = Lines::new(payload_bytes_max);
    let mut count = 0;
    while count < count_max {
        let Some(block) = blocks.next().await? else { break };
        lines.push(block);
        while let Some(line) = lines.next()? {
            outlet.send(line).await?;
            count += 1;
            if count == count_max {
                return Ok(());
            }
        }
    }
    if let Some(line) = lines.rest().filter(|_| count < count_max) {
        outlet.send(line).await?;
    }
    Ok(())
}

/// What the flags ask for beside the payload.
fn message_options(args: &PubArgs) -> MessageOptions<'static> {
    let mut options = MessageOptions::default();
    if let Some(key) = &args.key {
        options = options.with_key(key_hash(key));
    }
    if let Some(delay) = args.delay {
        options = options.with_delay(delay);
    }
    if let Some(deadline) = args.deadline {
        options = options.with_deadline(deadline);
    }
    options
}

/// The 64-bit FNV-1a hash of a key's text: the same on every machine and in every version, because last values that
/// are stored on disk are found by it.
fn key_hash(text: &str) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    text.bytes().fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// Where messages go, at which rate, with what beside them.
struct Outlet<'a> {
    publisher: &'a mut Publisher,
    options: MessageOptions<'static>,
    pace: Pace,
    sent: &'a AtomicU64,
}

impl Outlet<'_> {
    async fn send(&mut self, payload: &[u8]) -> Result<(), PublishError> {
        self.pace.wait().await;
        self.publisher.send_with(payload, self.options).await?;
        self.sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Message n is due n intervals after the start, so that one late message does not slow all later ones.
struct Pace {
    rate: Option<f64>,
    started: Instant,
    count: u64,
}

impl Pace {
    fn new(rate: Option<f64>) -> Self {
        Self { rate, started: Instant::now(), count: 0 }
    }

    async fn wait(&mut self) {
        let Some(rate) = self.rate else { return };
        if self.count == 0 {
            // The schedule begins with the first message, not with the wait for it.
            self.started = Instant::now();
        }
        let due =
            self.started + Duration::try_from_secs_f64(self.count as f64 / rate).unwrap_or(Duration::MAX / 2);
        self.count += 1;
        if Instant::now() < due {
            tokio::time::sleep_until(due).await;
        }
    }
}

async fn show_progress(sent: Arc<AtomicU64>, started: Instant) {
    let mut last = 0;
    loop {
        tokio::time::sleep(PROGRESS_INTERVAL).await;
        let now = sent.load(Ordering::Relaxed);
        let rate = output::rounded_rate(now - last, PROGRESS_INTERVAL);
        let time = output::rounded_time(started.elapsed());
        output::overwrite(format_args!("sent {} in {time} ({rate})", output::counted(now, "message")));
        last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_published_fnv_1a_hash_of_its_text() {
        for (text, hash) in
            [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)]
        {
            assert_eq!(key_hash(text), hash, "{text:?}");
        }
    }

    #[test]
    fn the_level_told_is_the_one_that_the_topic_promises() {
        assert_eq!(level(&TopicSpec::durable()), Some("disk"));
        assert_eq!(level(&TopicSpec::reliable()), Some("memory"));
        assert_eq!(level(&TopicSpec::fast()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn messages_are_due_at_even_intervals_from_the_first() {
        let mut pace = Pace::new(Some(1_000.0));
        tokio::time::advance(Duration::from_secs(5)).await;
        let started = Instant::now();
        for n in 0..20 {
            pace.wait().await;
            assert_eq!(started.elapsed().as_millis(), n);
        }
    }
}
