//! A connection's datagrams: fast topics packed up to the path's limit, many per wake.
//!
//! Our ring is the queue; QUIC's own buffer is kept small, because it drops the oldest and tells nobody.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use twinlane_proto::control::{Gap, StreamEnd};
use twinlane_proto::frame::{Decoder, FrameError, Frames, Item, Packer, Push, decode_datagram};
use twinlane_proto::session::Input;
use twinlane_proto::{Code, Control};

use super::outlet::{Outlet, Verdict};
use super::{Closing, Link, Piece};
use crate::cursors::{Cursors, Step};
use crate::message::TopicRun;
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
            biased;
            datagram = datagrams.recv() => datagram,
            () = link.wait_over() => break,
        };
        let Ok(datagram) = datagram else { break };
        activity();
        if let Err(Bad(closing)) = decode_datagram(&datagram, &mut decoder, |item, ends| {
            dispatch(&link, &datagram, item, ends).map_err(Bad)
        }) {
            link.close(closing.code, &closing.reason);
            break;
        }
    }
    datagrams.close(0, "");
}

fn dispatch(link: &Arc<Link>, datagram: &Bytes, item: Item<'_>, ends: &[u32]) -> Result<(), Closing> {
    match item {
        Item::Control(frame) => {
            link.input(Input::Control(frame));
            Ok(())
        }
        Item::Frames { run, first, bytes, .. } => {
            let bytes = datagram.slice_ref(bytes);
            link.peer.frames(link, Piece { lane: run.lane, topic: run.topic, first, bytes, ends })
        }
    }
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
    /// The frames that wait to be packed.
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

    async fn pack(&mut self, key: u32, run: TopicRun) -> Result<(), DatagramError> {
        let outlet = self.cursors.tag(key).clone();
        let position = run.first_offset() + run.frames() as u64;
        let mut rest = Rest { number: run.first_offset() + outlet.first_number, byte: 0 };
        // Grows while the path is probed for larger packets.
        if let Some(datagram_bytes_max) = self.datagrams.datagram_bytes_max() {
            self.packer.set_datagram_bytes_max(datagram_bytes_max);
        }
        if !self.pack_without_waiting(&outlet, run.bytes(), &mut rest)? {
            // Waiting for a slow peer must not pin the topic's memory.
            let mut turn = std::mem::take(&mut self.turn);
            turn.clear();
            turn.extend_from_slice(&run.bytes()[rest.byte..]);
            rest.byte = 0;
            drop(run);
            self.send_packed().await?;
            while !self.pack_without_waiting(&outlet, &turn, &mut rest)? {
                self.send_packed().await?;
            }
            self.turn = turn;
        }
        outlet.owner.sent(position);
        Ok(())
    }

    /// Packs `run` from `rest` on and sends full datagrams, until QUIC takes no more: then `false`.
    fn pack_without_waiting(
        &mut self,
        outlet: &Outlet,
        run: &[u8],
        rest: &mut Rest,
    ) -> Result<bool, DatagramError> {
        loop {
            let (frames, bytes) =
                self.packer.push_run(outlet.lane, outlet.topic, rest.number, &run[rest.byte..]);
            rest.pass(frames, bytes);
            let Some(frame) = Frames::new(&run[rest.byte..]).next() else { return Ok(true) };
            if frame.is_end() {
                if !self.try_send_packed()? {
                    return Ok(false);
                }
                let (source, last_seq) = (frame.source(), frame.seq());
                let end = StreamEnd { subscription: outlet.lane, topic: outlet.topic, source, last_seq };
                self.link.send(Control::StreamEnd(end));
                rest.pass(1, frame.frame_bytes());
                continue;
            }
            match self.packer.push(outlet.lane, outlet.topic, rest.number, frame.as_bytes()) {
                Push::Packed => rest.pass(1, frame.frame_bytes()),
                Push::Full if self.try_send_packed()? => {}
                Push::Full => return Ok(false),
                Push::TooBig => {
                    outlet.owner.too_big();
                    rest.pass(1, frame.frame_bytes());
                }
            }
        }
    }

    /// Sends what is packed, if QUIC has room for it now.
    fn try_send_packed(&mut self) -> Result<bool, DatagramError> {
        if self.packer.bytes() > self.datagrams.send_space_bytes() {
            return Ok(false);
        }
        let Some(datagram) = self.packer.take() else { return Ok(true) };
        activity();
        unless_too_large(self.datagrams.send(datagram)).map(|()| true)
    }

    /// Sends what is packed. Waits while QUIC's buffer is full: that is where congestion control holds us back.
    async fn send_packed(&mut self) -> Result<(), DatagramError> {
        if self.try_send_packed()? {
            return Ok(());
        }
        let Some(datagram) = self.packer.take() else { return Ok(()) };
        activity();
        unless_too_large(self.datagrams.send_wait(datagram).await)
    }
}

/// How far a run has been packed.
struct Rest {
    /// Number of the next frame, and where it begins.
    number: u64,
    byte: usize,
}

impl Rest {
    fn pass(&mut self, frames: u64, bytes: usize) {
        self.number += frames;
        self.byte += bytes;
    }
}

/// The path may have shrunk since a datagram was packed: its messages are lost, as any on the way may be.
fn unless_too_large(sent: Result<(), DatagramError>) -> Result<(), DatagramError> {
    match sent {
        Err(DatagramError::TooLarge { .. }) => Ok(()),
        sent => sent,
    }
}
