//! What the judge of fast topics says: a verdict, numbers, and the first witnesses of everything that was broken.

use std::fmt;

use serde_json::json;

use super::super::report::{Verdict, Violations};
use super::FastJudge;
use super::residence::Residence;
use super::settling::Settling;
use crate::history::{FastMode, FastPlan, FastStats, LinkCounts};

/// A relay that saw fewer datagrams carried nothing worth speaking of.
const DATAGRAMS_MIN: u64 = 100;

/// A judged history of fast topics.
#[derive(Clone, Debug)]
pub struct FastReport {
    /// How it ended.
    pub verdict: Verdict,
    /// What was broken.
    pub violations: Violations,
    /// Why the verdict is unknown.
    pub doubts: Vec<String>,
    plan: FastPlan,
    published: u64,
    refused: u64,
    publishers: u64,
    readers: u64,
    stats: FastStats,
    links: LinkCounts,
    switches: (u64, u64, u64),
    residence: Residence,
    settling: Settling,
}

impl FastReport {
    pub(super) fn new(
        run: &FastJudge,
        violations: Violations,
        residence: Residence,
        settling: Settling,
    ) -> Self {
        let links = run.clients.values().fold(LinkCounts::default(), |sum, client| add(sum, client.link));
        let stats = run.readers.values().filter_map(|reader| reader.stats);
        let mut report = Self {
            verdict: Verdict::Unknown,
            violations,
            doubts: Vec::new(),
            plan: run.plan.clone(),
            published: run.streams.values().map(|stream| stream.published.len() as u64).sum(),
            refused: run.streams.values().map(|stream| stream.refused).sum(),
            publishers: run.streams.len() as u64,
            readers: run.readers.len() as u64,
            stats: stats.fold(FastStats::default(), add_stats),
            links,
            switches: (run.blocked, run.moves_to_tcp, run.moves_to_udp),
            residence,
            settling,
        };
        report.doubt_endings(run);
        report.doubt_faults(run);
        report.doubt_measures(run);
        report.verdict = Verdict::of(&report.violations, &report.doubts);
        report
    }

    /// Messages handed over, to all readers together.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.stats.delivered
    }

    fn doubt_endings(&mut self, run: &FastJudge) {
        if !run.ended {
            self.doubts.push("the run did not end by itself".to_owned());
        }
        for (publisher, stream) in &run.streams {
            match &stream.closed {
                None => self.doubts.push(format!("publisher {publisher} was never closed")),
                Some(why) if !why.is_empty() => self.doubts.push(format!("publisher {publisher}: {why}")),
                Some(_) => {}
            }
        }
        for (number, reader) in &run.readers {
            if reader.stats.is_none() {
                self.doubts.push(format!("reader {number} did not come to an end"));
            } else if !reader.why.is_empty() {
                self.doubts.push(format!("reader {number}: {}", reader.why));
            }
        }
        if self.stats.delivered < run.plan.delivered_min {
            let (delivered, needed) = (self.stats.delivered, run.plan.delivered_min);
            self.doubts.push(format!("{delivered} messages were delivered, {needed} are needed"));
        }
    }

    /// Faults that were asked for and took no effect.
    fn doubt_faults(&mut self, run: &FastJudge) {
        let idle =
            run.clients.iter().filter(|(_, client)| client.udp && client.link.datagrams < DATAGRAMS_MIN);
        for (number, client) in idle {
            let datagrams = client.link.datagrams;
            self.doubts.push(format!("the relay of client {number} saw {datagrams} datagrams only"));
        }
        let LinkCounts { datagrams, lost, repeated, delayed, overtaken, .. } = self.links;
        let plan = &run.plan;
        let asked = [
            (plan.lose_permille, lost, "lost"),
            (plan.repeat_permille, repeated, "repeated"),
            (plan.delay_permille, delayed, "held back"),
        ];
        for (permille, count, what) in asked {
            let expected = datagrams * u64::from(permille) / 1_000;
            if count * 2 < expected || (permille > 0 && count == 0) {
                self.doubts
                    .push(format!("{count} of {datagrams} datagrams were {what}, {expected} were to be"));
            }
        }
        if plan.delay_permille > 0 && overtaken == 0 {
            self.doubts.push("no datagram was overtaken".to_owned());
        }
        let (blocked, to_tcp, to_udp) = self.switches;
        if plan.switches && (blocked == 0 || to_tcp == 0 || to_udp == 0) {
            self.doubts.push(format!(
                "UDP was blocked {blocked} times, fast topics moved to TCP {to_tcp} times and back {to_udp} times"
            ));
        }
    }

    /// Promises that were hardly put to the test.
    fn doubt_measures(&mut self, run: &FastJudge) {
        let needed = run.plan.judged_min;
        let has_deadlines = run
            .streams
            .values()
            .flat_map(|stream| &stream.published)
            .any(|published| published.deadline_us > 0);
        let Residence { judged, closely, .. } = self.residence;
        if has_deadlines && closely < needed {
            self.doubts.push(format!(
                "{closely} of {judged} deliveries with a deadline could be judged closely, {needed} are needed: the \
                 machine was busy"
            ));
        }
        let Settling { judged, closely, .. } = self.settling;
        if run.topics.values().any(|mode| *mode == FastMode::Latest) && closely < needed {
            self.doubts.push(format!(
                "{closely} of {judged} resting keys could be judged closely, {needed} are needed: the links lost too \
                 much or the machine was busy"
            ));
        }
    }

    /// For programs.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let (stats, links) = (&self.stats, &self.links);
        json!({
            "verdict": self.verdict.to_string(),
            "seed": self.plan.seed,
            "broken": self.violations.to_json(),
            "doubts": self.doubts,
            "publishers": self.publishers,
            "published": self.published,
            "refused": self.refused,
            "readers": self.readers,
            "delivered": stats.delivered,
            "lost": stats.lost,
            "late": stats.late,
            "expired": stats.expired,
            "coalesced": stats.coalesced,
            "dropped_slow": stats.dropped_slow,
            "no_route": stats.no_route,
            "discarded": stats.discarded,
            "link": {
                "datagrams": links.datagrams,
                "lost": links.lost,
                "repeated": links.repeated,
                "delayed": links.delayed,
                "overtaken": links.overtaken,
                "blocked": links.blocked,
            },
            "blocks": self.switches.0,
            "moves_to_tcp": self.switches.1,
            "moves_to_udp": self.switches.2,
            "deadlines_judged": self.residence.judged,
            "deadlines_judged_closely": self.residence.closely,
            "deadline_worst_over_us": self.residence.worst_over_us,
            "rests_judged": self.settling.judged,
            "rests_judged_closely": self.settling.closely,
            "rest_worst_us": self.settling.worst_us,
        })
    }
}

