//! What the log promises its owner, one sentence per test.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use common::disk::{Crash, SimDisk};
use common::{Outcome, Random, declare, frame, numbers, origin, publish, small, try_numbers};
use twinlane_log::{
    AppendError, Committed, Entry, Failure, Listener, Log, LogConfig, OpenError, ReadError, Recovered,
    Retention,
};

fn open(disk: &SimDisk, config: LogConfig) -> (Log, Recovered) {
    Log::open_on(Arc::new(disk.clone()), Path::new("/log"), config).unwrap()
}

fn messages(count: u64) -> Retention {
    Retention { messages: count, ..Retention::default() }
}

/// Stops the writer in its first callback until it is let go.
struct Stopper {
    entered: Mutex<Sender<()>>,
    release: Mutex<Receiver<()>>,
}

impl Stopper {
    /// The log's writer stands still until the returned sender is used or dropped.
    fn stop(log: &Log) -> Sender<()> {
        let (entered, is_entered) = channel();
        let (release, released) = channel();
        let stopper = Self { entered: Mutex::new(entered), release: Mutex::new(released) };
        log.append(&[Entry::State { key: b"stop", value: b"1" }], Some(Arc::new(stopper))).unwrap();
        is_entered.recv().unwrap();
        release
    }
}

impl Listener for Stopper {
    fn committed(&self, _: Committed<'_>) {
        self.entered.lock().unwrap().send(()).unwrap();
        let _ = self.release.lock().unwrap().recv();
    }

    fn failed(&self, why: Failure) {
        panic!("{why}");
    }
}

#[test]
fn a_directory_that_others_may_write_to_is_refused_and_files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("log");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    drop(Log::open(&dir, small()).unwrap());
    assert_eq!(mode(&dir), 0o700);
    for file in dir.read_dir().unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
    }
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o770)).unwrap();
    let refused = Log::open(&dir, small()).unwrap_err();
    assert!(refused.to_string().contains("chmod go-w"), "{refused}");
}

#[test]
fn a_log_has_one_writer() {
    let parent = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(parent.path(), small()).unwrap();
    assert!(matches!(Log::open(parent.path(), small()), Err(OpenError::Locked { .. })));
    drop(log);
    Log::open(parent.path(), small()).unwrap();
}

#[test]
fn what_was_staged_is_there_after_the_last_handle_was_dropped() {
    let parent = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(parent.path(), LogConfig::default()).unwrap();
    log.append(&[Entry::Topic { id: 3, value: b"three" }], None).unwrap();
    for seq in 1..=100 {
        let run = Entry::Run { topic: 3, origin: origin(seq), frames: 1, bytes: &frame(seq, 64) };
        assert_eq!(log.append(&[run], None).unwrap().first_offset(), Some(seq - 1));
    }
    drop(log);
    let (log, recovered) = Log::open(parent.path(), LogConfig::default()).unwrap();
    assert_eq!(recovered.topics[0].value, b"three");
    assert_eq!(numbers(&log, 3, 0), (1..=100).collect::<Vec<_>>());
    assert_eq!(recovered.report.cut, None);
}

#[test]
fn a_read_gives_whole_frames_from_the_offset_on_and_one_at_least() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk, small());
    declare(&log, 1);
    let frames: Vec<u8> = (0..10).flat_map(|number| frame(number, 100)).collect();
    log.append(&[Entry::Run { topic: 1, origin: origin(1), frames: 10, bytes: &frames }], None).unwrap();
    log.commit().unwrap();
    let read = |from, bytes_max| {
        let mut into = vec![1, 2, 3];
        let run = log.read(1, from, bytes_max, &mut into)?;
        Ok::<_, ReadError>((run.first_offset, run.frames, into.len() - 3))
    };
    assert_eq!(read(0, 1_000), Ok((0, 10, 1_000)));
    assert_eq!(read(4, 299), Ok((4, 2, 200)));
    assert_eq!(read(9, 1), Ok((9, 1, 100)));
    assert_eq!(read(10, 1_000), Ok((10, 0, 0)));
    assert_eq!(read(11, 1_000), Ok((11, 0, 0)));
    assert_eq!(log.read(2, 0, 10, &mut Vec::new()), Err(ReadError::UnknownTopic(2)));
    let (reply, replied) = channel();
    log.read_soon(1, 8, 1_000, Box::new(move |result| reply.send(result).unwrap()));
    let (run, bytes) = replied.recv().unwrap().unwrap();
    assert_eq!((run.first_offset, run.frames, &bytes[..]), (8, 2, &frames[800..]));
}

