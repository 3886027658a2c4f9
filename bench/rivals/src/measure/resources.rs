//! CPU time and memory of client and server threads, from the scheduler's own counters (nanoseconds, not ticks).

use std::fs;

use anyhow::{Context as _, Result, ensure};

/// CPU nanoseconds of this process and of `servers` so far. A thread that ended takes its share with it.
pub(super) fn cpu_ns(servers: &[u32]) -> u64 {
    let own = std::process::id();
    std::iter::once(&own).chain(servers).map(|pid| process_cpu_ns(*pid)).sum()
}

fn process_cpu_ns(pid: u32) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let task_ns = |task: fs::DirEntry| first_number(&fs::read_to_string(task.path().join("schedstat")).ok()?);
    tasks.filter_map(|task| task_ns(task.ok()?)).sum()
}

/// Resident bytes of `servers`.
pub(super) fn resident_bytes(servers: &[u32]) -> Result<u64> {
    ensure!(!servers.is_empty(), "a system without a server has no memory per connection");
    servers.iter().try_fold(0, |sum, pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        Ok(sum + resident_in(&status).context("the kernel tells no VmRSS")?)
    })
}

fn first_number(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

fn resident_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(first_number(line)? * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_in_bytes() {
        assert_eq!(resident_in("Name:\tx\nVmRSS:\t    1234 kB\nThreads: 1\n"), Some(1234 * 1024));
        assert_eq!(resident_in("Name:\tx\n"), None);
    }

    #[test]
    fn cpu_time_grows_while_this_thread_works() {
        let before = cpu_ns(&[]);
        let until = std::time::Instant::now() + std::time::Duration::from_millis(30);
        while std::time::Instant::now() < until {}
        assert!(cpu_ns(&[]) > before, "the kernel keeps no schedstat");
    }
}
