//! One control message of every type, with values that show where each field lies.

use std::time::Duration;

use twinlane_proto::Code;
use twinlane_proto::control::*;
use twinlane_proto::topic::{Last, Mode, TopicSpec};

/// Name of the vector and the message.
pub(crate) fn controls() -> Vec<(&'static str, Control)> {
    let mut all = from_client();
    all.extend(from_server());
    all.extend(from_both());
    all.extend(of_queues());
    all
}

fn spec() -> TopicSpec {
    TopicSpec::fast()
        .with_mode(Mode::Latest)
        .with_payload_bytes_max(1_024)
        .with_retain_bytes(65_536)
        .with_retain_messages(100)
        .with_deadline(Duration::from_millis(50))
}

fn durable() -> TopicSpec {
    TopicSpec::durable().with_retain_age(Duration::from_secs(60)).with_last(Last::Key)
}

fn from_client() -> Vec<(&'static str, Control)> {
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        capabilities: 0,
        purpose: Purpose::Primary,
        client: "vector/1".to_owned(),
        auth: Auth::None,
        resume: None,
    };
    let resume = Resume { session: *b"session-number-1", secret: *b"secret-of-16-byt" };
    let token = Auth::Token(b"token".to_vec());
    let subscribe = Subscribe {
        request: 3,
        subscription: 4,
        filter: "plant/*/temperature".to_owned(),
        start: Start::New,
        slow: SlowPolicy::Block,
        credit_bytes: 1 << 20,
        spec: None,
        positions: Vec::new(),
    };
    let position = Position { topic_name: "plant/a/temperature".to_owned(), epoch: 0xe0, offset: 41 };
    let open = OpenPublisher { request: 2, publisher: 9, topic: TopicRef::Id(7), spec: None, resume_seq: 0 };
    let by_name = TopicRef::Name("plant/a".to_owned());
    vec![
        ("hello", hello.clone().into()),
        (
            "hello-resume",
            Hello {
                purpose: Purpose::Datagrams,
                auth: token,
                resume: Some(resume),
                capabilities: 5,
                ..hello
            }
            .into(),
        ),
        ("declare", Declare { request: 1, name: "plant/a".to_owned(), spec: spec() }.into()),
        ("open-publisher", open.clone().into()),
        (
            "open-publisher-declare",
            OpenPublisher { topic: by_name, spec: Some(durable()), resume_seq: 12, ..open }.into(),
        ),
        ("close-publisher", ClosePublisher { publisher: 9, last_seq: 12 }.into()),
        ("subscribe", subscribe.clone().into()),
        (
            "subscribe-continue",
            Subscribe {
                start: Start::Offset(40),
                slow: SlowPolicy::Disconnect,
                credit_bytes: u64::MAX,
                spec: Some(spec()),
                positions: vec![position],
                ..subscribe.clone()
            }
            .into(),
        ),
        (
            "subscribe-time",
            Subscribe { start: Start::Time(1_700_000_000_000_000), slow: SlowPolicy::Spill, ..subscribe }
                .into(),
        ),
        ("unsubscribe", Unsubscribe { request: 5, subscription: 4 }.into()),
    ]
}

