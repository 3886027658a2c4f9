//! What a judge says: a verdict, numbers, and the first witnesses of everything that was broken.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::json;

use crate::history::Plan;

/// Witnesses kept of each invariant.
const WITNESSES_MAX: usize = 5;

/// The invariants, named as in the list of promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "Invariant::promise says it")]
pub enum Invariant {
    I1,
    I2,
    I3,
    I4,
    I5,
    I6,
    I7,
    I8,
    I9,
    I10,
    I11,
    L1,
    Qa,
    Qb,
    Qc,
    Qd,
    Qe,
    F2,
    Fa,
    Fb,
    Fc,
    Fd,
}

impl Invariant {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::I1,
        Self::I2,
        Self::I3,
        Self::I4,
        Self::I5,
        Self::I6,
        Self::I7,
        Self::I8,
        Self::I9,
        Self::I10,
        Self::I11,
        Self::L1,
        Self::Qa,
        Self::Qb,
        Self::Qc,
        Self::Qd,
        Self::Qe,
        Self::F2,
        Self::Fa,
        Self::Fb,
        Self::Fc,
        Self::Fd,
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::I1 => "I1",
            Self::I2 => "I2",
            Self::I3 => "I3",
            Self::I4 => "I4",
            Self::I5 => "I5",
            Self::I6 => "I6",
            Self::I7 => "I7",
            Self::I8 => "I8",
            Self::I9 => "I9",
            Self::I10 => "I10",
            Self::I11 => "I11",
            Self::L1 => "L1",
            Self::Qa => "Q-a",
            Self::Qb => "Q-b",
            Self::Qc => "Q-c",
            Self::Qd => "Q-d",
            Self::Qe => "Q-e",
            Self::F2 => "F2",
            Self::Fa => "F-a",
            Self::Fb => "F-b",
            Self::Fc => "F-c",
            Self::Fd => "F-d",
        }
    }

    /// What it asks for.
    #[must_use]
    pub fn promise(self) -> &'static str {
        match self {
            Self::I1 => "every acknowledged message is there in the end",
            Self::I2 => "an offset is the same message for everyone",
            Self::I3 => "a message has one offset at most",
            Self::I4 => "a publisher's messages are stored in their order, none left out",
            Self::I5 => "nothing is delivered that was not published, or was refused",
            Self::I6 => "a subscription skips and repeats no offset",
            Self::I7 => "an acknowledgement says the offset and the level that are true",
            Self::I8 => "what was acknowledged before another message was published comes before it",
            Self::I9 => "payloads arrive bit by bit as they were sent",
            Self::I10 => "after a restart the log goes on where it was",
            Self::I11 => "nothing was shown that was not durable",
            Self::L1 => "once a fault is over, everything works again in time",
            Self::Qa => "every job is handed over and in the end done or a dead letter",
            Self::Qb => "a job that is done is never handed over again",
            Self::Qc => "one member at a time has the lease of a job",
            Self::Qd => "a job given back is handed over again within a second",
            Self::Qe => "a job that fails too often is one dead letter",
            Self::F2 => "what is delivered was published, bit by bit as it was sent",
            Self::Fa => "no message twice, and none before an older one where the mode promises an order",
            Self::Fb => {
                "every message that was not delivered is counted, and reported where the mode says so"
            }
            Self::Fc => "no message is handed over after its deadline",
            Self::Fd => "a key that rests shows its last value within a second",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What was broken, how often, and the first times.
#[derive(Clone, Debug, Default)]
pub struct Violations(BTreeMap<Invariant, Broken>);

#[derive(Clone, Debug, Default)]
struct Broken {
    times: u64,
    witnesses: Vec<String>,
    notes: Vec<String>,
}

impl Violations {
    /// One more; the witness is only put into words while there is room for it.
    pub fn add(&mut self, invariant: Invariant, witness: impl FnOnce() -> String) {
        let broken = self.0.entry(invariant).or_default();
        broken.times += 1;
        if broken.witnesses.len() < WITNESSES_MAX {
            broken.witnesses.push(witness());
        }
    }

    /// Something to say about all that broke an invariant.
    pub fn note(&mut self, invariant: Invariant, note: String) {
        if let Some(broken) = self.0.get_mut(&invariant) {
            broken.notes.push(note);
        }
    }

    /// The broken invariants.
    pub fn broken(&self) -> impl Iterator<Item = Invariant> {
        self.0.keys().copied()
    }

    /// Whether nothing was broken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For programs.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let broken = self.0.iter().map(|(invariant, broken)| {
            let what = json!({ "times": broken.times, "witnesses": broken.witnesses, "notes": broken.notes });
            (invariant.name().to_owned(), what)
        });
        serde_json::Value::Object(broken.collect())
    }

    /// How often it was broken.
    #[must_use]
    pub fn times(&self, invariant: Invariant) -> u64 {
        self.0.get(&invariant).map_or(0, |broken| broken.times)
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (invariant, broken) in &self.0 {
            writeln!(f, "{invariant} broken {} times: {}", broken.times, invariant.promise())?;
            broken.notes.iter().try_for_each(|note| writeln!(f, "    {note}"))?;
            broken.witnesses.iter().try_for_each(|witness| writeln!(f, "  - {witness}"))?;
        }
        Ok(())
    }
}

