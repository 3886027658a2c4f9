//! Many Socket.IO clients on one thread: raw sockets in epoll, one shared buffer, packets parsed in place.
//!
//! Heartbeats are answered here; every other packet goes to the workload.

use std::{
    cell::Cell,
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
};

use super::frames::{put_text, upgrade_request, upgraded, walk};
use crate::process::loopback;

/// Read at most at once.
const READ_BYTES: usize = 64 << 10;

/// Room for a packet that a read cut.
const CUT_BYTES_MAX: usize = 64 << 10;

/// A server that says nothing for so long is given up.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Engine.IO's heartbeat: the server's, and our answer.
const PING: &[u8] = b"2";
const PONG: &[u8] = b"3";

/// Clients of one namespace.
pub(super) struct Crowd {
    links: Vec<Link>,
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    buffer: Box<[u8]>,
    out: Vec<u8>,
}

#[derive(Debug)]
struct Link {
    stream: TcpStream,
    /// The beginning of a packet that the last read cut.
    cut: Vec<u8>,
}

impl Crowd {
    /// Connects `count` clients to `namespace`, one after the other.
    ///
    /// # Errors
    ///
    /// The server refused one, or said nothing.
    pub(super) fn connect(port: u16, namespace: &str, count: usize) -> Result<Self> {
        let mut crowd = Self {
            links: Vec::with_capacity(count),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(256),
            buffer: vec![0; CUT_BYTES_MAX + READ_BYTES].into_boxed_slice(),
            out: Vec::new(),
        };
        for number in 0..count {
            let link = Link::connect(port, namespace, &mut crowd.buffer)
                .with_context(|| format!("client {number} cannot connect"))?;
            let data = epoll::EventData::new_u64(number as u64);
            epoll::add(&crowd.epoll, &link.stream, data, epoll::EventFlags::IN)?;
            crowd.links.push(link);
        }
        Ok(crowd)
    }

    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    /// Sends a packet of client `number`.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub(super) fn send(&mut self, number: usize, packet: &[u8]) -> Result<()> {
        self.out.clear();
        put_text(packet, &mut self.out);
        self.links[number].stream.write_all(&self.out).with_context(|| format!("client {number} cannot send"))
    }

    /// Waits at most `timeout` and hands what came to `each`: (number of the client, packet). Says whether anything
    /// came.
    ///
    /// # Errors
    ///
    /// A connection is gone, or `each` found fault.
    pub(super) fn poll(
        &mut self,
        timeout: Duration,
        mut each: impl FnMut(usize, &[u8]) -> Result<()>,
    ) -> Result<bool> {
        let timeout =
            Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        self.events.clear();
        epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout))?;
        for at in 0..self.events.len() {
            let number = self.events[at].data.u64() as usize;
            let link = &mut self.links[number];
            link.read(&mut self.buffer, &mut |packet| each(number, packet))
                .with_context(|| format!("client {number}"))?;
        }
        Ok(!self.events.is_empty())
    }

    /// Answers heartbeats for `time`, and nothing else may come.
    ///
    /// # Errors
    ///
    /// A connection is gone, or something came.
    pub(super) fn stay(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            self.poll(left, |_, packet| bail!("unasked: {}", String::from_utf8_lossy(packet)))?;
        }
        Ok(())
    }
}

impl Link {
    fn connect(port: u16, namespace: &str, buffer: &mut [u8]) -> Result<Self> {
        let mut stream = TcpStream::connect(loopback(port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(upgrade_request(port).as_bytes())?;
        let mut answer = vec![0; 4 << 10];
        let mut filled = 0;
        let end = loop {
            let read = stream.read(&mut answer[filled..])?;
            ensure!(read > 0, "the server closed, or its answer is too long");
            filled += read;
            if let Some(end) = upgraded(&answer[..filled])? {
                break end;
            }
        };
        let mut link = Self { stream, cut: answer[end..filled].to_vec() };
        // The root namespace is not named.
        let hello = if namespace == "/" { "40".to_owned() } else { format!("40{namespace},") };
        link.expect("0{", buffer)?;
        let mut out = Vec::new();
        put_text(hello.as_bytes(), &mut out);
        link.stream.write_all(&out)?;
        link.expect(&format!("{hello}{{"), buffer)?;
        Ok(link)
    }

    /// Waits for a packet that begins like this.
    fn expect(&mut self, begin: &str, buffer: &mut [u8]) -> Result<()> {
        let found = Cell::new(false);
        let mut check = |packet: &[u8]| {
            let is_it = packet.starts_with(begin.as_bytes()) && !found.replace(true);
            ensure!(is_it, "{begin:?} is due, and {:?} comes", String::from_utf8_lossy(packet));
            Ok(())
        };
        // What came with the end of the last read is looked at before waiting for more.
        let cut = std::mem::take(&mut self.cut);
        self.take_in(&cut, &mut check)?;
        let until = Instant::now() + PATIENCE;
        while !found.get() {
            ensure!(Instant::now() < until, "{begin:?} does not come");
            self.read(buffer, &mut check)?;
        }
        Ok(())
    }

    /// Reads once.
    fn read(&mut self, buffer: &mut [u8], each: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let cut_bytes = self.cut.len();
        ensure!(cut_bytes <= CUT_BYTES_MAX, "a packet is longer than {CUT_BYTES_MAX} bytes");
        buffer[..cut_bytes].copy_from_slice(&self.cut);
        let read = match self.stream.read(&mut buffer[cut_bytes..cut_bytes + READ_BYTES]) {
            Ok(0) => bail!("the server closed the connection"),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error).context("cannot read"),
        };
        self.take_in(&buffer[..cut_bytes + read], each)
    }

    fn take_in(&mut self, bytes: &[u8], each: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut pings = 0;
        let used = walk(bytes, |packet| {
            if packet == PING {
                pings += 1;
                return Ok(());
            }
            each(packet)
        })?;
        self.cut.clear();
        self.cut.extend_from_slice(&bytes[used..]);
        for _ in 0..pings {
            let mut pong = Vec::new();
            put_text(PONG, &mut pong);
            self.stream.write_all(&pong).context("cannot answer a heartbeat")?;
        }
        Ok(())
    }
}
