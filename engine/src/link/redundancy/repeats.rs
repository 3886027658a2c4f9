//! Small frames once more in the datagrams that follow theirs, while the path loses packets.
//!
//! A frame is in k further datagrams, in each before anything newer: a subscriber that takes only rising seqs takes
//! the copy if the frame was lost. Memory and bytes are bounded; on a clean path it keeps nothing and costs a look at
//! one flag. It does not know which frames were lost, and does not repeat large ones: they would crowd out new ones.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use twinlane_proto::frame::{Push, RUN_HEADER_BYTES};

use super::{Origin, PathLoss};

/// Larger frames are not repeated.
pub(crate) const FRAME_BYTES_MAX: usize = 256;
/// Frames remembered, in bytes and in number.
const MEMORY_BYTES: usize = 16 << 10;
const FRAMES_MAX: usize = 512;
/// The share of messages that may stay lost where the budget allows to do something about it.
const LOST_SHARE_MAX: f64 = 0.001;
/// Copies of a frame at most: at 30 % loss 0.8 % stay lost.
const COPIES_MAX: u64 = 3;
/// Loss must be this much lower than where a copy was added before it is taken away again.
const HYSTERESIS: f64 = 1.5;
/// Copies that are always allowed: 1,000 messages of 128 B a second.
const FREE_BYTES_PER_SECOND: f64 = 200_000.0;
/// Copies allowed above that, of the bytes sent.
const SHARE_OF_BYTES: f64 = 0.25;
/// What may be saved up for a burst.
const SAVED_BYTES_MAX: f64 = 20_000.0;
/// How long the last frames of a burst wait for a datagram to follow by itself.
const TAIL_DELAY_MIN: Duration = Duration::from_millis(1);
const TAIL_DELAY_MAX: Duration = Duration::from_millis(5);
/// A frame for which there was no room for so long is not worth it any more.
const AGE_MAX: Duration = Duration::from_millis(50);
/// How long copies stay out of the way of new frames after these had to wait for room: an overloaded path has them
/// wait again before that is over.
const QUIET: Duration = Duration::from_millis(10);

/// What repeating cost so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RepeatStats {
    /// Copies sent.
    pub(crate) frames: u64,
    /// Their bytes, run headers included.
    pub(crate) bytes: u64,
    /// Copies that the budget did not allow.
    pub(crate) over_budget: u64,
}

/// The last small frames of one datagram writer.
#[derive(Debug)]
pub(crate) struct Repeats {
    /// Further datagrams that a frame goes into; 0: nothing is repeated.
    copies: u64,
    kept: VecDeque<Kept>,
    /// The frames' bytes, in the order of `kept`, round and round; empty while nothing is repeated.
    bytes: Vec<u8>,
    write_at: usize,
    /// Number of the datagram that is being packed.
    datagram: u64,
    /// Bytes of copies in it.
    repeated_bytes: usize,
    budget: Budget,
    sent_at: Option<Instant>,
    /// Smoothed time between two datagrams.
    interval: Duration,
    tail_at: Option<Instant>,
    quiet_until: Option<Instant>,
    stats: RepeatStats,
}

#[derive(Debug)]
struct Kept {
    origin: Origin,
    noted: Instant,
    expires: Option<Instant>,
    at: usize,
    frame_bytes: usize,
    /// The datagram it was put into last, and the last one it goes into.
    datagram: u64,
    until: u64,
}

#[derive(Debug)]
struct Budget {
    bytes: f64,
    filled: Option<Instant>,
}

impl Repeats {
    pub(crate) fn new() -> Self {
        Self {
            copies: 0,
            kept: VecDeque::new(),
            bytes: Vec::new(),
            write_at: 0,
            datagram: 0,
            repeated_bytes: 0,
            budget: Budget { bytes: SAVED_BYTES_MAX, filled: None },
            sent_at: None,
            interval: TAIL_DELAY_MAX,
            tail_at: None,
            quiet_until: None,
            stats: RepeatStats::default(),
        }
    }

    /// Adapts to what the path loses: begins, ends, or changes in how many datagrams a frame is repeated.
    pub(crate) fn set_loss(&mut self, path: &PathLoss) {
        let share = if path.is_lossy() { path.share() } else { 0.0 };
        let (enough, cautious) = (copies_for(share), copies_for(share * HYSTERESIS));
        self.copies = self.copies.clamp(enough, cautious.max(enough));
        if self.copies == 0 && !self.bytes.is_empty() {
            (self.kept, self.bytes, self.write_at, self.tail_at) = (VecDeque::new(), Vec::new(), 0, None);
        }
    }

    /// Whether anything is repeated at present. If not, no other call is needed for a datagram.
    pub(crate) fn is_on(&self) -> bool {
        self.copies > 0
    }

    /// New frames have to wait until the path takes more: copies would only make them wait longer.
    pub(crate) fn held_up(&mut self, now: Instant) {
        self.quiet_until = Some(now + QUIET);
    }

    /// A new frame was put into the datagram at hand. After `expires` it is not repeated.
    pub(crate) fn note(&mut self, now: Instant, origin: Origin, expires: Option<Instant>, frame: &[u8]) {
        if !self.is_on() || frame.len() > FRAME_BYTES_MAX {
            return;
        }
        let at = self.keep(frame);
        // Where there is not enough for all, the first copy of one frame is worth more than the second of another.
        let copies = if self.budget.is_ample() { self.copies } else { 1 };
        let (datagram, until) = (self.datagram, self.datagram + copies);
        let frame_bytes = frame.len();
        self.kept.push_back(Kept { origin, noted: now, expires, at, frame_bytes, datagram, until });
    }