#[test]
fn a_run_needs_a_declared_topic_and_a_record_has_a_limit() {
    let (log, _) = open(&SimDisk::default(), small());
    let run = Entry::Run { topic: 1, origin: origin(1), frames: 1, bytes: &frame(1, 20) };
    assert_eq!(log.append(&[run], None), Err(AppendError::UnknownTopic(1)));
    let topic = Entry::Topic { id: 1, value: b"" };
    assert_eq!(log.append(&[run, topic], None), Err(AppendError::UnknownTopic(1)));
    let offsets = log.append(&[topic, run, run], None).unwrap();
    assert!(offsets.first_offsets().eq([0, 1]));
    let value = vec![0; 60 << 10];
    let refused = log.append(&[Entry::State { key: b"k", value: &value }], None);
    assert!(matches!(refused, Err(AppendError::TooLarge { .. })), "{refused:?}");
}

#[test]
fn a_full_stage_refuses_and_tells_when_there_is_room() {
    let mut config = small();
    config.stage_bytes_max = 4_000;
    let (log, _) = open(&SimDisk::default(), config);
    let release = Stopper::stop(&log);
    let value = vec![7; 1_000];
    let append = || log.append(&[Entry::Delta { key: b"k", value: &value }], None);
    let refused = std::iter::from_fn(|| Some(append())).take(10).find_map(Result::err);
    assert!(matches!(refused, Some(AppendError::Full { .. })), "{refused:?}");
    let (woken, is_woken) = channel();
    struct Wake(Mutex<Sender<()>>);
    impl std::task::Wake for Wake {
        fn wake(self: Arc<Self>) {
            let _ = self.0.lock().unwrap().send(());
        }
    }
    let waker = Waker::from(Arc::new(Wake(Mutex::new(woken))));
    assert_eq!(log.poll_room(&Context::from_waker(&waker)), Poll::Pending);
    drop(release);
    is_woken.recv().unwrap();
    append().unwrap();
}

#[test]
fn what_is_refused_for_want_of_space_uses_no_offsets_and_reads_go_on() {
    let disk = SimDisk::default();
    disk.limit(Some(4 * (64 << 10)));
    let (log, _) = open(&disk, small());
    declare(&log, 1);
    let mut stored = 0;
    while publish(&log, 1, stored + 1, &frame(stored, 1_000)).is_ok() {
        stored += 1;
    }
    assert!(stored > 100, "{stored}");
    assert_eq!(publish(&log, 1, stored + 1, &frame(stored, 1_000)), Err(Failure::NoSpace));
    assert_eq!(log.append(&[Entry::Topic { id: 2, value: &[0; 900] }], None).map(drop), Ok(()));
    log.commit().unwrap();
    assert_eq!(numbers(&log, 1, 0), (0..stored).collect::<Vec<_>>());
    assert!(log.status().no_space > 0);

    log.set_retention(1, messages(10));
    assert_eq!(publish(&log, 1, stored + 1, &frame(stored, 1_000)), Ok(stored), "retention makes room");
    drop(log);
    let (log, recovered) = open(&disk, small());
    assert_eq!(recovered.topics[0].next, stored + 1);
    assert_eq!(recovered.streams, []);
    assert_eq!(numbers(&log, 1, stored), [stored]);
}

#[test]
fn a_log_with_a_bound_goes_on_for_ever_with_what_retention_leaves_it() {
    let mut config = small();
    config.bytes_max = 5 * config.segment_bytes;
    let disk = SimDisk::default();
    let (log, _) = open(&disk, config);
    declare(&log, 1);
    log.set_retention(1, messages(50));
    for number in 0..2_000 {
        assert_eq!(publish(&log, 1, number + 1, &frame(number, 1_000)), Ok(number));
    }
    assert!(log.status().segments_given_up > 20, "{:?}", log.status());
    assert!(log.status().file_bytes <= 5 * (64 << 10));
    let oldest = log.bounds(1).oldest;
    assert!(oldest <= 1_950, "{oldest}");
    assert_eq!(numbers(&log, 1, oldest).last(), Some(&1_999));
}

