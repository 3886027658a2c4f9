//! Packs fast topics into datagrams: new frames, frames in fragments, and again what the path may have lost.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::Sleep;
use twinlane_proto::Control;
use twinlane_proto::control::StreamEnd;
use twinlane_proto::frame::{Frames, MessageRef, Packer, Push, deadline_us};

use super::settling::{Sent, Settling};
use crate::cursors::{Cursors, Step};
use crate::fast::{arrive, is_in_time, remaining_us, ticks_us};
use crate::link::fragments::{Place, Splitter, parity_for};
use crate::link::outlet::{Outlet, Verdict};
use crate::link::redundancy::{Origin, PathCounts, PathLoss, Repeats};
use crate::link::{Link, Seat, now};
use crate::message::{TopicRun, offset_near};
use crate::transport::{DatagramError, Datagrams, activity};

/// Bytes taken from one ring before the others get their turn.
const TURN_BYTES: usize = 32 << 10;
/// How often the path's counters are looked at while something is sent.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Sends fast topics until the QUIC connection or the link ends; then they are on the stream again.
pub(in crate::link) async fn write(link: Arc<Link>, datagrams: Datagrams) {
    let mut writer = Writer::new(Arc::clone(&link), datagrams);
    let why = match writer.write_all().await {
        Ok(()) => String::from("the connection closed"),
        Err(error) => error.to_string(),
    };
    link.detach();
    for (key, from) in writer.settling.unsettled() {
        writer.cursors.read_again(key, from);
    }
    for (_, seat) in link.datagrams.shut(&mut writer.cursors) {
        let _ = link.stream.add(seat);
    }
    writer.datagrams.close(0, "");
    if !link.is_over() {
        link.datagrams_over(&why);
    }
}

struct Writer {
    link: Arc<Link>,
    datagrams: Datagrams,
    cursors: Cursors<Outlet>,
    packer: Packer,
    splitter: Splitter,
    /// Fragments that wait for room.
    fragments: VecDeque<Fragment>,
    loss: PathLoss,
    looked_at: Option<Instant>,
    repeats: Repeats,
    settling: Settling,
    timer: Pin<Box<Sleep>>,
    /// Where a frame is stamped that is sent from other memory.
    stamped: Vec<u8>,
}

/// A datagram with a part of a message, worth sending until the message's deadline.
struct Fragment {
    datagram: Bytes,
    expiry: Option<u32>,
}

impl Writer {
    fn new(link: Arc<Link>, datagrams: Datagrams) -> Self {
        let datagram_bytes_max = datagrams.datagram_bytes_max().unwrap_or(0);
        Self {
            link,
            datagrams,
            cursors: Cursors::new(),
            packer: Packer::new(datagram_bytes_max),
            splitter: Splitter::default(),
            fragments: VecDeque::new(),
            loss: PathLoss::new(),
            looked_at: None,
            repeats: Repeats::new(),
            settling: Settling::default(),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            stamped: Vec::new(),
        }
    }

    async fn write_all(&mut self) -> Result<(), DatagramError> {
        let datagrams = self.datagrams.clone();
        let closed = datagrams.closed();
        tokio::pin!(closed);
        tokio::select! {
            biased;
            done = std::future::poll_fn(|cx| self.poll_write(cx)) => done,
            why = &mut closed => Err(why),
        }
    }

