//! Any inputs to a session: it never panics, says only what it may, and ends for good.

use std::time::{Duration, Instant};

use twinlane_proto::Code;
use twinlane_proto::control::{Auth, Control, Credit, Hello, Purpose, Sender, Welcome};
use twinlane_proto::frame::{KIND_CONTROL, PREFIX_BYTES};
use twinlane_proto::session::{Event, Input, Output, Phase, Session, SessionConfig};

/// The first byte chooses the side, the rest are inputs: an operation, then what it needs.
pub(crate) fn check(data: &[u8]) {
    let Some((side, mut script)) = data.split_first() else { return };
    let is_client = side & 1 == 0;
    #[allow(clippy::disallowed_methods, reason = "a test needs a time to count from")]
    let mut now = Instant::now();
    let config =
        SessionConfig { subscriptions_max: 3, publishers_max: 3, members_max: 3, ..SessionConfig::default() };
    let mut session =
        if is_client { Session::client(config, hello(), now) } else { Session::server(config, now) };
    drain(&mut session, is_client, now);
    while let Some((operation, rest)) = script.split_first() {
        let (argument, rest) = split(*operation, rest);
        script = rest;
        let frame = control_frame(argument);
        let number = argument.first().map_or(0, |byte| u64::from(*byte));
        let input = match operation % 8 {
            0 | 1 => Input::Control(&frame),
            2 => Input::Run { lane: number as u32 % 4, bytes: argument.len() * 50 },
            3 => Input::Traffic,
            4 => {
                now += Duration::from_millis(number * 100);
                Input::Tick
            }
            5 => Input::Accept(welcome()),
            6 => Input::Send(
                Control::decode(&frame).unwrap_or(Credit { lane: number as u32 % 4, bytes: number }.into()),
            ),
            _ => Input::Close { code: Code::from_u16(number as u16), reason: "x\n".repeat(200) },
        };
        let phase_before = session.phase();
        let result = session.handle(now, input);
        if let Err(error) = result {
            let expected = if error.is_ours() { phase_before } else { Phase::Closed };
            assert_eq!(session.phase(), expected, "{error}");
        }
        drain(&mut session, is_client, now);
    }
}

/// Takes every output and checks it.
fn drain(session: &mut Session, is_client: bool, now: Instant) {
    let mut closing = false;
    for _ in 0..10 {
        match session.poll() {
            Output::Send(frame) => {
                let control = Control::decode(&frame).expect("a session sends control frames");
                let forbidden = if is_client { Sender::Server } else { Sender::Client };
                assert_ne!(control.sender(), forbidden, "{control:?}");
            }
            Output::Event(Event::Hello(_)) => assert!(!is_client),
            Output::Event(Event::Welcome(_)) => assert!(is_client),
            Output::Event(Event::Control(control)) => {
                assert!(!matches!(control, Control::Ping(_) | Control::Pong(_)));
            }
            Output::Close { .. } => {
                assert!(!closing, "it closes once");
                closing = true;
            }
            Output::Wait(deadline) => {
                assert_eq!(deadline.is_none(), session.phase() == Phase::Closed);
                assert!(deadline.is_none_or(|deadline| deadline <= now + Duration::from_secs(15)));
                return;
            }
        }
    }
    panic!("an input causes a few outputs, not ten");
}

/// Splits off what an operation needs: a counted argument, the count in one byte.
fn split(operation: u8, rest: &[u8]) -> (&[u8], &[u8]) {
    let Some((count, rest)) = rest.split_first() else { return (&[], &[]) };
    let count =
        if operation % 8 < 2 || operation % 8 == 6 { usize::from(*count) } else { usize::from(*count % 4) };
    rest.split_at(count.min(rest.len()))
}

/// Puts a prefix before a type number and a body, so that more inputs mean something.
fn control_frame(typed_body: &[u8]) -> Vec<u8> {
    let (number, body) = typed_body.split_first().unwrap_or((&0, &[]));
    let mut frame = ((PREFIX_BYTES + body.len()) as u32).to_le_bytes().to_vec();
    frame.extend_from_slice(&[KIND_CONTROL, 0, *number, 0]);
    frame.extend_from_slice(body);
    frame
}

fn hello() -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        capabilities: 0b101,
        purpose: Purpose::Primary,
        client: "check".to_owned(),
        auth: Auth::None,
        resume: None,
    }
}

fn welcome() -> Welcome {
    Welcome {
        version: 0,
        capabilities: 0,
        session: [1; 16],
        secret: [2; 16],
        resumed: false,
        server: "check".to_owned(),
        ping_interval_ms: 5_000,
        frame_bytes_max: 1 << 20,
    }
}
