//! No broker at all: one socket to an echo process and back. Round trips only.

use std::{
    net::{TcpStream, UdpSocket},
    sync::Arc,
};

use anyhow::{Context as _, Result};

use crate::{
    lean::{LeanPublisher, LeanSubscribers, Unframed},
    measure::Workload,
    process::{Process, free_port, loopback},
    system::{AnySystem, BLOCK_MAX, Publish, Setup, Subscribe, System},
};

pub(super) fn systems() -> Vec<Box<dyn AnySystem>> {
    vec![Box::new(RawTcp), Box::new(RawUdp)]
}

fn is_round_trip(workload: Workload) -> bool {
    matches!(workload, Workload::Roundtrip | Workload::RoundtripHot | Workload::RoundtripPinned)
}

/// The echo process and the socket both halves of the client share.
struct Echo<S> {
    process: Process,
    socket: S,
}

struct RawTcp;

impl System for RawTcp {
    type Server = Echo<TcpStream>;
    type Publisher = LeanPublisher<Unframed>;
    type Subscribers = LeanSubscribers<Unframed>;

    fn name(&self) -> &'static str {
        "raw-tcp"
    }

    fn about(&self) -> &'static str {
        "one TCP connection to an echo process, blocking sockets"
    }

    fn takes_part(&self, workload: Workload) -> bool {
        is_round_trip(workload)
    }

    fn start(&self, setup: &Setup) -> Result<Self::Server> {
        let port = free_port()?;
        let mut process = Process::harness(setup, "echo-tcp", &[port.to_string()])?;
        process.wait_for_port(port)?;
        let socket = TcpStream::connect(loopback(port))?;
        socket.set_nodelay(true)?;
        Ok(Echo { process, socket })
    }

    fn processes(&self, server: &Self::Server) -> Vec<u32> {
        vec![server.process.id()]
    }

    async fn publisher(&self, setup: &Setup, server: &Self::Server) -> Result<Self::Publisher> {
        Ok(LeanPublisher::over(server.socket.try_clone()?, Unframed::of(setup)))
    }

    async fn subscribers(&self, setup: &Setup, server: &Self::Server, _: usize) -> Result<Self::Subscribers> {
        LeanSubscribers::over(vec![(server.socket.try_clone()?, Unframed::of(setup))])
    }
}

struct RawUdp;

impl System for RawUdp {
    type Server = Echo<Arc<UdpSocket>>;
    type Publisher = Datagrams;
    type Subscribers = Datagrams;

    fn name(&self) -> &'static str {
        "raw-udp"
    }

    fn about(&self) -> &'static str {
        "one UDP socket to an echo process, blocking sockets"
    }

    fn takes_part(&self, workload: Workload) -> bool {
        is_round_trip(workload)
    }

    fn start(&self, setup: &Setup) -> Result<Self::Server> {
        let port = free_port()?;
        let mut process = Process::harness(setup, "echo-udp", &[port.to_string()])?;
        let socket = UdpSocket::bind(loopback(0))?;
        socket.connect(loopback(port))?;
        socket.set_read_timeout(Some(BLOCK_MAX))?;
        process.wait_for("answering", |_| {
            // Refused until the echo server has its port.
            socket.send(b"?").ok()?;
            socket.recv(&mut [0; 8]).ok()
        })?;
        Ok(Echo { process, socket: Arc::new(socket) })
    }

    fn processes(&self, server: &Self::Server) -> Vec<u32> {
        vec![server.process.id()]
    }

    async fn publisher(&self, setup: &Setup, server: &Self::Server) -> Result<Datagrams> {
        Ok(Datagrams::over(setup, server))
    }

    async fn subscribers(&self, setup: &Setup, server: &Self::Server, _: usize) -> Result<Datagrams> {
        Ok(Datagrams::over(setup, server))
    }
}

/// Either half of the UDP client: every message is a datagram.
struct Datagrams {
    socket: Arc<UdpSocket>,
    buffer: Vec<u8>,
}

impl Datagrams {
    fn over(setup: &Setup, server: &Echo<Arc<UdpSocket>>) -> Self {
        Self { socket: Arc::clone(&server.socket), buffer: vec![0; setup.payload_bytes + 1] }
    }
}

impl Publish for Datagrams {
    async fn send(&mut self, payload: &[u8]) -> Result<()> {
        self.socket.send(payload).map(drop).context("cannot send")
    }

    async fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Subscribe for Datagrams {
    async fn recv(&mut self, each: &mut impl FnMut(usize, &[u8])) -> Result<()> {
        match self.socket.recv(&mut self.buffer) {
            Ok(read) => each(0, &self.buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("cannot receive"),
        }
        Ok(())
    }
}
