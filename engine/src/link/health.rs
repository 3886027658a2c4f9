//! Whether the QUIC path beside a connection still carries what is sent into it, and when to try for another one.
//!
//! Decisions only: no socket, no clock, no task. What is known is what QUIC has counted, so nothing is sent to find
//! out, and nothing runs while nothing is sent.

use std::time::{Duration, Instant};

/// How often QUIC's counters are looked at while something is on the way.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A path on which nothing moved for this long needs no looking at until something is sent again. Longer than QUIC
/// waits before it probes for the answer to a single packet.
const QUIET_AFTER: Duration = Duration::from_secs(1);
/// Silence after which a path is given up: four round trips, but at least as long as a burst of loss or a change of
/// network takes, and short enough that messages flow again within 5 s.
const SILENCE_MIN: Duration = Duration::from_secs(2);
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// Frames that must have found no answer: QUIC itself probes for one with two packets at a time, at doubling intervals.
const UNANSWERED_MIN: u64 = 3;
/// A look that comes this late says more about this machine than about the path.
const LATE: Duration = Duration::from_secs(1);

/// What QUIC has counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// Frames sent that the other side acknowledges.
    pub(super) asked: u64,
    /// Acknowledgements received.
    pub(super) answers: u64,
    pub(super) round_trip: Duration,
}

/// What a look at the counters says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Nothing is on the way: no need to look again before more is sent.
    Quiet,
    /// Look again.
    Busy,
    /// Nothing has come back for this long, although there was reason to answer.
    Dead { silence: Duration },
}

/// One QUIC connection's path, seen from one side.
///
/// A side that sends and gets no acknowledgement gives up. That covers every way of a cut, and who only receives is told by
/// the other side. Whether anything else is heard says nothing: where one direction is cut, the other goes on.
#[derive(Debug)]
pub(super) struct PathHealth {
    counts: Counts,
    /// What had been asked when an answer came last.
    asked_before: u64,
    silent_since: Instant,
    moved_at: Instant,
    looked_at: Instant,
}

impl PathHealth {
    pub(super) fn new(now: Instant, counts: Counts) -> Self {
        Self { counts, asked_before: counts.asked, silent_since: now, moved_at: now, looked_at: now }
    }

    /// Something may have been sent after a time of quiet.
    pub(super) fn wake(&mut self, now: Instant) {
        (self.silent_since, self.moved_at, self.looked_at) = (now, now, now);
    }

    /// Whether something was sent since the last look.
    pub(super) fn has_sent(&self, counts: Counts) -> bool {
        counts.asked != self.counts.asked
    }

