//! `twinlane topics`, `status` and `explain`: what the server says about itself.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use serde::Serialize;
use twinlane::{EngineStatus, LogRow, SessionRow, SubscriberRow, TopicStatus};

use crate::args::{ExplainArgs, ListArgs, TopicsArgs};
use crate::client::Client;
use crate::failure::Interrupted;
use crate::output::{self, Facts, harmless, rounded_bytes, thousands};

/// `twinlane topics`.
pub(crate) async fn topics(args: TopicsArgs) -> anyhow::Result<()> {
    let mut topics = server_status(&args.list).await?.topics;
    topics.retain(|topic| args.all || !topic.name.starts_with('$'));
    if args.list.json {
        return Ok(output::write_json(io::stdout().lock(), &Topics { topics: &topics })?);
    }
    if topics.is_empty() {
        output::notice("there are no topics yet");
        return Ok(());
    }
    Ok(output::write_text(topics_table(&topics))?)
}

/// `twinlane status`.
pub(crate) async fn status(args: ListArgs) -> anyhow::Result<()> {
    let status = server_status(&args).await?;
    if args.json {
        return Ok(output::write_json(io::stdout().lock(), &status)?);
    }
    Ok(output::write_text(status_text(&status, io::stdout().is_terminal()).trim_end())?)
}

/// `twinlane explain`.
pub(crate) async fn explain(args: ExplainArgs) -> anyhow::Result<()> {
    let mut client = Client::connect(&args.list.client).await?;
    let topic = tokio::select! {
        topic = client.session.explain(args.topic.as_str()) => topic?,
        () = client.interrupt.wait() => return Err(Interrupted.into()),
    };
    client.close().await;
    if args.list.json {
        return Ok(output::write_json(io::stdout().lock(), &topic)?);
    }
    Ok(output::write_text(topic_text(&topic, io::stdout().is_terminal()).trim_end())?)
}

async fn server_status(args: &ListArgs) -> anyhow::Result<EngineStatus> {
    let mut client = Client::connect(&args.client).await?;
    let status = tokio::select! {
        status = client.session.server_status() => status?,
        () = client.interrupt.wait() => return Err(Interrupted.into()),
    };
    client.close().await;
    Ok(status)
}

#[derive(Serialize)]
struct Topics<'a> {
    topics: &'a [TopicStatus],
}

fn topics_table(topics: &[TopicStatus]) -> String {
    let header = [
        "topic",
        "channel",
        "mode",
        "storage",
        "published",
        "kept",
        "memory",
        "disk",
        "publishers",
        "subscribers",
        "dropped",
    ];
    let rows = topics.iter().map(|topic| {
        vec![
            harmless(&topic.name),
            harmless(&topic.channel),
            harmless(&topic.mode),
            harmless(&topic.storage),
            thousands(topic.next),
            thousands(topic.next.saturating_sub(topic.oldest)),
            rounded_bytes(topic.memory_bytes),
            if topic.storage == "disk" { rounded_bytes(topic.log_bytes) } else { "-".to_owned() },
            thousands(topic.publishers),
            thousands(topic.subscribers_total),
            thousands(total(&topic.drops)),
        ]
    });
    output::table(&header, &header[4..], rows).trim_fmt()
}

fn status_text(status: &EngineStatus, terminal: bool) -> String {
    let mut facts = Facts::default();
    facts
        .add("server", format!("{}, twinlane {}", harmless(&status.name), harmless(&status.version)))
        .add("up", output::rounded_time(Duration::from_secs(status.uptime_seconds)))
        .add("topics", thousands(status.topics_total))
        .add("sessions", thousands(status.sessions_total))
        .add("connections", thousands(status.connections_open))
        .add("memory", rounded_bytes(status.memory_bytes))
        .add("log", status.log.as_ref().map(log_facts).unwrap_or_default())
        .add("refused", by_reason(&status.refused));
    let mut text = facts.render(terminal);
    if !status.sessions.is_empty() {
        text += "\n";
        text += &sessions_table(&status.sessions);
        text += "\n";
        text += &more(status.sessions_total, status.sessions.len());
    }
    let behind: Vec<_> =
        status.topics.iter().filter(|topic| deepest(topic) > 0 || total(&topic.drops) > 0).collect();
    if !behind.is_empty() {
        text += "\n";
        text += &queues_table(&behind);
        text += "\n";
    }
    text
}

