//! A relay between client and server on one port: TCP that can be cut or held, UDP that loses, repeats, reorders, is
//! blocked one way or both, and changes its address.
//!
//! It forwards bytes and datagrams and looks into none of them.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::Seeded;

/// Ports the system may propose before one is free for TCP and UDP.
const PORT_ATTEMPTS: usize = 32;
/// The longest a delayed datagram is late.
const DELAY_MAX_MS: u64 = 10;
const BUFFER_BYTES: usize = 16 << 10;
/// What a slow relay holds itself, in the system and beside it: as little as can be, so that what waits, waits at the
/// sender.
const SLOW_BUFFER_BYTES: u32 = 4 << 10;
/// Segments of a slow relay, those of an Ethernet. With those of the loopback, half of the buffer each, one is all that
/// may be under way, and the receiver waits 40 ms for a second one before it says so.
const SLOW_SEGMENT_BYTES: u32 = 1_448;
/// How much a slow relay may be behind its rate and still make it good: some turns of the timer.
const CATCH_UP: Duration = Duration::from_millis(20);
/// Pending connections.
const BACKLOG: u32 = 128;
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

/// Which datagrams do not get through, beside those that [`UdpFaults`] loses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpBlock {
    /// All from clients to the server.
    pub to_server: bool,
    /// All from the server to clients.
    pub to_clients: bool,
    /// Both ways, those with a larger payload; 0: of any size.
    pub larger_than_bytes: usize,
}

impl UdpBlock {
    /// Everything gets through.
    pub const NOTHING: Self = Self { to_server: false, to_clients: false, larger_than_bytes: 0 };
    /// Nothing gets through.
    pub const BOTH_WAYS: Self = Self { to_server: true, to_clients: true, larger_than_bytes: 0 };
    /// Only the server is heard.
    pub const TO_SERVER: Self = Self { to_server: true, to_clients: false, larger_than_bytes: 0 };
    /// Only clients are heard.
    pub const TO_CLIENTS: Self = Self { to_server: false, to_clients: true, larger_than_bytes: 0 };

    /// Only datagrams of up to `bytes` get through.
    #[must_use]
    pub const fn larger_than(bytes: usize) -> Self {
        Self { to_server: false, to_clients: false, larger_than_bytes: bytes }
    }

    fn stops(&self, to_server: bool, bytes: usize) -> bool {
        (if to_server { self.to_server } else { self.to_clients })
            || (0 < self.larger_than_bytes && self.larger_than_bytes < bytes)
    }
}

/// A relay to one server. Dropping it cuts everything.
#[derive(Debug)]
pub struct Relay {
    addr: SocketAddr,
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
    _thread: Option<OwnThread>,
}

