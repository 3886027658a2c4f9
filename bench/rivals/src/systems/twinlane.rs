//! twinlane through its own server program: TCP with and without TLS, QUIC, and the I/O policies.

use std::{
    future::Future,
    task::{Context, Poll},
};

use anyhow::{Result, anyhow, bail, ensure};
use tokio::{
    task::{JoinHandle, yield_now},
    time::{Duration, Instant, sleep},
};
use twinlane::{
    Batch, ConnectOptions, DeliveryRef, Fingerprint, Publisher, Reconnect, Session, Subscription, TopicSpec,
    Transports, Trust,
};

use crate::{
    fleet::Fleet,
    measure::Workload,
    process::{Process, free_port, loopback},
    system::{AnySystem, Publish, Setup, Subscribe, System, TOPIC},
};

/// How long a session may take until its messages travel as wanted.
const SETTLE: Duration = Duration::from_secs(5);

pub(super) fn systems() -> Vec<Box<dyn AnySystem>> {
    VARIANTS.iter().map(|variant| Box::new(Twinlane(variant)) as Box<dyn AnySystem>).collect()
}

/// One way to use it.
#[derive(Debug)]
struct Variant {
    name: &'static str,
    about: &'static str,
    plain: bool,
    transports: Transports,
    is_fast: bool,
    /// `--io-policy`, where it is not the default.
    io_policy: Option<&'static str>,
    /// The client keeps its own runtime awake as well.
    spins: bool,
}

const TLS: Variant = Variant {
    name: "twinlane",
    about: "reliable topic, TCP with TLS 1.3, through `twinlane serve`, all defaults",
    plain: false,
    transports: Transports::TcpOnly,
    is_fast: false,
    io_policy: None,
    spins: false,
};

const FAST: Variant = Variant {
    name: "twinlane-fast",
    about: "fast topic, QUIC datagrams (always encrypted), all defaults",
    transports: Transports::QuicOnly,
    is_fast: true,
    ..TLS
};

static VARIANTS: &[Variant] = &[
    TLS,
    Variant { name: "twinlane-plain", about: "reliable topic, TCP without TLS", plain: true, ..TLS },
    FAST,
    Variant {
        name: "twinlane-quic",
        about: "reliable topic, QUIC stream",
        transports: Transports::QuicOnly,
        ..TLS
    },
    Variant {
        name: "twinlane-park",
        about: "as twinlane, I/O threads park at once",
        io_policy: Some("park"),
        ..TLS
    },
    Variant {
        name: "twinlane-spin",
        about: "as twinlane, the server's one I/O thread and the client's runtime never sleep",
        io_policy: Some("spin"),
        spins: true,
        ..TLS
    },
    Variant {
        name: "twinlane-fast-spin",
        about: "as twinlane-fast, the server's one I/O thread and the client's runtime never sleep",
        io_policy: Some("spin"),
        spins: true,
        ..FAST
    },
];

struct Twinlane(&'static Variant);

/// The server program.
pub(super) struct Serving {
    process: Process,
    port: u16,
    fingerprint: Option<Fingerprint>,
}

impl Serving {
    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }
}

/// Why there is no server program, if there is none.
pub(super) fn missing(setup: &Setup) -> Option<String> {
    (!setup.twinlane.is_file())
        .then(|| format!("no {}: run setup, or name another with --twinlane", setup.twinlane.display()))
}

/// Starts `twinlane serve` with the topic of the runs, specified by `spec`.
pub(super) fn serve(setup: &Setup, spec: &str, plain: bool, further: &[String]) -> Result<Serving> {
    let port = free_port()?;
    let mut args: Vec<String> = ["serve", "--listen"].map(str::to_owned).into();
    args.extend([loopback(port).to_string(), "--topic".to_owned(), format!("{TOPIC}={spec}")]);
    args.extend(["--data-dir".to_owned(), setup.directory.join("twinlane").display().to_string()]);
    args.extend(plain.then(|| "--plain".to_owned()));
    args.extend(further.iter().chain(&setup.twinlane_args).cloned());
    let mut process = Process::start(setup, &setup.twinlane, &args)?;
    let fingerprint = process.wait_for("its first line", |process| {
        let log = process.log();
        if plain { log.contains("connect with").then_some(None) } else { fingerprint_in(&log).map(Some) }
    })?;
    Ok(Serving { process, port, fingerprint })
}

