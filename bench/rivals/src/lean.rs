//! Hand-tuned blocking clients over raw sockets: what is left of a client when only the protocol remains.
//!
//! A publisher collects 64 KiB and writes it at once. A group of subscribers reads up to 64 KiB at a time into one
//! shared buffer and parses in place; one subscriber reads its blocking socket, several wait in epoll. So the figures
//! are those of the server, not of a client library.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    os::fd::OwnedFd,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
    net::{RecvFlags, recv},
};

use crate::{
    process::loopback,
    system::{BLOCK_MAX, Publish, Setup, Subscribe},
};

/// Bytes collected before a publisher writes, and read at most at once.
const BATCH_BYTES: usize = 64 << 10;

/// Room for the longest message that may be cut by the end of a read.
const CUT_BYTES_MAX: usize = 1 << 20;

/// Which end of a topic a connection is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Sends messages.
    Publisher,
    /// Receives them.
    Subscriber,
}

/// The part of a protocol that messages need.
pub trait Protocol {
    /// Appends the bytes that publish `payload`.
    fn encode(&mut self, payload: &[u8], out: &mut Vec<u8>);

    /// Hands every whole message in `bytes` to `each` and returns how many bytes it used. What the server wants to
    /// hear goes to `reply`.
    ///
    /// # Errors
    ///
    /// The bytes are not of this protocol, or the server reports an error.
    fn parse(&mut self, bytes: &[u8], reply: &mut Vec<u8>, each: impl FnMut(&[u8])) -> Result<usize>;

    /// How many answers to the publisher's messages may be outstanding; 0: the server gives none.
    fn answers_max(&self) -> u64 {
        0
    }

    /// The answers that have come, as far as [`Self::parse`] has seen.
    fn answers(&self) -> u64 {
        0
    }
}

/// How a connection begins.
pub trait Connect: Protocol {
    /// Says hello and, as a subscriber, returns when the server knows the subscription.
    ///
    /// # Errors
    ///
    /// The server refused.
    fn introduce(&mut self, stream: &mut TcpStream, role: Role) -> Result<()>;
}

/// Payloads of one size, back to back.
#[derive(Clone, Debug)]
pub struct Unframed {
    /// Bytes of every payload.
    pub payload_bytes: usize,
}

impl Unframed {
    /// Payloads of the run's size.
    #[must_use]
    pub fn of(setup: &Setup) -> Self {
        Self { payload_bytes: setup.payload_bytes }
    }
}

impl Protocol for Unframed {
    fn encode(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(payload);
    }

    fn parse(&mut self, bytes: &[u8], _reply: &mut Vec<u8>, each: impl FnMut(&[u8])) -> Result<usize> {
        let whole = bytes.chunks_exact(self.payload_bytes);
        let used = bytes.len() - whole.remainder().len();
        whole.for_each(each);
        Ok(used)
    }
}

/// Connects and introduces itself.
pub(crate) fn connected(port: u16, protocol: &mut impl Connect, role: Role) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(loopback(port)).context("cannot connect to the server")?;
    stream.set_nodelay(true)?;
    // A server that says nothing must not hang the harness.
    stream.set_read_timeout(Some(std::time::Duration::from_secs(10)))?;
    protocol.introduce(&mut stream, role).with_context(|| format!("cannot connect as a {role:?}"))?;
    Ok(stream)
}

/// A publisher over one blocking socket.
#[derive(Debug)]
pub struct LeanPublisher<P> {
    stream: TcpStream,
    protocol: P,
    out: Vec<u8>,
    sent: u64,
    answers: Vec<u8>,
}

impl<P: Connect> LeanPublisher<P> {
    /// Connects to `port` of loopback.
    ///
    /// # Errors
    ///
    /// There is no such server, or it refused.
    pub fn connect(port: u16, mut protocol: P) -> Result<Self> {
        let stream = connected(port, &mut protocol, Role::Publisher)?;
        Ok(Self::over(stream, protocol))
    }
}

impl<P: Protocol> LeanPublisher<P> {
    /// A publisher over a connection that is ready.
    #[must_use]
    pub fn over(stream: TcpStream, protocol: P) -> Self {
        let out = Vec::with_capacity(2 * BATCH_BYTES);
        Self { stream, protocol, out, sent: 0, answers: Vec::with_capacity(BATCH_BYTES) }
    }

    fn write(&mut self) -> Result<()> {
        self.stream.write_all(&self.out).context("cannot publish")?;
        self.out.clear();
        let answers_max = self.protocol.answers_max();
        if answers_max == 0 {
            return Ok(());
        }
        self.take_answers(RecvFlags::DONTWAIT)?;
        while self.sent - self.protocol.answers() > answers_max {
            self.take_answers(RecvFlags::empty())?;
        }
        Ok(())
    }

    fn take_answers(&mut self, flags: RecvFlags) -> Result<()> {
        match recv(&self.stream, spare_capacity(&mut self.answers), flags) {
            Ok((_, 0)) => bail!("the server closed the publisher's connection"),
            Ok(_) => {
                let used = self.protocol.parse(&self.answers, &mut self.out, |_| {})?;
                self.answers.drain(..used);
                Ok(())
            }
            Err(rustix::io::Errno::AGAIN) if flags.contains(RecvFlags::DONTWAIT) => Ok(()),
            Err(error) => Err(error).context("no answer to a publish"),
        }
    }
}

