//! Between a fast ring and one reader of it: leaves out what is too old or has been replaced, and counts it.
//!
//! Where nothing is late it hands runs through as they lie in the ring, uncopied and unread. It decides at the moment of
//! reading, so a reader should read only what it can use at once.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use twinlane_proto::frame::{Frames, MESSAGE_HEADER_BYTES, MessageRef, deadline_us};
use twinlane_proto::{Mode, TopicSpec};
use twinlane_ring::{Cursor, Read};

use super::clock::ticks_us;
use super::deadline::{is_in_time, is_over};
use super::flow::Flow;
use super::left_out::LeftOut;
use super::waiting::{Waiting, key_of};
use crate::message::TopicRun;
use crate::topic_cursor::TopicRead;
use crate::topics::last::LastValues;

/// Bytes of values, or of messages to be sent newest first, that wait for one reader.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// Runs of up to so many frames are looked through for two values of one key.
const COMPARED_MAX: usize = 16;
/// Bytes taken from the ring at a time to look at them, and how often before something is handed out: a publisher may
/// be as fast as this reader.
const LOOK_BYTES: usize = 256 << 10;
const LOOKS_MAX: usize = 64;

pub(crate) struct Sieve {
    flow: Arc<Flow>,
    left_out: Arc<LeftOut>,
    /// What is read leaves this process: deadlines become the time that is left.
    leaving: bool,
    /// How long what is read now will be under way, and how much of that may be taken off a deadline.
    way_us: u32,
    way_us_max: u32,
    late: Late,
}

/// What becomes of messages that cannot be read as fast as they come.
enum Late {
    /// They wait in the ring, in order, and may be overtaken.
    Ordered,
    /// The newest of each key waits.
    Latest(Latest),
    /// The newest are read first.
    NewestFirst(NewestFirst),
}

struct Latest {
    waiting: Waiting,
    /// Ends of publisher streams, to be read after the values that came before them.
    ends: Ends,
}

#[derive(Default)]
struct Ends {
    first_offset: u64,
    end_offset: u64,
    frames: usize,
    bytes: Vec<u8>,
}

/// Messages, the newest last.
#[derive(Default)]
struct NewestFirst {
    stack: VecDeque<(u64, Vec<u8>)>,
    bytes: usize,
    /// To be read after all of them.
    ends: Ends,
}

impl Sieve {
    /// For a reader of a topic of this kind. `leaving`: it sends what it reads to another process.
    pub(crate) fn new(flow: Arc<Flow>, left_out: Arc<LeftOut>, spec: &TopicSpec, leaving: bool) -> Self {
        let late = match spec.mode {
            Mode::Ordered => Late::Ordered,
            Mode::Latest => {
                let waiting = Waiting::new(WAITING_BYTES_MAX);
                Late::Latest(Latest { waiting, ends: Ends::default() })
            }
            Mode::Unordered if leaving => Late::NewestFirst(NewestFirst::default()),
            Mode::Unordered => Late::Ordered,
        };
        // On a way that is longer than that a deadline bounds the queues before it, or nothing would ever be sent.
        let way_us_max = spec.deadline_us / 4 * 3;
        Self { flow, left_out, leaving, way_us: 0, way_us_max, late }
    }

    /// What is read from now on will be under way so long.
    #[inline]
    pub(crate) fn set_way_us(&mut self, way_us: u32) {
        self.way_us = way_us.min(self.way_us_max);
    }

    /// The moment that deadlines of what is read now are compared with.
    pub(crate) fn arrival_us(&self) -> u32 {
        arrival_us(self.way_us)
    }

    /// Values to be read before anything else.
    pub(crate) fn begin_with(&mut self, values: &[TopicRun]) {
        if let Late::Latest(latest) = &mut self.late {
            values.iter().for_each(|value| latest.put(value, &self.left_out));
        }
    }

    /// Whether nothing waits besides what is in the ring.
    pub(crate) fn is_through(&self) -> bool {
        match &self.late {
            Late::Ordered => true,
            Late::Latest(latest) => latest.is_idle(),
            Late::NewestFirst(late) => late.is_empty(),
        }
    }

    /// The newest values of a `latest` topic.
    pub(crate) fn newest(&self) -> Option<&LastValues> {
        self.flow.newest.as_deref()
    }

    /// The values of this range that are the newest of their keys wait once more. What was replaced meanwhile was
    /// counted when it was read.
    pub(crate) fn read_again(&mut self, range: Range<u64>) {
        let values = self.newest().map_or_else(Vec::new, |newest| newest.within(range.start, range.end));
        let Late::Latest(latest) = &mut self.late else { return };
        for (offset, value) in values {
            if let Ok(frame) = MessageRef::parse(&value) {
                latest.waiting.put_again(offset, &frame);
            }
        }
    }

