//! Faults planted on purpose, behind the feature `faults`: whoever checks histories proves with them that
//! the check sees what it claims to see. Without the feature every question here is a constant `false`.

#[cfg(feature = "faults")]
use std::sync::atomic::{AtomicU8, Ordering};

/// A way to break the log's promises.
#[cfg(feature = "faults")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Says that records are durable and never asks the disk.
    NoSync,
    /// Tells listeners before the disk was asked.
    AckEarly,
    /// Takes a failed write or sync for a good one.
    IgnoreEio,
    /// Believes every record, at recovery and when reading.
    NoCrc,
}

/// Of the whole process: recovery runs before there is a log to plant anything in.
#[cfg(feature = "faults")]
static PLANTED: AtomicU8 = AtomicU8::new(0);

#[cfg(feature = "faults")]
pub(crate) fn plant(fault: Fault) {
    PLANTED.fetch_or(1 << fault as u8, Ordering::Relaxed);
}

#[cfg(feature = "faults")]
fn has(fault: Fault) -> bool {
    PLANTED.load(Ordering::Relaxed) & (1 << fault as u8) != 0
}

macro_rules! questions {
    ($($name:ident: $fault:ident),*) => {$(
        pub(crate) fn $name() -> bool {
            #[cfg(feature = "faults")]
            return has(Fault::$fault);
            #[cfg(not(feature = "faults"))]
            false
        }
    )*};
}

questions!(no_sync: NoSync, ack_early: AckEarly, ignore_eio: IgnoreEio, no_crc: NoCrc);
