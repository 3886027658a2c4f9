//! Random single-threaded histories against a specification made of plain vectors.
#![cfg(not(loom))]

mod common;

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::task::{Context, Waker};

use common::Random;
use twinlane_ring::{AppendError, Appended, Cursor, Gating, Read, Ring, RingConfig, Run, Start};

/// Bytes of the segments that a ring has beside its own, as far as those are four times as large at least.
const STEPS_BYTES: [usize; 4] = [16 << 10, 16 << 10, 64 << 10, 256 << 10];

/// What a ring is, without sharing or reuse: every frame ever stored, and how they fill segments.
struct Spec {
    config: RingConfig,
    is_queue: bool,
    /// `None`: its producer panicked.
    frames: Vec<Option<Vec<u8>>>,
    /// Base offsets and bytes of the live segments, oldest first.
    live: VecDeque<SpecSegment>,
    /// Segments that left the ring.
    retired: Vec<Retired>,
    /// How many large segments there are, and whether each step was used.
    allocated: usize,
    has_step: [bool; STEPS_BYTES.len()],
    /// Size of the frame that found no room last.
    refused_bytes: Option<usize>,
    /// Segments so far.
    serials: u64,
    /// Live runs per segment, by serial.
    pins: HashMap<u64, usize>,
    /// The newest segment takes no more frames.
    is_ended: bool,
    is_closed: bool,
    /// Per gated cursor, what it has passed.
    gates: HashMap<usize, u64>,
    /// The same per spared cursor, and whether it was overtaken since it had last caught up.
    spared: HashMap<usize, (u64, bool)>,
}

struct SpecSegment {
    /// Tells apart what has the same base: a step left empty for a large frame.
    serial: u64,
    base: u64,
    bytes: usize,
    step: Option<usize>,
}

struct Retired {
    serial: u64,
    step: Option<usize>,
}

impl Spec {
    fn next(&self) -> u64 {
        self.frames.len() as u64
    }

    fn oldest(&self) -> u64 {
        self.live.front().map_or(0, |segment| segment.base)
    }

    /// Serial, base and end of the live segment of `offset`.
    fn segment_of(&self, offset: u64) -> Option<(u64, u64, u64)> {
        let place = self.live.iter().rposition(|segment| segment.base <= offset)?;
        let end = self.live.get(place + 1).map_or(self.next(), |segment| segment.base);
        Some((self.live[place].serial, self.live[place].base, end))
    }

    fn is_held(&self, serial: u64) -> bool {
        self.pins.get(&serial).is_some_and(|&pins| 0 < pins)
    }

    fn is_oldest_passed(&self) -> bool {
        self.gates.values().all(|&passed| self.live[1].base <= passed)
    }

    /// Of the spared cursors that stand in the oldest segment and were not overtaken, the mark for that.
    fn spared_in_oldest(&mut self) -> impl Iterator<Item = &mut bool> {
        let base = self.live[1].base;
        let marks =
            self.spared.values_mut().filter(move |(passed, is_overtaken)| *passed < base && !is_overtaken);
        marks.map(|(_, is_overtaken)| is_overtaken)
    }

    fn move_gate(&mut self, key: usize, position: u64) {
        if let Some(passed) = self.gates.get_mut(&key) {
            *passed = position;
        }
        if let Some((passed, _)) = self.spared.get_mut(&key) {
            *passed = position;
        }
    }

    fn live_large(&self) -> usize {
        self.live.iter().filter(|segment| segment.step.is_none()).count()
    }

    /// A step holds as much less of both.
    fn limits(&self, step: Option<usize>) -> (usize, usize) {
        let RingConfig { segment_bytes, segment_frames, .. } = self.config;
        match step.map(|step| STEPS_BYTES[step]) {
            Some(bytes) => (bytes, (segment_frames / (segment_bytes / bytes)).max(1)),
            None => (segment_bytes, segment_frames),
        }
    }

