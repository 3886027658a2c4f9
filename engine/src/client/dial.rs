//! Reaches the server over TCP and QUIC at once, and says which of them the session begins on.
//!
//! It makes connections and says no word of the protocol on them.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use super::target::Target;
use crate::transport::{ClientTls, ConnectError, Datagrams, Stream};

/// How long a QUIC connection that is there waits for TCP, which then carries the reliable topics. A lost SYN is sent
/// again after a second.
const TCP_PATIENCE: Duration = Duration::from_millis(1_500);
/// How long an attempt goes on after TCP was refused: most often the server is down, and where only TCP is blocked QUIC
/// is not slower than this.
const QUIC_PATIENCE: Duration = Duration::from_millis(500);

type Connected = Result<(Stream, Datagrams), ConnectError>;

/// A QUIC connection on its way, or what became of it.
pub(super) enum Dialing {
    UnderWay(Pin<Box<dyn Future<Output = Connected> + Send>>),
    Done(Connected),
}

impl Dialing {
    pub(super) fn start(target: &Target, tls: &Arc<ClientTls>, timeout: Duration) -> Self {
        let (target, tls) = (target.clone(), Arc::clone(tls));
        Self::UnderWay(Box::pin(async move { target.quic(&tls, timeout).await }))
    }

    /// Waits until it is connected or has failed. Cancel-safe.
    pub(super) async fn settle(&mut self) -> &Connected {
        if let Self::UnderWay(connecting) = self {
            *self = Self::Done(connecting.as_mut().await);
        }
        match self {
            Self::Done(connected) => connected,
            Self::UnderWay(_) => unreachable!("it was waited for"),
        }
    }

    /// As [`Self::settle`], and takes it.
    pub(super) async fn connected(self) -> Connected {
        match self {
            Self::Done(connected) => connected,
            Self::UnderWay(connecting) => connecting.await,
        }
    }
}

/// What there is for fast topics beside the stream that a session begins on.
pub(super) enum Beside {
    /// The stream is TCP. QUIC, if it was wanted, may still come.
    Dialing(Option<Dialing>),
    /// The stream is QUIC's own: that is all there is.
    Datagrams(Datagrams),
}

/// Reaches the server over TCP, and over `quic` where that is all that gets through.
///
/// # Errors
///
/// Neither got through; the error is TCP's.
pub(super) async fn reach(
    target: &Target,
    tls: Option<&ClientTls>,
    quic: Option<Dialing>,
    timeout: Duration,
) -> Result<(Stream, Beside), ConnectError> {
    let mut tcp = pin!(target.tcp(tls, timeout));
    let Some(mut quic) = quic else { return Ok((tcp.await?, Beside::Dialing(None))) };
    let tcp_done = {
        // TCP's patience begins when QUIC is there.
        let mut quic_alone = pin!(async {
            if quic.settle().await.is_ok() {
                tokio::time::sleep(TCP_PATIENCE).await;
            } else {
                std::future::pending::<()>().await;
            }
        });
        tokio::select! {
            biased;
            connected = &mut tcp => Some(connected),
            () = &mut quic_alone => None,
        }
    };
    let error = match tcp_done {
        Some(Ok(stream)) => return Ok((stream, Beside::Dialing(Some(quic)))),
        // Whoever answers is not the server, or nobody can say so.
        Some(Err(error)) if !may_be_blocked(&error) => return Err(error),
        Some(Err(error)) => error,
        None => ConnectError::Timeout { addr: target.addr, timeout: TCP_PATIENCE },
    };
    match tokio::time::timeout(QUIC_PATIENCE, quic.connected()).await {
        Ok(Ok((stream, datagrams))) => Ok((stream, Beside::Datagrams(datagrams))),
        Ok(Err(_)) | Err(_) => Err(error),
    }
}

/// Whether something on the way may have stopped TCP, and TCP alone.
fn may_be_blocked(error: &ConnectError) -> bool {
    matches!(
        error,
        ConnectError::Timeout { .. }
            | ConnectError::Unreachable { .. }
            | ConnectError::ClosedByServer { .. }
            | ConnectError::Handshake { .. }
    )
}
