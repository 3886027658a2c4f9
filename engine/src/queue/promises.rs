//! The promises of queue groups (Q1 to Q7), each by its name, in virtual time.
//!
//! Random histories are in [`super::histories`]; what happens between sockets is tested elsewhere.

use std::collections::BTreeSet;
use std::time::Duration;

use super::group::{Action, Facts, Group, HandOver, MemberId, Output, Rules, StaleLease, Verdict};
use super::progress::Progress;

const SECOND: Duration = Duration::from_secs(1);

fn rules() -> Rules {
    Rules { ack_wait: 30 * SECOND, max_deliver: 5, max_in_flight: 1_000, max_in_flight_per_key: 0 }
}

/// Leases with numbers instead of chance.
pub(super) fn numbered_leases() -> impl FnMut() -> [u8; 16] + Send {
    let mut last = 0_u128;
    move || {
        last += 1;
        last.to_be_bytes()
    }
}

/// A group with a clock and the messages of its topic.
struct Bench {
    group: Group,
    now: Duration,
    facts: Vec<Facts>,
    handed: Vec<HandOver>,
    dead: Vec<(u64, u32, String)>,
    ended: Vec<(MemberId, u32)>,
}

impl Bench {
    fn new(rules: Rules) -> Self {
        Self {
            group: Group::new(rules, Progress::starting_at(0), numbered_leases()),
            now: Duration::ZERO,
            facts: Vec::new(),
            handed: Vec::new(),
            dead: Vec::new(),
            ended: Vec::new(),
        }
    }

    fn publish(&mut self, facts: impl IntoIterator<Item = Facts>) {
        self.facts.extend(facts);
        self.group.extended(self.facts.len() as u64);
    }

    fn publish_plain(&mut self, count: usize) {
        self.publish(vec![Facts::default(); count]);
    }

    fn member(&mut self, id: MemberId, credit: u32) {
        self.group.join(id);
        self.group.want(self.now, id, credit, None);
    }

    /// Does everything there is to do now. Returns when to look again.
    fn run(&mut self) -> Option<Duration> {
        loop {
            match self.group.poll(self.now) {
                Output::Look { from, count } => {
                    let facts = self.facts[from as usize..].iter().take(count as usize).copied().map(Some);
                    self.group.look(self.now, from, facts);
                }
                Output::HandOver(hand_over) => self.handed.push(hand_over),
                Output::Dead { offset, attempts, reason } => {
                    self.dead.push((offset, attempts, reason));
                    self.group.buried(offset);
                }
                Output::WantEnded { member, unused } => self.ended.push((member, unused)),
                Output::Wait(until) => return until,
            }
        }
    }

    fn take_handed(&mut self) -> Vec<HandOver> {
        self.run();
        std::mem::take(&mut self.handed)
    }

    fn offsets(&mut self) -> Vec<u64> {
        self.take_handed().iter().map(|hand_over| hand_over.offset).collect()
    }

    fn settle(&mut self, hand_over: &HandOver, action: Action) -> Result<(), StaleLease> {
        self.group.settle(self.now, hand_over.member, &verdict(hand_over, action))
    }
}

pub(super) fn verdict(hand_over: &HandOver, action: Action) -> Verdict<'static> {
    let HandOver { offset, attempt, lease, .. } = *hand_over;
    Verdict { offset, attempt, lease, action, reason: "" }
}

#[test]
fn q1_every_message_from_the_start_is_handed_to_a_member_while_one_lives() {
    let mut bench = Bench::new(rules());
    bench.publish_plain(700);
    assert!(bench.offsets().is_empty(), "nobody is there");
    bench.member(1, u32::MAX);
    assert_eq!(bench.offsets(), (0..700).collect::<Vec<_>>());
    bench.publish_plain(3);
    assert_eq!(bench.offsets(), [700, 701, 702]);
}

#[test]
fn q2_one_lease_at_a_time_and_attempts_rise_by_one_also_across_a_restart() {
    let mut bench = Bench::new(rules());
    bench.publish_plain(1);
    bench.member(1, 10);
    bench.member(2, 10);
    let first = bench.take_handed();
    assert_eq!((first.len(), first[0].attempt), (1, 1));
    bench.now += 29 * SECOND;
    assert!(bench.offsets().is_empty(), "the lease lives");
    bench.now += SECOND;
    let second = bench.take_handed();
    assert_eq!((second.len(), second[0].attempt), (1, 2));
    assert_ne!(second[0].lease, first[0].lease);

    let mut recorded = Vec::new();
    bench.group.progress().encode(&mut recorded);
    let mut again = Bench::new(rules());
    again.group = Group::new(rules(), Progress::decode(&recorded).unwrap(), numbered_leases());
    again.publish_plain(1);
    again.member(3, 10);
    assert_eq!(again.take_handed()[0].attempt, 3, "the restart is no new beginning");
}

