//! The good history that all bad ones are made from.

use twinlane_checker::history::{Event, FaultKind, Plan};
use twinlane_checker::judge::{Invariant, Judge, Report, Verdict};
use twinlane_checker::payload::Identity;

pub(crate) const EPOCH: u64 = 77;
pub(crate) const TOPIC: u16 = 0;
pub(crate) const QUEUE: u16 = 1;
pub(crate) const SUBSCRIBER: u16 = 0;
pub(crate) const DRAIN: u16 = 9;
pub(crate) const SECOND: u64 = 1_000_000;
pub(crate) const END: u64 = 60 * SECOND;
pub(crate) const MAX_DELIVER: u32 = 3;
pub(crate) const ACK_WAIT: u64 = 5 * SECOND;

pub(crate) fn message(publisher: u16, seq: u64) -> Identity {
    Identity { publisher, seq }
}

/// Two publishers, twenty messages in turns, one subscriber, one restart, one drain: nothing wrong with it.
pub(crate) fn good() -> Vec<Event> {
    let plan = Plan {
        seed: 1,
        acked_min: 10,
        faults_min: 1,
        live: true,
        max_deliver: MAX_DELIVER,
        ack_wait_us: ACK_WAIT,
    };
    let mut events = vec![
        Event::Plan(plan),
        Event::Topic { topic: TOPIC, disk: true, queue: false },
        Event::Stream { publisher: 0, topic: TOPIC },
        Event::Stream { publisher: 1, topic: TOPIC },
        Event::Reader { reader: SUBSCRIBER, from_start: true, drains: false },
        Event::Reader { reader: DRAIN, from_start: true, drains: true },
    ];
    for offset in 0..20 {
        let (publisher, seq) = (offset as u16 % 2, offset / 2 + 1);
        let at_us = 1_000 * offset + 1;
        events.push(Event::Invoke { at_us, publisher, first: seq, count: 1 });
        events.push(ok(at_us + 500, publisher, seq, offset));
        events.push(delivered(at_us + 600, SUBSCRIBER, offset, vec![message(publisher, seq)]));
    }
    events.push(Event::Fault { at_us: 30_000, kind: FaultKind::Forget, what: "torn".to_owned() });
    events.push(Event::Healed { at_us: 90_000, kind: FaultKind::Forget, effective: true, lost_bytes: 512 });
    events.push(Event::Connected { at_us: 90_001, took_us: 2_000, ok: true });
    events.push(recovered(EPOCH, 20));
    let all = (0..20).map(|offset| message(offset as u16 % 2, offset / 2 + 1)).collect();
    events.push(delivered(40 * SECOND, DRAIN, 0, all));
    events.push(Event::Drained { at_us: 40 * SECOND, reader: DRAIN, topic: TOPIC, epoch: EPOCH, next: 20 });
    events.push(Event::End { at_us: END });
    events
}

pub(crate) fn ok(at_us: u64, publisher: u16, seq: u64, offset: u64) -> Event {
    Event::Ok { at_us, publisher, first: seq, count: 1, last_offset: offset, epoch: EPOCH, disk: true }
}

pub(crate) fn delivered(at_us: u64, reader: u16, first_offset: u64, messages: Vec<Identity>) -> Event {
    Event::Delivered { at_us, reader, topic: TOPIC, epoch: EPOCH, first_offset, messages }
}

pub(crate) fn recovered(epoch: u64, next: u64) -> Event {
    Event::Recovered { at_us: 95_000, topic: TOPIC, epoch, oldest: 0, next, first_read: Some(0) }
}

pub(crate) fn judged(events: &[Event]) -> Report {
    let mut judge = Judge::default();
    events.iter().for_each(|event| judge.event(event));
    judge.finish()
}

pub(crate) fn breaks_only(invariant: Invariant, events: &[Event]) {
    let report = judged(events);
    let broken: Vec<_> = report.violations.broken().collect();
    assert_eq!(broken, [invariant], "{report}");
    assert_eq!(report.verdict, Verdict::Invalid);
    assert!(report.to_string().contains(&format!("{invariant} broken")), "{report}");
}

/// The good history without its last message for everyone: 19 messages of it are left.
pub(crate) fn without(events: Vec<Event>, unwanted: impl Fn(&Event) -> bool) -> Vec<Event> {
    events.into_iter().filter(|event| !unwanted(event)).collect()
}

pub(crate) fn drained(events: &mut [Event]) -> &mut Vec<Identity> {
    let drain = events.iter_mut().find_map(|event| match event {
        Event::Delivered { reader: DRAIN, messages, .. } => Some(messages),
        _ => None,
    });
    drain.unwrap()
}

pub(crate) fn read_by_subscriber(event: &Event, offset: u64) -> bool {
    matches!(event, Event::Delivered { reader: SUBSCRIBER, first_offset, .. } if *first_offset == offset)
}
