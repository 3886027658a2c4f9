//! Takes connections of both transports on one port number, and hands over those that finished their handshake.
//!
//! An accept loop never ends on an error, and a handshake never holds up another: each is a task with a deadline
//! and a place among a limited number. What the connection is for is the callback's concern.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quinn::Endpoint;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::error::ListenError;
use super::h3::{H3Connection, OnH3};
use super::identity::ServerTls;
use super::io_threads::IoThreads;
use super::limits::{Admission, Alive, ConnectionLimits, PendingConnection, Refusal};
use super::quic::{self, Arrived, Datagrams, RETRY_ABOVE_PENDING};
use super::stream::Stream;
use super::tcp;

/// A client that finished its handshake.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// The TCP connection, or the first stream of the QUIC connection.
    pub(crate) stream: Stream,
    /// The datagrams of a QUIC connection.
    pub(crate) datagrams: Option<Datagrams>,
}

/// What a listener listens to.
#[derive(Clone, Debug)]
pub(crate) struct ListenConfig {
    /// Address and port; port 0 lets the system choose one that is free for both transports.
    pub(crate) addr: SocketAddr,
    /// Take TCP connections.
    pub(crate) tcp: bool,
    /// Take QUIC connections.
    pub(crate) quic: bool,
    /// TCP without TLS. Refused unless `addr` is loopback.
    pub(crate) plain: bool,
    /// Who may connect.
    pub(crate) limits: ConnectionLimits,
}

/// What a listener has counted since it was bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListenerCounters {
    /// Handshakes that were finished.
    pub(crate) accepted: u64,
    /// Handshakes in progress.
    pub(crate) pending: usize,
    /// Connections that are open.
    pub(crate) open: usize,
    refused: [u64; Refusal::ALL.len()],
}

/// Sockets that listen on one port number for both transports.
pub(crate) struct Listener {
    addr: SocketAddr,
    config: ListenConfig,
    tls: Option<ServerTls>,
    /// Who takes HTTP/3.
    on_h3: Option<OnH3>,
    /// Taken by [`serve`](Self::serve).
    sockets: Mutex<Option<Sockets>>,
    admission: Arc<Admission>,
    stop: watch::Sender<bool>,
}

impl ListenerCounters {
    /// Connections refused for `why`.
    pub(crate) fn refused(&self, why: Refusal) -> u64 {
        self.refused[why as usize]
    }
}

impl Listener {
    /// Binds the sockets. Connections wait in the kernel until [`serve`](Self::serve).
    ///
    /// An IPv6 address takes IPv6 only. `tls` may be `None` for plain TCP without QUIC.
    ///
    /// # Errors
    ///
    /// [`ListenError`] says what to change.
    pub(crate) fn bind(
        config: ListenConfig,
        tls: Option<&ServerTls>,
        threads: &IoThreads,
    ) -> Result<Self, ListenError> {
        let addr = config.addr;
        if !config.tcp && !config.quic {
            return Err(ListenError::NoTransport { addr });
        }
        if config.plain && !addr.ip().to_canonical().is_loopback() {
            return Err(ListenError::PlainOffLoopback { addr });
        }
        let needs_identity = config.quic || config.tcp && !config.plain;
        if needs_identity && tls.is_none() {
            return Err(ListenError::IdentityMissing { addr });
        }
        let (addr, sockets) = Sockets::bind(&config, threads.count())?;
        let limits = config.limits.clone().within_descriptors();
        tracing::info!(%addr, connections_max = limits.connections_max, "listening");
        Ok(Self {
            addr,
            config,
            tls: tls.cloned(),
            on_h3: None,
            sockets: Mutex::new(Some(sockets)),
            admission: Admission::new(limits),
            stop: watch::Sender::new(false),
        })
    }

    /// Offers HTTP/3 on the QUIC port, and hands its connections to `on_h3` as [`serve`](Self::serve) does ours.
    pub(crate) fn with_h3(self, on_h3: Option<OnH3>) -> Self {
        Self { on_h3, ..self }
    }

