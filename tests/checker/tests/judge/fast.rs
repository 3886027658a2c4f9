//! The judge of fast topics against histories made by hand: a good one is valid, and each bad one breaks the promise
//! it should.

use twinlane_checker::history::{Arrived, FastEvent, FastMode, FastPlan, FastStats, LinkCounts};
use twinlane_checker::judge::{FastJudge, FastReport, Invariant, Verdict};

const SECOND: u64 = 1_000_000;
const END: u64 = 60 * SECOND;
const MESSAGES: u64 = 10;
const DEADLINE: u64 = 50_000;
/// Both relays together.
const LINKS: u64 = 20_000;

// Topics, and the publisher of each.
const ORDERED: u16 = 0;
const LATEST: u16 = 1;
const UNORDERED: u16 = 2;
const TOPICS: [(u16, FastMode); 3] =
    [(ORDERED, FastMode::Ordered), (LATEST, FastMode::Latest), (UNORDERED, FastMode::Unordered)];
/// Of each topic one reader that is there from the beginning, and one that began later.
const EARLY: u16 = 10;
const LATE: u16 = 20;

/// When a message was published: one each ten seconds, so that every key rests.
fn at(seq: u64) -> u64 {
    seq * 5 * SECOND
}

fn key(topic: u16, seq: u64) -> Option<u64> {
    (topic == LATEST).then_some(seq % 2)
}

fn published(topic: u16, seq: u64) -> FastEvent {
    let deadline_us = if topic == LATEST { 0 } else { DEADLINE };
    let (before_us, after_us) = (at(seq) - 100, at(seq));
    FastEvent::Published { publisher: topic, seq, before_us, after_us, key: key(topic, seq), deadline_us }
}

fn arrived(topic: u16, seq: u64) -> Arrived {
    Arrived { source: 70 + u32::from(topic), seq, publisher: topic, number: seq, key: key(topic, seq) }
}

fn delivered_at(reader: u16, polled_us: u64, message: Arrived) -> FastEvent {
    FastEvent::Delivered { reader, polled_us, at_us: polled_us + 5, messages: vec![message] }
}

fn delivered(reader: u16, seq: u64) -> FastEvent {
    delivered_at(reader, at(seq) + 1_000, arrived(reader % 10, seq))
}

fn gap(reader: u16, from: u64, to: u64) -> FastEvent {
    let source = 70 + u32::from(reader % 10);
    FastEvent::Gap { reader, at_us: at(to), source, from, to, cause: "lost".to_owned() }
}

fn opened(reader: u16, opened_us: u64) -> FastEvent {
    let (topic, opening_us) = (reader % 10, opened_us - 50);
    FastEvent::Reader { reader, topic, client: 1, opening_us, opened_us, prompt: true }
}

fn ended(reader: u16, stats: FastStats) -> FastEvent {
    FastEvent::ReaderEnd { reader, at_us: END, stats, why: String::new() }
}

fn counted(delivered: u64, lost: u64) -> FastStats {
    FastStats { delivered, lost, ..FastStats::default() }
}

