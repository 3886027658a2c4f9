//! The event layer through its seam: clients that say and hear packets, with no transport between.

#![allow(clippy::unwrap_used, reason = "in a test a failed step is a failed test")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Client, Notes, events};
use serde_json::json;
use twinlane::events::peer::{OutboxLimits, ToClient};
use twinlane::events::{
    AckError, Binary, Connecting, DisconnectReason, Event, HandlerError, Refusal, RoomEvent, Socket,
};

type Handled = Result<(), HandlerError>;

#[tokio::test]
async fn an_event_reaches_everybody_a_room_or_one() {
    let io = events();
    let (mut ann, mut ben) = (Client::join(&io).await, Client::join(&io).await);
    io.socket(&ann.sid).unwrap().join("r1").unwrap();
    io.emit("all", &1).await.unwrap();
    io.to("r1").emit("room", &2).await.unwrap();
    io.to(&ben.sid).emit("one", &3).await.unwrap();
    io.except("r1").emit("others", &4).await.unwrap();
    assert_eq!(ann.events(), [json!(["all", 1]), json!(["room", 2])]);
    assert_eq!(ben.events(), [json!(["all", 1]), json!(["one", 3]), json!(["others", 4])]);
}

#[tokio::test]
async fn who_broadcasts_does_not_hear_it() {
    let io = events();
    let (mut ann, mut ben) = (Client::join(&io).await, Client::join(&io).await);
    let socket = io.socket(&ann.sid).unwrap();
    socket.broadcast().emit("hello", &()).await.unwrap();
    io.socket(&ben.sid).unwrap().join(&ann.sid).unwrap();
    socket.to(&ann.sid).emit("in my own room", &()).await.unwrap();
    assert!(ann.events().is_empty());
    assert_eq!(ben.events(), [json!(["hello"]), json!(["in my own room"])]);
}

#[tokio::test]
async fn arguments_are_a_tuple_or_one_and_bytes_go_beside() {
    let io = events();
    let mut ann = Client::join(&io).await;
    io.emit("none", &()).await.unwrap();
    io.emit("null", &json!(null)).await.unwrap();
    io.emit("list", &vec![1, 2]).await.unwrap();
    io.emit("three", &(1, "two", [3, 3])).await.unwrap();
    assert_eq!(
        ann.events(),
        [json!(["none"]), json!(["null", null]), json!(["list", [1, 2]]), json!(["three", 1, "two", [3, 3]])]
    );
    io.emit("bytes", &("text", Binary::from(&b"raw"[..]))).await.unwrap();
    let ToClient::Burst(burst) = ann.next().await else { panic!("an event") };
    let payload = &burst.events()[0].payload;
    let (text, bytes): (String, Binary) = payload.arguments(1).unwrap();
    assert_eq!((text.as_str(), &bytes[..]), ("text", &b"raw"[..]));
}

#[tokio::test]
async fn what_came_is_passed_on_as_it_is() {
    let io = events();
    io.on_connection(|socket: Socket| async move {
        socket.on_any(|socket: Socket, event: Event| async move {
            socket.emit_payload(event.payload()).await.unwrap();
        });
    });
    let mut ann = Client::join(&io).await;
    ann.emit("/", &json!(["anything", { "deep": [1, null] }]), None);
    assert_eq!(ann.event().await.0, json!(["anything", { "deep": [1, null] }]));
}

#[tokio::test]
async fn names_that_are_none_make_no_namespace() {
    let io = events();
    for name in ["", "chat", "/a,b", "/a//b", "/\u{202e}", &format!("/{}", "x".repeat(300))] {
        assert!(io.of(name).is_err(), "{name:?}");
    }
}

#[tokio::test]
async fn reserved_names_are_not_emitted() {
    let io = events();
    for name in ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"] {
        assert!(io.emit(name, &()).await.unwrap_err().to_string().contains(name));
    }
}

