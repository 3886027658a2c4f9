//! EVENTS.md 2.3 and 2.4: what applications ask of sockets, namespaces and rooms.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};
use twinlane::events::{Event, HandlerError, ListenerId, Outgoing, RoomEvent, Socket};

use crate::any::Any;
use crate::scenarios::Ask;
use crate::sockets::{World, named_rooms};
use crate::{Failure, plain};

/// What tests keep with a socket.
#[derive(Debug, Clone, Default)]
struct Kept(Value);

/// `None`: the scenario is none of these.
pub(crate) async fn run(name: &str, ask: &Ask<'_>) -> Result<Option<Any>, Failure> {
    let answer = match name {
        "use: middleware runs" => plain(ask.world.middleware_runs())?,
        "new_namespace: names" => plain(ask.world.note(|notes| notes.new_namespaces.clone()))?,
        "of: names of namespaces" => {
            let names: Vec<_> =
                ask.io.namespaces().iter().map(|namespace| namespace.name().to_owned()).collect();
            plain(names)?
        }
        "fetchSockets" => {
            let chosen = ask.namespace()?.to(ask.texts("to")).except(ask.texts("except"));
            chosen.fetch_sockets().iter().map(fetched).collect::<Value>().into()
        }
        "socketsJoin" => {
            ask.namespace()?.to(ask.texts("to")).sockets_join(ask.texts("rooms"))?;
            Any::default()
        }
        "socketsLeave" => {
            ask.namespace()?.to(ask.texts("to")).sockets_leave(ask.texts("rooms"));
            Any::default()
        }
        "disconnectSockets" => {
            ask.namespace()?.to(ask.texts("to")).disconnect_sockets(ask.flag("close"));
            Any::default()
        }
        "engine: clients" => plain(ask.world.clients())?,
        "engine: close the transport" => {
            ask.socket()?.close_connection();
            Any::default()
        }
        name if name.starts_with("socket: ") => return socket(name, ask).await.map(Some),
        name if name.starts_with("rooms: ") => return rooms(name, ask).map(Some),
        _ => return Ok(None),
    };
    Ok(Some(answer))
}

fn fetched(socket: &Socket) -> Value {
    let Kept(data) = socket.data().get::<Kept>().unwrap_or(Kept(json!({})));
    json!({ "id": &**socket.id(), "rooms": named_rooms(socket), "data": data, "auth": auth_of(socket) })
}

fn auth_of(socket: &Socket) -> Value {
    if socket.auth().is_null() { json!({}) } else { socket.auth().clone() }
}

async fn socket(name: &str, ask: &Ask<'_>) -> Result<Any, Failure> {
    match name {
        "socket: left" => {
            let id = ask.text("id")?;
            let left = ask.world.note(|notes| notes.left.get(&id).cloned());
            // Half of it is not there before the socket has left.
            return plain(left.filter(|left| left.get("disconnect").is_some()).unwrap_or_default());
        }
        "socket: errors of middlewares" => {
            return plain(ask.world.note(|notes| std::mem::take(&mut notes.errors)));
        }
        _ => {}
    }
    let socket = ask.socket()?;
    match name {
        "socket: disconnect" => socket.disconnect(ask.flag("close")),
        "socket: attributes" => return attributes(&socket),
        "socket: set data" => socket.data().set(Kept(ask.json("data"))),
        "socket: send" => socket.send(&("hello", 1)).await?,
        "socket: listeners" => return plain(listeners(&socket, ask.world, &ask.text("step")?)),
        "socket: catch-all" => return plain(catch_all(&socket, ask, &ask.text("step")?).await?),
        _ => return Err(format!("no scenario {name:?}").into()),
    }
    Ok(Any::default())
}

fn attributes(socket: &Socket) -> Result<Any, Failure> {
    let handshake = socket.handshake();
    let custom = handshake.headers.iter().find(|(name, _)| name == "x-custom").map(|(_, value)| value);
    let issued_ms = handshake.issued.duration_since(UNIX_EPOCH)?.as_millis() as u64;
    let query: BTreeMap<_, _> = handshake.query.iter().cloned().collect();
    let rooms: Vec<_> = socket.rooms().iter().map(ToString::to_string).collect();
    let Kept(data) = socket.data().get::<Kept>().unwrap_or(Kept(json!({})));
    plain(json!({
        "id": &**socket.id(), "recovered": socket.recovered(), "rooms": rooms, "data": data,
        "handshake": {
            "address": handshake.address.map(|address| address.ip().to_string()), "auth": auth_of(socket),
            "custom": custom, "issuedMs": issued_ms, "query": query, "secure": handshake.secure,
            "url": handshake.url, "crossOrigin": handshake.cross_origin,
        },
    }))
}

