//! Which window a path gets.
//!
//! Two modes. *Delay*: the window grows until packets stand in a queue for a few milliseconds, and gives way to more.
//! *Competing*: somebody else takes what we give way to, so the window follows CUBIC's curve, and every few seconds
//! we look whether the queue drains when we let it.
//!
//! A loss without a queue is chance and changes nothing, except that the window keeps close to what the path is seen
//! to carry: in a buffer of a few packets our own losses look the same. A loss with a queue is congestion.

use std::time::{Duration, Instant};

use super::cubic::{BETA, Curve, RENO_PACKETS_PER_ROUND};
use super::estimate::{Estimate, Round, SHORT_PATH};

/// Bytes in flight at most. 2 MiB fit an 8 MiB socket buffer with the kernel's book-keeping, and still carry
/// 160 Mbit/s over a round trip of 100 ms.
pub(super) const WINDOW_BYTES_MAX: u64 = 2 << 20;

/// Packets that may always be in flight. Acks come for two packets at a time, and one more may be lost.
const WINDOW_PACKETS_MIN: u64 = 4;

/// Queueing that is taken for noise: the scheduler's, and that of held back acks.
const NOISE: Duration = Duration::from_millis(2);

/// The same on a short path. Losses are noticed there after ten round trips and more, and a window of a few packets would
/// stand still until then. Measured on loopback with 20 % of the packets lost at random: messages waited 20 to 100 ms.
const SHORT_PATH_PACKETS_MIN: u64 = 16;

/// A queue that is welcome: it keeps the path busy. Below this nothing can be told from noise.
const QUEUE_MIN: Duration = Duration::from_millis(5);
const QUEUE_MAX: Duration = Duration::from_millis(15);

/// The welcome queue holds this many of our packets, however slow the path.
const QUEUE_PACKETS: f64 = 2.5;
const QUEUE_PACKETS_TIME_MAX: Duration = Duration::from_millis(50);

/// What a window loses at most when it gives way to a queue.
const GIVE_WAY_MAX: f64 = 0.3;

/// A queue that is so many times as long as a round ago has not grown by another flow's steps.
const JUMP: f64 = 1.5;

/// A window that met no queue for a while grows by this share of itself a round.
const GROWTH_MAX: f64 = 0.125;

/// Up to this round trip and window a window grows like NewReno's.
const STEP_ROUND_TRIP: Duration = Duration::from_millis(20);
const STEP_PACKETS: f64 = 16.0;

/// In flight at most, as a multiple of what the path is seen to carry, where packets are lost without a queue.
const SHALLOW_HEADROOM: f64 = 1.15;
const SHALLOW_PACKETS: u64 = 2;

/// Losses above this share of a round's packets are losses, not single events.
const LOSS_SHARE: f64 = 0.01;

/// Who loses more than this share of a round, all of which stood in a queue, sends more than the path carries. Beside
/// flows that fill every buffer it is a few percent.
const OVERLOAD_SHARE: f64 = 0.1;

/// How long to compete before we look whether somebody is still there. Doubles while somebody is.
const LEASE_MIN: Duration = Duration::from_secs(1);
const LEASE_MAX: Duration = Duration::from_secs(8);

/// What of the path is left filled while a queue is drained.
const DRAINED: f64 = 0.6;

/// The queue must be drained at times: nothing else shows the path's own round trip.
const DRAIN_INTERVAL: Duration = Duration::from_millis(4_500);

/// The window of one path, and how it changes.
#[derive(Clone, Debug)]
pub(super) struct Control {
    window: f64,
    mtu: u64,
    initial_window: u64,
    pub(super) estimate: Estimate,
    phase: Phase,
    /// Losses of packets sent before are the same event.
    backed_off_at: Option<Instant>,
    /// Queueing of the packets that were seen when the longest queue was: two buckets, as for the shortest round trip.
    queue_peak: Duration,
    queue_peak_at: Option<Instant>,
    /// Acked since the last end of an ack.
    acked_bytes: u64,
    /// Rounds in a row without a queue or a loss.
    calm_rounds: u32,
    /// Losses looked like chance in the latest rounds.
    chance_rounds: u32,
    /// Rounds to wait until the effect of giving way can be seen.
    settling_rounds: u32,
    last_rate: f64,
    last_queueing: Duration,
    lease: Duration,
    giving_way: Option<GivingWay>,
    /// Of the latest round.
    in_flight_max: u64,
    is_app_limited: bool,
    is_overload: bool,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Doubling each round. `flat_rounds`: rounds in a row that carried no more than the one before.
    SlowStart {
        flat_rounds: u32,
    },
    Delay,
    Competing(Contest),
    Drain(Drain),
}

