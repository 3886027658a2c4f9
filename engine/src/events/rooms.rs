//! What becomes of rooms: facts about the whole namespace, for whoever listens.

use std::sync::Arc;

use tokio::sync::broadcast;

/// Facts that wait for a listener at most.
pub(super) const FACTS_MAX: usize = 1_024;

/// Something that happened to a room. Socket.IO's names are in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RoomEvent {
    /// It has its first member (`create-room`).
    Created {
        /// Which.
        room: Arc<str>,
    },
    /// Its last member left (`delete-room`).
    Deleted {
        /// Which.
        room: Arc<str>,
    },
    /// A socket joined (`join-room`).
    Joined {
        /// Which.
        room: Arc<str>,
        /// The socket.
        id: Arc<str>,
    },
    /// A socket left (`leave-room`).
    Left {
        /// Which.
        room: Arc<str>,
        /// The socket.
        id: Arc<str>,
    },
    /// The listener was too slow for so many facts. Ask [`Namespace::rooms`](super::Namespace::rooms) how it is now.
    Missed {
        /// How many.
        count: u64,
    },
}

/// The room events of one namespace from the moment they were asked for.
#[derive(Debug)]
pub struct RoomEvents {
    pub(super) receiver: broadcast::Receiver<RoomEvent>,
}

impl RoomEvents {
    /// The next event; `None` when the namespace is gone. At most 1,024 wait. Cancel-safe.
    pub async fn next(&mut self) -> Option<RoomEvent> {
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(count)) => Some(RoomEvent::Missed { count }),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}
