//! Writes a log anew: what is live, or what can still be read. The two directories change places in one step.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::config::LogConfig;
use crate::disk::{Disk, RealDisk};
use crate::error::{Failure, OpenError};
use crate::evacuate::{Evacuation, Step};
use crate::fold::Fold;
use crate::index::{Index, Readable};
use crate::log::Shared;
use crate::opening::open;
use crate::position::Position;
use crate::record::{self, Builder, EntryRef};
use crate::recovery::Recovered;
use crate::scan::{Item, Record, RunFacts};
use crate::stage::{Batch, Staged};
use crate::tool::survey::{Survey, survey};
use crate::tool::{Access, Damage};
use crate::writer::Writer;

/// One step of copying.
const STEP_BYTES: usize = 1 << 20;

/// What became of a log that was written anew.
#[derive(Clone, Debug, Default)]
pub struct RebuildReport {
    /// Length of its segments' content before.
    pub bytes_before: u64,
    /// And now.
    pub bytes_after: u64,
    /// What could not be read.
    pub damage: Vec<Damage>,
    /// Topics that lost something, or may have.
    pub lost: Vec<LostTopic>,
    /// Where the log lies as it was.
    pub kept_at: Option<PathBuf>,
}

/// A topic that lost something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostTopic {
    /// The owner's number.
    pub id: u32,
    /// Offsets that are certainly lost: from, to (exclusive). Empty: its newest messages may be.
    pub missing: Vec<(u64, u64)>,
}

/// Writes the log in `dir` anew with what is live only. A log that is damaged is left as it is.
///
/// # Errors
///
/// [`OpenError::Damaged`]: check and repair it first. [`OpenError::Locked`]: stop the server first.
pub fn compact(dir: &Path) -> Result<RebuildReport, OpenError> {
    let source = Source::read(dir)?;
    if let Some(Damage { segment, position, what, .. }) = source.survey.damage.first() {
        let (segment, position, what) = (*segment, *position, what.clone());
        return Err(OpenError::Damaged { dir: dir.to_owned(), segment, position, what });
    }
    if let Some(lost) = source.lost_topics().first() {
        let what = format!("offsets of topic {} are missing", lost.id);
        return Err(OpenError::Damaged { dir: dir.to_owned(), segment: 0, position: 0, what });
    }
    let mut report = source.rebuild(dir, &mut |_, _| {})?;
    if let Some(old) = report.kept_at.take() {
        std::fs::remove_dir_all(&old).map_err(|source| OpenError::Io { path: old, source })?;
    }
    Ok(report)
}

/// Writes the log in `dir` anew with everything that can be read; the old one is kept beside it.
///
/// `mark` may rewrite the value of each topic that lost something, or may have: its owner begins a new epoch so.
///
/// # Errors
///
/// [`OpenError::Locked`]: stop the server first. [`OpenError::Io`] if there is no room for a second log.
pub fn repair(dir: &Path, mut mark: impl FnMut(u32, &mut Vec<u8>)) -> Result<RebuildReport, OpenError> {
    Source::read(dir)?.rebuild(dir, &mut mark)
}

/// Everything that can be read of a log.
struct Source {
    survey: Survey,
    fold: Fold,
    index: Index,
    /// The newest original of each topic.
    newest: HashMap<u32, Position>,
}

impl Source {
    fn read(dir: &Path) -> Result<Self, OpenError> {
        let (mut fold, mut newest) = (Fold::lenient(dir), HashMap::new());
        let survey = survey(dir, Access::Alone, |record| take(&mut fold, &mut newest, record))?;
        let mut index = Index::default();
        for segment in &survey.segments {
            let (number, end) = (segment.found.header.number, segment.end);
            let (mask, file) = (segment.found.mask(), Arc::clone(&segment.found.file));
            index.add_segment(number, Readable { mask, file, end });
            fold.books.segment(number).is_ended = true;
        }
        fold.books.recovered();
        fold.finish_topics(&mut index, &mut Recovered::default())?;
        Ok(Self { survey, fold, index, newest })
    }

    /// Whoever has a hole, and whoever has nothing behind the last damage that shows its end is the end.
    fn lost_topics(&self) -> Vec<LostTopic> {
        let damaged = self.survey.damage.last().map(|damage| Position::new(damage.segment, damage.position));
        let lost = self.fold.lost.iter().flatten();
        let mut topics: BTreeMap<u32, Vec<(u64, u64)>> =
            lost.map(|(id, missing)| (*id, missing.clone())).collect();
        for id in self.fold.topics.keys() {
            if damaged.is_some_and(|damaged| self.newest.get(id).is_none_or(|newest| *newest < damaged)) {
                topics.entry(*id).or_default();
            }
        }
        topics.into_iter().map(|(id, missing)| LostTopic { id, missing }).collect()
    }

