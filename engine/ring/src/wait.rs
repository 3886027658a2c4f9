//! How a reader waits: as a task, spinning, or as a parked thread.
//!
//! Only registration is here; whether a reader may sleep is decided in `core`.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::cursor::{Cursor, Next};
use crate::sync::{Parker, spin_loop, yield_now};

/// Looks between two readings of the clock.
const LOOKS_PER_CLOCK: u32 = 64;

impl Cursor {
    /// Ready if [`read`](Self::read) would not return [`Read::Empty`](crate::Read::Empty); else
    /// registers the waker. A cursor has one registration, the latest; dropping it removes that.
    ///
    /// Every commit after the registration wakes; it may also wake for nothing.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_readable() {
            return Poll::Ready(());
        }
        if self.core.sleep(self.position(), &mut self.sleeper, cx.waker().clone()) {
            return Poll::Pending;
        }
        if self.is_readable() {
            return Poll::Ready(());
        }
        // A producer is between claim and commit and claimed before it could see a sleeper. That is
        // shorter than any sleep, unless it was preempted: let others run and look again.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Waits until [`read`](Self::read) would not return [`Read::Empty`](crate::Read::Empty).
    ///
    /// Cancel-safe: it reads nothing.
    pub async fn readable(&mut self) {
        poll_fn(|cx| self.poll_readable(cx)).await;
    }

    /// Spins until readable, for at most that long; says whether it is. The lowest latency, and one
    /// core.
    pub fn spin_readable(&mut self, for_at_most: Duration) -> bool {
        let start = Instant::now();
        loop {
            for _ in 0..LOOKS_PER_CLOCK {
                if self.is_readable() {
                    return true;
                }
                spin_loop();
            }
            if for_at_most <= start.elapsed() {
                return self.is_readable();
            }
        }
    }

    /// Parks the thread until readable, for at most that long; says whether it is. Woken by the next
    /// commit; costs that producer one wake-up.
    pub fn park_readable(&mut self, for_at_most: Duration) -> bool {
        let start = Instant::now();
        let parked = Arc::new(Parked(Parker::new()));
        let waker = Waker::from(parked.clone());
        let mut cx = Context::from_waker(&waker);
        loop {
            if self.poll_readable(&mut cx).is_ready() {
                return true;
            }
            let left = for_at_most.saturating_sub(start.elapsed());
            if left.is_zero() {
                return self.is_readable();
            }
            parked.0.park(left);
            if self.is_readable() {
                return true;
            }
            // Woken by itself, it must give the unfinished producer its turn.
            yield_now();
        }
    }

    #[inline]
    fn is_readable(&mut self) -> bool {
        !matches!(self.place.look(&self.core), Next::Empty)
    }
}

struct Parked(Parker);

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
