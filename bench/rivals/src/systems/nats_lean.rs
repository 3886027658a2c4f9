//! nats-server (Debian's) with a hand-tuned client: 64 KiB batches, headers made once, messages parsed in place.
//!
//! So the figure is the server's: the ordinary client libraries reach about half of it.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    str,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    lean::{Connect, LeanPublisher, LeanSubscribers, Protocol, Role},
    process::{Process, find_program, free_port},
    system::{AnySystem, Setup, System, TOPIC},
};

/// The longest control line that the protocol allows by default, and the INFO line, which is longer.
const LINE_BYTES_MAX: usize = 64 << 10;

pub(super) fn systems() -> Vec<Box<dyn AnySystem>> {
    vec![Box::new(NatsLean)]
}

struct NatsLean;

/// The server and its port.
struct NatsServer {
    process: Process,
    port: u16,
}

impl System for NatsLean {
    type Server = NatsServer;
    type Publisher = LeanPublisher<Nats>;
    type Subscribers = LeanSubscribers<Nats>;

    fn name(&self) -> &'static str {
        "nats-lean"
    }

    fn about(&self) -> &'static str {
        "nats-server, defaults, with a hand-tuned client over raw sockets"
    }

    fn missing(&self, _: &Setup) -> Option<String> {
        find_program("nats-server").is_none().then(|| "apt-get install nats-server".to_owned())
    }

    fn start(&self, setup: &Setup) -> Result<NatsServer> {
        let port = free_port()?;
        let program = find_program("nats-server").context("no nats-server")?;
        let mut process =
            Process::start(setup, program, &["--addr", "127.0.0.1", "--port", &port.to_string()])?;
        process.wait_for_port(port)?;
        Ok(NatsServer { process, port })
    }

    fn processes(&self, server: &NatsServer) -> Vec<u32> {
        vec![server.process.id()]
    }

    async fn publisher(&self, _: &Setup, server: &NatsServer) -> Result<Self::Publisher> {
        LeanPublisher::connect(server.port, Nats::default())
    }

    async fn subscribers(&self, _: &Setup, server: &NatsServer, count: usize) -> Result<Self::Subscribers> {
        LeanSubscribers::connect(server.port, count, Nats::default)
    }
}

/// The NATS protocol, with the headers of the last message in each direction: the next one mostly has the same.
#[derive(Debug, Default)]
pub(super) struct Nats {
    published: (usize, Vec<u8>),
    received: (usize, Vec<u8>),
}

/// Appends a PUB; `reply` is empty, or a subject for the answer with a space behind it. `last` is the header of the one
/// before.
#[inline]
pub(super) fn put_message(last: &mut (usize, Vec<u8>), reply: &str, payload: &[u8], out: &mut Vec<u8>) {
    let (payload_bytes, header) = last;
    if header.is_empty() || *payload_bytes != payload.len() {
        *payload_bytes = payload.len();
        *header = format!("PUB {TOPIC} {reply}{payload_bytes}\r\n").into_bytes();
    }
    out.extend_from_slice(header);
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

impl Protocol for Nats {
    #[inline]
    fn encode(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        put_message(&mut self.published, "", payload, out);
    }

    #[inline]
    fn parse(&mut self, bytes: &[u8], reply: &mut Vec<u8>, mut each: impl FnMut(&[u8])) -> Result<usize> {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            let (payload_bytes, header) = &self.received;
            let header_bytes = if !header.is_empty() && rest.starts_with(header) {
                header.len()
            } else {
                match self.line(rest, reply)? {
                    Line::Cut => return Ok(used),
                    Line::Other { line_bytes } => {
                        used += line_bytes;
                        continue;
                    }
                    Line::Message { payload_bytes, line_bytes } => {
                        self.received = (payload_bytes, rest[..line_bytes].to_vec());
                        continue;
                    }
                }
            };
            let Some(payload) = rest.get(header_bytes..header_bytes + payload_bytes + 2) else {
                return Ok(used);
            };
            each(&payload[..*payload_bytes]);
            used += header_bytes + payload_bytes + 2;
        }
    }
}

