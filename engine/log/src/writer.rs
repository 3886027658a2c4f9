//! The writer thread: takes what is staged, writes it, syncs it, and only then tells.
//!
//! One write and one sync per batch. A write or sync that fails ends the log's writing for good: what the
//! disk has then is known only after reading it back. Space runs out only where a segment begins.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::books::Books;
use crate::disk::DiskFile;
use crate::error::Failure;
use crate::evacuate::{Evacuation, Step};
use crate::faults;
use crate::files::{Files, FilesError, Need};
use crate::index::Readable;
use crate::log::{Committed, Shared};
use crate::position::Position;
use crate::record::{self, Builder, END_BYTES, EntryRef};
use crate::scan::RunFacts;
use crate::segment::{HEADER_BYTES, SegmentHeader};
use crate::stage::{Batch, Call, Staged};

/// How often retention is looked at.
const TICK: Duration = Duration::from_secs(1);
/// A segment with less than this share of live bytes is given up in the background.
const SPARSE_PERCENT: u64 = 25;
/// When there is no room, one with less than this.
const SPARSE_WITHOUT_ROOM_PERCENT: u64 = 75;
/// What a step of giving up a segment writes at most.
const STEP_BYTES: usize = 1 << 20;

pub(crate) struct Writer {
    shared: Arc<Shared>,
    files: Files,
    books: Books,
    log_id: u64,
    segment_bytes: u32,
    current: Current,
    evacuation: Option<Evacuation>,
    /// Where copies are encoded.
    copies: Batch,
    /// Bytes that may still be written to give up segments that are not needed at once.
    budget_bytes: u64,
    last_time_us: u64,
    /// Nothing was written since the last tick, and a record says so.
    is_marked: bool,
    was_idle: bool,
    must_look: bool,
}

/// The segment that is written to.
pub(crate) struct Current {
    pub(crate) number: u32,
    pub(crate) file: Option<Arc<dyn DiskFile>>,
    pub(crate) at: u32,
    pub(crate) is_ended: bool,
}