fn listeners(socket: &Socket, world: &World, step: &str) -> Value {
    let listening = |what: &'static str, is_once: bool| -> ListenerId {
        let world = world.clone();
        let listener = move |socket: Socket, event: Event| {
            let world = world.clone();
            async move {
                hear(&world, &socket, format!("{what} {}", event.arg::<Value>(0)?));
                Ok::<_, HandlerError>(())
            }
        };
        if is_once { socket.once("listened", listener) } else { socket.on("listened", listener) }
    };
    let is_listened = || socket.event_names().iter().any(|name| name == "listened").into();
    match step {
        "on" => {
            listening("first", false);
            listening("second", false);
            is_listened()
        }
        "once" => {
            listening("once", true);
            Value::Null
        }
        "off" => {
            socket.off(listening("first", false));
            Value::Null
        }
        "off all" => {
            socket.remove_all_listeners(Some("listened"));
            is_listened()
        }
        _ => heard(world, socket),
    }
}

async fn catch_all(socket: &Socket, ask: &Ask<'_>, step: &str) -> Result<Value, Failure> {
    match step {
        "on" => listen_to_all(socket, ask.world),
        "emit" => socket.emit("outgoing", &1).await?,
        "emit to all" => ask.namespace()?.emit("outgoing to all", &2).await?,
        "off" => {
            socket.off_any();
            socket.off_any_outgoing();
        }
        _ => return Ok(heard(ask.world, socket)),
    }
    Ok(Value::Null)
}

fn listen_to_all(socket: &Socket, world: &World) {
    let incoming = |what: &'static str, with_argument: bool| {
        let world = world.clone();
        move |socket: Socket, event: Event| {
            let argument = event.arg::<Value>(0).ok().filter(|_| with_argument);
            let argument = argument.map(|argument| format!(" {argument}")).unwrap_or_default();
            hear(&world, &socket, format!("{what} {}{argument}", event.name()));
            async {}
        }
    };
    let (listened, hearing) = (world.clone(), socket.clone());
    socket.on("any", move |_, _| {
        hear(&listened, &hearing, "listener".to_owned());
        async {}
    });
    socket.on_any(incoming("in", true));
    socket.prepend_any(incoming("before", false));
    let outgoing = |what: &'static str, with_argument: bool| {
        let (world, id) = (world.clone(), Arc::clone(socket.id()));
        move |event: &Outgoing| {
            let text = |index| event.payload.argument::<Value>(index).unwrap_or_default();
            let argument = if with_argument { format!(" {}", text(1)) } else { String::new() };
            let line = format!("{what} {}{argument}", text(0).as_str().unwrap_or_default());
            world.note(|notes| notes.heard.entry(id.to_string()).or_default().push(line));
        }
    };
    socket.on_any_outgoing(outgoing("out", true));
    socket.prepend_any_outgoing(outgoing("before out", false));
}

fn hear(world: &World, socket: &Socket, what: String) {
    world.note(|notes| notes.heard.entry(socket.id().to_string()).or_default().push(what));
}

fn heard(world: &World, socket: &Socket) -> Value {
    world.note(|notes| notes.heard.remove(&**socket.id()).unwrap_or_default()).into()
}

fn rooms(name: &str, ask: &Ask<'_>) -> Result<Any, Failure> {
    match name {
        "rooms: watch" => {
            let (namespace, world) = (ask.namespace()?, ask.world.clone());
            let mut facts = namespace.room_events();
            tokio::spawn(async move {
                while let Some(fact) = facts.next().await {
                    let name = namespace.name().to_owned();
                    world.note(|notes| notes.room_events.entry(name).or_default().push(fact));
                }
            });
            plain(Value::Null)
        }
        "rooms: events" => {
            let nsp = ask.text("nsp")?;
            let facts = ask.world.note(|notes| notes.room_events.remove(&nsp)).unwrap_or_default();
            plain(facts.iter().map(fact).collect::<Value>())
        }
        "rooms: of a socket" => {
            plain(ask.socket()?.rooms().iter().map(ToString::to_string).collect::<Vec<_>>())
        }
        "rooms: members" => {
            let members = ask.namespace()?.to(ask.text("room")?).fetch_sockets();
            plain(members.iter().map(|socket| socket.id().to_string()).collect::<Vec<_>>())
        }
        _ => Err(format!("no scenario {name:?}").into()),
    }
}

fn fact(fact: &RoomEvent) -> Value {
    match fact {
        RoomEvent::Created { room } => json!(["create-room", &**room]),
        RoomEvent::Deleted { room } => json!(["delete-room", &**room]),
        RoomEvent::Joined { room, id } => json!(["join-room", &**room, &**id]),
        RoomEvent::Left { room, id } => json!(["leave-room", &**room, &**id]),
        other => json!([format!("{other:?}")]),
    }
}
