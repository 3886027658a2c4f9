//! `twinlane topics`, `status` and `explain`: what the server says about itself.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use serde::Serialize;
use twinlane::{
    EngineStatus, LogRow, SessionRow, SubscriberRow, SwitchRow, TopicName, TopicSpec, TopicStatus,
};

use crate::args::{DeclareArgs, ExplainArgs, ListArgs, TopicsArgs};
use crate::client::Client;
use crate::failure::Interrupted;
use crate::output::{self, Facts, harmless, rounded_bytes, thousands};

/// Switches between transports that `status` shows; `--json` has the last 16 of each session.
const SWITCHES_SHOWN_MAX: usize = 16;
/// Listed among what was dropped, although nothing is missing.
const REPEATS: &str = "repeats";

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

/// `twinlane topics declare`.
pub(crate) async fn declare(args: DeclareArgs) -> anyhow::Result<()> {
    let spec = args.spec()?;
    show_topic(&args.topic, Some(spec), &args.list).await
}

/// `twinlane explain`.
pub(crate) async fn explain(args: ExplainArgs) -> anyhow::Result<()> {
    show_topic(&args.topic, None, &args.list).await
}

/// Declares a topic, if so asked, and prints what the server says of it.
async fn show_topic(name: &TopicName, declare: Option<TopicSpec>, args: &ListArgs) -> anyhow::Result<()> {
    let mut client = Client::connect(&args.client).await?;
    let session = &client.session;
    let asking = async {
        if let Some(spec) = declare {
            session.declare(name.as_str(), spec).await?;
        }
        anyhow::Ok(session.explain(name.as_str()).await?)
    };
    let topic = tokio::select! {
        topic = asking => topic?,
        () = client.interrupt.wait() => return Err(Interrupted.into()),
    };
    client.close().await;
    if args.json {
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
            thousands(dropped(topic)),
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
        for table in [paths_table(&status.sessions), switches_table(&status.sessions)] {
            if !table.is_empty() {
                text += &format!("\n{table}\n");
            }
        }
    }
    let behind: Vec<_> =
        status.topics.iter().filter(|topic| deepest(topic) > 0 || dropped(topic) > 0).collect();
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
            by_reason(drops(topic)),
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

/// How the QUIC connections are doing that carry fast topics, as this server measures what it sends on them.
fn paths_table(sessions: &[SessionRow]) -> String {
    let paths: Vec<_> = sessions.iter().filter_map(|session| Some((session, session.udp?))).collect();
    if paths.is_empty() {
        return String::new();
    }
    let header =
        ["session", "round trip", "packets sent", "lost", "messages repeated", "mended", "incomplete"];
    let rows = paths.into_iter().map(|(session, path)| {
        vec![
            session.id.chars().take(8).collect(),
            output::rounded_time(Duration::from_micros(path.round_trip_us)),
            thousands(path.sent_packets),
            thousands(path.lost_packets),
            thousands(path.repeated_messages),
            thousands(path.restored_messages),
            thousands(path.incomplete_messages),
        ]
    });
    output::table(&header, &header[1..], rows).trim_fmt()
}

/// The last changes of what carries fast topics, the newest first, where there was any after the first choice.
fn switches_table(sessions: &[SessionRow]) -> String {
    let switched = sessions.iter().filter(|session| fell_back(&session.switches));
    let mut switches: Vec<(&SessionRow, &SwitchRow)> =
        switched.flat_map(|session| session.switches.iter().map(move |switch| (session, switch))).collect();
    if switches.is_empty() {
        return String::new();
    }
    switches.sort_by_key(|(_, switch)| switch.ago_ms);
    let rows = switches.into_iter().take(SWITCHES_SHOWN_MAX).map(|(session, switch)| {
        vec![
            session.id.chars().take(8).collect(),
            format!("{} ago", output::rounded_time(Duration::from_millis(switch.ago_ms))),
            harmless(&switch.to),
            harmless(&switch.why),
        ]
    });
    output::table(&["session", "fast topics moved", "to", "why"], &[], rows).trim_fmt()
}

/// Whether fast topics left QUIC since they were on it.
fn fell_back(switches: &[SwitchRow]) -> bool {
    switches.iter().skip_while(|switch| switch.to != "quic").any(|switch| switch.to != "quic")
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
        .add("deadline", deadline(topic))
        .add("payload", format!("at most {}", rounded_bytes(topic.payload_bytes_max.into())))
        .add("keeps", keeps(topic))
        .add("published", output::counted(topic.next, "message"))
        .add("kept now", format!("{} from offset {}", output::counted(kept, "message"), topic.oldest))
        .add("memory", rounded_bytes(topic.memory_bytes))
        .add("disk", if topic.storage == "disk" { rounded_bytes(topic.log_bytes) } else { String::new() })
        .add("epoch", topic.epoch.to_string())
        .add("publishers", thousands(topic.publishers))
        .add("subscribers", thousands(topic.subscribers_total))
        .add("dropped", by_reason(drops(topic)))
        .add("repeats", repeats(topic));
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

/// What a message of a fast topic may spend in queues.
fn deadline(topic: &TopicStatus) -> String {
    match (topic.channel.as_str(), topic.deadline_us) {
        ("fast", 0) => "none, unless a message has its own".to_owned(),
        ("fast", us) => format!(
            "{} in queues, unless a message has its own",
            humantime::format_duration(Duration::from_micros(us.into()))
        ),
        _ => String::new(),
    }
}

/// Messages that are missing somewhere, by reason.
fn drops(topic: &TopicStatus) -> impl Iterator<Item = (&String, &u64)> {
    topic.drops.iter().filter(|(reason, _)| *reason != REPEATS)
}

fn dropped(topic: &TopicStatus) -> u64 {
    drops(topic).fold(0, |sum, (_, count)| sum.saturating_add(*count))
}

/// Copies that came of messages that were there.
fn repeats(topic: &TopicStatus) -> String {
    match topic.drops.get(REPEATS) {
        None | Some(0) => String::new(),
        Some(copies) => format!("{} received twice and taken once", output::counted(*copies, "message")),
    }
}

fn by_reason<'a>(counts: impl IntoIterator<Item = (&'a String, &'a u64)>) -> String {
    let some = counts.into_iter().filter(|(_, count)| **count > 0);
    output::joined(some.map(|(reason, count)| format!("{} {}", thousands(*count), harmless(reason))))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use twinlane::UdpPath;

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
    fn a_fast_topic_shows_its_deadline_and_tells_what_is_missing_from_what_came_twice() {
        let mut topic = topic();
        (topic.channel, topic.mode, topic.deadline_us) = ("fast".into(), "latest".into(), 50_000);
        topic.drops =
            BTreeMap::from([("conflated".into(), 12), ("deadline".into(), 3), (REPEATS.into(), 400)]);
        let text = topic_text(&topic, false);
        for part in [
            "channel      fast (latest)\n",
            "deadline     50ms in queues",
            "dropped      12 conflated, 3 deadline\n",
            "repeats      400 messages received twice and taken once\n",
        ] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
        assert!(topics_table(&[topic]).trim_end().ends_with(" 15"));
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
    fn status_shows_when_and_why_fast_topics_left_quic_and_came_back() {
        let switch = |ago_ms, to: &str, why: &str| {
            let mut switch = SwitchRow::default();
            (switch.ago_ms, switch.to, switch.why) = (ago_ms, to.into(), why.into());
            switch
        };
        let mut session = SessionRow::default();
        session.id = "0123456789abcdef".into();
        session.switches = vec![switch(90_000, "tcp", "not yet"), switch(89_000, "quic", "QUIC works")];
        let mut status = EngineStatus::default();
        (status.sessions, status.sessions_total) = (vec![session], 1);
        assert!(!status_text(&status, false).contains("MOVED"), "the first choice is no news");
        status.sessions[0].switches.push(switch(2_000, "tcp", "UDP brought no answer for 2.0 s"));
        let text = status_text(&status, false);
        let moved = text.lines().skip_while(|line| !line.contains("FAST TOPICS MOVED")).nth(1).unwrap();
        let words: Vec<&str> = moved.split_whitespace().collect();
        assert_eq!(words.join(" "), "01234567 2.0 s ago tcp UDP brought no answer for 2.0 s");
    }

    #[test]
    fn status_shows_what_a_path_loses_and_what_is_done_about_it() {
        let mut path = UdpPath::default();
        (path.round_trip_us, path.sent_packets, path.lost_packets) = (20_000, 1_000, 10);
        (path.repeated_messages, path.restored_messages, path.incomplete_messages) = (900, 7, 1);
        let mut session = SessionRow::default();
        session.id = "0123456789abcdef".into();
        let mut status = EngineStatus::default();
        (status.sessions, status.sessions_total) = (vec![session], 1);
        assert!(!status_text(&status, false).contains("ROUND TRIP"), "there is no path");
        status.sessions[0].udp = Some(path);
        let text = status_text(&status, false);
        let row = text.lines().skip_while(|line| !line.contains("ROUND TRIP")).nth(1).unwrap();
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(words.join(" "), "01234567 20 ms 1,000 10 900 7 1");
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
