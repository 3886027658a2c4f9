//! A client that says exactly what a test wants, right or wrong, and a gateway to say it to.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use twinlane_gateway::{Gateway, GatewayOptions, testing};

/// Longer than anything here takes; a test that waits for it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// From RFC 6455, with its answer.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// On a free port of loopback.
pub(crate) fn options() -> GatewayOptions {
    GatewayOptions::new(SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// A gateway that echoes.
pub(crate) async fn echo(change: impl FnOnce(&mut GatewayOptions)) -> Gateway {
    let mut options = options();
    change(&mut options);
    testing::echo(options).await.unwrap()
}

/// Fails the test instead of hanging.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("this takes no time")
}

/// Waits until the gateway has counted what a test waits for.
pub(crate) async fn until(gateway: &Gateway, holds: impl Fn(&twinlane_gateway::GatewayStatus) -> bool) {
    let wait = async {
        while !holds(&gateway.status()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, wait).await.is_err() {
        panic!("never so: {:#?}", gateway.status());
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| &**value)
    }

    /// Status, Engine.IO's number and its words.
    pub(crate) fn refusal(&self) -> (u16, u64, String) {
        let json: serde_json::Value = serde_json::from_str(&self.body).expect("refusals are JSON");
        (self.status, json["code"].as_u64().unwrap(), json["message"].as_str().unwrap().to_owned())
    }
}

/// A connection on which requests are sent.
pub(crate) struct Http {
    pub(crate) stream: TcpStream,
    received: Vec<u8>,
}

impl Http {
    pub(crate) async fn open(addr: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(addr).await.unwrap(), received: Vec::new() }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Sends a request with `headers`, each with its end of line; a body's length is added.
    pub(crate) async fn request(&mut self, method: &str, target: &str, headers: &str, body: &str) {
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let host = if headers.contains("Host:") { "" } else { "Host: localhost\r\n" };
        self.send(&format!("{method} {target} HTTP/1.1\r\n{host}{headers}{length}\r\n{body}")).await;
    }

    /// `None` if the connection ended instead.
    pub(crate) async fn try_reply(&mut self) -> Option<Reply> {
        let head_end = loop {
            if let Some(end) = self.received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end;
            }
            self.read().await?;
        };
        let head = String::from_utf8(self.received.drain(..head_end + 4).collect()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length: usize = length.map_or(0, |(_, value)| value.parse().unwrap());
        while self.received.len() < length {
            self.read().await?;
        }
        let body = String::from_utf8(self.received.drain(..length).collect()).unwrap();
        Some(Reply { status, headers, body })
    }

    pub(crate) async fn reply(&mut self) -> Reply {
        soon(self.try_reply()).await.expect("the connection stays open")
    }

    async fn read(&mut self) -> Option<()> {
        let mut bytes = [0; 4096];
        let read = self.stream.read(&mut bytes).await.unwrap_or(0);
        self.received.extend_from_slice(&bytes[..read]);
        (read > 0).then_some(())
    }
}

/// One request on a connection of its own.
pub(crate) async fn request(
    addr: SocketAddr,
    method: &str,
    target: &str,
    headers: &str,
    body: &str,
) -> Reply {
    let mut http = Http::open(addr).await;
    http.request(method, target, headers, body).await;
    http.reply().await
}

/// Where a session polls.
pub(crate) fn polling(sid: &str) -> String {
    format!("/socket.io/?EIO=4&transport=polling&sid={sid}")
}

/// Opens a session that polls; its sid.
pub(crate) async fn open(addr: SocketAddr) -> String {
    let reply = get(addr, "/socket.io/?EIO=4&transport=polling").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    sid(&reply.body)
}

/// The sid in a server's first packet.
pub(crate) fn sid(opening: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(opening.strip_prefix('0').unwrap()).unwrap();
    json["sid"].as_str().unwrap().to_owned()
}

pub(crate) async fn get(addr: SocketAddr, target: &str) -> Reply {
    request(addr, "GET", target, "", "").await
}

/// What a session says when it is asked.
pub(crate) async fn poll(addr: SocketAddr, sid: &str) -> String {
    let reply = get(addr, &polling(sid)).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.body
}

pub(crate) async fn post(addr: SocketAddr, sid: &str, body: &str) -> Reply {
    request(addr, "POST", &polling(sid), "", body).await
}

/// A WebSocket frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

/// A WebSocket.
pub(crate) struct WebSocket {
    http: Http,
}

impl WebSocket {
    /// With the server's first packet, which is left to be read.
    pub(crate) async fn open(addr: SocketAddr) -> Self {
        Self::try_open(addr, "/socket.io/?EIO=4&transport=websocket", "").await.unwrap()
    }

    /// Beside a session that polls.
    pub(crate) async fn beside(addr: SocketAddr, sid: &str) -> Self {
        let target = format!("/socket.io/?EIO=4&transport=websocket&sid={sid}");
        Self::try_open(addr, &target, "").await.unwrap()
    }

    pub(crate) async fn try_open(addr: SocketAddr, target: &str, headers: &str) -> Result<Self, Reply> {
        let mut http = Http::open(addr).await;
        let upgrade = format!(
            "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {KEY}\r\n{headers}"
        );
        http.request("GET", target, &upgrade, "").await;
        let reply = http.reply().await;
        if reply.status != 101 {
            return Err(reply);
        }
        assert_eq!(reply.header("sec-websocket-accept"), Some(ACCEPT));
        Ok(Self { http })
    }

    /// Sends bytes as they are.
    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        self.http.stream.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn text(&mut self, text: &str) {
        self.raw(&frame(0x81, text.as_bytes())).await;
    }

    pub(crate) async fn binary(&mut self, bytes: &[u8]) {
        self.raw(&frame(0x82, bytes)).await;
    }

    /// `None` if the connection ended instead.
    pub(crate) async fn try_frame(&mut self) -> Option<Frame> {
        let received = &mut self.http;
        loop {
            if let Some((frame, length)) = parse(&received.received) {
                received.received.drain(..length);
                return Some(frame);
            }
            received.read().await?;
        }
    }

    pub(crate) async fn frame(&mut self) -> Frame {
        soon(self.try_frame()).await.expect("the connection stays open")
    }

    /// The next frame, which is text.
    pub(crate) async fn message(&mut self) -> String {
        let frame = self.frame().await;
        assert_eq!(frame.opcode, 1, "{frame:?}");
        String::from_utf8(frame.payload).unwrap()
    }

    /// Reads until the server closes; its code. Messages before that are dropped.
    pub(crate) async fn closed(&mut self) -> Option<u16> {
        let mut code = None;
        while let Some(frame) = soon(self.try_frame()).await {
            if frame.opcode == 8 {
                code = Some(u16::from_be_bytes([frame.payload[0], frame.payload[1]]));
            }
        }
        code
    }
}

/// A masked frame with this first byte.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length @ 126..0x1_0000 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The first frame and its length, if it is whole.
fn parse(bytes: &[u8]) -> Option<(Frame, usize)> {
    let (&first, rest) = bytes.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (length, header) = match length {
        126 => (u16::from_be_bytes(*rest.first_chunk()?) as usize, 4),
        127 => (usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).unwrap(), 10),
        length => (usize::from(length), 2),
    };
    assert_eq!(first & 0xf0, 0x80, "servers send whole frames");
    let payload = bytes.get(header..header + length)?.to_vec();
    Some((Frame { opcode: first & 0xf, payload }, header + length))
}
