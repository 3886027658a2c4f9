//! Connections of quinn over a simulated bottleneck, in virtual time: what a controller does to a path, and to others.
//!
//! Real are quinn's pacing, acks, detection of losses and packets, since nothing else knows how a controller is called.
//! Simulated are time and the path: a queue that drops what does not fit, propagation delay, and losses by chance.
//! The same seed gives the same packets, but for the bytes of the handshakes.
//!
//! The comparison with CUBIC, NewReno and BBR:
//! `cargo test --release -p twinlane --lib congestion::simulator::table -- --ignored --nocapture`

mod side;
mod table;
mod tests;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::EndpointConfig;
use quinn_proto::{Connection, Dir, Endpoint, StreamId};

use super::{Fresh, Room, SendState};
use side::{CONFIGS, Side, Who, address, transport};

/// IPv4 and UDP.
const HEADER_BYTES: usize = 28;
const MTU_BYTES: u16 = 1_200;
const SEND_BUFFER_BYTES: usize = 32 * 1_024;
const INITIAL_WINDOW_BYTES: u64 = 3 * 8_952;

/// What a flow has to send.
#[derive(Clone, Copy, Debug)]
enum Load {
    /// More datagrams than fit.
    Greedy,
    /// As many datagrams as [`Room`] allows, and a stream that always has more if so said.
    Roomy { has_stream: bool },
    /// One datagram of `bytes` per `interval`.
    Paced { bytes: usize, interval: Duration },
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    who: Who,
    load: Load,
    from: Duration,
    until: Duration,
}

/// The path from clients to servers; back it is as long, and never full.
#[derive(Clone, Copy, Debug)]
struct Path {
    megabits_per_second: f64,
    round_trip: Duration,
    buffer_bytes: f64,
    /// Share of packets that vanish, either way.
    loss: f64,
    /// At this time the rate becomes that.
    change: Option<(Duration, f64)>,
    /// At this time the round trip becomes that.
    longer: Option<(Duration, Duration)>,
    /// Once in the first time nothing arrives for the second: a receiver that is not scheduled.
    stalls: Option<(Duration, Duration)>,
}

impl Path {
    fn new(megabits_per_second: f64, round_trip_ms: u64) -> Self {
        let path = Self {
            megabits_per_second,
            round_trip: Duration::from_millis(round_trip_ms),
            buffer_bytes: 0.0,
            loss: 0.0,
            change: None,
            longer: None,
            stalls: None,
        };
        path.buffer(1.0)
    }

    /// A buffer of that many products of rate and round trip.
    fn buffer(self, products: f64) -> Self {
        let product = self.megabits_per_second * 1e6 / 8.0 * self.round_trip.as_secs_f64();
        Self { buffer_bytes: product * products, ..self }
    }

    fn buffer_packets(self, packets: usize) -> Self {
        Self { buffer_bytes: (packets * (usize::from(MTU_BYTES) + HEADER_BYTES)) as f64, ..self }
    }

    fn losing(self, loss: f64) -> Self {
        Self { loss, ..self }
    }
}

impl Plan {
    fn greedy(who: Who) -> Self {
        Self { who, load: Load::Greedy, from: Duration::ZERO, until: Duration::MAX }
    }

    fn roomy(has_stream: bool) -> Self {
        Self { load: Load::Roomy { has_stream }, ..Self::greedy(Who::Ours) }
    }

    fn paced(who: Who, bytes: usize, interval: Duration) -> Self {
        Self { load: Load::Paced { bytes, interval }, ..Self::greedy(who) }
    }

    fn between(self, from_s: u64, until_s: u64) -> Self {
        Self { from: Duration::from_secs(from_s), until: Duration::from_secs(until_s), ..self }
    }
}

/// What one flow had, since the measurement began.
#[derive(Clone, Debug, Default)]
struct Outcome {
    delivered_bytes: u64,
    delivered: u64,
    stream_bytes: u64,
    /// Longest that quinn's queue of datagrams was, in bytes.
    queued_bytes_max: usize,
    offered: u64,
    /// At the bottleneck: packets that came and those that found it full.
    arrived: u64,
    overflowed: u64,
    /// Waiting time of each packet in the bottleneck's queue.
    queueing: Vec<Duration>,
    /// From the moment a paced datagram was due until it was there.
    ages: Vec<Duration>,
    /// Window at the end of each 100 ms.
    windows: Vec<u64>,
}

