//! The promises of the transports, over loopback sockets.
//!
//! Waiting is for an event under a deadline, never for a time to pass; the one exception measures idleness.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::buffered::pooled_buffers;
use super::*;

const TIMEOUT: Duration = Duration::from_secs(10);

fn loopback() -> ListenConfig {
    ListenConfig {
        addr: "127.0.0.1:0".parse().unwrap(),
        tcp: true,
        quic: true,
        plain: false,
        limits: ConnectionLimits::default(),
    }
}

/// A server on the test's own runtime that sends back every byte and every datagram.
struct Echo {
    listener: Listener,
    tls: ServerTls,
}

impl Echo {
    fn start(config: ListenConfig) -> Self {
        Self::with_identity(config, &Identity::SelfSignedInMemory)
    }

    fn with_identity(config: ListenConfig, identity: &Identity) -> Self {
        let tls = ServerTls::new(identity).unwrap();
        let threads = IoThreads::current();
        let listener = Listener::bind(config, Some(&tls), &threads).unwrap();
        listener.serve(&threads, echo).unwrap();
        Self { listener, tls }
    }

    fn addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    fn pinned(&self) -> ClientTls {
        ClientTls::new(&Trust::Fingerprint(self.tls.fingerprint())).unwrap()
    }

    async fn refused(&self, why: Refusal) {
        eventually(|| self.listener.counters().refused(why) == 1).await;
    }
}

fn echo(incoming: Incoming) {
    let Incoming { mut stream, datagrams, .. } = incoming;
    if let Some(datagrams) = datagrams {
        tokio::spawn(async move {
            while let Ok(datagram) = datagrams.recv().await {
                let _ = datagrams.send(datagram);
            }
        });
    }
    tokio::spawn(async move {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(read_bytes @ 1..) = stream.read(&mut bytes).await {
            activity();
            if stream.write_all(&bytes[..read_bytes]).await.is_err() || stream.flush().await.is_err() {
                break;
            }
        }
    });
}

async fn eventually(mut holds: impl FnMut() -> bool) {
    let watching = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TIMEOUT, watching).await.expect("the awaited state was not reached in time");
}

async fn round_trip(stream: &mut Stream, sent: &[u8]) -> Vec<u8> {
    let mut got = vec![0; sent.len()];
    let (mut read, mut write) = tokio::io::split(stream);
    let exchange = async {
        let send = async {
            write.write_all(sent).await.unwrap();
            write.flush().await.unwrap();
        };
        tokio::join!(send, async { read.read_exact(&mut got).await.unwrap() });
    };
    tokio::time::timeout(TIMEOUT, exchange).await.expect("the echo did not arrive in time");
    got
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index * 31 % 251) as u8).collect()
}

#[tokio::test]
async fn both_transports_echo_a_megabyte_on_one_port() {
    let server = Echo::start(loopback());
    let tls = server.pinned();
    let mut tcp = connect_tcp(server.addr(), "localhost", Some(&tls), TIMEOUT).await.unwrap();
    let (mut quic, _datagrams) = connect_quic(server.addr(), "localhost", &tls, TIMEOUT, None).await.unwrap();
    assert_eq!((tcp.carrier(), quic.carrier()), (Carrier::Tcp, Carrier::Quic));
    assert_eq!((tcp.peer(), quic.peer()), (server.addr(), server.addr()));

    let sent = pattern(1024 * 1024 + 17);
    assert_eq!(round_trip(&mut tcp, &sent).await, sent);
    assert_eq!(round_trip(&mut quic, &sent).await, sent);
    let counters = server.listener.counters();
    assert_eq!((counters.accepted, counters.open, counters.pending), (2, 2, 0));
}

#[tokio::test]
async fn plain_tcp_echoes_on_loopback() {
    let server = Echo::start(ListenConfig { plain: true, quic: false, ..loopback() });
    let mut stream = connect_tcp(server.addr(), "localhost", None, TIMEOUT).await.unwrap();
    assert_eq!(round_trip(&mut stream, b"hello").await, b"hello");
}

