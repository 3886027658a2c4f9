//! Where a record lies in the log. Orders as the log does; knows nothing of files.

use std::fmt;

/// A segment's number and a byte in that segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Position(u64);

impl Position {
    pub(crate) const fn new(segment: u32, at: u32) -> Self {
        Self((segment as u64) << 32 | at as u64)
    }

    pub(crate) const fn from_wire(position: u64) -> Self {
        Self(position)
    }

    pub(crate) const fn to_wire(self) -> u64 {
        self.0
    }

    pub(crate) const fn segment(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(crate) const fn at(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:x}:{}", self.segment(), self.at())
    }
}
