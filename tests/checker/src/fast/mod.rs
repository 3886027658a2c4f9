//! Runs with fast topics: publishers and readers over links that lose, repeat, reorder and block UDP.
//!
//! [`run`] is one run; [`suite`] lists those that have to be valid before fast topics may be called so. The server is
//! the real binary and nothing happens to it: what is broken here is the network, and what is judged is what was
//! delivered, what was said to be missing, how old it was, and what a key showed in the end.

mod clients;
mod publisher;
mod reader;
mod waiting;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio::time::Instant;
use twinlane::{Mode, TopicSpec};
use twinlane_tests::Seeded;

use crate::history::{
    Clock, Event, FastEvent, FastMode, FastPlan, FastStats, History, HistoryReader, Recorder,
};
use crate::judge::{FastJudge, FastReport, Verdict};
use crate::nemesis::{Link, LinkFaults, Links};
use crate::payload::{Payloads, mix};
use crate::server::{Launch, Server};
use clients::{Client, Over};

/// How long publishers keep silent before they close, so that every key rests once more.
const REST: Duration = Duration::from_millis(1_500);
/// How long the end of a stream may take to reach everybody.
const END_PATIENCE: Duration = Duration::from_secs(12);
/// How long a publisher may take to come to its end.
const CLOSE_PATIENCE: Duration = Duration::from_secs(40);

/// One run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The server's binary.
    pub program: PathBuf,
    /// Where the run's files go: history, what the server said.
    pub dir: PathBuf,
    /// Of everything random.
    pub seed: u64,
    /// For how long.
    pub run: Duration,
    /// What links do to datagrams.
    pub faults: LinkFaults,
    /// UDP is blocked from time to time, for each client by itself.
    pub switches: bool,
    /// Messages a second that all publishers together try for.
    pub rate: u32,
    /// Bytes of the largest payload.
    pub payload_bytes_max: u32,
    /// Fewer delivered messages say nothing.
    pub delivered_min: u64,
    /// Fewer deadlines and resting keys that can be judged closely say nothing.
    pub judged_min: u64,
    /// Say every few seconds how far it is.
    pub progress: bool,
}

impl Settings {
    /// A minute without any fault.
    #[must_use]
    pub fn new(program: PathBuf, dir: PathBuf) -> Self {
        Self {
            program,
            dir,
            seed: 1,
            run: Duration::from_secs(60),
            faults: LinkFaults::default(),
            switches: false,
            rate: 2_000,
            payload_bytes_max: 1_024,
            delivered_min: 1_000,
            judged_min: 100,
            progress: false,
        }
    }

    /// Where the history is.
    #[must_use]
    pub fn history(&self) -> PathBuf {
        self.dir.join("history")
    }

    fn plan(&self) -> FastPlan {
        FastPlan {
            seed: self.seed,
            lose_permille: self.faults.lose_permille,
            repeat_permille: self.faults.repeat_permille,
            delay_permille: self.faults.delay_permille,
            switches: self.switches,
            delivered_min: self.delivered_min,
            judged_min: self.judged_min,
        }
    }
}

/// The faults of all runs that have to be valid, each with its name.
pub const SUITE: [(&str, LinkFaults); 8] = [
    ("no loss", LinkFaults { lose_permille: 0, repeat_permille: 0, delay_permille: 0 }),
    ("1 % loss", LinkFaults { lose_permille: 10, repeat_permille: 0, delay_permille: 0 }),
    ("5 % loss", LinkFaults { lose_permille: 50, repeat_permille: 0, delay_permille: 0 }),
    ("10 % loss", LinkFaults { lose_permille: 100, repeat_permille: 0, delay_permille: 0 }),
    ("20 % loss", LinkFaults { lose_permille: 200, repeat_permille: 0, delay_permille: 0 }),
    ("30 % loss", LinkFaults { lose_permille: 300, repeat_permille: 0, delay_permille: 0 }),
    ("50 % reordered", LinkFaults { lose_permille: 0, repeat_permille: 0, delay_permille: 500 }),
    ("50 % repeated", LinkFaults { lose_permille: 0, repeat_permille: 500, delay_permille: 0 }),
];