#[test]
fn q3_an_acknowledged_message_is_never_handed_over_again() {
    let mut bench = Bench::new(rules());
    bench.publish_plain(5);
    bench.member(1, 100);
    for hand_over in bench.take_handed() {
        assert_eq!(bench.settle(&hand_over, Action::Ack), Ok(()));
    }
    bench.group.leave(bench.now, 1);
    bench.now += 100 * SECOND;
    bench.member(2, 100);
    assert!(bench.offsets().is_empty());
    assert_eq!(bench.group.floor(), 5);
}

#[test]
fn q4_a_message_comes_again_at_once_after_nack_leave_or_lease_end_to_another_member_if_one_is_free() {
    let mut bench = Bench::new(rules());
    bench.publish_plain(1);
    bench.member(1, 10);
    let [first] = bench.take_handed()[..] else { panic!("one message, one hand-over") };
    bench.member(2, 10);
    bench.settle(&first, Action::Nack(Duration::ZERO)).unwrap();
    let [second] = bench.take_handed()[..] else { panic!("it was given back") };
    assert_eq!((first.member, second.member), (1, 2));
    bench.group.leave(bench.now, 2);
    let [third] = bench.take_handed()[..] else { panic!("its holder left") };
    assert_eq!((third.member, third.attempt), (1, 3));
    let until = bench.run().expect("a lease ends");
    assert_eq!(until, bench.now + 30 * SECOND);
    bench.now = until;
    let [fourth] = bench.take_handed()[..] else { panic!("its lease ended") };
    assert_eq!((fourth.member, fourth.attempt), (1, 4), "nobody else is there");

    bench.settle(&fourth, Action::Nack(7 * SECOND)).unwrap();
    assert_eq!(bench.run(), Some(bench.now + 7 * SECOND));
    assert!(bench.offsets().is_empty(), "not before the delay is over");
    bench.now += 7 * SECOND;
    assert_eq!(bench.offsets(), [0]);
}

#[test]
fn q5_after_the_last_attempt_a_message_becomes_a_dead_letter_exactly_once() {
    let mut bench = Bench::new(rules());
    bench.publish_plain(2);
    bench.member(1, 100);
    let mut rounds = 0;
    loop {
        let handed = bench.take_handed();
        let Some(zero) = handed.iter().find(|hand_over| hand_over.offset == 0) else { break };
        rounds += 1;
        let reason = Verdict { reason: "it burns", ..verdict(zero, Action::Nack(Duration::ZERO)) };
        bench.group.settle(bench.now, 1, &reason).unwrap();
        for other in handed.iter().filter(|hand_over| hand_over.offset == 1) {
            bench.settle(other, Action::Dead).unwrap();
        }
    }
    assert_eq!(rounds, 5);
    assert_eq!(bench.dead, [(1, 1, String::new()), (0, 5, "it burns".to_owned())]);
    bench.now += 100 * SECOND;
    assert!(bench.offsets().is_empty());
    assert_eq!(bench.dead.len(), 2);
    assert_eq!(bench.group.floor(), 2, "dead letters are done");
}

#[test]
fn q5_a_last_attempt_that_a_restart_cut_short_ends_among_the_dead_letters() {
    let mut progress = Progress::starting_at(0);
    progress.handed(0, 5);
    let mut bench = Bench::new(rules());
    bench.group = Group::new(rules(), progress, numbered_leases());
    bench.publish_plain(1);
    bench.member(1, 1);
    assert!(bench.offsets().is_empty());
    assert_eq!((bench.dead.len(), bench.dead[0].1), (1, 5));
}

#[test]
fn q6_hand_over_starts_in_offset_order() {
    let mut bench = Bench::new(rules());
    bench.publish_plain(100);
    for member in 0..5 {
        bench.member(member, 7);
    }
    assert_eq!(bench.offsets(), (0..35).collect::<Vec<_>>());
}

#[test]
fn q6_with_one_in_flight_per_key_nothing_overtakes_within_a_key() {
    let mut bench = Bench::new(Rules { max_in_flight_per_key: 1, ..rules() });
    let key = |key| Facts { key: Some(key), due: None };
    bench.publish([key(1), key(1), key(2), key(1), Facts::default()]);
    bench.member(1, 100);
    bench.member(2, 100);
    let handed = bench.take_handed();
    assert_eq!(handed.iter().map(|one| one.offset).collect::<Vec<_>>(), [0, 2, 4]);
    bench.settle(&handed[0], Action::Nack(3 * SECOND)).unwrap();
    assert!(bench.offsets().is_empty(), "1 waits for 0, also while 0 is delayed");
    bench.now += 3 * SECOND;
    let [again] = bench.take_handed()[..] else { panic!("0 comes again") };
    assert_eq!(again.offset, 0);
    bench.settle(&again, Action::Ack).unwrap();
    let [next] = bench.take_handed()[..] else { panic!("1 follows 0") };
    assert_eq!(next.offset, 1);
    bench.settle(&next, Action::Dead).unwrap();
    assert_eq!(bench.offsets(), [3]);
}

