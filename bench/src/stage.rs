//! What a run needs before the first message: a server, a topic, and sessions that use the transport asked for.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail, ensure};
use tokio::time::{Instant, sleep};
use twinlane::{
    ConnectOptions, Engine, EngineConfig, Fingerprint, IoPolicy, ListenOptions, Listening, Reconnect,
    Session, TopicSpec, Transports, Trust,
};

use twinlane_netlab::{Lab, Side};

use crate::{
    link::run_on,
    plan::{Flow, Plan, TransportKind},
};

/// Where an embedded server listens that no link leads to.
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// How long a session may take until its messages travel as the run asked.
const SETTLE: Duration = Duration::from_secs(5);

/// History that all topics of a run may keep together.
const RETAIN_BYTES_MAX: u64 = 512 << 20;

/// History that one topic keeps when it does not choose.
const RETAIN_BYTES_DEFAULT: u64 = 8 << 20;

/// How a run reaches its server, and what that server's threads do: the part of the command line that no
/// report repeats.
#[derive(Clone, Debug)]
pub struct Access {
    /// Certificate of the server elsewhere.
    pub fingerprint: Option<Fingerprint>,
    /// Access token of the server elsewhere.
    pub token: Option<String>,
    /// TCP without TLS.
    pub plain: bool,
    /// What the embedded server's I/O threads do when idle.
    pub io_policy: IoPolicy,
}

/// A server and fresh topics on it. Dropping it ends an embedded server.
pub(crate) struct Stage {
    connector: Connector,
    embedded: Option<(Engine, Option<Listening>)>,
    /// The link between an embedded server, which is on its left side, and the clients.
    lab: Option<Lab>,
}

/// Opens the sessions of a run; each one has connections of its own.
#[derive(Clone)]
pub(crate) struct Connector {
    way: Way,
    /// What the names of the run's topics begin with.
    base: String,
    topics: usize,
    payload_bytes: usize,
    flows: Vec<Flow>,
    transport: TransportKind,
}

#[derive(Clone)]
enum Way {
    Local(Engine),
    Remote(Box<ConnectOptions>),
}

impl Stage {
    /// Starts an embedded server, or finds the one elsewhere, and declares the run's topics there.
    pub(crate) async fn build(plan: &Plan, access: Access) -> anyhow::Result<Self> {
        if let Some(link) = plan.link {
            let lab = Lab::start(link, plan.link_seed).context("there is no emulated link")?;
            return Self::across(lab, plan, access).await;
        }
        let (way, embedded) = match &plan.server {
            Some(server) => (Way::Remote(Box::new(remote(server.clone(), plan, access)?)), None),
            None => {
                let engine = engine(plan, access.io_policy)?;
                let (way, listening) = serve(&engine, plan, access, LOOPBACK).await?;
                (way, Some((engine, listening)))
            }
        };
        let connector = Connector::new(way, fresh_name(), plan);
        connector.declare().await?;
        Ok(Self { connector, embedded, lab: None })
    }

    /// Starts an embedded server on the left side of `lab` and declares the run's topics there.
    pub(crate) async fn across(lab: Lab, plan: &Plan, access: Access) -> anyhow::Result<Self> {
        let addr = lab.left().addr();
        let planned = plan.clone();
        // The engine's threads are where the thread is that starts them.
        let serving = run_on(lab.left(), "bench-serve", move || async move {
            let engine = engine(&planned, access.io_policy)?;
            let (way, listening) = serve(&engine, &planned, access, addr).await?;
            Ok((way, engine, listening))
        });
        let (way, engine, listening) = serving.await?;
        let connector = Connector::new(way, fresh_name(), plan);
        let declaring = connector.clone();
        run_on(lab.right(), "bench-declare", move || async move { declaring.declare().await }).await?;
        Ok(Self { connector, embedded: Some((engine, listening)), lab: Some(lab) })
    }

    /// The emulated link, if there is one.
    pub(crate) fn lab(&self) -> Option<&Lab> {
        self.lab.as_ref()
    }

