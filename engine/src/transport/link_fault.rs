//! Faults on a session's connections, made in the client's own process: for tests of a program that uses twinlane.
//!
//! [`course`] decides what becomes of each datagram, [`socket`] does it to the UDP socket under QUIC, [`stream`] to TCP.
//! Without a [`LinkFault`] none of it is in the way. It is a stand-in for a bad network, not a model of one: there is no
//! cross traffic and no router, and TLS handshakes over TCP are not slowed down.

mod course;
mod socket;
mod stream;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

use crate::lock::lock;
use course::Course;
pub(super) use socket::FaultySocket;

/// The longest that anything takes: nobody waits longer, and moments stay within what a clock can say.
const DELAY_MAX: Duration = Duration::from_secs(3_600);

/// A bad link between a session and its server, for tests: give it to
/// [`ConnectOptions::link_fault`](crate::ConnectOptions::link_fault) and keep a clone to change it while the session runs.
///
/// Which datagrams are lost, repeated and held back follows from the seed and from their number in their direction, so that
/// a run can be repeated as far as the program sends the same. All connections that the session makes have these faults.
/// What waits to be delivered is bounded: 8 MiB for each QUIC connection and direction, 1 MiB for each of TCP.
///
/// ```
/// use std::time::Duration;
/// use twinlane::{ConnectOptions, Engine, EngineConfig, Faults, LinkFault, ListenOptions, Session, TopicSpec, Trust};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Engine::new(EngineConfig::default())?;
/// let server = engine.listen(ListenOptions::new("127.0.0.1:0".parse()?)).await?;
///
/// let link = LinkFault::new(7, Faults::NONE.with_loss(0.05).with_delay(Duration::from_millis(5)));
/// let trust = Trust::Fingerprint(server.fingerprint().expect("it has a certificate"));
/// let mut options = ConnectOptions::new(server.addr().to_string(), trust);
/// options.link_fault = Some(link.clone());
/// let session = Session::connect(options).await?;
///
/// session.declare("positions", TopicSpec::fast()).await?;
/// let mut positions = session.publisher("positions").await?;
/// positions.publish(b"52.51, 13.40").await?;
///
/// // Fast topics move to TCP within 3 s.
/// link.set(Faults::NONE.with_udp_blocked(true));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct LinkFault(Arc<Shared>);

struct Shared {
    outgoing: Mutex<Course>,
    incoming: Mutex<Course>,
    /// Counts cuts: a TCP connection ends when it changes.
    cuts: watch::Sender<u64>,
    refuses_tcp: AtomicBool,
}

/// What happens to what goes one way. Shares are from 0 to 1; what is above or below counts as that.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Faults {
    /// Which share of datagrams is lost.
    pub loss: f64,
    /// Which share of datagrams arrives twice.
    pub duplicate: f64,
    /// Which share of datagrams is held back, so that later ones overtake them.
    pub reorder: f64,
    /// How long those are held back at most, evenly spread; an hour at most.
    pub reorder_by: Duration,
    /// How long everything takes, TCP too; an hour at most.
    pub delay: Duration,
    /// What each connection carries; 0: as much as comes. Datagrams that would wait for more than 50 ms, and 16 KiB, are
    /// dropped; TCP waits.
    pub bytes_per_second: u64,
    /// No datagram gets through.
    pub udp_blocked: bool,
}

/// What became of the datagrams of one direction so far:
/// `offered + duplicated = delivered + lost + blocked + too_big + queue_full + under way`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FaultCounts {
    /// What was sent.
    pub offered: u64,
    /// What arrived, both of two copies.
    pub delivered: u64,
    /// What was lost by chance.
    pub lost: u64,
    /// What was stopped by [`Faults::udp_blocked`].
    pub blocked: u64,
    /// What was larger than 1,472 bytes: such datagrams get through no ordinary link, and through none of these.
    pub too_big: u64,
    /// What found the queue of a limited rate full, or more waiting than is kept, or the socket.
    pub queue_full: u64,
    /// Copies that were made.
    pub duplicated: u64,
    /// What was held back.
    pub held_back: u64,
}

