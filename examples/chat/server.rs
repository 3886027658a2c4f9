//! The chat itself: handlers of namespace `/chat`, the same for browsers and terminals.
//!
//! | event | from | says |
//! |---|---|---|
//! | `enter {room}` → `{life, people, messages}` | client | goes into a room and leaves the one before; makes it if need be |
//! | `say {room, key, text}` → `{room, n}` | client | a message; the answer means that it is kept, and has number `n` |
//! | `typing {}` | client | volatile, to the others as `typing {id, name}` |
//! | `said` | server | a message of somebody else |
//! | `here`, `gone {id, name}` | server | who came into the room, who left it |
//! | `rooms [{name, people, messages}]` | server | volatile: the rooms, some times a second while they change |
//! | `recovered {}` | server | all that was missed has come |

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{Mutex, Notify};
use twinlane::events::{Connecting, Event, Events, EventsError, HandlerError, Namespace, Refusal, Socket};

use crate::rooms::{Rooms, Said};

pub(crate) const NAMESPACE: &str = "/chat";
/// The rooms that there are from the start.
const FIRST_ROOMS: [&str; 3] = ["lobby", "tea-and-code", "twinlane"];
const NAME_LETTERS_MAX: usize = 24;
/// Rooms are listed at most so often.
const LIST_EVERY: Duration = Duration::from_millis(100);

/// Somebody who is there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Person {
    pub(crate) id: String,
    pub(crate) name: String,
}

/// A socket's data: they survive a recovery.
#[derive(Debug, Clone)]
struct Name(String);
#[derive(Debug, Clone)]
struct CurrentRoom(String);

#[derive(Clone)]
struct Chat {
    everybody: Namespace,
    /// Held while a message is numbered and emitted, so that numbers and events have one order.
    rooms: Arc<Mutex<Rooms>>,
    /// The list of rooms has changed.
    changed: Arc<Notify>,
    /// When the server began: numbers of messages are those of one life.
    life: u64,
}

/// Opens the chat.
pub(crate) async fn open(events: &Events) -> Result<(), EventsError> {
    let everybody = events.of(NAMESPACE)?;
    let chat =
        Chat { everybody: everybody.clone(), rooms: Arc::default(), changed: Arc::default(), life: now_ms() };
    for room in FIRST_ROOMS {
        chat.rooms.lock().await.open(room).expect("the first rooms have good names");
    }
    everybody.middleware(|connecting| async move { name(&connecting) });
    let welcoming = chat.clone();
    everybody.on_connection(move |socket| welcoming.clone().welcome(socket));
    let mut room_events = everybody.room_events();
    let changed = Arc::clone(&chat.changed);
    tokio::spawn(async move {
        while room_events.next().await.is_some() {
            changed.notify_one();
        }
    });
    tokio::spawn(chat.list_rooms());
    Ok(())
}

/// Everybody has a name.
fn name(connecting: &Connecting) -> Result<(), Refusal> {
    let name = connecting.auth()["name"].as_str().unwrap_or_default().trim();
    if name.is_empty() || NAME_LETTERS_MAX < name.chars().count() || name.chars().any(char::is_control) {
        return Err(Refusal::new("A name has 1 to 24 letters."));
    }
    connecting.data().set(Name(name.to_owned()));
    Ok(())
}

impl Chat {
    async fn welcome(self, socket: Socket) -> Result<(), HandlerError> {
        let chat = self.clone();
        socket.on("enter", move |socket, event| chat.clone().enter(socket, event));
        let chat = self.clone();
        socket.on("say", move |socket, event| chat.clone().say(socket, event));
        socket.on("typing", typing);
        // It stays in its room: perhaps it comes back.
        socket.on_disconnecting(|socket: Socket, _| async move { say_gone(&socket).await });
        socket.volatile().emit("rooms", &self.list().await).await?;
        if socket.recovered() {
            if let Some(CurrentRoom(room)) = socket.data().get() {
                self.everybody.to(&room).emit("here", &person(&socket)).await?;
            }
            // It comes after all that was missed.
            socket.emit("recovered", &json!({})).await?;
        }
        Ok(())
    }

    async fn enter(self, socket: Socket, event: Event) -> Result<(), HandlerError> {
        #[derive(Deserialize)]
        struct Enter {
            room: String,
        }
        let Enter { room } = event.arg(0)?;
        let mut rooms = self.rooms.lock().await;
        if let Err(error) = rooms.open(&room) {
            event.ack(&json!({ "error": error }));
            return Ok(());
        }
        say_gone(&socket).await?;
        if let Some(CurrentRoom(before)) = socket.data().get() {
            socket.leave(&before);
        }
        // From here on every message comes as an event; those before are in the answer.
        socket.join(&room)?;
        socket.data().set(CurrentRoom(room.clone()));
        let people: Vec<Person> = self.everybody.to(&room).fetch_sockets().iter().map(person).collect();
        event.ack(&json!({ "life": self.life, "people": people, "messages": rooms.last(&room) }));
        socket.to(&room).emit("here", &person(&socket)).await?;
        self.changed.notify_one();
        Ok(())
    }

    async fn say(self, socket: Socket, event: Event) -> Result<(), HandlerError> {
        #[derive(Deserialize)]
        struct Say {
            room: String,
            key: String,
            text: String,
        }
        let Say { room, key, text } = event.arg(0)?;
        let Person { id, name } = person(&socket);
        let mut rooms = self.rooms.lock().await;
        let said = match rooms.say(&room, Said { n: 0, key, id, name, text, at: now_ms() }) {
            Ok(Ok(said)) => said,
            Ok(Err(before)) => {
                event.ack(&json!({ "room": room, "n": before.n }));
                return Ok(());
            }
            Err(error) => {
                event.ack(&json!({ "error": error }));
                return Ok(());
            }
        };
        socket.to(&room).emit("said", &said).await?;
        event.ack(&json!({ "room": room, "n": said.n }));
        self.changed.notify_one();
        Ok(())
    }

    /// Tells everybody which rooms there are, when they have changed.
    async fn list_rooms(self) {
        loop {
            self.changed.notified().await;
            let list = self.list().await;
            if self.everybody.volatile().emit("rooms", &list).await.is_err() {
                return;
            }
            tokio::time::sleep(LIST_EVERY).await;
        }
    }

    async fn list(&self) -> Vec<crate::rooms::Row> {
        let people = self.everybody.rooms();
        self.rooms.lock().await.list(|room| people.get(room).copied().unwrap_or(0))
    }
}

async fn typing(socket: Socket, _: Event) -> Result<(), HandlerError> {
    if let Some(CurrentRoom(room)) = socket.data().get() {
        socket.to(&room).volatile().emit("typing", &person(&socket)).await?;
    }
    Ok(())
}

/// Tells the room that somebody is in no longer.
async fn say_gone(socket: &Socket) -> Result<(), HandlerError> {
    if let Some(CurrentRoom(room)) = socket.data().get() {
        socket.to(&room).emit("gone", &person(socket)).await?;
    }
    Ok(())
}

fn person(socket: &Socket) -> Person {
    let Name(name) = socket.data().get().expect("nobody gets in without a name");
    Person { id: socket.id().to_string(), name }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64)
}
