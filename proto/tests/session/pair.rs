//! Two sessions that talk to each other over a slow, ordered connection.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use twinlane_proto::Code;
use twinlane_proto::control::{
    ClosePublisher, Control, Credit, Failed, LeaveQueue, MemberClosed, PublisherClosed, Settle, Settled,
    Subscribed, Unsubscribe, Unsubscribed, Want,
};
use twinlane_proto::session::{Event, Input, Output, Phase, ProtocolError};

use crate::side::{
    Side, hello, join, joined, new_client, new_server, open, opened, sends, subscribe, welcome,
};

/// Both sides and what is under way between them.
struct Pair {
    client: Side,
    server: Side,
    to_client: VecDeque<Vec<u8>>,
    to_server: VecDeque<Vec<u8>>,
    lane: u32,
}

impl Pair {
    fn new() -> Self {
        let (client, server) = (new_client(), new_server());
        let mut pair =
            Self { client, server, to_client: VecDeque::new(), to_server: VecDeque::new(), lane: 0 };
        let Output::Send(frame) = sends(hello()) else { unreachable!("a hello is sent") };
        pair.to_server.push_back(frame.to_vec());
        pair.settle();
        pair
    }

    /// The client takes the next frame under way.
    fn client_reads(&mut self) {
        let Some(frame) = self.to_client.pop_front() else { return };
        let outputs = self.client.handle(Input::Control(&frame)).expect("what the server says is allowed");
        self.to_server.extend(frames(outputs).0);
    }

    /// The server takes the next frame under way and answers; odd requests fail.
    fn server_reads(&mut self) {
        let Some(frame) = self.to_server.pop_front() else { return };
        let outputs = self.server.handle(Input::Control(&frame)).expect("what the client says is allowed");
        let (sent, events) = frames(outputs);
        self.to_client.extend(sent);
        for event in events {
            let answer: Control = match event {
                Event::Hello(_) => {
                    let outputs =
                        self.server.handle(Input::Accept(welcome())).expect("the server was deciding");
                    self.to_client.extend(frames(outputs).0);
                    continue;
                }
                Event::Control(Control::Subscribe(asked)) if asked.request % 2 == 0 => {
                    Subscribed { request: asked.request, subscription: asked.subscription }.into()
                }
                Event::Control(Control::OpenPublisher(asked)) if asked.request % 2 == 0 => {
                    opened(asked.request, asked.publisher, 10).into()
                }
                Event::Control(Control::Subscribe(asked)) => failed(asked.request),
                Event::Control(Control::OpenPublisher(asked)) => failed(asked.request),
                Event::Control(Control::JoinQueue(asked)) if asked.request % 2 == 0 => {
                    joined(asked.request, asked.member).into()
                }
                Event::Control(Control::JoinQueue(asked)) => failed(asked.request),
                Event::Control(Control::Settle(asked)) => {
                    let Settle { request, member, .. } = asked;
                    Settled { request, member, outcomes: Vec::new() }.into()
                }
                Event::Control(Control::LeaveQueue(asked)) => member_closed(asked.member),
                Event::Control(Control::Unsubscribe(asked)) => unsubscribed(asked.subscription),
                _ => continue,
            };
            self.server_says(answer);
        }
    }

    fn client_says(&mut self, control: impl Into<Control>) {
        match self.client.send(control) {
            Ok(outputs) => self.to_server.extend(frames(outputs).0),
            Err(error) => assert!(matches!(error, ProtocolError::LimitReached { .. }), "{error}"),
        }
    }

    fn server_says(&mut self, control: impl Into<Control>) {
        let outputs = self.server.send(control).expect("a server may answer");
        self.to_client.extend(frames(outputs).0);
    }

    fn settle(&mut self) {
        while !self.to_client.is_empty() || !self.to_server.is_empty() {
            self.client_reads();
            self.server_reads();
        }
    }

