//! A connection's datagrams: fast topics packed up to the path's limit, many per wake.
//!
//! Our ring is the queue; QUIC's own buffer is kept small, because it drops the oldest and tells nobody.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use twinlane_proto::control::{Gap, StreamEnd};
use twinlane_proto::frame::{Decoder, FrameError, Frames, Packer, Push, decode_datagram};
use twinlane_proto::{Code, Control};
use twinlane_ring::Run;

use super::outlet::{Outlet, Verdict};
use super::{Closing, Link, reader};
use crate::cursors::{Cursors, Step};
use crate::transport::{DatagramError, Datagrams, activity};

/// Bytes taken from one ring before the others get their turn.
const TURN_BYTES: usize = 32 << 10;
/// A frame in a datagram can never be larger than this.
const DATAGRAM_BYTES_MAX: usize = 64 << 10;

/// Hands on what arrives until the QUIC connection or the link ends.
pub(super) async fn read(link: Arc<Link>, datagrams: Datagrams) {
    let mut decoder = Decoder::stream(DATAGRAM_BYTES_MAX);
    loop {
        let datagram = tokio::select! {
            datagram = datagrams.recv() => datagram,
            () = link.wait_over() => break,
        };
        let Ok(datagram) = datagram else { break };
        activity();
        if let Err(Bad(closing)) = decode_datagram(&datagram, &mut decoder, |item, ends| {
            reader::dispatch(&link, item, ends).map_err(Bad)
        }) {
            link.close(closing.code, &closing.reason);
            break;
        }
    }
    datagrams.close(0, "");
}

struct Bad(Closing);

impl From<FrameError> for Bad {
    fn from(error: FrameError) -> Self {
        Self(Closing::new(Code::ProtocolViolation, error.to_string()))
    }
}

/// Sends fast topics until the QUIC connection or the link ends; then they are on the stream again.
pub(super) async fn write(link: Arc<Link>, datagrams: Datagrams) {
    let datagram_bytes_max = datagrams.datagram_bytes_max().unwrap_or(0);
    let mut writer = Writer {
        link: Arc::clone(&link),
        datagrams,
        cursors: Cursors::new(),
        packer: Packer::new(datagram_bytes_max),
        turn: Vec::new(),
    };
    let why = match writer.write_all().await {
        Ok(()) => String::from("the connection closed"),
        Err(error) => error.to_string(),
    };
    link.detach();
    for seat in link.datagrams.shut(&mut writer.cursors) {
        let _ = link.stream.add(seat);
    }
    writer.datagrams.close(0, "");
    if !link.is_over() {
        link.peer.datagrams_lost(&link, &why);
    }
}

struct Writer {
    link: Arc<Link>,
    datagrams: Datagrams,
    cursors: Cursors<Outlet>,
    packer: Packer,
    /// The frames being packed.
    turn: Vec<u8>,
}

enum Work {
    Step(u32, Step),
    Flush,
    Over,
}

impl Writer {
    async fn write_all(&mut self) -> Result<(), DatagramError> {
        let datagrams = self.datagrams.clone();
        let closed = datagrams.closed();
        tokio::pin!(closed);
        loop {
            let work = tokio::select! {
                biased;
                work = std::future::poll_fn(|cx| self.poll_work(cx)) => work,
                _ = &mut closed => return Ok(()),
            };
            match work {
                Work::Step(key, Step::Run(run)) => self.pack(key, run).await?,
                Work::Step(key, Step::Missed { from, to }) => {
                    match self.cursors.tag(key).owner.missed(from, to) {
                        Verdict::Skip(gap) => self.say_gap(gap).await?,
                        Verdict::End(ended) => {
                            self.cursors.remove(key);
                            self.link.send(Control::Unsubscribed(ended));
                        }
                    }
                }
                Work::Step(key, Step::Closed) => {
                    if let Some(outlet) = self.cursors.remove(key) {
                        outlet.owner.closed(&self.link);
                    }
                }
                Work::Flush => {
                    self.send_packed().await?;
                    // An idle connection keeps little.
                    self.turn.shrink_to(1 << 10);
                }
                Work::Over => return Ok(()),
            }
        }
    }

    fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<Work> {
        if self.link.is_over() {
            return Poll::Ready(Work::Over);
        }
        self.link.datagrams.register(cx.waker());
        let _none = self.link.datagrams.apply(&mut self.cursors);
        match self.cursors.poll_next(cx, TURN_BYTES) {
            Poll::Ready((key, step)) => Poll::Ready(Work::Step(key, step)),
            Poll::Pending if !self.packer.is_empty() => Poll::Ready(Work::Flush),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Goes in order with the messages around it, so that the subscriber knows which hole it explains.
    async fn say_gap(&mut self, gap: Option<Gap>) -> Result<(), DatagramError> {
        let Some(gap) = gap else { return Ok(()) };
        let mut frame = Vec::new();
        Control::Gap(gap).encode(&mut frame);
        if matches!(self.packer.push_control(&frame), Push::Full) {
            self.send_packed().await?;
            // An empty datagram always takes it; a path too small for it takes no messages either.
            let _ = self.packer.push_control(&frame);
        }
        Ok(())
    }

    async fn pack(&mut self, key: u32, run: Run) -> Result<(), DatagramError> {
        let outlet = self.cursors.tag(key).clone();
        let position = run.first_offset() + run.frames() as u64;
        let first = run.first_offset() + outlet.first_number;
        // Copied, because sending may wait for a slow peer, who must not pin the topic's memory meanwhile.
        let mut turn = std::mem::take(&mut self.turn);
        turn.clear();
        turn.extend_from_slice(run.bytes());
        drop(run);
        // Grows while the path is probed for larger packets.
        if let Some(datagram_bytes_max) = self.datagrams.datagram_bytes_max() {
            self.packer.set_datagram_bytes_max(datagram_bytes_max);
        }
        for (number, frame) in (first..).zip(Frames::new(&turn)) {
            if frame.is_end() {
                let (source, last_seq) = (frame.header().source, frame.header().seq);
                self.send_packed().await?;
                let end = StreamEnd { subscription: outlet.lane, topic: outlet.topic, source, last_seq };
                self.link.send(Control::StreamEnd(end));
            } else {
                self.pack_frame(&outlet, number, frame.as_bytes()).await?;
            }
        }
        self.turn = turn;
        outlet.owner.sent(position);
        Ok(())
    }

    async fn pack_frame(&mut self, outlet: &Outlet, number: u64, frame: &[u8]) -> Result<(), DatagramError> {
        loop {
            match self.packer.push(outlet.lane, outlet.topic, number, frame) {
                Push::Packed => return Ok(()),
                Push::Full => self.send_packed().await?,
                Push::TooBig => {
                    outlet.owner.too_big();
                    return Ok(());
                }
            }
        }
    }

    async fn send_packed(&mut self) -> Result<(), DatagramError> {
        let Some(datagram) = self.packer.take() else { return Ok(()) };
        activity();
        self.send(datagram).await
    }

    /// Waits while QUIC's buffer is full: that is where congestion control holds us back.
    async fn send(&self, datagram: Bytes) -> Result<(), DatagramError> {
        let sent = if datagram.len() <= self.datagrams.send_space_bytes() {
            self.datagrams.send(datagram)
        } else {
            self.datagrams.send_wait(datagram).await
        };
        match sent {
            // The path shrank since it was packed: these messages are lost, as any on the way may be.
            Err(DatagramError::TooLarge { .. }) => Ok(()),
            sent => sent,
        }
    }
}
