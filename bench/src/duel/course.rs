//! The course of a duel over one link: a lab, a server, two threads of contenders, and books for each.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};
use twinlane_netlab::{Counts, Lab, Link};

use super::{
    Across, DuelArgs, DuelReport, Duelist,
    contender::{Came, Contender, Meeting, Receiver, Sender},
    report::Emulator,
};
use crate::{
    alarm::Alarm,
    cli::RunArgs,
    clock::{Schedule, now_ns},
    crew::{Crews, PATIENCE},
    payload::{Stamp, check, fill},
    plan::Flow,
    recorder::{Recorder, slice_of},
    report::Interval,
    shared::{Shared, Start},
    stage::Stage,
};

/// How long after the last message was due one may still arrive.
const DRAIN: Duration = Duration::from_secs(5);

/// How long a sender may take to close after that.
const CLOSE: Duration = Duration::from_secs(5);

/// The kernel's name for it.
const CONGESTION_CONTROL: &str = "net.ipv4.tcp_congestion_control";

/// Runs everybody over `link`: at the same time, or, where they would take the link's rate from each other, in turns.
/// Prints nothing.
///
/// # Errors
///
/// As [`run`](super::run).
pub async fn measure(args: &DuelArgs, link: Link) -> anyhow::Result<DuelReport> {
    let mut plan = args.plan(link);
    let turns: Vec<&[Contender]> =
        if plan.together { vec![&args.only] } else { args.only.chunks(1).collect() };
    let (mut duelists, mut emulator) = (Vec::new(), Emulator::default());
    for contenders in turns {
        let round = round(args, link, contenders).await?;
        duelists.extend(round.duelists);
        emulator.add(&round.counts.both());
        plan.tcp = round.tcp;
    }
    Ok(DuelReport::new(plan, emulator, duelists))
}

/// What both threads of a round must know.
#[derive(Clone)]
struct Course {
    contenders: Vec<Contender>,
    flows: Vec<Flow>,
    meeting: Arc<Meeting>,
    shared: Arc<Shared>,
    rate: u64,
    messages: u64,
    payload_bytes: usize,
    window: Duration,
    one_way: Duration,
    length: Duration,
}

/// What one thread brings home, contender by contender.
enum Home {
    Sent(Vec<u64>),
    Received(Vec<Books>),
}

/// What a round came out with.
struct Round {
    duelists: Vec<Duelist>,
    counts: Counts,
    /// The congestion control of TCP.
    tcp: String,
}

async fn round(args: &DuelArgs, link: Link, contenders: &[Contender]) -> anyhow::Result<Round> {
    let lab = Lab::start(link, args.seed).context("there is no emulated link")?;
    if let Some(tcp) = &args.tcp {
        for side in [lab.left(), lab.right()] {
            side.set_kernel(CONGESTION_CONTROL, tcp).context(
                "--tcp must be one that `sysctl net.ipv4.tcp_allowed_congestion_control` lists: leave it out",
            )?;
        }
    }
    let tcp = lab.left().kernel(CONGESTION_CONTROL)?;
    let stage_args = RunArgs::from_line(&format!("mixed --size {}", args.size))?;
    let stage_plan = stage_args.plan()?;
    let stage = Stage::across(lab, &stage_plan, stage_args.access()?).await?;
    let lab = stage.lab().context("the stage is across a lab")?;
    let (shared, mut ready) = Shared::new(contenders.len(), 1);
    let course = Course {
        contenders: contenders.to_vec(),
        flows: stage_plan.flows(),
        meeting: Arc::new(Meeting::on(lab.left(), stage.connector())?),
        shared,
        rate: args.rate,
        messages: (args.rate as f64 * (args.warmup + args.duration).as_secs_f64()).ceil() as u64,
        payload_bytes: args.size,
        window: args.duration,
        one_way: args.across.direction(&link).delay,
        length: args.warmup + args.duration,
    };
    let mut crews = Crews::new();
    let ((sending, left_sends), (receiving, left_receives)) = match args.across {
        Across::Subscriber => ((lab.left(), true), (lab.right(), false)),
        Across::Publisher => ((lab.right(), false), (lab.left(), true)),
    };
    crews.start_on(Some(sending), "duel-send".to_owned(), send(course.clone(), left_sends))?;
    crews.start_on(Some(receiving), "duel-receive".to_owned(), receive(course.clone(), left_receives))?;
    start(&mut crews, &mut ready, &course, args.warmup).await?;
    let patience = course.length + DRAIN + CLOSE + PATIENCE;
    let home = crews.all_within(patience, "the contenders to finish").await?;
    let counts = lab.counts();
    stage.close().await;
    Ok(Round { duelists: duelists(&course, home)?, counts, tcp })
}