/// From the session, or to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Outgoing,
    Incoming,
}

impl LinkFault {
    /// A link with `faults` in both directions.
    #[must_use]
    pub fn new(seed: u64, faults: Faults) -> Self {
        // Two directions that lost the same datagrams would be one.
        let course = |seed| Mutex::new(Course::new(faults.bounded(), seed));
        Self(Arc::new(Shared {
            outgoing: course(seed),
            incoming: course(!seed),
            cuts: watch::Sender::new(0),
            refuses_tcp: AtomicBool::new(false),
        }))
    }

    /// From now on these faults, in both directions. What is under way arrives as it would have.
    pub fn set(&self, faults: Faults) {
        self.set_outgoing(faults);
        self.set_incoming(faults);
    }

    /// From now on these faults for what the session sends.
    pub fn set_outgoing(&self, faults: Faults) {
        self.course(Way::Outgoing).faults = faults.bounded();
    }

    /// From now on these faults for what the session is sent.
    pub fn set_incoming(&self, faults: Faults) {
        self.course(Way::Incoming).faults = faults.bounded();
    }

    /// Cuts all TCP connections that there are.
    pub fn cut_tcp(&self) {
        self.0.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Whether attempts to connect over TCP fail from now on. Those that are connected stay.
    pub fn refuse_tcp(&self, refuse: bool) {
        self.0.refuses_tcp.store(refuse, Ordering::Release);
    }

    /// What became of the datagrams that the session sent.
    #[must_use]
    pub fn outgoing(&self) -> FaultCounts {
        self.course(Way::Outgoing).counts
    }

    /// What became of the datagrams that the session was sent.
    #[must_use]
    pub fn incoming(&self) -> FaultCounts {
        self.course(Way::Incoming).counts
    }

    pub(crate) fn refuses_tcp(&self) -> bool {
        self.0.refuses_tcp.load(Ordering::Acquire)
    }

    fn course(&self, way: Way) -> MutexGuard<'_, Course> {
        match way {
            Way::Outgoing => lock(&self.0.outgoing),
            Way::Incoming => lock(&self.0.incoming),
        }
    }
}

impl Faults {
    /// Everything arrives at once.
    pub const NONE: Self = Self {
        loss: 0.0,
        duplicate: 0.0,
        reorder: 0.0,
        reorder_by: Duration::ZERO,
        delay: Duration::ZERO,
        bytes_per_second: 0,
        udp_blocked: false,
    };

    /// With this share of datagrams lost.
    #[must_use]
    pub const fn with_loss(self, share: f64) -> Self {
        Self { loss: share, ..self }
    }

    /// With this share of datagrams arriving twice.
    #[must_use]
    pub const fn with_duplicate(self, share: f64) -> Self {
        Self { duplicate: share, ..self }
    }

    /// With this share of datagrams held back for up to `by`.
    #[must_use]
    pub const fn with_reorder(self, share: f64, by: Duration) -> Self {
        Self { reorder: share, reorder_by: by, ..self }
    }

    /// With everything taking so long.
    #[must_use]
    pub const fn with_delay(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// With each connection carrying so much.
    #[must_use]
    pub const fn with_rate(self, bytes_per_second: u64) -> Self {
        Self { bytes_per_second, ..self }
    }

    /// With no datagram getting through, or all that are not lost.
    #[must_use]
    pub const fn with_udp_blocked(self, blocked: bool) -> Self {
        Self { udp_blocked: blocked, ..self }
    }

    fn bounded(self) -> Self {
        let (delay, reorder_by) = (self.delay.min(DELAY_MAX), self.reorder_by.min(DELAY_MAX));
        Self { delay, reorder_by, ..self }
    }
}

impl fmt::Debug for LinkFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (outgoing, incoming) = (self.course(Way::Outgoing).faults, self.course(Way::Incoming).faults);
        f.debug_struct("LinkFault").field("outgoing", &outgoing).field("incoming", &incoming).finish()
    }
}
