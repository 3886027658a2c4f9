//! L1: once a fault is over, publishers have their outcomes, readers reach the end and connects work, all in time.
//!
//! Time counts only while nothing is broken: a deadline that a fault cuts short says nothing.

use std::collections::BTreeMap;

use super::log::Logs;
use super::named;
use super::readers::Readers;
use super::report::{Invariant, Violations};
use super::streams::Streams;
use crate::history::{Event, FaultKind};

const OUTCOME_US: u64 = 5_000_000;
const READ_US: u64 = 10_000_000;
const CONNECT_US: u64 = 1_000_000;

#[derive(Debug, Default)]
pub(super) struct Liveness {
    /// Begin and end of each fault; the end is `u64::MAX` while it lasts.
    faults: Vec<(u64, u64, FaultKind)>,
    by_kind: BTreeMap<&'static str, u64>,
    losses: u64,
    lost_bytes: u64,
    /// When messages were published whose outcome took long, and when it came; of whom.
    slow: Vec<(u64, u64, String)>,
    /// Messages published and not answered yet, by publisher: time, first seq.
    open: BTreeMap<u16, (u64, u64)>,
    connects: Vec<(u64, u64, bool)>,
    endings: Vec<(u64, String)>,
    end_us: Option<u64>,
}

impl Liveness {
    pub(super) fn event(&mut self, event: &Event) {
        match event {
            Event::Fault { at_us, kind, .. } => {
                self.faults.push((*at_us, u64::MAX, *kind));
            }
            Event::Healed { at_us, kind, effective, lost_bytes } => {
                if *effective {
                    *self.by_kind.entry(kind.name()).or_default() += 1;
                }
                self.losses += u64::from(*lost_bytes > 0);
                self.lost_bytes += lost_bytes;
                let open = self.faults.iter_mut().rev().find(|fault| fault.2 == *kind && fault.1 == u64::MAX);
                if let Some(fault) = open {
                    fault.1 = *at_us;
                }
            }
            Event::Invoke { at_us, publisher, first, .. } => {
                self.open.insert(*publisher, (*at_us, *first));
            }
            Event::Ok { at_us, publisher, .. }
            | Event::Refused { at_us, publisher, .. }
            | Event::Unknown { at_us, publisher, .. } => self.answered(*publisher, *at_us),
            Event::Connected { at_us, took_us, ok } => self.connects.push((*at_us, *took_us, *ok)),
            Event::Crashed { at_us, what } => self.endings.push((*at_us, format!("the server: {what}"))),
            Event::ReaderEnd { at_us, reader, why } if !why.is_empty() => {
                self.endings.push((*at_us, format!("reader {reader}: {why}")));
            }
            Event::End { at_us } => self.end_us = Some(*at_us),
            _ => {}
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.end_us.is_some()
    }

    /// Faults that put files back, and by how many bytes together.
    pub(super) fn losses(&self) -> (u64, u64) {
        (self.losses, self.lost_bytes)
    }

    pub(super) fn faults_by_kind(&self) -> BTreeMap<&'static str, u64> {
        self.by_kind.clone()
    }

    /// Whether nothing was broken between two times.
    pub(super) fn is_quiet(&self, from_us: u64, to_us: u64) -> bool {
        self.faults.iter().all(|(begin_us, end_us, _)| *end_us < from_us || *begin_us > to_us)
    }

    /// The longest time between the two during which nothing was broken.
    pub(super) fn quiet_us(&self, from_us: u64, to_us: u64) -> u64 {
        let mut longest = 0;
        let mut quiet_since = from_us;
        for (begin_us, end_us, _) in &self.faults {
            if *end_us <= from_us || *begin_us >= to_us {
                continue;
            }
            longest = longest.max(begin_us.saturating_sub(quiet_since));
            quiet_since = quiet_since.max(*end_us);
        }
        longest.max(to_us.saturating_sub(quiet_since))
    }

    /// A server or a subscription that ends by itself keeps no promise, however well everything recovers.
    pub(super) fn judge_endings(&self, violations: &mut Violations) {
        for (at_us, what) in &self.endings {
            violations.add(Invariant::L1, || format!("ended by itself at {at_us} µs: {what}"));
        }
    }

    pub(super) fn judge(
        &mut self,
        streams: &Streams,
        logs: &Logs,
        readers: &Readers,
        violations: &mut Violations,
    ) {
        self.faults.sort_unstable_by_key(|fault| fault.0);
        let Some(end_us) = self.end_us else { return };
        for (from_us, to_us, who) in &self.slow {
            if self.quiet_us(*from_us, *to_us) > OUTCOME_US {
                let waited_us = to_us - from_us;
                violations.add(Invariant::L1, || {
                    format!("{who}, published at {from_us} µs, had its outcome after {waited_us} µs")
                });
            }
        }
        for (who, at_us) in streams.unanswered() {
            if self.quiet_us(at_us, end_us) > OUTCOME_US {
                violations.add(Invariant::L1, || {
                    format!("{}, published at {at_us} µs, has no outcome", named(who))
                });
            }
        }
        for (at_us, took_us, ok) in &self.connects {
            if (*took_us > CONNECT_US || !ok) && self.quiet_us(*at_us, at_us + took_us) > CONNECT_US {
                violations.add(Invariant::L1, || {
                    let how = if *ok { "took" } else { "failed after" };
                    format!("a new session at {at_us} µs {how} {took_us} µs")
                });
            }
        }
        self.judge_readers(end_us, logs, readers, violations);
    }

    /// What was acknowledged when the last fault was over is read soon after.
    fn judge_readers(&self, end_us: u64, logs: &Logs, readers: &Readers, violations: &mut Violations) {
        let healed_us = self.faults.iter().map(|fault| fault.1).max().unwrap_or(0);
        let deadline_us = healed_us.saturating_add(READ_US);
        if deadline_us > end_us {
            return;
        }
        for (_, log) in logs.all() {
            let acked =
                log.acks.iter().filter(|(at_us, _)| *at_us <= healed_us).map(|(_, offset)| *offset).max();
            // What is lost is lost, and another invariant's.
            let (Some(acked), Some(drained_to @ 1..)) = (acked, log.drained_to) else { continue };
            let acked = acked.min(drained_to - 1);
            for (reader, reached_us) in readers.lasting(log.topic, log.epoch) {
                if reached_us(acked).is_none_or(|at_us| at_us > deadline_us) {
                    let topic = log.topic;
                    violations.add(Invariant::L1, || {
                        format!("reader {reader} had not reached offset {acked} of topic {topic} 10 s after the last fault, at {deadline_us} µs")
                    });
                }
            }
        }
    }

    fn answered(&mut self, publisher: u16, at_us: u64) {
        let Some((invoked_us, seq)) = self.open.remove(&publisher) else { return };
        if at_us.saturating_sub(invoked_us) > OUTCOME_US {
            let who = named(crate::payload::Identity { publisher, seq });
            self.slow.push((invoked_us, at_us, who));
        }
    }
}
