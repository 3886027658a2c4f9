//! The thread between the two devices: reads packets, lets the pipes decide, and writes what has arrived.

use std::{
    num::NonZeroU64,
    os::fd::{AsFd as _, OwnedFd},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    process::setpriority_process,
    thread::{gettid, set_current_timer_slack},
};
use tun_rs::SyncDevice;

use crate::{counts::Counts, lab::LabError, link::Link, pipe::Pipe};

/// Room for the largest packet that a device hands over.
const PACKET_BYTES_MAX: usize = 64 << 10;
/// Packets read from one device before the other one has its turn.
const TURN_PACKETS: usize = 64;
/// The last part of a wait is spent awake: waking up takes about as long.
const AWAKE: Duration = Duration::from_micros(60);
/// A wait is never longer, whatever is due.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// How long a device that does not work is left alone.
const BROKEN: Duration = Duration::from_millis(1);
/// The most favoured that a thread can be.
const NICE: i32 = -20;
/// Above every ordinary thread, below the kernel's own.
const REAL_TIME_PRIORITY: &str = "10";

/// What the thread and the lab share.
pub(crate) struct Relay {
    pipes: Mutex<Pipes>,
    ended: AtomicBool,
    wake: OwnedFd,
}

/// Both directions and the link that they have.
struct Pipes {
    link: Link,
    up: Pipe,
    down: Pipe,
}

/// The devices of both sides.
pub(crate) struct Devices {
    pub(crate) left: SyncDevice,
    pub(crate) right: SyncDevice,
}

impl Relay {
    pub(crate) fn new(link: Link, seed: u64) -> Result<Arc<Self>, LabError> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = wake.map_err(|errno| LabError::Thread(errno.into()))?;
        // Two directions that lost the same packets would be one.
        let pipes = Pipes { link, up: Pipe::new(link.up, seed), down: Pipe::new(link.down, !seed) };
        Ok(Arc::new(Self { pipes: Mutex::new(pipes), ended: AtomicBool::new(false), wake }))
    }

    pub(crate) fn link(&self) -> Link {
        self.pipes().link
    }

    pub(crate) fn set(&self, link: Link) {
        let mut pipes = self.pipes();
        pipes.link = link;
        pipes.up.set(link.up);
        pipes.down.set(link.down);
    }

    pub(crate) fn counts(&self) -> Counts {
        let pipes = self.pipes();
        Counts { up: pipes.up.counts(), down: pipes.down.counts() }
    }

    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        // The only way to fail is that it is awake already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Carries packets until [`Self::end`].
    pub(crate) fn run(&self, devices: &Devices) {
        be_exact();
        let epoch = Instant::now();
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        while !self.ended.load(Ordering::Acquire) {
            let mut pipes = self.pipes();
            let taken = take(&devices.right, &mut pipes.up, epoch, &mut buffer)
                | take(&devices.left, &mut pipes.down, epoch, &mut buffer);
            deliver(&devices.left, &mut pipes.up, epoch);
            deliver(&devices.right, &mut pipes.down, epoch);
            let due = [pipes.up.next_due_ns(), pipes.down.next_due_ns()];
            drop(pipes);
            if !taken {
                let due = due.into_iter().flatten().min().map(|ns| epoch + Duration::from_nanos(ns));
                self.wait(devices, due);
            }
        }
    }

    /// Waits until a packet is sent or the next one is due.
    fn wait(&self, devices: &Devices, due: Option<Instant>) {
        let left = due.map_or(WAIT_MAX, |due| due.saturating_duration_since(Instant::now()));
        if let Some(asleep) = left.min(WAIT_MAX).checked_sub(AWAKE) {
            let timeout =
                Timespec { tv_sec: asleep.as_secs() as i64, tv_nsec: i64::from(asleep.subsec_nanos()) };
            let fds = [devices.left.as_fd(), devices.right.as_fd(), self.wake.as_fd()];
            let mut fds = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            match poll(&mut fds, Some(&timeout)) {
                // A device that is down is always ready to say so.
                Ok(_) if fds.iter().any(|fd| fd.revents().contains(PollFlags::ERR)) => thread::sleep(BROKEN),
                Ok(0) => {}
                // Something to read, or a signal.
                _ => return,
            }
        }
        while due.is_some_and(|due| Instant::now() < due) {
            std::hint::spin_loop();
        }
    }

    fn pipes(&self) -> MutexGuard<'_, Pipes> {
        self.pipes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs the calling thread before everybody else's, and wakes it in time. Without these, which may all fail, packets are late
/// by what the machine is busy with.
fn be_exact() {
    let thread = gettid();
    let _ = set_current_timer_slack(NonZeroU64::new(1));
    let _ = setpriority_process(Some(thread), NICE);
    // Being nice counts within a group of processes only, and real time beats every group.
    let _ = Command::new("chrt")
        .args(["--fifo", "--pid", REAL_TIME_PRIORITY, &thread.as_raw_nonzero().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

/// Takes what was sent into `device`; whether there was anything.
fn take(device: &SyncDevice, pipe: &mut Pipe, epoch: Instant, buffer: &mut [u8]) -> bool {
    for turn in 0..TURN_PACKETS {
        let Ok(packet_bytes) = device.recv(buffer) else { return turn > 0 };
        pipe.offer(epoch.elapsed().as_nanos() as u64, &buffer[..packet_bytes]);
    }
    true
}

fn deliver(device: &SyncDevice, pipe: &mut Pipe, epoch: Instant) {
    while let Some((packet, late)) = pipe.arrived(epoch.elapsed().as_nanos() as u64) {
        match device.send(&packet) {
            Ok(_) => pipe.delivered(packet, late),
            Err(_) => pipe.refused(packet),
        }
    }
}