    /// Sends whatever there is and room for. Ready: the link is over, or the QUIC connection is.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DatagramError>> {
        loop {
            if self.link.is_over() {
                return Poll::Ready(Ok(()));
            }
            self.link.datagrams.register(cx.waker());
            for (key, seat) in self.link.datagrams.apply(&mut self.cursors) {
                self.move_to_stream(key, seat);
            }
            let Poll::Ready(room_bytes) = self.datagrams.poll_room(cx) else {
                if self.repeats.is_on() {
                    self.repeats.held_up(now());
                }
                return Poll::Pending;
            };
            self.cursors.set_way(self.datagrams.way());
            let settled_bytes = match self.settling.next_due() {
                Some(due) => self.settle(due, room_bytes / 2)?,
                None => 0,
            };
            if let Some(fragment) = self.fragments.pop_front() {
                self.send_fragment(fragment)?;
                continue;
            }
            // Of each datagram half may be copies.
            let rest_bytes = (room_bytes - settled_bytes) / if self.repeats.is_on() { 2 } else { 1 };
            match self.cursors.poll_next(cx, TURN_BYTES.min(rest_bytes)) {
                Poll::Ready((key, step)) => self.take(key, step)?,
                Poll::Pending if !self.packer.is_empty() => self.send_packed()?,
                Poll::Pending => {
                    self.tell_left_out();
                    if self.poll_due(cx, room_bytes)?.is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    fn take(&mut self, key: u32, step: Step) -> Result<(), DatagramError> {
        match step {
            Step::Run(run) => {
                let outlet = self.cursors.tag(key).clone();
                let position = run.end_offset();
                if outlet.settles {
                    self.note_sent(key, &run);
                }
                let packed = self.pack(&outlet, &run);
                // Also where the connection is lost: nobody waits for these any more.
                outlet.owner.sent(position);
                if let Some(left_out) = outlet.owner.left_out(false) {
                    self.link.send(left_out);
                }
                packed?;
            }
            Step::Missed { from, to } => match self.cursors.tag(key).owner.missed(&self.link, from, to) {
                Verdict::Skip(gap) => gap.into_iter().for_each(|gap| self.link.send(Control::Gap(gap))),
                Verdict::End(ended) => {
                    self.remove(key);
                    self.link.send(Control::Unsubscribed(ended));
                }
            },
            Step::Closed => {
                if let Some(outlet) = self.remove(key) {
                    outlet.owner.left_out(true).into_iter().for_each(|told| self.link.send(told));
                    outlet.owner.closed(&self.link);
                }
            }
        }
        Ok(())
    }

    fn remove(&mut self, key: u32) -> Option<Outlet> {
        self.settling.forget(key);
        let outlet = self.cursors.remove(key)?;
        self.repeats.forget_lane(outlet.lane);
        Some(outlet)
    }

    /// There is nothing to send: whoever missed something hears of it now.
    fn tell_left_out(&mut self) {
        while let Some(outlet) = self.cursors.take_touched() {
            if let Some(left_out) = outlet.owner.left_out(true) {
                self.link.send(left_out);
            }
        }
    }
}

/// New frames.
impl Writer {
    fn pack(&mut self, outlet: &Outlet, run: &TopicRun) -> Result<(), DatagramError> {
        self.look_at_path();
        let mut rest = Rest { number: run.first_offset() + outlet.first_number, byte: 0 };
        loop {
            if !self.repeats.is_on() {
                let rest_bytes = &run.bytes()[rest.byte..];
                let (frames, bytes) =
                    self.packer.push_run(outlet.lane, outlet.topic, rest.number, rest_bytes);
                rest.pass(frames, bytes);
            }
            let Some(frame) = Frames::new(&run.bytes()[rest.byte..]).next() else { return Ok(()) };
            if frame.is_end() {
                self.send_packed()?;
                outlet.owner.left_out(true).into_iter().for_each(|told| self.link.send(told));
                let (source, last_seq) = (frame.source(), frame.seq());
                let end = StreamEnd { subscription: outlet.lane, topic: outlet.topic, source, last_seq };
                self.link.send(Control::StreamEnd(end));
                rest.pass(1, frame.frame_bytes());
                continue;
            }
            let origin = Origin { lane: outlet.lane, topic: outlet.topic, number: rest.number };
            match self.push(origin, &frame) {
                Push::Packed => rest.pass(1, frame.frame_bytes()),
                Push::Full => self.send_packed()?,
                Push::TooBig => {
                    self.send_packed()?;
                    self.cut(outlet, origin, &frame);
                    rest.pass(1, frame.frame_bytes());
                }
            }
        }
    }

    /// Packs one frame, behind the copies that belong into a new datagram.
    fn push(&mut self, origin: Origin, frame: &MessageRef<'_>) -> Push {
        if !self.repeats.is_on() {
            return self.packer.push(origin.lane, origin.topic, origin.number, frame.as_bytes());
        }
        let at = now();
        if self.packer.is_empty() {
            self.pack_repeats(at, self.packer.datagram_bytes_max() / 2);
        }
        let pushed = self.packer.push(origin.lane, origin.topic, origin.number, frame.as_bytes());
        if matches!(pushed, Push::Packed) {
            let left = deadline_us(frame.as_bytes());
            let Some(left_us) = left else {
                self.repeats.note(at, origin, None, frame.as_bytes());
                return pushed;
            };
            // Kept as in a ring: a copy has less time left than the first one.
            self.stamped.clear();
            self.stamped.extend_from_slice(frame.as_bytes());
            arrive(&mut self.stamped, ticks_us);
            let expires = at + Duration::from_micros(left_us.into());
            self.repeats.note(at, origin, Some(expires), &self.stamped);
        }
        pushed
    }

    /// A frame that fits no datagram goes in fragments, which wait for room.
    fn cut(&mut self, outlet: &Outlet, origin: Origin, frame: &MessageRef<'_>) {
        let Origin { lane, topic, number } = origin;
        let datagram_bytes_max = self.packer.datagram_bytes_max();
        let left_us = deadline_us(frame.as_bytes());
        let budget = left_us.map(|left_us| Duration::from_micros(left_us.into()));
        let mut datagrams = Vec::new();
        let cut = Splitter::data_fragments(frame.frame_bytes(), datagram_bytes_max).and_then(|data| {
            let parity = parity_for(data, self.loss.share());
            let place = Place { lane, topic, number };
            self.splitter.split(place, budget, frame.as_bytes(), datagram_bytes_max, parity, &mut datagrams)
        });
        if cut.is_err() {
            return outlet.owner.too_big();
        }
        let expiry = left_us.map(|left_us| ticks_us().wrapping_add(left_us));
        self.fragments.extend(datagrams.into_iter().map(|datagram| Fragment { datagram, expiry }));
    }

    fn send_fragment(&mut self, fragment: Fragment) -> Result<(), DatagramError> {
        // What is too late is not sent to its end.
        if fragment.expiry.is_some_and(|expiry| remaining_us(expiry, ticks_us()) == 0) {
            return Ok(());
        }
        self.send(fragment.datagram)
    }

    /// Sends what is packed.
    fn send_packed(&mut self) -> Result<(), DatagramError> {
        match self.packer.take() {
            Some(datagram) => self.send(datagram),
            None => Ok(()),
        }
    }

    fn send(&mut self, datagram: Bytes) -> Result<(), DatagramError> {
        let datagram_bytes = datagram.len();
        activity();
        match self.datagrams.send(datagram) {
            // The path may have shrunk since it was packed: its messages are lost, as any on the way may be.
            Ok(()) | Err(DatagramError::TooLarge { .. }) => {}
            Err(error) => return Err(error),
        }
        if self.repeats.is_on() {
            self.repeats.datagram_sent(now(), datagram_bytes);
        }
        Ok(())
    }

    /// What the path loses, and how large its datagrams may be: that grows while it is probed.
    fn look_at_path(&mut self) {
        let now = now();
        if self.looked_at.is_some_and(|at| now.saturating_duration_since(at) < LOOK_EVERY) {
            return;
        }
        self.looked_at = Some(now);
        if let Some(datagram_bytes_max) = self.datagrams.datagram_bytes_max() {
            self.packer.set_datagram_bytes_max(datagram_bytes_max);
        }
        let stats = self.datagrams.stats();
        let (sent_packets, lost_packets) = (stats.sent_packets, stats.lost_packets);
        let counts = PathCounts { sent_packets, lost_packets };
        self.loss.update(now, counts);
        self.repeats.set_loss(&self.loss);
        self.link.datagram_counts.repeated.store(self.repeats.stats().frames, Ordering::Relaxed);
    }
}

/// What may have been lost, again.
impl Writer {
    /// Sends what is due without anything new. `Pending`: nothing is; the timer wakes `cx` for the next.
    fn poll_due(&mut self, cx: &mut Context<'_>, room_bytes: usize) -> Poll<Result<(), DatagramError>> {
        let next = [self.repeats.next_due(), self.settling.next_due()].into_iter().flatten().min();
        let Some(next) = next else { return Poll::Pending };
        if self.timer.deadline().into_std() != next {
            self.timer.as_mut().reset(next.into());
        }
        if self.timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.look_at_path();
        let at = now();
        if self.repeats.next_due().is_some_and(|due| due <= at) {
            self.pack_repeats(at, self.packer.datagram_bytes_max().min(room_bytes));
        }
        Poll::Ready(self.send_packed())
    }

    fn pack_repeats(&mut self, at: Instant, room_bytes: usize) {
        let (packer, stamped) = (&mut self.packer, &mut self.stamped);
        self.repeats.pack_due(at, room_bytes, |Origin { lane, topic, number }, frame| {
            match in_time(frame, ticks_us(), stamped) {
                Some(frame) => packer.push(lane, topic, number, frame),
                // As good as packed: it is not to be sent any more.
                None => Push::TooBig,
            }
        });
    }

    /// Something of a `latest` topic is sent.
    fn note_sent(&mut self, key: u32, run: &TopicRun) {
        let first = run.first_offset();
        let offsets = || Frames::new(run.bytes()).map(|frame| offset_near(first, &frame));
        let out_of_order = run.is_sparse().then(offsets);
        self.settling.touch(key, now(), first, out_of_order.into_iter().flatten());
    }

    /// Sends values again that are still the newest of their keys, in at most `room_bytes` bytes; in how many.
    fn settle(&mut self, due: Instant, room_bytes: usize) -> Result<usize, DatagramError> {
        let at = now();
        if at >= due {
            self.look_at_path();
            let cursors = &self.cursors;
            self.settling.tick(
                at,
                self.loss.sure_share(),
                |key| cursors.sent_through(key),
                |key, sent| match sent {
                    Sent::Range(range) => cursors.newest_within(key, range),
                    Sent::Offsets(offsets) => cursors.newest_among(key, offsets),
                },
            );
        }
        let mut left_bytes = room_bytes;
        while let Some((key, offset)) = self.settling.pop_due() {
            let Some((outlet, value)) = self.cursors.newest_at(key, offset) else { continue };
            if value.len() > left_bytes {
                self.settling.put_back(key, offset);
                break;
            }
            left_bytes -= value.len();
            let arrival_us = self.cursors.arrival_us(key);
            let Some(frame) = in_time(&value, arrival_us, &mut self.stamped) else { continue };
            let (lane, topic, number) = (outlet.lane, outlet.topic, offset + outlet.first_number);
            if matches!(self.packer.push(lane, topic, number, frame), Push::Full) {
                if let Some(datagram) = self.packer.take() {
                    let _ = self.datagrams.send(datagram);
                }
                let _ = self.packer.push(lane, topic, number, frame);
            }
        }
        Ok(room_bytes - left_bytes)
    }

    /// The stream carries an outlet's rest, and what may not have arrived of it.
    fn move_to_stream(&mut self, key: u32, mut seat: Box<Seat>) {
        if let Some(from) = self.settling.unsettled_of(key) {
            seat.cursor.read_again(from);
        }
        self.settling.forget(key);
        self.repeats.forget_lane(seat.outlet.lane);
        let _ = self.link.stream.add(seat);
    }
}

/// A frame as it lies in a ring, as it is sent now: with what is left of its deadline at `now_us`. `None`: nothing is left.
fn in_time<'f>(frame: &'f [u8], now_us: u32, stamped: &'f mut Vec<u8>) -> Option<&'f [u8]> {
    if deadline_us(frame).is_none() {
        return Some(frame);
    }
    stamped.clear();
    stamped.extend_from_slice(frame);
    is_in_time(stamped, now_us, true).then_some(stamped)
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