/// Three topics, ten messages each. Message 4 is lost for all early readers; late ones begin with message 6.
fn good() -> Vec<FastEvent> {
    let plan =
        FastPlan { seed: 1, lose_permille: 10, delivered_min: 30, judged_min: 10, ..FastPlan::default() };
    let counts = LinkCounts { datagrams: 1_000, lost: 11, ..LinkCounts::default() };
    let mut events = vec![FastEvent::Plan(plan)];
    for client in [0, 1] {
        events.push(FastEvent::Client { client, udp: true, link_us: LINKS / 2 });
        events.push(FastEvent::Link { client, counts });
    }
    for (topic, mode) in TOPICS {
        let (early, late) = (EARLY + topic, LATE + topic);
        let (opening_us, opened_us) = (2_000, 3_000);
        events.push(FastEvent::Topic { topic, mode });
        events.push(opened(early, 1_000));
        events.push(FastEvent::Publisher { publisher: topic, topic, client: 0, opening_us, opened_us });
        events.extend((1..=MESSAGES).map(|seq| published(topic, seq)));
        events.push(FastEvent::Closed {
            publisher: topic,
            at_us: END,
            published: MESSAGES,
            refused: 0,
            why: String::new(),
        });
        events.extend((1..=3).map(|seq| delivered(early, seq)));
        // What a key shows in the end is never lost, so on `latest` it came in time, and another one made it late.
        if topic == LATEST {
            events.push(delivered_at(early, at(4) + 900_000, arrived(topic, 4)));
        } else if topic == ORDERED {
            events.push(gap(early, 4, 5));
        }
        events.extend((5..=MESSAGES).map(|seq| delivered(early, seq)));
        let lost = u64::from(topic != LATEST);
        events.push(ended(early, counted(MESSAGES - lost, lost)));
        events.push(opened(late, at(6) - 1_000));
        events.extend((6..=MESSAGES).map(|seq| delivered(late, seq)));
        events.push(ended(late, counted(MESSAGES - 5, 0)));
    }
    events.push(FastEvent::End { at_us: END });
    events
}

fn judged(events: &[FastEvent]) -> FastReport {
    let mut judge = FastJudge::default();
    events.iter().for_each(|event| judge.event(event));
    judge.finish()
}

fn breaks_only(invariant: Invariant, events: &[FastEvent]) {
    let report = judged(events);
    let broken: Vec<_> = report.violations.broken().collect();
    assert_eq!(broken, [invariant], "{report}");
    assert_eq!(report.verdict, Verdict::Invalid);
    assert!(report.to_string().contains(&format!("{invariant} broken")), "{report}");
}

/// The history with one event replaced by others.
fn with(mut events: Vec<FastEvent>, old: &FastEvent, new: &[FastEvent]) -> Vec<FastEvent> {
    let place = events.iter().position(|event| event == old).expect("it is in the history");
    events.splice(place..=place, new.iter().cloned());
    events
}

/// The history in which `reader` counts otherwise.
fn counting(mut events: Vec<FastEvent>, of: u16, change: impl Fn(&mut FastStats)) -> Vec<FastEvent> {
    for event in &mut events {
        if let FastEvent::ReaderEnd { reader, stats, .. } = event
            && *reader == of
        {
            change(stats);
        }
    }
    events
}

fn planned(change: impl Fn(&mut FastPlan)) -> Vec<FastEvent> {
    let mut events = good();
    if let Some(FastEvent::Plan(plan)) = events.first_mut() {
        change(plan);
    }
    events
}

#[test]
fn a_good_history_of_fast_topics_is_valid() {
    let report = judged(&good());
    assert_eq!(report.verdict, Verdict::Valid, "{report}");
    assert_eq!(report.delivered(), 9 + 10 + 9 + 3 * 5, "{report}");
    assert_eq!(report.to_json()["deadlines_judged"], 2 * (9 + 5), "{report}");
    // Keys rest between any two of their messages, and after the last one.
    assert_eq!(report.to_json()["rests_judged"], 10 + 5, "{report}");
}

#[test]
fn f2_a_message_that_is_not_what_was_published_is_seen() {
    let (reader, at_us) = (EARLY + ORDERED, at(7));
    let what = "byte 3".to_owned();
    let mut corrupt = good();
    corrupt.push(FastEvent::Corrupt { reader, at_us, source: 70, seq: 7, what });
    breaks_only(Invariant::F2, &corrupt);

    let mut original = arrived(LATEST, 7);
    let wrong = |message: Arrived| {
        let (old, new) = (delivered(EARLY + LATEST, 7), delivered_at(EARLY + LATEST, at(7) + 1_000, message));
        // The message it stands for is lost then, which nobody counted.
        let events = counting(with(good(), &old, &[new]), EARLY + LATEST, |stats| stats.lost += 1);
        judged(&events)
    };
    original.key = Some(5);
    assert!(wrong(original).to_string().contains("with key Some(5), not Some(1)"));
    for changed in [
        Arrived { number: 11, ..arrived(LATEST, 7) },
        Arrived { publisher: 9, ..arrived(LATEST, 7) },
        Arrived { number: 6, ..arrived(LATEST, 7) },
        Arrived { publisher: ORDERED, ..arrived(LATEST, 7) },
    ] {
        let report = wrong(changed);
        assert!(report.violations.times(Invariant::F2) > 0, "{changed:?}: {report}");
    }
}

