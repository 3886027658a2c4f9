//! nats-server (Debian's) with JetStream in files, and a hand-tuned client: publishes with a reply subject, one answer
//! for each. It does **not** synchronize its files before it answers: its default is every two minutes.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{WIDE_WINDOW, WINDOW, windowed::Windowed};
use crate::{
    lean::{Connect, Protocol, Role, connected},
    process::{Process, find_program, free_port},
    store::{Kept, Store},
    system::{AnySystem, Setup, TOPIC},
    systems::nats_lean::{Nats, put_message},
};

/// Where answers go to.
const ANSWERS: &str = "answers";
/// The same as a PUB names it.
const REPLY: &str = "answers ";

/// Messages asked for at once.
const PAGE: u64 = 1_024;

pub(super) fn systems() -> Vec<Box<dyn AnySystem>> {
    vec![
        Box::new(Kept(JetStream {
            name: "jetstream",
            about: "nats-server with JetStream in files, not synced before it answers, hand-tuned client with a window of 1,024",
            window: WINDOW,
        })),
        Box::new(Kept(JetStream {
            name: "jetstream-16384",
            about: "the same with a window of 16,384",
            window: WIDE_WINDOW,
        })),
    ]
}

struct JetStream {
    name: &'static str,
    about: &'static str,
    window: u64,
}

/// The server and its port.
pub(super) struct NatsServer {
    process: Process,
    port: u16,
}

impl Store for JetStream {
    type Server = NatsServer;
    type Writer = Windowed<Publishes>;

    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn missing(&self, _: &Setup) -> Option<String> {
        find_program("nats-server").is_none().then(|| "apt-get install nats-server".to_owned())
    }

    fn start(&self, setup: &Setup) -> Result<NatsServer> {
        let port = free_port()?;
        let program = find_program("nats-server").context("no nats-server")?;
        let directory = setup.directory.join("jetstream").display().to_string();
        let port_text = port.to_string();
        let args = ["--addr", "127.0.0.1", "--port", &port_text, "--jetstream", "--store_dir", &directory];
        let mut process = Process::start(setup, program, &args)?;
        process.wait_for_port(port)?;
        Ok(NatsServer { process, port })
    }

    fn processes(&self, server: &NatsServer) -> Vec<u32> {
        vec![server.process.id()]
    }

    async fn writer(&self, _: &Setup, server: &NatsServer) -> Result<Self::Writer> {
        let config = format!(
            r#"{{"name":"{TOPIC}","subjects":["{TOPIC}"],"storage":"file","retention":"limits","num_replicas":1}}"#
        );
        Asking::connect(server.port)?.ask(&format!("$JS.API.STREAM.CREATE.{TOPIC}"), &config)?;
        Windowed::connect(server.port, Publishes::default(), self.window)
    }