impl fmt::Display for FastReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.violations)?;
        self.doubts.iter().try_for_each(|doubt| writeln!(f, "doubt: {doubt}"))?;
        let (stats, links) = (&self.stats, &self.links);
        writeln!(
            f,
            "  {} datagrams: {} lost, {} repeated, {} held back, {} overtaken, {} blocked; moves to TCP {}, back {}",
            links.datagrams,
            links.lost,
            links.repeated,
            links.delayed,
            links.overtaken,
            links.blocked,
            self.switches.1,
            self.switches.2,
        )?;
        writeln!(
            f,
            "  {} lost, {} late, {} expired, {} coalesced, {} dropped because slow, {} without a route, {} copies discarded",
            stats.lost,
            stats.late,
            stats.expired,
            stats.coalesced,
            stats.dropped_slow,
            stats.no_route,
            stats.discarded,
        )?;
        let Residence { judged, closely, worst_over_us } = self.residence;
        let worst = worst_over_us.map_or("none".to_owned(), |worst| format!("{worst} µs over its deadline"));
        writeln!(f, "  deadlines: {judged} judged, {closely} of them closely, the worst {worst}")?;
        let Settling { judged, closely, worst_us } = self.settling;
        writeln!(
            f,
            "  resting keys: {judged} judged, {closely} of them closely, shown within {worst_us} µs"
        )?;
        write!(
            f,
            "{}: seed {}, {} published by {} publishers, {} refused, {} delivered to {} readers",
            self.verdict,
            self.plan.seed,
            self.published,
            self.publishers,
            self.refused,
            stats.delivered,
            self.readers,
        )
    }
}

fn add(one: LinkCounts, other: LinkCounts) -> LinkCounts {
    LinkCounts {
        datagrams: one.datagrams + other.datagrams,
        lost: one.lost + other.lost,
        repeated: one.repeated + other.repeated,
        delayed: one.delayed + other.delayed,
        overtaken: one.overtaken + other.overtaken,
        blocked: one.blocked + other.blocked,
    }
}

fn add_stats(one: FastStats, other: FastStats) -> FastStats {
    FastStats {
        delivered: one.delivered + other.delivered,
        lost: one.lost + other.lost,
        late: one.late + other.late,
        expired: one.expired + other.expired,
        coalesced: one.coalesced + other.coalesced,
        dropped_slow: one.dropped_slow + other.dropped_slow,
        no_route: one.no_route + other.no_route,
        not_retained: one.not_retained + other.not_retained,
        discarded: one.discarded + other.discarded,
    }
}