/// Connects a session.
pub(super) async fn connect(server: &Serving, transports: Transports) -> Result<Session> {
    let at = loopback(server.port).to_string();
    let mut options = match server.fingerprint {
        Some(fingerprint) => ConnectOptions::new(at, Trust::Fingerprint(fingerprint)),
        None => ConnectOptions::plain(at),
    };
    options.transports = transports;
    // A lost connection is a failed run, not a pause in it.
    options.reconnect = Reconnect { enabled: false, ..Reconnect::default() };
    Ok(Session::connect(options).await?)
}

impl System for Twinlane {
    type Server = Serving;
    type Publisher = Publishing;
    type Subscribers = Subscribing;

    fn name(&self) -> &'static str {
        self.0.name
    }

    fn about(&self) -> &'static str {
        self.0.about
    }

    fn missing(&self, setup: &Setup) -> Option<String> {
        missing(setup)
    }

    fn takes_part(&self, workload: Workload) -> bool {
        // A server that spins on one core while the client does so on the other leaves nothing to publishers.
        !self.0.spins || matches!(workload, Workload::Roundtrip)
    }

    fn start(&self, setup: &Setup) -> Result<Serving> {
        let mut further: Vec<String> = Vec::new();
        if let Some(policy) = self.0.io_policy {
            further.extend(["--io-policy", policy].map(str::to_owned));
        }
        if self.0.spins {
            further.extend(["--io-threads", "1"].map(str::to_owned));
        }
        serve(setup, if self.0.is_fast { "fast" } else { "reliable" }, self.0.plain, &further)
    }

    fn processes(&self, server: &Serving) -> Vec<u32> {
        vec![server.id()]
    }

    async fn publisher(&self, _: &Setup, server: &Serving) -> Result<Publishing> {
        let awake = self.keep_awake();
        Publishing::open(self.session(server).await?, self.0, awake).await
    }

    async fn subscribers(&self, _: &Setup, server: &Serving, count: usize) -> Result<Subscribing> {
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            let session = self.session(server).await?;
            clients.push((session.subscribe(TOPIC).await?, session));
        }
        Ok(Subscribing::new(clients))
    }

    /// One session, as an application would have it.
    async fn pair(&self, _: &Setup, server: &Serving) -> Result<(Publishing, Subscribing)> {
        let session = self.session(server).await?;
        let subscription = session.subscribe(TOPIC).await?;
        let publishing = Publishing::open(session.clone(), self.0, self.keep_awake()).await?;
        Ok((publishing, Subscribing::new(vec![(subscription, session)])))
    }
}

impl Twinlane {
    /// Connects, and waits until messages travel over the wanted transport.
    async fn session(&self, server: &Serving) -> Result<Session> {
        let session = connect(server, self.0.transports).await?;
        let until = Instant::now() + SETTLE;
        while let Err(why) = check_carrier(&session, self.0) {
            ensure!(Instant::now() < until, "{why}");
            sleep(Duration::from_millis(10)).await;
        }
        Ok(session)
    }

    fn keep_awake(&self) -> Option<JoinHandle<()>> {
        self.0.spins.then(|| {
            tokio::spawn(async {
                loop {
                    yield_now().await;
                }
            })
        })
    }
}

fn check_carrier(session: &Session, variant: &Variant) -> Result<()> {
    let status = session.status();
    let over = if variant.is_fast { &status.fast_over } else { &status.reliable_over };
    let wanted = if variant.transports == Transports::QuicOnly { "quic" } else { "tcp" };
    ensure!(over == wanted, "messages travel over {over:?} instead of {wanted}: {}", status.why);
    Ok(())
}

/// The fingerprint in what `twinlane serve` prints at its start, once it has printed all of it.
fn fingerprint_in(log: &str) -> Option<Fingerprint> {
    let line = log.lines().find_map(|line| line.trim_start().strip_prefix("fingerprint"))?;
    log.contains("connect with").then_some(())?;
    line.trim().parse().ok()
}