async fn start(
    crews: &mut Crews<Home>,
    ready: &mut mpsc::Receiver<()>,
    course: &Course,
    warmup: Duration,
) -> anyhow::Result<()> {
    crews.ready(ready, 2).await?;
    let start_ns = now_ns();
    let window_ns = start_ns + warmup.as_nanos() as u64;
    course.shared.start(Start { start_ns, window_ns });
    Ok(())
}

fn duelists(course: &Course, home: Vec<Home>) -> anyhow::Result<Vec<Duelist>> {
    let (mut behind_ns, mut books) = (Vec::new(), Vec::new());
    for part in home {
        match part {
            Home::Sent(behind) => behind_ns = behind,
            Home::Received(received) => books = received,
        }
    }
    ensure!(
        behind_ns.len() == course.contenders.len() && books.len() == behind_ns.len(),
        "a contender is missing"
    );
    Ok(books.into_iter().zip(behind_ns).map(|(books, behind_ns)| books.close(course, behind_ns)).collect())
}

impl Course {
    /// The topic of a contender, if it has one.
    fn flow(&self, contender: Contender) -> Option<Flow> {
        let reliable = match contender {
            Contender::Fast => false,
            Contender::Reliable => true,
            Contender::RawTcp | Contender::QuicStream => return None,
        };
        self.flows.iter().copied().find(|flow| flow.reliable == reliable)
    }

    /// When what has not arrived does not count any more.
    fn end(&self, start: Start) -> Instant {
        let passed = Duration::from_nanos(now_ns().saturating_sub(start.start_ns));
        Instant::now() + (self.length + DRAIN).saturating_sub(passed)
    }
}

async fn send(course: Course, is_left: bool) -> anyhow::Result<Home> {
    let mut senders = Vec::new();
    for &contender in &course.contenders {
        senders.push(Sender::open(contender, &course.meeting, course.flow(contender), is_left).await?);
    }
    course.shared.client_is_ready().await;
    let start = course.shared.started().await;
    let mut sending = JoinSet::new();
    for (index, sender) in senders.into_iter().enumerate() {
        let course = course.clone();
        sending.spawn(async move { anyhow::Ok((index, play(&course, sender, index, start).await?)) });
    }
    let mut behind_ns = vec![0; course.contenders.len()];
    while let Some(played) = sending.join_next().await {
        let (index, behind) = played.context("a contender panicked")??;
        behind_ns[index] = behind;
    }
    Ok(Home::Sent(behind_ns))
}

/// The open loop of one contender; how far it fell behind its schedule at worst, in nanoseconds.
async fn play(course: &Course, mut sender: Sender, number: usize, start: Start) -> anyhow::Result<u64> {
    let schedule = Schedule::new(start.start_ns, course.rate);
    let alarm = Alarm::new().context("there is no timer")?;
    let publisher = u16::try_from(number).expect("there are four contenders");
    let mut payload = vec![0; course.payload_bytes];
    let mut behind_ns = 0;
    let looped = timeout_at(course.end(start), async {
        for next in 0..course.messages {
            let due_ns = schedule.due_ns(next);
            alarm.wait_until(due_ns).await?;
            fill(Stamp { publisher, seq: next + 1, due_ns }, &mut payload);
            sender.send(&payload).await?;
            behind_ns = behind_ns.max(now_ns().saturating_sub(due_ns));
        }
        anyhow::Ok(())
    });
    match looped.await {
        Ok(done) => done?,
        // What it could not even hand over is not delivered either: the books of the receiver say so.
        Err(_) => return Ok(behind_ns.max((course.length + DRAIN).as_nanos() as u64)),
    }
    // One that takes longer has nothing more to deliver in time.
    if let Ok(finished) = timeout(CLOSE, sender.finish(&course.meeting.connector)).await {
        finished?;
    }
    Ok(behind_ns)
}

async fn receive(course: Course, is_left: bool) -> anyhow::Result<Home> {
    let mut receivers = Vec::new();
    for &contender in &course.contenders {
        receivers.push(Receiver::open(contender, &course.meeting, course.flow(contender), is_left).await?);
    }
    course.shared.client_is_ready().await;
    let start = course.shared.started().await;
    let mut receiving = JoinSet::new();
    for (index, receiver) in receivers.into_iter().enumerate() {
        let course = course.clone();
        receiving.spawn(async move { hear(&course, receiver, index, start).await });
    }
    let mut books = Vec::new();
    while let Some(heard) = receiving.join_next().await {
        books.push(heard.context("a contender panicked")??);
    }
    books.sort_by_key(|books: &Books| books.number);
    Ok(Home::Received(books))
}

