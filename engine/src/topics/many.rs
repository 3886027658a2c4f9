//! What topics cost that nobody uses: memory, and the time of those beside them. Bounds, and their measurement.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use twinlane_proto::{TopicName, TopicSpec};

use super::Topics;
use crate::config::Limits;
use crate::storage::Storage;

/// What one idle topic may take.
const IDLE_BYTES_MAX: u64 = 512;
/// Topics that are looked up in turn: those in use, whatever else there is.
const IN_USE: u32 = 1_000;

fn name(number: u32) -> TopicName {
    TopicName::parse(&format!("plant/line-{:03}/t{number:09}", number % 1_000)).expect("a name of 25 bytes")
}

fn names(count: u32) -> Vec<TopicName> {
    (1..=count).map(name).collect()
}

fn declare(topics: &Topics, names: &[TopicName]) {
    for name in names {
        topics.declare(name, TopicSpec::reliable(), "a session").expect("below the limit");
    }
}

fn roomy() -> Arc<Topics> {
    let limits = Limits { topics_max: usize::MAX, ..Limits::default() };
    let (storage, _) = Storage::open(None, &limits).expect("no directory, no log");
    Arc::new(Topics::new(limits, storage))
}

/// Memory of this process that no file stands behind.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("Linux 4.5");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("kB") * 1_024
}

#[test]
fn ten_thousand_idle_topics_take_at_most_512_bytes_each() {
    // In a process of its own: other tests' memory is not what is measured.
    let child = Command::new(std::env::current_exe().expect("this test is a program"))
        .args(["--exact", "topics::many::memory_of_ten_thousand_idle_topics", "--ignored", "--nocapture"])
        .output()
        .expect("this program starts again");
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
}

#[test]
#[ignore = "a part of the one before"]
fn memory_of_ten_thousand_idle_topics() {
    let topics = roomy();
    let before = resident_bytes();
    // Names that nobody holds but the topics.
    (1..=10_000).for_each(|number| declare(&topics, &[name(number)]));
    let each = (resident_bytes() - before) / 10_000;
    println!("{each} bytes for each of 10,000 idle topics");
    assert!(each <= IDLE_BYTES_MAX, "{each} bytes");
}

#[test]
fn a_topic_that_was_only_declared_asked_about_and_opened_for_publishing_has_no_ring() {
    let topics = roomy();
    declare(&topics, &names(1));
    let topic = topics.by_id(1).expect("just declared");
    topic.open_source();
    let status = topic.status();
    assert_eq!((status.oldest, status.next, status.memory_bytes), (0, 0, 0));
    assert!(!topic.has_remote_lag());
    topic.ring.append(&[b"a frame"], |_, _| ()).expect("room");
    let status = topic.status();
    assert_eq!((status.oldest, status.next), (0, 1));
    assert!(0 < status.memory_bytes);
}

#[test]
fn a_topic_that_is_removed_unused_is_closed_for_who_holds_it() {
    let topics = roomy();
    declare(&topics, &names(1));
    let topic = topics.by_id(1).expect("just declared");
    topics.remove(&name(1));
    assert_eq!(topic.ring.append(&[b"a frame"], |_, _| ()), Err(twinlane_ring::AppendError::Closed));
}

/// The best of some rounds over `count` topics in an order that no prefetcher guesses, for each.
fn time_each(count: u32, mut look: impl FnMut(u32)) -> Duration {
    // Prime, so that every number is met once.
    let stride = 7_919;
    let round = |_| {
        let start = Instant::now();
        (0..u64::from(count)).for_each(|turn| look((turn * stride % u64::from(count)) as u32));
        start.elapsed() / count
    };
    let rounds = if count <= IN_USE { 200 } else { 3 };
    (0..rounds).map(round).min().expect("some rounds")
}

#[test]
#[ignore = "measures time, 400 MB"]
fn a_million_idle_topics_do_not_slow_down_the_lookups_of_a_thousand() {
    const MILLION: u32 = 1_000_000;
    let topics = roomy();
    let names = names(MILLION);
    let measure = |count: u32| {
        let by_name = time_each(count, |nth| {
            std::hint::black_box(topics.by_name(&names[nth as usize]).expect("declared"));
        });
        let by_id = time_each(count, |nth| {
            std::hint::black_box(topics.by_id(nth + 1).expect("declared"));
        });
        (by_name, by_id)
    };
    declare(&topics, &names[..IN_USE as usize]);
    let alone = measure(IN_USE);
    let (mut slowest, start) = (Duration::ZERO, Instant::now());
    for name in &names[IN_USE as usize..] {
        let start = Instant::now();
        topics.declare(name, TopicSpec::reliable(), "a session").expect("below the limit");
        slowest = slowest.max(start.elapsed());
    }
    let rate = f64::from(MILLION - IN_USE) / start.elapsed().as_secs_f64();
    let (beside, all) = (measure(IN_USE), measure(MILLION));
    println!("declared {rate:.0} topics/s, the slowest in {slowest:?}");
    println!("by name, by number: {alone:?} alone, {beside:?} beside a million, {all:?} all in turn");
    assert!(beside.0 <= alone.0 * 3 / 2 && beside.1 <= alone.1 * 3 / 2, "{beside:?} after {alone:?}");
}
