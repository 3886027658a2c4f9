//! Queues: Q-a to Q-e.

use twinlane_checker::history::{Action, Event, Settlement};
use twinlane_checker::judge::{Invariant, Verdict};

use crate::histories::*;

/// The good history, and one job with the events of `job` in a queue of its own.
fn with_job(job: &[Event]) -> Vec<Event> {
    let mut events = good();
    let at = events.len() - 1;
    let mut more = vec![
        Event::Topic { topic: QUEUE, disk: true, queue: true },
        Event::Stream { publisher: 2, topic: QUEUE },
        Event::Invoke { at_us: SECOND, publisher: 2, first: 1, count: 1 },
        ok(SECOND + 1, 2, 1, 0),
    ];
    more.extend_from_slice(job);
    let messages = vec![message(2, 1)];
    let drain = Event::Delivered {
        at_us: 40 * SECOND,
        reader: DRAIN,
        topic: QUEUE,
        epoch: EPOCH,
        first_offset: 0,
        messages,
    };
    let drained = Event::Drained { at_us: 40 * SECOND, reader: DRAIN, topic: QUEUE, epoch: EPOCH, next: 1 };
    // The subscriber reads it as well.
    let read = match &drain {
        Event::Delivered { messages, .. } => Event::Delivered {
            at_us: 2 * SECOND,
            reader: SUBSCRIBER,
            topic: QUEUE,
            epoch: EPOCH,
            first_offset: 0,
            messages: messages.clone(),
        },
        other => other.clone(),
    };
    more.extend([read, drain, drained]);
    events.splice(at..at, more);
    events
}

fn handed(at_us: u64, member: u16, attempt: u32) -> Event {
    Event::Handed { at_us, topic: QUEUE, member, offset: 0, message: message(2, 1), attempt }
}

fn settled(at_us: u64, member: u16, attempt: u32, action: Action, answer: Settlement) -> [Event; 2] {
    let (topic, offset, delay_us) = (QUEUE, 0, 0);
    [
        Event::Settling { at_us, topic, member, offset, attempt, action, delay_us },
        Event::Settled { at_us: at_us + 1_000, topic, member, offset, attempt, action, answer },
    ]
}

fn done(at_us: u64, member: u16, attempt: u32) -> [Event; 2] {
    settled(at_us, member, attempt, Action::Ack, Settlement::Done)
}

fn nacked(at_us: u64, member: u16, attempt: u32) -> [Event; 2] {
    settled(at_us, member, attempt, Action::Nack, Settlement::Done)
}

fn dead_letter() -> Event {
    Event::DeadLetter {
        at_us: 41 * SECOND,
        topic: QUEUE,
        offset: 0,
        message: message(2, 1),
        attempts: MAX_DELIVER,
    }
}

#[test]
fn jobs_that_are_done_at_last_or_dead_letters_are_fine() {
    let good = [
        [&[handed(2 * SECOND, 0, 1)][..], &done(2 * SECOND + 5, 0, 1)].concat(),
        [
            &[handed(2 * SECOND, 0, 1)][..],
            &nacked(3 * SECOND, 0, 1),
            &[handed(3 * SECOND + 9_000, 1, 2)],
            &done(4 * SECOND, 1, 2),
        ]
        .concat(),
        // It was recorded, but the member never heard.
        vec![handed(2 * SECOND, 0, 1), done(3 * SECOND, 0, 1)[0].clone()],
        [
            &[handed(2 * SECOND, 0, 1)][..],
            &nacked(2 * SECOND, 0, 1),
            &[handed(2 * SECOND + 9, 0, 2)],
            &nacked(2 * SECOND + 10, 0, 2),
            &[handed(2 * SECOND + 19, 0, 3)],
            &nacked(2 * SECOND + 20, 0, 3),
            &[dead_letter()],
        ]
        .concat(),
        // Its member went away.
        [
            &[
                handed(2 * SECOND, 0, 1),
                Event::Left { at_us: 3 * SECOND, topic: QUEUE, member: 0 },
                handed(3 * SECOND + 9, 1, 2),
            ][..],
            &done(4 * SECOND, 1, 2),
        ]
        .concat(),
        // Nobody answered in time.
        [&[handed(2 * SECOND, 0, 1), handed(2 * SECOND + ACK_WAIT + 9, 1, 2)][..], &done(10 * SECOND, 1, 2)]
            .concat(),
    ];
    for job in good {
        let report = judged(&with_job(&job));
        assert_eq!(report.verdict, Verdict::Valid, "{job:?}\n{report}");
    }
}

