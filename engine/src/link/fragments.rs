//! Large fast messages: a frame that no datagram can carry is cut into fragments here, and put together again.
//!
//! Pure: bytes and times in, datagrams and frames out. Whether a message is worth sending, and what its loss means to a
//! subscriber, others decide. A frame comes whole or not at all; nothing is asked for again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use twinlane_proto::FrameError;
use twinlane_proto::frame::erasure::{DATA_BLOCKS_MAX, Restoration, make_parity};
use twinlane_proto::frame::{Cut, FRAGMENT_HEADER_BYTES, Fragment, FragmentHeader, KIND_END, MessageRef};

#[cfg(test)]
#[path = "fragments/check.rs"]
mod check;
#[cfg(test)]
#[path = "fragments/promises.rs"]
mod promises;

/// Loss below which parity costs more than it saves.
const CLEAN_LOSS: f64 = 0.000_5;
/// How often a message may still be lost on a path that loses more.
const MESSAGE_LOSS_MAX: f64 = 0.001;
/// Without a fragment for so long a message is given up: no path delays one by more and is of use to a fast topic.
const QUIET_MAX: Duration = Duration::from_millis(500);
/// Reordering that is waited for: once a later message of its lane and topic is complete, a message has so long.
const OVERTAKEN_MAX: Duration = Duration::from_millis(100);
/// So many later messages of its lane and topic may be complete before a message; then it is given up at once.
const OVERTAKEN_COUNT: u8 = 8;
/// Incomplete messages of one peer. One that loses fragments waits for 8 others, so this is room for 32 such topics.
const OPEN_MAX: usize = 256;
/// Messages whose end is remembered, counted back from the newest.
const FINISHED_IDS: u64 = 1_024;

/// Memory for incomplete messages of one peer, unless configured otherwise: four of the largest.
pub(super) const REASSEMBLY_BYTES_MAX: usize = 4 << 20;

/// What a frame would have been sent as, had it fitted a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) lane: u32,
    pub(super) topic: u32,
    pub(super) number: u64,
}

/// Cuts frames into datagrams. One for each direction of a connection: it counts the messages.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    message: u32,
    buffer: BytesMut,
    last_block: Vec<u8>,
}

impl Splitter {
    /// Data fragments that a frame needs, to ask [`parity_for`].
    ///
    /// # Errors
    ///
    /// As [`Self::split`].
    pub(super) fn data_fragments(frame_bytes: usize, datagram_bytes_max: usize) -> Result<usize, FrameError> {
        Cut::fitting(frame_bytes, datagram_bytes_max).map(|cut| cut.data())
    }

    /// Appends datagrams of at most `datagram_bytes_max` bytes to `out`: those of the frame, then `parity` more, or as
    /// many as the protocol allows. The receiver gives the message `budget` to arrive; `None`: as long as it likes.
    ///
    /// One allocation, none once the datagrams of an earlier call are all dropped.
    ///
    /// # Errors
    ///
    /// The frame is above the protocol's limit, or the path too narrow even for fragments. Nothing was appended.
    pub(super) fn split(
        &mut self,
        place: Place,
        budget: Option<Duration>,
        frame: &[u8],
        datagram_bytes_max: usize,
        parity: usize,
        out: &mut Vec<Bytes>,
    ) -> Result<(), FrameError> {
        let cut = Cut::fitting(frame.len(), datagram_bytes_max)?;
        let cut = Cut::new(frame.len(), cut.data(), parity.min(cut.data() + 2))?;
        let Place { lane, topic, number } = place;
        // 0 would mean that there is no limit.
        let budget_us = budget.map_or(0, |budget| budget.as_micros().clamp(1, u32::MAX.into()) as u32);
        let mut header =
            FragmentHeader { lane, topic, number, message: self.message, cut, index: 0, budget_us };
        self.message = self.message.wrapping_add(1);
        let parity_bytes = cut.parity() * cut.block_bytes();
        self.buffer.reserve(cut.fragments() * FRAGMENT_HEADER_BYTES + frame.len() + parity_bytes);
        for index in 0..cut.data() {
            header.index = index as u16;
            self.buffer.extend_from_slice(&header.encode());
            self.buffer.extend_from_slice(&frame[cut.range(index)]);
            out.push(self.buffer.split().freeze());
        }
        if cut.parity() > 0 {
            self.append_parity(header, frame, out);
        }
        Ok(())
    }