#[test]
fn fa_a_message_twice_is_seen_in_every_mode() {
    for (topic, _) in TOPICS {
        let reader = EARLY + topic;
        for (again, after) in [(7, 7), (7, 9), (1, 10)] {
            let last = delivered(reader, after);
            let repeated = delivered_at(reader, at(after) + 1_001, arrived(topic, again));
            // It has to be the repetition that is seen, so nobody judges how old it is.
            let mut events = with(good(), &last, &[last.clone(), repeated]);
            for event in &mut events {
                if let FastEvent::Published { deadline_us, .. } = event {
                    *deadline_us = 0;
                }
            }
            breaks_only(Invariant::Fa, &counting(events, reader, |stats| stats.delivered += 1));
        }
    }
}

#[test]
fn fa_an_older_message_after_a_newer_one_is_seen_where_the_mode_promises_an_order() {
    let swapped = |topic: u16, first: u64, second: u64| {
        let (one, other) = (delivered(EARLY + topic, first), delivered(EARLY + topic, second));
        let nothing = with(good(), &one, &[]);
        let mut events = with(nothing, &other, &[other.clone(), one]);
        for event in &mut events {
            if let FastEvent::Published { deadline_us, .. } = event {
                *deadline_us = 0;
            }
        }
        events
    };
    let report = judged(&swapped(ORDERED, 7, 8));
    assert_eq!(report.violations.times(Invariant::Fa), 1, "{report}");
    // Message 7 and 9 are of one key, 7 and 8 are not.
    let report = judged(&swapped(LATEST, 7, 9));
    assert_eq!(report.violations.times(Invariant::Fa), 1, "{report}");
    assert_eq!(judged(&swapped(LATEST, 7, 8)).violations.times(Invariant::Fa), 0);
    assert_eq!(judged(&swapped(UNORDERED, 7, 8)).verdict, Verdict::Valid);
}

#[test]
fn fb_a_hole_without_a_gap_is_seen_on_an_ordered_topic() {
    let (reader, hole) = (EARLY + ORDERED, delivered(EARLY + ORDERED, 7));
    // Counted, but nobody was told.
    let events = counting(with(good(), &hole, &[]), reader, |stats| (stats.delivered, stats.lost) = (8, 2));
    breaks_only(Invariant::Fb, &events);
    // Told, and counted under another cause.
    let told = with(good(), &hole, &[gap(reader, 7, 8)]);
    let told = counting(told, reader, |stats| (stats.delivered, stats.late) = (8, 1));
    assert_eq!(judged(&told).verdict, Verdict::Valid, "{}", judged(&told));
    // Told too late.
    let next = delivered(reader, 8);
    let late = with(with(told, &gap(reader, 7, 8), &[]), &next, &[next.clone(), gap(reader, 7, 8)]);
    breaks_only(Invariant::Fb, &late);
}

#[test]
fn fb_a_hole_at_the_beginning_or_the_end_of_a_stream_is_seen() {
    for hole in [1, MESSAGES] {
        let reader = EARLY + ORDERED;
        let silent = with(good(), &delivered(reader, hole), &[]);
        let silent = counting(silent, reader, |stats| (stats.delivered, stats.lost) = (8, 2));
        breaks_only(Invariant::Fb, &silent);
        let told = with(good(), &delivered(reader, hole), &[gap(reader, hole, hole + 1)]);
        let told = counting(told, reader, |stats| (stats.delivered, stats.lost) = (8, 2));
        assert_eq!(judged(&told).verdict, Verdict::Valid, "{}", judged(&told));
    }
}