#[tokio::test]
async fn listeners_get_events_in_order_and_answer_once() {
    let (io, notes) = (events(), Notes::default());
    let noting = notes.clone();
    io.on_connection(move |socket: Socket| {
        let noting = noting.clone();
        async move {
            socket.on("say", move |_, event: Event| {
                noting.add(event.arg::<String>(0).unwrap());
                async move {
                    tokio::task::yield_now().await;
                    assert!(event.ack(&("heard", event.arg::<String>(0).unwrap())));
                    assert!(!event.ack(&"again"));
                }
            });
        }
    });
    let mut ann = Client::join(&io).await;
    ann.emit("/", &json!(["say", "one"]), Some(7));
    ann.emit("/", &json!(["say", "two"]), Some(8));
    assert_eq!(notes.all(), ["one", "two"]);
    for (number, word) in [(7, "one"), (8, "two")] {
        let ToClient::Ack { ack, payload, .. } = ann.next().await else { panic!("an answer") };
        assert_eq!(ack, number);
        assert_eq!(payload.arguments::<(String, String)>(0).unwrap(), ("heard".into(), word.into()));
    }
}

#[tokio::test]
async fn once_any_off_middleware_and_errors_work_together() {
    let (io, notes) = (events(), Notes::default());
    let noting = notes.clone();
    io.on_connection(move |socket: Socket| {
        let notes = noting.clone();
        async move {
            let note = |text: &'static str| {
                let notes = notes.clone();
                move |_: Socket, event: Event| {
                    notes.add(format!("{text} {}", event.name()));
                    async {}
                }
            };
            socket.once("a", note("once"));
            socket.on("a", note("on"));
            socket.on_any(note("any"));
            socket.prepend_any(note("first"));
            let off = socket.on("b", note("never"));
            socket.off(off);
            socket.middleware(|_, event: Event| async move {
                if event.name() == "bad" { Err(HandlerError::from("not that")) } else { Ok(()) }
            });
            let errors = notes.clone();
            socket.on_error(move |event, error| errors.add(format!("{}: {error}", event.name())));
            assert_eq!(socket.event_names(), ["a"]);
        }
    });
    let ann = Client::join(&io).await;
    for name in ["a", "a", "b", "bad"] {
        ann.emit("/", &json!([name]), None);
    }
    let expected = [
        "first a",
        "any a",
        "once a",
        "on a",
        "first a",
        "any a",
        "on a",
        "first b",
        "any b",
        "bad: not that",
    ];
    assert_eq!(notes.all(), expected);
}

#[tokio::test(start_paused = true)]
async fn an_answer_comes_or_the_time_is_over_or_the_client_is_gone() {
    let io = events();
    let mut ann = Client::join(&io).await;
    let socket = io.socket(&ann.sid).unwrap();
    let asking = |timeout_ms| {
        let socket = socket.clone();
        tokio::spawn(async move {
            let timeout = Duration::from_millis(timeout_ms);
            socket.timeout(timeout).emit_with_ack::<String>("how?", &()).await
        })
    };
    let asked = asking(1_000);
    let (_, ack) = ann.event().await;
    ann.answer(ack.unwrap() + 1, &json!(["nobody asked this"]));
    ann.answer(ack.unwrap(), &json!(["well"]));
    ann.answer(ack.unwrap(), &json!(["twice"]));
    assert_eq!(asked.await.unwrap().unwrap(), "well");
    assert!(matches!(asking(50).await.unwrap(), Err(AckError::Timeout(_))));
    socket.disconnect(false);
    assert!(matches!(asking(50).await.unwrap(), Err(AckError::Disconnected)));
}

#[tokio::test(start_paused = true)]
async fn a_question_to_many_tells_who_answered_and_who_did_not() {
    let io = events();
    let (mut ann, mut ben) = (Client::join(&io).await, Client::join(&io).await);
    let asking = tokio::spawn({
        let io = io.clone();
        async move { io.timeout(Duration::from_millis(100)).emit_with_ack("ready?", &()).await.unwrap() }
    });
    let (_, ack) = ann.event().await;
    ben.event().await;
    ann.answer(ack.unwrap(), &json!([true]));
    let answers = asking.await.unwrap();
    assert_eq!(answers.values::<bool>().unwrap(), [true]);
    assert_eq!(&*answers.answers()[0].0, ann.sid);
    assert_eq!(answers.missing().iter().map(|id| &**id).collect::<Vec<_>>(), [&*ben.sid]);
}

