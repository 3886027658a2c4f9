//! What a link does to packets, each direction for itself.

use std::time::Duration;

/// Both directions of a link between `left` and `right`.
///
/// Written as `loss=1%,rtt=20ms,jitter=2ms,rate=10mbit,queue=64KiB,reorder=5%/10ms,duplicate=1%,burst=4,mtu=1400,block=udp`,
/// every part optional; `up:` or `down:` before a part means that direction only, and `clean` is a link that does nothing.
/// [`Display`](std::fmt::Display) writes what [`FromStr`](std::str::FromStr) reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// From right to left: to the server, where the left side is one.
    pub up: Direction,
    /// From left to right.
    pub down: Direction,
}

/// What happens to packets in one direction, in this order: they are blocked, too big, queued for the rate, lost, repeated,
/// delayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direction {
    /// Which share is lost at random.
    pub loss: Share,
    /// How many packets in a row a loss takes on average (a Gilbert channel); 0: each is lost or not by itself. The share
    /// that is lost stays [`loss`](Self::loss).
    pub burst: u32,
    /// How long every packet takes.
    pub delay: Duration,
    /// How much longer or shorter one takes at most, evenly spread. It overtakes nobody.
    pub jitter: Duration,
    /// Bits per second, IP headers included; 0: as many as come.
    pub rate_bits: u64,
    /// Bytes that may wait for the rate; what comes when they are full is dropped. 0: 50 ms of the rate, at least 16 KiB.
    pub queue_bytes: u64,
    /// Which packets are held back, so that later ones overtake them.
    pub reorder: Reorder,
    /// Which share arrives twice.
    pub duplicate: Share,
    /// Bytes of the largest packet, IP header included; 0: 1,500. Larger ones vanish and nobody is told.
    pub mtu: u32,
    /// What does not get through at all, now.
    pub block: Block,
}

/// A share of all packets, in millionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

/// Which packets are held back, and for how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reorder {
    /// That share of all packets.
    pub share: Share,
    /// Each takes up to this much longer, evenly spread.
    pub by: Duration,
}

/// What does not get through at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Block {
    /// Everything gets through.
    #[default]
    Nothing,
    /// UDP does not.
    Udp,
    /// TCP does not.
    Tcp,
    /// The cable is cut.
    All,
}

impl Link {
    /// The same in both directions.
    #[must_use]
    pub fn both(direction: Direction) -> Self {
        Self { up: direction, down: direction }
    }

    /// This link, with `block` in both directions.
    #[must_use]
    pub fn blocking(self, block: Block) -> Self {
        Self { up: Direction { block, ..self.up }, down: Direction { block, ..self.down } }
    }

    /// What a packet takes there and back at least, without jitter and waiting.
    #[must_use]
    pub fn round_trip(&self) -> Duration {
        self.up.delay + self.down.delay
    }
}

impl Direction {
    /// Bytes that may wait for the rate, the default filled in.
    #[must_use]
    pub fn queue_bytes_max(&self) -> u64 {
        match self.queue_bytes {
            0 => (self.rate_bits / 8 / 20).max(16 << 10),
            bytes => bytes,
        }
    }
}

impl Share {
    /// Nothing.
    pub const NONE: Self = Self(0);

    /// So many of a million; more than all is all.
    #[must_use]
    pub const fn of_million(millionths: u32) -> Self {
        Self(if millionths > 1_000_000 { 1_000_000 } else { millionths })
    }

    /// So many percent.
    #[must_use]
    pub const fn percent(percent: u32) -> Self {
        Self::of_million(percent.saturating_mul(10_000))
    }

    /// In millionths.
    #[must_use]
    pub const fn per_million(self) -> u32 {
        self.0
    }
}

impl Block {
    /// Whether a packet of this IP protocol is stopped.
    pub(crate) fn stops(self, protocol: u8) -> bool {
        match self {
            Self::Nothing => false,
            Self::Udp => protocol == 17,
            Self::Tcp => protocol == 6,
            Self::All => true,
        }
    }
}
