//! Socket.IO over the gateway, with the event layer behind it.

use std::time::Duration;

use tokio::sync::mpsc;
use twinlane::events::{DisconnectReason, Event, Events, HandlerError, Socket};
use twinlane::{Engine, EngineConfig};
use twinlane_gateway::{Gateway, GatewayOptions};

use crate::client::*;

struct Server {
    gateway: Gateway,
    io: Events,
    /// Why sockets left.
    left: mpsc::UnboundedReceiver<DisconnectReason>,
    _engine: Engine,
}

/// Namespace `/` echoes `echo` and answers `question`; why its sockets leave is reported.
async fn serve(change: impl FnOnce(&mut GatewayOptions)) -> Server {
    let engine = Engine::new(EngineConfig::default()).unwrap();
    let io = Events::new(&engine).unwrap();
    let (sender, left) = mpsc::unbounded_channel();
    io.on_connection(move |socket: Socket| {
        let sender = sender.clone();
        async move {
            socket.on("echo", |socket: Socket, event: Event| async move {
                socket.volatile().emit("echo", &event.args::<(u32, String)>()?).await?;
                Ok::<_, HandlerError>(())
            });
            socket.on("question", |_: Socket, event: Event| async move {
                event.ack(&event.args::<(u32,)>()?);
                Ok::<_, HandlerError>(())
            });
            socket.on_disconnect(move |_: Socket, reason: DisconnectReason| {
                let sent = sender.send(reason);
                async move { sent.map_err(HandlerError::from) }
            });
            Ok::<_, HandlerError>(())
        }
    });
    let mut options = options();
    change(&mut options);
    let gateway = Gateway::bind(&io, options).await.unwrap();
    Server { gateway, io, left, _engine: engine }
}

