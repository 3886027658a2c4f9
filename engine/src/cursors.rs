//! A set of ring cursors that one task reads: whoever has something to read gets its turn, round robin.
//!
//! Stream writers, datagram writers and local subscriptions are all this set with another sink. It never looks
//! into frames. A sleeping cursor costs nothing until its ring wakes it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use atomic_waker::AtomicWaker;
use bytes::Bytes;
use crossbeam_queue::SegQueue;

use crate::fast::ticks_us;
use crate::lock::lock;
use crate::message::TopicRun;
use crate::topic_cursor::{TopicCursor, TopicRead};
use crate::topics::last::LastValues;

/// Bytes that a cursor may have of a turn while others wait for theirs. Larger ones cost hardly less; with a thousand
/// topics behind, each of them waits for the others' turns.
const SHARED_TURN_BYTES: usize = 16 << 10;

/// Bytes that the other side still takes. Shared between who reads the cursor and who hears of more.
///
/// A grant wakes the cursor that waits longest; whoever had a turn and leaves something wakes the next one. Waking all
/// of them for what serves a few cost a thousand topics a tenth of their time. So all cursors of one credit are in
/// the same set, which sees to it that none of them keeps what it was woken for to itself.
pub(crate) struct Credit {
    bytes: AtomicI64,
    waiting: Mutex<VecDeque<Waker>>,
    /// Spares the lock where nobody waits. Only the set's task makes it true.
    is_awaited: AtomicBool,
}

impl Credit {
    pub(crate) fn new(bytes: u64) -> Arc<Self> {
        let bytes = AtomicI64::new(i64::try_from(bytes).unwrap_or(i64::MAX));
        Arc::new(Self { bytes, waiting: Mutex::default(), is_awaited: AtomicBool::new(false) })
    }

    /// The other side takes `bytes` more.
    pub(crate) fn add(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        // The sender checks that its total stays within 63 bits: an absurd grant saturates.
        let _ = self
            .bytes
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |had| Some(had.saturating_add(bytes)));
        self.wake_next();
    }

    fn available(&self) -> Option<i64> {
        Some(self.bytes.load(Ordering::Acquire)).filter(|bytes| *bytes > 0)
    }

    /// What may be sent, or one frame if that is larger; `None`: `waker` is woken when there is more.
    fn left(&self, waker: &Waker) -> Option<i64> {
        self.available().or_else(|| {
            let mut waiting = lock(&self.waiting);
            // More may have come: who adds it finds the waker there or has added it by now.
            self.available().or_else(|| {
                waiting.push_back(waker.clone());
                self.is_awaited.store(true, Ordering::Relaxed);
                None
            })
        })
    }

    fn spend(&self, bytes: usize) {
        let _ = self.bytes.fetch_sub(bytes as i64, Ordering::AcqRel);
    }

    /// After a turn: what is left is the next one's.
    fn hand_on(&self) {
        if self.is_awaited.load(Ordering::Relaxed) && self.available().is_some() {
            self.wake_next();
        }
    }

    /// Its cursor leaves the set, with or without the turn it was woken for.
    fn forget(&self, waker: &Waker) {
        lock(&self.waiting).retain(|waiting| !waiting.will_wake(waker));
        self.hand_on();
    }

    fn wake_next(&self) {
        let next = {
            let mut waiting = lock(&self.waiting);
            let next = waiting.pop_front();
            self.is_awaited.store(!waiting.is_empty(), Ordering::Relaxed);
            next
        };
        next.inspect(Waker::wake_by_ref);
    }
}

/// What a turn of one cursor brought.
pub(crate) enum Step {
    Run(TopicRun),
    /// Frames that cannot be read any more, or were given up by their publisher.
    Missed {
        from: u64,
        to: u64,
    },
    /// The ring is closed and read to its end; the cursor leaves the set with this.
    Closed,
}

/// A set of cursors, each with a tag of the owner's choice.
pub(crate) struct Cursors<T> {
    slots: Vec<Option<Slot<T>>>,
    free: Vec<u32>,
    turns: VecDeque<u32>,
    /// Those of fast topics that had a step since somebody asked, each once.
    touched: Vec<u32>,
    /// How long what is read now will be under way.
    way_us: u32,
    /// `None` until there is a cursor: a connection has two sets, and one of them most often stays empty.
    ready: Option<Arc<ReadyQueue>>,
}

struct Slot<T> {
    cursor: TopicCursor,
    tag: T,
    is_touched: bool,
    credit: Option<Arc<Credit>>,
    turn: Arc<Turn>,
    waker: Waker,
}