    /// The address with the port that was chosen, the same for both transports.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Starts taking connections on `threads`, which must be the ones given to [`bind`](Self::bind).
    /// `on_connection` is called on the thread that owns the connection, inside its runtime: it spawns a task and
    /// returns.
    ///
    /// # Errors
    ///
    /// [`ListenError::Socket`] if a socket cannot be registered with its runtime.
    ///
    /// # Panics
    ///
    /// At the second call.
    pub(crate) fn serve(
        &self,
        threads: &IoThreads,
        on_connection: impl Fn(Incoming) + Send + Sync + Clone + 'static,
    ) -> Result<(), ListenError> {
        let sockets = self.sockets.lock().expect("taking the sockets cannot panic").take();
        let Sockets { tcp, udp } = sockets.expect("a listener is served once");
        let at = |source| ListenError::Socket { addr: self.addr, source };

        let acceptor = self.tls.as_ref().filter(|_| !self.config.plain);
        let acceptor = acceptor.map(|tls| TlsAcceptor::from(Arc::clone(&tls.config)));
        for (index, socket) in tcp.into_iter().enumerate() {
            let runtime = threads.handle(index);
            let _inside = runtime.enter();
            let door = self.door(on_connection.clone());
            let socket = TcpListener::from_std(socket).map_err(at)?;
            runtime.spawn(accept_tcp(socket, acceptor.clone(), door));
        }
        if let (Some(socket), Some(tls)) = (udp, &self.tls) {
            let runtime = threads.handle(0);
            let _inside = runtime.enter();
            let endpoint = quic::server_endpoint(socket, tls, self.on_h3.is_some(), self.addr)?;
            runtime.spawn(accept_quic(endpoint, self.door(on_connection)));
        }
        Ok(())
    }

    /// What has been counted so far.
    pub(crate) fn counters(&self) -> ListenerCounters {
        let counts = self.admission.counts();
        ListenerCounters {
            accepted: counts.accepted,
            pending: counts.pending,
            open: counts.open,
            refused: counts.refused,
        }
    }

    /// Takes no new connections and frees the port for TCP. Open ones, and handshakes in progress, go on.
    pub(crate) fn stop_accepting(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until it takes no connections any more and every connection it took is closed. Cancel-safe.
    pub(crate) async fn closed(&self) {
        self.admission.ended().await;
    }

    fn door<F>(&self, on_connection: F) -> Door<F> {
        Door {
            admission: Arc::clone(&self.admission),
            stop: self.stop.subscribe(),
            on_connection,
            on_h3: self.on_h3.clone(),
            _alive: self.admission.alive(),
        }
    }
}

/// How long to wait after a failed `accept`: descriptors come back when connections end, not at once.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Ports that the system may propose before one is free for both transports.
const PORT_ATTEMPTS: usize = 32;

struct Sockets {
    /// One per I/O thread.
    tcp: Vec<StdTcpListener>,
    udp: Option<UdpSocket>,
}

impl Sockets {
    fn bind(config: &ListenConfig, threads: usize) -> Result<(SocketAddr, Self), ListenError> {
        let asked = config.addr;
        let attempts = if asked.port() == 0 { PORT_ATTEMPTS } else { 1 };
        for _ in 0..attempts {
            match Self::bind_once(config, threads) {
                Ok(bound) => return Ok(bound),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(source) => return Err(ListenError::Socket { addr: asked, source }),
            }
        }
        Err(match asked.port() {
            0 => ListenError::NoCommonPort { addr: asked, attempts },
            _ => ListenError::AddressInUse { addr: asked },
        })
    }