#[test]
fn after_a_failed_sync_nothing_is_accepted_and_nothing_tried_again() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk, small());
    declare(&log, 1);
    assert_eq!(publish(&log, 1, 1, &frame(0, 50)), Ok(0));
    // The next call is the write, the one after it the sync.
    disk.fail_at(disk.calls() + 2);
    let unknown = publish(&log, 1, 2, &frame(1, 50));
    assert!(matches!(unknown, Err(Failure::Failed(_))), "{unknown:?}");
    let calls = disk.calls();
    let refused = log.append(&[Entry::Topic { id: 1, value: b"" }], None);
    assert!(matches!(refused, Err(AppendError::Failed(_))), "{refused:?}");
    assert_eq!(numbers(&log, 1, 0), [0], "reads go on");
    assert!(log.status().failed.is_some());
    drop(log);
    assert_eq!(disk.calls(), calls, "nothing is written after a failure");
    disk.reboot(Crash::Forgets, &mut Random::seeded(1));
    let (log, _) = open(&disk, small());
    assert_eq!(publish(&log, 1, 2, &frame(1, 50)), Ok(1));
}

#[test]
fn retention_gives_up_messages_above_its_number_and_never_what_the_floor_protects() {
    let (log, _) = open(&SimDisk::default(), small());
    // Said before the declaration is durable, as an owner does that declares and goes on.
    log.set_retention(1, messages(10));
    log.set_floor(1, Some(5));
    declare(&log, 1);
    for number in 0..100 {
        publish(&log, 1, number + 1, &frame(number, 500)).unwrap();
    }
    wait_until(|| log.bounds(1).oldest == 5, &log);
    log.set_floor(1, None);
    wait_until(|| log.bounds(1).oldest == 90, &log);
    assert_eq!(log.read(1, 89, 10, &mut Vec::new()), Err(ReadError::Gone { oldest: 90 }));
}

#[test]
fn retention_by_bytes_and_by_age_keeps_at_least_what_it_says() {
    let (log, _) = open(&SimDisk::default(), small());
    for topic in [1, 2] {
        declare(&log, topic);
        for number in 0..1_000 {
            publish(&log, topic, number + 1, &frame(number, 500)).unwrap();
        }
    }
    log.set_retention(1, Retention { bytes: 100_000, ..Retention::default() });
    wait_until(|| log.bounds(1).oldest > 0, &log);
    let kept = 1_000 - log.bounds(1).oldest;
    assert!((200..450).contains(&kept), "{kept} of 500 bytes are kept, 200 are asked for");
    log.set_retention(2, Retention { age: Duration::from_micros(1), ..Retention::default() });
    wait_until(|| log.bounds(2).oldest == 1_000, &log);
    assert_eq!(log.bounds(2).next, 1_000);
}

/// Has retention looked at until `is_true`; that it never gets so is found by the test's time limit.
fn wait_until(is_true: impl Fn() -> bool, log: &Log) {
    let begun = std::time::Instant::now();
    while !is_true() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", log.status());
        log.set_retention(u32::MAX, Retention::default());
        std::thread::yield_now();
    }
}

#[test]
fn a_quiet_topic_keeps_its_messages_and_its_memory_of_them_while_a_busy_one_passes() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk, small());
    let session = [9; 16];
    let quiet = [
        Entry::Topic { id: 1, value: b"quiet" },
        Entry::Topic { id: 2, value: b"busy" },
        Entry::Stream { session, lane: 1, topic: 2, value: b"stream" },
        Entry::State { key: b"group", value: b"snapshot" },
        Entry::Delta { key: b"group", value: b"one" },
        Entry::Run { topic: 1, origin: origin(1), frames: 1, bytes: &frame(77, 300) },
    ];
    log.append(&quiet, None).unwrap();
    log.append(&[Entry::State { key: b"deleted", value: b"x" }], None).unwrap();
    log.append(&[Entry::State { key: b"deleted", value: b"" }], None).unwrap();
    log.set_retention(2, messages(20));
    for number in 0..1_500 {
        publish(&log, 2, number + 2, &frame(number, 1_000)).unwrap();
        if number % 500 == 0 {
            log.append(&[Entry::Delta { key: b"group", value: b"more" }], None).unwrap();
        }
    }
    wait_until(|| log.status().segments < 6 && log.status().segments_given_up > 15, &log);
    assert_eq!(numbers(&log, 1, 0), [77]);
    drop(log);
    disk.reboot(Crash::Forgets, &mut Random::seeded(2));
    let (log, recovered) = open(&disk, small());
    assert_eq!(numbers(&log, 1, 0), [77]);
    let state = &recovered.states[..];
    assert_eq!(state.len(), 1);
    assert_eq!((&state[0].snapshot[..], state[0].deltas.len()), (&b"snapshot"[..], 4));
    let stream = &recovered.streams[0];
    assert_eq!((&stream.value[..], stream.last_seq), (&b"stream"[..], 1_501));
    let answered: u64 = stream.answers.iter().map(|answer| answer.count).sum();
    assert_eq!(answered, 1_501, "answers outlive the messages");
    log.forget_stream(session, 1).unwrap();
    drop(log);
    assert_eq!(open(&disk, small()).1.streams, []);
}

