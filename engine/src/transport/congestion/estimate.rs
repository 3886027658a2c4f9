//! What the acks of a path tell: its shortest round trip, what it delivers, and how long packets stand in queues.
//!
//! Nothing is decided here. Delays are looked at by round, because a single packet's says little: an ack may be held
//! back for 25 ms, and a process that was not scheduled reads it late.

use std::time::{Duration, Instant};

/// A round is as long as one round trip, and at least this: on loopback the scheduler alone makes milliseconds.
const ROUND_MIN: Duration = Duration::from_millis(4);

/// The shortest round trip is that of the last one to two of these. A path may become longer.
const MIN_RTT_BUCKET: Duration = Duration::from_secs(5);

/// Round trips below this are those of one machine or one room.
pub(super) const SHORT_PATH: Duration = Duration::from_millis(3);

/// So long without an ack on a short path is a pause of the scheduler, and no packet stands in a queue meanwhile.
const PAUSE: Duration = Duration::from_millis(4);

/// With fewer samples than this a round may consist of held back acks alone.
const TRUSTED_SAMPLES: u32 = 4;

/// Rounds whose highest delivery rate counts.
const RATE_ROUNDS: usize = 8;

/// What a path is like, from its acks.
#[derive(Clone, Debug)]
pub(super) struct Estimate {
    min_rtt: MinRtt,
    rates: [f64; RATE_ROUNDS],
    rates_at: usize,
    round: Option<Open>,
    /// Smoothed by quinn, without the time that the peer held acks back.
    smoothed_rtt: Duration,
    latest_rtt: Duration,
    /// When the latest ack came, and since when they come without a pause.
    last_ack_at: Option<Instant>,
    flowing_since: Option<Instant>,
}

/// A round that is over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Round {
    /// How long even the fastest packet of the round stood in queues.
    pub(super) queueing: Duration,
    /// Bytes per second that arrived.
    pub(super) rate: f64,
    /// Of the bytes whose fate became known, those that were lost: 0 to 1.
    pub(super) lost_share: f64,
    /// The window was not used up: what arrived says nothing of what could have.
    pub(super) is_app_limited: bool,
    /// Most bytes in flight.
    pub(super) in_flight_max: u64,
}

/// A round that goes on.
#[derive(Clone, Copy, Debug)]
struct Open {
    since: Instant,
    acked_bytes: u64,
    lost_bytes: u64,
    rtt: Duration,
    samples: u32,
    in_flight_max: u64,
    is_limited: bool,
    is_answered: bool,
}

impl Estimate {
    pub(super) fn new() -> Self {
        Self {
            min_rtt: MinRtt::new(),
            rates: [0.0; RATE_ROUNDS],
            rates_at: 0,
            round: None,
            smoothed_rtt: Duration::ZERO,
            latest_rtt: Duration::ZERO,
            last_ack_at: None,
            flowing_since: None,
        }
    }

    /// A packet that was sent at `sent` has arrived.
    pub(super) fn acked(&mut self, now: Instant, sent: Instant, bytes: u64, smoothed_rtt: Duration) {
        let rtt = now.saturating_duration_since(sent);
        self.smoothed_rtt = smoothed_rtt;
        self.latest_rtt = rtt;
        self.min_rtt.seen(now, rtt);
        if self.last_ack_at.is_none_or(|last| now.saturating_duration_since(last) >= PAUSE) {
            self.flowing_since = Some(now);
        }
        self.last_ack_at = Some(now);
        let behind_others = if self.is_short() { rtt.min(self.flowing(now)) } else { rtt };
        let round = self.round.get_or_insert_with(|| Open::new(now));
        round.acked_bytes += bytes;
        round.rtt = round.rtt.min(behind_others);
        round.samples += 1;
        round.is_answered |= sent >= round.since;
    }

    pub(super) fn lost(&mut self, bytes: u64) {
        if let Some(round) = &mut self.round {
            round.lost_bytes += bytes;
        }
    }

    /// That much was in flight before an ack, and whether the window allowed no more.
    pub(super) fn in_flight(&mut self, bytes: u64, is_limited: bool) {
        if let Some(round) = &mut self.round {
            round.in_flight_max = round.in_flight_max.max(bytes);
            round.is_limited |= is_limited;
        }
    }

    /// Most bytes in flight during this round, and whether the window ever allowed no more.
    pub(super) fn used(&self) -> (u64, bool) {
        self.round.map_or((0, false), |round| (round.in_flight_max, round.is_limited))
    }

    /// One ack was looked at to its end. The round, if it is over.
    pub(super) fn end_of_ack(&mut self, now: Instant) -> Option<Round> {
        let round = self.round.as_mut()?;
        let lasted = now.saturating_duration_since(round.since);
        if !round.is_answered || lasted < ROUND_MIN {
            return None;
        }
        let over = *round;
        *round = Open::new(now);
        let rate = over.acked_bytes as f64 / lasted.as_secs_f64();
        if over.is_limited || rate > self.rate_max() {
            self.rates_at = (self.rates_at + 1) % RATE_ROUNDS;
            self.rates[self.rates_at] = rate;
        }
        let judged = (over.acked_bytes + over.lost_bytes).max(1);
        Some(Round {
            queueing: self.queueing(over.rtt, over.samples),
            rate,
            lost_share: over.lost_bytes as f64 / judged as f64,
            is_app_limited: !over.is_limited,
            in_flight_max: over.in_flight_max,
        })
    }

    /// Shortest round trip of the last seconds; zero before the first ack.
    pub(super) fn min_rtt(&self) -> Duration {
        self.min_rtt.get()
    }

