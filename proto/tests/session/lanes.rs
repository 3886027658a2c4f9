//! Lanes: their numbers, how many there are, and the credit on them.

use twinlane_proto::Code;
use twinlane_proto::control::{
    ClosePublisher, Credit, Failed, PublisherClosed, Subscribed, Unsubscribe, Unsubscribed,
};
use twinlane_proto::session::{Input, LaneKind, Output, Phase, ProtocolError};

use crate::side::{assert_ended, open, opened, ready_client, ready_server, sends, subscribe};

#[test]
fn more_lanes_than_allowed_are_refused_and_the_conversation_goes_on() {
    let mut server = ready_server();
    server.receive(subscribe(1, 1, 0)).unwrap();
    server.receive(subscribe(2, 2, 0)).unwrap();
    let message = "at most 2 subscriptions in one session".to_owned();
    let failed = Failed { request: 3, code: Code::LimitReached, message };
    assert_eq!(server.receive(subscribe(3, 3, 0)), Ok(vec![sends(failed)]));
    assert!(server.receive(open(4, 1)).is_ok(), "publishers are counted apart");

    server.send(Unsubscribed { subscription: 1, code: Code::Normal, reason: String::new() }).unwrap();
    assert!(matches!(server.receive(subscribe(5, 3, 0)).unwrap()[..], [Output::Event(_)]));
}

#[test]
fn our_own_request_above_the_limit_is_not_sent() {
    let mut client = ready_client();
    client.send(open(1, 1)).unwrap();
    client.send(open(2, 2)).unwrap();
    let refused = ProtocolError::LimitReached { kind: LaneKind::Publisher, max: 2 };
    assert_eq!(client.send(open(3, 3)), Err(refused));
    assert_eq!(client.session.phase(), Phase::Ready);
    assert_eq!(client.outputs(), []);
    client.receive(Failed { request: 2, code: Code::NoSuchTopic, message: String::new() }).unwrap();
    assert!(client.send(open(3, 3)).is_ok(), "a failed request gives its lane back");
}

#[test]
fn a_lane_or_request_number_in_use_ends_the_conversation() {
    let mut server = ready_server();
    server.receive(subscribe(1, 1, 0)).unwrap();
    server.send(Subscribed { request: 1, subscription: 1 }).unwrap();
    let error = server.receive(subscribe(1, 1, 0));
    assert_eq!(error, Err(ProtocolError::DuplicateLane { kind: LaneKind::Subscription, lane: 1 }));
    assert_ended(&mut server, Code::ProtocolViolation);

    let mut server = ready_server();
    server.receive(open(1, 1)).unwrap();
    assert_eq!(server.receive(subscribe(1, 1, 0)), Err(ProtocolError::DuplicateRequest { request: 1 }));
    assert_ended(&mut server, Code::ProtocolViolation);
}

#[test]
fn a_closed_lane_number_may_be_used_again() {
    let mut server = ready_server();
    for request in 1..100 {
        server.receive(open(request, 1)).unwrap();
        if request % 2 == 0 {
            server.send(opened(request, 1, 0)).unwrap();
        }
        server.receive(ClosePublisher { publisher: 1, last_seq: 0 }).unwrap();
        server.send(PublisherClosed { publisher: 1, code: Code::Normal, reason: String::new() }).unwrap();
        server.receive(subscribe(request, 1, 0)).unwrap();
        server.receive(Unsubscribe { request: request + 1_000, subscription: 1 }).unwrap();
        server.send(Unsubscribed { subscription: 1, code: Code::Normal, reason: String::new() }).unwrap();
    }
}

#[test]
fn a_server_takes_from_a_publisher_what_it_granted_and_no_more() {
    let mut server = ready_server();
    server.receive(open(1, 9)).unwrap();
    server.send(opened(1, 9, 100)).unwrap();
    server.handle(Input::Run { lane: 9, bytes: 100 }).unwrap();
    server.send(Credit { lane: 9, bytes: 50 }).unwrap();
    server.handle(Input::Run { lane: 9, bytes: 50 }).unwrap();
    let error = server.handle(Input::Run { lane: 9, bytes: 1 }).unwrap_err();
    let kind = LaneKind::Publisher;
    assert_eq!(error, ProtocolError::CreditExceeded { kind, lane: 9, bytes: 1, credit_bytes: 0 });
    assert_ended(&mut server, Code::CreditExceeded);
}

#[test]
fn a_client_takes_on_a_subscription_what_it_granted_and_no_more() {
    let mut client = ready_client();
    client.send(subscribe(1, 4, 100)).unwrap();
    client.handle(Input::Run { lane: 4, bytes: 60 }).unwrap();
    client.receive(Credit { lane: 4, bytes: 1_000 }).unwrap();
    client.handle(Input::Run { lane: 4, bytes: 40 }).unwrap();
    assert!(client.handle(Input::Run { lane: 4, bytes: 60 }).is_err(), "the peer's credit is for our runs");
    assert_ended(&mut client, Code::CreditExceeded);
}

#[test]
fn a_frame_larger_than_the_credit_left_is_taken_and_paid_for_first() {
    let mut server = ready_server();
    server.receive(open(1, 9)).unwrap();
    server.send(opened(1, 9, 100)).unwrap();
    server.handle(Input::Run { lane: 9, bytes: 1_000 }).unwrap();
    server.send(Credit { lane: 9, bytes: 900 }).unwrap();
    let error = server.handle(Input::Run { lane: 9, bytes: 1 }).unwrap_err();
    assert!(matches!(error, ProtocolError::CreditExceeded { credit_bytes: 0, .. }), "{error}");
}

#[test]
fn credit_beyond_the_debt_counts() {
    let mut server = ready_server();
    server.receive(open(1, 9)).unwrap();
    server.send(opened(1, 9, 100)).unwrap();
    server.handle(Input::Run { lane: 9, bytes: 1_000 }).unwrap();
    server.send(Credit { lane: 9, bytes: 901 }).unwrap();
    server.handle(Input::Run { lane: 9, bytes: 1 }).unwrap();
}

#[test]
fn unlimited_credit_is_never_used_up() {
    let mut client = ready_client();
    client.send(subscribe(1, 4, u64::MAX)).unwrap();
    for _ in 0..4 {
        client.handle(Input::Run { lane: 4, bytes: usize::MAX }).unwrap();
    }
    client.send(Credit { lane: 4, bytes: u64::MAX }).unwrap();
}

#[test]
fn a_run_on_a_lane_that_is_not_open_is_not_judged() {
    let mut server = ready_server();
    assert_eq!(server.handle(Input::Run { lane: 5, bytes: 1 << 30 }), Ok(vec![]));
}
