//! How the publisher of an open loop waits for the next due instant: the same for every system.
//!
//! A timer of the kernel wakes the publisher's runtime, which drives the client's connections meanwhile. Waking takes
//! tens of microseconds on a sleeping core, so by default the publisher wakes a little early and spins the rest, but
//! never for more than half an interval: on two cores a publisher that always spins would leave one to the server and
//! the subscribers.

use std::{os::fd::OwnedFd, time::Duration};

use anyhow::Result;
use clap::ValueEnum;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use serde::{Deserialize, Serialize};
use tokio::{io::unix::AsyncFd, task::yield_now};
use twinlane_bench::clock::now_ns;

/// How early the publisher wakes at most.
const LEAD_MAX: Duration = Duration::from_micros(50);

/// How to wait.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// Sleep until the instant; being woken late counts.
    Sleep,
    /// Sleep, but wake 50 µs (at most half an interval) early and spin the rest.
    #[default]
    Tail,
    /// Spin all the time: one core for the publisher alone.
    Spin,
}

/// A timer of the kernel on the current runtime.
#[derive(Debug)]
pub(super) struct Waiter {
    timer: AsyncFd<OwnedFd>,
    wait: Wait,
    lead_ns: u64,
}

impl Waiter {
    pub(super) fn new(wait: Wait, per_second: u64) -> Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let half_interval = Duration::from_secs(1) / u32::try_from(2 * per_second)?;
        let lead = if wait == Wait::Sleep { Duration::ZERO } else { LEAD_MAX.min(half_interval) };
        #[allow(deprecated, reason = "an owned descriptor stays valid; the replacement is unsafe")]
        let timer = AsyncFd::new(timer)?;
        Ok(Self { timer, wait, lead_ns: lead.as_nanos() as u64 })
    }

    /// Returns at `due_ns` or later, with the time.
    pub(super) async fn until(&self, due_ns: u64) -> Result<u64> {
        loop {
            let now = now_ns();
            if now >= due_ns {
                return Ok(now);
            }
            let far_ns = (due_ns - now).saturating_sub(self.lead_ns);
            if far_ns == 0 || self.wait == Wait::Spin {
                yield_now().await;
            } else {
                self.sleep(far_ns).await?;
            }
        }
    }

    async fn sleep(&self, left_ns: u64) -> Result<()> {
        const SECOND_NS: u64 = 1_000_000_000;
        let left = Timespec { tv_sec: (left_ns / SECOND_NS) as i64, tv_nsec: (left_ns % SECOND_NS) as i64 };
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec { it_interval: never, it_value: left };
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.timer.readable().await?;
            let expired = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut [0_u8; 8])?));
            if let Ok(expired) = expired {
                return Ok(expired.map(drop)?);
            }
        }
    }
}
