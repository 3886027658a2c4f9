//! The runs: a workload, what is broken meanwhile, and the verdict.
//!
//! [`run`] is one run with faults of choice; the others are made of it. All of them are called by the program and
//! by tests.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use crate::drive::{Drive, Group, Workload};
use crate::history::{FaultKind, Plan};
use crate::judge::{Invariant, Report, Verdict};
use crate::nemesis::{Around, Namespace, Nemesis, Schedule, SmallDisk};
use crate::server::{Launch, Refused, Server, has_faketime};
use crate::shim::{Control, Shim, build_library};

/// A sync takes up to this long, so that there is time to die before it is done.
const SYNC_US_MAX: u64 = 2_000;

/// One run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The server's binary.
    pub program: PathBuf,
    /// Where the run's files go: data, history, what the server said.
    pub dir: PathBuf,
    /// What is driven.
    pub workload: Workload,
    /// What is broken.
    pub faults: Vec<FaultKind>,
    /// For how long.
    pub run: Duration,
    /// Between two faults, at least.
    pub pause: Duration,
    /// Fewer acknowledged messages say nothing.
    pub acked_min: u64,
    /// Fewer faults say nothing.
    pub faults_min: u64,
    /// Judge L1.
    pub live: bool,
    /// A fault that is built into the server.
    pub plant: Option<String>,
    /// The server is in a network of its own, which always loses this many packets in a thousand.
    pub network: Option<(u8, u32)>,
    /// Its data is on a small disk of its own, which gets full. Lost page caches are not possible there.
    pub small_disk: bool,
    /// Say every few seconds how far it is.
    pub progress: bool,
    /// The library of the forgetting disk, where it is built already.
    pub library: Option<PathBuf>,
}

impl Settings {
    /// A minute of kills, lost page caches and stops.
    #[must_use]
    pub fn new(program: PathBuf, dir: PathBuf) -> Self {
        Self {
            program,
            dir,
            workload: Workload::default(),
            faults: vec![FaultKind::Kill, FaultKind::Forget, FaultKind::Stop],
            run: Duration::from_secs(60),
            pause: Duration::from_millis(250),
            acked_min: 1_000,
            faults_min: 1,
            live: true,
            plant: None,
            network: None,
            small_disk: false,
            progress: false,
            library: None,
        }
    }

    /// Where the history is.
    #[must_use]
    pub fn history(&self) -> PathBuf {
        self.dir.join("history")
    }

    /// Builds the forgetting disk's library in the run's folder.
    pub(crate) fn build_library(&self) -> anyhow::Result<PathBuf> {
        std::fs::create_dir_all(&self.dir)?;
        let library = self.dir.join("forget.so");
        build_library(&library)?;
        Ok(library)
    }

    pub(crate) fn plan(&self) -> Plan {
        Plan {
            seed: self.workload.seed,
            acked_min: self.acked_min,
            faults_min: self.faults_min,
            live: self.live,
            max_deliver: Group::MAX_DELIVER,
            ack_wait_us: Group::ACK_WAIT.as_micros() as u64,
        }
    }

    /// How the server is started, with the disk, clock and network that the faults need.
    pub(crate) fn launch(&self, namespace: Option<&Namespace>) -> anyhow::Result<Launch> {
        let mut launch = Launch::new(self.program.clone(), self.dir.clone());
        launch.plant.clone_from(&self.plant);
        launch.topics = self.workload.topic_flags();
        if let Some(namespace) = namespace {
            launch.listen = namespace.addr();
            launch.namespace = Some(namespace.name().to_owned());
        }
        let log = Launch::make_log_dir(&self.dir)?;
        if self.workload.durable && !self.small_disk {
            let library = match &self.library {
                Some(library) => library.clone(),
                None => self.build_library()?,
            };
            let shim = Shim::new(&library, &self.dir, &log)?;
            shim.set(Control::SyncUsMax, SYNC_US_MAX)?;
            launch.shim = Some(shim);
        }
        if self.faults.contains(&FaultKind::Clock) {
            anyhow::ensure!(has_faketime(), "clock faults need libfaketime: install the package `faketime`");
            let clock = self.dir.join("clock");
            std::fs::write(&clock, "+0\n")?;
            launch.clock = Some(clock);
        }
        Ok(launch)
    }
}

