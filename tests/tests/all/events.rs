//! The emit cheatsheet with Rust clients, in process and over the network: one test a line, named as in the table of
//! gateway/EVENTS.md; and E1 to E4 through lost connections.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use twinlane::events::{
    AckError, Answers, Binary, ClientSocket, Connecting, EmitError, Event, Events, HandlerError,
    JoinNamespaceError, Namespace, Refusal, Socket,
};
use twinlane::{EngineConfig, Session, Start, SubscribeOptions};
use twinlane_tests::Relay;

use crate::world::{Carrier, World, next_message, until, within};

const CARRIERS: [Carrier; 2] = [Carrier::Local, Carrier::Both];
const ACK_PATIENCE: Duration = Duration::from_secs(10);

/// A server with an event layer, and clients in one of its namespaces.
struct Chat {
    world: World,
    io: Events,
    space: Namespace,
    clients: Vec<Client>,
}

/// A client, the server's side of it, and what it hears.
struct Client {
    /// Held: sockets live as long as somebody has them, sessions too.
    _session: Session,
    socket: ClientSocket,
    at_server: Socket,
    heard: mpsc::UnboundedReceiver<Value>,
}

impl Chat {
    /// `clients` of them in namespace `/chat`.
    async fn new(carrier: Carrier, clients: usize) -> Self {
        let world = World::with(EngineConfig::default()).await;
        let io = Events::new(&world.engine).unwrap();
        let space = io.of("/chat").unwrap();
        let mut chat = Self { world, io, space, clients: Vec::new() };
        for _ in 0..clients {
            let session = chat.world.session(carrier).await;
            chat.clients.push(chat.join(session).await);
        }
        chat
    }

    async fn join(&self, session: Session) -> Client {
        let socket = session.socket("/chat");
        let heard = hearing(&socket);
        within("a connect", socket.connect()).await.unwrap();
        let at_server = self.space.socket(&socket.id().unwrap()).unwrap();
        Client { _session: session, socket, at_server, heard }
    }

    /// Who heard `event`, by their place. All of it is under way when a last word has come to everybody.
    async fn heard_by(&mut self, event: Value) -> Vec<usize> {
        self.space.emit("last word", &()).await.unwrap();
        let mut who = Vec::new();
        for (place, client) in self.clients.iter_mut().enumerate() {
            let events = client.until_last_word().await;
            who.extend(events.iter().filter(|other| **other == event).map(|_| place));
        }
        who
    }
}

impl Client {
    async fn next(&mut self) -> Value {
        within("an event", self.heard.recv()).await.unwrap()
    }

    async fn until_last_word(&mut self) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            match self.next().await {
                last if last == json!(["last word"]) => return events,
                event => events.push(event),
            }
        }
    }
}

/// What `socket` hears: name and arguments, without the offset behind them.
fn hearing(socket: &ClientSocket) -> mpsc::UnboundedReceiver<Value> {
    let (heard, hearing) = mpsc::unbounded_channel();
    socket.on_any(move |_, event: Event| {
        let mut value: Value = event.payload().arguments(0).unwrap();
        if !event.wants_ack() {
            value.as_array_mut().unwrap().pop();
        }
        let _ = heard.send(value);
        async {}
    });
    hearing
}

/// Answers `ask` with its place.
fn answering(chat: &Chat, places: &[usize]) {
    for place in places.iter().copied() {
        chat.clients[place].socket.on("ask", move |_, event: Event| async move {
            event.ack(&place);
        });
    }
}

async fn values(asked: impl Future<Output = Result<Answers, EmitError>>) -> (Vec<usize>, usize) {
    let answers = within("answers", asked).await.unwrap();
    let mut values: Vec<usize> = answers.values().unwrap();
    values.sort_unstable();
    (values, answers.missing().len())
}

