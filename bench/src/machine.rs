//! Where a figure was measured: CPU, kernel, commit, and how much CPU time this process has used.
//!
//! Everything is best effort: what the machine does not tell is left out, and nothing here fails a run.

use std::{fs, io, path::Path, process::Command, thread, time::SystemTime};

use rustix::{
    fs::statfs,
    process::{Pid, Resource, Rlimit, getrlimit, setrlimit},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
};
use serde::{Deserialize, Serialize};

/// What the kernel calls a file system in memory.
const TMPFS: i64 = 0x0102_1994;

/// The machine a figure belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Model name of the first CPU.
    pub cpu: Option<String>,
    /// CPUs this process may use.
    pub cores: usize,
    /// Operating system and kernel release.
    pub kernel: Option<String>,
}

impl Machine {
    /// Describes the machine this process runs on.
    #[must_use]
    pub fn here() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok();
        Self {
            cpu: cpu_model(&cpuinfo),
            cores: thread::available_parallelism().map_or(1, std::num::NonZero::get),
            kernel: release.map(|release| format!("{} {}", std::env::consts::OS, release.trim())),
        }
    }
}

/// The commit checked out around the current directory, if that is a twinlane repository; `+` marks local
/// changes.
#[must_use]
pub fn commit() -> Option<String> {
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if !Path::new(&top).join("proto/PROTOCOL.md").exists() {
        return None;
    }
    let head = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|list| !list.is_empty());
    Some(if changed { format!("{head}+") } else { head })
}

/// CPU seconds all threads of this process have used so far, to the nanosecond.
#[must_use]
pub fn cpu_seconds() -> f64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

/// CPU seconds the living threads of another process have used so far, to the nanosecond.
#[must_use]
pub fn cpu_seconds_of(pid: u32) -> Option<f64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let used_ns = threads.flatten().map(|thread| {
        let figures = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        scheduled_ns_in(&figures)
    });
    Some(used_ns.sum::<Option<u64>>()? as f64 / 1e9)
}

/// Bytes of memory a process has resident.
#[must_use]
pub fn resident_bytes_of(pid: u32) -> Option<u64> {
    resident_bytes_in(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

/// Whether what is written to `folder` stays in memory.
#[must_use]
pub fn is_in_memory(folder: &Path) -> bool {
    statfs(folder).is_ok_and(|system| system.f_type == TMPFS)
}

/// Now, as RFC 3339 in UTC, to the second.
#[must_use]
pub fn date() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// How many files (and so connections) this process may have open, after raising its limit towards `wanted` as far as
/// the system lets it; `None`: any number.
#[must_use]
pub fn open_files_max(wanted: u64) -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current.filter(|current| *current < wanted)?;
    let raised = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let asked = Rlimit { current: Some(raised), maximum: limit.maximum };
    Some(if setrlimit(Resource::Nofile, asked).is_ok() { raised } else { current })
}

/// Every thread of this process on one core, and those it starts from now on; dropping it lets them run where this
/// thread could before.
#[derive(Debug)]
pub(crate) struct Pinned {
    before: CpuSet,
}

impl Pinned {
    /// # Errors
    ///
    /// There is no such core, or this process may not use it.
    pub(crate) fn to(core: usize) -> io::Result<Self> {
        let before = sched_getaffinity(None)?;
        let mut only = CpuSet::new();
        only.set(core);
        set_all_threads(&only)?;
        Ok(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Threads that end meanwhile cannot be told, and nobody can be told that a core has gone.
        let _ = set_all_threads(&self.before);
    }
}

fn set_all_threads(cores: &CpuSet) -> io::Result<()> {
    sched_setaffinity(None, cores)?;
    for thread in fs::read_dir("/proc/self/task")? {
        let number = thread?.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(thread) = number.and_then(Pid::from_raw) {
            match sched_setaffinity(Some(thread), cores) {
                // It has ended since it was listed.
                Err(rustix::io::Errno::SRCH) => {}
                outcome => outcome?,
            }
        }
    }
    Ok(())
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

fn cpu_model(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn scheduled_ns_in(schedstat: &str) -> Option<u64> {
    schedstat.split_ascii_whitespace().next()?.parse().ok()
}

fn resident_bytes_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_a_thread_ran_is_the_first_figure_of_the_scheduler() {
        assert_eq!(scheduled_ns_in("3000000000 17 5\n"), Some(3_000_000_000));
        assert_eq!(scheduled_ns_in(""), None);
        assert!(cpu_seconds_of(std::process::id()).is_none_or(|seconds| seconds > 0.0));
    }

    #[test]
    fn the_cpu_model_is_the_first_one_named() {
        let cpuinfo =
            "processor\t: 0\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nprocessor\t: 1\nmodel name\t: other\n";
        assert_eq!(cpu_model(cpuinfo).as_deref(), Some("AMD EPYC"));
        assert_eq!(cpu_model(""), None);
    }

    #[test]
    fn resident_memory_is_in_units_of_1024_bytes() {
        assert_eq!(resident_bytes_in("VmPeak:\t 9 kB\nVmRSS:\t    1024 kB\n"), Some(1 << 20));
        assert_eq!(resident_bytes_in("VmPeak:\t 9 kB\n"), None);
        assert!(resident_bytes_of(std::process::id()).is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn cpu_time_is_finer_than_a_tick() {
        let before = cpu_seconds();
        let mut rounds = 0_u64;
        while cpu_seconds() - before < 0.002 {
            rounds += 1;
        }
        assert!(rounds > 10, "{rounds} readings within 2 ms of CPU time");
    }

    #[test]
    fn a_pinned_process_runs_on_one_core_until_the_pin_is_dropped() {
        let before = sched_getaffinity(None).unwrap();
        let core = (0..CpuSet::MAX_CPU).find(|&core| before.is_set(core)).unwrap();
        let pinned = Pinned::to(core).unwrap();
        let inside = thread::spawn(|| sched_getaffinity(None).unwrap().count()).join().unwrap();
        drop(pinned);
        assert_eq!(inside, 1);
        assert_eq!(sched_getaffinity(None).unwrap(), before);
    }
}