#[tokio::test]
async fn a_vectored_write_arrives_in_order_on_every_carrier() {
    let server = Echo::start(loopback());
    let plain = Echo::start(ListenConfig { plain: true, ..loopback() });
    let tls = server.pinned();
    let (quic, _datagrams) = connect_quic(server.addr(), "localhost", &tls, TIMEOUT, None).await.unwrap();
    let streams = [
        connect_tcp(server.addr(), "localhost", Some(&tls), TIMEOUT).await.unwrap(),
        connect_tcp(plain.addr(), "localhost", None, TIMEOUT).await.unwrap(),
        quic,
    ];
    for mut stream in streams {
        assert!(stream.is_write_vectored(), "{stream:?}");
        let written = stream.write_vectored(&[&b"one "[..], b"", b"two ", b"three"].map(IoSlice::new)).await;
        assert_eq!(written.unwrap(), 13, "{stream:?}");
        stream.flush().await.unwrap();
        let mut got = [0; 13];
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"one two three", "{stream:?}");
    }
}

#[tokio::test]
async fn tls_takes_a_batch_in_one_write_and_no_more_than_its_bound() {
    let server = Echo::start(loopback());
    let mut stream = connect_tcp(server.addr(), "localhost", Some(&server.pinned()), TIMEOUT).await.unwrap();
    let (head, run) = (pattern(22), pattern(2 * TLS_BYTES));
    let written = stream.write_vectored(&[IoSlice::new(&head), IoSlice::new(&run)]).await.unwrap();
    assert_eq!(written, TLS_BYTES);
}

#[tokio::test]
async fn datagrams_come_back_and_too_large_ones_name_the_limit() {
    let server = Echo::start(loopback());
    let (mut stream, datagrams) =
        connect_quic(server.addr(), "localhost", &server.pinned(), TIMEOUT, None).await.unwrap();
    // The server hears of the connection with the stream's first byte.
    round_trip(&mut stream, b"x").await;

    let room_bytes = std::future::poll_fn(|cx| datagrams.poll_room(cx)).await;
    assert!(room_bytes >= 1_000, "{room_bytes}");
    datagrams.send(Bytes::from_static(b"now")).unwrap();
    assert_eq!(datagrams.recv().await.unwrap(), "now");
    datagrams.send(Bytes::from_static(b"later")).unwrap();
    assert_eq!(datagrams.recv().await.unwrap(), "later");
    assert!(datagrams.stats().sent_packets > 0);

    let error = datagrams.send(Bytes::from(vec![0; 65_000])).unwrap_err();
    assert!(
        matches!(error, DatagramError::TooLarge { datagram_bytes: 65_000, datagram_bytes_max: 1_000..9_000 }),
        "{error}"
    );
}

#[tokio::test]
async fn closing_datagrams_ends_the_connection_with_the_reason() {
    let server = Echo::start(loopback());
    let (mut stream, datagrams) =
        connect_quic(server.addr(), "localhost", &server.pinned(), TIMEOUT, None).await.unwrap();
    round_trip(&mut stream, b"x").await;
    assert_eq!(server.listener.counters().open, 1);

    datagrams.close(7, "enough");
    assert!(matches!(datagrams.closed().await, DatagramError::Closed { .. }));
    assert!(matches!(datagrams.recv().await, Err(DatagramError::Closed { .. })));
    assert!(stream.write_all(b"y").await.is_err());
    eventually(|| server.listener.counters().open == 0).await;
}

#[tokio::test]
async fn a_self_signed_identity_is_made_once_and_its_key_is_private() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("identity");
    let identity = Identity::SelfSigned { dir: dir.clone() };
    let first = ServerTls::new(&identity).unwrap();
    let again = ServerTls::new(&identity).unwrap();
    assert_eq!(first.fingerprint(), again.fingerprint());
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("key.pem")), 0o600);
    assert_ne!(ServerTls::new(&Identity::SelfSignedInMemory).unwrap().fingerprint(), first.fingerprint());

    let pem = Identity::Pem { cert: dir.join("cert.pem"), key: dir.join("key.pem") };
    assert_eq!(ServerTls::new(&pem).unwrap().fingerprint(), first.fingerprint());
}

#[test]
fn an_identity_that_others_can_touch_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("identity");
    let identity = Identity::SelfSigned { dir: dir.clone() };
    ServerTls::new(&identity).unwrap();
    let refusal = || ServerTls::new(&identity).err().expect("refused").to_string();

    let key = dir.join("key.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refusal().contains("chmod 600"), "{}", refusal());

    let elsewhere = home.path().join("elsewhere.pem");
    std::fs::rename(&key, &elsewhere).unwrap();
    assert!(refusal().contains("key.pem is missing"), "{}", refusal());
    symlink(&elsewhere, &key).unwrap();
    assert!(refusal().contains("symbolic link"), "{}", refusal());
}

