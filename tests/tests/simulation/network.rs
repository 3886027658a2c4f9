//! The simulated network: one path per client, each with its own delay, loss and cuts, and one server.
//!
//! A client is known by the port it connects to. All chance comes from one seed, all time from the paused clock of
//! the runtime, and everything that happens goes into a trace, so that a seed can be shown to repeat itself.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::time::Instant;
use twinlane::Engine;
use twinlane::simulation::{self, Connection, Waiting, World};
use twinlane_tests::Seeded;

use crate::wire::Wire;

/// The port of client 0's path; the next clients follow.
pub(crate) const FIRST_PORT: u16 = 4_000;
/// A QUIC connection without a sign of life for this long is over.
const QUIC_IDLE: Duration = Duration::from_secs(30);

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the client.
    Up = 0,
    /// From the server.
    Down = 1,
}

/// How a client's path to the server is.
#[derive(Clone, Debug)]
pub(crate) struct Conditions {
    pub(crate) latency: Duration,
    pub(crate) jitter: Duration,
    pub(crate) loss_permille: u32,
    pub(crate) duplicate_permille: u32,
    pub(crate) bytes_per_ms: u64,
    pub(crate) segment_bytes: usize,
    pub(crate) capacity_bytes: usize,
    pub(crate) udp_blocked: bool,
}

/// What befalls a connection this long after it was made: silence both ways for a while, or a reset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trap {
    pub(crate) after: Duration,
    pub(crate) lasting: Option<Duration>,
}

#[derive(Clone)]
pub(crate) struct Network(Arc<Shared>);

struct Shared {
    started: Instant,
    state: Mutex<State>,
}

struct State {
    random: Seeded,
    routes: Vec<Route>,
    engine: Option<Engine>,
    wires: Vec<Weak<Wire>>,
    connections: u16,
    /// Nothing goes wrong any more.
    peace: bool,
    trace: Trace,
}

struct Route {
    conditions: Conditions,
    /// By [`Direction`].
    cut: [bool; 2],
    cuts: u64,
    trap: Option<Trap>,
}

struct Trace {
    hash: u64,
    events: u64,
    aloud: bool,
}

/// One client's path.
#[derive(Clone)]
pub(crate) struct Path {
    network: Network,
    route: usize,
}

impl Network {
    pub(crate) fn new(seed: u64, routes: Vec<Conditions>, aloud: bool) -> Self {
        let routes =
            routes.into_iter().map(|conditions| Route { conditions, cut: [false; 2], cuts: 0, trap: None });
        let state = State {
            random: Seeded::new(seed ^ 0x5eed_0fa1_1c0f_fee5),
            routes: routes.collect(),
            engine: None,
            wires: Vec::new(),
            connections: 0,
            peace: false,
            trace: Trace { hash: 0xcbf2_9ce4_8422_2325, events: 0, aloud },
        };
        Self(Arc::new(Shared { started: Instant::now(), state: Mutex::new(state) }))
    }

    /// Connections reach `engine` from now on.
    pub(crate) fn start(&self, engine: &Engine) {
        simulation::serve(engine);
        self.lock().engine = Some(engine.clone());
        self.wires().iter().for_each(|wire| wire.server_is_back());
    }

    /// New connections are refused.
    pub(crate) fn stop(&self) {
        self.lock().engine = None;
    }

    /// The server's process ends without a word from it.
    pub(crate) fn kill_server(&self, silently: bool) {
        self.stop();
        self.wires().iter().for_each(|wire| wire.server_died(silently));
    }

    /// Cuts every connection of a client, or of all.
    pub(crate) fn reset(&self, client: Option<usize>) {
        let wires = self.wires();
        wires
            .iter()
            .filter(|wire| client.is_none_or(|client| wire.path.route == client))
            .for_each(|wire| wire.reset());
    }

