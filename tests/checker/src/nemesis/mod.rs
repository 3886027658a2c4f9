//! Breaks things: the server, its disk, its clock and its network, in an order that a seed decides.
//!
//! Every fault is in the history from before its first effect until everything works again.

mod network;
mod relay;
mod small_disk;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::Signal;
use tokio::time::Instant;
use twinlane_tests::Seeded;

use crate::drive::Drive;
use crate::history::{Event, FaultKind, Recorder};
use crate::rollback::{Loss, Lost};
use crate::server::{Refused, Server};
use crate::shim::{Control, Shim};

pub use network::{Cut, Namespace};
pub use relay::{Link, LinkFaults, Links};
pub use small_disk::SmallDisk;

/// How long it may take until a full disk is felt.
const FULL_PATIENCE: Duration = Duration::from_secs(20);

/// How long a sync takes at most while a lost page cache is aimed at one.
const AIMED_SYNC_US_MAX: u64 = 20_000;
/// How long may be waited for a write, which no sync covers yet.
const AIM_PATIENCE: Duration = Duration::from_millis(300);

/// How the faults of a run follow one another.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Which there are.
    pub kinds: Vec<FaultKind>,
    /// For how long.
    pub run: Duration,
    /// Between the end of one and the begin of the next: at least this, at most twice as long.
    pub pause: Duration,
}

/// What breaks things.
#[derive(Debug)]
pub struct Nemesis {
    server: Server,
    recorder: Recorder,
    random: Seeded,
    around: Around,
    clock: Option<PathBuf>,
}

/// What the server is in. All of it goes away when it is dropped.
#[derive(Debug, Default)]
pub struct Around {
    /// A network of its own.
    pub namespace: Option<Namespace>,
    /// A disk of its own.
    pub disk: Option<SmallDisk>,
}

impl Nemesis {
    /// One that breaks `server`, and what it is in.
    #[must_use]
    pub fn new(server: Server, recorder: Recorder, seed: u64, around: Around) -> Self {
        let clock = server.launch().clock.clone();
        let mut nemesis = Self { server, recorder, random: Seeded::new(seed), around, clock };
        // A network that always loses packets is a fault from the first to the last moment.
        if nemesis.around.namespace.as_ref().is_some_and(Namespace::is_lossy) {
            nemesis.begin(FaultKind::Loss, "all the time".to_owned());
        }
        nemesis
    }

    /// The server.
    pub fn server(&mut self) -> &mut Server {
        &mut self.server
    }

    /// Breaks one thing after the other. `watch` is called about every second.
    ///
    /// # Errors
    ///
    /// The server does not start again, or something cannot be broken.
    pub async fn run(
        &mut self,
        schedule: &Schedule,
        drive: &mut Drive,
        mut watch: impl FnMut(&Drive),
    ) -> anyhow::Result<()> {
        let end = Instant::now() + schedule.run;
        let mut next_watch = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end {
            let pause_us = schedule.pause.as_micros() as u64;
            let due = Instant::now() + Duration::from_micros(pause_us + self.random.below(pause_us.max(1)));
            while Instant::now() < due.min(end) {
                tokio::time::sleep_until(due.min(end).min(next_watch)).await;
                if Instant::now() >= next_watch {
                    watch(drive);
                    next_watch += Duration::from_secs(1);
                }
            }
            self.revive(drive).await?;
            if Instant::now() >= end || schedule.kinds.is_empty() {
                continue;
            }
            let kind = schedule.kinds[self.random.below(schedule.kinds.len() as u64) as usize];
            self.inject(kind, drive).await.with_context(|| format!("fault {}", kind.name()))?;
        }
        Ok(())
    }

