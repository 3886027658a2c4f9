//! Replays the fuzz targets' corpora, so that what fuzzing found stays found.
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
fn every_seed_of_the_stream_corpus_passes() {
    replay("stream", check::stream::check);
}

#[test]
fn every_seed_of_the_datagram_corpus_passes() {
    replay("datagram", check::datagram::check);
}

#[test]
fn every_seed_of_the_control_corpus_passes() {
    replay("control", check::control::check);
}

#[test]
fn every_seed_of_the_topic_corpus_passes() {
    replay("topic", check::topic::check);
}

#[test]
fn every_seed_of_the_message_corpus_passes() {
    replay("message", check::message::check);
}

#[test]
fn every_seed_of_the_session_corpus_passes() {
    replay("session", check::session::check);
}