/// A publisher and its session.
pub(super) struct Publishing {
    publisher: Publisher,
    session: Session,
    variant: Option<&'static Variant>,
    awake: Option<JoinHandle<()>>,
}

impl Publishing {
    async fn open(
        session: Session,
        variant: &'static Variant,
        awake: Option<JoinHandle<()>>,
    ) -> Result<Self> {
        let publisher = session.publisher(TOPIC).await?;
        let wanted = if variant.is_fast { TopicSpec::fast() } else { TopicSpec::reliable() };
        ensure!(publisher.spec().channel == wanted.channel, "the server's topic is of the other channel");
        Ok(Self { publisher, session, variant: Some(variant), awake })
    }

    /// In process, where there is no transport to check.
    pub(super) async fn local(session: Session) -> Result<Self> {
        let publisher = session.publisher(TOPIC).await?;
        Ok(Self { publisher, session, variant: None, awake: None })
    }
}

impl Publish for Publishing {
    #[inline]
    async fn send(&mut self, payload: &[u8]) -> Result<()> {
        self.publisher.send(payload).await?;
        Ok(())
    }

    #[inline]
    async fn flush(&mut self) -> Result<()> {
        // The connection lives on this runtime: its turn is now.
        yield_now().await;
        Ok(())
    }

    #[inline]
    async fn flush_before_waiting(&mut self) -> Result<()> {
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        let flushed = self.publisher.flush().await?;
        ensure!(flushed.refused == 0, "{} messages were refused", flushed.refused);
        let Some(variant) = self.variant else { return Ok(()) };
        check_carrier(&self.session, variant)?;
        ensure!(self.session.status().reconnects == 0, "the connection was lost");
        Ok(())
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        if let Some(awake) = &self.awake {
            awake.abort();
        }
    }
}

/// A subscription and the session that keeps it alive.
type Client = (Subscription, Session);

/// One subscription is awaited directly; several form a fleet.
pub(super) enum Subscribing {
    One(Box<Client>),
    Many(Fleet<Client>),
}

impl Subscribing {
    pub(super) fn new(mut clients: Vec<Client>) -> Self {
        match clients.pop() {
            Some(only) if clients.is_empty() => Self::One(Box::new(only)),
            last => {
                clients.extend(last);
                Self::Many(Fleet::new(clients))
            }
        }
    }
}

impl Subscribe for Subscribing {
    #[inline]
    async fn recv(&mut self, each: &mut impl FnMut(usize, &[u8])) -> Result<()> {
        match self {
            Self::One(client) => {
                let (subscription, _) = client.as_mut();
                hand_out(0, subscription.next_batch().await, subscription, each)
            }
            Self::Many(fleet) => {
                fleet
                    .next(|number, (subscription, _), cx: &mut Context<'_>| {
                        let batch = {
                            let next = std::pin::pin!(subscription.next_batch());
                            match next.poll(cx) {
                                Poll::Ready(batch) => batch,
                                Poll::Pending => return Poll::Pending,
                            }
                        };
                        Poll::Ready(hand_out(number, batch, subscription, each))
                    })
                    .await
            }
        }
    }
}

#[inline]
fn hand_out(
    number: usize,
    batch: Option<Batch>,
    subscription: &Subscription,
    each: &mut impl FnMut(usize, &[u8]),
) -> Result<()> {
    let Some(batch) = batch else {
        let why = subscription.end().map_or_else(|| "no reason given".to_owned(), |end| end.to_string());
        return Err(anyhow!("subscription {number} ended: {why}"));
    };
    for delivery in batch.iter() {
        match delivery {
            DeliveryRef::Message(message) => each(number, message.payload()),
            // Counted from the seqs of the payloads, as for everybody.
            DeliveryRef::Gap(_) => {}
            other => bail!("a run keeps its connections, and yet received {other:?}"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_is_read_once_the_banner_is_complete() {
        let hex = "e8be9ca6ba4806b73d7b4fd201a025a098f59256efba3c932485ff05d2301d63";
        let cut = format!("twinlane 0.1.0\n  listening    127.0.0.1:1\n  fingerprint  {hex}\n");
        assert!(fingerprint_in(&cut).is_none());
        assert_eq!(fingerprint_in(&format!("{cut}connect with\n")).unwrap().to_string(), hex);
    }
}
