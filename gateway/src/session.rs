//! What an Engine.IO session decides: heartbeat, upgrade, who may ask what, and when it is over.
//!
//! It owns no socket and reads no clock: packets, requests and moments go in, the thing to do comes out. What packets
//! carry is not looked at here.

use std::time::{Duration, Instant};

use bytes::Bytes;
use twinlane::events::DisconnectReason;

use crate::engine_io::{Data, Packet};

/// The times that a session keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// From the last sign of life to the next question.
    pub(crate) ping_interval: Duration,
    /// From the question to the end.
    pub(crate) ping_timeout: Duration,
    /// From the opening of a second transport to its taking over.
    pub(crate) upgrade_timeout: Duration,
    /// From the opening to the first namespace; `None` where nothing is to be joined.
    pub(crate) connect_timeout: Option<Duration>,
}

/// What may happen to a session.
#[derive(Debug)]
pub(crate) enum Input {
    /// The client said something over the transport that carries the session.
    Packet(Packet),
    /// A second transport wants to take over.
    Probe,
    /// The client said something over the second transport.
    ProbePacket(Packet),
    /// The second transport is gone.
    ProbeLost,
    /// A poll came and waits.
    Poll,
    /// The waiting poll has its answer, or its client is gone.
    PollEnded,
    /// A request came while one of its kind was under way.
    Overlap,
    /// The client is in a namespace.
    Joined,
    /// The client is not read at the moment, so its answer to a ping may lie there.
    Held,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(crate) enum Output {
    /// Hand it to the application.
    Deliver(Data),
    /// Ask the client for a sign of life.
    Ping,
    /// Answer over the second transport.
    AnswerProbe(Bytes),
    /// From here on the second transport carries the session.
    Switch,
    /// Close the second transport; the session goes on with the first.
    DropProbe,
    /// The session is over.
    Close(DisconnectReason),
}

/// One client's session.
#[derive(Debug)]
pub(crate) struct Session {
    timing: Timing,
    heartbeat: Heartbeat,
    join_by: Option<Instant>,
    upgrade: Upgrade,
    poll_waits: bool,
    over: bool,
}

#[derive(Debug)]
enum Heartbeat {
    Quiet { ping_at: Instant },
    Asked { dead_at: Instant },
}

#[derive(Debug, Clone, Copy)]
enum Upgrade {
    No,
    Probing { until: Instant, answered: bool },
}

impl Session {
    /// A session that opens at `now`.
    pub(crate) fn new(now: Instant, timing: Timing) -> Self {
        Self {
            timing,
            heartbeat: Heartbeat::Quiet { ping_at: now + timing.ping_interval },
            join_by: timing.connect_timeout.map(|timeout| now + timeout),
            upgrade: Upgrade::No,
            poll_waits: false,
            over: false,
        }
    }

    /// Takes note of what happened at `now`.
    pub(crate) fn handle(&mut self, now: Instant, input: Input) -> Option<Output> {
        if self.over {
            return None;
        }
        let output = match input {
            Input::Packet(packet) => self.packet(now, packet),
            Input::Probe => self.probe(now),
            Input::ProbePacket(packet) => self.probe_packet(packet),
            Input::ProbeLost => {
                self.upgrade = Upgrade::No;
                None
            }
            Input::Poll if self.poll_waits => Some(Output::Close(DisconnectReason::TransportError)),
            Input::Poll => {
                self.poll_waits = true;
                None
            }
            Input::PollEnded => {
                self.poll_waits = false;
                None
            }
            Input::Overlap => Some(Output::Close(DisconnectReason::TransportError)),
            Input::Joined => {
                self.join_by = None;
                None
            }
            Input::Held => {
                if let Heartbeat::Asked { dead_at } = &mut self.heartbeat {
                    *dead_at = now + self.timing.ping_timeout;
                }
                None
            }
        };
        self.over |= matches!(output, Some(Output::Close(_)));
        output
    }

