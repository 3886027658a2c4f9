//! Who may connect: how many, how fast, from where, and how long a handshake may take.
//!
//! Consulted once when a connection begins and once when its handshake is done, never per message. It counts and
//! decides; closing the socket is the caller's work.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

/// Limits of one listener, both transports together. Loopback peers are exempt from the per-address ones.
///
/// | field | default | why this value |
/// |---|---|---|
/// | `connections_max` | 10,000 | in all, handshakes included; lowered to the descriptor limit − 256 |
/// | `connections_per_ip_max` | 200 | an office behind one address; an IPv6 /64 is one address |
/// | `new_per_second_per_ip` | 100 | a handshake costs ≈ 0.3 ms of CPU: one address can take 3 % of a core |
/// | `pending_max` | 1,024 | × at most 64 KiB of handshake = 64 MiB |
/// | `handshake_timeout` | 5 s | two lost packets on a bad mobile link |
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionLimits {
    /// Connections at one time, handshakes included.
    pub(crate) connections_max: usize,
    /// Connections at one time from one IPv4 address or IPv6 /64.
    pub(crate) connections_per_ip_max: usize,
    /// New connections in one second from one IPv4 address or IPv6 /64.
    pub(crate) new_per_second_per_ip: u32,
    /// Handshakes at one time. When there are more the oldest gives way: clients that mean it are quick, and those
    /// that only hold places cannot keep them.
    pub(crate) pending_max: usize,
    /// From the first packet to the end of the handshake; over QUIC, to the first stream.
    pub(crate) handshake_timeout: Duration,
}

/// Why a connection was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Refusal {
    /// `connections_max` is reached.
    ConnectionsFull,
    /// `connections_per_ip_max` is reached.
    AddressFull,
    /// `new_per_second_per_ip` is reached.
    AddressTooFast,
    /// `pending_max` was reached, and this handshake was the oldest.
    GaveWay,
    /// The handshake was not done within `handshake_timeout`.
    HandshakeTimeout,
    /// The peer broke the handshake, or never meant to make one.
    HandshakeFailed,
    /// The peer does not speak this protocol.
    WrongAlpn,
    /// The system could not hand the connection over, for example for want of descriptors.
    AcceptFailed,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            connections_per_ip_max: 200,
            new_per_second_per_ip: 100,
            pending_max: 1_024,
            handshake_timeout: Duration::from_secs(5),
        }
    }
}

impl ConnectionLimits {
    /// Lowers `connections_max` to what the process may open, with room for files and listeners, and keeps half of it
    /// for connections that finished their handshake.
    pub(super) fn within_descriptors(mut self) -> Self {
        if let Some(descriptors_max) = descriptors_max() {
            self.connections_max = self.connections_max.min(descriptors_max.saturating_sub(256).max(1));
        }
        // Or handshakes alone could fill the server, and none would ever have to give way.
        self.pending_max = self.pending_max.min(self.connections_max.div_ceil(2));
        self
    }
}

impl Refusal {
    pub(crate) const ALL: [Self; 8] = [
        Self::ConnectionsFull,
        Self::AddressFull,
        Self::AddressTooFast,
        Self::GaveWay,
        Self::HandshakeTimeout,
        Self::HandshakeFailed,
        Self::WrongAlpn,
        Self::AcceptFailed,
    ];

    /// The word for it in logs and metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ConnectionsFull => "connections_full",
            Self::AddressFull => "address_full",
            Self::AddressTooFast => "address_too_fast",
            Self::GaveWay => "gave_way",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::HandshakeFailed => "handshake_failed",
            Self::WrongAlpn => "wrong_alpn",
            Self::AcceptFailed => "accept_failed",
        }
    }
}

/// The one place that counts a listener's connections.
pub(super) struct Admission {
    limits: ConnectionLimits,
    table: Mutex<Table>,
    accepted: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
    /// Milliseconds since `started` at which each cause may be logged again.
    log_again_ms: [AtomicU64; Refusal::ALL.len()],
    started: Instant,
    /// Accept loops and connections; 0 when everything has ended.
    alive: watch::Sender<usize>,
}