    fn append_parity(&mut self, mut header: FragmentHeader, frame: &[u8], out: &mut Vec<Bytes>) {
        let cut = header.cut;
        self.last_block.clear();
        self.last_block.extend_from_slice(&frame[cut.range(cut.data() - 1)]);
        self.last_block.resize(cut.block_bytes(), 0);
        let blocks: Vec<&[u8]> = (0..cut.data() - 1)
            .map(|index| &frame[cut.range(index)])
            .chain(std::iter::once(self.last_block.as_slice()))
            .collect();
        let codes: Vec<Vec<&[u8]>> = (0..cut.codes())
            .map(|code| blocks.iter().skip(code).step_by(cut.codes()).copied().collect())
            .collect();
        for index in cut.data()..cut.fragments() {
            header.index = index as u16;
            self.buffer.extend_from_slice(&header.encode());
            self.buffer.resize(FRAGMENT_HEADER_BYTES + cut.block_bytes(), 0);
            let (code, number) = cut.place(index);
            let row = number - cut.code_data(code);
            make_parity(row, &codes[code], &mut self.buffer[FRAGMENT_HEADER_BYTES..]);
            out.push(self.buffer.split().freeze());
        }
    }
}

/// Parity fragments for a message of `data` fragments on a path that loses each with probability `loss`.
///
/// None where next to nothing is lost; elsewhere as many as make more losses than that rarer than one in a thousand
/// messages, but at most half of `data` and two more. Losses that come in bursts need more than this says.
pub(super) fn parity_for(data: usize, loss: f64) -> usize {
    if data == 0 || loss.is_nan() || loss < CLEAN_LOSS {
        return 0;
    }
    let parity_max = data / 2 + 2;
    let codes = data.div_ceil(DATA_BLOCKS_MAX);
    let code_data = data.div_ceil(codes);
    let code_parity_max = parity_max.div_ceil(codes);
    let is_enough =
        |parity: &usize| loss_above(*parity, code_data + parity, loss) <= MESSAGE_LOSS_MAX / codes as f64;
    let code_parity = (0..code_parity_max).find(is_enough).unwrap_or(code_parity_max);
    parity_max.min(code_parity * codes)
}

/// Probability that more than `count` of `fragments` are lost.
fn loss_above(count: usize, fragments: usize, loss: f64) -> f64 {
    let loss = loss.min(0.99);
    let mut exactly = (1.0 - loss).powi(fragments as i32);
    let mut at_most = exactly;
    for lost in 0..count {
        exactly *= (fragments - lost) as f64 / (lost + 1) as f64 * loss / (1.0 - loss);
        at_most += exactly;
    }
    1.0 - at_most
}

/// A frame that is whole again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Whole {
    pub(super) place: Place,
    /// Exactly one message, as a stream's decoder would hand it out.
    pub(super) frame: Bytes,
    /// From its first fragment to the one that made it whole.
    pub(super) waited: Duration,
}

/// What became of messages and fragments since the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Reassembled {
    /// Messages that were handed out.
    pub(super) whole: u64,
    /// Those of them that needed parity.
    pub(super) restored: u64,
    /// Messages given up because later ones of their lane and topic were complete.
    pub(super) superseded: u64,
    /// Messages given up because their budget was spent or no fragment came any more.
    pub(super) timed_out: u64,
    /// Messages given up, the oldest first, because there was no room for more.
    pub(super) no_room: u64,
    /// Fragments that were not needed: repeats, spare parity, and what came after their message's end.
    pub(super) spare_fragments: u64,
}

