//! Room in the queue of datagrams, over loopback sockets.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::transport::{ConnectionLimits, IoThreads, ListenConfig, Listener, ServerTls};
use crate::{Identity, Trust};

const TIMEOUT: Duration = Duration::from_secs(20);
const DATAGRAM_BYTES: usize = 1_000;
/// A datagram that a server closes the connection at, and what it says then.
const ENOUGH: &str = "enough";

/// A server that reads datagrams and counts them.
struct Reader {
    listener: Listener,
    tls: ServerTls,
    read: Arc<AtomicUsize>,
}

impl Reader {
    fn start() -> Self {
        let config = ListenConfig {
            addr: "127.0.0.1:0".parse().expect("an address"),
            tcp: false,
            quic: true,
            plain: false,
            limits: ConnectionLimits::default(),
        };
        let tls = ServerTls::new(&Identity::SelfSignedInMemory).expect("a certificate");
        let threads = IoThreads::current();
        let listener = Listener::bind(config, Some(&tls), &threads).expect("a free port");
        let read = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&read);
        let serving = listener.serve(&threads, move |incoming| {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let _stream = incoming.stream;
                let datagrams = incoming.datagrams.expect("a QUIC connection has datagrams");
                while let Ok(datagram) = datagrams.recv().await {
                    count.fetch_add(1, Ordering::Relaxed);
                    if datagram == ENOUGH {
                        datagrams.close(7, ENOUGH);
                    }
                }
            });
        });
        serving.expect("it was not started before");
        Self { listener, tls, read }
    }

    /// The stream keeps the connection known to the server.
    async fn connect(&self) -> (Stream, Datagrams) {
        let tls = ClientTls::new(&Trust::Fingerprint(self.tls.fingerprint())).expect("a pinned server");
        let connected = connect_quic(self.listener.local_addr(), "localhost", &tls, TIMEOUT, None).await;
        let (mut stream, datagrams) = connected.expect("the server is there");
        stream.write_all(b"x").await.expect("the connection is open");
        (stream, datagrams)
    }
}

async fn room(datagrams: &Datagrams) -> usize {
    let room = poll_fn(|cx| datagrams.poll_room(cx));
    tokio::time::timeout(TIMEOUT, room).await.expect("somebody wakes who waits for room")
}

#[tokio::test]
async fn who_waits_for_room_is_woken_until_everything_is_sent() {
    let server = Reader::start();
    let (_stream, datagrams) = server.connect().await;
    let mut left = 20_000;
    while left > 0 {
        let mut room = room(&datagrams).await;
        while left > 0 && room >= DATAGRAM_BYTES {
            datagrams.send(Bytes::from_static(&[7; DATAGRAM_BYTES])).expect("there is room");
            room -= DATAGRAM_BYTES;
            left -= 1;
        }
    }
    let some = async {
        while server.read.load(Ordering::Relaxed) < 10_000 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TIMEOUT, some).await.expect("most datagrams arrive on loopback");
}

#[tokio::test]
async fn a_closed_connection_ends_the_wait_for_room() {
    let server = Reader::start();
    let (_stream, datagrams) = server.connect().await;
    // Nothing leaves before the next await.
    for _ in 0..DATAGRAM_SEND_BYTES / DATAGRAM_BYTES {
        datagrams.send(Bytes::from_static(&[7; DATAGRAM_BYTES])).expect("there is space");
    }
    let mut looked = 0;
    let waiting = poll_fn(|cx| {
        looked += 1;
        datagrams.poll_room(cx)
    });
    let both = async { tokio::join!(waiting, async { datagrams.close(7, ENOUGH) }) };
    tokio::time::timeout(TIMEOUT, both).await.expect("closing wakes who waits for room");
    assert!(looked > 1, "there was room in a full queue");
    assert!(datagrams.send(Bytes::from_static(b"late")).is_err());
}

#[tokio::test]
async fn a_connection_that_is_closed_again_still_says_why_it_ended() {
    let server = Reader::start();
    let (_stream, datagrams) = server.connect().await;
    datagrams.send(Bytes::from_static(ENOUGH.as_bytes())).expect("there is room");
    let ended = tokio::time::timeout(TIMEOUT, datagrams.closed()).await.expect("the server closes it");
    assert!(ended.to_string().contains(ENOUGH), "{ended}");
    datagrams.close(0, "");
    assert_eq!(datagrams.closed().await.to_string(), ended.to_string());
}
