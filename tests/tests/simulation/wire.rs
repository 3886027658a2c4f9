//! One connection: two pipes, and over QUIC two lanes of datagrams, which may be lost, late, doubled or out of order.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;
use twinlane::simulation::{Connection, DatagramPath, Waiting};

use crate::network::{Direction, Path};
use crate::pipe::{Pipe, StreamEnd};

/// Bytes that wait to leave a sender.
const SEND_BYTES_MAX: usize = 64 << 10;
/// Datagrams that wait to be read; more are lost.
const UNREAD_MAX: usize = 512;
/// The largest datagram.
const DATAGRAM_BYTES_MAX: usize = 1_200;

/// A connection between a client and the server.
pub(crate) struct Wire {
    pub(crate) path: Path,
    /// By [`Direction`]: up is from the client.
    pipes: [Arc<Pipe>; 2],
    lanes: Option<[Lane; 2]>,
    /// Why it is over for the client, and for the server.
    over: Mutex<[Option<String>; 2]>,
    changed: [Notify; 2],
}

#[derive(Default)]
struct Lane(Mutex<LaneState>);

#[derive(Default)]
struct LaneState {
    arriving: BTreeMap<(Instant, u64), Bytes>,
    sent: u64,
    /// When the last datagram has left.
    leaves_at: Option<Instant>,
}

impl Wire {
    /// A connection and both of its ends, the client's first.
    pub(crate) fn new(path: &Path, quic: bool) -> (Arc<Self>, [Connection; 2]) {
        let capacity_bytes = path.capacity_bytes();
        let wire = Arc::new(Self {
            path: path.clone(),
            pipes: [Direction::Up, Direction::Down].map(|direction| Pipe::new(direction, capacity_bytes)),
            lanes: quic.then(Default::default),
            over: Mutex::default(),
            changed: Default::default(),
        });
        let ends = [0, 1].map(|side| Connection {
            peer: path.peer(side),
            stream: Box::new(StreamEnd {
                incoming: Arc::clone(&wire.pipes[1 - side]),
                outgoing: Arc::clone(&wire.pipes[side]),
                path: path.clone(),
                _wire: Arc::clone(&wire),
                waits_for_last: quic,
                sleep: None,
            }),
            datagrams: quic.then(|| Arc::new(DatagramEnd { wire: Arc::clone(&wire), side }) as _),
        });
        (wire, ends)
    }

    pub(crate) fn is_quic(&self) -> bool {
        self.lanes.is_some()
    }

    /// Something on the way cuts the connection: both ends find out.
    pub(crate) fn reset(&self) {
        let at = Some(Instant::now() + self.path.latency());
        for (side, pipe) in self.pipes.iter().enumerate() {
            pipe.break_writer();
            pipe.break_reader(at);
            self.end(side, "reset");
        }
    }

    /// The server's process is gone. Its system says so, unless that is gone as well.
    pub(crate) fn server_died(&self, silently: bool) {
        let [up, down] = &self.pipes;
        up.break_reader(Some(Instant::now()));
        up.deafen();
        down.break_writer();
        self.end(1, "the server died");
        if !silently {
            down.break_reader(self.path.arrival(Direction::Down, 0));
        }
    }

    /// The server's system is back and knows nothing of this connection: what a client sends again is answered so.
    pub(crate) fn server_is_back(&self) {
        let [up, down] = &self.pipes;
        if self.over(1).is_none() || !(up.is_unheard() || self.is_quic()) {
            return;
        }
        down.break_reader(Some(Instant::now() + self.path.retransmission()));
        up.break_writer();
        self.end(0, "the server knows nothing of it");
    }

    /// Nothing comes through in `direction`.
    pub(crate) fn cut(&self, direction: Direction) {
        self.pipes[direction as usize].cut();
        if let Some(lanes) = &self.lanes {
            let now = Instant::now();
            lanes[direction as usize].lock().arriving.retain(|(at, _), _| *at <= now);
        }
    }

    pub(crate) fn heal(&self) {
        for pipe in &self.pipes {
            pipe.heal(self.path.retransmission());
        }
        if self.path.answers() {
            self.server_is_back();
        }
    }

    /// A QUIC connection without a sign of life for too long, at both ends.
    pub(crate) fn time_out(&self) {
        for (side, pipe) in self.pipes.iter().enumerate() {
            pipe.break_writer();
            pipe.break_reader(Some(Instant::now()));
            self.end(side, "timed out");
        }
    }

