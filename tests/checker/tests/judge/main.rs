//! The judge against histories made by hand: a good one is valid, and each bad one breaks the invariant it should.
#![allow(clippy::unwrap_used, reason = "in a test a failed step is a failed test")]

mod fast;
mod histories;
mod queues;

use histories::*;
use twinlane_checker::history::{Event, FaultKind, Plan};
use twinlane_checker::judge::{Invariant, Judge, Verdict};

#[test]
fn a_good_history_is_valid() {
    let report = judged(&good());
    assert_eq!(report.verdict, Verdict::Valid, "{report}");
    assert_eq!((report.acked(), report.faults()), (20, 1));
}

#[test]
fn i1_an_acknowledged_message_that_nobody_reads_in_the_end_is_lost() {
    let mut events = without(good(), |event| read_by_subscriber(event, 19));
    drained(&mut events).pop();
    for event in &mut events {
        if let Event::Drained { next, .. } = event {
            *next = 19;
        }
    }
    breaks_only(Invariant::I1, &events);
    assert!(judged(&events).to_string().contains("1 after the last"));
}

#[test]
fn i2_an_offset_with_two_messages_is_seen() {
    let mut events = good();
    // Offset 18 and 19 are unacknowledged messages, so that nothing but the offsets is wrong.
    for seq in [11, 12] {
        events.push(Event::Invoke { at_us: 50_000, publisher: 0, first: seq, count: 1 });
        events.push(Event::Unknown { at_us: 51_000, publisher: 0, first: seq, count: 1 });
    }
    events.push(delivered(52_000, SUBSCRIBER, 20, vec![message(0, 11)]));
    events.push(delivered(52_000, DRAIN, 20, vec![message(0, 12)]));
    let report = judged(&events);
    let broken: Vec<_> = report.violations.broken().collect();
    // What the subscriber was shown there is also gone.
    assert_eq!(broken, [Invariant::I2, Invariant::I11], "{report}");
}

#[test]
fn i3_a_message_stored_twice_is_seen() {
    let mut events = good();
    for reader in [SUBSCRIBER, DRAIN] {
        events.push(delivered(40 * SECOND, reader, 20, vec![message(1, 10)]));
    }
    breaks_only(Invariant::I3, &events);
}

#[test]
fn i4_messages_out_of_their_publishers_order_are_seen() {
    let mut events = good();
    events.push(Event::Invoke { at_us: 50_000, publisher: 0, first: 11, count: 2 });
    events.push(Event::Unknown { at_us: 51_000, publisher: 0, first: 11, count: 2 });
    for reader in [SUBSCRIBER, DRAIN] {
        events.push(delivered(40 * SECOND, reader, 20, vec![message(0, 12), message(0, 11)]));
    }
    breaks_only(Invariant::I4, &events);
}

#[test]
fn i4_a_message_stored_before_an_earlier_one_has_an_outcome_is_seen() {
    let mut events = good();
    events.push(Event::Invoke { at_us: END - 1, publisher: 0, first: 11, count: 1 });
    events.push(Event::Invoke { at_us: END - 1, publisher: 0, first: 12, count: 1 });
    events.push(Event::Unknown { at_us: END - 1, publisher: 0, first: 12, count: 1 });
    events.push(delivered(END - 1, DRAIN, 20, vec![message(0, 12)]));
    breaks_only(Invariant::I4, &events);
}

#[test]
fn i5_a_message_that_nobody_published_is_seen() {
    let mut events = good();
    events.push(delivered(40 * SECOND, DRAIN, 20, vec![message(0, 11)]));
    breaks_only(Invariant::I5, &events);
}

#[test]
fn i5_a_message_that_was_refused_is_seen() {
    let mut events = good();
    events.push(Event::Invoke { at_us: 50_000, publisher: 0, first: 11, count: 1 });
    events.push(Event::Refused { at_us: 51_000, publisher: 0, first: 11, count: 1, code: 17 });
    assert_eq!(judged(&events).verdict, Verdict::Valid);
    events.push(delivered(40 * SECOND, DRAIN, 20, vec![message(0, 11)]));
    breaks_only(Invariant::I5, &events);
}

#[test]
fn i6_a_skipped_offset_is_seen_and_a_declared_gap_is_not_one() {
    let skipped = without(good(), |event| read_by_subscriber(event, 7));
    breaks_only(Invariant::I6, &skipped);
    let gap = Event::Gap {
        at_us: 7_500,
        reader: SUBSCRIBER,
        topic: TOPIC,
        from: 7,
        to: 8,
        cause: "retention".to_owned(),
    };
    let declared =
        good().into_iter().map(|event| if read_by_subscriber(&event, 7) { gap.clone() } else { event });
    assert_eq!(judged(&declared.collect::<Vec<_>>()).verdict, Verdict::Valid);
}

