//! Wakes a task at an instant of [`crate::clock`] to within microseconds, and leaves the core to others until shortly before.
//!
//! The runtime's own timers count milliseconds; spinning is exact, but takes a core from everybody else in a run of
//! several contenders. For a few thousand instants a second: each costs a timer's system calls.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::{io::unix::AsyncFd, task::yield_now};

use crate::clock::now_ns;

/// So long before the instant the alarm goes off: the rest is spun.
const EARLY: Duration = Duration::from_micros(50);

pub(crate) struct Alarm {
    timer: AsyncFd<OwnedFd>,
}

impl Alarm {
    /// An alarm of the current runtime.
    #[expect(deprecated, reason = "its successor is unsafe, and an OwnedFd is what that asks for")]
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self { timer: AsyncFd::new(timerfd_create(TimerfdClockId::Monotonic, flags)?)? })
    }

    /// Waits until `due_ns`, or not at all if that is over.
    pub(crate) async fn wait_until(&self, due_ns: u64) -> io::Result<()> {
        while let Some(left_ns) = due_ns.checked_sub(now_ns()).filter(|left_ns| *left_ns > 0) {
            match Duration::from_nanos(left_ns).checked_sub(EARLY).filter(|far| !far.is_zero()) {
                Some(far) => self.sleep(far).await?,
                None => yield_now().await,
            }
        }
        Ok(())
    }

    async fn sleep(&self, duration: Duration) -> io::Result<()> {
        let once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let it_value = Timespec::try_from(duration).map_err(io::Error::other)?;
        timerfd_settime(
            self.timer.get_ref(),
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: once, it_value },
        )?;
        let mut readable = self.timer.readable().await?;
        // Setting the timer again takes back that it went off; only the reactor has to be told.
        readable.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_goes_off_at_each_instant_and_not_before() {
        let alarm = Alarm::new().unwrap();
        let start = now_ns();
        for wait in [0, 20_000, 300_000, 2_000_000, 1_000] {
            let due = start + wait;
            alarm.wait_until(due).await.unwrap();
            assert!(now_ns() >= due);
        }
    }
}
