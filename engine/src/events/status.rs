//! The event layer at one moment, for people and programs.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::layer::Layer;
use super::namespace::Namespace;

/// Rooms of a namespace that are listed.
const ROOMS_LISTED: usize = 50;

/// The event layer at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EventsStatus {
    /// Connected clients.
    pub clients: u64,
    /// Sockets in all namespaces.
    pub sockets_total: u64,
    /// By name.
    pub namespaces: Vec<NamespaceRow>,
    /// Events that were left out, and clients that were cut off, by reason.
    pub drops: BTreeMap<String, u64>,
}

/// One namespace.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NamespaceRow {
    /// `/` or `/name`.
    pub name: String,
    /// Who is there.
    pub sockets: u64,
    /// Who went and may come back.
    pub away: u64,
    /// Events so far.
    pub events: u64,
    /// Events that can be recovered.
    pub retained: u64,
    /// Rooms beside each socket's own.
    pub rooms_total: u64,
    /// The 50 largest of them.
    pub rooms: Vec<RoomRow>,
}

/// One room.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RoomRow {
    /// Its name.
    pub name: String,
    /// How many sockets are in it.
    pub sockets: u64,
}

pub(super) fn status(layer: &Layer) -> EventsStatus {
    let namespaces: Vec<_> = layer.all().iter().map(row).collect();
    let crowd = &layer.settings.crowd;
    let drops = [("volatile", &crowd.volatile_dropped), ("slow consumer", &crowd.slow_disconnected)];
    EventsStatus {
        clients: layer.settings.clients.load(Ordering::Relaxed) as u64,
        sockets_total: namespaces.iter().map(|row| row.sockets).sum(),
        namespaces,
        drops: drops.map(|(reason, count)| (reason.to_owned(), count.load(Ordering::Relaxed))).into(),
    }
}

fn row(namespace: &Namespace) -> NamespaceRow {
    let hub = namespace.hub();
    let held = hub.hold();
    let (sockets, away, events) = (held.members.len() as u64, held.away.len() as u64, held.drained());
    let is_own = |name: &str| held.members.find(name).is_some();
    let shared = held.members.rooms().filter(|(name, _)| !is_own(name));
    let mut rooms: Vec<_> =
        shared.map(|(name, sockets)| RoomRow { name: name.to_string(), sockets: sockets as u64 }).collect();
    drop(held);
    let rooms_total = rooms.len() as u64;
    rooms.sort_by(|one, other| other.sockets.cmp(&one.sockets).then_with(|| one.name.cmp(&other.name)));
    rooms.truncate(ROOMS_LISTED);
    NamespaceRow {
        name: namespace.name().to_owned(),
        sockets,
        away,
        events,
        retained: events - hub.topic.oldest().min(events),
        rooms_total,
        rooms,
    }
}