/// Does all runs of [`SUITE`], each in a folder of its own, and tells of each. Returns whether all were valid.
///
/// # Errors
///
/// As [`run`].
pub async fn suite(base: &Settings, mut tell: impl FnMut(&str, &FastReport)) -> anyhow::Result<bool> {
    let mut all_valid = true;
    for (name, faults) in SUITE {
        let dir = base.dir.join(name.replace([' ', '%'], ""));
        let settings = Settings { dir, faults, ..base.clone() };
        let report = run(&settings).await.with_context(|| name.to_owned())?;
        tell(name, &report);
        all_valid &= report.verdict == Verdict::Valid;
    }
    Ok(all_valid)
}

/// One run from beginning to end.
///
/// # Errors
///
/// Something that is no part of the run failed: the binary, the disk of this process, a free port.
pub async fn run(settings: &Settings) -> anyhow::Result<FastReport> {
    std::fs::create_dir_all(&settings.dir)?;
    Launch::make_log_dir(&settings.dir)?;
    let mut server = Server::start(Launch::new(settings.program.clone(), settings.dir.clone())).await?;
    let links = Links::start()?;
    let mut run = Run::start(settings, &server, &links).await?;
    run.go_on(&server, &links).await?;
    let ended = server.ended()?;
    run.finish().await?;
    anyhow::ensure!(ended.is_none(), "the server ended by itself: {ended:?}; see server.log");
    server.kill().await?;
    judge_file(&settings.history())
}

/// Judges a kept history of fast topics.
///
/// # Errors
///
/// The file cannot be read, or is a history of other topics.
pub fn judge_file(path: &Path) -> anyhow::Result<FastReport> {
    let mut events = HistoryReader::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut judge = FastJudge::default();
    while let Some(event) = events.next_event()? {
        let Event::Fast(event) = event else {
            anyhow::bail!("{} is a history of reliable topics", path.display());
        };
        judge.event(&event);
    }
    Ok(judge.finish())
}

/// Whether a kept history is one of fast topics.
///
/// # Errors
///
/// The file cannot be read.
pub fn is_fast(path: &Path) -> anyhow::Result<bool> {
    let mut events = HistoryReader::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(matches!(events.next_event()?, Some(Event::Fast(_))))
}

/// A topic of the run.
#[derive(Clone, Copy, Debug)]
struct Topic {
    name: &'static str,
    mode: FastMode,
    deadline_ms: u32,
    /// Some messages have a deadline of their own.
    own_deadlines: bool,
}

/// One for each mode with deadlines and one without, where that makes a difference.
const TOPICS: [Topic; 5] = [
    Topic { name: "fast/ordered", mode: FastMode::Ordered, deadline_ms: 0, own_deadlines: false },
    Topic { name: "fast/ordered-mortal", mode: FastMode::Ordered, deadline_ms: 50, own_deadlines: true },
    Topic { name: "fast/latest", mode: FastMode::Latest, deadline_ms: 0, own_deadlines: false },
    Topic { name: "fast/latest-mortal", mode: FastMode::Latest, deadline_ms: 100, own_deadlines: false },
    Topic { name: "fast/unordered", mode: FastMode::Unordered, deadline_ms: 0, own_deadlines: true },
];

impl Topic {
    fn spec(&self, payload_bytes_max: u32) -> TopicSpec {
        let mode = match self.mode {
            FastMode::Ordered => Mode::Ordered,
            FastMode::Latest => Mode::Latest,
            FastMode::Unordered => Mode::Unordered,
        };
        let spec = TopicSpec::fast().with_mode(mode).with_payload_bytes_max(payload_bytes_max);
        spec.with_deadline(Duration::from_millis(self.deadline_ms.into()))
    }
}

/// What all tasks of a run share.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    history: History,
    publishing: AtomicBool,
    /// Slow readers are not slow any more.
    draining: AtomicBool,
    reading: AtomicBool,
    next_publisher: AtomicU16,
    next_reader: AtomicU16,
    /// By topic: messages published.
    published: [AtomicU64; TOPICS.len()],
    delivered: AtomicU64,
}

impl Shared {
    fn clock(&self) -> Clock {
        self.history.clock()
    }

