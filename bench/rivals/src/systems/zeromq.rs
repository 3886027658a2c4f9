//! ZeroMQ PUB/SUB by libzmq: direct, and through a process that forwards from an XSUB to an XPUB socket.
//!
//! The topic is the first bytes of every message, as is ZeroMQ's custom. A PUB socket never waits: what exceeds the
//! high water mark of a subscriber is dropped. So `zeromq` raises the marks above the window that the harness keeps,
//! and loses nothing; `zeromq-default` keeps the library's marks and no window, and counts what is lost.
//!
//! Publisher and subscribers have contexts (and with them I/O threads) of their own, as in different processes.
//! Sockets that listen have room for a thousand connections at once, which the library's default has not.

use anyhow::{Context as _, Result};
use zmq::{Context, DONTWAIT, Error, POLLIN, PollItem, Socket, SocketType};

use crate::{
    measure::Workload,
    process::{Process, free_port},
    system::{AnySystem, BLOCK_MAX, Publish, Setup, Subscribe, System, TOPIC},
};

/// Messages under way at most, where nothing may be lost.
const WINDOW_MESSAGES: u64 = 16_384;

/// High water marks that such a window never reaches.
const RAISED_MARK_MESSAGES: i32 = 1 << 16;

/// The library's own mark.
const DEFAULT_MARK_MESSAGES: i32 = 1_000;

/// Sockets of one context; the library allows 1,023.
const CONTEXT_SOCKETS_MAX: usize = 500;

/// Connections that wait to be accepted; the library's 100 are too few for a thousand that come at once, and those beyond
/// believe that they are connected.
const BACKLOG: i32 = 4_096;

/// Messages taken from one socket before the next has its turn.
const TURN_MESSAGES: usize = 256;

/// A socket that closes tries this long to send what it holds.
const LINGER_MS: i32 = 500;

/// Subscribers that dial before the publisher listens try again after this long.
const REDIAL_MS: i32 = 20;

pub(super) fn systems() -> Vec<Box<dyn AnySystem>> {
    vec![
        Box::new(ZeroMq {
            name: "zeromq",
            about: "ZeroMQ PUB/SUB, no broker; libzmq with raised high water marks",
            has_proxy: false,
            mark_messages: RAISED_MARK_MESSAGES,
        }),
        Box::new(ZeroMq {
            name: "zeromq-proxy",
            about: "ZeroMQ through an XSUB/XPUB proxy; libzmq with raised high water marks",
            has_proxy: true,
            mark_messages: RAISED_MARK_MESSAGES,
        }),
        Box::new(ZeroMq {
            name: "zeromq-default",
            about: "ZeroMQ PUB/SUB, no broker; libzmq's defaults, which drop beyond 1,000 messages",
            has_proxy: false,
            mark_messages: DEFAULT_MARK_MESSAGES,
        }),
    ]
}

/// Forwards everything published on one port to the subscribers of another. Ends only with an error.
///
/// # Errors
///
/// A port is taken, or the library fails.
pub(crate) fn proxy(publishers_port: u16, subscribers_port: u16, mark_messages: i32) -> Result<()> {
    let context = Context::new();
    let inward = socket(&context, SocketType::XSUB, mark_messages)?;
    inward.bind(&address(publishers_port))?;
    let outward = socket(&context, SocketType::XPUB, mark_messages)?;
    outward.bind(&address(subscribers_port))?;
    zmq::proxy(&inward, &outward).context("the proxy ended")
}

struct ZeroMq {
    name: &'static str,
    about: &'static str,
    has_proxy: bool,
    mark_messages: i32,
}

/// Where the clients meet.
struct Meeting {
    proxy: Option<Process>,
    publishers_port: u16,
    subscribers_port: u16,
}

/// A PUB socket with its context.
struct ZeroMqPublisher {
    socket: Socket,
    /// The topic, then the payload of the moment.
    message: Vec<u8>,
}

/// SUB sockets on one thread.
struct ZeroMqSubscribers {
    sockets: Vec<Socket>,
    /// Room for one message, topic and payload, and a byte more: a longer one shows.
    message: Vec<u8>,
}

impl System for ZeroMq {
    type Server = Meeting;
    type Publisher = ZeroMqPublisher;
    type Subscribers = ZeroMqSubscribers;

    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn takes_part(&self, workload: Workload) -> bool {
        workload != Workload::Idle || self.has_proxy
    }

    fn window_messages(&self) -> Option<u64> {
        (self.mark_messages == RAISED_MARK_MESSAGES).then_some(WINDOW_MESSAGES)
    }

