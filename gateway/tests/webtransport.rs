//! WebTransport as a browser uses it: the native protocol with datagrams, and Socket.IO. The client is an independent
//! implementation of WebTransport; what is said over it is written out here.

#![allow(clippy::unwrap_used, reason = "the helpers of tests may unwrap as tests do")]

use std::str::FromStr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use twinlane::events::{Event, Events, HandlerError, Socket};
use twinlane::{
    ConnectOptions, Engine, EngineConfig, Fingerprint, ListenOptions, Listening, Session, TopicSpec,
    Transports, Trust,
};
use twinlane_gateway::{Gateway, GatewayOptions, Origins};
use twinlane_proto::control::{Auth, Hello, OpenPublisher, Purpose, Subscribe, TopicRef, Welcome};
use twinlane_proto::frame::{
    Decoder, Frames, Item, MessageHeader, Options, RunHeader, decode_datagram, encode_message_head,
};
use twinlane_proto::{Code, Control, SlowPolicy, Start, VERSION};
use web_transport_quinn::http::header::{HeaderValue, ORIGIN};
use web_transport_quinn::proto::ConnectRequest;
use web_transport_quinn::{ClientBuilder, ClientError, RecvStream, SendStream};

const DEADLINE: Duration = Duration::from_secs(10);

struct Server {
    engine: Engine,
    gateway: Gateway,
    events: Events,
    url: String,
    fingerprint: Fingerprint,
    hash: Vec<u8>,
}

/// A gateway and a QUIC listener of the same number, so that clients can upgrade. The system gives numbers out for TCP
/// alone: one whose UDP side somebody has is given back.
async fn bound(engine: &Engine, events: &Events) -> (Gateway, Listening) {
    const ATTEMPTS: usize = 20;
    for _ in 0..ATTEMPTS {
        let mut options = GatewayOptions::new("127.0.0.1:0".parse().unwrap());
        options.native = Some(engine.clone());
        options.origins = Origins::List(vec!["https://good.example".to_owned()]);
        let gateway = Gateway::bind(events, options).await.unwrap();
        let mut options = ListenOptions::new(gateway.addr());
        options.tcp = false;
        match gateway.listen(engine, options).await {
            Ok(listening) => return (gateway, listening),
            Err(error) => eprintln!("{error}: another number"),
        }
    }
    panic!("{ATTEMPTS} numbers were free for TCP and taken for UDP");
}

impl Server {
    async fn start() -> Self {
        let engine = Engine::new(EngineConfig::default()).unwrap();
        let events = Events::new(&engine).unwrap();
        events.on_connection(|socket: Socket| async move {
            socket.on("echo", |socket: Socket, event: Event| async move {
                let text: String = event.arg(0)?;
                socket.emit("echo", &text).await?;
                Ok::<_, HandlerError>(())
            });
        });
        let (gateway, listening) = bound(&engine, &events).await;
        let certificate = twinlane::gateway::web_certificate(&listening).unwrap();
        let fingerprint = certificate.fingerprint().to_string();
        let hash = (0..64).step_by(2).map(|at| u8::from_str_radix(&fingerprint[at..at + 2], 16).unwrap());
        let url = format!("https://{}", listening.addr());
        let fingerprint = listening.fingerprint().unwrap();
        Self { engine, gateway, events, url, fingerprint, hash: hash.collect() }
    }

    /// One GET over a connection of its own: the body of the answer.
    async fn get(&self, path: &str) -> String {
        let mut socket = TcpStream::connect(self.gateway.addr()).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.gateway.addr());
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(DEADLINE, socket.read_to_string(&mut answer)).await.expect("in time").unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
        body.to_owned()
    }

    async fn connect(
        &self,
        path: &str,
        origin: Option<&'static str>,
    ) -> Result<web_transport_quinn::Session, ClientError> {
        let client = ClientBuilder::new().with_server_certificate_hashes(vec![self.hash.clone()]).unwrap();
        let mut request =
            ConnectRequest::new(parsed(&format!("{}{path}", self.url), |request: ConnectRequest| {
                request.url
            }));
        if let Some(origin) = origin {
            request.headers.insert(ORIGIN, HeaderValue::from_static(origin));
        }
        tokio::time::timeout(DEADLINE, client.connect(request)).await.expect("an answer")
    }
}

/// A native client on a session.
struct Client {
    session: web_transport_quinn::Session,
    send: SendStream,
    recv: RecvStream,
    received: Vec<u8>,
    decoder: Decoder,
}

