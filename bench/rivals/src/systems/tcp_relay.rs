//! The limit of a broker hop: raw TCP into one process that copies bytes to the subscribers' sockets.
//!
//! No protocol at all: payloads of one known size follow each other. Flat out the publisher writes 64 KiB at a time;
//! in the latency workloads every message is one write.

use anyhow::Result;

use crate::{
    lean::{Connect, LeanPublisher, LeanSubscribers, Role, Unframed},
    process::{Process, free_port},
    system::{AnySystem, Setup, System},
};

pub(super) fn systems() -> Vec<Box<dyn AnySystem>> {
    vec![Box::new(TcpRelay)]
}

struct TcpRelay;

/// The relay process and where it listens.
struct Relay {
    process: Process,
    port: u16,
}

impl System for TcpRelay {
    type Server = Relay;
    type Publisher = LeanPublisher<Unframed>;
    type Subscribers = LeanSubscribers<Unframed>;

    fn name(&self) -> &'static str {
        "tcp-relay"
    }

    fn about(&self) -> &'static str {
        "raw TCP through one copying process: the limit of a broker hop"
    }

    fn start(&self, setup: &Setup) -> Result<Relay> {
        let port = free_port()?;
        let mut process = Process::harness(setup, "relay", &[port.to_string()])?;
        process.wait_for_port(port)?;
        Ok(Relay { process, port })
    }

    fn processes(&self, server: &Relay) -> Vec<u32> {
        vec![server.process.id()]
    }

    async fn publisher(&self, setup: &Setup, server: &Relay) -> Result<Self::Publisher> {
        LeanPublisher::connect(server.port, Unframed::of(setup))
    }

    async fn subscribers(&self, setup: &Setup, server: &Relay, count: usize) -> Result<Self::Subscribers> {
        LeanSubscribers::connect(server.port, count, || Unframed::of(setup))
    }
}

impl Connect for Unframed {
    /// One byte says which end this is; a subscriber waits until the relay knows it.
    fn introduce(&mut self, stream: &mut std::net::TcpStream, role: Role) -> Result<()> {
        use std::io::{Read as _, Write as _};
        match role {
            Role::Publisher => stream.write_all(b"P")?,
            Role::Subscriber => {
                stream.write_all(b"S")?;
                stream.read_exact(&mut [0])?;
            }
        }
        Ok(())
    }
}