/// A connection that counts as open until this is dropped.
pub(super) struct OpenConnection {
    admission: Arc<Admission>,
    /// `None` for loopback.
    origin: Option<Origin>,
    holds_address: bool,
    /// The ticket of its place among the handshakes.
    pending: Option<u64>,
    _alive: Alive,
}

/// A connection in its handshake.
pub(super) struct PendingConnection {
    connection: OpenConnection,
    place: oneshot::Receiver<Infallible>,
}

/// An accept loop or a connection, counted until it is dropped.
pub(super) struct Alive(Arc<Admission>);

/// A snapshot of the counters: accepted, pending, open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) accepted: u64,
    pub(super) pending: usize,
    pub(super) open: usize,
    pub(super) refused: [u64; Refusal::ALL.len()],
}

impl Admission {
    pub(super) fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            table: Mutex::default(),
            accepted: AtomicU64::new(0),
            refused: Default::default(),
            log_again_ms: Default::default(),
            started: Instant::now(),
            alive: watch::Sender::new(0),
        })
    }

    pub(super) fn limits(&self) -> &ConnectionLimits {
        &self.limits
    }

    /// Takes a place for a connection from `peer`. `validated`: the peer has shown that it receives at that address;
    /// if not, the address may be a victim's, so it is charged a budget of its own and holds no per-address place
    /// before the handshake is done.
    pub(super) fn admit(
        self: &Arc<Self>,
        peer: IpAddr,
        validated: bool,
        now: Instant,
    ) -> Result<PendingConnection, Refusal> {
        let limits = &self.limits;
        let mut table = self.table();
        if limits.connections_max <= table.open + table.pending {
            return Err(Refusal::ConnectionsFull);
        }
        let origin = Origin::of(peer);
        if let Some(origin) = origin {
            table.forget_idle_addresses(now);
            if limits.connections_max + ADDRESSES_SPARE <= table.addresses.len() {
                return Err(Refusal::AddressTooFast);
            }
            let address = table.addresses.entry(origin).or_insert_with(|| Address::new(now));
            if validated && limits.connections_per_ip_max <= address.open {
                return Err(Refusal::AddressFull);
            }
            if !address.take_budget(limits.new_per_second_per_ip, validated, now) {
                return Err(Refusal::AddressTooFast);
            }
            if validated {
                address.open += 1;
            }
        }
        let (ticket, place) = table.take_place(limits.pending_max);
        drop(table);
        let connection = OpenConnection {
            origin,
            holds_address: validated && origin.is_some(),
            pending: Some(ticket),
            _alive: self.alive(),
            admission: Arc::clone(self),
        };
        Ok(PendingConnection { connection, place })
    }

    /// Counts a refusal, and logs it unless the same cause was logged within the last second.
    pub(super) fn refuse(&self, why: Refusal, peer: Option<SocketAddr>, detail: &str) {
        let count = self.refused[why as usize].fetch_add(1, Ordering::Relaxed) + 1;
        let now_ms = self.started.elapsed().as_millis() as u64;
        let again = &self.log_again_ms[why as usize];
        let due = |again_ms| (again_ms <= now_ms).then_some(now_ms + 1_000);
        if again.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok() {
            let peer = peer.map(tracing::field::display);
            tracing::warn!(cause = why.name(), count, peer, detail, "a connection was refused");
        }
    }

    pub(super) fn counts(&self) -> Counts {
        let table = self.table();
        Counts {
            accepted: self.accepted.load(Ordering::Relaxed),
            pending: table.pending,
            open: table.open,
            refused: std::array::from_fn(|cause| self.refused[cause].load(Ordering::Relaxed)),
        }
    }

    /// Counts one more thing that [`ended`](Self::ended) waits for.
    pub(super) fn alive(self: &Arc<Self>) -> Alive {
        self.alive.send_modify(|alive| *alive += 1);
        Alive(Arc::clone(self))
    }

    /// Waits until nothing is alive. Cancel-safe.
    pub(super) async fn ended(&self) {
        // An error would mean that the sender is gone, and `self` owns it.
        let _ = self.alive.subscribe().wait_for(|alive| *alive == 0).await;
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("nothing panics while it holds the table")
    }
}

impl PendingConnection {
    /// Waits until this handshake has to give way to newer ones.
    pub(super) async fn gives_way(&mut self) {
        // Nothing is ever sent: the table drops its end.
        let _ = (&mut self.place).await;
    }

