//! The ring of one topic, made when it is first used: a topic that was only declared takes next to no memory.
//!
//! It is used as a [`Ring`]. Questions that an unused ring answers as well as no ring do not make one.

use std::ops::Deref;
use std::sync::OnceLock;

use twinlane_ring::{Ring, RingConfig};

pub(crate) struct LazyRing {
    made: OnceLock<Ring>,
    config: RingConfig,
}

impl LazyRing {
    /// An empty ring that begins at offset 0.
    pub(crate) fn new(config: RingConfig) -> Self {
        config.check().expect("specifications are checked against the ring's bounds");
        Self { made: OnceLock::new(), config }
    }

    /// A ring that is in use already.
    pub(crate) fn of(ring: Ring, config: RingConfig) -> Self {
        Self { made: OnceLock::from(ring), config }
    }

    /// As [`Ring::oldest`].
    pub(crate) fn oldest(&self) -> u64 {
        self.made.get().map_or(0, Ring::oldest)
    }

    /// As [`Ring::next`].
    pub(crate) fn next(&self) -> u64 {
        self.made.get().map_or(0, Ring::next)
    }

    /// As [`Ring::memory_bytes`].
    pub(crate) fn memory_bytes(&self) -> usize {
        self.made.get().map_or(0, Ring::memory_bytes)
    }

    #[cold]
    fn make(&self) -> Ring {
        Ring::new(self.config).expect("the sizes were checked when this was made")
    }
}

impl Deref for LazyRing {
    type Target = Ring;

    #[inline]
    fn deref(&self) -> &Ring {
        self.made.get_or_init(|| self.make())
    }
}
