//! NNG PUB/SUB over TCP, no broker, by the library's safe binding.
//!
//! The topic is the first bytes of every message, as is NNG's custom. A publisher never waits: what exceeds a queue is
//! dropped. So the queues are raised to the 8,192 messages that the library allows, and the harness keeps a window
//! below that.
//!
//! One subscriber blocks in its socket; of several, each has an asynchronous receive whose callback runs on the
//! library's threads and hands the payload over through an [`Inbox`].

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use nng::{
    Aio, AioResult, Error, Message, Protocol, Socket,
    options::{
        Options as _, ReconnectMinTime, RecvBufferSize, RecvTimeout, SendBufferSize,
        protocol::pubsub::Subscribe as Topic,
    },
};

use super::inbox::{Batch, Inbox};
use crate::{
    measure::Workload,
    process::free_port,
    system::{AnySystem, BLOCK_MAX, Publish, Setup, Subscribe, System, TOPIC},
};

/// The longest queue that the library allows.
const QUEUE_MESSAGES: i32 = 8_192;

/// Messages under way at most.
const WINDOW_MESSAGES: u64 = 4_096;

/// Messages taken from the one socket in one call.
const TURN_MESSAGES: usize = 256;

/// Subscribers that dial before the publisher listens try again after this long.
const REDIAL: Duration = Duration::from_millis(20);

pub(super) fn systems() -> Vec<Box<dyn AnySystem>> {
    vec![Box::new(Nng)]
}

struct Nng;

/// A PUB socket.
struct NngPublisher {
    socket: Socket,
    /// The topic, then the payload of the moment.
    message: Vec<u8>,
}

/// SUB sockets of one group.
enum NngSubscribers {
    One(Socket),
    Several(Callbacks),
}

/// Sockets whose messages come by callback.
struct Callbacks {
    sockets: Vec<Socket>,
    /// They receive as long as they live.
    _receives: Vec<Aio>,
    inbox: Arc<Inbox>,
    batch: Batch,
}

impl System for Nng {
    /// The port that the publisher listens on.
    type Server = u16;
    type Publisher = NngPublisher;
    type Subscribers = NngSubscribers;

    fn name(&self) -> &'static str {
        "nng"
    }

    fn about(&self) -> &'static str {
        "NNG PUB/SUB over TCP, no broker; queues raised to the 8,192 allowed"
    }

    fn takes_part(&self, workload: Workload) -> bool {
        // With 1,000 sockets in one process the library (1.5) does not come back from closing them.
        !matches!(workload, Workload::Idle | Workload::Fanout1000)
    }

    fn window_messages(&self) -> Option<u64> {
        Some(WINDOW_MESSAGES)
    }

    fn start(&self, _setup: &Setup) -> Result<u16> {
        free_port()
    }

    fn processes(&self, _server: &u16) -> Vec<u32> {
        Vec::new()
    }

    async fn publisher(&self, _setup: &Setup, server: &u16) -> Result<NngPublisher> {
        let socket = Socket::new(Protocol::Pub0)?;
        socket.set_opt::<SendBufferSize>(QUEUE_MESSAGES)?;
        socket.listen(&address(*server))?;
        Ok(NngPublisher { socket, message: TOPIC.as_bytes().to_vec() })
    }

    async fn subscribers(&self, _setup: &Setup, server: &u16, count: usize) -> Result<NngSubscribers> {
        let sockets = (0..count).map(|_| subscribed(*server)).collect::<Result<Vec<_>>>()?;
        match <[Socket; 1]>::try_from(sockets) {
            Ok([socket]) => Ok(NngSubscribers::One(socket)),
            Err(sockets) => Ok(NngSubscribers::Several(Callbacks::new(sockets)?)),
        }
    }
}

impl Publish for NngPublisher {
    async fn send(&mut self, payload: &[u8]) -> Result<()> {
        self.message.truncate(TOPIC.len());
        self.message.extend_from_slice(payload);
        self.socket.send(self.message.as_slice()).map_err(|(_, error)| error).context("a PUB socket failed")
    }

    /// The library's threads send by themselves.
    async fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Subscribe for NngSubscribers {
    async fn recv(&mut self, each: &mut impl FnMut(usize, &[u8])) -> Result<()> {
        match self {
            Self::One(socket) => {
                let mut next = socket.recv();
                for _ in 0..TURN_MESSAGES {
                    match next {
                        Ok(message) => each(0, payload(&message)),
                        Err(Error::TimedOut | Error::TryAgain) => return Ok(()),
                        Err(error) => bail!("a SUB socket failed: {error}"),
                    }
                    next = socket.try_recv();
                }
                if let Ok(message) = next {
                    each(0, payload(&message));
                }
            }
            Self::Several(callbacks) => {
                callbacks.inbox.take(&mut callbacks.batch);
                callbacks.batch.deliver(each);
            }
        }
        Ok(())
    }
}

impl Callbacks {
    fn new(sockets: Vec<Socket>) -> Result<Self> {
        let inbox = Arc::new(Inbox::default());
        let mut receives = Vec::with_capacity(sockets.len());
        for (number, socket) in sockets.iter().enumerate() {
            let inbox = Arc::clone(&inbox);
            let own = socket.clone();
            let receive = Aio::new(move |receive, result| {
                // An error is the end of the socket.
                if let AioResult::Recv(Ok(message)) = result {
                    inbox.push(number, payload(&message));
                    let _ = own.recv_async(&receive);
                }
            })?;
            socket.recv_async(&receive)?;
            receives.push(receive);
        }
        Ok(Self { sockets, _receives: receives, inbox, batch: Batch::default() })
    }
}

impl Drop for Callbacks {
    fn drop(&mut self) {
        self.inbox.close();
        for socket in &self.sockets {
            // The callbacks hold sockets too: only closing them ends them.
            socket.close();
        }
    }
}

/// A SUB socket that dials until somebody listens.
fn subscribed(port: u16) -> Result<Socket> {
    let socket = Socket::new(Protocol::Sub0)?;
    socket.set_opt::<Topic>(TOPIC.as_bytes().to_vec())?;
    socket.set_opt::<RecvBufferSize>(QUEUE_MESSAGES)?;
    socket.set_opt::<RecvTimeout>(Some(BLOCK_MAX))?;
    socket.set_opt::<ReconnectMinTime>(Some(REDIAL))?;
    socket.dial_async(&address(port)).map_err(|error| anyhow!("cannot dial: {error}"))?;
    Ok(socket)
}

/// What follows the topic.
fn payload(message: &Message) -> &[u8] {
    message.as_slice().get(TOPIC.len()..).unwrap_or_default()
}

fn address(port: u16) -> String {
    format!("tcp://127.0.0.1:{port}")
}
