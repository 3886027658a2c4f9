//! A client that writes what it is told to, right or wrong, over plain TCP.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use twinlane::{Engine, EngineConfig, ListenOptions};
use twinlane_proto::control::{Auth, Goodbye, Hello, OpenPublisher, Purpose, Resume, TopicRef, Welcome};
use twinlane_proto::frame::{Decoder, Item, MessageHeader, Options, RunHeader, encode_message_head};
use twinlane_proto::limits::FRAME_BYTES_MAX;
use twinlane_proto::{Control, VERSION};

use crate::world::within;

/// An engine that takes plain TCP on loopback.
pub(crate) async fn plain_engine(config: EngineConfig) -> (Engine, SocketAddr) {
    let engine = Engine::new(config).unwrap();
    let mut options = ListenOptions::new("127.0.0.1:0".parse().unwrap());
    (options.plain, options.quic) = (true, false);
    let addr = engine.listen(options).await.unwrap().addr();
    (engine, addr)
}

pub(crate) struct Raw {
    stream: TcpStream,
    decoder: Decoder,
    received: Vec<u8>,
}

impl Raw {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        Self { stream, decoder: Decoder::stream(FRAME_BYTES_MAX), received: Vec::new() }
    }

    /// A connection whose handshake is done.
    pub(crate) async fn welcomed(addr: SocketAddr, resume: Option<Resume>) -> (Self, Welcome) {
        let mut raw = Self::connect(addr).await;
        raw.send(hello(resume)).await;
        match raw.next().await {
            Some(Control::Welcome(welcome)) => (raw, welcome),
            other => panic!("expected a welcome, got {other:?}"),
        }
    }

    /// Writes bytes; a server that has hung up already is no surprise.
    /// Writes as much of `bytes` as the other side takes while nothing is read from it; returns the rest.
    pub(crate) async fn write_unread<'b>(&mut self, mut bytes: &'b [u8]) -> &'b [u8] {
        while !bytes.is_empty() {
            match tokio::time::timeout(Duration::from_secs(1), self.stream.write(bytes)).await {
                Ok(written) => bytes = &bytes[written.unwrap()..],
                Err(_) => break,
            }
        }
        bytes
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    pub(crate) async fn send(&mut self, control: impl Into<Control>) {
        self.write(&encoded(control)).await;
    }

    pub(crate) async fn send_run(&mut self, lane: u32, first_seq: u64, payloads: &[&[u8]]) {
        let run = run(lane, first_seq, payloads);
        self.write(&run).await;
    }

    /// The next control message, passing over runs; `None`: the connection is closed.
    pub(crate) async fn next(&mut self) -> Option<Control> {
        within("the next control message", self.read_next()).await
    }

    async fn read_next(&mut self) -> Option<Control> {
        loop {
            while let Some(item) =
                self.decoder.next(&self.received).expect("a server's frames are well-formed")
            {
                let consumed = item.consumed();
                let control = match item {
                    Item::Control(frame) => Some(Control::decode(frame).unwrap()),
                    Item::Frames { .. } | Item::Fragment(_) => None,
                };
                self.received.drain(..consumed);
                if control.is_some() {
                    return control;
                }
            }
            let mut buffer = [0; 4_096];
            match self.stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(bytes) => self.received.extend_from_slice(&buffer[..bytes]),
            }
        }
    }

    /// Reads to the end of the connection; returns the goodbye, if there was one.
    pub(crate) async fn closed(&mut self) -> Option<Goodbye> {
        let mut last = None;
        while let Some(control) = self.next().await {
            if let Control::Goodbye(goodbye) = control {
                last = Some(goodbye);
            }
        }
        last
    }
}

pub(crate) fn encoded(control: impl Into<Control>) -> Vec<u8> {
    let mut frame = Vec::new();
    control.into().encode(&mut frame);
    frame
}

pub(crate) fn hello(resume: Option<Resume>) -> Hello {
    Hello {
        version_min: VERSION,
        version_max: VERSION,
        capabilities: 0,
        purpose: Purpose::Primary,
        client: "raw".to_owned(),
        auth: Auth::None,
        resume,
    }
}

pub(crate) fn open_publisher(request: u32, lane: u32, topic: &str, resume_seq: u64) -> Control {
    let topic = TopicRef::Name(topic.to_owned());
    Control::OpenPublisher(OpenPublisher { request, publisher: lane, topic, spec: None, resume_seq })
}

/// Message frames with dense seqs behind their run header.
pub(crate) fn run(lane: u32, first: u64, payloads: &[&[u8]]) -> Vec<u8> {
    let mut frames = Vec::new();
    for (seq, payload) in (first..).zip(payloads) {
        let header = MessageHeader { topic: 0, source: 0, seq, time_us: 0 };
        encode_message_head(&header, &Options::default(), payload.len(), &mut frames).unwrap();
        frames.extend_from_slice(payload);
    }
    let header =
        RunHeader { lane, topic: 0, first, frames: payloads.len() as u32, run_bytes: frames.len() as u32 };
    [&header.encode()[..], &frames].concat()
}
