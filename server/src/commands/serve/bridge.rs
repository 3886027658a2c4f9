//! Topics for Socket.IO clients: what they may do in namespace `/`.
//!
//! | event | arguments | acknowledged with |
//! |---|---|---|
//! | `subscribe` | a topic or filter | `{ok: true}`, when everything published from now on will come |
//! | `unsubscribe` | the same | `{ok: true}` |
//! | `publish` | topic, text or bytes | `{seq, offset}`, when it is stored; of a fast topic when it is on its way |
//! | `message`, to the client | topic, text or bytes, `{filter, offset}` | |
//!
//! What goes wrong is acknowledged with `{error}`. A payload that is UTF-8 comes as text, any other as bytes. Messages of
//! fast topics are volatile, those of reliable ones are found again after a lost connection. Whoever subscribes to two
//! filters that match a topic gets its messages by each.
//!
//! A filter is a room, and one in-process subscription feeds it, however many clients are in it. The subscription ends
//! when nobody has been there for longer than clients may stay away.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, interval};
use twinlane::events::{Binary, Emit, Event, Events, EventsOptions, HandlerError, Namespace, Socket};
use twinlane::{Batch, Channel, Engine, MessageView, Publisher, Session, Subscription};

/// Filters that clients are subscribed to at a time, all together.
const FILTERS_MAX: usize = 10_000;
/// Topics that one client publishes on.
const PUBLISHERS_PER_CLIENT_MAX: usize = 100;
/// How often a feed looks whether somebody is there.
const LOOK_EVERY: Duration = Duration::from_secs(10);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Lets the clients of `events` publish on the engine's topics, and subscribe to them.
pub(super) fn open(engine: &Engine, events: &Events) {
    let bridge = Bridge {
        engine: engine.clone(),
        session: Session::local(engine),
        clients: (**events).clone(),
        feeds: Arc::default(),
    };
    events.on_connection(move |socket| {
        let bridge = bridge.clone();
        async move { bridge.welcome(&socket) }
    });
}

#[derive(Clone)]
struct Bridge {
    engine: Engine,
    session: Session,
    clients: Namespace,
    /// The filters that are fed.
    feeds: Arc<Mutex<HashSet<String>>>,
}

/// What one client publishes with. Publications wait for one another: they keep their order.
struct Publishers {
    session: Session,
    by_topic: HashMap<String, Publisher>,
}

/// A text or bytes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Bytes(Binary),
}

impl Bridge {
    fn welcome(&self, socket: &Socket) {
        let bridge = self.clone();
        socket.on("subscribe", move |socket, event| {
            let bridge = bridge.clone();
            async move { answer(&event, bridge.subscribe(&socket, &event).await) }
        });
        socket.on("unsubscribe", |socket: Socket, event: Event| async move {
            let left = event.arg::<String>(0).map(|filter| socket.leave(&room(&filter)));
            answer(&event, left.map(|()| json!({ "ok": true })).map_err(Failure::from))
        });
        let publishers = Publishers { session: Session::local(&self.engine), by_topic: HashMap::new() };
        let publishers = Arc::new(Mutex::new(publishers));
        socket.on("publish", move |_, event: Event| {
            let publishers = Arc::clone(&publishers);
            async move { answer(&event, publishers.lock().await.publish(&event).await) }
        });
    }

    async fn subscribe(&self, socket: &Socket, event: &Event) -> Result<Value, Failure> {
        let filter: String = event.arg(0)?;
        let mut feeds = self.feeds.lock().await;
        if !feeds.contains(&filter) {
            if FILTERS_MAX <= feeds.len() {
                return Err(format!("clients are subscribed to {FILTERS_MAX} filters already").into());
            }
            let subscription = self.session.subscribe(&filter).await?;
            feeds.insert(filter.clone());
            tokio::spawn(self.clone().feed(filter.clone(), subscription));
        }
        // Under the lock, so that no feed ends that somebody is about to need.
        socket.join(&room(&filter))?;
        Ok(json!({ "ok": true }))
    }

    /// Emits what is published to the room, while somebody is in it.
    async fn feed(self, filter: String, mut subscription: Subscription) {
        let room = room(&filter);
        let mut looks = interval(LOOK_EVERY);
        let mut needed_at = Instant::now();
        loop {
            tokio::select! {
                batch = subscription.next_batch() => match batch {
                    Some(batch) => self.emit(&filter, &room, &batch).await,
                    None => break,
                },
                _ = looks.tick() => {
                    if self.clients.rooms().contains_key(&*room) {
                        needed_at = Instant::now();
                    } else if EventsOptions::default().recovery + LOOK_EVERY < needed_at.elapsed() {
                        break;
                    }
                }
            }
        }
        let mut feeds = self.feeds.lock().await;
        feeds.remove(&filter);
        // Who came in the meantime has to ask again, as after any end of a subscription.
        self.clients.to(&room).sockets_leave(&room);
    }

    async fn emit(&self, filter: &str, room: &str, batch: &Batch) {
        let to: Emit = self.clients.to(room);
        for message in batch.messages() {
            let to = match message.channel() {
                Channel::Fast => to.clone().volatile(),
                Channel::Reliable => to.clone(),
            };
            let about = json!({ "filter": filter, "offset": message.offset() });
            let topic = message.topic().as_ref();
            let emitted = match std::str::from_utf8(message.payload()) {
                Ok(text) => to.emit("message", &(topic, text, about)).await,
                Err(_) => to.emit("message", &(topic, bytes(&message), about)).await,
            };
            if let Err(error) = emitted {
                tracing::warn!(topic, %error, "a message did not become an event");
            }
        }
    }
}

impl Publishers {
    async fn publish(&mut self, event: &Event) -> Result<Value, Failure> {
        let (topic, content): (String, Content) = event.args()?;
        if !self.by_topic.contains_key(&topic) {
            if self.by_topic.len() == PUBLISHERS_PER_CLIENT_MAX {
                return Err(
                    format!("a client publishes on at most {PUBLISHERS_PER_CLIENT_MAX} topics").into()
                );
            }
            self.by_topic.insert(topic.clone(), self.session.publisher(&topic).await?);
        }
        let publisher = self.by_topic.get_mut(&topic).expect("it was there or was put there");
        let ack = publisher.publish(match &content {
            Content::Text(text) => text.as_bytes(),
            Content::Bytes(Binary(bytes)) => bytes,
        });
        let ack = ack.await?;
        Ok(json!({ "seq": ack.seq, "offset": ack.offset }))
    }
}

/// Not the filter itself: each socket is in a room that has its number as a name, and a topic may be called like that.
fn room(filter: &str) -> String {
    format!("/{filter}")
}

fn bytes(message: &MessageView<'_>) -> Binary {
    Binary(Bytes::copy_from_slice(message.payload()))
}

fn answer(event: &Event, outcome: Result<Value, Failure>) -> Result<(), HandlerError> {
    let answer = outcome.unwrap_or_else(|error| json!({ "error": error.to_string() }));
    if !event.ack(&answer) && answer.get("error").is_some() {
        tracing::debug!(event = event.name(), %answer, "nobody asked, but it failed");
    }
    Ok(())
}