#[tokio::test]
async fn a_pinned_fingerprint_refuses_another_server_on_both_transports() {
    let server = Echo::start(loopback());
    let pinned = Fingerprint::of(b"someone else");
    let tls = ClientTls::new(&Trust::Fingerprint(pinned)).unwrap();
    let errors = [
        connect_tcp(server.addr(), "localhost", Some(&tls), TIMEOUT).await.unwrap_err(),
        connect_quic(server.addr(), "localhost", &tls, TIMEOUT, None).await.unwrap_err(),
    ];
    for error in errors {
        let ConnectError::FingerprintMismatch { expected, got } = error else { panic!("{error}") };
        assert_eq!((expected, got), (pinned, server.tls.fingerprint()));
    }
    eventually(|| server.listener.counters().refused(Refusal::HandshakeFailed) == 2).await;
}

#[tokio::test]
async fn a_known_host_is_recorded_once_and_a_changed_key_is_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("made/for/this/known_hosts");
    let tls = ClientTls::new(&Trust::KnownHosts(path.clone())).unwrap();
    let first = Echo::start(loopback());
    let addr = first.addr();
    connect_tcp(addr, "localhost", Some(&tls), TIMEOUT).await.unwrap();
    connect_quic(addr, "localhost", &tls, TIMEOUT, None).await.unwrap();
    let expected = first.tls.fingerprint();
    let line = format!("localhost:{} {expected}\n", addr.port());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), line);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    first.listener.stop_accepting();
    first.listener.closed().await;
    let second = Echo::start(ListenConfig { addr, quic: false, ..loopback() });
    let error = connect_tcp(addr, "localhost", Some(&tls), TIMEOUT).await.unwrap_err();
    let words = error.to_string();
    assert!(matches!(error, ConnectError::KnownHostChanged { .. }), "{words}");
    for named in [expected.to_string(), second.tls.fingerprint().to_string(), "delete that line".into()] {
        assert!(words.contains(&named), "{words}");
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), line, "a refused server must not be recorded");
}

#[tokio::test]
async fn an_unclear_line_among_the_known_hosts_is_an_error_with_its_number() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("known_hosts");
    std::fs::write(&path, "# servers\n\nlocalhost:1 nonsense\n").unwrap();
    let tls = ClientTls::new(&Trust::KnownHosts(path)).unwrap();
    let error = connect_tcp("127.0.0.1:1".parse().unwrap(), "localhost", Some(&tls), TIMEOUT).await;
    assert!(matches!(error, Err(ConnectError::KnownHostsLine { line: 3, .. })), "{error:?}");
}

#[tokio::test]
async fn trusted_roots_check_the_name() {
    let home = tempfile::tempdir().unwrap();
    let identity = Identity::SelfSigned { dir: home.path().join("identity") };
    let server = Echo::with_identity(loopback(), &identity);
    let tls = ClientTls::new(&Trust::Roots(home.path().join("identity/cert.pem"))).unwrap();
    connect_tcp(server.addr(), "localhost", Some(&tls), TIMEOUT).await.unwrap();
    let errors = [
        connect_tcp(server.addr(), "elsewhere.example", Some(&tls), TIMEOUT).await.unwrap_err(),
        connect_quic(server.addr(), "elsewhere.example", &tls, TIMEOUT, None).await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, ConnectError::Certificate { .. }), "{error}");
    }
    let empty = home.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    assert!(matches!(ClientTls::new(&Trust::Roots(empty)), Err(ConnectError::Roots { .. })));
}

#[tokio::test]
async fn a_client_of_another_protocol_or_of_none_is_refused() {
    for protocols in [vec![b"h2".to_vec()], vec![]] {
        let server = Echo::start(loopback());
        let check = server.pinned().check("localhost", server.addr().port()).unwrap();
        let mut config = (*check.config).clone();
        config.alpn_protocols = protocols;
        let socket = TcpStream::connect(server.addr()).await.unwrap();
        let handshake = TlsConnector::from(Arc::new(config)).connect(check.name.clone(), socket).await;
        // With no protocol named, the client's side ends before the server's verdict; then the end arrives instead.
        if let Ok(mut stream) = handshake {
            assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)));
        }
        server.refused(Refusal::WrongAlpn).await;
        assert_eq!(server.listener.counters().accepted, 0);
    }
}

