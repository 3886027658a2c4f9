//! One event to every client: how many deliveries a second, when only so many events may be under way.
//!
//! The server emits as far as it has credit. The load client gives it: whenever every client has received a quarter of
//! the window more. All systems are paced by this alone, so none can run ahead of its clients and none must drop.
//!
//! Every 16th client checks each event by content, every other one the first of each read; all are counted, and at the
//! end every client must have exactly what was emitted.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use twinlane_bench::machine;

use super::{
    Course,
    contender::Server,
    crowd::{Crowd, PATIENCE},
    figures::Figure,
    frames::number,
};

/// Bytes of an event's only argument, a text that begins with the event's number.
pub(super) const EVENT_BYTES: usize = 64;

/// Digits of that number.
pub(super) const NUMBER_DIGITS: usize = 16;

/// How an event's packet begins, up to the number.
const BEGIN: &[u8] = br#"42["tick",""#;

/// One client in so many reads each event's number.
const CHECKED: usize = 16;

/// Credit is given for so many parts of a window at a time.
const CREDITS_PER_WINDOW: u64 = 4;

/// Between two looks at the clock.
const LOOK: Duration = Duration::from_millis(100);

/// The namespace of the client that gives credit.
pub(super) const CONTROL: &str = "/control";

/// Who has received how much.
#[derive(Debug)]
struct Tally {
    received: Vec<u64>,
    /// Deliveries to all.
    delivered: u64,
    /// Clients that have received `target` events.
    reached: usize,
    target: u64,
}

impl Tally {
    fn new(clients: usize) -> Self {
        Self { received: vec![0; clients], delivered: 0, reached: 0, target: 0 }
    }

    #[inline]
    fn enter(&mut self, client: usize, packet: &[u8], is_first: bool) -> Result<()> {
        let received = &mut self.received[client];
        *received += 1;
        if is_first || client.is_multiple_of(CHECKED) {
            let text = packet.strip_prefix(BEGIN).with_context(|| unexpected(packet))?;
            let seq = number(text, NUMBER_DIGITS)?;
            ensure!(seq == *received, "event {received} is due, and {seq} comes");
            ensure!(text.get(EVENT_BYTES) == Some(&b'"'), "event {seq} has not its {EVENT_BYTES} bytes");
        } else {
            ensure!(packet.starts_with(b"42["), unexpected(packet));
        }
        self.delivered += 1;
        if *received == self.target {
            self.reached += 1;
        }
        Ok(())
    }

    fn least(&self) -> u64 {
        self.received.iter().copied().min().unwrap_or(0)
    }

    /// Counts anew, towards `target`.
    fn aim(&mut self, target: u64) {
        self.target = target;
        self.reached = self.received.iter().filter(|received| **received >= target).count();
    }

    fn all_reached(&self) -> bool {
        self.reached == self.received.len()
    }
}

fn unexpected(packet: &[u8]) -> String {
    format!("no event: {}", String::from_utf8_lossy(&packet[..packet.len().min(100)]))
}

/// Runs every window on one server.
pub(super) fn run(server: &Server, course: &Course) -> Result<Vec<Figure>> {
    let mut fanout = Fanout {
        crowd: Crowd::connect(server.port, "/", course.clients)?,
        control: Crowd::connect(server.port, CONTROL, 1)?,
        tally: Tally::new(course.clients),
        credit: 0,
    };
    let mut figures = Vec::new();
    for window in &course.windows {
        let measured = fanout.measure(server, *window, course);
        figures.extend(measured.with_context(|| format!("window {window}: {}", server.log()))?);
    }
    Ok(figures)
}

/// Gives credit for one event and waits until all of `crowd` have received it; they had `before` each.
pub(super) fn one_event(server: &Server, crowd: Crowd) -> Result<()> {
    let clients = crowd.len();
    let control = Crowd::connect(server.port, CONTROL, 1)?;
    let mut fanout = Fanout { crowd, control, tally: Tally::new(clients), credit: 0 };
    fanout.give(1)?;
    fanout.drain()
}

struct Fanout {
    crowd: Crowd,
    control: Crowd,
    tally: Tally,
    credit: u64,
}