/// Competing, since it began or since the latest loss.
#[derive(Clone, Copy, Debug)]
struct Contest {
    /// When to look whether somebody is still there.
    until: Instant,
    since: Instant,
    curve: Curve,
}

/// In flight is held below what the path holds, to see whether the queue empties.
#[derive(Clone, Copy, Debug)]
struct Drain {
    window_before: f64,
    rate: f64,
    /// Rounds since the window has been that small.
    rounds: u32,
    give_up_at: Instant,
    contest: Option<Contest>,
}

/// Where we were when a queue first stood longer than welcome.
#[derive(Clone, Copy, Debug)]
struct GivingWay {
    /// Of the round after: if the path itself has become slower, that is known by then.
    rate: Option<f64>,
    window: f64,
}

impl Control {
    pub(super) fn new(initial_window: u64, mtu: u16) -> Self {
        Self {
            window: initial_window as f64,
            mtu: u64::from(mtu),
            initial_window,
            estimate: Estimate::new(),
            phase: Phase::SlowStart { flat_rounds: 0 },
            backed_off_at: None,
            queue_peak: Duration::ZERO,
            queue_peak_at: None,
            acked_bytes: 0,
            calm_rounds: 0,
            chance_rounds: 0,
            settling_rounds: 0,
            last_rate: 0.0,
            last_queueing: Duration::ZERO,
            lease: LEASE_MIN,
            giving_way: None,
            in_flight_max: 0,
            is_app_limited: false,
            is_overload: false,
        }
    }

    /// Bytes that may be in flight.
    pub(super) fn window(&self) -> u64 {
        self.window as u64
    }

    /// Bytes per second that may leave.
    pub(super) fn rate(&self) -> u64 {
        let rtt = self.estimate.smoothed_rtt().as_secs_f64();
        if rtt > 0.0 { (self.window / rtt) as u64 } else { 0 }
    }

    /// How long a packet that leaves now may be under way: half of the shortest round trip, and as long in queues as now or
    /// in the last seconds. Zero on a path so short that there is only noise to be seen.
    pub(super) fn way(&self) -> Duration {
        let min_rtt = self.estimate.min_rtt();
        if min_rtt < SHORT_PATH {
            return Duration::ZERO;
        }
        min_rtt / 2 + self.queue_peak.max(self.estimate.queueing_at_most())
    }

    pub(super) fn initial_window(&self) -> u64 {
        self.initial_window
    }

    pub(super) fn mtu(&self) -> u64 {
        self.mtu
    }

    pub(super) fn set_mtu(&mut self, mtu: u16) {
        self.mtu = u64::from(mtu);
        self.set_window(self.window);
    }

    pub(super) fn acked(&mut self, now: Instant, sent: Instant, bytes: u64, smoothed_rtt: Duration) {
        self.estimate.acked(now, sent, bytes, smoothed_rtt);
        self.acked_bytes += bytes;
    }

    /// One ack was looked at to its end.
    pub(super) fn end_of_ack(&mut self, now: Instant, in_flight: u64) {
        let acked = std::mem::take(&mut self.acked_bytes);
        let in_flight_before = in_flight + acked;
        // quinn sends nothing that would reach the window with a packet of the largest size.
        let is_limited = in_flight_before + 2 * self.mtu >= self.window();
        self.estimate.in_flight(in_flight_before, is_limited);
        self.note_queue(now);
        self.grow(now, acked);
        if let Some(round) = self.estimate.end_of_ack(now) {
            self.in_flight_max = round.in_flight_max;
            self.is_app_limited = round.is_app_limited;
            self.end_of_round(now, &round, in_flight);
            self.last_rate = round.rate;
            self.last_queueing = round.queueing;
        }
    }

    /// Packets were lost, the latest of them sent at `sent`.
    pub(super) fn lost(&mut self, now: Instant, sent: Instant, lost_bytes: u64, is_persistent: bool) {
        self.estimate.lost(lost_bytes);
        if is_persistent {
            self.start_again(now);
            return;
        }
        if self.backed_off_at.is_some_and(|at| sent <= at) {
            return;
        }
        let is_marked = lost_bytes == 0;
        // On a short path the scheduler's noise hides any queue, and chance loses nothing: a loss is a full buffer, often the
        // receiver's.
        let is_chance = if self.estimate.is_short() { !self.is_filled() } else { !self.is_queue_full() };
        if !is_marked && is_chance {
            self.chance_rounds = CHANCE_ROUNDS;
            self.calm_rounds = 0;
            return;
        }
        self.back_off(now, is_marked);
    }

