//! What a check or a repair found, as text for people and as one JSON object.
//!
//! It reads no file.

use std::path::Path;

use serde::Serialize;
use twinlane_log::tool::{CheckReport, Damage, RebuildReport, TopicReport};

use crate::output::{self, Facts, counted, rounded_bytes, thousands};
use crate::topic_record::TopicRecord;

/// A checked log in words.
pub(super) fn text(dir: &Path, report: &CheckReport) -> String {
    let bytes = report.segments.iter().map(|segment| u64::from(segment.bytes)).sum();
    let records = report.segments.iter().map(|segment| segment.records).sum();
    let segments = counted(report.segments.len() as u64, "segment");
    let mut facts = Facts::default();
    facts
        .add("log", dir.display().to_string())
        .add("holds", format!("{} in {segments}, {}", rounded_bytes(bytes), counted(records, "record")))
        .add("beside", format!("{}, {}", streams(report), counted(report.states as u64, "state")))
        .add("torn tail", torn(report))
        .add("verdict", verdict(report));
    let mut text = facts.render(false);
    if !report.topics.is_empty() {
        text += &format!("\n{}\n", topics(&report.topics));
    }
    if !report.damage.is_empty() {
        text += "\ndamage\n";
        report.damage.iter().for_each(|damage| text += &format!("  {}\n", place(damage, &report.topics)));
    }
    text
}

/// What a repair did, in words.
pub(super) fn repaired(report: &RebuildReport, before: &CheckReport) -> String {
    let mut text = format!(
        "repaired: {} became {}\n",
        rounded_bytes(report.bytes_before),
        rounded_bytes(report.bytes_after)
    );
    for lost in &report.lost {
        let topic = before.topics.iter().find(|topic| topic.id == lost.id);
        let name = topic.map_or_else(|| format!("topic {}", lost.id), name);
        let what = match ranges(&lost.missing) {
            missing if missing.is_empty() => "perhaps its newest messages".to_owned(),
            missing => format!("offsets {missing}"),
        };
        text += &format!("  {name} lost {what} and is in a new epoch\n");
    }
    if let Some(kept_at) = &report.kept_at {
        text +=
            &format!("the log as it was is in {}: remove it when you need it no more\n", kept_at.display());
    }
    text
}

fn streams(report: &CheckReport) -> String {
    counted(report.streams as u64, "publisher stream")
}

fn torn(report: &CheckReport) -> String {
    let torn = report.torn_tail.map(|(segment, position)| {
        format!("segment {segment}, byte {position}: was being written; nothing acknowledged is lost")
    });
    torn.unwrap_or_default()
}

fn verdict(report: &CheckReport) -> &'static str {
    if report.is_sound() { "clean: every record is as it was written" } else { "DAMAGED" }
}

fn topics(topics: &[TopicReport]) -> String {
    let header = ["topic", "oldest", "next", "bytes", "missing", "lost before"];
    let rows = topics.iter().map(|topic| {
        vec![
            name(topic),
            thousands(topic.oldest),
            thousands(topic.next),
            rounded_bytes(topic.bytes),
            ranges(&topic.missing),
            ranges(&topic.known_lost),
        ]
    });
    output::table(&header, &header[1..4], rows).trim_fmt()
}

fn name(topic: &TopicReport) -> String {
    match TopicRecord::read(topic.id, &topic.value) {
        Ok(record) => output::harmless(record.name.as_str()),
        Err(_) => format!("topic {}", topic.id),
    }
}

fn ranges(ranges: &[(u64, u64)]) -> String {
    output::joined(ranges.iter().map(|(from, to)| format!("{from}..{to}")))
}

fn place(damage: &Damage, topics: &[TopicReport]) -> String {
    let topic = damage.topic.map(|id| {
        let known = topics.iter().find(|topic| topic.id == id);
        format!(" (of {})", known.map_or_else(|| format!("topic {id}"), name))
    });
    let resumes = match damage.resumes_at {
        Some(byte) => format!("; readable again from byte {byte}"),
        None => "; nothing behind it in this segment can be read".to_owned(),
    };
    let Damage { segment, position, what, .. } = damage;
    format!("segment {segment}, byte {position}: {what}{}{resumes}", topic.unwrap_or_default())
}

/// A checked log as JSON.
#[derive(Serialize)]
pub(super) struct Object<'a> {
    dir: String,
    sound: bool,
    segments: Vec<SegmentObject>,
    topics: Vec<TopicObject<'a>>,
    streams: usize,
    states: usize,
    damage: Vec<DamageObject<'a>>,
    torn_tail: Option<PlaceObject>,
    spare_files: usize,
}

#[derive(Serialize)]
struct SegmentObject {
    segment: u32,
    records: u64,
    bytes: u32,
    ended: bool,
}

#[derive(Serialize)]
struct TopicObject<'a> {
    id: u32,
    name: Option<String>,
    epoch: Option<u64>,
    oldest: u64,
    next: u64,
    bytes: u64,
    missing: &'a [(u64, u64)],
    known_lost: &'a [(u64, u64)],
}

#[derive(Serialize)]
struct DamageObject<'a> {
    segment: u32,
    position: u32,
    resumes_at: Option<u32>,
    topic: Option<u32>,
    what: &'a str,
}

#[derive(Serialize)]
struct PlaceObject {
    segment: u32,
    position: u32,
}

impl<'a> Object<'a> {
    pub(super) fn of(dir: &Path, report: &'a CheckReport) -> Self {
        let segments = report.segments.iter().map(|one| SegmentObject {
            segment: one.number,
            records: one.records,
            bytes: one.bytes,
            ended: one.is_ended,
        });
        let damage = report.damage.iter().map(|one| DamageObject {
            segment: one.segment,
            position: one.position,
            resumes_at: one.resumes_at,
            topic: one.topic,
            what: &one.what,
        });
        Self {
            dir: dir.display().to_string(),
            sound: report.is_sound(),
            segments: segments.collect(),
            topics: report.topics.iter().map(TopicObject::of).collect(),
            streams: report.streams,
            states: report.states,
            damage: damage.collect(),
            torn_tail: report.torn_tail.map(|(segment, position)| PlaceObject { segment, position }),
            spare_files: report.spare_files,
        }
    }
}

impl<'a> TopicObject<'a> {
    fn of(topic: &'a TopicReport) -> Self {
        let record = TopicRecord::read(topic.id, &topic.value).ok();
        Self {
            id: topic.id,
            name: record.as_ref().map(|record| record.name.to_string()),
            epoch: record.map(|record| record.epoch),
            oldest: topic.oldest,
            next: topic.next,
            bytes: topic.bytes,
            missing: &topic.missing,
            known_lost: &topic.known_lost,
        }
    }
}
