//! The QUIC connection that carries a connection's fast topics: it comes, is watched, is given up, and another comes.
//!
//! It is watched by the task that sends on it, and only while something is on the way. Nobody is dialled here.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;
use twinlane_proto::Control;
use twinlane_proto::control::Detached;

use super::health::{Counts, Finding, LOOK_EVERY, PathHealth};
use super::{Link, datagrams, now};
use crate::lock::lock;
use crate::status::UdpPath;
use crate::transport::Datagrams;

/// A path is never given up this soon. So the other side's word that it gave one up is about an earlier one.
const SETTLING: Duration = Duration::from_secs(1);

/// Which QUIC connection carries fast topics.
#[derive(Default)]
pub(super) struct Guest {
    carrying: Option<Datagrams>,
    attached_at: Option<Instant>,
    /// Takes over once the writer of the one before has put its outlets back.
    next: Option<Datagrams>,
    /// Whether there is a task for them.
    running: bool,
    /// Why it is being closed, if that is this side's doing.
    given_up: Option<String>,
}

impl Link {
    /// Fast topics go over `datagrams` from now on.
    pub(crate) fn attach(self: &Arc<Self>, datagrams: Datagrams) {
        let mut guest = lock(&self.guest);
        if guest.running {
            guest.given_up.get_or_insert_with(|| "another one took its place".to_owned());
            let earlier = [guest.next.replace(datagrams), guest.carrying.clone()];
            drop(guest);
            earlier.into_iter().flatten().for_each(|earlier| earlier.close(0, "replaced"));
            return;
        }
        guest.running = true;
        guest.begin(&datagrams);
        drop(guest);
        self.begin_carrying(&datagrams);
        tokio::spawn(carry(Arc::clone(self), datagrams));
    }

    /// The datagram writer takes outlets from now on.
    fn begin_carrying(self: &Arc<Self>, datagrams: &Datagrams) {
        self.datagrams.open();
        self.has_datagrams.store(true, Ordering::Release);
        tokio::spawn(datagrams::read(Arc::clone(self), datagrams.clone()));
        self.stream.move_fast();
    }

    pub(crate) fn has_datagrams(&self) -> bool {
        self.has_datagrams.load(Ordering::Acquire)
    }

    /// Waits until fast topics go over the stream.
    pub(crate) async fn wait_detached(&self) {
        loop {
            let detached = self.detached.notified();
            {
                let guest = lock(&self.guest);
                if guest.carrying.is_none() && guest.next.is_none() {
                    return;
                }
            }
            detached.await;
        }
    }

    /// Fast topics go over the stream again, and the other side's too: it is told there, because UDP may not get
    /// through.
    pub(crate) fn give_up_datagrams(self: &Arc<Self>, why: &str) {
        let Some(datagrams) = self.close_datagrams(why, Duration::ZERO) else { return };
        datagrams.close(0, why);
        if !self.carrier.is_quic() {
            self.send(Control::Detached(Detached { reason: why.to_owned() }));
        }
    }

    /// The other side gave the QUIC connection up.
    pub(super) fn peer_detached(&self, why: &str) {
        if let Some(datagrams) = self.close_datagrams(&format!("the other side says: {why}"), SETTLING) {
            datagrams.close(0, "");
        }
    }

    /// What is to be closed, if it has been carrying fast topics for `at_least`.
    fn close_datagrams(&self, why: &str, at_least: Duration) -> Option<Datagrams> {
        let mut guest = lock(&self.guest);
        let datagrams = guest.carrying.clone()?;
        let carried = guest.attached_at.map_or(Duration::ZERO, |at| now().saturating_duration_since(at));
        if carried < at_least {
            return None;
        }
        guest.given_up.get_or_insert_with(|| why.to_owned());
        Some(datagrams)
    }

    /// The datagram writer takes no more outlets; they are about to be on the stream again.
    pub(super) fn detach(&self) {
        self.has_datagrams.store(false, Ordering::Release);
        lock(&self.guest).carrying = None;
        self.detached.notify_waiters();
    }

    /// The QUIC connection is over, outlets are on the stream again. `why` is what the connection itself says.
    pub(super) fn datagrams_over(self: &Arc<Self>, why: &str) {
        let given_up = {
            let mut guest = lock(&self.guest);
            if guest.next.is_some() {
                return;
            }
            guest.given_up.take()
        };
        self.peer.datagrams_lost(self, given_up.as_deref().unwrap_or(why));
    }