    fn payloads(&self, topic: u16) -> Payloads {
        Payloads::new(self.settings.seed, topic).of_at_most(self.settings.payload_bytes_max as usize)
    }

    fn seed(&self, of: u64) -> u64 {
        mix(self.settings.seed ^ mix(of))
    }
}

/// Which readers and publishers there are: what carries each, and whether it reads as fast as it can.
const PUBLISHING: [Over; 4] = [Over::Both, Over::Both, Over::Tcp, Over::Quic];
const READING: [(Over, bool); 5] =
    [(Over::Both, true), (Over::Both, true), (Over::Tcp, true), (Over::Quic, true), (Over::Both, false)];

/// A run under way.
struct Run {
    shared: Arc<Shared>,
    recorder: Recorder,
    clients: Vec<Client>,
    publishers: JoinSet<()>,
    readers: JoinSet<()>,
    /// What the readers that were there from the beginning account for, each with its topic.
    accounts: Vec<(u16, Arc<AtomicU64>)>,
    waiting: waiting::Watch,
}

impl Run {
    /// Everybody is connected and subscribed, and the faults begin with the first message.
    async fn start(settings: &Settings, server: &Server, links: &Links) -> anyhow::Result<Self> {
        let history = History::create(&settings.history())?;
        let mut recorder = history.recorder();
        let mut record = |event| recorder.record(&Event::Fast(event));
        record(FastEvent::Plan(settings.plan()));
        let declaring = server.session().await?;
        for (topic, of) in (0..).zip(TOPICS) {
            let spec = of.spec(settings.payload_bytes_max);
            declaring.declare(of.name, spec).await?;
            record(FastEvent::Topic { topic, mode: of.mode });
        }
        declaring.close().await;
        let waiting = waiting::Watch::start(server.id().context("the server is gone")?, &history)?;
        let shared = Arc::new(Shared {
            settings: settings.clone(),
            history,
            publishing: AtomicBool::new(true),
            draining: AtomicBool::new(false),
            reading: AtomicBool::new(true),
            next_publisher: AtomicU16::new(0),
            next_reader: AtomicU16::new(0),
            published: std::array::from_fn(|_| AtomicU64::new(0)),
            delivered: AtomicU64::new(0),
        });
        let (publishers, readers, accounts) = (JoinSet::new(), JoinSet::new(), Vec::new());
        let mut run = Self { shared, recorder, clients: Vec::new(), publishers, readers, accounts, waiting };
        for (over, prompt) in READING {
            run.add_reader(server, links, over, prompt).await?;
        }
        for over in PUBLISHING {
            run.add_publisher(server, links, over).await?;
        }
        run.clients.iter().for_each(|client| client.link.disturb(settings.faults));
        Ok(run)
    }

    async fn add_client(&mut self, server: &Server, links: &Links, over: Over) -> anyhow::Result<u16> {
        let number = self.clients.len() as u16;
        let link = links.link(server.launch().listen, self.shared.seed(u64::from(number) << 8)).await?;
        let client = Client::connect(&self.shared, server, link, over, number).await?;
        self.clients.push(client);
        Ok(number)
    }

    async fn add_reader(
        &mut self,
        server: &Server,
        links: &Links,
        over: Over,
        prompt: bool,
    ) -> anyhow::Result<()> {
        let number = self.add_client(server, links, over).await?;
        for topic in 0..TOPICS.len() as u16 {
            let session = &self.clients[usize::from(number)].session;
            let reader = reader::Reader::open(&self.shared, session, topic, number, prompt).await?;
            if self.publishers.is_empty() {
                self.accounts.push((topic, reader.account()));
            }
            self.readers.spawn(reader.read());
        }
        Ok(())
    }

    async fn add_publisher(&mut self, server: &Server, links: &Links, over: Over) -> anyhow::Result<()> {
        let number = self.add_client(server, links, over).await?;
        for topic in 0..TOPICS.len() as u16 {
            let session = &self.clients[usize::from(number)].session;
            let stream = publisher::Stream::open(&self.shared, session, topic, number).await?;
            self.publishers.spawn(stream.publish());
        }
        Ok(())
    }

