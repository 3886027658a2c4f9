//! Messages, gaps and resumes as text: plain lines or JSON objects, gathered in one buffer.
//!
//! A payload is written as it is, except on a terminal, which must not obey what a stranger published.

use std::io::{self, Write};

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use twinlane::{Gap, Headers, MessageView, Missing, Outcome, TopicName};

use crate::args::SubArgs;
use crate::output::{self, Hex};

/// How a message is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Payload and newline, after what was asked for.
    Lines { timestamps: bool, topics: bool, terminal: bool },
    /// Payloads alone.
    Raw,
    /// One object per line.
    Json,
}

impl Format {
    /// The format these flags ask for, on a standard output that is a terminal or not.
    pub(crate) fn of(args: &SubArgs, terminal: bool) -> Self {
        match (args.json, args.raw) {
            (true, _) => Self::Json,
            (_, true) => Self::Raw,
            _ => Self::Lines { timestamps: args.timestamps, topics: args.topics, terminal },
        }
    }
}

/// Turns deliveries into text and keeps it until it is written.
pub(crate) struct Printer {
    format: Format,
    waiting: Vec<u8>,
}

impl Printer {
    pub(crate) fn new(format: Format) -> Self {
        Self { format, waiting: Vec::new() }
    }

    /// Bytes that are not written yet.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting.len()
    }

    /// Adds a message.
    pub(crate) fn message(&mut self, message: &MessageView<'_>) -> io::Result<()> {
        let out = &mut self.waiting;
        match self.format {
            Format::Json => json_line(out, &MessageObject(message))?,
            Format::Raw => out.extend_from_slice(message.payload()),
            Format::Lines { timestamps, topics, terminal } => {
                if timestamps {
                    write!(out, "{} ", humantime::format_rfc3339_micros(message.published_at()))?;
                }
                if topics {
                    write!(out, "{} ", message.topic())?;
                }
                if terminal {
                    out.extend_from_slice(output::for_terminal(message.payload()).as_bytes());
                } else {
                    out.extend_from_slice(message.payload());
                }
                out.push(b'\n');
            }
        }
        Ok(())
    }

    /// Adds a gap; returns the line for standard error unless it is an object among the messages.
    pub(crate) fn gap(&mut self, gap: &Gap) -> io::Result<Option<String>> {
        if self.format != Format::Json {
            return Ok(Some(format!("gap: {gap}")));
        }
        json_line(&mut self.waiting, &GapObject::of(gap)).map(|()| None)
    }

    /// Adds a resume; returns the line for standard error unless it is an object among the messages.
    pub(crate) fn resumed(&mut self, topic: &TopicName, outcome: Outcome) -> io::Result<Option<String>> {
        let (word, missing, sentence) = match outcome {
            Outcome::Resumed => ("resumed", 0, "continues where it was".to_owned()),
            Outcome::Gap(missing) => {
                ("gap", missing, format!("continues, {missing} messages are no longer kept"))
            }
            Outcome::Fresh => ("fresh", 0, "begins anew: the server knows nothing of before".to_owned()),
        };
        if self.format != Format::Json {
            return Ok(Some(format!("resumed: {topic} {sentence}")));
        }
        let object = ResumedObject { r#type: "resumed", topic: topic.as_str(), outcome: word, missing };
        json_line(&mut self.waiting, &object).map(|()| None)
    }

    /// Writes all that waits, with one call where the system allows it.
    pub(crate) fn write_to(&mut self, mut out: impl Write) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let written = out.write_all(&self.waiting);
        self.waiting.clear();
        written
    }
}

fn json_line(out: &mut Vec<u8>, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.push(b'\n');
    Ok(())
}

struct MessageObject<'a>(&'a MessageView<'a>);

impl Serialize for MessageObject<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let message = self.0;
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("type", "message")?;
        object.serialize_entry("topic", message.topic().as_str())?;
        object.serialize_entry("channel", &message.channel().to_string())?;
        object.serialize_entry("epoch", &message.epoch())?;
        object.serialize_entry("offset", &message.offset())?;
        object.serialize_entry("source", &message.source())?;
        object.serialize_entry("seq", &message.seq())?;
        object.serialize_entry("time_us", &message.time_us())?;
        if let Some(key) = message.key() {
            object.serialize_entry("key", &key)?;
        }
        if let Some(headers) = message.headers() {
            object.serialize_entry("headers", &HeadersObject(headers))?;
        }
        text_or_hex(&mut object, "payload", "payload_hex", message.payload())?;
        object.end()
    }
}

struct HeadersObject<'a>(Headers<'a>);

impl Serialize for HeadersObject<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        for (name, value) in self.0.iter() {
            text_or_hex(&mut object, name, &format!("{name}_hex"), value)?;
        }
        object.end()
    }
}

#[derive(Serialize)]
struct ResumedObject<'a> {
    r#type: &'static str,
    topic: &'a str,
    outcome: &'static str,
    missing: u64,
}