    /// Where clients belong: behind the emulated link, if there is one.
    pub(crate) fn clients(&self) -> Option<&Side> {
        self.lab.as_ref().map(Lab::right)
    }

    pub(crate) fn connector(&self) -> Connector {
        self.connector.clone()
    }

    /// Ends an embedded server and starts another one on the same data directory, with the topics it finds there; and
    /// how long that one took until it listened.
    pub(crate) async fn reopen(self, plan: &Plan, access: Access) -> anyhow::Result<(Self, Duration)> {
        let base = self.connector.base.clone();
        self.close().await;
        let until = Instant::now() + SETTLE;
        let (started, engine) = loop {
            let started = Instant::now();
            match engine(plan, access.io_policy) {
                Ok(engine) => break (started, engine),
                // The last task of the old one may still hold its log.
                Err(_) if Instant::now() < until => sleep(Duration::from_millis(1)).await,
                Err(error) => return Err(error),
            }
        };
        let (way, listening) = serve(&engine, plan, access, LOOPBACK).await?;
        let opened = started.elapsed();
        let connector = Connector::new(way, base, plan);
        Ok((Self { connector, embedded: Some((engine, listening)), lab: None }, opened))
    }

    /// Ends an embedded server.
    pub(crate) async fn close(self) {
        if let Some((engine, _listening)) = self.embedded {
            engine.shutdown(Duration::from_secs(1)).await;
        }
    }
}

impl Connector {
    fn new(way: Way, base: String, plan: &Plan) -> Self {
        let Plan { topics, payload_bytes, transport, .. } = *plan;
        Self { way, base, topics, payload_bytes, flows: plan.flows(), transport }
    }

    /// Number `topic` of the topics of `flow`.
    pub(crate) fn topic(&self, flow: Flow, topic: usize) -> String {
        format!("{}/{}/{topic}", self.base, flow.name)
    }

    /// What matches all topics of `flow`.
    pub(crate) fn filter(&self, flow: Flow) -> String {
        if self.topics == 1 { self.topic(flow, 0) } else { format!("{}/{}/*", self.base, flow.name) }
    }

    async fn declare(&self) -> anyhow::Result<()> {
        let session = self.session("bench control").await?;
        for &flow in &self.flows {
            for topic in 0..self.topics {
                let (name, spec) =
                    (self.topic(flow, topic), topic_spec(flow, self.topics, self.payload_bytes));
                let declared = session.declare(&name, spec).await;
                declared.with_context(|| format!("cannot declare the topic {name}"))?;
            }
        }
        session.close().await;
        Ok(())
    }