    /// `side` ends a QUIC connection; the other end hears of it if the path lets it through.
    fn close(self: &Arc<Self>, side: usize, reason: &str) {
        if !self.end(side, reason) {
            return;
        }
        self.pipes[side].break_writer();
        self.pipes[1 - side].break_reader(Some(Instant::now()));
        let direction = if side == 0 { Direction::Up } else { Direction::Down };
        if let Some(at) = self.path.arrival(direction, 0) {
            let (wire, reason) = (Arc::clone(self), reason.to_owned());
            tokio::spawn(async move {
                tokio::time::sleep_until(at).await;
                wire.pipes[1 - side].break_writer();
                wire.pipes[side].break_reader(Some(at));
                wire.end(1 - side, &reason);
            });
        }
    }

    /// Whether it was not over before.
    fn end(&self, side: usize, reason: &str) -> bool {
        let mut over = self.over.lock().expect("no holder of this lock panics");
        let first = over[side].is_none();
        over[side].get_or_insert_with(|| reason.to_owned());
        drop(over);
        self.changed[side].notify_waiters();
        first
    }

    fn over(&self, side: usize) -> Option<String> {
        self.over.lock().expect("no holder of this lock panics")[side].clone()
    }
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, LaneState> {
        self.0.lock().expect("no holder of this lock panics")
    }

    fn queued_bytes(&self, path: &Path) -> usize {
        let waiting = self.lock().leaves_at.map_or(Duration::ZERO, |at| at - Instant::now().min(at));
        path.bytes_in(waiting)
    }
}

/// One end's datagrams.
struct DatagramEnd {
    wire: Arc<Wire>,
    side: usize,
}

impl DatagramEnd {
    fn lane(&self, side: usize) -> &Lane {
        &self.wire.lanes.as_ref().expect("only a QUIC connection has an end for datagrams")[side]
    }

    fn direction(&self) -> Direction {
        if self.side == 0 { Direction::Up } else { Direction::Down }
    }

    async fn next(&self) -> Result<Bytes, String> {
        loop {
            let changed = self.wire.changed[self.side].notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(why) = self.wire.over(self.side) {
                return Err(why);
            }
            let next = {
                let mut lane = self.lane(1 - self.side).lock();
                match lane.arriving.first_entry() {
                    Some(first) if first.key().0 <= Instant::now() => return Ok(first.remove()),
                    first => first.map(|first| first.key().0),
                }
            };
            match next {
                None => changed.await,
                Some(at) => {
                    tokio::select! {
                        biased;
                        () = changed => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
            }
        }
    }
}

impl DatagramPath for DatagramEnd {
    fn datagram_bytes_max(&self) -> usize {
        DATAGRAM_BYTES_MAX
    }

    fn send_space_bytes(&self) -> usize {
        SEND_BYTES_MAX.saturating_sub(self.lane(self.side).queued_bytes(&self.wire.path))
    }

    fn send(&self, datagram: Bytes) -> Result<(), String> {
        if let Some(why) = self.wire.over(self.side) {
            return Err(why);
        }
        let (path, now) = (&self.wire.path, Instant::now());
        let mut lane = self.lane(self.side).lock();
        let leaves_at = lane.leaves_at.map_or(now, |at| at.max(now)) + path.time_for(datagram.len());
        lane.leaves_at = Some(leaves_at);
        for delay in path.datagram(self.direction(), datagram.len()) {
            if lane.arriving.len() < UNREAD_MAX {
                let number = lane.sent;
                lane.sent += 1;
                lane.arriving.insert((leaves_at + delay, number), datagram.clone());
            }
        }
        drop(lane);
        self.wire.changed[1 - self.side].notify_waiters();
        Ok(())
    }

    fn room(&self, bytes: usize) -> Waiting<'_, Result<(), String>> {
        Box::pin(async move {
            while self.send_space_bytes() < bytes.min(SEND_BYTES_MAX) {
                if let Some(why) = self.wire.over(self.side) {
                    return Err(why);
                }
                tokio::time::sleep(self.wire.path.time_for(bytes).max(Duration::from_millis(1))).await;
            }
            Ok(())
        })
    }

    fn recv(&self) -> Waiting<'_, Result<Bytes, String>> {
        Box::pin(self.next())
    }

    fn close(&self, reason: &str) {
        self.wire.close(self.side, reason);
    }

    fn closed(&self) -> Waiting<'_, String> {
        Box::pin(async move {
            loop {
                let changed = self.wire.changed[self.side].notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(why) = self.wire.over(self.side) {
                    return why;
                }
                changed.await;
            }
        })
    }
}

impl Drop for DatagramEnd {
    /// As QUIC does when the last handle is gone.
    fn drop(&mut self) {
        if tokio::runtime::Handle::try_current().is_ok() {
            self.wire.close(self.side, "");
        }
    }
}
