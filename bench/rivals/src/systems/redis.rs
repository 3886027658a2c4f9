//! redis-server (Debian's) Pub/Sub with a hand-tuned client: pipelined PUBLISH in 64 KiB batches, messages parsed in
//! place. At most 16,384 answers are outstanding.

use std::{io::Write as _, net::TcpStream, str};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    lean::{Connect, LeanPublisher, LeanSubscribers, Protocol, Role},
    process::{Process, find_program, free_port},
    system::{AnySystem, Setup, System, TOPIC},
};

/// PUBLISH commands without an answer yet.
const ANSWERS_MAX: u64 = 16_384;

/// Redis cuts off a subscriber that has 32 MiB waiting, and slows no publisher down before.
const WINDOW_MESSAGES: u64 = 8_192;

/// A line of RESP that is longer is not one.
const LINE_BYTES_MAX: usize = 1_024;

pub(super) fn systems() -> Vec<Box<dyn AnySystem>> {
    vec![Box::new(RedisLean)]
}

struct RedisLean;

/// The server and its port.
struct RedisServer {
    process: Process,
    port: u16,
}

impl System for RedisLean {
    type Server = RedisServer;
    type Publisher = LeanPublisher<Resp>;
    type Subscribers = LeanSubscribers<Resp>;

    fn name(&self) -> &'static str {
        "redis"
    }

    fn about(&self) -> &'static str {
        "redis-server Pub/Sub, no persistence, with a pipelining client over raw sockets"
    }

    fn missing(&self, _: &Setup) -> Option<String> {
        find_program("redis-server").is_none().then(|| "apt-get install redis-server".to_owned())
    }

    fn window_messages(&self) -> Option<u64> {
        Some(WINDOW_MESSAGES)
    }

    fn start(&self, setup: &Setup) -> Result<RedisServer> {
        let port = free_port()?;
        let program = find_program("redis-server").context("no redis-server")?;
        let port_text = port.to_string();
        let args = ["--bind", "127.0.0.1", "--port", &port_text, "--save", "", "--appendonly", "no"];
        let mut process = Process::start(setup, program, &args)?;
        process.wait_for_port(port)?;
        Ok(RedisServer { process, port })
    }

    fn processes(&self, server: &RedisServer) -> Vec<u32> {
        vec![server.process.id()]
    }

    async fn publisher(&self, _: &Setup, server: &RedisServer) -> Result<Self::Publisher> {
        LeanPublisher::connect(server.port, Resp::default())
    }

    async fn subscribers(&self, _: &Setup, server: &RedisServer, count: usize) -> Result<Self::Subscribers> {
        LeanSubscribers::connect(server.port, count, Resp::default)
    }
}

/// RESP 2, with the headers of the last message in each direction.
#[derive(Debug)]
pub(super) struct Resp {
    /// The command that takes a topic and a payload.
    command: &'static str,
    published: (usize, Vec<u8>),
    received: (usize, Vec<u8>),
    answers: u64,
}

impl Default for Resp {
    fn default() -> Self {
        Self::of("PUBLISH")
    }
}

impl Protocol for Resp {
    #[inline]
    fn encode(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        let (payload_bytes, header) = &mut self.published;
        if header.is_empty() || *payload_bytes != payload.len() {
            *payload_bytes = payload.len();
            let (command, command_bytes, topic_bytes) = (self.command, self.command.len(), TOPIC.len());
            let head = format!("*3\r\n${command_bytes}\r\n{command}\r\n${topic_bytes}\r\n{TOPIC}\r\n");
            *header = format!("{head}${payload_bytes}\r\n").into_bytes();
        }
        out.extend_from_slice(header);
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
    }

    #[inline]
    fn parse(&mut self, bytes: &[u8], _: &mut Vec<u8>, mut each: impl FnMut(&[u8])) -> Result<usize> {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            let (payload_bytes, header) = &self.received;
            if !header.is_empty() && rest.starts_with(header) {
                let message_bytes = header.len() + payload_bytes + 2;
                let Some(message) = rest.get(header.len()..message_bytes) else { return Ok(used) };
                each(&message[..*payload_bytes]);
                used += message_bytes;
            } else if rest.first() == Some(&b':') {
                let Some(line) = line(rest)? else { return Ok(used) };
                self.answers += 1;
                used += line.len() + 2;
            } else {
                match self.other(rest)? {
                    Some(other_bytes) => used += other_bytes,
                    None => return Ok(used),
                }
            }
        }
    }

    fn answers_max(&self) -> u64 {
        ANSWERS_MAX
    }

    fn answers(&self) -> u64 {
        self.answers
    }
}

impl Resp {
    /// Payloads go out with `command`.
    pub(super) fn of(command: &'static str) -> Self {
        Self { command, published: Default::default(), received: Default::default(), answers: 0 }
    }

