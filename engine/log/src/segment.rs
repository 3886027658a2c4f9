//! Segment files: their names and their headers. What lies behind the header is not known here.

use crate::record::{crc, u32_at, u64_at};

/// Where records begin.
pub(crate) const HEADER_BYTES: u32 = 4_096;
/// Where the header's copy lies: a sector that is lost takes only one of them.
const COPY_AT: usize = 2_048;
const USED_BYTES: usize = 64;
const MAGIC: [u8; 8] = *b"twinlog\0";
const VERSION: u32 = 1;

/// The first bytes of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Drawn when the log was created; the same in all of its segments.
    pub(crate) log_id: u64,
    pub(crate) number: u32,
    pub(crate) segment_bytes: u32,
    /// The segment before, 0: this is the first.
    pub(crate) previous: u32,
    /// Where the segment before ends.
    pub(crate) previous_bytes: u32,
    pub(crate) created_us: u64,
}

/// Why a header cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    /// Neither the header nor its copy is intact.
    Damaged,
    /// A format that this program does not know.
    Version(u32),
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0; HEADER_BYTES as usize];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.log_id.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.number.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.segment_bytes.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.previous.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.previous_bytes.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.created_us.to_le_bytes());
        let crc = crc(&bytes[16..USED_BYTES]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes.copy_within(..USED_BYTES, COPY_AT);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadHeader> {
        let copies = [0, COPY_AT].map(|at| bytes.get(at..at + USED_BYTES).ok_or(BadHeader::Damaged));
        let [first, second] = copies.map(|copy| copy.and_then(Self::decode_one));
        first.or_else(|why| second.map_err(|_| why))
    }

    fn decode_one(bytes: &[u8]) -> Result<Self, BadHeader> {
        if bytes[0..8] != MAGIC {
            return Err(BadHeader::Damaged);
        }
        let version = u32_at(bytes, 8);
        if crc(&bytes[16..USED_BYTES]) != u32_at(bytes, 12) {
            return Err(BadHeader::Damaged);
        }
        if version != VERSION {
            return Err(BadHeader::Version(version));
        }
        Ok(Self {
            log_id: u64_at(bytes, 16),
            number: u32_at(bytes, 24),
            segment_bytes: u32_at(bytes, 28),
            previous: u32_at(bytes, 32),
            previous_bytes: u32_at(bytes, 36),
            created_us: u64_at(bytes, 40),
        })
    }
}

/// What a file of the log's directory is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Segment(u32),
    /// Prepared or left over; nothing in it counts.
    Spare(u32),
}

impl FileKind {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let stem = name.strip_suffix(".log")?;
        if let Some(number) = stem.strip_prefix("segment-") {
            return Some(Self::Segment(parse_number(number)?));
        }
        Some(Self::Spare(parse_number(stem.strip_prefix("spare-")?)?))
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::Segment(number) => format!("segment-{number:016x}.log"),
            Self::Spare(number) => format!("spare-{number:016x}.log"),
        }
    }
}

fn parse_number(digits: &str) -> Option<u32> {
    let is_number = digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u32::from_str_radix(is_number.then_some(digits)?, 16).ok()
}
