//! What a link does to real sockets. Needs root and `ip`; elsewhere each test says so and passes.
//!
//! One test holds the machine at a time: what they measure is time.
#![allow(clippy::unwrap_used, reason = "in a test a failed step is a failed test")]
#![allow(
    clippy::print_stdout,
    reason = "what was skipped, and how exact the machine is, is for whoever reads the log"
)]

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use twinlane_netlab::{Lab, LabError, Link};

const SEED: u64 = 4_711;
/// Nothing that arrives takes longer.
const PATIENCE: Duration = Duration::from_millis(500);

/// Room for everything that a test sends, with what the kernel adds to each packet.
const SOCKET_BYTES: usize = 32 << 20;

static MACHINE: Mutex<()> = Mutex::new(());

fn link(text: &str) -> Link {
    text.parse().expect("the test writes links as they should be")
}

/// A lab for this test alone; `None`, and a word why, where there can be none.
fn lab(text: &str) -> Option<(Lab, MutexGuard<'static, ()>)> {
    let machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    match Lab::start(link(text), SEED) {
        Ok(lab) => Some((lab, machine)),
        Err(error @ LabError::NotRoot(_)) => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A socket on each side, the right one connected to the left one.
fn sockets(lab: &Lab) -> (UdpSocket, UdpSocket) {
    let bind = |addr: SocketAddr| {
        let socket = UdpSocket::bind(addr).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        // On a busy machine the reader has its turn late, and what the socket drops the link did not lose.
        set_socket_recv_buffer_size_force(&socket, SOCKET_BYTES).unwrap();
        socket
    };
    let (left, right) = (SocketAddr::from((lab.left().addr(), 0)), SocketAddr::from((lab.right().addr(), 0)));
    let left = lab.left().spawn("left", move || bind(left)).unwrap().join().unwrap();
    let right = lab.right().spawn("right", move || bind(right)).unwrap().join().unwrap();
    right.connect(left.local_addr().unwrap()).unwrap();
    left.connect(right.local_addr().unwrap()).unwrap();
    (left, right)
}

/// Sends `count` numbers of `payload_bytes`, one each `every`, and gives back which number arrived when, and how long it
/// took.
fn numbers(
    from: &UdpSocket,
    to: &UdpSocket,
    count: u32,
    payload_bytes: usize,
    every: Duration,
) -> Vec<(u32, Instant, Duration)> {
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut payload = vec![0; payload_bytes];
            for number in 0..count {
                while start.elapsed() < every * number {
                    std::thread::yield_now();
                }
                payload[..4].copy_from_slice(&number.to_be_bytes());
                let took = start.elapsed().as_nanos() as u64;
                payload[4..12].copy_from_slice(&took.to_be_bytes());
                from.send(&payload).unwrap();
            }
        });
        let mut arrived = Vec::new();
        let mut payload = vec![0; 2_000];
        while let Ok(bytes) = to.recv(&mut payload) {
            assert_eq!(bytes, payload_bytes);
            let at = Instant::now();
            let number = u32::from_be_bytes(payload[..4].try_into().unwrap());
            let sent_ns = u64::from_be_bytes(payload[4..12].try_into().unwrap());
            arrived.push((number, at, (at - start).saturating_sub(Duration::from_nanos(sent_ns))));
        }
        arrived
    })
}

#[test]
fn a_link_without_faults_delivers_everything_in_order() {
    let Some((lab, _machine)) = lab("clean") else { return };
    let (left, right) = sockets(&lab);
    let arrived = numbers(&right, &left, 2_000, 100, Duration::from_micros(100));
    assert!(arrived.iter().map(|(number, ..)| *number).eq(0..2_000), "{} arrived", arrived.len());
    let counts = lab.counts();
    assert_eq!((counts.up.offered, counts.up.delivered, counts.down.offered), (2_000, 2_000, 0));
    assert!(counts.up.adds_up());
}

#[test]
fn what_is_lost_is_the_share_asked_for_in_its_direction_only() {
    let Some((lab, _machine)) = lab("up:loss=5%") else { return };
    let (left, right) = sockets(&lab);
    let arrived = numbers(&right, &left, 10_000, 100, Duration::from_micros(50));
    let lost = 10_000 - arrived.len();
    // Mean 500, standard deviation √(10,000 × 0.05 × 0.95) = 21.8: five of them.
    assert!((391..=609).contains(&lost), "seed {SEED}: {lost} of 10,000 lost");
    assert_eq!(lab.counts().up.lost, lost as u64);
    assert_eq!(numbers(&left, &right, 1_000, 100, Duration::from_micros(100)).len(), 1_000);
}

#[test]
fn every_packet_takes_half_the_round_trip() {
    let Some((lab, _machine)) = lab("rtt=20ms") else { return };
    let (left, right) = sockets(&lab);
    let arrived = numbers(&right, &left, 2_000, 100, Duration::from_millis(1));
    let mut took: Vec<Duration> = arrived.iter().map(|(_, _, took)| *took).collect();
    took.sort();
    let at = |share: usize| took[took.len() * share / 1_000 - 1];
    println!("p0.1 {:?} p50 {:?} p90 {:?} p99 {:?} p99.9 {:?}", at(1), at(500), at(900), at(990), at(999));
    println!("{}", lab.counts());
    assert!(took[0] >= Duration::from_millis(10), "{:?}", took[0]);
    assert!(at(500) < Duration::from_millis(11), "{:?}", at(500));
}

