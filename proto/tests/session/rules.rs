//! The handshake, and who may say what and when.

use twinlane_proto::control::{Control, Credit, Hello, Purpose, Resume, Sender, Subscribe, Welcome};
use twinlane_proto::session::{Input, Phase, ProtocolError};
use twinlane_proto::{Code, ControlError};

use crate::samples;
use crate::side::{
    assert_ended, hello, new_client, new_server, ready_client, ready_server, sends, server_ready_for,
    subscribe, welcome,
};

#[test]
fn the_server_chooses_the_highest_common_version_and_the_common_capabilities() {
    let mut server = new_server();
    server.receive(hello()).unwrap();
    let asked = Welcome { version: 99, capabilities: u64::MAX, ..welcome() };
    assert_eq!(server.handle(Input::Accept(asked)), Ok(vec![sends(welcome())]));
}

#[test]
fn without_a_common_version_the_server_says_so_and_closes() {
    for (version_min, version_max) in [(2, 3), (0, 0), (u16::MAX, u16::MAX), (1, 0)] {
        let mut server = new_server();
        let error = server.receive(Hello { version_min, version_max, ..hello() }).unwrap_err();
        assert_eq!(error.code(), Code::UnsupportedVersion);
        assert_ended(&mut server, Code::UnsupportedVersion);
    }
}

#[test]
fn a_client_refuses_a_welcome_it_did_not_offer() {
    let not_offered = [
        Welcome { version: 0, ..welcome() },
        Welcome { version: 4, ..welcome() },
        Welcome { capabilities: 0b001, ..welcome() },
        Welcome { resumed: true, ..welcome() },
        Welcome { frame_bytes_max: (16 << 10) - 1, ..welcome() },
    ];
    for welcome in not_offered {
        let mut client = new_client();
        assert!(client.receive(welcome.clone()).is_err(), "{welcome:?}");
        assert_ended(&mut client, Code::ProtocolViolation);
    }
}

#[test]
fn nothing_but_a_hello_opens_the_conversation() {
    for (name, control) in samples::controls() {
        let mut server = new_server();
        match control {
            Control::Hello(_) | Control::Goodbye(_) => continue,
            _ if control.sender() == Sender::Server => {
                assert!(matches!(server.receive(control), Err(ProtocolError::WrongSide { .. })), "{name}");
            }
            _ => assert!(matches!(server.receive(control), Err(ProtocolError::OutOfPhase { .. })), "{name}"),
        }
        assert_ended(&mut server, Code::ProtocolViolation);
    }
    let mut server = new_server();
    assert!(server.handle(Input::Run { lane: 1, bytes: 1 }).is_err());
    assert_ended(&mut server, Code::ProtocolViolation);
}

#[test]
fn while_the_server_decides_the_client_may_only_leave() {
    for (name, control) in samples::controls() {
        let mut server = new_server();
        server.receive(hello()).unwrap();
        let is_goodbye = matches!(control, Control::Goodbye(_));
        assert_eq!(server.receive(control).is_ok(), is_goodbye, "{name}");
    }
}

#[test]
fn a_second_handshake_ends_the_conversation() {
    let mut server = ready_server();
    assert_eq!(server.receive(hello()), Err(ProtocolError::SecondHandshake { name: "Hello" }));
    assert_ended(&mut server, Code::ProtocolViolation);
    let mut client = ready_client();
    assert_eq!(client.receive(welcome()), Err(ProtocolError::SecondHandshake { name: "Welcome" }));
    assert_ended(&mut client, Code::ProtocolViolation);
}

#[test]
fn each_side_may_say_only_its_own_part() {
    for (name, control) in samples::controls() {
        if matches!(control, Control::Hello(_) | Control::Welcome(_) | Control::Goodbye(_)) {
            continue;
        }
        let sender = control.sender();
        let from_client = ready_server().receive(control.clone());
        assert_eq!(from_client.is_ok(), sender != Sender::Server, "{name} from a client");
        let from_server = ready_client().receive(control.clone());
        assert_eq!(from_server.is_ok(), sender != Sender::Client, "{name} from a server");
        assert_eq!(
            ready_client().send(control.clone()).is_ok(),
            sender != Sender::Server,
            "{name} by a client"
        );
        assert_eq!(ready_server().send(control).is_ok(), sender != Sender::Client, "{name} by a server");
    }
}

#[test]
fn bytes_that_are_no_control_message_end_the_conversation() {
    let mut server = ready_server();
    let garbage = [9, 0, 0, 0, 3, 0, 0x82, 0, 1];
    let error = server.handle(Input::Control(&garbage)).unwrap_err();
    assert!(matches!(error, ProtocolError::Control(ControlError::Truncated { .. })), "{error}");
    assert_ended(&mut server, Code::ProtocolViolation);
}

#[test]
fn a_connection_for_datagrams_names_its_session_and_opens_nothing() {
    let nameless = Hello { purpose: Purpose::Datagrams, ..hello() };
    let mut server = new_server();
    assert_eq!(server.receive(nameless.clone()), Err(ProtocolError::NoSessionToJoin));
    assert_ended(&mut server, Code::ProtocolViolation);

    let named = Hello { resume: Some(Resume { session: [1; 16], secret: [2; 16] }), ..nameless };
    let mut server = server_ready_for(named.clone());
    assert!(server.receive(Credit { lane: 1, bytes: 1 }).is_ok());
    assert!(server.send(subscribe(1, 1, 0)).is_err());
    assert_eq!(server.receive(subscribe(1, 1, 0)), Err(ProtocolError::WrongConnection { name: "Subscribe" }));
}

#[test]
fn our_own_mistakes_are_told_and_change_nothing() {
    let mut client = new_client();
    let early = client.send(subscribe(1, 1, 0)).unwrap_err();
    assert_eq!(early, ProtocolError::CannotSend { name: "Subscribe", phase: Phase::Opening });
    let mut client = ready_client();
    let long = Subscribe { filter: "f".repeat(256), ..subscribe(1, 1, 0) };
    assert!(client.send(long).unwrap_err().is_ours());
    assert!(client.handle(Input::Accept(welcome())).unwrap_err().is_ours());
    assert!(client.send(hello()).unwrap_err().is_ours());
    assert_eq!((client.session.phase(), client.outputs()), (Phase::Ready, vec![]));
    assert!(client.send(subscribe(1, 1, 0)).is_ok(), "the lane was not taken by the failed attempt");
}