    /// The next frames that are worth reading, at most `bytes_max` unless one is larger. `Pending`: there are none;
    /// `cx` is woken when there may be.
    #[inline]
    pub(crate) fn poll_read(
        &mut self,
        ring: &mut Cursor,
        cx: &mut Context<'_>,
        bytes_max: usize,
    ) -> Poll<TopicRead> {
        loop {
            let read = match &mut self.late {
                Late::Ordered => ring.read(bytes_max),
                Late::Latest(_) => match self.read_latest(ring, bytes_max) {
                    Some(read) => return Poll::Ready(read),
                    None => Read::Empty,
                },
                Late::NewestFirst(late) if late.is_empty() && !self.flow.has_deadlines() => {
                    ring.read(bytes_max)
                }
                Late::NewestFirst(_) => match self.read_newest_first(ring, bytes_max) {
                    Some(read) => return Poll::Ready(read),
                    None => Read::Empty,
                },
            };
            match read {
                Read::Run(run) if !self.flow.has_deadlines() => {
                    return Poll::Ready(TopicRead::Run(run.into()));
                }
                Read::Run(run) => {
                    if let Some(run) = self.sifted(run.into()) {
                        return Poll::Ready(TopicRead::Run(run));
                    }
                }
                Read::Missed { from, to } => return Poll::Ready(TopicRead::Missed { from, to }),
                Read::Closed => return Poll::Ready(TopicRead::Closed),
                Read::Empty => {
                    if ring.poll_readable(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    /// What of a run is not too old. `None`: nothing.
    fn sifted(&self, run: TopicRun) -> Option<TopicRun> {
        let now_us = self.arrival_us();
        let stays_as_it_is = |frame: &[u8]| match self.leaving {
            true => deadline_us(frame).is_none(),
            false => !is_over(frame, || now_us),
        };
        if Frames::new(run.bytes()).all(|frame| stays_as_it_is(frame.as_bytes())) {
            return Some(run);
        }
        let (mut kept, mut frames, mut expired) = (Vec::with_capacity(run.bytes().len()), 0, 0);
        let mut first_offset = run.first_offset();
        for (offset, frame) in (run.first_offset()..).zip(Frames::new(run.bytes())) {
            let at = kept.len();
            kept.extend_from_slice(frame.as_bytes());
            if !is_in_time(&mut kept[at..], now_us, self.leaving) {
                kept.truncate(at);
                expired += 1;
                continue;
            }
            if frames == 0 {
                first_offset = offset;
            }
            frames += 1;
        }
        self.left_out.add_expired(expired);
        let offsets = first_offset..run.end_offset();
        (frames > 0).then(|| TopicRun::sparse(offsets, frames, Bytes::from(kept)))
    }

    /// `latest`: the next values. All that is in the ring is looked at first. `None`: there are none.
    fn read_latest(&mut self, ring: &mut Cursor, bytes_max: usize) -> Option<TopicRead> {
        let way_us = self.way_us;
        let Late::Latest(latest) = &mut self.late else { unreachable!("only called in that mode") };
        let mut untouched: Option<TopicRun> = None;
        let mut closed = false;
        for _ in 0..LOOKS_MAX {
            let is_idle = latest.is_idle() && untouched.is_none();
            match ring.read(if is_idle { bytes_max } else { LOOK_BYTES }) {
                // Most often this is all there is, and each key is in it once: then it is read as it lies there.
                Read::Run(run) if is_idle && has_distinct_keys(run.bytes(), run.frames()) => {
                    untouched = Some(run.into());
                }
                Read::Run(run) => {
                    let runs = untouched.take().into_iter().chain([run.into()]);
                    runs.for_each(|run| latest.put(&run, &self.left_out));
                }
                Read::Missed { from, to } => {
                    untouched.take().into_iter().for_each(|run| latest.put(&run, &self.left_out));
                    latest.catch_up(&self.flow, from, to, &self.left_out);
                }
                Read::Empty => break,
                Read::Closed => {
                    closed = true;
                    break;
                }
            }
        }
        if let Some(run) = untouched {
            let sifted = if self.flow.has_deadlines() { self.sifted(run) } else { Some(run) };
            return sifted.map(TopicRead::Run);
        }
        let run = latest.waiting.take(bytes_max, arrival_us(way_us), self.leaving, &self.left_out);
        let run = run.or_else(|| latest.ends.take());
        run.map(TopicRead::Run).or(closed.then_some(TopicRead::Closed))
    }

    /// `unordered` with deadlines: what is newest may still be in time. `None`: there is nothing.
    fn read_newest_first(&mut self, ring: &mut Cursor, bytes_max: usize) -> Option<TopicRead> {
        let way_us = self.way_us;
        let Late::NewestFirst(late) = &mut self.late else { unreachable!("only called in that mode") };
        let end = loop {
            match ring.read(LOOK_BYTES) {
                Read::Run(run) => late.put(&run.into(), &self.left_out),
                Read::Missed { from, to } => return Some(TopicRead::Missed { from, to }),
                Read::Empty => break None,
                Read::Closed => break Some(TopicRead::Closed),
            }
        };
        let run = late.take(bytes_max, way_us, self.leaving, &self.left_out).or_else(|| late.ends.take());
        run.map(TopicRead::Run).or(end)
    }
}

impl Latest {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.ends.frames == 0
    }

    fn put(&mut self, run: &TopicRun, left_out: &LeftOut) {
        for (offset, frame) in (run.first_offset()..).zip(Frames::new(run.bytes())) {
            if frame.is_end() {
                self.ends.put(offset, frame.as_bytes());
            } else {
                self.waiting.put(offset, &frame, left_out);
            }
        }
    }

    /// The ring has overtaken this reader: of what it missed the newest values are still there.
    fn catch_up(&mut self, flow: &Flow, from: u64, to: u64, left_out: &LeftOut) {
        let ends = flow.ended_within(from, to);
        let values = flow.newest.as_ref().map_or_else(Vec::new, |newest| newest.within(from, to));
        let replaced = (to - from).saturating_sub((ends.len() + values.len()) as u64);
        left_out.add_coalesced(replaced);
        for (offset, value) in &values {
            if let Ok(frame) = MessageRef::parse(value) {
                self.waiting.put(*offset, &frame, left_out);
            }
        }
        ends.iter().for_each(|end| self.ends.put(end.offset, &end.frame()));
    }
}

impl Ends {
    fn put(&mut self, offset: u64, frame: &[u8]) {
        if self.frames == 0 {
            self.first_offset = offset;
        }
        self.end_offset = offset + 1;
        self.frames += 1;
        self.bytes.extend_from_slice(frame);
    }

    fn take(&mut self) -> Option<TopicRun> {
        let Self { first_offset, end_offset, frames, bytes } = std::mem::take(self);
        (frames > 0).then(|| TopicRun::sparse(first_offset..end_offset, frames, bytes.into()))
    }
}

impl NewestFirst {
    fn is_empty(&self) -> bool {
        self.stack.is_empty() && self.ends.frames == 0
    }

    fn put(&mut self, run: &TopicRun, left_out: &LeftOut) {
        for (offset, frame) in (run.first_offset()..).zip(Frames::new(run.bytes())) {
            if frame.is_end() {
                self.ends.put(offset, frame.as_bytes());
                continue;
            }
            self.bytes += frame.frame_bytes();
            self.stack.push_back((offset, frame.as_bytes().to_vec()));
        }
        while self.bytes > WAITING_BYTES_MAX && self.stack.len() > 1 {
            let (_, oldest) = self.stack.pop_front().expect("it has more than one");
            self.bytes -= oldest.len();
            left_out.add_dropped_slow(1);
        }
    }

    fn take(&mut self, bytes_max: usize, way_us: u32, leaving: bool, left_out: &LeftOut) -> Option<TopicRun> {
        let now_us = arrival_us(way_us);
        let (mut chosen, mut bytes): (Vec<(u64, Vec<u8>)>, _) = (Vec::new(), 0);
        while let Some((offset, mut frame)) =
            self.stack.pop_back_if(|(_, frame)| bytes == 0 || bytes + frame.len() <= bytes_max)
        {
            self.bytes -= frame.len();
            if !is_in_time(&mut frame, now_us, leaving) {
                left_out.add_expired(1);
                continue;
            }
            bytes += frame.len();
            chosen.push((offset, frame));
        }
        // Among those that go together the order costs nothing.
        let first_offset = chosen.last()?.0;
        let end_offset = chosen.first()?.0 + 1;
        let mut run = Vec::with_capacity(bytes);
        chosen.iter().rev().for_each(|(_, frame)| run.extend_from_slice(frame));
        Some(TopicRun::sparse(first_offset..end_offset, chosen.len(), run.into()))
    }
}

/// When what is read now will have been under way for `way_us`.
fn arrival_us(way_us: u32) -> u32 {
    ticks_us().wrapping_add(way_us)
}

/// Whether a short run has no two values of one key, and no end of a stream among several frames.
fn has_distinct_keys(run: &[u8], frames: usize) -> bool {
    if frames == 1 {
        return true;
    }
    if frames > COMPARED_MAX || run.len() < MESSAGE_HEADER_BYTES {
        return false;
    }
    let mut seen = [0; COMPARED_MAX];
    for (at, frame) in Frames::new(run).enumerate() {
        let key = key_of(&frame);
        if frame.is_end() || seen[..at].contains(&key) {
            return false;
        }
        seen[at] = key;
    }
    true
}