    /// How the QUIC connection that carries fast topics is doing.
    pub(crate) fn udp_path(&self) -> Option<UdpPath> {
        let stats = lock(&self.guest).carrying.as_ref()?.stats();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Some(UdpPath {
            round_trip_us: stats.rtt.as_micros() as u64,
            sent_packets: stats.sent_packets,
            lost_packets: stats.lost_packets,
            congestion_events: stats.congestion_events,
            congestion_window_bytes: stats.congestion_window_bytes,
            mtu_bytes: stats.mtu_bytes,
            repeated_messages: count(&self.datagram_counts.repeated),
            whole_messages: count(&self.datagram_counts.whole),
            restored_messages: count(&self.datagram_counts.restored),
            incomplete_messages: count(&self.datagram_counts.incomplete),
        })
    }
}

impl Guest {
    fn begin(&mut self, datagrams: &Datagrams) {
        self.carrying = Some(datagrams.clone());
        self.attached_at = Some(now());
        self.given_up = None;
    }

    /// The one that takes over. `None`: there is none, and the task ends.
    fn take_next(&mut self) -> Option<Datagrams> {
        let next = self.next.take();
        match &next {
            Some(next) => self.begin(next),
            None => self.running = false,
        }
        next
    }
}

/// Sends fast topics over `datagrams`, and over those that take their place, until there are none.
async fn carry(link: Arc<Link>, mut datagrams: Datagrams) {
    loop {
        carry_one(&link, datagrams).await;
        let next = lock(&link.guest).take_next();
        let Some(next) = next else { return };
        link.begin_carrying(&next);
        datagrams = next;
    }
}

/// Sends over `datagrams` until they are over, and looks after them meanwhile.
async fn carry_one(link: &Arc<Link>, datagrams: Datagrams) {
    let mut watch = Watch::new(datagrams.clone());
    let mut write = pin!(datagrams::write(Arc::clone(link), datagrams));
    std::future::poll_fn(|cx| {
        // A connection whose stream is QUIC's lives and dies with it.
        if !link.carrier.is_quic()
            && let Poll::Ready(why) = watch.poll_dead(cx)
        {
            link.give_up_datagrams(&why);
        }
        let written = write.as_mut().poll(cx);
        watch.after_turn(cx);
        written
    })
    .await;
}

/// Looks at a path from time to time while something is on the way. It lives in the sender's task: whenever that is
/// woken, something may be sent, and finding out costs the hot path one comparison.
struct Watch {
    datagrams: Datagrams,
    health: PathHealth,
    timer: Pin<Box<Sleep>>,
    mode: Mode,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The next turn of the sender begins the looking.
    Asleep,
    /// This turn of the sender was the timer's.
    FallingAsleep,
    Looking,
    /// The path is given up.
    Done,
}

impl Watch {
    fn new(datagrams: Datagrams) -> Self {
        let health = PathHealth::new(now(), counts(&datagrams));
        let timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        Self { datagrams, health, timer, mode: Mode::Asleep }
    }

    /// Ready, once, with the reason to give the path up.
    fn poll_dead(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        while self.mode == Mode::Looking && self.timer.as_mut().poll(cx).is_ready() {
            match self.health.look(now(), counts(&self.datagrams)) {
                Finding::Busy => self.timer.as_mut().reset(tokio::time::Instant::now() + LOOK_EVERY),
                Finding::Quiet => self.mode = Mode::FallingAsleep,
                Finding::Dead { silence } => {
                    self.mode = Mode::Done;
                    return Poll::Ready(format!("UDP brought no answer for {:.1} s", silence.as_secs_f64()));
                }
            }
        }
        Poll::Pending
    }

    /// The sender had its turn.
    fn after_turn(&mut self, cx: &mut Context<'_>) {
        match self.mode {
            Mode::Looking | Mode::Done => return,
            Mode::FallingAsleep if !self.health.has_sent(counts(&self.datagrams)) => {
                self.mode = Mode::Asleep;
                return;
            }
            Mode::FallingAsleep | Mode::Asleep => {}
        }
        self.mode = Mode::Looking;
        self.health.wake(now());
        self.timer.as_mut().reset(tokio::time::Instant::now() + LOOK_EVERY);
        if self.timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

fn counts(datagrams: &Datagrams) -> Counts {
    let stats = datagrams.stats();
    Counts { asked: stats.asked, answers: stats.answers, round_trip: stats.rtt }
}
