//! What a link did, in numbers that add up.

use std::{fmt, time::Duration};

/// Both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// From right to left.
    pub up: Traffic,
    /// From left to right.
    pub down: Traffic,
}

/// One direction, in packets unless said. Always
/// `offered + duplicated = delivered + lost + queue_full + too_big + blocked + refused + under_way`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// What the sending side sent.
    pub offered: u64,
    /// The same in bytes, IP headers included.
    pub offered_bytes: u64,
    /// What the receiving side got, the second of two copies too.
    pub delivered: u64,
    /// The same in bytes.
    pub delivered_bytes: u64,
    /// Lost at random.
    pub lost: u64,
    /// Came when the queue was full.
    pub queue_full: u64,
    /// Larger than the link's largest packet.
    pub too_big: u64,
    /// Stopped by a block.
    pub blocked: u64,
    /// Not taken by the receiving side's kernel.
    pub refused: u64,
    /// Copies that were made.
    pub duplicated: u64,
    /// Held back, so that later ones overtook them.
    pub held_back: u64,
    /// Sent and neither delivered nor gone.
    pub under_way: u64,
    /// How exact the emulator was.
    pub lateness: Lateness,
}

/// How much later than it should have a link delivered: what it added to latencies of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lateness {
    /// The packet that was latest.
    pub worst: Duration,
    /// All packets together.
    pub total: Duration,
    /// Packets that were more than 200 µs late.
    pub above_200us: u64,
}

impl Counts {
    /// Both directions together.
    #[must_use]
    pub fn both(&self) -> Traffic {
        let Self { up, down } = self;
        Traffic {
            offered: up.offered + down.offered,
            offered_bytes: up.offered_bytes + down.offered_bytes,
            delivered: up.delivered + down.delivered,
            delivered_bytes: up.delivered_bytes + down.delivered_bytes,
            lost: up.lost + down.lost,
            queue_full: up.queue_full + down.queue_full,
            too_big: up.too_big + down.too_big,
            blocked: up.blocked + down.blocked,
            refused: up.refused + down.refused,
            duplicated: up.duplicated + down.duplicated,
            held_back: up.held_back + down.held_back,
            under_way: up.under_way + down.under_way,
            lateness: Lateness {
                worst: up.lateness.worst.max(down.lateness.worst),
                total: up.lateness.total + down.lateness.total,
                above_200us: up.lateness.above_200us + down.lateness.above_200us,
            },
        }
    }
}

impl Traffic {
    /// Whether every packet has exactly one fate.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        let gone = self.lost + self.queue_full + self.too_big + self.blocked + self.refused;
        self.offered + self.duplicated == self.delivered + gone + self.under_way
    }
}

impl Lateness {
    pub(crate) fn count(&mut self, late: Duration) {
        self.worst = self.worst.max(late);
        self.total += late;
        self.above_200us += u64::from(late > Duration::from_micros(200));
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "up    {}", self.up)?;
        write!(f, "down  {}", self.down)
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} packets ({} bytes), delivered {}", self.offered, self.offered_bytes, self.delivered)?;
        let fates = [
            ("lost", self.lost),
            ("queue full", self.queue_full),
            ("too big", self.too_big),
            ("blocked", self.blocked),
            ("refused", self.refused),
            ("duplicated", self.duplicated),
            ("held back", self.held_back),
            ("under way", self.under_way),
        ];
        for (name, count) in fates.into_iter().filter(|(_, count)| *count > 0) {
            write!(f, ", {name} {count}")?;
        }
        let mean_us = self.lateness.total.as_secs_f64() * 1e6 / self.delivered.max(1) as f64;
        write!(f, "; late {mean_us:.0} µs on average, {} µs at worst", self.lateness.worst.as_micros())
    }
}