/// What runs the tasks of a slow relay.
#[derive(Debug)]
struct OwnThread(Option<Runtime>);

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    random: Mutex<Seeded>,
    faults: Mutex<UdpFaults>,
    block: Mutex<UdpBlock>,
    /// Counts changes of the addresses that the server sees.
    moves: AtomicU64,
    /// Counts cuts; a connection ends when it changes.
    cuts: watch::Sender<u64>,
    /// Bytes that come back from the server wait while this is set.
    held: watch::Sender<bool>,
    /// Bytes a second that TCP carries each way; 0: as many as come.
    tcp_bytes_per_second: u64,
    /// A connection is cut after about this many bytes; 0: never.
    cut_after_bytes: AtomicU64,
    refusing: AtomicBool,
    connections: AtomicU64,
    tcp_bytes_to_clients: AtomicU64,
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
        Self::start_with(server, seed, 0).await
    }

    /// As [`Self::start`]; each TCP connection carries only so much each way. It has a thread of its own: a link carries
    /// as much however busy the tasks at its ends are.
    ///
    /// # Errors
    ///
    /// No port is free for both.
    pub async fn start_slow(
        server: SocketAddr,
        seed: u64,
        tcp_bytes_per_second: u64,
    ) -> Result<Self, RelayError> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let starting = runtime.spawn(Self::start_with(server, seed, tcp_bytes_per_second));
        let thread = OwnThread(Some(runtime));
        let mut relay = starting.await.map_err(io::Error::other)??;
        relay._thread = Some(thread);
        Ok(relay)
    }

    async fn start_with(
        server: SocketAddr,
        seed: u64,
        tcp_bytes_per_second: u64,
    ) -> Result<Self, RelayError> {
        let (tcp, udp) = bind_both(tcp_bytes_per_second > 0).await?;
        let addr = tcp.local_addr()?;
        let shared = Arc::new(Shared {
            server,
            random: Mutex::new(Seeded::new(seed)),
            faults: Mutex::default(),
            block: Mutex::default(),
            moves: AtomicU64::new(0),
            cuts: watch::Sender::new(0),
            held: watch::Sender::new(false),
            tcp_bytes_per_second,
            cut_after_bytes: AtomicU64::new(0),
            refusing: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            tcp_bytes_to_clients: AtomicU64::new(0),
            datagrams: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        });
        let tasks = vec![
            tokio::spawn(accept(tcp, Arc::clone(&shared))),
            tokio::spawn(carry_datagrams(Arc::new(udp), Arc::clone(&shared))),
        ];
        Ok(Self { addr, shared, tasks, _thread: None })
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

    /// Which datagrams do not get through from now on.
    pub fn block(&self, block: UdpBlock) {
        *locked(&self.shared.block) = block;
    }

    /// From the next datagram on, every client has another UDP address for the server, as behind a NAT that forgot it.
    pub fn move_clients(&self) {
        self.shared.moves.fetch_add(1, Ordering::AcqRel);
    }

    /// TCP connections so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Acquire)
    }

    /// Bytes that TCP connections have carried from the server so far.
    #[must_use]
    pub fn tcp_bytes_to_clients(&self) -> u64 {
        self.shared.tcp_bytes_to_clients.load(Ordering::Acquire)
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

impl Drop for OwnThread {
    fn drop(&mut self) {
        // Dropped as it is, it would wait for its tasks, which a task of another runtime must not.
        self.0.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

async fn bind_both(slow: bool) -> io::Result<(TcpListener, UdpSocket)> {
    let mut last = io::ErrorKind::AddrInUse.into();
    for _ in 0..PORT_ATTEMPTS {
        let tcp = socket(slow)?;
        tcp.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let tcp = tcp.listen(BACKLOG)?;
        match UdpSocket::bind(tcp.local_addr()?).await {
            Ok(udp) => return Ok((tcp, udp)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A TCP socket, which lets a sender run ahead only a little where the relay is slow.
fn socket(slow: bool) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    if slow {
        socket.set_recv_buffer_size(SLOW_BUFFER_BYTES)?;
        socket.set_send_buffer_size(SLOW_BUFFER_BYTES)?;
        SockRef::from(&socket).set_tcp_mss(SLOW_SEGMENT_BYTES)?;
    }
    Ok(socket)
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
    let rate = shared.tcp_bytes_per_second;
    let Ok(socket) = socket(rate > 0) else { return };
    let Ok(server) = socket.connect(shared.server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let budget = Arc::new(AtomicU64::new(shared.budget()));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut never_held = watch::Sender::new(false).subscribe();
    let mut held = shared.held.subscribe();
    let to_server_bytes = AtomicU64::new(0);
    let up = Way { budget: &budget, carried_bytes: &to_server_bytes, bytes_per_second: rate };
    let down = Way { carried_bytes: &shared.tcp_bytes_to_clients, ..up };
    tokio::select! {
        () = copy(from_client, to_server, up, &mut never_held) => {}
        () = copy(from_server, to_client, down, &mut held) => {}
        _ = cuts.changed() => {}
    }
}

/// One direction of a TCP connection.
#[derive(Clone, Copy)]
struct Way<'a> {
    /// Bytes that the connection may still carry, both ways together.
    budget: &'a AtomicU64,
    carried_bytes: &'a AtomicU64,
    /// 0: as many as come.
    bytes_per_second: u64,
}

/// Forwards one direction until its end or until the budget of bytes is used up.
async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: Way<'_>,
    held: &mut watch::Receiver<bool>,
) {
    let Way { budget, carried_bytes, bytes_per_second } = way;
    let mut buffer = vec![0; if bytes_per_second > 0 { SLOW_SEGMENT_BYTES as usize } else { BUFFER_BYTES }];
    let mut free_at = Instant::now();
    loop {
        let Ok(bytes @ 1..) = from.read(&mut buffer).await else { return };
        if let Some(nanoseconds) = (bytes as u64 * 1_000_000_000).checked_div(bytes_per_second) {
            // A link does not get slower because a timer fires late: a little of the time lost so is made good.
            let earliest = Instant::now().checked_sub(CATCH_UP).unwrap_or(free_at);
            free_at = free_at.max(earliest) + Duration::from_nanos(nanoseconds);
            tokio::time::sleep_until(free_at).await;
        }
        if *held.borrow() {
            let _ = held.wait_for(|held| !held).await;
        }
        let left = budget.load(Ordering::Acquire);
        let allowed = left.min(bytes as u64);
        budget.fetch_sub(allowed, Ordering::AcqRel);
        let written = to.write_all(&buffer[..allowed as usize]).await;
        carried_bytes.fetch_add(allowed, Ordering::AcqRel);
        if written.is_err() || allowed < bytes as u64 {
            return;
        }
    }
}

async fn carry_datagrams(clients: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut upstreams: HashMap<SocketAddr, (Arc<UdpSocket>, JoinHandle<()>)> = HashMap::new();
    let mut moves = 0;
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok((bytes, client)) = clients.recv_from(&mut buffer).await else { continue };
        let moves_now = shared.moves.load(Ordering::Acquire);
        if std::mem::replace(&mut moves, moves_now) != moves_now {
            upstreams.drain().for_each(|(_, (_, back))| back.abort());
        }
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
        pass(&shared, &upstream, &buffer[..bytes], shared.server, true).await;
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
        pass(&shared, &clients, &buffer[..bytes], client, false).await;
    }
}

/// One datagram, with whatever happens to it.
async fn pass(
    shared: &Arc<Shared>,
    socket: &Arc<UdpSocket>,
    datagram: &[u8],
    to: SocketAddr,
    to_server: bool,
) {
    shared.datagrams.fetch_add(1, Ordering::AcqRel);
    if locked(&shared.block).stops(to_server, datagram.len()) {
        shared.lost.fetch_add(1, Ordering::AcqRel);
        return;
    }
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
