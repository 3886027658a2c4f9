//! Liveness, the end of a conversation, and outputs nobody takes.

use std::time::Duration;

use twinlane_proto::Code;
use twinlane_proto::control::{Goodbye, Ping, Pong, Welcome};
use twinlane_proto::session::{Event, Input, Output, Phase};

use crate::side::{
    assert_ended, frame, hello, new_client, new_server, ready_client, ready_server, sends, welcome,
};

#[test]
fn a_handshake_that_takes_too_long_ends() {
    let limit = Duration::from_secs(5);
    let mut deciding = new_server();
    deciding.receive(hello()).unwrap();
    for mut side in [new_client(), new_server(), deciding] {
        assert_eq!(side.deadline(), Some(limit));
        assert_eq!(side.after(limit - Duration::from_nanos(1)), []);
        side.handle(Input::Traffic).unwrap();
        side.now += Duration::from_nanos(1);
        side.session.handle(side.now, Input::Tick).unwrap();
        assert_ended(&mut side, Code::AuthTimeout);
    }
}

#[test]
fn after_the_end_every_input_is_ignored() {
    let mut server = ready_server();
    server
        .session
        .handle(server.now, Input::Close { code: Code::ServerShutdown, reason: String::new() })
        .unwrap();
    assert_ended(&mut server, Code::ServerShutdown);
    let hello = frame(hello());
    let inputs = [
        Input::Control(&hello),
        Input::Control(&[1]),
        Input::Run { lane: 1, bytes: 1 },
        Input::Traffic,
        Input::Tick,
        Input::Accept(welcome()),
        Input::Send(Ping { nonce: 1 }.into()),
        Input::Close { code: Code::Normal, reason: String::new() },
    ];
    for input in inputs {
        assert_eq!(server.handle(input), Ok(vec![]));
    }
}

#[test]
fn a_goodbye_is_reported_and_closes_without_an_answer() {
    let goodbye = Goodbye { code: Code::AuthFailed, reason: "who are you".to_owned() };
    let mut client = new_client();
    let Goodbye { code, reason } = goodbye.clone();
    let expected =
        vec![Output::Event(Event::Control(goodbye.clone().into())), Output::Close { code, reason }];
    assert_eq!(client.receive(goodbye), Ok(expected));
    assert_eq!(client.session.phase(), Phase::Closed);
}

#[test]
fn silence_is_pinged_and_then_dead() {
    let second = Duration::from_secs(1);
    let mut server = ready_server();
    assert_eq!(server.deadline(), Some(5 * second));
    assert_eq!(server.after(4 * second), []);
    assert_eq!(server.after(second), [sends(Ping { nonce: 1 })]);
    assert_eq!(server.after(5 * second), [sends(Ping { nonce: 2 })]);
    assert_eq!(server.deadline(), Some(5 * second));
    server.now += 5 * second;
    server.session.handle(server.now, Input::Tick).unwrap();
    assert_ended(&mut server, Code::Dead);
}

#[test]
fn any_traffic_is_a_sign_of_life() {
    let second = Duration::from_secs(1);
    let ping = frame(Pong { nonce: 1 });
    for input in [Input::Traffic, Input::Run { lane: 77, bytes: 0 }, Input::Control(&ping)] {
        let mut client = ready_client();
        for _ in 0..10 {
            assert_eq!(client.after(4 * second), []);
            assert_eq!(client.handle(input.clone()), Ok(vec![]));
            assert_eq!(client.deadline(), Some(5 * second));
        }
    }
}

#[test]
fn a_ping_is_answered_and_a_pong_swallowed() {
    let mut client = ready_client();
    assert_eq!(client.receive(Ping { nonce: 42 }), Ok(vec![sends(Pong { nonce: 42 })]));
    assert_eq!(client.receive(Pong { nonce: 42 }), Ok(vec![]));
}

#[test]
fn a_client_pings_as_often_as_the_server_asks_within_reason() {
    for (asked_ms, expected_ms) in [(0, 5_000), (1, 100), (2_000, 2_000), (u32::MAX, 5_000)] {
        let mut client = new_client();
        client.receive(Welcome { ping_interval_ms: asked_ms, ..welcome() }).unwrap();
        assert_eq!(client.deadline(), Some(Duration::from_millis(expected_ms)), "asked for {asked_ms} ms");
    }
}

#[test]
fn outputs_that_nobody_takes_are_bounded() {
    let mut server = ready_server();
    let ping = frame(Ping { nonce: 1 });
    let now = server.now;
    let taken = (0..20_000).take_while(|_| server.session.handle(now, Input::Control(&ping)).is_ok()).count();
    assert_eq!(taken, 10_000);
    assert_eq!(server.session.phase(), Phase::Ready);
    server.outputs();
    assert!(server.session.handle(now, Input::Control(&ping)).is_ok());
}

#[test]
fn a_goodbye_sent_as_a_message_closes_too() {
    let mut client = ready_client();
    client
        .session
        .handle(client.now, Input::Send(Goodbye { code: Code::Normal, reason: String::new() }.into()))
        .unwrap();
    assert_ended(&mut client, Code::Normal);
}
