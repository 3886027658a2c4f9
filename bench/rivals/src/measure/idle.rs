//! What a subscribed connection that does nothing costs the server in memory.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use super::{Figures, resources::resident_bytes};
use crate::system::{Setup, System};

/// Until the server has done what connecting left to do.
const SETTLE: Duration = Duration::from_millis(700);

/// Connects one subscriber, then all others; the difference in resident memory is theirs.
///
/// # Errors
///
/// A subscriber cannot connect.
pub(super) async fn run<S: System>(system: &S, setup: &Setup, server: &S::Server) -> Result<Figures> {
    let servers = system.processes(server);
    let _first = system.subscribers(setup, server, 1).await?;
    sleep(SETTLE).await;
    let before = resident_bytes(&servers)?;
    let _others = system.subscribers(setup, server, setup.subscribers).await?;
    sleep(SETTLE).await;
    let added = resident_bytes(&servers)?.saturating_sub(before);
    Ok(Figures { bytes_per_connection: Some(added as f64 / setup.subscribers as f64), ..Figures::default() })
}