#[test]
fn i6_a_repeated_offset_is_seen() {
    let mut events = good();
    events.push(delivered(50_000, SUBSCRIBER, 19, vec![message(1, 10)]));
    breaks_only(Invariant::I6, &events);
}

#[test]
fn i6_a_reader_from_the_start_begins_with_the_first_offset() {
    breaks_only(Invariant::I6, &without(good(), |event| read_by_subscriber(event, 0)));
}

#[test]
fn i7_an_acknowledgement_with_a_wrong_offset_or_level_is_seen() {
    let mut wrong_offset = good();
    for event in &mut wrong_offset {
        if let Event::Ok { publisher: 1, first: 10, last_offset, .. } = event {
            *last_offset = 18;
        }
    }
    breaks_only(Invariant::I7, &wrong_offset);
    let mut wrong_level = good();
    for event in &mut wrong_level {
        if let Event::Ok { publisher: 1, first: 10, disk, .. } = event {
            *disk = false;
        }
    }
    breaks_only(Invariant::I7, &wrong_level);
}

#[test]
fn i8_a_message_before_one_that_was_acknowledged_earlier_is_seen() {
    let mut events = good();
    for event in &mut events {
        if let Event::Invoke { at_us, publisher: 0, first: 1, .. } = event {
            // Published when offset 1 had been acknowledged, and stored at 0. Its own answer came later still.
            *at_us = 10_000;
        }
    }
    breaks_only(Invariant::I8, &events);
}

#[test]
fn i9_a_payload_with_a_wrong_byte_is_seen() {
    let corrupt = Event::Corrupt {
        at_us: 7_500,
        reader: SUBSCRIBER,
        topic: TOPIC,
        epoch: EPOCH,
        offset: 7,
        what: "byte 3".to_owned(),
    };
    let events =
        good().into_iter().map(|event| if read_by_subscriber(&event, 7) { corrupt.clone() } else { event });
    breaks_only(Invariant::I9, &events.collect::<Vec<_>>());
}

#[test]
fn i10_a_log_that_started_over_is_seen() {
    for bad in [
        recovered(EPOCH + 1, 20),
        recovered(EPOCH, 19),
        Event::Recovered {
            at_us: 95_000,
            topic: TOPIC,
            epoch: EPOCH,
            oldest: 0,
            next: 20,
            first_read: Some(3),
        },
        Event::Recovered { at_us: 95_000, topic: TOPIC, epoch: EPOCH, oldest: 0, next: 20, first_read: None },
    ] {
        let events = good()
            .into_iter()
            .map(|event| if matches!(event, Event::Recovered { .. }) { bad.clone() } else { event });
        breaks_only(Invariant::I10, &events.collect::<Vec<_>>());
    }
}

#[test]
fn i11_a_message_that_was_shown_and_is_gone_is_seen() {
    let mut events = good();
    events.push(Event::Invoke { at_us: 25_000, publisher: 0, first: 11, count: 1 });
    events.push(Event::Unknown { at_us: 51_000, publisher: 0, first: 11, count: 1 });
    events.push(delivered(26_000, SUBSCRIBER, 20, vec![message(0, 11)]));
    breaks_only(Invariant::I11, &events);
}

#[test]
fn l1_an_outcome_that_comes_too_late_or_never_is_seen() {
    let mut late = good();
    late.push(Event::Invoke { at_us: 20 * SECOND, publisher: 0, first: 11, count: 1 });
    late.push(Event::Unknown { at_us: 26 * SECOND, publisher: 0, first: 11, count: 1 });
    breaks_only(Invariant::L1, &late);
    let mut never = good();
    never.push(Event::Invoke { at_us: 20 * SECOND, publisher: 0, first: 11, count: 1 });
    breaks_only(Invariant::L1, &never);
}

#[test]
fn l1_time_during_a_fault_does_not_count() {
    let mut events = good();
    events.push(Event::Fault { at_us: 21 * SECOND, kind: FaultKind::Stop, what: String::new() });
    events.push(Event::Healed { at_us: 24 * SECOND, kind: FaultKind::Stop, effective: true, lost_bytes: 0 });
    events.push(Event::Invoke { at_us: 20 * SECOND, publisher: 0, first: 11, count: 1 });
    events.push(Event::Unknown { at_us: 26 * SECOND, publisher: 0, first: 11, count: 1 });
    assert_eq!(judged(&events).verdict, Verdict::Valid, "{}", judged(&events));
}

#[test]
fn l1_a_reader_that_does_not_come_to_the_end_is_seen() {
    let stuck = without(good(), |event| (8..20).any(|offset| read_by_subscriber(event, offset)));
    breaks_only(Invariant::L1, &stuck);
}

#[test]
fn i10_a_server_that_refuses_to_start_again_is_seen() {
    let healed = |event: &Event| matches!(event, Event::Healed { .. });
    let mut refusing: Vec<_> = good().into_iter().take_while(|event| !healed(event)).collect();
    refusing.push(Event::NotStarted { at_us: 80_000, what: "segment 1 is damaged".to_owned() });
    breaks_only(Invariant::I10, &refusing);
}