/// Puts the frames of one peer together. Holds at most `bytes_max` bytes of incomplete messages, books included, and
/// for each no more than twice what has arrived of it, or room for four fragments. Handing one out may take another
/// copy of that one for a moment.
#[derive(Debug)]
pub(super) struct Reassembly {
    bytes_max: usize,
    /// What the open messages may come to hold, by their declared length.
    bytes: usize,
    /// By the arrival of their first fragments.
    open: VecDeque<Open>,
    finished: Finished,
    /// Nothing expires before.
    expiry: Option<Instant>,
    counts: Reassembled,
}

impl Reassembly {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            open: VecDeque::new(),
            finished: Finished::default(),
            expiry: None,
            counts: Reassembled::default(),
        }
    }

    /// Takes a fragment; hands out its message if that is whole now.
    ///
    /// # Errors
    ///
    /// The peer broke the protocol: fragments contradict each other, or together they are not one message of their
    /// topic. Close the connection.
    pub(super) fn take(
        &mut self,
        now: Instant,
        fragment: &Fragment<'_>,
    ) -> Result<Option<Whole>, FrameError> {
        if self.expiry.is_some_and(|expiry| expiry <= now) {
            self.expire(now);
        }
        let header = &fragment.header;
        let id = self.finished.id(header.message);
        let at = match self.open.iter().rposition(|open| open.id == id) {
            Some(at) => at,
            None if self.finished.contains(id) => {
                self.counts.spare_fragments += 1;
                return Ok(None);
            }
            None => match self.begin(now, id, header) {
                Some(at) => at,
                None => return Ok(None),
            },
        };
        let open = &mut self.open[at];
        if !open.header.agrees(header) {
            return Err(FrameError::FragmentChanged { message: header.message });
        }
        if !open.keep(now, fragment) {
            self.counts.spare_fragments += 1;
        }
        if open.codes_missing > 0 {
            return Ok(None);
        }
        self.finish(now, at).map(Some)
    }

    /// Gives up what waited too long.
    pub(super) fn expire(&mut self, now: Instant) {
        let mut at = 0;
        while let Some(open) = self.open.get(at) {
            if open.overtaken_until.is_some_and(|until| until <= now) {
                self.counts.superseded += 1;
                self.remove(at);
            } else if open.expiry() <= now {
                self.counts.timed_out += 1;
                self.remove(at);
            } else {
                at += 1;
            }
        }
        self.expiry = self.open.iter().map(Open::expiry).min();
    }

    /// When to call [`Self::expire`]. There may be nothing to give up yet: then it says a later time.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.expiry
    }

    pub(super) fn counts(&self) -> Reassembled {
        self.counts
    }

    /// Makes room for a message and opens it.
    fn begin(&mut self, now: Instant, id: u64, header: &FragmentHeader) -> Option<usize> {
        let open = Open::new(now, id, *header);
        self.finished.reach(id);
        if open.bytes_max() > self.bytes_max {
            self.counts.no_room += 1;
            self.finished.insert(id);
            return None;
        }
        while self.bytes + open.bytes_max() > self.bytes_max || self.open.len() >= OPEN_MAX {
            self.counts.no_room += 1;
            self.remove(0);
        }
        self.bytes += open.bytes_max();
        self.expires(open.expiry());
        self.open.push_back(open);
        Some(self.open.len() - 1)
    }

    fn finish(&mut self, now: Instant, at: usize) -> Result<Whole, FrameError> {
        let Some(open) = self.remove(at) else { unreachable!("the caller found it there") };
        self.overtake(now, &open);
        let FragmentHeader { lane, topic, number, .. } = open.header;
        let waited = now.saturating_duration_since(open.first_at);
        let is_restored = open.is_restored();
        let frame = open.into_frame();
        let message = MessageRef::parse(&frame)?;
        if message.is_end() {
            return Err(FrameError::OutsideRun { kind: KIND_END });
        }
        self.counts.whole += 1;
        self.counts.restored += u64::from(is_restored);
        Ok(Whole { place: Place { lane, topic, number }, frame, waited })
    }

    /// Notes that `later` is complete before what was sent before it.
    fn overtake(&mut self, now: Instant, later: &Open) {
        let until = now + OVERTAKEN_MAX;
        let mut at = 0;
        while let Some(open) = self.open.get_mut(at) {
            if !open.is_before(later) {
                at += 1;
                continue;
            }
            open.overtaken += 1;
            if open.overtaken >= OVERTAKEN_COUNT {
                self.counts.superseded += 1;
                self.remove(at);
                continue;
            }
            if open.overtaken_until.is_none() {
                open.overtaken_until = Some(until);
                self.expires(until);
            }
            at += 1;
        }
    }

    /// Takes a message out; its fragments that are still to come are spare.
    fn remove(&mut self, at: usize) -> Option<Open> {
        let open = self.open.remove(at)?;
        self.bytes -= open.bytes_max();
        self.finished.insert(open.id);
        if self.open.is_empty() {
            self.expiry = None;
        }
        Some(open)
    }

    fn expires(&mut self, at: Instant) {
        self.expiry = Some(self.expiry.map_or(at, |expiry| expiry.min(at)));
    }
}