#[test]
fn q_a_a_job_that_nobody_was_handed_or_that_never_ended_is_seen() {
    breaks_only(Invariant::Qa, &with_job(&[]));
    let late = END - SECOND;
    breaks_only(Invariant::Qa, &with_job(&[handed(late, 0, 1)]));
}

#[test]
fn q_b_a_job_handed_over_again_after_it_was_done_is_seen() {
    let job = [&[handed(2 * SECOND, 0, 1)][..], &done(3 * SECOND, 0, 1), &[handed(3 * SECOND + 9_000, 1, 2)]]
        .concat();
    let report = judged(&with_job(&job));
    assert!(report.violations.broken().any(|broken| broken == Invariant::Qb), "{report}");
    let job =
        [&[handed(2 * SECOND, 0, 1)][..], &done(3 * SECOND, 0, 1), &[handed(END - SECOND, 1, 2)]].concat();
    breaks_only(Invariant::Qb, &with_job(&job));
}

#[test]
fn q_c_two_leases_at_once_are_seen() {
    let early =
        [&[handed(4 * SECOND, 0, 1), handed(4 * SECOND + 5, 1, 2)][..], &done(5 * SECOND, 1, 2)].concat();
    breaks_only(Invariant::Qc, &with_job(&early));
    let same =
        [&[handed(2 * SECOND, 0, 1), handed(2 * SECOND + 5, 1, 1)][..], &done(3 * SECOND, 1, 1)].concat();
    breaks_only(Invariant::Qc, &with_job(&same));
    let stale =
        [&[handed(2 * SECOND, 0, 1), handed(2 * SECOND + ACK_WAIT, 1, 2)][..], &done(8 * SECOND, 0, 1)]
            .concat();
    breaks_only(Invariant::Qc, &with_job(&stale));
}

#[test]
fn q_d_a_job_given_back_and_not_handed_over_again_in_time_is_seen() {
    let nack = [
        &[handed(2 * SECOND, 0, 1)][..],
        &nacked(3 * SECOND, 0, 1),
        &[handed(5 * SECOND, 0, 2)],
        &done(6 * SECOND, 0, 2),
    ]
    .concat();
    breaks_only(Invariant::Qd, &with_job(&nack));
    let left = Event::Left { at_us: 3 * SECOND, topic: QUEUE, member: 0 };
    let left =
        [&[handed(2 * SECOND, 0, 1), left, handed(5 * SECOND, 1, 2)][..], &done(6 * SECOND, 1, 2)].concat();
    breaks_only(Invariant::Qd, &with_job(&left));
    let expired =
        [&[handed(2 * SECOND, 0, 1), handed(20 * SECOND, 1, 2)][..], &done(21 * SECOND, 1, 2)].concat();
    breaks_only(Invariant::Qd, &with_job(&expired));
}

#[test]
fn q_e_a_job_that_failed_for_the_last_time_is_one_dead_letter() {
    let failed = |dead_letters: &[Event]| {
        let attempts = (1..=MAX_DELIVER).flat_map(|attempt| {
            let at_us = 2 * SECOND + u64::from(attempt) * 10_000;
            [vec![handed(at_us, 0, attempt)], nacked(at_us + 1, 0, attempt).to_vec()].concat()
        });
        with_job(&attempts.chain(dead_letters.iter().cloned()).collect::<Vec<_>>())
    };
    assert_eq!(judged(&failed(&[dead_letter()])).verdict, Verdict::Valid);
    breaks_only(Invariant::Qe, &failed(&[]));
    breaks_only(Invariant::Qe, &failed(&[dead_letter(), dead_letter()]));
    let done = [&[handed(2 * SECOND, 0, 1)][..], &done(3 * SECOND, 0, 1), &[dead_letter()]].concat();
    breaks_only(Invariant::Qe, &with_job(&done));
}
