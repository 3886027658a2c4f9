//! Peers that break the rules, by accident or on purpose: they are told and closed, everyone else is served on.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use twinlane::{Auth, Code, ConnectError, ConnectOptions, EngineConfig, Session, TokenHash, TopicSpec};
use twinlane_proto::Control;
use twinlane_proto::control::{Acked, Credit, Level, Ping, Pong, Subscribe};
use twinlane_proto::frame::KIND_CONTROL;
use twinlane_tests::Seeded;

use crate::raw::{Raw, encoded, hello, open_publisher, plain_engine, run};
use crate::world::{Carrier, World, next_message, within};

/// One way to break the rules: what is written after an optional handshake, and the code of the goodbye.
struct Misdeed {
    name: &'static str,
    welcomed: bool,
    bytes: Vec<u8>,
    code: Code,
}

/// The prefix of a frame that claims to be `frame_bytes` long.
fn prefix(frame_bytes: u32, kind: u8, extra: u16) -> Vec<u8> {
    let mut prefix = frame_bytes.to_le_bytes().to_vec();
    prefix.extend([kind, 0]);
    prefix.extend(extra.to_le_bytes());
    prefix
}

fn misdeeds() -> Vec<Misdeed> {
    let misdeed = |name, welcomed, bytes| Misdeed { name, welcomed, bytes, code: Code::ProtocolViolation };
    let mut bad_name = encoded(open_publisher(1, 1, "xxxx", 0));
    let at = bad_name.windows(4).position(|window| window == b"xxxx").unwrap();
    bad_name[at] = 0xff;
    let mut versions = hello(None);
    (versions.version_min, versions.version_max) = (1_000, 2_000);
    let mut long_name = hello(None);
    long_name.client = "x".repeat(64);
    let acked = Acked { publisher: 1, first_seq: 1, count: 1, first_offset: 0, level: Level::Memory };
    let subscribe = |lane| {
        encoded(Subscribe {
            request: lane,
            subscription: 1,
            filter: "a".to_owned(),
            start: twinlane::Start::New,
            slow: twinlane::SlowPolicy::Block,
            credit_bytes: 1 << 20,
            spec: None,
            positions: Vec::new(),
        })
    };
    vec![
        misdeed("a declared length of 2^32 - 1", false, prefix(u32::MAX, KIND_CONTROL, 1)),
        misdeed("a declared length of 0", false, prefix(0, KIND_CONTROL, 1)),
        misdeed("a hello larger than a hello may be", false, prefix(100_000, KIND_CONTROL, 1)),
        misdeed("a frame larger than agreed", true, prefix(3 << 20, KIND_CONTROL, 1)),
        misdeed("an unknown kind of frame", true, prefix(64, 99, 0)),
        misdeed("an unknown control type", true, [prefix(8, KIND_CONTROL, 0x7777), vec![]].concat()),
        misdeed("a run before the hello", false, run(1, 1, &[b"early"])),
        misdeed("a publisher before the hello", false, encoded(open_publisher(1, 1, "t", 0))),
        misdeed("a second hello", true, encoded(hello(None))),
        misdeed("what only a server says", true, encoded(acked)),
        misdeed("a name that is not UTF-8", true, bad_name),
        misdeed("a lane opened twice", true, [subscribe(1), subscribe(2)].concat()),
        misdeed("a message without a run", true, vec![32, 0, 0, 0, 1, 0, 0, 0]),
        Misdeed {
            name: "unknown versions",
            welcomed: false,
            bytes: encoded(versions),
            code: Code::UnsupportedVersion,
        },
    ]
}