    /// A segment of this size that nobody needs, or a new one.
    fn take_spare(&mut self, step: Option<usize>) -> bool {
        let is_free = |gone: &Retired| gone.step == step && !self.is_held(gone.serial);
        if let Some(place) = self.retired.iter().position(is_free) {
            self.retired.swap_remove(place);
            return true;
        }
        let RingConfig { segment_bytes, segments, spare_segments, .. } = self.config;
        let Some(step) = step else {
            let is_allowed = self.allocated < segments + spare_segments;
            self.allocated += usize::from(is_allowed);
            return is_allowed;
        };
        4 * STEPS_BYTES[step] <= segment_bytes && !std::mem::replace(&mut self.has_step[step], true)
    }

    /// The smallest step that takes the frame, is in step with what is live, and is not needed.
    fn take_step(&mut self, frame_bytes: usize) -> Option<usize> {
        if self.config.segments <= self.live_large() {
            return None;
        }
        let first = if self.live.len() < 2 { 0 } else { self.live.len() };
        let mut in_step = first..STEPS_BYTES.len();
        in_step.find(|&step| frame_bytes <= STEPS_BYTES[step] && self.take_spare(Some(step)))
    }

    fn retire_oldest(&mut self) {
        self.spared_in_oldest().for_each(|is_overtaken| *is_overtaken = true);
        let SpecSegment { serial, step, .. } = self.live.pop_front().expect("there is an oldest");
        self.retired.push(Retired { serial, step });
    }

    fn rotate(&mut self, frame_bytes: usize) -> bool {
        let frame_bytes = frame_bytes.max(self.refused_bytes.unwrap_or(0));
        self.refused_bytes = Some(frame_bytes);
        while self.is_queue && !self.gates.is_empty() && 2 <= self.live.len() && self.is_oldest_passed() {
            self.retire_oldest();
        }
        let step = self.take_step(frame_bytes);
        if step.is_none() && !self.rotate_large() {
            return false;
        }
        self.refused_bytes = None;
        self.serials += 1;
        let (serial, base) = (self.serials, self.next());
        self.live.push_back(SpecSegment { serial, base, bytes: 0, step });
        self.is_ended = false;
        true
    }

    fn rotate_large(&mut self) -> bool {
        let mut has_shrunk = false;
        while self.config.segments <= self.live_large() {
            if !self.is_oldest_passed() {
                return false;
            }
            let is_spared = self.spared_in_oldest().next().is_some();
            if is_spared && self.take_spare(None) {
                return true;
            }
            if !is_spared && self.config.segments < self.live_large() && !has_shrunk {
                has_shrunk = true;
                self.retire_oldest();
                continue;
            }
            let is_lent = self.config.segments < self.live_large();
            let SpecSegment { serial, step, .. } = self.live[0];
            let is_free = step.is_none() && !self.is_held(serial);
            if is_free {
                self.retire_oldest();
                return self.take_spare(None);
            }
            if step.is_none() && !is_lent {
                if !self.take_spare(None) {
                    return false;
                }
                self.retire_oldest();
                return true;
            }
            self.retire_oldest();
        }
        self.take_spare(None)
    }

    /// How many of frames with these sizes are stored by one claim.
    fn claim(&mut self, sizes: &[usize]) -> Result<usize, AppendError> {
        let frame_bytes_max = self.config.segment_bytes;
        if frame_bytes_max < sizes[0] {
            return Err(AppendError::TooLarge { frame_bytes: sizes[0], frame_bytes_max });
        }
        if self.is_closed {
            return Err(AppendError::Closed);
        }
        if self.refused_bytes.is_some() {
            // There was no room for an earlier frame, nor when it was asked for just now.
            return Err(AppendError::Full);
        }
        loop {
            if (self.live.is_empty() || self.is_ended) && !self.rotate(sizes[0]) {
                return Err(AppendError::Full);
            }
            let newest = self.live.back().expect("just rotated");
            let (bytes_max, frames_max) = self.limits(newest.step);
            let frames_left = frames_max - (self.next() - newest.base) as usize;
            let mut bytes = newest.bytes;
            let fitting = sizes.iter().take(frames_left).take_while(|&&size| {
                bytes += size;
                bytes <= bytes_max
            });
            let count = fitting.count();
            if 0 < count {
                self.live.back_mut().expect("as above").bytes += sizes[..count].iter().sum::<usize>();
                return Ok(count);
            }
            self.is_ended = true;
        }
    }