impl Outcome {
    fn megabits_per_second(&self, over: Duration) -> f64 {
        self.delivered_bytes as f64 * 8.0 / 1e6 / over.as_secs_f64()
    }

    fn overflow_share(&self) -> f64 {
        self.overflowed as f64 / self.arrived.max(1) as f64
    }
}

fn percentile(values: &[Duration], share: f64) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share) as usize).copied().unwrap_or_default()
}

/// Runs `plans` over one bottleneck and measures from `measured_from` until `end`.
fn run(path: Path, plans: &[Plan], measured_from: Duration, end: Duration, seed: u64) -> Vec<Outcome> {
    let mut world = World::new(path, plans, measured_from, end, seed);
    world.run();
    world.flows.into_iter().map(|flow| flow.outcome).collect()
}

struct World {
    path: Path,
    now: Duration,
    began: Instant,
    measured_from: Duration,
    end: Duration,
    random: Random,
    /// When the bottleneck will have sent all that it holds.
    busy_until: Duration,
    packets: BinaryHeap<Reverse<Packet>>,
    packets_made: u64,
    flows: Vec<Flow>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    at: Duration,
    number: u64,
    flow: usize,
    to_server: bool,
    bytes: Vec<u8>,
}

struct Flow {
    plan: Plan,
    client: Side,
    server: Side,
    next_due: Duration,
    room: Room,
    given_bytes: u64,
    stream: Option<StreamId>,
    outcome: Outcome,
}

impl World {
    fn new(path: Path, plans: &[Plan], measured_from: Duration, end: Duration, seed: u64) -> Self {
        let began = Instant::now();
        let flows = plans.iter().enumerate().map(|(number, plan)| Flow::new(*plan, seed, number)).collect();
        Self {
            path,
            now: Duration::ZERO,
            began,
            measured_from,
            end,
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            busy_until: Duration::ZERO,
            packets: BinaryHeap::new(),
            packets_made: 0,
            flows,
        }
    }

    fn run(&mut self) {
        while let Some(next) = self.next_event() {
            if next >= self.end {
                return;
            }
            self.now = next;
            self.change_path();
            while self.packets.peek().is_some_and(|Reverse(packet)| packet.at <= self.now) {
                let Some(Reverse(packet)) = self.packets.pop() else { break };
                self.arrive(&packet);
            }
            for flow in 0..self.flows.len() {
                self.tick(flow);
            }
        }
    }

    fn next_event(&self) -> Option<Duration> {
        let packet = self.packets.peek().map(|Reverse(packet)| packet.at);
        let flows = self.flows.iter().flat_map(|flow| {
            [flow.client.deadline, flow.server.deadline, Some(flow.next_due)].into_iter().flatten()
        });
        packet.into_iter().chain(flows).min().map(|at| at.max(self.now))
    }

    fn change_path(&mut self) {
        if let Some((at, round_trip)) = self.path.longer
            && self.now >= at
        {
            self.path.round_trip = round_trip;
        }
        let Some((at, megabits_per_second)) = self.path.change else { return };
        if self.now >= at {
            let left = self.busy_until.saturating_sub(self.now);
            self.busy_until = self.now + left.mul_f64(self.path.megabits_per_second / megabits_per_second);
            self.path.megabits_per_second = megabits_per_second;
            self.path.change = None;
        }
    }