#[tokio::test]
async fn garbage_on_the_tcp_port_ends_that_connection_only() {
    let server = Echo::start(loopback());
    let mut socket = TcpStream::connect(server.addr()).await.unwrap();
    socket.write_all(&pattern(100_000)).await.ok();
    let mut rest = Vec::new();
    // The server may answer with an alert, and may reset because it leaves bytes unread.
    let _ = tokio::time::timeout(TIMEOUT, socket.read_to_end(&mut rest)).await.expect("the server hangs up");
    server.refused(Refusal::HandshakeFailed).await;

    let mut honest = connect_tcp(server.addr(), "localhost", Some(&server.pinned()), TIMEOUT).await.unwrap();
    assert_eq!(round_trip(&mut honest, b"still here").await, b"still here");
}

#[tokio::test]
async fn a_handshake_that_stops_halfway_ends_at_its_deadline() {
    let handshake_timeout = Duration::from_millis(50);
    let limits = ConnectionLimits { handshake_timeout, ..ConnectionLimits::default() };
    let server = Echo::start(ListenConfig { limits, ..loopback() });
    let mut socket = TcpStream::connect(server.addr()).await.unwrap();
    socket.write_all(&[0x16, 0x03, 0x01, 0x02]).await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(TIMEOUT, socket.read_to_end(&mut rest)).await.expect("the server hangs up").ok();
    server.refused(Refusal::HandshakeTimeout).await;
    // Over QUIC the first stream is part of it.
    let silent = connect_quic(server.addr(), "localhost", &server.pinned(), TIMEOUT, None).await.unwrap();
    eventually(|| server.listener.counters().refused(Refusal::HandshakeTimeout) == 2).await;
    assert_eq!((server.listener.counters().pending, server.listener.counters().open), (0, 0));
    drop(silent);
}

#[tokio::test]
async fn clients_that_never_finish_their_handshake_do_not_keep_an_honest_one_out() {
    let limits = ConnectionLimits { pending_max: 4, ..ConnectionLimits::default() };
    let server = Echo::start(ListenConfig { limits, ..loopback() });
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(server.addr()).await.unwrap());
    }
    let mut honest = connect_tcp(server.addr(), "localhost", Some(&server.pinned()), TIMEOUT).await.unwrap();
    assert_eq!(round_trip(&mut honest, b"hello").await, b"hello");
    eventually(|| server.listener.counters().pending <= 4).await;
    assert!(server.listener.counters().refused(Refusal::GaveWay) >= 16);
}

#[tokio::test]
async fn a_full_server_refuses_until_a_connection_ends() {
    let limits = ConnectionLimits { connections_max: 1, ..ConnectionLimits::default() };
    let server = Echo::start(ListenConfig { limits, ..loopback() });
    let tls = server.pinned();
    let mut first = connect_tcp(server.addr(), "localhost", Some(&tls), TIMEOUT).await.unwrap();
    round_trip(&mut first, b"in").await;
    let error = connect_tcp(server.addr(), "localhost", Some(&tls), TIMEOUT).await.unwrap_err();
    assert!(matches!(error, ConnectError::ClosedByServer { .. }), "{error}");
    let error = connect_quic(server.addr(), "localhost", &tls, TIMEOUT, None).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    drop(first);
    eventually(|| server.listener.counters().open == 0).await;
    let mut next = connect_tcp(server.addr(), "localhost", Some(&tls), TIMEOUT).await.unwrap();
    round_trip(&mut next, b"in").await;
}

#[tokio::test]
async fn plain_tcp_is_refused_off_loopback() {
    let config = ListenConfig { addr: "0.0.0.0:0".parse().unwrap(), plain: true, quic: false, ..loopback() };
    let error = Listener::bind(config, None, &IoThreads::current()).err().expect("refused");
    assert!(matches!(error, ListenError::PlainOffLoopback { .. }), "{error}");
}

#[tokio::test]
async fn a_port_in_use_is_named_even_where_the_sockets_would_share_it() {
    let tls = ServerTls::new(&Identity::SelfSignedInMemory).unwrap();
    let threads = IoThreads::start(2, IoPolicy::Park).unwrap();
    let config = ListenConfig { quic: false, ..loopback() };
    let first = Listener::bind(config.clone(), Some(&tls), &threads).unwrap();
    let again = ListenConfig { addr: first.local_addr(), ..config };
    let error = Listener::bind(again, Some(&tls), &threads).err().expect("refused");
    assert!(matches!(error, ListenError::AddressInUse { .. }), "{error}");
    threads.shutdown(TIMEOUT);
}