    fn rebuild(
        self,
        dir: &Path,
        mark: &mut dyn FnMut(u32, &mut Vec<u8>),
    ) -> Result<RebuildReport, OpenError> {
        let io = |source| OpenError::Io { path: dir.to_owned(), source };
        let new_dir = beside(dir, "rebuilt");
        if new_dir.exists() {
            std::fs::remove_dir_all(&new_dir).map_err(io)?;
        }
        let mut target = Target::create(&new_dir, self.segment_bytes())?;
        let lost = self.lost_topics();
        for segment in &self.survey.segments {
            target.copy(segment.found.header.number, &self).map_err(io)?;
        }
        target.finish(&self, &lost, mark).map_err(io)?;
        let bytes = |end: u32| u64::from(end);
        let mut report = RebuildReport {
            bytes_before: self.survey.segments.iter().map(|segment| bytes(segment.end)).sum(),
            bytes_after: target.shared.status().bytes_written,
            damage: self.survey.damage.clone(),
            lost,
            kept_at: None,
        };
        drop(target);
        // In one step: a power loss leaves the one or the other, and never nothing.
        let exchanged = renameat_with(CWD, &new_dir, CWD, dir, RenameFlags::EXCHANGE);
        exchanged.map_err(|error| io(error.into()))?;
        let kept_at = beside(dir, "before-repair");
        let kept_at = if kept_at.exists() { new_dir } else { rename(&new_dir, kept_at).map_err(io)? };
        if let Some(parent) = dir.parent().filter(|parent| *parent != Path::new("")) {
            RealDisk.sync_dir(parent).map_err(io)?;
        }
        report.kept_at = Some(kept_at);
        Ok(report)
    }

    fn segment_bytes(&self) -> u64 {
        let first = self.survey.segments.first();
        first.map_or(LogConfig::default().segment_bytes, |segment| {
            u64::from(segment.found.header.segment_bytes)
        })
    }
}

fn take(fold: &mut Fold, newest: &mut HashMap<u32, Position>, record: &Record<'_>) {
    let segment = record.position.segment();
    for raw in record::raw_entries(record.bytes) {
        match record::decode(raw) {
            Some(EntryRef::Run(run)) => {
                let facts = RunFacts::new(&run, record.position, record.header.time_us);
                if !facts.is_copy {
                    newest.insert(run.topic, record.position);
                }
                fold.item(Item::Run(facts), segment);
            }
            Some(EntryRef::End) | None => {}
            Some(_) => fold.item(Item::Other(raw.into()), segment),
        }
    }
}

/// The log that is being written.
struct Target {
    writer: Writer,
    shared: Arc<Shared>,
}

impl Target {
    fn create(dir: &Path, segment_bytes: u64) -> Result<Self, OpenError> {
        let config = LogConfig { segment_bytes, ..LogConfig::default() };
        let opened = open(Arc::new(RealDisk), dir, &config)?;
        let shared = Arc::new(Shared::new(opened.index, &opened.base, &config));
        Ok(Self { writer: Writer::new(Arc::clone(&shared), opened.base), shared })
    }

    fn copy(&mut self, segment: u32, source: &Source) -> io::Result<()> {
        let mut evacuation = Evacuation::rebuilding(segment, &source.fold.books);
        loop {
            let mut batch = Batch::default();
            let step =
                evacuation.step(&source.fold.books, &source.index, &mut batch, STEP_BYTES, STEP_BYTES)?;
            self.write(&mut batch)?;
            match step {
                Step::More => {}
                Step::Last => return Ok(()),
                Step::Unreadable => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }

    /// What no single segment says: where topics begin and end, what is missing, and who begins anew.
    fn finish(
        &mut self,
        source: &Source,
        lost: &[LostTopic],
        mark: &mut dyn FnMut(u32, &mut Vec<u8>),
    ) -> io::Result<()> {
        let stamp = source.fold.books.next_stamp();
        for (id, topic) in source.index.topics() {
            let mut batch = Batch::default();
            let mut builder = Builder::new(&mut batch.bytes);
            builder.bounds(id, topic.oldest, topic.next);
            topic.holes().iter().for_each(|(from, to)| builder.hole(id, *from, *to));
            if lost.iter().any(|topic| topic.id == id) {
                let mut value =
                    source.fold.topics.get(&id).map(|(_, value)| value.clone()).unwrap_or_default();
                mark(id, &mut value);
                builder.topic(stamp, id, &value);
            }
            let bytes = builder.finish();
            batch.records.push(Staged { bytes, listener: None, is_owners: false });
            self.write(&mut batch)?;
        }
        Ok(())
    }

    fn write(&mut self, batch: &mut Batch) -> io::Result<()> {
        self.writer.write_own(batch).map_err(|why| match why {
            Failure::NoSpace => io::ErrorKind::StorageFull.into(),
            Failure::Failed(kind) => kind.into(),
        })
    }
}

/// `dir` with another ending.
fn beside(dir: &Path, ending: &str) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(ending);
    dir.with_file_name(name)
}

fn rename(from: &Path, to: PathBuf) -> io::Result<PathBuf> {
    std::fs::rename(from, &to)?;
    Ok(to)
}