    fn arrive(&mut self, packet: &Packet) {
        let now = self.began + self.now;
        let flow = &mut self.flows[packet.flow];
        let is_measured = self.now >= self.measured_from;
        if packet.to_server {
            flow.server.handle(now, &packet.bytes);
            let Some((_, connection)) = &mut flow.server.connection else { return };
            let stream_bytes = read_streams(connection);
            flow.outcome.stream_bytes += if is_measured { stream_bytes } else { 0 };
            while let Some(datagram) = connection.datagrams().recv() {
                if !is_measured {
                    continue;
                }
                flow.outcome.delivered += 1;
                flow.outcome.delivered_bytes += datagram.len() as u64;
                if let (Load::Paced { .. }, Some(due)) = (flow.plan.load, datagram.first_chunk()) {
                    let age = self.now.saturating_sub(Duration::from_nanos(u64::from_le_bytes(*due)));
                    flow.outcome.ages.push(age);
                }
            }
        } else {
            flow.client.handle(now, &packet.bytes);
        }
        self.pump(packet.flow);
    }

    /// Offers what is due and lets timers fire.
    fn tick(&mut self, number: usize) {
        let flow = &mut self.flows[number];
        let is_due = flow.next_due <= self.now;
        if is_due {
            flow.offer(self.now, self.measured_from, self.began);
        }
        let is_timeout = |side: &Side| side.deadline.is_some_and(|deadline| deadline <= self.now);
        if is_due || is_timeout(&flow.client) || is_timeout(&flow.server) {
            self.pump(number);
        }
    }

    fn pump(&mut self, number: usize) {
        let now = self.began + self.now;
        let mut sent = Vec::new();
        let flow = &mut self.flows[number];
        flow.fill();
        // What fills quinn's queue in earnest is a task of its own: it comes after quinn has had its turn.
        loop {
            flow.client.pump(now, self.began, |bytes| sent.push((true, bytes)));
            if !flow.fill_room(self.now >= self.measured_from) {
                break;
            }
        }
        flow.server.pump(now, self.began, |bytes| sent.push((false, bytes)));
        for (to_server, bytes) in sent {
            self.send(number, to_server, bytes);
        }
    }

    fn send(&mut self, number: usize, to_server: bool, bytes: Vec<u8>) {
        let wire_bytes = (bytes.len() + HEADER_BYTES) as f64;
        let mut at = self.now + self.path.round_trip / 2;
        if to_server {
            let outcome = &mut self.flows[number].outcome;
            let is_measured = self.now >= self.measured_from;
            let bytes_per_second = self.path.megabits_per_second * 1e6 / 8.0;
            let waits = self.busy_until.saturating_sub(self.now);
            outcome.arrived += u64::from(is_measured);
            if waits.as_secs_f64() * bytes_per_second > self.path.buffer_bytes {
                outcome.overflowed += u64::from(is_measured);
                return;
            }
            if is_measured {
                outcome.queueing.push(waits);
            }
            self.busy_until = self.now + waits + Duration::from_secs_f64(wire_bytes / bytes_per_second);
            at = self.busy_until + self.path.round_trip / 2;
        }
        if self.random.chance(self.path.loss) {
            return;
        }
        if let Some((interval, length)) = self.path.stalls {
            let phase = Duration::from_nanos((at.as_nanos() % interval.as_nanos()) as u64);
            at += length.saturating_sub(phase);
        }
        self.packets_made += 1;
        let packet = Packet { at, number: self.packets_made, flow: number, to_server, bytes };
        self.packets.push(Reverse(packet));
    }
}

impl Flow {
    fn new(plan: Plan, seed: u64, number: usize) -> Self {
        let mut rng_seed = [0; 32];
        rng_seed[..8].copy_from_slice(&seed.to_le_bytes());
        rng_seed[8] = number as u8;
        let config = Arc::new(EndpointConfig::default());
        let mut server = CONFIGS.server.clone();
        server.transport_config(Arc::new(transport(Who::Cubic)));
        let client = Endpoint::new(Arc::clone(&config), None, true, Some(rng_seed));
        rng_seed[9] = 1;
        let server = Endpoint::new(config, Some(Arc::new(server)), true, Some(rng_seed));
        Self {
            plan,
            client: Side::new(client),
            server: Side::new(server),
            next_due: plan.from,
            room: Room::default(),
            given_bytes: 0,
            stream: None,
            outcome: Outcome::default(),
        }
    }

