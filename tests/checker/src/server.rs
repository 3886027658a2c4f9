//! The server under test: a child process of the real binary, started again as often as it dies.
//!
//! How it is started (disk, clock, network, system calls that kill it) is all in [`Launch`]; what happens to it
//! later is the nemesis' business.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use twinlane::{ConnectOptions, Fingerprint, Session, Transports, Trust};

use crate::shim::Shim;

/// Recovery of a large log included.
const START_DEADLINE: Duration = Duration::from_secs(30);
const LIBFAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// How to start the server.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The binary.
    pub program: PathBuf,
    /// Where it listens. Port 0 becomes the port it got the first time.
    pub listen: SocketAddr,
    /// What it keeps (in `data`) and what it says (`server.log`).
    pub dir: PathBuf,
    /// Its disk forgets what it does not sync.
    pub shim: Option<Shim>,
    /// A fault that is built into it.
    pub plant: Option<String>,
    /// Its wall clock is shifted by what this file says.
    pub clock: Option<PathBuf>,
    /// It runs in this network namespace.
    pub namespace: Option<String>,
    /// Topics it is told of when it starts, as `serve --topic` writes them.
    pub topics: Vec<String>,
    /// A system call that kills it, as strace writes it: `pwrite64:signal=KILL:when=7`. For the next start only.
    pub inject: Option<String>,
}

impl Launch {
    /// An ordinary server on a free port of loopback.
    #[must_use]
    pub fn new(program: PathBuf, dir: PathBuf) -> Self {
        Self {
            program,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            dir,
            shim: None,
            plant: None,
            clock: None,
            namespace: None,
            topics: Vec::new(),
            inject: None,
        }
    }

    /// Makes the folder below `dir` in which the server keeps durable messages, for nobody else.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn make_log_dir(dir: &Path) -> io::Result<PathBuf> {
        let log = dir.join("data").join("log");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&log)?;
        Ok(log)
    }

    fn command(&self) -> io::Result<Command> {
        let variables = self.variables();
        let mut words: Vec<OsString> = Vec::new();
        let mut push = |word: &dyn AsRef<OsStr>| words.push(word.as_ref().to_owned());
        let assignment = |(name, value): &(&str, OsString)| {
            let mut text = OsString::from(name);
            text.push("=");
            text.push(value);
            text
        };
        if let Some(namespace) = &self.namespace {
            ["ip", "netns", "exec"].iter().for_each(|word| push(word));
            push(namespace);
        }
        if let Some(inject) = &self.inject {
            let call = inject.split(':').next().unwrap_or(inject);
            ["strace", "-f", "-qqq", "-o", "/dev/null", "-e"].iter().for_each(|word| push(word));
            push(&format!("trace={call}"));
            push(&"-e");
            push(&format!("inject={inject}"));
            variables.iter().for_each(|variable| {
                push(&"-E");
                push(&assignment(variable));
            });
        } else {
            push(&"env");
            variables.iter().for_each(|variable| push(&assignment(variable)));
        }
        push(&self.program);
        ["serve", "--listen"].iter().for_each(|word| push(word));
        push(&self.listen.to_string());
        push(&"--data-dir");
        push(&self.dir.join("data"));
        if !self.listen.ip().is_loopback() {
            push(&"--allow-insecure-bind");
        }
        for topic in &self.topics {
            push(&"--topic");
            push(topic);
        }
        if let Some(plant) = &self.plant {
            push(&"--plant");
            push(plant);
        }
        let said = OpenOptions::new().create(true).append(true).open(self.dir.join("server.log"))?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::from(said));
        command.kill_on_drop(true);
        Ok(command)
    }

    fn variables(&self) -> Vec<(&'static str, OsString)> {
        let mut variables: Vec<(&str, OsString)> = Vec::new();
        let mut preload = Vec::new();
        if let Some(shim) = &self.shim {
            for (name, value) in shim.environment() {
                match name {
                    "LD_PRELOAD" => preload.push(value.as_os_str().to_owned()),
                    name => variables.push((name, value.as_os_str().to_owned())),
                }
            }
        }
        if let Some(clock) = &self.clock {
            preload.push(LIBFAKETIME.into());
            variables.push(("FAKETIME_TIMESTAMP_FILE", clock.as_os_str().to_owned()));
            variables.push(("FAKETIME_NO_CACHE", "1".into()));
            variables.push(("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()));
        }
        if !preload.is_empty() {
            variables.push(("LD_PRELOAD", preload.join(OsStr::new(":"))));
        }
        variables
    }
}

/// Whether the clock of a server can be shifted here.
#[must_use]
pub fn has_faketime() -> bool {
    Path::new(LIBFAKETIME).exists()
}

/// Whether this binary knows a flag of `serve`; hidden ones do not count.
///
/// # Errors
///
/// The binary cannot be run.
pub fn knows_flag(program: &Path, flag: &str) -> anyhow::Result<bool> {
    let help = std::process::Command::new(program).args(["serve", "--help"]).output();
    let help = help.with_context(|| {
        format!("cannot run {}: build it with `cargo build --release -p twinlane-server`", program.display())
    })?;
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    Ok(text.split_whitespace().any(|word| word.trim_end_matches(',') == flag))
}

/// The server ended before it listened.
#[derive(Clone, Debug, thiserror::Error)]
#[error("it said: {said}")]
pub struct Refused {
    /// Its last words.
    pub said: String,
}

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    launch: Launch,
    child: Child,
    fingerprint: Fingerprint,
}