/// Cursors woken by others, until the set's owner looks.
#[derive(Default)]
struct ReadyQueue {
    keys: SegQueue<u32>,
    owner: AtomicWaker,
}

/// One cursor's place in the queue; at most one.
struct Turn {
    key: u32,
    queued: AtomicBool,
    ready: Arc<ReadyQueue>,
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.ready.keys.push(self.key);
            self.ready.owner.wake();
        }
    }
}

impl<T> Cursors<T> {
    pub(crate) fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            turns: VecDeque::new(),
            touched: Vec::new(),
            way_us: 0,
            ready: None,
        }
    }

    /// Adds a cursor; it gets a turn at once. With `credit` it reads only what the other side takes.
    pub(crate) fn insert(&mut self, cursor: TopicCursor, tag: T, credit: Option<Arc<Credit>>) -> u32 {
        let key = self.free.pop().unwrap_or_else(|| {
            // Most sets have one cursor, and a vector would begin with room for four.
            if self.slots.is_empty() {
                self.slots.reserve_exact(1);
            }
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        let ready = Arc::clone(self.ready.get_or_insert_default());
        let turn = Arc::new(Turn { key, queued: AtomicBool::new(true), ready });
        let waker = Waker::from(Arc::clone(&turn));
        self.slots[key as usize] = Some(Slot { cursor, tag, is_touched: false, credit, turn, waker });
        self.turns.push_back(key);
        key
    }

    pub(crate) fn remove(&mut self, key: u32) -> Option<T> {
        Some(self.take(key)?.1)
    }

    pub(crate) fn keys(&self, mut chosen: impl FnMut(&T) -> bool) -> Vec<u32> {
        let slots = self.slots.iter().enumerate();
        slots
            .filter(|(_, slot)| slot.as_ref().is_some_and(|slot| chosen(&slot.tag)))
            .map(|(key, _)| key as u32)
            .collect()
    }

    /// Takes a cursor out with all that is needed to put it into another set.
    pub(crate) fn take(&mut self, key: u32) -> Option<(TopicCursor, T, Option<Arc<Credit>>)> {
        let slot = self.slots.get_mut(key as usize)?.take()?;
        // A late wake of the old cursor may give the key's next owner a turn for nothing; that is harmless.
        self.free.push(key);
        self.turns.retain(|turn| *turn != key);
        slot.credit.as_ref().inspect(|credit| credit.forget(&slot.waker));
        Some((slot.cursor, slot.tag, slot.credit))
    }

    /// What is read from now on will be under way so long.
    pub(crate) fn set_way(&mut self, way: Duration) {
        self.way_us = u32::try_from(way.as_micros()).unwrap_or(u32::MAX);
    }

    /// The moment that deadlines of what this cursor reads now are compared with.
    pub(crate) fn arrival_us(&self, key: u32) -> u32 {
        self.cursor(key).map_or_else(ticks_us, TopicCursor::arrival_us)
    }

    /// How far this cursor's topic was read, if nothing of it waits.
    pub(crate) fn sent_through(&self, key: u32) -> Option<u64> {
        self.cursor(key)?.read_through()
    }

    /// Offsets in `range` of the values that are the newest of their keys.
    pub(crate) fn newest_within(&self, key: u32, range: Range<u64>) -> Vec<u64> {
        self.newest(key).map_or_else(Vec::new, |newest| newest.offsets_within(range))
    }

    /// Those of `offsets` whose values are the newest of their keys.
    pub(crate) fn newest_among(&self, key: u32, offsets: &[u64]) -> Vec<u64> {
        self.newest(key).map_or_else(Vec::new, |newest| newest.offsets_among(offsets))
    }

    /// The value at `offset`, if it is the newest of its key.
    pub(crate) fn newest_at(&self, key: u32, offset: u64) -> Option<(&T, Bytes)> {
        let value = self.newest(key)?.at(offset)?;
        Some((self.tag(key), value))
    }

    fn newest(&self, key: u32) -> Option<&LastValues> {
        self.cursor(key)?.newest()
    }

    /// The newest values from offset `from` on are read once more.
    pub(crate) fn read_again(&mut self, key: u32, from: u64) {
        if let Some(slot) = &mut self.slots[key as usize] {
            slot.cursor.read_again(from);
        }
    }

    fn cursor(&self, key: u32) -> Option<&TopicCursor> {
        Some(&self.slots.get(key as usize)?.as_ref()?.cursor)
    }

    pub(crate) fn tag(&self, key: u32) -> &T {
        &self.slots[key as usize].as_ref().expect("the key is of a cursor in the set").tag
    }

    /// One of the cursors of fast topics that had a step since they were asked for last; `None`: that was all of them.
    pub(crate) fn take_touched(&mut self) -> Option<&T> {
        let slots = &mut self.slots;
        let key = std::iter::from_fn(|| self.touched.pop()).find(|key| slots[*key as usize].is_some())?;
        let slot = slots[key as usize].as_mut()?;
        slot.is_touched = false;
        Some(&slot.tag)
    }

    /// The next cursor's next step, at most `bytes_max` unless one frame is larger. `Pending`: nobody has any;
    /// `cx` is woken when that changes. Cancel-safe.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>, bytes_max: usize) -> Poll<(u32, Step)> {
        let mut registered = false;
        loop {
            // Without cursors there is nobody to wake `cx`: who inserts the first one polls again, as for any other.
            let Some(ready) = &self.ready else { return Poll::Pending };
            while let Some(key) = ready.keys.pop() {
                self.turns.push_back(key);
            }
            let Some(key) = self.turns.pop_front() else {
                if registered {
                    return Poll::Pending;
                }
                ready.owner.register(cx.waker());
                registered = true;
                continue;
            };
            let is_alone = self.turns.is_empty();
            let bytes_max = if is_alone { bytes_max } else { bytes_max.min(SHARED_TURN_BYTES) };
            if let Some(step) = self.turn(key, bytes_max) {
                return Poll::Ready((key, step));
            }
        }
    }

    /// One cursor's turn. `None`: it has nothing and waits.
    fn turn(&mut self, key: u32, bytes_max: usize) -> Option<Step> {
        let step = self.read(key, bytes_max);
        let slot = self.slots.get(key as usize).and_then(Option::as_ref);
        if let Some(credit) = slot.and_then(|slot| slot.credit.as_ref()) {
            credit.hand_on();
        }
        step
    }

    /// The turn itself, without a thought for those who wait for the same credit.
    fn read(&mut self, key: u32, bytes_max: usize) -> Option<Step> {
        let slot = self.slots.get_mut(key as usize)?.as_mut()?;
        slot.turn.queued.store(false, Ordering::Release);
        let mut allowance = bytes_max;
        if let Some(credit) = &slot.credit {
            // More credit brings the next turn.
            let available = credit.left(&slot.waker)?;
            allowance = allowance.min(usize::try_from(available).unwrap_or(usize::MAX));
        }
        slot.cursor.set_way_us(self.way_us);
        let step = match slot.cursor.poll_read(&mut Context::from_waker(&slot.waker), allowance) {
            Poll::Pending => return None,
            Poll::Ready(TopicRead::Closed) => return Some(Step::Closed),
            Poll::Ready(TopicRead::Missed { from, to }) => Step::Missed { from, to },
            Poll::Ready(TopicRead::Run(run)) => {
                if let Some(credit) = &slot.credit {
                    credit.spend(run.bytes().len());
                }
                // To be visited once more only to find nothing would cost as much as a small message does.
                if slot.cursor.sleeps(&mut Context::from_waker(&slot.waker)) {
                    return Some(Step::Run(run));
                }
                Step::Run(run)
            }
        };
        if slot.cursor.may_leave_out() && !std::mem::replace(&mut slot.is_touched, true) {
            self.touched.push(key);
        }
        self.requeue(key);
        Some(step)
    }

    fn requeue(&mut self, key: u32) {
        let slot = self.slots[key as usize].as_ref().expect("a cursor that had its turn is in the set");
        if !slot.turn.queued.swap(true, Ordering::AcqRel) {
            self.turns.push_back(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use twinlane_ring::{Gating, Ring, RingConfig, Start};

    use super::*;

    const FRAME_BYTES: usize = 1 << 10;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct Set {
        rings: Vec<Ring>,
        cursors: Cursors<usize>,
        wakes: Arc<Wakes>,
    }

    impl Set {
        fn of(rings_count: usize) -> Self {
            Self::within(rings_count, None)
        }

        /// All of them share the credit.
        fn within(rings_count: usize, credit: Option<&Arc<Credit>>) -> Self {
            let ring = || Ring::new(RingConfig::default()).expect("the default is consistent");
            let rings: Vec<_> = (0..rings_count).map(|_| ring()).collect();
            let mut cursors = Cursors::new();
            for (tag, ring) in rings.iter().enumerate() {
                cursors.insert(ring.cursor(Start::Next, Gating::Lossy).into(), tag, credit.cloned());
            }
            let mut set = Self { rings, cursors, wakes: Arc::default() };
            assert_eq!(set.next(usize::MAX), None, "nothing was appended yet");
            // Past the ring's first segments, which are small.
            for ring in 0..rings_count {
                set.append(ring, 1_000);
                while set.next(usize::MAX).is_some() {}
            }
            set
        }

        fn append(&self, ring: usize, frames: usize) {
            for _ in 0..frames {
                self.rings[ring].append(&[&[7; FRAME_BYTES]], |_, _| {}).expect("there is room");
            }
        }

        /// The tag and the frames of the next run.
        fn next(&mut self, bytes_max: usize) -> Option<(usize, usize)> {
            let waker = Waker::from(Arc::clone(&self.wakes));
            match self.cursors.poll_next(&mut Context::from_waker(&waker), bytes_max) {
                Poll::Ready((key, Step::Run(run))) => Some((*self.cursors.tag(key), run.frames())),
                Poll::Ready(_) => panic!("nothing is missed or closed"),
                Poll::Pending => None,
            }
        }
    }

    #[test]
    fn a_cursor_takes_short_turns_while_others_wait_and_long_ones_alone() {
        let mut set = Set::of(2);
        set.append(0, 40);
        assert_eq!(set.next(64 << 10), Some((0, 40)), "nobody else waits");
        set.append(0, 40);
        set.append(1, 40);
        let frames = SHARED_TURN_BYTES / FRAME_BYTES;
        let turns: Vec<_> = std::iter::from_fn(|| set.next(64 << 10)).collect();
        assert_eq!(turns, [(0, frames), (1, frames), (0, frames), (1, frames), (0, 8), (1, 8)]);
    }

    #[test]
    fn a_cursor_that_was_read_to_its_end_sleeps_at_once_and_is_woken_by_what_follows() {
        let mut set = Set::of(2);
        set.append(0, 1);
        assert_eq!(set.next(usize::MAX), Some((0, 1)));
        assert!(set.cursors.turns.is_empty(), "it is not visited again to find nothing");
        assert_eq!(set.next(usize::MAX), None);
        let wakes = set.wakes.0.load(Ordering::Relaxed);
        set.append(0, 2);
        assert_eq!(set.wakes.0.load(Ordering::Relaxed), wakes + 1);
        assert_eq!(set.next(usize::MAX), Some((0, 2)));
    }

    /// Four cursors that share a credit which is used up, each with 32 frames to read.
    fn waiting_for_credit() -> (Arc<Credit>, Set) {
        let credit = Credit::new(u64::MAX);
        let mut set = Set::within(4, Some(&credit));
        credit.bytes.store(0, Ordering::Relaxed);
        (0..4).for_each(|ring| set.append(ring, 32));
        assert_eq!(set.next(usize::MAX), None, "there is no credit");
        (credit, set)
    }

    #[test]
    fn credit_for_a_few_turns_wakes_a_few_of_the_cursors_that_wait_for_it() {
        let (credit, mut set) = waiting_for_credit();
        let wakes = set.wakes.0.load(Ordering::Relaxed);
        credit.add(1);
        assert_eq!(set.wakes.0.load(Ordering::Relaxed), wakes + 1);
        assert_eq!(set.next(usize::MAX), Some((0, 1)), "a frame is larger than the credit");
        assert_eq!(set.next(usize::MAX), None);
        assert_eq!(lock(&credit.waiting).len(), 4, "the others were left alone");
    }

    #[test]
    fn what_a_turn_leaves_of_a_credit_is_the_next_cursors() {
        let (credit, mut set) = waiting_for_credit();
        credit.add(4 * 32 * FRAME_BYTES as u64);
        let mut frames = [0; 4];
        while let Some((tag, read)) = set.next(usize::MAX) {
            frames[tag] += read;
        }
        assert_eq!(frames, [32; 4]);
    }

    #[test]
    fn small_grants_go_to_every_cursor_in_turn() {
        let (credit, mut set) = waiting_for_credit();
        let mut frames = [0; 4];
        for _ in 0..4 * 8 {
            credit.add(FRAME_BYTES as u64);
            while let Some((tag, read)) = set.next(usize::MAX) {
                frames[tag] += read;
            }
        }
        assert_eq!(frames, [8; 4]);
    }

    #[test]
    fn a_cursor_that_leaves_keeps_no_credit_from_those_that_wait() {
        for is_woken in [false, true] {
            let (credit, mut set) = waiting_for_credit();
            if is_woken {
                credit.add(16 * FRAME_BYTES as u64);
                assert!(set.cursors.remove(0).is_some());
            } else {
                assert!(set.cursors.remove(0).is_some());
                credit.add(16 * FRAME_BYTES as u64);
            }
            assert_eq!(set.next(usize::MAX), Some((1, 16)), "{is_woken}");
        }
    }
}