#[test]
fn fb_a_gap_that_names_what_was_delivered_or_does_not_exist_is_seen() {
    let reader = EARLY + ORDERED;
    let old = gap(reader, 4, 5);
    for wrong in
        [gap(reader, 3, 5), gap(reader, 4, 6), gap(reader, 4, 4), gap(reader, 4, 40), gap(reader, 5, 6)]
    {
        let report = judged(&with(good(), &old, std::slice::from_ref(&wrong)));
        let broken: Vec<_> = report.violations.broken().collect();
        assert_eq!(broken, [Invariant::Fb], "{wrong:?}: {report}");
    }
    let twice = with(good(), &old, &[old.clone(), old.clone()]);
    breaks_only(Invariant::Fb, &twice);
    let unordered = EARLY + UNORDERED;
    let before = delivered(unordered, 5);
    let wrong = with(good(), &before, &[before.clone(), gap(unordered, 5, 6)]);
    breaks_only(Invariant::Fb, &wrong);
}

#[test]
fn fb_counters_that_do_not_add_up_are_seen_in_every_mode() {
    for reader in [EARLY, LATE].into_iter().flat_map(|first| TOPICS.map(|(topic, _)| first + topic)) {
        let one_less = |stats: &mut FastStats| match stats.lost {
            0 => stats.delivered -= 1,
            _ => stats.lost -= 1,
        };
        breaks_only(Invariant::Fb, &counting(good(), reader, one_less));
        // What was lost before a later reader's first message it cannot know; it may have seen some of it.
        let many_more = |stats: &mut FastStats| stats.dropped_slow += 6;
        breaks_only(Invariant::Fb, &counting(good(), reader, many_more));
        breaks_only(Invariant::Fb, &counting(good(), reader, |stats| stats.delivered += 1));
    }
}

#[test]
fn fb_a_seq_that_the_publisher_was_not_told_is_seen() {
    let wrong = FastEvent::Published {
        publisher: ORDERED,
        seq: 8,
        before_us: at(7) - 100,
        after_us: at(7),
        key: None,
        deadline_us: DEADLINE,
    };
    breaks_only(Invariant::Fb, &with(good(), &published(ORDERED, 7), &[wrong]));
}

#[test]
fn fc_a_message_after_its_deadline_is_seen_whatever_the_mode() {
    for topic in [ORDERED, UNORDERED] {
        let reader = EARLY + topic;
        let old = delivered(reader, 7);
        let after = |us: u64| {
            let new = delivered_at(reader, at(7) + us, arrived(topic, 7));
            with(good(), &old, &[new])
        };
        assert_eq!(judged(&after(DEADLINE + LINKS + 2_000)).verdict, Verdict::Valid);
        breaks_only(Invariant::Fc, &after(DEADLINE + LINKS + 2_001));
        // The time that threads of server or checker waited for a processor is nobody's fault.
        let waited = |from_us: u64, to_us: u64, waited_us: u64| {
            let mut events = after(DEADLINE + LINKS + 9_000);
            events.push(FastEvent::Waited { from_us, to_us, waited_us });
            events
        };
        let (from_us, to_us) = (at(7) + 10_000, at(7) + 20_000);
        assert_eq!(judged(&waited(from_us, to_us, 7_000)).verdict, Verdict::Valid);
        breaks_only(Invariant::Fc, &waited(from_us, to_us, 6_999));
        breaks_only(Invariant::Fc, &waited(at(7) - 20_000, at(7) - 10_000, 7_000));
    }
}