#[test]
fn q7_a_stale_foreign_or_invented_verdict_is_refused_and_changes_nothing() {
    let mut bench = Bench::new(rules());
    bench.publish_plain(2);
    bench.member(1, 1);
    bench.member(2, 1);
    let handed = bench.take_handed();
    let (mine, theirs) = (handed[0], handed[1]);
    let before = (bench.group.progress().clone(), bench.group.counts());
    let wrong = [
        (mine.member, HandOver { lease: [7; 16], ..mine }),
        (mine.member, HandOver { attempt: 2, ..mine }),
        (mine.member, HandOver { offset: 1, ..mine }),
        (mine.member, HandOver { offset: 9, ..mine }),
        (theirs.member, mine),
        (9, mine),
    ];
    for (member, hand_over) in wrong {
        for action in [Action::Ack, Action::Nack(Duration::ZERO), Action::Extend(SECOND), Action::Dead] {
            let refused = bench.group.settle(bench.now, member, &verdict(&hand_over, action));
            assert_eq!(refused, Err(StaleLease), "{hand_over:?} by {member}");
        }
    }
    assert_eq!((bench.group.progress().clone(), bench.group.counts()), before);
    bench.now += 30 * SECOND;
    assert_eq!(bench.settle(&mine, Action::Ack), Err(StaleLease), "its time was over, whoever noticed first");
}

#[test]
fn an_extended_lease_lasts_from_the_extension_on() {
    let mut bench = Bench::new(rules());
    bench.publish_plain(1);
    bench.member(1, 5);
    let [job] = bench.take_handed()[..] else { panic!("one message") };
    for _ in 0..10 {
        bench.now += 29 * SECOND;
        bench.settle(&job, Action::Extend(Duration::ZERO)).unwrap();
    }
    assert!(bench.offsets().is_empty());
    bench.settle(&job, Action::Ack).unwrap();
}

#[test]
fn a_want_with_a_limit_ends_with_what_it_did_not_get() {
    let mut bench = Bench::new(rules());
    bench.publish_plain(2);
    bench.group.join(1);
    bench.group.want(bench.now, 1, 5, Some(SECOND));
    assert_eq!(bench.offsets(), [0, 1]);
    assert_eq!(bench.group.poll(bench.now), Output::Wait(Some(SECOND)));
    bench.now = SECOND;
    bench.publish_plain(1);
    assert!(bench.offsets().is_empty(), "the want is over");
    assert_eq!(bench.ended, [(1, 3)]);
    bench.group.want(bench.now, 1, 1, Some(SECOND));
    assert_eq!(bench.offsets(), [2]);
    assert_eq!(bench.ended, [(1, 3), (1, 0)]);
}

#[test]
fn a_message_is_handed_over_when_it_is_due_and_holds_nobody_up() {
    let mut bench = Bench::new(rules());
    bench.publish([Facts { key: None, due: Some(10 * SECOND) }, Facts::default()]);
    bench.member(1, 10);
    assert_eq!(bench.offsets(), [1]);
    assert_eq!(bench.group.counts().delayed, 1);
    bench.now = 10 * SECOND;
    assert_eq!(bench.offsets(), [0]);
}

#[test]
fn members_with_credit_take_turns_and_a_paused_one_has_none() {
    let mut bench = Bench::new(rules());
    bench.publish_plain(9);
    for member in 1..=3 {
        bench.member(member, 100);
    }
    bench.group.pause(2);
    let members: Vec<_> = bench.take_handed().iter().map(|one| one.member).collect();
    assert_eq!(members, [1, 3, 1, 3, 1, 3, 1, 3, 1]);
    bench.group.resume(2);
    bench.publish_plain(3);
    let members: BTreeSet<_> = bench.take_handed().iter().map(|one| one.member).collect();
    assert_eq!(members, BTreeSet::from([1, 2, 3]));
}

#[test]
fn no_more_than_allowed_is_in_flight() {
    let mut bench = Bench::new(Rules { max_in_flight: 3, ..rules() });
    bench.publish_plain(10);
    bench.member(1, 100);
    let handed = bench.take_handed();
    assert_eq!(handed.len(), 3);
    bench.settle(&handed[1], Action::Ack).unwrap();
    assert_eq!(bench.offsets(), [3]);
}

#[test]
fn a_message_that_is_gone_is_counted_and_passed_over() {
    let mut bench = Bench::new(rules());
    bench.publish_plain(1);
    bench.member(1, 100);
    let [job] = bench.take_handed()[..] else { panic!("one message") };
    bench.group.gone(job.offset);
    bench.group.extended(3);
    assert_eq!(bench.group.poll(bench.now), Output::Look { from: 1, count: 2 });
    bench.group.look(bench.now, 1, [None, None]);
    assert_eq!((bench.group.floor(), bench.group.counts().missing), (3, 3));
    assert_eq!(bench.settle(&job, Action::Ack), Err(StaleLease));
}