/// The disk that durable topics take, and how it does.
fn log_facts(log: &LogRow) -> String {
    let failed = log.failed.as_ref().map(|why| format!("FAILED: {}", harmless(why))).unwrap_or_default();
    let no_space = match log.no_space {
        0 => String::new(),
        batches => format!("{} refused for want of space", output::counted(batches, "write")),
    };
    output::joined([
        failed,
        format!("{} in {}", rounded_bytes(log.file_bytes), output::counted(log.segments, "segment")),
        format!("{} synced", output::counted(log.batches, "write")),
        format!("the slowest took {}", output::rounded_time(Duration::from_micros(log.sync_us_max))),
        no_space,
    ])
}

/// Messages that the topic's slowest subscriber has not been sent.
fn deepest(topic: &TopicStatus) -> u64 {
    topic.subscribers.iter().map(|subscriber| subscriber.lag).max().unwrap_or(0)
}

/// The topics where something waits or was dropped.
fn queues_table(topics: &[&TopicStatus]) -> String {
    let header = ["topic", "subscribers", "deepest queue", "dropped"];
    let rows = topics.iter().map(|topic| {
        vec![
            harmless(&topic.name),
            thousands(topic.subscribers_total),
            thousands(deepest(topic)),
            by_reason(&topic.drops),
        ]
    });
    output::table(&header, &header[1..3], rows).trim_fmt()
}

/// Says that a list was cut, where it was.
fn more(total: u64, listed: usize) -> String {
    match total.saturating_sub(listed as u64) {
        0 => String::new(),
        left_out => format!("(+{} more)\n", thousands(left_out)),
    }
}

fn sessions_table(sessions: &[SessionRow]) -> String {
    let header = ["session", "client", "peer", "reliable", "fast", "why", "publishers", "subscriptions"];
    let rows = sessions.iter().map(|session| {
        vec![
            // Enough of the id to tell sessions apart; --json has all of it.
            session.id.chars().take(8).collect(),
            harmless(&session.client),
            harmless(&session.peer),
            harmless(&session.reliable_over),
            harmless(&session.fast_over),
            harmless(&session.why),
            thousands(session.publishers),
            thousands(session.subscriptions),
        ]
    });
    output::table(&header, &header[6..], rows).trim_fmt()
}

fn topic_text(topic: &TopicStatus, terminal: bool) -> String {
    let mut text = output::styled(terminal, output::STRONG, harmless(&topic.name)) + "\n";
    for sentence in &topic.explanation {
        text += &format!("  {}\n", harmless(sentence));
    }
    let kept = topic.next.saturating_sub(topic.oldest);
    let mut facts = Facts::default();
    facts
        .add("channel", format!("{} ({})", harmless(&topic.channel), harmless(&topic.mode)))
        .add("acknowledged", acknowledged(topic))
        .add("declared by", harmless(&topic.declared_by))
        .add("payload", format!("at most {}", rounded_bytes(topic.payload_bytes_max.into())))
        .add("keeps", keeps(topic))
        .add("published", output::counted(topic.next, "message"))
        .add("kept now", format!("{} from offset {}", output::counted(kept, "message"), topic.oldest))
        .add("memory", rounded_bytes(topic.memory_bytes))
        .add("disk", if topic.storage == "disk" { rounded_bytes(topic.log_bytes) } else { String::new() })
        .add("epoch", topic.epoch.to_string())
        .add("publishers", thousands(topic.publishers))
        .add("subscribers", thousands(topic.subscribers_total))
        .add("dropped", by_reason(&topic.drops));
    text += "\n";
    text += &facts.render(terminal);
    if !topic.subscribers.is_empty() {
        text += "\n";
        text += &subscribers_table(&topic.subscribers);
        text += "\n";
    }
    text
}

/// When a publisher hears that its message is kept.
fn acknowledged(topic: &TopicStatus) -> &'static str {
    match (topic.channel.as_str(), topic.storage.as_str()) {
        ("reliable", "disk") => "once on disk (survives the server and power loss)",
        ("reliable", _) => "once in memory (survives clients, not the server)",
        _ => "",
    }
}

fn keeps(topic: &TopicStatus) -> String {
    let bytes = if topic.retain_bytes == 0 { String::new() } else { rounded_bytes(topic.retain_bytes) };
    let messages = if topic.retain_messages == 0 {
        String::new()
    } else {
        output::counted(topic.retain_messages, "message")
    };
    let limits = output::joined([bytes, messages]);
    let limits = if limits.is_empty() { limits } else { format!("at most {limits}") };
    let age = match topic.retain_age_ms {
        0 => String::new(),
        ms => format!("for {}", output::rounded_time(Duration::from_millis(ms))),
    };
    let last = match topic.last.as_str() {
        "topic" => "the newest however old it is",
        "key" => "the newest of each key however old it is",
        _ => "",
    };
    output::joined([limits, age, last.to_owned()])
}