#[test]
fn fd_a_key_that_rests_without_showing_its_last_value_is_seen() {
    let reader = EARLY + LATEST;
    for seq in [4, MESSAGES] {
        let shown = good().into_iter().find(|event| {
            matches!(event, FastEvent::Delivered { reader: of, messages, .. }
                if *of == reader && messages[0].seq == seq)
        });
        let shown = shown.expect("it was shown");
        let never = with(good(), &shown, &[]);
        let never = counting(never, reader, |stats| (stats.delivered, stats.lost) = (9, 1));
        breaks_only(Invariant::Fd, &never);
        let when =
            |us: u64| with(good(), &shown, &[delivered_at(reader, at(seq) + us, arrived(LATEST, seq))]);
        assert_eq!(judged(&when(SECOND + LINKS + 1_990)).verdict, Verdict::Valid);
        breaks_only(Invariant::Fd, &when(SECOND + LINKS + 2_000));
    }
}

#[test]
fn fd_is_not_judged_where_it_is_not_promised() {
    let reader = EARLY + LATEST;
    let shown = delivered(reader, 7);
    let never = |events: Vec<FastEvent>| {
        counting(with(events, &shown, &[]), reader, |stats| (stats.delivered, stats.lost) = (9, 1))
    };
    breaks_only(Invariant::Fd, &never(good()));
    let broken = |events: &[FastEvent]| judged(events).violations.times(Invariant::Fd);
    // The key changed again at once.
    let mut changing = never(good());
    for event in &mut changing {
        if let FastEvent::Published { publisher: LATEST, seq: 7, before_us, after_us, .. } = event {
            (*before_us, *after_us) = (at(9) - 500_000, at(9) - 499_900);
        }
    }
    assert_eq!(broken(&changing), 0);
    // The path was blocked.
    let mut blocked = never(good());
    blocked.push(FastEvent::Blocked { client: 1, from_us: at(7) - 10, to_us: at(7) + 10 });
    assert_eq!(broken(&blocked), 0);
    // But that of neither of the two, and only for so long: it is noticed.
    let mut others = never(good());
    others.push(FastEvent::Blocked { client: 2, from_us: at(7) - 10, to_us: at(7) + 10 });
    others.push(FastEvent::Blocked { client: 1, from_us: at(7) - 9 * SECOND, to_us: END });
    assert_eq!(broken(&others), 1);
    // The links lose too much.
    assert_eq!(broken(&never(planned(|plan| plan.lose_permille = 301))), 0);
    // The reader is slow on purpose.
    let mut slow = never(good());
    for event in &mut slow {
        if let FastEvent::Reader { prompt, .. } = event {
            *prompt = false;
        }
    }
    assert_eq!(broken(&slow), 0);
    // The value had a deadline.
    let mut mortal = never(good());
    for event in &mut mortal {
        if let FastEvent::Published { publisher: LATEST, seq: 7, deadline_us, .. } = event {
            *deadline_us = DEADLINE;
        }
    }
    assert_eq!(broken(&mortal), 0);
}

#[test]
fn too_little_on_fast_topics_is_unknown() {
    let verdict = |events: &[FastEvent]| judged(events).verdict;
    for events in [
        planned(|plan| plan.delivered_min = 1_000),
        planned(|plan| plan.judged_min = 1_000),
        planned(|plan| plan.lose_permille = 100),
        planned(|plan| plan.repeat_permille = 500),
        planned(|plan| plan.delay_permille = 500),
        planned(|plan| plan.switches = true),
        with(good(), &FastEvent::End { at_us: END }, &[]),
    ] {
        assert_eq!(verdict(&events), Verdict::Unknown, "{}", judged(&events));
    }
    let mut unclosed = good();
    unclosed.retain(|event| !matches!(event, FastEvent::Closed { publisher: ORDERED, .. }));
    assert_eq!(verdict(&unclosed), Verdict::Unknown);
    let mut ended = good();
    for event in &mut ended {
        if let FastEvent::ReaderEnd { why, .. } = event {
            "the session ended".clone_into(why);
        }
    }
    assert_eq!(verdict(&ended), Verdict::Unknown);
    let mut idle = good();
    idle.push(FastEvent::Client { client: 7, udp: true, link_us: 0 });
    assert_eq!(verdict(&idle), Verdict::Unknown);
    assert_eq!(verdict(&[]), Verdict::Unknown);
}