    fn grow(&mut self, now: Instant, acked: u64) {
        let acked = acked as f64;
        // Acks are read in bunches: nothing is sent in between, and that is no lack of data.
        let (in_flight_max, is_limited) = self.estimate.used();
        match self.phase {
            Phase::SlowStart { .. } if 2 * in_flight_max >= self.window() => match self.estimate.standing() {
                Some(queueing) if queueing > 2 * self.welcome_queue() => self.end_slow_start(now, queueing),
                _ => self.set_window(self.window + acked),
            },
            Phase::Delay if is_limited && self.settling_rounds == 0 => {
                let packets = self.packets_per_round();
                self.set_window(self.window + packets * self.mtu as f64 * acked / self.window);
            }
            Phase::Competing(Contest { since, curve, .. }) if is_limited => {
                let rtt = self.estimate.smoothed_rtt();
                let target = curve.packets(now.saturating_duration_since(since) + rtt, rtt) * self.mtu as f64;
                // No faster than slow start's half, however far the curve has run ahead.
                let step = (target - self.window).clamp(0.0, acked / 2.0);
                self.set_window(self.window + step);
            }
            _ => {}
        }
    }

    /// A larger window and a longer round trip grow in larger steps, or a flow that comes late would wait for its
    /// share for minutes.
    fn packets_per_round(&self) -> f64 {
        let window = self.window / self.mtu as f64;
        let most = (window * GROWTH_MAX).max(1.0);
        let fast = f64::from(1 << self.calm_rounds.saturating_sub(3).min(12));
        if fast > 1.0 {
            return fast.min(most);
        }
        let round_trips = self.estimate.smoothed_rtt().as_secs_f64() / STEP_ROUND_TRIP.as_secs_f64();
        let steps = round_trips.max(1.0) * (window / STEP_PACKETS).sqrt().max(1.0);
        RENO_PACKETS_PER_ROUND * steps.min(most)
    }

    fn end_of_round(&mut self, now: Instant, round: &Round, in_flight: u64) {
        let welcome = self.welcome_queue();
        self.is_overload = round.lost_share > OVERLOAD_SHARE && round.queueing > welcome;
        let is_calm = round.queueing < welcome / 2 && round.lost_share <= LOSS_SHARE;
        self.calm_rounds = if is_calm { self.calm_rounds + 1 } else { 0 };
        self.settling_rounds = self.settling_rounds.saturating_sub(1);
        self.chance_rounds = self.chance_rounds.saturating_sub(1);
        match self.phase {
            Phase::SlowStart { flat_rounds } => self.slow_start_round(now, round, flat_rounds),
            Phase::Delay => self.delay_round(now, round),
            Phase::Competing(contest) => {
                if now >= contest.until + self.lease {
                    self.start_drain(now, Some(contest));
                }
            }
            Phase::Drain(drain) => self.drain_round(now, round, drain, in_flight),
        }
        self.keep_near_path();
    }

    fn slow_start_round(&mut self, now: Instant, round: &Round, flat_rounds: u32) {
        if round.is_app_limited {
            return;
        }
        let is_flat = round.rate < 1.25 * self.last_rate;
        let flat_rounds = if is_flat { flat_rounds + 1 } else { 0 };
        let has_queue = round.queueing > self.welcome_queue();
        let is_losing = round.lost_share > LOSS_SHARE && is_flat;
        if has_queue || is_losing || flat_rounds >= 3 {
            let path = round.rate * self.fullest_round_trip().as_secs_f64();
            self.set_window(self.window.min(path + (3 * self.mtu) as f64));
            self.phase = Phase::Delay;
            self.settling_rounds = 1;
            self.backed_off_at = Some(now);
        } else {
            self.phase = Phase::SlowStart { flat_rounds };
        }
    }

    /// A queue stands before the round is over. What it is made of was sent when the window was half.
    fn end_slow_start(&mut self, now: Instant, queueing: Duration) {
        let now_rtt = self.estimate.min_rtt() + queueing;
        let share = self.fullest_round_trip().as_secs_f64() / now_rtt.as_secs_f64();
        self.set_window(self.window / 2.0 * share.min(1.0));
        self.phase = Phase::Delay;
        self.settling_rounds = 2;
        self.backed_off_at = Some(now);
    }

