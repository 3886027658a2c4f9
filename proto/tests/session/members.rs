//! Queue members: their lanes, and what is said about one that is not open.

use twinlane_proto::Code;
use twinlane_proto::control::{Control, Failed, LeaveQueue, MemberClosed, Settle, Settled, Want, Wanted};
use twinlane_proto::session::{Event, LaneKind, Output, ProtocolError};

use crate::side::{assert_ended, join, joined, open, ready_client, ready_server, sends, subscribe};

fn closed(member: u32) -> MemberClosed {
    MemberClosed { member, code: Code::Normal, reason: String::new() }
}

fn from_client(member: u32) -> [Control; 3] {
    [
        Want { member, messages: 1, wait_ms: 0 }.into(),
        Settle { request: 9, member, verdicts: Vec::new() }.into(),
        LeaveQueue { member }.into(),
    ]
}

fn from_server(member: u32) -> [Control; 2] {
    [Wanted { member, unused: 1 }.into(), Settled { request: 9, member, outcomes: Vec::new() }.into()]
}

#[test]
fn more_members_than_allowed_are_refused_and_counted_apart() {
    let mut server = ready_server();
    server.receive(join(1, 1)).unwrap();
    server.receive(join(2, 2)).unwrap();
    let message = "at most 2 queue members in one session".to_owned();
    let failed = Failed { request: 3, code: Code::LimitReached, message };
    assert_eq!(server.receive(join(3, 3)), Ok(vec![sends(failed)]));
    assert!(server.receive(open(4, 1)).is_ok(), "publishers have numbers of their own");
    assert!(server.receive(subscribe(5, 1, 0)).is_ok(), "and subscriptions");

    server.receive(LeaveQueue { member: 1 }).unwrap();
    assert_eq!(server.receive(join(6, 3)).unwrap().len(), 1, "the lane is free when the server says so");
    server.send(closed(1)).unwrap();
    assert!(matches!(server.receive(join(7, 4)).unwrap()[..], [Output::Event(_)]));
}

#[test]
fn our_own_join_above_the_limit_is_not_sent() {
    let mut client = ready_client();
    client.send(join(1, 1)).unwrap();
    client.send(join(2, 2)).unwrap();
    let refused = ProtocolError::LimitReached { kind: LaneKind::Member, max: 2 };
    assert_eq!(client.send(join(3, 3)), Err(refused));
    client.receive(Failed { request: 2, code: Code::NoSuchTopic, message: String::new() }).unwrap();
    assert!(client.send(join(3, 3)).is_ok(), "a failed request gives its lane back");
}

#[test]
fn a_member_or_request_number_in_use_ends_the_conversation() {
    let mut server = ready_server();
    server.receive(join(1, 1)).unwrap();
    server.send(joined(1, 1)).unwrap();
    let error = server.receive(join(1, 1));
    assert_eq!(error, Err(ProtocolError::DuplicateLane { kind: LaneKind::Member, lane: 1 }));
    assert_ended(&mut server, Code::ProtocolViolation);

    let mut server = ready_server();
    server.receive(join(1, 1)).unwrap();
    assert_eq!(server.receive(join(1, 2)), Err(ProtocolError::DuplicateRequest { request: 1 }));
    assert_ended(&mut server, Code::ProtocolViolation);
}

#[test]
fn what_is_said_about_an_open_member_goes_through() {
    let (mut client, mut server) = (ready_client(), ready_server());
    client.send(join(1, 1)).unwrap();
    server.receive(join(1, 1)).unwrap();
    client.receive(joined(1, 1)).unwrap();
    server.send(joined(1, 1)).unwrap();
    for control in from_client(1) {
        assert_eq!(client.send(control.clone()), Ok(vec![sends(control.clone())]));
        assert_eq!(server.receive(control.clone()), Ok(vec![Output::Event(Event::Control(control))]));
    }
    for control in from_server(1) {
        assert_eq!(server.send(control.clone()), Ok(vec![sends(control.clone())]), "until it is closed");
        assert_eq!(client.receive(control.clone()), Ok(vec![Output::Event(Event::Control(control))]));
    }
}

#[test]
fn what_was_under_way_when_a_member_closed_is_dropped() {
    let (mut client, mut server) = (ready_client(), ready_server());
    client.send(join(1, 1)).unwrap();
    server.receive(join(1, 1)).unwrap();
    server.send(closed(1)).unwrap();
    let ended = closed(1).into();
    assert_eq!(client.receive(closed(1)), Ok(vec![Output::Event(Event::Control(ended))]));
    for control in from_client(1) {
        assert_eq!(server.receive(control.clone()), Ok(vec![]), "{control:?}");
        assert_eq!(client.send(control.clone()), Ok(vec![]), "{control:?} is not even sent");
    }
    for control in from_server(1) {
        assert_eq!(client.receive(control.clone()), Ok(vec![]), "{control:?}");
        assert_eq!(server.send(control.clone()), Ok(vec![]), "{control:?} is not even sent");
    }
    assert_eq!(server.send(closed(1)), Ok(vec![]), "it is closed once");
    assert_eq!(client.receive(closed(1)), Ok(vec![]), "it is closed once");
    assert!(client.send(join(1, 2)).is_ok(), "the request that was not answered is free");
    assert!(server.receive(join(1, 2)).is_ok());
}
