//! A link between one client and the server: TCP passes untouched, UDP is lost, repeated, held back or blocked.
//!
//! What happens to the n-th datagram of a direction depends on the seed alone. Datagrams are not looked into. All
//! links of a run share one thread of their own, so that what they add to a delay is what they mean to add, and the
//! time that this thread waits for a processor, which is measured elsewhere.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use twinlane_tests::Seeded;

use crate::history::LinkCounts;

/// Ports the system may propose before one is free for TCP and UDP.
const PORT_ATTEMPTS: usize = 32;
/// The longest that a datagram is held back.
const HOLD_MS_MAX: u64 = 10;
/// Timers of this thread's runtime count milliseconds.
const TIMER_US: u64 = 2_000;
/// Datagrams held back at once; more pass at once.
const HELD_MAX: u64 = 4_096;
/// Ports of the client that are served; a client that binds a new one gives up an old one.
const UPSTREAMS_MAX: usize = 16;
const DATAGRAM_BYTES_MAX: usize = 64 << 10;

/// What happens to datagrams, each with its chance in a thousand, each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkFaults {
    /// It is lost.
    pub lose_permille: u32,
    /// It arrives twice.
    pub repeat_permille: u32,
    /// It is held back for up to 10 ms, and others overtake it.
    pub delay_permille: u32,
}

impl LinkFaults {
    /// The longest that a datagram is held back on purpose, what timers add included.
    #[must_use]
    pub fn delay_us(&self) -> u64 {
        if self.delay_permille > 0 { HOLD_MS_MAX * 1_000 + TIMER_US } else { 0 }
    }
}

/// The thread of all links.
#[derive(Debug)]
pub struct Links {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Links {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// The system gives no thread.
    pub fn start() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let run = move || drop(runtime.block_on(stopped));
        let thread = std::thread::Builder::new().name("links".to_owned()).spawn(run)?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// A link to `server` on a loopback port of its own, the same for TCP and UDP. It begins without faults.
    ///
    /// # Errors
    ///
    /// No port is free for both.
    pub async fn link(&self, server: SocketAddr, seed: u64) -> anyhow::Result<Link> {
        let begun = self.handle.spawn(async move {
            let (tcp, udp) = bind_both().await.context("no link: free a loopback port")?;
            let addr = tcp.local_addr()?;
            let shared = Arc::new(Shared::new(server, seed));
            let accepting = tokio::spawn(accept(tcp, server)).abort_handle();
            let carrying = tokio::spawn(carry_up(Arc::new(udp), Arc::clone(&shared))).abort_handle();
            anyhow::Ok(Link { addr, shared, tasks: [accepting, carrying] })
        });
        begun.await?
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}

/// One link. Dropping it cuts everything.
#[derive(Debug)]
pub struct Link {
    addr: SocketAddr,
    shared: Arc<Shared>,
    tasks: [AbortHandle; 2],
}

impl Link {
    /// Where the client connects to.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What happens to datagrams from now on.
    pub fn disturb(&self, faults: LinkFaults) {
        *lock(&self.shared.faults) = faults;
    }