impl Client {
    async fn connect(server: &Server) -> (Self, Welcome) {
        let session = server.connect("/twinlane", Some("https://good.example")).await.unwrap();
        let (send, recv) = session.open_bi().await.unwrap();
        let mut client =
            Self { session, send, recv, received: Vec::new(), decoder: Decoder::stream(1 << 20) };
        client.say(hello()).await;
        let Control::Welcome(welcome) = client.hear().await else { panic!("no welcome") };
        (client, welcome)
    }

    async fn say(&mut self, message: impl Into<Control>) {
        let mut frame = Vec::new();
        message.into().encode(&mut frame);
        self.send.write_all(&frame).await.unwrap();
    }

    /// The next control message on the stream.
    async fn hear(&mut self) -> Control {
        loop {
            match self.decoder.next(&self.received).unwrap() {
                Some(Item::Control(frame)) => {
                    let control = Control::decode(frame).unwrap();
                    let frame_bytes = frame.len();
                    self.received.drain(..frame_bytes);
                    return control;
                }
                Some(_) => panic!("messages on the stream"),
                None => {}
            }
            let mut bytes = [0; 4096];
            let read = tokio::time::timeout(DEADLINE, self.recv.read(&mut bytes)).await.expect("bytes");
            let read = read.unwrap().expect("the stream goes on");
            self.received.extend_from_slice(&bytes[..read]);
        }
    }