    fn bind_once(config: &ListenConfig, threads: usize) -> io::Result<(SocketAddr, Self)> {
        let mut addr = config.addr;
        let mut tcp = Vec::new();
        if config.tcp {
            // Shared sockets would quietly share the port with another process of this user too. A socket that is
            // not shared can be bound only if nobody listens there, so it goes first.
            let probe = tcp::bound(addr, false)?;
            addr = probe.local_addr()?.as_socket().unwrap_or(addr);
            drop(probe);
            let shared = 1 < threads;
            tcp = (0..threads).map(|_| tcp::listen(addr, shared)).collect::<io::Result<_>>()?;
        }
        let udp = config.quic.then(|| quic::bind_udp(addr)).transpose()?;
        if let Some(udp) = &udp {
            addr = udp.local_addr()?;
        }
        Ok((addr, Self { tcp, udp }))
    }
}

/// What an accept loop needs besides its socket.
struct Door<F> {
    admission: Arc<Admission>,
    stop: watch::Receiver<bool>,
    on_connection: F,
    on_h3: Option<OnH3>,
    _alive: Alive,
}

impl<F: Fn(Incoming) + Send + Sync + Clone + 'static> Door<F> {
    /// Runs one handshake as a task of this thread, within its deadline.
    fn shake_hands<H>(&self, peer: SocketAddr, mut pending: PendingConnection, handshake: H)
    where
        H: Future<Output = Result<Shaken, (Refusal, String)>> + Send + 'static,
    {
        let admission = Arc::clone(&self.admission);
        let (on_connection, on_h3) = (self.on_connection.clone(), self.on_h3.clone());
        tokio::spawn(async move {
            let limit = admission.limits().handshake_timeout;
            let shaken = tokio::select! {
                shaken = handshake => shaken,
                () = pending.gives_way() => Err((Refusal::GaveWay, String::new())),
                () = tokio::time::sleep(limit) => Err((Refusal::HandshakeTimeout, String::new())),
            };
            let shaken = match shaken {
                Ok(shaken) => shaken,
                Err((why, detail)) => return admission.refuse(why, Some(peer), &detail),
            };
            match pending.established() {
                Ok(open) => {
                    let (stream, datagrams) = match shaken {
                        Shaken::Plain(socket) => (Stream::plain(socket, peer, Some(open)), None),
                        Shaken::Tls(tls) => (Stream::tls(*tls, peer, Some(open)), None),
                        Shaken::Quic(Arrived::Ours(connection, send, recv)) => {
                            let (stream, datagrams) = quic::into_parts(connection, (send, recv), open);
                            (stream, Some(datagrams))
                        }
                        Shaken::Quic(Arrived::H3(connection)) => {
                            let on_h3 = on_h3.expect("HTTP/3 is offered only where it is taken");
                            return on_h3(H3Connection::new(connection, open));
                        }
                    };
                    on_connection(Incoming { stream, datagrams });
                }
                Err(why) => admission.refuse(why, Some(peer), ""),
            }
        });
    }
}

/// A connection whose handshake is done.
enum Shaken {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::TlsStream<super::buffered::Buffered>>),
    Quic(Arrived),
}

async fn accept_tcp<F>(socket: TcpListener, acceptor: Option<TlsAcceptor>, mut door: Door<F>)
where
    F: Fn(Incoming) + Send + Sync + Clone + 'static,
{
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = door.stop.wait_for(|stop| *stop) => return,
        };
        let (connection, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                door.admission.refuse(Refusal::AcceptFailed, None, &error.to_string());
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let pending = match door.admission.admit(peer.ip(), true, Instant::now()) {
            Ok(pending) => pending,
            Err(why) => {
                door.admission.refuse(why, Some(peer), "");
                continue;
            }
        };
        // Fails only on a connection that is gone already, and the next read says so.
        let _ = connection.set_nodelay(true);
        let acceptor = acceptor.clone();
        door.shake_hands(peer, pending, async move {
            match acceptor {
                None => Ok(Shaken::Plain(connection)),
                Some(acceptor) => Ok(Shaken::Tls(Box::new(tcp::accept(&acceptor, connection).await?))),
            }
        });
    }
}

async fn accept_quic<F>(endpoint: Endpoint, mut door: Door<F>)
where
    F: Fn(Incoming) + Send + Sync + Clone + 'static,
{
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            _ = door.stop.wait_for(|stop| *stop) => None,
        };
        let Some(incoming) = incoming else {
            // New connections are refused from now on; the endpoint itself ends with its last connection, and frees
            // the port when the peer's last packets can no longer come.
            endpoint.set_server_config(None);
            endpoint.wait_idle().await;
            return;
        };
        let peer = incoming.remote_address();
        match admit_quic(&door.admission, &incoming) {
            Verdict::Take(pending) => {
                door.shake_hands(
                    peer,
                    pending,
                    async move { Arrived::from(incoming).await.map(Shaken::Quic) },
                );
            }
            // An error means that the address is validated, which `admit_quic` has ruled out.
            Verdict::ProveAddress => drop(incoming.retry()),
            Verdict::Refuse(why) => {
                incoming.refuse();
                door.admission.refuse(why, Some(peer), "");
            }
        }
    }
}

enum Verdict {
    Take(PendingConnection),
    ProveAddress,
    Refuse(Refusal),
}

/// Only a peer that has proved its address is refused: a forged address costs it nothing and its owner nothing.
fn admit_quic(admission: &Arc<Admission>, incoming: &quinn::Incoming) -> Verdict {
    let validated = incoming.remote_address_validated();
    let may_ask = !validated && incoming.may_retry();
    if may_ask && RETRY_ABOVE_PENDING <= admission.counts().pending {
        return Verdict::ProveAddress;
    }
    match admission.admit(incoming.remote_address().ip(), validated, Instant::now()) {
        Ok(pending) => Verdict::Take(pending),
        Err(_) if may_ask => Verdict::ProveAddress,
        Err(why) => Verdict::Refuse(why),
    }
}