/// Where the hole is: offsets of the topic, or seqs of one publisher; `to` is exclusive.
#[derive(Serialize)]
struct GapObject<'a> {
    r#type: &'static str,
    topic: &'a str,
    cause: String,
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<u32>,
    of: &'static str,
    from: u64,
    to: u64,
}

impl<'a> GapObject<'a> {
    fn of(gap: &'a Gap) -> Self {
        let (source, of, from, to) = match gap.missing {
            Missing::Offsets { from, to } => (None, "offsets", from, to),
            Missing::Seqs { source, from, to } => (Some(source), "seqs", from, to),
        };
        let (topic, cause, count) = (gap.topic.as_str(), gap.cause.to_string(), gap.count());
        Self { r#type: "gap", topic, cause, count, source, of, from, to }
    }
}

/// JSON holds text only: bytes that are none go under another name, in hex.
fn text_or_hex<M: serde::ser::SerializeMap>(
    object: &mut M,
    text_name: &str,
    hex_name: &str,
    bytes: &[u8],
) -> Result<(), M::Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.serialize_entry(text_name, text),
        Err(_) => object.serialize_entry(hex_name, &format_args!("{}", Hex(bytes))),
    }
}

#[cfg(test)]
mod tests {
    use twinlane::{Engine, EngineConfig, GapCause, Session, TopicSpec};

    use super::*;

    /// What `format` makes of one message with `payload`, in an engine of its own.
    async fn printed(format: Format, payload: &[u8]) -> String {
        let engine = Engine::new(EngineConfig::default()).unwrap();
        engine.declare("a/b", TopicSpec::reliable()).unwrap();
        let session = Session::local(&engine);
        let mut subscription = session.subscribe("a/*").await.unwrap();
        session.publisher("a/b").await.unwrap().publish(payload).await.unwrap();
        let batch = subscription.next_batch().await.unwrap();
        let mut printer = Printer::new(format);
        batch.messages().for_each(|message| printer.message(&message).unwrap());
        let mut written = Vec::new();
        printer.write_to(&mut written).unwrap();
        assert_eq!(printer.waiting_bytes(), 0);
        String::from_utf8(written).unwrap()
    }

    const LINES: Format = Format::Lines { timestamps: false, topics: false, terminal: false };

    #[tokio::test]
    async fn a_line_is_the_payload_after_what_was_asked_for() {
        assert_eq!(printed(LINES, b"hello").await, "hello\n");
        assert_eq!(printed(LINES, b"\x1b[2J").await, "\x1b[2J\n");
        assert_eq!(printed(Format::Raw, b"hello").await, "hello");
        let text =
            printed(Format::Lines { timestamps: true, topics: true, terminal: true }, b"\x1b[2J").await;
        let (time, rest) = text.split_once(' ').unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
        assert_eq!(rest, "a/b \\u{1b}[2J\n");
    }

    #[tokio::test]
    async fn json_holds_text_as_text_and_other_bytes_as_hex() {
        let text = printed(Format::Json, "é\n".as_bytes()).await;
        let object: serde_json::Value = serde_json::from_str(text.strip_suffix('\n').unwrap()).unwrap();
        for (name, value) in
            [("type", "message"), ("topic", "a/b"), ("channel", "reliable"), ("payload", "é\n")]
        {
            assert_eq!(object[name], value);
        }
        assert_eq!((&object["offset"], &object["seq"]), (&0.into(), &1.into()));
        let text = printed(Format::Json, b"\xFF\x00").await;
        assert!(text.contains("\"payload_hex\":\"ff00\"") && !text.contains("\"payload\":"), "{text}");
    }

    #[test]
    fn gaps_and_resumes_are_sentences_beside_lines_and_objects_among_json() {
        let topic = TopicName::parse("a").unwrap();
        let missing = Missing::Seqs { source: 7, from: 10, to: 13 };
        let gap = Gap { topic: topic.clone(), cause: GapCause::Late, missing };
        let mut lines = Printer::new(LINES);
        assert!(lines.gap(&gap).unwrap().unwrap().starts_with("gap: "));
        assert!(lines.resumed(&topic, Outcome::Gap(5)).unwrap().unwrap().contains("5 messages"));
        assert_eq!(lines.waiting_bytes(), 0);

        let mut json = Printer::new(Format::Json);
        assert_eq!(json.gap(&gap).unwrap(), None);
        assert_eq!(json.resumed(&topic, Outcome::Gap(5)).unwrap(), None);
        let mut written = Vec::new();
        json.write_to(&mut written).unwrap();
        let objects: Vec<serde_json::Value> = String::from_utf8(written)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!((&objects[0]["type"], &objects[0]["count"]), (&"gap".into(), &3.into()));
        assert_eq!((&objects[0]["source"], &objects[0]["of"]), (&7.into(), &"seqs".into()));
        assert_eq!((&objects[1]["outcome"], &objects[1]["missing"]), (&"gap".into(), &5.into()));
    }
}
