//! `twinlane log dump`: what lies in a log, one line or JSON object for each entry.
//!
//! Values that the server keeps for itself are counted, never shown: what resumes sessions is among them.

use std::collections::HashMap;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};
use twinlane_log::tool::{self, DumpEntry, DumpFilter, DumpRecord};
use twinlane_proto::frame::{Frames, MessageRef};

use super::{even_beside, log_dir};
use crate::args::log::DumpArgs;
use crate::failure::LogDamaged;
use crate::output::{self, Hex, counted, for_terminal, harmless, rounded_bytes};
use crate::topic_record::TopicRecord;

/// Prints the entries that the flags ask for.
pub(super) fn run(args: &DumpArgs) -> anyhow::Result<()> {
    let dir = log_dir(&args.log.dir)?;
    let filter = DumpFilter { offsets: args.from.map(|from| from..u64::MAX), ..DumpFilter::default() };
    let names = even_beside(&args.log, |access| tool::check(&dir, access))?.topics.into_iter().map(|topic| {
        let record = TopicRecord::read(topic.id, &topic.value);
        (topic.id, record.map_or_else(|_| format!("#{}", topic.id), |record| record.name.to_string()))
    });
    let names: HashMap<u32, String> = names.collect();
    let mut printer = Printer {
        args,
        names,
        out: BufWriter::new(io::stdout().lock()),
        terminal: io::stdout().is_terminal(),
        failed: None,
    };
    // Not a second look for the lock: whoever uses the log goes on using it.
    let damage = tool::dump(&dir, tool::Access::Beside, &filter, |record| printer.take(record))?;
    printer.end()?;
    if damage.is_empty() { Ok(()) } else { Err(LogDamaged.into()) }
}

struct Printer<'a, W: Write> {
    args: &'a DumpArgs,
    names: HashMap<u32, String>,
    out: W,
    terminal: bool,
    /// Nothing more is written after this.
    failed: Option<io::Error>,
}

impl<W: Write> Printer<'_, W> {
    fn take(&mut self, record: &DumpRecord<'_>) {
        if self.failed.is_none() && self.is_wanted(&record.entry) {
            self.failed = self.print(record).err();
        }
    }

    fn end(mut self) -> io::Result<()> {
        self.failed.map_or_else(|| self.out.flush(), Err)
    }

    /// With a filter only what belongs to a topic is shown.
    fn is_wanted(&self, entry: &DumpEntry<'_>) -> bool {
        let Some(filter) = &self.args.topic else { return true };
        let name = topic_of(entry).and_then(|id| self.names.get(&id));
        name.and_then(|name| twinlane::TopicName::parse(name).ok()).is_some_and(|name| filter.matches(&name))
    }

    fn print(&mut self, record: &DumpRecord<'_>) -> io::Result<()> {
        if let DumpEntry::Run { topic, first_offset, bytes, .. } = &record.entry
            && self.args.payload
        {
            let from = self.args.from.unwrap_or(0);
            let messages = (*first_offset..).zip(Frames::new(bytes)).filter(|(offset, _)| *offset >= from);
            for (offset, message) in messages {
                self.message(record, *topic, offset, message)?;
            }
            return Ok(());
        }
        if self.args.json {
            return json_line(&mut self.out, &object(record, &self.names));
        }
        let time = time(record.time_us);
        let what = sentence(&record.entry, &self.names);
        writeln!(self.out, "{}:{} {time} {what}", record.segment, record.position)
    }

    fn message(
        &mut self,
        record: &DumpRecord<'_>,
        topic: u32,
        offset: u64,
        message: MessageRef<'_>,
    ) -> io::Result<()> {
        let name = name(&self.names, topic);
        if !self.args.json {
            write!(self.out, "{name} {offset} {} ", time(record.time_us))?;
            match self.terminal {
                true => self.out.write_all(for_terminal(message.payload()).as_bytes())?,
                false => self.out.write_all(message.payload())?,
            }
            return self.out.write_all(b"\n");
        }
        let mut object = place(record, "message");
        object["topic"] = name.into();
        object["offset"] = offset.into();
        object["source"] = message.header().source.into();
        object["seq"] = message.header().seq.into();
        if let Some(key) = message.options().ok().and_then(|options| options.key) {
            object["key"] = key.into();
        }
        match std::str::from_utf8(message.payload()) {
            Ok(text) => object["payload"] = text.into(),
            Err(_) => object["payload_hex"] = Hex(message.payload()).to_string().into(),
        }
        json_line(&mut self.out, &object)
    }
}

fn json_line(mut out: impl Write, object: &Value) -> io::Result<()> {
    serde_json::to_writer(&mut out, object)?;
    out.write_all(b"\n")
}

fn time(time_us: u64) -> String {
    humantime::format_rfc3339_micros(UNIX_EPOCH + Duration::from_micros(time_us)).to_string()
}

