//! The four contenders: how each gets a message to the other end.

use std::{
    fmt,
    net::{SocketAddr, TcpListener as StdTcpListener, UdpSocket},
    sync::Arc,
};

use anyhow::Context as _;
use clap::ValueEnum;
use quinn::rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};
use twinlane::{DeliveryRef, Publisher, Session, Subscription};
use twinlane_netlab::Side;

use crate::{plan::Flow, stage::Connector};

/// Whom the certificate of the plain QUIC connection names.
const NAME: &str = "duel";
/// What a TCP receiver reads at once at most.
const READ_BYTES: usize = 64 << 10;

/// Who runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Contender {
    /// A fast topic through the server.
    Fast,
    /// A reliable topic through the server.
    Reliable,
    /// One TCP connection.
    RawTcp,
    /// One stream of a QUIC connection.
    QuicStream,
}

impl Contender {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Fast, Self::Reliable, Self::RawTcp, Self::QuicStream];

    /// As people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Reliable => "reliable",
            Self::RawTcp => "raw tcp",
            Self::QuicStream => "quic stream",
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fast => "fast",
            Self::Reliable => "reliable",
            Self::RawTcp => "raw-tcp",
            Self::QuicStream => "quic-stream",
        })
    }
}

/// What both ends need to know to find each other. The left side of the link listens, the right one dials.
pub(crate) struct Meeting {
    pub(crate) connector: Connector,
    tcp: StdTcpListener,
    udp: UdpSocket,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Meeting {
    /// Sockets on the left side, and a certificate.
    pub(crate) fn on(left: &Side, connector: Connector) -> anyhow::Result<Self> {
        let addr = SocketAddr::from((left.addr(), 0));
        let bound = left.spawn("duel-listen", move || -> std::io::Result<_> {
            let (tcp, udp) = (StdTcpListener::bind(addr)?, UdpSocket::bind(addr)?);
            tcp.set_nonblocking(true)?;
            Ok((tcp, udp))
        })?;
        let bound = bound.join().expect("binding sockets does not panic");
        let (tcp, udp) = bound.context("cannot listen on the link")?;
        let made =
            rcgen::generate_simple_self_signed([NAME.to_owned()]).context("cannot make a certificate")?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der());
        let key = key.ok().context("the key that was made is none")?;
        Ok(Self { connector, tcp, udp, certificate: made.cert.der().clone(), key })
    }

    /// The left end of the raw TCP connection, or the right one.
    async fn tcp(&self, is_left: bool) -> anyhow::Result<TcpStream> {
        let stream = if is_left {
            TcpListener::from_std(self.tcp.try_clone()?)?.accept().await?.0
        } else {
            TcpStream::connect(self.tcp.local_addr()?).await?
        };
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// The left end of the plain QUIC connection, or the right one; and what it lives in.
    async fn quic(&self, is_left: bool) -> anyhow::Result<(quinn::Endpoint, quinn::Connection)> {
        if is_left {
            let chain = vec![self.certificate.clone()];
            let config = quinn::ServerConfig::with_single_cert(chain, self.key.clone_key())?;
            let runtime = Arc::new(quinn::TokioRuntime);
            let socket = self.udp.try_clone()?;
            let endpoint =
                quinn::Endpoint::new(quinn::EndpointConfig::default(), Some(config), socket, runtime)?;
            let incoming = endpoint.accept().await.context("the endpoint is open")?;
            let connection = incoming.await?;
            return Ok((endpoint, connection));
        }
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let config = quinn::ClientConfig::with_root_certificates(Arc::new(roots))?;
        let endpoint = quinn::Endpoint::client(SocketAddr::from(([0, 0, 0, 0], 0)))?;
        let connection = endpoint.connect_with(config, self.udp.local_addr()?, NAME)?.await?;
        Ok((endpoint, connection))
    }
}

/// The sending end.
pub(crate) enum Sender {
    Twinlane { session: Session, publisher: Box<Publisher> },
    Tcp(TcpStream),
    Quic { stream: quinn::SendStream, _alive: (quinn::Endpoint, quinn::Connection) },
}

impl Sender {
    /// Connects. `topic` is that of the contender, if it has one.
    pub(crate) async fn open(
        contender: Contender,
        meeting: &Meeting,
        topic: Option<Flow>,
        is_left: bool,
    ) -> anyhow::Result<Self> {
        if let Some(flow) = topic {
            let session = meeting.connector.session(&format!("duel publisher, {contender}")).await?;
            let publisher = session.publisher(&meeting.connector.topic(flow, 0)).await;
            let publisher = Box::new(publisher.context("cannot open a publisher")?);
            return Ok(Self::Twinlane { session, publisher });
        }
        if contender == Contender::RawTcp {
            return Ok(Self::Tcp(meeting.tcp(is_left).await.context("no raw TCP connection")?));
        }
        let alive = meeting.quic(is_left).await.context("no plain QUIC connection")?;
        Ok(Self::Quic { stream: alive.1.open_uni().await?, _alive: alive })
    }

