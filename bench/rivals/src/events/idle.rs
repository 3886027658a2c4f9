//! Clients that only stay: what memory each costs the server, and whether so many can.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{contender::Server, crowd::Crowd, fanout::one_event, figures::Figure};

/// After connecting, before memory is read: buffers of the handshake are gone by then.
const SETTLE: Duration = Duration::from_secs(3);

/// Where a server that collects its garbage when it likes is asked to do it now.
const SETTLE_PACKET: &[u8] = br#"42/control,["settle"]"#;

/// The memory of one of `clients`.
pub(super) fn run(server: &Server, clients: usize) -> Result<Vec<Figure>> {
    let (mut crowd, bytes) = connect(server, clients).with_context(|| server.log())?;
    crowd.stay(Duration::ZERO)?;
    Ok(vec![Figure::cost("bytes per idle client".to_owned(), bytes)])
}

/// Keeps `clients` for `hold`; then all of them must receive an event.
pub(super) fn stay(server: &Server, clients: usize, hold: Duration) -> Result<Vec<Figure>> {
    let began = Instant::now();
    let (mut crowd, bytes) = connect(server, clients).with_context(|| server.log())?;
    let connecting = began.elapsed().saturating_sub(2 * SETTLE);
    crowd.stay(hold).with_context(|| server.log())?;
    one_event(server, crowd).with_context(|| server.log())?;
    let name = |what: &str| format!("{clients} clients stay, {what}");
    Ok(vec![
        Figure::remark(name("s"), hold.as_secs_f64()),
        Figure::remark(name("connected within s"), connecting.as_secs_f64()),
        Figure::cost(name("bytes per client"), bytes),
    ])
}

/// Connects one client, then `clients` more; the difference in memory is theirs.
fn connect(server: &Server, clients: usize) -> Result<(Crowd, f64)> {
    let mut control = Crowd::connect(server.port, super::fanout::CONTROL, 1)?;
    let mut first = Crowd::connect(server.port, "/", 1)?;
    control.send(0, SETTLE_PACKET)?;
    first.stay(SETTLE)?;
    let before = server.own_bytes()?;
    let mut crowd = Crowd::connect(server.port, "/", clients)?;
    control.send(0, SETTLE_PACKET)?;
    crowd.stay(SETTLE)?;
    let added = server.own_bytes()?.saturating_sub(before);
    Ok((crowd, added as f64 / clients as f64))
}