#[tokio::test]
async fn middlewares_keep_clients_out_with_a_reason() {
    let io = events();
    io.of("/admin").unwrap().middleware(|connecting: Connecting| async move {
        if connecting.auth()["token"] == "secret" {
            connecting.data().set(42_u32);
            return Ok(());
        }
        Err(Refusal::new("not authorized").with_data(json!({ "retry": false })))
    });
    let refused = Client::connect(&io, "/admin", json!({})).await.err().unwrap();
    assert_eq!(refused, json!({ "message": "not authorized", "data": { "retry": false } }));
    let ann = Client::connect(&io, "/admin", json!({ "token": "secret" })).await.unwrap();
    let socket = io.of("/admin").unwrap().socket(&ann.sid).unwrap();
    assert_eq!(socket.data().get::<u32>(), Some(42));
    let unknown = Client::connect(&io, "/nowhere", json!({})).await.err().unwrap();
    assert_eq!(unknown, json!({ "message": "Invalid namespace" }));
}

#[tokio::test]
async fn dynamic_namespaces_are_made_when_somebody_names_them() {
    let (io, notes) = (events(), Notes::default());
    let new = notes.clone();
    io.on_new_namespace(move |namespace| new.add(namespace.name()));
    let rooms = io.of_matching(|name| name.starts_with("/game-"));
    let there = notes.clone();
    rooms.on_connection(move |socket: Socket| {
        there.add(format!("in {}", socket.namespace()));
        async {}
    });
    Client::connect(&io, "/game-7", json!({})).await.unwrap();
    assert_eq!(notes.all(), ["/game-7", "in /game-7"]);
}

#[tokio::test]
async fn rooms_tell_their_life_and_disconnecting_still_has_them() {
    let (io, notes) = (events(), Notes::default());
    let mut facts = io.room_events();
    let noting = notes.clone();
    io.on_connection(move |socket: Socket| {
        let notes = noting.clone();
        async move {
            socket.join("r1").unwrap();
            let after = notes.clone();
            socket.on_disconnecting(move |socket: Socket, reason| {
                notes.add(format!("{reason}, in {} rooms", socket.rooms().len()));
                async {}
            });
            socket.on_disconnect(move |socket: Socket, reason: DisconnectReason| {
                after.add(format!("{reason}, in {} rooms", socket.rooms().len()));
                async {}
            });
        }
    });
    let ann = Client::join(&io).await;
    ann.lose();
    assert_eq!(notes.all(), ["transport close, in 2 rooms", "transport close, in 0 rooms"]);
    let (id, r1): (Arc<str>, Arc<str>) = (ann.sid.as_str().into(), "r1".into());
    for room in [&id, &r1] {
        assert_eq!(facts.next().await, Some(RoomEvent::Created { room: Arc::clone(room) }));
        assert_eq!(
            facts.next().await,
            Some(RoomEvent::Joined { room: Arc::clone(room), id: Arc::clone(&id) })
        );
    }
    for room in [&id, &r1] {
        assert_eq!(facts.next().await, Some(RoomEvent::Left { room: Arc::clone(room), id: Arc::clone(&id) }));
        assert_eq!(facts.next().await, Some(RoomEvent::Deleted { room: Arc::clone(room) }));
    }
}

#[tokio::test]
async fn selections_join_leave_and_disconnect() {
    let io = events();
    let (ann, ben) = (Client::join(&io).await, Client::join(&io).await);
    io.to(&ann.sid).sockets_join(["x", "y"]).unwrap();
    io.sockets_join("z").unwrap();
    io.within("x").sockets_leave("z");
    assert_eq!(
        io.to("z").fetch_sockets().iter().map(|one| one.id().to_string()).collect::<Vec<_>>(),
        [&*ben.sid]
    );
    io.to("y").disconnect_sockets(false);
    assert_eq!(io.fetch_sockets().len(), 1);
    assert!(io.socket(&ann.sid).is_none());
}

