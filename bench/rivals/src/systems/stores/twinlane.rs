//! A durable topic of twinlane through its own server program, with TLS: ordinary `send` calls with a window, and
//! `publish` calls that wait for their answer, one at a time on each connection.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use tokio::{task::JoinSet, time::timeout};
use twinlane::{DeliveryRef, Level, Publisher, Session, SlowPolicy, Start, SubscribeOptions, Transports};

use super::{WIDE_WINDOW, WINDOW};
use crate::{
    store::{Desk, Kept, Store, Stream, Write},
    system::{AnySystem, Setup, TOPIC},
    systems::twinlane::{Serving, connect, missing, serve},
};

/// When nothing more comes for so long, nothing more is kept.
const QUIET: Duration = Duration::from_millis(500);

/// How often a subscription may be quiet before anything has come: the server may still open its log.
const FIRST_QUIET: Duration = Duration::from_secs(10);

pub(super) fn systems() -> Vec<Box<dyn AnySystem>> {
    VARIANTS.iter().map(|variant| Box::new(Kept(Durable(variant))) as Box<dyn AnySystem>).collect()
}

/// How messages are published.
#[derive(Clone, Copy, Debug)]
enum Calls {
    /// `send` without waiting, on one connection, with so many messages unacknowledged at most.
    Send { window: u64 },
    /// `publish` and wait, on so many connections.
    Publish { connections: u16 },
}

struct Variant {
    name: &'static str,
    about: &'static str,
    calls: Calls,
}

static VARIANTS: &[Variant] = &[
    Variant {
        name: "twinlane-durable",
        about: "durable topic, TLS, ordinary send calls on one connection with a window of 16,384",
        calls: Calls::Send { window: WIDE_WINDOW },
    },
    Variant {
        name: "twinlane-durable-1024",
        about: "the same with a window of 1,024",
        calls: Calls::Send { window: WINDOW },
    },
    Variant {
        name: "twinlane-publish-1",
        about: "durable topic, TLS, publish and wait on one connection",
        calls: Calls::Publish { connections: 1 },
    },
    Variant {
        name: "twinlane-publish-32",
        about: "the same on 32 connections at once",
        calls: Calls::Publish { connections: 32 },
    },
    Variant {
        name: "twinlane-publish-256",
        about: "the same on 256 connections at once",
        calls: Calls::Publish { connections: 256 },
    },
];

struct Durable(&'static Variant);

impl Store for Durable {
    type Server = Serving;
    type Writer = Writing;

    fn name(&self) -> &'static str {
        self.0.name
    }

    fn about(&self) -> &'static str {
        self.0.about
    }

    fn missing(&self, setup: &Setup) -> Option<String> {
        missing(setup)
    }

    fn start(&self, setup: &Setup) -> Result<Serving> {
        serve(setup, "durable", false, &[])
    }

    fn processes(&self, server: &Serving) -> Vec<u32> {
        vec![server.id()]
    }

    async fn writer(&self, _: &Setup, server: &Serving) -> Result<Writing> {
        let mut sessions = Vec::new();
        let mut publishers = Vec::new();
        let (connections, streams) = match self.0.calls {
            Calls::Send { .. } => (1, 2),
            Calls::Publish { connections } => (connections, 1),
        };
        for _ in 0..connections {
            let session = connect(server, Transports::TcpOnly).await?;
            for _ in 0..streams {
                publishers.push(session.publisher(TOPIC).await?);
            }
            sessions.push(session);
        }
        Ok(Writing { calls: self.0.calls, publishers, sessions })
    }

    async fn read_back(
        &self,
        _: &Setup,
        server: &Serving,
        messages_max: u64,
        each: &mut impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let session = connect(server, Transports::TcpOnly).await?;
        let mut options = SubscribeOptions::default();
        options.start = Start::All;
        options.slow = SlowPolicy::Spill;
        let mut subscription = session.subscribe_with(TOPIC, options).await?;
        let (mut read, mut patience) = (0, FIRST_QUIET);
        while read < messages_max {
            let Ok(batch) = timeout(patience, subscription.next_batch()).await else { return Ok(()) };
            patience = QUIET;
            let batch = batch.ok_or_else(|| anyhow!("the subscription ended: {:?}", subscription.end()))?;
            for delivery in batch.iter() {
                match delivery {
                    DeliveryRef::Message(message) => each(message.payload())?,
                    other => bail!("a topic that is read from its beginning gave {other:?}"),
                }
                read += 1;
            }
        }
        Ok(())
    }
}

/// Publishers and the sessions they belong to.
pub(super) struct Writing {
    calls: Calls,
    publishers: Vec<Publisher>,
    sessions: Vec<Session>,
}

impl Write for Writing {
    async fn write(&mut self, desk: &Arc<Desk>) -> Result<Vec<u64>> {
        let mut tasks = JoinSet::new();
        for (number, publisher) in (0..).zip(self.publishers.drain(..)) {
            let (desk, stream) = (Arc::clone(desk), desk.stream(number));
            let calls = self.calls;
            tasks.spawn(async move {
                let sent = match calls {
                    // Two streams take turns: while one waits for its half of the window, the other fills its own.
                    Calls::Send { window } => send(publisher, stream, window / 2, &desk).await?,
                    Calls::Publish { .. } => publish(publisher, stream, &desk).await?,
                };
                Ok::<_, anyhow::Error>((number, sent))
            });
        }
        let mut sent = vec![0; tasks.len()];
        while let Some(done) = tasks.join_next().await {
            let (number, messages) = done.context("a publisher panicked")??;
            sent[usize::from(number)] = messages;
        }
        for session in &self.sessions {
            ensure!(session.status().reconnects == 0, "a connection was lost");
        }
        Ok(sent)
    }
}

/// As many messages as half a window has, then their acknowledgements.
async fn send(mut publisher: Publisher, mut stream: Stream, half: u64, desk: &Desk) -> Result<u64> {
    while !desk.is_enough() {
        for _ in 0..half {
            publisher.send(stream.next_payload()).await?;
        }
        let flushed = publisher.flush().await?;
        ensure!(flushed.acked == stream.taken(), "{flushed:?} of {} messages", stream.taken());
        desk.add_acked(half);
    }
    publisher.close().await?;
    Ok(stream.taken())
}

/// One message and its acknowledgement.
async fn publish(mut publisher: Publisher, mut stream: Stream, desk: &Desk) -> Result<u64> {
    while !desk.is_enough() {
        let ack = publisher.publish(stream.next_payload()).await?;
        ensure!(ack.level == Some(Level::Disk), "a durable topic answered {ack:?}");
        desk.add_acked(1);
    }
    publisher.close().await?;
    Ok(stream.taken())
}