    fn start(&self, setup: &Setup) -> Result<Meeting> {
        let publishers_port = free_port()?;
        if !self.has_proxy {
            return Ok(Meeting { proxy: None, publishers_port, subscribers_port: publishers_port });
        }
        let subscribers_port = free_port()?;
        let args =
            [publishers_port.to_string(), subscribers_port.to_string(), self.mark_messages.to_string()];
        let mut proxy = Process::harness(setup, "zeromq-proxy", &args)?;
        proxy.wait_for_port(publishers_port)?;
        proxy.wait_for_port(subscribers_port)?;
        Ok(Meeting { proxy: Some(proxy), publishers_port, subscribers_port })
    }

    fn processes(&self, server: &Meeting) -> Vec<u32> {
        server.proxy.iter().map(Process::id).collect()
    }

    async fn publisher(&self, _setup: &Setup, server: &Meeting) -> Result<ZeroMqPublisher> {
        let socket = socket(&Context::new(), SocketType::PUB, self.mark_messages)?;
        let address = address(server.publishers_port);
        if self.has_proxy {
            socket.connect(&address)?;
        } else {
            socket.bind(&address)?;
        }
        Ok(ZeroMqPublisher { socket, message: TOPIC.as_bytes().to_vec() })
    }

    async fn subscribers(&self, setup: &Setup, server: &Meeting, count: usize) -> Result<ZeroMqSubscribers> {
        let mut sockets = Vec::with_capacity(count);
        let mut context = Context::new();
        for number in 0..count {
            if number > 0 && number % CONTEXT_SOCKETS_MAX == 0 {
                context = Context::new();
            }
            let socket = socket(&context, SocketType::SUB, self.mark_messages)?;
            socket.set_subscribe(TOPIC.as_bytes())?;
            socket.set_reconnect_ivl(REDIAL_MS)?;
            socket.set_rcvtimeo(BLOCK_MAX.as_millis() as i32)?;
            socket.connect(&address(server.subscribers_port))?;
            sockets.push(socket);
        }
        Ok(ZeroMqSubscribers { sockets, message: vec![0; TOPIC.len() + setup.payload_bytes + 1] })
    }
}

impl Publish for ZeroMqPublisher {
    async fn send(&mut self, payload: &[u8]) -> Result<()> {
        self.message.truncate(TOPIC.len());
        self.message.extend_from_slice(payload);
        Ok(self.socket.send(self.message.as_slice(), 0)?)
    }

    /// The I/O thread sends by itself.
    async fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Subscribe for ZeroMqSubscribers {
    async fn recv(&mut self, each: &mut impl FnMut(usize, &[u8])) -> Result<()> {
        if let [socket] = self.sockets.as_slice() {
            // One socket waits for itself.
            if take(socket, &mut self.message, 0, &mut |payload| each(0, payload))? {
                drain(socket, &mut self.message, &mut |payload| each(0, payload))?;
            }
            return Ok(());
        }
        while !self.sweep(each)? {
            let mut items: Vec<PollItem<'_>> =
                self.sockets.iter().map(|socket| socket.as_poll_item(POLLIN)).collect();
            if zmq::poll(&mut items, BLOCK_MAX.as_millis() as i64)? == 0 {
                break;
            }
        }
        Ok(())
    }
}

impl ZeroMqSubscribers {
    /// Takes what is there from every socket; whether anything was.
    fn sweep(&mut self, each: &mut impl FnMut(usize, &[u8])) -> Result<bool> {
        let mut any = false;
        for (number, socket) in self.sockets.iter().enumerate() {
            any |= drain(socket, &mut self.message, &mut |payload| each(number, payload))?;
        }
        Ok(any)
    }
}

/// Takes what is there from one socket, up to its turn; whether anything was.
fn drain(socket: &Socket, message: &mut [u8], each: &mut impl FnMut(&[u8])) -> Result<bool> {
    for taken in 0..TURN_MESSAGES {
        if !take(socket, message, DONTWAIT, each)? {
            return Ok(taken > 0);
        }
    }
    Ok(true)
}

/// Takes one message; whether there was one.
fn take(socket: &Socket, message: &mut [u8], flags: i32, each: &mut impl FnMut(&[u8])) -> Result<bool> {
    match socket.recv_into(message, flags) {
        Ok(message_bytes) => {
            let payload = message.get(TOPIC.len()..message_bytes.min(message.len())).unwrap_or_default();
            each(payload);
            Ok(true)
        }
        Err(Error::EAGAIN) => Ok(false),
        Err(error) => Err(error).context("a SUB socket failed"),
    }
}

fn socket(context: &Context, kind: SocketType, mark_messages: i32) -> Result<Socket> {
    let socket = context.socket(kind)?;
    socket.set_sndhwm(mark_messages)?;
    socket.set_rcvhwm(mark_messages)?;
    socket.set_linger(LINGER_MS)?;
    socket.set_backlog(BACKLOG)?;
    Ok(socket)
}

fn address(port: u16) -> String {
    format!("tcp://127.0.0.1:{port}")
}