#[tokio::test]
async fn e1_a_member_gets_what_comes_after_its_join_and_nothing_after_its_leave() {
    let io = events();
    let mut ann = Client::join(&io).await;
    let socket = io.socket(&ann.sid).unwrap();
    io.to("r").emit("before", &()).await.unwrap();
    socket.join("r").unwrap();
    io.to("r").emit("between", &()).await.unwrap();
    socket.leave("r");
    io.to("r").emit("after", &()).await.unwrap();
    assert_eq!(ann.events(), [json!(["between"])]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_cut_off_and_the_others_are_not() {
    let io = events();
    let limits = OutboxLimits { bytes_max: 1 << 20, events_max: 100 };
    let mut slow = Client::unconnected(&io, limits);
    slow.knock("/", &json!({}));
    let mut quick = Client::join(&io).await;
    for number in 0..1_000 {
        io.emit("flood", &number).await.unwrap();
        quick.event().await;
    }
    assert!(matches!(slow.next().await, ToClient::Close(DisconnectReason::SlowConsumer)));
    assert_eq!(io.status().drops["slow consumer"], 1);
}

#[tokio::test]
async fn volatile_events_are_left_out_for_a_client_that_is_behind() {
    let io = events();
    let mut ann = Client::unconnected(&io, OutboxLimits { bytes_max: 1 << 20, events_max: 160 });
    ann.knock("/", &json!({}));
    ann.next().await;
    for number in 0..20 {
        io.volatile().emit("position", &number).await.unwrap();
        let _ = io.status();
    }
    io.emit("kept", &()).await.unwrap();
    let events = ann.events();
    assert_eq!(events.len(), 11);
    assert_eq!(events[10], json!(["kept"]));
    assert_eq!(io.status().drops["volatile"], 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_members_see_the_events_of_many_emitters_in_one_order() {
    let io = events();
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(Client::join(&io).await);
    }
    let emitting: Vec<_> = (0..4)
        .map(|emitter| {
            let io = io.clone();
            tokio::spawn(async move {
                for number in 0..500 {
                    io.emit("n", &(emitter, number)).await.unwrap();
                }
            })
        })
        .collect();
    for task in emitting {
        task.await.unwrap();
    }
    let mut first = None;
    for client in &mut clients {
        let mut seen = Vec::new();
        for _ in 0..2_000 {
            seen.push(client.event().await.0);
        }
        assert_eq!(first.get_or_insert_with(|| seen.clone()), &seen);
    }
}

#[tokio::test]
async fn listeners_overhear_what_goes_to_their_client() {
    let (io, notes) = (events(), Notes::default());
    let noting = notes.clone();
    io.on_connection(move |socket: Socket| {
        let notes = noting.clone();
        async move {
            socket.on_any_outgoing(move |event| notes.add(event.payload.argument::<String>(0).unwrap()));
        }
    });
    let ann = Client::join(&io).await;
    io.emit("all", &()).await.unwrap();
    io.socket(&ann.sid).unwrap().emit("one", &()).await.unwrap();
    let _ = io.status();
    assert_eq!(notes.all(), ["all", "one"]);
}

#[tokio::test]
async fn handlers_may_wait_and_errors_are_reported() -> Handled {
    let (io, notes) = (events(), Notes::default());
    let noting = notes.clone();
    io.on_connection(move |socket: Socket| {
        let notes = noting.clone();
        async move {
            socket.on_error(move |event, error| notes.add(format!("{}: {error}", event.name())));
            socket.on("number", |_, event: Event| async move {
                tokio::task::yield_now().await;
                event.arg::<u32>(0)?;
                Ok::<_, HandlerError>(())
            });
        }
    });
    let ann = Client::join(&io).await;
    ann.emit("/", &json!(["number", "no number"]), None);
    while notes.all().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(notes.all()[0].starts_with("number: invalid type"));
    Ok(())
}
