//! How a thread waits for the other side: the same for every queue.

use std::hint::spin_loop;
use std::thread;

const SPINS_PER_YIELD: u32 = 128;

/// Spins first, then leaves the core to the other side.
#[derive(Default)]
pub(crate) struct Patience(u32);

impl Patience {
    #[inline]
    pub(crate) fn wait(&mut self) {
        self.0 += 1;
        if self.0.is_multiple_of(SPINS_PER_YIELD) { thread::yield_now() } else { spin_loop() }
    }
}