    /// Opens a session and waits until it uses the run's transport.
    pub(crate) async fn session(&self, name: &str) -> anyhow::Result<Session> {
        let session = match &self.way {
            Way::Local(engine) => Session::local(engine),
            Way::Remote(options) => {
                let mut options = ConnectOptions::clone(options);
                name.clone_into(&mut options.name);
                let server = options.server.clone();
                Session::connect(options)
                    .await
                    .with_context(|| format!("cannot connect {name} to {server}"))?
            }
        };
        let until = Instant::now() + SETTLE;
        while let Err(reason) = self.check_carrier(&session) {
            if Instant::now() >= until {
                return Err(reason);
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(session)
    }

    /// Whether the run's messages travel over the run's transport on this session, now.
    ///
    /// Called again at the end of a run: a figure of a session that fell back, or that lost its connection, would
    /// bear the wrong name.
    pub(crate) fn check_carrier(&self, session: &Session) -> anyhow::Result<()> {
        let status = session.status();
        ensure!(
            status.reconnects == 0 && matches!(status.state.as_str(), "connected" | "local"),
            "a session lost its connection: {}, {} reconnects",
            status.state,
            status.reconnects,
        );
        for &Flow { name, reliable, .. } in &self.flows {
            let over = if reliable { &status.reliable_over } else { &status.fast_over };
            let wanted = match self.transport {
                TransportKind::Local => "local",
                TransportKind::Tcp => "tcp",
                TransportKind::Quic => "quic",
                TransportKind::Both => {
                    if reliable {
                        "tcp"
                    } else {
                        "quic"
                    }
                }
            };
            ensure!(
                over == wanted,
                "{name} messages travel over {over:?} instead of {wanted}: {}",
                status.why
            );
        }
        Ok(())
    }
}

fn engine(plan: &Plan, io_policy: IoPolicy) -> anyhow::Result<Engine> {
    let mut config = EngineConfig::default();
    "twinlane bench".clone_into(&mut config.name);
    config.io_threads = plan.embedded.as_ref().map_or(1, |embedded| embedded.io_threads);
    config.io_policy = io_policy;
    config.data_dir = plan.dir.clone();
    let limits = &mut config.limits;
    limits.connections_max = limits.connections_max.max(2 * (plan.publishers + plan.subscribers) + 16);
    // Loopback is exempt from these; the clients of a lab have one address too.
    limits.connections_per_ip_max = limits.connections_max;
    limits.new_connections_per_ip_per_second = limits.new_connections_per_ip_per_second.max(10_000);
    limits.publishers_per_session_max = limits.publishers_per_session_max.max(plan.topics + 16);
    Engine::new(config).context("cannot start the embedded server")
}

/// Listens where the run's sessions do not share the process, and how they get there.
async fn serve(
    engine: &Engine,
    plan: &Plan,
    access: Access,
    addr: IpAddr,
) -> anyhow::Result<(Way, Option<Listening>)> {
    if plan.transport == TransportKind::Local {
        return Ok((Way::Local(engine.clone()), None));
    }
    let listening = listen(engine, access.plain, addr).await?;
    let access = Access { fingerprint: listening.fingerprint(), ..access };
    let options = remote(listening.addr().to_string(), plan, access)?;
    Ok((Way::Remote(Box::new(options)), Some(listening)))
}

async fn listen(engine: &Engine, plain: bool, addr: IpAddr) -> anyhow::Result<Listening> {
    let mut options = ListenOptions::new(SocketAddr::from((addr, 0)));
    options.plain = plain;
    options.quic = !plain;
    // Another address than loopback is one of a lab: nobody is there but the run's own clients.
    options.allow_insecure_bind = !addr.is_loopback();
    engine.listen(options).await.with_context(|| format!("the embedded server cannot listen on {addr}"))
}

fn remote(server: String, plan: &Plan, access: Access) -> anyhow::Result<ConnectOptions> {
    let mut options = match access.fingerprint {
        _ if access.plain => ConnectOptions::plain(server),
        Some(fingerprint) => ConnectOptions::new(server, Trust::Fingerprint(fingerprint)),
        None => bail!("the certificate fingerprint of {server} is not known"),
    };
    options.transports = match plan.transport {
        TransportKind::Quic => Transports::QuicOnly,
        TransportKind::Both => Transports::Both,
        TransportKind::Tcp | TransportKind::Local => Transports::TcpOnly,
    };
    options.token = access.token;
    options.reconnect = Reconnect { enabled: false, ..Reconnect::default() };
    Ok(options)
}

/// A specification with less history for each of very many topics: all of them together keep half a gigabyte.
fn topic_spec(flow: Flow, topics: usize, payload_bytes: usize) -> TopicSpec {
    let spec = flow.topic_spec();
    let each = RETAIN_BYTES_MAX / topics as u64;
    if each >= RETAIN_BYTES_DEFAULT {
        return spec;
    }
    // A history is kept in pieces, and each must be able to hold the largest message.
    spec.with_retain_bytes(each).with_payload_bytes_max(payload_bytes as u32)
}

/// A name no other run uses: a topic that two runs share would fail both.
fn fresh_name() -> String {
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    format!("bench/{}/{:x}", process::id(), since_1970.as_nanos())
}
