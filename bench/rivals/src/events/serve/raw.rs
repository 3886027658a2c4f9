//! No library and no rules: prepared frames, one write for each client and credit, on one thread. What is left of a
//! server when only the kernel remains; it believes everything its clients say.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{buffer::spare_capacity, event::epoll};

use crate::{
    events::{
        fanout::CONTROL,
        frames::{number, put_plain, unmasked},
    },
    process::loopback,
};

/// Read at once; a packet of the load client is shorter, and comes in one piece.
const READ_BYTES: usize = 4 << 10;

const UPGRADED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// The number of the listening socket in epoll.
const LISTENER: u64 = u64::MAX;

#[derive(Debug, Default)]
struct Raw {
    /// By the number of the connection; `None`: gone.
    streams: Vec<Option<TcpStream>>,
    /// Connections that are in `/`.
    members: Vec<usize>,
    emitted: u64,
    out: Vec<u8>,
}

/// Serves until it is killed.
///
/// # Errors
///
/// A socket fails.
pub(super) fn serve(port: u16) -> Result<()> {
    let listener = TcpListener::bind(loopback(port))?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
    let mut raw = Raw::default();
    let mut events: Vec<epoll::Event> = Vec::with_capacity(256);
    loop {
        events.clear();
        epoll::wait(&epoll, spare_capacity(&mut events), None)?;
        for event in &events {
            let number = event.data.u64();
            if number != LISTENER {
                raw.serve(number as usize)?;
                continue;
            }
            let (stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            let data = epoll::EventData::new_u64(raw.streams.len() as u64);
            epoll::add(&epoll, &stream, data, epoll::EventFlags::IN)?;
            raw.streams.push(Some(stream));
        }
    }
}

impl Raw {
    fn serve(&mut self, number: usize) -> Result<()> {
        let stream = self.streams[number].as_mut().context("a closed socket is not watched")?;
        let mut bytes = [0; READ_BYTES];
        let read = stream.read(&mut bytes).unwrap_or(0);
        if read == 0 {
            self.streams[number] = None;
            self.members.retain(|member| *member != number);
            return Ok(());
        }
        if bytes.starts_with(b"GET ") {
            self.out.clear();
            self.out.extend_from_slice(UPGRADED);
            put_plain(br#"0{"sid":"raw"}"#, &mut self.out);
            return Ok(stream.write_all(&self.out)?);
        }
        let mut rest = &mut bytes[..read];
        while !rest.is_empty() {
            let (packet, after) = unmasked(rest)?;
            self.packet(number, packet)?;
            rest = after;
        }
        Ok(())
    }

    fn packet(&mut self, number: usize, packet: &[u8]) -> Result<()> {
        let control = CONTROL.as_bytes();
        let in_control = |kind: &str| packet.strip_prefix(kind.as_bytes())?.strip_prefix(control);
        if packet == b"40" {
            self.members.push(number);
            return self.answer(number, br#"40{"sid":"raw"}"#);
        }
        if in_control("40").is_some() {
            return self.answer(number, format!(r#"40{CONTROL},{{"sid":"raw"}}"#).as_bytes());
        }
        if let Some(event) = in_control("42") {
            return event.strip_prefix(br#",["credit","#).map_or(Ok(()), |credit| self.emit(credit));
        }
        match packet.strip_prefix(b"42") {
            Some(question) => self.acknowledge(number, question),
            None => Ok(()),
        }
    }

    /// `question` is `<id>["echo","<text>"]`.
    fn acknowledge(&mut self, number: usize, question: &[u8]) -> Result<()> {
        let id_bytes = question.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (id, event) = question.split_at(id_bytes);
        let text = event.strip_prefix(br#"["echo","#).context("an event that nobody knows")?;
        self.answer(number, &[b"43", id, b"[", text].concat())
    }

    fn answer(&mut self, number: usize, packet: &[u8]) -> Result<()> {
        self.out.clear();
        put_plain(packet, &mut self.out);
        let stream = self.streams[number].as_mut().context("a closed socket does not ask")?;
        Ok(stream.write_all(&self.out)?)
    }

    /// Emits up to the number in `credit`, which ends with `]`.
    fn emit(&mut self, credit: &[u8]) -> Result<()> {
        let credit = number(credit, credit.len() - 1)?;
        self.out.clear();
        while self.emitted < credit {
            self.emitted += 1;
            put_plain(format!(r#"42["tick","{}"]"#, super::text(self.emitted)).as_bytes(), &mut self.out);
        }
        ensure!(!self.members.is_empty(), "credit without clients");
        for member in &self.members {
            let stream = self.streams[*member].as_mut().context("a member is connected")?;
            stream.write_all(&self.out)?;
        }
        Ok(())
    }
}
