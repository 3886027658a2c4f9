//! F-c: no message is handed over after its deadline.
//!
//! Judged is the time from the return of the local publish call to the beginning of the poll that handed the message
//! over, less what no queue of twinlane is to blame for: what both relays may have held the datagram back, and how
//! long threads of server and checker, all added up, were ready in that time and waited for a processor. What is
//! left may exceed the deadline by 2 ms. Both ends are chosen so that a violation is never invented; on a busy
//! machine one may be missed, so the deliveries during which little was waited are counted by themselves.

use super::super::report::{Invariant, Violations};
use super::{FastJudge, Seen};

/// What the promise allows beyond the deadline.
const ALLOWED_US: u64 = 2_000;
/// Up to this much waiting a delivery is judged closely.
const CLOSELY_US: u64 = 10_000;

/// How much was judged.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Residence {
    /// Deliveries with a deadline.
    pub(super) judged: u64,
    pub(super) closely: u64,
    /// How far the latest of those judged closely stayed below its deadline, or how far it was above; waits not
    /// taken off.
    pub(super) worst_over_us: Option<i64>,
}

pub(super) fn judge(run: &FastJudge, violations: &mut Violations) -> Residence {
    let mut residence = Residence::default();
    for (number, reader) in &run.readers {
        for seen in &reader.seen {
            let Seen::Message { polled_us, message, .. } = seen else { continue };
            let Some(original) = run.original(message).filter(|original| original.deadline_us > 0) else {
                continue;
            };
            let waited_us = run.waits.between(original.before_us, polled_us + 1);
            let link_us = run.link_us(run.streams[&message.publisher].client, reader.client);
            let spent_us = polled_us.saturating_sub(original.after_us).saturating_sub(link_us);
            residence.judged += 1;
            if waited_us <= CLOSELY_US {
                residence.closely += 1;
                let over_us = spent_us as i64 - original.deadline_us as i64;
                residence.worst_over_us = residence.worst_over_us.max(Some(over_us));
            }
            if spent_us > original.deadline_us + ALLOWED_US + waited_us {
                violations.add(Invariant::Fc, || {
                    format!(
                        "reader {number} at {polled_us} µs: message {} of publisher {} was {spent_us} µs in \
                         queues, its deadline is {} µs (links {link_us} µs and waits {waited_us} µs are off)",
                        message.seq, message.publisher, original.deadline_us
                    )
                });
            }
        }
    }
    residence
}
