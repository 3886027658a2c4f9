//! The publishers of a run: flat out, at a capped rate, or on the open loop's schedule. One thread, one task each.

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
    plan::{Plan, Workload},
    shared::{Shared, Start},
    stage::Connector,
};

/// Payload bytes a publisher hands over before it lets the connection on its thread work: about one large write.
const TURN_BYTES: usize = 64 << 10;

/// Further away than this the open loop sleeps; closer it spins, because a timer is no more exact than 1 ms.
const SPIN: Duration = Duration::from_millis(3);

/// What the publishers of a run did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Published {
    pub(crate) sent: u64,
    pub(crate) refused: u64,
    /// How far the open loop fell behind its schedule at worst.
    pub(crate) behind_ns_max: u64,
}

/// One publisher of the run and its payload buffer.
struct Source {
    session: Session,
    publisher: Publisher,
    number: u16,
    seq: u64,
    payload: Vec<u8>,
}

/// Connects every publisher, says so, waits for the start, publishes until told to stop, and closes cleanly.
pub(crate) async fn publish(
    plan: Plan,
    connector: Connector,
    shared: Arc<Shared>,
) -> anyhow::Result<Published> {
    let mut sources = Vec::with_capacity(plan.publishers);
    for number in 0..plan.publishers {
        sources.push(Source::open(&connector, number, plan.payload_bytes).await?);
        shared.client_is_ready().await;
    }
    let start = shared.started().await;
    if plan.workload == Workload::Latency {
        return open_loop(&plan, &connector, &shared, start, sources).await;
    }
    let mut tasks = JoinSet::new();
    for mut source in sources {
        let (shared, connector) = (Arc::clone(&shared), connector.clone());
        let share = plan.rate.map(|rate| {
            let publishers = plan.publishers as u64;
            Schedule::new(start.start_ns, (rate / publishers).max(1))
        });
        tasks.spawn(async move {
            match share {
                None => source.flat_out(&shared).await?,
                Some(schedule) => source.capped(&shared, schedule).await?,
            }
            source.close(&connector).await
        });
    }
    let mut total = Published::default();
    while let Some(done) = tasks.join_next().await {
        total.add(done.context("a publisher panicked")??);
    }
    Ok(total)
}

impl Published {
    fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.refused += other.refused;
        self.behind_ns_max = self.behind_ns_max.max(other.behind_ns_max);
    }
}

impl Source {
    async fn open(connector: &Connector, number: usize, payload_bytes: usize) -> anyhow::Result<Self> {
        let session = connector.session(&format!("bench publisher {number}")).await?;
        let publisher = session.publisher(connector.topic()).await.context("cannot open a publisher")?;
        let number = u16::try_from(number).expect("the command line bounds the publishers");
        Ok(Self { session, publisher, number, seq: 0, payload: vec![0; payload_bytes] })
    }

    async fn send(&mut self, due_ns: u64) -> anyhow::Result<()> {
        self.seq += 1;
        fill(Stamp { publisher: self.number, seq: self.seq, due_ns }, &mut self.payload);
        let seq = self.publisher.send(&self.payload).await.context("cannot publish")?;
        assert!(seq == self.seq, "seqs are dense from 1: sent {}, told {seq}", self.seq);
        Ok(())
    }

    async fn flat_out(&mut self, shared: &Shared) -> anyhow::Result<()> {
        let turn = turn_messages(self.payload.len());
        while !shared.is_stopped() {
            for _ in 0..turn {
                self.send(0).await?;
            }
            yield_now().await;
        }
        Ok(())
    }

    async fn capped(&mut self, shared: &Shared, schedule: Schedule) -> anyhow::Result<()> {
        let turn = turn_messages(self.payload.len());
        while !shared.is_stopped() {
            let due = schedule.due_by(now_ns()).saturating_sub(self.seq).min(turn);
            for _ in 0..due {
                self.send(0).await?;
            }
            if due < turn {
                sleep(Duration::from_millis(1)).await;
            } else {
                yield_now().await;
            }
        }
        Ok(())
    }

    /// Waits until everything sent has its outcome, and checks that nothing changed under the run.
    async fn close(self, connector: &Connector) -> anyhow::Result<Published> {
        let flushed = self.publisher.close().await.context("cannot close a publisher")?;
        connector.check_carrier(&self.session)?;
        self.session.close().await;
        Ok(Published { sent: self.seq, refused: flushed.refused, behind_ns_max: 0 })
    }
}

/// All publishers in one task, taking turns, so that one schedule rules them all.
async fn open_loop(
    plan: &Plan,
    connector: &Connector,
    shared: &Shared,
    start: Start,
    mut sources: Vec<Source>,
) -> anyhow::Result<Published> {
    let messages = plan.scheduled_messages().expect("an open loop has a schedule");
    let schedule = Schedule::new(start.start_ns, plan.rate.expect("an open loop has a rate"));
    let mut behind_ns_max = 0;
    let mut turns = (0..sources.len()).cycle();
    let turn = turn_messages(plan.payload_bytes);
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
    let mut total = Published { behind_ns_max, ..Published::default() };
    for source in sources {
        total.add(source.close(connector).await?);
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

fn turn_messages(payload_bytes: usize) -> u64 {
    (TURN_BYTES / payload_bytes).max(1) as u64
}