    /// The part of the run in which the links are bad. After a third of it one more reader comes.
    async fn go_on(&mut self, server: &Server, links: &Links) -> anyhow::Result<()> {
        let settings = self.shared.settings.clone();
        let began = Instant::now();
        let mut switches = JoinSet::new();
        if settings.switches {
            for client in self.clients.iter().filter(|client| client.over == Over::Both) {
                let random = Seeded::new(self.shared.seed(u64::from(client.number) << 16));
                let until = began + settings.run.saturating_sub(Duration::from_secs(5));
                let (link, recorder) = (Arc::clone(&client.link), self.recorder.sibling());
                switches.spawn(switch(link, client.number, random, recorder, until));
            }
        }
        tokio::time::sleep_until(began + settings.run / 3).await;
        self.add_reader(server, links, Over::Both, true).await?;
        if let Some(client) = self.clients.last() {
            client.link.disturb(settings.faults);
        }
        while began.elapsed() < settings.run {
            let tick = Duration::from_secs(5).min(settings.run - began.elapsed());
            tokio::time::sleep(tick).await;
            if settings.progress {
                let published: u64 =
                    self.shared.published.iter().map(|count| count.load(Ordering::Relaxed)).sum();
                let delivered = self.shared.delivered.load(Ordering::Relaxed);
                let seconds = began.elapsed().as_secs();
                eprintln!("{seconds} s: {published} published, {delivered} delivered");
            }
        }
        while switches.join_next().await.is_some() {}
        Ok(())
    }

    /// Lets everything come to its end: the history is then complete.
    async fn finish(mut self) -> anyhow::Result<()> {
        self.shared.publishing.store(false, Ordering::Release);
        self.shared.draining.store(true, Ordering::Release);
        let closed = async { while self.publishers.join_next().await.is_some() {} };
        // A publisher that does not come to its end has no `Closed` in the history, and the judge says so.
        let _ = tokio::time::timeout(REST + CLOSE_PATIENCE, closed).await;
        self.publishers.shutdown().await;
        let until = Instant::now() + END_PATIENCE;
        while !self.is_accounted() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Those that began later, or wait for the rest of an end.
        tokio::time::sleep(REST).await;
        self.shared.reading.store(false, Ordering::Release);
        while self.readers.join_next().await.is_some() {}
        self.recorder.record(&Event::Fast(FastEvent::End { at_us: self.recorder.now_us() }));
        for client in self.clients.drain(..) {
            client.close(&mut self.recorder).await;
        }
        self.waiting.stop();
        Ok(())
    }

    fn is_accounted(&self) -> bool {
        let published = |topic: &u16| self.shared.published[usize::from(*topic)].load(Ordering::Acquire);
        self.accounts.iter().all(|(topic, account)| account.load(Ordering::Acquire) >= published(topic))
    }
}

/// Blocks and unblocks one client's UDP until the run is nearly over.
async fn switch(link: Arc<Link>, client: u16, mut random: Seeded, mut recorder: Recorder, until: Instant) {
    loop {
        let mut seconds = |least: u64, most: u64| {
            Duration::from_millis(1_000 * least + random.below(1_000 * (most - least)))
        };
        let (open, blocked) = (seconds(5, 15), seconds(4, 10));
        if Instant::now() + open + blocked > until {
            return;
        }
        tokio::time::sleep(open).await;
        let (up, down) = [(true, true), (true, false), (false, true)][random.below(3) as usize];
        let from_us = recorder.now_us();
        link.block(up, down);
        tokio::time::sleep(blocked).await;
        link.block(false, false);
        let to_us = recorder.now_us();
        recorder.record(&Event::Fast(FastEvent::Blocked { client, from_us, to_us }));
    }
}

fn stats_of(stats: &twinlane::SubscriptionStats) -> FastStats {
    FastStats {
        delivered: stats.delivered,
        lost: stats.lost,
        late: stats.late,
        expired: stats.expired,
        coalesced: stats.coalesced,
        dropped_slow: stats.dropped_slow,
        no_route: stats.no_route,
        not_retained: stats.not_retained,
        discarded: stats.discarded,
    }
}