    /// Whether UDP is blocked: what the client sends, and what the server sends.
    pub fn block(&self, up: bool, down: bool) {
        self.shared.up.blocked.store(up, Ordering::Release);
        self.shared.down.blocked.store(down, Ordering::Release);
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> LinkCounts {
        let both = |of: fn(&Direction) -> &AtomicU64| {
            [&self.shared.up, &self.shared.down]
                .map(of)
                .iter()
                .map(|count| count.load(Ordering::Acquire))
                .sum()
        };
        LinkCounts {
            datagrams: both(|direction| &direction.datagrams),
            lost: both(|direction| &direction.lost),
            repeated: both(|direction| &direction.repeated),
            delayed: both(|direction| &direction.delayed),
            overtaken: both(|direction| &direction.overtaken),
            blocked: both(|direction| &direction.swallowed),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    faults: Mutex<LinkFaults>,
    up: Direction,
    down: Direction,
}

impl Shared {
    fn new(server: SocketAddr, seed: u64) -> Self {
        let (up, down) = (Direction::new(seed), Direction::new(!seed));
        Self { server, faults: Mutex::default(), up, down }
    }
}

#[derive(Debug)]
struct Direction {
    random: Mutex<Seeded>,
    blocked: AtomicBool,
    held: AtomicU64,
    /// The number of the newest datagram that was sent on.
    newest: AtomicU64,
    datagrams: AtomicU64,
    lost: AtomicU64,
    repeated: AtomicU64,
    delayed: AtomicU64,
    overtaken: AtomicU64,
    swallowed: AtomicU64,
}

/// What becomes of one datagram.
#[derive(Clone, Copy, Debug)]
struct Fate {
    /// Counts those that came in, from 1.
    number: u64,
    times: u32,
    hold_ms: Option<u64>,
}

impl Direction {
    fn new(seed: u64) -> Self {
        Self {
            random: Mutex::new(Seeded::new(seed)),
            blocked: AtomicBool::new(false),
            held: AtomicU64::new(0),
            newest: AtomicU64::new(0),
            datagrams: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            delayed: AtomicU64::new(0),
            overtaken: AtomicU64::new(0),
            swallowed: AtomicU64::new(0),
        }
    }

    /// `None`: it goes nowhere.
    fn fate(&self, faults: LinkFaults) -> Option<Fate> {
        if self.blocked.load(Ordering::Acquire) {
            self.swallowed.fetch_add(1, Ordering::AcqRel);
            return None;
        }
        let number = self.datagrams.fetch_add(1, Ordering::AcqRel) + 1;
        let mut random = lock(&self.random);
        // Always as many numbers for a datagram, so that its fate does not depend on those before it.
        let (lose, repeat) = (random.chance(faults.lose_permille), random.chance(faults.repeat_permille));
        let (hold, hold_ms) = (random.chance(faults.delay_permille), 1 + random.below(HOLD_MS_MAX));
        if lose {
            self.lost.fetch_add(1, Ordering::AcqRel);
            return None;
        }
        self.repeated.fetch_add(repeat.into(), Ordering::AcqRel);
        let hold = hold && self.held.load(Ordering::Acquire) < HELD_MAX;
        self.delayed.fetch_add(hold.into(), Ordering::AcqRel);
        Some(Fate { number, times: 1 + u32::from(repeat), hold_ms: hold.then_some(hold_ms) })
    }

    async fn send(&self, fate: Fate, socket: &UdpSocket, datagram: &[u8], to: SocketAddr) {
        if self.newest.fetch_max(fate.number, Ordering::AcqRel) > fate.number {
            self.overtaken.fetch_add(1, Ordering::AcqRel);
        }
        for _ in 0..fate.times {
            // Where nobody listens it is lost, as on any link.
            let _ = socket.send_to(datagram, to).await;
        }
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

async fn accept(listener: TcpListener, server: SocketAddr) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((mut client, _)) = listener.accept().await else { continue };
        connections.spawn(async move {
            let Ok(mut server) = TcpStream::connect(server).await else { return };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// A port of the client, and the way back to it. Dropping it ends that.
struct Upstream {
    client: SocketAddr,
    socket: Arc<UdpSocket>,
    back: AbortHandle,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.back.abort();
    }
}

async fn carry_up(clients: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut upstreams: VecDeque<Upstream> = VecDeque::new();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok((bytes, client)) = clients.recv_from(&mut buffer).await else { continue };
        let known = upstreams.iter().find(|upstream| upstream.client == client);
        let socket = match known {
            Some(upstream) => Arc::clone(&upstream.socket),
            None => {
                let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await else { continue };
                let socket = Arc::new(socket);
                let carrying =
                    carry_down(Arc::clone(&socket), Arc::clone(&clients), client, Arc::clone(&shared));
                let back = tokio::spawn(carrying).abort_handle();
                if upstreams.len() == UPSTREAMS_MAX {
                    upstreams.pop_front();
                }
                upstreams.push_back(Upstream { client, socket: Arc::clone(&socket), back });
                socket
            }
        };
        let to = shared.server;
        pass(&shared, |shared| &shared.up, &socket, &buffer[..bytes], to).await;
    }
}

async fn carry_down(
    upstream: Arc<UdpSocket>,
    clients: Arc<UdpSocket>,
    client: SocketAddr,
    shared: Arc<Shared>,
) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok((bytes, _)) = upstream.recv_from(&mut buffer).await else { continue };
        pass(&shared, |shared| &shared.down, &clients, &buffer[..bytes], client).await;
    }
}

/// One datagram, with whatever happens to it.
async fn pass(
    shared: &Arc<Shared>,
    direction: fn(&Shared) -> &Direction,
    socket: &Arc<UdpSocket>,
    datagram: &[u8],
    to: SocketAddr,
) {
    let faults = *lock(&shared.faults);
    let Some(fate) = direction(shared).fate(faults) else { return };
    let Some(hold_ms) = fate.hold_ms else { return direction(shared).send(fate, socket, datagram, to).await };
    direction(shared).held.fetch_add(1, Ordering::AcqRel);
    let (shared, socket, datagram) = (Arc::clone(shared), Arc::clone(socket), datagram.to_vec());
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(hold_ms)).await;
        direction(&shared).held.fetch_sub(1, Ordering::AcqRel);
        direction(&shared).send(fate, &socket, &datagram, to).await;
    });
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "in a test a failed step is a failed test")]

    use super::*;

    fn fates(seed: u64, faults: LinkFaults) -> Vec<Option<(u32, Option<u64>)>> {
        let direction = Direction::new(seed);
        (0..2_000).map(|_| direction.fate(faults).map(|fate| (fate.times, fate.hold_ms))).collect()
    }

    #[test]
    fn the_seed_decides_what_happens_and_the_shares_are_as_asked_for() {
        let faults = LinkFaults { lose_permille: 100, repeat_permille: 500, delay_permille: 500 };
        let lost = |seed| fates(seed, faults).iter().filter(|fate| fate.is_none()).count();
        for seed in 0..20 {
            assert_eq!(fates(seed, faults), fates(seed, faults), "seed {seed}");
            assert!((150..250).contains(&lost(seed)), "seed {seed}: {} of 2000", lost(seed));
        }
        assert_ne!(fates(1, faults), fates(2, faults));
        assert!(fates(1, LinkFaults::default()).iter().all(|fate| *fate == Some((1, None))));
    }

    #[tokio::test]
    async fn a_link_passes_both_ways_and_blocks_each_way_by_itself() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let links = Links::start().unwrap();
        let link = links.link(server.local_addr().unwrap(), 1).await.unwrap();
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        client.connect(link.addr()).await.unwrap();
        let mut buffer = [0; 16];
        let patience = Duration::from_secs(20);

        client.send(b"up").await.unwrap();
        let (bytes, back) =
            tokio::time::timeout(patience, server.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(&buffer[..bytes], b"up");
        link.block(true, false);
        client.send(b"lost").await.unwrap();
        server.send_to(b"down", back).await.unwrap();
        let bytes = tokio::time::timeout(patience, client.recv(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(&buffer[..bytes], b"down");
        let swallowed = async {
            while link.counts().blocked == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(patience, swallowed).await.unwrap();
        assert_eq!(link.counts(), LinkCounts { datagrams: 2, blocked: 1, ..LinkCounts::default() });
    }
}
