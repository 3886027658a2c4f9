//! A torn tail is cut off, damage is not taken for one, and tools say which is which.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::disk::SimDisk;
use common::{declare, frame, numbers, origin, payload, publish, small};
use twinlane_log::tool::{self, Access, DumpEntry, DumpFilter};
use twinlane_log::{Entry, Log, OpenError, ReadError, Recovered, Retention};

const FIRST: &str = "segment-0000000000000001.log";
const RECORDS: usize = 4_096;

fn open(disk: &SimDisk) -> Result<(Log, Recovered), OpenError> {
    Log::open_on(Arc::new(disk.clone()), Path::new("/log"), small())
}

/// A disk with three batches, the last of two frames in one record and a state, and where that begins and ends.
fn three_batches() -> (SimDisk, usize, usize) {
    let disk = SimDisk::default();
    let (log, _) = open(&disk).unwrap();
    declare(&log, 1);
    publish(&log, 1, 1, &frame(10, 40)).unwrap();
    let end = |disk: &SimDisk| {
        let mut end = 0;
        disk.edit(FIRST, |bytes| end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1);
        end.next_multiple_of(8)
    };
    let begin = end(&disk);
    let runs = [1, 2].map(|number| frame(number, 40));
    let entry = |number: usize| Entry::Run {
        topic: 1,
        origin: origin(1 + number as u64),
        frames: 1,
        bytes: &runs[number - 1],
    };
    log.append(&[entry(1), Entry::State { key: b"k", value: b"v" }, entry(2)], None).unwrap();
    log.commit().unwrap();
    let copy = disk.copy();
    (copy, begin, end(&disk))
}

#[test]
fn every_truncation_of_the_last_batch_leaves_a_clean_prefix_of_whole_records() {
    let (disk, begin, end) = three_batches();
    assert!(end - begin > 150, "{begin} to {end}");
    for cut in begin..=end {
        let disk = disk.copy();
        disk.edit(FIRST, |bytes| bytes[cut..].fill(0));
        let (log, recovered) = open(&disk).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        let is_whole = cut >= end - 7 && recovered.topics[0].next == 3;
        let expected: &[u64] = if is_whole { &[10, 1, 2] } else { &[10] };
        assert_eq!(numbers(&log, 1, 0), expected, "cut at {cut}");
        assert_eq!(recovered.states.len(), usize::from(is_whole), "cut at {cut}: all of a record or nothing");
        assert_eq!(publish(&log, 1, 9, &frame(9, 40)), Ok(expected.len() as u64));
        drop(log);
        let (log, _) = open(&disk).unwrap();
        assert_eq!(numbers(&log, 1, 0).last(), Some(&9), "cut at {cut}");
    }
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.topics[0].next, 3);
}

#[test]
fn a_flipped_bit_below_what_is_known_durable_is_damage_and_in_the_last_batch_a_torn_tail() {
    let (disk, begin, end) = three_batches();
    for at in (RECORDS..end).step_by(3) {
        let disk = disk.copy();
        disk.edit(FIRST, |bytes| bytes[at] ^= 1 << (at % 8));
        match open(&disk) {
            Err(OpenError::Damaged { segment: 1, position, .. }) => {
                assert!(at < begin, "a flip at {at} was called damage at {position}");
                assert!((position as usize) <= at);
            }
            Ok((log, _)) => {
                assert!(at >= begin, "a flip at {at} was not noticed");
                assert_eq!(numbers(&log, 1, 0), [10], "flip at {at}");
            }
            Err(error) => panic!("flip at {at}: {error}"),
        }
    }
}

#[test]
fn a_log_that_was_closed_knows_its_last_batch_was_durable() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk).unwrap();
    declare(&log, 1);
    publish(&log, 1, 1, &frame(0xab, 40)).unwrap();
    drop(log);
    disk.edit(FIRST, |bytes| {
        let at = payload(bytes, 0xab);
        bytes[at] ^= 1;
    });
    assert!(matches!(open(&disk), Err(OpenError::Damaged { segment: 1, .. })));
}

#[test]
fn one_copy_of_a_segments_header_is_enough_and_none_is_damage() {
    let (disk, ..) = three_batches();
    for damaged in [&[20][..], &[2_048 + 20], &[20, 2_048 + 20]] {
        let disk = disk.copy();
        disk.edit(FIRST, |bytes| damaged.iter().for_each(|at| bytes[*at] ^= 4));
        let opened = open(&disk);
        match damaged.len() {
            1 => drop(opened.unwrap()),
            _ => assert!(matches!(opened, Err(OpenError::Damaged { segment: 1, position: 0, .. }))),
        }
    }
}

/// A log in a real directory, several segments long, with a quiet and a busy topic.
fn several_segments(dir: &Path) {
    let (log, _) = Log::open(dir, small()).unwrap();
    declare(&log, 1);
    declare(&log, 2);
    publish(&log, 2, 1, &frame(42, 200)).unwrap();
    for number in 0..300 {
        publish(&log, 1, number + 1, &frame(number, 1_000)).unwrap();
    }
    let group = [Entry::State { key: b"g", value: b"s" }, Entry::Delta { key: b"g", value: b"d" }];
    log.append(&group, None).unwrap();
}

