//! Sockets whose client is away and may come back: what they were, for a while.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::data::Data;
use super::members::Stay;

/// What a socket was when its client went away.
#[derive(Debug)]
pub(super) struct Absent {
    pub(super) id: Arc<str>,
    /// The private number with which the client comes back.
    pub(super) pid: Arc<str>,
    pub(super) stays: Vec<Stay>,
    pub(super) data: Data,
    /// The events of the namespace when it came: a client that got none has missed all from here on.
    pub(super) since: u64,
    /// The newest questions it has answered.
    pub(super) answered: VecDeque<u64>,
}

/// The absent of one namespace, the longest away first.
#[derive(Debug, Default)]
pub(super) struct Away {
    by_pid: HashMap<Arc<str>, (Instant, Absent)>,
    ids: HashSet<Arc<str>>,
    /// By the time they went; some may have come back.
    line: VecDeque<(Instant, Arc<str>)>,
}

impl Away {
    /// Keeps `absent`; beyond `absent_max` whoever is away longest is forgotten.
    pub(super) fn insert(&mut self, now: Instant, absent: Absent, absent_max: usize) {
        self.line.push_back((now, Arc::clone(&absent.pid)));
        self.ids.insert(Arc::clone(&absent.id));
        self.by_pid.insert(Arc::clone(&absent.pid), (now, absent));
        while self.by_pid.len() > absent_max {
            self.forget_first();
        }
    }

    /// Who comes back with `pid`, if it is not away for longer than `retention`.
    pub(super) fn take(&mut self, now: Instant, pid: &str, retention: Duration) -> Option<Absent> {
        let (since, absent) = self.remove(pid)?;
        (now.duration_since(since) <= retention).then_some(absent)
    }

    pub(super) fn has_id(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    pub(super) fn len(&self) -> usize {
        self.by_pid.len()
    }

    /// Forgets who is away for longer than `retention`.
    pub(super) fn sweep(&mut self, now: Instant, retention: Duration) {
        while self.line.front().is_some_and(|(since, _)| now.duration_since(*since) > retention) {
            self.forget_first();
        }
    }

    fn remove(&mut self, pid: &str) -> Option<(Instant, Absent)> {
        let (since, absent) = self.by_pid.remove(pid)?;
        self.ids.remove(&absent.id);
        Some((since, absent))
    }

    fn forget_first(&mut self) {
        let Some((went, pid)) = self.line.pop_front() else { return };
        // Who came back and went again stands in line once more.
        if self.by_pid.get(&pid).is_some_and(|(since, _)| *since == went) {
            self.remove(&pid);
        }
    }
}