#[tokio::test]
async fn connections_are_handed_over_on_an_io_thread() {
    let tls = ServerTls::new(&Identity::SelfSignedInMemory).unwrap();
    let threads = IoThreads::start(2, IoPolicy::default()).unwrap();
    let listener = Listener::bind(loopback(), Some(&tls), &threads).unwrap();
    let (names, mut named) = tokio::sync::mpsc::channel(16);
    let on_connection = move |incoming: Incoming| {
        names.try_send(std::thread::current().name().map(str::to_owned)).unwrap();
        echo(incoming);
    };
    listener.serve(&threads, on_connection).unwrap();
    let trust = ClientTls::new(&Trust::Fingerprint(tls.fingerprint())).unwrap();
    for _ in 0..8 {
        let mut stream =
            connect_tcp(listener.local_addr(), "localhost", Some(&trust), TIMEOUT).await.unwrap();
        round_trip(&mut stream, b"hello").await;
        let name = named.recv().await.unwrap().unwrap();
        assert!(["twinlane-io-0", "twinlane-io-1"].contains(&name.as_str()), "{name}");
    }
    threads.shutdown(TIMEOUT);
    listener.closed().await;
}

#[tokio::test]
async fn a_stopped_listener_is_closed_when_its_last_connection_is() {
    let server = Echo::start(loopback());
    let mut stream = connect_tcp(server.addr(), "localhost", Some(&server.pinned()), TIMEOUT).await.unwrap();
    round_trip(&mut stream, b"in").await;
    server.listener.stop_accepting();
    assert_eq!(round_trip(&mut stream, b"open ones go on").await, b"open ones go on");
    drop(stream);
    tokio::time::timeout(TIMEOUT, server.listener.closed()).await.expect("closed in time");
    let error = connect_tcp(server.addr(), "localhost", None, TIMEOUT).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_a_timeout() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tls = ClientTls::new(&Trust::Fingerprint(Fingerprint::of(b""))).unwrap();
    let timeout = Duration::from_millis(30);
    let error =
        connect_tcp(silent.local_addr().unwrap(), "localhost", Some(&tls), timeout).await.unwrap_err();
    assert!(matches!(error, ConnectError::Timeout { .. }), "{error}");
    let error =
        connect_quic(silent.local_addr().unwrap(), "localhost", &tls, timeout, None).await.unwrap_err();
    assert!(matches!(error, ConnectError::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn an_idle_connection_holds_no_read_buffer() {
    let server = Echo::start(loopback());
    let mut stream = connect_tcp(server.addr(), "localhost", Some(&server.pinned()), TIMEOUT).await.unwrap();
    let sent = pattern(300_000);
    assert_eq!(round_trip(&mut stream, &sent).await, sent);
    // Client and server share this thread and are both idle now: what they borrowed is back, once each at most.
    assert!((1..=2).contains(&pooled_buffers()), "{} buffers", pooled_buffers());
}

#[test]
fn an_adaptive_thread_sleeps_when_nothing_happens() {
    let threads = IoThreads::start(1, IoPolicy::default()).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    threads.handle(0).spawn(async move {
        activity();
        tell.send(std::fs::read_link("/proc/thread-self").unwrap()).unwrap();
    });
    let stat = std::path::Path::new("/proc").join(told.recv().unwrap()).join("stat");
    // User and system time, in ticks of 10 ms: fields 14 and 15, the name before them ends with a parenthesis.
    let cpu_ticks = || {
        let text = std::fs::read_to_string(&stat).unwrap();
        let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = cpu_ticks();
    // The span of the measurement itself.
    std::thread::sleep(Duration::from_secs(1));
    let used = cpu_ticks() - before;
    assert!(used <= 1, "an idle thread used {used} ticks of 10 ms in one second");
    threads.shutdown(TIMEOUT);
}

#[test]
fn activity_wakes_a_sleeping_spinner_and_shutdown_ends_every_policy() {
    for policy in [IoPolicy::Park, IoPolicy::Adaptive { spin: Duration::from_micros(1) }, IoPolicy::Spin] {
        let threads = IoThreads::start(2, policy).unwrap();
        assert_eq!(threads.count(), 2);
        let (tell, told) = std::sync::mpsc::channel();
        for round in 0..100 {
            let tell = tell.clone();
            threads.handle(round % 2).spawn(async move {
                activity();
                tell.send(round).unwrap();
            });
            assert_eq!(told.recv_timeout(TIMEOUT), Ok(round), "{policy}");
        }
        threads.shutdown(TIMEOUT);
        drop(tell);
        assert!(told.recv().is_err(), "{policy}: a task outlived its thread");
    }
}