    fn delay_round(&mut self, now: Instant, round: &Round) {
        if round.is_app_limited {
            self.giving_way = None;
            return;
        }
        let welcome = self.welcome_queue();
        if round.queueing <= welcome {
            self.giving_way = None;
            if self.estimate.min_rtt_age(now) >= DRAIN_INTERVAL {
                self.start_drain(now, None);
            }
            return;
        }
        // Other flows make a queue grow step by step. A jump is the path itself, which has become slower.
        let is_jump = round.queueing > self.last_queueing.mul_f64(JUMP) + self.packets_time(1.0);
        match &mut self.giving_way {
            Some(_) if is_jump => self.giving_way = Some(GivingWay { rate: None, window: self.window }),
            None => self.giving_way = Some(GivingWay { rate: None, window: self.window }),
            Some(GivingWay { rate: rate @ None, .. }) => *rate = Some(round.rate),
            Some(GivingWay { rate: Some(rate), window }) => {
                let given = 1.0 - self.window / *window;
                if given >= GIVE_WAY_MAX && round.rate < *rate * (1.0 - given / 2.0) {
                    let window = *window;
                    self.compete(now, window);
                    return;
                }
            }
        }
        if self.settling_rounds == 0 {
            let excess = (round.queueing - welcome).as_secs_f64() / round.queueing.as_secs_f64();
            self.set_window(self.window * (1.0 - (excess / 2.0).min(GIVE_WAY_MAX)));
            self.settling_rounds = 2;
        }
    }

    /// We gave way, the queue stayed, and what we gave went to somebody else: it is taken back.
    fn compete(&mut self, now: Instant, window: f64) {
        self.lease = LEASE_MIN;
        self.giving_way = None;
        self.set_window(window);
        let packets = self.window / self.mtu as f64;
        let curve = Curve::after_loss(packets, packets);
        self.phase = Phase::Competing(Contest { until: now + self.lease, since: now, curve });
    }

    fn start_drain(&mut self, now: Instant, contest: Option<Contest>) {
        let rate = self.estimate.rate();
        let give_up_at = now + 8 * self.estimate.smoothed_rtt() + Duration::from_millis(100);
        self.phase = Phase::Drain(Drain { window_before: self.window, rate, rounds: 0, give_up_at, contest });
        self.set_window(self.estimate.path_bytes(rate) as f64 * DRAINED);
    }

    fn drain_round(&mut self, now: Instant, round: &Round, mut drain: Drain, in_flight: u64) {
        drain.rounds += u32::from(in_flight <= self.window());
        let is_empty = round.queueing <= self.welcome_queue() / 2;
        let is_over = drain.rounds >= 2 || now >= drain.give_up_at;
        if !(is_over || is_empty && drain.rounds >= 1) {
            self.phase = Phase::Drain(drain);
            return;
        }
        self.estimate.min_rtt_looked_for(now);
        self.settling_rounds = 2;
        let path = (self.estimate.path_bytes(drain.rate) + 2 * self.mtu) as f64;
        match drain.contest {
            Some(contest) if !is_empty => {
                self.lease = (2 * self.lease).min(LEASE_MAX);
                self.set_window(drain.window_before);
                self.phase = Phase::Competing(Contest { until: now + self.lease, ..contest });
            }
            Some(_) => {
                self.set_window(path);
                self.phase = Phase::Delay;
            }
            None => {
                self.set_window(drain.window_before.min(path.max(drain.window_before * BETA)));
                self.phase = Phase::Delay;
            }
        }
    }

    /// Not below what the path carries; but a mark says that even this is too much.
    fn back_off(&mut self, now: Instant, is_marked: bool) {
        self.backed_off_at = Some(now);
        self.calm_rounds = 0;
        let path = (self.estimate.path_bytes(self.estimate.rate()) + self.mtu) as f64;
        let path = if self.estimate.is_short() { 0.0 } else { path.min(self.window) };
        let floor = if is_marked { 0.0 } else { path.max(self.unused_floor()) };
        let left = floor.max(self.window * BETA);
        match self.phase {
            Phase::SlowStart { .. } => {
                self.phase = Phase::Delay;
                self.set_window(left);
            }
            Phase::Delay => self.set_window(left),
            Phase::Competing(contest) => {
                let curve = Curve::after_loss(self.window / self.mtu as f64, left / self.mtu as f64);
                let contest = Contest { since: now, curve, ..contest };
                self.phase = Phase::Competing(contest);
                self.set_window(left);
                // Others had losses, too: whoever is like us looks at the same time.
                if now >= contest.until {
                    self.start_drain(now, Some(contest));
                }
            }
            Phase::Drain(_) => {}
        }
        self.settling_rounds = 1;
    }

