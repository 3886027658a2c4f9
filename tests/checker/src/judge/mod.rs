//! Judges a history: every invariant by name, with the first witnesses of what broke it.
//!
//! Pure: events in, a report out. Memory is about 40 bytes for each message and each offset, whatever happened to
//! it. The rules are those of the list of promises; each file here holds the ones that need the same memory.

mod fast;
mod liveness;
mod log;
mod order;
mod queue;
mod readers;
mod report;
mod streams;

use std::collections::BTreeMap;

pub use fast::{FastJudge, FastReport};
pub use report::{Invariant, Report, Verdict, Violations};

use crate::history::{Event, Plan};
use crate::payload::Identity;
use liveness::Liveness;
use log::Logs;
use queue::Queues;
use readers::Readers;
use streams::Streams;

/// A history, as far as it was read.
#[derive(Debug, Default)]
pub struct Judge {
    plan: Plan,
    /// Topics of the run; the value: acknowledged means durable.
    topics: BTreeMap<u16, bool>,
    streams: Streams,
    logs: Logs,
    readers: Readers,
    liveness: Liveness,
    queues: Queues,
    violations: Violations,
    events: u64,
}

impl Judge {
    /// Takes in the next event.
    pub fn event(&mut self, event: &Event) {
        self.events += 1;
        self.liveness.event(event);
        self.queues.event(event);
        match event {
            Event::Plan(plan) => self.plan = plan.clone(),
            Event::Topic { topic, disk, queue } => {
                self.topics.insert(*topic, *disk);
                if *queue {
                    self.queues.declare(*topic);
                }
            }
            Event::Stream { publisher, topic } => self.streams.declare(*publisher, *topic),
            Event::Invoke { at_us, publisher, first, count } => {
                self.streams.invoke(*publisher, *first, *count, *at_us);
            }
            Event::Ok { .. } => self.acknowledged(event),
            Event::Refused { publisher, first, count, .. } => {
                self.streams.refuse(*publisher, *first, *count);
            }
            Event::Unknown { publisher, first, count, .. } => {
                self.streams.unknown(*publisher, *first, *count);
            }
            Event::Reader { reader, from_start, drains } => self.readers.begin(*reader, *from_start, *drains),
            Event::Delivered { at_us, reader, topic, epoch, first_offset, messages } => {
                let read = self.readers.read(*reader, *topic, *epoch, *at_us);
                self.readers.delivered(read, *first_offset, messages.len() as u64, &mut self.violations);
                for (offset, message) in (*first_offset..).zip(messages) {
                    self.found(read, offset, *message);
                }
            }
            Event::Corrupt { reader, topic, epoch, offset, what, at_us } => {
                let read = self.readers.read(*reader, *topic, *epoch, *at_us);
                self.readers.delivered(read, *offset, 1, &mut self.violations);
                let witness =
                    || format!("topic {topic} offset {offset}, reader {reader} at {at_us} µs: {what}");
                self.violations.add(Invariant::I9, witness);
            }
            Event::Gap { reader, topic, from, to, .. } => self.readers.gap(*reader, *topic, *from, *to),
            Event::Drained { topic, epoch, next, .. } => self.logs.drained(*topic, *epoch, *next),
            Event::Recovered { .. } => self.logs.recovered(event, &self.topics, &mut self.violations),
            Event::ReaderEnd { at_us, reader, .. } => self.readers.end(*reader, *at_us),
            Event::NotStarted { at_us, what } => {
                let witness = || format!("the server did not start again at {at_us} µs: {what}");
                self.violations.add(Invariant::I10, witness);
            }
            // The others' business.
            _ => {}
        }
    }

    /// What all of it comes to.
    #[must_use]
    pub fn finish(mut self) -> Report {
        self.streams.judge(&self.logs, &self.topics, &mut self.violations);
        self.logs.judge(&self.streams, &self.topics, &mut self.violations);
        order::judge(&self.streams, &self.logs, &mut self.violations);
        if self.plan.live {
            self.liveness.judge(&self.streams, &self.logs, &self.readers, &mut self.violations);
        }
        self.liveness.judge_endings(&mut self.violations);
        self.queues.judge(&self.plan, &self.streams, &self.liveness, &mut self.violations);
        let counts = report::Counts {
            events: self.events,
            topics: self.topics.len() as u64,
            acked: self.streams.acked(),
            unknown: self.streams.count(streams::UNKNOWN),
            refused: self.streams.count(streams::REFUSED),
            delivered: self.readers.delivered_total(),
            readers: self.readers.len(),
            faults: self.liveness.faults_by_kind(),
            losses: self.liveness.losses(),
            jobs: self.queues.handed_total(),
        };
        let undrained = self.topics.keys().filter(|topic| !self.logs.is_drained(**topic)).count() as u64;
        Report::new(&self.plan, counts, undrained, self.liveness.has_ended(), self.violations)
    }

    fn acknowledged(&mut self, event: &Event) {
        let Event::Ok { at_us, publisher, first, count, last_offset, epoch, disk } = event else { return };
        let topic = self.streams.topic_of(*publisher);
        let is_durable = topic.and_then(|topic| self.topics.get(&topic)).copied().unwrap_or(false);
        if is_durable && !disk {
            let who = Identity { publisher: *publisher, seq: *first };
            let witness =
                || format!("{} acknowledged with level memory on a durable topic at {at_us} µs", named(who));
            self.violations.add(Invariant::I7, witness);
        }
        let log = topic.map(|topic| self.logs.number(topic, *epoch));
        if let Some(log) = log {
            self.logs.acked(log, *last_offset, *at_us);
        }
        self.streams.ok(*publisher, *first, *count, log.map(|log| log::Place::new(log, *last_offset)));
    }

    fn found(&mut self, read: readers::Read, offset: u64, message: Identity) {
        let place = self.logs.found(read, offset, message, &mut self.violations);
        let Some(place) = place else { return };
        if self.streams.topic_of(message.publisher).is_some_and(|topic| topic != read.topic) {
            let witness =
                || format!("{} of another topic at topic {} offset {offset}", named(message), read.topic);
            return self.violations.add(Invariant::I5, witness);
        }
        let Some(earlier) = self.streams.found(message, place) else { return };
        let (topic, durable) = (read.topic, self.topics.get(&read.topic).copied().unwrap_or(false));
        // In memory a log may begin anew, and what had no outcome is then sent again.
        if earlier.log() == place.log() || durable {
            let witness = || {
                format!(
                    "{} at topic {topic} offset {} and again at {offset}",
                    named(message),
                    earlier.offset()
                )
            };
            self.violations.add(Invariant::I3, witness);
        }
    }
}

/// A message in a witness.
fn named(message: Identity) -> String {
    format!("message {} of publisher {}", message.seq, message.publisher)
}
