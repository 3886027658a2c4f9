//! What memory says that is new, or used again: nothing that was not stored in this use.
#![cfg(not(loom))]

mod common;

use common::{append, expect_run, ring};
use twinlane_ring::{Gating, Read, Start};

#[test]
fn a_new_segment_has_no_frames() {
    let ring = ring(64, 8, 2, 0);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
    append(&ring, b"a").expect("nobody gates");
    let run = expect_run(&mut cursor);
    assert_eq!((run.frames(), run.bytes()), (1, &b"a"[..]));
    assert!(matches!(cursor.read(usize::MAX), Read::Empty));
}

#[test]
fn frames_of_63_uses_ago_do_not_come_back() {
    let ring = ring(64, 8, 2, 0);
    // The first use of both segments writes every commit word, and each of the next 62 only the first two: those of
    // a frame and of the end behind it.
    let (small, large) = ([&b"old"[..]; 2 * 8], [&[7; 64][..]; 2 * 62]);
    for frame in small.iter().chain(&large) {
        append(&ring, frame).expect("nobody gates");
    }
    let mut cursor = ring.cursor(Start::Next, Gating::Lossy);
    for _ in 0..2 {
        append(&ring, b"new").expect("nobody gates");
    }
    let run = expect_run(&mut cursor);
    assert_eq!((run.frames(), run.bytes()), (2, &b"newnew"[..]));
    assert!(matches!(cursor.read(usize::MAX), Read::Empty));
}