#[test]
fn l1_a_slow_connection_or_an_end_by_itself_is_seen() {
    let mut slow = good();
    slow.push(Event::Connected { at_us: 20 * SECOND, took_us: 2 * SECOND, ok: true });
    breaks_only(Invariant::L1, &slow);
    let mut crashed = good();
    crashed.push(Event::Crashed { at_us: 20 * SECOND, what: "signal 6".to_owned() });
    breaks_only(Invariant::L1, &crashed);
    let mut ended = good();
    ended.push(Event::ReaderEnd { at_us: END, reader: SUBSCRIBER, why: "too slow".to_owned() });
    breaks_only(Invariant::L1, &ended);
}

#[test]
fn too_little_is_unknown() {
    let few = |change: fn(&mut Plan)| {
        let mut events = good();
        if let Some(Event::Plan(plan)) = events.first_mut() {
            change(plan);
        }
        judged(&events).verdict
    };
    assert_eq!(few(|plan| plan.acked_min = 21), Verdict::Unknown);
    assert_eq!(few(|plan| plan.faults_min = 2), Verdict::Unknown);
    let undrained = without(good(), |event| matches!(event, Event::Drained { .. }));
    assert_eq!(judged(&undrained).verdict, Verdict::Unknown);
    let cut = without(good(), |event| matches!(event, Event::End { .. }));
    assert_eq!(judged(&cut).verdict, Verdict::Unknown);
    assert_eq!(judged(&[]).verdict, Verdict::Unknown);
}

#[test]
fn a_topic_in_memory_may_begin_anew_and_lose_what_it_had() {
    let mut events = without(good(), |event| {
        matches!(
            event,
            Event::Recovered { .. } | Event::Delivered { reader: DRAIN, .. } | Event::Drained { .. }
        )
    });
    for event in &mut events {
        match event {
            Event::Topic { disk, .. } | Event::Ok { disk, .. } => *disk = false,
            _ => {}
        }
    }
    events.push(Event::Invoke { at_us: 30 * SECOND, publisher: 0, first: 11, count: 1 });
    let epoch = EPOCH + 1;
    events.push(Event::Ok {
        at_us: 31 * SECOND,
        publisher: 0,
        first: 11,
        count: 1,
        last_offset: 0,
        epoch,
        disk: false,
    });
    for reader in [SUBSCRIBER, DRAIN] {
        let messages = vec![message(0, 11)];
        events.push(Event::Delivered {
            at_us: 31 * SECOND,
            reader,
            topic: TOPIC,
            epoch,
            first_offset: 0,
            messages,
        });
    }
    events.push(Event::Drained { at_us: 40 * SECOND, reader: DRAIN, topic: TOPIC, epoch, next: 1 });
    assert_eq!(judged(&events).verdict, Verdict::Valid, "{}", judged(&events));
}

#[test]
#[ignore = "measures; run with --release"]
fn five_million_events_are_judged_in_seconds() {
    const BATCHES: u64 = 25_000;
    const BATCH: u64 = 50;
    let began = std::time::Instant::now();
    let mut judge = Judge::default();
    judge.event(&Event::Topic { topic: TOPIC, disk: true, queue: false });
    let mut offsets = 0;
    for reader in [0, 1, 2] {
        judge.event(&Event::Reader { reader, from_start: true, drains: reader == 2 });
    }
    for publisher in 0..10 {
        judge.event(&Event::Stream { publisher, topic: TOPIC });
    }
    let mut at_us = 1;
    for batch in 0..BATCHES {
        let (publisher, first) = ((batch % 10) as u16, batch / 10 * BATCH + 1);
        judge.event(&Event::Invoke { at_us, publisher, first, count: BATCH as u32 });
        let messages: Vec<_> = (first..first + BATCH).map(|seq| message(publisher, seq)).collect();
        for reader in [0, 1, 2] {
            judge.event(&delivered(at_us + 5, reader, offsets, messages.clone()));
        }
        offsets += BATCH;
        at_us += 10;
        judge.event(&Event::Ok {
            at_us,
            publisher,
            first,
            count: BATCH as u32,
            last_offset: offsets - 1,
            epoch: EPOCH,
            disk: true,
        });
    }
    judge.event(&Event::Drained { at_us, reader: 2, topic: TOPIC, epoch: EPOCH, next: offsets });
    judge.event(&Event::End { at_us });
    let report = judge.finish();
    let seconds = began.elapsed().as_secs_f64();
    println!("{} messages, {} deliveries judged in {seconds:.2} s", offsets, offsets * 3);
    assert_eq!(report.verdict, Verdict::Valid, "{report}");
    assert!(seconds < 10.0, "{seconds}");
}