    /// Hands one message over; waits where the contender makes its sender wait.
    pub(crate) async fn send(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        match self {
            Self::Twinlane { publisher, .. } => {
                publisher.send(payload).await.context("cannot publish")?;
            }
            Self::Tcp(stream) => stream.write_all(payload).await.context("cannot write to raw TCP")?,
            Self::Quic { stream, .. } => {
                stream.write_all(payload).await.context("cannot write to the QUIC stream")?;
            }
        }
        Ok(())
    }

    /// Says that nothing more comes. To be called within a deadline.
    pub(crate) async fn finish(self, connector: &Connector) -> anyhow::Result<()> {
        match self {
            Self::Twinlane { session, publisher } => {
                publisher.close().await.context("cannot close a publisher")?;
                connector.check_carrier(&session)?;
                session.close().await;
            }
            Self::Tcp(mut stream) => stream.shutdown().await?,
            Self::Quic { mut stream, _alive } => {
                stream.finish()?;
                // It ends when the other side has everything, or has gone.
                let _ = stream.stopped().await;
            }
        }
        Ok(())
    }
}

/// The receiving end.
pub(crate) enum Receiver {
    Twinlane { session: Session, subscription: Box<Subscription> },
    Tcp(BufReader<TcpStream>),
    Quic { stream: Option<quinn::RecvStream>, alive: (quinn::Endpoint, quinn::Connection) },
}

/// Something that came.
#[derive(Clone, Copy)]
pub(crate) enum Came<'a> {
    Message(&'a [u8]),
    /// So many messages were reported missing.
    Missing(u64),
}

impl Receiver {
    /// Connects, as [`Sender::open`] does.
    pub(crate) async fn open(
        contender: Contender,
        meeting: &Meeting,
        topic: Option<Flow>,
        is_left: bool,
    ) -> anyhow::Result<Self> {
        if let Some(flow) = topic {
            let session = meeting.connector.session(&format!("duel subscriber, {contender}")).await?;
            let subscription = session.subscribe(&meeting.connector.filter(flow)).await;
            let subscription = Box::new(subscription.context("cannot subscribe")?);
            return Ok(Self::Twinlane { session, subscription });
        }
        if contender == Contender::RawTcp {
            let stream = meeting.tcp(is_left).await.context("no raw TCP connection")?;
            return Ok(Self::Tcp(BufReader::with_capacity(READ_BYTES, stream)));
        }
        let alive = meeting.quic(is_left).await.context("no plain QUIC connection")?;
        Ok(Self::Quic { stream: None, alive })
    }

    /// Waits for what comes next and shows it, message by message; `false` at the end. `buffer` has the size of a payload.
    pub(crate) async fn next(
        &mut self,
        buffer: &mut [u8],
        see: &mut impl FnMut(Came<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<bool> {
        match self {
            Self::Twinlane { subscription, .. } => {
                let Some(batch) = subscription.next_batch().await else { return Ok(false) };
                for delivery in batch.iter() {
                    match delivery {
                        DeliveryRef::Message(message) => see(Came::Message(message.payload()))?,
                        DeliveryRef::Gap(gap) => see(Came::Missing(gap.count()))?,
                        other => anyhow::bail!("a duel keeps its connections, and yet received {other:?}"),
                    }
                }
                return Ok(true);
            }
            Self::Tcp(stream) => {
                if stream.read_exact(buffer).await.is_err() {
                    return Ok(false);
                }
            }
            Self::Quic { stream, alive } => {
                let stream = match stream {
                    Some(stream) => stream,
                    // There is a stream for the receiver when there is something on it.
                    None => stream.insert(alive.1.accept_uni().await?),
                };
                if stream.read_exact(buffer).await.is_err() {
                    return Ok(false);
                }
            }
        }
        see(Came::Message(buffer))?;
        Ok(true)
    }

    /// Whether it was what it should have been until the end.
    pub(crate) async fn finish(self, connector: &Connector) -> anyhow::Result<()> {
        if let Self::Twinlane { session, subscription } = self {
            connector.check_carrier(&session)?;
            subscription.close().await;
            session.close().await;
        }
        Ok(())
    }
}
