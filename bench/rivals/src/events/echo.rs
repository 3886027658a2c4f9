//! Events that are answered: a client emits one, waits for its acknowledgement, and only then emits the next. Once with
//! a single client on an idle server, once with many that all do so.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use twinlane_bench::{clock::now_ns, stats::Latencies};

use super::{
    Course,
    contender::Server,
    crowd::{Crowd, PATIENCE},
    fanout::EVENT_BYTES,
    figures::Figure,
};

/// Between two looks at the clock.
const LOOK: Duration = Duration::from_millis(100);

/// Runs both.
pub(super) fn run(server: &Server, course: &Course) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for clients in [1, course.askers] {
        let crowd = Crowd::connect(server.port, "/", clients)?;
        let (latencies, seconds) = Askers::new(crowd)
            .and_then(|mut askers| {
                askers.run_for(course.warmup)?;
                let began = Instant::now();
                let latencies = askers.run_for(course.duration)?;
                Ok((latencies, began.elapsed().as_secs_f64()))
            })
            .with_context(|| format!("{clients} clients ask: {}", server.log()))?;
        let summary = latencies.summary().context("no answer came in time")?;
        let name = |what: &str| format!("round trip, {clients} asking, {what}");
        figures.push(Figure::cost(name("p50 µs"), summary.p50_us));
        figures.push(Figure::cost(name("p99 µs"), summary.p99_us));
        if clients > 1 {
            figures.push(Figure::rate(name("answers/s"), summary.count as f64 / seconds));
        }
    }
    Ok(figures)
}

struct Askers {
    crowd: Crowd,
    text: String,
    /// For each client: the number of its question, and when it was asked.
    asked: Vec<(u64, u64)>,
    answered: Vec<usize>,
}

impl Askers {
    /// Everybody asks once.
    fn new(crowd: Crowd) -> Result<Self> {
        let clients = crowd.len();
        let mut askers =
            Self { crowd, text: "e".repeat(EVENT_BYTES), asked: vec![(0, 0); clients], answered: Vec::new() };
        (0..clients).try_for_each(|client| askers.ask(client))?;
        Ok(askers)
    }

    fn ask(&mut self, client: usize) -> Result<()> {
        let id = self.asked[client].0 + 1;
        let packet = format!(r#"42{id}["echo","{}"]"#, self.text);
        self.asked[client] = (id, now_ns());
        self.crowd.send(client, packet.as_bytes())
    }

    /// Whoever is answered asks again.
    fn run_for(&mut self, time: Duration) -> Result<Latencies> {
        let mut latencies = Latencies::default();
        let until = Instant::now() + time;
        let mut last = Instant::now();
        while Instant::now() < until {
            let (asked, answered, text) = (&self.asked, &mut self.answered, &self.text);
            self.crowd.poll(LOOK, |client, packet| {
                let (id, asked_ns) = asked[client];
                check(packet, id, text)?;
                latencies.record(now_ns() - asked_ns);
                answered.push(client);
                Ok(())
            })?;
            if !self.answered.is_empty() {
                last = Instant::now();
            }
            ensure!(last.elapsed() < PATIENCE, "no answer came for {PATIENCE:?}");
            while let Some(client) = self.answered.pop() {
                self.ask(client)?;
            }
        }
        Ok(latencies)
    }
}

/// Whether `packet` acknowledges question `id` with what was asked.
fn check(packet: &[u8], id: u64, text: &str) -> Result<()> {
    let answer = std::str::from_utf8(packet)?;
    let is_right = answer.strip_prefix("43").and_then(|rest| {
        let (number, arguments) = rest.split_at_checked(rest.find('[')?)?;
        let argument = arguments.strip_prefix("[\"")?.strip_suffix("\"]")?;
        Some(number.parse() == Ok(id) && argument == text)
    });
    match is_right {
        Some(true) => Ok(()),
        _ => bail!("the answer to {id} is due, and {answer:?} comes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_the_question_is_one() {
        assert!(check(br#"437["ab"]"#, 7, "ab").is_ok());
        for wrong in [r#"438["ab"]"#, r#"437["ac"]"#, r#"427["ab"]"#, "437[]", "43"] {
            assert!(check(wrong.as_bytes(), 7, "ab").is_err(), "{wrong}");
        }
    }
}
