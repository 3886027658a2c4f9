//! Replays the corpora of the fuzz targets that read what clients send, so that what fuzzing found stays found.
#![allow(clippy::unwrap_used, reason = "the helpers of tests may unwrap as tests do")]

mod check;

use std::fs;
use std::path::Path;

fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut seeds = 0;
    for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        // Names the culprit if a check panics.
        eprintln!("{}", path.display());
        check(&fs::read(&path).unwrap());
        seeds += 1;
    }
    assert!(seeds > 0, "{} has no seeds", folder.display());
}

#[test]
fn every_seed_of_the_engine_io_corpus_passes() {
    replay("engine_io", check::engine_io::check);
}

#[test]
fn every_seed_of_the_socket_io_corpus_passes() {
    replay("socket_io", check::socket_io::check);
}

#[test]
fn every_seed_of_the_msgpack_corpus_passes() {
    replay("msgpack", check::msgpack::check);
}

#[test]
fn every_seed_of_the_websocket_corpus_passes() {
    replay("websocket", check::websocket::check);
}

#[test]
fn every_seed_of_the_native_events_corpus_passes() {
    replay("native_events", check::native_events::check);
}
