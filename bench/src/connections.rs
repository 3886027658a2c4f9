//! Connections by the thousand: how fast a server accepts them, and what an idle one costs it.
//!
//! The server is a process of its own, because its memory and CPU could not be told from the clients' otherwise.

use std::{fs, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, bail};
use indicatif::ProgressBar;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, Command},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use twinlane::{Session, Subscription};

use crate::{
    cli::RunArgs,
    machine::{cpu_seconds_of, resident_bytes_of},
    plan::{Flow, Plan},
    report::{ConnectionFigures, Results},
    stage::{Access, Connector, Stage},
};

/// Handshakes under way at the same time: enough to keep a server busy, too few to time out.
const CONNECTING_MAX: usize = 32;

/// How long the server may take to say where it listens.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// How long all connections may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(300);

/// What the server does after a connection (keys, timers, buffers) is not counted as idle.
const CALM: Duration = Duration::from_secs(1);

/// A server in a process of its own; dropping it ends the process.
struct Server {
    child: Child,
    addr: String,
    access: Access,
    _data: TempDir,
}

/// The clients after they have connected.
struct Crowd {
    connected_in: Duration,
    held: Vec<(Session, Subscription)>,
}

/// Connects, waits and looks.
pub(crate) async fn run(plan: &Plan, args: &RunArgs, bar: &ProgressBar) -> anyhow::Result<Results> {
    let access = args.access()?;
    if plan.server.is_some() {
        return crowd_at(plan, access, None, bar).await;
    }
    bar.set_message("starting a server");
    let server = Server::start(plan, args, access).await?;
    let plan = Plan { server: Some(server.addr.clone()), ..plan.clone() };
    crowd_at(&plan, server.access.clone(), server.child.id(), bar).await
}

/// `server`: the process to look at, if it is ours.
async fn crowd_at(
    plan: &Plan,
    access: Access,
    server: Option<u32>,
    bar: &ProgressBar,
) -> anyhow::Result<Results> {
    let stage = Stage::build(plan, access).await?;
    let (connections, flow, connector) = (plan.subscribers, plan.flows()[0], stage.connector());
    // The first connection makes the server allocate what it needs once.
    let first = open(&connector, flow, 0).await?;
    let memory_before = server.and_then(resident_bytes_of);
    bar.set_message(format!("connecting {connections}"));
    let crowd = connect(connector.clone(), flow, connections).await?;
    bar.set_message("watching them idle");
    sleep(CALM).await;
    let memory_after = server.and_then(resident_bytes_of);
    let (from, cpu_before) = (Instant::now(), server.and_then(cpu_seconds_of));
    sleep(plan.window).await;
    let window_seconds = from.elapsed().as_secs_f64();
    let cpu_seconds = server.and_then(cpu_seconds_of).zip(cpu_before).map(|(after, before)| after - before);
    for (session, _) in crowd.held.iter().chain([&first]) {
        connector.check_carrier(session)?;
    }
    let figures = ConnectionFigures {
        connections: connections as u64,
        accepted_per_second: connections as f64 / crowd.connected_in.as_secs_f64(),
        server_bytes_per_connection: memory_after
            .zip(memory_before)
            .map(|(after, before)| after.saturating_sub(before) as f64 / connections as f64),
        idle_cpu_percent: cpu_seconds.map(|seconds| seconds * 100.0 / window_seconds),
    };
    Ok(Results {
        name: flow.name.to_owned(),
        window_seconds,
        connections: Some(figures),
        ..Results::default()
    })
}