/// A stranger is served as if nothing had happened.
async fn serves_on(addr: SocketAddr) {
    let session =
        within("a session", Session::connect(ConnectOptions::plain(addr.to_string()))).await.unwrap();
    let mut subscription = session.subscribe("still here").await.unwrap();
    session.publisher("still here").await.unwrap().publish(b"yes").await.unwrap();
    assert_eq!(next_message(&mut subscription).await.payload(), b"yes");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_broken_rule_ends_its_connection_with_a_typed_goodbye_and_nobody_elses() {
    let (_engine, addr) = plain_engine(EngineConfig::default()).await;
    let bystander = Session::connect(ConnectOptions::plain(addr.to_string())).await.unwrap();
    let mut subscription = bystander.subscribe("bystander").await.unwrap();
    for Misdeed { name, welcomed, bytes, code } in misdeeds() {
        let mut raw = match welcomed {
            true => Raw::welcomed(addr, None).await.0,
            false => Raw::connect(addr).await,
        };
        raw.write(&bytes).await;
        let goodbye = within(name, raw.closed()).await;
        assert_eq!(goodbye.map(|goodbye| goodbye.code), Some(code), "{name}");
    }
    bystander.publisher("bystander").await.unwrap().publish(b"fine").await.unwrap();
    assert_eq!(next_message(&mut subscription).await.payload(), b"fine");
    assert_eq!(bystander.status().reconnects, 0);
    serves_on(addr).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_without_reading_the_answers_is_held_back_and_then_gets_all_of_them() {
    const ASKED: u64 = 2_000_000;
    let (_engine, addr) = plain_engine(EngineConfig::default()).await;
    let (mut raw, _) = Raw::welcomed(addr, None).await;
    let questions: Vec<u8> = (0..ASKED).flat_map(|nonce| encoded(Control::Ping(Ping { nonce }))).collect();
    let rest = raw.write_unread(&questions).await;
    let (taken, question_bytes) = (questions.len() - rest.len(), questions.len() / ASKED as usize);
    assert!(!rest.is_empty(), "the server read {taken} bytes of questions, and nobody its answers");
    for nonce in 0..(taken / question_bytes) as u64 {
        let answer = within("an answer", raw.next()).await;
        assert!(
            matches!(answer, Some(Control::Pong(Pong { nonce: told })) if told == nonce),
            "{nonce}: {answer:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_that_sends_more_than_it_was_granted_is_closed() {
    let (engine, addr) = plain_engine(EngineConfig::default()).await;
    engine.declare("credit", TopicSpec::reliable().with_retain_bytes(1 << 20)).unwrap();
    // It reads nothing, so that nothing is granted after what the topic holds.
    let _blocking = Session::local(&engine).subscribe("credit").await.unwrap();
    let (mut raw, _) = Raw::welcomed(addr, None).await;
    raw.send(open_publisher(1, 1, "credit", 0)).await;
    assert!(matches!(raw.next().await, Some(Control::PublisherOpened(_))));
    let payload = vec![0; 1 << 20];
    for seq in 1..=24 {
        raw.send_run(1, seq, &[&payload]).await;
    }
    assert_eq!(raw.closed().await.map(|goodbye| goodbye.code), Some(Code::CreditExceeded));
    serves_on(addr).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_names_and_unknown_credit_are_answered_or_ignored_and_the_connection_lives() {
    let (_engine, addr) = plain_engine(EngineConfig::default()).await;
    let (mut raw, _) = Raw::welcomed(addr, None).await;
    for (request, name, code) in [
        (1, "", Code::BadName),
        (2, "a//b", Code::BadName),
        (3, "a/*", Code::BadName),
        (4, "$sys/none", Code::ReservedName),
    ] {
        raw.send(open_publisher(request, request, name, 0)).await;
        match raw.next().await {
            Some(Control::Failed(failed)) => {
                assert_eq!((failed.request, failed.code), (request, code), "{name:?}");
            }
            other => panic!("{name:?}: {other:?}"),
        }
    }
    raw.send(Credit { lane: 4_711, bytes: u64::MAX }).await;
    raw.send_run(4_711, 1, &[b"to nobody"]).await;
    raw.send(open_publisher(9, 9, "fine", 0)).await;
    assert!(matches!(raw.next().await, Some(Control::PublisherOpened(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_on_every_door_change_nothing() {
    let seed = 99;
    let mut random = Seeded::new(seed);
    let (_engine, plain) = plain_engine(EngineConfig::default()).await;
    let world = World::new().await;
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for round in 0..150 {
        let bytes: Vec<u8> = (0..random.below(600) + 1).map(|_| random.next_u64() as u8).collect();
        udp.send_to(&bytes, world.addr()).await.unwrap();
        for addr in [plain, world.addr()] {
            let mut socket = TcpStream::connect(addr).await.unwrap();
            let _ = socket.write_all(&bytes).await;
            let _ = socket.shutdown().await;
            let mut answer = Vec::new();
            let ended = tokio::time::timeout(Duration::from_secs(8), socket.read_to_end(&mut answer)).await;
            assert!(ended.is_ok(), "seed {seed}: round {round}: the server keeps a connection that is over");
        }
    }
    serves_on(plain).await;
    for carrier in Carrier::REMOTE {
        let session = world.session(carrier).await;
        session.publisher("t").await.unwrap().publish(b"1").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_another_protocol_is_turned_away_in_the_handshake() {
    let world = World::new().await;
    for (alpn, speaks) in [(&b"http/1.1"[..], false), (b"", false), (b"twinlane/1", true)] {
        let answer = tls_alpn(world.addr(), alpn).await;
        assert_eq!(answer, speaks, "{:?}", String::from_utf8_lossy(alpn));
    }
    let refused = world.engine.status().refused;
    assert!(refused.values().sum::<u64>() >= 2, "{refused:?}");
}

/// Whether a TLS client that offers `alpn` is served: it gets a welcome for a hello.
async fn tls_alpn(addr: SocketAddr, alpn: &[u8]) -> bool {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(provider.into());
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.dangerous().with_custom_certificate_verifier(std::sync::Arc::new(Anyone));
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = if alpn.is_empty() { Vec::new() } else { vec![alpn.to_vec()] };
    let socket = TcpStream::connect(addr).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let name = "localhost".try_into().unwrap();
    let Ok(mut tls) = within("a handshake", connector.connect(name, socket)).await else { return false };
    let _ = tls.write_all(&encoded(hello(None))).await;
    let mut answer = [0; 8];
    within("an answer", tls.read_exact(&mut answer)).await.is_ok()
}

/// Believes every server: these tests are about what the server believes.
#[derive(Debug)]
struct Anyone;

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_tokens_lets_in_only_who_has_one() {
    let mut config = EngineConfig::default();
    config.auth = Auth::Tokens(vec![TokenHash::of("open sesame")]);
    let world = World::with(config).await;
    for carrier in Carrier::REMOTE {
        for (token, code) in [
            (None, Some(Code::AuthRequired)),
            (Some("abracadabra"), Some(Code::AuthFailed)),
            (Some("open sesame"), None),
        ] {
            let mut options = world.options(carrier);
            options.token = token.map(str::to_owned);
            match (Session::connect(options).await, code) {
                (Ok(session), None) => {
                    session.publisher("t").await.unwrap().publish(b"in").await.unwrap();
                }
                (Err(ConnectError::Rejected { code: told, reason }), Some(code)) => {
                    assert_eq!(told, code, "{carrier:?}: {reason}");
                }
                (other, _) => panic!("{carrier:?}, {token:?}: {other:?}"),
            }
        }
    }
    let refused = world.engine.status().refused;
    assert_eq!(refused.get(Code::AuthRequired.as_str()), Some(&3), "{refused:?}");
    assert_eq!(refused.get(Code::AuthFailed.as_str()), Some(&3), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_never_end_are_dropped() {
    let (plain_engine, plain) = plain_engine(EngineConfig::default()).await;
    let world = World::new().await;
    let began = Instant::now();
    let mut silent = Vec::new();
    for addr in [plain, world.addr()] {
        for bytes in [&b""[..], &[0x16, 3, 1]] {
            let mut socket = TcpStream::connect(addr).await.unwrap();
            socket.write_all(bytes).await.unwrap();
            silent.push(socket);
        }
    }
    for mut socket in silent {
        let mut rest = Vec::new();
        let _ = within("the server to hang up", socket.read_to_end(&mut rest)).await;
    }
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    for engine in [&plain_engine, &world.engine] {
        crate::world::until("no connection", || engine.status().connections_open == 0).await;
    }
}

/// Resident memory of this process, in bytes.
pub(crate) fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1_024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_bad_connections_leave_no_memory_behind() {
    // In a process of its own: other tests' memory is not what is measured.
    let child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "bad_input::memory_after_a_thousand_bad_connections", "--ignored", "--nocapture"])
        .output();
    let output = tokio::time::timeout(Duration::from_secs(60), child).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by a_thousand_bad_connections_leave_no_memory_behind, in a process of its own"]
async fn memory_after_a_thousand_bad_connections() {
    let (engine, addr) = plain_engine(EngineConfig::default()).await;
    let misdeeds = misdeeds();
    let round = async |from: usize, to: usize| {
        for index in from..to {
            let Misdeed { welcomed, bytes, .. } = &misdeeds[index % misdeeds.len()];
            let mut raw =
                if *welcomed { Raw::welcomed(addr, None).await.0 } else { Raw::connect(addr).await };
            raw.write(bytes).await;
            raw.closed().await;
        }
        crate::world::until("no connection", || engine.status().connections_open == 0).await;
    };
    round(0, 300).await;
    let before = resident_bytes();
    round(300, 1_300).await;
    let grown = resident_bytes().saturating_sub(before);
    println!("{grown} bytes after 1,000 bad connections");
    assert!(grown < 4 << 20, "{grown} bytes");
    serves_on(addr).await;
}
