//! What became of the jobs of queue topics: Q-a to Q-e.
//!
//! A settlement that was asked for and not answered may have been recorded or not; either is accepted.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::liveness::Liveness;
use super::named;
use super::report::{Invariant, Violations};
use super::streams::Streams;
use crate::history::{Action, Event, Plan, Settlement};
use crate::payload::Identity;

/// A job given back is handed over again within this, plus the delay that was asked for.
const REDELIVERY_US: u64 = 1_000_000;

#[derive(Debug, Default)]
pub(super) struct Queues {
    topics: BTreeSet<u16>,
    jobs: HashMap<(u16, u64), Job>,
    /// When members went away.
    left: BTreeMap<(u16, u16), u64>,
    handed: u64,
    end_us: u64,
}

#[derive(Debug, Default)]
struct Job {
    message: Option<Identity>,
    handed: Vec<Handed>,
    settled: Vec<Settled>,
    dead_letters: u64,
}

#[derive(Clone, Copy, Debug)]
struct Handed {
    at_us: u64,
    member: u16,
    attempt: u32,
}

#[derive(Clone, Copy, Debug)]
struct Settled {
    asked_us: u64,
    at_us: u64,
    member: u16,
    attempt: u32,
    action: Action,
    delay_us: u64,
    answer: Settlement,
}

impl Queues {
    pub(super) fn declare(&mut self, topic: u16) {
        self.topics.insert(topic);
    }

    pub(super) fn event(&mut self, event: &Event) {
        match *event {
            Event::Handed { at_us, topic, member, offset, message, attempt } => {
                self.handed += 1;
                let job = self.jobs.entry((topic, offset)).or_default();
                job.message = Some(message);
                job.handed.push(Handed { at_us, member, attempt });
            }
            Event::Settling { at_us, topic, member, offset, attempt, action, delay_us } => {
                let answer = Settlement::Unknown;
                let asked = Settled { asked_us: at_us, at_us, member, attempt, action, delay_us, answer };
                self.jobs.entry((topic, offset)).or_default().settled.push(asked);
            }
            Event::Settled { at_us, topic, member, offset, attempt, action, answer } => {
                let job = self.jobs.entry((topic, offset)).or_default();
                let same = |asked: &&mut Settled| {
                    (asked.member, asked.attempt, asked.action) == (member, attempt, action)
                };
                if let Some(asked) = job.settled.iter_mut().rev().find(same) {
                    (asked.at_us, asked.answer) = (at_us, answer);
                }
            }
            Event::DeadLetter { topic, offset, message, .. } => {
                let job = self.jobs.entry((topic, offset)).or_default();
                job.message.get_or_insert(message);
                job.dead_letters += 1;
            }
            Event::Left { at_us, topic, member } => drop(self.left.insert((topic, member), at_us)),
            Event::End { at_us } => self.end_us = at_us,
            _ => {}
        }
    }

    pub(super) fn handed_total(&self) -> u64 {
        self.handed
    }

    pub(super) fn judge(
        &mut self,
        plan: &Plan,
        streams: &Streams,
        liveness: &Liveness,
        violations: &mut Violations,
    ) {
        for topic in &self.topics {
            self.judge_ends(*topic, plan, streams, violations);
        }
        for ((topic, offset), job) in &mut self.jobs {
            job.handed.sort_unstable_by_key(|handed| (handed.attempt, handed.at_us));
            let mut add = |invariant, what: String| {
                violations.add(invariant, || format!("topic {topic} offset {offset}: {what}"));
            };
            job.judge_done(&mut add);
            job.judge_leases(plan, liveness, &mut add);
            let left = |member| self.left.get(&(*topic, member)).copied();
            job.judge_redelivery(plan, liveness, self.end_us, left, &mut add);
            job.judge_dead_letters(plan, &mut add);
        }
    }

    /// Q-a: every acknowledged message was a job, and the job came to an end.
    fn judge_ends(&self, topic: u16, plan: &Plan, streams: &Streams, violations: &mut Violations) {
        for (publisher, stream) in streams.of_topic(topic) {
            for (seq, message) in (1..).zip(&stream.messages) {
                if !message.is_acked() || message.found.is_none() {
                    continue;
                }
                let job = self.jobs.get(&(topic, message.found.offset()));
                let what = match job {
                    None => "was never handed over",
                    Some(job) if !job.may_be_over(plan) => {
                        "was handed over and is neither done nor a dead letter"
                    }
                    Some(_) => continue,
                };
                let who = Identity { publisher, seq };
                violations.add(Invariant::Qa, || {
                    format!("{} at topic {topic} offset {} {what}", named(who), message.found.offset())
                });
            }
        }
    }
}

impl Job {
    fn may_be_over(&self, plan: &Plan) -> bool {
        let ends = |settled: &&Settled| {
            matches!(settled.action, Action::Ack | Action::Dead) && settled.answer != Settlement::Stale
        };
        // What failed for the last time and is no dead letter is Q-e's business.
        let has_failed = self.handed.iter().any(|handed| handed.attempt >= plan.max_deliver);
        self.dead_letters > 0 || has_failed || self.settled.iter().any(|settled| ends(&settled))
    }

    fn done(&self) -> impl Iterator<Item = &Settled> {
        let is_done =
            |settled: &&Settled| settled.answer == Settlement::Done && settled.action == Action::Ack;
        self.settled.iter().filter(is_done)
    }

