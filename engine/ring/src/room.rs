//! Where producers that met a full ring wait, and what the ring shares room with.
//!
//! Apart from the ring's own state, because a run that outlives its ring wakes them as well. It does
//! not know whether there is room: whoever is woken tries again.

use std::task::{Context, Waker};

use slab::Slab;

use crate::quota::Quota;
use crate::sync::{AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering};

pub(crate) struct Room {
    waiting: Mutex<Waiting>,
    /// How often something changed that may have made room.
    changes: AtomicU64,
    /// `changes` before the last look that found no room, or [`NEVER`].
    full_at: AtomicU64,
    /// Size of the frame that found no room last, until there is some. Only used under the directory's lock.
    refused_bytes: AtomicU32,
    quota: Option<Quota>,
}

const NEVER: u64 = u64::MAX;

#[derive(Default)]
struct Waiting {
    /// Futures that leave when dropped.
    keyed: Slab<Option<Waker>>,
    /// Callers without a place of their own; one entry per task.
    loose: Vec<Waker>,
}

impl Room {
    pub(crate) fn new(quota: Option<Quota>) -> Self {
        Self {
            waiting: Mutex::new(Waiting::default()),
            changes: AtomicU64::new(0),
            full_at: AtomicU64::new(NEVER),
            refused_bytes: AtomicU32::new(0),
            quota,
        }
    }

    pub(crate) fn quota(&self) -> Option<&Quota> {
        self.quota.as_ref()
    }

    /// A look found no room and nothing was announced since: appends may be refused without looking.
    pub(crate) fn is_full(&self) -> bool {
        self.full_at.load(Ordering::Relaxed) == self.changes.load(Ordering::Relaxed)
    }

    /// To be taken before a look for room, and given to [`found_full`](Self::found_full) after it.
    pub(crate) fn changes(&self) -> u64 {
        // Acquire: a change counted here is one that the look sees.
        self.changes.load(Ordering::Acquire)
    }

    /// The result of a look; under the directory's lock, so that looks do not overtake each other.
    pub(crate) fn found_full(&self, changes_before: Option<u64>) {
        self.full_at.store(changes_before.unwrap_or(NEVER), Ordering::Relaxed);
    }

    /// Size of the frame that found no room last; 0: there was some since.
    pub(crate) fn refused_bytes(&self) -> u32 {
        self.refused_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn set_refused_bytes(&self, frame_bytes: u32) {
        self.refused_bytes.store(frame_bytes, Ordering::Relaxed);
    }

    /// Wakes the task of `cx` at the next [`wake`](Self::wake).
    pub(crate) fn enter_loose(&self, cx: &Context<'_>) {
        let waker = cx.waker().clone();
        let mut waiting = self.lock();
        if waiting.loose.iter().any(|known| known.will_wake(&waker)) {
            // `waker` is dropped after the lock: dropping it may run the executor's code.
            drop(waiting);
        } else {
            waiting.loose.push(waker);
        }
    }

    /// As [`enter_loose`](Self::enter_loose) under a key, so that it can be taken back.
    pub(crate) fn enter(&self, key: &mut Option<usize>, cx: &Context<'_>) {
        let waker = Some(cx.waker().clone());
        let mut waiting = self.lock();
        let before = match *key {
            Some(key) => std::mem::replace(&mut waiting.keyed[key], waker),
            None => {
                *key = Some(waiting.keyed.insert(waker));
                None
            }
        };
        drop(waiting);
        drop(before);
    }

    pub(crate) fn leave(&self, key: usize) {
        let waker = self.lock().keyed.remove(key);
        drop(waker);
    }

    /// Something changed: wakes everybody who entered, and lets appends look again.
    pub(crate) fn wake(&self) {
        self.changes.fetch_add(1, Ordering::Release);
        let mut waiting = self.lock();
        let loose = std::mem::take(&mut waiting.loose);
        let keyed: Vec<_> = waiting.keyed.iter_mut().filter_map(|(_, waker)| waker.take()).collect();
        drop(waiting);
        loose.into_iter().chain(keyed).for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("nothing panics while it holds the waiting room")
    }
}