/// How it ended. Only [`Self::Valid`] is a success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was broken, and enough happened to say so.
    Valid,
    /// Something was broken.
    Invalid,
    /// Too little happened, or not everything could be read.
    Unknown,
}

impl Verdict {
    /// A broken promise counts whatever else there is to say.
    pub(super) fn of(violations: &Violations, doubts: &[String]) -> Self {
        match (violations.is_empty(), doubts.is_empty()) {
            (false, _) => Self::Invalid,
            (true, false) => Self::Unknown,
            (true, true) => Self::Valid,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Valid => "VALID",
            Self::Invalid => "INVALID",
            Self::Unknown => "UNKNOWN",
        })
    }
}

/// How much happened.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) events: u64,
    pub(super) topics: u64,
    pub(super) acked: u64,
    pub(super) unknown: u64,
    pub(super) refused: u64,
    pub(super) delivered: u64,
    pub(super) readers: u64,
    pub(super) faults: BTreeMap<&'static str, u64>,
    pub(super) losses: (u64, u64),
    pub(super) jobs: u64,
}

/// A judged history.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it ended.
    pub verdict: Verdict,
    /// What was broken.
    pub violations: Violations,
    /// Why the verdict is unknown.
    pub doubts: Vec<String>,
    seed: u64,
    counts: Counts,
}

impl Report {
    pub(super) fn new(
        plan: &Plan,
        counts: Counts,
        undrained: u64,
        ended: bool,
        violations: Violations,
    ) -> Self {
        let faults: u64 = counts.faults.values().sum();
        let mut doubts = Vec::new();
        if !ended {
            doubts.push("the run did not end by itself".to_owned());
        }
        if undrained > 0 {
            doubts.push(format!("{undrained} of {} topics were not read to their end", counts.topics));
        }
        if counts.acked < plan.acked_min {
            doubts
                .push(format!("{} messages were acknowledged, {} are needed", counts.acked, plan.acked_min));
        }
        if faults < plan.faults_min {
            doubts.push(format!("{faults} faults took effect, {} are needed", plan.faults_min));
        }
        let verdict = Verdict::of(&violations, &doubts);
        Self { verdict, violations, doubts, seed: plan.seed, counts }
    }

    /// Messages with an `Ok`.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.counts.acked
    }

    /// Faults that took effect.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.counts.faults.values().sum()
    }

    /// For programs.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let counts = &self.counts;
        json!({
            "verdict": self.verdict.to_string(),
            "seed": self.seed,
            "broken": self.violations.to_json(),
            "doubts": self.doubts,
            "events": counts.events,
            "acked": counts.acked,
            "unknown": counts.unknown,
            "refused": counts.refused,
            "delivered": counts.delivered,
            "readers": counts.readers,
            "faults": counts.faults,
            "losses": counts.losses.0,
            "lost_bytes": counts.losses.1,
            "jobs_handed": counts.jobs,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.violations)?;
        self.doubts.iter().try_for_each(|doubt| writeln!(f, "doubt: {doubt}"))?;
        let counts = &self.counts;
        let faults: Vec<_> = counts.faults.iter().map(|(kind, times)| format!("{times} {kind}")).collect();
        write!(
            f,
            "{}: seed {}, {} acked, {} unknown, {} refused, {} delivered to {} readers, faults: {}",
            self.verdict,
            self.seed,
            counts.acked,
            counts.unknown,
            counts.refused,
            counts.delivered,
            counts.readers,
            if faults.is_empty() { "none".to_owned() } else { faults.join(", ") },
        )?;
        if counts.losses.0 > 0 {
            write!(f, " ({} of them lost {} bytes)", counts.losses.0, counts.losses.1)?;
        }
        if counts.jobs > 0 { write!(f, ", {} jobs handed over", counts.jobs) } else { Ok(()) }
    }
}
