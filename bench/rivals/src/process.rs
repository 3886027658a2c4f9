//! Server processes of a run: on loopback, in the run's directory, gone when the run is, whatever ends it.

use std::{
    ffi::OsStr,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::system::Setup;

/// How long a server may take to accept its first client.
const START_MAX: Duration = Duration::from_secs(15);

/// Between two looks at whether it does.
const LOOK: Duration = Duration::from_millis(10);

/// A child process. Killed when dropped, and by the kernel when the harness dies.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `program` in the run's directory; its output goes to a log there.
    ///
    /// # Errors
    ///
    /// The program cannot be started.
    pub fn start<A: AsRef<OsStr>>(setup: &Setup, program: impl AsRef<OsStr>, args: &[A]) -> Result<Self> {
        let name = Path::new(program.as_ref()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = setup.directory.join(format!("{name}-{}.log", free_port()?));
        let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        // The guard asks the kernel to be killed with its parent thread, then becomes the program.
        let child = Command::new(&setup.harness)
            .arg("guard")
            .arg(program.as_ref())
            .args(args)
            .current_dir(&setup.directory)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, name, log })
    }

    /// Starts a hidden subcommand of this program.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub fn harness(setup: &Setup, helper: &str, args: &[String]) -> Result<Self> {
        let args: Vec<String> = std::iter::once(helper.to_owned()).chain(args.iter().cloned()).collect();
        let mut process = Self::start(setup, &setup.harness, &args)?;
        helper.clone_into(&mut process.name);
        Ok(process)
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until `ready` gives a value, as long as the process lives.
    ///
    /// # Errors
    ///
    /// It ended, or took longer than 15 s; the last lines of its log say why.
    pub fn wait_for<T>(&mut self, what: &str, mut ready: impl FnMut(&Self) -> Option<T>) -> Result<T> {
        let until = Instant::now() + START_MAX;
        loop {
            if let Some(value) = ready(self) {
                return Ok(value);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status} before {what}: {}", self.name, self.last_lines());
            }
            if Instant::now() >= until {
                bail!("{} had not reached {what} in {START_MAX:?}: {}", self.name, self.last_lines());
            }
            sleep(LOOK);
        }
    }

    /// Waits until it accepts TCP connections on `port` of loopback.
    ///
    /// # Errors
    ///
    /// As [`Self::wait_for`].
    pub fn wait_for_port(&mut self, port: u16) -> Result<()> {
        self.wait_for("accepting connections", |_| TcpStream::connect(loopback(port)).ok()).map(drop)
    }

    fn last_lines(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `port` on loopback.
#[must_use]
pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A port that is free now, for TCP and for UDP.
///
/// # Errors
///
/// None of 100 tried ports is free for both.
pub fn free_port() -> Result<u16> {
    for _ in 0..100 {
        let port = TcpListener::bind(loopback(0))?.local_addr()?.port();
        if UdpSocket::bind(loopback(port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port of loopback is free for TCP and UDP")
}

/// Whether a program is on the search path, or in `/usr/sbin`.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    directories.map(|directory| directory.join(name)).find(|program| program.is_file())
}