    /// Nothing comes through on a client's path in these directions.
    pub(crate) fn cut(&self, client: usize, directions: &[Direction]) {
        let cuts = {
            let route = &mut self.lock().routes[client];
            directions.iter().for_each(|direction| route.cut[*direction as usize] = true);
            route.cuts += 1;
            route.cuts
        };
        for wire in self.wires().iter().filter(|wire| wire.path.route == client) {
            directions.iter().for_each(|direction| wire.cut(*direction));
        }
        let network = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(QUIC_IDLE).await;
            let still_cut = {
                let route = &network.lock().routes[client];
                route.cuts == cuts && route.cut != [false; 2]
            };
            let wires = network.wires();
            wires
                .iter()
                .filter(|wire| still_cut && wire.is_quic() && wire.path.route == client)
                .for_each(|wire| wire.time_out());
        });
    }

    pub(crate) fn heal(&self, client: usize) {
        {
            let route = &mut self.lock().routes[client];
            route.cut = [false; 2];
            route.conditions.udp_blocked = false;
            route.trap = None;
        }
        for wire in self.wires().iter().filter(|wire| wire.path.route == client) {
            wire.heal();
        }
    }

    /// The client's connections are reset now, and the next one runs into `trap`.
    pub(crate) fn set_trap(&self, client: usize, trap: Trap) {
        self.lock().routes[client].trap = Some(trap);
        self.reset(Some(client));
    }

    fn spring_trap(&self, client: usize) {
        let Some(trap) = self.lock().routes[client].trap.take() else { return };
        let network = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(trap.after).await;
            match trap.lasting {
                _ if network.lock().peace => {}
                None => network.reset(Some(client)),
                Some(lasting) => {
                    network.note("trapped", &[client as u64]);
                    network.cut(client, &[Direction::Up, Direction::Down]);
                    tokio::time::sleep(lasting).await;
                    network.heal(client);
                }
            }
        });
    }

    /// Every path works from now on and loses nothing.
    pub(crate) fn make_peace(&self) {
        let clients = {
            let mut state = self.lock();
            state.peace = true;
            state.routes.iter_mut().for_each(|route| route.conditions.loss_permille = 0);
            state.routes.len()
        };
        (0..clients).for_each(|client| self.heal(client));
        self.note("calm", &[]);
    }

    /// A client's path becomes what `change` makes of it.
    pub(crate) fn change(&self, client: usize, change: impl FnOnce(&mut Conditions)) {
        change(&mut self.lock().routes[client].conditions);
    }

    /// Notes that something happened.
    pub(crate) fn note(&self, what: &str, numbers: &[u64]) {
        let elapsed = self.0.started.elapsed();
        self.lock().trace.note(elapsed, what, numbers);
    }

    /// A number that stands for all that has happened, and how much that is.
    pub(crate) fn trace(&self) -> (u64, u64) {
        let state = self.lock();
        (state.trace.hash, state.trace.events)
    }

    /// Connections of which something is left.
    pub(crate) fn connections_open(&self) -> usize {
        self.wires().len()
    }

    fn wires(&self) -> Vec<Arc<Wire>> {
        let mut state = self.lock();
        state.wires.retain(|wire| wire.strong_count() > 0);
        state.wires.iter().filter_map(Weak::upgrade).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no holder of this lock panics")
    }
}

impl World for Network {
    fn connect(&self, addr: SocketAddr, quic: bool) -> Waiting<'static, io::Result<Connection>> {
        let route = usize::from(addr.port() - FIRST_PORT);
        let path = Path { network: self.clone(), route };
        Box::pin(async move { path.connect(quic).await })
    }

    fn random(&self) -> u64 {
        self.lock().random.next_u64()
    }
}