impl Server {
    /// A client in namespace `/`.
    async fn join(&self) -> WebSocket {
        let mut socket = WebSocket::open(self.gateway.addr()).await;
        socket.message().await;
        socket.text("40").await;
        let welcome = socket.message().await;
        assert!(welcome.starts_with(r#"40{"sid":""#), "{welcome}");
        socket
    }

    async fn reason(&mut self) -> DisconnectReason {
        soon(self.left.recv()).await.unwrap()
    }
}

#[tokio::test]
async fn events_and_their_answers_go_there_and_back_over_websocket() {
    let server = serve(|_| {}).await;
    let mut socket = server.join().await;
    socket.text(r#"42["echo",1,"zw\u00f6lf"]"#).await;
    let echo = socket.message().await;
    assert!(echo.starts_with("42[\"echo\",1,\"zw\u{f6}lf\""), "{echo}");
    socket.text(r#"427["question",5]"#).await;
    assert_eq!(socket.message().await, "437[5]");
}

#[tokio::test]
async fn events_and_their_answers_go_there_and_back_over_polling() {
    let server = serve(|_| {}).await;
    let addr = server.gateway.addr();
    let sid = open(addr).await;
    post(addr, &sid, "40").await;
    let welcome = poll(addr, &sid).await;
    assert!(welcome.starts_with(r#"40{"sid":""#), "{welcome}");
    post(addr, &sid, "427[\"question\",5]\u{1e}428[\"question\",6]").await;
    let mut answers = poll(addr, &sid).await;
    while !answers.contains("438[6]") {
        answers = format!("{answers}\u{1e}{}", poll(addr, &sid).await);
    }
    assert_eq!(answers, "437[5]\u{1e}438[6]");
}

#[tokio::test]
async fn one_event_reaches_clients_of_every_transport() {
    let server = serve(|_| {}).await;
    let addr = server.gateway.addr();
    let mut socket = server.join().await;
    let sid = open(addr).await;
    post(addr, &sid, "40").await;
    poll(addr, &sid).await;
    server.io.emit("news", &("hello",)).await.unwrap();
    let frame = socket.message().await;
    assert!(frame.starts_with(r#"42["news","hello""#), "{frame}");
    assert_eq!(poll(addr, &sid).await, frame);
}

#[tokio::test]
async fn why_a_client_left_is_told_in_the_words_that_applications_know() {
    let quick = Duration::from_millis(300);
    let mut server = serve(|options| (options.ping_interval, options.ping_timeout) = (quick, quick)).await;
    drop(server.join().await);
    assert_eq!(server.reason().await, DisconnectReason::TransportClose);
    server.join().await.text("1").await;
    assert_eq!(server.reason().await, DisconnectReason::TransportClose);
    let mut socket = server.join().await;
    socket.text("4nonsense").await;
    assert_eq!(server.reason().await, DisconnectReason::ParseError);
    let mut socket = server.join().await;
    socket.raw(&[0x81, 1, b'3']).await;
    assert_eq!(server.reason().await, DisconnectReason::TransportError);
    let _silent = server.join().await;
    assert_eq!(server.reason().await, DisconnectReason::PingTimeout);
    let mut socket = server.join().await;
    socket.text("41").await;
    assert_eq!(server.reason().await, DisconnectReason::ClientNamespace);
}

#[tokio::test]
async fn what_breaks_the_rules_of_events_closes_the_connection() {
    let server = serve(|_| {}).await;
    for text in ["4", "4x", "42{}", r#"42["connect"]"#, r#"42["#, r#"451-["echo"]"#, "40\u{1e}"] {
        let mut socket = server.join().await;
        socket.text(text).await;
        if text.starts_with("451-") {
            socket.text("42[\"echo\"]").await;
        }
        assert_eq!(socket.closed().await, Some(1008), "{text}");
    }
}

#[tokio::test]
async fn a_client_that_joins_nothing_is_closed() {
    let server = serve(|options| options.connect_timeout = Duration::from_millis(100)).await;
    let mut joined = server.join().await;
    let mut idle = WebSocket::open(server.gateway.addr()).await;
    let refused = async {
        let mut socket = WebSocket::open(server.gateway.addr()).await;
        socket.message().await;
        socket.text("40/nowhere").await;
        assert_eq!(socket.message().await, r#"44/nowhere,{"message":"Invalid namespace"}"#);
        socket.closed().await
    };
    assert_eq!(tokio::join!(idle.closed(), refused), (Some(1000), Some(1000)));
    assert_eq!(server.gateway.status().closed_total.other, 2);
    joined.text(r#"427["question",5]"#).await;
    assert_eq!(joined.message().await, "437[5]");
}

#[tokio::test]
async fn a_client_that_the_server_disconnects_is_closed_after_the_last_word() {
    let server = serve(|_| {}).await;
    let mut socket = server.join().await;
    server.io.emit("last", &"word").await.unwrap();
    server.io.disconnect_sockets(true);
    let word = socket.message().await;
    assert!(word.starts_with(r#"42["last","word""#), "{word}");
    assert!(socket.closed().await.is_some());
}

#[tokio::test]
async fn a_client_that_polls_hears_the_last_word_before_the_end() {
    let server = serve(|_| {}).await;
    let addr = server.gateway.addr();
    let sid = open(addr).await;
    post(addr, &sid, "40").await;
    poll(addr, &sid).await;
    server.io.disconnect_sockets(true);
    assert_eq!(poll(addr, &sid).await, "41");
    assert_eq!(poll(addr, &sid).await, "1");
    assert_eq!(get(addr, &polling(&sid)).await.refusal().1, 1);
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut_off_with_a_reason_and_others_are_served() {
    let mut server = serve(|options| options.http.write_timeout = Duration::from_secs(2)).await;
    let slow = server.join().await;
    let mut honest = server.join().await;
    let text = "x".repeat(100_000);
    let emit = async {
        for _ in 0..300 {
            server.io.emit("flood", &text).await.unwrap();
        }
    };
    let read = async {
        for _ in 0..300 {
            assert!(honest.message().await.starts_with("42[\"flood\""));
        }
    };
    soon(async { tokio::join!(emit, read) }).await;
    assert_eq!(server.reason().await, DisconnectReason::SlowConsumer);
    until(&server.gateway, |status| status.closed_total.slow_consumer == 1).await;
    drop(slow);
}

/// Needs 4,000 descriptors.
#[tokio::test]
#[ignore = "heavy: 2,000 clients"]
async fn an_idle_client_costs_less_than_20_kib() {
    const CLIENTS: usize = 2_000;
    let server = serve(|_| {}).await;
    drop(server.join().await);
    let before_kib = anonymous_kib();
    let mut clients = Vec::with_capacity(CLIENTS);
    for _ in 0..CLIENTS {
        clients.push(server.join().await);
    }
    let each_kib = (anonymous_kib() - before_kib) as f64 / CLIENTS as f64;
    println!("{each_kib:.1} KiB for each idle client, this test's own side of it included");
    assert!(each_kib < 20.0, "{each_kib:.1} KiB");
}

/// Memory of this process that is no file's.
fn anonymous_kib() -> u64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup.lines().find(|line| line.starts_with("Anonymous:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