/// One run from beginning to end.
///
/// # Errors
///
/// Something that is no part of the run failed: the binary, the disk of this process, a missing tool. A server that
/// refuses to start again after a fault is none of these: that is a broken promise, and the end of the run.
pub async fn run(settings: &Settings) -> anyhow::Result<Report> {
    std::fs::create_dir_all(&settings.dir)?;
    let around = Around {
        namespace: settings.network.map(|(net, lossy)| Namespace::new(net, lossy)).transpose()?,
        disk: settings.small_disk.then(|| SmallDisk::mount(&settings.dir.join("data"))).transpose()?,
    };
    let server = Server::start(settings.launch(around.namespace.as_ref())?).await?;
    let mut drive =
        Drive::start(&server, settings.workload.clone(), settings.plan(), &settings.history()).await?;
    let seed = crate::payload::mix(settings.workload.seed);
    let mut nemesis = Nemesis::new(server, drive.recorder(), seed, around);
    let broken = break_things(&mut nemesis, settings, &mut drive).await;
    if let Err(error) = broken {
        let refused = error.downcast_ref::<Refused>().cloned();
        nemesis.not_started(&refused.ok_or(error)?);
        drop(nemesis);
        return drive.abandon().await;
    }
    let (server, _around) = nemesis.into_server()?;
    drive.finish(&server).await
}

/// The part of a run in which things break; in the end the server works.
async fn break_things(nemesis: &mut Nemesis, settings: &Settings, drive: &mut Drive) -> anyhow::Result<()> {
    let schedule = Schedule { kinds: settings.faults.clone(), run: settings.run, pause: settings.pause };
    let mut seconds = 0;
    let watch = |drive: &Drive| {
        seconds += 1;
        if settings.progress && seconds % 5 == 0 {
            let (acked, delivered) = drive.progress();
            eprintln!("{seconds} s: {acked} acked, {delivered} delivered");
        }
    };
    nemesis.run(&schedule, drive, watch).await?;
    nemesis.revive(drive).await
}

/// A fault that can be built into the server, and what has to see it.
#[derive(Clone, Copy, Debug)]
pub struct Plant {
    /// As `serve --plant` knows it.
    pub name: &'static str,
    /// What is broken while it is looked for.
    pub faults: &'static [FaultKind],
    /// One of these has to be broken.
    pub caught_by: &'static [Invariant],
    /// It shows only in a queue.
    pub in_queue: bool,
    /// It shows only late in a publisher stream, so there is one only.
    pub one_stream: bool,
}

/// All of them. A log that finds its own damage refuses to start: that is I10.
pub const PLANTS: [Plant; 7] = [
    Plant::new("ack-early", &[FaultKind::Forget], &[Invariant::I1, Invariant::I2, Invariant::I11]),
    Plant::new("no-sync", &[FaultKind::Forget], &[Invariant::I1, Invariant::I10]),
    Plant::new("ignore-eio", &[FaultKind::Eio], &[Invariant::I1, Invariant::I10]),
    Plant::new("no-crc", &[FaultKind::Forget], &[Invariant::I9, Invariant::I2, Invariant::I5]),
    Plant::new("no-dedup", &[FaultKind::Kill], &[Invariant::I3]),
    Plant { in_queue: true, ..Plant::new("no-redelivery", &[], &[Invariant::Qa, Invariant::Qd]) },
    Plant { one_stream: true, ..Plant::new("skip", &[], &[Invariant::I1, Invariant::I6]) },
];

impl Plant {
    const fn new(name: &'static str, faults: &'static [FaultKind], caught_by: &'static [Invariant]) -> Self {
        Self { name, faults, caught_by, in_queue: false, one_stream: false }
    }

    /// What is driven while it is looked for.
    fn workload(&self, base: &Workload, seed: u64) -> Workload {
        let (topics, publishers) = if self.one_stream { (1, 1) } else { (base.topics, base.publishers) };
        let workers = if self.in_queue { 3 } else { 0 };
        Workload { seed, topics, publishers, workers, ..base.clone() }
    }
}

/// Runs a server with a planted fault until it is caught, at most `tries` times. Returns the last report and
/// whether the invariant that should see it did.
///
/// # Errors
///
/// As [`run`].
pub async fn plant(base: &Settings, plant: &Plant, tries: u64) -> anyhow::Result<(Report, bool)> {
    let mut last = None;
    for attempt in 0..tries {
        let mut settings = base.clone();
        settings.dir = base.dir.join(format!("{}-{attempt}", plant.name));
        settings.plant = Some(plant.name.to_owned());
        settings.faults = plant.faults.to_vec();
        settings.workload = plant.workload(&base.workload, base.workload.seed + attempt);
        settings.live = plant.in_queue;
        (settings.acked_min, settings.faults_min) = (1, 0);
        let report = run(&settings).await.with_context(|| format!("planted {}", plant.name))?;
        let caught = plant.caught_by.iter().any(|invariant| report.violations.times(*invariant) > 0);
        if caught {
            remove(&settings.dir);
            return Ok((report, true));
        }
        last = Some(report);
    }
    Ok((last.context("no try was made")?, false))
}

/// Removes a run's files; that they are left is no harm.
pub fn remove(dir: &Path) {
    let _left = std::fs::remove_dir_all(dir);
}

/// Whether a run may be called a success.
#[must_use]
pub fn is_success(report: &Report) -> bool {
    report.verdict == Verdict::Valid
}
