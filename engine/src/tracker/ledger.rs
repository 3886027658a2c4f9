//! One fast topic's missing messages on one subscription: how many there are, and why, as far as their senders said.
//!
//! A hole is counted as lost until somebody explains it; an explanation that comes before its hole waits for it. So each
//! missing message is counted once, at every moment, whichever comes first.

use twinlane_proto::GapCause;

use crate::fast::Counts;
use crate::status::SubscriptionStats;

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Missing and not explained.
    lost: u64,
    /// Missing and explained.
    explained: Counts,
    /// Explanations whose holes were not seen yet.
    unused: Counts,
    /// What the server of this connection has told so far.
    told: Counts,
}

impl Ledger {
    /// `messages` are missing. Returns the reason of most of them.
    pub(super) fn hole(&mut self, messages: u64, stats: &mut SubscriptionStats) -> GapCause {
        let mut left = messages;
        let (mut most, mut most_messages) = (GapCause::Lost, 0);
        for (cause, unused) in causes(&mut self.unused) {
            let explained = left.min(*unused);
            *unused -= explained;
            left -= explained;
            *counted(&mut self.explained, cause) += explained;
            add(stats, cause, explained);
            if explained > most_messages {
                (most, most_messages) = (cause, explained);
            }
        }
        self.lost = self.lost.saturating_add(left);
        add(stats, GapCause::Lost, left);
        if left >= most_messages { GapCause::Lost } else { most }
    }

    /// A message that was missing came after all, and is handed over.
    pub(super) fn recovered(&mut self, stats: &mut SubscriptionStats) {
        if self.lost > 0 {
            self.lost -= 1;
            stats.lost = stats.lost.saturating_sub(1);
            return;
        }
        // Somebody else's explanation was taken for this hole; it waits for its own again.
        for (cause, explained) in causes(&mut self.explained) {
            if *explained > 0 {
                *explained -= 1;
                *counted(&mut self.unused, cause) += 1;
                let counter = counter(stats, cause);
                *counter = counter.saturating_sub(1);
                return;
            }
        }
    }

    /// A message that was missing came after all, too late to be handed over.
    pub(super) fn late(&mut self, stats: &mut SubscriptionStats) {
        self.recovered(stats);
        stats.late += 1;
    }

    /// The server left out so many messages so far.
    pub(super) fn told(&mut self, told: Counts, stats: &mut SubscriptionStats) {
        let news = told.since(self.told);
        self.told = told;
        self.explain(news, stats);
    }

    /// So many messages more were left out on purpose.
    pub(super) fn explain(&mut self, mut news: Counts, stats: &mut SubscriptionStats) {
        for (cause, messages) in causes(&mut news) {
            let moved = self.lost.min(*messages);
            self.lost -= moved;
            stats.lost = stats.lost.saturating_sub(moved);
            *counted(&mut self.explained, cause) += moved;
            add(stats, cause, moved);
            let unused = counted(&mut self.unused, cause);
            *unused = unused.saturating_add(*messages - moved);
        }
    }

    /// Another connection begins, whose server counts from 0.
    pub(super) fn begin_connection(&mut self) {
        self.told = Counts::default();
    }
}

fn causes(counts: &mut Counts) -> [(GapCause, &mut u64); 5] {
    [
        (GapCause::Expired, &mut counts.expired),
        (GapCause::Coalesced, &mut counts.coalesced),
        (GapCause::DroppedSlow, &mut counts.dropped_slow),
        (GapCause::Late, &mut counts.late),
        (GapCause::NoRoute, &mut counts.no_route),
    ]
}

fn counted(counts: &mut Counts, cause: GapCause) -> &mut u64 {
    match cause {
        GapCause::Expired => &mut counts.expired,
        GapCause::Coalesced => &mut counts.coalesced,
        GapCause::DroppedSlow => &mut counts.dropped_slow,
        GapCause::NoRoute => &mut counts.no_route,
        _ => &mut counts.late,
    }
}

/// The counter of messages that are missing for this reason.
pub(super) fn counter(stats: &mut SubscriptionStats, cause: GapCause) -> &mut u64 {
    match cause {
        GapCause::Late => &mut stats.late,
        GapCause::Expired => &mut stats.expired,
        GapCause::Coalesced => &mut stats.coalesced,
        GapCause::DroppedSlow => &mut stats.dropped_slow,
        GapCause::NoRoute => &mut stats.no_route,
        GapCause::Retention | GapCause::Purge | GapCause::Permission => &mut stats.not_retained,
        GapCause::Lost | GapCause::Abandoned => &mut stats.lost,
    }
}

pub(super) fn add(stats: &mut SubscriptionStats, cause: GapCause, messages: u64) {
    let counter = counter(stats, cause);
    *counter = counter.saturating_add(messages);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_lost_until_it_is_explained_whichever_comes_first() {
        let (mut ledger, mut stats) = (Ledger::default(), SubscriptionStats::default());
        assert_eq!(ledger.hole(5, &mut stats), GapCause::Lost);
        ledger.told(Counts { expired: 2, coalesced: 6, ..Counts::default() }, &mut stats);
        assert_eq!((stats.lost, stats.expired, stats.coalesced), (0, 2, 3));
        assert_eq!(ledger.hole(4, &mut stats), GapCause::Coalesced, "three explanations were left");
        assert_eq!((stats.lost, stats.expired, stats.coalesced), (1, 2, 6));
        ledger.told(Counts { expired: 3, coalesced: 6, ..Counts::default() }, &mut stats);
        assert_eq!((stats.lost, stats.expired, stats.coalesced), (0, 3, 6), "only what is new counts");
    }

    #[test]
    fn what_comes_after_all_is_missing_no_more_and_its_explanation_waits_for_another() {
        let (mut ledger, mut stats) = (Ledger::default(), SubscriptionStats::default());
        ledger.told(Counts { expired: 1, ..Counts::default() }, &mut stats);
        ledger.hole(2, &mut stats);
        ledger.recovered(&mut stats);
        ledger.late(&mut stats);
        assert_eq!((stats.lost, stats.expired, stats.late), (0, 0, 1));
        ledger.hole(1, &mut stats);
        assert_eq!((stats.lost, stats.expired, stats.late), (0, 1, 1));
    }
}