impl Fanout {
    fn measure(&mut self, server: &Server, window: u64, course: &Course) -> Result<[Figure; 3]> {
        ensure!(window > 0, "a window is of one event at least");
        let step = (window / CREDITS_PER_WINDOW).max(1);
        self.give(self.credit + window)?;
        self.tally.aim(self.tally.least() + step);
        self.run_for(course.warmup, window, step)?;
        let cpu = || anyhow::Ok((cpu_seconds_of(server)?, machine::cpu_seconds()));
        let (before, (server_before, client_before)) = (self.tally.delivered, cpu()?);
        let began = Instant::now();
        self.run_for(course.duration, window, step)?;
        let seconds = began.elapsed().as_secs_f64();
        let (server_after, client_after) = cpu()?;
        let delivered = (self.tally.delivered - before) as f64;
        self.drain()?;
        let name = |what: &str| format!("fan-out to {}, window {window}, {what}", self.crowd.len());
        Ok([
            Figure::rate(name("deliveries/s"), delivered / seconds),
            Figure::cost(name("server CPU s/M"), (server_after - server_before) / delivered * 1e6),
            Figure::remark(name("load client busy %"), (client_after - client_before) / seconds * 100.0),
        ])
    }

    fn run_for(&mut self, time: Duration, window: u64, step: u64) -> Result<()> {
        let until = Instant::now() + time;
        let mut last = Instant::now();
        while Instant::now() < until {
            if self.take_in()? {
                last = Instant::now();
            }
            ensure!(last.elapsed() < PATIENCE, "{}", self.silence());
            if self.tally.all_reached() {
                let least = self.tally.least();
                self.give(least + window)?;
                self.tally.aim(least + step);
            }
        }
        Ok(())
    }

    /// Waits until everybody has everything there was credit for.
    fn drain(&mut self) -> Result<()> {
        self.tally.aim(self.credit);
        let mut last = Instant::now();
        while !self.tally.all_reached() {
            if self.take_in()? {
                last = Instant::now();
            }
            ensure!(last.elapsed() < PATIENCE, "{}", self.silence());
        }
        let most = self.tally.received.iter().max();
        ensure!(most == Some(&self.credit), "a client has {most:?} of {} events", self.credit);
        Ok(())
    }

    fn take_in(&mut self) -> Result<bool> {
        let tally = &mut self.tally;
        let mut last_client = usize::MAX;
        self.crowd.poll(LOOK, |client, packet| {
            let is_first = std::mem::replace(&mut last_client, client) != client;
            tally.enter(client, packet, is_first)
        })
    }

    fn give(&mut self, credit: u64) -> Result<()> {
        self.credit = credit;
        let packet = format!(r#"42{CONTROL},["credit",{credit}]"#);
        self.control.send(0, packet.as_bytes())?;
        // Its heartbeats want answers, too.
        self.control.poll(Duration::ZERO, |_, packet| Err(anyhow::anyhow!(unexpected(packet)))).map(drop)
    }

    fn silence(&self) -> String {
        let short = self.tally.received.iter().filter(|received| **received < self.credit).count();
        format!("nothing came for {PATIENCE:?}; {short} clients have not all {} events", self.credit)
    }
}

fn cpu_seconds_of(server: &Server) -> Result<f64> {
    machine::cpu_seconds_of(server.process_id()).context("the server is gone")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64) -> Vec<u8> {
        format!(r#"42["tick","{seq:016}{}"]"#, "x".repeat(EVENT_BYTES - NUMBER_DIGITS)).into_bytes()
    }

    #[test]
    fn a_target_is_reached_when_the_last_client_has_it() {
        let mut tally = Tally::new(2);
        tally.aim(2);
        for (client, seq) in [(0, 1), (0, 2), (0, 3), (1, 1)] {
            tally.enter(client, &event(seq), true).unwrap();
        }
        assert!(!tally.all_reached());
        tally.enter(1, &event(2), true).unwrap();
        assert!(tally.all_reached());
        assert_eq!((tally.least(), tally.delivered), (2, 5));
        tally.aim(3);
        assert_eq!(tally.reached, 1);
    }

    #[test]
    fn a_lost_or_repeated_event_is_found() {
        let mut tally = Tally::new(1);
        tally.enter(0, &event(1), false).unwrap();
        assert!(tally.enter(0, &event(3), false).is_err());
        let mut tally = Tally::new(1);
        tally.enter(0, &event(1), false).unwrap();
        assert!(tally.enter(0, &event(1), false).is_err());
    }

    #[test]
    fn an_event_may_carry_its_offset_behind_its_argument() {
        let mut event = event(1);
        event.pop();
        event.extend_from_slice(br#","17"]"#);
        Tally::new(1).enter(0, &event, true).unwrap();
    }
}