/// Runs a test over each carrier.
macro_rules! lines {
    ($($(#[$doc:meta])* $name:ident($clients:literal, $chat:ident) $body:block)*) => {
        $(
            $(#[$doc])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                for carrier in CARRIERS {
                    #[allow(unused_mut, reason = "not every line hears something")]
                    let mut $chat = Chat::new(carrier, $clients).await;
                    $body
                }
            }
        )*
    };
}

lines! {
    line_01_emit_with_any_arguments_and_bytes(1, chat) {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let got = Arc::clone(&bytes);
        chat.clients[0].socket.on("bytes", move |_, event: Event| {
            got.lock().unwrap().push(event.args::<(u32, Binary)>().unwrap());
            async {}
        });
        chat.clients[0].at_server.emit("three", &(1, "two", json!({ "three": [] }))).await.unwrap();
        assert_eq!(chat.clients[0].next().await, json!(["three", 1, "two", { "three": [] }]));
        chat.clients[0].at_server.emit("bytes", &(7, Binary::from(&b"\0\xFF"[..]))).await.unwrap();
        until("the bytes", || !bytes.lock().unwrap().is_empty()).await;
        assert_eq!(*bytes.lock().unwrap(), [(7, Binary::from(&b"\0\xFF"[..]))]);
    }

    line_03_emit_with_ack(1, chat) {
        answering(&chat, &[0]);
        let answer: usize = chat.clients[0].at_server.timeout(ACK_PATIENCE).emit_with_ack("ask", &()).await.unwrap();
        assert_eq!(answer, 0);
    }

    line_04_timeout_without_an_answer(1, chat) {
        let asking = chat.clients[0].at_server.timeout(Duration::from_millis(20));
        assert!(matches!(asking.emit_with_ack::<()>("ask", &()).await, Err(AckError::Timeout(_))));
    }

    line_05_emit_to_all_clients(3, chat) {
        chat.space.emit("all", &()).await.unwrap();
        assert_eq!(chat.heard_by(json!(["all"])).await, [0, 1, 2]);
    }

    line_06_broadcast_to_all_but_the_sender(3, chat) {
        chat.clients[1].at_server.broadcast().emit("others", &()).await.unwrap();
        assert_eq!(chat.heard_by(json!(["others"])).await, [0, 2]);
    }

    line_07_broadcast_with_acks_and_who_is_missing(3, chat) {
        answering(&chat, &[0, 2]);
        let asked = chat.space.timeout(Duration::from_millis(300)).emit_with_ack("ask", &()).await.unwrap();
        assert_eq!(asked.missing(), [Arc::clone(chat.clients[1].at_server.id())]);
        assert_eq!(asked.values::<usize>().unwrap().len(), 2);
    }

    line_08_broadcast_with_all_acks(3, chat) {
        answering(&chat, &[0, 1, 2]);
        assert_eq!(values(chat.space.emit_with_ack("ask", &())).await, (vec![0, 1, 2], 0));
    }

    line_09_emit_to_a_room(3, chat) {
        chat.clients[2].at_server.join("r").unwrap();
        chat.space.to("r").emit("to", &()).await.unwrap();
        chat.space.within("r").emit("in", &()).await.unwrap();
        assert_eq!(chat.heard_by(json!(["to"])).await, [2]);
    }

    line_10_emit_to_a_room_without_the_sender(3, chat) {
        chat.space.sockets_join("r").unwrap();
        chat.clients[0].at_server.to("r").emit("to", &()).await.unwrap();
        assert_eq!(chat.heard_by(json!(["to"])).await, [1, 2]);
    }

    line_11_except_a_room(3, chat) {
        chat.clients[1].at_server.join("r").unwrap();
        chat.space.except("r").emit("except", &()).await.unwrap();
        assert_eq!(chat.heard_by(json!(["except"])).await, [0, 2]);
    }

    line_12_chain_of_to_and_except(4, chat) {
        for (place, rooms) in [(0, ["r1", "r2"]), (1, ["r3", "r3"]), (2, ["r1", "r4"])] {
            rooms.iter().for_each(|room| chat.clients[place].at_server.join(room).unwrap());
        }
        chat.space.to("r1").to(["r2", "r3"]).except("r4").emit("chain", &()).await.unwrap();
        assert_eq!(chat.heard_by(json!(["chain"])).await, [0, 1], "each once");
    }

    line_13_another_namespace(1, chat) {
        let space = chat.io.of("/other").unwrap();
        let other = chat.clients[0]._session.socket("/other");
        let mut heard = hearing(&other);
        other.connect().await.unwrap();
        space.emit("there", &()).await.unwrap();
        assert_eq!(within("an event", heard.recv()).await, Some(json!(["there"])));
        assert_eq!(chat.heard_by(json!(["there"])).await, [0; 0]);
    }

    line_14_the_full_chain_with_acks(4, chat) {
        answering(&chat, &[0, 1, 2, 3]);
        chat.space.sockets_join("r1").unwrap();
        chat.clients[2].at_server.join("r2").unwrap();
        let chain = chat.clients[0].at_server.to("r1").to(["r3"]).except("r2").timeout(ACK_PATIENCE);
        assert_eq!(values(chain.emit_with_ack("ask", &())).await, (vec![1, 3], 0));
    }

    line_15_a_private_message(2, chat) {
        chat.space.to(chat.clients[1].at_server.id()).emit("private", &()).await.unwrap();
        assert_eq!(chat.heard_by(json!(["private"])).await, [1]);
    }

    line_16_to_the_own_room_reaches_the_others_in_it(2, chat) {
        let id = Arc::clone(chat.clients[0].at_server.id());
        chat.clients[1].at_server.join(&id).unwrap();
        chat.clients[0].at_server.to(&id).emit("own", &()).await.unwrap();
        assert_eq!(chat.heard_by(json!(["own"])).await, [1]);
    }

    line_17_local_and_line_18_compress(2, chat) {
        chat.space.local().emit("local", &()).await.unwrap();
        assert_eq!(chat.heard_by(json!(["local"])).await, [0, 1]);
        chat.clients[0].at_server.compress(false).emit("plain", &()).await.unwrap();
        assert_eq!(chat.heard_by(json!(["plain"])).await, [0]);
    }

    line_19_volatile(2, chat) {
        chat.space.volatile().emit("volatile", &()).await.unwrap();
        assert_eq!(chat.heard_by(json!(["volatile"])).await, [0, 1]);
    }

    line_24_reserved_names_are_refused(1, chat) {
        for name in ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"] {
            assert!(matches!(chat.space.emit(name, &()).await, Err(EmitError::Reserved { .. })));
            assert!(matches!(chat.clients[0].socket.emit(name, &()).await, Err(EmitError::Reserved { .. })));
        }
    }

    /// And 26 and 27: with a callback or a promise is the same in Rust.
    line_25_a_client_emits_with_bytes_and_an_answer(1, chat) {
        chat.clients[0].at_server.on("ask", |_, event: Event| async move {
            let (text, bytes): (String, Binary) = event.args().unwrap();
            event.ack(&format!("{text} {}", bytes.len()));
        });
        let arguments = ("how", Binary::from(&b"raw"[..]));
        let asked = chat.clients[0].socket.emit_with_ack::<String>("ask", &arguments);
        assert_eq!(within("an answer", asked).await.unwrap(), "how 3");
    }

    line_28_a_client_waits_for_an_answer_only_so_long(1, chat) {
        let asking = chat.clients[0].socket.timeout(Duration::from_millis(20));
        assert!(matches!(asking.emit_with_ack::<()>("nobody", &()).await, Err(AckError::Timeout(_))));
    }

    line_29_a_clients_volatile_event(1, chat) {
        let (heard, mut hearing) = mpsc::unbounded_channel();
        chat.clients[0].at_server.on("position", move |_, event: Event| {
            let _ = heard.send(event.arg::<u32>(0).unwrap());
            async {}
        });
        chat.clients[0].socket.volatile().emit("position", &7).await.unwrap();
        assert_eq!(within("an event", hearing.recv()).await, Some(7));
    }

    middlewares_keep_clients_out_with_a_reason(1, chat) {
        chat.io.of("/admin").unwrap().middleware(|connecting: Connecting| async move {
            match connecting.auth()["token"] == "secret" {
                true => Ok(()),
                false => Err(Refusal::new("not authorized").with_data(json!(1))),
            }
        });
        let session = &chat.clients[0]._session;
        let admin = session.socket("/admin");
        let refused = admin.connect().await.unwrap_err();
        assert!(matches!(refused, JoinNamespaceError::Refused { ref data, .. } if *data == Some(json!(1))));
        admin.set_auth(json!({ "token": "secret" }));
        admin.connect().await.unwrap();
        let twice = session.socket("/admin").connect().await.unwrap_err();
        assert!(matches!(twice, JoinNamespaceError::Twice { .. }));
    }

    selections_join_leave_and_disconnect(3, chat) {
        chat.space.to(chat.clients[0].at_server.id()).sockets_join(["x", "y"]).unwrap();
        assert_eq!(chat.space.to("x").fetch_sockets(), [chat.clients[0].at_server.clone()]);
        chat.space.to("x").sockets_leave("y");
        assert!(chat.space.to("y").fetch_sockets().is_empty());
        let (left, mut leaving) = mpsc::unbounded_channel();
        chat.clients[0].socket.on_disconnect(move |_, reason| {
            let _ = left.send(reason);
            async {}
        });
        chat.space.to("x").disconnect_sockets(false);
        assert_eq!(within("the end", leaving.recv()).await.unwrap(), "io server disconnect");
        assert_eq!(chat.space.fetch_sockets().len(), 2);
    }

    once_off_and_errors_of_listeners(1, chat) {
        let (noted, mut notes) = mpsc::unbounded_channel();
        let server = &chat.clients[0].at_server;
        let once = noted.clone();
        server.once("a", move |_, _: Event| {
            let _ = once.send("once".to_owned());
            async {}
        });
        let off = server.on("a", |_, _: Event| async { Err("it was taken off") });
        server.off(off);
        server.on("number", |_, event: Event| async move {
            event.arg::<u32>(0)?;
            Ok::<_, HandlerError>(())
        });
        server.on_error(move |event, _| drop(noted.send(format!("error of {}", event.name()))));
        for (name, argument) in [("a", "1"), ("a", "2"), ("number", "none")] {
            chat.clients[0].socket.emit(name, argument).await.unwrap();
        }
        assert_eq!(within("a note", notes.recv()).await.unwrap(), "once");
        assert_eq!(within("a note", notes.recv()).await.unwrap(), "error of number");
    }

    rooms_are_topics_to_services(1, chat) {
        chat.space.bridge("prices").await.unwrap();
        chat.clients[0].at_server.join("gold").unwrap();
        let service = chat.world.session(Carrier::Tcp).await;
        service.publisher("prices/silver").await.unwrap().publish(b"0").await.unwrap();
        service.publisher("prices/gold").await.unwrap().publish(br#"{"bid":1}"#).await.unwrap();
        assert_eq!(chat.clients[0].next().await, json!(["message", { "bid": 1 }]));
    }

    e4_who_is_in_a_room_stands_on_a_topic(1, chat) {
        chat.space.publish_presence("who").await.unwrap();
        let id = Arc::clone(chat.clients[0].at_server.id());
        chat.clients[0].at_server.join("r").unwrap();
        let mut start = SubscribeOptions::default();
        start.start = Start::Last;
        let mut facts = chat.world.session(Carrier::Tcp).await.subscribe_with("who", start).await.unwrap();
        for present in [true, false] {
            let fact: Value = serde_json::from_slice(next_message(&mut facts).await.payload()).unwrap();
            assert_eq!(fact, json!({ "room": "r", "id": *id, "present": present }));
            chat.clients[0].socket.disconnect().await;
        }
    }

    nobody_speaks_for_another_session_or_writes_a_namespaces_log(1, chat) {
        let other = chat.world.session(Carrier::Tcp).await;
        for topic in [format!("$io/{}", chat.clients[0]._session.status().id), "$events/chat".to_owned()] {
            assert!(other.publisher(&topic).await.is_err(), "{topic}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn line_30_and_e3_nothing_is_missed_or_comes_twice_through_lost_connections() {
    const EVENTS: u64 = 2_000;
    let mut chat = Chat::new(Carrier::Local, 0).await;
    let relay = Relay::start(chat.world.addr(), 7).await.unwrap();
    let (emitted, mut emits) = mpsc::unbounded_channel();
    chat.space.on_connection(move |socket: Socket| {
        let emitted = emitted.clone();
        socket.on("up", move |_, event: Event| {
            let _ = emitted.send(event.arg::<u64>(0).unwrap());
            async {}
        });
        async {}
    });
    let session = chat.world.session_via(Carrier::Tcp, &relay).await;
    chat.clients.push(chat.join(session).await);
    relay.cut_after(20_000);
    relay.cut();
    let (space, socket) = (chat.space.clone(), chat.clients[0].socket.clone());
    let emitting = tokio::spawn(async move {
        for number in 0..EVENTS {
            space.emit("down", &number).await.unwrap();
            // While there is no connection it waits in the session's queue.
            socket.emit("up", &number).await.unwrap();
        }
    });
    for number in 0..EVENTS {
        assert_eq!(chat.clients[0].next().await, json!(["down", number]));
        assert_eq!(within("an event", emits.recv()).await, Some(number));
    }
    within("the emitter", emitting).await.unwrap();
    assert!(relay.connections() > 5, "only {} connections: no fault took effect", relay.connections());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e3_who_is_cut_off_by_the_event_layer_comes_back_as_who_it_was() {
    for carrier in CARRIERS {
        let mut chat = Chat::new(carrier, 1).await;
        let (noted, mut notes) = mpsc::unbounded_channel();
        let (left, back) = (noted.clone(), noted);
        chat.clients[0].socket.on_disconnect(move |_, reason| {
            let _ = left.send(reason);
            async {}
        });
        chat.clients[0].socket.on_connect(move |_, is_recovered| {
            let _ = back.send(format!("recovered {is_recovered}"));
            async {}
        });
        chat.clients[0].at_server.join("r").unwrap();
        chat.io.close();
        let id = chat.clients[0].socket.id();
        chat.space.to("r").emit("missed", &()).await.unwrap();
        assert_eq!(chat.clients[0].next().await, json!(["missed"]));
        assert_eq!(chat.clients[0].socket.id(), id);
        assert_eq!(within("a note", notes.recv()).await.unwrap(), "server shutting down");
        assert_eq!(within("a note", notes.recv()).await.unwrap(), "recovered true");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_whose_session_is_over_leaves_its_namespace() {
    let mut config = EngineConfig::default();
    config.session_retention = Duration::from_millis(50);
    let world = World::with(config).await;
    let io = Events::new(&world.engine).unwrap();
    let session = world.session(Carrier::Tcp).await;
    let socket = session.socket("/");
    socket.connect().await.unwrap();
    assert_eq!(io.fetch_sockets().len(), 1);
    session.close().await;
    until("the socket's end", || io.fetch_sockets().is_empty()).await;
}
