//! Faults planted on purpose, behind the feature `faults`: whoever checks histories proves with them that the check
//! sees what it claims to see. Without the feature every question here is a constant `false`.

#[cfg(feature = "faults")]
use std::sync::atomic::{AtomicU8, Ordering};

/// Which messages the fault `skip` forgets: those with a seq that this divides.
pub(crate) const SKIPPED: u64 = 100_003;

#[cfg(feature = "faults")]
const NO_DEDUP: u8 = 1;
#[cfg(feature = "faults")]
const NO_REDELIVERY: u8 = 2;
#[cfg(feature = "faults")]
const SKIP: u8 = 4;

#[cfg(feature = "faults")]
static PLANTED: AtomicU8 = AtomicU8::new(0);

/// Breaks this process on purpose. `false`: there is no fault of that name.
#[cfg(feature = "faults")]
#[must_use]
pub fn plant(name: &str) -> bool {
    let bit = match name {
        "no-dedup" => NO_DEDUP,
        "no-redelivery" => NO_REDELIVERY,
        "skip" => SKIP,
        "no-sync" => return plant_in_log(twinlane_log::Fault::NoSync),
        "ack-early" => return plant_in_log(twinlane_log::Fault::AckEarly),
        "ignore-eio" => return plant_in_log(twinlane_log::Fault::IgnoreEio),
        "no-crc" => return plant_in_log(twinlane_log::Fault::NoCrc),
        _ => return false,
    };
    PLANTED.fetch_or(bit, Ordering::Relaxed);
    true
}

#[cfg(feature = "faults")]
fn plant_in_log(fault: twinlane_log::Fault) -> bool {
    twinlane_log::Log::plant(fault);
    true
}

macro_rules! questions {
    ($($(#[$doc:meta])* $name:ident: $bit:ident),* $(,)?) => {$(
        $(#[$doc])*
        pub(crate) fn $name() -> bool {
            #[cfg(feature = "faults")]
            return PLANTED.load(Ordering::Relaxed) & $bit != 0;
            #[cfg(not(feature = "faults"))]
            false
        }
    )*};
}

questions!(
    /// A publisher that comes back is believed to know best what was stored.
    no_dedup: NO_DEDUP,
    /// What a worker did not finish is left lying.
    no_redelivery: NO_REDELIVERY,
    /// One message in [`SKIPPED`] is acknowledged and not stored.
    skip: SKIP,
);