fn from_server() -> Vec<(&'static str, Control)> {
    vec![
        (
            "welcome",
            Welcome {
                version: 1,
                capabilities: 0,
                session: *b"session-number-1",
                secret: *b"secret-of-16-byt",
                resumed: true,
                server: "vector/1".to_owned(),
                ping_interval_ms: 5_000,
                frame_bytes_max: 1_052_736,
            }
            .into(),
        ),
        ("declared", Declared { request: 1, topic: 7, epoch: 0xe0, spec: spec() }.into()),
        (
            "publisher-opened",
            PublisherOpened {
                request: 2,
                publisher: 9,
                topic: 7,
                source: 1,
                epoch: 0xe0,
                last_seq: 12,
                spec: durable(),
                credit_bytes: 262_144,
            }
            .into(),
        ),
        (
            "acked",
            Acked { publisher: 9, first_seq: 13, count: 20, first_offset: 400, level: Level::Disk }.into(),
        ),
        ("refused", Refused { publisher: 9, first_seq: 33, count: 1, code: Code::TooLarge }.into()),
        (
            "publisher-closed",
            PublisherClosed { publisher: 9, code: Code::Normal, reason: "asked for".to_owned() }.into(),
        ),
        ("subscribed", Subscribed { request: 3, subscription: 4 }.into()),
        (
            "topic-bound",
            TopicBound {
                subscription: 4,
                topic: 7,
                name: "plant/a/temperature".to_owned(),
                epoch: 0xe0,
                spec: TopicSpec::fast(),
                next_offset: 44,
                next_source: 9,
                outcome: Outcome::Gap(3),
            }
            .into(),
        ),
        (
            "gap",
            Gap { subscription: 4, topic: 7, from_offset: 41, to_offset: 44, cause: GapCause::Lost }.into(),
        ),
        ("stream-end", StreamEnd { subscription: 4, topic: 7, source: 1, last_seq: 12 }.into()),
        (
            "unsubscribed",
            Unsubscribed { subscription: 4, code: Code::SlowConsumer, reason: "10 s behind".to_owned() }
                .into(),
        ),
        (
            "failed",
            Failed { request: 3, code: Code::BadName, message: "empty level at byte 6".to_owned() }.into(),
        ),
    ]
}

fn from_both() -> Vec<(&'static str, Control)> {
    vec![
        ("credit", Credit { lane: 4, bytes: 65_536 }.into()),
        ("ping", Ping { nonce: 0x0102_0304_0506_0708 }.into()),
        ("pong", Pong { nonce: 0x0102_0304_0506_0708 }.into()),
        ("detached", Detached { reason: "no answer for 2 s".to_owned() }.into()),
        (
            "left-out",
            LeftOut { lane: 4, topic: 7, expired: 3, coalesced: 40, dropped_slow: 2, late: 1, no_route: 5 }
                .into(),
        ),
        ("goodbye", Goodbye { code: Code::Other(999), reason: "é".to_owned() }.into()),
    ]
}

fn of_queues() -> Vec<(&'static str, Control)> {
    let join = JoinQueue {
        request: 6,
        member: 2,
        topic: "plant/orders".to_owned(),
        group: "packers".to_owned(),
        spec: None,
        settings: GroupSettings::default(),
    };
    let settings = GroupSettings {
        ack_wait_ms: 30_000,
        max_deliver: 5,
        max_in_flight: 1_000,
        max_in_flight_per_key: 1,
        start: Some(Start::All),
        dead_letter: "dead/plant/orders/packers".to_owned(),
    };
    let inbox = "$queue/s/2".to_owned();
    let verdict = |offset, attempt, action, delay_ms, reason: &str| Verdict {
        lease: *b"lease-of-16-byte",
        offset,
        attempt,
        action,
        delay_ms,
        reason: reason.to_owned(),
    };
    let verdicts = vec![
        verdict(41, 1, Action::Ack, 0, ""),
        verdict(42, 2, Action::Nack, 10_000, "no paper"),
        verdict(43, 1, Action::Extend, 0, ""),
        verdict(44, 1, Action::Dead, 0, "no such order"),
    ];
    vec![
        ("join-queue", join.clone().into()),
        (
            "join-queue-settings",
            JoinQueue { spec: Some(durable()), settings: settings.clone(), ..join }.into(),
        ),
        ("want", Want { member: 2, messages: 64, wait_ms: 5_000 }.into()),
        ("settle", Settle { request: 7, member: 2, verdicts }.into()),
        ("leave-queue", LeaveQueue { member: 2 }.into()),
        (
            "queue-joined",
            QueueJoined { request: 6, member: 2, topic: 7, epoch: 0xe0, inbox, settings }.into(),
        ),
        ("wanted", Wanted { member: 2, unused: 3 }.into()),
        ("settled", Settled { request: 7, member: 2, outcomes: vec![Code::Normal, Code::StaleLease] }.into()),
        (
            "member-closed",
            MemberClosed { member: 2, code: Code::EpochChanged, reason: "topic purged".to_owned() }.into(),
        ),
    ]
}
