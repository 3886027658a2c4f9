//! What a ring promises a reader that may lag for a moment.
#![cfg(not(loom))]

mod common;

use common::{drain, expect_run, fill_to, ring};
use twinlane_ring::{Gating, Read, Start};

#[test]
fn a_spared_reader_that_lags_is_lent_the_spare_segments_and_overtaken_only_then() {
    let ring = ring(4, 4, 2, 3);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Spared);
    fill_to(&ring, 20);
    assert_eq!(ring.oldest(), 0, "two segments and three spare ones");
    fill_to(&ring, 21);
    let Read::Missed { from: 0, to: 4 } = cursor.read(1) else { panic!("the oldest segment is used again") };
    assert!(cursor.gate().is_none(), "producers do not wait for it");
}

#[test]
fn a_spared_reader_that_follows_at_a_distance_of_the_spare_segments_misses_nothing() {
    let ring = ring(4, 4, 2, 3);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Spared);
    for offset in 0..100 {
        fill_to(&ring, offset + 16);
        let Read::Run(run) = cursor.read(1) else { panic!("frame {offset} was overwritten") };
        assert_eq!((run.first_offset(), run.frames()), (offset, 1));
    }
}

#[test]
fn what_a_spared_reader_was_lent_comes_back_one_by_one_and_is_lent_again_once_it_has_caught_up() {
    let ring = ring(4, 4, 2, 3);
    let mut cursor = ring.cursor(Start::Oldest, Gating::Spared);
    fill_to(&ring, 21);
    for (next, oldest) in [(25, 12), (29, 20), (33, 28), (37, 32), (41, 36)] {
        fill_to(&ring, next);
        assert_eq!(ring.oldest(), oldest, "the reader, overtaken at 21, is not spared at {next}");
    }
    assert!(matches!(cursor.read(1), Read::Missed { from: 0, to: 36 }));
    assert_eq!(drain(&mut cursor).len(), 5);
    fill_to(&ring, 56);
    assert_eq!(drain(&mut cursor).len(), 15, "it had caught up");
}

#[test]
fn what_a_spared_reader_was_lent_comes_back_before_an_append_is_refused() {
    let ring = ring(4, 4, 2, 2);
    let mut holding = ring.cursor(Start::Oldest, Gating::Lossy);
    let lagging = ring.cursor(Start::Oldest, Gating::Spared);
    fill_to(&ring, 16);
    assert_eq!(ring.oldest(), 0);
    let held: Vec<_> = (0..2).map(|_| expect_run(&mut holding)).collect();
    fill_to(&ring, 24);
    assert_eq!(
        ring.oldest(),
        16,
        "the held segments left the ring, and what is live is as much as without lending"
    );
    assert_eq!(held.iter().map(twinlane_ring::Run::frames).sum::<usize>(), 8);
    drop((lagging, held));
}