    /// The frames a cursor at `position` gets as one run.
    fn run_from(&self, position: u64, end: u64, max_bytes: usize) -> Vec<&[u8]> {
        let mut bytes = 0;
        let mut run: Vec<&[u8]> = Vec::new();
        for frame in &self.frames[position as usize..end as usize] {
            let Some(frame) = frame else { break };
            bytes += frame.len();
            if !run.is_empty() && max_bytes < bytes {
                break;
            }
            run.push(frame);
        }
        run
    }
}

struct SpecCursor {
    cursor: Cursor,
    key: usize,
    position: u64,
    /// It has looked its position up, so it stands in a segment.
    is_seated: bool,
}

impl SpecCursor {
    /// A gated or spared cursor that looks opens the gate behind it.
    fn look(&mut self, spec: &mut Spec) {
        let position = self.position;
        let Some((_, base, end)) = spec.segment_of(position) else { return };
        if position < spec.oldest() || spec.is_closed && position == spec.next() {
            return;
        }
        let at_open_end = position == end && !spec.is_ended;
        if !self.is_seated || !at_open_end || base == position {
            spec.move_gate(self.key, position);
        }
        if spec.live.back().is_some_and(|newest| newest.base == base)
            && let Some((_, is_overtaken)) = spec.spared.get_mut(&self.key)
        {
            *is_overtaken = false;
        }
        self.is_seated = true;
    }
}

struct Held {
    run: Run,
    serial: u64,
    expected: Vec<Vec<u8>>,
}

impl Held {
    fn check(&self, at: &str) {
        assert_eq!(self.run.bytes(), self.expected.concat(), "{at}: a held run changed");
        let mut sum = 0;
        let ends: Vec<u32> = self.expected.iter().map(|frame| (sum += frame.len(), sum as u32).1).collect();
        assert_eq!(self.run.frame_ends().collect::<Vec<_>>(), ends, "{at}: frame ends");
    }
}

struct History {
    random: Random,
    ring: Ring,
    spec: Spec,
    cursors: Vec<SpecCursor>,
    held: Vec<Held>,
    next_key: usize,
    at: String,
}

