//! What a client that comes back finds, through the seam: clients that say and hear packets, with no transport between.

#![allow(clippy::unwrap_used, reason = "in a test a failed step is a failed test")]

mod common;

use std::time::Duration;

use common::{Client, Notes, events, with};
use serde_json::json;
use twinlane::events::peer::ToClient;
use twinlane::events::{AckError, DisconnectReason, EventsOptions, Socket};

#[tokio::test]
async fn e3_who_comes_back_finds_number_rooms_data_and_every_missed_event_in_order() {
    let (io, notes) = (events(), Notes::default());
    let noting = notes.clone();
    io.on_connection(move |socket: Socket| {
        noting.add(format!("recovered {}", socket.recovered()));
        async {}
    });
    let mut ann = Client::join(&io).await;
    let socket = io.socket(&ann.sid).unwrap();
    socket.join("r").unwrap();
    socket.data().set("hers".to_owned());
    io.emit("seen", &()).await.unwrap();
    ann.event().await;
    io.emit("in flight", &()).await.unwrap();
    ann.lose();
    io.to("r").emit("missed", &1).await.unwrap();
    io.to("other").emit("not hers", &()).await.unwrap();
    io.volatile().emit("volatile", &()).await.unwrap();
    io.to(&ann.sid).emit("direct", &2).await.unwrap();
    let mut back = Client::return_as(&io, &ann).await;
    assert_eq!((&back.sid, &back.pid), (&ann.sid, &ann.pid));
    io.to("r").emit("live", &3).await.unwrap();
    assert_eq!(
        back.events(),
        [json!(["in flight"]), json!(["missed", 1]), json!(["direct", 2]), json!(["live", 3])]
    );
    assert_eq!(io.socket(&back.sid).unwrap().data().get::<String>().unwrap(), "hers");
    assert_eq!(notes.all(), ["recovered false", "recovered true"]);
}

#[tokio::test]
async fn who_had_got_nothing_yet_recovers_from_the_very_first_event() {
    let io = events();
    io.emit("before her time", &()).await.unwrap();
    let ann = Client::join(&io).await;
    io.emit("first", &()).await.unwrap();
    ann.lose();
    io.emit("second", &()).await.unwrap();
    let mut back = Client::return_as(&io, &ann).await;
    assert_eq!(back.events(), [json!(["first"]), json!(["second"])]);
}

#[tokio::test]
async fn events_of_a_room_that_was_left_meanwhile_are_recovered_up_to_the_leave() {
    let io = events();
    let ann = Client::join(&io).await;
    let socket = io.socket(&ann.sid).unwrap();
    socket.join("r").unwrap();
    io.to("r").emit("while in", &()).await.unwrap();
    socket.leave("r");
    io.to("r").emit("after", &()).await.unwrap();
    ann.lose();
    let mut back = Client::return_as(&io, &ann).await;
    assert_eq!(back.events(), [json!(["while in"])]);
}

#[tokio::test]
async fn questions_are_recovered_unless_they_were_answered() {
    let io = events();
    let mut ann = Client::join(&io).await;
    let socket = io.socket(&ann.sid).unwrap();
    let ask = |name: &'static str| {
        let socket = socket.clone();
        tokio::spawn(async move { socket.emit_with_ack_in(name).await })
    };
    let answered = ask("answered");
    let (_, ack) = ann.event().await;
    ann.answer(ack.unwrap(), &json!(["yes"]));
    assert_eq!(answered.await.unwrap().unwrap(), "yes");
    let open = ask("open");
    ann.event().await;
    ann.lose();
    let away = ask("while away");
    tokio::task::yield_now().await;
    let mut back = Client::return_as(&io, &ann).await;
    for (name, asked) in [("open", open), ("while away", away)] {
        let (event, ack) = back.event().await;
        assert_eq!(event, json!([name]));
        back.answer(ack.unwrap(), &json!([name]));
        assert_eq!(asked.await.unwrap().unwrap(), name);
    }
}

/// A question with enough time for an answer.
trait Ask {
    fn emit_with_ack_in(&self, name: &str) -> impl Future<Output = Result<String, AckError>> + Send;
}

impl Ask for Socket {
    async fn emit_with_ack_in(&self, name: &str) -> Result<String, AckError> {
        self.timeout(Duration::from_secs(5)).emit_with_ack(name, &()).await
    }
}

#[tokio::test]
async fn who_comes_back_too_late_is_told_the_exact_gap() {
    let io = with(EventsOptions { history_events: 2, ..EventsOptions::default() });
    let mut ann = Client::join(&io).await;
    io.emit("seen", &()).await.unwrap();
    ann.event().await;
    ann.lose();
    for number in 0..4 {
        io.emit("missed", &number).await.unwrap();
    }
    let mut back = Client::return_as(&io, &ann).await;
    assert_ne!(back.sid, ann.sid);
    assert_eq!(back.events(), [json!(["$gap", { "from": "1", "to": "5", "cause": "retention" }])]);
}

#[tokio::test]
async fn who_is_unknown_is_told_so() {
    let io = events();
    let auth = json!({ "pid": "invented", "offset": "-1" });
    let mut ann = Client::connect(&io, "/", auth).await.unwrap();
    assert_eq!(ann.events(), [json!(["$gap", { "from": null, "to": null, "cause": "unknown" }])]);
}

#[tokio::test]
async fn an_offset_beyond_all_numbers_is_an_unknown_clients_like_any_other() {
    let io = events();
    // The largest there is, in the form in which clients give offsets back.
    let auth = json!({ "pid": "invented", "offset": "3w5e11264sgsf" });
    let mut ann = Client::connect(&io, "/", auth).await.unwrap();
    let gap = json!({ "from": null, "to": null, "cause": "unknown" });
    assert_eq!(ann.events(), [json!(["$gap", gap])]);
}

#[tokio::test]
async fn who_comes_back_before_its_loss_was_noticed_takes_its_place() {
    let io = events();
    let mut ann = Client::join(&io).await;
    let mut back = Client::return_as(&io, &ann).await;
    io.emit("once", &()).await.unwrap();
    assert_eq!(back.sid, ann.sid);
    assert_eq!(back.events(), [json!(["once"])]);
    assert!(matches!(ann.next().await, ToClient::Close(DisconnectReason::TransportClose)));
    assert_eq!(io.fetch_sockets().len(), 1);
}