    /// A greedy flow keeps quinn's queue filled.
    fn fill(&mut self) {
        if !self.client.is_connected || !matches!(self.plan.load, Load::Greedy) {
            return;
        }
        let Some((_, connection)) = &mut self.client.connection else { return };
        while connection.datagrams().send_buffer_space() > 2 * usize::from(MTU_BYTES) {
            let bytes = connection.datagrams().max_size().expect("the peer takes datagrams");
            let sent = connection.datagrams().send(Bytes::from_static(&[0; 2_048]).slice(..bytes), false);
            sent.expect("there is space");
        }
    }

    /// Fills quinn's queue as far as there is room. Whether anything was added.
    fn fill_room(&mut self, is_measured: bool) -> bool {
        let Load::Roomy { has_stream } = self.plan.load else { return false };
        let Some((_, connection)) = &mut self.client.connection else { return false };
        if !self.client.is_connected {
            return false;
        }
        let path = path_of(connection);
        let mut is_added = false;
        if has_stream {
            let stream =
                *self.stream.get_or_insert_with(|| connection.streams().open(Dir::Bi).expect("the first"));
            is_added |= connection.send_stream(stream).write(&[0; 4_096]).is_ok();
        }
        loop {
            let space = connection.datagrams().send_buffer_space();
            if is_measured {
                let queued = SEND_BUFFER_BYTES - space;
                self.outcome.queued_bytes_max = self.outcome.queued_bytes_max.max(queued);
            }
            if self.room.now(&path, SEND_BUFFER_BYTES, space, self.given_bytes).is_none() {
                return is_added;
            }
            let bytes = connection.datagrams().max_size().expect("the peer takes datagrams");
            connection
                .datagrams()
                .send(Bytes::from_static(&[0; 2_048]).slice(..bytes), true)
                .expect("it fits");
            self.given_bytes += bytes as u64;
            is_added = true;
        }
    }

    fn offer(&mut self, now: Duration, measured_from: Duration, began: Instant) {
        if self.client.connection.is_none() {
            let mut config = CONFIGS.client.clone();
            config.transport_config(Arc::new(transport(self.plan.who)));
            let connected = self.client.endpoint.connect(began + now, config, address(), "localhost");
            self.client.connection = Some(connected.expect("the configuration is complete"));
        }
        match self.plan.load {
            Load::Greedy | Load::Roomy { .. } => self.next_due = now + Duration::from_millis(100),
            Load::Paced { bytes, interval } => {
                self.next_due = now + interval;
                if self.client.is_connected && now < self.plan.until {
                    let mut datagram = vec![0; bytes];
                    datagram[..8].copy_from_slice(&(now.as_nanos() as u64).to_le_bytes());
                    if let Some((_, connection)) = &mut self.client.connection {
                        connection.datagrams().send(datagram.into(), true).expect("small enough");
                    }
                    self.outcome.offered += u64::from(now >= measured_from);
                }
            }
        }
        if now >= self.plan.until {
            if let Some((_, connection)) = &mut self.client.connection {
                connection.close(began + now, 0_u32.into(), Bytes::new());
            }
            self.client.is_connected = false;
        }
        if let Some((_, connection)) = &self.client.connection {
            self.outcome.windows.push(connection.stats().path.cwnd);
        }
    }
}

fn path_of(connection: &Connection) -> Arc<SendState> {
    let controller = connection.congestion_state().clone_box().into_any().downcast::<Fresh>();
    Arc::clone(controller.expect("it is ours").state())
}

/// Bytes read from all streams.
fn read_streams(connection: &mut Connection) -> u64 {
    let mut bytes = 0;
    while let Some(_accepted) = connection.streams().accept(Dir::Bi) {}
    let stream = StreamId::new(quinn_proto::Side::Client, Dir::Bi, 0);
    let mut stream = connection.recv_stream(stream);
    if let Ok(mut chunks) = stream.read(true) {
        while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
            bytes += chunk.bytes.len() as u64;
        }
        let _window_update = chunks.finalize();
    }
    bytes
}

/// xorshift.
struct Random(u64);

impl Random {
    fn chance(&mut self, share: f64) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) as f64 / (1_u64 << 53) as f64) < share
    }
}