    /// What is due at `now`; ask again until there is nothing.
    pub(crate) fn tick(&mut self, now: Instant) -> Option<Output> {
        if self.over {
            return None;
        }
        if let Heartbeat::Asked { dead_at } = self.heartbeat
            && dead_at <= now
        {
            self.over = true;
            return Some(Output::Close(DisconnectReason::PingTimeout));
        }
        if self.join_by.is_some_and(|by| by <= now) {
            self.over = true;
            return Some(Output::Close(DisconnectReason::ForcedClose));
        }
        if let Upgrade::Probing { until, .. } = self.upgrade
            && until <= now
        {
            self.upgrade = Upgrade::No;
            return Some(Output::DropProbe);
        }
        if let Heartbeat::Quiet { ping_at } = self.heartbeat
            && ping_at <= now
        {
            // A server that was late itself (suspended, overloaded) must not count that against the client.
            let dead_at = (ping_at + self.timing.ping_timeout).max(now + self.timing.ping_timeout / 2);
            self.heartbeat = Heartbeat::Asked { dead_at };
            return Some(Output::Ping);
        }
        None
    }

    /// When [`Session::tick`] will have something.
    pub(crate) fn deadline(&self) -> Instant {
        let heartbeat = match self.heartbeat {
            Heartbeat::Quiet { ping_at } => ping_at,
            Heartbeat::Asked { dead_at } => dead_at,
        };
        let upgrade = match self.upgrade {
            Upgrade::No => None,
            Upgrade::Probing { until, .. } => Some(until),
        };
        [self.join_by, upgrade].into_iter().flatten().fold(heartbeat, Instant::min)
    }

    /// Whether polls are answered at once, if need be with nothing, so that the client can let go of polling.
    pub(crate) fn releases_polls(&self) -> bool {
        matches!(self.upgrade, Upgrade::Probing { answered: true, .. })
    }

    fn packet(&mut self, now: Instant, packet: Packet) -> Option<Output> {
        match packet {
            Packet::Message(data) => Some(Output::Deliver(data)),
            Packet::Pong(_) => {
                self.heartbeat = Heartbeat::Quiet { ping_at: now + self.timing.ping_interval };
                None
            }
            Packet::Close => Some(Output::Close(DisconnectReason::TransportClose)),
            Packet::Noop => None,
            // In version 4 of the protocol it is the server who asks.
            Packet::Ping(_) => Some(Output::Close(DisconnectReason::TransportError)),
            Packet::Open(_) | Packet::Upgrade => Some(Output::Close(DisconnectReason::ParseError)),
        }
    }

    fn probe(&mut self, now: Instant) -> Option<Output> {
        match self.upgrade {
            Upgrade::No => {
                let until = now + self.timing.upgrade_timeout;
                self.upgrade = Upgrade::Probing { until, answered: false };
                None
            }
            Upgrade::Probing { .. } => Some(Output::DropProbe),
        }
    }

