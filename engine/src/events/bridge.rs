//! Topics as rooms: what a service publishes on a topic reaches the members of the room of that name, and who is in which
//! room stands on a topic for services to read.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::de::IgnoredAny;
use serde_json::json;

use super::error::EventsError;
use super::namespace::Namespace;
use super::payload::{Binary, Payload};
use super::rooms::RoomEvent;
use crate::engine::Engine;
use crate::error::OpenError;
use crate::message::{Batch, MessageView};
use crate::publisher::{MessageOptions, Publisher};
use crate::session::Session;
use crate::subscription::Subscription;
use twinlane_proto::{Channel, Mode, TopicSpec};

/// The event that a message on a topic becomes.
const MESSAGE: &str = "message";

impl Namespace {
    /// Makes topics rooms: a message that anybody publishes on `prefix/room` from now on is an event `message` for the
    /// members of `room`. Its argument is the payload: as JSON where it is JSON, as bytes where not. Messages of fast
    /// topics become volatile events.
    ///
    /// ```
    /// # use twinlane::{Engine, EngineConfig, Session, events::Events};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let engine = Engine::new(EngineConfig::default())?;
    /// let io = Events::new(&engine)?;
    /// io.of("/prices")?.bridge("prices").await?;
    /// // Every client that is in room `gold` of namespace `/prices` gets this, from whatever service it comes.
    /// Session::local(&engine).publisher("prices/gold").await?.publish(br#"{"bid":1}"#).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`EventsError::Bridge`]: the prefix is no part of a topic's name.
    pub async fn bridge(&self, prefix: &str) -> Result<(), EventsError> {
        let failed = |source| EventsError::Bridge { topic: prefix.to_owned(), source };
        let session = Session::local(&Engine::of(Arc::clone(self.core())));
        let topics = session.subscribe(&format!("{prefix}/**")).await.map_err(failed)?;
        let (namespace, skipped) = (self.downgrade(), prefix.len() + 1);
        self.hub().settings.runtime.spawn(async move {
            let mut topics: Subscription = topics;
            while let Some(batch) = topics.next_batch().await {
                let Some(namespace) = namespace.upgrade() else { return };
                pass_on(&namespace, &batch, skipped).await;
            }
        });
        Ok(())
    }

    /// Says on `topic` who is in which room: a fast topic that keeps the newest fact of each socket and room, so that
    /// whoever subscribes with [`Start::Last`](crate::Start::Last) knows it at once. A fact is
    /// `{"room", "id", "present"}`; a socket's own room is not told.
    ///
    /// # Errors
    ///
    /// [`EventsError::Bridge`]: the name is none, or the topic is something else.
    pub async fn publish_presence(&self, topic: &str) -> Result<(), EventsError> {
        let failed = |source: OpenError| EventsError::Bridge { topic: topic.to_owned(), source };
        let session = Session::local(&Engine::of(Arc::clone(self.core())));
        let spec = TopicSpec::fast().with_mode(Mode::Latest);
        session.declare(topic, spec).await.map_err(|error| failed(error.into()))?;
        let mut facts = session.publisher(topic).await.map_err(failed)?;
        let mut events = self.room_events();
        let namespace = self.downgrade();
        tell_all(self, &mut facts).await;
        self.hub().settings.runtime.spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    RoomEvent::Joined { room, id } if room != id => tell(&mut facts, &room, &id, true).await,
                    RoomEvent::Left { room, id } if room != id => tell(&mut facts, &room, &id, false).await,
                    RoomEvent::Missed { .. } => {
                        let Some(namespace) = namespace.upgrade() else { return };
                        tell_all(&namespace, &mut facts).await;
                    }
                    _ => {}
                }
            }
        });
        Ok(())
    }
}

async fn pass_on(namespace: &Namespace, batch: &Batch, skipped: usize) {
    for message in batch.messages() {
        let Some(room) = message.topic().as_str().get(skipped..) else { continue };
        let to = namespace.to(room);
        let to = if message.channel() == Channel::Fast { to.volatile() } else { to };
        if let Err(error) = to.emit_payload(&event(&message)).await {
            tracing::warn!(topic = %message.topic(), %error, "a message did not become an event");
        }
    }
}

fn event(message: &MessageView<'_>) -> Payload {
    let payload = message.payload();
    if serde_json::from_slice::<IgnoredAny>(payload).is_ok() {
        let json = [b"[\"", MESSAGE.as_bytes(), b"\",", payload, b"]"].concat();
        return Payload { json: json.into(), attachments: Vec::new() };
    }
    Payload::event(MESSAGE, &Binary::from(payload)).expect("bytes have a form")
}

/// Says how it is now.
async fn tell_all(namespace: &Namespace, facts: &mut Publisher) {
    for socket in namespace.fetch_sockets() {
        for room in socket.rooms().iter().filter(|room| *room != socket.id()) {
            tell(facts, room, socket.id(), true).await;
        }
    }
}

async fn tell(facts: &mut Publisher, room: &str, id: &str, present: bool) {
    let mut hasher = DefaultHasher::new();
    (room, id).hash(&mut hasher);
    let options = MessageOptions { key: Some(hasher.finish()), ..MessageOptions::default() };
    let fact = json!({ "room": room, "id": id, "present": present }).to_string();
    if let Err(error) = facts.send_with(fact.as_bytes(), options).await {
        tracing::warn!(%error, "a fact about presence was not published");
    }
}