    /// Anything but an answer or a message with the known header: how long it is, or 0 if it is a message, whose
    /// header is then known; `None` if it is cut.
    #[cold]
    fn other(&mut self, bytes: &[u8]) -> Result<Option<usize>> {
        let Some(first) = line(bytes)? else { return Ok(None) };
        if let Some(error) = first.strip_prefix('-') {
            bail!("redis-server says {error}");
        }
        ensure!(first == "*3", "not a Pub/Sub message: {first:?}");
        let mut at = first.len() + 2;
        let Some(kind) = bulk(&bytes[at..])? else { return Ok(None) };
        at += kind.frame_bytes;
        let Some(topic) = bulk(&bytes[at..])? else { return Ok(None) };
        at += topic.frame_bytes;
        if kind.content == b"message" {
            let Some(size) = line(&bytes[at..])? else { return Ok(None) };
            let payload_bytes = size.strip_prefix('$').context("a payload without a size")?.parse()?;
            self.received = (payload_bytes, bytes[..at + size.len() + 2].to_vec());
            return Ok(Some(0));
        }
        let Some(count) = line(&bytes[at..])? else { return Ok(None) };
        Ok(Some(at + count.len() + 2))
    }
}

/// A string with its size in front.
struct Bulk<'a> {
    content: &'a [u8],
    frame_bytes: usize,
}

fn bulk(bytes: &[u8]) -> Result<Option<Bulk<'_>>> {
    let Some(size) = line(bytes)? else { return Ok(None) };
    let content_bytes: usize = size.strip_prefix('$').context("not a bulk string")?.parse()?;
    let begin = size.len() + 2;
    let frame_bytes = begin + content_bytes + 2;
    Ok((frame_bytes <= bytes.len())
        .then(|| Bulk { content: &bytes[begin..begin + content_bytes], frame_bytes }))
}

fn line(bytes: &[u8]) -> Result<Option<&str>> {
    let searched = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    match searched.windows(2).position(|pair| pair == b"\r\n") {
        Some(end) => Ok(Some(str::from_utf8(&bytes[..end])?)),
        None => {
            ensure!(searched.len() < LINE_BYTES_MAX, "a line is longer than {LINE_BYTES_MAX} bytes");
            Ok(None)
        }
    }
}

impl Connect for Resp {
    fn introduce(&mut self, stream: &mut TcpStream, role: Role) -> Result<()> {
        if role == Role::Publisher {
            return Ok(());
        }
        let topic_bytes = TOPIC.len();
        write!(stream, "*2\r\n$9\r\nSUBSCRIBE\r\n${topic_bytes}\r\n{TOPIC}\r\n")?;
        let expected = format!("*3\r\n$9\r\nsubscribe\r\n${topic_bytes}\r\n{TOPIC}\r\n:1\r\n");
        let mut answer = vec![0; expected.len()];
        std::io::Read::read_exact(stream, &mut answer)?;
        ensure!(answer == expected.as_bytes(), "redis-server answers {:?}", String::from_utf8_lossy(&answer));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_is_an_array_of_three() {
        let (mut resp, mut out) = (Resp::default(), Vec::new());
        resp.encode(b"abc", &mut out);
        assert_eq!(out, b"*3\r\n$7\r\nPUBLISH\r\n$6\r\nrivals\r\n$3\r\nabc\r\n");
    }

    #[test]
    fn messages_and_answers_come_out_wherever_the_stream_is_cut() {
        let stream: &[u8] = b":1\r\n*3\r\n$7\r\nmessage\r\n$6\r\nrivals\r\n$3\r\nabc\r\n*3\r\n$7\r\nmessage\r\n$6\r\nrivals\r\n$3\r\n\r\nf\r\n\
            *3\r\n$9\r\nsubscribe\r\n$6\r\nrivals\r\n:2\r\n*3\r\n$7\r\nmessage\r\n$6\r\nrivals\r\n$4\r\nghij\r\n:12\r\n";
        for cut in 0..stream.len() {
            let (mut resp, mut reply, mut seen) = (Resp::default(), Vec::new(), Vec::new());
            let mut each = |payload: &[u8]| seen.push(payload.to_vec());
            let used = resp.parse(&stream[..cut], &mut reply, &mut each).unwrap();
            let all = resp.parse(&stream[used..], &mut reply, &mut each).unwrap();
            assert_eq!(used + all, stream.len(), "cut at {cut}");
            assert_eq!(seen, [&b"abc"[..], b"\r\nf", b"ghij"], "cut at {cut}");
            assert_eq!(resp.answers(), 2);
        }
    }

    #[test]
    fn an_error_of_the_server_is_an_error() {
        let mut resp = Resp::default();
        assert!(resp.parse(b"-ERR unknown command\r\n", &mut Vec::new(), |_| {}).is_err());
        assert!(resp.parse(&[b'x'; 2_000], &mut Vec::new(), |_| {}).is_err());
    }
}
