//! A relay between client and server on one port: TCP that can be cut or held, UDP that loses, repeats and reorders.
//!
//! It forwards bytes and datagrams and looks into none of them.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::Seeded;

/// Ports the system may propose before one is free for TCP and UDP.
const PORT_ATTEMPTS: usize = 32;
/// The longest a delayed datagram is late.
const DELAY_MAX_MS: u64 = 10;
const BUFFER_BYTES: usize = 16 << 10;
const DATAGRAM_BYTES_MAX: usize = 64 << 10;

/// The relay could not be set up.
#[derive(Debug)]
pub struct RelayError(io::Error);

impl std::fmt::Display for RelayError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no relay: {}; free a loopback port", self.0)
    }
}

impl std::error::Error for RelayError {}

impl From<io::Error> for RelayError {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

/// What happens to datagrams, each with its chance in a thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpFaults {
    /// It is lost.
    pub lose_permille: u32,
    /// It arrives twice.
    pub repeat_permille: u32,
    /// It arrives up to 10 ms later than those after it.
    pub delay_permille: u32,
}

impl UdpFaults {
    /// Nothing gets through.
    pub const BLACKHOLE: Self = Self { lose_permille: 1_000, repeat_permille: 0, delay_permille: 0 };
}

/// A relay to one server. Dropping it cuts everything.
#[derive(Debug)]
pub struct Relay {
    addr: SocketAddr,
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    random: Mutex<Seeded>,
    faults: Mutex<UdpFaults>,
    /// Counts cuts; a connection ends when it changes.
    cuts: watch::Sender<u64>,
    /// Bytes that come back from the server wait while this is set.
    held: watch::Sender<bool>,
    /// A connection is cut after about this many bytes; 0: never.
    cut_after_bytes: AtomicU64,
    refusing: AtomicBool,
    connections: AtomicU64,
    datagrams: AtomicU64,
    lost: AtomicU64,
}

impl Relay {
    /// A relay to `server` on a loopback port of its own, the same for TCP and UDP. It runs on the current runtime.
    ///
    /// # Errors
    ///
    /// No port is free for both.
    pub async fn start(server: SocketAddr, seed: u64) -> Result<Self, RelayError> {
        let (tcp, udp) = bind_both().await?;
        let addr = tcp.local_addr()?;
        let shared = Arc::new(Shared {
            server,
            random: Mutex::new(Seeded::new(seed)),
            faults: Mutex::default(),
            cuts: watch::Sender::new(0),
            held: watch::Sender::new(false),
            cut_after_bytes: AtomicU64::new(0),
            refusing: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            datagrams: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        });
        let tasks = vec![
            tokio::spawn(accept(tcp, Arc::clone(&shared))),
            tokio::spawn(carry_datagrams(Arc::new(udp), Arc::clone(&shared))),
        ];
        Ok(Self { addr, shared, tasks })
    }

    /// Where clients connect to.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Cuts every TCP connection now.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// From now on, new TCP connections are cut somewhere between half and all of `bytes`; 0: no more.
    pub fn cut_after(&self, bytes: u64) {
        self.shared.cut_after_bytes.store(bytes, Ordering::Release);
    }

    /// Whether new TCP connections are closed at once.
    pub fn refuse(&self, refuse: bool) {
        self.shared.refusing.store(refuse, Ordering::Release);
    }

    /// Whether what the server sends over TCP is held back.
    pub fn hold(&self, hold: bool) {
        self.shared.held.send_replace(hold);
    }

    /// What happens to datagrams from now on.
    pub fn disturb(&self, faults: UdpFaults) {
        *locked(&self.shared.faults) = faults;
    }

    /// TCP connections so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Acquire)
    }

    /// Datagrams that came in so far, both ways.
    #[must_use]
    pub fn datagrams(&self) -> u64 {
        self.shared.datagrams.load(Ordering::Acquire)
    }

    /// Datagrams that this relay lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Acquire)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.cut();
    }
}

