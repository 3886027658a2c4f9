//! Letting go of a gated cursor from outside, one sentence per test.
#![cfg(not(loom))]

mod common;

use common::{append, fill_to, ring};
use twinlane_ring::{AppendError, Gating, Read, Start};

#[test]
fn a_released_gate_lets_producers_on_and_the_cursor_is_told_what_it_missed() {
    let ring = ring(16, 4, 2, 0);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Gated);
    let gate = cursor.gate().expect("a gated cursor has one");
    while append(&ring, b"abcd").is_ok() {}
    assert_eq!(append(&ring, b"abcd"), Err(AppendError::Full));
    let before = ring.next();
    gate.release();
    assert!(gate.is_released());
    assert_eq!(append(&ring, b"abcd"), Ok(before));
    assert!(matches!(cursor.read(1), Read::Missed { from: 0, to } if to == ring.oldest()));
    assert!(matches!(cursor.read(1), Read::Run(run) if run.first_offset() == ring.oldest()));
    fill_to(&ring, before + 20);
    assert_eq!(ring.next(), before + 20, "reading on does not gate again");
}

#[test]
fn a_gate_outlives_its_cursor_without_touching_the_next_one() {
    let ring = ring(16, 4, 2, 0);
    let stale = ring.cursor(Start::Oldest, Gating::Gated).gate().expect("a gated cursor has one");
    let next = ring.cursor(Start::Oldest, Gating::Gated);
    stale.release();
    while append(&ring, b"abcd").is_ok() {}
    assert_eq!(append(&ring, b"abcd"), Err(AppendError::Full), "the next cursor still gates");
    drop(next);
    assert!(append(&ring, b"abcd").is_ok());
}

#[test]
fn a_lossy_cursor_has_no_gate() {
    assert!(ring(16, 4, 2, 0).cursor(Start::Oldest, Gating::Lossy).gate().is_none());
}
