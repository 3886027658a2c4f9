//! redis-server (Debian's) that synchronizes its append-only file before it answers: RPUSH onto one list, with a
//! hand-tuned client. A list costs it less than a stream.

use std::{
    io::{BufRead, BufReader, Read, Write as _},
    net::TcpStream,
};

use anyhow::{Context as _, Result, ensure};

use super::{WIDE_WINDOW, WINDOW, windowed::Windowed};
use crate::{
    lean::{Connect, Protocol, Role, connected},
    process::{Process, find_program, free_port},
    store::{Kept, Store},
    system::{AnySystem, Setup, TOPIC},
    systems::redis::Resp,
};

/// Values asked for at once.
const PAGE: u64 = 1_024;

pub(super) fn systems() -> Vec<Box<dyn AnySystem>> {
    vec![
        Box::new(Kept(RedisAof {
            name: "redis-aof",
            about: "redis-server, appendfsync always, RPUSH, hand-tuned client with a window of 1,024",
            window: WINDOW,
        })),
        Box::new(Kept(RedisAof {
            name: "redis-aof-16384",
            about: "the same with a window of 16,384",
            window: WIDE_WINDOW,
        })),
    ]
}

struct RedisAof {
    name: &'static str,
    about: &'static str,
    window: u64,
}

/// The server and its port.
pub(super) struct RedisServer {
    process: Process,
    port: u16,
}

impl Store for RedisAof {
    type Server = RedisServer;
    type Writer = Windowed<Rpush>;

    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn missing(&self, _: &Setup) -> Option<String> {
        find_program("redis-server").is_none().then(|| "apt-get install redis-server".to_owned())
    }

    fn start(&self, setup: &Setup) -> Result<RedisServer> {
        let port = free_port()?;
        let program = find_program("redis-server").context("no redis-server")?;
        let port_text = port.to_string();
        let mut args = vec!["--bind", "127.0.0.1", "--port", &port_text, "--save", ""];
        // Rewriting its file meanwhile would only slow it down.
        args.extend(["--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0"]);
        let mut process = Process::start(setup, program, &args)?;
        process.wait_for_port(port)?;
        process.wait_for("reading its file", |_| is_loaded(port).then_some(()))?;
        Ok(RedisServer { process, port })
    }

    fn processes(&self, server: &RedisServer) -> Vec<u32> {
        vec![server.process.id()]
    }

    async fn writer(&self, _: &Setup, server: &RedisServer) -> Result<Self::Writer> {
        Windowed::connect(server.port, Rpush(Resp::of("RPUSH")), self.window)
    }

    async fn read_back(
        &self,
        _: &Setup,
        server: &RedisServer,
        messages_max: u64,
        each: &mut impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut socket = connected(server.port, &mut Rpush(Resp::of("RPUSH")), Role::Publisher)?;
        let mut answers = BufReader::new(socket.try_clone()?);
        let mut value = Vec::new();
        let mut first = 0;
        while first < messages_max {
            let last = messages_max.min(first + PAGE) - 1;
            write!(socket, "LRANGE {TOPIC} {first} {last}\r\n")?;
            let count = prefixed(&mut answers, '*')?;
            for _ in 0..count {
                value.resize(prefixed(&mut answers, '$')? + 2, 0);
                answers.read_exact(&mut value)?;
                each(&value[..value.len() - 2])?;
            }
            if count == 0 {
                break;
            }
            first += count as u64;
        }
        Ok(())
    }
}

/// Whether the server takes commands: it answers while it still reads its file, but with an error.
fn is_loaded(port: u16) -> bool {
    let mut answer = [0; 5];
    let asked = TcpStream::connect(crate::process::loopback(port))
        .and_then(|mut socket| socket.write_all(b"PING\r\n").and_then(|()| socket.read_exact(&mut answer)));
    asked.is_ok() && answer == *b"+PONG"
}

/// A line that is `prefix` and a number.
fn prefixed(answers: &mut impl BufRead, prefix: char) -> Result<usize> {
    let mut line = String::new();
    answers.read_line(&mut line)?;
    let number = line.trim_end().strip_prefix(prefix).and_then(|number| number.parse().ok());
    number.with_context(|| format!("redis-server answers {line:?}"))
}

/// RPUSH onto one list; every answer is an acknowledgement.
pub(super) struct Rpush(Resp);

impl Protocol for Rpush {
    #[inline]
    fn encode(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        self.0.encode(payload, out);
    }

    #[inline]
    fn parse(&mut self, bytes: &[u8], reply: &mut Vec<u8>, each: impl FnMut(&[u8])) -> Result<usize> {
        self.0.parse(bytes, reply, each)
    }

    fn answers(&self) -> u64 {
        self.0.answers()
    }
}

impl Connect for Rpush {
    fn introduce(&mut self, _: &mut TcpStream, role: Role) -> Result<()> {
        ensure!(role == Role::Publisher, "a list has no subscribers");
        Ok(())
    }
}