async fn hear(course: &Course, mut receiver: Receiver, number: usize, start: Start) -> anyhow::Result<Books> {
    let mut books = Books::new(course, number, start);
    let mut buffer = vec![0; course.payload_bytes];
    let end = course.end(start);
    while !books.is_settled() {
        let mut see = |came: Came<'_>| books.see(came);
        match timeout_at(end, receiver.next(&mut buffer, &mut see)).await {
            Ok(came) => {
                if !came? {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    receiver.finish(&course.meeting.connector).await?;
    Ok(books)
}

/// What one contender delivered.
struct Books {
    contender: Contender,
    number: usize,
    payload_bytes: usize,
    /// Of the whole run.
    messages: u64,
    last_seq: u64,
    delivered: u64,
    reported_missing: u64,
    window_ns: u64,
    one_way_ns: u64,
    slice_ns: u64,
    /// Of the window.
    due: u64,
    delivered_due: u64,
    /// By slice of the window.
    deliveries: Vec<u64>,
    recorder: Recorder,
}

impl Books {
    fn new(course: &Course, number: usize, start: Start) -> Self {
        let slice = slice_of(course.window);
        let slices = course.window.div_duration_f64(slice).ceil() as usize;
        let before = Schedule::new(start.start_ns, course.rate).due_by(start.window_ns - 1);
        Self {
            contender: course.contenders[number],
            number,
            payload_bytes: course.payload_bytes,
            messages: course.messages,
            last_seq: 0,
            delivered: 0,
            reported_missing: 0,
            window_ns: start.window_ns,
            one_way_ns: course.one_way.as_nanos() as u64,
            slice_ns: slice.as_nanos() as u64,
            due: course.messages.saturating_sub(before),
            delivered_due: 0,
            deliveries: vec![0; slices],
            recorder: Recorder::new(start.window_ns, course.window),
        }
    }

    fn see(&mut self, came: Came<'_>) -> anyhow::Result<()> {
        let payload = match came {
            Came::Message(payload) => payload,
            Came::Missing(count) => {
                self.reported_missing += count;
                return Ok(());
            }
        };
        let at_ns = now_ns();
        let Self { contender, last_seq, .. } = *self;
        let Stamp { publisher, seq, due_ns } = check(payload, self.payload_bytes)?;
        ensure!(usize::from(publisher) == self.number, "{contender} received a message of another one");
        ensure!(seq > last_seq, "{contender}: seq {seq} arrived after seq {last_seq}");
        ensure!(
            contender == Contender::Fast || seq == last_seq + 1,
            "{contender}: seq {seq} arrived after seq {last_seq}, between them is a hole"
        );
        self.last_seq = seq;
        self.delivered += 1;
        let slice = at_ns.checked_sub(self.window_ns).map(|since_ns| (since_ns / self.slice_ns) as usize);
        if let Some(count) = slice.and_then(|slice| self.deliveries.get_mut(slice)) {
            *count += 1;
        }
        if due_ns >= self.window_ns {
            self.delivered_due += 1;
            self.recorder.record(due_ns + self.one_way_ns, at_ns);
        }
        Ok(())
    }

    /// Whether nothing more is to come.
    fn is_settled(&self) -> bool {
        self.delivered + self.reported_missing >= self.messages
    }

    fn close(self, course: &Course, behind_ns: u64) -> Duelist {
        let (latencies, slices) = self.recorder.finish();
        let (slice_seconds, window_seconds) = (self.slice_ns as f64 / 1e9, course.window.as_secs_f64());
        let timeline: Vec<Interval> = self
            .deliveries
            .iter()
            .enumerate()
            .map(|(number, &count)| {
                let (from, to) = (number as f64 * slice_seconds, (number + 1) as f64 * slice_seconds);
                let to = to.min(window_seconds);
                slices.interval(number..number + 1, to, count as f64 / (to - from))
            })
            .collect();
        Duelist {
            contender: self.contender,
            sent: self.due,
            delivered: self.delivered_due,
            delivered_percent: self.delivered_due as f64 * 100.0 / self.due.max(1) as f64,
            reported_missing: self.reported_missing,
            above: latencies.summary(),
            behind_us_max: behind_ns as f64 / 1e3,
            timeline,
        }
    }
}
