//! A session's task in virtual time, over a pipe in memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::Instant;
use twinlane::events::peer::Handshake;

use crate::options::GatewayOptions;
use crate::shared::{Carrier, Shared, Source, Stop};
use crate::status::GatewayStatus;
use crate::websocket::WebSocket;

/// What fits into the pipe, each way.
const PIPE_BYTES: usize = 4 << 10;
const PONG: [u8; 7] = [0x81, 0x81, 0, 0, 0, 0, b'3'];

struct Client {
    shared: Arc<Shared>,
    pipe: DuplexStream,
    start: Instant,
}

/// A client of an echo.
fn connect() -> Client {
    let addr = SocketAddr::from(([127, 0, 0, 1], 4780));
    let shared = Shared::new(GatewayOptions::new(addr), addr, Source::Echo);
    let (pipe, theirs) = tokio::io::duplex(PIPE_BYTES);
    let handshake = Handshake {
        address: None,
        headers: Vec::new(),
        query: Vec::new(),
        url: String::new(),
        secure: false,
        cross_origin: false,
        issued: SystemTime::UNIX_EPOCH,
    };
    let socket = WebSocket::new(theirs, Bytes::new(), 1 << 20);
    shared.open_pipe(Box::new(socket), Carrier::WebSocket, handshake).unwrap();
    Client { shared, pipe, start: Instant::now() }
}

impl Client {
    /// Sends a masked frame: the mask is all zeros.
    async fn send(&mut self, first: u8, payload: &[u8]) {
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..126 => frame.push(0x80 | length as u8),
            length => {
                frame.push(0x80 | 126);
                frame.extend((length as u16).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(payload);
        self.pipe.write_all(&frame).await.unwrap();
    }

    /// The next frame, however long it takes.
    async fn frame(&mut self) -> Vec<u8> {
        let length = match self.pipe.read_u16().await.unwrap() & 0x7f {
            126 => self.pipe.read_u16().await.unwrap(),
            length => length,
        };
        let mut payload = vec![0; usize::from(length)];
        self.pipe.read_exact(&mut payload).await.unwrap();
        payload
    }

    /// When the server has let go of the connection, and what it has counted.
    async fn over(&self) -> (Duration, GatewayStatus) {
        self.shared.ended().await;
        (self.start.elapsed(), self.shared.status())
    }
}

/// Virtual time goes in steps of a millisecond.
fn about(elapsed: Duration, seconds: u64) -> bool {
    elapsed.abs_diff(Duration::from_secs(seconds)) < Duration::from_millis(10)
}

#[tokio::test(start_paused = true)]
async fn a_client_is_asked_every_25_s_and_given_up_20_s_after_the_question_that_it_leaves_unanswered() {
    let mut client = connect();
    assert!(client.frame().await.starts_with(b"0{"));
    for seconds in [25, 50, 75] {
        assert_eq!(client.frame().await, b"2");
        assert!(about(client.start.elapsed(), seconds), "{:?}", client.start.elapsed());
        if seconds < 75 {
            client.pipe.write_all(&PONG).await.unwrap();
        }
    }
    assert_eq!(client.frame().await, 1000_u16.to_be_bytes());
    assert!(about(client.start.elapsed(), 95), "{:?}", client.start.elapsed());
    assert_eq!(client.shared.status().closed_total.ping_timeout, 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_for_10_s_is_given_up() {
    let mut client = connect();
    for _ in 0..3 {
        client.send(0x82, &[b'x'; 3_000]).await;
    }
    let (elapsed, status) = client.over().await;
    assert!(about(elapsed, 10 + 3), "{elapsed:?}, and 3 s for its last words");
    assert_eq!(status.closed_total.slow_consumer, 1);
    assert_eq!(status.open.websocket, 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_little_but_something_is_served() {
    let mut client = connect();
    client.frame().await;
    for _ in 0..3 {
        client.send(0x82, &[b'x'; 3_000]).await;
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(8)).await;
        assert_eq!(client.frame().await.len(), 3_000);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_ends_its_side_is_let_go_after_3_s() {
    let mut client = connect();
    client.send(0x81, b"1").await;
    let (elapsed, status) = client.over().await;
    assert!(about(elapsed, 3), "{elapsed:?}");
    assert_eq!(status.closed_total.transport_close, 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_ends_its_side_is_let_go_at_once() {
    let mut client = connect();
    client.frame().await;
    client.send(0x81, b"1").await;
    assert_eq!(client.frame().await, 1000_u16.to_be_bytes());
    client.pipe.shutdown().await.unwrap();
    let (elapsed, _) = client.over().await;
    assert!(about(elapsed, 0), "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_pings_without_reading_is_cut_off() {
    let mut client = connect();
    // Fills the pipe, so that the answers wait.
    client.send(0x82, &[b'x'; 4_090]).await;
    for _ in 0..16 {
        client.send(0x89, b"are you there?").await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(client.shared.status().open.websocket, 1, "as many are answered");
    client.send(0x89, b"are you there?").await;
    let (_, status) = client.over().await;
    assert_eq!(status.closed_total.transport_error, 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_at_once_says_no_last_words() {
    let client = connect();
    tokio::task::yield_now().await;
    client.shared.set_stop(Stop::Now);
    let (elapsed, status) = client.over().await;
    assert!(about(elapsed, 0), "{elapsed:?}");
    assert_eq!(status.closed_total.server_shutdown, 1);
}