#[test]
fn the_last_number_of_an_emptied_topic_is_not_given_again() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk, small());
    declare(&log, 1);
    declare(&log, 2);
    for number in 0..100 {
        publish(&log, 1, number + 1, &frame(number, 500)).unwrap();
    }
    log.set_retention(1, Retention { age: Duration::from_micros(1), ..Retention::default() });
    log.set_retention(2, messages(10));
    for number in 0..500 {
        publish(&log, 2, number + 1, &frame(number, 1_000)).unwrap();
    }
    wait_until(|| log.status().segments < 4, &log);
    drop(log);
    let (log, recovered) = open(&disk, small());
    assert_eq!((recovered.topics[0].oldest, recovered.topics[0].next), (100, 100));
    assert_eq!(publish(&log, 1, 101, &frame(1, 50)), Ok(100));
}

#[test]
fn the_offset_at_a_time_is_the_first_message_stored_since() {
    let (log, _) = open(&SimDisk::default(), small());
    declare(&log, 1);
    #[derive(Default)]
    struct Times(Mutex<Vec<u64>>);
    impl Listener for Times {
        fn committed(&self, record: Committed<'_>) {
            self.0.lock().unwrap().push(record.time_us);
        }
        fn failed(&self, why: Failure) {
            panic!("{why}");
        }
    }
    let times = Arc::new(Times::default());
    for number in 0..400 {
        let run = Entry::Run { topic: 1, origin: origin(number + 1), frames: 1, bytes: &frame(number, 700) };
        log.append(&[run], Some(times.clone())).unwrap();
        log.commit().unwrap();
    }
    let times = times.0.lock().unwrap().clone();
    for time_us in times.iter().copied().step_by(7) {
        let expected = times.partition_point(|stored| *stored < time_us) as u64;
        assert_eq!(log.offset_at(1, time_us), expected);
    }
    assert_eq!(log.offset_at(1, 0), 0);
    assert_eq!(log.offset_at(1, u64::MAX), 400);
}

#[test]
fn a_reader_is_never_told_wrong_while_segments_come_and_go() {
    let parent = tempfile::tempdir().unwrap();
    let mut config = small();
    config.prepares_ahead = true;
    config.bytes_max = 6 * config.segment_bytes;
    let (log, _) = Log::open(parent.path(), config).unwrap();
    declare(&log, 1);
    declare(&log, 2);
    publish(&log, 2, 1, &frame(5, 100)).unwrap();
    log.set_retention(1, messages(64));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 0..3_000 {
                publish(&log, 1, number + 1, &frame(number, 1_000)).unwrap();
            }
        });
        let mut reads = 0_u64;
        while !writer.is_finished() || reads == 0 {
            let oldest = log.bounds(1).oldest;
            match try_numbers(&log, 1, oldest) {
                Ok(read) => {
                    assert!((oldest..).zip(&read).all(|(expected, number)| expected == *number));
                    reads += 1;
                }
                Err(ReadError::Gone { oldest: newer }) => assert!(newer > oldest),
                Err(error) => panic!("{error}"),
            }
            assert_eq!(numbers(&log, 2, 0), [5]);
        }
    });
    assert!(log.status().segments_given_up > 10, "{:?}", log.status());
}

#[test]
fn listeners_hear_in_the_order_of_the_log() {
    struct Order(u64, Arc<Mutex<Vec<u64>>>);
    impl Listener for Order {
        fn committed(&self, record: Committed<'_>) {
            assert_eq!(record.runs().map(|run| run.first_offset).collect::<Vec<_>>(), [self.0]);
            self.1.lock().unwrap().push(self.0);
        }
        fn failed(&self, why: Failure) {
            panic!("{why}");
        }
    }
    let (log, _) = open(&SimDisk::default(), small());
    declare(&log, 1);
    let heard = Arc::default();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let run = Entry::Run { topic: 1, origin: origin(1), frames: 1, bytes: &frame(1, 80) };
                    let outcome = Arc::new(Outcome::default());
                    log.append(&[run], Some(outcome)).unwrap();
                }
            });
        }
    });
    log.commit().unwrap();
    for offset in 800..1_000 {
        let run = Entry::Run { topic: 1, origin: origin(1), frames: 1, bytes: &frame(1, 80) };
        log.append(&[run], Some(Arc::new(Order(offset, Arc::clone(&heard))))).unwrap();
    }
    log.commit().unwrap();
    assert_eq!(*heard.lock().unwrap(), (800..1_000).collect::<Vec<_>>());
}
