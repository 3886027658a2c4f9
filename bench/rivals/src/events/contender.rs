//! The servers: how each is started, and what it needs to run here.
//!
//! All get core 0 and nothing else. The Rust ones are this program (one allocator, one build profile, a default
//! multi-threaded runtime, which has one worker there); Node runs `node/server.mjs`.

use std::{
    fmt, fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use serde::Serialize;
use tempfile::TempDir;

use crate::{
    process::{Process, find_program, free_port},
    setup,
    system::Setup,
};

/// Where the load client runs; the servers have the core before it.
pub(super) const CLIENT_CORE: usize = 1;

const SERVER_CORE: usize = 0;

const SERVER_MJS: &str = include_str!("../../node/server.mjs");
const PACKAGE: &str = include_str!("../../node/package.json");
const PACKAGE_LOCK: &str = include_str!("../../node/package-lock.json");

/// A server of Socket.IO clients.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Contender {
    /// The gateway, all defaults but its limit of connections.
    Twinlane,
    /// With axum, all defaults but room for the largest window in its send buffers.
    Socketioxide,
    /// On Node, all defaults, WebSockets by `ws`.
    SocketIo,
    /// No library: prepared frames and plain writes. The limit.
    Raw,
}

/// A server that runs.
#[derive(Debug)]
pub(super) struct Server {
    process: Process,
    pub(super) port: u16,
    /// Its logs; gone when it is.
    _directory: TempDir,
}

impl Server {
    pub(super) fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Bytes of memory that are this process's own: no program text, no shared pages.
    ///
    /// # Errors
    ///
    /// The kernel does not tell, or the server is gone.
    pub(super) fn own_bytes(&self) -> Result<u64> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.process.id()))
            .with_context(|| format!("the server is gone: {}", self.process.log()))?;
        own_bytes_in(&rollup).context("the kernel tells no Pss_Anon")
    }

    /// What it has printed: the reason, when something went wrong.
    pub(super) fn log(&self) -> String {
        self.process.log()
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Twinlane => "twinlane",
            Self::Socketioxide => "socketioxide",
            Self::SocketIo => "socket-io",
            Self::Raw => "raw",
        })
    }
}

impl Contender {
    /// What is missing here and how to get it; `None`: it can run.
    pub(super) fn missing(self) -> Option<String> {
        if find_program("taskset").is_none() {
            return Some("taskset keeps it on its core: apt-get install util-linux".to_owned());
        }
        match self {
            Self::Twinlane | Self::Socketioxide => {
                (!cfg!(feature = "events")).then(|| "build with --features events".to_owned())
            }
            Self::SocketIo if find_program("node").is_none() => Some("node is not installed".to_owned()),
            Self::SocketIo if !node_directory().join("node_modules/socket.io").is_dir() => {
                Some("cargo rivals events setup".to_owned())
            }
            Self::SocketIo | Self::Raw => None,
        }
    }

    /// Starts it on a free port and returns when it accepts connections.
    pub(super) fn start(self) -> Result<Server> {
        let directory = tempfile::Builder::new().prefix("rivals-").tempdir()?;
        let harness = std::env::current_exe()?;
        let port = free_port()?;
        let program: Vec<String> = match self {
            Self::SocketIo => {
                let script = node_directory().join("server.mjs");
                fs::write(&script, SERVER_MJS).context("cannot write the script for Node")?;
                vec![
                    "node".to_owned(),
                    "--expose-gc".to_owned(),
                    script.display().to_string(),
                    port.to_string(),
                ]
            }
            _ => vec![
                harness.display().to_string(),
                "events".to_owned(),
                "serve".to_owned(),
                self.to_string(),
                port.to_string(),
            ],
        };
        let mut args = vec!["--cpu-list".to_owned(), SERVER_CORE.to_string()];
        args.extend(program);
        let setup = Setup {
            payload_bytes: 0,
            subscribers: 0,
            harness,
            twinlane: PathBuf::new(),
            twinlane_args: Vec::new(),
            directory: directory.path().to_owned(),
        };
        let mut process = Process::start(&setup, "taskset", &args)?;
        process.wait_for_port(port)?;
        Ok(Server { process, port, _directory: directory })
    }
}

/// Installs what [`SERVER_MJS`] needs, in the versions of the lock file.
pub(super) fn install() -> Result<()> {
    let directory = node_directory();
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("package.json"), PACKAGE)?;
    fs::write(directory.join("package-lock.json"), PACKAGE_LOCK)?;
    let mut npm = Command::new("npm");
    npm.args(["ci", "--no-audit", "--no-fund"]).current_dir(&directory).stdin(Stdio::null());
    let status = npm.status().context("cannot run npm")?;
    ensure!(status.success(), "npm ended with {status}");
    Ok(())
}

/// Beside what cargo builds, so that nothing foreign lies among the sources.
fn node_directory() -> PathBuf {
    setup::repository().join("bench/rivals/target/node")
}

fn own_bytes_in(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss_Anon:"))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_is_read_in_bytes() {
        let rollup = "00400000-7ffc000 ---p 00000000 00:00 0    [rollup]\nRss:  9 kB\nPss_Anon:      12 kB\n";
        assert_eq!(own_bytes_in(rollup), Some(12 * 1_024));
        assert_eq!(own_bytes_in("Rss: 9 kB\n"), None);
    }
}