    pub(super) fn look(&mut self, now: Instant, counts: Counts) -> Finding {
        let late = now.saturating_duration_since(self.looked_at) > LATE;
        let heard = counts.answers != self.counts.answers;
        let sent = self.has_sent(counts);
        self.looked_at = now;
        self.counts = counts;
        if heard || late {
            self.asked_before = counts.asked;
        }
        if heard || late || sent {
            self.moved_at = now;
        }
        let unanswered = counts.asked.saturating_sub(self.asked_before);
        if unanswered == 0 {
            self.silent_since = now;
        }
        let silence = now.saturating_duration_since(self.silent_since);
        let patience = (4 * counts.round_trip).clamp(SILENCE_MIN, SILENCE_MAX);
        if unanswered >= UNANSWERED_MIN && silence >= patience {
            return Finding::Dead { silence };
        }
        // What is unanswered will be answered or probed for, however late.
        if unanswered == 0 && now.saturating_duration_since(self.moved_at) >= QUIET_AFTER {
            return Finding::Quiet;
        }
        Finding::Busy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path with its counters, and time that passes a look at a time.
    struct Path {
        now: Instant,
        counts: Counts,
        health: PathHealth,
    }

    impl Path {
        fn new(round_trip: Duration) -> Self {
            let now = Instant::now();
            let counts = Counts { round_trip, ..Counts::default() };
            Self { now, counts, health: PathHealth::new(now, counts) }
        }

        fn look(&mut self, sent: u64, received: u64) -> Finding {
            self.now += LOOK_EVERY;
            self.counts.asked += sent;
            self.counts.answers += received;
            self.health.look(self.now, self.counts)
        }

        /// Looks with nothing heard until the path is given up; how long that took.
        fn until_dead(&mut self, mut sent: impl FnMut(u32) -> u64) -> Option<Duration> {
            let began = self.now;
            (0..40).find_map(|look| {
                let finding = self.look(sent(look), 0);
                matches!(finding, Finding::Dead { .. }).then(|| self.now - began)
            })
        }
    }

    const NEAR: Duration = Duration::from_millis(20);

    #[test]
    fn a_path_that_answers_nothing_is_given_up_within_three_seconds() {
        for round_trip in [Duration::ZERO, NEAR, Duration::from_millis(700), Duration::from_secs(5)] {
            let mut path = Path::new(round_trip);
            assert_eq!(path.look(5, 5), Finding::Busy);
            let took = path.until_dead(|_| 4).expect("it is dead");
            assert!(SILENCE_MIN <= took && took <= SILENCE_MAX, "{round_trip:?}: {took:?}");
        }
    }

    #[test]
    fn one_message_into_a_dead_path_is_enough_because_quic_probes_for_its_answer() {
        let mut path = Path::new(NEAR);
        // The message, then two probes each time, later and later.
        let took = path.until_dead(|look| match look {
            0 => 3,
            1 | 3 | 7 | 15 => 2,
            _ => 0,
        });
        assert!(took.expect("it is dead") <= SILENCE_MAX, "{took:?}");
    }

    #[test]
    fn probes_at_doubling_intervals_are_reason_enough_also_after_the_machine_stood_still() {
        let mut path = Path::new(NEAR);
        path.look(20, 1);
        path.look(5, 0);
        path.now += Duration::from_secs(3);
        // Every 1.75, then every 3.5 s.
        let took = path.until_dead(|look| if [3, 10, 24].contains(&look) { 2 } else { 0 });
        assert!(took.expect("it is dead") <= Duration::from_secs(4), "{took:?}");
    }

    #[test]
    fn who_only_receives_gives_up_nothing_and_sleeps() {
        let mut path = Path::new(NEAR);
        let findings: Vec<_> = (0..5).map(|_| path.look(0, 0)).collect();
        assert_eq!(findings.last(), Some(&Finding::Quiet), "{findings:?}");
        assert!(!findings.iter().any(|finding| matches!(finding, Finding::Dead { .. })));
    }

    #[test]
    fn heavy_loss_is_no_dead_path() {
        let mut path = Path::new(NEAR);
        for look in 0..1_000 {
            let heard = u64::from(look % 7 == 0);
            assert_eq!(path.look(10, heard), Finding::Busy, "look {look}");
        }
    }

    #[test]
    fn a_machine_that_stood_still_blames_no_path() {
        let mut path = Path::new(NEAR);
        path.look(10, 0);
        path.now += Duration::from_secs(30);
        assert_eq!(path.look(10, 0), Finding::Busy);
        assert_eq!(path.look(10, 10), Finding::Busy);
    }

    #[test]
    fn after_a_time_of_quiet_the_clock_begins_anew() {
        let mut path = Path::new(NEAR);
        path.look(1, 1);
        while path.look(0, 0) != Finding::Quiet {}
        path.now += Duration::from_secs(60);
        path.health.wake(path.now);
        // What went unanswered meanwhile is reason to look, not to give up at once.
        assert_eq!(path.look(9, 0), Finding::Busy);
        assert!(path.until_dead(|_| 1).expect("it is dead") >= SILENCE_MIN - 2 * LOOK_EVERY);
    }
}
