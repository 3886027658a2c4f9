//! The publishers of a run: flat out, at a capped rate, or on the open loop's schedule. One thread, a session for each
//! publisher, on it a flow for each channel.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use tokio::{
    task::{JoinSet, yield_now},
    time::sleep,
};
use twinlane::{Publisher, Session};

use crate::{
    clock::{Schedule, now_ns},
    payload::{Stamp, fill},
    plan::{Flow, Pace, Plan},
    shared::{Sent, Shared, Start},
    stage::Connector,
};

/// Payload bytes a publisher hands over before it lets the connection on its thread work: about one large write.
const TURN_BYTES: usize = 64 << 10;

/// The same for each topic of who publishes flat out: with one large write for a thousand of them, each run would have one
/// message. A program that never gives way of its own accord does so less often still, where a queue is full.
const TURN_BYTES_PER_TOPIC: usize = 4 << 10;

/// The same where another flow of the thread has a schedule to keep.
const TURN_BYTES_BESIDE: usize = 4 << 10;

/// Further away than this the open loop sleeps; closer it spins, because a timer is no more exact than 1 ms.
const SPIN: Duration = Duration::from_millis(3);

/// What the publishers of a run did.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) sent: Sent,
    pub(crate) refused: u64,
    /// How far the open loop fell behind its schedule at worst.
    pub(crate) behind_ns_max: u64,
}

/// One publisher of one flow: its streams, and a payload buffer.
struct Source {
    streams: Vec<Stream>,
    /// The stream that is next, and the messages of its turn that were sent.
    turn: usize,
    in_turn: u64,
    burst: u64,
    payload: Vec<u8>,
}

/// One publisher on one topic.
struct Stream {
    publisher: Publisher,
    number: u16,
    seq: u64,
}

/// Connects every publisher, says so, waits for the start, publishes until told to stop, and closes cleanly.
pub(crate) async fn publish(
    plan: Plan,
    connector: Connector,
    shared: Arc<Shared>,
) -> anyhow::Result<Published> {
    let flows = plan.flows();
    let mut sessions = Vec::with_capacity(plan.publishers);
    let mut sources: Vec<Vec<Source>> = flows.iter().map(|_| Vec::new()).collect();
    for number in 0..plan.publishers {
        let session = connector.session(&format!("bench publisher {number}")).await?;
        for (sources, &flow) in sources.iter_mut().zip(&flows) {
            sources.push(Source::open(&plan, &connector, &session, flow, number).await?);
        }
        sessions.push(session);
        shared.client_is_ready().await;
    }
    let start = shared.started().await;
    let (turn, flow_count) = (turn_messages(&plan), flows.len());
    let mut tasks = JoinSet::new();
    for (index, (sources, flow)) in sources.into_iter().zip(flows).enumerate() {
        let shared = Arc::clone(&shared);
        if let Pace::OpenLoop(rate) = flow.pace {
            let messages = plan.scheduled_messages(rate);
            let schedule = Schedule::new(start.start_ns, rate);
            tasks.spawn(async move { (index, open_loop(schedule, messages, turn, &shared, sources).await) });
            continue;
        }
        for source in sources {
            let (shared, pace) = (Arc::clone(&shared), share(flow.pace, plan.publishers));
            tasks.spawn(async move { (index, source.publish(pace, start, turn, &shared).await) });
        }
    }
    let mut total = Published { sent: vec![vec![0; plan.topics]; flow_count], refused: 0, behind_ns_max: 0 };
    while let Some(done) = tasks.join_next().await {
        let (flow, part) = done.context("a publisher panicked")?;
        total.add(flow, &part?);
    }
    for session in sessions {
        connector.check_carrier(&session)?;
        session.close().await;
    }
    Ok(total)
}

/// What some publishers of a flow did.
#[derive(Default)]
struct Part {
    /// By topic.
    sent: Vec<u64>,
    refused: u64,
    behind_ns_max: u64,
}

impl Published {
    fn add(&mut self, flow: usize, part: &Part) {
        self.sent[flow].iter_mut().zip(&part.sent).for_each(|(all, sent)| *all += sent);
        self.refused += part.refused;
        self.behind_ns_max = self.behind_ns_max.max(part.behind_ns_max);
    }
}

impl Part {
    fn add(&mut self, other: &Self) {
        self.sent.resize(other.sent.len(), 0);
        self.sent.iter_mut().zip(&other.sent).for_each(|(all, sent)| *all += sent);
        self.refused += other.refused;
    }
}

impl Source {
    async fn open(
        plan: &Plan,
        connector: &Connector,
        session: &Session,
        flow: Flow,
        number: usize,
    ) -> anyhow::Result<Self> {
        let mut streams = Vec::with_capacity(plan.topics);
        for topic in 0..plan.topics {
            let name = connector.topic(flow, topic);
            let publisher = session.publisher(&name).await.context("cannot open a publisher")?;
            let number = u16::try_from(number * plan.topics + topic);
            let number = number.expect("the command line bounds the streams");
            streams.push(Stream { publisher, number, seq: 0 });
        }
        Ok(Self { streams, turn: 0, in_turn: 0, burst: plan.burst, payload: vec![0; plan.payload_bytes] })
    }