    /// Q-b, and leases that were taken for live when they were not.
    fn judge_done(&self, add: &mut impl FnMut(Invariant, String)) {
        let mut done = self.done();
        let Some(first) = done.next() else { return };
        if let Some(second) = done.next() {
            let what = format!("done as attempt {} and as attempt {}", first.attempt, second.attempt);
            add(Invariant::Qc, what);
        }
        let Some(later) = self.handed.iter().find(|handed| handed.attempt > first.attempt) else { return };
        let (member, attempt, at_us) = (later.member, later.attempt, later.at_us);
        if at_us < first.asked_us {
            let what = format!(
                "attempt {attempt} was handed to member {member} at {at_us} µs, and after that attempt {} was still taken as done",
                first.attempt
            );
            return add(Invariant::Qc, what);
        }
        let what = format!(
            "done at {} µs and handed to member {member} as attempt {attempt} at {at_us} µs",
            first.at_us
        );
        add(Invariant::Qb, what);
    }

    /// Q-c.
    fn judge_leases(&self, plan: &Plan, liveness: &Liveness, add: &mut impl FnMut(Invariant, String)) {
        for pair in self.handed.windows(2) {
            let [earlier, later] = pair else { continue };
            if earlier.attempt == later.attempt {
                let what = format!(
                    "attempt {} was handed to member {} and to member {}",
                    earlier.attempt, earlier.member, later.member
                );
                add(Invariant::Qc, what);
                continue;
            }
            let given_back = |settled: &Settled| {
                settled.attempt == earlier.attempt && matches!(settled.action, Action::Nack | Action::Dead)
            };
            let lease_us = plan.ack_wait_us.saturating_sub(REDELIVERY_US);
            let since_us = earlier.at_us.saturating_sub(2 * REDELIVERY_US);
            let is_early = later.at_us.saturating_sub(earlier.at_us) < lease_us;
            let is_next = later.attempt == earlier.attempt + 1 && !self.settled.iter().any(given_back);
            if is_next && is_early && self.holds(earlier.member) && liveness.is_quiet(since_us, later.at_us) {
                let what = format!(
                    "attempt {} was handed to member {} at {} µs and attempt {} to member {} at {} µs, within the lease",
                    earlier.attempt, earlier.member, earlier.at_us, later.attempt, later.member, later.at_us
                );
                add(Invariant::Qc, what);
            }
        }
    }

    /// Q-d.
    fn judge_redelivery(
        &self,
        plan: &Plan,
        liveness: &Liveness,
        end_us: u64,
        left: impl Fn(u16) -> Option<u64>,
        add: &mut impl FnMut(Invariant, String),
    ) {
        for handed in self.handed.iter().filter(|handed| handed.attempt < plan.max_deliver) {
            let own = || self.settled.iter().filter(|settled| settled.attempt == handed.attempt);
            let nacked =
                own().find(|settled| settled.action == Action::Nack && settled.answer == Settlement::Done);
            let (given_back_us, due_us) = match nacked {
                Some(nack) => (nack.asked_us, nack.at_us + nack.delay_us),
                None if own().next().is_some() => continue,
                None => match left(handed.member).filter(|left_us| *left_us > handed.at_us) {
                    Some(left_us) => (left_us, left_us),
                    None => (handed.at_us, handed.at_us + plan.ack_wait_us),
                },
            };
            let deadline_us = due_us + REDELIVERY_US;
            let again = self.handed.iter().find(|later| later.attempt > handed.attempt);
            let ends = |settled: &Settled| {
                matches!(settled.action, Action::Ack | Action::Dead)
                    && settled.answer != Settlement::Stale
                    && settled.asked_us <= deadline_us
            };
            let is_late =
                again.is_none_or(|again| again.at_us > deadline_us) && !self.settled.iter().any(ends);
            if is_late && deadline_us < end_us && liveness.is_quiet(given_back_us, deadline_us) {
                let what = format!(
                    "attempt {} of member {} was over at {due_us} µs; handed over again {}",
                    handed.attempt,
                    handed.member,
                    again.map_or("never".to_owned(), |again| format!("at {} µs", again.at_us)),
                );
                add(Invariant::Qd, what);
            }
        }
    }

    /// Q-e.
    fn judge_dead_letters(&self, plan: &Plan, add: &mut impl FnMut(Invariant, String)) {
        if let Some(handed) = self.handed.iter().find(|handed| handed.attempt > plan.max_deliver) {
            add(
                Invariant::Qe,
                format!("handed over as attempt {}, {} are allowed", handed.attempt, plan.max_deliver),
            );
        }
        let may_be_done = self
            .settled
            .iter()
            .any(|settled| settled.action == Action::Ack && settled.answer != Settlement::Stale);
        let given_up =
            |settled: &Settled| settled.action == Action::Dead && settled.answer == Settlement::Done;
        let has_failed = self.handed.iter().any(|handed| handed.attempt == plan.max_deliver);
        let is_due = has_failed && !may_be_done || self.settled.iter().any(given_up);
        match self.dead_letters {
            0 if is_due => add(Invariant::Qe, "failed for the last time and is no dead letter".to_owned()),
            0 | 1 => {}
            times => add(Invariant::Qe, format!("is {times} dead letters")),
        }
        if self.dead_letters > 0 && self.done().next().is_some() {
            add(Invariant::Qe, "is done and a dead letter".to_owned());
        }
    }

    /// Whether a lease of this member would still be its own: it never settled anything else.
    fn holds(&self, member: u16) -> bool {
        !self.settled.iter().any(|settled| settled.member == member && settled.answer == Settlement::Stale)
    }
}