/// One control line.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Cut,
    Message { payload_bytes: usize, line_bytes: usize },
    Other { line_bytes: usize },
}

impl Nats {
    #[cold]
    fn line(&self, bytes: &[u8], reply: &mut Vec<u8>) -> Result<Line> {
        let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
            ensure!(bytes.len() < LINE_BYTES_MAX, "a control line is longer than {LINE_BYTES_MAX} bytes");
            return Ok(Line::Cut);
        };
        let line = str::from_utf8(&bytes[..end])?;
        let line_bytes = end + 2;
        let (verb, arguments) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "MSG" => {
                let size = arguments.rsplit(' ').next().context("MSG without a size")?;
                let payload_bytes = size.parse().with_context(|| format!("not a size in {line:?}"))?;
                Ok(Line::Message { payload_bytes, line_bytes })
            }
            "PING" => {
                reply.extend_from_slice(b"PONG\r\n");
                Ok(Line::Other { line_bytes })
            }
            "PONG" | "+OK" | "INFO" => Ok(Line::Other { line_bytes }),
            "-ERR" => bail!("nats-server says {arguments}"),
            _ => bail!("not NATS: {line:?}"),
        }
    }
}

impl Connect for Nats {
    fn introduce(&mut self, stream: &mut TcpStream, role: Role) -> Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        lines.read_line(&mut line)?;
        ensure!(line.starts_with("INFO "), "the server begins with {line:?}");
        let subscribe = if role == Role::Subscriber { format!("SUB {TOPIC} 1\r\n") } else { String::new() };
        let hello = r#"CONNECT {"verbose":false,"pedantic":false,"lang":"rust","version":"1","protocol":1}"#;
        write!(stream, "{hello}\r\n{subscribe}PING\r\n")?;
        loop {
            line.clear();
            ensure!(lines.read_line(&mut line)? > 0, "the server closed the connection");
            match self.line(line.as_bytes(), &mut Vec::new())? {
                Line::Other { .. } if line == "PONG\r\n" => return Ok(()),
                Line::Other { .. } => {}
                unexpected => bail!("{unexpected:?} before PONG"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_is_one_header_and_the_payload() {
        let (mut nats, mut out) = (Nats::default(), Vec::new());
        nats.encode(b"abc", &mut out);
        nats.encode(b"de", &mut out);
        assert_eq!(out, b"PUB rivals 3\r\nabc\r\nPUB rivals 2\r\nde\r\n");
    }

    #[test]
    fn messages_of_changing_size_come_out_whole_wherever_the_stream_is_cut() {
        let stream = b"PING\r\nMSG rivals 1 3\r\nabc\r\nMSG rivals 1 3\r\n\r\nf\r\nMSG rivals 1 12\r\nghijklmnopqr\r\n+OK\r\n";
        for cut in 0..stream.len() {
            let (mut nats, mut reply, mut seen) = (Nats::default(), Vec::new(), Vec::new());
            let mut each = |payload: &[u8]| seen.push(payload.to_vec());
            let used = nats.parse(&stream[..cut], &mut reply, &mut each).unwrap();
            let all = nats.parse(&stream[used..], &mut reply, &mut each).unwrap();
            assert_eq!(used + all, stream.len(), "cut at {cut}");
            assert_eq!(seen, [&b"abc"[..], b"\r\nf", b"ghijklmnopqr"], "cut at {cut}");
            assert_eq!(reply, b"PONG\r\n");
        }
    }

    #[test]
    fn an_error_of_the_server_is_an_error() {
        let mut nats = Nats::default();
        assert!(nats.parse(b"-ERR 'Slow Consumer'\r\n", &mut Vec::new(), |_| {}).is_err());
        assert!(nats.parse(b"HTTP/1.1 400\r\n", &mut Vec::new(), |_| {}).is_err());
    }
}