    async fn send(&mut self, due_ns: u64) -> anyhow::Result<()> {
        let stream = &mut self.streams[self.turn];
        stream.seq += 1;
        fill(Stamp { publisher: stream.number, seq: stream.seq, due_ns }, &mut self.payload);
        let seq = stream.publisher.send(&self.payload).await.context("cannot publish")?;
        assert!(seq == stream.seq, "seqs are dense from 1: sent {}, told {seq}", stream.seq);
        self.in_turn += 1;
        if self.in_turn == self.burst {
            (self.in_turn, self.turn) = (0, self.turn + 1);
            if self.turn == self.streams.len() {
                self.turn = 0;
            }
        }
        Ok(())
    }

    async fn publish(mut self, pace: Pace, start: Start, turn: u64, shared: &Shared) -> anyhow::Result<Part> {
        match pace {
            Pace::FlatOut => self.flat_out(turn, shared).await?,
            Pace::Capped(rate) | Pace::OpenLoop(rate) => {
                self.capped(Schedule::new(start.start_ns, rate), turn, shared).await?;
            }
        }
        self.close().await
    }

    async fn flat_out(&mut self, turn: u64, shared: &Shared) -> anyhow::Result<()> {
        while !shared.is_stopped() {
            for _ in 0..turn {
                self.send(0).await?;
            }
            yield_now().await;
        }
        Ok(())
    }

    async fn capped(&mut self, schedule: Schedule, turn: u64, shared: &Shared) -> anyhow::Result<()> {
        let mut sent = 0;
        while !shared.is_stopped() {
            let due = schedule.due_by(now_ns()).saturating_sub(sent).min(turn);
            for _ in 0..due {
                self.send(0).await?;
            }
            sent += due;
            if due < turn {
                sleep(Duration::from_millis(1)).await;
            } else {
                yield_now().await;
            }
        }
        Ok(())
    }

    /// Waits until everything sent has its outcome.
    async fn close(self) -> anyhow::Result<Part> {
        let mut part = Part::default();
        for stream in self.streams {
            let flushed = stream.publisher.close().await.context("cannot close a publisher")?;
            part.sent.push(stream.seq);
            part.refused += flushed.refused;
        }
        Ok(part)
    }
}

/// All publishers in one task, taking turns, so that one schedule rules them all.
async fn open_loop(
    schedule: Schedule,
    messages: u64,
    turn: u64,
    shared: &Shared,
    mut sources: Vec<Source>,
) -> anyhow::Result<Part> {
    let mut behind_ns_max = 0;
    let mut turns = (0..sources.len()).cycle();
    let mut next = 0;
    while next < messages {
        ensure!(
            !shared.is_stopped(),
            "the schedule cannot be kept: {next} of {messages} messages were sent in time; lower --rate"
        );
        let now = wait_until(schedule.due_ns(next)).await;
        // Sending what is due in one go lets the connection write it in one go, as an application that is late would.
        let due = schedule.due_by(now).min(messages).min(next + turn);
        while next < due {
            let due_ns = schedule.due_ns(next);
            sources[turns.next().expect("at least one publisher")].send(due_ns).await?;
            behind_ns_max = behind_ns_max.max(now_ns().saturating_sub(due_ns));
            next += 1;
        }
        yield_now().await;
    }
    shared.finish_schedule();
    let mut total = Part { behind_ns_max, ..Part::default() };
    for source in sources {
        total.add(&source.close().await?);
    }
    Ok(total)
}

/// Waits for an instant of [`crate::clock`] with the precision of the clock; the thread's connections go on meanwhile.
async fn wait_until(due_ns: u64) -> u64 {
    loop {
        let now = now_ns();
        let Some(left) = due_ns.checked_sub(now).filter(|left| *left > 0) else { return now };
        match Duration::from_nanos(left).checked_sub(SPIN) {
            Some(far) => sleep(far).await,
            None => yield_now().await,
        }
    }
}

/// What one of `publishers` publishers has to do.
fn share(pace: Pace, publishers: usize) -> Pace {
    match pace {
        Pace::Capped(rate) => Pace::Capped((rate / publishers as u64).max(1)),
        Pace::FlatOut | Pace::OpenLoop(_) => pace,
    }
}

fn turn_messages(plan: &Plan) -> u64 {
    let turn_bytes = match plan.flows().as_slice() {
        [Flow { pace: Pace::FlatOut, .. }] => TURN_BYTES.max(plan.topics * TURN_BYTES_PER_TOPIC),
        [_] => TURN_BYTES,
        _ => TURN_BYTES_BESIDE,
    };
    (turn_bytes / plan.payload_bytes).max(1) as u64
}