#[test]
fn a_rate_is_kept_and_the_queue_drops_what_is_beyond() {
    let Some((lab, _machine)) = lab("up:rate=8mbit,up:queue=64KiB") else { return };
    let (left, right) = sockets(&lab);
    // 1,000 bytes with their headers, a millisecond each: twice what the link carries.
    let arrived = numbers(&right, &left, 2_000, 972, Duration::from_micros(500));
    let counts = lab.counts().up;
    assert_eq!(counts.delivered + counts.queue_full, 2_000, "{counts}");
    let last = arrived.len() - 1;
    let apart = (arrived[last].1 - arrived[200].1).as_secs_f64() * 1e3 / (last - 200) as f64;
    assert!((0.98..1.02).contains(&apart), "{apart} ms from one packet to the next");
    let mut waited: Vec<Duration> = arrived[200..].iter().map(|(_, _, took)| *took).collect();
    waited.sort();
    let median_ms = waited[waited.len() / 2].as_secs_f64() * 1e3;
    assert!((62.0..68.0).contains(&median_ms), "through the full queue in {median_ms} ms");
}

#[test]
fn packets_are_overtaken_and_repeated_as_asked() {
    let Some((lab, _machine)) = lab("up:reorder=10%/5ms,up:duplicate=5%") else { return };
    let (left, right) = sockets(&lab);
    let arrived = numbers(&right, &left, 5_000, 100, Duration::from_micros(200));
    let copies = arrived.len() - 5_000;
    assert!((173..=327).contains(&copies), "seed {SEED}: {copies} copies");
    let overtaken = arrived.windows(2).filter(|pair| pair[1].0 < pair[0].0).count();
    assert!(overtaken > 250, "seed {SEED}: {overtaken} overtaken");
}

#[test]
fn larger_packets_vanish_and_smaller_ones_do_not() {
    let Some((lab, _machine)) = lab("mtu=1280") else { return };
    let (left, right) = sockets(&lab);
    // IP and UDP have 28 bytes of headers.
    assert_eq!(numbers(&right, &left, 10, 1_280 - 28, Duration::from_micros(100)).len(), 10);
    assert_eq!(numbers(&right, &left, 10, 1_281 - 28, Duration::from_micros(100)).len(), 0);
    assert_eq!(lab.counts().up.too_big, 10);
}

#[test]
fn blocked_udp_leaves_tcp_alone_and_a_cut_stops_both_until_it_is_mended() {
    let Some((lab, _machine)) = lab("rtt=2ms") else { return };
    let addr = SocketAddr::from((lab.left().addr(), 0));
    let listener =
        lab.left().spawn("listen", move || TcpListener::bind(addr).unwrap()).unwrap().join().unwrap();
    let addr = listener.local_addr().unwrap();
    let connected = lab.right().spawn("connect", move || TcpStream::connect(addr).unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let mut client = connected.join().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let (left, right) = sockets(&lab);
    let once = |from: &UdpSocket, to: &UdpSocket| {
        from.send(b"x").unwrap();
        to.recv(&mut [0; 8]).is_ok()
    };
    let mut byte = |client: &mut TcpStream| {
        client.write_all(b"x").unwrap();
        server.read_exact(&mut [0]).is_ok()
    };
    assert!(once(&right, &left) && byte(&mut client));
    lab.set(link("rtt=2ms,block=udp"));
    assert!(!once(&right, &left) && byte(&mut client));
    lab.set(link("block=all"));
    assert!(!once(&right, &left) && !byte(&mut client));
    lab.set(link("rtt=2ms"));
    assert!(once(&right, &left));
    // TCP sends the byte again by itself, and the next one after it.
    server_reads(&mut byte, &mut client);
}

/// Until what TCP still has to repeat is through.
fn server_reads(byte: &mut impl FnMut(&mut TcpStream) -> bool, client: &mut TcpStream) {
    let until = Instant::now() + Duration::from_secs(10);
    while !byte(client) {
        assert!(Instant::now() < until, "TCP did not come back");
    }
}

#[test]
fn commands_and_kernel_settings_belong_to_a_side() {
    let Some((lab, _machine)) = lab("clean") else { return };
    lab.left().set_kernel("net.ipv4.tcp_congestion_control", "reno").unwrap();
    let reads = |side: &twinlane_netlab::Side| {
        let output = side.command("cat").arg("/proc/sys/net/ipv4/tcp_congestion_control").output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(reads(lab.left()), "reno");
    assert_eq!(lab.left().kernel("net.ipv4.tcp_congestion_control").unwrap(), "reno");
    assert_ne!(reads(lab.right()), "reno");
    let error = lab.left().set_kernel("net.ipv4.tcp_congestion_control", "pigeons").unwrap_err().to_string();
    assert!(error.starts_with("cannot set net.ipv4.tcp_congestion_control to pigeons"), "{error}");
}

#[test]
fn labs_do_not_see_each_other_and_leave_nothing_behind() {
    let Some((first, _machine)) = lab("clean") else { return };
    let second = Lab::start(link("block=all"), SEED).unwrap();
    let (left, right) = sockets(&second);
    right.send(b"x").unwrap();
    assert!(left.recv(&mut [0; 8]).is_err());
    assert_eq!(first.counts().up.offered, 0);
    let path = second.left().command("true").get_args().next().unwrap().to_str().unwrap()[6..].to_owned();
    assert!(std::fs::metadata(&path).is_ok(), "{path}");
    drop((second, left, right));
    assert!(std::fs::metadata(&path).is_err(), "{path} is still there");
}
