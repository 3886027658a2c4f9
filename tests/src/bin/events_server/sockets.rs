//! What every test socket does by itself: its middlewares, its listeners, and what is written down about it for later
//! questions. The namespaces are `/` and, dynamically, `/t-…` (open), `/auth-…` (needs a token) and `/guarded-…` (a
//! middleware for each event).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use twinlane::events::{Connecting, Event, Events, HandlerError, Refusal, RoomEvent, Socket};
use twinlane_gateway::Gateway;

use crate::Failure;
use crate::any::{Any, Arguments};

/// What scenarios share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct World {
    inner: Arc<Inner>,
}

struct Inner {
    middleware_runs: AtomicU64,
    notes: Mutex<Notes>,
    gateway: Arc<Gateway>,
}

#[derive(Default)]
pub(crate) struct Notes {
    pub(crate) new_namespaces: Vec<String>,
    /// What clients noted, by namespace.
    pub(crate) noted: HashMap<String, Vec<Value>>,
    pub(crate) attempts: HashMap<String, u64>,
    /// How sockets left, by their number.
    pub(crate) left: HashMap<String, Value>,
    pub(crate) errors: Vec<String>,
    pub(crate) room_events: HashMap<String, Vec<RoomEvent>>,
    /// What listeners under test have heard, by socket.
    pub(crate) heard: HashMap<String, Vec<String>>,
}

/// Registers the namespaces.
pub(crate) fn meet(io: &Events, gateway: Arc<Gateway>) -> World {
    let inner = Inner { middleware_runs: AtomicU64::new(0), notes: Mutex::default(), gateway };
    let world = World { inner: Arc::new(inner) };
    let told = world.clone();
    io.on_new_namespace(move |namespace| {
        told.note(|notes| notes.new_namespaces.push(namespace.name().to_owned()));
    });
    let greeting = |world: &World| {
        let world = world.clone();
        move |socket: Socket| {
            greet(&socket, &world);
            async {}
        }
    };
    io.on_connection(greeting(&world));
    io.of_matching(|name| name.starts_with("/t-")).on_connection(greeting(&world));

    let auth = io.of_matching(|name| name.starts_with("/auth-"));
    let counted = world.clone();
    auth.middleware(move |connecting: Connecting| {
        counted.inner.middleware_runs.fetch_add(1, Ordering::Relaxed);
        async move {
            match connecting.auth()["token"].as_str() {
                Some("secret") => Ok(()),
                _ => Err(Refusal::new("not authorized").with_data(json!({ "hint": "ask for a token" }))),
            }
        }
    });
    auth.on_connection(greeting(&world));

    let guarded = io.of_matching(|name| name.starts_with("/guarded-"));
    guarded.on_connection(greeting(&world));
    let guards = world.clone();
    guarded.on_connection(move |socket: Socket| {
        socket.middleware(|_, event: Event| async move {
            if event.name() == "forbidden" { Err("not this event") } else { Ok(()) }
        });
        let guards = guards.clone();
        socket.on_error(move |_, error| guards.note(|notes| notes.errors.push(error.to_string())));
        async {}
    });
    world
}

fn greet(socket: &Socket, world: &World) {
    socket.on("echo", |socket: Socket, event: Event| async move {
        // As it came: nothing is parsed, bytes are not copied.
        socket.emit_payload(event.payload()).await?;
        Ok::<_, HandlerError>(())
    });
    socket.on("question", |_, event: Event| async move {
        let arguments = Any::arguments(event.payload())?.split_off(1);
        event.ack(&Arguments(arguments));
        Ok::<_, HandlerError>(())
    });
    socket.on("silent", |_, _| async {});
    let notes = world.clone();
    socket.on("note", move |socket: Socket, event: Event| {
        let notes = notes.clone();
        async move {
            let value = event.arg(0)?;
            notes.note(|notes| notes.noted.entry(socket.namespace().to_owned()).or_default().push(value));
            Ok::<_, HandlerError>(())
        }
    });
    let attempts = world.clone();
    // Answers only the third attempt, so that whoever tries again can be seen doing it.
    socket.on("third time", move |_, event: Event| {
        let attempts = attempts.clone();
        async move {
            let key = event.arg::<Value>(0)?.to_string();
            let attempt = attempts.note(|notes| {
                let attempt = notes.attempts.entry(key).or_default();
                *attempt += 1;
                *attempt
            });
            if attempt >= 3 {
                event.ack(&attempt);
            }
            Ok::<_, HandlerError>(())
        }
    });
    write_down_leaving(socket, world);
}

fn write_down_leaving(socket: &Socket, world: &World) {
    let leaving = world.clone();
    socket.on_disconnecting(move |socket: Socket, reason| {
        let told = json!({ "reason": reason.as_str(), "rooms": named_rooms(&socket) });
        leaving.note(|notes| notes.left.insert(socket.id().to_string(), json!({ "disconnecting": told })));
        async {}
    });
    let left = world.clone();
    socket.on_disconnect(move |socket: Socket, reason| {
        let told = json!({ "reason": reason.as_str(), "rooms": named_rooms(&socket) });
        left.note(|notes| {
            if let Some(entry) = notes.left.get_mut(&**socket.id()) {
                entry["disconnect"] = told;
                entry["id"] = socket.id().to_string().into();
            }
        });
        async {}
    });
}

/// The rooms of `socket` without its own, sorted.
pub(crate) fn named_rooms(socket: &Socket) -> Vec<String> {
    let mut rooms: Vec<_> =
        socket.rooms().iter().filter(|room| *room != socket.id()).map(ToString::to_string).collect();
    rooms.sort();
    rooms
}

/// What the official protocol suites expect of the server.
pub(crate) fn suite(io: &Events) -> Result<(), Failure> {
    for namespace in [io.of("/")?, io.of("/custom")?] {
        namespace.on_connection(|socket: Socket| async move {
            let auth = if socket.auth().is_null() { json!({}) } else { socket.auth().clone() };
            socket.emit("auth", &auth).await?;
            socket.on("message", |socket: Socket, event: Event| async move {
                let arguments = Any::arguments(event.payload())?.split_off(1);
                socket.emit("message-back", &Arguments(arguments)).await?;
                Ok::<_, HandlerError>(())
            });
            socket.on("message-with-ack", |_, event: Event| async move {
                event.ack(&Arguments(Any::arguments(event.payload())?.split_off(1)));
                Ok::<_, HandlerError>(())
            });
            Ok::<_, HandlerError>(())
        });
    }
    Ok(())
}

impl World {
    pub(crate) fn note<T>(&self, write: impl FnOnce(&mut Notes) -> T) -> T {
        write(&mut self.inner.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn middleware_runs(&self) -> u64 {
        self.inner.middleware_runs.load(Ordering::Relaxed)
    }

    /// Sessions of all transports.
    pub(crate) fn clients(&self) -> u64 {
        let open = self.inner.gateway.status().open;
        open.polling + open.websocket + open.webtransport
    }
}