    /// Packs the copies that belong into the datagram at hand, oldest first. Call it before new frames are packed.
    ///
    /// `room_bytes` is what the datagram may spend on copies: at most half of it, where new frames follow.
    pub(crate) fn pack_due(
        &mut self,
        now: Instant,
        room_bytes: usize,
        mut pack: impl FnMut(Origin, &[u8]) -> Push,
    ) {
        self.budget.fill(now);
        let is_quiet = self.quiet_until.is_some_and(|until| now < until);
        let mut room_bytes = if is_quiet { 0 } else { room_bytes };
        let mut next: Option<Origin> = None;
        for kept in &mut self.kept {
            if !kept.is_wanted(self.datagram, now) {
                continue;
            }
            let continues = next == Some(kept.origin);
            let bytes = kept.frame_bytes + if continues { 0 } else { RUN_HEADER_BYTES };
            if bytes > room_bytes {
                break;
            }
            if !self.budget.spend(bytes) {
                kept.until = 0;
                self.stats.over_budget += 1;
                continue;
            }
            match pack(kept.origin, &self.bytes[kept.at..kept.at + kept.frame_bytes]) {
                Push::Packed => {}
                Push::TooBig => {
                    kept.until = 0;
                    continue;
                }
                Push::Full => break,
            }
            kept.datagram = self.datagram;
            next = Some(Origin { number: kept.origin.number.wrapping_add(1), ..kept.origin });
            room_bytes -= bytes;
            self.repeated_bytes += bytes;
            self.stats.frames += 1;
            self.stats.bytes += bytes as u64;
        }
        self.wait_for_the_next(now);
    }

    /// The datagram at hand was sent, with `datagram_bytes` in all: what follows belongs into the next one.
    pub(crate) fn datagram_sent(&mut self, now: Instant, datagram_bytes: usize) {
        self.budget.fill(now);
        self.budget.earn(datagram_bytes.saturating_sub(std::mem::take(&mut self.repeated_bytes)));
        let interval = self.sent_at.map_or(TAIL_DELAY_MAX, |at| now.saturating_duration_since(at));
        self.interval = (self.interval * 7 + interval.min(TAIL_DELAY_MAX)) / 8;
        self.sent_at = Some(now);
        self.datagram += 1;
        self.wait_for_the_next(now);
    }

    /// When a datagram of copies alone is due, unless another one is sent before: then call [`Self::pack_due`], also
    /// if there is no room.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.tail_at
    }

    /// The lane is closed.
    pub(crate) fn forget_lane(&mut self, lane: u32) {
        self.kept.iter_mut().filter(|kept| kept.origin.lane == lane).for_each(|kept| kept.until = 0);
    }

    pub(crate) fn stats(&self) -> RepeatStats {
        self.stats
    }

    /// Lets go of what is done, and sets the time when what is left goes out by itself.
    fn wait_for_the_next(&mut self, now: Instant) {
        while self.kept.front().is_some_and(|kept| !kept.is_wanted_from(self.datagram, now)) {
            self.kept.pop_front();
        }
        let delay = (self.interval * 2).clamp(TAIL_DELAY_MIN, TAIL_DELAY_MAX);
        self.tail_at = (!self.kept.is_empty()).then(|| now + delay);
    }

    /// Copies `frame` to where the oldest ones are, which go. Returns its place.
    fn keep(&mut self, frame: &[u8]) -> usize {
        if self.bytes.is_empty() {
            self.bytes = vec![0; MEMORY_BYTES];
        }
        if self.kept.len() == FRAMES_MAX {
            self.kept.pop_front();
        }
        if self.write_at + frame.len() > MEMORY_BYTES {
            // What lies behind is older than all that lies at the front.
            while self.kept.front().is_some_and(|kept| kept.at >= self.write_at) {
                self.kept.pop_front();
            }
            self.write_at = 0;
        }
        let (at, end) = (self.write_at, self.write_at + frame.len());
        while self.kept.front().is_some_and(|kept| kept.at < end && at < kept.at + kept.frame_bytes) {
            self.kept.pop_front();
        }
        self.bytes[at..end].copy_from_slice(frame);
        self.write_at = end;
        at
    }
}

impl Kept {
    /// Belongs into `datagram`, and is not yet in it.
    fn is_wanted(&self, datagram: u64, now: Instant) -> bool {
        self.datagram < datagram && self.is_wanted_from(datagram, now)
    }

    /// Belongs into `datagram` or a later one that is still to be packed.
    fn is_wanted_from(&self, datagram: u64, now: Instant) -> bool {
        let first = datagram.max(self.datagram + 1);
        first <= self.until
            && now.saturating_duration_since(self.noted) < AGE_MAX
            && self.expires.is_none_or(|expires| now < expires)
    }
}

impl Budget {
    fn fill(&mut self, now: Instant) {
        let elapsed = self.filled.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.filled = Some(now);
        self.add(elapsed.as_secs_f64() * FREE_BYTES_PER_SECOND);
    }

    fn earn(&mut self, sent_bytes: usize) {
        self.add(sent_bytes as f64 * SHARE_OF_BYTES);
    }

    fn add(&mut self, bytes: f64) {
        self.bytes = (self.bytes + bytes).min(SAVED_BYTES_MAX);
    }

    fn spend(&mut self, bytes: usize) -> bool {
        let bytes = bytes as f64;
        let is_enough = bytes <= self.bytes;
        if is_enough {
            self.bytes -= bytes;
        }
        is_enough
    }

    fn is_ample(&self) -> bool {
        self.bytes > SAVED_BYTES_MAX / 2.0
    }
}

/// In how many further datagrams a frame must be so that hardly any stays lost.
fn copies_for(share: f64) -> u64 {
    (0..COPIES_MAX).find(|copies| share.powi(*copies as i32 + 1) <= LOST_SHARE_MAX).unwrap_or(COPIES_MAX)
}
