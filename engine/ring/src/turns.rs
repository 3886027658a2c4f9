//! Whose turn it is: many leave work, one at a time does all of it, nobody waits and nothing stays undone.
//!
//! It knows only how much work there is. What the work is, and where it waits (in a ring, for instance), is its user's
//! business. The technique is flat combining (Hendler, Incze, Shavit, Tzafrir: Flat Combining and the
//! Synchronization-Parallelism Tradeoff, SPAA 2010), with a count in place of publication records.

use std::fmt;
use std::ops::{Deref, DerefMut};

use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering, fence};

/// A state that one at a time may change, and a count of the work that is to be done on it.
///
/// ```
/// use twinlane_ring::Turns;
///
/// let turns = Turns::new(0);
/// turns.leave(3);
/// turns.help(|sum, to| *sum += to, |()| ());
/// assert_eq!(*turns.take(), 3);
/// ```
pub struct Turns<T> {
    /// Work that there was so far.
    left: AtomicU64,
    /// Work done so far.
    done: AtomicU64,
    state: Mutex<T>,
}

/// The turn: the state is its holder's. Call [`Turns::help`] after letting go of it.
pub struct Turn<'a, T> {
    turns: &'a Turns<T>,
    state: MutexGuard<'a, T>,
}

impl<T> Turns<T> {
    /// With nothing to do.
    #[must_use]
    pub fn new(state: T) -> Self {
        Self { left: AtomicU64::new(0), done: AtomicU64::new(0), state: Mutex::new(state) }
    }

    /// Says that there is work up to `total`, counted from the beginning: all of it is there now. Call [`Self::help`] afterwards, or see to it that
    /// somebody does.
    pub fn leave(&self, total: u64) {
        self.left.fetch_max(total, Ordering::Release);
    }

    /// Work that nobody has done yet.
    #[must_use]
    pub fn undone(&self) -> u64 {
        self.left.load(Ordering::Acquire).saturating_sub(self.done.load(Ordering::Acquire))
    }

    /// Waits for the turn.
    pub fn take(&self) -> Turn<'_, T> {
        let state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Turn { turns: self, state }
    }

    /// Does what there is to do, unless somebody has the turn: that one does it before it is through. `work` is told up to
    /// where; what it returns goes to `afterwards` when nobody is kept from the turn any more.
    pub fn help<R>(&self, mut work: impl FnMut(&mut T, u64) -> R, mut afterwards: impl FnMut(R)) {
        loop {
            // Pairs with the fence of whoever else is here: either that one sees our work, or we find the turn free.
            fence(Ordering::SeqCst);
            if self.undone() == 0 {
                return;
            }
            let Some(mut turn) = self.try_take() else { return };
            let done = turn.catch_up(&mut work);
            drop(turn);
            done.into_iter().for_each(&mut afterwards);
            if cfg!(ring_mutant = "turn_left_early") {
                return;
            }
        }
    }

    fn try_take(&self) -> Option<Turn<'_, T>> {
        let state = match self.state.try_lock() {
            Ok(state) => state,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => return None,
        };
        Some(Turn { turns: self, state })
    }
}

impl<T> Turn<'_, T> {
    /// Does what there is to do now, if there is anything.
    pub fn catch_up<R>(&mut self, work: impl FnOnce(&mut T, u64) -> R) -> Option<R> {
        let to = self.turns.left.load(Ordering::Acquire);
        if to == self.turns.done.load(Ordering::Acquire) {
            return None;
        }
        let done = work(&mut self.state, to);
        self.turns.done.store(to, Ordering::Release);
        Some(done)
    }
}

impl<T> Deref for Turn<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.state
    }
}

impl<T> DerefMut for Turn<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.state
    }
}

impl<T> fmt::Debug for Turns<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").field("undone", &self.undone()).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Turn<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turn")
    }
}
