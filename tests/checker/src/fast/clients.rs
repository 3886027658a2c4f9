//! A client behind a link of its own, and what it is told about its connections.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use twinlane::{Session, SessionEvent, Transports};

use super::Shared;
use crate::history::{Event, FastEvent, Recorder};
use crate::nemesis::Link;
use crate::server::Server;

/// How long QUIC may take on a good link.
const QUIC_PATIENCE: Duration = Duration::from_secs(10);

/// How long the last event of a session may take.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// What may carry a client's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Both,
    Tcp,
    Quic,
}

/// A client of the run.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) number: u16,
    pub(super) over: Over,
    pub(super) link: Arc<Link>,
    pub(super) session: Session,
    listening: JoinHandle<()>,
}

impl Client {
    /// Connects over a link that does nothing bad yet.
    pub(super) async fn connect(
        shared: &Shared,
        server: &Server,
        link: Link,
        over: Over,
        number: u16,
    ) -> anyhow::Result<Self> {
        let mut options = server.options();
        options.server = link.addr().to_string();
        options.name = format!("checker {number}");
        options.transports = match over {
            Over::Both => Transports::Both,
            Over::Tcp => Transports::TcpOnly,
            Over::Quic => Transports::QuicOnly,
        };
        let session = Session::connect(options).await?;
        let udp = over != Over::Tcp;
        let until = tokio::time::Instant::now() + QUIC_PATIENCE;
        while udp && session.status().fast_over != "quic" {
            let why = session.status().why;
            anyhow::ensure!(tokio::time::Instant::now() < until, "client {number} is not on QUIC: {why}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let link_us = if udp { shared.settings.faults.delay_us() } else { 0 };
        let mut recorder = shared.history.recorder();
        recorder.record(&Event::Fast(FastEvent::Client { client: number, udp, link_us }));
        let listening = tokio::spawn(listen(session.clone(), number, recorder));
        Ok(Self { number, over, link: Arc::new(link), session, listening })
    }

    /// Ends the session, and writes down what the link did.
    pub(super) async fn close(self, recorder: &mut Recorder) {
        let counts = self.link.counts();
        recorder.record(&Event::Fast(FastEvent::Link { client: self.number, counts }));
        self.session.close().await;
        drop(self.session);
        // It ends with the session, and its events are in the history then.
        let _ = tokio::time::timeout(CLOSE_PATIENCE, self.listening).await;
    }
}

async fn listen(session: Session, client: u16, mut recorder: Recorder) {
    let mut events = session.events();
    drop(session);
    while let Some(event) = events.next().await {
        let at_us = recorder.now_us();
        match event {
            SessionEvent::FastMoved { to, why } => {
                let to_udp = to == "quic";
                recorder.record(&Event::Fast(FastEvent::Moved { client, at_us, to_udp, why }));
            }
            SessionEvent::Disconnected { reason: why } => {
                recorder.record(&Event::Fast(FastEvent::Disconnected { client, at_us, why }));
            }
            SessionEvent::Closed { .. } => return,
            _ => {}
        }
    }
}