/// A message of which fragments are missing.
#[derive(Debug)]
struct Open {
    id: u64,
    header: FragmentHeader,
    first_at: Instant,
    last_at: Instant,
    overtaken: u8,
    overtaken_until: Option<Instant>,
    /// What was kept, one block after the other as they came, the last data block filled up with zeros.
    blocks: Vec<u8>,
    /// Which fragments those are.
    indexes: Vec<u16>,
    /// One bit for each fragment that was kept.
    is_kept: Vec<u64>,
    /// Blocks that each code still needs.
    missing: Vec<u8>,
    /// Codes that still need some.
    codes_missing: usize,
}

impl Open {
    fn new(now: Instant, id: u64, header: FragmentHeader) -> Self {
        let codes = header.cut.codes();
        Self {
            id,
            header,
            first_at: now,
            last_at: now,
            overtaken: 0,
            overtaken_until: None,
            blocks: Vec::new(),
            indexes: Vec::new(),
            is_kept: Vec::new(),
            // A code has at most 120 data blocks, and a frame at most 35 codes.
            missing: (0..codes).map(|code| header.cut.code_data(code) as u8).collect(),
            codes_missing: codes,
        }
    }

    /// Memory this message can come to need.
    fn bytes_max(&self) -> usize {
        let cut = &self.header.cut;
        // A vector that grows has room for 4 entries at least, and for twice what it holds at most.
        let indexes_bytes = size_of::<u16>() * (2 * cut.data()).max(4);
        let is_kept_bytes = size_of::<u64>() * (2 * cut.fragments().div_ceil(64)).max(4);
        let blocks_bytes = cut.data() * cut.block_bytes();
        blocks_bytes + indexes_bytes + is_kept_bytes + cut.codes() + size_of::<Self>()
    }

    fn expiry(&self) -> Instant {
        let quiet = self.last_at + QUIET_MAX;
        let budget = Duration::from_micros(self.header.budget_us.into());
        let spent = (!budget.is_zero()).then(|| self.first_at + budget);
        [spent, self.overtaken_until].into_iter().flatten().fold(quiet, Instant::min)
    }

    fn is_before(&self, later: &Self) -> bool {
        self.id < later.id && (self.header.lane, self.header.topic) == (later.header.lane, later.header.topic)
    }

