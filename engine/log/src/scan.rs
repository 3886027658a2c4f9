//! Reads a segment record by record and says where it ends and whether anything valid lies behind.
//!
//! Judges nothing: whether an end is a torn tail or damage is decided by whoever knows the other segments.

use std::io;
use std::sync::Arc;

use crate::disk::DiskFile;
use crate::entry::{Origin, StreamId};
use crate::position::Position;
use crate::record::{self, ALIGN, EntryRef, HEADER_BYTES, Header, RunRef};
use crate::segment::HEADER_BYTES as SEGMENT_HEADER_BYTES;

/// One read.
pub(crate) const PIECE_BYTES: usize = 4 << 20;

/// A part of a file in memory, which moves with what is asked for.
pub(crate) struct Window {
    file: Arc<dyn DiskFile>,
    bytes: Vec<u8>,
    held: usize,
    start: u32,
    /// Nothing at or behind it is read.
    end: u32,
    piece_bytes: usize,
}

impl Window {
    pub(crate) fn new(file: Arc<dyn DiskFile>, end: u32, piece_bytes: usize) -> Self {
        Self { file, bytes: Vec::new(), held: 0, start: 0, end, piece_bytes }
    }

    /// As [`new`](Self::new) with a buffer that was used before.
    pub(crate) fn reusing(file: Arc<dyn DiskFile>, end: u32, piece_bytes: usize, bytes: Vec<u8>) -> Self {
        Self { bytes, ..Self::new(file, end, piece_bytes) }
    }

    /// The file grew.
    pub(crate) fn set_end(&mut self, end: u32) {
        self.end = end;
    }

    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }

    /// What is held from `at` on: `bytes` at least, or all there is.
    pub(crate) fn at(&mut self, at: u32, bytes: usize) -> io::Result<&[u8]> {
        let held_end = self.start as usize + self.held;
        let wanted_end = (at as usize + bytes).min(self.end as usize);
        if at < self.start || wanted_end > held_end {
            let piece = self.piece_bytes.max(bytes).min((self.end as usize).saturating_sub(at as usize));
            if self.bytes.len() < piece {
                self.bytes.resize(piece, 0);
            }
            self.held = self.file.read_at(&mut self.bytes[..piece], u64::from(at))?;
            self.start = at;
        }
        Ok(self.bytes[..self.held].get((at - self.start) as usize..).unwrap_or_default())
    }
}

/// Goes through a segment's records from one to the next.
pub(crate) struct Walk {
    window: Window,
    segment: u32,
    mask: u32,
    at: u32,
}

/// An intact record.
pub(crate) struct Record<'w> {
    pub(crate) position: Position,
    pub(crate) header: Header,
    pub(crate) bytes: &'w [u8],
}

impl Walk {
    pub(crate) fn new(window: Window, segment: u32, mask: u32, at: u32) -> Self {
        Self { window, segment, mask, at }
    }

    pub(crate) fn at(&self) -> u32 {
        self.at
    }

    /// The record here, and goes behind it. `None`: no intact record begins here.
    pub(crate) fn next(&mut self) -> io::Result<Option<Record<'_>>> {
        let position = Position::new(self.segment, self.at);
        let Some(header) = Header::read(self.window.at(self.at, HEADER_BYTES)?, position) else {
            return Ok(None);
        };
        let bytes = self.window.at(self.at, header.bytes)?;
        let Some(bytes) = bytes.get(..header.bytes).filter(|bytes| record::is_intact(bytes, self.mask))
        else {
            return Ok(None);
        };
        self.at += header.bytes as u32;
        Ok(Some(Record { position, header, bytes }))
    }

    /// Goes to the first intact record at or behind here. `false`: there is none.
    pub(crate) fn find(&mut self) -> io::Result<bool> {
        loop {
            let bytes = self.window.at(self.at, HEADER_BYTES)?;
            if bytes.len() < HEADER_BYTES {
                return Ok(false);
            }
            let position = |skipped: usize| Position::new(self.segment, self.at + skipped as u32);
            let last = bytes.len() - HEADER_BYTES;
            let plausible = (0..=last)
                .step_by(ALIGN)
                .find(|&skipped| Header::read(&bytes[skipped..], position(skipped)).is_some());
            let Some(skipped) = plausible else {
                self.at += (last / ALIGN * ALIGN + ALIGN) as u32;
                continue;
            };
            self.at += skipped as u32;
            let found = self.at;
            if self.next()?.is_some() {
                self.at = found;
                return Ok(true);
            }
            self.at += ALIGN as u32;
        }
    }
}