async fn bind_both() -> io::Result<(TcpListener, UdpSocket)> {
    let mut last = io::ErrorKind::AddrInUse.into();
    for _ in 0..PORT_ATTEMPTS {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        match UdpSocket::bind(tcp.local_addr()?).await {
            Ok(udp) => return Ok((tcp, udp)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        if !shared.refusing.load(Ordering::Acquire) {
            shared.connections.fetch_add(1, Ordering::AcqRel);
            let cuts = shared.cuts.subscribe();
            tokio::spawn(carry(client, Arc::clone(&shared), cuts));
        }
    }
}

/// One TCP connection until either side ends it or it is cut.
async fn carry(client: TcpStream, shared: Arc<Shared>, mut cuts: watch::Receiver<u64>) {
    let Ok(server) = TcpStream::connect(shared.server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let budget = Arc::new(AtomicU64::new(shared.budget()));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut never_held = watch::Sender::new(false).subscribe();
    let mut held = shared.held.subscribe();
    tokio::select! {
        () = copy(from_client, to_server, &budget, &mut never_held) => {}
        () = copy(from_server, to_client, &budget, &mut held) => {}
        _ = cuts.changed() => {}
    }
}

/// Forwards one direction until its end or until the budget of bytes is used up.
async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    budget: &AtomicU64,
    held: &mut watch::Receiver<bool>,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let Ok(bytes @ 1..) = from.read(&mut buffer).await else { return };
        if *held.borrow() {
            let _ = held.wait_for(|held| !held).await;
        }
        let left = budget.load(Ordering::Acquire);
        let allowed = left.min(bytes as u64);
        budget.fetch_sub(allowed, Ordering::AcqRel);
        let written = to.write_all(&buffer[..allowed as usize]).await;
        if written.is_err() || allowed < bytes as u64 {
            return;
        }
    }
}

async fn carry_datagrams(clients: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut upstreams: HashMap<SocketAddr, (Arc<UdpSocket>, JoinHandle<()>)> = HashMap::new();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok((bytes, client)) = clients.recv_from(&mut buffer).await else { continue };
        let upstream = match upstreams.get(&client) {
            Some((upstream, _)) => Arc::clone(upstream),
            None => {
                let Ok(upstream) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await else { continue };
                let upstream = Arc::new(upstream);
                let back = tokio::spawn(carry_back(
                    Arc::clone(&upstream),
                    Arc::clone(&clients),
                    client,
                    Arc::clone(&shared),
                ));
                upstreams.insert(client, (Arc::clone(&upstream), back));
                upstream
            }
        };
        pass(&shared, &upstream, &buffer[..bytes], shared.server).await;
    }
}

async fn carry_back(
    upstream: Arc<UdpSocket>,
    clients: Arc<UdpSocket>,
    client: SocketAddr,
    shared: Arc<Shared>,
) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok((bytes, _)) = upstream.recv_from(&mut buffer).await else { continue };
        pass(&shared, &clients, &buffer[..bytes], client).await;
    }
}

/// One datagram, with whatever happens to it.
async fn pass(shared: &Arc<Shared>, socket: &Arc<UdpSocket>, datagram: &[u8], to: SocketAddr) {
    shared.datagrams.fetch_add(1, Ordering::AcqRel);
    let faults = *locked(&shared.faults);
    let (lose, repeat, delay) = {
        let mut random = locked(&shared.random);
        let delay = random.chance(faults.delay_permille).then(|| 1 + random.below(DELAY_MAX_MS));
        (random.chance(faults.lose_permille), random.chance(faults.repeat_permille), delay)
    };
    if lose {
        shared.lost.fetch_add(1, Ordering::AcqRel);
        return;
    }
    let times = if repeat { 2 } else { 1 };
    match delay {
        None => {
            for _ in 0..times {
                let _ = socket.send_to(datagram, to).await;
            }
        }
        Some(late_ms) => {
            let (socket, datagram) = (Arc::clone(socket), datagram.to_vec());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(late_ms)).await;
                for _ in 0..times {
                    let _ = socket.send_to(&datagram, to).await;
                }
            });
        }
    }
}

impl Shared {
    /// How many bytes a new connection may carry.
    fn budget(&self) -> u64 {
        match self.cut_after_bytes.load(Ordering::Acquire) {
            0 => u64::MAX,
            bytes => bytes / 2 + locked(&self.random).below(bytes / 2 + 1),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
