//! NATS as most Rust programs meet it: nats-server, driven by async-nats with its own settings, plain and with TLS.
//!
//! Every client has a connection of its own. NATS has no back-pressure from a subscriber to a publisher: async-nats
//! drops what exceeds the 65,536 messages of a subscription, so the harness keeps a window below that.

use std::{
    pin::Pin,
    task::{Context as TaskContext, Poll},
};

use anyhow::{Context as _, Result};
use async_nats::{Client, ConnectOptions, Subject, Subscriber};
use bytes::Bytes;
use futures_core::Stream as _;
use tokio::task::unconstrained;

use super::certificate::Certificate;
use crate::{
    fleet::Fleet,
    process::{Process, find_program, free_port},
    system::{AnySystem, Publish, Setup, Subscribe, System, TOPIC},
};

/// A sixteenth of what a subscription holds before it drops: the window is kept on average over all subscribers, and
/// one may be far behind the others.
const WINDOW_MESSAGES: u64 = 4_096;

/// Messages taken from one subscription before the next has its turn.
const TURN_MESSAGES: usize = 256;

pub(super) fn systems() -> Vec<Box<dyn AnySystem>> {
    vec![
        Box::new(Nats { name: "nats", about: "nats-server with async-nats, defaults", has_tls: false }),
        Box::new(Nats { name: "nats-tls", about: "nats-server with async-nats over TLS", has_tls: true }),
    ]
}

struct Nats {
    name: &'static str,
    about: &'static str,
    has_tls: bool,
}

/// The server process and what a client needs to reach it.
struct NatsServer {
    process: Process,
    port: u16,
    /// `None`: no TLS.
    certificate: Option<Certificate>,
}

/// A publishing connection.
struct NatsPublisher {
    client: Client,
    subject: Subject,
}

/// Subscribing connections on one thread.
struct NatsSubscribers {
    subscriptions: Fleet<Member>,
}

/// A subscription, and the connection that it lives on.
struct Member {
    subscriber: Subscriber,
    _client: Client,
}

impl System for Nats {
    type Server = NatsServer;
    type Publisher = NatsPublisher;
    type Subscribers = NatsSubscribers;

    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn missing(&self, _setup: &Setup) -> Option<String> {
        find_program("nats-server").is_none().then(|| "apt-get install nats-server".to_owned())
    }

    fn window_messages(&self) -> Option<u64> {
        Some(WINDOW_MESSAGES)
    }

    fn start(&self, setup: &Setup) -> Result<NatsServer> {
        let program = find_program("nats-server").context("nats-server is not installed")?;
        let port = free_port()?;
        let mut args =
            vec!["--addr".to_owned(), "127.0.0.1".to_owned(), "--port".to_owned(), port.to_string()];
        let certificate = self.has_tls.then(|| Certificate::make(&setup.directory)).transpose()?;
        if let Some(Certificate { certificate, key }) = &certificate {
            args.extend(["--tls".to_owned(), format!("--tlscert={}", certificate.display())]);
            args.push(format!("--tlskey={}", key.display()));
            // Two libraries of this program bring a provider each: rustls wants to be told which.
            let _ = async_nats::rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        let mut process = Process::start(setup, program, &args)?;
        process.wait_for_port(port)?;
        Ok(NatsServer { process, port, certificate })
    }

    fn processes(&self, server: &NatsServer) -> Vec<u32> {
        vec![server.process.id()]
    }

    async fn publisher(&self, _setup: &Setup, server: &NatsServer) -> Result<NatsPublisher> {
        Ok(NatsPublisher { client: connect(server).await?, subject: Subject::from_static(TOPIC) })
    }

    async fn subscribers(
        &self,
        _setup: &Setup,
        server: &NatsServer,
        count: usize,
    ) -> Result<NatsSubscribers> {
        let mut members = Vec::with_capacity(count);
        for _ in 0..count {
            let client = connect(server).await?;
            let subscriber = client.subscribe(Subject::from_static(TOPIC)).await?;
            client.flush().await?;
            members.push(Member { subscriber, _client: client });
        }
        Ok(NatsSubscribers { subscriptions: Fleet::new(members) })
    }
}

impl Publish for NatsPublisher {
    async fn send(&mut self, payload: &[u8]) -> Result<()> {
        Ok(self.client.publish(self.subject.clone(), Bytes::copy_from_slice(payload)).await?)
    }

    async fn flush(&mut self) -> Result<()> {
        // The connection's task was woken by the publish and writes as soon as it has its turn.
        tokio::task::yield_now().await;
        Ok(())
    }

    async fn flush_before_waiting(&mut self) -> Result<()> {
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        Ok(self.client.flush().await?)
    }
}

impl Subscribe for NatsSubscribers {
    async fn recv(&mut self, each: &mut impl FnMut(usize, &[u8])) -> Result<()> {
        // Otherwise the runtime would turn to the connections after 128 messages, and come back when all of those
        // have read what they can.
        unconstrained(self.subscriptions.next(|number, member, cx| drain(number, member, cx, each))).await
    }
}

/// Hands over what a subscription holds, up to its turn.
fn drain(
    number: usize,
    member: &mut Member,
    cx: &mut TaskContext<'_>,
    each: &mut impl FnMut(usize, &[u8]),
) -> Poll<Result<()>> {
    for taken in 0..TURN_MESSAGES {
        match Pin::new(&mut member.subscriber).poll_next(cx) {
            Poll::Ready(Some(message)) => each(number, &message.payload),
            Poll::Ready(None) => {
                return Poll::Ready(Err(anyhow::anyhow!("nats-server closed a subscription")));
            }
            Poll::Pending if taken == 0 => return Poll::Pending,
            Poll::Pending => break,
        }
    }
    Poll::Ready(Ok(()))
}

async fn connect(server: &NatsServer) -> Result<Client> {
    let mut options = ConnectOptions::new();
    if let Some(Certificate { certificate, .. }) = &server.certificate {
        options = options.add_root_certificates(certificate.clone()).require_tls(true);
    }
    options
        .connect(format!("nats://127.0.0.1:{}", server.port))
        .await
        .context("cannot connect to nats-server")
}