    /// Keeps what the fragment brings, unless that is not needed.
    fn keep(&mut self, now: Instant, fragment: &Fragment<'_>) -> bool {
        let cut = &self.header.cut;
        let index = usize::from(fragment.header.index);
        let (word, bit) = (index / 64, 1 << (index % 64));
        if self.is_kept.len() <= word {
            self.is_kept.resize(word + 1, 0);
        }
        let (code, _) = cut.place(index);
        if self.missing[code] == 0 || self.is_kept[word] & bit != 0 {
            return false;
        }
        self.is_kept[word] |= bit;
        self.indexes.push(fragment.header.index);
        self.missing[code] -= 1;
        self.codes_missing -= usize::from(self.missing[code] == 0);
        self.last_at = now;

        let block_bytes = cut.block_bytes();
        let needed = self.blocks.len() + block_bytes;
        if self.blocks.capacity() < needed {
            // Doubles, but never beyond what the message can need.
            let bytes = (2 * self.blocks.len()).max(4 * block_bytes).min(cut.data() * block_bytes);
            self.blocks.reserve_exact(bytes - self.blocks.len());
        }
        self.blocks.extend_from_slice(fragment.bytes);
        self.blocks.resize(needed, 0);
        true
    }

    fn is_restored(&self) -> bool {
        self.indexes.iter().any(|index| usize::from(*index) >= self.header.cut.data())
    }

    /// The frame, once no code misses anything.
    fn into_frame(self) -> Bytes {
        let cut = self.header.cut;
        let is_in_order = self.indexes.iter().enumerate().all(|(at, index)| at == usize::from(*index));
        let mut frame = if is_in_order { self.blocks } else { self.put_in_order() };
        frame.truncate(cut.frame_bytes());
        frame.into()
    }

    /// All data blocks in their order, restored where they did not come.
    fn put_in_order(&self) -> Vec<u8> {
        let cut = &self.header.cut;
        let block_bytes = cut.block_bytes();
        let mut frame = vec![0; cut.data() * block_bytes];
        let mut known: Vec<Vec<(usize, &[u8])>> = vec![Vec::new(); cut.codes()];
        for (index, block) in self.indexes.iter().zip(self.blocks.chunks_exact(block_bytes)) {
            let index = usize::from(*index);
            if index < cut.data() {
                frame[index * block_bytes..][..block_bytes].copy_from_slice(block);
            }
            let (code, number) = cut.place(index);
            known[code].push((number, block));
        }
        for (code, known) in known.iter().enumerate() {
            let restoration = Restoration::new(cut.code_data(code), known);
            for number in restoration.lost() {
                let index = number * cut.codes() + code;
                restoration.restore(number, &mut frame[index * block_bytes..][..block_bytes]);
            }
        }
        frame
    }
}

/// Which of the newest messages are finished, one way or the other. Older ones count as finished.
#[derive(Debug)]
struct Finished {
    /// 0: none came yet.
    newest: u64,
    /// Bit `id % 1024`.
    is_finished: [u64; (FINISHED_IDS / 64) as usize],
}

impl Default for Finished {
    fn default() -> Self {
        Self { newest: 0, is_finished: [0; (FINISHED_IDS / 64) as usize] }
    }
}

impl Finished {
    /// The peer's 32-bit count without its wrapping round. Begins high enough for what came before the first.
    fn id(&self, message: u32) -> u64 {
        if self.newest == 0 {
            return (1 << 32) + u64::from(message);
        }
        let ahead = message.wrapping_sub(self.newest as u32) as i32;
        self.newest.saturating_add_signed(ahead.into())
    }

    fn contains(&self, id: u64) -> bool {
        let (word, bit) = Self::place(id);
        self.newest.saturating_sub(id) >= FINISHED_IDS || self.is_finished[word] & bit != 0
    }

    /// Moves on to `id`: the ids up to it take the places of those that are too old now.
    fn reach(&mut self, id: u64) {
        let steps = id.saturating_sub(self.newest).min(FINISHED_IDS);
        for newer in 0..steps {
            let (word, bit) = Self::place(id - newer);
            self.is_finished[word] &= !bit;
        }
        self.newest = self.newest.max(id);
    }

    fn insert(&mut self, id: u64) {
        if self.newest.saturating_sub(id) < FINISHED_IDS {
            let (word, bit) = Self::place(id);
            self.is_finished[word] |= bit;
        }
    }

    fn place(id: u64) -> (usize, u64) {
        let slot = id % FINISHED_IDS;
        ((slot / 64) as usize, 1 << (slot % 64))
    }
}