async fn connect(connector: Connector, flow: Flow, connections: usize) -> anyhow::Result<Crowd> {
    let mut held = Vec::with_capacity(connections);
    let mut connecting = JoinSet::new();
    let started = Instant::now();
    let mut started_connections = 0;
    while held.len() < connections {
        while connecting.len() < CONNECTING_MAX && started_connections < connections {
            started_connections += 1;
            let (connector, number) = (connector.clone(), started_connections);
            connecting.spawn(async move { open(&connector, flow, number).await });
        }
        let next = timeout(CONNECT_PATIENCE.saturating_sub(started.elapsed()), connecting.join_next()).await;
        let opened = next.with_context(|| {
            format!("{} of {connections} had connected after {} s", held.len(), CONNECT_PATIENCE.as_secs())
        })?;
        let opened = opened.context("every connection is waited for once")?.context("a client panicked")?;
        held.push(opened.with_context(|| format!("{} of {connections} had connected", held.len()))?);
    }
    Ok(Crowd { connected_in: started.elapsed(), held })
}

async fn open(connector: &Connector, flow: Flow, number: usize) -> anyhow::Result<(Session, Subscription)> {
    let session = connector.session(&format!("bench subscriber {number}")).await?;
    let subscription = session.subscribe(&connector.filter(flow)).await.context("cannot subscribe")?;
    Ok((session, subscription))
}

impl Server {
    /// Starts `twinlane serve` on a free port of loopback, with room for the run's connections.
    async fn start(plan: &Plan, args: &RunArgs, access: Access) -> anyhow::Result<Self> {
        let program = match &args.program {
            Some(program) => program.clone(),
            None => std::env::current_exe().context("cannot tell which program this is")?,
        };
        let data = tempfile::tempdir().context("cannot make a directory for the server's certificate")?;
        let mut child = command(plan, args, &program, &data)?
            .spawn()
            .with_context(|| format!("cannot start {} serve", program.display()))?;
        let told = timeout(START_PATIENCE, read_address(&mut child, args.plain)).await;
        let (addr, fingerprint) = match told.context("the server did not say where it listens").flatten() {
            Ok(told) => told,
            Err(error) => {
                // It has ended already, or it will not be of use.
                let _ = child.kill().await;
                let mut said = String::new();
                if let Some(mut stderr) = child.stderr.take() {
                    stderr.read_to_string(&mut said).await.context("cannot read what the server said")?;
                }
                return Err(error.context(format!("{} serve failed: {}", program.display(), said.trim())));
            }
        };
        let fingerprint = fingerprint.map(|hex| hex.parse()).transpose();
        let fingerprint = fingerprint.context("the server printed a fingerprint that is none")?;
        Ok(Self { child, addr, access: Access { fingerprint, ..access }, _data: data })
    }
}

fn command(plan: &Plan, args: &RunArgs, program: &Path, data: &TempDir) -> anyhow::Result<Command> {
    let config = data.path().join("twinlane.toml");
    // The one to settle in, the one that declares, and a few that are closing.
    let room = plan.subscribers + 64;
    fs::write(&config, format!("[limits]\nconnections_max = {room}\n"))
        .context("cannot write the server's settings")?;
    let mut command = Command::new(program);
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--name", "twinlane bench", "--config"])
        .arg(&config)
        .arg("--data-dir")
        .arg(data.path())
        .args(["--io-threads", &args.io_threads.to_string(), "--io-policy", &args.io_policy.to_string()])
        .env("TWINLANE_LOG", "error")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if args.plain {
        command.args(["--plain", "--tcp-only"]);
    }
    Ok(command)
}

/// Reads the address and the fingerprint that the server prints first.
async fn read_address(child: &mut Child, plain: bool) -> anyhow::Result<(String, Option<String>)> {
    let stdout = child.stdout.as_mut().context("the server's output is a pipe")?;
    let mut lines = BufReader::new(stdout).lines();
    let mut addr = None;
    while let Some(line) = lines.next_line().await.context("cannot read the server's output")? {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("listening"), Some(word)) => addr = Some(word.to_owned()),
            (Some("fingerprint"), Some(word)) => {
                if let Some(addr) = addr {
                    return Ok((addr, Some(word.to_owned())));
                }
            }
            _ => {}
        }
        if let Some(addr) = addr.take_if(|_| plain) {
            return Ok((addr, None));
        }
    }
    bail!("it ended before it said where it listens")
}