impl<P: Protocol> Publish for LeanPublisher<P> {
    #[inline]
    async fn send(&mut self, payload: &[u8]) -> Result<()> {
        self.protocol.encode(payload, &mut self.out);
        self.sent += 1;
        if self.out.len() >= BATCH_BYTES {
            self.write()?;
        }
        Ok(())
    }

    #[inline]
    async fn flush(&mut self) -> Result<()> {
        if self.out.is_empty() { Ok(()) } else { self.write() }
    }

    async fn finish(&mut self) -> Result<()> {
        self.flush().await?;
        // A socket that is closed with answers unread is reset, and the server forgets what it has not read yet.
        while self.protocol.answers_max() > 0 && self.protocol.answers() < self.sent {
            self.take_answers(RecvFlags::empty())?;
        }
        Ok(())
    }
}

/// Subscribers, each over a socket of its own, read by one thread.
pub struct LeanSubscribers<P> {
    links: Vec<Link<P>>,
    epoll: Option<OwnedFd>,
    events: Vec<epoll::Event>,
    /// Shared by all links, so that a thousand of them do not need a thousand buffers in the cache.
    buffer: Box<[u8]>,
    reply: Vec<u8>,
}

#[derive(Debug)]
struct Link<P> {
    stream: TcpStream,
    protocol: P,
    /// The beginning of a message that the last read cut.
    cut: Vec<u8>,
}

impl<P: Connect> LeanSubscribers<P> {
    /// Connects `count` subscribers to `port` of loopback.
    ///
    /// # Errors
    ///
    /// There is no such server, or it refused.
    pub fn connect(port: u16, count: usize, protocol: impl Fn() -> P) -> Result<Self> {
        let link = |_| {
            let mut protocol = protocol();
            let stream = connected(port, &mut protocol, Role::Subscriber)?;
            Ok((stream, protocol))
        };
        Self::over((0..count).map(link).collect::<Result<_>>()?)
    }
}

impl<P: Protocol> LeanSubscribers<P> {
    /// A group over connections that are subscribed.
    ///
    /// # Errors
    ///
    /// The system refuses epoll.
    pub fn over(connections: Vec<(TcpStream, P)>) -> Result<Self> {
        let mut links = Vec::with_capacity(connections.len());
        for (stream, protocol) in connections {
            stream.set_read_timeout(Some(BLOCK_MAX))?;
            links.push(Link { stream, protocol, cut: Vec::new() });
        }
        let epoll = if links.len() > 1 { Some(watch(&links)?) } else { None };
        let buffer = vec![0; CUT_BYTES_MAX + BATCH_BYTES].into_boxed_slice();
        Ok(Self { links, epoll, events: Vec::with_capacity(256), buffer, reply: Vec::new() })
    }

    fn read(&mut self, number: usize, each: &mut impl FnMut(usize, &[u8])) -> Result<()> {
        let Link { stream, protocol, cut } = &mut self.links[number];
        ensure!(cut.len() <= CUT_BYTES_MAX, "a message is longer than {CUT_BYTES_MAX} bytes");
        self.buffer[..cut.len()].copy_from_slice(cut);
        let read = match stream.read(&mut self.buffer[cut.len()..cut.len() + BATCH_BYTES]) {
            Ok(0) => bail!("the server closed the connection of subscriber {number}"),
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(error) => return Err(error).context("a subscriber cannot read"),
        };
        let filled = &self.buffer[..cut.len() + read];
        let used = protocol.parse(filled, &mut self.reply, |payload| each(number, payload))?;
        cut.clear();
        cut.extend_from_slice(&filled[used..]);
        if !self.reply.is_empty() {
            stream.write_all(&self.reply)?;
            self.reply.clear();
        }
        Ok(())
    }
}

fn watch<P>(links: &[Link<P>]) -> Result<OwnedFd> {
    let watched = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (number, link) in links.iter().enumerate() {
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&watched, &link.stream, data, epoll::EventFlags::IN)?;
    }
    Ok(watched)
}

impl<P: Protocol> Subscribe for LeanSubscribers<P> {
    #[inline]
    async fn recv(&mut self, each: &mut impl FnMut(usize, &[u8])) -> Result<()> {
        let Some(watched) = &self.epoll else {
            return if self.links.is_empty() { Ok(()) } else { self.read(0, each) };
        };
        let patience = Timespec { tv_sec: 0, tv_nsec: i64::from(BLOCK_MAX.subsec_nanos()) };
        self.events.clear();
        epoll::wait(watched, spare_capacity(&mut self.events), Some(&patience))?;
        for at in 0..self.events.len() {
            let number = self.events[at].data.u64() as usize;
            self.read(number, each)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unframed_payloads_are_cut_where_they_end() {
        let mut protocol = Unframed { payload_bytes: 3 };
        let mut seen = Vec::new();
        let used =
            protocol.parse(b"abcdefgh", &mut Vec::new(), |payload| seen.push(payload.to_vec())).unwrap();
        assert_eq!((used, seen), (6, vec![b"abc".to_vec(), b"def".to_vec()]));
    }
}