    async fn read_back(
        &self,
        _: &Setup,
        server: &NatsServer,
        messages_max: u64,
        each: &mut impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut asking = Asking::connect(server.port)?;
        let stream = asking.ask(&format!("$JS.API.STREAM.INFO.{TOPIC}"), "")?;
        let kept = stream["state"]["messages"].as_u64().context("the stream does not know its size")?;
        let consumer = format!(
            r#"{{"stream_name":"{TOPIC}","config":{{"durable_name":"all","deliver_policy":"all","ack_policy":"none"}}}}"#
        );
        asking.ask(&format!("$JS.API.CONSUMER.DURABLE.CREATE.{TOPIC}.all"), &consumer)?;
        let mut left = kept.min(messages_max);
        while left > 0 {
            let batch = left.min(PAGE);
            let next = format!("$JS.API.CONSUMER.MSG.NEXT.{TOPIC}.all");
            asking.send(&next, &format!(r#"{{"batch":{batch}}}"#))?;
            for _ in 0..batch {
                each(asking.message()?)?;
            }
            left -= batch;
        }
        Ok(())
    }
}

/// One client that asks and waits for the answer.
struct Asking {
    socket: TcpStream,
    lines: BufReader<TcpStream>,
    message: Vec<u8>,
}

impl Asking {
    fn connect(port: u16) -> Result<Self> {
        let socket = connected(port, &mut Publishes::default(), Role::Publisher)?;
        Ok(Self { lines: BufReader::new(socket.try_clone()?), socket, message: Vec::new() })
    }

    fn send(&mut self, subject: &str, body: &str) -> Result<()> {
        write!(self.socket, "PUB {subject} {ANSWERS} {}\r\n{body}\r\n", body.len())?;
        Ok(())
    }

    /// The answer of JetStream, which must not be an error.
    fn ask(&mut self, subject: &str, body: &str) -> Result<serde_json::Value> {
        self.send(subject, body)?;
        let answer: serde_json::Value = serde_json::from_slice(self.message()?)?;
        ensure!(answer["error"].is_null(), "JetStream answers {subject} with {answer}");
        Ok(answer)
    }

    /// The next message of any subject.
    fn message(&mut self) -> Result<&[u8]> {
        let mut line = String::new();
        loop {
            line.clear();
            ensure!(self.lines.read_line(&mut line)? > 0, "nats-server closed the connection");
            if line.starts_with("PING") {
                self.socket.write_all(b"PONG\r\n")?;
            } else if line.starts_with("MSG ") {
                let size = line.trim_end().rsplit(' ').next().and_then(|size| size.parse::<usize>().ok());
                self.message.resize(size.context("MSG without a size")? + 2, 0);
                self.lines.read_exact(&mut self.message)?;
                return Ok(&self.message[..self.message.len() - 2]);
            } else if line.starts_with("-ERR") {
                bail!("nats-server says {line}");
            }
        }
    }
}

/// NATS with a reply subject in every PUB; every message that comes back is an acknowledgement.
#[derive(Default)]
pub(super) struct Publishes {
    nats: Nats,
    published: (usize, Vec<u8>),
    answers: u64,
}

impl Protocol for Publishes {
    #[inline]
    fn encode(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        put_message(&mut self.published, REPLY, payload, out);
    }

    fn parse(&mut self, bytes: &[u8], reply: &mut Vec<u8>, _: impl FnMut(&[u8])) -> Result<usize> {
        let mut refusal = None;
        let used = self.nats.parse(bytes, reply, |answer| {
            // {"stream":"rivals", "seq":17}, or {"error":…
            if answer.starts_with(br#"{"stream""#) {
                self.answers += 1;
            } else {
                refusal = Some(String::from_utf8_lossy(answer).into_owned());
            }
        })?;
        match refusal {
            Some(refusal) => bail!("JetStream answers {refusal}"),
            None => Ok(used),
        }
    }

    fn answers(&self) -> u64 {
        self.answers
    }
}

impl Connect for Publishes {
    fn introduce(&mut self, stream: &mut TcpStream, role: Role) -> Result<()> {
        ensure!(role == Role::Publisher, "what is kept is read by asking");
        self.nats.introduce(stream, role)?;
        write!(stream, "SUB {ANSWERS} 1\r\n")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_counts_and_a_refusal_is_an_error() {
        let (mut publishes, mut out) = (Publishes::default(), Vec::new());
        publishes.encode(b"abc", &mut out);
        assert_eq!(out, b"PUB rivals answers 3\r\nabc\r\n");
        let answer = br#"{"stream":"rivals", "seq":1}"#;
        let mut line = format!("MSG answers 1 {}\r\n", answer.len()).into_bytes();
        line.extend_from_slice(answer);
        line.extend_from_slice(b"\r\n");
        let mut reply = Vec::new();
        assert_eq!(publishes.parse(&line, &mut reply, |_| {}).unwrap(), line.len());
        assert_eq!(publishes.answers(), 1);
        let refused = br#"{"error":{"code":503}}"#;
        let mut line = format!("MSG answers 1 {}\r\n", refused.len()).into_bytes();
        line.extend_from_slice(refused);
        line.extend_from_slice(b"\r\n");
        assert!(publishes.parse(&line, &mut reply, |_| {}).is_err());
    }
}
