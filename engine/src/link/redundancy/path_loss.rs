//! The share of packets that a path loses, from counters that only grow.
//!
//! Two windows that fade: a long one that is exact, a short one that notices when loss begins. It cannot tell random
//! loss from congestion; that is the congestion controller's work, which shows in the room that it leaves.

use std::time::{Duration, Instant};

/// Loss from which something is done about it, and below which that ends.
const LOSSY_FROM: f64 = 0.001;
const LOSSY_UNTIL: f64 = 0.000_5;
/// No path is taken for better than this when a value must surely arrive.
const SURE_SHARE_MIN: f64 = 0.01;
const SURE_SHARE_MAX: f64 = 0.9;
/// What fades into a window when nothing was sent: the first losses say little.
const PRIOR_PACKETS: f64 = 20.0;

/// Counters of a path since it began.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PathCounts {
    pub(crate) sent_packets: u64,
    pub(crate) lost_packets: u64,
}

/// What a path loses at present.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PathLoss {
    counts: PathCounts,
    updated: Option<Instant>,
    short: Window,
    long: Window,
    is_lossy: bool,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    packets: f64,
    lifetime: Duration,
    sent: f64,
    lost: f64,
}

impl PathLoss {
    /// A path of which nothing is known yet: not lossy, and not known to be clean.
    pub(crate) fn new() -> Self {
        Self {
            counts: PathCounts::default(),
            updated: None,
            short: Window::new(300.0, Duration::from_secs(1)),
            long: Window::new(5_000.0, Duration::from_secs(10)),
            is_lossy: false,
        }
    }

    /// Takes the path's counters as they are at `now`. Meant for every 20 ms while something is sent.
    pub(crate) fn update(&mut self, now: Instant, counts: PathCounts) {
        // A path that was replaced counts from 0 again.
        let sent = counts.sent_packets.saturating_sub(self.counts.sent_packets) as f64;
        let lost = counts.lost_packets.saturating_sub(self.counts.lost_packets) as f64;
        let elapsed = self.updated.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.short.add(elapsed, sent, lost);
        self.long.add(elapsed, sent, lost);
        (self.counts, self.updated) = (counts, Some(now));
        let bound = if self.is_lossy { LOSSY_UNTIL } else { LOSSY_FROM };
        self.is_lossy = self.share() >= bound;
    }

    /// The share of packets that is lost: 0.01 is one in a hundred.
    pub(crate) fn share(&self) -> f64 {
        self.window().share()
    }

    /// Whether enough is lost to do something about it. Quickly on, slowly off.
    pub(crate) fn is_lossy(&self) -> bool {
        self.is_lossy
    }

    /// A share that is hardly exceeded, for what must surely arrive: 5 % while nothing is known, never below 1 %.
    pub(crate) fn sure_share(&self) -> f64 {
        let Window { sent, .. } = self.window();
        let (share, packets) = (self.share(), sent + PRIOR_PACKETS);
        let spread = 2.0 * (share * (1.0 - share) / packets).sqrt() + 1.0 / packets;
        (share + spread).clamp(SURE_SHARE_MIN, SURE_SHARE_MAX)
    }

    /// The short window only where it has clearly more to tell.
    fn window(&self) -> &Window {
        let is_news = self.short.lost >= 3.0 && self.short.share() > 2.0 * self.long.share();
        if is_news { &self.short } else { &self.long }
    }
}

impl Window {
    fn new(packets: f64, lifetime: Duration) -> Self {
        Self { packets, lifetime, sent: 0.0, lost: 0.0 }
    }

    fn add(&mut self, elapsed: Duration, sent: f64, lost: f64) {
        let fading = sent / self.packets + elapsed.as_secs_f64() / self.lifetime.as_secs_f64();
        let keep = (-fading).exp();
        self.sent = self.sent * keep + sent;
        self.lost = self.lost * keep + lost;
        // Many packets between two looks are no better known than a full window of them.
        if self.sent > self.packets {
            self.lost *= self.packets / self.sent;
            self.sent = self.packets;
        }
    }

    fn share(&self) -> f64 {
        (self.lost / (self.sent + PRIOR_PACKETS)).min(1.0)
    }
}