    /// Nothing has arrived for long: the path may be another one.
    fn start_again(&mut self, now: Instant) {
        self.set_window(self.window.min(self.initial_window as f64));
        self.estimate.forget_rates();
        self.last_rate = 0.0;
        self.backed_off_at = Some(now);
        self.phase = Phase::SlowStart { flat_rounds: 0 };
        self.calm_rounds = 0;
        self.giving_way = None;
    }

    /// A flow that does not use its window does not make the queue either, and would gain nothing by a smaller one. Unless
    /// it sends more than the path carries: then only losses keep it from using its window.
    fn unused_floor(&self) -> f64 {
        if !self.is_app_limited || self.is_overload {
            return 0.0;
        }
        self.window.min((2 * self.in_flight_max + 4 * self.mtu) as f64)
    }

    /// Where packets are lost without a queue the window keeps near what arrives.
    fn keep_near_path(&mut self) {
        if self.chance_rounds == 0 || matches!(self.phase, Phase::SlowStart { .. }) {
            return;
        }
        let path = self.estimate.path_bytes(self.estimate.rate_max()) as f64;
        if path > 0.0 {
            let most = path * SHALLOW_HEADROOM + (SHALLOW_PACKETS * self.mtu) as f64;
            self.set_window(self.window.min(most.max(self.unused_floor())));
        }
    }

    /// How long packets may stand in a queue before we give way.
    fn welcome_queue(&self) -> Duration {
        (self.estimate.min_rtt() / 4).clamp(QUEUE_MIN, QUEUE_MAX) + self.packets_time(QUEUE_PACKETS)
    }

    /// How long a round trip may be before the path holds more than it should. On a short path that includes a welcome
    /// queue: the shortest round trip alone holds so little that each of the receiver's pauses would stop the sender.
    fn fullest_round_trip(&self) -> Duration {
        let min_rtt = self.estimate.min_rtt();
        if self.estimate.is_short() { min_rtt + self.welcome_queue() } else { min_rtt }
    }

    fn note_queue(&mut self, now: Instant) {
        let queueing = self.estimate.queueing_now();
        let is_old = self.queue_peak_at.is_none_or(|at| now.saturating_duration_since(at) > QUEUE_PEAK_LIFE);
        if is_old || queueing >= self.queue_peak {
            self.queue_peak = queueing;
            self.queue_peak_at = Some(now);
        }
    }

    /// Whether so much is in flight that it may be more than the receiver's buffer takes.
    fn is_filled(&self) -> bool {
        let (in_flight_max, _) = self.estimate.used();
        2 * in_flight_max.max(self.in_flight_max) >= self.window()
    }

    /// The packets around the latest ack stood in a queue that is long, for this path: longer than the one packet that
    /// is always before another, and than noise.
    fn is_queue_full(&self) -> bool {
        let queueing = self.estimate.queueing_now();
        let noise = NOISE + self.packets_time(1.0);
        queueing > noise && queueing >= self.queue_peak.min(self.welcome_queue()) / 2
    }

    /// How long the path takes for so many packets.
    fn packets_time(&self, packets: f64) -> Duration {
        let rate = self.estimate.rate_max();
        if rate <= 0.0 {
            return Duration::ZERO;
        }
        let seconds = packets * self.mtu as f64 / rate;
        Duration::from_secs_f64(seconds.min(QUEUE_PACKETS_TIME_MAX.as_secs_f64()))
    }

    fn set_window(&mut self, window: f64) {
        let packets_min = if self.estimate.is_short() { SHORT_PATH_PACKETS_MIN } else { WINDOW_PACKETS_MIN };
        let min = (packets_min * self.mtu) as f64;
        self.window = window.clamp(min, (WINDOW_BYTES_MAX as f64).max(min));
    }
}

/// Rounds for which a loss by chance is remembered.
const CHANCE_ROUNDS: u32 = 16;

/// How long the longest queue is remembered.
const QUEUE_PEAK_LIFE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