    /// The payloads in the next datagram with messages.
    async fn datagram(&self) -> Vec<Vec<u8>> {
        let datagram =
            tokio::time::timeout(DEADLINE, self.session.read_datagram()).await.expect("a datagram");
        let datagram = datagram.unwrap();
        let mut payloads = Vec::new();
        let mut decoder = Decoder::stream(64 << 10);
        let taken = decode_datagram(&datagram, &mut decoder, |item, _| {
            if let Item::Frames { bytes, .. } = item {
                payloads.extend(Frames::new(bytes).map(|frame| frame.payload().to_vec()));
            }
            Ok::<_, twinlane_proto::FrameError>(())
        });
        taken.unwrap();
        payloads
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fast_topics_reach_a_webtransport_client_in_datagrams() {
    let server = Server::start().await;
    server.engine.declare("ticks", TopicSpec::fast()).unwrap();
    let (mut client, _) = Client::connect(&server).await;
    client.say(subscribe(1, "ticks")).await;
    while !matches!(client.hear().await, Control::Subscribed(_)) {}

    let local = Session::local(&server.engine);
    let mut publisher = local.publisher("ticks").await.unwrap();
    for tick in 0..10_u8 {
        publisher.send(&[tick]).await.unwrap();
    }
    let mut seen = Vec::new();
    while seen.len() < 10 {
        seen.extend(client.datagram().await);
    }
    let ticks: Vec<_> = (0..10_u8).map(|tick| vec![tick]).collect();
    assert_eq!(seen, ticks);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_webtransport_client_sends_in_datagrams_reaches_the_topic() {
    let server = Server::start().await;
    server.engine.declare("ticks", TopicSpec::fast()).unwrap();
    let mut local = Session::local(&server.engine).subscribe("ticks").await.unwrap();
    let (mut client, _) = Client::connect(&server).await;
    client.say(open_publisher(1, "ticks")).await;
    assert!(matches!(client.hear().await, Control::PublisherOpened(_)));
    client.session.send_datagram(run(1, 1, b"from a browser").into()).unwrap();
    let message = tokio::time::timeout(DEADLINE, local.next()).await.expect("in time").expect("a message");
    let twinlane::Delivery::Message(message) = message else { panic!("{message:?}") };
    assert_eq!(message.payload(), b"from a browser");
}

#[tokio::test(flavor = "multi_thread")]
async fn reliable_topics_are_published_over_the_stream_and_acknowledged() {
    let server = Server::start().await;
    server.engine.declare("orders", TopicSpec::reliable()).unwrap();
    let (mut client, _) = Client::connect(&server).await;
    client.say(open_publisher(1, "orders")).await;
    assert!(matches!(client.hear().await, Control::PublisherOpened(_)));
    client.send.write_all(&run(1, 1, b"one tea")).await.unwrap();
    let Control::Acked(acked) = client.hear().await else { panic!("no answer") };
    assert_eq!((acked.first_seq, acked.count, acked.first_offset), (1, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_shows_what_it_is_connected_by() {
    let server = Server::start().await;
    let (_client, _) = Client::connect(&server).await;
    let sessions = server.engine.status().sessions;
    assert_eq!(sessions.len(), 1);
    assert_eq!(sessions[0].reliable_over, "webtransport");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_foreign_origin_is_refused_with_403() {
    let server = Server::start().await;
    let refused =
        server.connect("/twinlane", Some("https://evil.example")).await.map(drop).expect_err("refused");
    assert!(refused.to_string().contains("403"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_path_is_refused_with_404() {
    let server = Server::start().await;
    let refused = server.connect("/elsewhere", None).await.map(drop).expect_err("refused");
    assert!(refused.to_string().contains("404"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_goodbye_reaches_the_server_and_the_connection_ends() {
    let server = Server::start().await;
    let (mut client, _) = Client::connect(&server).await;
    let goodbye = twinlane_proto::control::Goodbye { code: Code::Normal, reason: String::new() };
    client.say(goodbye).await;
    tokio::time::timeout(DEADLINE, client.session.closed()).await.expect("closed in time");
    assert!(server.engine.status().sessions.is_empty());
}

/// A text as what `field` takes out of a request, a type that this crate cannot name.
fn parsed<T: FromStr<Err: std::fmt::Debug>>(text: &str, _field: impl Fn(ConnectRequest) -> T) -> T {
    text.parse().unwrap()
}

/// A Socket.IO client on a session: packets of Engine.IO with their length before them.
struct SocketIo {
    session: web_transport_quinn::Session,
    send: SendStream,
    recv: RecvStream,
}

impl SocketIo {
    async fn connect(server: &Server, first: &str) -> Self {
        let session = server.connect("/socket.io/", Some("https://good.example")).await.unwrap();
        let (send, recv) = session.open_bi().await.unwrap();
        let mut client = Self { session, send, recv };
        client.say(first).await;
        client
    }

    async fn say(&mut self, packet: &str) {
        let length = u8::try_from(packet.len()).unwrap();
        assert!(length < 126, "a short packet");
        self.send.write_all(&[&[length], packet.as_bytes()].concat()).await.unwrap();
    }

    async fn hear(&mut self) -> String {
        tokio::time::timeout(DEADLINE, self.next()).await.expect("in time").expect("a packet")
    }

    async fn next(&mut self) -> Option<String> {
        let mut header = [0; 1];
        self.recv.read_exact(&mut header).await.ok()?;
        let length = match header[0] {
            126 => {
                let mut length = [0; 2];
                self.recv.read_exact(&mut length).await.ok()?;
                u16::from_be_bytes(length).into()
            }
            short => usize::from(short),
        };
        let mut packet = vec![0; length];
        self.recv.read_exact(&mut packet).await.ok()?;
        Some(String::from_utf8(packet).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_io_client_connects_over_webtransport_and_gets_events() {
    let server = Server::start().await;
    let mut client = SocketIo::connect(&server, "0").await;
    let opening = client.hear().await;
    assert!(opening.starts_with("0{") && opening.contains("\"pingInterval\":25000"), "{opening}");
    client.say("40").await;
    assert!(client.hear().await.starts_with("40{\"sid\":"));
    client.say("42[\"echo\",\"hello\"]").await;
    let echoed = client.hear().await;
    assert!(echoed.starts_with("42[\"echo\",\"hello\""), "{echoed}");
    assert_eq!(server.gateway.status().open.webtransport, 1);
    assert_eq!(server.events.fetch_sockets().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_from_polling_to_webtransport() {
    let server = Server::start().await;
    let opening = server.get("/socket.io/?EIO=4&transport=polling").await;
    assert!(opening.contains("\"upgrades\":[\"websocket\",\"webtransport\"]"), "{opening}");
    let sid = opening.split("\"sid\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let mut client = SocketIo::connect(&server, &format!("0{{\"sid\":\"{sid}\"}}")).await;
    client.say("2probe").await;
    assert_eq!(client.hear().await, "3probe");
    client.say("5").await;
    client.say("40").await;
    assert!(client.hear().await.starts_with("40{\"sid\":"));
    assert_eq!(server.gateway.status().open.webtransport, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_packet_that_opens_nothing_ends_the_session() {
    let server = Server::start().await;
    for first in ["40", "0{\"sid\":\"nobody\"}", "0{", "x"] {
        let mut client = SocketIo::connect(&server, first).await;
        let end = tokio::time::timeout(DEADLINE, client.next()).await.expect("in time");
        assert_eq!(end, None, "{first}");
    }
    assert_eq!(server.gateway.status().open.webtransport, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_is_closed_after_the_deadline() {
    let server = Server::start().await;
    let silent = async |path| {
        let session = server.connect(path, None).await.unwrap();
        tokio::time::timeout(DEADLINE, session.closed()).await.expect("closed in time");
    };
    tokio::join!(silent("/twinlane"), silent("/socket.io/"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_closes_its_session_has_left() {
    let server = Server::start().await;
    let mut client = SocketIo::connect(&server, "0").await;
    client.hear().await;
    client.session.close(0, b"");
    while server.gateway.status().open.webtransport > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_closes_its_webtransport_sessions() {
    let server = Server::start().await;
    let mut client = SocketIo::connect(&server, "0").await;
    client.hear().await;
    server.gateway.shutdown(Duration::from_secs(5)).await;
    let end = tokio::time::timeout(DEADLINE, async { while client.next().await.is_some() {} }).await;
    assert!(end.is_ok(), "the session ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_learns_where_webtransport_is_and_what_certificate_to_expect() {
    let server = Server::start().await;
    let told = server.get("/twinlane/webtransport").await;
    let port = server.gateway.addr().port();
    assert!(told.contains(&format!("\"port\":{port}")), "{told}");
    assert!(told.contains("\"algorithm\":\"sha-256\""), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn native_clients_find_the_certificate_that_they_pinned_on_the_same_port() {
    let server = Server::start().await;
    let trust = Trust::Fingerprint(server.fingerprint);
    let mut options = ConnectOptions::new(server.gateway.addr().to_string(), trust);
    options.transports = Transports::QuicOnly;
    let session = tokio::time::timeout(DEADLINE, Session::connect(options)).await.expect("in time").unwrap();
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_gateway_the_quic_port_speaks_no_http() {
    let engine = Engine::new(EngineConfig::default()).unwrap();
    let listening = engine.listen(ListenOptions::new("127.0.0.1:0".parse().unwrap())).await.unwrap();
    let client = ClientBuilder::new().dangerous().with_no_certificate_verification().unwrap();
    let url = format!("https://{}/twinlane", listening.addr());
    let request = ConnectRequest::new(parsed(&url, |request: ConnectRequest| request.url));
    let refused = tokio::time::timeout(DEADLINE, client.connect(request)).await.expect("an answer");
    let refused = refused.map(drop).expect_err("refused").to_string();
    // TLS's alert `no_application_protocol`.
    assert!(refused.contains("error 120"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_client_comes_in_the_messages_of_a_websocket() {
    let server = Server::start().await;
    let addr = server.gateway.addr();
    let mut socket = TcpStream::connect(addr).await.unwrap();
    let request = format!(
        "GET /twinlane HTTP/1.1\r\nHost: {addr}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut hello_frame = Vec::new();
    Control::from(hello()).encode(&mut hello_frame);
    // A binary message, masked with zeros, at once behind the request.
    let header = [0x82, 0x80 | u8::try_from(hello_frame.len()).unwrap(), 0, 0, 0, 0];
    socket.write_all(&[&header[..], &hello_frame].concat()).await.unwrap();
    let mut received = Vec::new();
    let welcome = async {
        loop {
            let head_bytes = received.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4);
            // A message that is shorter than 126 bytes.
            if let Some([0x82, length, rest @ ..]) = head_bytes.map(|at| &received[at..])
                && usize::from(*length) <= rest.len()
            {
                return Control::decode(&rest[..usize::from(*length)]).unwrap();
            }
            assert!(socket.read_buf(&mut received).await.unwrap() > 0, "the connection goes on");
        }
    };
    let welcome = tokio::time::timeout(DEADLINE, welcome).await.expect("an answer");
    assert!(matches!(welcome, Control::Welcome(_)), "{welcome:?}");
    assert_eq!(server.engine.status().sessions[0].reliable_over, "websocket");
}

fn hello() -> Hello {
    Hello {
        version_min: VERSION,
        version_max: VERSION,
        capabilities: 0,
        purpose: Purpose::Primary,
        client: "test".to_owned(),
        auth: Auth::None,
        resume: None,
    }
}

fn subscribe(subscription: u32, filter: &str) -> Subscribe {
    Subscribe {
        request: 1,
        subscription,
        filter: filter.to_owned(),
        start: Start::New,
        slow: SlowPolicy::Block,
        credit_bytes: 1 << 20,
        spec: None,
        positions: Vec::new(),
    }
}

fn open_publisher(publisher: u32, topic: &str) -> OpenPublisher {
    OpenPublisher {
        request: 1,
        publisher,
        topic: TopicRef::Name(topic.to_owned()),
        spec: None,
        resume_seq: 0,
    }
}

/// A run with one message.
fn run(lane: u32, seq: u64, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let header = MessageHeader { topic: 0, source: 0, seq, time_us: 0 };
    encode_message_head(&header, &Options::default(), payload.len(), &mut frame).unwrap();
    frame.extend_from_slice(payload);
    let head = RunHeader { lane, topic: 0, first: seq, frames: 1, run_bytes: frame.len() as u32 };
    [&head.encode()[..], &frame].concat()
}