/// A run without its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunFacts {
    pub(crate) topic: u32,
    pub(crate) frames: u32,
    pub(crate) first_offset: u64,
    pub(crate) origin: Origin,
    pub(crate) bytes: u32,
    pub(crate) time_us: u64,
    pub(crate) is_copy: bool,
    pub(crate) position: Position,
}

impl RunFacts {
    pub(crate) fn new(run: &RunRef<'_>, position: Position, record_time_us: u64) -> Self {
        Self {
            topic: run.topic,
            frames: run.frames,
            first_offset: run.first_offset,
            origin: run.origin,
            bytes: run.bytes.len() as u32,
            time_us: run.copied_from_us.unwrap_or(record_time_us),
            is_copy: run.copied_from_us.is_some(),
            position,
        }
    }

    pub(crate) fn end_offset(&self) -> u64 {
        self.first_offset + u64::from(self.frames)
    }

    pub(crate) fn stream(&self) -> StreamId {
        self.origin.stream()
    }
}

/// An entry that was found.
pub(crate) enum Item {
    Run(RunFacts),
    /// Anything else, as it lies in its record.
    Other(Box<[u8]>),
}

/// What a segment holds.
pub(crate) struct Scanned {
    pub(crate) items: Vec<Item>,
    pub(crate) records: u64,
    /// Behind the last record that follows the header without a break.
    pub(crate) end: u32,
    /// The last record says that the segment goes no further.
    pub(crate) is_ended: bool,
    pub(crate) last_time_us: u64,
    /// What the last record said is durable.
    pub(crate) durable_before: Position,
    pub(crate) behind: Behind,
}

/// Intact records behind a place where none is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Behind {
    pub(crate) records: u64,
    /// The furthest that one of them says is durable.
    pub(crate) durable_before: Option<Position>,
}

pub(crate) fn scan(file: &Arc<dyn DiskFile>, segment: u32, mask: u32) -> io::Result<Scanned> {
    let end = u32::try_from(file.bytes()?).unwrap_or(u32::MAX);
    let window = Window::new(Arc::clone(file), end, PIECE_BYTES);
    let mut walk = Walk::new(window, segment, mask, SEGMENT_HEADER_BYTES);
    let mut scanned = Scanned {
        items: Vec::new(),
        records: 0,
        end: SEGMENT_HEADER_BYTES,
        is_ended: false,
        last_time_us: 0,
        durable_before: Position::new(segment, SEGMENT_HEADER_BYTES),
        behind: Behind::default(),
    };
    while !scanned.is_ended
        && let Some(record) = walk.next()?
    {
        scanned.take(&record);
    }
    scanned.end = walk.at();
    if !scanned.is_ended {
        scanned.behind = behind(&mut walk)?;
    }
    Ok(scanned)
}

/// Everything intact that lies at or behind where `walk` is.
fn behind(walk: &mut Walk) -> io::Result<Behind> {
    let mut behind = Behind::default();
    while walk.find()? {
        while let Some(record) = walk.next()? {
            behind.records += 1;
            behind.durable_before = behind.durable_before.max(Some(record.header.durable_before));
        }
    }
    Ok(behind)
}

impl Scanned {
    fn take(&mut self, record: &Record<'_>) {
        self.records += 1;
        self.last_time_us = self.last_time_us.max(record.header.time_us);
        self.durable_before = record.header.durable_before;
        for raw in record::raw_entries(record.bytes) {
            match record::decode(raw).expect("the entries of an intact record were read before") {
                EntryRef::Run(run) => {
                    self.items.push(Item::Run(RunFacts::new(&run, record.position, record.header.time_us)));
                }
                EntryRef::End => self.is_ended = true,
                _ => self.items.push(Item::Other(raw.into())),
            }
        }
    }
}
