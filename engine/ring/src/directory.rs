//! What a ring keeps under its lock: which segments are live, who gates them, who sleeps.
//!
//! Locked once per rotation, per segment a reader enters, and per sleep; never per frame. It does no
//! waiting and calls no waker.

use std::collections::VecDeque;
use std::task::Waker;

use slab::Slab;

use crate::cursor::Gating;

/// A segment whose frames are readable.
#[derive(Clone, Copy)]
pub(crate) struct Live {
    pub(crate) segment: usize,
    pub(crate) generation: u32,
    /// Offset of its first frame.
    pub(crate) base: u64,
}

#[derive(Default)]
pub(crate) struct Directory {
    /// Offset of the first frame that the ring ever gets.
    pub(crate) first: u64,
    /// Oldest first; the last one is where producers append.
    pub(crate) live: VecDeque<Live>,
    /// Out of the ring, but perhaps still held by a reader or an unfinished producer.
    pub(crate) retired: Vec<usize>,
    /// Per cursor that is not lossy the offset below which it has passed everything.
    pub(crate) gates: Slab<Passed>,
    pub(crate) next_gate: u64,
    /// Per cursor that ever slept.
    pub(crate) sleepers: Slab<Option<Waker>>,
    /// One past the last frame, once closed.
    pub(crate) closed_at: Option<u64>,
}

/// How far a gated or spared cursor has come.
#[derive(Debug)]
pub(crate) struct Passed {
    /// It has passed every offset below this one.
    pub(crate) below: u64,
    /// Never given to another cursor.
    pub(crate) serial: u64,
    gating: Gating,
    /// Spared no more, until it has caught up.
    is_overtaken: bool,
}

impl Passed {
    /// What a released cursor has passed: everything, for good.
    const RELEASED: u64 = u64::MAX;

    /// Producers wait for it.
    pub(crate) fn is_firm(&self) -> bool {
        self.gating == Gating::Gated
    }

    /// It would lose what lies below `base`, and is to be spared that.
    fn is_spared(&self, base: u64) -> bool {
        self.gating == Gating::Spared && !self.is_overtaken && self.below < base
    }

    /// It stands where producers append.
    pub(crate) fn caught_up(&mut self) {
        self.is_overtaken = false;
    }

    pub(crate) fn release(&mut self) {
        self.below = Self::RELEASED;
    }

    /// The cursor stands at `position` now; returns where it stood.
    pub(crate) fn move_to(&mut self, position: u64) -> u64 {
        let before = self.below;
        if before != Self::RELEASED {
            self.below = position;
        }
        before
    }
}

impl Directory {
    /// A gate for a cursor that stands at `position`.
    pub(crate) fn add_gate(&mut self, position: u64, gating: Gating) -> usize {
        let serial = self.next_gate;
        self.next_gate += 1;
        self.gates.insert(Passed { below: position, serial, gating, is_overtaken: false })
    }

    pub(crate) fn oldest(&self) -> u64 {
        self.live.front().map_or(self.first, |live| live.base)
    }

    /// The live segment for `offset`: for an offset past the end that is the newest one.
    pub(crate) fn find(&self, offset: u64) -> Option<Live> {
        self.live.iter().rev().find(|live| live.base <= offset).copied()
    }

    /// There is a gated cursor.
    pub(crate) fn is_gated(&self) -> bool {
        self.gates.iter().any(|(_, passed)| passed.is_firm())
    }

    /// No gated cursor still needs the oldest segment.
    pub(crate) fn is_oldest_passed(&self) -> bool {
        let next_base = self.second_base();
        let needs = |passed: &Passed| passed.is_firm() && passed.below < next_base;
        cfg!(ring_mutant = "gate_ignored") || !self.gates.iter().any(|(_, passed)| needs(passed))
    }

    /// A cursor that is spared still needs the oldest segment.
    pub(crate) fn is_oldest_spared(&self) -> bool {
        let next_base = self.second_base();
        !cfg!(ring_mutant = "nothing_lent")
            && self.gates.iter().any(|(_, passed)| passed.is_spared(next_base))
    }

    /// The oldest segment leaves the ring: spared cursors that stand in it are overtaken.
    pub(crate) fn pop_oldest(&mut self) -> Option<Live> {
        let next_base = self.second_base();
        let overtaken = self.gates.iter_mut().filter(|(_, passed)| passed.is_spared(next_base));
        overtaken.for_each(|(_, passed)| passed.is_overtaken = true);
        self.live.pop_front()
    }

    fn second_base(&self) -> u64 {
        self.live.get(1).map_or(u64::MAX, |live| live.base)
    }

    /// Takes up to a batch of wakers at `*from` or above and moves `*from` past them; `false` when
    /// none is left.
    pub(crate) fn take_sleepers(&mut self, from: &mut usize, batch: &mut [Option<Waker>]) -> bool {
        let mut places = batch.iter_mut();
        for (key, waker) in self.sleepers.iter_mut().filter(|&(key, _)| *from <= key) {
            if waker.is_none() {
                continue;
            }
            let Some(place) = places.next() else {
                *from = key;
                return true;
            };
            *place = waker.take();
        }
        false
    }
}
