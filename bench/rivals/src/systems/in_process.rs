//! No server and no socket: twinlane's engine in this process, and tokio's broadcast channel beside it.

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use tokio::{
    sync::broadcast::{
        self,
        error::{RecvError, TryRecvError},
    },
    task::yield_now,
};
use twinlane::{Engine, EngineConfig, Session, TopicSpec};

use super::twinlane::{Publishing, Subscribing};
use crate::{
    measure::Workload,
    system::{AnySystem, Publish, Setup, Subscribe, System, TOPIC},
};

pub(super) fn systems() -> Vec<Box<dyn AnySystem>> {
    vec![
        Box::new(Local { name: "twinlane-local", spec: TopicSpec::reliable }),
        Box::new(Local { name: "twinlane-local-fast", spec: TopicSpec::fast }),
        Box::new(Broadcast),
    ]
}

/// The engine embedded, through the public API.
struct Local {
    name: &'static str,
    spec: fn() -> TopicSpec,
}

impl System for Local {
    type Server = Engine;
    type Publisher = Publishing;
    type Subscribers = Subscribing;

    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        "the engine in this process, through the public API"
    }

    fn takes_part(&self, workload: Workload) -> bool {
        workload != Workload::Idle
    }

    fn start(&self, _: &Setup) -> Result<Engine> {
        let engine = Engine::new(EngineConfig::default())?;
        engine.declare(TOPIC, (self.spec)())?;
        Ok(engine)
    }

    fn processes(&self, _: &Engine) -> Vec<u32> {
        Vec::new()
    }

    async fn publisher(&self, _: &Setup, engine: &Engine) -> Result<Publishing> {
        Publishing::local(Session::local(engine)).await
    }

    async fn subscribers(&self, _: &Setup, engine: &Engine, count: usize) -> Result<Subscribing> {
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            let session = Session::local(engine);
            clients.push((session.subscribe(TOPIC).await?, session));
        }
        Ok(Subscribing::new(clients))
    }
}

/// Messages the channel holds: 64 KiB of payloads of 64 B, and the same for every size.
const CAPACITY: usize = 1_024;

/// Messages that receivers hand out before the runtime gets its turn.
const TURN: usize = 256;

/// Payloads up to this size travel inside the channel's slots, without an allocation each.
const INLINE_BYTES: usize = 64;

#[derive(Clone)]
enum Payload {
    Inline(u8, [u8; INLINE_BYTES]),
    Shared(Bytes),
}

struct Broadcast;

impl System for Broadcast {
    type Server = broadcast::Sender<Payload>;
    type Publisher = broadcast::Sender<Payload>;
    type Subscribers = Receivers;

    fn name(&self) -> &'static str {
        "tokio-broadcast"
    }

    fn about(&self) -> &'static str {
        "tokio::sync::broadcast, 1,024 slots, small payloads inline; laggards lose"
    }

    fn takes_part(&self, workload: Workload) -> bool {
        workload != Workload::Idle
    }

    fn start(&self, _: &Setup) -> Result<Self::Server> {
        Ok(broadcast::Sender::new(CAPACITY))
    }

    fn processes(&self, _: &Self::Server) -> Vec<u32> {
        Vec::new()
    }

    async fn publisher(&self, _: &Setup, server: &Self::Server) -> Result<Self::Publisher> {
        Ok(server.clone())
    }

    async fn subscribers(&self, _: &Setup, server: &Self::Server, count: usize) -> Result<Receivers> {
        Ok(Receivers { receivers: (0..count).map(|_| server.subscribe()).collect() })
    }
}

impl Publish for broadcast::Sender<Payload> {
    #[inline]
    async fn send(&mut self, payload: &[u8]) -> Result<()> {
        let message = if payload.len() <= INLINE_BYTES {
            let mut bytes = [0; INLINE_BYTES];
            bytes[..payload.len()].copy_from_slice(payload);
            Payload::Inline(payload.len() as u8, bytes)
        } else {
            Payload::Shared(Bytes::copy_from_slice(payload))
        };
        Self::send(self, message).map(drop).map_err(|_| anyhow!("nobody is subscribed"))
    }

    async fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// All receivers of the run; they are looked at in turn, and the first is awaited when all are empty.
struct Receivers {
    receivers: Vec<broadcast::Receiver<Payload>>,
}

impl Subscribe for Receivers {
    async fn recv(&mut self, each: &mut impl FnMut(usize, &[u8])) -> Result<()> {
        let mut found = false;
        for (number, receiver) in self.receivers.iter_mut().enumerate() {
            for _ in 0..TURN {
                match receiver.try_recv() {
                    Ok(message) => {
                        found = true;
                        each(number, message.as_bytes());
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Lagged(_)) => {}
                    Err(TryRecvError::Closed) => bail!("the channel was closed"),
                }
            }
        }
        if found {
            yield_now().await;
            return Ok(());
        }
        match self.receivers[0].recv().await {
            Ok(message) => each(0, message.as_bytes()),
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => bail!("the channel was closed"),
        }
        Ok(())
    }
}

impl Payload {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Inline(length, bytes) => &bytes[..usize::from(*length)],
            Self::Shared(bytes) => bytes,
        }
    }
}