impl Server {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    ///
    /// It does not start, or does not listen in time; what it said is in `server.log`.
    pub async fn start(mut launch: Launch) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&launch.dir)?;
        let (child, addr, fingerprint) = spawn(&launch).await?;
        (launch.listen, launch.inject) = (addr, None);
        Ok(Self { launch, child, fingerprint })
    }

    /// Starts it again, where it was. It has to be dead.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        (self.child, self.launch.listen, self.fingerprint) = spawn(&self.launch).await?;
        Ok(())
    }

    /// How it is started.
    #[must_use]
    pub fn launch(&self) -> &Launch {
        &self.launch
    }

    /// For the next start.
    pub fn launch_mut(&mut self) -> &mut Launch {
        &mut self.launch
    }

    /// Where to connect to, with all that a client needs to come back soon.
    #[must_use]
    pub fn options(&self) -> ConnectOptions {
        let trust = Trust::Fingerprint(self.fingerprint);
        let mut options = ConnectOptions::new(self.launch.listen.to_string(), trust);
        options.transports = Transports::TcpOnly;
        options.reconnect.first = Duration::from_millis(20);
        options.reconnect.max = Duration::from_millis(1_000);
        "checker".clone_into(&mut options.name);
        options
    }

    /// A new session.
    ///
    /// # Errors
    ///
    /// It cannot be reached.
    pub async fn session(&self) -> anyhow::Result<Session> {
        Ok(Session::connect(self.options()).await?)
    }

    /// Kills it and waits until it is gone.
    ///
    /// # Errors
    ///
    /// The system does not let it be killed.
    pub async fn kill(&mut self) -> anyhow::Result<ExitStatus> {
        if self.child.try_wait()?.is_none() {
            self.signal(Signal::KILL)?;
        }
        Ok(self.child.wait().await?)
    }

    /// Stops or continues it.
    ///
    /// # Errors
    ///
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = self.pid().context("the server is gone")?;
        Ok(kill_process(id, signal)?)
    }

    /// Whether it ended by itself, and how.
    ///
    /// # Errors
    ///
    /// The system does not know.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// The system does not know.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// The number of its process; `None`: it is gone.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.pid().map(|pid| pid.as_raw_nonzero().get() as u32)
    }

    /// The process itself, below whatever traces it.
    fn pid(&self) -> Option<Pid> {
        let id = self.child.id()?;
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let traced = children.split_whitespace().next().and_then(|child| child.parse::<i32>().ok());
        Pid::from_raw(traced.unwrap_or(id as i32))
    }
}

async fn spawn(launch: &Launch) -> anyhow::Result<(Child, SocketAddr, Fingerprint)> {
    let mut child = launch.command()?.spawn().context("cannot start the server")?;
    let out = child.stdout.take().context("the server's output is piped")?;
    let mut lines = BufReader::new(out).lines();
    let started = tokio::time::timeout(START_DEADLINE, banner(&mut lines)).await;
    match started {
        Ok(Ok((addr, fingerprint))) => {
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            Ok((child, addr, fingerprint))
        }
        Ok(Err(error)) => {
            let said = last_words(&launch.dir.join("server.log"));
            Err(anyhow::Error::new(Refused { said }).context(error))
        }
        Err(_) => bail!("the server does not listen within {START_DEADLINE:?}"),
    }
}

async fn banner(
    lines: &mut tokio::io::Lines<BufReader<ChildStdout>>,
) -> anyhow::Result<(SocketAddr, Fingerprint)> {
    let (mut addr, mut fingerprint) = (None, None);
    while let Some(line) = lines.next_line().await? {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("listening"), Some(word)) => addr = word.parse().ok(),
            (Some("fingerprint"), Some(word)) => fingerprint = word.parse().ok(),
            _ => {}
        }
        if let (Some(addr), Some(fingerprint)) = (addr, fingerprint) {
            return Ok((addr, fingerprint));
        }
    }
    bail!("the server ended before it listened")
}

/// What the server said of its end.
fn last_words(log: &Path) -> String {
    let text = File::open(log).and_then(io::read_to_string).unwrap_or_default();
    let is_error = |line: &&str| line.starts_with("error") || line.contains("panicked");
    let error = text.lines().rev().take(5).find(is_error);
    error.or(text.lines().last()).unwrap_or("nothing").to_owned()
}