impl Path {
    async fn connect(self, quic: bool) -> io::Result<Connection> {
        self.network.note("dial", &[self.route as u64, u64::from(quic)]);
        let engine = loop {
            // A first packet that is lost, or that nobody answers, is sent again every second.
            while !self.is_open(quic) || self.loses() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            tokio::time::sleep(self.latency() * 4).await;
            let engine = self.network.lock().engine.clone();
            match engine {
                Some(engine) if self.is_open(quic) => break engine,
                None if !quic => {
                    self.network.note("refused", &[self.route as u64]);
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                _ => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        };
        self.network.note("connected", &[self.route as u64, u64::from(quic)]);
        let network = self.network.clone();
        let (wire, [client, server]) = Wire::new(&self, quic);
        network.lock().wires.push(Arc::downgrade(&wire));
        network.lock().connections += 1;
        network.spring_trap(wire.path.route);
        simulation::accept(&engine, server);
        Ok(client)
    }

    fn is_open(&self, quic: bool) -> bool {
        let route = &self.network.lock().routes[self.route];
        route.cut == [false; 2] && !(quic && route.conditions.udp_blocked)
    }

    fn loses(&self) -> bool {
        let state = &mut *self.network.lock();
        state.random.chance(state.routes[self.route].conditions.loss_permille)
    }

    /// The address of the other end as `side` sees it.
    pub(crate) fn peer(&self, side: usize) -> SocketAddr {
        let (route, connections) = (self.route as u16, self.network.lock().connections);
        match side {
            0 => (Ipv4Addr::LOCALHOST, FIRST_PORT + route).into(),
            _ => (Ipv4Addr::new(127, 0, 1, route as u8), 10_000 + connections).into(),
        }
    }

    /// When `bytes` sent now arrive, each loss of them on the way included. `None`: the path is cut.
    pub(crate) fn arrival(&self, direction: Direction, bytes: usize) -> Option<Instant> {
        let state = &mut *self.network.lock();
        let Route { conditions, cut, .. } = &state.routes[self.route];
        let numbers = [self.route as u64, direction as u64, bytes as u64];
        state.trace.note(self.network.0.started.elapsed(), "bytes", &numbers);
        if cut[direction as usize] {
            return None;
        }
        let mut delay = conditions.latency + jitter(&mut state.random, conditions);
        let mut again_after = Duration::from_millis(200);
        while again_after < Duration::from_secs(1) && state.random.chance(conditions.loss_permille) {
            delay += again_after;
            again_after *= 2;
        }
        Some(Instant::now() + delay)
    }

    /// When the copies of a datagram sent now arrive, after it has left. None, where it is lost.
    pub(crate) fn datagram(&self, direction: Direction, bytes: usize) -> Vec<Duration> {
        let state = &mut *self.network.lock();
        let Route { conditions, cut, .. } = &state.routes[self.route];
        let numbers = [self.route as u64, direction as u64, bytes as u64];
        state.trace.note(self.network.0.started.elapsed(), "datagram", &numbers);
        if cut[direction as usize] || conditions.udp_blocked || state.random.chance(conditions.loss_permille)
        {
            return Vec::new();
        }
        let copies = 1 + usize::from(state.random.chance(conditions.duplicate_permille));
        (0..copies).map(|_| conditions.latency + jitter(&mut state.random, conditions)).collect()
    }

    pub(crate) fn latency(&self) -> Duration {
        self.conditions(|conditions| conditions.latency)
    }

    pub(crate) fn segment_bytes(&self) -> usize {
        self.conditions(|conditions| conditions.segment_bytes)
    }

    pub(crate) fn capacity_bytes(&self) -> usize {
        self.conditions(|conditions| conditions.capacity_bytes)
    }

    /// How long `bytes` take to leave.
    pub(crate) fn time_for(&self, bytes: usize) -> Duration {
        self.conditions(|conditions| Duration::from_micros(bytes as u64 * 1_000 / conditions.bytes_per_ms))
    }

    pub(crate) fn bytes_in(&self, time: Duration) -> usize {
        self.conditions(|conditions| (time.as_micros() as u64 * conditions.bytes_per_ms / 1_000) as usize)
    }

    /// Whether the server's system answers.
    pub(crate) fn answers(&self) -> bool {
        let state = self.network.lock();
        state.engine.is_some() && state.routes[self.route].cut == [false; 2]
    }

    /// How long after a path is healed the sender tries again.
    pub(crate) fn retransmission(&self) -> Duration {
        Duration::from_millis(self.network.lock().random.below(800))
    }

    fn conditions<T>(&self, look: impl FnOnce(&Conditions) -> T) -> T {
        look(&self.network.lock().routes[self.route].conditions)
    }
}

fn jitter(random: &mut Seeded, conditions: &Conditions) -> Duration {
    Duration::from_micros(random.below(conditions.jitter.as_micros() as u64 + 1))
}

impl Trace {
    fn note(&mut self, at: Duration, what: &str, numbers: &[u64]) {
        if self.aloud {
            eprintln!("{:>12.6} {what} {numbers:?}", at.as_secs_f64());
        }
        self.events += 1;
        let at = [at.as_micros() as u64];
        let bytes = what.bytes().chain(at.iter().chain(numbers).flat_map(|number| number.to_le_bytes()));
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