fn subscribers_table(subscribers: &[SubscriberRow]) -> String {
    let header = ["session", "over", "when slow", "position", "lag"];
    let rows = subscribers.iter().map(|subscriber| {
        vec![
            subscriber.session.chars().take(8).collect(),
            harmless(&subscriber.over),
            harmless(&subscriber.policy),
            thousands(subscriber.position),
            thousands(subscriber.lag),
        ]
    });
    output::table(&header, &header[3..], rows).trim_fmt()
}

fn total(by_reason: &BTreeMap<String, u64>) -> u64 {
    by_reason.values().fold(0, |sum, count| sum.saturating_add(*count))
}

fn by_reason(counts: &BTreeMap<String, u64>) -> String {
    let some = counts.iter().filter(|(_, count)| **count > 0);
    output::joined(some.map(|(reason, count)| format!("{} {}", thousands(*count), harmless(reason))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic() -> TopicStatus {
        let mut subscriber = SubscriberRow::default();
        subscriber.session = "0123456789abcdef".into();
        subscriber.over = "tcp".into();
        subscriber.policy = "block".into();
        (subscriber.position, subscriber.lag) = (1_200, 34);
        let mut topic = TopicStatus::default();
        topic.name = "orders/eu".into();
        topic.channel = "reliable".into();
        topic.mode = "ordered".into();
        topic.storage = "disk".into();
        topic.log_bytes = 3 << 20;
        (topic.oldest, topic.next) = (200, 1_234);
        topic.payload_bytes_max = 1 << 20;
        topic.drops = BTreeMap::from([("none".into(), 0), ("slow".into(), 5)]);
        topic.explanation = vec!["Every message once, in order.".into()];
        topic.subscribers = vec![subscriber];
        topic.subscribers_total = 1;
        topic
    }

    #[test]
    fn topics_are_listed_with_what_is_kept_and_dropped() {
        let text = topics_table(&[topic()]);
        let row: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        let expected = "orders/eu reliable ordered disk 1,234 1,034 0 B 3.0 MiB 0 1 5";
        assert_eq!(row.join(" "), expected);
    }

    #[test]
    fn a_topic_is_explained_in_sentences_facts_and_subscribers() {
        let text = topic_text(&topic(), false);
        for part in [
            "orders/eu\n  Every message once, in order.\n",
            "payload       at most 1.0 MiB\n",
            "acknowledged  once on disk",
            "disk          3.0 MiB\n",
            "kept now      1,034 messages from offset 200\n",
            "dropped       5 slow\n",
            "01234567",
        ] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
        assert!(!text.contains("keeps"), "what is not known is not shown:\n{text}");
    }

    #[test]
    fn what_a_topic_keeps_is_told_by_amount_age_and_last_value() {
        let mut topic = topic();
        assert_eq!(keeps(&topic), "");
        (topic.retain_messages, topic.retain_age_ms) = (1_000, 7 * 86_400_000);
        topic.last = "key".into();
        assert_eq!(
            keeps(&topic),
            "at most 1,000 messages, for 7 days 0 h, the newest of each key however old it is"
        );
    }

    #[test]
    fn a_log_that_failed_says_so_first() {
        let mut status = EngineStatus::default();
        assert!(!status_text(&status, false).contains("log"), "without one there is nothing to say");
        let mut log = LogRow::default();
        (log.segments, log.file_bytes, log.batches, log.sync_us_max) = (1, 64 << 20, 12, 2_500);
        status.log = Some(log.clone());
        let text = status_text(&status, false);
        assert!(text.contains("64.0 MiB in 1 segment, 12 writes synced, the slowest took 2 ms"), "{text}");
        log.failed = Some("input/output error".into());
        assert!(log_facts(&log).starts_with("FAILED: input/output error, "));
    }

    #[test]
    fn status_shows_where_messages_wait_or_were_dropped_and_nothing_else() {
        let mut status = EngineStatus::default();
        let mut quiet = TopicStatus::default();
        quiet.name = "quiet".into();
        status.topics = vec![topic(), quiet];
        let text = status_text(&status, false);
        assert!(text.contains("orders/eu") && text.contains("5 slow"), "{text}");
        assert!(!text.contains("quiet"), "{text}");
    }

    #[test]
    fn a_clients_name_cannot_break_the_table() {
        let mut session = SessionRow::default();
        session.client = "evil\n\x1b[2J".into();
        let mut status = EngineStatus::default();
        status.sessions = vec![session];
        status.sessions_total = 1;
        let text = status_text(&status, false);
        assert!(text.contains("evil\\n\\u{1b}[2J") && !text.contains('\x1b'), "{text}");
    }
}
