//! `twinlane log`: looks at the log of durable topics, makes it smaller, saves what can be saved.
//!
//! It needs no server; what changes the log needs it for itself.

mod dump;
mod report;

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use twinlane_log::OpenError;
use twinlane_log::tool::{self, Access, CheckReport, RebuildReport};

use crate::args::log::{CheckArgs, CompactArgs, LogAction, LogArgs, LogDir, RepairArgs};
use crate::config::LOG_FOLDER;
use crate::failure::{LogDamaged, Usage};
use crate::output::{self, rounded_bytes};
use crate::topic_record::TopicRecord;

/// Runs one of the tools.
pub(crate) fn run(args: &LogArgs) -> anyhow::Result<()> {
    match &args.action {
        LogAction::Check(args) => check(args),
        LogAction::Dump(args) => dump::run(args),
        LogAction::Compact(args) => compact(args),
        LogAction::Repair(args) => repair(args),
    }
}

fn check(args: &CheckArgs) -> anyhow::Result<()> {
    let dir = log_dir(&args.log.dir)?;
    let report = even_beside(&args.log, |access| tool::check(&dir, access))?;
    if args.json {
        output::write_json(io::stdout().lock(), &report::Object::of(&dir, &report))?;
    } else {
        output::write_text(report::text(&dir, &report).trim_end())?;
    }
    sound(&report)
}

fn compact(args: &CompactArgs) -> anyhow::Result<()> {
    let dir = log_dir(&args.log.dir)?;
    let RebuildReport { bytes_before, bytes_after, .. } = tool::compact(&dir)?;
    if !args.log.quiet {
        output::notice(format_args!("{} became {}", rounded_bytes(bytes_before), rounded_bytes(bytes_after)));
    }
    Ok(())
}

fn repair(args: &RepairArgs) -> anyhow::Result<()> {
    let dir = log_dir(&args.log.dir)?;
    let before = tool::check(&dir, Access::Alone)?;
    if before.is_sound() {
        output::write_text(format_args!("{} is sound: there is nothing to repair", dir.display()))?;
        return Ok(());
    }
    // Read before anything is written: a topic that cannot be told to begin anew must not be repaired.
    for topic in &before.topics {
        TopicRecord::read(topic.id, &topic.value)?;
    }
    output::write_text(report::text(&dir, &before).trim_end())?;
    if !args.yes {
        return Err(Usage("nothing was changed: give --yes to give up what cannot be read").into());
    }
    let report = tool::repair(&dir, |id, value| match TopicRecord::read(id, value) {
        Ok(record) => *value = record.in_new_epoch(),
        Err(error) => output::notice(format_args!("topic {id} keeps its epoch: {error}")),
    })
    .context("the repair failed; `twinlane log check` tells how the log is now")?;
    output::write_text(format_args!("\n{}", report::repaired(&report, &before).trim_end()))?;
    Ok(())
}

/// The log that the user means by `dir`: itself, or the one in this data directory.
fn log_dir(dir: &Path) -> anyhow::Result<PathBuf> {
    let inside = dir.join(LOG_FOLDER);
    let log = if inside.is_dir() { inside } else { dir.to_owned() };
    let names = std::fs::read_dir(&log).with_context(|| format!("cannot read {}", log.display()))?;
    let mut names = names.filter_map(Result::ok).map(|entry| entry.file_name());
    // Tools lock what they work on, and must not leave a lock where there is no log.
    match names.any(|name| name.to_string_lossy().starts_with("segment-")) {
        true => Ok(log),
        false => Err(anyhow::anyhow!("there is no log of durable topics in {}", log.display())),
    }
}

/// Looks at a log, even while a server writes to it.
fn even_beside<T>(log: &LogDir, look: impl Fn(Access) -> Result<T, OpenError>) -> anyhow::Result<T> {
    match look(Access::Alone) {
        Err(OpenError::Locked { .. }) => {
            if !log.quiet {
                output::notice("a server uses this log: what it is writing at the moment may look torn");
            }
            Ok(look(Access::Beside)?)
        }
        alone => Ok(alone?),
    }
}

fn sound(report: &CheckReport) -> anyhow::Result<()> {
    if report.is_sound() { Ok(()) } else { Err(LogDamaged.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_a_log_is_left_without_a_lock() {
        let dir = tempfile::tempdir().unwrap();
        assert!(log_dir(dir.path()).unwrap_err().to_string().contains("no log"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_data_directory_and_the_log_in_it_mean_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::create_dir(&log).unwrap();
        std::fs::write(log.join("segment-0000000000000001.log"), b"").unwrap();
        assert_eq!(log_dir(dir.path()).unwrap(), log);
        assert_eq!(log_dir(&log).unwrap(), log);
    }
}