    fn probe_packet(&mut self, packet: Packet) -> Option<Output> {
        let Upgrade::Probing { until, answered } = self.upgrade else { return None };
        match packet {
            // Once: a client that asks without reading must not pile up answers.
            Packet::Ping(data) if !answered && &data[..] == b"probe" => {
                self.upgrade = Upgrade::Probing { until, answered: true };
                Some(Output::AnswerProbe(data))
            }
            Packet::Upgrade if answered => {
                self.upgrade = Upgrade::No;
                Some(Output::Switch)
            }
            _ => {
                self.upgrade = Upgrade::No;
                Some(Output::DropProbe)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing {
        ping_interval: Duration::from_secs(25),
        ping_timeout: Duration::from_secs(20),
        upgrade_timeout: Duration::from_secs(10),
        connect_timeout: Some(Duration::from_secs(45)),
    };

    /// A session, and seconds since it was opened.
    struct Clock {
        session: Session,
        start: Instant,
    }

    impl Clock {
        fn new() -> Self {
            Self::joined(false)
        }

        fn joined(joined: bool) -> Self {
            let start = Instant::now();
            let mut clock = Self { session: Session::new(start, TIMING), start };
            if joined {
                assert_eq!(clock.at(0.0, Input::Joined), None);
            }
            clock
        }

        fn at(&mut self, second: f64, input: Input) -> Option<Output> {
            self.session.handle(self.start + Duration::from_secs_f64(second), input)
        }

        fn tick(&mut self, second: f64) -> Option<Output> {
            self.session.tick(self.start + Duration::from_secs_f64(second))
        }

        fn deadline(&self) -> f64 {
            self.session.deadline().duration_since(self.start).as_secs_f64()
        }
    }

    fn probe() -> Packet {
        Packet::Ping(Bytes::from_static(b"probe"))
    }

    #[test]
    fn the_first_ping_comes_after_the_ping_interval_and_not_before() {
        let mut clock = Clock::joined(true);
        assert_eq!(clock.deadline(), 25.0);
        assert_eq!(clock.tick(24.9), None);
        assert_eq!(clock.tick(25.0), Some(Output::Ping));
        assert_eq!(clock.tick(25.0), None, "one question is enough");
    }

    #[test]
    fn a_client_that_does_not_answer_is_dead_after_interval_and_timeout() {
        let mut clock = Clock::joined(true);
        assert_eq!(clock.tick(25.0), Some(Output::Ping));
        assert_eq!(clock.tick(44.9), None);
        assert_eq!(clock.deadline(), 45.0);
        assert_eq!(clock.tick(45.0), Some(Output::Close(DisconnectReason::PingTimeout)));
        assert!(clock.session.over);
        assert_eq!(clock.at(45.1, Input::Packet(Packet::Pong(Bytes::new()))), None);
    }

    #[test]
    fn messages_are_no_answer_to_a_ping() {
        let mut clock = Clock::joined(true);
        assert_eq!(clock.tick(25.0), Some(Output::Ping));
        let data = Data::Text(Bytes::from_static(b"x"));
        assert_eq!(clock.at(30.0, Input::Packet(Packet::Message(data.clone()))), Some(Output::Deliver(data)));
        assert_eq!(clock.tick(45.0), Some(Output::Close(DisconnectReason::PingTimeout)));
    }

    #[test]
    fn a_pong_starts_the_interval_anew() {
        let mut clock = Clock::joined(true);
        assert_eq!(clock.tick(25.0), Some(Output::Ping));
        assert_eq!(clock.at(26.0, Input::Packet(Packet::Pong(Bytes::new()))), None);
        assert_eq!(clock.deadline(), 51.0);
    }

    #[test]
    fn a_server_that_was_late_does_not_hold_it_against_the_client() {
        let mut clock = Clock::joined(true);
        assert_eq!(clock.tick(100.0), Some(Output::Ping));
        assert_eq!(clock.tick(109.9), None);
        assert_eq!(clock.tick(110.0), Some(Output::Close(DisconnectReason::PingTimeout)));
    }

    #[test]
    fn a_client_that_is_not_read_is_not_dead() {
        let mut clock = Clock::joined(true);
        assert_eq!(clock.tick(25.0), Some(Output::Ping));
        assert_eq!(clock.at(44.9, Input::Held), None);
        assert_eq!(clock.tick(64.8), None);
        assert_eq!(clock.tick(64.9), Some(Output::Close(DisconnectReason::PingTimeout)));
    }

    #[test]
    fn a_client_that_joins_no_namespace_is_closed() {
        let mut clock = Clock::new();
        assert_eq!(clock.tick(25.0), Some(Output::Ping));
        assert_eq!(clock.at(25.1, Input::Packet(Packet::Pong(Bytes::new()))), None);
        assert_eq!(clock.tick(44.9), None);
        assert_eq!(clock.tick(45.0), Some(Output::Close(DisconnectReason::ForcedClose)));
    }

    #[test]
    fn a_second_poll_at_a_time_ends_the_session() {
        let mut clock = Clock::new();
        assert_eq!(clock.at(1.0, Input::Poll), None);
        assert_eq!(clock.at(1.0, Input::PollEnded), None);
        assert_eq!(clock.at(1.0, Input::Poll), None);
        assert_eq!(clock.at(1.1, Input::Poll), Some(Output::Close(DisconnectReason::TransportError)));
    }

    #[test]
    fn an_upgrade_is_a_probe_its_answer_and_a_switch() {
        let mut clock = Clock::new();
        assert_eq!(clock.at(1.0, Input::Probe), None);
        assert!(!clock.session.releases_polls());
        let answer = clock.at(1.1, Input::ProbePacket(probe()));
        assert_eq!(answer, Some(Output::AnswerProbe(Bytes::from_static(b"probe"))));
        assert!(clock.session.releases_polls());
        assert_eq!(clock.at(1.2, Input::ProbePacket(Packet::Upgrade)), Some(Output::Switch));
        assert!(!clock.session.releases_polls());
        assert_eq!(clock.deadline(), 25.0, "the heartbeat goes on");
    }

    #[test]
    fn an_upgrade_without_its_probe_is_dropped_and_polling_goes_on() {
        for packet in [Packet::Upgrade, Packet::Noop, Packet::Ping(Bytes::from_static(b"prob"))] {
            let mut clock = Clock::new();
            assert_eq!(clock.at(1.0, Input::Probe), None);
            assert_eq!(clock.at(1.1, Input::ProbePacket(packet)), Some(Output::DropProbe));
            assert!(!clock.session.over);
            assert_eq!(clock.at(1.2, Input::Probe), None, "the next one may try");
        }
    }

    #[test]
    fn a_probe_is_answered_once() {
        let mut clock = Clock::new();
        assert_eq!(clock.at(1.0, Input::Probe), None);
        assert!(matches!(clock.at(1.1, Input::ProbePacket(probe())), Some(Output::AnswerProbe(_))));
        assert_eq!(clock.at(1.2, Input::ProbePacket(probe())), Some(Output::DropProbe));
    }

    #[test]
    fn an_upgrade_that_takes_too_long_is_dropped() {
        let mut clock = Clock::new();
        assert_eq!(clock.at(1.0, Input::Probe), None);
        assert!(clock.at(1.1, Input::ProbePacket(probe())).is_some());
        assert_eq!(clock.deadline(), 11.0);
        assert_eq!(clock.tick(11.0), Some(Output::DropProbe));
        assert!(!clock.session.releases_polls());
        assert_eq!(clock.at(11.1, Input::ProbePacket(Packet::Upgrade)), None);
    }

    #[test]
    fn a_second_probe_at_a_time_is_dropped() {
        let mut clock = Clock::new();
        assert_eq!(clock.at(1.0, Input::Probe), None);
        assert_eq!(clock.at(1.1, Input::Probe), Some(Output::DropProbe));
        assert_eq!(clock.at(1.2, Input::ProbeLost), None);
        assert_eq!(clock.at(1.3, Input::Probe), None);
    }

    #[test]
    fn packets_that_only_servers_send_end_the_session() {
        let wrong = [
            (Packet::Ping(Bytes::new()), DisconnectReason::TransportError),
            (Packet::Open(Bytes::new()), DisconnectReason::ParseError),
            (Packet::Upgrade, DisconnectReason::ParseError),
        ];
        for (packet, reason) in wrong {
            let mut clock = Clock::new();
            assert_eq!(clock.at(1.0, Input::Packet(packet)), Some(Output::Close(reason)));
        }
    }

    #[test]
    fn a_clients_close_is_the_end() {
        let mut clock = Clock::new();
        let output = clock.at(1.0, Input::Packet(Packet::Close));
        assert_eq!(output, Some(Output::Close(DisconnectReason::TransportClose)));
        assert_eq!(clock.tick(100.0), None);
    }
}
