//! Keeps a QUIC connection beside a session's TCP connection for its fast topics: the first one, and another when that
//! is lost, for as long as the TCP connection lives.
//!
//! Whether a path is dead is found out by the link; when to try again is [`Probing`]'s decision.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use twinlane_proto::Code;
use twinlane_proto::control::Purpose;

use super::dial::Dialing;
use super::driver::{Driver, Failed, random_fraction};
use super::probing::Probing;
use super::target::Target;
use crate::link::Link;
use crate::transport::{ConnectError, Datagrams};

/// The longest an attempt in the background takes: several round trips of the longest paths.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) struct Fallback {
    driver: Driver,
    target: Target,
    primary: Arc<Link>,
    probing: Probing,
}

impl Fallback {
    pub(super) fn new(driver: Driver, target: Target, primary: Arc<Link>) -> Self {
        let probing = Probing::new(driver.core.options.reconnect.max);
        Self { driver, target, primary, probing }
    }

    /// Runs until the TCP connection is over. `first` is told when the first attempt, `dialing`, has ended.
    pub(super) async fn run(mut self, dialing: Dialing, first: oneshot::Sender<()>) {
        let primary = Arc::clone(&self.primary);
        tokio::select! {
            biased;
            () = primary.wait_over() => {}
            () = self.keep(dialing, first) => {}
        }
    }

    async fn keep(&mut self, mut dialing: Dialing, first: oneshot::Sender<()>) {
        let mut first = Some(first);
        loop {
            match self.attach(dialing).await {
                Ok(guest) => {
                    self.probing.attached(Instant::now());
                    self.driver.core.fast_moved("quic", "QUIC works");
                    tell(&mut first);
                    self.wait_lost(&guest).await;
                    self.probing.lost(Instant::now());
                }
                Err(failed) => {
                    let why = format!("no QUIC connection: {}", ConnectError::from(failed));
                    if first.is_some() {
                        self.driver.core.fast_moved("tcp", &why);
                        tell(&mut first);
                    }
                    self.probing.failed();
                }
            }
            tokio::time::sleep(self.probing.wait(random_fraction())).await;
            let timeout = self.driver.core.options.connect_timeout.min(PROBE_TIMEOUT);
            let Some(tls) = &self.driver.tls else { return };
            dialing = Dialing::start(&self.target, tls, timeout);
        }
    }

    /// One attempt.
    async fn attach(&self, dialing: Dialing) -> Result<Guest, Failed> {
        let (stream, datagrams) = dialing.connected().await?;
        let (connection, _) = self.driver.hello(stream, Purpose::Datagrams).await?;
        let guest = Guest { link: connection.link, datagrams };
        self.primary.attach(guest.datagrams.clone());
        Ok(guest)
    }

    /// Waits until fast topics are back on TCP.
    async fn wait_lost(&self, guest: &Guest) {
        tokio::select! {
            biased;
            () = self.primary.wait_detached() => {}
            () = guest.link.wait_over() => {
                self.primary.give_up_datagrams("the server does not answer on the QUIC connection");
                self.primary.wait_detached().await;
            }
        }
    }
}

/// Says, once, that the first attempt has ended.
fn tell(first: &mut Option<oneshot::Sender<()>>) {
    if let Some(first) = first.take() {
        // Whoever waited may have gone on without.
        let _ = first.send(());
    }
}

/// The QUIC connection beside a TCP connection. Dropping it closes it.
struct Guest {
    link: Arc<Link>,
    datagrams: Datagrams,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.link.close(Code::Normal, "");
        self.datagrams.close(0, "");
    }
}
