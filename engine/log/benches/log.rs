//! Figures of the log beside those of the bare disk: committed messages, replay, opening.
//!
//! `cargo bench -p twinlane-log`. Files lie in the system's temporary directory; point `TMPDIR` at the disk that
//! is meant. What is read lies in the page cache: the figures are those of the log, not of a cold disk.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use twinlane_log::{Committed, Entry, Failure, Listener, Log, LogConfig, Origin};

const MESSAGE_BYTES: usize = 256;
const WINDOWS: [u64; 4] = [1, 32, 256, 1_024];
/// Messages of 64 B, each a record of its own.
const REPLAYED: u64 = 2_000_000;
const OPENED_BYTES: u64 = 1 << 30;

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500));
    targets = commit, raw, replay, open
}
criterion_main!(benches);

/// Messages per second that are durable, `window` of them outstanding.
fn commit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("commit");
    for window in WINDOWS {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let (log, _) = Log::open(&dir.path().join("log"), LogConfig::default()).expect("a new log opens");
        declare(&log);
        let frame = frame(MESSAGE_BYTES);
        let mut seq = 1;
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("window/{window}"), |bencher| {
            bencher.iter_custom(|messages| {
                let begun = Instant::now();
                pipeline(&log, &frame, &mut seq, messages, window);
                begun.elapsed()
            });
        });
    }
    group.finish();
}

/// The same bytes without a log: writes of 1,024 messages into prepared space, each followed by a sync.
fn raw(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("raw");
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let file = File::create_new(dir.path().join("raw")).expect("a file can be made");
    let (batch, file_bytes) = (vec![7; 1_024 * MESSAGE_BYTES], 64 << 20);
    let mut at = 0;
    while at < file_bytes {
        file.write_all_at(&batch, at).expect("there is space");
        at += batch.len() as u64;
    }
    file.sync_all().expect("the disk syncs");
    group.throughput(Throughput::Elements(1_024));
    group.bench_function("pwrite+fdatasync/1024", |bencher| {
        bencher.iter(|| {
            at = if at >= file_bytes { 0 } else { at };
            file.write_all_at(&batch, at).expect("there is space");
            file.sync_data().expect("the disk syncs");
            at += batch.len() as u64;
        });
    });
    group.finish();
}

fn replay(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let (log, _) = Log::open(&dir.path().join("log"), LogConfig::default()).expect("a new log opens");
    declare(&log);
    fill(&log, &frame(64), REPLAYED);
    let mut group = criterion.benchmark_group("replay");
    group.throughput(Throughput::Elements(REPLAYED));
    group.bench_function("64 B, pieces of 1 MiB", |bencher| {
        let mut frames = Vec::new();
        bencher.iter(|| {
            let mut next = 0;
            while next < REPLAYED {
                frames.clear();
                let run = log.read(1, next, 1 << 20, &mut frames).expect("the log can be read");
                black_box(&frames);
                next += u64::from(run.frames);
            }
        });
    });
    group.finish();
}

fn open(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let path = dir.path().join("log");
    {
        let (log, _) = Log::open(&path, LogConfig::default()).expect("a new log opens");
        declare(&log);
        let record_bytes = 32 + 56 + MESSAGE_BYTES as u64;
        fill(&log, &frame(MESSAGE_BYTES), OPENED_BYTES / record_bytes);
    }
    let mut group = criterion.benchmark_group("open");
    group.throughput(Throughput::Bytes(OPENED_BYTES));
    group.bench_function("1 GiB of 256 B messages", |bencher| {
        bencher.iter(|| open_once(&path));
    });
    group.finish();
}

fn open_once(path: &Path) {
    let (log, recovered) = Log::open(path, LogConfig::default()).expect("the log opens");
    assert!(recovered.report.records > 1_000_000);
    drop(log);
}

/// Hands its token back when the message is durable.
struct Token(Sender<()>);

impl Listener for Token {
    fn committed(&self, _: Committed<'_>) {
        // The bench ended.
        let _ = self.0.send(());
    }

    fn failed(&self, why: Failure) {
        panic!("{why}");
    }
}

fn pipeline(log: &Log, frame: &[u8], seq: &mut u64, messages: u64, window: u64) {
    let (token, tokens) = channel();
    let listener: Arc<dyn Listener> = Arc::new(Token(token));
    let mut outstanding = 0;
    for _ in 0..messages {
        if outstanding == window {
            tokens.recv().expect("the listener lives");
            outstanding -= 1;
            outstanding -= tokens.try_iter().count() as u64;
        }
        append(log, frame, *seq, Some(Arc::clone(&listener)));
        outstanding += 1;
        *seq += 1;
    }
    (0..outstanding).for_each(|_| tokens.recv().expect("the listener lives"));
}

fn fill(log: &Log, frame: &[u8], messages: u64) {
    for seq in 1..=messages {
        append(log, frame, seq, None);
        if seq % 10_000 == 0 {
            log.commit().expect("the disk writes");
        }
    }
    log.commit().expect("the disk writes");
}

fn append(log: &Log, frame: &[u8], seq: u64, listener: Option<Arc<dyn Listener>>) {
    let origin = Origin { session: [1; 16], lane: 1, first_seq: seq };
    let run = Entry::Run { topic: 1, origin, frames: 1, bytes: frame };
    log.append(&[run], listener).expect("the stage has room for a window");
}

fn declare(log: &Log) {
    let stream = Entry::Stream { session: [1; 16], lane: 1, topic: 1, value: b"bench" };
    log.append(&[Entry::Topic { id: 1, value: b"bench" }, stream], None).expect("the log takes it");
    log.commit().expect("the disk writes");
}

fn frame(bytes: usize) -> Vec<u8> {
    let mut frame = vec![7; bytes];
    frame[..4].copy_from_slice(&(bytes as u32).to_le_bytes());
    frame
}
