//! Letting go of a gated cursor from outside: for a ring's owner whose reader does not read.
//!
//! Releasing changes nothing for the reader but that producers no longer wait for it.

use std::fmt;

use crate::core::Core;
use crate::cursor::{Cursor, Gating};
use crate::directory::Passed;
use crate::sync::{Arc, AtomicBool, Ordering};

/// The hold that one gated cursor has on its ring. Outlives the cursor harmlessly.
pub struct Gate {
    core: Arc<Core>,
    key: usize,
    serial: u64,
    is_released: AtomicBool,
}

impl Gate {
    /// Producers wait for the cursor no longer: from now on it is a lossy one, and is told what it misses.
    /// Wakes producers that wait for room. Does nothing once released, or after the cursor was dropped.
    pub fn release(&self) {
        self.is_released.store(true, Ordering::Release);
        let mut directory = self.core.lock();
        // The key may belong to a later cursor by now; its serial never does.
        let hold = directory.gates.get_mut(self.key).filter(|passed| passed.serial == self.serial);
        hold.into_iter().for_each(Passed::release);
        drop(directory);
        self.core.room.wake();
    }

    /// Whether [`Self::release`] was called.
    #[must_use]
    pub fn is_released(&self) -> bool {
        self.is_released.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("is_released", &self.is_released()).finish_non_exhaustive()
    }
}

impl Cursor {
    /// The hold that this cursor has on producers; `None` if it has none, because they may overtake it.
    #[must_use]
    pub fn gate(&self) -> Option<Gate> {
        let key = self.place.gate().filter(|_| self.gating == Gating::Gated)?;
        let serial = self.core.lock().gates[key].serial;
        Some(Gate { core: self.core.clone(), key, serial, is_released: AtomicBool::new(false) })
    }
}