impl History {
    /// Segments have `bytes_min` bytes or a few more.
    fn new(seed: u64, bytes_min: usize) -> Self {
        let mut random = Random(seed);
        let config = RingConfig {
            segment_bytes: bytes_min + random.below(40),
            segment_frames: 1 + random.below(8),
            segments: 2 + random.below(3),
            spare_segments: random.below(3),
        };
        let is_queue = random.below(2) == 0;
        let spec = Spec {
            config,
            is_queue,
            frames: Vec::new(),
            live: VecDeque::new(),
            retired: Vec::new(),
            allocated: 0,
            has_step: [false; STEPS_BYTES.len()],
            refused_bytes: None,
            serials: 0,
            pins: HashMap::new(),
            is_ended: false,
            is_closed: false,
            gates: HashMap::new(),
            spared: HashMap::new(),
        };
        let ring = if is_queue { Ring::queue(config) } else { Ring::new(config) }.expect("in bounds");
        Self { random, ring, spec, cursors: Vec::new(), held: Vec::new(), next_key: 0, at: String::new() }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..30 => self.append(),
            30..45 => self.append_run(),
            45..48 => self.append_panicking(),
            48..78 => self.read(),
            78..84 => self.new_cursor(),
            84..88 => self.drop_cursor(),
            88..92 => self.seek(),
            92..98 => self.drop_held(),
            _ => {}
        }
        assert_eq!(self.ring.next(), self.spec.next(), "{}: next", self.at);
        assert_eq!(self.ring.oldest(), self.spec.oldest(), "{}: oldest", self.at);
    }

    fn frame(&mut self) -> Vec<u8> {
        let longest = self.spec.config.segment_bytes * 5 / 4;
        // Of large segments' frames most fit the smallest.
        let longest = if self.random.below(4) == 0 { longest } else { longest.min(STEPS_BYTES[0] / 2) };
        let length = self.random.below(longest + 1) * self.random.below(3) / 2;
        let mut frame: Vec<_> = (0..length.min(64)).map(|_| self.random.next() as u8).collect();
        // The rest of a large one costs too much to be drawn.
        frame.resize(length, length as u8);
        frame
    }

    /// Asks for room as who met a full ring does: until something changes, appends are refused without a look.
    fn ask_for_room(&mut self) {
        if self.spec.refused_bytes.is_none() && 0 < self.random.below(8) {
            return;
        }
        let poll = self.ring.poll_room(&mut Context::from_waker(Waker::noop()));
        let is_open = self.spec.is_closed || !self.spec.live.is_empty() && !self.spec.is_ended;
        let has_room = is_open || self.spec.rotate(0);
        assert_eq!(poll.is_ready(), has_room, "{}: room", self.at);
    }

    fn append(&mut self) {
        self.ask_for_room();
        let frame = self.frame();
        let (head, rest) = frame.split_at(frame.len() / 3);
        let offset = self.spec.next();
        let expected = self.spec.claim(&[frame.len()]).map(|_| offset);
        let mut stamped = Vec::new();
        let got = self.ring.append(&[head, rest], |offset, bytes| {
            stamped = bytes.to_vec();
            if let Some(first) = bytes.first_mut() {
                *first ^= offset as u8;
            }
        });
        assert_eq!(got, expected, "{}: append of {} bytes", self.at, frame.len());
        if got.is_ok() {
            assert_eq!(stamped, frame, "{}: the stamp sees the copied frame", self.at);
            if let Some(first) = stamped.first_mut() {
                *first ^= offset as u8;
            }
            self.spec.frames.push(Some(stamped));
        }
    }

    fn append_run(&mut self) {
        let frames: Vec<Vec<u8>> =
            (0..1 + self.random.below(6)).map(|_| self.frame()).filter(|frame| !frame.is_empty()).collect();
        if frames.is_empty() {
            return;
        }
        self.ask_for_room();
        let sizes: Vec<usize> = frames.iter().map(Vec::len).collect();
        let mut sum = 0;
        let ends: Vec<u32> = sizes.iter().map(|size| (sum += size, sum as u32).1).collect();
        let first_offset = self.spec.next();
        let expected = self.spec.claim(&sizes).map(|count| {
            let bytes = sizes[..count].iter().sum();
            Appended { first_offset, frames: count, bytes }
        });
        let got = self.ring.append_run(&frames.concat(), &ends, |_, _| ());
        assert_eq!(got, expected, "{}: append_run", self.at);
        if let Ok(appended) = got {
            self.spec.frames.extend(frames.into_iter().take(appended.frames).map(Some));
        }
    }

    fn append_panicking(&mut self) {
        self.ask_for_room();
        let frame = self.frame();
        let is_stored = self.spec.claim(&[frame.len()]).is_ok();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            self.ring.append(&[&frame], |_, _| resume_unwind(Box::new("the stamp gave up")))
        }));
        assert_eq!(outcome.is_err(), is_stored, "{}: only a claimed frame is stamped", self.at);
        if is_stored {
            self.spec.frames.push(None);
        }
    }

    fn read(&mut self) {
        if self.cursors.is_empty() {
            return;
        }
        let at = self.at.as_str();
        let nth = self.random.below(self.cursors.len());
        let max_bytes = self.random.below(self.spec.config.segment_bytes + 20);
        let (spec, reader) = (&mut self.spec, &mut self.cursors[nth]);
        let (from, next) = (reader.position, spec.next());
        let is_waiting = from == next;
        assert_eq!(reader.cursor.is_empty(), is_waiting, "{at}: is_empty at {from}");
        let would_sleep = is_waiting && !spec.is_closed;
        reader.look(spec);
        let poll = reader.cursor.poll_readable(&mut Context::from_waker(Waker::noop()));
        assert_eq!(poll.is_pending(), would_sleep, "{at}: readable at {from} of {next}");
        let read = reader.cursor.read(max_bytes);
        if from < spec.oldest() {
            assert!(
                matches!(read, Read::Missed { from: f, to } if f == from && to == spec.oldest()),
                "{at}: {read:?}"
            );
            reader.position = spec.oldest();
            reader.is_seated = false;
        } else if is_waiting {
            let is_right = matches!((&read, spec.is_closed), (Read::Empty, false) | (Read::Closed, true));
            assert!(is_right, "{at}: {read:?} at the end");
        } else {
            let (serial, _, end) = spec.segment_of(from).expect("a frame has a segment");
            let frames = spec.run_from(from, end, max_bytes);
            if frames.is_empty() {
                let gone =
                    spec.frames[from as usize..end as usize].iter().take_while(|frame| frame.is_none());
                let to = from + gone.count() as u64;
                assert!(
                    matches!(read, Read::Missed { from: f, to: t } if (f, t) == (from, to)),
                    "{at}: {read:?}"
                );
                reader.position = to;
            } else {
                let Read::Run(run) = read else { panic!("{at}: {read:?} instead of a run") };
                assert_eq!((run.first_offset(), run.frames()), (from, frames.len()), "{at}: run");
                reader.position = from + frames.len() as u64;
                let held = Held { run, serial, expected: frames.into_iter().map(<[u8]>::to_vec).collect() };
                held.check(at);
                if self.random.below(4) == 0 {
                    *spec.pins.entry(serial).or_default() += 1;
                    self.held.push(held);
                }
            }
        }
        assert_eq!(reader.cursor.position(), reader.position, "{at}: position");
    }

    fn new_cursor(&mut self) {
        if 5 <= self.cursors.len() {
            return;
        }
        let (oldest, next) = (self.spec.oldest(), self.spec.next());
        let offset = self.random.below(next as usize + 5) as u64;
        let (start, position) = match self.random.below(3) {
            0 => (Start::Oldest, oldest),
            1 => (Start::Next, next),
            _ => (Start::Offset(offset), offset.min(next)),
        };
        let gating = [Gating::Lossy, Gating::Gated, Gating::Spared][self.random.below(3)];
        let cursor = self.ring.cursor(start, gating);
        assert_eq!(cursor.position(), position, "{}: {start:?}", self.at);
        let key = self.next_key;
        self.next_key += 1;
        let passed = position.max(oldest);
        match gating {
            Gating::Lossy => {}
            Gating::Spared => drop(self.spec.spared.insert(key, (passed, false))),
            Gating::Gated => drop(self.spec.gates.insert(key, passed)),
        }
        self.cursors.push(SpecCursor { cursor, key, position, is_seated: false });
    }

    fn drop_cursor(&mut self) {
        if !self.cursors.is_empty() {
            let gone = self.cursors.swap_remove(self.random.below(self.cursors.len()));
            self.spec.gates.remove(&gone.key);
            self.spec.spared.remove(&gone.key);
        }
    }

    fn seek(&mut self) {
        if self.cursors.is_empty() {
            return;
        }
        let offset = self.random.below(self.spec.next() as usize + 3) as u64;
        let nth = self.random.below(self.cursors.len());
        let reader = &mut self.cursors[nth];
        reader.cursor.seek(offset);
        reader.position = offset.min(self.spec.next());
        reader.is_seated = false;
        let oldest = self.spec.oldest();
        let (key, passed) = (reader.key, reader.position.max(oldest));
        self.spec.move_gate(key, passed);
    }

    fn drop_held(&mut self) {
        if !self.held.is_empty() {
            let held = self.held.swap_remove(self.random.below(self.held.len()));
            held.check(&self.at);
            *self.spec.pins.get_mut(&held.serial).expect("it was pinned") -= 1;
        }
    }

    fn close(&mut self) {
        self.ring.close();
        self.spec.is_closed = true;
        self.spec.is_ended = true;
    }
}

fn check_histories(seeds: u64, steps: usize, bytes_min: usize) {
    for seed in 0..seeds {
        let mut history = History::new(seed, bytes_min);
        for step in 0..steps {
            history.at = format!("seed {seed} step {step}");
            history.step();
            if step == steps * 9 / 10 {
                history.close();
            }
        }
        history.at = format!("seed {seed} end");
        history.cursors.clear();
        let at = history.at.clone();
        drop(history.ring);
        history.held.iter().for_each(|held| held.check(&at));
    }
}

#[test]
fn every_history_matches_the_specification() {
    let (seeds, steps) = if cfg!(miri) { (6, 120) } else { (4_000, 400) };
    check_histories(seeds, steps, 1);
}

#[test]
#[cfg_attr(miri, ignore = "too many bytes for it")]
fn every_history_with_smaller_segments_first_matches_the_specification() {
    for step_bytes in &STEPS_BYTES[1..] {
        check_histories(40, 400, 4 * step_bytes);
    }
}