    /// How long it is that a round trip was about as short as the shortest.
    pub(super) fn min_rtt_age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.min_rtt.near_at.unwrap_or(now))
    }

    pub(super) fn min_rtt_looked_for(&mut self, now: Instant) {
        self.min_rtt.near_at = Some(now);
    }

    /// Whether it is a path within one machine or one room: there pauses of the scheduler are longer than queues.
    pub(super) fn is_short(&self) -> bool {
        // Until a packet was acknowledged it is 0, and says nothing.
        (Duration::from_nanos(1)..SHORT_PATH).contains(&self.min_rtt())
    }

    pub(super) fn smoothed_rtt(&self) -> Duration {
        self.smoothed_rtt
    }

    /// The longest that the packets of the latest ack may have stood in queues.
    pub(super) fn queueing_at_most(&self) -> Duration {
        self.latest_rtt.max(self.smoothed_rtt).saturating_sub(self.min_rtt())
    }

    /// How long the packets of the latest ack stood in queues.
    pub(super) fn queueing_now(&self) -> Duration {
        self.queueing(self.latest_rtt, 1)
    }

    /// How long even the fastest packet of this round stood in queues, once there are enough.
    pub(super) fn standing(&self) -> Option<Duration> {
        let round = self.round.as_ref().filter(|round| round.samples >= 2 * TRUSTED_SAMPLES)?;
        Some(self.queueing(round.rtt, round.samples))
    }

    /// Highest delivery rate of the last rounds, bytes per second.
    pub(super) fn rate_max(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    /// Highest delivery rate of the last three rounds.
    pub(super) fn rate(&self) -> f64 {
        (0..3).map(|age| self.rates[(self.rates_at + RATE_ROUNDS - age) % RATE_ROUNDS]).fold(0.0, f64::max)
    }

    /// Bytes that fill the path at `rate` without a queue.
    pub(super) fn path_bytes(&self, rate: f64) -> u64 {
        (rate * self.min_rtt().as_secs_f64()) as u64
    }

    /// The path was silent: what it delivered before is no measure any more.
    pub(super) fn forget_rates(&mut self) {
        self.rates = [0.0; RATE_ROUNDS];
        self.round = None;
    }

    /// How long acks have been coming without a pause. A packet in a queue sees others acknowledged all the time; if the
    /// receiver, or we, were off the core, it sees none.
    fn flowing(&self, now: Instant) -> Duration {
        self.flowing_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    fn queueing(&self, rtt: Duration, samples: u32) -> Duration {
        let min_rtt = self.min_rtt();
        let standing = rtt.saturating_sub(min_rtt);
        if samples >= TRUSTED_SAMPLES {
            return standing;
        }
        standing.min(self.smoothed_rtt.saturating_sub(min_rtt))
    }
}

impl Open {
    fn new(since: Instant) -> Self {
        Self {
            since,
            acked_bytes: 0,
            lost_bytes: 0,
            rtt: Duration::MAX,
            samples: 0,
            in_flight_max: 0,
            is_limited: false,
            is_answered: false,
        }
    }
}

/// A minimum that forgets.
#[derive(Clone, Debug)]
struct MinRtt {
    bucket_since: Option<Instant>,
    current: Option<Duration>,
    previous: Option<Duration>,
    near_at: Option<Instant>,
}

impl MinRtt {
    fn new() -> Self {
        Self { bucket_since: None, current: None, previous: None, near_at: None }
    }

    fn seen(&mut self, now: Instant, rtt: Duration) {
        let since = *self.bucket_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= MIN_RTT_BUCKET {
            self.bucket_since = Some(now);
            self.previous = self.current.take();
        }
        self.current = Some(self.current.map_or(rtt, |current| current.min(rtt)));
        let min = self.get();
        if rtt <= min + (min / 16).max(Duration::from_millis(1)) {
            self.near_at = Some(now);
        }
    }

    fn get(&self) -> Duration {
        let both = [self.current, self.previous];
        both.into_iter().flatten().min().unwrap_or(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn the_shortest_round_trip_is_forgotten_after_two_buckets() {
        let start = Instant::now();
        let mut estimate = Estimate::new();
        estimate.acked(start + ms(20), start, 1_200, ms(20));
        for at in (0..12_000).step_by(10) {
            let sent = start + ms(at);
            estimate.acked(sent + ms(60), sent, 1_200, ms(60));
        }
        assert_eq!(estimate.min_rtt(), ms(60), "the path has become longer");
    }

    #[test]
    fn acks_held_back_for_single_packets_are_no_queue() {
        let start = Instant::now();
        let mut estimate = Estimate::new();
        estimate.acked(start + ms(20), start, 1_200, ms(20));
        estimate.acked(start + ms(145), start + ms(100), 1_200, ms(20));
        assert_eq!(estimate.queueing_now(), Duration::ZERO, "25 of 45 ms were the peer's");
        assert_eq!(estimate.queueing_at_most(), ms(25), "unless they were not");
    }

    #[test]
    fn a_round_that_does_not_use_its_window_lowers_no_rate() {
        let start = Instant::now();
        let mut estimate = Estimate::new();
        let mut at = start;
        for is_limited in [true, false, false] {
            for _ in 0..20 {
                let bytes = if is_limited { 12_000 } else { 120 };
                at += ms(1);
                estimate.acked(at, at - ms(10), bytes, ms(10));
                estimate.in_flight(bytes, is_limited);
                estimate.end_of_ack(at);
            }
        }
        assert!(estimate.rate() > 10e6, "{} bytes/s", estimate.rate());
    }
}
