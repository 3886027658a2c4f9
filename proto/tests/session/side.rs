//! One side of a conversation under test, and messages to say.

use std::time::{Duration, Instant};

use twinlane_proto::Code;
use twinlane_proto::control::{
    Auth, Control, GroupSettings, Hello, JoinQueue, OpenPublisher, PublisherOpened, Purpose, QueueJoined,
    SlowPolicy, Start, Subscribe, TopicRef, Welcome,
};
use twinlane_proto::session::{Event, Input, Output, Phase, ProtocolError, Session, SessionConfig};
use twinlane_proto::topic::TopicSpec;

/// One side with everything it wants done.
pub(crate) struct Side {
    pub(crate) session: Session,
    pub(crate) now: Instant,
}

impl Side {
    pub(crate) fn handle(&mut self, input: Input<'_>) -> Result<Vec<Output>, ProtocolError> {
        self.session.handle(self.now, input).map(|()| self.outputs())
    }

    pub(crate) fn receive(&mut self, control: impl Into<Control>) -> Result<Vec<Output>, ProtocolError> {
        self.handle(Input::Control(&frame(control)))
    }

    pub(crate) fn send(&mut self, control: impl Into<Control>) -> Result<Vec<Output>, ProtocolError> {
        self.handle(Input::Send(control.into()))
    }

    /// What it wants done, except to wait.
    pub(crate) fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| Some(self.session.poll()).filter(|output| !matches!(output, Output::Wait(_))))
            .collect()
    }

    pub(crate) fn deadline(&mut self) -> Option<Duration> {
        match self.session.poll() {
            Output::Wait(deadline) => deadline.map(|deadline| deadline - self.now),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn after(&mut self, time: Duration) -> Vec<Output> {
        self.now += time;
        self.handle(Input::Tick).unwrap()
    }
}

pub(crate) fn start() -> Instant {
    #[allow(clippy::disallowed_methods, reason = "a test needs a time to count from")]
    Instant::now()
}

pub(crate) fn config() -> SessionConfig {
    SessionConfig {
        subscriptions_max: 2,
        publishers_max: 2,
        members_max: 2,
        capabilities: 0b011,
        ..SessionConfig::default()
    }
}

pub(crate) fn hello() -> Hello {
    Hello {
        version_min: 1,
        version_max: 3,
        capabilities: 0b110,
        purpose: Purpose::Primary,
        client: "test".to_owned(),
        auth: Auth::None,
        resume: None,
    }
}

pub(crate) fn welcome() -> Welcome {
    Welcome {
        version: 1,
        capabilities: 0b010,
        session: [1; 16],
        secret: [2; 16],
        resumed: false,
        server: "test".to_owned(),
        ping_interval_ms: 5_000,
        frame_bytes_max: 1 << 20,
    }
}

pub(crate) fn subscribe(request: u32, subscription: u32, credit_bytes: u64) -> Subscribe {
    Subscribe {
        request,
        subscription,
        filter: "a/**".to_owned(),
        start: Start::New,
        slow: SlowPolicy::Block,
        credit_bytes,
        spec: None,
        positions: Vec::new(),
    }
}

pub(crate) fn open(request: u32, publisher: u32) -> OpenPublisher {
    OpenPublisher { request, publisher, topic: TopicRef::Id(1), spec: None, resume_seq: 0 }
}

pub(crate) fn opened(request: u32, publisher: u32, credit_bytes: u64) -> PublisherOpened {
    PublisherOpened {
        request,
        publisher,
        topic: 1,
        source: 1,
        epoch: 1,
        last_seq: 0,
        spec: TopicSpec::reliable(),
        credit_bytes,
    }
}

pub(crate) fn join(request: u32, member: u32) -> JoinQueue {
    JoinQueue {
        request,
        member,
        topic: "orders".to_owned(),
        group: "packers".to_owned(),
        spec: None,
        settings: GroupSettings::default(),
    }
}

pub(crate) fn joined(request: u32, member: u32) -> QueueJoined {
    let settings = GroupSettings::default();
    QueueJoined { request, member, topic: 1, epoch: 1, inbox: "$queue/s/1".to_owned(), settings }
}

pub(crate) fn frame(control: impl Into<Control>) -> Vec<u8> {
    let mut frame = Vec::new();
    control.into().encode(&mut frame);
    frame
}

pub(crate) fn sends(control: impl Into<Control>) -> Output {
    Output::Send(frame(control).into())
}

pub(crate) fn new_client() -> Side {
    let now = start();
    let mut client = Side { session: Session::client(config(), hello(), now), now };
    assert_eq!(client.outputs(), [sends(hello())]);
    client
}

pub(crate) fn new_server() -> Side {
    let now = start();
    Side { session: Session::server(config(), now), now }
}

pub(crate) fn ready_client() -> Side {
    let mut client = new_client();
    assert_eq!(client.receive(welcome()), Ok(vec![Output::Event(Event::Welcome(welcome()))]));
    assert_eq!(client.session.phase(), Phase::Ready);
    client
}

pub(crate) fn ready_server() -> Side {
    server_ready_for(hello())
}

pub(crate) fn server_ready_for(hello: Hello) -> Side {
    let mut server = new_server();
    assert_eq!(server.receive(hello.clone()), Ok(vec![Output::Event(Event::Hello(hello))]));
    assert_eq!(server.session.phase(), Phase::Deciding);
    server.handle(Input::Accept(welcome())).unwrap();
    assert_eq!(server.session.phase(), Phase::Ready);
    server
}

/// Checks that the session said goodbye with `code` and is closed.
pub(crate) fn assert_ended(side: &mut Side, code: Code) {
    let outputs = side.outputs();
    let [Output::Send(goodbye), Output::Close { code: closed, .. }] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert!(matches!(Control::decode(goodbye), Ok(Control::Goodbye(goodbye)) if goodbye.code == code));
    assert_eq!((*closed, side.session.phase()), (code, Phase::Closed));
    assert_eq!(side.deadline(), None);
}