    fn step(&mut self, step: u8, lane: u32) {
        self.lane += 1;
        let new = self.lane;
        match step {
            0 => self.client_says(subscribe(new, new, 100)),
            1 => self.client_says(open(new, new)),
            2 => self.client_says(Unsubscribe { request: new, subscription: lane }),
            3 => self.client_says(ClosePublisher { publisher: lane, last_seq: 0 }),
            4 => self.client_says(Credit { lane, bytes: 1 }),
            5 => self.server_says(unsubscribed(lane)),
            6 => self.server_says(closed(lane)),
            7 => self.server_says(Credit { lane, bytes: 1 }),
            8 => self.client_says(join(new, new)),
            9 => self.client_says(Settle { request: new, member: lane, verdicts: Vec::new() }),
            10 => self.client_says(Want { member: lane, messages: 1, wait_ms: 0 }),
            11 => self.client_says(LeaveQueue { member: lane }),
            12 => self.server_says(member_closed(lane)),
            13..18 => self.client_reads(),
            _ => self.server_reads(),
        }
    }
}

/// Frames and events among the outputs of a side that does not close.
fn frames(outputs: Vec<Output>) -> (Vec<Vec<u8>>, Vec<Event>) {
    let (mut frames, mut events) = (Vec::new(), Vec::new());
    for output in outputs {
        match output {
            Output::Send(frame) => frames.push(frame.to_vec()),
            Output::Event(event) => events.push(event),
            other => panic!("{other:?}"),
        }
    }
    (frames, events)
}

fn failed(request: u32) -> Control {
    Failed { request, code: Code::Busy, message: String::new() }.into()
}

fn unsubscribed(subscription: u32) -> Control {
    Unsubscribed { subscription, code: Code::Normal, reason: String::new() }.into()
}

fn member_closed(member: u32) -> Control {
    MemberClosed { member, code: Code::Normal, reason: String::new() }.into()
}

fn closed(publisher: u32) -> Control {
    PublisherClosed { publisher, code: Code::Normal, reason: String::new() }.into()
}

#[test]
fn two_sessions_stay_alive_by_pings_alone() {
    let mut pair = Pair::new();
    let start: Instant = pair.client.now;
    while pair.client.now - start < Duration::from_secs(60) {
        for side in [&mut pair.client, &mut pair.server] {
            side.now += Duration::from_millis(500);
        }
        let ticked = pair.client.after(Duration::ZERO);
        pair.to_server.extend(frames(ticked).0);
        let ticked = pair.server.after(Duration::ZERO);
        pair.to_client.extend(frames(ticked).0);
        pair.settle();
    }
    assert_eq!((pair.client.session.phase(), pair.server.session.phase()), (Phase::Ready, Phase::Ready));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn two_sessions_that_follow_the_rules_never_blame_each_other(
        steps in proptest::collection::vec((0u8..23, 0u32..20), 0..200),
    ) {
        let mut pair = Pair::new();
        for (step, lane) in steps {
            pair.step(step, lane);
        }
        pair.settle();
        prop_assert_eq!(pair.client.session.phase(), Phase::Ready);
        prop_assert_eq!(pair.server.session.phase(), Phase::Ready);
        // Both know the same lanes: when the client has closed all of its own, the server has room again.
        for lane in 0..=pair.lane {
            pair.client_says(Unsubscribe { request: lane + 1_000, subscription: lane });
            pair.client_says(ClosePublisher { publisher: lane, last_seq: 0 });
            pair.client_says(LeaveQueue { member: lane });
            pair.settle();
        }
        for lane in [10_000, 10_002] {
            pair.client_says(subscribe(lane, lane, 0));
            pair.client_says(open(lane + 10, lane));
            pair.client_says(join(lane + 20, lane));
            pair.settle();
        }
        let client = &mut pair.client;
        prop_assert!(client.send(subscribe(1, 1, 0)).is_err(), "both places for subscriptions are taken");
        prop_assert!(client.send(open(1, 1)).is_err(), "both places for publishers are taken");
        prop_assert!(client.send(join(1, 1)).is_err(), "both places for queue members are taken");
    }
}
