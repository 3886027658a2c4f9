//! The engine's log on disk: opening it, and putting back what it remembers.
//!
//! What a record means is here and in `topics::record`; how records are kept is `twinlane_log`'s business. A log that
//! does not exist is made when the first topic needs it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use twinlane_log::{Entry, Log, LogConfig, Recovered, RecoveredState, RecoveredStream, RecoveredTopic};

use crate::config::Limits;
use crate::server::sessions::ResumeKey;

/// Under this key the log has what resume secrets are made with.
const RESUME_KEY: &[u8] = b"resume key";
/// More than all subscribers can ask for at a time.
const READS_WAITING_MAX: usize = 1 << 20;

/// A data directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The log cannot be opened.
    #[error(transparent)]
    Open(#[from] twinlane_log::OpenError),
    /// The log takes nothing, not even the first record.
    #[error("the log cannot be written: {0}")]
    Append(#[from] twinlane_log::AppendError),
    /// A queue group's record is of another version.
    #[error(
        "a queue group in the log cannot be read: {why}; this directory may have been written by a newer version"
    )]
    Group {
        /// What is wrong with it.
        why: String,
    },
    /// A record in the log is of another version.
    #[error(
        "topic {topic} in the log cannot be read: {why}; this directory may have been written by a newer version"
    )]
    Record {
        /// Its number.
        topic: u32,
        /// What is wrong with it.
        why: String,
    },
}

/// Where durable topics are, once there are any.
pub(crate) struct Storage {
    dir: Option<PathBuf>,
    config: LogConfig,
    pub(crate) resume_key: Arc<ResumeKey>,
    log: OnceLock<Log>,
}

/// What the log remembers from an earlier life of the engine.
#[derive(Default)]
pub(crate) struct Remembered {
    pub(crate) topics: Vec<RecoveredTopic>,
    pub(crate) streams: Vec<RecoveredStream>,
    pub(crate) states: Vec<RecoveredState>,
}

impl Storage {
    /// Opens the log in `dir` if there is one.
    pub(crate) fn open(dir: Option<PathBuf>, limits: &Limits) -> Result<(Self, Remembered), StorageError> {
        let storage = Self {
            dir,
            config: log_config(limits),
            resume_key: Arc::new(ResumeKey::random()),
            log: OnceLock::new(),
        };
        let Some(dir) = storage.dir.as_ref().filter(|dir| dir.exists()) else {
            return Ok((storage, Remembered::default()));
        };
        let (log, recovered) = Log::open(dir, storage.config.clone())?;
        let Recovered { topics, streams, mut states, report } = recovered;
        tracing::info!(dir = %dir.display(), ?report, "data directory opened");
        let resume_key = Arc::new(take_resume_key(&log, &mut states, &storage.resume_key)?);
        let storage = Self { resume_key, log: OnceLock::from(log), ..storage };
        Ok((storage, Remembered { topics, streams, states }))
    }

    /// The log, if there is one.
    pub(crate) fn log(&self) -> Option<&Log> {
        self.log.get()
    }

    /// The log, made now if it does not exist. `None`: there is no directory for it. The caller lets nobody else make
    /// one at the same time.
    pub(crate) fn log_or_make(&self) -> Result<Option<&Log>, StorageError> {
        let Some(dir) = &self.dir else { return Ok(None) };
        if self.log.get().is_none() {
            let log = self.make(dir)?;
            let _ = self.log.set(log);
        }
        Ok(self.log.get())
    }

    fn make(&self, dir: &Path) -> Result<Log, StorageError> {
        let (log, _nothing) = Log::open(dir, self.config.clone())?;
        let key = self.resume_key.as_bytes();
        log.append(&[Entry::State { key: RESUME_KEY, value: key }], None)?;
        tracing::info!(dir = %dir.display(), "data directory made");
        Ok(log)
    }
}

fn log_config(limits: &Limits) -> LogConfig {
    let mut config = LogConfig::default();
    config.bytes_max = limits.log_bytes_max;
    config.segment_bytes = limits.log_segment_bytes;
    // A reader waits for two at most, and the number of readers is bounded.
    config.reads_waiting_max = READS_WAITING_MAX;
    config
}

/// The key that the log has, or else `fresh`, which it has from now on.
fn take_resume_key(
    log: &Log,
    states: &mut Vec<RecoveredState>,
    fresh: &ResumeKey,
) -> Result<ResumeKey, StorageError> {
    let at = states.iter().position(|state| state.key == RESUME_KEY);
    if let Some(key) = at.and_then(|at| ResumeKey::from_bytes(&states.swap_remove(at).snapshot)) {
        return Ok(key);
    }
    log.append(&[Entry::State { key: RESUME_KEY, value: fresh.as_bytes() }], None)?;
    Ok(fresh.clone())
}
