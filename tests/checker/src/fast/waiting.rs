//! Watches how long the threads of server and checker are ready to run and wait for a processor.
//!
//! The kernel counts that for each thread (`/proc/PID/task/TID/schedstat`, second number). A processor that stands still,
//! because the hypervisor gave it to another machine, shows nowhere there: the thread on it seems to run. So a thread on
//! each processor sleeps a millisecond at a time, and what it oversleeps is added. So is what a task of the checker's
//! runtime oversleeps. The sum says more than any message can have waited for: that is the side to err on.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::task::AbortHandle;

use crate::history::{Event, FastEvent, History, Recorder};

const SAMPLE: Duration = Duration::from_millis(10);
/// New threads are looked for this often.
const LOOK: Duration = Duration::from_millis(200);
/// Less is not worth an event.
const WAITED_US_MIN: u64 = 50;
/// How long the thread of a processor sleeps, and how late it may be before that is a standstill.
const NAP: Duration = Duration::from_millis(1);
const NAP_LATE: Duration = Duration::from_micros(500);
/// The name of these threads, by which they are left out of the kernel's counts.
const NAPPING: &str = "napping";
const PULSE: Duration = Duration::from_millis(5);
/// A timer of the runtime counts milliseconds: so late it may be.
const PULSE_LATE: Duration = Duration::from_millis(2);

/// Threads that watch, until they are stopped or dropped.
#[derive(Debug)]
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    pulse: AbortHandle,
}

impl Watch {
    /// Watches this process and that of the server.
    ///
    /// # Errors
    ///
    /// The kernel does not count, or there is no thread.
    pub(super) fn start(server: u32, history: &History) -> anyhow::Result<Self> {
        let mut threads = Threads { processes: [std::process::id(), server], files: HashMap::new() };
        threads.look();
        anyhow::ensure!(
            threads.waited_us().is_some_and(|_| !threads.files.is_empty()),
            "the kernel does not say how long threads wait (schedstat): deadlines cannot be judged here"
        );
        let pulse = tokio::spawn(pulse(history.recorder())).abort_handle();
        let mut watch = Self { stop: Arc::default(), threads: Vec::new(), pulse };
        let processors =
            sched_getaffinity(None).context("the kernel does not say which processors there are")?;
        for processor in (0..CpuSet::MAX_CPU).filter(|&processor| processors.is_set(processor)) {
            let recorder = history.recorder();
            watch.spawn(NAPPING, move |stop| nap(processor, recorder, stop))?;
        }
        let recorder = history.recorder();
        watch.spawn("waiting", move |stop| count(threads, recorder, stop))?;
        Ok(watch)
    }

    fn spawn(&mut self, name: &str, watch: impl FnOnce(&AtomicBool) + Send + 'static) -> anyhow::Result<()> {
        let stop = Arc::clone(&self.stop);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || watch(&stop));
        self.threads.push(thread.context("no thread")?);
        Ok(())
    }

    /// What it saw is in the history then.
    pub(super) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.pulse.abort();
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}

fn count(mut threads: Threads, mut recorder: Recorder, stop: &AtomicBool) {
    let mut looked = Instant::now();
    let mut from_us = recorder.now_us();
    while !stop.load(Ordering::Acquire) {
        std::thread::sleep(SAMPLE);
        if looked.elapsed() >= LOOK {
            threads.look();
            looked = Instant::now();
        }
        let waited_us = threads.waited_us().unwrap_or(0);
        let to_us = recorder.now_us();
        if waited_us >= WAITED_US_MIN {
            recorder.record(&Event::Fast(FastEvent::Waited { from_us, to_us, waited_us }));
        }
        from_us = to_us;
    }
}

/// Sleeps on one processor. Where it may not be there, it is late with the others: no worse than without it.
fn nap(processor: usize, mut recorder: Recorder, stop: &AtomicBool) {
    let mut only = CpuSet::new();
    only.set(processor);
    let _ = sched_setaffinity(None, &only);
    while !stop.load(Ordering::Acquire) {
        let (from, from_us) = (Instant::now(), recorder.now_us());
        std::thread::sleep(NAP);
        let late = from.elapsed().saturating_sub(NAP);
        if late > NAP_LATE {
            let (to_us, waited_us) = (recorder.now_us(), late.as_micros() as u64);
            recorder.record(&Event::Fast(FastEvent::Waited { from_us, to_us, waited_us }));
        }
    }
}

/// A task of the checker's own runtime that does nothing but notice when it is late.
async fn pulse(mut recorder: Recorder) {
    loop {
        let (from, from_us) = (Instant::now(), recorder.now_us());
        tokio::time::sleep(PULSE).await;
        let late = from.elapsed().saturating_sub(PULSE + PULSE_LATE);
        if !late.is_zero() {
            let (to_us, waited_us) = (recorder.now_us(), late.as_micros() as u64);
            recorder.record(&Event::Fast(FastEvent::Waited { from_us, to_us, waited_us }));
            // The task is ended from outside.
            recorder.flush();
        }
    }
}

/// The threads of two processes, each with how long it had waited when it was last asked.
struct Threads {
    processes: [u32; 2],
    files: HashMap<(u32, u32), (File, u64)>,
}

impl Threads {
    /// Finds new threads. Those that are gone are forgotten when they do not answer.
    fn look(&mut self) {
        for process in self.processes {
            let Ok(entries) = std::fs::read_dir(format!("/proc/{process}/task")) else { continue };
            for entry in entries.flatten() {
                let Some(thread) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                if !self.files.contains_key(&(process, thread))
                    && !is_napping(&entry.path())
                    && let Ok(file) = File::open(entry.path().join("schedstat"))
                    && let Some(waited_ns) = waited_ns(&file)
                {
                    self.files.insert((process, thread), (file, waited_ns));
                }
            }
        }
    }

    /// How long all together waited since they were last asked; `None`: nobody answers.
    fn waited_us(&mut self) -> Option<u64> {
        let mut all_ns = 0;
        self.files.retain(|_, (file, before_ns)| {
            let Some(waited_ns) = waited_ns(file) else { return false };
            all_ns += waited_ns.saturating_sub(*before_ns);
            *before_ns = waited_ns;
            true
        });
        (!self.files.is_empty()).then_some(all_ns / 1_000)
    }
}

fn is_napping(task: &Path) -> bool {
    std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim_end() == NAPPING)
}

fn waited_ns(schedstat: &File) -> Option<u64> {
    let mut text = [0; 64];
    let bytes = schedstat.read_at(&mut text, 0).ok()?;
    let text = str::from_utf8(&text[..bytes]).ok()?;
    text.split_whitespace().nth(1)?.parse().ok()
}
