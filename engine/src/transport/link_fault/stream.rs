//! A TCP connection that takes its time, carries only so much and can be cut: a task carries its bytes both ways.

use std::time::Duration;

use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf,
};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::course::time_of;
use super::{LinkFault, Way};
use crate::transport::stream::Stream;

/// Bytes that are read at a time, and that wait for the rate: as little as a socket keeps while fast topics go over it.
const CHUNK_BYTES: usize = 16 << 10;
/// Chunks under way in each direction: with [`CHUNK_BYTES`] 1 MiB.
const CHUNKS_MAX: usize = 64;
/// How long the server may take to end a connection after the session has.
const CLOSE_PATIENCE: Duration = Duration::from_secs(3);

impl LinkFault {
    /// `stream` with the faults of this link.
    pub(crate) fn carry(&self, stream: Stream) -> Stream {
        let (near, far) = tokio::io::duplex(CHUNK_BYTES);
        let carried = stream.carried_by(Box::new(near));
        tokio::spawn(carry(stream, far, self.clone(), self.0.cuts.subscribe()));
        carried
    }
}

async fn carry(stream: Stream, session: DuplexStream, link: LinkFault, mut cuts: watch::Receiver<u64>) {
    let (from_server, to_server) = tokio::io::split(stream);
    let (from_session, to_session) = tokio::io::split(session);
    let both = both_ways((from_session, to_server), (from_server, to_session), &link);
    tokio::select! {
        biased;
        _ = cuts.changed() => {}
        () = both => {}
    }
}

type Pipe<F, T> = (ReadHalf<F>, WriteHalf<T>);

async fn both_ways(
    (from_session, to_server): Pipe<DuplexStream, Stream>,
    (from_server, to_session): Pipe<Stream, DuplexStream>,
    link: &LinkFault,
) {
    let incoming = copy(from_server, to_session, link, Way::Incoming);
    tokio::pin!(incoming);
    tokio::select! {
        () = copy(from_session, to_server, link, Way::Outgoing) => {
            let _ = tokio::time::timeout(CLOSE_PATIENCE, incoming).await;
        }
        () = &mut incoming => {}
    }
}

/// Carries one direction to its end.
async fn copy(from: impl AsyncRead + Unpin, to: impl AsyncWrite + Unpin, link: &LinkFault, way: Way) {
    let (queue, queued) = mpsc::channel(CHUNKS_MAX);
    tokio::join!(take(from, queue, link, way), give(queued, to));
}

/// Reads as fast as the rate allows.
async fn take(
    mut from: impl AsyncRead + Unpin,
    queue: mpsc::Sender<(Instant, Vec<u8>)>,
    link: &LinkFault,
    way: Way,
) {
    let mut free_at = Instant::now();
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let Ok(bytes @ 1..) = from.read(&mut chunk).await else { return };
        chunk.truncate(bytes);
        let faults = link.course(way).faults;
        free_at = free_at.max(Instant::now()) + time_of(bytes as u64, faults.bytes_per_second);
        tokio::time::sleep_until(free_at).await;
        if queue.send((free_at + faults.delay, chunk)).await.is_err() {
            return;
        }
    }
}

/// Writes what is due.
async fn give(mut queued: mpsc::Receiver<(Instant, Vec<u8>)>, mut to: impl AsyncWrite + Unpin) {
    while let Some((due, chunk)) = queued.recv().await {
        tokio::time::sleep_until(due).await;
        if to.write_all(&chunk).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    // Fails only where the other end is gone.
    let _ = to.shutdown().await;
}