    /// The handshake is done: from a pending connection to an open one.
    pub(super) fn established(self) -> Result<Arc<OpenConnection>, Refusal> {
        let mut connection = self.connection;
        let admission = Arc::clone(&connection.admission);
        let mut table = admission.table();
        if let (Some(origin), false) = (connection.origin, connection.holds_address) {
            let address = table.addresses.entry(origin).or_insert_with(|| Address::new(Instant::now()));
            if admission.limits.connections_per_ip_max <= address.open {
                drop(table);
                return Err(Refusal::AddressFull);
            }
            address.open += 1;
            connection.holds_address = true;
        }
        table.leave_place(connection.pending.take());
        table.open += 1;
        drop(table);
        admission.accepted.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(connection))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut table = self.admission.table();
        match self.pending {
            None => table.open -= 1,
            ticket => table.leave_place(ticket),
        }
        if let (Some(origin), true) = (self.origin, self.holds_address) {
            let address =
                table.addresses.get_mut(&origin).expect("an address with connections is never forgotten");
            address.open -= 1;
        }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.alive.send_modify(|alive| *alive -= 1);
    }
}

/// Addresses remembered beyond those with a connection: their budget of the current second is known.
const ADDRESSES_SPARE: usize = 65_536;

/// The table is swept when it has doubled since the last sweep, and never below this size.
const SWEEP_FLOOR: usize = 1_024;

#[derive(Default)]
struct Table {
    open: usize,
    pending: usize,
    /// The handshakes that may go on, oldest first: at most `pending_max`. One whose end is dropped gives way.
    places: BTreeMap<u64, oneshot::Sender<Infallible>>,
    next_ticket: u64,
    addresses: HashMap<Origin, Address>,
    sweep_at: usize,
}

impl Table {
    fn take_place(&mut self, pending_max: usize) -> (u64, oneshot::Receiver<Infallible>) {
        if pending_max <= self.places.len() {
            self.places.pop_first();
        }
        let (place, held) = oneshot::channel();
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.places.insert(ticket, place);
        self.pending += 1;
        (ticket, held)
    }

    fn leave_place(&mut self, ticket: Option<u64>) {
        self.places.remove(&ticket.expect("a pending connection has a ticket"));
        self.pending -= 1;
    }

    fn forget_idle_addresses(&mut self, now: Instant) {
        if self.addresses.len() < self.sweep_at.max(SWEEP_FLOOR) {
            return;
        }
        self.addresses.retain(|_, address| 0 < address.open || !address.window_is_over(now));
        self.sweep_at = (2 * self.addresses.len()).max(SWEEP_FLOOR);
    }
}

/// What one address has open, and began within the current second.
struct Address {
    open: usize,
    window_start: Instant,
    /// Without and with a validated address.
    began: [u32; 2],
}

impl Address {
    fn new(now: Instant) -> Self {
        Self { open: 0, window_start: now, began: [0; 2] }
    }

    fn take_budget(&mut self, per_second: u32, validated: bool, now: Instant) -> bool {
        if self.window_is_over(now) {
            self.window_start = now;
            self.began = [0; 2];
        }
        let began = &mut self.began[usize::from(validated)];
        *began = began.saturating_add(1);
        *began <= per_second
    }

    fn window_is_over(&self, now: Instant) -> bool {
        Duration::from_secs(1) <= now.saturating_duration_since(self.window_start)
    }
}

/// What the per-address limits count by: an IPv4 address, or the /64 that one IPv6 customer has.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Origin(IpAddr);

impl Origin {
    fn of(peer: IpAddr) -> Option<Self> {
        let peer = peer.to_canonical();
        match peer {
            _ if peer.is_loopback() => None,
            IpAddr::V4(_) => Some(Self(peer)),
            IpAddr::V6(v6) => Some(Self(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into())),
        }
    }
}