/// What a writer begins with.
pub(crate) struct WriterBase {
    pub(crate) files: Files,
    pub(crate) books: Books,
    pub(crate) log_id: u64,
    pub(crate) segment_bytes: u32,
    pub(crate) current: Current,
    pub(crate) last_time_us: u64,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, base: WriterBase) -> Self {
        let WriterBase { files, books, log_id, segment_bytes, current, last_time_us } = base;
        Self {
            shared,
            files,
            books,
            log_id,
            segment_bytes,
            current,
            evacuation: None,
            copies: Batch::default(),
            budget_bytes: 2 * u64::from(segment_bytes),
            last_time_us,
            is_marked: true,
            was_idle: false,
            must_look: true,
        }
    }

    pub(crate) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let _ending = Ending(&shared);
        let mut batch = Batch::default();
        let mut next_tick = Instant::now() + TICK;
        loop {
            let timeout = match self.evacuation.is_some() {
                true => Duration::ZERO,
                false => next_tick.saturating_duration_since(Instant::now()),
            };
            let call = self.shared.stage.take(&mut batch, timeout);
            if Instant::now() >= next_tick || call == Call::Look {
                next_tick = Instant::now() + TICK;
                self.tick();
            }
            let is_stopping = call == Call::Stop;
            if batch.records.is_empty() && is_stopping {
                break;
            }
            self.was_idle &= batch.records.is_empty();
            if !is_stopping {
                self.give_up_some(&mut batch);
            }
            if self.shared.stage.failed().is_some() {
                self.refuse(&mut batch, 0, Failure::Failed(io::ErrorKind::Other));
            } else if let Err((done, why)) = self.write(&mut batch, Need::Ordinary) {
                self.refuse(&mut batch, done, why);
            } else {
                self.gave_up();
            }
            batch.clear();
        }
        self.mark();
    }

    /// Writes records that nobody waits for.
    pub(crate) fn write_own(&mut self, batch: &mut Batch) -> Result<(), Failure> {
        batch.records.iter_mut().for_each(|staged| staged.is_owners = true);
        self.write(batch, Need::Ordinary).map_err(|(_, why)| why)
    }

    /// Writes records until all are durable. On failure: how many were, and why not the others.
    fn write(&mut self, batch: &mut Batch, need: Need) -> Result<(), (usize, Failure)> {
        let (mut done, mut at) = (0, 0);
        let mut tries = self.books.segments.len() + 2;
        while done < batch.records.len() {
            let (count, bytes) = self.fitting(&batch.records[done..]);
            if count > 0 {
                let records = &mut batch.records[done..done + count];
                self.commit(records, &mut batch.bytes[at..at + bytes]).map_err(|why| (done, why))?;
                done += count;
                at += bytes;
                continue;
            }
            match self.roll(need) {
                Ok(()) => {}
                Err(Failure::NoSpace) if need == Need::Ordinary && tries > 0 => {
                    tries -= 1;
                    let gave_up = self.drop_copies(batch, done, &mut at);
                    let is_done = gave_up || done == batch.records.len();
                    if !is_done && !self.make_room().map_err(|why| (done, why))? {
                        self.shared.status().no_space += 1;
                        return Err((done, Failure::NoSpace));
                    }
                }
                Err(why) => return Err((done, why)),
            }
        }
        Ok(())
    }

    /// There is no room, so what gives up a segment in the background ends here: nothing of it may come behind
    /// the last words of another. `true`: it had ended already, and there is room now.
    fn drop_copies(&mut self, batch: &mut Batch, done: usize, at: &mut usize) -> bool {
        let copies = batch.records[done..].iter().take_while(|staged| !staged.is_owners).count();
        let dropped = batch.records.drain(done..done + copies).map(|staged| staged.bytes);
        *at += dropped.sum::<usize>();
        let gave_up = copies == 0 && self.gave_up();
        self.abandon();
        gave_up
    }

    /// How many records, and bytes, the segment has room for.
    fn fitting(&self, records: &[Staged]) -> (usize, usize) {
        if self.current.is_ended {
            return (0, 0);
        }
        let room = (self.segment_bytes - self.current.at) as usize - END_BYTES;
        let mut bytes = 0;
        let fits = records.iter().take_while(|record| {
            let fits = bytes + record.bytes <= room;
            bytes += if fits { record.bytes } else { 0 };
            fits
        });
        (fits.count(), bytes)
    }

    /// The heart of it: one write, one sync, and then everybody who waits is told.
    fn commit(&mut self, records: &mut [Staged], bytes: &mut [u8]) -> Result<(), Failure> {
        let begin = Position::new(self.current.number, self.current.at);
        let (mask, time_us) = (self.mask(), self.now_us());
        let mut rest = &mut *bytes;
        for staged in &*records {
            let (record, after) = rest.split_at_mut(staged.bytes);
            record::finalize(record, mask, begin, time_us);
            rest = after;
        }
        if faults::ack_early() {
            tell(records, bytes, time_us);
        }
        let begun = Instant::now();
        self.store(bytes)?;
        self.current.at += bytes.len() as u32;
        let owners = records.iter().filter(|staged| staged.is_owners).count();
        self.is_marked = false;
        self.budget_bytes = self.budget_bytes.saturating_add(bytes.len() as u64);
        self.apply(records, bytes, begin, time_us);
        let mut status = self.shared.status();
        status.batches += 1;
        status.records += records.len() as u64;
        status.bytes_written += bytes.len() as u64;
        status.sync_us_max = status.sync_us_max.max(begun.elapsed().as_micros() as u64);
        drop(status);
        tell(records, bytes, time_us);
        self.shared.stage.settle(owners as u64);
        Ok(())
    }

    fn store(&self, bytes: &[u8]) -> Result<(), Failure> {
        let file = self.current.file.as_ref().expect("records fit only where a segment is open");
        let written = file.write_at(bytes, u64::from(self.current.at));
        let stored = written.and_then(|()| if faults::no_sync() { Ok(()) } else { file.sync() });
        match stored {
            Err(error) if !faults::ignore_eio() => Err(Failure::Failed(error.kind())),
            _ => Ok(()),
        }
    }

    /// From now on the records can be read.
    fn apply(&mut self, records: &[Staged], bytes: &[u8], begin: Position, time_us: u64) {
        let shared = Arc::clone(&self.shared);
        let mut index = shared.index_mut();
        index.set_end(begin.segment(), begin.at() + bytes.len() as u32);
        self.books.segment(begin.segment()).used += bytes.len() as u32;
        let mut at = 0;
        for staged in records {
            let position = Position::new(begin.segment(), begin.at() + at as u32);
            let record = &bytes[at..at + staged.bytes];
            for raw in record::raw_entries(record) {
                let entry = record::decode(raw).expect("what was encoded can be decoded");
                match entry {
                    EntryRef::Run(run) => {
                        let facts = RunFacts::new(&run, position, time_us);
                        self.books.add_run(&facts);
                        match (facts.is_copy, &mut self.evacuation) {
                            (false, _) => index.add(&facts),
                            (true, Some(evacuation)) => evacuation.moved.push(facts),
                            // Given up on: the original is read, this copy by nobody.
                            (true, None) => {}
                        }
                    }
                    EntryRef::Topic { id, .. } => index.declare(id),
                    _ => {}
                }
                self.books.add(&entry, position.segment(), raw.len() as u32);
            }
            at += staged.bytes;
        }
    }

    /// Ends the segment and begins the next one.
    fn roll(&mut self, need: Need) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::Failed(error.kind());
        let spare = self.files.take(need).map_err(|error| match error {
            FilesError::NoSpace => Failure::NoSpace,
            FilesError::Io(error) => failed(error),
        })?;
        self.end_segment()?;
        let header = SegmentHeader {
            log_id: self.log_id,
            number: self.current.number + 1,
            segment_bytes: self.segment_bytes,
            previous: self.current.number,
            previous_bytes: self.current.at,
            created_us: self.now_us(),
        };
        let file = self.files.begin(spare, &header).map_err(failed)?;
        self.current = Current {
            number: header.number,
            file: Some(Arc::clone(&file)),
            at: HEADER_BYTES,
            is_ended: false,
        };
        self.books.segment(header.number);
        let readable = Readable { mask: self.mask(), file, end: HEADER_BYTES };
        self.shared.index_mut().add_segment(header.number, readable);
        self.files.prepare();
        self.must_look = true;
        Ok(())
    }

    /// Says in the segment that it goes no further: whatever is unreadable in it from now on is damage.
    fn end_segment(&mut self) -> Result<(), Failure> {
        if self.current.is_ended {
            return Ok(());
        }
        let mut bytes = Vec::new();
        let mut builder = Builder::new(&mut bytes);
        builder.end();
        builder.finish();
        let begin = Position::new(self.current.number, self.current.at);
        record::finalize(&mut bytes, self.mask(), begin, self.now_us());
        self.store(&bytes)?;
        self.current.at += bytes.len() as u32;
        self.current.is_ended = true;
        let book = self.books.segment(self.current.number);
        book.used += bytes.len() as u32;
        book.is_ended = true;
        self.shared.index_mut().set_end(self.current.number, self.current.at);
        Ok(())
    }

    /// Once a second, and where a segment began.
    fn tick(&mut self) {
        if self.was_idle {
            self.mark();
        }
        self.was_idle = true;
        let now_us = self.now_us();
        self.must_look |= self.shared.index_mut().trim(now_us);
        self.files.prepare();
        self.report();
    }

    /// Says that everything is durable, so that what breaks later is known as damage. Not needed for anything else.
    fn mark(&mut self) {
        let is_open = self.current.file.is_some() && self.fitting(&[own_record(record::HEADER_BYTES)]).0 == 1;
        if self.is_marked || !is_open || self.shared.stage.failed().is_some() {
            return;
        }
        let mut batch = Batch::default();
        let bytes = Builder::new(&mut batch.bytes).finish();
        batch.records.push(own_record(bytes));
        match self.write(&mut batch, Need::Ordinary) {
            Ok(()) => self.is_marked = true,
            Err((done, why)) => self.refuse(&mut batch, done, why),
        }
    }

    /// Adds a piece of a segment that is being given up to what is written anyway.
    ///
    /// In front of it: a copy of what the batch deletes must not lie behind the deletion, which may be
    /// forgotten once its segment is the oldest.
    fn give_up_some(&mut self, batch: &mut Batch) {
        if self.evacuation.is_none() && std::mem::take(&mut self.must_look) {
            let now_us = self.now_us();
            self.shared.index_mut().trim(now_us);
            let victim = self.sparsest(SPARSE_PERCENT);
            self.evacuation = victim.map(|victim| self.evacuation_of(victim));
        }
        let read_max = STEP_BYTES.max(2 * batch.bytes.len());
        let mut copies = std::mem::take(&mut self.copies);
        self.step(&mut copies, read_max, STEP_BYTES);
        if !copies.records.is_empty() {
            copies.bytes.extend_from_slice(&batch.bytes);
            copies.records.append(&mut batch.records);
            std::mem::swap(&mut copies, batch);
        }
        copies.clear();
        self.copies = copies;
    }

    fn step(&mut self, batch: &mut Batch, read_max: usize, write_max: usize) {
        let Some(evacuation) = self.evacuation.as_mut().filter(|evacuation| !evacuation.is_closing()) else {
            return;
        };
        let before = batch.bytes.len();
        let shared = Arc::clone(&self.shared);
        let step = evacuation.step(&self.books, &shared.index(), batch, read_max, write_max);
        self.budget_bytes = self.budget_bytes.saturating_sub(2 * (batch.bytes.len() - before) as u64);
        if !matches!(step, Ok(Step::More | Step::Last)) {
            // Its messages are refused one by one, to those who read them.
            let victim = evacuation.victim;
            self.books.segment(victim).is_unreadable = true;
            self.abandon();
        }
    }

    fn abandon(&mut self) {
        self.evacuation = None;
        self.books.victim = None;
    }

    /// The batch with the last words is durable: the segment goes.
    fn gave_up(&mut self) -> bool {
        let Some(mut evacuation) = self.evacuation.take_if(|evacuation| evacuation.is_closing()) else {
            return false;
        };
        self.books.victim = None;
        let victim = evacuation.victim;
        let mut index = self.shared.index_mut();
        let file = index.segment(victim).map(|readable| Arc::clone(&readable.file));
        index.replace(victim, &mut evacuation.moved);
        drop(index);
        self.books.give_up(victim);
        if let Some(file) = file {
            // A name that stays is found and removed when the log is opened.
            let _ = self.files.release(victim, file);
        }
        self.shared.status().segments_given_up += 1;
        self.must_look = true;
        self.report();
        true
    }

    /// Gives up one segment at once, with the reserve if need be. `false`: none is worth it.
    fn make_room(&mut self) -> Result<bool, Failure> {
        let now_us = self.now_us();
        self.shared.index_mut().trim(now_us);
        let Some(victim) = self.sparsest(SPARSE_WITHOUT_ROOM_PERCENT) else { return Ok(false) };
        self.evacuation = Some(self.evacuation_of(victim));
        while self.evacuation.is_some() {
            let mut batch = Batch::default();
            self.step(&mut batch, STEP_BYTES, STEP_BYTES);
            match self.write(&mut batch, Need::Room) {
                Ok(()) => {}
                Err((_, Failure::NoSpace)) => {
                    self.abandon();
                    return Ok(false);
                }
                Err((_, why)) => return Err(why),
            }
            self.gave_up();
        }
        Ok(true)
    }

    /// The complete segment with the smallest live share below `percent`.
    fn sparsest(&self, percent: u64) -> Option<u32> {
        let index = self.shared.index();
        let candidates =
            self.books.segments.iter().filter(|(number, book)| {
                **number != self.current.number && book.is_ended && !book.is_unreadable
            });
        let shares = candidates.filter_map(|(number, book)| {
            let live = self.books.live_bytes(*number, &index);
            let is_sparse = live * 100 < u64::from(book.used.max(1)) * percent;
            let is_affordable = percent > SPARSE_PERCENT || live < self.budget_bytes;
            (is_sparse && is_affordable).then_some((live * 1_000 / u64::from(book.used.max(1)), *number))
        });
        shares.min().map(|(_, number)| number)
    }

    fn evacuation_of(&mut self, victim: u32) -> Evacuation {
        let is_oldest = self.books.segments.keys().next() == Some(&victim);
        self.books.victim = Some(victim);
        Evacuation::new(victim, is_oldest, &self.books)
    }

    /// Tells everybody whose records are not stored, and takes their offsets back.
    fn refuse(&mut self, batch: &mut Batch, done: usize, why: Failure) {
        self.abandon();
        let failed = match why {
            Failure::NoSpace => None,
            Failure::Failed(kind) => Some(kind),
        };
        batch.records.drain(..done);
        let index = &self.shared;
        self.shared.stage.refuse(batch, failed, || {
            index.index().topics().map(|(id, topic)| (id, topic.next)).collect::<HashMap<_, _>>()
        });
        let why = self.shared.stage.failed().map_or(why, Failure::Failed);
        let owners = batch.records.iter().filter(|staged| staged.is_owners).count();
        for staged in batch.records.drain(..) {
            if let Some(listener) = staged.listener {
                listener.failed(why);
            }
        }
        self.shared.stage.settle(owners as u64);
    }

    fn report(&self) {
        let mut status = self.shared.status();
        status.segments = self.books.segments.len();
        status.spare_segments = self.files.spares();
        status.file_bytes = self.files.bytes();
    }

    fn mask(&self) -> u32 {
        record::mask(self.log_id, self.current.number)
    }

    /// Microseconds of Unix time, never less than before.
    fn now_us(&mut self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_time_us = self.last_time_us.max(now.as_micros() as u64);
        self.last_time_us
    }
}

/// However the thread ends, nobody waits for it any more.
struct Ending<'s>(&'s Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.stage.end();
    }
}

fn own_record(bytes: usize) -> Staged {
    Staged { bytes, listener: None, is_owners: false }
}

/// Tells everybody once.
fn tell(records: &mut [Staged], bytes: &[u8], time_us: u64) {
    let mut at = 0;
    for staged in records {
        let record = &bytes[at..at + staged.bytes];
        if let Some(listener) = staged.listener.take() {
            listener.committed(Committed::new(record, time_us));
        }
        at += staged.bytes;
    }
}