    /// A server that ended by itself is in the history, and is started again.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub async fn revive(&mut self, drive: &mut Drive) -> anyhow::Result<()> {
        let Some(status) = self.server.ended()? else { return Ok(()) };
        let at_us = self.recorder.now_us();
        self.recorder.record(&Event::Crashed { at_us, what: status.to_string() });
        self.server.restart().await?;
        self.ask(drive).await;
        Ok(())
    }

    /// Breaks one thing and waits until it is whole again.
    ///
    /// # Errors
    ///
    /// The server does not start again, or the thing cannot be broken.
    pub async fn inject(&mut self, kind: FaultKind, drive: &mut Drive) -> anyhow::Result<()> {
        match kind {
            FaultKind::Kill => self.kill(drive, FaultKind::Kill, None).await,
            FaultKind::Forget => {
                let loss = Loss::random(&mut self.random);
                self.kill(drive, FaultKind::Forget, Some(loss)).await
            }
            FaultKind::Stop => self.stop(drive).await,
            FaultKind::Eio => self.fail_sync(drive).await,
            FaultKind::NoSpace => self.fill_disk(drive).await,
            FaultKind::Clock => self.shift_clock().await,
            FaultKind::Partition => self.cut(kind, Cut::Both, drive).await,
            FaultKind::HalfOpen => {
                let cut = if self.random.chance(500) { Cut::ToServer } else { Cut::FromServer };
                self.cut(kind, cut, drive).await
            }
            FaultKind::Reset => self.cut(kind, Cut::Reset, drive).await,
            FaultKind::Loss => self.cut(kind, Cut::Loss, drive).await,
        }
    }

    async fn kill(&mut self, drive: &mut Drive, kind: FaultKind, loss: Option<Loss>) -> anyhow::Result<()> {
        let what = loss.map_or_else(String::new, |loss| format!("{loss:?}"));
        self.begin(kind, what);
        // Some at any moment, most when there is something to lose.
        if loss.is_some() && self.random.chance(800) {
            self.aim().await?;
        }
        self.server.kill().await?;
        self.come_back(drive, kind, loss, true).await
    }

    /// Makes syncs slow and kills the server soon after a write: whoever is told too early was told just now.
    async fn aim(&mut self) -> anyhow::Result<()> {
        let shim = self.shim()?;
        let sync_us_max = shim.get(Control::SyncUsMax)?;
        shim.set(Control::SyncUsMax, AIMED_SYNC_US_MAX)?;
        let deadline = Instant::now() + AIM_PATIENCE;
        let before = shim.get(Control::Writes)?;
        while shim.get(Control::Writes)? == before && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
        let later_us = self.random.below(AIMED_SYNC_US_MAX / 4);
        tokio::time::sleep(Duration::from_micros(later_us)).await;
        self.server.signal(Signal::KILL)?;
        Ok(shim.set(Control::SyncUsMax, sync_us_max)?)
    }

    /// The server is dead.
    async fn come_back(
        &mut self,
        drive: &mut Drive,
        kind: FaultKind,
        loss: Option<Loss>,
        effective: bool,
    ) -> anyhow::Result<()> {
        let lost = match loss {
            Some(loss) => self.shim()?.lose(loss, &mut self.random)?,
            None => Lost::default(),
        };
        self.server.restart().await?;
        self.healed(kind, effective, lost.bytes);
        self.ask(drive).await;
        Ok(())
    }

    async fn stop(&mut self, drive: &mut Drive) -> anyhow::Result<()> {
        let stopped = Duration::from_millis(100 + self.random.below(2_900));
        self.begin(FaultKind::Stop, format!("{stopped:?}"));
        self.server.signal(Signal::STOP)?;
        tokio::time::sleep(stopped).await;
        self.server.signal(Signal::CONT)?;
        self.healed(FaultKind::Stop, true, 0);
        self.ask(drive).await;
        Ok(())
    }

    /// A sync fails; some time later the power does, and what the failed sync should have covered is gone.
    async fn fail_sync(&mut self, drive: &mut Drive) -> anyhow::Result<()> {
        let nth = 1 + self.random.below(10);
        self.begin(FaultKind::Eio, format!("sync {nth} from now"));
        let shim = self.shim()?;
        let before = shim.get(Control::Errors)?;
        shim.set(Control::FailSyncIn, nth)?;
        let deadline = Instant::now() + Duration::from_secs(2);
        while shim.get(Control::Errors)? == before && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(100 + self.random.below(400))).await;
        shim.set(Control::FailSyncIn, 0)?;
        let effective = shim.get(Control::Errors)? > before;
        self.server.kill().await?;
        self.come_back(drive, FaultKind::Eio, Some(Loss::Whole), effective).await
    }

    async fn fill_disk(&mut self, drive: &mut Drive) -> anyhow::Result<()> {
        let full = Duration::from_millis(200 + self.random.below(1_500));
        self.begin(FaultKind::NoSpace, format!("{full:?}"));
        let effective = if let Some(disk) = &self.around.disk {
            disk.fill()?;
            // The log has some room of its own left; it is full when somebody is told so.
            let (before, deadline) = (drive.refused(), Instant::now() + FULL_PATIENCE);
            while drive.refused() == before && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let effective = drive.refused() > before;
            tokio::time::sleep(full).await;
            disk.make_room()?;
            effective
        } else {
            let shim = self.shim()?;
            let before = shim.get(Control::Errors)?;
            shim.set(Control::NoSpace, 1)?;
            tokio::time::sleep(full).await;
            shim.set(Control::NoSpace, 0)?;
            shim.get(Control::Errors)? > before
        };
        self.healed(FaultKind::NoSpace, effective, 0);
        self.ask(drive).await;
        Ok(())
    }

    async fn shift_clock(&mut self) -> anyhow::Result<()> {
        let clock = self.clock.clone().context("the server was started with an ordinary clock")?;
        let shift_s = self.random.below(4 * 3_600) as i64 - 2 * 3_600;
        self.begin(FaultKind::Clock, format!("{shift_s:+} s"));
        // At once, so that the server never reads a half.
        let new = clock.with_extension("new");
        std::fs::write(&new, format!("{shift_s:+}\n"))?;
        std::fs::rename(&new, &clock)?;
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.healed(FaultKind::Clock, true, 0);
        Ok(())
    }

    async fn cut(&mut self, kind: FaultKind, cut: Cut, drive: &mut Drive) -> anyhow::Result<()> {
        let lasts = match cut {
            Cut::Reset => Duration::from_millis(100 + self.random.below(400)),
            _ => Duration::from_millis(500 + self.random.below(4_500)),
        };
        self.begin(kind, format!("{cut:?} {lasts:?}"));
        let namespace =
            self.around.namespace.as_ref().context("the server is not in a network of its own")?;
        namespace.apply(cut)?;
        tokio::time::sleep(lasts).await;
        namespace.heal()?;
        self.healed(kind, true, 0);
        self.ask(drive).await;
        Ok(())
    }

    /// Asks how the server is doing. No answer is in the history as well.
    async fn ask(&mut self, drive: &mut Drive) {
        let asking = drive.ask_recovered(&self.server);
        let _silent = tokio::time::timeout(Duration::from_secs(8), asking).await;
    }

    /// The server refuses to start: the last thing that its history says.
    pub fn not_started(&mut self, refused: &Refused) {
        let at_us = self.recorder.now_us();
        self.recorder.record(&Event::NotStarted { at_us, what: refused.said.clone() });
    }

    fn begin(&mut self, kind: FaultKind, what: String) {
        let at_us = self.recorder.now_us();
        self.recorder.record(&Event::Fault { at_us, kind, what });
    }

    fn healed(&mut self, kind: FaultKind, effective: bool, lost_bytes: u64) {
        let at_us = self.recorder.now_us();
        self.recorder.record(&Event::Healed { at_us, kind, effective, lost_bytes });
    }

    fn shim(&self) -> anyhow::Result<Shim> {
        self.server.launch().shim.clone().context("the server was started without the forgetting disk")
    }

    /// The server, whole again.
    ///
    /// # Errors
    ///
    /// The network cannot be repaired.
    pub fn into_server(mut self) -> anyhow::Result<(Server, Around)> {
        if let Some(namespace) = &mut self.around.namespace {
            let was_lossy = namespace.is_lossy();
            namespace.calm()?;
            if was_lossy {
                self.healed(FaultKind::Loss, true, 0);
            }
        }
        Ok((self.server, self.around))
    }
}