fn segment(dir: &Path, number: u32) -> std::path::PathBuf {
    dir.join(format!("segment-{number:016x}.log"))
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_missing_segment_is_damage() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("log");
    several_segments(&dir);
    std::fs::remove_file(segment(&dir, 2)).unwrap();
    let error = Log::open(&dir, small()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { segment: 2, .. }), "{error}");
    let report = tool::check(&dir, Access::Alone).unwrap();
    assert_eq!(report.damage[0].segment, 2);
    assert!(!report.topics[0].missing.is_empty());
}

#[test]
fn a_read_notices_what_was_damaged_since_the_log_was_opened() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk).unwrap();
    declare(&log, 1);
    publish(&log, 1, 1, &frame(1, 40)).unwrap();
    publish(&log, 1, 2, &frame(0xcd, 40)).unwrap();
    disk.edit(FIRST, |bytes| {
        let at = payload(bytes, 0xcd);
        bytes[at] ^= 1;
    });
    let mut frames = Vec::new();
    assert_eq!(log.read(1, 0, 1_000, &mut frames).map(|run| run.frames), Ok(1));
    let damaged = log.read(1, 1, 1_000, &mut frames);
    assert!(matches!(damaged, Err(ReadError::Damaged { segment: 1, .. })), "{damaged:?}");
}

#[test]
fn a_sound_log_is_checked_sound_and_shown_entry_by_entry() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("log");
    several_segments(&dir);
    let (log, _) = Log::open(&dir, small()).unwrap();
    assert!(matches!(tool::check(&dir, Access::Alone), Err(OpenError::Locked { .. })));
    let report = tool::check(&dir, Access::Beside).unwrap();
    drop(log);
    assert!(report.is_sound(), "{report:?}");
    assert!(report.segments.len() > 4);
    let [busy, quiet] = &report.topics[..] else { panic!("{:?}", report.topics) };
    assert_eq!((busy.oldest, busy.next, quiet.next, report.states), (0, 300, 1, 1));
    let mut shown = Vec::new();
    let filter = DumpFilter { topic: Some(1), offsets: Some(10..12), ..DumpFilter::default() };
    let damage = tool::dump(&dir, Access::Alone, &filter, |record| {
        if let DumpEntry::Run { first_offset, .. } = record.entry {
            shown.push(first_offset);
        }
    });
    assert_eq!((damage.unwrap(), shown), (vec![], vec![10, 11]));
}

#[test]
fn a_repair_keeps_what_can_be_read_and_marks_who_lost_something() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("log");
    several_segments(&dir);
    flip(&segment(&dir, 3), 10_000);
    assert!(matches!(Log::open(&dir, small()), Err(OpenError::Damaged { segment: 3, .. })));
    let checked = tool::check(&dir, Access::Alone).unwrap();
    assert_eq!((checked.damage.len(), checked.damage[0].topic), (1, Some(1)));
    let (from, to) = checked.topics[0].missing[0];
    assert_eq!(to - from, 1);

    let report = tool::repair(&dir, |_, value| value.extend(b" anew")).unwrap();
    let lost: Vec<_> = report.lost.iter().map(|topic| (topic.id, topic.missing.clone())).collect();
    assert_eq!(lost, [(1, vec![(from, to)]), (2, vec![])], "the quiet topic may have lost its newest");
    assert!(report.kept_at.unwrap().join("LOCK").exists());
    let (log, recovered) = Log::open(&dir, small()).unwrap();
    assert_eq!(recovered.topics[0].value, b"value anew");
    assert_eq!((recovered.topics[0].oldest, recovered.topics[0].next), (0, 300));
    assert_eq!(log.read(1, from, 10, &mut Vec::new()), Err(ReadError::Lost { next: to }));
    assert_eq!(numbers(&log, 1, to), (to..300).collect::<Vec<_>>());
    assert_eq!(numbers(&log, 2, 0), [42]);
    assert_eq!((&recovered.states[0].snapshot[..], recovered.states[0].deltas.len()), (&b"s"[..], 1));
    assert_eq!(publish(&log, 1, 301, &frame(300, 100)), Ok(300));
    drop(log);
    let (_, recovered) = Log::open(&dir, small()).unwrap();
    assert_eq!(recovered.topics[0].next, 301);
}

#[test]
fn compaction_keeps_all_that_is_live_and_needs_less_room() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("log");
    several_segments(&dir);
    {
        let (log, _) = Log::open(&dir, small()).unwrap();
        for number in 0..200 {
            log.append(&[Entry::State { key: b"g", value: &[number; 900] }], None).unwrap();
        }
        log.set_retention(1, Retention::default());
    }
    let report = tool::compact(&dir).unwrap();
    assert!(report.bytes_after < report.bytes_before - 150_000, "{report:?}");
    let (log, recovered) = Log::open(&dir, small()).unwrap();
    assert_eq!(numbers(&log, 1, 0), (0..300).collect::<Vec<_>>());
    assert_eq!(numbers(&log, 2, 0), [42]);
    assert_eq!(recovered.states[0].snapshot, [199; 900]);
    assert_eq!(publish(&log, 1, 301, &frame(300, 100)), Ok(300));
    drop(log);
    assert!(tool::check(&dir, Access::Alone).unwrap().is_sound());
    assert_eq!(parent.path().read_dir().unwrap().count(), 1, "nothing is left beside it");
}
