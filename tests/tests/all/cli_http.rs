//! `twinlane serve --http`: browsers, Socket.IO clients and the console beside clients of twinlane's own protocol.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::process::Output;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::Child;

use crate::cli::command;
use crate::world::within;

const TOKEN: &str = "correct-horse-battery-staple";

/// A running server, and what it said of itself.
struct Server {
    _child: Child,
    native: String,
    http: SocketAddr,
    console: Option<String>,
    dir: tempfile::TempDir,
}

impl Server {
    /// With more flags than `--http`.
    async fn start(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command =
            command(&["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir"]);
        let mut child = command.arg(dir.path().join("data")).args(flags).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut native, mut http, mut console) = (String::new(), None, None);
        while let Some(line) = within("the banner", lines.next_line()).await.unwrap() {
            let mut words = line.split_whitespace();
            let (name, value) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            match name {
                "listening" => value.clone_into(&mut native),
                "browsers" => http = value.strip_prefix("http://").map(|addr| addr.parse().unwrap()),
                "console" => console = Some(value.to_owned()),
                "connect" => break,
                _ => {}
            }
        }
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { _child: child, native, http: http.expect("browsers are served"), console, dir }
    }

    /// Runs a client command to its end.
    async fn run(&self, args: &[&str]) -> Output {
        let mut command = command(args);
        command.args(["--server", &self.native, "--known-hosts"]).arg(self.dir.path().join("known_hosts"));
        within("the command's end", command.output()).await.unwrap()
    }

    async fn get(&self, path: &str, headers: &str) -> Answer {
        ask(self.http, "GET", path, headers, "").await
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

/// One HTTP request on a connection of its own.
async fn ask(addr: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("the answer", stream.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

/// A Socket.IO client that polls.
struct Browser {
    addr: SocketAddr,
    path: String,
    packets: VecDeque<String>,
    asked: u64,
}

impl Browser {
    /// Connects to namespace `/`; the answer to that.
    async fn connect(addr: SocketAddr, auth: Option<Value>) -> (Self, String) {
        let path = "/socket.io/?EIO=4&transport=polling".to_owned();
        let opened = ask(addr, "GET", &path, "", "").await.body;
        let opened: Value = serde_json::from_str(opened.strip_prefix('0').unwrap()).unwrap();
        let path = format!("{path}&sid={}", opened["sid"].as_str().unwrap());
        let mut browser = Self { addr, path, packets: VecDeque::new(), asked: 0 };
        browser.send(&format!("40{}", auth.map(|auth| auth.to_string()).unwrap_or_default())).await;
        let answer = browser.packet().await;
        (browser, answer)
    }

    async fn send(&self, packet: &str) {
        let answer = ask(self.addr, "POST", &self.path, "content-type: text/plain\r\n", packet).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    /// The next packet that is no ping.
    async fn packet(&mut self) -> String {
        loop {
            match self.packets.pop_front() {
                Some(packet) if packet == "2" => self.send("3").await,
                Some(packet) => return packet,
                None => {
                    let body = ask(self.addr, "GET", &self.path, "", "").await.body;
                    self.packets.extend(body.split('\x1e').map(str::to_owned));
                }
            }
        }
    }

    /// Emits and waits for the acknowledgement; events before it are dropped.
    async fn ask(&mut self, event: &Value) -> Value {
        let number = self.asked;
        self.asked += 1;
        self.send(&format!("42{number}{event}")).await;
        loop {
            let packet = self.packet().await;
            if let Some(answer) = packet.strip_prefix(&format!("43{number}")) {
                return serde_json::from_str::<Value>(answer).unwrap()[0].clone();
            }
        }
    }

    async fn event(&mut self) -> Value {
        let packet = self.packet().await;
        serde_json::from_str(packet.strip_prefix("42").expect("an event")).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_gets_what_a_command_publishes_and_the_other_way_round() {
    let server = Server::start(&[]).await;
    let (mut browser, connected) = Browser::connect(server.http, None).await;
    assert!(connected.starts_with("40{"), "{connected}");
    assert_eq!(browser.ask(&json!(["subscribe", "orders/*"])).await, json!({ "ok": true }));

    let published = server.run(&["pub", "orders/eu", "one tea"]).await;
    assert!(published.status.success(), "{published:?}");
    let event = browser.event().await;
    assert_eq!(event[0], "message");
    assert_eq!((&event[1], &event[2]), (&json!("orders/eu"), &json!("one tea")));
    assert_eq!(event[3], json!({ "filter": "orders/*", "offset": 0 }));

    assert_eq!(browser.ask(&json!(["publish", "orders/eu", "two"])).await, json!({ "seq": 1, "offset": 1 }));
    let read = server.run(&["sub", "orders/eu", "--from", "all", "-n", "2"]).await;
    assert_eq!(String::from_utf8_lossy(&read.stdout), "one tea\ntwo\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_unsubscribed_gets_no_more() {
    let server = Server::start(&[]).await;
    let (mut browser, _) = Browser::connect(server.http, None).await;
    browser.ask(&json!(["subscribe", "a"])).await;
    browser.ask(&json!(["subscribe", "b"])).await;
    assert_eq!(browser.ask(&json!(["unsubscribe", "a"])).await, json!({ "ok": true }));
    for topic in ["a", "b"] {
        assert!(server.run(&["pub", topic, "x"]).await.status.success());
    }
    assert_eq!(browser.event().await[1], "b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_browser_may_not_do_is_acknowledged_with_the_reason() {
    let server = Server::start(&[]).await;
    let (mut browser, _) = Browser::connect(server.http, None).await;
    for event in [
        json!(["subscribe", "$events/chat"]),
        json!(["subscribe", "a//b"]),
        json!(["subscribe"]),
        json!(["publish", "$sys/a", "x"]),
        json!(["publish", "a"]),
        json!(["publish", "a", 7]),
    ] {
        let answer = browser.ask(&event).await;
        assert!(answer["error"].is_string(), "{event} gave {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_tokens_asks_browsers_for_one() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), TOKEN).unwrap();
    let server = Server::start(&["--token-file", file.path().to_str().unwrap()]).await;
    for auth in [None, Some(json!({})), Some(json!({ "token": "wrong" })), Some(json!({ "token": 7 }))] {
        let (_, refused) = Browser::connect(server.http, auth).await;
        assert!(refused.starts_with("44{") && refused.contains("not authorized"), "{refused}");
    }
    let (mut browser, connected) = Browser::connect(server.http, Some(json!({ "token": TOKEN }))).await;
    assert!(connected.starts_with("40{"), "{connected}");
    assert_eq!(browser.ask(&json!(["publish", "a", "x"])).await["offset"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_console_opens_with_the_token_that_was_printed() {
    let server = Server::start(&["--console"]).await;
    let console = server.console.as_deref().unwrap();
    let token = console.strip_prefix(&format!("http://{}/console/#token=", server.http)).unwrap();
    let page = server.get("/console/", "").await;
    assert!(page.status == 200 && page.head.contains("default-src 'self'"), "{}", page.head);
    assert_eq!(server.get("/console/api/status", "").await.status, 401);
    let authorization = format!("authorization: Bearer {token}\r\n");
    let status = server.get("/console/api/status", &authorization).await;
    let status: Value = serde_json::from_str(&status.body).unwrap();
    assert!(status["server"]["version"].is_string(), "{status}");
    assert!(status["gateway"]["requests_total"].is_u64(), "{status}");
    assert_eq!(status["events"]["namespaces"][0]["name"], "/");
    let publish = json!({ "topic": "a", "text": "x" }).to_string();
    let published = ask(server.http, "POST", "/console/api/publish", &authorization, &publish).await;
    assert_eq!(serde_json::from_str::<Value>(&published.body).unwrap()["offset"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_no_console_and_no_foreign_page_unless_asked_for() {
    let server = Server::start(&[]).await;
    assert_eq!(server.console, None);
    assert_eq!(server.get("/console/", "").await.status, 404);
    let handshake = "/socket.io/?EIO=4&transport=polling";
    let foreign = "origin: https://example.org\r\n";
    assert_eq!(server.get(handshake, foreign).await.status, 403);
    let open = Server::start(&["--origin", "https://example.org"]).await;
    let answer = open.get(handshake, foreign).await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("access-control-allow-origin: https://example.org"), "{}", answer.head);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_reads_where_webtransport_is_and_which_certificate_to_take() {
    let server = Server::start(&[]).await;
    let answer: Value = serde_json::from_str(&server.get("/twinlane/webtransport", "").await.body).unwrap();
    let native: SocketAddr = server.native.parse().unwrap();
    assert_eq!(answer["port"], native.port());
    assert_eq!(answer["serverCertificateHashes"][0]["algorithm"], "sha-256");
    let tcp_only = Server::start(&["--tcp-only"]).await;
    assert_eq!(tcp_only.get("/twinlane/webtransport", "").await.status, 404);
}

#[tokio::test]
async fn browsers_of_other_machines_are_served_only_with_tokens() {
    let refused = command(&["serve", "--listen", "127.0.0.1:0", "--http", "0.0.0.0:0"]).output();
    let refused = within("the refusal", refused).await.unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("--token-file"), "{said}");
    let alone = within("the refusal", command(&["serve", "--origin", "https://example.org"]).output()).await;
    assert_eq!(alone.unwrap().status.code(), Some(2), "an origin without --http means nothing");
}