/// The soft limit of open descriptors, where the system tells.
fn descriptors_max() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn tight() -> Arc<Admission> {
        Admission::new(ConnectionLimits {
            connections_max: 4,
            connections_per_ip_max: 2,
            new_per_second_per_ip: 3,
            pending_max: 3,
            handshake_timeout: Duration::from_secs(1),
        })
    }

    #[test]
    fn one_address_has_its_share_and_gets_it_back() {
        let (admission, now) = (tight(), Instant::now());
        let first = admission.admit(PEER, true, now).unwrap().established().unwrap();
        let second = admission.admit(PEER, true, now).unwrap();
        assert_eq!(admission.admit(PEER, true, now).err(), Some(Refusal::AddressFull));
        drop(first);
        let third = admission.admit(PEER, true, now).unwrap();
        drop((second, third));
        assert_eq!(admission.admit(PEER, true, now).err(), Some(Refusal::AddressTooFast));
        assert!(admission.admit(PEER, true, now + Duration::from_secs(1)).is_ok());
        let counts = admission.counts();
        assert_eq!((counts.accepted, counts.open, counts.pending), (1, 0, 0));
    }

    #[test]
    fn forged_packets_cannot_use_up_the_share_of_their_alleged_sender() {
        let (admission, now) = (tight(), Instant::now());
        for _ in 0..3 {
            drop(admission.admit(PEER, false, now).unwrap());
        }
        assert_eq!(admission.admit(PEER, false, now).err(), Some(Refusal::AddressTooFast));
        assert!(admission.admit(PEER, true, now).is_ok());
    }

    #[test]
    fn an_unproved_address_is_held_to_its_share_when_its_handshake_is_done() {
        let (admission, now) = (tight(), Instant::now());
        let pending: Vec<_> = (0..3).map(|_| admission.admit(PEER, false, now).unwrap()).collect();
        let outcomes: Vec<_> = pending.into_iter().map(PendingConnection::established).collect();
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 2);
        assert_eq!(admission.counts().pending, 0);
        assert_eq!(admission.counts().open, 2);
    }

    #[tokio::test]
    async fn the_oldest_handshake_gives_way_to_a_new_one() {
        let (admission, now) = (tight(), Instant::now());
        let peer = IpAddr::from([127, 0, 0, 1]);
        let goes_on = |pending: &mut PendingConnection| {
            pending.place.try_recv() == Err(oneshot::error::TryRecvError::Empty)
        };
        let mut first = admission.admit(peer, true, now).unwrap();
        drop(admission.admit(peer, true, now).unwrap());
        let mut second = admission.admit(peer, true, now).unwrap();
        let third = admission.admit(peer, true, now).unwrap();
        assert!(goes_on(&mut first));
        let _fourth = admission.admit(peer, true, now).unwrap();
        first.gives_way().await;
        assert!(goes_on(&mut second));
        third.established().unwrap();
    }

    #[test]
    fn loopback_is_exempt_from_the_address_limits_but_not_from_the_total() {
        let (admission, now) = (tight(), Instant::now());
        let peer = IpAddr::from([127, 0, 0, 1]);
        let open: Vec<_> =
            (0..4).map(|_| admission.admit(peer, true, now).unwrap().established().unwrap()).collect();
        assert_eq!(admission.admit(peer, true, now).err(), Some(Refusal::ConnectionsFull));
        drop(open);
        assert_eq!(admission.counts().open, 0);
    }

    #[test]
    fn addresses_are_forgotten_when_their_second_is_over() {
        let limits = ConnectionLimits { connections_max: 8, ..ConnectionLimits::default() };
        let (admission, mut now) = (Admission::new(limits), Instant::now());
        for address in 0..20_000_u32 {
            if address % 1_000 == 0 {
                now += Duration::from_secs(1);
            }
            let peer = IpAddr::from((0x0a00_0000 + address).to_be_bytes());
            drop(admission.admit(peer, true, now).unwrap());
        }
        let remembered = admission.table().addresses.len();
        assert!(remembered <= 4 * SWEEP_FLOOR, "{remembered} addresses are remembered");
    }

    #[test]
    fn an_ipv6_customer_is_one_address() {
        let of = |text: &str| Origin::of(text.parse().unwrap());
        assert!(of("2001:db8:1:2::1") == of("2001:db8:1:2:ffff::9"));
        assert!(of("2001:db8:1:2::1") != of("2001:db8:1:3::1"));
        assert!(of("::ffff:192.0.2.1") == of("192.0.2.1"));
        assert!(of("::1").is_none() && of("127.9.9.9").is_none());
    }
}
