//! I8: what was acknowledged before another message of the topic was published comes before it.

use super::log::Logs;
use super::named;
use super::report::{Invariant, Violations};
use super::streams::Streams;
use crate::payload::Identity;

/// Goes through invocations and acknowledgements of each log in the order of time.
pub(super) fn judge(streams: &Streams, logs: &Logs, violations: &mut Violations) {
    for (number, log) in logs.all() {
        let mut acks = log.acks.clone();
        acks.sort_unstable();
        let mut invoked = Vec::new();
        for (publisher, stream) in streams.of_topic(log.topic) {
            let found = (1..).zip(&stream.messages).filter(|(_, message)| !message.found.is_none());
            let here = found.filter(|(_, message)| message.found.log() == number && message.invoked_us > 0);
            invoked.extend(here.map(|(seq, message)| {
                (message.invoked_us, message.found.offset(), Identity { publisher, seq }.word())
            }));
        }
        invoked.sort_unstable();
        let mut acks = acks.into_iter().peekable();
        let mut acked: Option<(u64, u64)> = None;
        for (invoked_us, offset, word) in invoked {
            while let Some((at_us, acked_offset)) = acks.next_if(|(at_us, _)| *at_us < invoked_us) {
                acked = acked.filter(|(_, highest)| *highest >= acked_offset).or(Some((at_us, acked_offset)));
            }
            if let Some((at_us, highest)) = acked.filter(|(_, highest)| *highest > offset) {
                let who = Identity::of_word(word);
                violations.add(Invariant::I8, || {
                    format!(
                        "{} was published at {invoked_us} µs and is at offset {offset}; offset {highest} was acknowledged at {at_us} µs",
                        named(who)
                    )
                });
            }
        }
    }
}