fn topic_of(entry: &DumpEntry<'_>) -> Option<u32> {
    match entry {
        DumpEntry::Topic { id: topic, .. }
        | DumpEntry::Bounds { topic, .. }
        | DumpEntry::Run { topic, .. }
        | DumpEntry::Stream { topic, .. }
        | DumpEntry::Hole { topic, .. } => Some(*topic),
        _ => None,
    }
}

fn name(names: &HashMap<u32, String>, topic: u32) -> String {
    names.get(&topic).map_or_else(|| format!("#{topic}"), |name| harmless(name))
}

fn text(value: &[u8]) -> String {
    harmless(&String::from_utf8_lossy(value))
}

/// An entry in words.
fn sentence(entry: &DumpEntry<'_>, names: &HashMap<u32, String>) -> String {
    let topic = || topic_of(entry).map(|topic| name(names, topic)).unwrap_or_default();
    let stream = |session: &[u8; 16], lane: &u32| format!("{}/{lane}", Hex(session));
    match entry {
        DumpEntry::Topic { id, value } => format!("topic {id} {}", text(value)),
        DumpEntry::Bounds { oldest, next, .. } => format!("bounds {} from {oldest} to {next}", topic()),
        DumpEntry::Run { origin, first_offset, frames, bytes, is_copy, .. } => {
            let last = first_offset + u64::from(*frames) - 1;
            let (count, size) = (counted((*frames).into(), "message"), rounded_bytes(bytes.len() as u64));
            let from = stream(&origin.session, &origin.lane);
            let copy = if *is_copy { ", a copy" } else { "" };
            format!(
                "run {} {first_offset}..={last} ({count}, {size}) of {from} from seq {}{copy}",
                topic(),
                origin.first_seq
            )
        }
        DumpEntry::Stream { session, lane, value, .. } => {
            format!("stream {} to {} {}", stream(session, lane), topic(), text(value))
        }
        DumpEntry::Forget { session, lane } => format!("stream {} is over", stream(session, lane)),
        DumpEntry::Answers { session, lane, last_seq, .. } => {
            format!("answers of {} up to seq {last_seq}", stream(session, lane))
        }
        DumpEntry::State { key, value } => format!("state {} of {} B", text(key), value.len()),
        DumpEntry::Delta { key, value } => format!("change of state {} of {} B", text(key), value.len()),
        DumpEntry::Segments { kept } => format!("segments {}", output::joined(kept.iter().map(segments))),
        DumpEntry::Hole { from, to, .. } => format!("hole {} {from}..{to}: a repair found it lost", topic()),
        DumpEntry::End => "end of the segment".to_owned(),
    }
}

fn segments((first, end): &(u32, u32)) -> String {
    if *end == u32::MAX { format!("{first}..") } else { format!("{first}..{end}") }
}

/// An entry as JSON.
fn object(record: &DumpRecord<'_>, names: &HashMap<u32, String>) -> Value {
    let (kind, fields) = match &record.entry {
        DumpEntry::Topic { id, value } => ("topic", json!({ "id": id, "value": text(value) })),
        DumpEntry::Bounds { oldest, next, .. } => ("bounds", json!({ "oldest": oldest, "next": next })),
        DumpEntry::Run { origin, first_offset, frames, bytes, is_copy, .. } => (
            "run",
            json!({
                "first_offset": first_offset, "messages": frames, "bytes": bytes.len(), "copy": is_copy,
                "session": Hex(&origin.session).to_string(), "lane": origin.lane, "first_seq": origin.first_seq,
            }),
        ),
        DumpEntry::Stream { session, lane, value, .. } => {
            ("stream", json!({ "session": Hex(session).to_string(), "lane": lane, "value": text(value) }))
        }
        DumpEntry::Forget { session, lane } => {
            ("forget", json!({ "session": Hex(session).to_string(), "lane": lane }))
        }
        DumpEntry::Answers { session, lane, last_seq, .. } => {
            ("answers", json!({ "session": Hex(session).to_string(), "lane": lane, "last_seq": last_seq }))
        }
        DumpEntry::State { key, value } => ("state", json!({ "key": text(key), "bytes": value.len() })),
        DumpEntry::Delta { key, value } => ("delta", json!({ "key": text(key), "bytes": value.len() })),
        DumpEntry::Segments { kept } => ("segments", json!({ "kept": kept })),
        DumpEntry::Hole { from, to, .. } => ("hole", json!({ "from": from, "to": to })),
        DumpEntry::End => ("end", json!({})),
    };
    let mut object = place(record, kind);
    if let Some(topic) = topic_of(&record.entry) {
        object["topic"] = name(names, topic).into();
    }
    if let (Value::Object(object), Value::Object(fields)) = (&mut object, fields) {
        object.extend(fields);
    }
    object
}

fn place(record: &DumpRecord<'_>, kind: &str) -> Value {
    json!({
        "type": kind, "segment": record.segment, "position": record.position, "time_us": record.time_us,
    })
}
