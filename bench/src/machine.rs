//! Where a figure was measured: CPU, kernel, commit, and how much CPU time this process has used.
//!
//! Everything is best effort: what the machine does not tell is left out, and nothing here fails a run.

use std::{fs, path::Path, process::Command, thread};

use serde::Serialize;

/// Ticks per second in `/proc/*/stat`: fixed by the Linux ABI to user space, whatever the kernel's own tick.
const TICKS_PER_SECOND: f64 = 100.0;

/// The machine a figure belongs to.
#[derive(Clone, Debug, Serialize)]
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

/// CPU seconds all threads of this process have used, to 10 ms.
#[must_use]
pub fn cpu_seconds() -> Option<f64> {
    cpu_seconds_in(&fs::read_to_string("/proc/self/stat").ok()?)
}

/// How many files (and so connections) this process may have open, if the system says so.
#[must_use]
pub fn open_files_max() -> Option<u64> {
    open_files_max_in(&fs::read_to_string("/proc/self/limits").ok()?)
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

fn cpu_model(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn cpu_seconds_in(stat: &str) -> Option<f64> {
    // The second field is the command's name in brackets and may hold anything, also spaces and brackets.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_SECOND)
}

fn open_files_max_in(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_user_plus_system_whatever_the_process_is_called() {
        let stat = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 3 0 99";
        assert_eq!(cpu_seconds_in(stat), Some(3.0));
        assert_eq!(cpu_seconds_in("12 (cut"), None);
        assert_eq!(cpu_seconds_in("12 (x) S 1 2"), None);
    }

    #[test]
    fn the_cpu_model_is_the_first_one_named() {
        let cpuinfo =
            "processor\t: 0\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nprocessor\t: 1\nmodel name\t: other\n";
        assert_eq!(cpu_model(cpuinfo).as_deref(), Some("AMD EPYC"));
        assert_eq!(cpu_model(""), None);
    }

    #[test]
    fn the_open_file_limit_is_the_soft_one() {
        let limits = "Limit   Soft Limit  Hard Limit  Units\nMax open files            1024                 524288               files\n";
        assert_eq!(open_files_max_in(limits), Some(1_024));
        assert_eq!(open_files_max_in("Max open files  unlimited unlimited files"), None);
    }
}
